#!/usr/bin/env bash
# Runs the fuzzers, each for a while, from what they found before and from seeds. Stops at the first that finds something.
#
#   usage: tests/fuzz/run.sh SECONDS [TARGET...]      default: all targets
#
# SANITIZER=address looks for misuse of memory too, and takes some five times as long for a case. The default is none.
set -euo pipefail

seconds=$1
shift
project_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
tools=${DEJAVM_CACHE:-$project_dir/.cache}/fuzz
cd "$project_dir"
if [ $# = 0 ]; then
    set -- debugger_client recording_file checkpoint_file windows_guest viewer guest_code translated_code
    for device in tests/fuzz/fuzz_targets/device_*.rs; do
        set -- "$@" "$(basename "$device" .rs)"
    done
fi

PATH=$PATH:$tools/bin
if ! cargo fuzz --version >/dev/null 2>&1; then
    # It only starts others: how fast it is does not matter, how soon it is built does.
    cargo install --quiet --debug --locked cargo-fuzz --root "$tools" --target-dir "$tools/target"
    rm -rf "$tools/target"
fi
cargo run --quiet --release -p dejavm-hostile --example seeds -- tests/fuzz/corpus

# Counting what code runs is an unstable option of the compiler; this variable allows it to a stable one.
export RUSTC_BOOTSTRAP=1
for target; do
    # A case is limited in what it may do, not in time: five seconds have been seen alone, more beside others.
    max_len=16384
    # A guest with a little memory.
    [ "$target" != checkpoint_file ] || max_len=1048576
    options=(-max_total_time="$seconds" -len_control=0 -max_len=$max_len -timeout=120 -print_final_stats=1)
    words=tests/fuzz/${target/translated/guest}.dict
    if [ -f "$words" ]; then
        options+=(-dict="$project_dir/$words")
    fi
    echo "== $target, $seconds s"
    nice cargo fuzz run --fuzz-dir tests/fuzz --sanitizer "${SANITIZER:-none}" "$target" -- "${options[@]}"
done
