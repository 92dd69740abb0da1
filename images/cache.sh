# Sourced by the scripts of this folder: where the cache is, and how a script gives up.
# shellcheck shell=sh

# A script elsewhere says where this folder is.
images_dir=${images_dir:-$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)}
project_dir=$(dirname -- "$images_dir")
# Everything fetched or built lives below one git-ignored folder; deleting it costs a download.
cache_dir=${DEJAVM_CACHE:-$project_dir/.cache}
# shellcheck disable=SC2034 # read by the scripts that source this
out_dir=${DEJAVM_IMAGES:-$cache_dir/images}

die() {
    printf '%s: %s\n' "$(basename -- "$0")" "$1" >&2
    exit 1
}

say() {
    printf '%s\n' "$1" >&2
}

need() {
    command -v "$1" >/dev/null 2>&1 || die "needs the program '$1'; install it with: apt-get install $2"
}
