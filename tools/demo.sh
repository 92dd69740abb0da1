#!/bin/sh
# `make demo`: records a stock Debian kernel that works and then panics, replays it, proves both equal.
#
#   usage: tools/demo.sh DEJAVM        the program; kernel and initramfs are fetched or built already
set -eu

dejavm=$1
project_dir=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
cache_dir=${DEJAVM_CACHE:-$project_dir/.cache}
images=${DEJAVM_IMAGES:-$cache_dir/images}
demo=$cache_dir/demo
recording=$demo/demo.dvr
mkdir -p "$demo"

die() {
    printf 'demo: %s\n' "$1" >&2
    exit 1
}
title() {
    printf '\n== %s\n' "$1"
}
# size FILE: in bytes.
size() {
    wc -c <"$1" | tr -d ' '
}

# Without its self-tests of ciphers the kernel boots in a third of the instructions.
title "recording a Debian kernel that boots, works, and panics"
status=0
"$dejavm" record --kernel "$images/vmlinuz-cloud-amd64" --initrd "$images/initramfs-amd64.gz" \
    --append "console=ttyS0 panic=-1 cryptomgr.notests dejavm.workload=demo" -m 512 -o "$recording" --force \
    </dev/null >"$demo/recorded.txt" || status=$?
tr -d '\r' <"$demo/recorded.txt" | grep -a -A 8 -E 'DEJAVM|dejavm:|Kernel panic' | tail -n 24 || true
[ "$status" -eq 0 ] || die "recording ended with status $status; the guest's console is in $demo/recorded.txt"
grep -a -q 'DEJAVM-WORKLOAD-OK' "$demo/recorded.txt" || die "the guest did not finish its work; its console is in $demo/recorded.txt"
grep -a -q 'Kernel panic' "$demo/recorded.txt" || die "the guest did not panic; its console is in $demo/recorded.txt"

title "replaying it"
"$dejavm" replay "$recording" </dev/null >"$demo/replayed.txt" || die "replay ended with status $?; its console is in $demo/replayed.txt"
cmp "$demo/recorded.txt" "$demo/replayed.txt" || die "the replay printed something else than the recording"
echo "console: equal, $(size "$demo/recorded.txt") bytes, sha256 $(sha256sum <"$demo/replayed.txt" | cut -c 1-16)"

title "verifying every digest"
"$dejavm" verify "$recording" --json >"$demo/verify.json" || die "verify ended with status $?: $(cat "$demo/verify.json")"
cat "$demo/verify.json"

title "the recording is one file of $(size "$recording") bytes; try next"
cat <<EOT
  $dejavm info $recording
  $dejavm replay $recording          (as often as you like: the same panic, to the bit)
  $dejavm record --kernel $images/vmlinuz-cloud-amd64 --initrd $images/initramfs-amd64.gz \\
      --append "console=ttyS0 cryptomgr.notests dejavm.workload=idle" -m 512 -o mine.dvr      (type commands; Ctrl-A x stops)
EOT
