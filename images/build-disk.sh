#!/bin/sh
# Builds what guests with cards need: modules for the kernel that fetch-kernels.sh fetched, and a disk.
#
#   usage: images/build-disk.sh [--refresh]
#
# Into .cache/images (or $DEJAVM_IMAGES):
#   modules-cloud-amd64.gz   an initramfs to append to initramfs-amd64.gz: /modules/*.ko, /modules/load, the workloads of
#                            images/disk, which load what they need
#   disk-ext4.img            a disk of 32 MiB without partitions: ext4 with the files of images/disk/tree and one of 4 MiB;
#                            the files are the same each time, the disk is not: mkfs.ext4 takes over when they were made
set -eu
. "$(dirname -- "$0")/cache.sh"
. "$images_dir/debs.sh"
. "$images_dir/cpio.sh"

flavour=cloud-amd64
source_dir=$images_dir/disk
output=$out_dir/modules-$flavour.gz
disk=$out_dir/disk-ext4.img

# In the order in which they can be loaded.
modules='
virtio/virtio virtio/virtio_ring virtio/virtio_pci_modern_dev virtio/virtio_pci_legacy_dev virtio/virtio_pci
block/virtio_blk
net/core/failover net/net_failover net/virtio_net
char/hw_random/virtio-rng char/virtio_console
scsi/scsi_common scsi/scsi_mod ata/libata ata/ata_piix ata/ata_generic scsi/sd_mod cdrom/cdrom scsi/sr_mod isofs/isofs
'

archive() {
    cpio_entry modules 0040755 ''
    cpio_entry modules/load 0100755 "$source_dir/load"
    for module in $modules; do
        name=${module##*/}
        cpio_entry "modules/$name.ko" 0100644 "$1/$name.ko"
    done
    cpio_entry workload 0040755 ''
    for script in "$source_dir"/workload/*; do
        cpio_entry "workload/${script##*/}" 0100755 "$script"
    done
    cpio_entry TRAILER!!! 0 ''
}

is_current() {
    [ -s "$output" ] && [ -s "$disk" ] &&
        [ -z "$(find "$source_dir" "$images_dir/build-disk.sh" "$out_dir/vmlinuz-$flavour" \
            -newer "$output" -type f)" ]
}

if [ "${1:-}" != --refresh ] && is_current; then
    exit 0
fi
mkdir -p "$out_dir"
[ -s "$out_dir/$flavour.manifest" ] || die "$out_dir/$flavour.manifest is missing; fetch-kernels.sh comes first"
PATH=$PATH:/usr/sbin:/sbin
need mkfs.ext4 e2fsprogs
# Shell pattern order follows the locale.
LC_ALL=C
export LC_ALL

package=$(sed -n 's/^package: //p' "$out_dir/$flavour.manifest")
version=$(sed -n 's/^version: //p' "$out_dir/$flavour.manifest")
# The kernel's own package, even if apt knows a newer one by now.
deb=$debs_dir/${package%:*}_${version}_${package#*:}.deb
if [ ! -s "$deb" ]; then
    apt_lists_ready
    deb=$(deb_fetch "$package")
fi
work=$out_dir/.disk.$$
rm -rf "$work" && mkdir -p "$work/deb"
dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$work/deb" --wildcards './lib/modules/*.ko*'
for module in $modules; do
    name=${module##*/}
    found=$(find "$work/deb" -name "$name.ko" -o -name "$name.ko.xz")
    case $found in
        *.ko) cp "$found" "$work/$name.ko" ;;
        *.ko.xz) need xz xz-utils && xz -dc "$found" >"$work/$name.ko" ;;
        *) die "$deb holds no $name.ko" ;;
    esac
done
archive "$work" | gzip -9 -n >"$work/gz"

mkdir "$work/tree"
cp "$source_dir"/tree/* "$work/tree/"
seq 1 600000 >"$work/tree/numbers"
E2FSPROGS_FAKE_TIME=1577836800 mkfs.ext4 -q -F -b 4096 -U 2f5b9d56-7d3c-4a9e-8b1f-0123456789ab \
    -E hash_seed=2f5b9d56-7d3c-4a9e-8b1f-0123456789ab,root_owner=0:0,lazy_itable_init=0 \
    -d "$work/tree" "$work/disk" 32m >/dev/null
mv "$work/disk" "$disk"
mv "$work/gz" "$output"
rm -rf "$work"
say "$output: $(wc -c <"$output") bytes; $disk"
