#!/bin/sh
# Fetches the debug adapter of the extension CDT GDB into .cache/adapters, from the npm registry: it is JavaScript, so nothing is built.
set -eu
version=1.7.0
project_dir=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
folder=${DEJAVM_CACHE:-$project_dir/.cache}/adapters
grep -q "\"version\": \"$version\"" "$folder/node_modules/cdt-gdb-adapter/package.json" 2>/dev/null && exit 0
mkdir -p "$folder"
npm install --prefix "$folder" --no-audit --no-fund --ignore-scripts --loglevel error "cdt-gdb-adapter@$version"
