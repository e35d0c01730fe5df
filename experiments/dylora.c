/* dylora.c: DyLoRA (18).  Valipour et al. 2023, arXiv:2210.07558.
 *
 * One low-rank update of which every first b ranks work, against a LoRA trained for each rank and a LoRA of rank 8 cut down.  Judged at ranks 1, 2, 4
 * and 8; the accuracy of an arm is the mean over these. */
#include <stdio.h>
#include <string.h>

#include "experiments/label_tasks.h"
#include "experiments/language.h"

enum { RANKS = 4, MOST = 8, JUDGED = 800 };
static const int ranks[RANKS] = {1, 2, 4, 8};

typedef enum way { EACH, CUT, CUT_SCALED, DYNAMIC, WHOLE } way;
typedef struct plan {
    way way;
    const char *rule;
} plan;

static const plan each = {.way = EACH, .rule = NULL}, cut = {.way = CUT, .rule = NULL}, cut_scaled = {.way = CUT_SCALED, .rule = NULL};
static const plan frozen = {DYNAMIC, "frozen"}, full = {DYNAMIC, "full"}, whole = {.way = WHOLE, .rule = NULL};

static const double rates[] = {4e-3, 1.2e-2, 0}, whole_rates[] = {5e-4, 2e-3, 0};
static const cb_measure measures[] = {{"accuracy", "%", .scale = 100, .digits = 1},
                                      {"rank 1", "%", .scale = 100, .digits = 1, .curve = "accuracy by rank", .x = 1},
                                      {"rank 2", "%", .scale = 100, .digits = 1, .curve = "accuracy by rank", .x = 2},
                                      {"rank 4", "%", .scale = 100, .digits = 1, .curve = "accuracy by rank", .x = 4},
                                      {"rank 8", "%", .scale = 100, .digits = 1, .curve = "accuracy by rank", .x = 8},
                                      {0}};
static const cb_arm arms[] = {{"LoRA for each rank", NULL, rates, &each},
                              {"LoRA of rank 8, cut", NULL, rates, &cut},
                              {"LoRA of rank 8, cut and scaled", NULL, rates, &cut_scaled},
                              {"DyLoRA, frozen", NULL, rates, &frozen},
                              {"DyLoRA, full", NULL, rates, &full},
                              {"full fine-tuning", NULL, whole_rates, &whole},
                              {0}};
static const cb_comparison comparisons[] = {
    {"better at rank 1 than a LoRA that is cut", "rank 1", "DyLoRA, frozen", "LoRA of rank 8, cut", 3, "much better at low ranks"},
    {"better at rank 2 than a LoRA that is cut", "rank 2", "DyLoRA, frozen", "LoRA of rank 8, cut", 3, "much better at low ranks"},
    {"the same with all b trained", "rank 1", "DyLoRA, full", "LoRA of rank 8, cut", 3, "much better at low ranks"},
    {"as good as training each rank", "accuracy", "DyLoRA, frozen", "LoRA for each rank", -1,
     "close, at a fourth to a seventh of the cost"},
    {"as good as training each rank", "accuracy", "DyLoRA, full", "LoRA for each rank", -1, "close, at a fourth to a seventh of the cost"},
    {"all b trained against the last alone", "accuracy", "DyLoRA, full", "DyLoRA, frozen", 0, "frozen is cheaper and little worse"},
    {0}};

typedef struct bench {
    const cb_run *run;
    cb_model *model;
    cb_tokenizer *tokenizer;
    label_data data;
    const label_part *part;
    double items[RANKS][JUDGED];
    int64_t parameters;
} bench;

static bool train(bench *b, cb_adapter *adapter, const char *name)
{
    const cb_run *run = b->run;
    char *text = cb_path_join(run->shared, "sst2.jsonl"), *output = cb_path_join(run->directory, name);
    const experiment_training t = {.text = text,
                                   .output = output,
                                   .steps = run->quick ? 2 : 150,
                                   .batch_size = 8,
                                   .sequence_length = 128,
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
    return label_judge(b->model, b->tokenizer, &b->data, b->part, b->items[at]);
}

static cb_adapter *attach(bench *b, const char *kind, int rank, const char *rule)
{
    char text[16], seed[32];
    snprintf(text, sizeof text, "%d", rank);
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)b->run->seed);
    cb_adapter *adapter = cb_adapter_new(kind, "default");
    bool ok = adapter && cb_adapter_set(adapter, "rank", text) && cb_adapter_set(adapter, "alpha", "16") &&
              cb_adapter_set(adapter, "target_modules", "q_proj,v_proj") && (!rule || cb_adapter_set(adapter, "rule", rule)) &&
              (!rule || cb_adapter_set(adapter, "rank_seed", seed)) &&
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
        cb_adapter *adapter = attach(b, "lora", ranks[i], NULL);
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

static bool run_cut(bench *b, bool scaled)
{
    cb_adapter *adapter = attach(b, "lora", MOST, NULL);
    bool ok = adapter && train(b, adapter, "rank-8") && judge(b, RANKS - 1);
    for (int i = RANKS - 2; ok && i >= 0; i--)
        ok = cut_to(adapter, ranks[i], scaled ? (double)ranks[i + 1] / ranks[i] : 1) && judge(b, i);
    cb_adapter_free(adapter);
    return ok;
}

static bool run_dynamic(bench *b, const char *rule)
{
    cb_adapter *adapter = attach(b, "dylora", MOST, rule);
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
    case CUT_SCALED:
        return run_cut(b, p->way == CUT_SCALED);
    case DYNAMIC:
        return run_dynamic(b, p->rule);
    default:
        return run_whole(b);
    }
}

static bool give(const bench *b, cb_outcome *outcome)
{
    double means[JUDGED] = {0};
    for (size_t i = 0; i < b->part->count; i++)
        for (int r = 0; r < RANKS; r++)
            means[i] += b->items[r][i] / RANKS;
    bool ok = cb_outcome_items(outcome, "accuracy", means, b->part->count);
    for (int r = 0; ok && r < RANKS; r++)
        ok = cb_outcome_items(outcome, measures[r + 1].name, b->items[r], b->part->count);
    cb_outcome_parameters(outcome, b->parameters);
    return ok;
}

static bool load(const cb_run *run, label_data *d)
{
    return label_data_unseen(d, run, "sst2", run->quick ? 40 : 6000, run->quick ? 8 : JUDGED);
}

static bool prepare(const cb_run *run)
{
    label_data d;
    char *text = cb_path_join(run->shared, "sst2.jsonl");
    bool ok = text && label_warm_base(run, false) && load(run, &d) && label_data_write(&d, text);
    label_data_free(&d);
    cb_free(text);
    return ok;
}

static bool run_arm(const cb_run *run, cb_outcome *outcome)
{
    bench *b = cb_calloc(1, sizeof *b);
    char *base = label_warmed(run);
    bool ok = b && base && load(run, &b->data);
    if (ok) {
        b->run = run;
        b->part = run->validation ? &b->data.validation : &b->data.test;
        b->tokenizer = cb_tokenizer_load(base);
        b->model = cb_ok() ? cb_model_load(base, .keep_weights = ((const plan *)run->arm->settings)->way == WHOLE) : NULL;
        ok = b->model && run_plan(b) && give(b, outcome);
        cb_model_free(b->model);
        cb_tokenizer_free(b->tokenizer);
        label_data_free(&b->data);
    }
    cb_free(base);
    cb_free(b);
    return ok;
}

static const char *const data[] = {"text-corpora", NULL};

const cb_experiment experiment_dylora = {.name = "dylora",
                                         .system = 18,
                                         .title = "DyLoRA: one low-rank update for every rank",
                                         .claim = "One training gives an update of which every first b ranks work: nearly as good as a "
                                                  "LoRA trained for each rank, at the cost of one, and far better at "
                                                  "low ranks than a LoRA that is cut down.",
                                         .setting =
                                             "models/sprig-5m, warmed on 200 examples of each of six sentence tasks so that it knows "
                                             "the label words; SST-2 (good or bad, as the next word), rank 8 on q and v, 150 steps "
                                             "of 8 rows of 128 tokens for every training; 800 test sentences.",
                                         .data = data,
                                         .seeds = 3,
                                         .measures = measures,
                                         .arms = arms,
                                         .comparisons = comparisons,
                                         .prepare = prepare,
                                         .run = run_arm};
