#!/usr/bin/env bash
# Records a Debian disk from power-on to power-off, with work done in it over ssh, and replays that.
#
#   usage: tests/debian/run.sh DEJAVM [NAME OPTION...]     NAME: of the run; OPTIONs: more ones of `dejavm record`
#
# Options choose other hardware: --smp 2. DEJAVM_DISK_IF=ide and DEJAVM_NIC=e1000 choose other cards than virtio's. DEJAVM_KERNEL=cloud
# chooses GRUB's second entry, over the serial line: a kernel that has drivers of virtio only. DEJAVM_ARCH=i386 takes the 32-bit disk.
set -euo pipefail

dejavm=$1
name=${2:-virtio}
shift $(($# < 2 ? $# : 2))
project_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cache_dir=${DEJAVM_CACHE:-$project_dir/.cache}
images=${DEJAVM_IMAGES:-$cache_dir/images}
work=$cache_dir/debian/$name
arch=${DEJAVM_ARCH:-amd64}
disk=$images/debian-$arch.img
rm -rf "$work" && mkdir -p "$work"
: >"$work/console.txt"

recorder=
die() {
    printf 'debian (%s): %s\n' "$name" "$1" >&2
    tail -n 5 "$work/console.txt" "$work/record.err" >&2 || true
    exit 1
}
trap '[ -z "$recorder" ] || kill "$recorder" 2>/dev/null || true' EXIT

[ -s "$disk" ] || die "there is no $disk: images/build-debian-disk.sh makes it"
before=$(sha256sum <"$disk")
cp "$images/debian-$arch.key" "$work/key" && chmod 600 "$work/key"

# Down and Enter, until a kernel has started. GRUB's menu stands for a second of guest time.
type_at_grub() {
    if [ "${DEJAVM_KERNEL:-generic}" = cloud ]; then
        until grep -a -q 'Linux version' "$work/console.txt"; do
            sleep 0.3
            grep -a -q 'GRUB' "$work/console.txt" && printf '\033[B\r' || true
        done
    fi
}

# A port that nobody listens on.
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$dejavm" record --bios -m 1G --rtc-epoch 1577836800 --disk "$disk,if=${DEJAVM_DISK_IF:-virtio}" \
    --net passt --nic "${DEJAVM_NIC:-virtio}" --forward "$port:22" -o "$work/run.dvr" "$@" \
    < <(type_at_grub) >"$work/console.txt" 2>"$work/record.err" &
recorder=$!

options=(-i "$work/key" -o StrictHostKeyChecking=no -o "UserKnownHostsFile=$work/known" -o LogLevel=ERROR -o ConnectTimeout=20)
guest() {
    timeout 600 ssh "${options[@]}" -p "$port" root@127.0.0.1 "$@"
}
started=$SECONDS
until guest true 2>/dev/null; do
    kill -0 "$recorder" 2>/dev/null || die "the recorder ended before sshd answered"
    [ $((SECONDS - started)) -lt 3600 ] || die "sshd did not answer for an hour"
done
up=$((SECONDS - started))
kernel=$(guest uname -r)
case ${DEJAVM_KERNEL:-generic}:$kernel in
    cloud:*cloud*) ;;
    generic:*cloud* | cloud:*) die "it is another kernel: $kernel" ;;
esac
grep -a -q 'login:' "$work/console.txt" || die "no login prompt on the serial console"

cat >"$work/sum.c" <<'PROGRAM'
#include <stdio.h>
int main(void) {
    unsigned long long sum = 0;
    for (unsigned long long n = 1; n <= 1000000; n++)
        sum += n * n;
    printf("sum %llu\n", sum);
    return 0;
}
PROGRAM
timeout 600 scp -q "${options[@]}" -P "$port" "$work/sum.c" root@127.0.0.1:
said=$(guest 'gcc -O1 -o sum sum.c && ./sum && nproc && sync')
[ "${said%%$'\n'*}" = "sum 333333833333500000" ] || die "the guest's program said: $said"
guest 'systemctl poweroff' 2>/dev/null || true
wait "$recorder" || die "the recorder ended with $?"
recorder=

[ "$(sha256sum <"$disk")" = "$before" ] || die "the base image was written"
"$dejavm" replay "$work/run.dvr" --json --console "$work/replayed.txt" </dev/null >"$work/replay.json" ||
    die "it does not replay: $(cat "$work/replay.json")"
cmp "$work/console.txt" "$work/replayed.txt" || die "the replay prints something else than was recorded"

# The disk as the guest left it. Its partition starts at 1 MiB.
"$dejavm" disk "$work/run.dvr" -o "$work/left.img" 2>"$work/disk.err" || die "its disk cannot be had: $(cat "$work/disk.err")"
PATH=$PATH:/usr/sbin:/sbin
e2fsck -fn "$work/left.img?offset=1048576" >"$work/fsck.txt" 2>&1 || die "fsck complains: $(cat "$work/fsck.txt")"
rm "$work/left.img"

# The login prompt was on the screen too, some time before it was shut down.
end=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["position"])' <"$work/replay.json")
screen=
for percent in 98 96 94 92 90 85 80 75 70 65 60 55 50; do
    "$dejavm" screenshot "$work/run.dvr" "$work/screen.png" --force --text --at "$((end / 100 * percent))" \
        >"$work/screen.txt" 2>"$work/screen.err" || die "there is no screen: $(cat "$work/screen.err")"
    # Drivers that know the display leave its text modes.
    "$project_dir/tests/debian/screen_text.py" "$work/screen.png" >>"$work/screen.txt"
    if grep -q 'login:' "$work/screen.txt"; then
        screen=$percent
        break
    fi
done
[ -n "$screen" ] || die "no login prompt on the screen, but: $(cat "$work/screen.txt")"
printf 'debian (%s): %s, up in %d s; the program said %s; replayed to the same digests; fsck is content; login on the screen at %s %%; %s\n' \
    "$name" "$kernel" "$up" "${said//$'\n'/, }" "$screen" "$(tail -n 1 "$work/record.err")"
