#!/usr/bin/env bash
# Checks the format of every source file and runs clang-tidy (checks in .clang-tidy) over the files of the clang build, or over FILEs alone.
#
#     tools/lint.sh [format] [tidy [FILE...]]
set -euo pipefail
cd "$(dirname "$0")/.."
directories=()
for directory in include src tests bench examples experiments; do
    [ -d "$directory" ] && directories+=("$directory")
done

check_format() {
    find "${directories[@]}" \( -name '*.c' -o -name '*.h' \) -print0 | xargs -0 clang-format --dry-run -Werror
}

# Of the clang build only its list of commands is needed: every .c file of the library, the program, the tests and the
# examples in it is checked, with the headers it includes.
tidy_files() {
    if [ $# -gt 0 ]; then
        printf '%s\n' "$@"
    else
        sed -n 's/^ *"file": "\(.*\)".*/\1/p' build-clang/compile_commands.json | grep -E '/(src|tests|examples|experiments)/' | sort -u
    fi
}

check_tidy() {
    cmake --preset clang >/dev/null
    tidy_files "$@" | xargs -P "$(nproc)" -n 4 clang-tidy -p build-clang --quiet --warnings-as-errors='*' 2>&1 |
        { grep -v -e '^[0-9]* warnings\? generated\.$' -e '^Suppressed [0-9]* warnings' -e '^Use -header-filter' || true; }
}

[ $# -gt 0 ] || set -- format tidy
while [ $# -gt 0 ]; do
    part=$1
    shift
    case $part in
    format) check_format ;;
    tidy)
        check_tidy "$@"
        break
        ;;
    *) echo "tools/lint.sh: found \"$part\", expected format or tidy" >&2 && exit 2 ;;
    esac
done
