#!/bin/sh
# What was recorded on KVM in the lab is followed here by the software CPU, digest by digest; what the guest computed must be there.
#
#   usage: tests/kvm-lab/follow.sh DEJAVM RECORDING...
set -eu
[ $# -ge 2 ] || { echo "usage: tests/kvm-lab/follow.sh DEJAVM RECORDING..." >&2; exit 2; }
dejavm=$1
shift
said=$(mktemp)
trap 'rm -f "$said"' EXIT
for recording; do
    "$dejavm" replay "$recording" --console "$said" 2>"$said.err" || { cat "$said.err"; rm "$said.err"; exit 1; }
    rm "$said.err"
    grep -q 'DEJAVM-WORKLOAD-OK' "$said" || { cat "$said"; exit 1; }
    echo "lab: ${recording##*/}: by software equal to its end"
done
