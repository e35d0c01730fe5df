#!/bin/sh
# Training in several processes: the loss curve of one process, errors that end all of them, a killed process and what resumes.
#
#     run.sh PROGRAM REFERENCE_DIRECTORY TEMPORARY_DIRECTORY
#
# Exit status 77 (skipped) without mpirun, or when the program was built without MPI.
set -u
program=$1 reference=$2 scratch=$3 name=parallel
. "$(dirname "$0")/setting.sh"

# ---- one process and several ----
# shellcheck disable=SC2086
"$program" train model $options --output one --steps 30 >one.out 2>&1 || fail "one process: $(cat one.out)"
train 2 two --steps 30
status=$?
grep -q "knows no MPI" two.err && exit 77
[ $status = 0 ] || fail "two processes: $(cat two.err)"
train 3 three --steps 30 || fail "three processes: $(cat three.err)"
[ "$(wc -l <one/log.jsonl)" = 30 ] || fail "one: expected 30 lines in the log"
same_curve "two processes" one two
same_curve "three processes" one three
train 2 again --steps 30 || fail "two processes again: $(cat again.err)"
cmp -s two/adapter_model.safetensors again/adapter_model.safetensors || fail "two runs of two processes differ"
[ "$(grep -c "^peak memory .*; predicted were [1-9]" two.out)" = 1 ] || fail "expected one summary: $(cat two.out)"

# ---- a kind that adds to the loss and changes parameters between steps ----
plain=$options
options=$(echo "$options" | sed 's/--kind lora --rank 4/--kind adalora --init-r 4 --target-r 2 --tinit 3 --tfinal 5/')
# shellcheck disable=SC2086
"$program" train model $options --output budget --steps 20 >budget.out 2>&1 || fail "adalora, one process: $(cat budget.out)"
train 3 budgets --steps 20 || fail "adalora, three processes: $(cat budgets.err)"
same_curve "adalora, three processes" budget budgets
cmp -s budget/adapter_config.json budgets/adapter_config.json || fail "adalora: other ranks are left in three processes than in one"
options=$plain

# ---- dry runs: one process tries the output, and says what it found ----
for turn in 1 2 3; do
    train 3 dry --steps 30 --dry-run --output new/directory || fail "a dry run: $(cat dry.err)"
    [ "$(grep -c "^peak memory" dry.out)" = 1 ] || fail "expected one plan: $(cat dry.out)"
    [ -e new ] && fail "a dry run left $(ls -R new)" && rm -rf new
    [ "$turn" = 3 ] || train 3 dry --steps 1 --output new/directory || fail "the same run: $(cat dry.err)"
    rm -rf new
done

# ---- what ends all of them with one message ----
ends() { # TEXT
    says bad "$1"
    [ -e bad ] && fail "left $(ls -R bad)" && rm -rf bad
}
train 2 bad --data nothing.txt --steps 4 && fail "a missing file was no error"
ends "nothing.txt"
train 8 bad --steps 4 && fail "more processes than rows were no error"
ends "found 6 rows for 8 processes"
apart 1 'set -- "$@" --learning-rate 1e-4'
train 2 bad --steps 4 && fail "other options were no error"
ends "found learning rate 0.0001; expected learning rate 0.005"
cp text.txt other.txt
echo "More." >>other.txt
apart 1 'set -- "$@" --data other.txt'
train 2 bad --steps 4 && fail "other data were no error"
ends "expected"
together

# ---- one process is killed ----
# shellcheck disable=SC2086
"$program" train model $options --output whole --steps 300 >whole.out 2>&1 || fail "one process: $(cat whole.out)"
killed() { # RANK
    begin stopped --steps 300
    kill -9 "$(process_of "$1")"
    wait $starter && fail "rank $1 killed: mpirun said that all was well"
    [ -f stopped/adapter_model.safetensors ] && [ "$(wc -l <stopped/log.jsonl)" = 300 ] && fail "rank $1 killed: too late for a test"
    resumes "rank $1 killed" stopped --steps 300
}
killed 1
killed 0

leave
