/* mtlora.c: low-rank pairs that all tasks share and pairs of each task, y = W x + s B A x + s_t B_t A_t x for a row of task t.
 * Agiza et al. 2024, arXiv:2403.20320 (MTLoRA).
 * A (R, in), B (out, R); the tasks' pairs stand side by side, A (sum of R_t, in), B (out, sum of R_t), and of what A gives a row keeps its own
 * task's part, so a pass is two thin products whatever the number of tasks.  `matrix` and `matrixv2` are the authors' names: whether a layer
 * with pairs of tasks gives a row the shared change as well. */
#include <stdlib.h>

#include "adapters/internal.h"
#include "adapters/rows.h"
#include "adapters/tasks.h"
#include "adapters/thin.h"

typedef struct mtlora_config {
    int64_t rank, task_rank, num_tasks, use_task;
    double scale, task_scale, dropout;
    int mode;
    cb_option_map task_ranks, task_scales;
    cb_string_list task_modules;
} mtlora_config;

typedef struct mtlora_state {
    const mtlora_config *config;
    cb_tensor *a, *b, *task_a, *task_b; /* NULL: the layer has no such pairs */
    int64_t rank, task_ranks;           /* of the shared pair, and of all tasks' together */
} mtlora_state;

enum { MODE_SUM, MODE_APART };
static const char *const modes[] = {"matrixv2", "matrix", NULL};
#define MTLORA_MOST_TASKS 1024

static const cb_option mtlora_options[] = {
    CB_OPT_INT(mtlora_config, rank, 16, 0, 65536, "rank of the pair that all tasks share; 0: there is none"),
    CB_OPT_INT(mtlora_config, num_tasks, 1, 1, MTLORA_MOST_TASKS, "tasks"),
    CB_OPT_INT(mtlora_config, task_rank, 4, 0, 65536, "rank of each task's own pair; 0: there are none"),
    CB_OPT_MAP(mtlora_config, task_ranks, "another rank for the tasks with these numbers"),
    CB_OPT_LIST(mtlora_config, task_modules, NULL, "LAYER,...",
                "layers, of those adapted, that have pairs of tasks: names or ends of names, or numbers of blocks; empty: all"),
    CB_OPT_FLOAT(mtlora_config, scale, 4, -1e9, 1e9, "the shared change is multiplied by this, whatever the rank"),
    CB_OPT_FLOAT(mtlora_config, task_scale, 4, -1e9, 1e9, "and a task's by this"),
    CB_OPT_MAP(mtlora_config, task_scales, "or by this for the tasks with these numbers"),
    CB_OPT_ENUM(mtlora_config, mode, MODE_SUM, modes,
                "matrixv2: rows get the shared change and their task's; matrix: where a layer has pairs of tasks, that of theirs alone"),
    CB_OPT_INT(mtlora_config, use_task, -1, -1, MTLORA_MOST_TASKS - 1,
               "all rows are of this task, so that it can be merged; -1: each row says of which"),
    CB_OPT_FLOAT(mtlora_config, dropout, 0.05, 0, 1, "dropout on the module's input while training"),
    CB_OPT_END};

static const char *const mtlora_peft_names[] = {"rank", "r", NULL};
static const char *const mtlora_live[] = {"use_task", NULL};
static const char mtlora_peft_fixed[] = "{\"modules_to_save\": null}";

/* ---- options ---- */

/* A task's own value in `map`, or the one of all. */
static double of_task(const cb_option_map *map, int64_t task, double value)
{
    for (size_t i = 0; i < map->count; i++)
        if (strtoll(map->keys[i], NULL, 10) == task)
            value = map->values[i];
    return value;
}

static int64_t rank_of(const mtlora_config *config, int64_t task)
{
    return (int64_t)of_task(&config->task_ranks, task, (double)config->task_rank);
}

static bool check_map(const cb_option_map *map, const char *name, int64_t tasks, bool ranks)
{
    for (size_t i = 0; i < map->count; i++) {
        char *end;
        int64_t task = strtoll(map->keys[i], &end, 10);
        double value = map->values[i];
        if (end == map->keys[i] || *end || task < 0 || task >= tasks)
            return cb_fail(CB_ERR_ARGUMENT, "%s: found '%.50s', expected the number of a task, less than num_tasks, which is %lld", name,
                           map->keys[i], (long long)tasks) == CB_OK;
        if (ranks && !(value >= 0 && value <= 65536 && value == (double)(int64_t)value))
            return cb_fail(CB_ERR_ARGUMENT, "%s: found %g for task %lld, expected a whole number from 0 to 65536", name, value,
                           (long long)task) == CB_OK;
    }
    return true;
}

static bool mtlora_check(const void *config_, const cb_layer *layer)
{
    const mtlora_config *config = config_;
    int64_t ranks = config->rank;
    if (layer)
        return true;
    if (!check_map(&config->task_ranks, "task_ranks", config->num_tasks, true) ||
        !check_map(&config->task_scales, "task_scales", config->num_tasks, false))
        return false;
    for (int64_t t = 0; t < config->num_tasks; t++)
        ranks += rank_of(config, t);
    if (ranks == 0)
        return cb_fail(CB_ERR_ARGUMENT, "rank and task_rank: found 0 and 0, expected one of them more") == CB_OK;
    return config->use_task < config->num_tasks ||
           cb_fail(CB_ERR_ARGUMENT, "use_task: found %lld, expected less than num_tasks, which is %lld", (long long)config->use_task,
                   (long long)config->num_tasks) == CB_OK;
}

/* ---- making ---- */

/* An item that is a number is a block's. */
static bool has_tasks(const mtlora_config *config, const cb_layer *layer)
{
    const cb_string_list *names = &config->task_modules;
    bool found = names->count == 0 || cb_layer_is_listed(layer, names);
    for (size_t i = 0; !found && i < names->count; i++) {
        char *end;
        int64_t block = strtoll(names->items[i], &end, 10);
        found = end != names->items[i] && !*end && block == cb_block_number(layer);
    }
    return found;
}

static bool mtlora_create(cb_module *m, const void *config, const cb_layer *layer)
{
    mtlora_state *s = m->state;
    s->config = config;
    for (int64_t t = 0; has_tasks(config, layer) && t < s->config->num_tasks; t++)
        s->task_ranks += rank_of(config, t);
    s->rank = s->task_ranks && s->config->mode == MODE_APART ? 0 : s->config->rank;
    return s->rank || s->task_ranks ||
           cb_fail(CB_ERR_ARGUMENT, "task_modules: leaves layer %s without tasks, and rank is 0; expected one of them otherwise",
                   layer->name) == CB_OK;
}

static int mtlora_parameters(cb_module *m, cb_adapter_parameter *list)
{
    mtlora_state *s = m->state;
    int64_t r = s->rank, tr = s->task_ranks, in = m->layer->in_features, out = m->layer->out_features;
    int count = 0;
    if (r) {
        list[count++] = (cb_adapter_parameter){"lora_shared_A", &s->a, 2, {r, in}, CB_ROLE_TRAINED};
        list[count++] = (cb_adapter_parameter){"lora_shared_B", &s->b, 2, {out, r}, CB_ROLE_TRAINED};
    }
    if (tr) {
        list[count++] = (cb_adapter_parameter){"lora_tasks_A", &s->task_a, 2, {tr, in}, CB_ROLE_TRAINED};
        list[count++] = (cb_adapter_parameter){"lora_tasks_B", &s->task_b, 2, {out, tr}, CB_ROLE_TRAINED};
    }
    return count;
}

static bool mtlora_initialise(cb_module *m, const void *config, uint64_t seed)
{
    (void)config;
    mtlora_state *s = m->state;
    return (!s->a || cb_init_kaiming(s->a, cb_adapter_rng(seed, m, "lora_shared_A"))) &&
           (!s->task_a || cb_init_kaiming(s->task_a, cb_adapter_rng(seed, m, "lora_tasks_A")));
}

/* ---- forward ---- */

/* (B, sum of R_t), or (1, ...) where all rows are of one task: s_t for the ranks of a row's own task, 0 for the others' */
static cb_tensor *own_ranks(const mtlora_state *s, const cb_context *ctx)
{
    const mtlora_config *config = s->config;
    cb_tensor *tasks =
        config->use_task < 0 ? cb_tasks_of(ctx, config->num_tasks, "num_tasks") : cb_full(CB_I32, (double)config->use_task, 1);
    cb_tensor *own = tasks ? cb_zeros(CB_F32, tasks->shape[0], s->task_ranks) : NULL;
    for (int64_t i = 0; own && i < tasks->shape[0]; i++) {
        int32_t task = ((const int32_t *)tasks->data)[i];
        float *row = (float *)own->data + i * s->task_ranks;
        for (int64_t t = 0; t < task; t++)
            row += rank_of(config, t);
        for (int64_t k = 0; k < rank_of(config, task); k++)
            row[k] = (float)of_task(&config->task_scales, task, config->task_scale);
    }
    return own;
}

static cb_tensor *mtlora_forward(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    const mtlora_state *s = m->state;
    const mtlora_config *config = s->config;
    if (m->strength == 0 || !x)
        return m->strength == 0 ? y : NULL;
    if (ctx->training && config->dropout > 0)
        x = cb_dropout(x, config->dropout, ctx->rng);
    if (s->a)
        y = cb_linear_add(y, cb_linear(x, s->a, NULL), s->b, config->scale * m->strength);
    if (!s->task_ranks)
        return y;
    cb_tensor *z = cb_linear(x, s->task_a, NULL);
    return cb_linear_add(y, cb_mul(z, cb_row_factor(own_ranks(s, ctx), z)), s->task_b, m->strength);
}

/* ---- merging ---- */

/* The task's own part along dim. */
static cb_tensor *part_of(const mtlora_state *s, cb_tensor *t, int dim)
{
    int64_t first = 0;
    for (int64_t i = 0; i < s->config->use_task; i++)
        first += rank_of(s->config, i);
    return cb_contiguous(cb_slice(t, dim, first, first + rank_of(s->config, s->config->use_task), 1));
}

static cb_tensor *mtlora_delta(const cb_module *m, cb_tensor *weight)
{
    const mtlora_state *s = m->state;
    const mtlora_config *config = s->config;
    if (s->task_ranks && config->use_task < 0) {
        cb_fail(CB_ERR_UNSUPPORTED, "layer %s: changes with the task of a row, and one weight cannot; expected use_task to be one of them",
                m->layer->name);
        return NULL;
    }
    cb_tensor *change = s->a ? cb_thin_delta(m, s->a, s->b, config->scale) : NULL;
    if (!s->task_ranks || !rank_of(config, config->use_task))
        return s->a ? change : cb_zeros(CB_F32, weight->shape[0], weight->shape[1]);
    double scale = of_task(&config->task_scales, config->use_task, config->task_scale);
    cb_tensor *of_own = cb_thin_delta(m, part_of(s, s->task_a, 0), part_of(s, s->task_b, 1), scale);
    return change ? cb_add(change, of_own) : of_own;
}

const cb_adapter_kind cb_kind_mtlora = {
    .name = "mtlora",
    .peft_type = "MTLORA",
    .summary = "a low-rank pair that all tasks share and one of each task: W x + s B A x + s_t B_t A_t x",
    .paper = "Agiza et al. 2024, arXiv:2403.20320",
    .options = mtlora_options,
    .config_size = sizeof(mtlora_config),
    .state_size = sizeof(mtlora_state),
    .module = {.name = "mtlora", .forward = mtlora_forward, .adds = cb_adds_always, .delta = mtlora_delta},
    .hosts = 1u << CB_LAYER_LINEAR,
    .check = mtlora_check,
    .create = mtlora_create,
    .parameters = mtlora_parameters,
    .initialise = mtlora_initialise,
    .peft_names = mtlora_peft_names,
    .peft_fixed = mtlora_peft_fixed,
    .live = mtlora_live,
};
