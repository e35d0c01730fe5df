/* test_xlora.c: X-LoRA beside PEFT's values (tests/oracle/xlora.py): logits, scalings and the classifier's gradients; its directories and the authors';
 * training that goes on to the bit; generation with the two caches; what is refused. */
#include <unistd.h>

#include "letter_run.h"

static const char *const names[] = {"plain", "layerwise", "topk", "value", "raw"};
enum { NAMES = sizeof names / sizeof *names };

typedef struct mixture {
    cb_model *model;
    cb_composition c;
    expected e;
    cb_tensor *ids;
} mixture;

static char *reference(const char *name)
{
    return cb_format(CB_TEST_DATA "/xlora/%s", name);
}

static bool load_from(mixture *m, const char *path)
{
    return cb_composition_load(&m->c, path, cb_model_root(m->model), cb_model_type(m->model));
}

/* In place: the model keeps the composition's address. */
static void open_mixture(mixture *m, const char *name)
{
    *m = (mixture){.model = load_model("llama2")};
    char *path = reference(name), *file = cb_format("%s/expected.safetensors", path);
    m->e.file = cb_safetensors_open(file);
    assert_true(cb_is_composition(path));
    assert_ok(m->e.file && load_from(m, path) && cb_composition_use(&m->c, m->model));
    m->ids = cb_cast(expected_tensor(&m->e, "input_ids"), CB_I32);
    cb_free(file);
    cb_free(path);
}

static void let_go(mixture *m)
{
    cb_model_set_blend(m->model, NULL, NULL, NULL);
    cb_composition_free(&m->c);
}

static void close_mixture(mixture *m)
{
    let_go(m);
    cb_safetensors_close(m->e.file);
    cb_model_free(m->model);
}

/* ---- values ---- */

static void compare_gradients(const mixture *m, const char *name)
{
    const cb_named_tensor *list;
    size_t count = cb_xlora_parameters(m->c.xlora, &list);
    for (size_t i = 0; i < count; i++) {
        char key[64];
        snprintf(key, sizeof key, "grad.%s", list[i].name);
        cb_tensor *wanted = expected_tensor(&m->e, key);
        assert_ok(list[i].tensor->grad);
        double d = distance(list[i].tensor->grad, wanted), top = largest(wanted);
        assert_true(top > 0);
        if (!(d <= 1e-4 * top))
            fail_msg("%s: %s differs by %g, largest value %g", name, key, d, top);
        cb_zero_grad(list[i].tensor);
    }
}

static void peft_computes_the_same(void **state)
{
    (void)state;
    for (int i = 0; i < NAMES; i++) {
        cb_scope *scope = cb_scope_open();
        mixture m;
        open_mixture(&m, names[i]);
        /* without a softmax scalings carry the rounding of the first pass on: PEFT's own logits are 1.3e-5 from its f64 ones there */
        double within = strcmp(names[i], "raw") == 0 ? 3e-5 : 1e-5;
        assert_within(logits_of(m.model, m.ids), expected_tensor(&m.e, "logits"), within, names[i]);
        for (int checkpoint = 0; checkpoint < 2; checkpoint++) {
            cb_context ctx = {.checkpoint = checkpoint};
            cb_tensor *loss = cb_model_loss(m.model, m.ids, targets_of(expected_tensor(&m.e, "labels")), 0, &ctx);
            assert_ok(loss && cb_backward(loss));
            assert_true(fabs(cb_item(loss) - cb_get(expected_tensor(&m.e, "loss"), 0)) < 1e-5 * fabs(cb_item(loss)));
            compare_gradients(&m, names[i]);
        }
        close_mixture(&m);
        cb_scope_close(scope);
    }
}

/* ... of each layer and adapter, from the hidden states without adapters; PEFT multiplies with the global weight later. */
static void scalings_are_what_the_classifier_says(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    mixture m;
    open_mixture(&m, "layerwise");
    cb_tensor *hidden = NULL;
    let_go(&m);
    cb_no_grad hidden = cb_model_hidden(m.model, m.ids, NULL);
    char *path = reference("layerwise");
    assert_ok(load_from(&m, path));
    cb_free(path);
    cb_tensor *s = cb_xlora_scalings(m.c.xlora, hidden, &(cb_context){0});
    cb_tensor *wanted = expected_tensor(&m.e, "scalings");
    assert_ok(s);
    assert_within(s, cb_scale(cb_reshape_nd(wanted, 3, s->shape), 0.7), 1e-5, "scalings");
    cb_rng rng = {.seed = 3};
    cb_tensor *dropped = cb_xlora_scalings(m.c.xlora, hidden, &(cb_context){.training = true, .rng = &rng});
    assert_true(distance(dropped, s) > 1e-3); /* 0.2 of the classifier's inner values */
    close_mixture(&m);
    cb_scope_close(scope);
}

/* ---- directories ---- */

static void directories_come_back(void **state)
{
    (void)state;
    for (int i = 0; i < NAMES; i++) {
        cb_scope *scope = cb_scope_open();
        mixture m;
        open_mixture(&m, names[i]);
        cb_tensor *wanted = logits_of(m.model, m.ids);
        const char *own = scratch_path(names[i]);
        assert_ok(cb_composition_save(&m.c, own, "llama2"));
        char *blend = cb_format("%s/blend.json", own), *moved = cb_format("%s-moved", own), command[1200];
        assert_false(cb_is_file(blend));
        snprintf(command, sizeof command, "rm -rf %s && mv %s %s", moved, own, moved); /* the paths in the config lead nowhere then */
        assert_int_equal(system(command), 0);
        let_go(&m);
        assert_true(cb_is_composition(moved));
        assert_ok(load_from(&m, moved) && cb_composition_use(&m.c, m.model));
        assert_int_equal(m.c.count, 3);
        assert_string_equal(cb_adapter_name(m.c.adapters[2]), "2");
        assert_true(distance(logits_of(m.model, m.ids), wanted) == 0);
        cb_free(blend);
        cb_free(moved);
        close_mixture(&m);
        cb_scope_close(scope);
    }
}

static void put_file(const char *directory, const char *name, const char *text)
{
    char *path = cb_path_join(directory, name);
    assert_ok(path && cb_file_write(path, text, strlen(text)));
    cb_free(path);
}

#define OWN_CONFIG(depth, more)                                                                                                            \
    "{\"hidden_size\": 48, \"base_model_id\": \"llama2\", \"adapters\": {\"first\": \"a/0\", \"second\": \"b/1\", \"third\": \"2\"}, "     \
    "\"xlora_depth\": " depth ", \"xlora_size\": 7, \"layerwise_scalings\": true, \"softmax_temperature\": 0.5, "                          \
    "\"global_scaling_weight\": 0.7, " more "}"

/* What the authors' package calls the same tensors, with and without biases. */
static void the_authors_directories_are_read(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    mixture m;
    open_mixture(&m, "layerwise");
    const cb_named_tensor *list;
    assert_int_equal(cb_xlora_parameters(m.c.xlora, &list), 4);
    const char *path = scratch_path("authors");
    char command[1200];
    snprintf(command, sizeof command, "rm -rf %s && cp -r " CB_TEST_DATA "/xlora/layerwise %s && rm %s/adapter_*", path, path, path);
    assert_int_equal(system(command), 0);
    static const char *const own[] = {"inner.0.weight", "inner.0.bias", "last.weight", "last.bias"};
    char *file = cb_format("%s/xlora_classifier.safetensors", path);
    for (int biased = 1; biased >= 0; biased--) {
        cb_weight_entry entries[4];
        size_t count = 0;
        if (!biased)
            for (int i = 1; i < 4; i += 2)
                cb_no_grad assert_ok(cb_copy_into(list[i].tensor, cb_zeros_like(list[i].tensor)));
        for (int i = 0; i < 4; i++)
            if (biased || i % 2 == 0) {
                cb_tensor *t = list[i].tensor;
                entries[count] = (cb_weight_entry){
                    .name = own[i], .dtype = CB_F32, .ndim = t->ndim, .data = t->data, .size = (size_t)t->count * sizeof(float)};
                memcpy(entries[count++].shape, t->shape, sizeof t->shape);
            }
        assert_ok(cb_safetensors_write(file, entries, count, NULL, NULL, NULL));
        cb_tensor *wanted = logits_of(m.model, m.ids);
        put_file(path, "xlora_config.json",
                 biased ? OWN_CONFIG("2", "\"enable_relu_and_dropout\": true, \"device\": \"cpu\"")
                        : OWN_CONFIG("2", "\"enable_relu_and_dropout\": true, \"use_bias\": false"));
        cb_composition other;
        cb_model *model = load_model("llama2");
        assert_ok(cb_composition_load(&other, path, cb_model_root(model), "llama") && cb_composition_use(&other, model));
        assert_true(distance(logits_of(model, m.ids), wanted) == 0);
        cb_model_set_blend(model, NULL, NULL, NULL);
        cb_composition_free(&other);
        put_file(path, "xlora_config.json", OWN_CONFIG("2", "\"enable_relu_and_dropout\": false"));
        assert_refused(!cb_composition_load(&other, path, cb_model_root(model), "llama"), "enable_relu_and_dropout: found false");
        cb_model_free(model);
    }
    cb_free(file);
    close_mixture(&m);
    cb_scope_close(scope);
}

static void what_does_not_fit_is_refused_by_name(void **state)
{
    (void)state;
    static const char *const cases[][3] = {
        {"\"hidden_size\": 48", "\"hidden_size\": 64", "hidden_size: found 64, expected 48"},
        {"\"xlora_depth\": 1", "\"xlora_depth\": 2", "classifier: layers.0.weight: found F32 (3, 48), expected floats of (2048, 48)"},
        {"\"xlora_depth\": 1", "\"xlora_depth\": 0", "xlora_depth"},
        {"\"xlora_depth\": 1", "\"xlora_depth\": \"deep\"", "xlora_depth"},
        {"\"layerwise_scalings\": false", "\"layerwise_scalings\": true", "expected floats of (24, 48)"},
        {"\"top_k_lora\": null", "\"top_k_lora\": 4", "top_k_lora: found 4 of 3 adapters"},
        {"\"enable_softmax_topk\": false", "\"enable_softmax_topk\": true", "enable_softmax_topk without top_k_lora"},
        {"\"softmax_temperature\": 1.0", "\"softmax_temperature\": 0", "softmax_temperature"},
        {"\"2\": \"2\"", "\"2\": \"nowhere/3\"", NULL}, /* it is found by its key */
        {"\"2\": \"2\"", "\"x\": \"nowhere/3\"", "adapters: x: found no adapter in nowhere/3"},
        {"\"2\": \"2\"", "\"2\": 2", "adapters: 2: expected a path"},
        {"\"2\": \"2\"", "\"2\": \".\"", NULL}, /* likewise */
        {"\"2\": \"2\"", "\"2\": \"elsewhere/2/\"", NULL},
        {"\"0\": \"0\",", "", "layers.0.weight: found F32 (3, 48), expected floats of (2, 48)"},
        {"\"enable_softmax\": true", "\"enable_softmax\": 1", "enable_softmax"}};
    cb_scope *scope = cb_scope_open();
    mixture m;
    open_mixture(&m, "plain");
    let_go(&m);
    const char *path = scratch_path("wrong");
    char command[1200];
    snprintf(command, sizeof command, "rm -rf %s && cp -r " CB_TEST_DATA "/xlora/plain %s", path, path);
    assert_int_equal(system(command), 0);
    char *config = cb_format("%s/adapter_config.json", path), *text = cb_file_read(config, 1 << 20, NULL);
    assert_ok(text);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *at = strstr(text, cases[i][0]);
        if (!at)
            fail_msg("the config has no %s", cases[i][0]);
        char *changed = cb_format("%.*s%s%s", (int)(at - text), text, cases[i][1], at + strlen(cases[i][0]));
        put_file(path, "adapter_config.json", changed);
        if (cases[i][2])
            assert_refused(!load_from(&m, path), cases[i][2]);
        else
            assert_ok(load_from(&m, path));
        cb_composition_free(&m.c);
        cb_free(changed);
    }
    put_file(path, "adapter_config.json", text);
    put_file(path, "adapter_model.safetensors", "no tensors");
    assert_refused(!load_from(&m, path), "adapter_model.safetensors");
    assert_int_equal(m.c.count, 0);
    cb_free(config);
    cb_free(text);
    close_mixture(&m);
    cb_scope_close(scope);
}

static void only_loras_of_blocks_can_be_mixed(void **state)
{
    (void)state;
    static const char *const cases[][3] = {{"lora", "{\"use_dora\": true}", "of kind lora with use_dora, expected LoRAs"},
                                           {"ia3", "{}", "of kind ia3, expected LoRAs"},
                                           {"lora", "{\"target_modules\": [\"lm_head\"]}", "on layer lm_head, expected linear layers"},
                                           {"lora", "{\"bias\": \"lora_only\"}", NULL}, /* a model without biases */
                                           {"lora", "{\"modules_to_save\": [\"lm_head\"]}", "trained whole, expected LoRAs alone"}};
    cb_model *model = load_model("llama2");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cb_adapter *adapter = made(model, cases[i][0], cases[i][1], 1);
        cb_xlora *xlora = cb_xlora_new(&adapter, 1, NULL, 1);
        if (cases[i][2])
            assert_refused(!xlora, cases[i][2]);
        else
            assert_ok(xlora);
        cb_xlora_free(xlora);
        cb_adapter_free(adapter);
    }
    cb_model_free(model);
}

/* ---- generation ---- */

/* The text that comes out of passes over all of it, without a cache. */
static void continue_plainly(const mixture *m, int32_t *ids, int64_t count, int64_t more)
{
    for (int64_t n = count; n < count + more; n++) {
        cb_scope *scope = cb_scope_open();
        cb_tensor *y = logits_of(m->model, cb_from(CB_I32, ids, 1, n));
        const float *last = (const float *)y->data + (n - 1) * y->shape[2];
        int32_t best = 0;
        for (int32_t v = 1; v < y->shape[2]; v++)
            best = last[v] > last[best] ? v : best;
        ids[n] = best;
        cb_scope_close(scope);
    }
}

static void the_caches_change_no_text(void **state)
{
    (void)state;
    enum { PROMPT = 5, MORE = 20 };
    for (int i = 0; i < NAMES; i++) {
        cb_scope *scope = cb_scope_open();
        mixture m;
        open_mixture(&m, names[i]);
        int32_t ids[PROMPT + MORE];
        memcpy(ids, m.ids->data, PROMPT * sizeof *ids);
        cb_generate_options options = {0};
        cb_generation out = {0};
        assert_ok(cb_options_init(cb_generate_option_table, &options));
        options.max_new_tokens = MORE;
        options.temperature = 0;
        options.ignore_eos = true;
        assert_ok(cb_generate_ids(m.model, NULL, ids, PROMPT, &options, NULL, NULL, &out));
        continue_plainly(&m, ids, PROMPT, MORE);
        assert_int_equal(out.count, MORE);
        assert_memory_equal(out.ids, ids + PROMPT, MORE * sizeof *ids);
        if (i == 0) {
            cb_prompt_ids prompts[] = {{.ids = ids, .count = PROMPT}};
            cb_batch_options batch = {.batch_size = 1};
            assert_refused(!cb_generate_batch(m.model, NULL, prompts, 1, NULL, NULL, &options, &batch, &out), "expected one at a time");
        }
        cb_generation_free(&out);
        cb_options_free(cb_generate_option_table, &options);
        close_mixture(&m);
        cb_scope_close(scope);
    }
}

/* Pieces of a text, and one that is cut back, give what the whole gives. */
static void the_first_pass_has_a_cache_of_its_own(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    mixture m;
    open_mixture(&m, "value");
    cb_tensor *whole = logits_of(m.model, m.ids), *parts[3];
    static const int64_t ends[] = {4, 5, 9};
    cb_cache *cache = cb_cache_new(m.model, 2, 4);
    for (int round = 0; round < 2; round++) {
        cb_no_grad for (int i = 0; i < 3; i++) parts[i] =
            cb_model_logits(m.model, cb_slice(m.ids, 1, i ? ends[i - 1] : 0, ends[i], 1), &(cb_context){.cache = cache});
        assert_within(cb_cat(3, parts, 1), whole, 1e-5, "pieces");
        cb_cache_truncate(cache, 0);
    }
    cb_cache_free(cache);
    close_mixture(&m);
    cb_scope_close(scope);
}

/* ---- training ---- */

static void train(const char *output, int64_t stop_after)
{
    mixture m = {.model = load_model("llama2")};
    cb_adapter *adapters[2];
    for (int i = 0; i < 2; i++) {
        adapters[i] = made(m.model, "lora", "{\"r\": 2}", 3 + (uint64_t)i);
        assert_ok(cb_adapter_rename(adapters[i], i ? "second" : "first"));
        randomise(adapters[i], 5 + (uint64_t)i);
        cb_adapter_set_strength(adapters[i], 0);
    }
    cb_xlora_options o;
    assert_ok(cb_options_init(cb_xlora_option_table, &o));
    o.xlora_depth = 2;
    o.xlora_size = 8;
    cb_composition c = {.adapters = adapters, .weights = (double[]){1, 1}, .count = 2, .xlora = cb_xlora_new(adapters, 2, &o, 7)};
    assert_ok(c.xlora);
    uint64_t before[2] = {cb_adapter_hash(adapters[0]), cb_adapter_hash(adapters[1])};
    cb_tokenizer *tokenizer;
    cb_data_options text = {0};
    cb_dataset *data = letters(&tokenizer, &text);
    cb_train_options options = {0};
    assert_ok(cb_options_init(cb_train_option_table, &options));
    options.output = (char *)(uintptr_t)output;
    options.steps = 6;
    options.seed = 4;
    options.batch_size = 2;
    options.learning_rate = 1e-2;
    options.resume = true;
    cb_trainee what;
    assert_ok(cb_train_composition(&what, m.model, &c, 2));
    letter_run run = {.stop_after = stop_after};
    bool ok = cb_train(&what, data, NULL, &options, letter_step, &run, NULL);
    if (stop_after) {
        assert_refused(!ok, "--resume");
        cb_interrupt_clear();
    } else {
        assert_ok(ok);
    }
    cb_train_composition_free(&what);
    for (int i = 0; i < 2; i++)
        assert_true(cb_adapter_hash(adapters[i]) == before[i]);
    options.output = NULL;
    cb_options_free(cb_train_option_table, &options);
    cb_dataset_free(data);
    cb_string_list_free(&text.data);
    cb_options_free(cb_data_option_table, &text);
    cb_tokenizer_free(tokenizer);
    cb_xlora_free(c.xlora);
    for (int i = 0; i < 2; i++)
        cb_adapter_free(adapters[i]);
    cb_model_free(m.model);
}

static void a_resumed_run_ends_with_the_bits_of_one_that_never_stopped(void **state)
{
    (void)state;
    train(scratch_path("whole"), 0);
    train(scratch_path("part"), 3);
    train(scratch_path("part"), 0);
    assert_true(same_adapters(scratch_path("whole"), scratch_path("part")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(peft_computes_the_same),
        cmocka_unit_test(scalings_are_what_the_classifier_says),
        cmocka_unit_test(directories_come_back),
        cmocka_unit_test(the_authors_directories_are_read),
        cmocka_unit_test(what_does_not_fit_is_refused_by_name),
        cmocka_unit_test(only_loras_of_blocks_can_be_mixed),
        cmocka_unit_test(the_caches_change_no_text),
        cmocka_unit_test(the_first_pass_has_a_cache_of_its_own),
        cmocka_unit_test(a_resumed_run_ends_with_the_bits_of_one_that_never_stopped),
    };
    cb_set_threads(1); /* the models are tiny */
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
