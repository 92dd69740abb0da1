#!/usr/bin/env bash
# A guest reads a disk of 1 GiB once, recorded and replayed by QEMU (-icount rr) and by dejavm: processor seconds beyond a boot with a
# small disk, ratios of speed, and what the log grows by.
#
#   usage: tests/bench/disk.sh DEJAVM [QEMU]
#
# DEJAVM_DISK_MIB chooses another size.
set -euo pipefail

dejavm=$1
qemu=${2:-qemu-system-x86_64}
project_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cache_dir=${DEJAVM_CACHE:-$project_dir/.cache}
images=${DEJAVM_IMAGES:-$cache_dir/images}
mib=${DEJAVM_DISK_MIB:-1024}
work=$cache_dir/bench/disk
rm -rf "$work" && mkdir -p "$work"
trap 'rm -f "$work"/*.img' EXIT

die() {
    printf 'disk: %s\n' "$1" >&2
    exit 1
}
head -c "${mib}M" /dev/urandom >"$work/large.img"
head -c 1M /dev/urandom >"$work/small.img"
cat "$images/initramfs-amd64.gz" "$images/modules-cloud-amd64.gz" >"$work/initrd"
kernel=$images/vmlinuz-cloud-amd64
append="console=ttyS0 panic=-1 cryptomgr.notests dejavm.workload=readall"

# seconds NAME COMMAND...: processor time of a run whose console, in NAME.console, says that the guest is content.
seconds() {
    name=$1
    shift
    TIMEFORMAT='%U %S'
    { time "$@" </dev/null >"$work/$name.console" 2>"$work/$name.err"; } 2>"$work/$name.time" || die "$name: $(tail -n 3 "$work/$name.err")"
    grep -a -q DEJAVM-WORKLOAD-OK "$work/$name.console" || die "$name: the guest failed: $(tail -n 3 "$work/$name.console")"
    awk '{ print $1 + $2 }' "$work/$name.time"
}
run_qemu() {
    seconds "qemu-$1-$2" "$qemu" -accel tcg -cpu qemu64 -icount "shift=3,rr=$1,rrfile=$work/$2.rr" -kernel "$kernel" -initrd "$work/initrd" \
        -append "$append" -m 256 -display none -monitor none -nic none -no-reboot -serial stdio \
        -drive "file=$work/$2.img,if=none,id=image,format=raw" -drive driver=blkreplay,if=none,image=image,id=disk \
        -device virtio-blk-pci,drive=disk
}
record() {
    seconds "dejavm-record-$1" "$dejavm" record --kernel "$kernel" --initrd "$work/initrd" --append "$append" -m 256 \
        --disk "$work/$1.img" -o "$work/$1.dvr" --idle skip
}
replay() {
    seconds "dejavm-replay-$1" "$dejavm" replay "$work/$1.dvr"
}
log() {
    "$dejavm" info "$work/$1.dvr" --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["log_bytes"])'
}
# The first look hashes an image, and keeps that.
declare -A took
for size in small large; do
    record "$size" >/dev/null
    rm "$work/$size.dvr"
    took[qemu-record-$size]=$(run_qemu record "$size")
    took[dejavm-record-$size]=$(record "$size")
    took[qemu-replay-$size]=$(run_qemu replay "$size")
    took[dejavm-replay-$size]=$(replay "$size")
done
python3 - "$mib" "$(($(log large) - $(log small)))" "$(($(wc -c <"$work/large.rr") - $(wc -c <"$work/small.rr")))" \
    "${took[qemu-record-small]}" "${took[qemu-record-large]}" "${took[dejavm-record-small]}" "${took[dejavm-record-large]}" \
    "${took[qemu-replay-small]}" "${took[qemu-replay-large]}" "${took[dejavm-replay-small]}" "${took[dejavm-replay-large]}" <<'PYTHON'
import sys

mib, log, peer_log = (int(word) for word in sys.argv[1:4])
times = [float(word) for word in sys.argv[4:]]
beyond = [large - small for small, large in zip(times[::2], times[1::2])]
for verb, (peer, ours), bound in (("record", beyond[:2], 0.5), ("replay", beyond[2:], 2)):
    ratio = peer / ours if ours > 0 else float("inf")
    print(f"disk, {mib} MiB read, {verb}: qemu {peer:.2f} s, dejavm {ours:.2f} s: {ratio:.2f} times its speed (wanted: {bound})")
print(f"disk, {mib} MiB read: the log grows by {log} bytes (wanted: below 1000000), qemu's by {peer_log}")
PYTHON
