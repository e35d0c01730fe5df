#!/bin/sh
# The program from end to end: the commands of the manual on small models, what bad input gets, interruption and resume.
#
#     run.sh PROGRAM REFERENCE_DIRECTORY TEMPORARY_DIRECTORY
#
# REFERENCE_DIRECTORY is tests/reference. Its models know 96 tokens and come without a tokenizer, so the script writes one: every
# printable ASCII character and the line feed is a token. Each check prints a line only when it fails; the exit status says whether
# all passed.
set -u
program=$1
reference=$2
work=$3/cli.$$
mkdir -p "$work" || exit 1
case $program in /*) ;; *) program=$(pwd)/$program ;; esac
case $reference in /*) ;; *) reference=$(cd "$reference" && pwd) ;; esac
cd "$work" || exit 1
checks=0
failures=0

# ---- what checks are made of ----------------------------------------------------------------------------------------------

fail() {
    failures=$((failures + 1))
    echo "FAIL: $*"
}

# expect NAME COMMAND...: the command succeeds; its output is kept in NAME.out, and standard error must stay empty.
expect() {
    check=$1
    shift
    checks=$((checks + 1))
    "$@" >"$check.out" 2>"$check.err" || fail "$check: exit status $?: $(cat "$check.err")"
    [ -s "$check.err" ] && fail "$check: found on standard error: $(cat "$check.err")"
}

# bad STATUS TEXT ARGUMENTS...: the program ends with STATUS, says exactly one line on standard error that contains TEXT, nothing on
# standard output, and leaves no directory `never`.
bad() {
    wanted=$1
    text=$2
    shift 2
    checks=$((checks + 1))
    "$program" "$@" >bad.out 2>bad.all </dev/null
    status=$?
    # AddressSanitizer says so too when memory is refused
    grep -v '^==[0-9]*==WARNING: AddressSanitizer failed to allocate' bad.all >bad.err
    [ "$status" = "$wanted" ] || fail "cambium $*: exit status $status, expected $wanted: $(cat bad.err)"
    [ "$(wc -l <bad.err)" = 1 ] || fail "cambium $*: expected one line on standard error: $(cat bad.err)"
    grep -qF -e "$text" bad.err || fail "cambium $*: expected \"$text\" in: $(cat bad.err)"
    [ -s bad.out ] && fail "cambium $*: found on standard output: $(head -c 200 bad.out)"
    [ -e never ] && fail "cambium $*: left $(ls -R never | tr '\n' ' ')" && rm -rf never
    return 0
}

# contains FILE TEXT
contains() {
    checks=$((checks + 1))
    grep -qF -e "$2" "$1" || fail "$1: expected \"$2\" in: $(head -c 600 "$1")"
}

same_file() {
    checks=$((checks + 1))
    cmp -s "$1" "$2" || fail "$1 and $2 differ"
}

# json FILE: every line is a JSON object, where a reader is at hand.
json() {
    checks=$((checks + 1))
    if command -v python3 >/dev/null; then
        python3 -c 'import json, sys
for line in open(sys.argv[1]): assert type(json.loads(line)) is dict' "$1" || fail "$1: not JSON: $(head -c 300 "$1")"
    else
        grep -qv '^{.*}$' "$1" && fail "$1: a line is no object"
    fi
}

# field FILE NAME: the number or text of a field of the last line.
field() {
    tail -n 1 "$1" | sed -n "s/.*\"$2\":\"\{0,1\}\([^\",}]*\).*/\1/p"
}

# below A B: A < B for decimal numbers.
below() {
    awk -v a="$1" -v b="$2" 'BEGIN { exit !(a + 0 < b + 0) }'
}

# ---- inputs ----------------------------------------------------------------------------------------------------------------

character_tokenizer() {
    awk 'BEGIN {
        printf "{\"version\": \"1.0\", \"truncation\": null, \"padding\": null, \"added_tokens\": [], \"normalizer\": null,"
        printf " \"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": true},"
        printf " \"post_processor\": null, \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, \"use_regex\": true},"
        printf " \"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\": null, \"continuing_subword_prefix\": null,"
        printf " \"end_of_word_suffix\": null, \"fuse_unk\": false, \"byte_fallback\": false, \"ignore_merges\": false, \"vocab\": {"
        for (c = 33; c < 127; c++) {
            text = sprintf("%c", c)
            if (text == "\"" || text == "\\") text = "\\" text
            printf "\"%s\": %d, ", text, c - 33
        }
        printf "\"\\u0120\": 94, \"\\u010a\": 95}, \"merges\": []}}\n"
    }'
}

story() {
    awk -v n="$1" 'BEGIN {
        split("gardener orchard branch stem root knife spring rain apple pear", noun, " ")
        split("cuts joins waters watches binds grows", verb, " ")
        for (i = 0; i < n; i++)
            printf "The %s %s the %s, and the %s %s it again.\n", noun[i * 7 % 10 + 1], verb[i * 5 % 6 + 1], noun[i * 3 % 10 + 1], noun[i % 10 + 1], verb[i % 6 + 1]
    }'
}

# model NAME DIRECTORY: a reference model with the tokenizer.
model() {
    mkdir -p "$2"
    cp "$reference/models/$1/config.json" "$reference/models/$1"/model*.safetensors "$2"
    [ -f "$reference/models/$1/model.safetensors.index.json" ] && cp "$reference/models/$1/model.safetensors.index.json" "$2"
    cp tokenizer.json "$2"
    chmod -R u+w "$2"
}

character_tokenizer >tokenizer.json
story 200 >text.txt
story 40 >held-out.txt
for name in llama2 llama_sharded gpt2 qwen2 qwen3 smollm mistral; do
    model "$name" "$name"
done
small="--batch-size 2 --sequence-length 24 --learning-rate 1e-2 --seed 1 --threads 1"

# ---- help ------------------------------------------------------------------------------------------------------------------

expect version "$program" --version
contains version.out "cambium "
expect overview "$program" help
for command in train pretrain generate embed eval merge extract convert "tokenizer train" "tokenizer encode" "tokenizer decode" "tokenizer convert" tie "sentinel convert" "sentinel encode" inspect methods repro data "zoo list" "zoo build" "bench gemm" "bench lora" "bench training" "bench generate" "bench packing"; do
    contains overview.out "  $command "
    # shellcheck disable=SC2086
    expect help_page "$program" $command --help
    contains help_page.out "Usage: cambium $command"
    contains help_page.out "Examples"
    # shellcheck disable=SC2086
    expect help_same "$program" help $command
    same_file help_page.out help_same.out
    # an option must not stand in two tables of one command
    checks=$((checks + 1))
    twice=$(sed -n 's/^  \(--[^ ]*\).*/\1/p' help_page.out | sort | uniq -d | tr '\n' ' ')
    case $twice in *--*) fail "$command --help: listed twice: $twice" ;; esac
done
expect help_loha "$program" train --kind loha --help
contains help_loha.out "Adapter kind loha"
contains help_loha.out "--module-dropout X"
bad 1 "adapter kind: found 'lha', expected one like loha" train --kind lha --help
expect manual "$program" help --man
contains manual.out ".SH NAME"
if command -v groff >/dev/null; then
    expect groff groff -man -Tascii -ww -z manual.out
fi
for shell in bash zsh fish; do
    expect "completion_$shell" "$program" completion "$shell"
    command -v "$shell" >/dev/null && expect "syntax_$shell" "$shell" -n "completion_$shell.out"
done
if command -v bash >/dev/null; then
    cat >complete.sh <<'END'
source completion_bash.out
try() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _cambium; echo "${COMPREPLY[*]}"; }
try cambium tok
try cambium tokenizer e
try cambium train m --target-m
try cambium train m --lr-scheduler-type co
try cambium eval m --task ""
END
    expect complete bash complete.sh
    tasks=$("$program" eval --help | tr '\n' ' ' | sed 's/  */ /g; s/.*\[\(auto, perplexity[^;]*\);.*/\1/; s/,//g')
    case $tasks in *"choice sequence-classification "*"seq2seq"*) ;; *) fail "expected the tasks in the help of eval: $tasks" ;; esac
    printf 'tokenizer\nencode\n--target-modules\nconstant cosine\n%s\n' "$tasks" >complete.expected
    same_file complete.out complete.expected
fi
kinds=$reference/../../docs/adapters.md
for kind in $("$program" train --help | sed -n '/^Adapter kinds/,/^$/s/^  \([a-z0-9_]*\) .*/\1/p'); do
    [ ! -f "$kinds" ] || contains "$kinds" "| \`$kind\` |"
done
documented=$reference/../../docs/commands.md
if [ -f "$documented" ]; then
    expect markdown "$program" help --markdown
    same_file markdown.out "$documented"
fi
# An option of a kind that is one of the command, too, could not be given.
"$program" help --markdown | awk '/^## /{on = $3 == "train"; kind = ""} on && /^### Adapter kind/{kind = $4}
    on && match($0, /^\| `--[^ `]*/){name = substr($0, 4, RLENGTH - 3); sub(/\[no-\]/, "", name)
        if (kind == "") own[name] = 1; else if (name in own) print kind, name}' >twice.out
[ ! -s twice.out ] || fail "train: options of kinds that are the command's, too: $(cat twice.out)"

# ---- the main job ------------------------------------------------------------------------------------------------------------

expect train "$program" train llama2 --data text.txt --output adapter --rank 8 --alpha 16 --target-modules all-linear --steps 30 \
    --batch-size 4 --sequence-length 32 --learning-rate 1e-2 --seed 1
contains train.out "parameters trained"
contains train.out "peak memory"
contains train.out "adapter/adapter_model.safetensors"
for file in adapter_config.json adapter_model.safetensors checkpoint.safetensors log.jsonl; do
    [ -s "adapter/$file" ] || fail "train: adapter/$file is missing"
done
expect train_json "$program" train llama2 --data=text.txt --output=adapter_json --rank=8 --alpha=16 --target_modules=all-linear \
    --steps=30 --batch_size=4 --sequence_length=32 --learning_rate=1e-2 --seed=1 --json --dtype f32 --validation-data held-out.txt
json train_json.out
contains train_json.out '"event":"result"'
below "$(field train_json.out validation_perplexity)" "$(field train_json.out validation_perplexity_before)" ||
    fail "train: validation perplexity did not fall"
[ "$(field train_json.out steps)" = 30 ] || fail "train --json: steps is $(field train_json.out steps)"

expect before "$program" eval llama2 --task perplexity --data held-out.txt --json --sequence-length 32
expect after "$program" eval llama2 --adapter adapter_json --task perplexity --data held-out.txt --json --sequence-length 32
json after.out
below "$(field after.out perplexity)" "$(field before.out perplexity)" || fail "eval: the adapter does not help"
expect off "$program" eval llama2 --adapter adapter_json=0 --task perplexity --data held-out.txt --json --sequence-length 32
[ "$(field off.out loss)" = "$(field before.out loss)" ] || fail "eval: an adapter of weight 0 changes the loss"

expect generate "$program" generate llama2 --adapter adapter_json --prompt "The gardener" --max-new-tokens 24 --temperature 0
expect generate_json "$program" generate llama2 --adapter adapter_json --prompt "The gardener" --max-new-tokens 24 --temperature 0 --json
json generate_json.out
contains generate_json.out '"finish_reason":"'
printf 'The gardener' >prompt.txt
"$program" generate llama2 --adapter adapter_json --prompt - --max-new-tokens 24 <prompt.txt >generate_stdin.out
same_file generate.out generate_stdin.out
# several prompts as one batch, each with adapters of its own: what each gives alone
printf '%s\n' '{"prompt": "The gardener", "adapter": "own"}' '{"prompt": "The"}' '{"prompt": "A tree", "adapter": {"own": 0.5, "adapter_again": 1}}' >prompts.jsonl
cp -r adapter_json adapter_again
expect rows "$program" generate llama2 --adapter own=adapter_json --adapter adapter_again --prompts prompts.jsonl --max-new-tokens 24
expect rows_json "$program" generate llama2 --adapter own=adapter_json --adapter adapter_again --prompts prompts.jsonl --max-new-tokens 24 --json --batch-size 2
json rows_json.out
contains rows_json.out '"prompts":3'
{
    printf '[1] own\n' && cat generate.out && printf '[2] -\n' && "$program" generate llama2 --prompt "The" --max-new-tokens 24
    printf '[3] {"own":0.5,"adapter_again":1}\n' && "$program" generate llama2 --adapter adapter_json=0.5 --adapter adapter_again --prompt "A tree" --max-new-tokens 24
} >rows_alone.out
same_file rows.out rows_alone.out
for batching in static sequence; do
    expect "rows_$batching" "$program" generate llama2 --adapter own=adapter_json --adapter adapter_again --prompts prompts.jsonl --max-new-tokens 24 --batch-size 2 --batching $batching
    same_file rows.out "rows_$batching.out"
done
printf '%s\n' '{"prompt": "The", "max_new_tokens": 3}' '{"prompt": "A"}' >rows.jsonl
bad 1 'batching by depth is for recursive models, found model_type llama' generate llama2 --prompts rows.jsonl --batching depth
bad 1 'exit_round leaves rounds early, and the model has none' generate llama2 --prompt x --exit-round 1
printf '{"prompt": "a", "max_new_tokens": 0}\n' >length.jsonl
bad 1 'length.jsonl:1: max_new_tokens: expected a positive integer' generate llama2 --prompts length.jsonl
bad 1 'prompts.jsonl:1: adapter: found "own", expected one that --adapter names' generate llama2 --adapter adapter_json --prompts prompts.jsonl
bad 2 'expected one of --prompt' generate llama2 --prompt x --prompts prompts.jsonl
bad 1 '--adapter: found "own" twice' generate llama2 --adapter own=adapter_json --adapter own=adapter_again --prompts prompts.jsonl
printf '{"prompt": "a\\u0000b"}\n' >zero.jsonl
bad 1 'zero.jsonl:1: prompt: found a zero byte at offset 1' generate llama2 --prompts zero.jsonl
printf '{"prompt": "a", "adaptor": "own"}\n' >field.jsonl
bad 1 'field.jsonl:1: found a field "adaptor", expected prompt, adapter, task_ids, conditions and max_new_tokens' generate llama2 --prompts field.jsonl
# an adapter of several tasks: the data says which, and so does who generates
printf '%s\n' '{"prompt": "A", "completion": "bbbbbbbb", "job": 0}' '{"prompt": "A", "completion": "cccccccc", "job": 1}' >jobs.jsonl
expect tasks_train "$program" train llama2 --data jobs.jsonl --columns task_ids=job --output skills --kind poly --n-tasks 2 --rank 4 --target-modules all-linear --steps 40 --learning-rate 0.03 --sequence-length 16
expect task_0 "$program" generate llama2 --adapter skills --prompt "A" --max-new-tokens 6
expect task_1 "$program" generate llama2 --adapter skills --prompt "A" --max-new-tokens 6 --task-id 1
cmp -s task_0.out task_1.out && fail "generate: --task-id changes nothing"
printf '%s\n' '{"prompt": "A", "adapter": "skills"}' '{"prompt": "A", "adapter": "skills", "task_ids": 1}' >both_jobs.jsonl
expect task_rows "$program" generate llama2 --adapter skills --prompts both_jobs.jsonl --max-new-tokens 6
{ printf '[1] skills\n' && cat task_0.out && printf '[2] skills\n' && cat task_1.out; } >task_alone.out
same_file task_rows.out task_alone.out
# trained adapters stay as they are, and what composes them is trained: a gate by task, a fusion, a router, an adapter after them
printf '%s\n' '{"prompt": "A", "completion": "bbbbbbbb"}' >b.jsonl
printf '%s\n' '{"prompt": "A", "completion": "cccccccc"}' >c.jsonl
for letter in b c; do
    expect part_$letter "$program" train llama2 --data $letter.jsonl --output part_$letter --rank 4 --target-modules q_proj,down_proj --steps 40 --learning-rate 0.03 --sequence-length 16
done
for mix in gate fusion router stack xlora; do
    expect mix_$mix "$program" train llama2 --adapter part_b --adapter part_c$([ $mix = xlora ] || echo =0.5) --mix $mix --data jobs.jsonl --columns task_ids=job --output mix_$mix --steps 30 --learning-rate 0.1 --sequence-length 16 --eval-steps 0 $([ $mix != gate ] || echo --mix-tasks 2)
    for letter in b c; do
        cmp part_$letter/adapter_model.safetensors mix_$mix/part_$letter/adapter_model.safetensors || fail "train --mix $mix: part_$letter has changed"
    done
    expect mixed_$mix "$program" generate llama2 --adapter mix_$mix --prompt "A" --max-new-tokens 6
    expect mixed_eval_$mix "$program" eval llama2 --adapter mix_$mix --data jobs.jsonl --columns task_ids=job --sequence-length 16 --json
    json mixed_eval_$mix.out
    expect inspect_$mix "$program" inspect mix_$mix --no-tensors
    [ $mix = xlora ] || contains inspect_$mix.out 'part_c: LORA, weight 0.5'
    bad 1 'composition of several adapters' convert mix_$mix --output converted_mix --base llama2 --to gguf-lora
done
expect mixed_task "$program" generate llama2 --adapter mix_gate --prompt "A" --max-new-tokens 6 --task-id 1
contains mixed_gate.out 'bbbbbb'
contains mixed_task.out 'cccccc'
# the same by what is known of a row: numbers of the data, of the command line and of lines of prompts
printf '%s\n' '{"prompt": "A", "completion": "bbbbbbbb", "sign": 1}' '{"prompt": "A", "completion": "cccccccc", "sign": -1}' >signs.jsonl
expect mix_signs "$program" train llama2 --adapter part_b --adapter part_c --mix gate --mix-conditions 1 --data signs.jsonl --columns conditions=sign --output mix_signs --steps 30 --learning-rate 0.1 --sequence-length 16 --eval-steps 0
for sign in 1 -1; do
    expect signed_$sign "$program" generate llama2 --adapter mix_signs --condition=$sign --prompt "A" --max-new-tokens 6
done
contains signed_1.out 'bbbbbb'
contains signed_-1.out 'cccccc'
printf '%s\n' '{"prompt": "A", "conditions": 1}' '{"prompt": "A", "conditions": [-1]}' >both_signs.jsonl
expect signed_rows "$program" generate llama2 --adapter mix_signs --prompts both_signs.jsonl --max-new-tokens 6
contains signed_rows.out 'bbbbbb'
contains signed_rows.out 'cccccc'
expect signed_eval "$program" eval llama2 --adapter mix_signs --data signs.jsonl --columns conditions=sign --sequence-length 16 --json
bad 1 "expected a number" generate llama2 --adapter mix_signs --condition=much --prompt "A"
printf "%s\n" "{\"prompt\": \"A\", \"conditions\": \"x\"}" >bad_signs.jsonl
bad 1 "conditions: expected a number" generate llama2 --adapter mix_signs --prompts bad_signs.jsonl
bad 2 'two gates, expected one' train llama2 --adapter part_b --mix gate --mix-conditions 1 --mix-tasks 2 --data signs.jsonl --output mix_two
# what can be chosen of a trained adapter can be of one that is mixed
expect nested "$program" train llama2 --data b.jsonl --output nested --kind dylora --rank 4 --target-modules q_proj,down_proj --steps 40 --learning-rate 0.03 --sequence-length 16
expect mix_nested "$program" train llama2 --adapter nested --adapter part_c --mix router --data jobs.jsonl --output mix_nested --steps 2 --sequence-length 16 --eval-steps 0
for rank in 1 4; do
    expect nested_$rank "$program" eval llama2 --adapter mix_nested --adapter-option use_rank=$rank --data jobs.jsonl --sequence-length 16
    grep loss nested_$rank.out >nested_$rank.loss
done
cmp -s nested_1.loss nested_4.loss && fail "eval --adapter-option: use_rank changes nothing of a composition's part"
bad 1 'found "use_rank", expected NAME=VALUE' generate llama2 --adapter nested --adapter-option use_rank --prompt "A"
expect inspect_json "$program" inspect mix_fusion --json
json inspect_json.out
contains inspect_json.out '"form":"fusion"'
bad 1 'cannot be merged' merge llama2 --adapter mix_fusion --output merged_mix
contains inspect_xlora.out 'composition by X-LoRA'
bad 1 'expected 1' train llama2 --adapter part_b --adapter part_c=0.5 --mix xlora --data jobs.jsonl --output mix_weighted --steps 1 --sequence-length 16
bad 2 'xlora-depth: found --mix gate, expected xlora' train llama2 --adapter part_b --mix gate --xlora-depth 2 --data jobs.jsonl --output mix_weighted
# a fusion of bottleneck adapters goes to AdapterHub's package and back; one of LoRAs does not
for letter in b c; do
    expect neck_$letter "$program" train llama2 --data $letter.jsonl --output neck_$letter --kind bottleneck --steps 2 --sequence-length 16
done
expect necks "$program" train llama2 --adapter neck_b --adapter neck_c --mix fusion --data jobs.jsonl --output necks --steps 2 --sequence-length 16 --eval-steps 0
expect necks_hub "$program" convert necks --base llama2 --to adapterhub --output necks_hub
expect necks_back "$program" convert necks_hub --base llama2 --to peft --output necks_back
cmp necks/mixer.safetensors necks_back/mixer.safetensors || fail "convert: a fusion is another after AdapterHub's format"
expect necks_generate "$program" generate llama2 --adapter necks_hub --prompt "A" --max-new-tokens 6
expect necks_inspect "$program" inspect necks_hub
bad 1 'fuses bottleneck adapters' convert mix_fusion --base llama2 --to adapterhub --output fused_loras
printf '%s\n' '{"prompt": "A"}' '{"prompt": "A", "task_ids": 1}' >mixed_jobs.jsonl
expect mixed_rows "$program" generate llama2 --adapter mix_gate --prompts mixed_jobs.jsonl --max-new-tokens 6
{ printf '[1] -\n' && cat mixed_gate.out && printf '[2] -\n' && cat mixed_task.out; } >mixed_alone.out
same_file mixed_rows.out mixed_alone.out
bad 1 'adapter: found "own", expected one that --adapter names' generate llama2 --adapter mix_gate --prompts prompts.jsonl
bad 1 'weighs its parts itself, expected it alone' generate llama2 --adapter mix_fusion=0.5 --prompt "A"
bad 1 'weighs its parts itself, expected that alone' generate llama2 --adapter mix_fusion --adapter part_b --prompt "A"
bad 1 'is several adapters, expected one of the directories in it' train llama2 --adapter mix_fusion --data jobs.jsonl --output again
bad 1 'holds the results of an earlier run (checkpoint.safetensors)' train llama2 --adapter part_b --mix router --data jobs.jsonl --output mix_router
bad 2 'expected --mix, which says what is trained' train llama2 --adapter part_b --adapter part_c --data jobs.jsonl --output again
bad 2 '--adapter names them' train llama2 --mix fusion --data jobs.jsonl --output again
bad 2 'goes on with an adapter as it is' train llama2 --adapter part_b --mix router --rank 4 --data jobs.jsonl --output again
bad 2 '--mix-top-k: found --mix fusion, expected gate or router' train llama2 --adapter part_b --mix fusion --mix-top-k 1 --data jobs.jsonl --output again
bad 2 '--mix-temperature: found --mix gate, expected router' train llama2 --adapter part_b --mix gate --mix-temperature 2 --data jobs.jsonl --output again
bad 2 '--mix-tasks: found --mix router, expected gate' train llama2 --adapter part_b --mix router --mix-tasks 4 --data jobs.jsonl --output again
bad 2 '--fusion-regularization: found --mix stack, expected fusion' train llama2 --adapter part_b --mix stack --fusion-regularization 1 --data jobs.jsonl --output again
bad 2 '--fusion-value: found --mix none, expected fusion' train llama2 --no-fusion-value --data jobs.jsonl --output again
bad 2 '--mix-top-k: found 3, expected no more than the 2 of --adapter' train llama2 --adapter part_b --adapter part_c --mix router --mix-top-k 3 --data jobs.jsonl --output again
# names that collide are found before anything is read; NAME= gives another
bad 1 "found the adapter's name \"part_b\"" train llama2 --adapter part_b --adapter part_b --mix router --data missing.jsonl --output again
bad 1 "found the adapter's name \"default\"" train llama2 --adapter default=part_b --mix stack --data missing.jsonl --output again
expect mix_named "$program" train llama2 --adapter one=part_b --adapter two=part_b=0.5 --mix router --data jobs.jsonl --columns task_ids=job --output mix_named --steps 1 --sequence-length 16 --eval-steps 0
cmp part_b/adapter_model.safetensors mix_named/two/adapter_model.safetensors || fail "train --mix: NAME= names no part"
bad 1 'tasks: found 2 for row 0, expected less than n_tasks, which is 2' generate llama2 --adapter skills --prompt "A" --task-id 2
# a composition is its parts at their weights
mkdir both && cp -r adapter_json both/one && cp -r adapter_json both/two
printf '{"format": "cambium-blend", "version": 1, "parts": [{"name": "one", "weight": 0.5}, {"name": "two"}]}' >both/blend.json
expect composed "$program" generate llama2 --adapter both --prompt "A tree" --max-new-tokens 24
expect added "$program" generate llama2 --adapter adapter_json=0.5 --adapter adapter_again --prompt "A tree" --max-new-tokens 24
same_file composed.out added.out
printf '{"format": "cambium-blend", "version": 1, "parts": [{"name": "one"}, {"name": "one"}]}' >both/blend.json
bad 1 'blend.json: parts[1]: found the name one twice' generate llama2 --adapter both --prompt x
expect chat "$program" generate llama2 --chat --chat-template plain --system "Be good." --prompt "The" --max-new-tokens 8 --json
printf '[{"role": "system", "content": "Be good."}, {"role": "user", "content": "The"}]' >talk.json
expect chat_messages "$program" generate llama2 --messages talk.json --chat-template plain --max-new-tokens 8
expect chat_text "$program" generate llama2 --prompt "$(printf 'system: Be good.\nuser: The\nassistant:')" --max-new-tokens 8
same_file chat_messages.out chat_text.out
[ "$(field chat.out tokens)" -ge 1 ] || fail "generate --chat: no text"
printf '{%% for m in messages %%}{{ m.content }} {%% endfor %%}{{ raise_exception(reason) if reason }}' >own.jinja
expect chat_file "$program" generate llama2 --prompt "The" --chat-template own.jinja --max-new-tokens 4
bad 1 'own.jinja:1: the template refuses this conversation: enough' generate llama2 --prompt x --chat-template own.jinja --chat-template-kwargs '{"reason": "enough"}'
expect sampled "$program" generate llama2 --prompt "The" --max-new-tokens 24 --temperature 1 --top-k 20 --top-p 0.9 --repetition-penalty 1.1 --seed 5
expect sampled_again "$program" generate llama2 --prompt "The" --max-new-tokens 24 --temperature 1 --top-k 20 --top-p 0.9 --repetition-penalty 1.1 --seed 5
same_file sampled.out sampled_again.out
expect likeliest "$program" generate llama2 --prompt "The" --max-new-tokens 24
expect nucleus_of_one "$program" generate llama2 --prompt "The" --max-new-tokens 24 --temperature 100 --top-p 0
same_file nucleus_of_one.out likeliest.out

expect merge "$program" merge llama2 --adapter adapter_json --output merged
contains merge.out "mean KL divergence"
expect merged "$program" eval merged --task perplexity --data held-out.txt --json --sequence-length 32
checks=$((checks + 1))
awk -v a="$(field merged.out loss)" -v b="$(field after.out loss)" 'BEGIN { d = a - b; exit !(d < 1e-4 && d > -1e-4) }' ||
    fail "merge: loss $(field merged.out loss), adapted $(field after.out loss)"
expect generate_merged "$program" generate merged --prompt "The gardener" --max-new-tokens 24 --temperature 0
same_file generate.out generate_merged.out
expect merge_json "$program" merge llama2 --adapter adapter_json=0.5 --adapter adapter=0.5 --output merged_both --dtype f32 --json
json merge_json.out

for path in llama2 llama_sharded adapter llama2/model.safetensors tokenizer.json adapter/checkpoint.safetensors; do
    expect inspect "$program" inspect "$path"
    contains inspect.out "kind"
    expect inspect_json "$program" inspect "$path" --json
    json inspect_json.out
done
expect inspect "$program" inspect llama2
contains inspect.out "model.layers.0.self_attn.q_proj.weight"
contains inspect.out "48 x 48"
expect inspect_pickled "$program" inspect "$reference/adapter_formats/lora_qv.pickled"
contains inspect_pickled.out "adapter_model.bin"
contains inspect_pickled.out "lora_A.weight"
expect inspect_vocabulary "$program" inspect "$reference/tokenizers/files/albert"

# every family, an adapter as PEFT names its options, and one that goes on with another
for name in llama_sharded gpt2 qwen2 qwen3 smollm mistral; do
    expect "train_$name" "$program" train "$name" --data text.txt --output "out_$name" --r 4 --lora-alpha 8 --steps 2 --batch-size 2 \
        --sequence-length 24 --target-modules all-linear --seed 3
    expect "generate_$name" "$program" generate "$name" --adapter "out_$name" --prompt "The" --max-new-tokens 4
done
# shellcheck disable=SC2086
expect further "$program" train llama2 --adapter adapter_json --data text.txt --output further --steps 2 $small
# shellcheck disable=SC2086
expect no_shuffle "$program" train llama2 --data text.txt --output no_shuffle --steps 2 --no-shuffle --target-modules q_proj --target-modules v_proj $small
contains no_shuffle/adapter_config.json q_proj
contains no_shuffle/adapter_config.json v_proj

# ---- tokenizers and whole models ---------------------------------------------------------------------------------------------

expect tokenizer_train "$program" tokenizer train --data text.txt --vocab-size 300 --output learned.json
expect encode "$program" tokenizer encode learned.json "The gardener cuts"
# shellcheck disable=SC2046
expect decode "$program" tokenizer decode learned.json $(cat encode.out)
echo "The gardener cuts" >decode.expected
same_file decode.out decode.expected
expect convert_tokenizer "$program" tokenizer convert "$reference/tokenizers/files/t5" --output converted_t5.json --json
expect encode_converted "$program" tokenizer encode converted_t5.json "the man of earth"
expect encode_directly "$program" tokenizer encode "$reference/tokenizers/files/t5" "the man of earth"
same_file encode_converted.out encode_directly.out
expect encode_json "$program" tokenizer encode learned.json "The gardener cuts" --json
json encode_json.out
cat >config.json <<'END'
{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2,
 "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
 "tie_word_embeddings": true, "hidden_act": "silu", "initializer_range": 0.05, "bos_token_id": 1, "eos_token_id": 2}
END
# shellcheck disable=SC2086
expect pretrain "$program" pretrain --config config.json --tokenizer learned.json --data text.txt --output made --steps 20 $small --json
json pretrain.out
below "$(field pretrain.out last_loss)" "$(field pretrain.out first_loss)" || fail "pretrain: the loss did not fall"
# shellcheck disable=SC2086
expect pretrain_again "$program" pretrain --config config.json --tokenizer learned.json --data text.txt --output made_again --steps 20 $small --json
same_file made/model.safetensors made_again/model.safetensors
mkdir made/additional_chat_templates
echo '{{ messages[0].content }}' >made/additional_chat_templates/short.jinja
echo '{"chat_template": "{{ messages[0].role }}"}' >made/chat_template.json
# shellcheck disable=SC2086
expect pretrain_further "$program" pretrain --model made --data text.txt --output made_further --steps 3 --save-dtype bf16 $small
same_file made/additional_chat_templates/short.jinja made_further/additional_chat_templates/short.jinja
same_file made/chat_template.json made_further/chat_template.json
expect generate_made "$program" generate made_further --prompt "The" --max-new-tokens 8 --json
# shellcheck disable=SC2086
expect train_made "$program" train made --data text.txt --output made_adapter --steps 3 $small

expect convert "$program" convert "$reference/formats/llama2c.bin" --tokenizer "$reference/formats/llama2c_tokenizer.bin" --output converted --json
json convert.out
same_file converted/model.safetensors "$reference/formats/llama2c.safetensors"
expect generate_converted "$program" generate converted --prompt "the" --max-new-tokens 4 --json

# ---- formats -------------------------------------------------------------------------------------------------------------------

# nothing OUTPUT: no unfinished result is beside it.
nothing_beside() {
    checks=$((checks + 1))
    left=$(ls -A . | grep -F ".$1.tmp")
    [ -z "$left" ] || fail "left beside $1: $left"
}

# converted NAME INPUT OPTION...: the result, NAME, is compared, and inspect says what it is.
converted() {
    output=$1
    shift
    expect convert_to "$program" convert "$@" --output "$output" --json
    json convert_to.out
    contains convert_to.out '"verified":true'
    nothing_beside "$output"
    expect inspect_converted "$program" inspect "$output"
    expect inspect_converted_json "$program" inspect "$output" --json
    json inspect_converted_json.out
}

converted whole.gguf llama2 --to gguf
contains inspect_converted.out "gguf model"
contains inspect_converted.out "blk.0.attn_q.weight"
converted q8.gguf llama2 --to gguf --dtype q8_0
contains inspect_converted.out "general.file_type     7"
converted whole_again whole.gguf --to hf
contains inspect_converted.out "model.layers.0.self_attn.q_proj.weight"
expect generate_directory "$program" generate llama2 --prompt "The gardener" --max-new-tokens 8
for model in whole.gguf whole_again; do
    expect generate_format "$program" generate "$model" --prompt "The gardener" --max-new-tokens 8
    same_file generate_format.out generate_directory.out
done
expect train_gguf "$program" train q8.gguf --data text.txt --output out_gguf --steps 2 --batch-size 2 --sequence-length 24 --seed 3
# shellcheck disable=SC2043
expect train_qv "$program" train llama2 --data text.txt --output qv --target-modules q_proj,v_proj --rank 4 --steps 2 --batch-size 2 \
    --sequence-length 24 --seed 3
expect generate_qv "$program" generate llama2 --adapter qv --prompt "The gardener" --max-new-tokens 8
converted qv.gguf qv --base llama2 --to gguf-lora
contains inspect_converted.out "gguf adapter"
converted qv_mlx qv.gguf --base llama2 --to mlx
contains inspect_converted.out "lora_a"
converted qv_adapterhub qv_mlx --base whole.gguf --to adapterhub
converted qv_peft qv_adapterhub --base llama2 --to peft
contains inspect_converted.out "lora_A.weight"
for adapter in qv.gguf qv_mlx qv_adapterhub qv_peft; do
    expect generate_format "$program" generate llama2 --adapter "$adapter" --prompt "The gardener" --max-new-tokens 8
    same_file generate_format.out generate_qv.out
done
expect quantize_nf4 "$program" convert llama2 --quantize nf4 --output llama2_nf4
# a tied head has no tensor of its own, and is named all the same: transformers makes a layer of it
expect quantize_tied "$program" convert smollm --quantize nf4 --block-size 16 --max-kl 9 --output smollm_nf4
tr -d ' \n' <smollm_nf4/config.json >tied.json
contains tied.json '"llm_int8_skip_modules":["lm_head"]'
converted nf4.gguf llama2_nf4 --to gguf
contains inspect_converted.out "F16"
converted nf4_plain llama2_nf4 --to hf --dtype f32
expect generate_nf4 "$program" generate llama2_nf4 --prompt "The gardener" --max-new-tokens 8
expect generate_nf4_plain "$program" generate nf4_plain --prompt "The gardener" --max-new-tokens 8
same_file generate_nf4.out generate_nf4_plain.out

expect merge_gguf "$program" merge whole.gguf --adapter qv --output merged.gguf --json
json merge_gguf.out
contains merge_gguf.out '"verified":true'
expect merge_gguf_plain "$program" merge q8.gguf --adapter qv.gguf=0.5 --output merged_q8.gguf --max-kl 1
contains merge_gguf_plain.out "mean KL divergence"
expect generate_merged "$program" generate merged.gguf --prompt "The gardener" --max-new-tokens 8
same_file generate_merged.out generate_qv.out

# settings that shapes do not show
cp -r merged turned && sed -i 's/"num_attention_heads": 4/"num_attention_heads": 2/; s/"rms_norm_eps": [0-9.e-]*/"rms_norm_eps": 0.5/' turned/config.json
"$program" merge llama2 --model turned --output turned_merged >merge_turned.out 2>merge_turned.err || fail "merge: $(cat merge_turned.err)"
contains merge_turned.err "turned: config.json: rms_norm_eps is not as in llama2"
# whole models: halfway between the base and the merged one is half of the adapter
expect merge_models "$program" merge llama2 --model llama2 --model merged --method linear --dtype f32 --output between --json
json merge_models.out
contains merge_models.out '"models":2'
expect half "$program" eval llama2 --adapter adapter_json=0.5 --task perplexity --data held-out.txt --json --sequence-length 32 --dtype f32
expect between "$program" eval between --task perplexity --data held-out.txt --json --sequence-length 32 --dtype f32
checks=$((checks + 1))
awk -v a="$(field between.out loss)" -v b="$(field half.out loss)" 'BEGIN { d = a - b; exit !(d < 1e-4 && d > -1e-4) }' ||
    fail "merge --model: loss $(field between.out loss), half adapted $(field half.out loss)"
expect merge_ties "$program" merge llama2 --model merged=0.8 --model between --method ties --density 0.3,0.5 --output ties
expect eval_ties "$program" eval ties --task perplexity --data held-out.txt --sequence-length 32
expect extract "$program" extract llama2 between --rank 8 --output extracted --json
json extract.out
contains extract.out '"layers":14'
expect eval_extracted "$program" eval llama2 --adapter extracted --task perplexity --data held-out.txt --json --sequence-length 32 --dtype f32
checks=$((checks + 1))
awk -v a="$(field eval_extracted.out loss)" -v b="$(field between.out loss)" 'BEGIN { d = a - b; exit !(d < 1e-4 && d > -1e-4) }' ||
    fail "extract: loss $(field eval_extracted.out loss), of the model $(field between.out loss)"
# by a recipe: one layer of each on top of the other is a model of two layers, that runs
printf 'slices:\n  - sources:\n      - {model: llama2, layer_range: [0, 1]}\n  - sources:\n      - {model: merged, layer_range: [0, 2]}\nmerge_method: passthrough\n' >recipe.yml
expect merge_recipe "$program" merge --config recipe.yml --output franken
contains franken/config.json '"num_hidden_layers": 3'
expect eval_franken "$program" eval franken --task perplexity --data held-out.txt --sequence-length 32
expect merge_recipe_dry "$program" merge --config recipe.yml --output never --dry-run
bad 1 'recipe.yml says what is merged, found method' merge --config recipe.yml --method ties --output never
bad 1 'recipe.yml says what is merged, found models or adapters too' merge llama2 --config recipe.yml --output never
# adapters into one: the sum does what both do; a rank that is too small, PEFT's way, and clusters are further away
expect merge_into "$program" merge llama2 --into adapter --adapter adapter_json=0.5 --adapter qv=0.5 --output into --json
json merge_into.out
contains merge_into.out '"error":0'
contains merge_into.out '"mean_kl"'
expect both "$program" eval llama2 --adapter adapter_json=0.5 --adapter qv=0.5 --task perplexity --data held-out.txt --json --sequence-length 32 --dtype f32
expect into "$program" eval llama2 --adapter into --task perplexity --data held-out.txt --json --sequence-length 32 --dtype f32
checks=$((checks + 1))
awk -v a="$(field both.out loss)" -v b="$(field into.out loss)" 'BEGIN { d = a - b; exit !(d < 1e-5 && d > -1e-5) }' ||
    fail "merge --into adapter: loss $(field into.out loss), of both $(field both.out loss)"
expect merge_rank "$program" merge llama2 --into adapter --adapter adapter_json --adapter qv --rank 1 --output into_1
contains merge_rank.out "rounding to rank"
contains merge_rank.out "cross-talk"
expect merge_peft "$program" merge --into adapter --adapter qv --adapter qv=-0.5 --combination-type ties --density 0.5 --output into_ties
expect merge_lego "$program" merge --into adapter --adapter adapter_json --adapter qv --method lego --rank 3 --output into_lego --json
contains merge_lego.out '"rank":3'
expect merge_into_dry "$program" merge llama2 --into adapter --adapter adapter_json --adapter qv --output never --dry-run
bad 1 'expected --adapter DIR for each adapter to merge' merge llama2 --into adapter --output never
bad 1 'expected --adapter DIR for each adapter to merge, found --model' merge llama2 --into adapter --adapter qv --model merged --output never
bad 1 'found --method and --combination-type' merge --into adapter --adapter qv --method ties --combination-type ties --output never
bad 1 'own directory or inside it' merge --into adapter --adapter qv --output qv/inside
bad 1 'quantize: is for models, found --into adapter' merge --into adapter --adapter qv --quantize nf4 --output never
bad 1 'method: lego merges adapters into one, found models' merge llama2 --model merged --method lego --output never
bad 1 'rank: is for adapters, found --model' merge llama2 --model merged --rank 3 --output never
bad 2 'found no MODEL, which only --into adapter and --config do without' merge --adapter qv --output never
bad 1 'extracted: found an adapter in it' extract llama2 between --output extracted
bad 1 'layer model.embed_tokens: found other sizes' extract llama2 qwen2 --output never
bad 1 'ties: found a model in it' merge llama2 --model merged --method slerp --output ties
bad 1 'expected --adapter DIR, to fold it into llama2, or --model DIR, to merge both' merge llama2 --output never
bad 1 'found --model and --adapter' merge llama2 --model merged --adapter qv --output never
bad 1 'slerp merges 1 model besides the first one, found 2' merge llama2 --model merged --model between --method slerp --output never
bad 1 'gpt2: has no tensor lm_head.weight, which llama2 has' merge llama2 --model gpt2 --method linear --output never --ignore-tokenizers
bad 1 'method: is for merging whole models, or adapters --into adapter, found --adapter' merge llama2 --adapter adapter --method ties --output never
bad 1 'max_kl: is for adapters, found --model' merge llama2 --model merged --max-kl 0.1 --output never
bad 1 'never.gguf: whole models are merged into a directory' merge llama2 --model merged --output never.gguf
bad 1 'own directory or inside it' merge llama2 --model merged --output merged/inside
bad 1 'is quantised, and whole models are merged plain' merge llama2_nf4 --model llama2 --output never
nothing_beside never

bad 1 'whole.gguf: is a GGUF file, and never a directory' merge whole.gguf --adapter qv --output never
bad 1 'found a model directory, which mlx cannot hold: it is for adapters' convert llama2 --to mlx --output never
bad 1 'found a PEFT adapter, which gguf cannot hold: it is for models' convert qv --base llama2 --to gguf --output never
bad 1 'base: an adapter is converted beside its model' convert qv --to mlx --output never
bad 1 'a model directory holds keep, f32, bf16 or f16' convert whole.gguf --to hf --dtype q8_0 --output never
bad 1 'not kept: next tokens differ' convert llama2 --to gguf --dtype q4_0 --max-kl 0 --output never
bad 1 'not kept' convert llama2_nf4 --to hf --dtype bf16 --max-kl 0 --output never
bad 1 'whole.gguf: exists and is not an empty directory' convert llama2 --to gguf --output whole.gguf
bad 1 'found neither config.json nor adapter_config.json' convert "$(mkdir -p empty && echo empty)" --to gguf --output never
head -c 900 whole.gguf >cut.gguf
bad 1 'cut.gguf' convert cut.gguf --to hf --output never
bad 1 'never.gguf: is the name of a GGUF file, and hf makes a directory' convert llama2 --output never.gguf
bad 1 'cut.gguf' inspect cut.gguf
nothing_beside never
nothing_beside whole.gguf

# ---- benchmarks ------------------------------------------------------------------------------------------------------------------

TMPDIR=$work expect bench_generate "$program" bench generate --shape 15m --weights bf16,nf4,q4_k --prompt-tokens 8 --new-tokens 3 --threads 1
for weights in bf16 nf4 q4_k; do
    contains bench_generate.out "$weights"
done
TMPDIR=$work expect bench_lora "$program" bench lora --shape 15m --quantize int8-block --batch-size 1 --sequence-length 16 --steps 4 --json
json bench_lora.out
[ "$(field bench_lora.out quantize)" = int8-block ] || fail "bench lora: $(cat bench_lora.out)"
checks=$((checks + 1))
ls -d cambium-bench-* 2>/dev/null | grep -q . && fail "bench: left $(ls -d cambium-bench-*)"
bad 1 '--weights: found "fp4"' bench generate --weights bf16,fp4
# 40 examples of 11 to 50 characters, a token each, in rows of 32: what is lost without packing is what is beyond
awk 'BEGIN { for (i = 0; i < 40; i++) { t = ""; for (k = 0; k < 10 + i; k++) t = t "a"; printf "{\"prompt\": \"b\", \"completion\": \"%s\"}\n", t } }' >pairs.jsonl
# multiple choice; the list of systems; experiments
printf '%s\n' '{"prompt": "a", "choices": ["b", "cd"], "answer": 1}' '' '{"prompt": "Q", "choices": ["x", "y"], "answer": "y"}' >questions.jsonl
expect choice "$program" eval llama2 --task choice --data questions.jsonl --json
json choice.out
[ "$(field choice.out questions)" = 2 ] || fail "choice: $(cat choice.out)"
expect choice "$program" eval llama2 --task choice --data questions.jsonl
contains choice.out '95 %'
echo '{"prompt": "a", "choices": ["b"], "answer": 0}' >one.jsonl
bad 1 'one.jsonl:1: expected {"prompt"' eval llama2 --task choice --data one.jsonl
echo '{"prompt": "a", "choices": ["b", "c"], "answer": 2}' >beyond.jsonl
bad 1 'beyond.jsonl:1: answer: found none of the 2 choices' eval llama2 --task choice --data beyond.jsonl
bad 1 'nowhere.jsonl' eval llama2 --task choice --data nowhere.jsonl
expect methods "$program" methods
[ "$(wc -l <methods.out)" = 68 ] || fail "methods: expected 67 systems and a head"
expect methods "$program" methods 18 --json
contains methods.out '"name":"dylora"'
bad 1 'there is no system dylor; close: dylora' methods dylor
expect sets "$program" data
contains sets.out text-corpora
expect one_set "$program" data text-corpora --json
contains one_set.out '"used_by":["cambium repro'
bad 1 'there is no data set text-corpor; close: text-corpora' data text-corpor
bad 1 'there is no experiment nothing' repro nothing --quick
bad 1 'nowhere: found neither a file nor a directory' convert nowhere --output never
bad 2 'expected an experiment' repro
echo '{}' >empty.json
bad 1 'empty.json: experiment: missing' repro --from empty.json

expect packing "$program" bench packing tokenizer.json --data pairs.jsonl --sequence-length 32 --no-add-bos --no-add-eos --json
json packing.out
contains packing.out '"strategy":"wrapped","rows":39,"positions":1248,"padding":28,"tokens":1220,"lost":0'
contains packing.out '"strategy":"no packing","rows":40,"positions":1280,"padding":231,"tokens":1049,"lost":171'
# the 33rd token of one example is predicted, but no row has to hold it
contains packing.out '"strategy":"bfd_split","rows":39,"positions":1248,"padding":29,"tokens":1219,"lost":1'
expect packing "$program" bench packing tokenizer.json --data pairs.jsonl --sequence-length 32
contains packing.out "no packing"
bad 1 'nowhere.jsonl' bench packing tokenizer.json --data nowhere.jsonl

# ---- interruption and resume ----------------------------------------------------------------------------------------------------

long="--data text.txt --steps 60 --save-steps 4 --rank 4 --dropout 0.1 --target-modules all-linear --validation-data held-out.txt --eval-steps 20 $small"
# shellcheck disable=SC2086
expect whole "$program" train llama2 $long --output whole

# stopped SIGNAL STEP DIRECTORY: starts the run, sends the signal when the line of the step has come; the exit status in $status.
stopped() {
    rm -f pipe
    mkfifo pipe
    # shellcheck disable=SC2086
    "$program" train llama2 $long --output "$3" --json >pipe 2>stopped.err &
    pid=$!
    exec 3<pipe
    line=0
    while [ "$line" -lt "$2" ] && read -r report <&3; do
        line=$((line + 1))
    done
    kill "-$1" "$pid"
    cat <&3 >/dev/null
    exec 3<&-
    wait "$pid"
    status=$?
}

for signal in INT TERM; do
    checks=$((checks + 1))
    stopped "$signal" 7 "stopped_$signal"
    [ "$status" = 130 ] || fail "SIG$signal: exit status $status, expected 130: $(cat stopped.err)"
    [ "$(wc -l <stopped.err)" = 1 ] || fail "SIG$signal: expected one line: $(cat stopped.err)"
    contains stopped.err "--resume"
    # shellcheck disable=SC2086
    expect "resumed_$signal" "$program" train llama2 $long --output "stopped_$signal" --resume
    same_file "stopped_$signal/adapter_model.safetensors" whole/adapter_model.safetensors
    same_file "stopped_$signal/adapter_config.json" whole/adapter_config.json
done
stopped KILL 10 killed
# shellcheck disable=SC2086
expect resumed_killed "$program" train llama2 $long --output killed --resume
same_file killed/adapter_model.safetensors whole/adapter_model.safetensors
# what a killed writer left goes when the run goes on; what is no such file stays
touch killed/.checkpoint.safetensors.tmp-999999999-1 killed/.notes.tmp-999999999
# shellcheck disable=SC2086
expect resumed_swept "$program" train llama2 $long --output killed --resume
[ -e killed/.checkpoint.safetensors.tmp-999999999-1 ] && fail "resume: left the temporary file of a killed run"
[ -e killed/.notes.tmp-999999999 ] || fail "resume: removed a file that is none of ours"
# one run at a time in a directory
rm -f pipe
mkfifo pipe
# shellcheck disable=SC2086
"$program" train llama2 $long --steps 1000000 --output busy --json >pipe 2>busy.err &
pid=$!
exec 3<pipe
read -r report <&3
# shellcheck disable=SC2086
bad 1 'busy: another run is writing here' train llama2 $long --output busy --overwrite
kill -INT "$pid"
cat <&3 >/dev/null
exec 3<&-
wait "$pid"
contains busy.err "interrupted"
# results are not replaced unasked
# shellcheck disable=SC2086
bad 1 'whole: holds the results of an earlier run (checkpoint.safetensors): --resume goes on with it, --overwrite begins anew' train llama2 $long --output whole
# shellcheck disable=SC2086
bad 1 'made: holds the results of an earlier run' pretrain --config config.json --tokenizer learned.json --data text.txt --output made $small
cp -r whole anew
# shellcheck disable=SC2086
expect overwritten "$program" train llama2 $long --seed 2 --output anew --overwrite
cmp -s anew/adapter_model.safetensors whole/adapter_model.safetensors && fail "--overwrite: the adapter is the old one"
# a checkpoint of another run is not taken for one's own
bad 1 "checkpoint" train llama2 --data text.txt --steps 61 --rank 4 --target-modules all-linear --batch-size 2 --sequence-length 24 --seed 1 \
    --output whole --resume

# ---- numbers that are none ---------------------------------------------------------------------------------------------------------

# poisoned NAME: a copy of llama2 in which two numbers of a tensor are NaN
poisoned() {
    rm -rf poisoned
    model llama2 poisoned
    header=$(od -An -tu4 -N4 poisoned/model.safetensors | tr -d ' ')
    begin=$(head -c $((8 + header)) poisoned/model.safetensors | tr -d '\0' |
        sed -n "s/.*\"$1\":{[^}]*\"data_offsets\":\[\([0-9]*\),.*/\1/p")
    printf '\377\377\377\177\377\377\377\177' |
        dd of=poisoned/model.safetensors bs=1 seek=$((8 + header + begin + 16)) conv=notrunc 2>/dev/null
}
poisoned model.layers.1.self_attn.o_proj.weight
bad 1 'step 1: the loss is nan: layer model.layers.1.self_attn.o_proj is the first to give nan; the rows are of text.txt:1' \
    train poisoned --data text.txt --output never --steps 2 --batch-size 2 --sequence-length 24
bad 1 'layer model.layers.1.self_attn.o_proj is the first to give nan' eval poisoned --data text.txt --sequence-length 24
rm -rf hot
# shellcheck disable=SC2086
bad 1 'the last checkpoint stands' train llama2 --data text.txt --output hot --steps 60 --save-steps 1 --rank 4 --target-modules all-linear \
    --batch-size 2 --sequence-length 24 --learning-rate 1000 --max-grad-norm 0 --optimizer sgd --seed 1 --quiet
grep -qE 'is the first to give|the largest, [0-9.e+]*, is of base_model' bad.err || fail "an exploding run: $(cat bad.err)"
[ -s hot/checkpoint.safetensors ] || fail "an exploding run left no checkpoint"

# ---- bad input: usage --------------------------------------------------------------------------------------------------------------

bad 2 'unknown command "trian"; close names: train' trian
bad 2 'expected one of train, encode, decode, convert' tokenizer
bad 2 'unknown option --rnak; close names: --rank' train llama2 --data text.txt --output never --rnak 8
bad 2 'unknown option -x' train -x
bad 2 '--output is needed' train llama2 --data text.txt
bad 2 '--data is needed' train llama2 --output never
bad 2 'an argument is missing' train --data text.txt --output never
bad 2 'unexpected argument "more"' train llama2 more --data text.txt --output never
bad 2 '--steps: found "many", expected a whole number' train llama2 --data text.txt --output never --steps many
bad 2 '--batch-size: found 0, expected 1 to' train llama2 --data text.txt --output never --batch-size 0
bad 2 '--data: found --steps, expected a value' train llama2 --data --steps 3 --output never
bad 2 'rank' train llama2 --data text.txt --output never --rank none
bad 2 'kind' train llama2 --data text.txt --output never --kind lroa
bad 2 'exclude each other' train llama2 --data text.txt --output never --validation-data text.txt --validation-split 0.1
bad 2 '--adapter goes on with an adapter as it is' train llama2 --data text.txt --output never --adapter adapter --rank 4
bad 2 'expected one of --prompt' generate llama2
bad 2 'expected one of --prompt' generate llama2 --prompt x --messages talk.json
bad 1 'expected auto, chatml, llama3, plain' generate llama2 --prompt x --chat-template nothing
bad 1 'expected an object' generate llama2 --prompt x --chat-template-kwargs '[3]'
bad 2 'expected either --config or --model' pretrain --data text.txt --output never
bad 2 '--task: found "mmlu", expected one of auto, perplexity' eval llama2 --data text.txt --task mmlu

# ---- bad input: files ----------------------------------------------------------------------------------------------------------------

run="--data text.txt --output never --steps 2 --batch-size 2 --sequence-length 24"
# with NAME: a fresh copy of the model in `broken`
with() {
    rm -rf broken
    model "$1" broken
}
# safetensors HEADER BYTES: a file with this header and so many bytes after it
safetensors() {
    length=$(printf '%s' "$1" | wc -c)
    awk -v n="$length" 'BEGIN { for (i = 0; i < 8; i++) { printf "\\%03o", n % 256; n = int(n / 256) } }' >length.txt
    # shellcheck disable=SC2059
    printf "$(cat length.txt)"
    printf '%s' "$1"
    head -c "$2" /dev/zero
}

bad 1 'nowhere' train nowhere $run
with llama2 && rm broken/config.json
bad 1 'config.json' train broken $run
with llama2 && echo '{"model_type": ' >broken/config.json
bad 1 'config.json' train broken $run
with llama2 && sed -i 's/"model_type": "llama"/"model_type": "lama"/' broken/config.json
bad 1 'llama' train broken $run
with llama2 && rm broken/model.safetensors
bad 1 'model.safetensors' train broken $run
with llama2 && sed -i 's/"intermediate_size": 56/"intermediate_size": 64/' broken/config.json
bad 1 'gate_proj' train broken $run
for size in 0 4 8 100 20000; do
    with llama2 && head -c "$size" "$reference/models/llama2/model.safetensors" >broken/model.safetensors
    bad 1 'model.safetensors' train broken $run
done
with llama2 && printf '\377\377\377\377\377\377\377\177{}' >broken/model.safetensors
bad 1 'model.safetensors' train broken $run
safetensors '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}' 12 >overlapping.safetensors
bad 1 'overlapping.safetensors' inspect overlapping.safetensors
safetensors '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,80]}}' 8 >oversized.safetensors
bad 1 'oversized.safetensors' inspect oversized.safetensors
safetensors '{"a":{"dtype":"F32","shape":[9223372036854775807,9223372036854775807],"data_offsets":[0,8]}}' 8 >overflow.safetensors
bad 1 'overflow.safetensors' inspect overflow.safetensors
bad 1 'empty' inspect "$(mkdir -p empty && echo empty)"
with llama2 && rm broken/tokenizer.json
bad 1 'tokenizer.json' train broken $run
with llama2 && cp "$reference/tokenizers/gpt2.json" broken/tokenizer.json
bad 1 'vocab_size 96' train broken $run
with llama2 && echo '{"model": {"type": "BPE"' >broken/tokenizer.json
bad 1 'tokenizer.json' train broken $run

: >empty.txt
printf 'good line\nbad \377 byte\n' >invalid.txt
printf '{"text": "fine"}\n{"text": 5}\n' >wrong.jsonl
bad 1 'empty.txt' train llama2 --data empty.txt --output never --steps 2 --batch-size 2 --sequence-length 24
bad 1 'invalid.txt' train llama2 --data invalid.txt --output never --steps 2 --batch-size 2 --sequence-length 24
bad 1 'wrong.jsonl' train llama2 --data wrong.jsonl --output never --steps 2 --batch-size 2 --sequence-length 24
bad 1 'beta1' train llama2 --data text.txt --output never --steps 2 --batch-size 2 --sequence-length 24 --adam-beta1 1
bad 1 'out of memory' train llama2 --data text.txt --output never --steps 2 --batch-size 65536 --sequence-length 16777216 --quiet
mkdir texts && cp text.txt texts/
bad 1 'is inside the directory of data texts' train llama2 --data texts --output texts/never --steps 2
bad 1 'missing.txt' train llama2 --data missing.txt --output never --steps 2 --batch-size 2 --sequence-length 24
bad 1 'rank' train llama2 $run --rank 4096 --target-modules all-linear
bad 1 'q_proj' train llama2 $run --target-modules q_prj
bad 1 'is a file, expected a directory' train llama2 --data text.txt --output text.txt
bad 1 'is a file, expected a directory' train llama2 --data text.txt --output text.txt/deeper
bad 1 "model's own directory" train llama2 --data text.txt --output llama2
bad 1 "model's own directory" train llama2 --data text.txt --output llama2/adapter
bad 1 'expected a new or empty directory' train llama2 --data text.txt --output qwen2
bad 1 'expected a new or empty directory' pretrain --config llama2/config.json --tokenizer tokenizer.json --data text.txt --output llama2
bad 1 'exists and is not an empty directory' convert "$reference/formats/llama2c.bin" --tokenizer "$reference/formats/llama2c_tokenizer.bin" --output llama2
bad 1 'expected 258 at least' tokenizer train --data text.txt --vocab-size 257 --special-tokens '<a>,<b>' --output never
bad 1 'cannot be written' train llama2 --data text.txt --output /proc/cambium
bad 1 'text.txt' merge llama2 --adapter adapter --output text.txt
bad 1 'adapter_config.json' generate llama2 --adapter empty --prompt x
bad 1 'expected DIR or DIR=weight' generate llama2 --adapter adapter=heavy --prompt x
mkdir -p cut && cp adapter/adapter_config.json cut && head -c 1000 adapter/adapter_model.safetensors >cut/adapter_model.safetensors
bad 1 'adapter_model.safetensors' generate llama2 --adapter cut --prompt x
bad 1 "no layer matches 'q_proj'" generate gpt2 --adapter adapter --prompt x
bad 1 'empty/config.json' eval empty --data text.txt --tokenizer tokenizer.json
bad 1 'found "x", expected token ids' tokenizer decode tokenizer.json 1 x
bad 1 'nothing.json' pretrain --config nothing.json --tokenizer tokenizer.json --data text.txt --output never
bad 1 'there is no directory' tokenizer train --data text.txt --vocab-size 300 --output never/tokenizer.json

# full disks: standard output, and files that may not grow
if [ -w /dev/full ]; then
    checks=$((checks + 1))
    "$program" inspect llama2 >/dev/full 2>full.err
    status=$?
    [ "$status" = 1 ] && [ "$(wc -l <full.err)" = 1 ] || fail "inspect >/dev/full: exit status $status: $(cat full.err)"
fi
checks=$((checks + 1))
(
    trap '' XFSZ
    ulimit -f 16
    exec "$program" merge llama2 --adapter adapter --output never
) >limited.out 2>limited.err
status=$?
[ "$status" = 1 ] && [ "$(wc -l <limited.err)" = 1 ] || fail "merge without room: exit status $status: $(cat limited.err)"
[ -e never ] && fail "merge without room: left never"
checks=$((checks + 1))
ls -d never* 2>/dev/null | grep -q . && fail "merge without room: left $(ls -d never*)"

# ---- the end ------------------------------------------------------------------------------------------------------------------------

cd / && rm -rf "$work"
echo "$checks checks, $failures failures"
[ "$failures" = 0 ]
