#!/usr/bin/env bash
# Records memtest86+ until its first pass is over, and replays that. One line says what was proved.
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
"$project_dir/tests/debian/heard.py" 7200 'Pass:  *1 ' < <(tail -c +1 -f --pid="$recorder" "$work/console.txt") ||
    die "no first pass in two hours: $(tail -c 400 "$work/console.txt" "$work/record.err")"
kill -INT "$recorder"
wait "$recorder" || die "the recorder ended with $?"
recorder=
! grep -a -o 'Errors: *[0-9]*' "$work/console.txt" | grep -v 'Errors: *0$' || die "it found errors"
"$dejavm" verify "$work/run.dvr" >"$work/verify.txt" 2>&1 || die "it does not replay: $(cat "$work/verify.txt")"
"$dejavm" screenshot "$work/run.dvr" "$work/screen.png" --text >"$work/screen.txt" 2>/dev/null
grep -q 'Pass: *1 ' "$work/screen.txt" || die "the screen does not say so: $(cat "$work/screen.txt")"
printf 'memtest: the first pass of memtest86+ is over, without errors, and its screen says so too; %s; %s\n' \
    "$(tail -n 1 "$work/record.err")" "$(tail -n 1 "$work/verify.txt")"
