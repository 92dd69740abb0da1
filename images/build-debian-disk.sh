#!/bin/sh
# Builds a Debian 12 disk that boots from BIOS through GRUB: systemd, sshd, gcc; raw, MBR, one ext4 partition.
#
#   usage: images/build-debian-disk.sh [--rebuild] [amd64|i386]      default: amd64
#
# Into .cache/images (or $DEJAVM_IMAGES): debian-ARCH.img (sparse, 3 GiB), debian-ARCH.key (root's ssh key), debian-ARCH.manifest. The kernels
# are Debian's: on amd64 the generic one, and the cloud flavour (GRUB's second entry), which has no drivers of IDE and e1000; on i386 686-pae.
# root's password is "dejavm"; the consoles are the screen and the first serial port.
#
# No root is needed where user namespaces are allowed (mmdebstrap says what is missing otherwise); as root it uses a chroot.
# GRUB is put into the image as files and sectors: its installer wants devices, and devices want root.
set -eu
. "$(dirname -- "$0")/cache.sh"

rebuild=
if [ "${1:-}" = --rebuild ]; then
    rebuild=yes
    shift
fi
arch=${1:-amd64}
case $arch in
    amd64) kernels=linux-image-cloud-amd64,linux-image-amd64 ;;
    i386) kernels=linux-image-686-pae ;;
    *) die "unknown architecture '$arch' (known: amd64 i386)" ;;
esac
disk=$out_dir/debian-$arch.img
if [ -z "$rebuild" ] && [ -s "$disk" ] && [ -s "$out_dir/debian-$arch.manifest" ]; then
    exit 0
fi

PATH=$PATH:/usr/sbin:/sbin
need mmdebstrap mmdebstrap
need mke2fs e2fsprogs
need sfdisk fdisk
need grub-mkimage grub-common
need ssh-keygen openssh-client
grub=${DEJAVM_GRUB:-/usr/lib/grub/i386-pc}
[ -s "$grub/boot.img" ] || die "needs GRUB's files for BIOS; install them with: apt-get install grub-pc-bin"

mkdir -p "$out_dir"
work=$out_dir/.debian-$arch.$$
rm -rf "$work" && mkdir -p "$work"
trap 'rm -rf "$work"' EXIT INT TERM

# The partition starts at 1 MiB; GRUB's core lies between it and the first sector.
partition_first=2048
partition_sectors=$((3 * 2097152 - partition_first))

ssh-keygen -q -t ed25519 -N '' -C dejavm -f "$work/key"

# The system's own sources if they are of this release, as they may be a mirror.
sources=
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*; do
    if [ -f "$file" ] && grep -q bookworm "$file"; then
        sources="$sources $file"
    fi
done

# What mmdebstrap calls when the packages are there, in its name space: $1 is the root of the new system.
cat >"$work/finish" <<FINISH
#!/bin/sh
set -eu
root=\$1
cp -r "$images_dir/debian/." "\$root/"
mkdir -p "\$root/root/.ssh" "\$root/boot/grub/i386-pc"
cp "$work/key.pub" "\$root/root/.ssh/authorized_keys"
chmod -R go= "\$root/root/.ssh"
cp "$grub"/*.mod "$grub"/*.lst "\$root/boot/grub/i386-pc/"
echo 'root:dejavm' | chroot "\$root" chpasswd
chroot "\$root" systemctl -q enable systemd-networkd ssh serial-getty@ttyS0
# The first boot would make these, and record how: each its own.
rm -f "\$root"/etc/ssh/ssh_host_*
chroot "\$root" ssh-keygen -q -A
echo 0123456789abcdef0123456789abcdef >"\$root/etc/machine-id"
entries="\$root/boot/grub/kernels.cfg"
for kernel in \$(cd "\$root/boot" && ls vmlinuz-*); do
    release=\${kernel#vmlinuz-}
    chroot "\$root" update-initramfs -u -k "\$release"
    printf 'menuentry "Debian, %s" {\n    linux /boot/%s root=LABEL=debian ro \$options\n    initrd /boot/initrd.img-%s\n}\n' \
        "\$release" "\$kernel" "\$release" >>"\$entries"
done
chroot "\$root" dpkg-query -W >"$work/packages"
chroot "\$root" apt-get clean
rm -rf "\$root/var/lib/apt/lists"/* "\$root/var/log"/*.log "\$root/etc/resolv.conf"
truncate -s "$((partition_sectors * 512))" "$work/root.ext4"
# A copy without what is mounted there while packages are set up.
mkdir "$work/tree"
tar -C "\$root" --one-file-system -c . | tar -C "$work/tree" -x
mke2fs -q -t ext4 -L debian -d "$work/tree" "$work/root.ext4"
rm -rf "$work/tree"
FINISH
chmod +x "$work/finish"

# bootstrap SOURCE...: builds the system from these.
bootstrap() {
    TMPDIR=$work mmdebstrap --quiet --variant=minbase --architectures="$arch" --format=null \
        --include="$kernels",initramfs-tools,systemd-sysv,udev,openssh-server,gcc,libc6-dev,make,iproute2,iputils-ping,kmod,e2fsprogs,zstd \
        --essential-hook='mkdir -p "$1/etc/initramfs-tools" && cp "'"$images_dir"'/debian/etc/initramfs-tools/modules" "$1/etc/initramfs-tools/"' \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        --customize-hook="$work/finish \"\$1\"" bookworm /dev/null "$@" 2>"$work/log"
}
say "building a Debian disk ($arch): about five minutes"
# shellcheck disable=SC2086 # a list of files
if ! bootstrap $sources; then
    # A mirror may have a list of updates that is not the one it announces: the release itself does then.
    mirror=$(sed -n -E 's/^(URIs:|deb( \[.*\])?) +([^ ]+).*/\3/p' $sources /dev/null | head -n 1)
    if ! grep -q '^E: apt-get update' "$work/log" || [ -z "$mirror" ]; then
        grep -v "cannot remove" "$work/log" | tail -n 20 >&2
        die "mmdebstrap could not build the system"
    fi
    say "not all package lists of this system's sources can be had: the release alone, without updates, from $mirror"
    echo "deb $mirror bookworm main" >"$work/release.list"
    bootstrap "$work/release.list" ||
        { grep -v "cannot remove" "$work/log" | tail -n 20 >&2; die "mmdebstrap could not build the system"; }
fi

truncate -s "$(((partition_first + partition_sectors) * 512))" "$work/disk"
printf 'label: dos\nlabel-id: 0xdeba0001\nstart=%s, size=%s, type=83, bootable\n' "$partition_first" "$partition_sectors" |
    sfdisk -q "$work/disk"
# Holes stay holes.
dd if="$work/root.ext4" of="$work/disk" bs=1M seek=1 conv=notrunc,sparse status=none

# GRUB's core finds its partition by BIOS disk number; the rest it reads from there.
grub-mkimage -O i386-pc -d "$grub" -p '(hd0,msdos1)/boot/grub' -o "$work/core.img" biosdisk part_msdos ext2
core_sectors=$((($(wc -c <"$work/core.img") + 511) / 512))
[ "$core_sectors" -lt "$partition_first" ] || die "GRUB's core of $core_sectors sectors does not fit before the partition"
# le VALUE BYTES: little-endian.
le() {
    value=$1
    for _ in $(seq "$2"); do
        # shellcheck disable=SC2059 # the format is the byte
        printf "\\$(printf %03o "$((value % 256))")"
        value=$((value / 256))
    done
}
# put FILE OFFSET: standard input there.
put() {
    dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}
# Boot sector: all but the partition table; at 0x5c the sector of the core. The core's first sector has a list of the others at its end:
# first sector (8 bytes), count (2), segment (GRUB's boot.S and diskboot.S). Both were made for sector 1, as is said once more here.
head -c 440 "$grub/boot.img" | put "$work/disk" 0
le 1 8 | put "$work/disk" 92
le 2 8 | put "$work/core.img" 500
le $((core_sectors - 1)) 2 | put "$work/core.img" 508
dd if="$work/core.img" of="$work/disk" bs=512 seek=1 conv=notrunc status=none

{
    echo "release: bookworm"
    echo "architecture: $arch"
    echo "sha256: $(sha256sum <"$work/disk" | cut -d ' ' -f 1)"
    echo "packages:"
    sed 's/^/  /' "$work/packages"
} >"$work/manifest"
mv "$work/disk" "$disk"
mv "$work/key" "$out_dir/debian-$arch.key"
mv "$work/manifest" "$out_dir/debian-$arch.manifest"
say "$disk: $(du -h "$disk" | cut -f 1) of $(du -h --apparent-size "$disk" | cut -f 1)"
