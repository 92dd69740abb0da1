#!/bin/sh
# Installs the judges that are written in Python into .cache/judges/venv (or $DEJAVM_CACHE/judges/venv); nothing when they are
# there. The versions are pinned: a judge that changes under a test judges something else.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
folder=${DEJAVM_CACHE:-$here/../../.cache}/judges
list=$here/requirements.txt
# Written last, so it is there only of what is whole.
cmp -s "$list" "$folder/installed" && [ -x "$folder/venv/bin/python" ] && exit 0

fail() {
    echo "tests/judges/install.sh: $1" >&2
    exit 1
}

mkdir -p "$folder"
rm -f "$folder/installed"
echo "installing into $folder/venv: $(grep -v '^#' "$list" | tr '\n' ' ')" >&2
# What is there and right stays: a test may be using it.
[ -x "$folder/venv/bin/python" ] || python3 -m venv "$folder/venv" >"$folder/log" 2>&1 ||
    fail "python3 cannot make a virtual environment in $folder/venv (Debian: package python3-venv); see $folder/log"
# --no-deps: everything that is needed is in the list, with its version.
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --retries 2 --timeout 20 -r "$list" >>"$folder/log" 2>&1 ||
    fail "the judges could not be fetched from the Python package index (is there a network?); see $folder/log"
cp "$list" "$folder/installed"
