#!/usr/bin/env bash
# Runs the fuzz targets of tests/fuzz under libFuzzer, with the address and undefined-behaviour sanitizers.
#
#     tools/fuzz.sh [TARGET...] [--seconds N] [--corpus DIRECTORY] [--no-build]
#
# Without targets all of them run, one after another, each for N seconds (60).  A run goes on from the inputs that earlier
# runs found worth keeping, which lie in DIRECTORY (${XDG_CACHE_HOME:-~/.cache}/cambium/fuzz).  An input that crashes a
# reader, takes over 10 s or wants over 1 GiB, or 256 MiB at once, is written to fuzz-findings/ in the current directory,
# and the exit status is 1.  To see one again: build-fuzz/tests/fuzz_TARGET FILE.  Once the reader is mended, the file
# belongs in tests/fuzz/regression/TARGET.
set -euo pipefail
tree=$(cd "$(dirname "$0")/.." && pwd)
seconds=60 build=true corpus=${XDG_CACHE_HOME:-$HOME/.cache}/cambium/fuzz findings=$PWD/fuzz-findings
targets=()
while [ $# -gt 0 ]; do
    case $1 in
    --seconds) seconds=${2:?--seconds needs a number} && shift 2 ;;
    --corpus) corpus=${2:?--corpus needs a directory} && shift 2 ;;
    --no-build) build=false && shift ;;
    --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" && exit 0 ;;
    -*) echo "tools/fuzz.sh: found \"$1\", expected a target, --seconds, --corpus, --no-build or --help" >&2 && exit 2 ;;
    *) targets+=("$1") && shift ;;
    esac
done

known=$(cd "$tree/tests/fuzz/corpus" && echo *)
[ ${#targets[@]} -gt 0 ] || read -ra targets <<<"$known"
for target in "${targets[@]}"; do
    [ -d "$tree/tests/fuzz/corpus/$target" ] || { echo "tools/fuzz.sh: found \"$target\", expected one of: $known" >&2 && exit 2; }
done
if $build; then
    (cd "$tree" && cmake --preset fuzz >/dev/null && cmake --build --preset fuzz --parallel "$(nproc)" | tail -n 1)
fi

export OMP_NUM_THREADS=1 ASAN_OPTIONS=allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1
export LSAN_OPTIONS=suppressions=$tree/cmake/suppressions/leak.txt:print_suppressions=0
shared_memory=/dev/shm
[ -w $shared_memory ] || shared_memory=${TMPDIR:-/tmp}
TMPDIR=$(mktemp -d $shared_memory/cambium-fuzz-XXXXXX)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT

stat_of() { # FILE NAME: a figure that libFuzzer printed at its end
    sed -n "s/^stat::$2: *\([0-9]*\).*/\1/p" "$1" | tail -n 1
}

# Fuzzes for the whole time: after a finding it starts again.
run_target() {
    local target=$1 started=$SECONDS dictionary=$TMPDIR/dict log=$TMPDIR/log left executions=0 coverage=0 found=0 cpu=0 TIMEFORMAT='%U %S'
    local inputs=("$corpus/$target" "$tree/tests/fuzz/corpus/$target")
    mkdir -p "$corpus/$target"
    [ ! -d "$tree/tests/fuzz/regression/$target" ] || inputs+=("$tree/tests/fuzz/regression/$target")
    cat "$tree/tests/fuzz/dict/$target.dict" "$tree/tests/fuzz/dict/json.dict" >"$dictionary"
    while left=$((seconds - (SECONDS - started))) && [ "$left" -gt 0 ]; do
        local status=0
        { time "$tree/build-fuzz/tests/fuzz_$target" -max_total_time="$left" -timeout=10 -rss_limit_mb=1024 -malloc_limit_mb=256 \
            -dict="$dictionary" -artifact_prefix="$findings/$target-" -print_final_stats=1 -reload=0 "${inputs[@]}" >"$log" 2>&1 || status=$?; } 2>"$TMPDIR/time"
        cpu=$(awk -v before="$cpu" '{ before += $1 + $2 } END { printf "%.0f", before }' "$TMPDIR/time")
        local units=$(stat_of "$log" number_of_executed_units)
        executions=$((executions + ${units:-0}))
        coverage=$(sed -n 's/^#.* cov: \([0-9]*\).*/\1/p' "$log" | tail -n 1)
        if [ "$status" -ne 0 ]; then
            found=$((found + 1))
            mkdir -p "$findings"
            cp "$log" "$findings/$target-$(date +%H%M%S)-$found.log"
            grep -m 1 -E '^(SUMMARY|==[0-9]*== ?ERROR|fuzz:)' "$log" >&2 || tail -n 5 "$log" >&2
            [ "$found" -lt 20 ] || break
        fi
    done
    local spent=$((SECONDS - started))
    printf '%-18s %10d %8d %8d %10s %8s\n' "$target" "$executions" "$spent" "$cpu" "$coverage" "$found"
    printf '%s\t%s\t%d\t%d\t%s\t%s\t%d\n' "$(date -Is)" "$target" "$executions" "$spent" "$coverage" "$found" "$cpu" >>"$corpus/runs.tsv"
    [ "$found" -eq 0 ]
}

mkdir -p "$findings"
printf '%-18s %10s %8s %8s %10s %8s\n' target executions seconds cpu coverage findings
failed=0
for target in "${targets[@]}"; do
    run_target "$target" || failed=1
done
rmdir "$findings" 2>/dev/null || echo "inputs that broke a reader: $findings"
exit $failed
