#!/usr/bin/env bash
# Installs a build into a scratch directory and uses it as a stranger would: every header on its own, a program through
# pkg-config (shared and static), a program through the CMake package, the program and its pages.
#
#     tools/check_install.sh [BUILD_DIRECTORY]
set -euo pipefail
cd "$(dirname "$0")/.."
build=$(realpath "${1:-build}")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
prefix=$scratch/prefix
compiler=${CC:-cc}

say() { printf '%s\n' "check_install: $*"; }

cmake --install "$build" --prefix "$prefix" >/dev/null
libraries=$(dirname "$(find "$prefix" -name 'libcambium.so')")
export PKG_CONFIG_PATH=$libraries/pkgconfig LD_LIBRARY_PATH=$libraries

for header in cambium.h $(cd "$prefix/include" && echo cambium/*.h); do
    echo "#include <$header>" | "$compiler" -std=c17 -Wall -Wextra -Werror -I"$prefix/include" -fsyntax-only -x c -
done
say "every public header compiles on its own"

cat >"$scratch/program.c" <<'C'
#include <cambium.h>
#include <stdio.h>
#include <string.h>

int main(void)
{
    char *text = cb_format("%d.%d.%d", CB_VERSION_MAJOR, CB_VERSION_MINOR, CB_VERSION_PATCH);
    int status = text && strcmp(text, CB_VERSION) == 0 && puts(text) >= 0 ? 0 : 1;
    cb_free(text);
    return status;
}
C
version=$(pkg-config --modversion cambium)
# shellcheck disable=SC2046 # the flags are words
"$compiler" "$scratch/program.c" -o "$scratch/shared" $(pkg-config --cflags --libs cambium)
[ "$("$scratch/shared")" = "$version" ]
# shellcheck disable=SC2046
"$compiler" "$scratch/program.c" -o "$scratch/static" $(pkg-config --cflags cambium) "$libraries/libcambium.a" \
    $(pkg-config --static --libs cambium | sed 's/-lcambium//')
[ "$(LD_LIBRARY_PATH='' "$scratch/static")" = "$version" ]
say "pkg-config gives flags that work, shared and static"

cat >"$scratch/CMakeLists.txt" <<CMAKE
cmake_minimum_required(VERSION 3.25)
project(stranger C)
find_package(cambium $version REQUIRED COMPONENTS static)
foreach(kind shared static)
  add_executable(use_\${kind} program.c)
  target_link_libraries(use_\${kind} PRIVATE cambium::\${kind})
endforeach()
CMAKE
cmake -S "$scratch" -B "$scratch/build" -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_C_COMPILER="$compiler" >/dev/null
cmake --build "$scratch/build" >/dev/null
[ "$("$scratch/build/use_shared")" = "$version" ] && [ "$("$scratch/build/use_static")" = "$version" ]
say "find_package(cambium) gives targets that work"

foreign=$(nm -D --defined-only "$libraries/libcambium.so" | awk '$2 ~ /[TDBR]/ && $3 !~ /^cb_/ {print $3}')
[ -z "$foreign" ] || { say "the shared library exports names that do not begin with cb_: $foreign" >&2; exit 1; }
say "the shared library exports cb_ names only"

if [ -x "$prefix/bin/cambium" ]; then
    "$prefix/bin/cambium" --version >/dev/null
    bash -n "$prefix/share/bash-completion/completions/cambium"
    for page in man/man1/cambium.1 bash-completion/completions/cambium zsh/site-functions/_cambium fish/vendor_completions.d/cambium.fish; do
        [ -s "$prefix/share/$page" ] || { say "$page is empty" >&2; exit 1; }
    done
    say "the program runs; its manual page and completions are there"
fi
