#!/bin/sh
# What was recorded on KVM in the lab is debugged here, with gdb, forwards and backwards.
#
#   usage: tests/kvm-lab/debug.sh DEJAVM RECORDING ELF      the recording is of the guest `counter`
set -eu
[ $# -eq 3 ] || { echo "usage: tests/kvm-lab/debug.sh DEJAVM RECORDING ELF" >&2; exit 2; }
work=$(mktemp -d)
trap 'kill "$server" 2>/dev/null || true; rm -rf "$work"' EXIT
mkfifo "$work/says"
"$1" replay "$2" --gdb="$work/gdb" 2>"$work/says" &
server=$!
exec 3<"$work/says"
# It follows the recording first.
while read -r line <&3; do
    echo "$line"
    case $line in *listening*) break ;; esac
done >"$work/server"
cat <&3 >>"$work/server" &
gdb -nx -q -batch -ex 'set architecture i386' -ex 'set pagination off' -ex "file $3" -ex "target remote $work/gdb" \
    -ex 'break tick' -ex continue -ex 'output (unsigned)count' -ex 'echo \n' -ex continue -ex 'output (unsigned)count' -ex 'echo \n' \
    -ex reverse-stepi -ex stepi -ex 'output (unsigned)count' -ex 'echo \n' -ex reverse-continue -ex 'output (unsigned)count' -ex 'echo \n' \
    >"$work/said" 2>&1 || { cat "$work/said" "$work/server"; exit 1; }
counts=$(grep -x '[0-9]*' "$work/said" | tr '\n' ' ')
# shellcheck disable=SC2086 # four words
set -- $counts
if [ $# -ne 4 ] || [ "$1" -ge "$2" ] || [ "$3" -ne "$2" ] || [ "$4" -ne "$1" ]; then
    cat "$work/said" "$work/server"
    echo "gdb finds the guest's count at two ticks, back and forth: $counts"
    exit 1
fi
echo "lab: gdb goes from tick to tick of a recording of KVM's, forwards and back: $counts"
