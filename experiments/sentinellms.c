/* sentinellms.c: SentinelLMs (57).  arXiv:2312.17342.
 *
 * An encoder is fine-tuned on sentences in clear, and its conversions on the same sentences under pseudonyms: does it cost anything?  And what do
 * the pseudonyms hide?  Three attacks by one who has the public model and what the server has, and no key:
 *
 *     centring    rows less their mean, matched by direction to those of the public embedding
 *     distances   each row's distances to all rows, as quantiles, matched likewise: an isometry keeps them
 *     frequency   the n-th most frequent hash of the training text is taken for the n-th most frequent token of other text
 *
 * The first two count rows that are matched to their own token, the third tokens of the text. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "experiments/encoders.h"
#include "experiments/label_tasks.h"
#include "experiments/languages.h"

typedef struct plan {
    bool converted;
    cb_sentinel_options how;
} plan;

#define CONVERTED(h, s, t, r)                                                                                                              \
    {                                                                                                                                      \
        .converted = true, .how = {.hash = (h), .shuffle = (s), .transform = CB_SENTINEL_##t, .rounds = (r) }                              \
    }
static const plan plain = {.converted = false}, hash_only = CONVERTED(true, false, PLAIN, 1), shuffled = CONVERTED(true, true, PLAIN, 1),
                  ones1 = CONVERTED(true, true, ONES, 1), ones2 = CONVERTED(true, true, ONES, 2), ones3 = CONVERTED(true, true, ONES, 3),
                  general1 = CONVERTED(true, true, GENERAL, 1), general2 = CONVERTED(true, true, GENERAL, 2);
#define NOISY(n)                                                                                                                           \
    {                                                                                                                                      \
        .converted = true, .how = {.hash = true, .shuffle = true, .transform = CB_SENTINEL_PLAIN, .rounds = 1, .noise = (n) }              \
    }
static const plan noisy = NOISY(0.9), fresh = NOISY(1);

static const char *const tasks[] = {"sst2", "qc"};
enum { TASKS = 2, MOST_JUDGED = 900 };
static const char *const accuracies[] = {"SST-2", "questions"};

static const double rates[] = {3e-4, 1e-3, 3e-3, 0};
static const cb_measure measures[] = {{"SST-2", "%", .scale = 100, .digits = 1},
                                      {"questions", "%", .scale = 100, .digits = 1},
                                      {"SST-2 with another key", "%", .scale = 100, .digits = 1},
                                      {"found by centring", "% of rows", .scale = 100, .digits = 1},
                                      {"found by distances", "% of rows", .scale = 100, .digits = 1},
                                      {"found by frequency", "% of tokens", .scale = 100, .digits = 1},
                                      {0}};
#define PAPERS "the paper's, 2 rounds"
static const cb_arm arms[] = {{"in clear", NULL, rates, &plain},
                              {"hashes", NULL, rates, &hash_only},
                              {"hashes, shuffled", NULL, rates, &shuffled},
                              {"the paper's, 1 round", NULL, rates, &ones1},
                              {PAPERS, NULL, rates, &ones2},
                              {"the paper's, 3 rounds", NULL, rates, &ones3},
                              {"any direction, 1 round", NULL, rates, &general1},
                              {"any direction, 2 rounds", NULL, rates, &general2},
                              {"nine tenths drawn anew", NULL, rates, &noisy},
                              {"drawn anew", NULL, rates, &fresh},
                              {0}};
static const cb_comparison comparisons[] = {
    {"parity on sentiment: no worse by a point", "SST-2", PAPERS, "in clear", -1, "parity on GLUE, CoNLL-2003, XNLI"},
    {"and no better by one", "SST-2", "in clear", PAPERS, -1, NULL},
    {"parity on questions: no worse by a point", "questions", PAPERS, "in clear", -1, "parity"},
    {"and no better by one", "questions", "in clear", PAPERS, -1, NULL},
    {"a transform that the norm does not undo: no worse by a point (ours)", "SST-2", "any direction, 2 rounds", "in clear", -1, NULL},
    {"the same on questions (ours)", "questions", "any direction, 2 rounds", "in clear", -1, NULL},
    {"rows drawn anew, which geometry says nothing of: no worse by a point (ours)", "SST-2", "drawn anew", "in clear", -1, NULL},
    {"the same on questions (ours)", "questions", "drawn anew", "in clear", -1, NULL},
    {0}};

/* ---- texts ---- */

static bool put_example(cb_writer *w, const label_data *d, const label_example *example, const cb_tokenizer *tokenizer, const plan *p,
                        const char *key)
{
    size_t length = strlen(example->prompt) - strlen(d->task->question);
    cb_string text = {0};
    bool ok = p->converted ? cb_sentinel_encode(tokenizer, example->prompt, length, key, strlen(key), &p->how, &text)
                           : cb_string_append(&text, example->prompt, length);
    json_t *line = ok ? json_pack("{s:s%, s:s}", "text", text.data, text.length, "label", d->task->words[example->label] + 1) : NULL;
    char *dumped = line ? json_dumps(line, JSON_COMPACT) : NULL;
    ok = dumped && cb_writer_printf(w, "%s\n", dumped);
    free(dumped);
    json_decref(line);
    cb_string_free(&text);
    return ok;
}

static bool write_part(const char *path, const label_data *d, const label_part *part, const cb_tokenizer *tokenizer, const plan *p,
                       const char *key)
{
    cb_writer *w = cb_writer_open(path);
    bool ok = w;
    for (size_t i = 0; ok && i < part->count; i++)
        ok = put_example(w, d, &part->items[i], tokenizer, p, key);
    if (ok)
        return cb_writer_commit(w);
    cb_writer_abort(w);
    return false;
}

/* ---- one task ---- */

typedef struct place {
    const cb_run *run;
    const plan *plan;
    char *base, *model, key[64]; /* model: the base, or its conversion */
    cb_tokenizer *clear, *own;   /* the base's, and the model's */
} place;

static bool judge_with(const place *p, cb_model *model, const encoder_task *task, const label_data *d, const char *key, const char *measure,
                       cb_outcome *outcome)
{
    double items[MOST_JUDGED];
    char *path = cb_path_join(p->run->directory, "judged.jsonl");
    bool ok = path && write_part(path, d, p->run->validation ? &d->validation : &d->test, p->clear, p->plan, key);
    size_t count = ok ? encoder_judge(model, p->own, task, path, MOST_JUDGED, items) : 0;
    cb_free(path);
    return count && cb_outcome_items(outcome, measure, items, count);
}

static bool run_task(const place *p, int index, cb_outcome *outcome)
{
    const cb_run *run = p->run;
    label_data d;
    cb_string_list labels = {0};
    char *text = cb_path_join(run->directory, "train.jsonl"), *output = cb_path_join(run->directory, tasks[index]);
    bool ok = text && output && label_data_load(&d, tasks[index], run->data, run->quick ? 20 : 6000, run->quick ? 10 : MOST_JUDGED);
    for (size_t i = 0; ok && d.task->words[i]; i++)
        ok = cb_string_list_add(&labels, d.task->words[i] + 1);
    const encoder_task task = {.objective = CB_OBJECTIVE_SEQUENCE_CLASSIFICATION, .labels = &labels, .sequence_length = 64};
    ok = ok && write_part(text, &d, &d.train, p->clear, p->plan, p->key);
    cb_model *model = ok ? encoder_open(p->model, &task, 10 * run->seed + 1) : NULL;
    const encoder_training t = {.text = text,
                                .output = output,
                                .steps = run->quick ? 2 : 500,
                                .batch_size = run->quick ? 2 : 16,
                                .learning_rate = run->value,
                                .seed = 10 * run->seed + 1};
    ok = model && encoder_train(model, NULL, p->own, &task, &t) && judge_with(p, model, &task, &d, p->key, accuracies[index], outcome);
    if (index == 0)
        ok = ok && judge_with(p, model, &task, &d, p->plan->converted ? "somebody else's" : p->key, "SST-2 with another key", outcome);
    cb_outcome_parameters(outcome, ok ? cb_model_parameter_count(model) : 0);
    cb_model_free(model);
    cb_string_list_free(&labels);
    cb_free(text);
    cb_free(output);
    label_data_free(&d);
    return ok;
}

/* ---- attacks on the embedding ---- */

static cb_tensor *embedding_of(const char *directory, cb_model **model)
{
    *model = cb_model_load(directory, .head = CB_HEAD_NONE);
    return *model ? cb_cast(cb_layer_weight(cb_model_embedding_layer(*model), "weight"), CB_F32) : NULL;
}

/* Rows (N, W) less the mean of each, of length one. */
static cb_tensor *directions(cb_tensor *rows)
{
    cb_tensor *out = cb_empty_like(rows);
    if (out)
        memcpy(out->data, rows->data, (size_t)rows->count * sizeof(float));
    for (int64_t i = 0; out && i < out->shape[0]; i++) {
        int64_t width = out->shape[1];
        float *e = (float *)out->data + i * width;
        double mean = 0, squares = 0;
        for (int64_t k = 0; k < width; k++)
            mean += e[k] / (double)width;
        for (int64_t k = 0; k < width; k++) {
            e[k] = (float)(e[k] - mean);
            squares += (double)e[k] * e[k];
        }
        for (int64_t k = 0; k < width; k++)
            e[k] /= (float)(sqrt(squares) + 1e-12);
    }
    return out;
}

enum { QUANTILES = 64 };

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Of each row (N, W) the quantiles of its distances to all rows: (N, QUANTILES). */
static cb_tensor *profiles(cb_tensor *rows)
{
    int64_t count = rows->shape[0], width = rows->shape[1];
    cb_tensor *out = cb_empty(CB_F32, count, QUANTILES);
    float *squares = cb_alloc((size_t)count * sizeof *squares), *line = cb_alloc((size_t)count * sizeof *line);
    for (int64_t i = 0; squares && i < count; i++) {
        const float *e = (const float *)rows->data + i * width;
        squares[i] = 0;
        for (int64_t k = 0; k < width; k++)
            squares[i] += e[k] * e[k];
    }
    for (int64_t i = 0; out && squares && line && i < count; i++) {
        cb_scope *scope = cb_scope_open();
        cb_tensor *products = cb_matmul(rows, cb_reshape(cb_slice(rows, 0, i, i + 1, 1), width, 1)); /* (N, 1) */
        for (int64_t k = 0; products && k < count; k++)
            line[k] = fmaxf(0, squares[i] + squares[k] - 2 * ((const float *)products->data)[k]);
        cb_scope_close(scope);
        qsort(line, (size_t)count, sizeof *line, by_value);
        for (int64_t q = 0; q < QUANTILES; q++)
            ((float *)out->data)[i * QUANTILES + q] = sqrtf(line[(count - 1) * q / (QUANTILES - 1)]);
    }
    cb_free(squares);
    cb_free(line);
    return cb_ok() ? out : NULL;
}

/* The share of public rows (N, W), of which row i is `swapped[i]` in the hidden ones, that are nearest to it there. */
static double found(cb_tensor *public, cb_tensor *hidden, const int32_t *swapped, int32_t limit)
{
    int64_t width = public->shape[1], right = 0;
    for (int32_t i = 0; i < limit; i++) {
        const float *e = (const float *)public->data + i * width;
        double least = INFINITY;
        int32_t nearest = -1;
        for (int32_t k = 0; k < limit; k++) {
            const float *h = (const float *)hidden->data + k * width;
            double sum = 0;
            for (int64_t j = 0; j < width && sum < least; j++)
                sum += (double)(e[j] - h[j]) * (e[j] - h[j]);
            if (sum < least) {
                least = sum;
                nearest = k;
            }
        }
        right += nearest == swapped[i];
    }
    return (double)right / limit;
}

static bool attack_embedding(const place *p, const int32_t *swapped, int32_t limit, cb_outcome *outcome)
{
    cb_scope *scope = cb_scope_open();
    cb_model *public_model = NULL, *hidden_model = NULL;
    cb_tensor *public = scope ? embedding_of(p->base, &public_model) : NULL,
              *hidden = public ? embedding_of(p->model, &hidden_model) : NULL;
    cb_tensor *a = hidden ? directions(public) : NULL, *b = a ? directions(hidden) : NULL;
    bool ok = b && cb_outcome_value(outcome, "found by centring", found(a, b, swapped, limit));
    a = ok ? profiles(public) : NULL;
    b = a ? profiles(hidden) : NULL;
    ok = b && cb_outcome_value(outcome, "found by distances", found(a, b, swapped, limit));
    cb_model_free(public_model);
    cb_model_free(hidden_model);
    cb_scope_close(scope);
    return ok;
}

/* ---- the attack on the text ---- */

typedef struct ranked {
    int64_t count;
    int32_t id;
} ranked;

static int more_first(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    return x->count != y->count ? (x->count < y->count) - (x->count > y->count) : (x->id > y->id) - (x->id < y->id);
}

static bool count_tokens(const cb_tokenizer *tokenizer, const char *text, size_t length, ranked *counts)
{
    cb_encoding e = {0};
    bool ok = cb_tokenizer_encode(tokenizer, text, length, false, &e);
    for (size_t i = 0; ok && i < e.count; i++)
        counts[e.ids[i]].count++;
    cb_encoding_free(&e);
    return ok;
}

/* Frequencies the attacker knows: of English that is not the client's. */
static bool count_known(const place *p, ranked *counts)
{
    line_list lines = {0};
    bool ok = p->run->data ? language_lines(p->run->data, "eng", LANGUAGE_PRETRAINING, 2000000, &lines)
                           : count_tokens(p->clear, "the old river was good and the house was bad", 44, counts);
    for (size_t i = 0; ok && i < lines.count; i++) {
        size_t length;
        const char *line = line_at(&lines, i, &length);
        ok = count_tokens(p->clear, line, length, counts);
    }
    line_list_free(&lines);
    return ok;
}

static bool count_hidden(const place *p, ranked *counts)
{
    label_data d;
    bool ok = label_data_load(&d, tasks[0], p->run->data, p->run->quick ? 20 : 6000, 10);
    for (size_t i = 0; ok && i < d.train.count; i++)
        ok = count_tokens(p->clear, d.train.items[i].prompt, strlen(d.train.items[i].prompt) - strlen(d.task->question), counts);
    label_data_free(&d);
    return ok;
}

/* The counts of hashes are those of their tokens, so tokens stand for them here; the attacker is given ranks alone. */
static bool attack_text(const place *p, int32_t limit, cb_outcome *outcome)
{
    ranked *known = cb_calloc((size_t)limit, sizeof *known), *hidden = cb_calloc((size_t)limit, sizeof *hidden);
    bool ok = known && hidden;
    for (int32_t i = 0; ok && i < limit; i++)
        known[i].id = hidden[i].id = i;
    ok = ok && count_known(p, known) && count_hidden(p, hidden);
    int64_t all = 0, right = 0;
    if (ok) {
        qsort(known, (size_t)limit, sizeof *known, more_first);
        qsort(hidden, (size_t)limit, sizeof *hidden, more_first);
    }
    for (int32_t i = 0; ok && i < limit; i++) {
        all += hidden[i].count;
        right += hidden[i].id == known[i].id ? hidden[i].count : 0;
    }
    cb_free(known);
    cb_free(hidden);
    return ok && all && cb_outcome_value(outcome, "found by frequency", (double)right / (double)all);
}

static bool attack(const place *p, cb_outcome *outcome)
{
    int32_t limit = cb_tokenizer_id_limit(p->clear), *swapped = cb_alloc((size_t)limit * sizeof *swapped);
    bool ok = swapped && cb_sentinel_swaps(p->clear, p->key, strlen(p->key), limit, swapped);
    for (int32_t i = 0; ok && !(p->plan->converted && p->plan->how.shuffle) && i < limit; i++)
        swapped[i] = i;
    ok = ok && attack_embedding(p, swapped, limit, outcome) && attack_text(p, limit, outcome);
    cb_free(swapped);
    return ok;
}

/* ---- an arm ---- */

static bool convert(place *p)
{
    if (!p->plan->converted) {
        p->model = cb_strdup(p->base);
        return p->model;
    }
    p->model = cb_format("%s/model-%g", p->run->directory, p->run->value);
    return p->model && (cb_is_directory(p->model) || cb_sentinel_convert(p->base, p->model, p->key, strlen(p->key), &p->plan->how));
}

static bool run_arm(const cb_run *run, cb_outcome *outcome)
{
    place p = {.run = run, .plan = run->arm->settings, .base = encoder_base(run)};
    snprintf(p.key, sizeof p.key, "key number %llu of the client", (unsigned long long)run->seed);
    bool ok = p.base && convert(&p) && (p.clear = cb_tokenizer_load(p.base)) && (p.own = cb_tokenizer_load(p.model));
    for (int i = 0; ok && i < TASKS; i++)
        ok = run_task(&p, i, outcome);
    if (!run->validation)
        ok = ok && attack(&p, outcome);
    cb_tokenizer_free(p.clear);
    cb_tokenizer_free(p.own);
    cb_free(p.base);
    cb_free(p.model);
    return ok;
}

static const char *const data[] = {"text-corpora", "text-bible", "text-en", NULL};

const cb_experiment experiment_sentinellms = {
    .name = "sentinellms",
    .system = 57,
    .title = "SentinelLMs: encoders that read keyed pseudonyms of tokens",
    .claim =
        "A pre-trained encoder is converted, without training, to read hashes of tokens at shuffled places of a transformed embedding, and "
        "after ordinary fine-tuning on hashed text does what the original does in clear.",
    .setting =
        "The zoo's multilingual encoder (4 blocks of width 256), all weights fine-tuned for 500 steps of 16 sentences; SST-2 and question "
        "classes, 900 and 500 test sentences; another key and another start in each of 3 seeds. Attacks know the public model and English "
        "books, not the key.",
    .data = data,
    .seeds = 3,
    .measures = measures,
    .arms = arms,
    .comparisons = comparisons,
    .prepare = encoder_prepare,
    .run = run_arm};
