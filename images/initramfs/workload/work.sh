# shellcheck shell=dash
# Sourced by the workloads: pieces of real work. Each appends what it computed to $results, and only
# what any correct machine must compute: no time, no process id, no memory size. The hash of that
# file is the workload's verdict, the same on amd64 and i386 and known in advance.
results=/tmp/results
: >$results

fail() {
    echo "DEJAVM-WORKLOAD-FAILED $1"
    exit 1
}

step() {
    echo "dejavm: $1"
}

work_files() {
    step "files and pipes"
    mkdir -p /tmp/tree
    i=0
    while [ $i -lt 200 ]; do
        echo "file $i: $((i * i))" >/tmp/tree/$i.txt
        i=$((i + 1))
    done
    ln -s 7.txt /tmp/tree/link
    mv /tmp/tree/8.txt /tmp/tree/moved
    cat /tmp/tree/*.txt | sort -t : -k 2 -n | tr "[:lower:]" "[:upper:]" | sed 's/FILE/line/' | awk '{ s += $3 } END { print NR, s }' >>$results
    cat /tmp/tree/link /tmp/tree/moved >>$results
    rm -rf /tmp/tree
    mkfifo /tmp/fifo
    seq 1 2000 >/tmp/fifo &
    wc -l </tmp/fifo >>$results
    wait
    rm /tmp/fifo
}

# work_storm N: processes made and reaped, N by fork alone and N/5 by fork and exec.
work_storm() {
    step "fork and exec storm"
    calc storm "$1" >>$results || fail "fork storm"
    i=0
    while [ $i -lt $(($1 / 5)) ]; do
        /bin/true || fail "exec"
        i=$((i + 1))
    done
    (exit 42) || echo "status $?" >>$results
    for i in 1 2 3 4; do
        (seq 1 $((i * 100)) | tail -n 1) >/tmp/background.$i &
    done
    wait
    cat /tmp/background.* >>$results
}

work_sleep() {
    step "sleeps"
    before=$(cut -d . -f 1 /proc/uptime)
    sleep 1
    usleep 250000
    sleep 0.01
    after=$(cut -d . -f 1 /proc/uptime)
    [ $((after - before)) -ge 1 ] || fail "a sleep of 1.26 s took $((after - before)) s"
}

work_proc() {
    step "reading /proc and /sys"
    for file in /proc/*/stat /proc/*/status /proc/*/maps; do
        cat "$file" >/dev/null 2>&1
    done
    cat /proc/cpuinfo /proc/meminfo /proc/interrupts /proc/iomem /proc/self/maps >/tmp/proc
    [ -s /tmp/proc ] || fail "/proc is empty"
    head -n 2000 /proc/kallsyms >>/tmp/proc
    grep -c '^processor' /proc/cpuinfo
    cat /sys/devices/system/clocksource/clocksource0/current_clocksource
    rm /tmp/proc
}

work_float() {
    step "floating point"
    calc fp >/tmp/fp || fail "floating point"
    cat /tmp/fp
    cat /tmp/fp >>$results
    awk 'BEGIN { for (i = 1; i <= 2000; i++) s += 1 / (i * i); printf "%.12f\n", s }' >>$results
}

# work_hash BYTES: sha256 of generated text, and md5 of it through a pipe.
work_hash() {
    step "sha256 of $1 bytes"
    calc gen "$1" >/tmp/big || fail "generating $1 bytes"
    sha256sum </tmp/big >>$results
    dd if=/tmp/big bs=4096 count=256 2>/dev/null | md5sum >>$results
}

# work_gzip BYTES: of the file that work_hash left.
work_gzip() {
    step "gzip round trip of $1 bytes"
    head -c "$1" /tmp/big >/tmp/part
    gzip -c /tmp/part >/tmp/part.gz || fail "gzip"
    gunzip -c /tmp/part.gz | cmp - /tmp/part || fail "gunzip gave other bytes"
    sha256sum </tmp/part >>$results
    rm -f /tmp/part /tmp/part.gz /tmp/big
}

# work_loop N: shell iterations.
work_loop() {
    step "shell loop of $1 iterations"
    i=0
    while [ $i -lt "$1" ]; do
        i=$((i + 1))
    done
    echo "loop $i" >>$results
}

work_done() {
    verdict=$(sha256sum <$results)
    echo "DEJAVM-WORKLOAD-OK ${verdict%% *}"
}
