/* test_faults_paths.c: other ways through the product with every allocation and every call on a file failing in turn (fault_sweep.h):
 * training over a quantised base, merging into it and quantising; conversions of models and adapters; whole models merged, and adapters into one; tokenizers of other
 * formats. */
#include "cambium/convert.h"
#include "fault_sweep.h"
#include "training_job.h"

/* The path of a file that is still to be made: NULL when it is there, or without memory. */
static char *missing(const char *tree, const char *name)
{
    char *path = cb_path_join(tree, name);
    if (path && access(path, F_OK) != 0)
        return path;
    cb_free(path);
    return NULL;
}

static bool clean(bool ok)
{
    cb_scope_close(NULL);
    return ok && cb_ok();
}

/* ---- over a quantised base ---- */

#define QUANTISED CB_TEST_DATA "/quantized/"

static bool train_dora(const char *tree)
{
    char *output = cb_path_join(tree, "run");
    const training_job run = {QUANTISED "nf4", "{\"r\": 2, \"use_dora\": true, \"target_modules\": \".*(q_proj|down_proj)\"}", output,
                              .steps = 1, .batch_size = 2};
    bool ok = output && training_job_run(&run);
    cb_free(output);
    return ok;
}

/* With an adapter into the quantised base, without one quantises a plain base. */
static bool merge(const char *tree, const char *name, const char *base, const char *adapter, int quantize)
{
    char *output = missing(tree, name), *from = output && adapter ? cb_path_join(tree, adapter) : NULL;
    cb_merge_options options = {0};
    bool ok = output && cb_options_init(cb_merge_option_table, &options) && cb_options_init(cb_quantize_option_table, &options);
    options.quantize = quantize;
    options.block_size = quantize == CB_QUANTIZE_INT8_BLOCK ? 32 : 0;
    options.max_kl = 10; /* a tiny random model feels every step */
    cb_model *model = ok ? cb_model_load(base) : NULL;
    cb_adapter *loaded = model && from ? cb_adapter_load(from, cb_model_root(model), cb_model_type(model)) : NULL;
    if (model && cb_ok())
        cb_merge_fold(model, &loaded, from ? 1 : 0, output, &options, NULL);
    cb_adapter_free(loaded);
    cb_model_free(model);
    cb_options_free(cb_quantize_option_table, &options);
    cb_free(from);
    cb_free(output);
    return cb_ok();
}

static bool quantised(const char *tree)
{
    return clean(train_dora(tree) && merge(tree, "merged", QUANTISED "nf4", "run", CB_QUANTIZE_NONE) &&
                 merge(tree, "blocks", QUANTISED "base", NULL, CB_QUANTIZE_INT8_BLOCK));
}

/* ---- conversions ---- */

/* `input`: in the tree unless it is a path; `beside`: an adapter's base, a llama2.c model's tokenizer. */
static bool convert(const char *tree, const char *input, const char *name, int to, int dtype, const char *beside)
{
    char *output = missing(tree, name), *from = !output ? NULL : *input == '/' ? cb_strdup(input) : cb_path_join(tree, input);
    cb_convert_options options = {0};
    if (from && cb_options_init(cb_convert_option_table, &options)) {
        options.to = to;
        options.dtype = dtype;
        *(to == CB_CONVERT_HF ? &options.tokenizer : &options.base) = beside ? cb_strdup(beside) : NULL;
        options.max_kl = 10;
        if (cb_ok())
            cb_convert(from, output, &options, NULL);
        cb_options_free(cb_convert_option_table, &options);
    }
    cb_free(from);
    cb_free(output);
    return cb_ok();
}

static bool conversions(const char *tree)
{
    const char *llama = model_path("llama3");
    return clean(
        convert(tree, llama, "model.gguf", CB_CONVERT_GGUF, CB_CONVERT_KEEP, NULL) &&
        convert(tree, "model.gguf", "model", CB_CONVERT_HF, CB_CONVERT_BF16, NULL) &&
        convert(tree, CB_TEST_DATA "/gguf/llama_yarn_rope.gguf", "yarn", CB_CONVERT_HF, CB_CONVERT_KEEP, NULL) &&
        convert(tree, QUANTISED "int8", "plain", CB_CONVERT_HF, CB_CONVERT_KEEP, NULL) &&
        convert(tree, CB_TEST_DATA "/adapters/lora_qv", "adapter.gguf", CB_CONVERT_GGUF_LORA, CB_CONVERT_KEEP, model_path("llama2")) &&
        convert(tree, "adapter.gguf", "mlx", CB_CONVERT_MLX, CB_CONVERT_KEEP, model_path("llama2")) &&
        convert(tree, CB_TEST_DATA "/formats/llama2c.bin", "llama2c", CB_CONVERT_HF, CB_CONVERT_KEEP,
                CB_TEST_DATA "/formats/llama2c_tokenizer.bin"));
}

/* ---- whole models ---- */

static bool merge_models(const char *tree, const char *name, const char *method)
{
    const char *models[] = {CB_TEST_DATA "/merging/a", CB_TEST_DATA "/merging/b"};
    char *output = missing(tree, name);
    cb_model_merge_options options = {0};
    if (output && cb_options_init(cb_model_merge_option_table, &options) &&
        cb_options_set(cb_model_merge_option_table, &options, "method", method) &&
        cb_options_set(cb_model_merge_option_table, &options, "density", "0.5"))
        cb_merge_models(CB_TEST_DATA "/merging/base", models, (double[]){1, 1}, 2, output, &options);
    cb_options_free(cb_model_merge_option_table, &options);
    cb_free(output);
    return cb_ok();
}

static bool models(const char *tree)
{
    return clean(merge_models(tree, "ties", "breadcrumbs_ties") && merge_models(tree, "della", "della") &&
                 merge_models(tree, "stock", "model_stock") && merge_models(tree, "sce", "sce"));
}

/* ---- adapters into one ---- */

static bool merge_adapters(const char *tree, const char *name, const char *method, const char *type)
{
    const char *adapters[] = {CB_TEST_DATA "/adapter_merging/a", CB_TEST_DATA "/adapter_merging/b"};
    char *output = missing(tree, name);
    cb_model_merge_options combine = {0};
    cb_adapter_merge_options options = {.max_kl = -1};
    if (output && cb_options_init(cb_model_merge_option_table, &combine) && cb_options_init(cb_adapter_merge_option_table, &options) &&
        cb_options_set(cb_model_merge_option_table, &combine, "method", method) &&
        cb_options_set(cb_model_merge_option_table, &combine, "density", "0.5") &&
        cb_options_set(cb_adapter_merge_option_table, &options, "combination_type", type) &&
        cb_options_set(cb_adapter_merge_option_table, &options, "rank", "3")) {
        options.combine = &combine;
        cb_merge_adapters(NULL, adapters, (double[]){1, 0.5}, 2, output, &options, NULL);
    }
    cb_options_free(cb_adapter_merge_option_table, &options);
    cb_options_free(cb_model_merge_option_table, &combine);
    cb_free(output);
    return cb_ok();
}

static bool adapters(const char *tree)
{
    return clean(merge_adapters(tree, "sum", "linear", "none") && merge_adapters(tree, "ties", "ties", "none") &&
                 merge_adapters(tree, "lego", "lego", "none") && merge_adapters(tree, "peft", "linear", "dare_ties_svd"));
}

/* ---- tokenizers ---- */

static bool convert_tokenizer(const char *tree, const char *name)
{
    char *file = cb_format("%s.json", name), *output = file ? missing(tree, file) : NULL;
    char *input = output ? cb_format(CB_TEST_DATA "/tokenizers/files/%s", name) : NULL;
    cb_tokenizer *tokenizer = input ? cb_tokenizer_load(input) : NULL;
    if (tokenizer)
        cb_tokenizer_save(tokenizer, output);
    cb_tokenizer_free(tokenizer);
    cb_free(input);
    cb_free(output);
    cb_free(file);
    return cb_ok();
}

static bool tokenizers(const char *tree)
{
    return clean(convert_tokenizer(tree, "llama") && convert_tokenizer(tree, "t5") && convert_tokenizer(tree, "qwen2") &&
                 convert_tokenizer(tree, "bert"));
}

/* ---- the tests ---- */

static const struct {
    const char *name;
    bool (*run)(const char *tree);
} jobs[] = {{"quantised", quantised}, {"conversions", conversions}, {"models", models}, {"adapters", adapters}, {"tokenizers", tokenizers}};
enum { JOBS = sizeof jobs / sizeof *jobs };

static const char *program;

static void sweep(int index)
{
    char tree[256], name[300];
    snprintf(tree, sizeof tree, "%s/%s", scratch, jobs[index].name);
    snprintf(name, sizeof name, "%s %s", jobs[index].name, scratch);
    fault_job job = fault_job_of(jobs[index].run, tree);
    fault_allocations(&job, 24);
    fault_files(&job, 4);
    fault_short_calls(&job, 4);
    fault_kills(&job, program, name, 8);
}

static void over_a_quantised_base(void **state)
{
    (void)state;
    sweep(0);
}

static void models_and_adapters_into_other_formats(void **state)
{
    (void)state;
    sweep(1);
}

static void whole_models_merged(void **state)
{
    (void)state;
    sweep(2);
}

static void adapters_merged_into_one(void **state)
{
    (void)state;
    sweep(3);
}

static void tokenizers_of_other_formats(void **state)
{
    (void)state;
    sweep(4);
}

static int prepare(void **state)
{
    fault_prepare();
    if (make_scratch(state) != 0)
        return 1;
    training_job_files();
    return 0;
}

int main(int argc, char **argv)
{
    cb_set_threads(1); /* the models are tiny */
    program = argv[0];
    char name[32];
    if (argc == 6 && sscanf(argv[2], "%31s %63s", name, scratch) == 2)
        for (int i = 0; i < JOBS; i++)
            if (strcmp(name, jobs[i].name) == 0)
                return fault_killed_job(jobs[i].run, argv + 3);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(over_a_quantised_base, without_errors),
        cmocka_unit_test_setup(models_and_adapters_into_other_formats, without_errors),
        cmocka_unit_test_setup(whole_models_merged, without_errors),
        cmocka_unit_test_setup(adapters_merged_into_one, without_errors),
        cmocka_unit_test_setup(tokenizers_of_other_formats, without_errors),
    };
    return cmocka_run_group_tests(tests, prepare, remove_scratch);
}
