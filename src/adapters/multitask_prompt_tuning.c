/* multitask_prompt_tuning.c: prompt tuning of several tasks: a prompt that they share, times a low-rank matrix of each,
 * P o (U_t V_t).  Wang et al. 2023, arXiv:2303.02861.
 * N tasks, R ranks; P (tokens, C), U (N, tokens, R), V (N, R, C). */
#include "adapters/prompts.h"
#include "adapters/tasks.h"

typedef struct multitask_config {
    cb_prompt_config prompt; /* first */
    int64_t num_ranks, num_tasks, prompt_tuning_init_task;
    int prompt_tuning_init;
    char *prompt_tuning_init_text, *prompt_tuning_init_state_dict_path, *tokenizer_name_or_path;
} multitask_config;

typedef struct multitask_state {
    cb_tensor *table, *columns, *rows;
} multitask_state;

enum { START_RANDOM };
static const char *const multitask_starts[] = {
    "RANDOM", "TEXT", "SAMPLE_VOCAB", "AVERAGE_SOURCE_TASKS", "EXACT_SOURCE_TASK", "ONLY_SOURCE_SHARED", NULL};

static const cb_option multitask_options[] = {
    CB_PROMPT_OPTIONS(multitask_config),
    CB_OPT_INT(multitask_config, num_tasks, 1, 1, 1 << 20, "tasks that share the prompt"),
    CB_OPT_INT(multitask_config, num_ranks, 1, 1, 65536, "rank of a task's own factors"),
    CB_OPT_ENUM(multitask_config, prompt_tuning_init, START_RANDOM, multitask_starts,
                "how they start: RANDOM (normal); the others are read from files only"),
    CB_OPT_STRING(multitask_config, prompt_tuning_init_text, NULL, "TEXT", "of files: the text of the start TEXT"),
    CB_OPT_STRING(multitask_config, prompt_tuning_init_state_dict_path, NULL, "FILE", "of files: where other starts were taken from"),
    CB_OPT_INT(multitask_config, prompt_tuning_init_task, 0, 0, 1 << 20, "of files: and of which task"),
    CB_OPT_STRING(multitask_config, tokenizer_name_or_path, NULL, "NAME", "of files: the tokenizer of the text"),
    CB_OPT_END};

static const char *const multitask_peft_null[] = {CB_PROMPT_NULLS, NULL};
static const char multitask_peft_fixed[] = "{\"modules_to_save\": null, \"tokenizer_kwargs\": null}";

static bool multitask_check(const void *config, const cb_layer *layer)
{
    int start = ((const multitask_config *)config)->prompt_tuning_init;
    if (!layer || start == START_RANDOM)
        return true;
    return cb_fail(CB_ERR_UNSUPPORTED, "prompt_tuning_init: found %s, a new prompt starts RANDOM", multitask_starts[start]) == CB_OK;
}

static bool multitask_create(cb_module *m, const void *config, const cb_layer *layer)
{
    (void)m;
    return cb_prompt_check(config, layer, false);
}

static int multitask_parameters(cb_module *m, cb_adapter_parameter *list)
{
    multitask_state *s = m->state;
    const multitask_config *config = cb_module_group(m)->config;
    int64_t tokens = config->prompt.num_virtual_tokens, n = config->num_tasks, r = config->num_ranks, width = m->layer->out_features;
    list[0] = (cb_adapter_parameter){"prompt_embeddings", &s->table, 2, {tokens, width}, CB_ROLE_TRAINED};
    list[1] = (cb_adapter_parameter){"prefix_task_cols", &s->columns, 3, {n, tokens, r}, CB_ROLE_TRAINED};
    list[2] = (cb_adapter_parameter){"prefix_task_rows", &s->rows, 3, {n, r, width}, CB_ROLE_TRAINED};
    return 3;
}

static bool multitask_initialise(cb_module *m, const void *config, uint64_t seed)
{
    (void)config;
    multitask_state *s = m->state;
    return cb_init_normal(s->table, cb_adapter_rng(seed, m, "prompt_embeddings"), 1) &&
           cb_init_normal(s->columns, cb_adapter_rng(seed, m, "prefix_task_cols"), 0.02) &&
           cb_init_normal(s->rows, cb_adapter_rng(seed, m, "prefix_task_rows"), 0.02);
}

static cb_tensor *multitask_prompt(const cb_module *m, const cb_context *ctx)
{
    const multitask_state *s = m->state;
    cb_tensor *tasks = cb_tasks_of(ctx, s->columns->shape[0], "num_tasks");
    return cb_mul(s->table, cb_matmul(cb_index_select(s->columns, 0, tasks), cb_index_select(s->rows, 0, tasks)));
}

static bool multitask_stored_config(void *config, const cb_adapter_group *group)
{
    return cb_prompt_describe(config, group, false);
}

const cb_adapter_kind cb_kind_multitask_prompt_tuning = {
    .name = "multitask_prompt_tuning",
    .peft_type = "MULTITASK_PROMPT_TUNING",
    .summary = "embeddings of virtual tokens that several tasks share, times a low-rank matrix of each",
    .paper = "Wang et al. 2023, arXiv:2303.02861",
    .options = multitask_options,
    .config_size = sizeof(multitask_config),
    .state_size = sizeof(multitask_state),
    .module = {.name = "multitask_prompt_tuning", .virtual_tokens = cb_prompt_virtual_tokens, .prompt = multitask_prompt},
    .hosts = 1u << CB_LAYER_EMBEDDING,
    .check = multitask_check,
    .create = multitask_create,
    .parameters = multitask_parameters,
    .initialise = multitask_initialise,
    .stored_config = multitask_stored_config,
    .peft_null = multitask_peft_null,
    .peft_fixed = multitask_peft_fixed,
};
