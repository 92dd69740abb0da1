#!/usr/bin/env bash
# A guest fetches 100 MB from the host while it is recorded: what the log holds for each byte, and that it replays.
#
#   usage: tests/bench/network.sh DEJAVM
#
# DEJAVM_NETWORK_MB chooses another size.
set -euo pipefail

dejavm=$1
project_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cache_dir=${DEJAVM_CACHE:-$project_dir/.cache}
images=${DEJAVM_IMAGES:-$cache_dir/images}
mb=${DEJAVM_NETWORK_MB:-100}
work=$cache_dir/bench/network
rm -rf "$work" && mkdir -p "$work/served"
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; rm -rf "$work/served"' EXIT

die() {
    printf 'network: %s\n' "$1" >&2
    exit 1
}
head -c "${mb}000000" /dev/urandom >"$work/served/payload"
cat "$images/initramfs-amd64.gz" "$images/network-cloud-amd64.gz" >"$work/initrd"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
python3 -m http.server -b 127.0.0.1 -d "$work/served" "$port" >"$work/server.err" 2>&1 &
server=$!
"$dejavm" record --kernel "$images/vmlinuz-cloud-amd64" --initrd "$work/initrd" -m 256 --net passt --rtc-epoch 1577836800 \
    --append "console=ttyS0 quiet cryptomgr.notests dejavm.workload=network dejavm.fetch=$port" \
    -o "$work/run.dvr" --json --console "$work/console.txt" </dev/null >"$work/record.json" 2>"$work/record.err" ||
    die "$(tail -n 3 "$work/record.err")"
grep -a -q DEJAVM-WORKLOAD-OK "$work/console.txt" || die "the guest failed: $(tail -n 3 "$work/console.txt")"
"$dejavm" verify "$work/run.dvr" --json >"$work/verify.json" 2>&1 || die "it does not replay: $(tail -n 3 "$work/verify.json")"
python3 - "$mb" "$work/record.json" <<'PYTHON'
import json, sys

mb = int(sys.argv[1])
with open(sys.argv[2]) as file:
    recorded = json.load(file)
ratio = recorded["log_bytes"] / (mb * 1e6)
print(
    f"network, {mb} MB received: log {recorded['log_bytes']} bytes, {ratio:.3f} of them (wanted: at most 1.1); "
    f"recorded in {recorded['seconds']:.1f} s; replays"
)
PYTHON
