#!/usr/bin/env bash
# Installs the Debian packages that are missing, and asks for root only when some are.
#
#     tools/setup.sh [build] [checks] [parallel]
#
# build: compiler, tools and libraries (what is meant without arguments).  checks: clang, its format and lint tools.  parallel: Open MPI,
# for training in several processes, and what its tests need.
set -euo pipefail

build=(gcc libc6-dev make cmake pkg-config libdnnl-dev libjansson-dev libpcre2-dev libutf8proc-dev libpng-dev libjpeg62-turbo-dev libtiff-dev
    libarchive-dev libyaml-dev libsodium-dev liblapacke-dev libopenblas-dev libcmocka-dev)
parallel=(libopenmpi-dev openmpi-bin iproute2 procps)
checks=(clang clang-format clang-tidy libomp-dev libclang-rt-14-dev)

# A cmake of 3.25 or later that did not come with a package serves as well.
have_cmake() {
    local version
    version=$(cmake --version 2>/dev/null | sed -n '1s/[^0-9]*\([0-9.]*\).*/\1/p') || return 1
    [ -n "$version" ] && [ "$(printf '%s\n' 3.25 "$version" | sort -V | head -n 1)" = 3.25 ]
}

installed() {
    case $1 in
    cmake) have_cmake ;;
    pkg-config) command -v pkg-config >/dev/null ;; # pkgconf serves as well
    *) dpkg -s "$1" 2>/dev/null | grep -q '^Status: install ok installed' ;;
    esac
}

wanted=()
for group in "${@:-build}"; do
    case $group in
    build) wanted+=("${build[@]}") ;;
    checks) wanted+=("${checks[@]}") ;;
    parallel) wanted+=("${parallel[@]}") ;;
    *) echo "tools/setup.sh: found \"$group\", expected build, checks or parallel" >&2 && exit 2 ;;
    esac
done

if ! command -v dpkg >/dev/null || ! command -v apt-get >/dev/null; then
    echo "tools/setup.sh: this is not Debian or a relative of it, so nothing was installed." >&2
    echo "Cambium needs what these Debian packages hold; if you have it, build with: cmake --preset release && cmake --build build" >&2
    echo "    ${wanted[*]}" >&2
    exit 1
fi

missing=()
for package in "${wanted[@]}"; do
    installed "$package" || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

echo "installing: ${missing[*]}"
as_root=()
if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "tools/setup.sh: installing needs root and there is no sudo; as root, run" >&2
        echo "    apt-get update && apt-get install -y --no-install-recommends ${missing[*]}" >&2
        exit 1
    fi
    as_root=(sudo)
fi
"${as_root[@]}" apt-get update -q
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
