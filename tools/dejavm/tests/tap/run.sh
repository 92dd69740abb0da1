#!/usr/bin/env bash
# Runs a program where there is a TAP interface tap0 and nothing else: the host's end is 10.0.2.2, which gives its guest an address and
# serves a folder by HTTP.
#
#   usage: unshare -rn run.sh FOLDER PROGRAM...       port 8000
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$1
shift
ip link set lo up
ip tuntap add dev tap0 mode tap
ip address add 10.0.2.2/24 dev tap0
ip link set tap0 up
python3 "$here/dhcp.py" tap0 &
dhcp=$!
python3 -m http.server -b 10.0.2.2 -d "$folder" 8000 >/dev/null 2>&1 &
http=$!
trap 'kill "$dhcp" "$http"' EXIT
"$@"
