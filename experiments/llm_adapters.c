/* llm_adapters.c: LLM-Adapters (41).  Hu et al. 2023, arXiv:2304.01933.
 *
 * Four families of adapters on a decoder, at the paper's placements and with about as many numbers each, on the math word problems of MAWPS.  A small
 * base cannot do arithmetic, so numbers are letters in the order in which they stand in the problem, and what is written is the equation:
 *
 *     A waiter had A customers . If B of them left ... C people at each table , ...
 *     The answer is ( A - B ) / C
 *
 * The answer is worked out from what the model writes and counts when it is right to 1e-3. */
#include <ctype.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "experiments/language.h"

enum { MOST_NUMBERS = 12, MOST_JUDGED = 300, STEPS = 300 };

typedef struct plan {
    const char *kind;           /* NULL: all of the model; "": nothing is trained */
    const char *options[12][2]; /* ends with NULL */
} plan;

static const plan none = {.kind = ""}, whole = {.kind = NULL};
static const plan lora_attention = {"lora", {{"rank", "16"}, {"alpha", "32"}, {"target_modules", "q_proj,v_proj"}}};
static const plan lora_mlp = {"lora", {{"rank", "8"}, {"alpha", "16"}, {"target_modules", "up_proj,down_proj"}}};
static const plan lora_both = {"lora", {{"rank", "5"}, {"alpha", "10"}, {"target_modules", "q_proj,k_proj,v_proj,up_proj,down_proj"}}};
static const plan series_mlp = {
    "bottleneck", {{"bottleneck_size", "28"}, {"non_linearity", "tanh"}, {"target_modules", "down_proj"}, {"init_weights", "mam_adapter"}}};
static const plan series_attention = {
    "bottleneck", {{"bottleneck_size", "28"}, {"non_linearity", "tanh"}, {"target_modules", "o_proj"}, {"init_weights", "mam_adapter"}}};
static const plan parallel = {"bottleneck",
                              {{"bottleneck_size", "8"},
                               {"non_linearity", "tanh"},
                               {"use_parallel_adapter", "true"},
                               {"target_modules", "up_proj,down_proj"},
                               {"init_weights", "mam_adapter"}}};
static const plan prefix10 = {"prefix_tuning", {{"num_virtual_tokens", "10"}}},
                  prefix56 = {"prefix_tuning", {{"num_virtual_tokens", "56"}}};

static const double rates[] = {2e-3, 6e-3, 1.8e-2, 0}, whole_rates[] = {5e-4, 1e-3, 2e-3, 0},
                    prefix_rates[] = {3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1, 0}, bottleneck_rates[] = {2e-3, 6e-3, 1.8e-2, 5.4e-2, 0};
static const cb_measure measures[] = {{"right answers", "%", .scale = 100, .digits = 1}, {0}};
static const cb_arm arms[] = {{"base", .settings = &none},
                              {"full fine-tuning", NULL, whole_rates, &whole},
                              {"LoRA, attention", NULL, rates, &lora_attention},
                              {"LoRA, MLP", NULL, rates, &lora_mlp},
                              {"LoRA, attention and MLP", NULL, rates, &lora_both},
                              {"series, after MLP", NULL, bottleneck_rates, &series_mlp},
                              {"series, after attention", NULL, bottleneck_rates, &series_attention},
                              {"parallel, MLP", NULL, bottleneck_rates, &parallel},
                              {"prefix, 10 tokens", NULL, prefix_rates, &prefix10},
                              {"prefix, 56 tokens", NULL, prefix_rates, &prefix56},
                              {0}};
#define RIGHT "right answers"
static const cb_comparison comparisons[] = {
    {"adapters of 2 % reach full fine-tuning less two points", RIGHT, "LoRA, attention and MLP", "full fine-tuning", -2, NULL},
    {"adapters of 2 % reach full fine-tuning less two points", RIGHT, "parallel, MLP", "full fine-tuning", -2, NULL},
    {"LoRA beats prefixes", RIGHT, "LoRA, attention and MLP", "prefix, 10 tokens", 0, "46.9 against 35.0 (7B)"},
    {"parallel beats prefixes", RIGHT, "parallel, MLP", "prefix, 10 tokens", 0, "46.4 against 35.0 (7B)"},
    {"series beats prefixes", RIGHT, "series, after MLP", "prefix, 10 tokens", 0, "44.6 against 35.0 (7B)"},
    {"LoRA beats prefixes with as many numbers", RIGHT, "LoRA, attention and MLP", "prefix, 56 tokens", 0, NULL},
    {"parallel is no worse than series", RIGHT, "parallel, MLP", "series, after MLP", -1, "46.4 against 44.6 (7B)"},
    {"series: after the MLP beats after attention", RIGHT, "series, after MLP", "series, after attention", 0, "best placement"},
    {"LoRA: attention and MLP beats attention alone", RIGHT, "LoRA, attention and MLP", "LoRA, attention", 0, "best placement"},
    {0}};

/* ---- problems ---- */

typedef struct problem {
    char *prompt, *equation;
    double numbers[MOST_NUMBERS], answer;
    int count;
} problem;

typedef struct problems {
    problem *items;
    size_t count, capacity;
} problems;

static void free_problems(problems *all)
{
    for (size_t i = 0; i < all->count; i++) {
        cb_free(all->items[i].prompt);
        cb_free(all->items[i].equation);
    }
    cb_free(all->items);
    *all = (problems){0};
}

/* The text with its numbers as letters. */
static bool put_text(cb_string *out, const char *text, problem *p)
{
    while (*text) {
        char *end = NULL;
        double value = isdigit((unsigned char)*text) ? strtod(text, &end) : 0;
        if (!isdigit((unsigned char)*text) || p->count == MOST_NUMBERS) {
            if (!cb_string_append(out, text++, 1))
                return false;
            continue;
        }
        p->numbers[p->count] = value;
        if (!cb_string_printf(out, "%c", 'A' + p->count++))
            return false;
        text = end;
    }
    return cb_string_puts(out, "\nThe answer is");
}

/* "X=((22.0-14.0)/4.0)" as " ( A - B ) / C", without brackets around all of it; *whole: every number is one of the text. */
static bool put_equation(cb_string *out, const char *text, const problem *p, bool *whole_)
{
    bool used[MOST_NUMBERS] = {0};
    *whole_ = true;
    for (text = strchr(text, '=') ? strchr(text, '=') + 1 : text; *text;) {
        char *end = NULL;
        double value = strtod(text, &end);
        int slot = -1;
        if (!isdigit((unsigned char)*text)) {
            if (strchr("+-*/()", *text) && !cb_string_printf(out, " %c", *text))
                return false;
            text++;
            continue;
        }
        for (int i = 0; i < p->count && slot < 0; i++)
            if (!used[i] && fabs(p->numbers[i] - value) <= 1e-6 * fabs(value))
                slot = i;
        *whole_ = *whole_ && slot >= 0;
        if (slot >= 0)
            used[slot] = true;
        if (!cb_string_printf(out, " %c", slot < 0 ? '?' : 'A' + slot))
            return false;
        text = end;
    }
    int depth = 0;
    bool around = out->length > 4 && out->data[1] == '(';
    for (size_t i = 0; around && i < out->length; i++) {
        depth += (out->data[i] == '(') - (out->data[i] == ')');
        around = depth > 0 || i == 0 || i + 1 == out->length;
    }
    if (around) {
        memmove(out->data, out->data + 2, out->length - 4);
        out->length -= 4;
        out->data[out->length] = '\0';
    }
    return true;
}

static bool add(problems *all, const char *text, const char *equation, double answer)
{
    cb_string prompt = {0}, target = {0};
    problem p = {.answer = answer};
    bool fits = false;
    bool ok = put_text(&prompt, text, &p) && put_equation(&target, equation, &p, &fits) &&
              cb_grow(&all->items, &all->capacity, all->count + 1, sizeof *all->items);
    if (ok && fits && target.length) {
        p.prompt = prompt.data;
        p.equation = target.data;
        all->items[all->count++] = p;
        return true;
    }
    cb_string_free(&prompt);
    cb_string_free(&target);
    return ok;
}

/* In quick runs, and where there is no data. */
static bool made_up(problems *all, int n)
{
    bool ok = true;
    for (int i = 0; ok && i < n; i++) {
        char text[128], equation[32];
        int a = 2 + i % 7, b = 3 + i % 5;
        snprintf(text, sizeof text, "There are %d boxes with %d apples %s .", a, b, i % 2 ? "in each" : "more");
        snprintf(equation, sizeof equation, "X=%d%c%d", a, i % 2 ? '*' : '+', b);
        ok = add(all, text, equation, i % 2 ? a * b : a + b);
    }
    return ok;
}

static bool read_problems(problems *all, const char *data, const char *file)
{
    char *path = cb_path_join(data, file);
    size_t length = 0;
    char *text = path ? cb_archive_read(path, NULL, 0, &length) : NULL;
    json_t *list = text ? json_loadb(text, length, 0, NULL) : NULL;
    bool ok = json_is_array(list) || (text && (cb_fail(CB_ERR_FORMAT, "%s: expected a JSON array", path), false));
    for (size_t i = 0; ok && i < json_array_size(list); i++) {
        const json_t *one = json_array_get(list, i);
        const char *problem_text = json_string_value(json_object_get(one, "original_text"));
        const char *equation = json_string_value(json_object_get(one, "equation"));
        ok = !problem_text || !equation || add(all, problem_text, equation, json_number_value(json_object_get(one, "ans")));
    }
    json_decref(list);
    cb_free(text);
    cb_free(path);
    return ok;
}

/* MAWPS's own test part; every tenth problem of the training part is for validation. */
static bool load(const cb_run *run, bool test, problems *all)
{
    *all = (problems){0};
    if (run->quick || !run->data)
        return made_up(all, test ? 4 : 40);
    return read_problems(all, run->data,
                         test ? "reasoning/llm-adapters/mawps/testset.json" : "reasoning/llm-adapters/mawps/trainset.json.gz");
}

static bool prepare(const cb_run *run)
{
    problems all;
    char *path = cb_path_join(run->shared, "train.jsonl");
    bool ok = path && load(run, false, &all);
    cb_writer *w = ok ? cb_writer_open(path) : NULL;
    ok = w;
    for (size_t i = 0; ok && i < all.count; i++) {
        if (i % 10 == 9)
            continue;
        json_t *line = json_pack("{s:s, s:s}", "prompt", all.items[i].prompt, "completion", all.items[i].equation);
        char *text = line ? json_dumps(line, JSON_COMPACT) : NULL;
        ok = text ? cb_writer_printf(w, "%s\n", text) : cb_fail(CB_ERR_MEMORY, "no memory for JSON") == CB_OK;
        free(text);
        json_decref(line);
    }
    free_problems(&all);
    cb_free(path);
    if (ok)
        return cb_writer_commit(w);
    cb_writer_abort(w);
    return false;
}

/* ---- what an equation gives ---- */

typedef struct reading {
    const char *at;
    const problem *p;
    bool wrong;
    int depth;
} reading;

static void skip_blanks(reading *r)
{
    while (*r->at == ' ')
        r->at++;
}

static double sum(reading *r);

static double atom(reading *r)
{
    skip_blanks(r);
    char c = *r->at;
    if (c == '(' && r->depth < 16) {
        r->at++;
        r->depth++;
        double value = sum(r);
        r->depth--;
        skip_blanks(r);
        r->wrong = r->wrong || *r->at != ')';
        r->at += *r->at == ')';
        return value;
    }
    if (c >= 'A' && c < 'A' + r->p->count) {
        r->at++;
        return r->p->numbers[c - 'A'];
    }
    r->wrong = true;
    return 0;
}

static double product(reading *r)
{
    double value = atom(r);
    for (skip_blanks(r); !r->wrong && (*r->at == '*' || *r->at == '/'); skip_blanks(r)) {
        char operation = *r->at++;
        double other = atom(r);
        value = operation == '*' ? value * other : value / other;
    }
    return value;
}

static double sum(reading *r)
{
    double value = product(r);
    for (skip_blanks(r); !r->wrong && (*r->at == '+' || *r->at == '-'); skip_blanks(r)) {
        char operation = *r->at++;
        double other = product(r);
        value = operation == '+' ? value + other : value - other;
    }
    return value;
}

static bool is_right(const problem *p, const char *text)
{
    reading r = {.at = text, .p = p};
    double value = sum(&r);
    skip_blanks(&r);
    return !r.wrong && (!*r.at || *r.at == '\n') && fabs(value - p->answer) <= 1e-3;
}

/* ---- runs ---- */

static bool judge(const cb_run *run, cb_model *model, const cb_tokenizer *tokenizer, cb_outcome *outcome)
{
    problems all;
    double items[MOST_JUDGED];
    size_t n = 0;
    cb_generate_options o = {0};
    cb_generation out = {0};
    bool ok = load(run, !run->validation, &all) && cb_options_init(cb_generate_option_table, &o) && cb_string_list_add(&o.stop, "\n");
    o.max_new_tokens = 24;
    o.temperature = 0;
    for (size_t i = 0; ok && i < all.count && n < MOST_JUDGED; i++) {
        if (run->validation && i % 10 != 9)
            continue;
        ok = cb_generate(model, tokenizer, all.items[i].prompt, &o, NULL, NULL, &out);
        items[n++] = ok && is_right(&all.items[i], out.text.data ? out.text.data : "");
    }
    cb_generation_free(&out);
    cb_options_free(cb_generate_option_table, &o);
    free_problems(&all);
    return ok && cb_outcome_items(outcome, RIGHT, items, n);
}

static cb_adapter *attach(const cb_run *run, cb_model *model)
{
    const plan *p = run->arm->settings;
    cb_adapter *adapter = cb_adapter_new(p->kind, "default");
    bool ok = adapter;
    for (int i = 0; ok && p->options[i][0]; i++)
        ok = cb_adapter_set(adapter, p->options[i][0], p->options[i][1]);
    if (ok && cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), run->seed + 1))
        return adapter;
    cb_adapter_free(adapter);
    return NULL;
}

static bool run_arm(const cb_run *run, cb_outcome *outcome)
{
    const plan *p = run->arm->settings;
    char *base = experiment_base(), *text = cb_path_join(run->shared, "train.jsonl");
    cb_tokenizer *tokenizer = base && text ? cb_tokenizer_load(base) : NULL;
    cb_model *model = tokenizer ? cb_model_load(base, .keep_weights = !p->kind) : NULL;
    cb_adapter *adapter = model && p->kind && *p->kind ? attach(run, model) : NULL;
    const experiment_training t = {.text = text,
                                   .output = run->directory,
                                   .steps = run->quick ? 2 : STEPS,
                                   .batch_size = 8,
                                   .sequence_length = 128,
                                   .learning_rate = run->value,
                                   .seed = run->seed + 1,
                                   .whole = !p->kind};
    bool still = p->kind && !*p->kind;
    bool ok = model && cb_ok() && (still || experiment_train(model, adapter, tokenizer, &t)) && judge(run, model, tokenizer, outcome);
    cb_outcome_parameters(outcome, still || !model ? 0 : adapter ? cb_adapter_parameter_count(adapter) : cb_model_parameter_count(model));
    cb_adapter_free(adapter);
    cb_model_free(model);
    cb_tokenizer_free(tokenizer);
    cb_free(text);
    cb_free(base);
    return ok;
}

static const char *const data[] = {"reasoning", NULL};

const cb_experiment experiment_llm_adapters = {.name = "llm-adapters",
                                               .system = 41,
                                               .title = "LLM-Adapters: prefix, series, parallel and LoRA on a decoder",
                                               .claim = "With the right placement small adapters reach full fine-tuning on math word "
                                                        "problems; LoRA and parallel adapters beat series ones, and these beat "
                                                        "prefixes.",
                                               .setting = "models/sprig-5m writes the equations of MAWPS's problems (numbers as letters), "
                                                          "300 steps of 8 rows of 128 tokens, about 86,000 trained numbers; "
                                                          "the answers of MAWPS's 238 test problems.",
                                               .data = data,
                                               .seeds = 3,
                                               .measures = measures,
                                               .arms = arms,
                                               .comparisons = comparisons,
                                               .prepare = prepare,
                                               .run = run_arm};
