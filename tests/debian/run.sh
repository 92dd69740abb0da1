#!/usr/bin/env bash
# Records a Debian disk from power-on to power-off, with work done in it over ssh, and replays that. One line says what was proved.
#
#   usage: tests/debian/run.sh DEJAVM [NAME OPTION...]     NAME: of the run; OPTIONs: more ones of `dejavm record`
#
# Options choose other hardware: --smp 2. DEJAVM_DISK_IF=ide and DEJAVM_NIC=e1000 choose other cards than virtio's. DEJAVM_KERNEL=cloud
# chooses GRUB's second entry, over the serial line: a kernel that has drivers of virtio only. DEJAVM_ARCH=i386 takes the 32-bit disk.
# DEJAVM_REBOOT=yes lets the guest reboot once, through its firmware, and goes on in GRUB's first entry.
set -euo pipefail

dejavm=$1
name=${2:-virtio}
shift $(($# < 2 ? $# : 2))
project_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
here=$project_dir/tests/debian
cache_dir=${DEJAVM_CACHE:-$project_dir/.cache}
images=${DEJAVM_IMAGES:-$cache_dir/images}
work=$cache_dir/debian/$name
arch=${DEJAVM_ARCH:-amd64}
disk=$images/debian-$arch.img
disk_if=${DEJAVM_DISK_IF:-virtio}
nic=${DEJAVM_NIC:-virtio}
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

# hear WHAT PATTERN...: waits until the serial console has said that; half an hour is for the busiest of machines.
hear() {
    local what=$1
    shift
    "$here/heard.py" 1800 "$@" < <(tail -c +1 -f --pid="$recorder" "$work/console.txt") || die "$what did not come to the serial console"
}

# A port that nobody listens on.
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
mkfifo "$work/keys"
exec {keys}<>"$work/keys"
"$dejavm" record --bios -m 1G --rtc-epoch 1577836800 --disk "$disk,if=$disk_if" \
    --net passt --nic "$nic" --forward "$port:22" -o "$work/run.dvr" "$@" \
    <"$work/keys" >"$work/console.txt" 2>"$work/record.err" {keys}>&- &
recorder=$!
started=$SECONDS

# GRUB's menu stands for a second of guest time, or until a key is pressed.
chosen=
if [ "${DEJAVM_KERNEL:-generic}" = cloud ]; then
    hear "GRUB's menu" 'executed automatically'
    printf '\033[B' >&"$keys"
    hear "the mark at GRUB's second entry" '\*Debian, [^ ]*-cloud'
    printf '\r' >&"$keys"
    chosen=", chosen in GRUB's menu over the serial line"
fi

options=(-i "$work/key" -o StrictHostKeyChecking=no -o "UserKnownHostsFile=$work/known" -o LogLevel=ERROR -o ConnectTimeout=20)
guest() {
    timeout 600 ssh "${options[@]}" -p "$port" root@127.0.0.1 "$@"
}
# up PATTERN...: waits for a login prompt on the serial console, behind that, and for sshd.
up() {
    hear "a login prompt" "$@" "login: "
    local end=$((SECONDS + 1800))
    until guest true 2>"$work/ssh.err"; do
        kill -0 "$recorder" 2>/dev/null || die "the recorder ended before sshd answered"
        [ "$SECONDS" -lt "$end" ] || die "sshd did not answer for half an hour: $(cat "$work/ssh.err")"
    done
}
up 'Linux version'
booted=$((SECONDS - started))
kernel=$(guest uname -r)
case ${DEJAVM_KERNEL:-generic}:$kernel in
    cloud:*cloud*) ;;
    generic:*cloud* | cloud:*) die "it is another kernel: $kernel" ;;
esac

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
timeout 600 scp -q "${options[@]}" -P "$port" "$work/sum.c" root@127.0.0.1: || die "scp failed"
said=$(guest 'gcc -O1 -o sum sum.c && ./sum && nproc && sync')
sum=${said%%$'\n'*}
[ "$sum" = "sum 333333833333500000" ] || die "the guest's program said: $said"

rebooted=
if [ "${DEJAVM_REBOOT:-}" = yes ]; then
    first=$(guest cat /proc/sys/kernel/random/boot_id)
    guest 'systemctl reboot' 2>/dev/null || true
    up 'login: ' 'GNU GRUB' 'Linux version'
    [ "$(guest cat /proc/sys/kernel/random/boot_id)" != "$first" ] || die "it did not reboot"
    again=$(guest ./sum)
    [ "$again" = "$sum" ] || die "after the reboot the guest's program said: $again"
    rebooted="; its own reboot went through BIOS and GRUB to $(guest uname -r), where the program is still there and says the same"
fi
guest 'systemctl poweroff' 2>/dev/null || true
wait "$recorder" || die "the recorder ended with $?"
recorder=
grep -q 'the guest switched the power off' "$work/record.err" || die "it ended otherwise: $(cat "$work/record.err")"

[ "$(sha256sum <"$disk")" = "$before" ] || die "the base image was written"
"$dejavm" replay "$work/run.dvr" --json --console "$work/replayed.txt" </dev/null >"$work/replay.json" 2>"$work/replay.err" ||
    die "it does not replay: $(cat "$work/replay.err")"
cmp "$work/console.txt" "$work/replayed.txt" || die "the replay prints something else than was recorded"
replayed() {
    python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1" <"$work/replay.json"
}

# The disk as the guest left it. Its partition starts at 1 MiB.
"$dejavm" disk "$work/run.dvr" -o "$work/left.img" 2>"$work/disk.err" || die "its disk cannot be had: $(cat "$work/disk.err")"
PATH=$PATH:/usr/sbin:/sbin
e2fsck -fn "$work/left.img?offset=1048576" >"$work/fsck.txt" 2>&1 || die "fsck complains: $(cat "$work/fsck.txt")"
rm "$work/left.img"

# The login prompt was on the screen too, some time before it was shut down.
end=$(replayed position)
screen=
for percent in 98 96 94 92 90 85 80 75 70 65 60 55 50; do
    "$dejavm" screenshot "$work/run.dvr" "$work/screen.png" --force --text --at "$((end / 100 * percent))" \
        >"$work/screen.txt" 2>"$work/screen.err" || die "there is no screen: $(cat "$work/screen.err")"
    # Drivers that know the display leave its text modes.
    "$here/screen_text.py" "$work/screen.png" >>"$work/screen.txt"
    if grep -q 'login:' "$work/screen.txt"; then
        screen=$((end / 100 * percent))
        break
    fi
done
[ -n "$screen" ] || die "no login prompt on the screen, but: $(cat "$work/screen.txt")"
processors=${said##*$'\n'}
printf 'debian (%s): BIOS, GRUB and %s%s, on %s; disk by %s, network by %s; login prompts on the serial line and, at position %d, on the screen; ' \
    "$name" "$kernel" "$chosen" "$([ "$processors" = 1 ] && echo 'one CPU' || echo "$processors CPUs")" "$disk_if" "$nic" "$screen"
printf 'up in %d s, a C program copied in by scp, compiled and run ("%s")%s; the guest powered itself off; ' "$booted" "$sum" "$rebooted"
printf 'replayed with the same console and %d equal digests; the base image is as it was, and fsck finds no fault in what the guest wrote; %s\n' \
    "$(replayed digests)" "$(tail -n 1 "$work/record.err")"
