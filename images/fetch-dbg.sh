#!/bin/sh
# Fetches a Debian kernel's debugging symbols: the vmlinux with types and line numbers that `-dbg` packages hold.
#
#   usage: images/fetch-dbg.sh [FLAVOUR]     default: amd64
#
# For the kernel that fetch-kernels.sh fetched, into .cache/images (or $DEJAVM_IMAGES): vmlinux-FLAVOUR-dbg and its
# manifest. Big: a package of 855 MB, and some 100 s to unpack; 631 MB stay, 1.5 GB while it works.
set -eu
. "$(dirname -- "$0")/cache.sh"
. "$images_dir/debs.sh"

flavour=${1:-amd64}
kernel=$out_dir/$flavour.manifest
vmlinux=$out_dir/vmlinux-$flavour-dbg
manifest=$vmlinux.manifest
"$images_dir/fetch-kernels.sh" "$flavour"
package=$(sed -n 's/^package: //p' "$kernel")
version=$(sed -n 's/^version: //p' "$kernel")
release=${package%%:*}
release=${release#linux-image-}
debug=${package%%:*}-dbg:${package##*:}

if [ -s "$vmlinux" ] && grep -qx "package: $debug" "$manifest" 2>/dev/null &&
    grep -qx "version: $version" "$manifest"; then
    exit 0
fi
apt_lists_ready
candidate=$(deb_field "$debug" Version)
[ "$candidate" = "$version" ] ||
    die "apt has '$debug' in version '$candidate', and the kernel here is $version: get the newer one with images/fetch-kernels.sh --refresh $flavour"
deb=$(deb_fetch "$debug")

# Only vmlinux: the modules' symbols are several gigabytes.
unpacked=$out_dir/.unpack-$flavour-dbg.$$
rm -rf "$unpacked" && mkdir -p "$unpacked"
trap 'rm -rf "$unpacked"' EXIT
inside=./usr/lib/debug/boot/vmlinux-$release
# --occurrence: the rest of the archive need not be unpacked; dpkg-deb then complains of a closed pipe. tar tells whether
# the file is whole.
dpkg-deb --fsys-tarfile "$deb" 2>/dev/null | tar -x --occurrence=1 -C "$unpacked" "$inside" ||
    die "$deb holds no $inside, or cannot be unpacked (is the disk full?)"
mv "$unpacked/$inside" "$vmlinux"
{
    echo "package: $debug"
    echo "version: $version"
    echo "deb-sha256: $(deb_field "$debug" SHA256)"
    echo "sha256: $(sha256sum <"$vmlinux" | cut -d ' ' -f 1)"
} >"$manifest"
# It would never be read again, and is easily fetched anew.
rm -f "$deb"
say "$vmlinux: $debug $version"
