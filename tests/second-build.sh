#!/usr/bin/env bash
# A recording made by one build is replayed by another: other optimizations, overflow checks and debug assertions
# on, dispatch by a loop instead of by tail calls. And the other way round. Positions, digests and consoles must
# be equal.
#
#   usage: tests/second-build.sh FIRST SECOND        two builds of dejavm; `make test-second-build` makes them
set -euo pipefail

first=$1
second=$2
project_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache_dir=${DEJAVM_CACHE:-$project_dir/.cache}
images=${DEJAVM_IMAGES:-$cache_dir/images}
work=$cache_dir/second-build
mkdir -p "$work"

die() {
    printf 'second-build: %s\n' "$1" >&2
    exit 1
}

cmp -s "$first" "$second" && die "both builds are the same file"

# Ends at a position, so that no build decides when; a digest every 16 M instructions, about fifty of them.
record() {
    "$1" record --kernel "$images/vmlinuz-cloud-amd64" --initrd "$images/initramfs-amd64.gz" \
        --append "console=ttyS0 panic=-1 cryptomgr.notests dejavm.workload=demo" -m 256 --rtc-epoch 1577836800 \
        --idle skip --digest-interval 16777216 -o "$work/$2.dvr" --force </dev/null >"$work/$2.recorded.txt" \
        2>"$work/$2.errors.txt" || die "recording with $1 failed: $(tail -n 3 "$work/$2.errors.txt")"
    grep -a -q DEJAVM-WORKLOAD-OK "$work/$2.recorded.txt" || die "the guest did not finish: $work/$2.recorded.txt"
}
replay() {
    "$1" replay "$work/$2.dvr" --json --console "$work/$2.replayed.txt" </dev/null >"$work/$2.by-$3.json" ||
        die "$1 does not replay $work/$2.dvr: $(cat "$work/$2.by-$3.json")"
    cmp "$work/$2.recorded.txt" "$work/$2.replayed.txt" || die "$1 prints something else than was recorded"
}

record "$first" first
record "$second" second
cmp "$work/first.recorded.txt" "$work/second.recorded.txt" || die "the two builds' guests print different things"
replay "$second" first second
replay "$first" second first
cat "$work/first.by-second.json" "$work/second.by-first.json"
rm -f "$work"/*.dvr
echo "second-build: each build replays the other's recording"
