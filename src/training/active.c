/* active.c: the rounds of active adaptation: where a directory of them stands, and what comes next.
 *
 * A round is asked for once its CSV is there, and finished once its result.json is: whatever a process was at when it ended is done again, from the same
 * files with the same bits. */
#include "cambium/active.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cambium/domains.h"
#include "core/json.h"
#include "training/active.h"

enum { METHOD_LFTL, METHOD_INFORMATION, METHOD_SUPERVISED };
static const char *const method_names[] = {"lftl", "information", "supervised", NULL};

#define OPT cb_active_options
const cb_option cb_active_option_table[] = {
    CB_OPT_ENUM(OPT, method, METHOD_LFTL, method_names,
                "what is learned from the answers and the rest of the pool: all of LFTL; labels and mutual information; labels alone"),
    CB_OPT_ENUM(OPT, query, CB_QUERY_CAS, cb_query_names, "which rows are asked for"),
    CB_OPT_INT(OPT, budget, 100, 1, 1e12, "labels in all rounds together"),
    CB_OPT_INT(OPT, rounds, 10, 1, 1e6, "rounds that they are spread over"),
    CB_OPT_FLOAT(OPT, contrast, 0.03, 0, 1e3, "of cas: predictions p are carried on to p + X (p - those of the round before)"),
    CB_OPT_FLOAT(OPT, balance_weight, 0.1, 0, 1e3,
                 "of cas: how much surer rows count whose label is frequent among the surest (0: no balance)"),
    CB_OPT_INT(OPT, balance_rows, 100, 1, 1e12, "of cas: so many are the surest"),
    CB_OPT_FLOAT(OPT, information_weight, -1, -1, 1e6,
                 "of mutual information of predictions and unlabelled rows (-1: as the method has it, 0.9)"),
    CB_OPT_FLOAT(OPT, persistence_weight, -1, -1, 1e6,
                 "of the entropy with which unlabelled rows attend to labelled ones (-1: as the method has it, 1)"),
    CB_OPT_FLOAT(OPT, mixup_weight, -1, -1, 1e6, "of mixtures of labelled rows, learned after each epoch (-1: as the method has it, 1)"),
    CB_OPT_FLOAT(OPT, mixup_alpha, 0.75, 1e-6, 1e6, "of the Beta distribution that shares of mixtures are drawn from"),
    CB_OPT_FLOAT(OPT, memory_momentum, 0.9, 0, 1, "how much of a labelled row's memory is replaced at a time"),
    CB_OPT_FLOAT(OPT, base_rate, 1, 0, 1e3, "factor of the learning rate of all but the head (0.1 in LFTL)"),
    CB_OPT_END};
#undef OPT

static double weight_of(double given, double own)
{
    return given < 0 ? own : given;
}

static void choose_weights(cb_active *a)
{
    const cb_active_options *o = &a->options;
    bool whole = o->method == METHOD_LFTL;
    a->weights[ACTIVE_SUPERVISED] = 1;
    a->weights[ACTIVE_INFORMATION] = weight_of(o->information_weight, o->method == METHOD_SUPERVISED ? 0 : 0.9);
    a->weights[ACTIVE_PERSISTENCE] = weight_of(o->persistence_weight, whole);
    a->weights[ACTIVE_MIXUP] = weight_of(o->mixup_weight, whole);
}

/* ---- the pool ---- */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const active_name *)a)->name, ((const active_name *)b)->name);
}

static bool name_rows(cb_active *a)
{
    a->names = cb_calloc((size_t)a->rows + 1, sizeof *a->names);
    a->source = cb_calloc((size_t)a->rows + 1, sizeof *a->source);
    a->asked = cb_calloc((size_t)a->rows + 1, sizeof *a->asked);
    bool ok = a->names && a->source && a->asked;
    for (int64_t i = 0; ok && i < a->rows; i++) {
        char *name = cb_dataset_row_source(a->pool, i);
        a->source[i] = name;
        a->names[i] = (active_name){.name = name, .row = i};
        ok = name && (cb_utf8_valid(name, strlen(name), NULL) ||
                      cb_fail(CB_ERR_FORMAT, "%s: found a name that is not UTF-8, expected one that a table can hold", name) == CB_OK);
    }
    if (!ok)
        return false;
    qsort(a->names, (size_t)a->rows, sizeof *a->names, by_name);
    for (int64_t i = 1; i < a->rows; i++)
        if (strcmp(a->names[i - 1].name, a->names[i].name) == 0)
            return cb_fail(CB_ERR_ARGUMENT, "%s: stands twice in the pool, expected names that tell its rows apart", a->names[i].name) ==
                   CB_OK;
    return true;
}

static bool identify(cb_active *a)
{
    uint64_t rows = CB_HASH_START, labels = CB_HASH_START;
    for (int64_t i = 0; i < a->rows; i++)
        rows = cb_hash_text(cb_hash_text(rows, a->source[i]), "\n");
    for (size_t i = 0; i < a->labels.count; i++)
        labels = cb_hash_text(cb_hash_text(labels, a->labels.items[i]), "\n");
    a->identity = cb_format("%lld rows #%016llx, %zu labels #%016llx", (long long)a->rows, (unsigned long long)rows, a->labels.count,
                            (unsigned long long)labels);
    return a->identity;
}

/* ---- where it stands ---- */

static bool has(const cb_active *a, int64_t round, const char *ending)
{
    char *path = cb_active_path(a, round, ending);
    bool there = path && cb_is_file(path);
    cb_free(path);
    return there;
}

/* Another round, or the end. */
static bool begin_round(cb_active *a, int64_t round)
{
    bool more = round <= a->options.rounds && (int64_t)a->count < a->options.budget && (int64_t)a->count < a->rows;
    a->round = more ? round : round - 1;
    a->stage = more ? CB_ACTIVE_ASK : CB_ACTIVE_END;
    a->first = a->count;
    cb_free(a->directory);
    a->directory = cb_active_path(a, a->round, "");
    return a->directory;
}

static bool lacks(const cb_active *a, int64_t round, const char *what, const char *expected)
{
    return cb_fail(CB_ERR_STATE, "%s/round-%lld%s, expected %s", a->work, (long long)round, what, expected) == CB_OK;
}

/* Nothing that a person filled in is asked for anew and written over. */
static bool check_files(const cb_active *a, int64_t round, bool table, bool rows)
{
    if (table && !rows)
        return lacks(a, round, ".csv: found a table without the .safetensors beside it, which says what was asked",
                     "both or neither of them");
    return table || !has(a, round, "/result.json") || lacks(a, round, ".csv: found none, of a round that is finished", "its answers");
}

/* From a round on, before which all are finished. */
static bool find_stage(cb_active *a, int64_t round)
{
    for (; cb_ok(); round++) {
        bool table = has(a, round, ".csv"), rows = has(a, round, ".safetensors");
        if (!check_files(a, round, table, rows))
            return false;
        if (!table)
            return begin_round(a, round);
        size_t first = a->count;
        if (!cb_active_read_rows(a, round))
            return false;
        if (!has(a, round, "/result.json")) {
            a->round = round;
            a->first = first;
            a->stage = CB_ACTIVE_WAIT;
            cb_free(a->directory);
            a->directory = cb_active_path(a, round, "");
            return a->directory;
        }
        if (!cb_active_read_answers(a, round, first, NULL))
            return false;
    }
    return false;
}

static bool lock_work(cb_active *a)
{
    a->lock = cb_train_lock(a->work);
    return a->lock >= 0 ||
           cb_fail(CB_ERR_STATE, "%s: another run is at work here, expected a directory of its own, or the other one to end", a->work) ==
               CB_OK;
}

static bool copy_labels(cb_active *a, const cb_string_list *labels)
{
    bool ok = true;
    for (size_t i = 0; ok && i < labels->count; i++)
        ok = cb_string_list_add(&a->labels, labels->items[i]);
    return ok && (labels->count > 1 || cb_fail(CB_ERR_ARGUMENT, "active: found %zu labels, expected two or more", labels->count) == CB_OK);
}

static bool open_rounds(cb_active *a, const char *work, const cb_string_list *labels, const cb_active_options *o)
{
    cb_objective objective = cb_dataset_objective(a->pool);
    a->options = *o;
    a->options.batch_size = o->batch_size > 0 ? o->batch_size : 1;
    a->rows = cb_dataset_rows(a->pool);
    if (objective != CB_OBJECTIVE_IMAGE_CLASSIFICATION && objective != CB_OBJECTIVE_SEQUENCE_CLASSIFICATION)
        return cb_fail(CB_ERR_UNSUPPORTED, "active: found %s, expected images or texts with one label of several",
                       cb_objective_name(objective)) == CB_OK;
    choose_weights(a);
    return copy_labels(a, labels) && (a->work = cb_strdup(work)) && cb_directory_make(work) && lock_work(a) && name_rows(a) &&
           identify(a) && find_stage(a, 1);
}

cb_active *cb_active_open(const char *work, cb_dataset *pool, const cb_string_list *labels, const cb_active_options *options)
{
    cb_active *a = pool && cb_ok() ? cb_calloc(1, sizeof *a) : NULL;
    if (!a) {
        cb_dataset_free(pool);
        return NULL;
    }
    a->pool = pool;
    a->lock = -1;
    if (open_rounds(a, work, labels, options))
        return a;
    cb_active_free(a);
    return NULL;
}

void cb_active_free(cb_active *a)
{
    if (!a)
        return;
    cb_active_forget(a);
    for (int64_t i = 0; a->names && i < a->rows; i++)
        cb_free(a->names[i].name);
    cb_free(a->names);
    cb_free(a->source);
    cb_free(a->asked);
    cb_free(a->questions);
    cb_free(a->identity);
    cb_free(a->work);
    cb_free(a->directory);
    cb_string_list_free(&a->labels);
    cb_dataset_free(a->pool);
    if (a->lock >= 0)
        close(a->lock);
    cb_free(a);
}

/* ---- questions of the caller's ---- */

cb_active_stage_kind cb_active_stage(const cb_active *a)
{
    return a->stage;
}

int64_t cb_active_round(const cb_active *a)
{
    return a->round;
}

int64_t cb_active_asked(const cb_active *a)
{
    return (int64_t)a->count;
}

int64_t cb_active_waiting(const cb_active *a)
{
    return (int64_t)(a->count - a->first);
}

const char *cb_active_directory(const cb_active *a)
{
    return a->directory;
}

char *cb_active_questions(const cb_active *a)
{
    return cb_active_path(a, a->round, ".csv");
}

char *cb_active_learned(const cb_active *a)
{
    int64_t last = a->stage == CB_ACTIVE_END ? a->round : a->round - 1;
    return last > 0 ? cb_active_path(a, last, "") : NULL;
}

static bool expect_stage(const cb_active *a, cb_active_stage_kind stage)
{
    static const char *const names[] = {"to ask", "to read answers", "to learn", "nothing more"};
    return a->stage == stage ||
           cb_fail(CB_ERR_STATE, "active: round %lld has %s next, found %s", (long long)a->round, names[a->stage], names[stage]) == CB_OK;
}

/* ---- asking ---- */

/* (rows, K) f32 of logits. */
static float *probabilities_of(const cb_judged *judged)
{
    int64_t k = judged->labels;
    float *p = cb_alloc((size_t)(judged->rows * k) * sizeof *p);
    for (int64_t i = 0; p && i < judged->rows; i++) {
        const float *x = judged->logits + i * k;
        double most = -INFINITY, sum = 0;
        for (int64_t c = 0; c < k; c++)
            most = fmax(most, (double)x[c]);
        for (int64_t c = 0; c < k; c++)
            sum += exp((double)x[c] - most);
        for (int64_t c = 0; c < k; c++)
            p[i * k + c] = (float)(exp((double)x[c] - most) / sum);
    }
    return p;
}

static bool are_finite(const cb_active *a, const cb_judged *judged)
{
    for (int64_t i = 0; i < judged->rows; i++)
        for (int64_t c = 0; c < judged->labels; c++)
            if (!isfinite(judged->logits[i * judged->labels + c]))
                return cb_fail(CB_ERR_NUMERIC, "%s: the model answers what is no finite number", a->source[i]) == CB_OK;
    return judged->labels == (int64_t)a->labels.count ||
           cb_fail(CB_ERR_ARGUMENT, "active: the model has %lld labels, expected %zu", (long long)judged->labels, a->labels.count) == CB_OK;
}

/* What is left of the budget, spread evenly over the rounds that are left. */
static int64_t questions_now(const cb_active *a)
{
    int64_t left = a->options.budget - (int64_t)a->count, rounds = a->options.rounds - a->round + 1, n = (left + rounds - 1) / rounds;
    int64_t unasked = a->rows - (int64_t)a->count;
    return n < unasked ? n : unasked;
}

static bool choose(const cb_active *a, const cb_judged *judged, const float *probabilities, int64_t count, int64_t *chosen)
{
    const cb_query_options how = {
        .contrast = a->options.contrast, .balance_rows = a->options.balance_rows, .balance_weight = a->options.balance_weight};
    cb_rng rng = {.seed = a->options.seed, .stream = cb_hash_text(CB_HASH_START, "active.query") ^ (uint64_t)a->round};
    float *before = a->round > 1 ? cb_active_probabilities(a, a->round - 1) : NULL;
    const cb_query_pool pool = {.rows = a->rows,
                                .width = judged->width,
                                .labels = judged->labels,
                                .features = judged->features,
                                .probabilities = probabilities,
                                .before = before,
                                .asked = a->asked};
    bool ok = cb_ok() && cb_query_rows(&pool, (cb_query)a->options.query, &how, &rng, count, chosen);
    cb_free(before);
    return ok;
}

size_t cb_active_tokens(const cb_batch *batch)
{
    const int32_t *segments = batch->segments ? batch->segments->data : NULL;
    size_t count = 0;
    while ((int64_t)count < batch->ids->count && (!segments || segments[count] >= 0))
        count++;
    return count;
}

/* What a row says, as far as the model reads it. */
static bool add_text(const cb_active *a, int64_t row, const cb_tokenizer *tokenizer, cb_batch *batch, cb_string_list *texts)
{
    cb_string text = {0};
    bool ok = cb_dataset_sequential(a->pool, row, 1, batch) &&
              cb_tokenizer_decode(tokenizer, batch->ids->data, cb_active_tokens(batch), true, &text) &&
              cb_string_list_add(texts, text.data ? text.data : "");
    cb_string_free(&text);
    return ok;
}

static bool write_questions(cb_active *a, const active_question *questions, size_t count, const float *probabilities,
                            const cb_tokenizer *tokenizer)
{
    cb_string_list texts = {0};
    cb_batch batch = {0};
    bool ok = true, show = cb_dataset_objective(a->pool) == CB_OBJECTIVE_SEQUENCE_CLASSIFICATION && tokenizer;
    for (size_t i = 0; ok && show && i < count; i++)
        ok = add_text(a, questions[i].row, tokenizer, &batch, &texts);
    bool pictures = cb_dataset_objective(a->pool) == CB_OBJECTIVE_IMAGE_CLASSIFICATION;
    ok = ok && (!(show || pictures) || cb_active_write_page(a, questions, count, probabilities, &texts)) &&
         cb_active_write_csv(a, questions, count, probabilities, &texts, false);
    cb_batch_free(&batch);
    cb_string_list_free(&texts);
    return ok;
}

static bool ask(cb_active *a, const cb_judged *judged, const cb_tokenizer *tokenizer)
{
    int64_t count = questions_now(a);
    float *probabilities = probabilities_of(judged);
    int64_t *chosen = probabilities ? cb_alloc((size_t)count * sizeof *chosen) : NULL;
    active_question *questions = chosen ? cb_calloc((size_t)count, sizeof *questions) : NULL;
    bool ok = questions && choose(a, judged, probabilities, count, chosen);
    for (int64_t i = 0; ok && i < count; i++)
        questions[i] = (active_question){.row = chosen[i], .label = -1};
    ok = ok && cb_active_write_rows(a, chosen, count, probabilities) &&
         write_questions(a, questions, (size_t)count, probabilities, tokenizer) && cb_active_read_rows(a, a->round);
    if (ok)
        a->stage = CB_ACTIVE_WAIT;
    cb_free(questions);
    cb_free(chosen);
    cb_free(probabilities);
    return ok;
}

bool cb_active_ask(cb_active *a, cb_model *model, const cb_tokenizer *tokenizer)
{
    cb_judged judged = {0};
    bool ok = model && expect_stage(a, CB_ACTIVE_ASK) && cb_judge_rows(model, a->pool, a->options.batch_size, 0, &judged) &&
              are_finite(a, &judged) && ask(a, &judged, tokenizer);
    cb_judged_free(&judged);
    return ok;
}

/* ---- answers ---- */

bool cb_active_answer(cb_active *a, const int32_t *labels)
{
    if (!expect_stage(a, CB_ACTIVE_WAIT) || !cb_active_read_answers(a, a->round, a->first, labels))
        return false;
    float *probabilities = cb_active_probabilities(a, a->round);
    const cb_string_list none = {0};
    bool ok = probabilities && cb_active_write_csv(a, a->questions + a->first, a->count - a->first, probabilities, &none, true);
    cb_free(probabilities);
    return ok;
}

bool cb_active_read(cb_active *a)
{
    if (!expect_stage(a, CB_ACTIVE_WAIT) || !cb_active_read_answers(a, a->round, a->first, NULL) || !cb_active_check_contents(a))
        return false;
    a->stage = CB_ACTIVE_LEARN;
    return true;
}

/* ---- a finished round ---- */

bool cb_active_finish(cb_active *a, double accuracy)
{
    int64_t labelled = 0;
    if (!expect_stage(a, CB_ACTIVE_LEARN))
        return false;
    for (size_t i = 0; i < a->count; i++)
        labelled += a->questions[i].label >= 0;
    cb_active_forget(a);
    json_t *result = json_object();
    char *path = cb_active_path(a, a->round, "/result.json");
    bool ok = path && cb_json_put(result, "round", json_integer(a->round)) &&
              cb_json_put(result, "asked", json_integer((json_int_t)a->count)) && cb_json_put(result, "labelled", json_integer(labelled)) &&
              cb_json_put(result, "accuracy", isfinite(accuracy) ? json_real(accuracy) : json_null()) && cb_json_save(path, result, false);
    json_decref(result);
    cb_free(path);
    return ok && find_stage(a, a->round + 1);
}

int64_t cb_active_accuracies(const cb_active *a, int64_t most, double *accuracies, int64_t *labels)
{
    int64_t finished = a->stage == CB_ACTIVE_END ? a->round : a->round - 1;
    for (int64_t r = 0; r < finished && r < most && cb_ok(); r++) {
        char *path = cb_active_path(a, r + 1, "/result.json");
        json_t *result = path ? cb_json_load(path, 1 << 20) : NULL;
        accuracies[r] = cb_json_float(path, result, "accuracy", NAN);
        labels[r] = cb_json_int(path, result, "labelled", 0);
        json_decref(result);
        cb_free(path);
    }
    return finished;
}
