#!/bin/sh
# Builds what `make bench` runs besides the boot, the same bytes each time for the same busybox and compiler.
#
#   usage: images/build-bench.sh [--refresh]
#
# Into .cache/images (or $DEJAVM_IMAGES): initramfs-bench.gz, which is initramfs-amd64.gz and a second archive
# with the programs of images/bench, as the kernel allows it; and bench/, the same programs for the host, and exits.elf, a guest.
# Apart from the test guests' initramfs because the large program would make each of their boots longer.
set -eu
. "$(dirname -- "$0")/cache.sh"
. "$images_dir/cpio.sh"

source_dir=$images_dir/bench
output=$out_dir/initramfs-bench.gz

archive() {
    cpio_entry bench 0040755 ''
    for name in kernels large programs storms; do
        cpio_entry "bench/$name" 0100755 "$1/$name"
    done
    cpio_entry workload 0040755 ''
    cpio_entry workload/programs 0100755 "$source_dir/workload"
    cpio_entry TRAILER!!! 0 ''
}

# No vectorizer, no library: the same instructions whatever gcc is fond of.
compile() {
    gcc -m64 -std=gnu11 -ffreestanding -nostdlib -static -fno-pie -no-pie -fno-stack-protector \
        -fno-asynchronous-unwind-tables -fno-tree-vectorize -fno-tree-loop-distribute-patterns \
        -fno-strict-aliasing -ffp-contract=off -Wall -Wextra -Werror -Wl,--build-id=none -s -I "$source_dir" "$@" ||
        die "gcc cannot build the programs of $source_dir"
}

if [ "${1:-}" != --refresh ] && [ -s "$output" ] &&
    [ -e "$out_dir/bench/exits.elf" ] &&
    [ -z "$(find "$source_dir" "$images_dir/guests/common.h" "$images_dir/build-bench.sh" "$images_dir/cpio.sh" "$out_dir/initramfs-amd64.gz" \
        -newer "$output" -type f)" ]; then
    exit 0
fi
for name in initramfs-amd64.gz busybox-amd64 calc-amd64; do
    [ -s "$out_dir/$name" ] || die "$out_dir/$name is missing; build-initramfs.sh comes first"
done
need gcc gcc
say "building the programs of make bench; half a minute"
work=$out_dir/.bench.$$
rm -rf "$work" && mkdir -p "$work"
compile -O2 -o "$work/kernels" "$source_dir/kernels.c"
compile -O2 -o "$work/storms" "$source_dir/storms.c"
gcc -O1 -Wall -Wextra -Werror -o "$work/large_gen" "$source_dir/large_gen.c"
"$work/large_gen" >"$work/large.c"
rm "$work/large_gen"
compile -O1 -Wno-unused-function -o "$work/large" "$work/large.c"
cp "$source_dir/programs" "$work/programs"
gcc -m32 -c -o "$work/exits.o" "$source_dir/exits.S"
ld -m elf_i386 --build-id=none -T "$images_dir/guests/guest.ld" -o "$work/exits.elf" "$work/exits.o"
rm "$work/exits.o"
archive "$work" >"$work/cpio"
gzip -9 -n <"$work/cpio" >"$work/gz"
cat "$out_dir/initramfs-amd64.gz" "$work/gz" >"$output.new"
rm "$work/cpio" "$work/gz" "$work/large.c"
cp "$out_dir/busybox-amd64" "$work/busybox"
cp "$out_dir/calc-amd64" "$work/calc"
rm -rf "$out_dir/bench"
mv "$work" "$out_dir/bench"
mv "$output.new" "$output"
say "$output: $(wc -c <"$output") bytes"
