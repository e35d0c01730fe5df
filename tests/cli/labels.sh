#!/bin/sh
# What labels must not do in silence: change under a run that is resumed or an adapter that is merged, be other labels than they are called,
# be learned by a head that nobody keeps, or be replaced by what is said of them.
#
#     labels.sh PROGRAM REFERENCE_DIRECTORY TEMPORARY_DIRECTORY
set -u
program=$1
reference=$2
work=$3/labels.$$
mkdir -p "$work" || exit 1
case $program in /*) ;; *) program=$(pwd)/$program ;; esac
reference=$(cd "$reference" && pwd)
cd "$work" || exit 1
failures=0
fail() {
    failures=$((failures + 1))
    echo "FAIL: $*"
}
expect() { # NAME ARGUMENTS...: the program succeeds; what it says is in NAME.out and NAME.err
    check=$1
    shift
    "$program" "$@" >"$check.out" 2>"$check.err" </dev/null || fail "$check: exit status $?: $(cat "$check.err")"
}
bad() { # STATUS TEXT ARGUMENTS...
    wanted=$1
    text=$2
    shift 2
    "$program" "$@" >bad.out 2>bad.err </dev/null
    status=$?
    [ "$status" = "$wanted" ] || fail "cambium $*: exit status $status, expected $wanted: $(cat bad.err)"
    grep -qF -e "$text" bad.err || fail "cambium $*: expected \"$text\" in: $(cat bad.err)"
}

cp -r "$reference/encoders/bert" bert
cp "$reference/tasks/tokenizer.json" bert
common="--steps 2 --sequence-length 12 --dtype f32 --quiet"
new="$common --target-modules query --rank 2"
printf 'text,label\nthe knife,dull\nthe tree,sharp\nthe branch,dull\n' >two.csv
printf 'text,label\nthe knife,bright\nthe tree,dark\nthe branch,dark\n' >others.csv
printf 'the knife and the tree\nthe branch and the stem\n' >words.txt
# shellcheck disable=SC2086
{
    # ---- adapters without the head ----
    expect words train bert --data words.txt --lines --output words $new
    bad 1 'words trains no' train bert --adapter words --task sequence-classification --data two.csv --output never $common
    [ -e never ] && fail "left never"

    # ---- a run goes on as what it was ----
    expect labelled train bert --task sequence-classification --data two.csv --output labelled $new
    bad 1 'task multi-label' train bert --task multi-label --data two.csv --output labelled --resume $new
    bad 1 'labels #' train bert --task sequence-classification --labels sharp,dull --data two.csv --output labelled --resume $new
    bad 1 'data #' train bert --task sequence-classification --pad-to-multiple-of 4 --data two.csv --output labelled --resume $new
    expect same train bert --task sequence-classification --data two.csv --output labelled --resume $new

    # ---- labels of another run do not stay ----
    cp -r labelled again
    expect again train bert --data words.txt --lines --output again --overwrite $new
    [ -e again/labels.json ] && fail "an adapter for words has the labels of an earlier one"

    # ---- merged adapters are for what they were for ----
    expect other train bert --task sequence-classification --data others.csv --output other $new
    bad 1 'other: labels: found bright, dark, expected dull, sharp as in labelled' merge --into adapter --adapter labelled --adapter other --output never
    [ -e never ] && fail "left never"
    expect mixed merge --into adapter --adapter words --adapter labelled --output mixed
    cmp -s mixed/labels.json labelled/labels.json || fail "a merged adapter has other labels: $(cat mixed/labels.json)"
    grep -q '"task_type": *"SEQ_CLS"' mixed/adapter_config.json || fail "a merged adapter has another task"
    expect tried merge bert --into adapter --adapter words --adapter labelled --output tried
    expect eval_mixed eval bert --adapter mixed --data two.csv --json
    grep -q '"task": *"sequence-classification"' eval_mixed.out || fail "$(cat eval_mixed.out)"

    # ---- a head over adapters of languages, which stay as they are, and others in their place (MAD-X) ----
    language="train bert --data words.txt --lines $common --kind bottleneck --inv-adapter nice --learning-rate 0.01"
    expect first $language --output first --seed 1
    expect second $language --output second --seed 2
    topics="--task sequence-classification --data two.csv $common --kind bottleneck --learning-rate 0.01"
    expect stacked train bert --adapter first --mix stack $topics --output stacked
    cmp -s first/adapter_model.safetensors stacked/first/adapter_model.safetensors || fail "what is stacked on was trained"
    expect over_first eval bert --adapter stacked --data two.csv --json
    expect over_named eval bert --adapter first --adapter stacked/default --data two.csv --json
    expect over_second eval bert --adapter second --adapter stacked/default --data two.csv --predictions said.jsonl --json
    loss() { sed -n 's/.*"loss": *\([^,]*\).*/\1/p' "$1.out"; }
    [ "$(loss over_first)" = "$(loss over_named)" ] || fail "a stack is $(loss over_first), its parts are $(loss over_named)"
    [ "$(loss over_first)" = "$(loss over_second)" ] && fail "another language's adapter changes nothing"
    grep -q '"dull"' said.jsonl || fail "a part of a stack has no names for its labels: $(cat said.jsonl)"
    expect stacked_on train bert --adapter first --mix stack $topics --output stacked --resume
    bad 2 'task image-classification is not of labels' train bert --adapter first --mix stack --task image-classification --data two.csv --output never $common
    bad 2 'mix fusion is of adapters for words' train bert --adapter first --adapter second --mix fusion --task sequence-classification \
        --data two.csv --output never $common
    [ -e never ] && fail "left never"

    # ---- what is read is not written ----
    cp two.csv kept.csv
    bad 1 'kept.csv: is kept.csv, which is read' eval bert --adapter labelled --data kept.csv --predictions kept.csv
    ln two.csv linked.csv
    bad 1 'linked.csv: is two.csv, which is read' eval bert --adapter labelled --data two.csv --predictions linked.csv
    mkdir held && cp two.csv held
    bad 1 'held/two.csv: is there already, in the directory of data held' eval bert --adapter labelled --data held --predictions held/two.csv
    bad 1 'words.txt: is words.txt, which is read' embed bert --data words.txt --output words.txt
    cmp -s two.csv kept.csv || fail "data were written over"
    printf 'a\000b\n' >zero.txt
    bad 1 'zero.txt:1: found a NUL character' embed bert --data zero.txt

    # ---- an adapter of PEFT has no names for its labels: they are the base's ----
    expect named pretrain --model bert --task sequence-classification --labels maybe,no,never,yes --data "$reference/tasks/pairs.jsonl" --output named $common
    expect peft eval named --adapter "$reference/tasks/adapter" --data "$reference/tasks/pairs.jsonl" --predictions peft.said --json
    grep -q '"scores": {"maybe": ' peft.said || fail "labels of the base: $(head -1 peft.said)"
    expect peft_on train named --adapter "$reference/tasks/adapter" --data "$reference/tasks/pairs.jsonl" --output peft_on $common
    grep -q '"3": *"yes"' peft_on/labels.json || fail "labels of the base: $(cat peft_on/labels.json)"
    sed 's/single_label_classification/multi_label_classification/' named/config.json >config.json && cp config.json named
    expect peft_sets eval named --adapter "$reference/tasks/adapter" --data "$reference/tasks/pairs.jsonl" --json
    grep -q '"task": *"multi-label"' peft_sets.out || fail "$(cat peft_sets.out)"

    # ---- whole models ----
    expect both pretrain --model bert --adapter labelled --data two.csv --output both $common
    grep -q '"0": *"dull"' both/config.json || fail "a model trained with an adapter of labels: $(cat both/config.json)"
    cmp -s both/*/labels.json labelled/labels.json || fail "the adapter beside a whole model has no labels"
    expect goes_on train both --adapter other --data others.csv --output goes_on --steps 2 --sequence-length 12 --dtype f32
    grep -q 'warning' goes_on.err && fail "an adapter that brings its head: $(cat goes_on.err)"
    grep -q '"0": *"bright"' goes_on/labels.json || fail "an adapter that goes on has other labels: $(cat goes_on/labels.json)"
    expect renamed train both --task sequence-classification --labels bright,dark --data others.csv --output renamed --steps 2 --sequence-length 12 --dtype f32
    grep -q 'its head becomes a new one, because bright is not among its labels' renamed.err || fail "other labels: $(cat renamed.err)"
    bad 1 '--distill-model is for models of words' pretrain --model both --distill-model bert --data two.csv --output never $common
    [ -e never ] && fail "left never"

    # ---- options without effect, kinds without a head, tags without entities ----
    bad 2 'packing: is for words' train bert --task sequence-classification --data two.csv --output never --packing $new
    bad 2 'lines: is for words' eval bert --adapter labelled --data two.csv --lines
    bad 1 'virtual tokens only, and no place for the head of sequence-classification' train bert --kind prompt_tuning \
        --task sequence-classification --data two.csv --output never $common
    printf 'the 0\nknife 1\n\ntree 1\n' >numbers.conll
    expect numbers train bert --task token-classification --data numbers.conll --validation-data numbers.conll --output numbers ${new% --quiet*} --target-modules query --rank 2
    grep -q 'labels: found numbers only' numbers.err || fail "no warning: $(cat numbers.err)"
    grep -q '"eval_accuracy"' numbers/log.jsonl || fail "no accuracy: $(cat numbers/log.jsonl)"
    grep -q '"eval_f1"' numbers/log.jsonl && fail "entities of numbers"
}

cd / && [ $failures = 0 ] && rm -rf "$work"
[ $failures = 0 ]
