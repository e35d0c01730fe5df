/* lora_lego.c: LoRA-LEGO (46).  arXiv:2409.16167.
 *
 * One LoRA for each of six sentence tasks over one base that knows the label words; the six are merged into one, which is judged on all six (and on
 * a seventh task that nobody learned).  What the paper compares: the tasks' own LoRAs, the average of A and of B, the average of the changes
 * (ensemble), task arithmetic, TIES, LEGO, LEGO without each of its reweightings; and how the order of units matters. */
#include <stdio.h>
#include <string.h>

#include "experiments/label_tasks.h"
#include "experiments/language.h"

#define tasks label_warm_tasks
static const char outside[] = "polarity";
enum { TASKS = LABEL_WARM_TASKS, RANK = 8 };

typedef enum way { BASE, OWN, AVERAGE, BY_METHOD } way;
typedef struct plan {
    way way;
    const char *method;
    double weight;                    /* of each adapter; 0: the grid's */
    int64_t rank;                     /* 0: of all together */
    bool permuted;                    /* the units of each adapter in another order first */
    bool no_units, no_output, turned; /* lego's reweightings off; signs fixed */
} plan;

/* of each adapter's change; of TIES' and LEGO's results (TIES takes means of what agrees, which weights do not change) */
static const double rates[] = {4e-3, 1.2e-2, 3.6e-2, 0}, scales[] = {0.1, 0.2, 0.4, 0.7, 1, 0}, result_scales[] = {0.5, 1, 1.5, 2, 3, 4, 0};
#define LEGO(k)                                                                                                                            \
    {                                                                                                                                      \
        .way = BY_METHOD, .method = "lego", .weight = 1, .rank = (k)                                                                       \
    }
static const plan base_alone = {.way = BASE, .rank = 0};
static const plan own = {.way = OWN, .rank = 0}, average = {.way = AVERAGE, .rank = 0},
                  average_permuted = {.way = AVERAGE, .permuted = true};
static const plan ensemble = {.way = BY_METHOD, .method = "linear", .weight = 1.0 / TASKS};
static const plan arithmetic = {.way = BY_METHOD, .method = "task_arithmetic"}, ties = {.way = BY_METHOD, .method = "ties"},
                  arithmetic8 = {.way = BY_METHOD, .method = "task_arithmetic", .rank = 8};
static const plan lego2 = LEGO(2), lego4 = LEGO(4), lego8 = LEGO(8), lego16 = LEGO(16), lego32 = LEGO(32), lego48 = LEGO(48);
static const plan lego_permuted = {.way = BY_METHOD, .method = "lego", .weight = 1, .rank = 8, .permuted = true};
static const plan lego_no_units = {.way = BY_METHOD, .method = "lego", .weight = 1, .rank = 8, .no_units = true};
static const plan lego_no_output = {.way = BY_METHOD, .method = "lego", .weight = 1, .rank = 16, .no_output = true};
static const plan lego_scaled = {.way = BY_METHOD, .method = "lego", .rank = 8};
static const plan lego_turned = {.way = BY_METHOD, .method = "lego", .weight = 1, .rank = 8, .turned = true};

static const cb_measure measures[] = {
    {"accuracy", "%", .scale = 100, .digits = 1}, {"accuracy on the seventh task", "%", .scale = 100, .digits = 1}, {0}};
#define OWN_ARM "own LoRA each"
static const cb_arm arms[] = {{"base", .settings = &base_alone},
                              {OWN_ARM, NULL, rates, &own},
                              {"average of A and of B", OWN_ARM, NULL, &average},
                              {"average of A and of B, permuted", OWN_ARM, NULL, &average_permuted},
                              {"average of the changes", OWN_ARM, NULL, &ensemble},
                              {"task arithmetic", OWN_ARM, scales, &arithmetic},
                              {"task arithmetic, cut to rank 8", OWN_ARM, scales, &arithmetic8},
                              {"TIES", OWN_ARM, result_scales, &ties},
                              {"LEGO, k 2", OWN_ARM, NULL, &lego2},
                              {"LEGO, k 4", OWN_ARM, NULL, &lego4},
                              {"LEGO, k 8", OWN_ARM, NULL, &lego8},
                              {"LEGO, k 16", OWN_ARM, NULL, &lego16},
                              {"LEGO, k 32", OWN_ARM, NULL, &lego32},
                              {"LEGO, k 48", OWN_ARM, NULL, &lego48},
                              {"LEGO, k 8, permuted", OWN_ARM, NULL, &lego_permuted},
                              {"LEGO, k 8, units not reweighted", OWN_ARM, NULL, &lego_no_units},
                              {"LEGO, k 16, output not reweighted", OWN_ARM, NULL, &lego_no_output},
                              {"LEGO, k 8, scale tuned (ours)", OWN_ARM, result_scales, &lego_scaled},
                              {"LEGO, k 8, signs fixed (ours)", OWN_ARM, NULL, &lego_turned},
                              {0}};
#define ACCURACY "accuracy"
static const cb_comparison comparisons[] = {
    {"better than averaging A and B", ACCURACY, "LEGO, k 8", "average of A and of B", 0, "62.2 against 47.2 (nine tasks, CoTo)"},
    {"better than averaging the changes", ACCURACY, "LEGO, k 8", "average of the changes", 0, "62.2 against 56.8 (nine tasks, CoTo)"},
    {"better than task arithmetic", ACCURACY, "LEGO, k 8", "task arithmetic", 0, "on average of the tasks"},
    {"better than task arithmetic of as many numbers", ACCURACY, "LEGO, k 8", "task arithmetic, cut to rank 8", 0, NULL},
    {"the same when both scales are tuned", ACCURACY, "LEGO, k 8, scale tuned (ours)", "task arithmetic, cut to rank 8", 0, NULL},
    {"better than TIES", ACCURACY, "LEGO, k 8", "TIES", 0, "on average of the tasks"},
    {"any rank: 2 is little worse than 8", ACCURACY, "LEGO, k 2", "LEGO, k 8", -5, "flexible rank"},
    {"reweighting units helps", ACCURACY, "LEGO, k 8", "LEGO, k 8, units not reweighted", 0, "each part helps"},
    {"reweighting the output helps", ACCURACY, "LEGO, k 16", "LEGO, k 16, output not reweighted", 0, "each part helps"},
    {"the order of units matters to averaging A and B", ACCURACY, "average of A and of B", "average of A and of B, permuted", 0,
     "misalignment"},
    {"and not to LEGO", ACCURACY, "LEGO, k 8, permuted", "LEGO, k 8", -0.5, "invariant"},
    {"fixing signs helps (ours)", ACCURACY, "LEGO, k 8, signs fixed (ours)", "LEGO, k 8", 0, NULL},
    {"on a task that nobody learned, better than task arithmetic", "accuracy on the seventh task", "LEGO, k 8", "task arithmetic", 0, NULL},
    {0}};

static bool prepare(const cb_run *run)
{
    return label_warm_base(run, true);
}

static bool load_task(const cb_run *run, const char *task, label_data *d)
{
    return label_data_unseen(d, run, task, run->quick ? 20 : 4000, run->quick ? 4 : 200);
}

/* ---- judging ---- */

typedef struct judging {
    double items[TASKS * 1000];
    size_t count;
} judging;

static bool judge_task(const cb_run *run, cb_model *model, const cb_tokenizer *tokenizer, const char *task, judging *j)
{
    label_data d;
    bool ok = load_task(run, task, &d);
    const label_part *part = run->validation ? &d.validation : &d.test;
    ok = ok && label_judge(model, tokenizer, &d, part, j->items + j->count);
    j->count += ok ? part->count : 0;
    label_data_free(&d);
    return ok;
}

static bool judge_outside(const cb_run *run, cb_model *model, const cb_tokenizer *tokenizer, cb_outcome *outcome)
{
    judging *j = cb_calloc(1, sizeof *j);
    bool ok = j && (run->validation || (judge_task(run, model, tokenizer, outside, j) &&
                                        cb_outcome_items(outcome, "accuracy on the seventh task", j->items, j->count)));
    cb_free(j);
    return ok;
}

/* merged NULL: the base alone. */
static bool judge_merged(const cb_run *run, const char *base, const char *merged, const cb_tokenizer *tokenizer, cb_outcome *outcome)
{
    cb_model *model = cb_model_load(base);
    cb_adapter *adapter = model && merged ? cb_adapter_load(merged, cb_model_root(model), cb_model_type(model)) : NULL;
    judging *j = model && (adapter || !merged) ? cb_calloc(1, sizeof *j) : NULL;
    bool ok = j;
    for (int t = 0; ok && t < TASKS; t++)
        ok = judge_task(run, model, tokenizer, tasks[t], j);
    ok = ok && cb_outcome_items(outcome, ACCURACY, j->items, j->count) && judge_outside(run, model, tokenizer, outcome);
    cb_outcome_parameters(outcome, adapter ? cb_adapter_parameter_count(adapter) : 0);
    cb_free(j);
    cb_adapter_free(adapter);
    cb_model_free(model);
    return ok;
}

/* ---- the tasks' own ---- */

static bool train_task(const cb_run *run, cb_model *model, const cb_tokenizer *tokenizer, int task, judging *j, int64_t *parameters)
{
    label_data d;
    char *text = cb_format("%s/%s.jsonl", run->directory, tasks[task]), *output = cb_path_join(run->directory, tasks[task]);
    cb_adapter *adapter = text && output ? cb_adapter_new("lora", tasks[task]) : NULL;
    uint64_t seed = 100 * run->seed + (uint64_t)task + 1;
    const experiment_training t = {.text = text,
                                   .output = output,
                                   .steps = run->quick ? 2 : 100,
                                   .batch_size = 8,
                                   .sequence_length = 128,
                                   .learning_rate = run->value,
                                   .seed = seed};
    bool ok = adapter && load_task(run, tasks[task], &d) && label_data_write(&d, text) && cb_adapter_set(adapter, "rank", "8") &&
              cb_adapter_set(adapter, "alpha", "16") && cb_adapter_set(adapter, "target_modules", "q_proj,v_proj") &&
              cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), seed) &&
              experiment_train(model, adapter, tokenizer, &t) && judge_task(run, model, tokenizer, tasks[task], j);
    *parameters += adapter ? cb_adapter_parameter_count(adapter) : 0;
    cb_adapter_free(adapter);
    cb_free(output);
    cb_free(text);
    label_data_free(&d);
    return ok;
}

static bool run_own(const cb_run *run, const char *base, const cb_tokenizer *tokenizer, cb_outcome *outcome)
{
    cb_model *model = cb_model_load(base);
    judging *j = model ? cb_calloc(1, sizeof *j) : NULL;
    int64_t parameters = 0;
    bool ok = j;
    for (int t = 0; ok && t < TASKS; t++)
        ok = train_task(run, model, tokenizer, t, j, &parameters);
    ok = ok && cb_outcome_items(outcome, ACCURACY, j->items, j->count);
    cb_outcome_parameters(outcome, parameters);
    cb_free(j);
    cb_model_free(model);
    return ok;
}

/* ---- merged ---- */

/* Rows of A and columns of B in another order: the same changes. */
static bool permute(cb_adapter *adapter, uint64_t seed)
{
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list);
    int64_t order[RANK];
    for (size_t i = 0; i < count; i++) {
        bool is_a = strstr(list[i].name, "lora_A") != NULL;
        char layer[512];
        snprintf(layer, sizeof layer, "%.*s", (int)(strstr(list[i].name, "lora_") - list[i].name), list[i].name);
        cb_rng rng = {.seed = seed, .stream = cb_hash_text(1, layer)};
        for (int64_t k = 0; k < RANK; k++)
            order[k] = k;
        for (uint64_t k = RANK; k > 1; k--) {
            uint64_t other = cb_rng_below(&rng, k);
            int64_t held = order[other];
            order[other] = order[k - 1];
            order[k - 1] = held;
        }
        cb_scope *scope = cb_scope_open();
        cb_tensor *index = scope ? cb_from(CB_I64, order, RANK) : NULL;
        bool ok = false;
        cb_no_grad ok = cb_copy_into(list[i].tensor, cb_index_select(cb_detach(list[i].tensor), is_a ? 0 : 1, index));
        cb_scope_close(scope);
        if (!ok)
            return false;
    }
    return true;
}

static char *permuted(const cb_run *run, const char *base, const char *from, int task)
{
    char *path = cb_format("%s/permuted-%s", run->directory, tasks[task]);
    cb_model *model = path ? cb_model_load(base) : NULL;
    cb_adapter *adapter = model ? cb_adapter_load(from, cb_model_root(model), cb_model_type(model)) : NULL;
    bool ok = adapter && permute(adapter, 7 + (uint64_t)task + 1000 * run->seed) && cb_adapter_save(adapter, path, NULL);
    cb_adapter_free(adapter);
    cb_model_free(model);
    if (ok)
        return path;
    cb_free(path);
    return NULL;
}

static bool combine(const plan *p, double weight, const char *const *adapters, const char *output, uint64_t seed)
{
    cb_adapter_merge_options o = {0};
    cb_model_merge_options method = {0};
    double weights[TASKS];
    bool trimmed = p->method && strcmp(p->method, "ties") == 0;
    bool ok = cb_options_init(cb_adapter_merge_option_table, &o) && cb_options_init(cb_model_merge_option_table, &method) &&
              (!p->method || cb_options_set(cb_model_merge_option_table, &method, "method", p->method)) &&
              (!trimmed || cb_options_set(cb_model_merge_option_table, &method, "density", "0.5"));
    for (int t = 0; t < TASKS; t++)
        weights[t] = trimmed ? 1 : weight;
    method.lambda = trimmed ? weight : 1;
    method.seed = (int64_t)seed;
    o.combine = &method;
    o.max_kl = 1e9;
    o.rank = p->rank ? p->rank : p->way == AVERAGE ? 0 : RANK * TASKS;
    o.lego_unit_scale = p->no_units ? CB_LEGO_SCALE_NONE : CB_LEGO_SCALE_MEAN;
    o.lego_output_scale = !p->no_output;
    o.lego_align_signs = p->turned;
    o.combination_type = p->way == AVERAGE ? CB_COMBINATION_LINEAR : CB_COMBINATION_NONE;
    ok = ok && cb_merge_adapters(NULL, adapters, weights, TASKS, output, &o, NULL);
    cb_options_free(cb_model_merge_option_table, &method);
    cb_options_free(cb_adapter_merge_option_table, &o);
    return ok;
}

static bool run_merged(const cb_run *run, const char *base, const cb_tokenizer *tokenizer, cb_outcome *outcome)
{
    const plan *p = run->arm->settings;
    char *adapters[TASKS] = {0}, *output = cb_format("%s/merged-%g", run->directory, run->value); /* another value's may lie there */
    bool ok = output;
    for (int t = 0; ok && t < TASKS; t++) {
        char *from = cb_path_join(run->uses, tasks[t]);
        adapters[t] = from && p->permuted ? permuted(run, base, from, t) : from;
        if (p->permuted)
            cb_free(from);
        ok = adapters[t];
    }
    /* PEFT's linear takes the root of the weight on both sides: the means of A and of B */
    double weight = p->way == AVERAGE ? 1.0 / (TASKS * TASKS) : p->weight != 0 ? p->weight : run->value;
    ok = ok && (cb_is_directory(output) || combine(p, weight, (const char *const *)adapters, output, run->seed)) &&
         judge_merged(run, base, output, tokenizer, outcome);
    for (int t = 0; t < TASKS; t++)
        cb_free(adapters[t]);
    cb_free(output);
    return ok;
}

static bool run_arm(const cb_run *run, cb_outcome *outcome)
{
    char *base = label_warmed(run);
    cb_tokenizer *tokenizer = base ? cb_tokenizer_load(base) : NULL;
    way how = ((const plan *)run->arm->settings)->way;
    bool ok = tokenizer && (how == BASE  ? judge_merged(run, base, NULL, tokenizer, outcome)
                            : how == OWN ? run_own(run, base, tokenizer, outcome)
                                         : run_merged(run, base, tokenizer, outcome));
    cb_tokenizer_free(tokenizer);
    cb_free(base);
    return ok;
}

static const char *const data[] = {"text-corpora", NULL};

const cb_experiment experiment_lora_lego = {
    .name = "lora-lego",
    .system = 46,
    .title = "LoRA-LEGO: merging LoRAs by clusters of their units",
    .claim = "Taking LoRAs apart into rank-one units, clustering the units of all of them and making "
             "one LoRA of the clusters' means is better than merging "
             "whole LoRAs, at any rank; both reweightings help, and the order of units does not matter.",
    .setting = "models/sprig-5m, warmed on 200 sentences of each task with labels dealt out at "
               "random, so that it knows the label words and nothing else; LoRA of rank 8 on q and v, 100 steps on each of "
               "SST-2, MPQA, customer reviews, subjectivity, questions, CoLA; judged on 200 test "
               "examples of each; film polarity is the seventh task.",
    .data = data,
    .seeds = 3,
    .measures = measures,
    .arms = arms,
    .comparisons = comparisons,
    .prepare = prepare,
    .run = run_arm};
