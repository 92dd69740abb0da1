#!/bin/sh
# The real gdb on a machine on KVM while it is recorded: the machine runs in the lab, gdb here, and they meet at the lab's second serial
# port. The recording that is made under gdb comes into FOLDER.
#
#   usage: tests/kvm-lab/live.sh DEJAVM DEJAVM-KVM-LAB FOLDER ELF      ELF: the guest `counter`
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
[ $# -eq 4 ] || { echo "usage: tests/kvm-lab/live.sh DEJAVM DEJAVM-KVM-LAB FOLDER ELF" >&2; exit 2; }
work=$(mktemp -d)
lab=
debugger=
trap 'kill ${lab:+-- -$lab} 2>/dev/null || true; kill $debugger 2>/dev/null || true; rm -rf "$work"' EXIT
fail() {
    cat "$work/lab-said" "$work/gdb-said"
    echo "$1"
    exit 1
}
: >"$work/lab-said"
: >"$work/gdb-said"
mkfifo "$work/lab" "$work/gdb"
# A process group: what the lab is made of ends with it.
setsid "$here/run.sh" -s "$work/serial" -b "$1" -b "$2" -o "$3" "$here/under-gdb" >"$work/lab" 2>&1 &
lab=$!
exec 3<"$work/lab"
invited=
while [ -z "$invited" ]; do
    read -r line <&3 || fail "the lab ended before gdb could come"
    echo "$line" >>"$work/lab-said"
    case $line in *'gdb may come'*) invited=yes ;; esac
done
cat <&3 >>"$work/lab-said" &

gdb -nx -q -batch -ex 'set architecture i386' -ex 'set pagination off' -ex 'set confirm off' -ex 'set remotetimeout 600' \
    -ex "file $4" -ex "target remote $work/serial" -x "$here/live.gdb" >"$work/gdb" 2>&1 &
debugger=$!
while read -r line; do
    echo "$line" >>"$work/gdb-said"
    # What Ctrl-C at gdb's terminal is, when gdb has told the machine to run. Should it not have run yet, gdb lets it again.
    case $line in *'Sending packet: $vCont;c'*)
        sleep 1
        kill -INT "$debugger"
        ;;
    esac
done <"$work/gdb"
wait "$debugger" || fail "gdb failed"
debugger=
wait "$lab" || fail "the lab failed"
lab=

for said in 'at main: 1' 'two steps on: 1' 'at the tick: 1' 'interrupts are off there: 1' 'mixed is ebx: 1' 'mixed is ebx again: 1' \
    'Hardware watchpoint 3' 'Hardware read watchpoint 4' 'received signal SIGINT' 'it has counted meanwhile: 1' 'detached'; do
    grep -q "$said" "$work/gdb-said" || fail "gdb does not say \`$said\`"
done
echo "lab: gdb on a live machine on KVM: breakpoints, steps, watchpoints, Ctrl-C, registers and memory; the recording replays on KVM and by software"
