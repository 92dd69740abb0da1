#!/bin/sh
# Builds the test guests' initramfs, the same bytes each time for the same busybox and compiler.
#
#   usage: images/build-initramfs.sh [--refresh] [ARCH...]      default: amd64 i386
#
# For each ARCH, into .cache/images (or $DEJAVM_IMAGES): initramfs-ARCH.gz, and the programs of it that are
# wanted outside too. It is rebuilt when a file of images/ is newer.
set -eu
. "$(dirname -- "$0")/cache.sh"
. "$images_dir/debs.sh"
. "$images_dir/cpio.sh"

source_dir=$images_dir/initramfs

# The sorted list of what the archive holds. $1: busybox, $2: calc, $3: facts, $4: hunt.
archive() {
    inode=0
    cpio_entry bin 0040755 ''
    cpio_entry bin/busybox 0100755 "$1"
    cpio_entry bin/calc 0100755 "$2"
    cpio_entry bin/facts 0100755 "$3"
    cpio_entry bin/hunt 0100755 "$4"
    cpio_entry dev 0040755 ''
    rdev_major=5 rdev_minor=1
    cpio_entry dev/console 0020600 ''
    rdev_major=0 rdev_minor=0
    cpio_entry init 0100755 "$source_dir/init"
    cpio_entry workload 0040755 ''
    for script in "$source_dir"/workload/*; do
        cpio_entry "workload/${script##*/}" 0100755 "$script"
    done
    cpio_entry TRAILER!!! 0 ''
}

build() {
    arch=$1 machine=$2 output=$out_dir/initramfs-$1.gz
    apt_lists_ready
    deb=$(deb_fetch "busybox-static:$arch")
    work=$out_dir/.initramfs-$arch.$$
    rm -rf "$work" && mkdir -p "$work"
    dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$work" ./bin/busybox
    # -ffp-contract, -mfpmath, no vectorizer: the results must not depend on the compiler's choices.
    gcc "$machine" -O2 -std=gnu11 -ffreestanding -nostdlib -static -fno-pie -no-pie -fno-stack-protector \
        -fno-asynchronous-unwind-tables -fno-tree-vectorize -fno-math-errno -ffp-contract=off -msse2 -mfpmath=sse \
        -Wall -Wextra -Werror -Wl,--build-id=none -s -o "$work/calc" "$source_dir/calc.c" ||
        die "gcc cannot build $source_dir/calc.c with $machine"
    # Not stripped: gdb reads the copy that is kept beside the archive.
    gcc "$machine" -O2 -g -std=gnu11 -ffreestanding -nostdlib -static -fno-pie -no-pie -fno-stack-protector \
        -fno-asynchronous-unwind-tables -mgeneral-regs-only -Wall -Wextra -Werror -Wl,--build-id=none \
        -ffile-prefix-map="$source_dir=." -gno-record-gcc-switches -o "$work/hunt" "$source_dir/hunt.c" ||
        die "gcc cannot build $source_dir/hunt.c with $machine"
    gcc "$machine" -O2 -std=gnu11 -ffreestanding -nostdlib -static -fno-pie -no-pie -fno-stack-protector \
        -fno-asynchronous-unwind-tables -mgeneral-regs-only -Wall -Wextra -Werror -Wl,--build-id=none -s \
        -o "$work/facts" "$source_dir/facts.c" ||
        die "gcc cannot build $source_dir/facts.c with $machine"
    cp "$work/hunt" "$out_dir/hunt-$arch.elf"
    cp "$work/calc" "$out_dir/calc-$arch"
    cp "$work/bin/busybox" "$out_dir/busybox-$arch"
    archive "$work/bin/busybox" "$work/calc" "$work/facts" "$work/hunt" >"$work/cpio"
    gzip -9 -n <"$work/cpio" >"$work/gz"
    mv "$work/gz" "$output"
    rm -rf "$work"
    {
        echo "busybox: $(deb_field "busybox-static:$arch" Version)"
        echo "sha256: $(sha256sum <"$output" | cut -d ' ' -f 1)"
    } >"$out_dir/initramfs-$arch.manifest"
    say "$output: $(wc -c <"$output") bytes"
}

refresh=
if [ "${1:-}" = --refresh ]; then
    refresh=yes
    shift
fi
[ $# -gt 0 ] || set -- amd64 i386
need gcc gcc
need gzip gzip
mkdir -p "$out_dir"
# Shell pattern order follows the locale.
LC_ALL=C
export LC_ALL

for arch; do
    case $arch in
        amd64) machine=-m64 ;;
        i386) machine=-m32 ;;
        *) die "unknown architecture '$arch' (known: amd64 i386)" ;;
    esac
    output=$out_dir/initramfs-$arch.gz
    if [ -z "$refresh" ] && [ -s "$output" ] && [ -s "$out_dir/busybox-$arch" ] &&
        [ -z "$(find "$source_dir" "$images_dir/build-initramfs.sh" "$images_dir/cpio.sh" -newer "$output" -type f)" ]; then
        continue
    fi
    build "$arch" "$machine"
done
