#!/bin/sh
# The KVM lab: a Debian kernel on QEMU's emulation of AMD SVM is a faithful KVM host on any machine. Builds an initramfs with the
# programs given, boots it, streams what they say, and fails if one of them fails.
#
#   usage: tests/kvm-lab/run.sh [OPTION VALUE]... PROGRAM...      static programs, each run without arguments
#   -g FILE    of .cache/images: they find it in /guest
#   -b FILE    another static program, in /bin
#   -l FILE    anything else, in /lib; for a program there its libraries too
#   -o FOLDER  what they print as "lab file: NAME" and base64 comes here
#   -s SOCKET  a Unix socket that leads to /dev/ttyS1
#   -t         no value: the lab's clock goes by the instructions of its processor, whatever else the machine has to do
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
images_dir=$(CDPATH='' cd -- "$here/../../images" && pwd)
. "$images_dir/cache.sh"
. "$images_dir/debs.sh"
. "$images_dir/cpio.sh"

guest_files=
bin_files=
lib_files=
output=
socket=
clock=
while getopts g:b:l:o:s:t option; do
    case $option in
        g) guest_files="$guest_files $OPTARG" ;;
        b) bin_files="$bin_files $OPTARG" ;;
        l)
            lib_files="$lib_files $OPTARG"
            if [ -x "$OPTARG" ]; then
                libraries=$(ldd "$OPTARG" | sed -n 's/^[^/]*\(\/[^ ]*\) (0x.*/\1/p') || die "$OPTARG: ldd does not say what it needs"
                lib_files="$lib_files $(printf '%s' "$libraries" | tr '\n' ' ')"
            fi
            ;;
        o) output=$OPTARG ;;
        s) socket=$OPTARG ;;
        t) clock="-icount shift=0,sleep=off" ;;
        *) die "usage: tests/kvm-lab/run.sh [-g FILE]... PROGRAM..." ;;
    esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || die "usage: tests/kvm-lab/run.sh [-g FILE]... PROGRAM..."
need qemu-system-x86_64 qemu-system-x86
kernel=$out_dir/vmlinuz-cloud-amd64
busybox=$out_dir/busybox-amd64
[ -e "$kernel" ] && [ -e "$busybox" ] || die "run images/fetch-kernels.sh cloud-amd64 and images/build-initramfs.sh amd64 first"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
package=$(sed -n 's/^package: //p' "$out_dir/cloud-amd64.manifest")
deb=$(deb_fetch "$package")
release=${package#linux-image-}
modules=lib/modules/${release%:*}/kernel
dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$work" "./$modules/virt/lib/irqbypass.ko" "./$modules/arch/x86/kvm/kvm.ko" "./$modules/arch/x86/kvm/kvm-amd.ko"

archive() {
    for folder in bin lib dev proc sys modules tests guest; do
        cpio_entry $folder 0040755 ''
    done
    cpio_entry bin/busybox 0100755 "$busybox"
    rdev_major=5 rdev_minor=1
    cpio_entry dev/console 0020600 ''
    rdev_major=0 rdev_minor=0
    cpio_entry init 0100755 "$here/init"
    cpio_entry modules/irqbypass.ko 0100644 "$work/$modules/virt/lib/irqbypass.ko"
    cpio_entry modules/kvm.ko 0100644 "$work/$modules/arch/x86/kvm/kvm.ko"
    cpio_entry modules/kvm-amd.ko 0100644 "$work/$modules/arch/x86/kvm/kvm-amd.ko"
    for program; do
        cpio_entry "tests/$(basename -- "$program")" 0100755 "$program"
    done
    # shellcheck disable=SC2086 # names without spaces: those of images/
    for file in $guest_files; do
        cpio_entry "guest/${file##*/}" 0100644 "$out_dir/$file"
    done
    # shellcheck disable=SC2086 # names without spaces: the system's
    for file in $lib_files; do
        cpio_entry "lib/${file##*/}" 0100755 "$file"
    done
    # shellcheck disable=SC2086 # names without spaces: those of target/
    for file in $bin_files; do
        cpio_entry "bin/${file##*/}" 0100755 "$file"
    done
    cpio_entry TRAILER!!! 0 ''
}
archive "$@" >"$work/cpio"
gzip -1 -n <"$work/cpio" >"$work/initrd"

# Where a second serial port is asked for, the first must be too.
second=${socket:+-serial mon:stdio -serial unix:$socket,server=on,wait=off}
# Nothing of the lab's kernel matters but KVM. On a busy machine its wait for ten interrupts of the timer comes to too few.
# shellcheck disable=SC2086 # words
qemu-system-x86_64 -accel tcg $clock -cpu EPYC,+svm,+npt -smp 1 -m 1024 -nographic -no-reboot -nic none $second \
    -kernel "$kernel" -initrd "$work/initrd" -append "console=ttyS0 panic=-1 quiet no_timer_check" |
    tee "$work/said" | sed -u '/^lab file: /,/^lab file ends/d'
if [ -n "$output" ]; then
    mkdir -p "$output"
    for name in $(tr -d '\r' <"$work/said" | sed -n 's/^lab file: //p'); do
        tr -d '\r' <"$work/said" | sed -n "/^lab file: $name\$/,/^lab file ends/p" | sed '1d;$d' | base64 -d >"$output/$name"
    done
fi
ended=$(grep -c '^lab: .* ended with 0' "$work/said" || true)
[ "$ended" -eq $# ] || die "of $# programs $ended succeeded"
