#!/bin/sh
# Runs every guest of guests/ under QEMU and compares with guests/expected: the judge of our guests, and
# with `--write` the author of those files. Needs qemu-system-x86; no part of the test run.
set -eu
. "$(dirname -- "$0")/cache.sh"
need qemu-system-x86_64 qemu-system-x86
work=$cache_dir/check-guests
mkdir -p "$work"
failed=0

for source in "$images_dir"/guests/*.S; do
    name=$(basename -- "$source" .S)
    expected=$images_dir/guests/expected/$name.txt
    gcc -m32 -c -o "$work/$name.o" "$source"
    ld -m elf_i386 --build-id=none -T "$images_dir/guests/guest.ld" -o "$work/$name.elf" "$work/$name.o"
    status=0
    # Keys for the guest that waits for some; isa-debug-exit turns the value v into status 2v+1.
    (sleep 1; printf 'abcXq') | timeout 60 qemu-system-x86_64 -accel tcg -cpu qemu64,+nx -icount shift=1,sleep=off -m 16 \
        -kernel "$work/$name.elf" -device isa-debug-exit,iobase=0xf4,iosize=4 -debugcon "file:$work/$name.txt" \
        -serial stdio -display none -nic none -no-reboot >"$work/$name.serial" || status=$?
    wanted=33
    [ "$name" != demo ] || wanted=35
    if [ "$status" -ne "$wanted" ]; then
        say "$name: status $status instead of $wanted, it printed: $(tail -n 3 "$work/$name.txt")"
        failed=1
    elif [ -f "$expected" ] && [ "${1:-}" = --write ]; then
        cp "$work/$name.txt" "$expected"
    elif [ -f "$expected" ] && ! cmp -s "$work/$name.txt" "$expected"; then
        say "$name: prints something else than $expected: $(cat "$work/$name.txt")"
        failed=1
    else
        say "$name: $(tail -n 1 "$work/$name.txt")"
    fi
done
exit $failed
