#!/bin/sh
# Fetches stock Debian kernels: nothing is installed, no root is needed, versions are apt's candidates.
#
#   usage: images/fetch-kernels.sh [--refresh] [FLAVOUR...]     default: cloud-amd64 amd64 686-pae
#
# For each FLAVOUR, into .cache/images (or $DEJAVM_IMAGES): vmlinuz-FLAVOUR, config-FLAVOUR, FLAVOUR.manifest (package, version,
# hashes), and module-FLAVOUR.gz: an initramfs to append to another, with one kernel module, /dummy.ko. What is there already
# is kept unless --refresh.
set -eu
. "$(dirname -- "$0")/cache.sh"
. "$images_dir/debs.sh"
. "$images_dir/cpio.sh"

refresh=
if [ "${1:-}" = --refresh ]; then
    refresh=yes
    shift
    rm -f "$apt_dir/updated"
fi
[ $# -gt 0 ] || set -- cloud-amd64 amd64 686-pae
mkdir -p "$out_dir"

for flavour; do
    case $flavour in
        *amd64) meta=linux-image-$flavour arch=amd64 ;;
        686*) meta=linux-image-$flavour arch=i386 ;;
        *) die "unknown kernel flavour '$flavour' (known: cloud-amd64 amd64 rt-amd64 686 686-pae)" ;;
    esac
    if [ -z "$refresh" ] && [ -s "$out_dir/vmlinuz-$flavour" ] && [ -s "$out_dir/$flavour.manifest" ] &&
        [ -s "$out_dir/module-$flavour.gz" ]; then
        continue
    fi
    apt_lists_ready
    # The meta package depends on exactly one kernel: "linux-image-6.1.0-56-amd64 (= 6.1.192-2)".
    package=$(deb_field "$meta:$arch" Depends | tr ',' '\n' | sed -n 's/^ *\(linux-image-[^ ]*\).*/\1/p' | head -n 1)
    [ -n "$package" ] || die "apt cannot resolve '$meta:$arch': the system's apt sources must include a Debian release (log: $apt_dir/update.log)"
    deb=$(deb_fetch "$package:$arch")

    # Only /boot and one module: the generic kernels carry several hundred megabytes of them.
    unpacked=$out_dir/.unpack-$flavour.$$
    rm -rf "$unpacked" && mkdir -p "$unpacked"
    release=${package#linux-image-}
    dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$unpacked" --wildcards ./boot './lib/modules/*/kernel/drivers/net/dummy.ko*'
    module=$(find "$unpacked/lib/modules/$release" -name 'dummy.ko*')
    case $module in
        *.ko) ;;
        # From Debian 13 on.
        *.ko.xz) need xz xz-utils && xz -d "$module" && module=${module%.xz} ;;
        *) die "$deb holds no dummy.ko" ;;
    esac
    { cpio_entry dummy.ko 0100644 "$module" && cpio_entry TRAILER!!! 0 ''; } | gzip -9 -n >"$unpacked/module"
    mv "$unpacked/module" "$out_dir/module-$flavour.gz"
    [ -s "$unpacked/boot/vmlinuz-$release" ] || die "$deb holds no boot/vmlinuz-$release"
    mv "$unpacked/boot/config-$release" "$out_dir/config-$flavour"
    mv "$unpacked/boot/vmlinuz-$release" "$out_dir/vmlinuz-$flavour"
    rm -rf "$unpacked"
    {
        echo "package: $package:$arch"
        echo "version: $(deb_field "$package:$arch" Version)"
        echo "deb-sha256: $(deb_field "$package:$arch" SHA256)"
        echo "sha256: $(sha256sum <"$out_dir/vmlinuz-$flavour" | cut -d ' ' -f 1)"
    } >"$out_dir/$flavour.manifest"
    say "$out_dir/vmlinuz-$flavour: $package $(sed -n 's/^version: //p' "$out_dir/$flavour.manifest")"
done
