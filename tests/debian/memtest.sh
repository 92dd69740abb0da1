#!/usr/bin/env bash
# Records memtest86+ until its first pass is over, and replays that.
#
#   usage: tests/debian/memtest.sh DEJAVM
#
# Its last test lets memory fade for minutes of guest time, awake: some 330 thousand million instructions.
# What comes before takes seconds, and is a test of the program's (tools/dejavm/tests/boots.rs).
set -euo pipefail

dejavm=$1
project_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
work=${DEJAVM_CACHE:-$project_dir/.cache}/debian/memtest
rm -rf "$work" && mkdir -p "$work"
: >"$work/console.txt"

recorder=
die() {
    printf 'memtest: %s\n' "$1" >&2
    exit 1
}
trap '[ -z "$recorder" ] || kill "$recorder" 2>/dev/null || true' EXIT

"$dejavm" record --kernel /boot/memtest86+x64.bin --append "nopause console=ttyS0,115200" -m 8 --display --rtc-epoch 1577836800 \
    -o "$work/run.dvr" </dev/null >"$work/console.txt" 2>"$work/record.err" &
recorder=$!
until grep -a -q 'Pass:  *1 ' "$work/console.txt"; do
    kill -0 "$recorder" 2>/dev/null || die "the recorder ended: $(cat "$work/record.err")"
    sleep 1
done
kill -INT "$recorder"
wait "$recorder" || die "the recorder ended with $?"
recorder=
! grep -a -o 'Errors: *[0-9]*' "$work/console.txt" | grep -v 'Errors: *0$' || die "it found errors"
"$dejavm" verify "$work/run.dvr" >"$work/verify.txt" 2>&1 || die "it does not replay: $(cat "$work/verify.txt")"
"$dejavm" screenshot "$work/run.dvr" "$work/screen.png" --text >"$work/screen.txt" 2>/dev/null
grep -q 'Pass: *1 ' "$work/screen.txt" || die "the screen does not say so: $(cat "$work/screen.txt")"
printf 'memtest: the first pass is over, without errors; %s; %s\n' "$(tail -n 1 "$work/record.err")" "$(tail -n 1 "$work/verify.txt")"
