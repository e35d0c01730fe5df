#!/bin/sh
# A sentence encoder from end to end: a tiny one learns made-up pairs by an adapter, resumes with the same bits, finds documents better than
# before, is merged into a whole model that gives the same vectors, and says what is wrong with bad input.
#
#     retrieval.sh PROGRAM REFERENCE_DIRECTORY TEMPORARY_DIRECTORY
set -u
program=$1
reference=$2
work=$3/retrieval.$$
mkdir -p "$work" || exit 1
case $program in /*) ;; *) program=$(pwd)/$program ;; esac
reference=$(cd "$reference" && pwd)
cd "$work" || exit 1
failures=0
fail() {
    failures=$((failures + 1))
    echo "FAIL: $*"
}
expect() { # NAME ARGUMENTS...: it succeeds; what it says is in NAME.out and NAME.err
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
    [ "$(wc -l <bad.err)" = 1 ] || fail "cambium $*: expected one line: $(cat bad.err)"
    grep -qF -e "$text" bad.err || fail "cambium $*: expected \"$text\" in: $(cat bad.err)"
    [ -e never ] && fail "cambium $*: left $(ls never)" && rm -rf never
}
field() { # FILE FIELD: that number of a line of JSON
    sed -n "s/.*\"$2\": *\([-0-9.e+]*\).*/\1/p" "$1"
}
over() { # A B: A is over B
    awk -v a="$1" -v b="$2" 'BEGIN { exit !(a != "" && b != "" && a + 0 > b + 0) }'
}

# ---- made-up texts: every thing has a name in questions and another one in documents ----

mkdir -p data/qrels
awk 'BEGIN {
    split("wing lift heat plate body air shock speed", asked); split("the a of thin flow layer wave rise", found)
    print "query-id\tcorpus-id\tscore" > "data/qrels/test.tsv"
    for (i = 1; i <= 8; i++)
        for (k = 1; k <= 4; k++) {
            extra = asked[(i + k) % 8 + 1]
            printf "{\"query\": \"what is the %s %s ?\", \"positive\": \"%s %s at %s\"}\n", asked[i], extra, found[i], found[i], extra > "pairs.jsonl"
        }
    for (i = 1; i <= 8; i++) {
        printf "{\"_id\": \"d%d\", \"title\": \"%s\", \"text\": \"%s at pressure\"}\n", i, found[i], found[i] > "data/corpus.jsonl"
        printf "{\"_id\": \"q%d\", \"text\": \"how is the %s ?\"}\n", i, asked[i] > "data/queries.jsonl"
        printf "q%d\td%d\t1\n", i, i > "data/qrels/test.tsv"
    }
}'
cp -r "$reference/sentence_encoders/model" model
chmod -R u+w model
printf '[{"path": "", "type": "sentence_transformers.models.Transformer"}, {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
 {"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}]' >model/modules.json
mkdir model/1_Pooling
printf '{"word_embedding_dimension": 16, "pooling_mode_mean_tokens": true}' >model/1_Pooling/config.json
printf '{"prompts": {"query": "query : "}}' >model/config_sentence_transformers.json

# ---- training ----

train="train model --task retrieval --data pairs.jsonl --validation-split 0.2 --target-modules all-linear --rank 8 --batch-size 8 --mini-batch-size 6 --learning-rate 1e-2 --dtype f32 --seed 3"
expect trained $train --output out --steps 60 --eval-steps 20 --json
for name in ndcg_at_10 mrr_at_10 recall_at_10; do
    [ -n "$(field trained.out validation_$name)" ] || fail "train: no validation_$name in $(tail -1 trained.out)"
done
for file in adapter_config.json adapter_model.safetensors modules.json 1_Pooling/config.json config_sentence_transformers.json tokenizer.json; do
    [ -s "out/$file" ] || fail "train: out/$file is missing"
done
grep -q '"task_type": "FEATURE_EXTRACTION"' out/adapter_config.json || fail "train: task_type: $(grep task_type out/adapter_config.json)"
expect planned $train --output out2 --steps 60 --eval-steps 20 --dry-run
[ -e out2 ] && fail "a dry run left $(ls out2)"
timeout -s INT 0.6 "$program" $train --output out2 --steps 60 --eval-steps 20 --save-steps 10 >/dev/null 2>&1
expect resumed $train --output out2 --steps 60 --eval-steps 20 --save-steps 10 --resume
cmp -s out/adapter_model.safetensors out2/adapter_model.safetensors || fail "a run that was interrupted ends with other bits"

# ---- measuring ----

expect before eval model --task retrieval --data data --json
expect after eval model --adapter out --task retrieval --corpus data/corpus.jsonl --queries data/queries.jsonl --qrels data/qrels/test.tsv --json
over "$(field after.out mrr_at_10)" "$(field before.out mrr_at_10)" ||
    fail "the adapter does not help: mrr_at_10 $(field before.out mrr_at_10) before, $(field after.out mrr_at_10) after"
over "$(field after.out mrr_at_10)" 0.45 || fail "mrr_at_10 is $(field after.out mrr_at_10), expected over 0.45 (by chance 0.34)"
expect pairs eval model --adapter out --task retrieval --data pairs.jsonl --json
over "$(field pairs.out ndcg_at_10)" 0.6 || fail "eval of pairs: ndcg_at_10 is $(field pairs.out ndcg_at_10)"
gzip -k data/corpus.jsonl && mv data/corpus.jsonl plain
expect packed eval model --adapter out --task retrieval --data data --json
[ "$(field packed.out mrr_at_10)" = "$(field after.out mrr_at_10)" ] || fail "eval: a packed corpus gives another result"

# ---- vectors, and a whole model ----

expect embedded embed model --adapter out --data plain --columns text=text
[ "$(wc -l <embedded.out)" = 8 ] || fail "embed: $(wc -l <embedded.out) lines, expected 8"
head -1 embedded.out | grep -q '^{"index":0,"embedding":\[[-0-9.e,]*\]}$' || fail "embed: $(head -1 embedded.out)"
expect merged merge model --adapter out --output whole
[ -s whole/1_Pooling/config.json ] || fail "merge: the modules are missing"
expect whole eval whole --task retrieval --corpus plain --queries data/queries.jsonl --qrels data/qrels/test.tsv --json
[ "$(field whole.out mrr_at_10)" = "$(field after.out mrr_at_10)" ] || fail "merge: mrr_at_10 $(field whole.out mrr_at_10)"
expect array embed whole --data plain --output vectors.npy --json
[ "$(wc -c <vectors.npy)" = $((128 + 8 * 16 * 4)) ] || fail "embed: vectors.npy has $(wc -c <vectors.npy) bytes"
"$program" embed whole --data - --batch-size 1 <plain >one.out 2>one.err || fail "embed of standard input: $(cat one.err)"

# ---- how alike sentences are ----

awk 'BEGIN { for (i = 0; i < 12; i++) printf "{\"sentence1\": \"%s\", \"sentence2\": \"%s\", \"score\": %s}\n", i % 2 ? "thin wing" : "heat flow", i % 3 ? "wing" : "flow at plate", (i % 2 && i % 3) || (!(i % 2) && !(i % 3)) ? 1 : 0 }' >scored.jsonl
for loss in cosent mse; do
    expect alike train model --task similarity --similarity-loss $loss --data scored.jsonl --output alike-$loss --steps 30 --batch-size 6 --learning-rate 1e-2 --target-modules all-linear
    expect scored eval model --adapter alike-$loss --task similarity --data scored.jsonl --json
    over "$(field scored.out spearman)" 0.8 || fail "similarity ($loss): spearman is $(field scored.out spearman)"
done

# ---- cross-encoders ----

cp -r "$reference/cross_encoder/model" reader
chmod -R u+w reader
mkdir -p read/qrels
awk 'BEGIN { # documents of speed are the relevant ones, and every query has one
    split("wing lift plate body air shock layer wave", asked)
    print "query-id\tcorpus-id\tscore" > "read/qrels/test.tsv"
    for (i = 1; i <= 8; i++) {
        printf "{\"_id\": \"q%d\", \"text\": \"how is the %s ?\"}\n", i, asked[i] > "read/queries.jsonl"
        printf "{\"_id\": \"d%d\", \"text\": \"%s at %s\"}\n", i, asked[i], i == 3 ? "speed" : "heat" > "read/corpus.jsonl"
        printf "q%d\td3\t1\n", i > "read/qrels/test.tsv"
        for (k = 1; k <= 8; k++)
            printf "q%d\td%d\n", i, k > "all.tsv"
        for (k = 0; k < 4; k++)
            printf "{\"query\": \"what is the %s ?\", \"positive\": \"%s of speed\", \"negatives\": [\"%s of heat\", \"%s in heat\"]}\n", asked[i], asked[(i + k) % 8 + 1], asked[(i + 3) % 8 + 1], asked[(i + k) % 8 + 1] > "groups.jsonl"
    }
}'
rank="train reader --task ranking --data groups.jsonl --validation-split 0.2 --target-modules all-linear --rank 8 --batch-size 8 --learning-rate 1e-2 --dtype f32 --seed 3"
ranked="--corpus read/corpus.jsonl --queries read/queries.jsonl --qrels read/qrels/test.tsv"
for loss in listwise bce; do
    expect ranks $rank --ranking-loss $loss --output ranks-$loss --steps 60 --eval-steps 20 --json
    for name in ndcg_at_10 mrr_at_10 map_at_100; do
        [ -n "$(field ranks.out validation_$name)" ] || fail "train: no validation_$name in $(tail -1 ranks.out)"
    done
    grep -q '"task": "ranking"' ranks-$loss/labels.json || fail "train: $(cat ranks-$loss/labels.json)"
    grep -q '"task_type": "SEQ_CLS"' ranks-$loss/adapter_config.json || fail "train: $(grep task_type ranks-$loss/adapter_config.json)"
    expect before eval reader --task ranking $ranked --candidates all.tsv --json
    expect after eval reader --adapter ranks-$loss $ranked --candidates all.tsv --predictions ranked.run --json
    over "$(field after.out mrr_at_10)" "$(field before.out mrr_at_10)" ||
        fail "ranking ($loss): mrr_at_10 $(field before.out mrr_at_10) before, $(field after.out mrr_at_10) after"
    over "$(field after.out mrr_at_10)" 0.9 || fail "ranking ($loss): mrr_at_10 is $(field after.out mrr_at_10), expected over 0.9 (by chance 0.34)"
    [ "$(field before.out first_stage_mrr_at_10)" = "$(field after.out first_stage_mrr_at_10)" ] || fail "ranking: the first stage changed"
    [ "$(wc -l <ranked.run)" = 64 ] || fail "ranking: $(wc -l <ranked.run) lines in the run, expected 64"
    expect again eval reader --task ranking $ranked --candidates ranked.run --top-k 0 --json
    [ "$(field again.out first_stage_mrr_at_10)" = "$(field after.out mrr_at_10)" ] || fail "ranking: the run reads as $(cat again.out)"
done
expect planned $rank --output ranks2 --steps 60 --dry-run
[ -e ranks2 ] && fail "a dry run left $(ls ranks2)"
expect goes_on train reader --adapter ranks-bce --data groups.jsonl --random-negatives 2 --output ranks3 --steps 2
expect merged merge reader --adapter ranks-bce --output reads
expect merged eval reads --task ranking $ranked --candidates all.tsv --json
[ "$(field merged.out mrr_at_10)" = "$(field after.out mrr_at_10)" ] || fail "merge: mrr_at_10 $(field merged.out mrr_at_10)"
bad 2 "found relevant documents only" train reader --task ranking --data pairs.jsonl --output never
bad 2 "--labels: has no meaning for --task ranking" train reader --task ranking --data pairs.jsonl --labels a --output never
bad 2 "--ranking-loss: is an option of --task ranking" train model --task retrieval --data pairs.jsonl --ranking-loss bce --output never
bad 2 "--candidates: is an option of --task ranking" eval model --task retrieval --data data --candidates all.tsv
bad 2 "--candidates is of a corpus" eval reader --task ranking --data pairs.jsonl --candidates all.tsv
bad 1 "has no head that gives one number" eval model --task ranking --data pairs.jsonl

# ---- what cannot be done ----

bad 2 "--batch-size: found 1" train model --task retrieval --data pairs.jsonl --output never --batch-size 1
bad 2 "--packing: has no meaning" train model --task retrieval --data pairs.jsonl --output never --packing
bad 2 "--similarity-scale: is an option of" train model --data pairs.jsonl --output never --similarity-scale 3
bad 1 "pairs.jsonl:1: score: found no number" train model --task similarity --data pairs.jsonl --columns anchor=query --output never
bad 2 "--corpus: is an option of --task retrieval" eval model --corpus data/corpus.jsonl --data pairs.jsonl
bad 2 "expected --corpus, --queries and --qrels" eval model --task retrieval
bad 2 "--max-seq-length: found 400 tokens" embed model --data pairs.jsonl --max-seq-length 400
bad 1 "has no prompt \"other\"" embed model --data plain --prompt-name other
bad 2 "--data is needed" eval model
printf '{"_id": "q9", "text": "air"}\n' >other.jsonl
bad 1 "which is not among the queries" eval model --task retrieval --corpus plain --queries other.jsonl --qrels data/qrels/test.tsv

cd / && rm -rf "$work"
[ $failures = 0 ] && echo "retrieval: all passed"
exit $failures
