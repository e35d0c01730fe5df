/* test_prompts.c: kinds of virtual tokens, and of prompts inside attention, on small models: packed documents see them as documents alone do, the cache, checkpointing,
 * gradients, files, resuming to the bit, and what is refused.  Values against PEFT are in test_kinds_peft.c. */
#include "cambium/merge.h"
#include "letter_run.h"

typedef struct prompt_case {
    const char *kind, *model, *options;
} prompt_case;

static const prompt_case cases[] = {
    {"prompt_tuning", "llama2", "{\"num_virtual_tokens\": 5}"},
    {"prompt_tuning", "gpt2", "{\"num_virtual_tokens\": 3, \"prompt_tuning_init\": \"SAMPLE_VOCAB\"}"},
    {"p_tuning", "qwen2", "{\"num_virtual_tokens\": 4, \"encoder_hidden_size\": 20}"},
    {"p_tuning", "llama2",
     "{\"num_virtual_tokens\": 4, \"encoder_hidden_size\": 10, \"encoder_reparameterization_type\": \"LSTM\", \"encoder_num_layers\": 1}"},
    {"p_tuning", "gpt2",
     "{\"num_virtual_tokens\": 3, \"encoder_hidden_size\": 6, \"encoder_reparameterization_type\": \"LSTM\", \"encoder_dropout\": 0.2}"},
    {"prefix_tuning", "llama3", "{\"num_virtual_tokens\": 6}"},
    {"prefix_tuning", "gpt2", "{\"num_virtual_tokens\": 3, \"prefix_projection\": true}"},
    {"prefix_tuning", "qwen3", "{\"num_virtual_tokens\": 3, \"prefix_projection\": true, \"encoder_hidden_size\": 10}"},
    {"multitask_prompt_tuning", "llama2", "{\"num_virtual_tokens\": 4, \"num_tasks\": 3, \"num_ranks\": 2}"},
    {"adaption_prompt", "llama3", "{\"adapter_len\": 5, \"adapter_layers\": 1}"},
    {"adaption_prompt", "gpt2", "{\"adapter_len\": 3}"},
};
enum { CASES = sizeof cases / sizeof *cases };

typedef void check_case(const prompt_case *c, cb_model *model, cb_adapter *adapter);

static cb_adapter *put_on(const prompt_case *c, cb_model *model)
{
    cb_adapter *adapter = cb_adapter_new(c->kind, NULL);
    assert_ok(adapter && cb_adapter_set_json(adapter, c->kind, c->options));
    assert_ok(cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), 3));
    randomise(adapter, 5);
    return adapter;
}

static void for_all(check_case *check)
{
    for (int i = 0; i < CASES; i++) {
        cb_scope *scope = cb_scope_open();
        cb_model *model = load_model(cases[i].model);
        cb_adapter *adapter = put_on(&cases[i], model);
        check(&cases[i], model, adapter);
        cb_adapter_free(adapter);
        cb_model_free(model);
        cb_scope_close(scope);
    }
}

static void every_such_kind_has_a_case(void **state)
{
    (void)state;
    for (const cb_adapter_kind *const *kind = cb_adapter_kinds(); *kind; kind++) {
        bool found = !(*kind)->module.virtual_tokens && !(*kind)->module.attended;
        for (int i = 0; i < CASES; i++)
            found |= strcmp(cases[i].kind, (*kind)->name) == 0;
        if (!found)
            fail_msg("kind %s has no case here", (*kind)->name);
    }
}

/* ---- what sees what ---- */

/* Two documents and two places of padding in a row. */
static void check_packing(const prompt_case *c, cb_model *model, cb_adapter *adapter)
{
    (void)adapter;
    static const int32_t ids[10] = {5, 9, 14, 22, 7, 31, 12, 40, 3, 3}, segments[10] = {0, 0, 0, 0, 1, 1, 1, 1, -1, -1},
                         positions[10] = {0, 1, 2, 3, 0, 1, 2, 3, 0, 0};
    cb_tensor *packed = NULL;
    cb_no_grad packed =
        cb_model_logits(model, cb_from(CB_I32, ids, 1, 10),
                        &(cb_context){.segments = cb_from(CB_I32, segments, 1, 10), .positions = cb_from(CB_I32, positions, 1, 10)});
    assert_ok(packed);
    for (int d = 0; d < 2; d++) {
        cb_tensor *alone = logits_of(model, cb_from(CB_I32, ids + 4 * d, 1, 4));
        assert_within(cb_slice(packed, 1, 4 * d, 4 * d + 4, 1), alone, 1e-5, c->kind); /* f32 sums in another order */
    }
}

static void packed_documents_see_them_as_alone(void **state)
{
    (void)state;
    for_all(check_packing);
}

static void check_cache(const prompt_case *c, cb_model *model, cb_adapter *adapter)
{
    cb_tensor *ids = some_ids(), *whole = logits_of(model, ids), *parts[3];
    static const int64_t ends[] = {4, 5, 9};
    cb_cache *cache = cb_cache_new(model, 2, 4);
    cb_no_grad for (int i = 0; i < 3; i++) parts[i] =
        cb_model_logits(model, cb_slice(ids, 1, i ? ends[i - 1] : 0, ends[i], 1), &(cb_context){.cache = cache});
    assert_within(cb_cat(3, parts, 1), whole, 1e-5, c->kind);
    cb_adapter_set_strength(adapter, 0);
    if (cb_adapter_kind_of(adapter)->module.virtual_tokens)
        assert_refused(!cb_model_logits(model, cb_slice(ids, 1, 0, 1, 1), &(cb_context){.cache = cache}), "cache: begun with");
    cb_cache_truncate(cache, 0);
    cb_tensor *off = logits_of(model, ids);
    cb_no_grad assert_within(cb_model_logits(model, ids, &(cb_context){.cache = cache}), off, 1e-5, c->kind);
    cb_cache_free(cache);
    assert_true(distance(off, whole) > 1e-3);
}

static void the_cache_holds_them(void **state)
{
    (void)state;
    for_all(check_cache);
}

/* A batch of rows with tasks of their own gives each what it gets alone, with the cache as without. */
static void rows_have_tasks(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_model *model = load_model("llama2");
    static const prompt_case several = {"multitask_prompt_tuning", "llama2", "{\"num_virtual_tokens\": 4, \"num_tasks\": 3}"};
    cb_adapter *adapter = put_on(&several, model);
    for (int i = 0; i < 3; i++) /* so that tasks are told apart */
        randomise(adapter, 6 + (uint64_t)i);
    static const int32_t tasks[2] = {2, 1}, wrong[2] = {0, 3};
    cb_tensor *ids = some_ids(), *given = cb_from(CB_I32, tasks, 2), *together = logits_for(model, ids, given), *parts[2];
    for (int64_t row = 0; row < 2; row++) {
        cb_tensor *own = cb_slice(ids, 0, row, row + 1, 1), *alone = logits_for(model, own, cb_slice(given, 0, row, row + 1, 1));
        assert_within(cb_slice(together, 0, row, row + 1, 1), alone, 1e-5, "a row");
        assert_true(distance(alone, logits_of(model, own)) > 1e-3);
    }
    cb_cache *cache = cb_cache_new(model, 2, 4);
    cb_context ctx = {.cache = cache, .tasks = given};
    cb_no_grad for (int i = 0; i < 2; i++) parts[i] = cb_model_logits(model, cb_slice(ids, 1, 5 * i, i ? 9 : 5, 1), &ctx);
    assert_within(cb_cat(2, parts, 1), together, 1e-5, "with the cache");
    cb_cache_free(cache);
    ctx = (cb_context){.tasks = cb_from(CB_I32, wrong, 2)};
    assert_refused(!cb_model_logits(model, ids, &ctx), "tasks: found 3 for row 1, expected less than num_tasks, which is 3");
    cb_adapter_free(adapter);
    cb_model_free(model);
    cb_scope_close(scope);
}

/* The gate is zero at first. */
static void a_fresh_gate_lets_nothing_through(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_model *model = load_model("llama3");
    cb_tensor *before = logits_of(model, some_ids());
    cb_adapter *adapter = cb_adapter_new("adaption_prompt", NULL);
    assert_ok(cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), 3));
    assert_true(distance(logits_of(model, some_ids()), before) == 0);
    cb_adapter_free(adapter);
    cb_model_free(model);
    cb_scope_close(scope);
}

/* ---- gradients ---- */

static cb_tensor *loss_of(cb_model *model, bool checkpoint)
{
    cb_tensor *ids = some_ids();
    cb_context ctx = {.training = true, .checkpoint = checkpoint};
    cb_tensor *loss = cb_model_loss(model, ids, targets_of(ids), 0, &ctx);
    assert_ok(loss);
    return loss;
}

static void check_checkpointing(const prompt_case *c, cb_model *model, cb_adapter *adapter)
{
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list);
    cb_tensor *wanted[32];
    assert_true(count <= 32);
    assert_ok(cb_backward(loss_of(model, false)));
    for (size_t i = 0; i < count; i++) {
        wanted[i] = cb_contiguous(cb_add_scalar(list[i].tensor->grad, 0));
        cb_zero_grad(list[i].tensor);
    }
    assert_ok(cb_backward(loss_of(model, true)));
    for (size_t i = 0; i < count; i++)
        if (distance(list[i].tensor->grad, wanted[i]) != 0)
            fail_msg("%s on %s: gradient of %s is another with checkpointing", c->kind, c->model, list[i].name);
}

static void checkpointing_changes_no_bit(void **state)
{
    (void)state;
    for_all(check_checkpointing);
}

/* Along a random direction of length 1: steps of 0.01 are wrong by f32's rounding of the loss, 1e-6 / 0.01, and by the third derivative. */
static void check_differences(const prompt_case *c, cb_model *model, cb_adapter *adapter)
{
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list);
    const double step = 0.01;
    assert_ok(cb_backward(loss_of(model, false)));
    for (size_t i = 0; i < count; i++) {
        cb_tensor *of = list[i].tensor;
        cb_rng rng = {.seed = 17, .stream = i};
        cb_tensor *direction = cb_randn_nd(CB_F32, &rng, of->ndim, of->shape);
        double length = 0, found = 0, steepest = 0, loss[2];
        for (int64_t k = 0; k < of->count; k++)
            length += cb_get(direction, k) * cb_get(direction, k);
        assert_ok(of->grad);
        for (int64_t k = 0; k < of->count; k++) {
            found += cb_get(direction, k) * cb_get(of->grad, k) / sqrt(length);
            steepest += cb_get(of->grad, k) * cb_get(of->grad, k);
        }
        cb_tensor *kept = cb_contiguous(cb_add_scalar(cb_detach(of), 0));
        for (int side = 0; side < 2; side++) {
            for (int64_t k = 0; k < of->count; k++)
                ((float *)of->data)[k] += (float)((side ? -step : step) * cb_get(direction, k) / sqrt(length));
            cb_no_grad loss[side] = cb_item(loss_of(model, false));
            assert_ok(cb_copy_into(of, kept));
        }
        double wanted = (loss[0] - loss[1]) / (2 * step);
        if (!(fabs(found - wanted) <= 2e-3 * sqrt(steepest) + 2e-4))
            fail_msg("%s on %s: derivative of %s is %g, finite differences give %g (gradient %g)", c->kind, c->model, list[i].name, found,
                     wanted, sqrt(steepest));
        assert_true(steepest > 0);
    }
}

static void gradients_are_those_of_finite_differences(void **state)
{
    (void)state;
    for_all(check_differences);
}

/* The encoder with PEFT's parameters in it gives what PEFT's does, with the same gradients (tests/oracle/prompt_encoder.py). */
static void an_lstm_encoder_is_pefts(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_model *model = load_model("llama2");
    static const prompt_case lstm = {
        "p_tuning", "llama2", "{\"num_virtual_tokens\": 5, \"encoder_hidden_size\": 7, \"encoder_reparameterization_type\": \"LSTM\"}"};
    cb_adapter *adapter = put_on(&lstm, model);
    expected e = {cb_safetensors_open(CB_TEST_DATA "/prompt_encoder.safetensors")};
    assert_ok(e.file);
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list);
    assert_int_equal(count, 21);
    for (size_t i = 0; i < count; i++)
        assert_ok(cb_copy_into(list[i].tensor, expected_tensor(&e, list[i].name)));
    cb_module *const *modules;
    assert_int_equal(cb_adapter_modules(adapter, &modules), 1);
    cb_rng rng = {.seed = 1};
    cb_tensor *given = cb_squeeze(modules[0]->kind->prompt(modules[0], &(cb_context){.training = true, .rng = &rng}), 0);
    assert_within(given, expected_tensor(&e, "prompt_embeddings"), 1e-6, "prompt_embeddings"); /* no dropout: it is 0 */
    assert_ok(cb_backward(cb_sum(cb_mul(given, expected_tensor(&e, "weights")), CB_ALL, false)));
    for (size_t i = 0; i < count; i++) {
        char name[64];
        snprintf(name, sizeof name, "grad.%s", list[i].name);
        assert_within(list[i].tensor->grad, expected_tensor(&e, name), 1e-5, name);
    }
    cb_safetensors_close(e.file);
    cb_adapter_free(adapter);
    cb_model_free(model);
    cb_scope_close(scope);
}

static void an_lstm_encoder_drops_between_its_layers(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_model *model = load_model("llama2");
    static const prompt_case lstm = {
        "p_tuning", "llama2", "{\"encoder_hidden_size\": 7, \"encoder_reparameterization_type\": \"LSTM\", \"encoder_dropout\": 0.5}"};
    cb_adapter *adapter = put_on(&lstm, model);
    cb_tensor *ids = some_ids(), *plain = logits_of(model, ids);
    cb_rng rng = {.seed = 1};
    assert_true(distance(logits_in(model, ids, &(cb_context){.training = true, .rng = &rng}), plain) > 1e-4);
    assert_true(distance(logits_in(model, ids, &(cb_context){.rng = &rng}), plain) == 0);
    cb_adapter_free(adapter);
    cb_model_free(model);
    cb_scope_close(scope);
}

/* ---- files and runs ---- */

static void check_files(const prompt_case *c, cb_model *model, cb_adapter *adapter)
{
    cb_tensor *wanted = logits_of(model, some_ids());
    const char *path = scratch_path("saved"), *again = scratch_path("again");
    assert_ok(cb_adapter_save(adapter, path, NULL));
    cb_adapter_detach(adapter);
    cb_adapter *loaded = cb_adapter_load(path, cb_model_root(model), cb_model_type(model));
    assert_ok(loaded);
    assert_true(distance(logits_of(model, some_ids()), wanted) == 0);
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(loaded, &list);
    if (cb_adapter_kind_of(loaded)->module.virtual_tokens) {
        assert_int_equal(count, strcmp(c->kind, "multitask_prompt_tuning") == 0 ? 3 : 1);
        assert_string_equal(list[0].name, "prompt_embeddings");
    }
    assert_ok(cb_adapter_save(loaded, again, NULL));
    json_t *first = load_json("%s/adapter_config.json", path), *second = load_json("%s/adapter_config.json", again);
    if (!json_equal(first, second))
        fail_msg("%s: the config is another when saved again", c->kind);
    json_decref(first);
    json_decref(second);
    cb_adapter_free(loaded);
}

static void files_come_back(void **state)
{
    (void)state;
    for_all(check_files);
}

static void train(const prompt_case *c, const char *output, int64_t stop_after)
{
    cb_model *model = load_model(c->model);
    cb_adapter *adapter = made(model, c->kind, c->options, 3);
    train_on_letters(model, adapter, (letter_run){.output = output, .steps = 6, .stop_after = stop_after});
    cb_adapter_free(adapter);
    cb_model_free(model);
}

static void a_resumed_run_ends_with_the_bits_of_one_that_never_stopped(void **state)
{
    (void)state;
    for (int i = 0; i < CASES; i++) {
        char command[256];
        snprintf(command, sizeof command, "rm -rf %s/whole %s/part", scratch, scratch);
        assert_int_equal(system(command), 0);
        train(&cases[i], scratch_path("whole"), 0);
        train(&cases[i], scratch_path("part"), 3);
        train(&cases[i], scratch_path("part"), 0);
        assert_true(same_adapters(scratch_path("whole"), scratch_path("part")));
    }
}

/* ---- what is refused ---- */

static void what_does_not_fit_is_refused_by_name(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_model *model = load_model("llama2");
    assert_refused(!attempt(model, "prompt_tuning", "{\"token_dim\": 40}", 3), "token_dim: found 40, expected 48, which this model has");
    assert_refused(!attempt(model, "prefix_tuning", "{\"num_layers\": 3}", 3), "num_layers: found 3, expected 2");
    assert_refused(!attempt(model, "prompt_tuning", "{\"prompt_tuning_init\": \"TEXT\"}", 3), "prompt_tuning_init: found TEXT");
    assert_refused(!attempt(model, "p_tuning", "{\"encoder_reparameterization_type\": \"LSTM\", \"encoder_num_layers\": 5}", 3),
                   "encoder_num_layers: found 5, expected at most 4 of a new LSTM");
    assert_refused(!attempt(model, "prompt_tuning", "{\"target_modules\": [\"q_proj\"]}", 3), "target_modules: found some, expected none");
    assert_refused(!attempt(model, "prompt_tuning", "{\"modules_to_save\": [\"lm_head\"]}", 3),
                   "modules_to_save: found some, expected none");
    assert_refused(!attempt(model, "adaption_prompt", "{\"adapter_layers\": 3}", 3), "adapter_layers: found 3, expected at most 2");
    cb_adapter *first = put_on(&cases[0], model), *second = put_on(&cases[0], model);
    assert_refused(!cb_model_logits(model, some_ids(), &(cb_context){0}), "virtual tokens: found those of two adapters");
    cb_adapter_set_strength(second, 0);
    assert_ok(cb_model_logits(model, some_ids(), &(cb_context){0}));
    assert_refused(!cb_fold_in_place(&first, 1), "cannot be merged");
    cb_blend *blend = cb_blend_new(cb_model_root(model));
    assert_refused(!cb_blend_add(blend, first), "whose virtual tokens would be all rows'");
    cb_blend_free(blend);
    cb_adapter_free(first);
    cb_adapter_free(second);
    cb_model_free(model);
    model = load_model("gpt2"); /* of learned positions, which virtual tokens take some of */
    second = put_on(&cases[1], model);
    int32_t ids[256] = {0};
    int64_t most = cb_model_max_positions(model);
    assert_true(most <= 256);
    cb_no_grad assert_ok(cb_model_logits(model, cb_from(CB_I32, ids, 1, most - 3), &(cb_context){0}));
    assert_refused(!cb_model_logits(model, cb_from(CB_I32, ids, 1, most - 2), &(cb_context){0}), "has no more learned positions");
    cb_adapter_free(second);
    cb_model_free(model);
    cb_scope_close(scope);
}

/* Every allocation of a pass fails in turn: the error is told, nothing stays. */
static void failing_allocations_leave_nothing_behind(void **state)
{
    (void)state;
    for (int i = 0; i < CASES; i++) {
        cb_model *model = load_model(cases[i].model);
        cb_adapter *adapter = put_on(&cases[i], model);
        bool done = false;
        uint64_t before = 0;
        for (uint64_t k = 0; !done && k < 20000; k += 1 + k / 12) {
            cb_scope *scope = cb_scope_open();
            cb_tensor *ids = some_ids(), *targets = targets_of(ids);
            cb_memory_fail_after(k); /* 0: none, which makes what is made once */
            cb_tensor *loss = cb_model_loss(model, ids, targets, 0, &(cb_context){.training = true, .checkpoint = k % 2});
            cb_memory_fail_after(0);
            done = k && loss;
            if (k && !loss)
                assert_int_equal(cb_error_status(), CB_ERR_MEMORY);
            cb_error_clear();
            cb_scope_close(scope);
            before = before ? before : cb_memory().live_bytes;
            assert_true(cb_memory().live_bytes <= before); /* what kernels keep for later may go as well */
        }
        assert_true(done);
        cb_adapter_free(adapter);
        cb_model_free(model);
    }
}

static int without_errors(void **state)
{
    (void)state;
    cb_error_clear();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(every_such_kind_has_a_case, without_errors),
        cmocka_unit_test_setup(packed_documents_see_them_as_alone, without_errors),
        cmocka_unit_test_setup(the_cache_holds_them, without_errors),
        cmocka_unit_test_setup(rows_have_tasks, without_errors),
        cmocka_unit_test_setup(a_fresh_gate_lets_nothing_through, without_errors),
        cmocka_unit_test_setup(checkpointing_changes_no_bit, without_errors),
        cmocka_unit_test_setup(gradients_are_those_of_finite_differences, without_errors),
        cmocka_unit_test_setup(an_lstm_encoder_is_pefts, without_errors),
        cmocka_unit_test_setup(an_lstm_encoder_drops_between_its_layers, without_errors),
        cmocka_unit_test_setup(files_come_back, without_errors),
        cmocka_unit_test_setup(a_resumed_run_ends_with_the_bits_of_one_that_never_stopped, without_errors),
        cmocka_unit_test_setup(what_does_not_fit_is_refused_by_name, without_errors),
        cmocka_unit_test_setup(failing_allocations_leave_nothing_behind, without_errors),
    };
    cb_set_threads(1); /* the models are tiny */
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
