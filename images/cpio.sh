# Sourced by the scripts that make an initramfs: a writer of cpio archives. It is ours: no cpio program, no
# root, no times, no owners, so the same bytes each time.
# shellcheck shell=sh

inode=0

# cpio_entry NAME MODE FILE: one entry of the "newc" format (cpio(5)); FILE holds the content.
# Everything that could differ between two builds is a constant: inode by order, owner 0, time 0.
cpio_entry() {
    name=$1 mode=$2 file=$3
    size=0
    [ -z "$file" ] || size=$(wc -c <"$file")
    inode=$((inode + 1))
    name_size=$((${#name} + 1))
    printf '070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\0' \
        "$inode" "$((mode))" 0 0 1 0 "$size" 0 0 "${rdev_major:-0}" "${rdev_minor:-0}" "$name_size" 0 "$name"
    # Header (110 bytes) plus name, then the content: each padded to four bytes.
    zeros $(((4 - (110 + name_size) % 4) % 4))
    [ -z "$file" ] || cat "$file"
    zeros $(((4 - size % 4) % 4))
}

zeros() {
    case $1 in
        1) printf '\0' ;;
        2) printf '\0\0' ;;
        3) printf '\0\0\0' ;;
    esac
}
