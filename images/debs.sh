# Sourced after cache.sh: Debian packages without installing anything and without root.
#
# apt is pointed at a private state directory that shares only the system's sources and keyrings.
# There the list of architectures may hold i386 although the system's dpkg does not know it, and
# `dpkg --add-architecture` (root, and a change to the whole machine) is never needed.
# shellcheck shell=sh

apt_dir=$cache_dir/apt
debs_dir=$cache_dir/debs

private_apt() {
    program=$1
    shift
    "$program" \
        -o Dir::State="$apt_dir/state" -o Dir::State::lists="$apt_dir/state/lists" \
        -o Dir::State::status=/dev/null -o Dir::Cache="$apt_dir/cache" \
        -o APT::Architecture=amd64 -o APT::Architectures::=amd64 -o APT::Architectures::=i386 \
        -o APT::Sandbox::User=root -o Acquire::Languages=none -o Acquire::Retries=3 \
        -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false \
        -o Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false \
        -o Debug::NoLocking=true "$@"
}

apt_lists_update() {
    mkdir -p "$apt_dir/state/lists/partial" "$apt_dir/cache/archives/partial"
    say "fetching package lists (amd64 and i386, private to $apt_dir)"
    # One source of several may fail (a mirror in the middle of a sync, a third-party source): what
    # counts is whether the packages resolve afterwards, so only show what apt said when they do not.
    if ! private_apt apt-get -q update >"$apt_dir/update.log" 2>&1; then
        say "some package lists could not be refreshed, going on with what there is: $(grep -m 1 -E "^(E|Err|W):" "$apt_dir/update.log")"
    fi
    date +%s >"$apt_dir/updated"
}

# The lists are refreshed once a day: an old list names package files that the mirror has dropped.
apt_lists_ready() {
    need apt-get apt
    need apt-cache apt
    need dpkg-deb dpkg
    updated=$(cat "$apt_dir/updated" 2>/dev/null || echo 0)
    if [ "$(($(date +%s) - updated))" -gt 86400 ]; then
        apt_lists_update
    fi
}

# deb_field PACKAGE FIELD: that field of the candidate version.
deb_field() {
    private_apt apt-cache --no-all-versions show "$1" 2>/dev/null | sed -n "s/^$2: //p" | head -n 1
}

# deb_fetch PACKAGE[:ARCH]: prints the path of the downloaded, hash-checked .deb.
deb_fetch() {
    version=$(deb_field "$1" Version)
    [ -n "$version" ] || die "apt knows no package '$1': the system's apt sources must include a Debian release (log: $apt_dir/update.log)"
    file=$debs_dir/$(basename -- "$(deb_field "$1" Filename)")
    sha256=$(deb_field "$1" SHA256)
    if ! deb_is "$file" "$sha256"; then
        mkdir -p "$debs_dir/partial"
        say "downloading $1 $version"
        # `apt-get download` writes to the current directory; the name it chooses may differ in
        # its escaping of the version's colon, so it works in an empty folder of its own.
        rm -rf "$debs_dir/partial/$1" && mkdir -p "$debs_dir/partial/$1"
        (cd "$debs_dir/partial/$1" && private_apt apt-get -q download "$1" >../log 2>&1) ||
            die "cannot download '$1' $version: $(tail -n 1 "$debs_dir/partial/log")"
        mv "$debs_dir/partial/$1"/*.deb "$file"
        rmdir "$debs_dir/partial/$1"
        deb_is "$file" "$sha256" || die "the downloaded $file does not have the hash that apt's lists promise; delete $apt_dir and try again"
    fi
    printf '%s\n' "$file"
}

deb_is() {
    [ -f "$1" ] && [ "$(sha256sum <"$1" | cut -d ' ' -f 1)" = "$2" ]
}
