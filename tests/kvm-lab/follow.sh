#!/bin/sh
# What was recorded on KVM in the lab is followed here by the software CPU, digest by digest, and kept with instructions for positions; that
# recording replays too, and what the guest computed must be there.
#
#   usage: tests/kvm-lab/follow.sh DEJAVM RECORDING...
set -eu
[ $# -ge 2 ] || { echo "usage: tests/kvm-lab/follow.sh DEJAVM RECORDING..." >&2; exit 2; }
dejavm=$1
shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for recording; do
    "$dejavm" convert "$recording" -o "$work/converted.dvr" 2>"$work/said" &&
        "$dejavm" replay "$work/converted.dvr" --console "$work/console" 2>"$work/said" || { cat "$work/said"; exit 1; }
    grep -q 'DEJAVM-WORKLOAD-OK' "$work/console" || { cat "$work/console"; exit 1; }
    rm "$work/converted.dvr"
    echo "lab: ${recording##*/}: by software equal to its end"
done
