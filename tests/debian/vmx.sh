#!/usr/bin/env bash
# Records the Debian disk as a .vmx file describes the machine, from power-on to the login prompt on its first serial port, which the
# file makes a socket, and replays that. One line says what was proved.
#
#   usage: tests/debian/vmx.sh DEJAVM
set -euo pipefail

dejavm=$1
project_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
here=$project_dir/tests/debian
cache_dir=${DEJAVM_CACHE:-$project_dir/.cache}
images=${DEJAVM_IMAGES:-$cache_dir/images}
work=$cache_dir/debian/vmx
rm -rf "$work" && mkdir -p "$work"
: >"$work/record.err"

recorder=
die() {
    printf 'debian (vmx): %s\n' "$1" >&2
    tail -n 5 "$work/com1.txt" "$work/record.err" >&2 || true
    exit 1
}
trap '[ -z "$recorder" ] || kill "$recorder" 2>/dev/null || true' EXIT

[ -s "$images/debian-amd64.img" ] || die "there is no disk: images/build-debian-disk.sh makes it"
ln -s "$images/debian-amd64.img" "$work/Debian 12.img"
# What Workstation writes, the devices that cannot be replayed switched off.
cat >"$work/Debian 12.vmx" <<'VMX'
#!/usr/bin/vmware
.encoding = "UTF-8"
config.version = "8"
virtualHW.version = "16"
pciBridge0.present = "TRUE"
vmci0.present = "TRUE"
hpet0.present = "TRUE"
displayName = "Debian 12 |22bookworm|22"
guestOS = "debian12-64"
numvcpus = "1"
memsize = "1024"
scsi0.virtualDev = "lsilogic"
scsi0.present = "TRUE"
scsi0:0.fileName = "Debian 12.img"
scsi0:0.present = "TRUE"
ide1:0.present = "TRUE"
ide1:0.deviceType = "cdrom-raw"
ide1:0.fileName = "auto detect"
usb.present = "FALSE"
sound.present = "FALSE"
floppy0.present = "FALSE"
serial0.present = "TRUE"
serial0.fileType = "pipe"
serial0.fileName = "com1"
serial0.pipe.endPoint = "server"
replay.supported = "TRUE"
replay.logging = "TRUE"
VMX

"$dejavm" record --vmx "$work/Debian 12.vmx" --rtc-epoch 1577836800 -o "$work/run.dvr" </dev/null 2>"$work/record.err" &
recorder=$!
"$here/heard.py" 120 "serial port 1 is at the socket" < <(tail -c +1 -f --pid="$recorder" "$work/record.err") || die "nothing said that COM1 is a socket"
python3 - "$work/com1" "$work/com1.txt" <<'PROGRAM' || die "no login prompt"
import socket, sys
com1 = socket.socket(socket.AF_UNIX)
com1.connect(sys.argv[1])
com1.settimeout(900)
heard = b""
with open(sys.argv[2], "wb") as copy:
    while b"login:" not in heard:
        piece = com1.recv(4096)
        if not piece:
            sys.exit("COM1 hung up")
        copy.write(piece)
        heard = (heard + piece)[-8192:]
PROGRAM
kill "$recorder"
wait "$recorder" || die "the recorder ended with $?"
recorder=
grep -q 'scsi0:0 is a virtio disk' "$work/record.err" || die "what became of the disk was not said"
"$dejavm" replay "$work/run.dvr" --json --console "$work/replayed.txt" </dev/null >"$work/replay.json" 2>"$work/replay.err" ||
    die "it does not replay: $(cat "$work/replay.err")"
grep -a -q 'login:' "$work/replayed.txt" || die "the replay comes to no login prompt"
digests=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["digests"])' <"$work/replay.json")
printf 'debian (vmx): a .vmx file alone described the machine, its SCSI disk was mapped to virtio and that was said; '
printf 'a login prompt came to the socket that the file makes of COM1; replayed to a login prompt, %d digests equal; %s\n' \
    "$digests" "$(tail -n 1 "$work/record.err")"
