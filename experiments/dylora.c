/* dylora.c: DyLoRA (18).  Valipour et al. 2023, arXiv:2210.07558.
 *
 * One low-rank update of which every first b ranks work, against a LoRA trained for each rank and a LoRA of rank 8 cut down: as the paper does,
 * with the scale that the fewer ranks would have been trained with, and to its first singular directions.  Judged at ranks 1, 2, 4 and 8; the
 * loss of an arm is the mean over these. */
#include <stdio.h>
#include <string.h>

#include "experiments/language.h"

enum { RANKS = 4, MOST = 8, ROWS = 96, LENGTH = 128 };
static const int ranks[RANKS] = {1, 2, 4, 8};

typedef enum way { EACH, CUT, DYNAMIC, WHOLE } way;
typedef struct plan {
    way way;
    const char *rule;      /* of DyLoRA */
    const char *draws;     /* its rank_distribution; NULL: uniform */
    bool scaled, singular; /* of what is cut */
} plan;

static const plan each = {.way = EACH, .rule = NULL}, cut = {.way = CUT, .rule = NULL}, cut_scaled = {.way = CUT, .scaled = true};
static const plan cut_singular = {.way = CUT, .singular = true}, whole = {.way = WHOLE, .rule = NULL};
static const plan frozen = {.way = DYNAMIC, .rule = "frozen"}, full = {.way = DYNAMIC, .rule = "full"};
static const plan full_geometric = {.way = DYNAMIC, .rule = "full", .draws = "geometric"};

static const double rates[] = {1.5e-3, 4e-3, 1e-2, 0}, whole_rates[] = {3e-4, 1e-3, 3e-3, 0};
#define NATS(name, ...)                                                                                                                    \
    {                                                                                                                                      \
        name, "nats a token", .digits = 3, .lower = true, __VA_ARGS__                                                                      \
    }
static const cb_measure measures[] = {NATS("loss", ),
                                      NATS("rank 1", .curve = "loss by rank", .x = 1),
                                      NATS("rank 2", .curve = "loss by rank", .x = 2),
                                      NATS("rank 4", .curve = "loss by rank", .x = 4),
                                      NATS("rank 8", .curve = "loss by rank", .x = 8),
                                      {0}};
#define EACH_ARM "LoRA for each rank"
static const cb_arm arms[] = {{EACH_ARM, NULL, rates, &each},
                              {"LoRA of rank 8, cut", EACH_ARM, NULL, &cut},
                              {"LoRA of rank 8, cut and scaled", EACH_ARM, NULL, &cut_scaled},
                              {"LoRA of rank 8, singular", EACH_ARM, NULL, &cut_singular},
                              {"DyLoRA, frozen", NULL, rates, &frozen},
                              {"DyLoRA, full", NULL, rates, &full},
                              {"DyLoRA, full, geometric", NULL, rates, &full_geometric},
                              {"full fine-tuning", NULL, whole_rates, &whole},
                              {0}};
static const cb_comparison comparisons[] = {
    {"better at rank 1 than a LoRA that is cut", "rank 1", "DyLoRA, frozen", "LoRA of rank 8, cut", 0, "much better at low ranks"},
    {"better at rank 2 than a LoRA that is cut", "rank 2", "DyLoRA, frozen", "LoRA of rank 8, cut", 0, "much better at low ranks"},
    {"the same with all b trained", "rank 1", "DyLoRA, full", "LoRA of rank 8, cut", 0, "much better at low ranks"},
    {"the same with all b trained", "rank 2", "DyLoRA, full", "LoRA of rank 8, cut", 0, "much better at low ranks"},
    {"better at rank 1 than singular directions", "rank 1", "DyLoRA, full", "LoRA of rank 8, singular", 0, NULL},
    {"as good as training each rank", "loss", "DyLoRA, frozen", EACH_ARM, -0.02, "close, at a fourth to a seventh of the cost"},
    {"as good as training each rank", "loss", "DyLoRA, full", EACH_ARM, -0.02, "close, at a fourth to a seventh of the cost"},
    {"all b trained against the last alone", "loss", "DyLoRA, full", "DyLoRA, frozen", 0, "frozen is cheaper and little worse"},
    {"geometric draws against uniform ones, over all ranks", "loss", "DyLoRA, full, geometric", "DyLoRA, full", 0, NULL},
    {"geometric draws against uniform ones, at rank 1", "rank 1", "DyLoRA, full, geometric", "DyLoRA, full", 0, NULL},
    {0}};

/* ---- data ---- */

/* Tenths of a play collection: eight to train, one to choose, one to judge. */
static bool write_tenths(const char *text, size_t length, int first, int end, const char *path)
{
    size_t begin = length / 10 * (size_t)first, stop = end == 10 ? length : length / 10 * (size_t)end;
    while (begin > 0 && begin < length && text[begin - 1] != '\n')
        begin++;
    while (stop < length && text[stop - 1] != '\n')
        stop++;
    return cb_file_write(path, text + begin, stop - begin);
}

static bool prepare(const cb_run *run)
{
    static const char *const names[] = {"train.txt", "validation.txt", "test.txt"};
    static const int tenths[] = {0, 8, 9, 10};
    size_t length = 0;
    char *from = run->data ? cb_path_join(run->data, "text-corpora/lm/tinyshakespeare.txt.gz") : NULL;
    char *text = from ? cb_archive_read(from, NULL, 0, &length) : NULL;
    bool ok = text || !run->data;
    for (int i = 0; ok && i < 3; i++) {
        char *path = cb_path_join(run->shared, names[i]);
        ok = path && (text ? write_tenths(text, length, tenths[i], tenths[i + 1], path) : experiment_made_up_text(path, 1 + (uint64_t)i));
        cb_free(path);
    }
    cb_free(text);
    cb_free(from);
    return ok;
}

/* ---- training and judging ---- */

typedef struct bench {
    const cb_run *run;
    cb_model *model;
    cb_tokenizer *tokenizer;
    double items[RANKS][ROWS];
    size_t count; /* of them */
    int64_t parameters;
} bench;

static bool train(bench *b, cb_adapter *adapter, const char *name)
{
    const cb_run *run = b->run;
    char *text = cb_path_join(run->shared, "train.txt"), *output = cb_path_join(run->directory, name);
    const experiment_training t = {.text = text,
                                   .output = output,
                                   .steps = run->quick ? 2 : 120,
                                   .batch_size = 8,
                                   .sequence_length = run->quick ? LENGTH / 4 : LENGTH,
                                   .learning_rate = run->value,
                                   .seed = run->seed + 1,
                                   .whole = !adapter};
    bool ok = text && output && experiment_train(b->model, adapter, b->tokenizer, &t);
    b->parameters += adapter ? cb_adapter_parameter_count(adapter) : cb_model_parameter_count(b->model);
    cb_free(output);
    cb_free(text);
    return ok;
}

static bool judge(bench *b, int at)
{
    const cb_run *run = b->run;
    char *text = cb_path_join(run->shared, run->validation ? "validation.txt" : "test.txt");
    int64_t length = run->quick ? LENGTH / 4 : LENGTH;
    b->count = text ? experiment_losses(b->model, b->tokenizer, text, length, false, run->quick ? 4 : ROWS, b->items[at]) : 0;
    cb_free(text);
    return b->count > 0;
}

static cb_adapter *attach(bench *b, const char *kind, int rank, const plan *p)
{
    const char *rule = p->rule;
    char text[16], seed[32];
    snprintf(text, sizeof text, "%d", rank);
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)b->run->seed);
    cb_adapter *adapter = cb_adapter_new(kind, "default");
    bool ok = adapter && cb_adapter_set(adapter, "rank", text) && cb_adapter_set(adapter, "alpha", "16") &&
              cb_adapter_set(adapter, "target_modules", "all-linear") && (!rule || cb_adapter_set(adapter, "rule", rule)) &&
              (!rule || cb_adapter_set(adapter, "rank_seed", seed)) &&
              (!p->draws || cb_adapter_set(adapter, "rank_distribution", p->draws)) &&
              cb_adapter_attach(adapter, cb_model_root(b->model), cb_model_type(b->model), b->run->seed + 1);
    if (ok)
        return adapter;
    cb_adapter_free(adapter);
    return NULL;
}

static bool run_each(bench *b)
{
    bool ok = true;
    for (int i = 0; ok && i < RANKS; i++) {
        char name[16];
        snprintf(name, sizeof name, "rank-%d", ranks[i]);
        cb_adapter *adapter = attach(b, "lora", ranks[i], &each);
        ok = adapter && train(b, adapter, name) && judge(b, i);
        cb_adapter_free(adapter);
    }
    return ok;
}

/* Ranks from `rank` on are zeroed; what is left is scaled. */
static bool cut_to(cb_adapter *adapter, int rank, double scale)
{
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list);
    bool ok = true;
    for (size_t i = 0; ok && i < count; i++) {
        cb_scope *scope = cb_scope_open();
        cb_tensor *t = list[i].tensor;
        if (strstr(list[i].name, "lora_A") && rank < MOST) /* (R, in): whole rows */
            cb_no_grad ok = cb_copy_into(cb_slice(cb_detach(t), 0, rank, MOST, 1), cb_zeros(CB_F32, MOST - rank, t->shape[1]));
        else if (strstr(list[i].name, "lora_B") && scale != 1)
            cb_no_grad ok = cb_copy_into(t, cb_scale(cb_detach(t), scale));
        cb_scope_close(scope);
    }
    return ok;
}

/* What each layer's update is, by its singular directions, the largest first. */
static bool to_singular(cb_adapter *adapter)
{
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list);
    bool ok = true;
    for (size_t i = 0; ok && i + 1 < count; i += 2) { /* a layer's A and B are neighbours */
        cb_tensor *a = list[i].tensor, *b = list[i + 1].tensor, *u, *s, *vt;
        cb_scope *scope = cb_scope_open();
        cb_no_grad ok = scope && cb_svd(cb_matmul(cb_detach(b), cb_detach(a)), &u, &s, &vt) &&
                        cb_copy_into(a, cb_slice(vt, 0, 0, MOST, 1)) &&
                        cb_copy_into(b, cb_mul(cb_slice(u, 1, 0, MOST, 1), cb_slice(s, 0, 0, MOST, 1)));
        cb_scope_close(scope);
    }
    return ok;
}

static bool run_cut(bench *b, const plan *p)
{
    char *from = cb_path_join(b->run->uses, "rank-8");
    cb_adapter *adapter = from ? cb_adapter_load(from, cb_model_root(b->model), cb_model_type(b->model)) : NULL;
    bool ok = adapter && (!p->singular || to_singular(adapter)) && judge(b, RANKS - 1);
    b->parameters = adapter ? cb_adapter_parameter_count(adapter) : 0;
    for (int i = RANKS - 2; ok && i >= 0; i--)
        ok = cut_to(adapter, ranks[i], p->scaled ? (double)ranks[i + 1] / ranks[i] : 1) && judge(b, i);
    cb_adapter_free(adapter);
    cb_free(from);
    return ok;
}

static bool run_dynamic(bench *b, const plan *p)
{
    cb_adapter *adapter = attach(b, "dylora", MOST, p);
    bool ok = adapter && train(b, adapter, "dylora");
    for (int i = 0; ok && i < RANKS; i++) {
        char rank[16];
        snprintf(rank, sizeof rank, "%d", ranks[i]);
        ok = cb_adapter_set(adapter, "use_rank", rank) && judge(b, i);
    }
    cb_adapter_free(adapter);
    return ok;
}

static bool run_whole(bench *b)
{
    bool ok = train(b, NULL, "model") && judge(b, 0);
    for (int i = 1; ok && i < RANKS; i++)
        memcpy(b->items[i], b->items[0], sizeof b->items[0]);
    return ok;
}

static bool run_plan(bench *b)
{
    const plan *p = b->run->arm->settings;
    switch (p->way) {
    case EACH:
        return run_each(b);
    case CUT:
        return run_cut(b, p);
    case DYNAMIC:
        return run_dynamic(b, p);
    default:
        return run_whole(b);
    }
}

static bool give(const bench *b, cb_outcome *outcome)
{
    double means[ROWS] = {0};
    for (size_t i = 0; i < b->count; i++)
        for (int r = 0; r < RANKS; r++)
            means[i] += b->items[r][i] / RANKS;
    bool ok = cb_outcome_items(outcome, "loss", means, b->count);
    for (int r = 0; ok && r < RANKS; r++)
        ok = cb_outcome_items(outcome, measures[r + 1].name, b->items[r], b->count);
    cb_outcome_parameters(outcome, b->parameters);
    return ok;
}

static bool run_arm(const cb_run *run, cb_outcome *outcome)
{
    bench *b = cb_calloc(1, sizeof *b);
    char *base = experiment_base();
    bool ok = b && base;
    if (ok) {
        b->run = run;
        b->tokenizer = cb_tokenizer_load(base);
        b->model = cb_ok() ? cb_model_load(base, .keep_weights = ((const plan *)run->arm->settings)->way == WHOLE) : NULL;
        ok = b->model && run_plan(b) && give(b, outcome);
        cb_model_free(b->model);
        cb_tokenizer_free(b->tokenizer);
    }
    cb_free(base);
    cb_free(b);
    return ok;
}

static const char *const data[] = {"text-corpora", NULL};

const cb_experiment experiment_dylora = {
    .name = "dylora",
    .system = 18,
    .title = "DyLoRA: one low-rank update for every rank",
    .claim = "One training gives an update of which every first b ranks work: nearly as good as a "
             "LoRA trained for each rank, at the cost of one, and far better at "
             "low ranks than a LoRA that is cut down.",
    .setting = "models/sprig-5m goes on with Shakespeare's plays: rank 8 on all linear layers, 120 steps of 8 "
               "rows of 128 tokens for every training; the loss on 96 rows of plays that it was not trained on.",
    .data = data,
    .seeds = 3,
    .measures = measures,
    .arms = arms,
    .comparisons = comparisons,
    .prepare = prepare,
    .run = run_arm};
