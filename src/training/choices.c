/* choices.c: multiple choice: which of some continuations of a prompt a model finds likeliest. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cambium/files.h"
#include "cambium/training.h"

/* A sequence that goes through the model: of one choice, or of a question whose choices differ in their last token. */
typedef struct row {
    int32_t *ids;
    size_t count;
    size_t first; /* the first token that is of the choice */
    size_t question, choice;
    bool shared; /* of all choices; their last tokens are `last` */
    int32_t *last;
} row;

typedef struct rows {
    row *list;
    size_t count, capacity;
} rows;

static void free_rows(rows *r)
{
    for (size_t i = 0; i < r->count; i++) {
        cb_free(r->list[i].ids);
        cb_free(r->list[i].last);
    }
    cb_free(r->list);
}

static row *add_row(rows *r, const int32_t *ids, size_t count)
{
    if (!cb_grow(&r->list, &r->capacity, r->count + 1, sizeof *r->list))
        return NULL;
    row *new = &r->list[r->count++];
    *new = (row){.ids = cb_alloc((count ? count : 1) * sizeof *ids), .count = count};
    if (!new->ids)
        return NULL;
    memcpy(new->ids, ids, count * sizeof *ids);
    return new;
}

/* ---- questions to rows ---- */

/* How many tokens two sequences begin with alike. */
static size_t common(const cb_encoding *a, const cb_encoding *b)
{
    size_t n = 0;
    while (n < a->count && n < b->count && a->ids[n] == b->ids[n])
        n++;
    return n;
}

static bool encode(const cb_tokenizer *tokenizer, const char *prompt, const char *choice, cb_encoding *out)
{
    cb_string text = {0};
    bool ok =
        cb_string_puts(&text, prompt) && cb_string_puts(&text, choice) && cb_tokenizer_encode(tokenizer, text.data, text.length, true, out);
    cb_string_free(&text);
    return ok;
}

/* Tokens that a post-processor adds at the end are none of the choice. */
static void drop_end(cb_encoding *e)
{
    while (e->count > 0 && e->special[e->count - 1])
        e->count--;
}

static bool add_question(rows *r, const cb_encoding *prompt, const cb_encoding *choices, const cb_choice_question *q, size_t index)
{
    bool shared = true;
    size_t length = choices[0].count;
    for (size_t c = 0; c < q->count; c++)
        shared = shared && choices[c].count == length && length > 1 && common(&choices[c], &choices[0]) >= length - 1;
    for (size_t c = 0; c < (shared ? 1 : q->count); c++) {
        size_t first = shared ? length - 1 : common(prompt, &choices[c]);
        if (first == 0 || first >= choices[c].count)
            return cb_fail(CB_ERR_ARGUMENT, "question %zu: \"%.40s\": the tokenizer finds no token of it after the prompt", index + 1,
                           q->choices[c]) == CB_OK;
        row *new = add_row(r, choices[c].ids, choices[c].count - 1); /* nothing is predicted from the last one */
        if (!new)
            return false;
        new->first = first;
        new->question = index;
        new->choice = c;
        new->shared = shared;
        new->last = cb_alloc((shared ? q->count : 1) * sizeof *new->last);
        for (size_t k = 0; new->last &&k < (shared ? q->count : 1); k++)
            new->last[k] = choices[shared ? k : c].ids[choices[shared ? k : c].count - 1];
        if (!new->last)
            return false;
    }
    return true;
}

static bool make_rows(rows *r, const cb_tokenizer *tokenizer, const cb_choice_question *questions, size_t n)
{
    size_t most = 0;
    for (size_t i = 0; i < n; i++) {
        if (questions[i].count < 2 || questions[i].answer >= questions[i].count)
            return cb_fail(CB_ERR_ARGUMENT, "question %zu: found %zu choices and answer %zu, expected at least 2 and one of them", i + 1,
                           questions[i].count, questions[i].answer) == CB_OK;
        if (questions[i].condition_count != questions[0].condition_count)
            return cb_fail(CB_ERR_ARGUMENT, "question %zu: found %zu conditions, expected %zu as of the first", i + 1,
                           questions[i].condition_count, questions[0].condition_count) == CB_OK;
        most = questions[i].count > most ? questions[i].count : most;
    }
    cb_encoding *e = cb_calloc(most + 1, sizeof *e);
    bool ok = e;
    for (size_t i = 0; ok && i < n; i++) {
        const cb_choice_question *q = &questions[i];
        ok = encode(tokenizer, q->prompt, "", &e[most]);
        drop_end(&e[most]);
        for (size_t c = 0; ok && c < q->count; c++) {
            ok = encode(tokenizer, q->prompt, q->choices[c], &e[c]);
            drop_end(&e[c]);
        }
        ok = ok && add_question(r, &e[most], e, q, i);
    }
    for (size_t c = 0; e && c <= most; c++)
        cb_encoding_free(&e[c]);
    cb_free(e);
    return ok;
}

/* ---- scores ---- */

/* scores: a place for each choice of each question; offsets: where a question's begin. */
typedef struct scoring {
    cb_model *model;
    const cb_choice_question *questions;
    double *scores;
    size_t *offsets;
} scoring;

static double log_sum(const float *logits, int64_t n)
{
    float most = logits[0];
    for (int64_t i = 1; i < n; i++)
        most = logits[i] > most ? logits[i] : most;
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += exp((double)logits[i] - (double)most);
    return (double)most + log(sum);
}

/* Adds the log-probabilities of what follows each of the positions of interest; logits are those positions', row by row. */
static bool add_scores(const scoring *s, const row *list, size_t count, const cb_tensor *logits)
{
    int64_t vocabulary = logits->shape[1];
    const float *at = logits->data;
    for (size_t i = 0; i < count; i++) {
        const row *r = &list[i];
        double *scores = s->scores + s->offsets[r->question];
        for (size_t t = r->first - 1; t < r->count; t++, at += vocabulary) {
            double total = log_sum(at, vocabulary);
            if (!isfinite(total))
                return cb_fail(CB_ERR_NUMERIC, "question %zu: the model's logits are no finite numbers", r->question + 1) == CB_OK;
            if (r->shared)
                for (size_t c = 0; c < s->questions[r->question].count; c++)
                    scores[c] = (double)at[r->last[c]] - total;
            else
                scores[r->choice] += (double)at[t + 1 < r->count ? r->ids[t + 1] : r->last[0]] - total;
        }
    }
    return true;
}

/* Copies what is known of a question into row `at`, where anything is. */
static void put_conditions(const cb_choice_question *q, size_t at, cb_tensor *conditions)
{
    if (conditions)
        memcpy((float *)conditions->data + at * q->condition_count, q->conditions, q->condition_count * sizeof(float));
}

/* Rows of different lengths, padded at their ends. */
static bool score_batch(const scoring *s, const row *list, size_t count)
{
    size_t longest = 0, wanted = 0;
    for (size_t i = 0; i < count; i++) {
        longest = list[i].count > longest ? list[i].count : longest;
        wanted += list[i].count - (list[i].first - 1);
    }
    cb_tensor *ids = cb_zeros(CB_I32, (int64_t)count, (int64_t)longest), *segments = cb_zeros(CB_I32, (int64_t)count, (int64_t)longest);
    cb_tensor *places = cb_empty(CB_I32, (int64_t)wanted);
    cb_tensor *tasks = cb_empty(CB_I32, (int64_t)count), *place_tasks = cb_empty(CB_I32, (int64_t)wanted);
    int64_t known = (int64_t)s->questions[0].condition_count;
    cb_tensor *conditions = known ? cb_empty(CB_F32, (int64_t)count, known) : NULL;
    cb_tensor *place_conditions = known ? cb_empty(CB_F32, (int64_t)wanted, known) : NULL;
    if (!cb_ok())
        return false;
    size_t k = 0;
    bool several = false;
    for (size_t i = 0; i < count; i++) {
        const cb_choice_question *q = &s->questions[list[i].question];
        int32_t task = q->task;
        put_conditions(q, i, conditions);
        ((int32_t *)tasks->data)[i] = task;
        several |= task != 0;
        memcpy((int32_t *)ids->data + i * longest, list[i].ids, list[i].count * sizeof(int32_t));
        for (size_t t = list[i].count; t < longest; t++)
            ((int32_t *)segments->data)[i * longest + t] = -1;
        for (size_t t = list[i].first - 1; t < list[i].count; t++) {
            ((int32_t *)place_tasks->data)[k] = task;
            put_conditions(q, k, place_conditions);
            ((int32_t *)places->data)[k++] = (int32_t)(i * longest + t);
        }
    }
    cb_context ctx = {.segments = segments, .tasks = several ? tasks : NULL, .conditions = conditions};
    cb_tensor *hidden = cb_model_hidden(s->model, ids, &ctx);
    hidden = hidden ? cb_reshape(hidden, -1, cb_model_width(s->model)) : NULL;
    cb_context head = {.tasks = several ? place_tasks : NULL, .conditions = place_conditions}; /* a row is a place there */
    cb_tensor *logits = cb_cast(cb_model_head(s->model, cb_index_select(hidden, 0, places), &head), CB_F32);
    return logits && add_scores(s, list, count, logits);
}

static int by_length(const void *a, const void *b)
{
    const row *x = a, *y = b;
    if (x->count != y->count)
        return x->count < y->count ? -1 : 1;
    return x->question != y->question ? (x->question < y->question ? -1 : 1) : x->choice < y->choice ? -1 : x->choice > y->choice;
}

static bool score(const scoring *s, rows *r, int64_t batch_size)
{
    qsort(r->list, r->count, sizeof *r->list, by_length);
    bool ok = true;
    for (size_t i = 0; ok && i < r->count; i += (size_t)batch_size) {
        size_t count = r->count - i < (size_t)batch_size ? r->count - i : (size_t)batch_size;
        cb_scope *scope = cb_scope_open();
        if (scope) {
            cb_no_grad ok = score_batch(s, r->list + i, count);
            cb_scope_close(scope);
        }
        ok = ok && scope && cb_file_maps_check();
        if (ok && cb_interrupted())
            ok = cb_fail(CB_ERR_INTERRUPTED, "interrupted after %zu of %zu rows", i + count, r->count) == CB_OK;
    }
    return ok;
}

static void judge(const scoring *s, size_t n, size_t *chosen, cb_choice_result *result)
{
    size_t right = 0, right_norm = 0;
    for (size_t i = 0; i < n; i++) {
        const cb_choice_question *q = &s->questions[i];
        const double *scores = s->scores + s->offsets[i];
        size_t best = 0, best_norm = 0;
        for (size_t c = 1; c < q->count; c++) {
            best = scores[c] > scores[best] ? c : best;
            double norm = scores[c] / (double)strlen(q->choices[c]), norm_best = scores[best_norm] / (double)strlen(q->choices[best_norm]);
            best_norm = norm > norm_best ? c : best_norm;
        }
        right += best == q->answer;
        right_norm += best_norm == q->answer;
        if (chosen)
            chosen[i] = best;
    }
    result->accuracy = n ? (double)right / (double)n : (double)NAN;
    result->accuracy_norm = n ? (double)right_norm / (double)n : (double)NAN;
    result->questions = n;
}

bool cb_evaluate_choices(cb_model *model, const cb_tokenizer *tokenizer, const cb_choice_question *questions, size_t n, int64_t batch_size,
                         size_t *chosen, cb_choice_result *result)
{
    if (cb_model_head_kind(model) != CB_HEAD_CAUSAL_LM)
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: predicts no next token, which choices are judged by", cb_model_directory(model)) == CB_OK;
    *result = (cb_choice_result){0};
    double begin = cb_now();
    rows r = {0};
    scoring s = {.model = model, .questions = questions, .offsets = cb_calloc(n + 1, sizeof *s.offsets)};
    for (size_t i = 0; s.offsets && i < n; i++)
        s.offsets[i + 1] = s.offsets[i] + questions[i].count;
    s.scores = s.offsets ? cb_calloc(s.offsets[n] + 1, sizeof *s.scores) : NULL;
    bool ok = s.scores && make_rows(&r, tokenizer, questions, n) && score(&s, &r, batch_size);
    if (ok)
        judge(&s, n, chosen, result);
    result->seconds = cb_now() - begin;
    free_rows(&r);
    cb_free(s.scores);
    cb_free(s.offsets);
    return ok;
}
