/* test_tasks.c: adapters that are trained on several tasks at once: what is done with each row, by itself and in a blend, with checkpoints
 * and in generation, and how Poly draws its weights.  Values against PEFT are in test_kinds_peft.c. */
#include "adapter_fixtures.h"

static const char poly_options[] = "{\"r\": 3, \"n_tasks\": 4, \"n_skills\": 3, \"n_splits\": 2, \"target_modules\": \"all-linear\"}";

static cb_adapter *put(cb_model *model, const char *kind, const char *options, uint64_t seed)
{
    cb_adapter *adapter = cb_adapter_new(kind, NULL);
    assert_ok(adapter && cb_adapter_set_json(adapter, kind, options));
    assert_ok(cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), seed));
    for (uint64_t i = 0; i < 3; i++) /* so that tasks are told apart */
        randomise(adapter, seed + i);
    return adapter;
}

static cb_tensor *row_of(cb_tensor *x, int64_t row)
{
    return cb_contiguous(cb_slice(x, 0, row, row + 1, 1));
}

static void rows_have_tasks(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_model *model = load_model("qwen3");
    cb_adapter *adapter = put(model, "poly", poly_options, 6);
    static const int32_t tasks[2] = {3, 1}, zeros[2] = {0, 0}, wrong[2] = {0, 4};
    cb_tensor *ids = some_ids(), *given = cb_from(CB_I32, tasks, 2), *together = logits_for(model, ids, given);
    for (int64_t row = 0; row < 2; row++) {
        cb_tensor *alone = logits_for(model, row_of(ids, row), row_of(given, row));
        assert_within(row_of(together, row), alone, 1e-5, "a row");
        assert_true(distance(alone, logits_of(model, row_of(ids, row))) > 1e-3 * largest(alone));
    }
    assert_within(logits_for(model, ids, cb_from(CB_I32, zeros, 2)), logits_of(model, ids), 1e-5, "task 0 is what is not said");
    assert_refused(!cb_model_logits(model, ids, &(cb_context){.tasks = cb_from(CB_I32, wrong, 2)}),
                   "tasks: found 4 for row 1, expected less than n_tasks, which is 4");
    assert_refused(!cb_model_logits(model, ids, &(cb_context){.tasks = cb_from(CB_I32, wrong, 1)}), "model: tasks are");
    cb_adapter_free(adapter);
    cb_model_free(model);
    cb_scope_close(scope);
}

/* Row 0 of task 3, row 1 without the adapter. */
static void a_blend_knows_the_tasks_of_its_rows(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_model *model = load_model("llama2");
    static const int32_t tasks[2] = {1, 3};
    cb_tensor *ids = some_ids(), *given = cb_from(CB_I32, tasks, 2), *together = NULL, *plain = logits_of(model, ids);
    cb_adapter *adapter = put(model, "poly", poly_options, 6);
    cb_tensor *alone = logits_for(model, row_of(ids, 1), row_of(given, 1));
    cb_adapter_set_strength(adapter, 0);
    cb_blend *blend = cb_blend_new(cb_model_root(model));
    assert_ok(cb_blend_rows(blend, (cb_adapter *[]){NULL, adapter}, 2));
    cb_no_grad together = cb_model_logits(model, ids, &(cb_context){.blend = blend, .tasks = given});
    assert_within(row_of(together, 0), row_of(plain, 0), 1e-5, "the row without");
    assert_within(row_of(together, 1), alone, 1e-5, "the row with");
    cb_blend_free(blend);
    cb_adapter_free(adapter);
    cb_model_free(model);
    cb_scope_close(scope);
}

static double loss_and_gradients(cb_model *model, const cb_adapter *adapter, bool checkpoint, cb_tensor **grads)
{
    static const int32_t tasks[2] = {2, 1};
    cb_rng rng = {.seed = 4};
    cb_context ctx = {.training = true, .checkpoint = checkpoint, .rng = &rng, .tasks = cb_from(CB_I32, tasks, 2)};
    cb_tensor *ids = some_ids(), *loss = cb_model_loss(model, ids, targets_of(ids), 0, &ctx);
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list);
    assert_ok(loss && cb_backward(loss));
    for (size_t i = 0; i < count; i++) {
        grads[i] = cb_add_scalar(list[i].tensor->grad, 0);
        cb_zero_grad(list[i].tensor);
    }
    return cb_item(loss);
}

/* Tasks and draws are there again when a block runs again, its head included. */
static void checkpoints_change_nothing(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_model *model = load_model("llama2");
    cb_adapter *adapter =
        put(model, "poly", "{\"r\": 2, \"n_tasks\": 4, \"n_skills\": 3, \"target_modules\": [\"q_proj\", \"down_proj\", \"lm_head\"]}", 6);
    cb_tensor *kept[64] = {0}, *again[64] = {0};
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list);
    assert_true(count <= 64);
    double loss = loss_and_gradients(model, adapter, false, kept);
    assert_true(loss_and_gradients(model, adapter, true, again) == loss);
    for (size_t i = 0; i < count; i++)
        assert_within(again[i], kept[i], 1e-6, list[i].name);
    cb_adapter_free(adapter);
    cb_model_free(model);
    cb_scope_close(scope);
}

static void generation_takes_tasks(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    static const struct {
        const char *kind, *options;
    } kinds[] = {{"poly", poly_options}, {"multitask_prompt_tuning", "{\"num_virtual_tokens\": 4, \"num_tasks\": 4}"}};
    for (int k = 0; k < 2; k++) {
        cb_model *model = load_model("llama2");
        cb_adapter *adapter = put(model, kinds[k].kind, kinds[k].options, 9);
        for (uint64_t i = 0; i < 40; i++) /* so that texts are told apart */
            randomise(adapter, 20 + i);
        const int32_t *ids = some_ids()->data;
        const cb_prompt_ids prompts[3] = {
            {.ids = ids, .count = 5, .task = 3}, {.ids = ids, .count = 5}, {.ids = ids + 9, .count = 7, .task = 1}};
        cb_generation together[3] = {0}, alone = {0};
        cb_generate_options options;
        assert_ok(cb_options_init(cb_generate_option_table, &options));
        options.max_new_tokens = 12;
        options.temperature = 1;
        options.ignore_eos = true; /* texts of one length */
        assert_ok(cb_generate_rows(model, NULL, prompts, 3, NULL, NULL, &options, together));
        for (int i = 0; i < 3; i++) {
            options.task_id = prompts[i].task;
            assert_ok(cb_generate_ids(model, NULL, prompts[i].ids, prompts[i].count, &options, NULL, NULL, &alone));
            assert_int_equal(together[i].count, alone.count);
            assert_memory_equal(together[i].ids, alone.ids, alone.count * sizeof *alone.ids);
        }
        assert_true(memcmp(together[0].ids, together[1].ids, 12 * sizeof(int32_t)) != 0);
        options.task_id = (int64_t)1 << 32; /* which is 0 in fewer bits */
        assert_refused(!cb_generate_ids(model, NULL, ids, 5, &options, NULL, NULL, &alone), "task_id is 4294967296");
        for (int i = 0; i < 3; i++)
            cb_generation_free(&together[i]);
        cb_generation_free(&alone);
        cb_options_free(cb_generate_option_table, &options);
        cb_adapter_free(adapter);
        cb_model_free(model);
    }
    cb_scope_close(scope);
}

/* The weight of the first of two skills, read off a layer whose update is that weight: rows differ, and it is the larger one as often as
 * sigmoid(2 + l) > sigmoid(m) for logistic l and m: with a = 2, (1 - (1 + a) exp(-a)) / (1 - exp(-a))^2. */
static void weights_are_drawn_while_training(void **state)
{
    (void)state;
    enum { ROWS = 20000 };
    cb_scope *scope = cb_scope_open();
    cb_layer *root = cb_layer_new(NULL, "", CB_LAYER_GROUP), *layer = cb_layer_new(root, "a", CB_LAYER_LINEAR);
    layer->in_features = layer->out_features = 1;
    assert_ok(cb_layer_add_weight(layer, "weight", cb_zeros(CB_F32, 1, 1)));
    cb_adapter *adapter = cb_adapter_new("poly", NULL);
    assert_ok(cb_adapter_set_json(adapter, "poly", "{\"r\": 1, \"n_skills\": 2, \"target_modules\": [\"a\"]}"));
    assert_ok(cb_adapter_attach(adapter, root, NULL, 1));
    const cb_named_tensor *list;
    assert_int_equal(cb_adapter_parameters(adapter, &list), 3);
    const float values[3][2] = {{1, 1}, {1, 0}, {2, 0}};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(list[i].tensor->count, 2);
        memcpy(list[i].tensor->data, values[i], sizeof values[i]);
    }
    cb_rng rng = {.seed = 3};
    cb_tensor *x = cb_ones(CB_F32, ROWS, 1, 1), *drawn = NULL, *settled = NULL;
    cb_no_grad drawn = cb_linear_forward(layer, x, &(cb_context){.training = true, .rng = &rng});
    cb_no_grad settled = cb_linear_forward(layer, x, &(cb_context){0});
    assert_ok(drawn && settled);
    double e = exp(-2), share = 0, expected_share = (1 - 3 * e) / ((1 - e) * (1 - e)), first = 1 / (1 + e);
    for (int64_t i = 0; i < ROWS; i++) {
        assert_true(cb_get(drawn, i) >= 0 && cb_get(drawn, i) <= 1);
        share += cb_get(drawn, i) > 0.5;
        assert_true(fabs(cb_get(settled, i) - first / (first + 0.5)) < 1e-6);
    }
    assert_true(fabs(share / ROWS - expected_share) < 4 * sqrt(expected_share * (1 - expected_share) / ROWS));
    cb_adapter_free(adapter);
    cb_layer_free(root);
    cb_scope_close(scope);
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
        cmocka_unit_test_setup(rows_have_tasks, without_errors),
        cmocka_unit_test_setup(a_blend_knows_the_tasks_of_its_rows, without_errors),
        cmocka_unit_test_setup(checkpoints_change_nothing, without_errors),
        cmocka_unit_test_setup(generation_takes_tasks, without_errors),
        cmocka_unit_test_setup(weights_are_drawn_while_training, without_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
