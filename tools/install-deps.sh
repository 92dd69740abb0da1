#!/bin/sh
# Installs with apt what is missing on this machine, and nothing when nothing is missing.
#
#   usage: tools/install-deps.sh [build] [test] [lab] [judges] [debian] [fuzz] [bench]      default: build
#
# build: a C compiler and binutils (guests are assembled), what Rust links with, apt and dpkg-deb
# test:  SeaBIOS; GRUB, ISOLINUX, SYSLINUX and memtest86+, which it starts, and what makes CDs and floppies; gdb, crash, makedumpfile and a VNC viewer, which tests drive; Python for judges that tests/judges/install.sh fetches; zstd, which unpacks ours; QEMU, whose dumps are read
# lab: what builds a Linux kernel
# judges: the newest LLDB there is, and npm, for debug adapters
# debian: what builds a Debian disk, starts it and leads into it
# fuzz: a C++ compiler, for libFuzzer
# bench: QEMU and makedumpfile, the peers that `make bench` measures against
set -eu

missing=
# want PACKAGE TEST...: PACKAGE is missing when the command TEST fails.
want() {
    package=$1
    shift
    "$@" >/dev/null 2>&1 || missing="$missing $package"
}

[ $# -gt 0 ] || set -- build
for group; do
    case $group in
        build)
            want gcc command -v gcc
            want binutils command -v ld
            want e2fsprogs test -x /sbin/mkfs.ext4
            want libc6-dev test -e /usr/include/stdlib.h
            want ca-certificates test -e /etc/ssl/certs
            ;;
        test)
            want gdb command -v gdb
            want passt command -v passt
            want iproute2 command -v ip
            want crash command -v crash
            want gvncviewer command -v gvnccapture
            want makedumpfile command -v makedumpfile
            want zstd command -v zstd
            want qemu-system-x86 command -v qemu-system-x86_64
            want qemu-utils command -v qemu-img
            want seabios test -e /usr/share/seabios/bios-256k.bin
            want grub-common command -v grub-mkimage
            want grub-pc-bin test -e /usr/lib/grub/i386-pc/boot.img
            want isolinux test -e /usr/lib/ISOLINUX/isolinux.bin
            want syslinux command -v syslinux
            want mtools command -v mformat
            want syslinux-common test -e /usr/lib/syslinux/modules/bios/mboot.c32
            want xorriso command -v xorriso
            want memtest86+ test -e /usr/lib/memtest86+/memtest86+x64.iso
            # Without ensurepip a virtual environment has no pip.
            want python3-venv python3 -c "import venv, ensurepip"
            ;;
        lab)
            want make command -v make
            want flex command -v flex
            want bison command -v bison
            want bc command -v bc
            want xz-utils command -v xz
            ;;
        judges)
            # Going backwards needs LLDB 21; Debian's package without a version is older.
            lldb=$(apt-cache search --names-only '^lldb-[0-9]+$' 2>/dev/null | cut -d' ' -f1 | sort -t- -k2 -n | tail -n 1)
            want "${lldb:-lldb}" sh -c 'ls /usr/bin/lldb-dap-*'
            want nodejs command -v node
            want npm command -v npm
            ;;
        debian)
            want mmdebstrap command -v mmdebstrap
            # For an i386 disk: whether its programs run here.
            want arch-test command -v arch-test
            want fdisk test -x /usr/sbin/sfdisk
            want e2fsprogs test -x /usr/sbin/mke2fs
            want grub-common command -v grub-mkimage
            want grub-pc-bin test -e /usr/lib/grub/i386-pc/boot.img
            want openssh-client command -v ssh
            want passt command -v passt
            want seabios test -e /usr/share/seabios/bios-256k.bin
            want memtest86+ test -e /boot/memtest86+x64.bin
            want python3 command -v python3
            ;;
        fuzz)
            want g++ command -v g++
            ;;
        bench)
            want qemu-system-x86 command -v qemu-system-x86_64
            want qemu-utils command -v qemu-img
            want makedumpfile command -v makedumpfile
            ;;
        *)
            echo "install-deps.sh: unknown group '$group' (known: build test lab judges debian fuzz bench)" >&2
            exit 2
            ;;
    esac
done

if ! command -v cargo >/dev/null 2>&1; then
    echo "install-deps.sh: cargo is not on the PATH; install Rust 1.95 or newer from https://rustup.rs, Debian's own is too old" >&2
    exit 1
fi
[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null 2>&1; then
    echo "install-deps.sh: no apt-get here; install by your own means what provides:$missing" >&2
    exit 1
fi

install="apt-get install -y --no-install-recommends$missing"
sudo=
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        echo "install-deps.sh: missing:$missing; neither root nor sudo here, so run as root: $install" >&2
        exit 1
    fi
    sudo=sudo
fi
echo "installing:$missing" >&2
# An image without package lists needs an update first; one with lists is spared it if they suffice.
# shellcheck disable=SC2086 # both are lists of words
DEBIAN_FRONTEND=noninteractive $sudo $install >/dev/null 2>&1 ||
    { $sudo apt-get -q update >/dev/null && DEBIAN_FRONTEND=noninteractive $sudo $install >/dev/null; } ||
    { echo "install-deps.sh: this failed: $install" >&2; exit 1; }
