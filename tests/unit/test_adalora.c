/* test_adalora.c: AdaLoRA while it is trained: the steps of PEFT (tests/oracle/adalora_steps.py), resuming to the bit, and what is saved of
 * an adapter whose ranks have fallen.  What holds for every kind is in test_kinds.c. */
#include "cambium/optim.h"
#include "cambium/training.h"
#include "text_fixtures.h"

/* ---- PEFT's steps ---- */

static cb_tensor *tensor_of(const cb_safetensors *file, const char *name)
{
    const cb_weight_entry *e = cb_safetensors_find(file, name);
    if (!e)
        fail_msg("no %s in steps.safetensors", name);
    return cb_from_nd(e->dtype, e->data, e->ndim, e->shape);
}

static cb_tensor *named(const cb_named_tensor *list, size_t count, const char *text)
{
    for (size_t i = 0; i < count; i++)
        if (strstr(list[i].name, text))
            return list[i].tensor;
    fail_msg("nothing is called %s", text);
    return NULL;
}

static void assert_near(cb_tensor *found, cb_tensor *wanted, double tolerance, const char *what)
{
    double d = relative_difference(found, wanted);
    if (!(d <= tolerance))
        fail_msg("%s differs by %g", what, d);
}

/* Loss, masks and values of lora_E of one step. */
static void check_step(const cb_adapter *adapter, const cb_safetensors *wanted, int64_t step, double loss)
{
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list);
    double expected = cb_get(tensor_of(wanted, "loss"), step);
    if (!(fabs(loss - expected) <= 1e-5 * expected))
        fail_msg("step %d: loss %.9g, PEFT's is %.9g", (int)step, loss, expected);
    for (size_t i = 0; i < count; i++) {
        const char *end = strstr(list[i].name, ".lora_E");
        if (!end)
            continue;
        char name[128];
        const char *layer = list[i].name + strlen("base_model.model.");
        snprintf(name, sizeof name, "E.%.*s", (int)(end - layer), layer);
        cb_tensor *e = cb_slice(tensor_of(wanted, name), 0, step, step + 1, 1);
        for (int64_t r = 0; r < list[i].tensor->count; r++)
            if ((cb_get(e, r) == 0) != (cb_get(list[i].tensor, r) == 0))
                fail_msg("step %d: %s: triplet %d is %g, PEFT's %g", (int)step, name, (int)r, cb_get(list[i].tensor, r), cb_get(e, r));
        cb_tensor *found = cb_reshape_nd(list[i].tensor, e->ndim, e->shape);
        cb_no_grad assert_near(found, e, 1e-3, name); /* AdamW divides by small gradients */
    }
}

static void check_averages(const cb_adapter *adapter, const cb_safetensors *wanted)
{
    const cb_named_tensor *list;
    size_t count = cb_adapter_state(adapter, &list);
    static const char *const averages[] = {"importance", "uncertainty"}, parts[] = {'A', 'E', 'B'};
    for (int i = 0; i < 6; i++) {
        char own[96], name[96];
        snprintf(own, sizeof own, "layers.1.self_attn.v_proj.%s_%c", averages[i % 2], parts[i / 2]);
        snprintf(name, sizeof name, "%s.model.layers.1.self_attn.v_proj.lora_%c", averages[i % 2], parts[i / 2]);
        assert_near(named(list, count, own), tensor_of(wanted, name), 1e-3, own);
    }
}

static void steps_are_pefts(void **state)
{
    (void)state;
    cb_model *model = cb_model_load(model_path("llama2"));
    cb_adapter *adapter = cb_adapter_load(CB_TEST_DATA "/adalora", cb_model_root(model), cb_model_type(model));
    cb_safetensors *wanted = cb_safetensors_open(CB_TEST_DATA "/adalora/steps.safetensors");
    assert_ok();
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list);
    cb_tensor *parameters[32];
    assert_true(count <= 32);
    for (size_t i = 0; i < count; i++)
        parameters[i] = list[i].tensor;
    cb_optimizer *optimizer = cb_adamw(count, parameters, .eps = 1e-8);
    cb_scope *outer = cb_scope_open();
    cb_tensor *ids = cb_cast(tensor_of(wanted, "input_ids"), CB_I32), *labels = tensor_of(wanted, "labels");
    int64_t rows = labels->shape[0], length = labels->shape[1];
    cb_tensor *targets = cb_full(CB_I32, -100, rows, length);
    for (int64_t b = 0; b < rows; b++)
        for (int64_t t = 0; t + 1 < length; t++)
            ((int32_t *)targets->data)[b * length + t] = (int32_t)cb_get(labels, b * length + t + 1);
    assert_true(cb_adapter_begin(adapter, 12));
    for (int64_t step = 0; step < 12; step++) {
        cb_scope *scope = cb_scope_open();
        cb_tensor *loss = cb_model_loss(model, ids, targets, 0, &(cb_context){.training = true});
        loss = cb_add(loss, cb_adapter_regulariser(adapter));
        assert_true(cb_backward(loss));
        double clip = cb_clip_factor(cb_grad_norm(count, parameters), 0.5);
        assert_true(cb_optimizer_step(optimizer, 0.02, clip));
        assert_true(cb_adapter_stepped(adapter, &(cb_adapter_step){.step = step, .gradient_scale = clip}));
        cb_optimizer_zero_grad(optimizer);
        check_step(adapter, wanted, step, cb_item(loss));
        if (step == 5)
            check_averages(adapter, wanted);
        cb_scope_close(scope);
    }
    cb_no_grad for (int part = 0; part < 3; part++)
    {
        char name[96];
        snprintf(name, sizeof name, "final.model.layers.1.self_attn.v_proj.lora_%c", "AEB"[part]);
        assert_near(named(list, count, name + strlen("final.")), tensor_of(wanted, name), 1e-3, name);
    }
    cb_scope_close(outer);
    cb_optimizer_free(optimizer);
    cb_safetensors_close(wanted);
    cb_adapter_free(adapter);
    cb_model_free(model);
}

/* ---- runs ---- */

enum { STEPS = 14 };

typedef struct rig {
    cb_tokenizer *tokenizer;
    cb_data_options text;
    cb_dataset *train;
    cb_model *model;
    cb_adapter *adapter;
    cb_train_options options;
    cb_trainee what;
} rig;

static void rig_open(rig *r, const char *output)
{
    char text[2048], *at = text;
    for (int i = 0; i < 40; i++)
        at += sprintf(at, "The %s cuts the %s.\n", i % 3 ? "knife" : "gardener", i % 5 ? "branch" : "stem");
    *r = (rig){.tokenizer = characters(false, false), .text = data_options(write_file("story.txt", text))};
    r->text.lines = true;
    r->text.sequence_length = 16;
    r->train = cb_dataset_open(r->tokenizer, &r->text);
    r->model = cb_model_load(model_path("llama2"));
    r->adapter = cb_adapter_new("adalora", "default");
    assert_true(cb_adapter_set_json(r->adapter, "options", "{\"init_r\": 5, \"target_r\": 2, \"tinit\": 2, \"tfinal\": 3, \"deltaT\": 2}"));
    assert_true(cb_adapter_attach(r->adapter, cb_model_root(r->model), cb_model_type(r->model), 3));
    assert_true(cb_options_init(cb_train_option_table, &r->options));
    r->options.output = strdup(scratch_path(output));
    r->options.steps = STEPS;
    r->options.batch_size = 2;
    r->options.learning_rate = 1e-2;
    r->options.save_steps = 4;
    r->options.resume = true;
    r->what = cb_train_adapter(r->model, r->adapter);
    assert_ok();
}

static void rig_close(rig *r)
{
    free(r->options.output);
    cb_adapter_free(r->adapter);
    cb_model_free(r->model);
    cb_dataset_free(r->train);
    data_options_free(&r->text);
    cb_tokenizer_free(r->tokenizer);
}

static void stop(void *user, const cb_train_report *report)
{
    if (report->step == *(const int64_t *)user)
        cb_interrupt();
}

static void run_to_the_end(const char *output)
{
    rig r;
    rig_open(&r, output);
    if (!cb_train(&r.what, r.train, NULL, &r.options, NULL, NULL, NULL))
        fail_msg("%s", cb_error_message());
    rig_close(&r);
}

static void run_until(const char *output, int64_t step)
{
    rig r;
    rig_open(&r, output);
    assert_false(cb_train(&r.what, r.train, NULL, &r.options, stop, &step, NULL));
    assert_int_equal(cb_error_status(), CB_ERR_INTERRUPTED);
    cb_error_clear();
    cb_interrupt_clear();
    rig_close(&r);
}

static void assert_same_file(const char *a, const char *b)
{
    size_t na, nb;
    char *x = cb_file_read(a, 1 << 30, &na), *y = cb_file_read(b, 1 << 30, &nb);
    assert_ok();
    assert_int_equal(na, nb);
    assert_memory_equal(x, y, na);
    cb_free(x);
    cb_free(y);
}

/* Stopped before ranks fall, while they do, and after. */
static void a_resumed_run_ends_with_the_bits_of_one_that_never_stopped(void **state)
{
    (void)state;
    run_to_the_end("whole");
    static const int64_t stops[] = {1, 6, 7, 12};
    for (size_t i = 0; i < sizeof stops / sizeof *stops; i++) {
        char output[32], path[64];
        snprintf(output, sizeof output, "stopped-%d", (int)stops[i]);
        run_until(output, stops[i]);
        run_to_the_end(output);
        snprintf(path, sizeof path, "%s/adapter_model.safetensors", output);
        assert_same_file(scratch_path(path), scratch_path("whole/adapter_model.safetensors"));
        snprintf(path, sizeof path, "%s/adapter_config.json", output);
        assert_same_file(scratch_path(path), scratch_path("whole/adapter_config.json"));
    }
}

static int64_t marks_in(const json_t *pattern, size_t *layers)
{
    int64_t count = 0;
    const char *key;
    json_t *list, *mark;
    size_t i;
    *layers = json_object_size(pattern);
    json_object_foreach((json_t *)(uintptr_t)pattern, key, list) json_array_foreach(list, i, mark) count += json_is_true(mark);
    return count;
}

/* The file has the rows that are left, as many as the budget, and gives what the trained one gives: the dropped ones added zeros, which
 * changes the order of f32 sums at most. */
static void what_is_left_is_saved_and_comes_back(void **state)
{
    (void)state;
    rig r;
    rig_open(&r, "left");
    r.options.save_steps = 0;
    cb_train_result result;
    assert_true(cb_train(&r.what, r.train, NULL, &r.options, NULL, NULL, &result));
#ifndef __SANITIZE_ADDRESS__ /* there every block comes from the system */
    assert_int_equal(result.step_allocations, 0);
#endif
    cb_scope *scope = cb_scope_open();
    cb_tensor *ids = cb_arange(CB_I32, 20, 2, 20), *before = NULL, *after = NULL;
    cb_no_grad before = cb_model_logits(r.model, cb_reshape(ids, 1, -1), &(cb_context){0});
    cb_adapter_free(r.adapter);
    r.adapter = cb_adapter_load(r.options.output, cb_model_root(r.model), cb_model_type(r.model));
    assert_ok();
    cb_no_grad after = cb_model_logits(r.model, cb_reshape(ids, 1, -1), &(cb_context){0});
    assert_near(after, before, 1e-6, "the loaded one");
    json_t *config = json_load_file(scratch_path("left/adapter_config.json"), 0, NULL);
    size_t layers;
    assert_int_equal(marks_in(json_object_get(config, "rank_pattern"), &layers), 2 * 4);
    assert_int_equal(layers, 4);
    assert_int_equal(json_integer_value(json_object_get(config, "total_step")), STEPS);
    json_decref(config);
    int64_t rows = 0;
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(r.adapter, &list);
    for (size_t i = 0; i < count; i++)
        rows += strstr(list[i].name, "lora_E") ? list[i].tensor->count : 0;
    assert_int_equal(rows, 2 * 4);
    assert_int_equal(cb_adapter_state(r.adapter, &list), 0);
    /* and is saved as it was read */
    assert_true(cb_adapter_save(r.adapter, scratch_path("again"), NULL));
    assert_same_file(scratch_path("again/adapter_model.safetensors"), scratch_path("left/adapter_model.safetensors"));
    assert_same_file(scratch_path("again/adapter_config.json"), scratch_path("left/adapter_config.json"));
    cb_scope_close(scope);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(steps_are_pefts, without_errors),
        cmocka_unit_test_setup(a_resumed_run_ends_with_the_bits_of_one_that_never_stopped, without_errors),
        cmocka_unit_test_setup(what_is_left_is_saved_and_comes_back, without_errors),
    };
    cb_set_threads(1); /* the model is tiny */
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
