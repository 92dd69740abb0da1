#!/bin/sh
# Builds what guests with a network card need: modules for kernels that fetch-kernels.sh fetched.
#
#   usage: images/build-network.sh [--refresh] [FLAVOUR...]     default: cloud-amd64 686-pae
#
# For each FLAVOUR, into .cache/images (or $DEJAVM_IMAGES): network-FLAVOUR.gz, an initramfs to append to another: /modules/*.ko,
# /modules/load, and the workloads of images/network, which load what they need. The same bytes each time for the same kernel.
set -eu
. "$(dirname -- "$0")/cache.sh"
. "$images_dir/debs.sh"
. "$images_dir/cpio.sh"

source_dir=$images_dir/network

# Their order is one in which they can be loaded. Kernels for clouds have no e1000.
virtio='
virtio/virtio virtio/virtio_ring virtio/virtio_pci_modern_dev virtio/virtio_pci_legacy_dev virtio/virtio_pci
net/core/failover net/net_failover net/virtio_net
char/hw_random/virtio-rng
'

archive() {
    cpio_entry modules 0040755 ''
    cpio_entry modules/load 0100755 "$source_dir/load"
    for module in $modules; do
        name=${module##*/}
        cpio_entry "modules/$name.ko" 0100644 "$1/$name.ko"
    done
    cpio_entry workload 0040755 ''
    for script in "$source_dir"/workload/*; do
        cpio_entry "workload/${script##*/}" 0100755 "$script"
    done
    cpio_entry TRAILER!!! 0 ''
}

is_current() {
    [ -s "$output" ] && [ -z "$(find "$source_dir" "$images_dir/build-network.sh" "$out_dir/vmlinuz-$flavour" \
        -newer "$output" -type f)" ]
}

build() {
    [ -s "$out_dir/$flavour.manifest" ] || die "$out_dir/$flavour.manifest is missing; fetch-kernels.sh comes first"
    package=$(sed -n 's/^package: //p' "$out_dir/$flavour.manifest")
    version=$(sed -n 's/^version: //p' "$out_dir/$flavour.manifest")
    # The kernel's own package, even if apt knows a newer one by now.
    deb=$debs_dir/${package%:*}_${version}_${package#*:}.deb
    if [ ! -s "$deb" ]; then
        apt_lists_ready
        deb=$(deb_fetch "$package")
    fi
    work=$out_dir/.network.$$
    rm -rf "$work" && mkdir -p "$work/deb"
    dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$work/deb" --wildcards './lib/modules/*.ko*'
    for module in $modules; do
        name=${module##*/}
        found=$(find "$work/deb" -name "$name.ko" -o -name "$name.ko.xz")
        case $found in
            *.ko) cp "$found" "$work/$name.ko" ;;
            *.ko.xz) need xz xz-utils && xz -dc "$found" >"$work/$name.ko" ;;
            *) die "$deb holds no $name.ko" ;;
        esac
    done
    archive "$work" | gzip -9 -n >"$work/gz"
    mv "$work/gz" "$output"
    rm -rf "$work"
    say "$output: $(wc -c <"$output") bytes"
}

refresh=
if [ "${1:-}" = --refresh ]; then
    refresh=yes
    shift
fi
[ $# -gt 0 ] || set -- cloud-amd64 686-pae
# Shell pattern order follows the locale.
LC_ALL=C
export LC_ALL
for flavour; do
    output=$out_dir/network-$flavour.gz
    case $flavour in
        cloud-*) modules=$virtio ;;
        *) modules="$virtio net/ethernet/intel/e1000/e1000" ;;
    esac
    if [ -n "$refresh" ] || ! is_current; then
        build
    fi
done
