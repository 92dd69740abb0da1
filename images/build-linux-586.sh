#!/bin/sh
# Builds a Linux that replays exactly on KVM: one that executes no RDTSC where CPUID says that there is no time stamp counter.
#
#   usage: images/build-linux-586.sh [--refresh]
#
# Into .cache/images (or $DEJAVM_IMAGES): vmlinux-586, an ELF image with a PVH entry, so that nothing of a boot is unpacking;
# its manifest; and initramfs-586.cpio, which is initramfs-i386.gz unpacked and a second archive with a workload, as the kernel allows it. Debian's sources (a package of 139 MB, as much of it unpacked as is
# needed: half a gigabyte while it works), with the options of linux-586.config and one change for the lab (define_flags); some two
# minutes on two idle cores.
set -eu
. "$(dirname -- "$0")/cache.sh"
. "$images_dir/debs.sh"
. "$images_dir/cpio.sh"

package=linux-source-6.1
options=$images_dir/linux-586.config
kernel=$out_dir/vmlinux-586
initramfs=$out_dir/initramfs-586.cpio
manifest=$out_dir/586.manifest
LC_ALL=C
export LC_ALL

# What other architectures and most drivers consist of is left packed; Kconfig wants their descriptions.
unpack() {
    dpkg-deb --fsys-tarfile "$1" | tar -xO "./usr/src/$package.tar.xz" | xz -dc | tar -x -C "$2" --strip-components=1 \
        --exclude='*/arch/[a-w]*/*.[chS]' --exclude='*/arch/[a-w]*/boot/dts' \
        --exclude='*/drivers/gpu/*.[ch]' --exclude='*/drivers/iio/*.[ch]' --exclude='*/drivers/infiniband/*.[ch]' \
        --exclude='*/drivers/media/*.[ch]' --exclude='*/drivers/net/*.[ch]' --exclude='*/drivers/scsi/*.[ch]' \
        --exclude='*/drivers/staging/*.[ch]' --exclude='*/sound/*.[ch]' --exclude='*/tools/perf/*' \
        --exclude='*/tools/testing/*.[ch]' --exclude='*/Documentation/*.rst' --exclude='*/Documentation/*.txt' \
        --exclude='*/Documentation/*.yaml' --exclude='*/Documentation/*.svg'
}

# BT, BTS, BTR and BTC leave OF and AF undefined. On silicon they are a function of the operands; on QEMU's processor (7.2,
# target/i386/tcg/translate.c, bt_op) they depend on what was translated together with them, so on where a page fault of the host's
# came in between, and a PUSHF or an interrupt writes them to memory. So in the kernel's own assembly code, where these have operands in
# memory, CF goes to its byte at once (SETC), and a TEST of nothing decides all flags. What the kernel computes is the same.
define_flags() {
    all='; testl %%esp,%%esp'
    sed -i 's/^#ifndef __GCC_ASM_FLAG_OUTPUTS__/#if 0/' arch/x86/include/asm/rmwcc.h
    sed -i 's/^#ifdef __GCC_ASM_FLAG_OUTPUTS__/#if 0/
        /define CC_SET/s/%\[_cc_" #c "\]/&'"$all/" arch/x86/include/asm/asm.h
    sed -i '/__ASM_SIZE(bt/s/ %1,%0/&'"$all/" arch/x86/include/asm/bitops.h arch/x86/include/asm/sync_bitops.h
    sed -i '/asm("bt[sr]l /s/ %1,%0/&'"$all/" arch/x86/include/asm/signal.h
}

# Whether it was done: each BTS, BTR and BTC of memory is followed by that TEST, or by the POPF of the SYSENTER entry.
check_flags() {
    objdump -d --no-show-raw-insn "$1" | awk '
        /\tset/ { next }
        before { if ($0 !~ /\ttest +%esp,%esp|\tpopf/) { print before; bad = 1 }; before = "" }
        /\t(lock )?bt[src][lw]? / && !/,%[a-z]+$/ { before = $0; all++ }
        END { exit bad || !all }' >&2 || die "instructions of this kernel leave flags undefined"
}

# The same bytes each time for the same compiler.
compile() {
    export KBUILD_BUILD_TIMESTAMP='Thu Jan  1 00:00:00 UTC 1970' KBUILD_BUILD_USER=dejavm KBUILD_BUILD_HOST=dejavm
    make -s ARCH=i386 tinyconfig >/dev/null 2>&1
    cat "$options" >>.config
    make -s ARCH=i386 olddefconfig >/dev/null 2>&1
    # What Kconfig did not take, it says to nobody.
    grep -v '^#' "$options" | while read -r line; do
        case $line in
            *=n) ! grep -q "^${line%=n}=" .config ;;
            *) grep -qx "$line" .config ;;
        esac || die "the kernel's configuration has not taken $line"
    done
    ! grep -q '^CONFIG_X86_TSC=' .config || die "this kernel would always read the time stamp counter"
    nice -n 10 make -s -j"$(nproc)" ARCH=i386 vmlinux >log 2>&1 || { tail -n 20 log >&2; die "the kernel does not build"; }
}

if [ "${1:-}" = --refresh ] || [ ! -s "$kernel" ] || [ ! -s "$manifest" ] || [ "$options" -nt "$kernel" ] || [ "$0" -nt "$kernel" ]; then
    for program in gcc make flex bison bc xz objdump; do
        need "$program" "$program"
    done
    apt_lists_ready
    deb=$(deb_fetch "$package")
    say "building a kernel that reads no time stamp counter; some minutes"
    sources=$out_dir/.linux-586.$$
    rm -rf "$sources" && mkdir -p "$sources"
    trap 'rm -rf "$sources"' EXIT
    unpack "$deb" "$sources"
    (cd "$sources" && define_flags && compile)
    check_flags "$sources/vmlinux"
    strip -o "$sources/stripped" "$sources/vmlinux"
    mv "$sources/stripped" "$kernel"
    {
        echo "package: $package"
        echo "version: $(deb_field "$package" Version)"
        echo "sha256: $(sha256sum <"$kernel" | cut -d ' ' -f 1)"
    } >"$manifest"
    # It would never be read again, and is easily fetched anew.
    rm -f "$deb"
    say "$kernel: $package $(sed -n 's/^version: //p' "$manifest")"
fi

if [ ! -s "$initramfs" ] || [ -n "$(find "$images_dir/build-linux-586.sh" "$images_dir/initramfs-586" "$out_dir/initramfs-i386.gz" -newer "$initramfs" -type f)" ]; then
    [ -s "$out_dir/initramfs-i386.gz" ] || die "$out_dir/initramfs-i386.gz is missing; build-initramfs.sh comes first"
    archive() {
        cpio_entry workload 0040755 ''
        cpio_entry workload/short 0100755 "$images_dir/initramfs-586/short"
        cpio_entry TRAILER!!! 0 ''
    }
    { gzip -dc "$out_dir/initramfs-i386.gz" && archive; } >"$initramfs.new"
    mv "$initramfs.new" "$initramfs"
fi
