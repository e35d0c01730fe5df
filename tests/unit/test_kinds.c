/* test_kinds.c: what holds for every adapter kind, on a small network: fresh modules change nothing, gradients are those of finite
 * differences, merged weights give the adapter's results, files come back, strength.  A kind that is not in the table of cases fails. */
#include "kind_fixtures.h"

static void every_kind_has_a_case(void **state)
{
    (void)state;
    for (const cb_adapter_kind *const *kind = cb_adapter_kinds(); *kind; kind++) {
        bool found = (*kind)->module.virtual_tokens || (*kind)->module.attended; /* they need a whole model: test_prompts.c */
        for (int i = 0; i < CASES; i++)
            found |= strcmp(cases[i].kind, (*kind)->name) == 0;
        if (!found)
            fail_msg("kind %s has no case here", (*kind)->name);
    }
}

static void every_kind_is_documented(void **state)
{
    (void)state;
    char *page = cb_file_read(CB_SOURCE_DIR "/docs/adapters.md", 1 << 20, NULL);
    assert_ok(page);
    for (const cb_adapter_kind *const *kind = cb_adapter_kinds(); *kind; kind++) {
        char *row = cb_format("\n| `%s` |", (*kind)->name);
        if (!strstr(page, row))
            fail_msg("kind %s has no row in docs/adapters.md", (*kind)->name);
        cb_free(row);
    }
    cb_free(page);
}

static void check_start(const kind_case *c, const net *n)
{
    cb_tensor *before = result(n);
    cb_adapter *adapter = put_on(n, c, 3);
    double change = distance(result(n), before) / largest(before);
    if (c->start < 0 ? change < 1e-4 : change > c->start)
        fail_msg("%s %s: a fresh one changes results by %g", c->kind, c->options, change);
    randomise(adapter, 4);
    assert_true(distance(result(n), before) > 1e-3 * largest(before));
    cb_adapter_set_strength(adapter, 0);
    assert_true(distance(result(n), before) == 0);
    cb_adapter_free(adapter);
    assert_true(distance(result(n), before) == 0);
}

static void fresh_ones_change_nothing(void **state)
{
    (void)state;
    for_all(plain, check_start);
}

/* Weights change in the order of the modules, and merged ones are summed in another order than results: some roundings of f32. */
static void check_merge(const kind_case *c, const net *n)
{
    cb_adapter *adapter = put_random_on(n, c);
    cb_module *const *modules;
    assert_true(cb_adapter_modules(adapter, &modules) > 0);
    for (int half = 0; half < 2 && (modules[0]->kind->delta || modules[0]->kind->delta_bias); half++) {
        cb_adapter_set_strength(adapter, half ? 0.5 : 1);
        cb_tensor *adapted = result(n);
        cb_fold *fold = cb_fold_in_place(&adapter, 1);
        if (unmerged(c)) {
            assert_refused(!fold, unmerged(c));
            continue;
        }
        assert_ok(fold);
        assert_within(result(n), adapted, 1e-5, c->kind);
        cb_unfold(fold);
        assert_true(distance(result(n), adapted) == 0);
    }
    cb_adapter_free(adapter);
}

static void merging_gives_the_adapters_results(void **state)
{
    (void)state;
    for_all(plain, check_merge);
    for_all((net_form){.dtype = CB_F32, .transposed = true}, check_merge);
}

/* One of the case's with a LoRA on its layers, after it and before it. */
static void check_merge_of_two(const kind_case *c, const net *n)
{
    const kind_case lora = {"lora", "a,b", "{\"r\": 2}", 0};
    for (int last = 0; last < 2; last++) {
        cb_adapter *two[2] = {put_random_on(n, last ? &lora : c), put_random_on(n, last ? c : &lora)};
        cb_module *const *modules;
        cb_adapter_modules(two[last], &modules);
        cb_tensor *adapted = result(n);
        if (modules[0]->kind->delta || modules[0]->kind->delta_bias) {
            cb_fold *fold = cb_fold_in_place(two, 2);
            const char *refusal = unmerged(c)                             ? unmerged(c)
                                  : !last && strcmp(c->kind, "boft") == 0 ? "lora after boft cannot be merged"
                                                                          : NULL;
            if (refusal) {
                assert_refused(!fold, refusal);
            } else {
                assert_ok(fold);
                assert_within(result(n), adapted, 2e-5, c->options);
            }
            cb_unfold(fold);
        }
        cb_adapter_free(two[0]);
        cb_adapter_free(two[1]);
    }
}

static void two_kinds_on_a_layer_merge_in_their_order(void **state)
{
    (void)state;
    for_all(plain, check_merge_of_two);
    for_all((net_form){.dtype = CB_F32, .transposed = true}, check_merge_of_two);
}

static void check_strength(const kind_case *c, const net *n)
{
    cb_tensor *off = result(n);
    cb_adapter *adapter = put_random_on(n, c);
    cb_tensor *on = result(n), *last = off;
    double whole = distance(on, off);
    for (int i = 1; i <= 8; i++) { /* no step on the way is more than the way */
        cb_adapter_set_strength(adapter, i / 8.0);
        cb_tensor *here = result(n);
        if (!(distance(here, last) > 0 && distance(here, last) < 0.8 * whole))
            fail_msg("%s %s: strength %g is %g from the one before, of %g in all", c->kind, c->options, i / 8.0, distance(here, last),
                     whole);
        last = here;
    }
    assert_true(distance(last, on) == 0);
    cb_adapter_free(adapter);
}

static void strength_goes_from_off_to_on(void **state)
{
    (void)state;
    for_all(plain, check_strength);
}

/* ---- gradients ---- */

static double loss_of(const net *n, cb_tensor *x, cb_tensor *weights)
{
    double loss = 0;
    cb_no_grad
    {
        cb_tensor *y = cb_mul(run(n, x, &(cb_context){.training = true}), weights);
        for (int64_t i = 0; i < y->count; i++) /* in f64: an f32 sum would round the difference away */
            loss += cb_get(y, i);
    }
    return loss;
}

static void shift(cb_tensor *x, const cb_tensor *direction, double step)
{
    for (int64_t i = 0; i < x->count; i++)
        ((float *)x->data)[i] += (float)(step * cb_get(direction, i));
}

/* The derivative along a random direction.  Steps of 0.01 are wrong by the third derivative's 1e-4 and by f32's rounding of the outputs,
 * 1e-6 / 0.01, both relative to the size of the loss's terms. */
static void check_derivative(const net *n, cb_tensor *x, cb_tensor *weights, cb_tensor *of, const kind_case *c, const char *name)
{
    cb_scope *scope = cb_scope_open();
    cb_rng rng = {.seed = 17, .stream = cb_hash_text(CB_HASH_START, name)};
    cb_tensor *direction = cb_randn_nd(CB_F32, &rng, of->ndim, of->shape);
    double length = 0, found = 0;
    for (int64_t i = 0; i < of->count; i++)
        length += cb_get(direction, i) * cb_get(direction, i);
    direction = cb_scale(direction, 1 / sqrt(length));
    assert_ok(of->grad);
    double steepest = 0;
    for (int64_t i = 0; i < of->count; i++) {
        found += cb_get(direction, i) * cb_get(of->grad, i);
        steepest += cb_get(of->grad, i) * cb_get(of->grad, i);
    }
    const double step = 0.01;
    cb_tensor *kept = cb_contiguous(cb_add_scalar(cb_detach(of), 0));
    shift(of, direction, step);
    double above = loss_of(n, x, weights);
    assert_ok(cb_copy_into(of, kept));
    shift(of, direction, -step);
    double below = loss_of(n, x, weights);
    assert_ok(cb_copy_into(of, kept));
    double wanted = (above - below) / (2 * step);
    if (!(fabs(found - wanted) <= 2e-3 * sqrt(steepest) + 2e-3))
        fail_msg("%s %s: derivative of %s is %g, finite differences give %g (gradient %g)", c->kind, c->options, name, found, wanted,
                 sqrt(steepest));
    assert_true(steepest > 0);
    cb_scope_close(scope);
}

static void check_differences(const kind_case *c, const net *n)
{
    cb_adapter *adapter = put_random_on(n, c);
    cb_rng rng = {.seed = 8};
    cb_tensor *x = cb_keep(cb_parameter(cb_scale(cb_randn(CB_F32, &rng, ROWS, WIDTH), 0.5)));
    cb_tensor *weights = NULL;
    cb_no_grad weights = cb_scale(cb_randn_nd(CB_F32, &rng, 4, run(n, x, &(cb_context){0})->shape), 0.2);
    assert_ok(cb_backward(cb_sum(cb_mul(run(n, x, &(cb_context){.training = true}), weights), CB_ALL, false)));
    check_derivative(n, x, weights, x, c, "the input");
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list);
    assert_true(count > 0);
    for (size_t i = 0; i < count; i++)
        check_derivative(n, x, weights, list[i].tensor, c, list[i].name);
    cb_release(x);
    cb_adapter_free(adapter);
}

static void gradients_are_those_of_finite_differences(void **state)
{
    (void)state;
    for_all(plain, check_differences);
    for_all((net_form){.dtype = CB_F32, .transposed = true}, check_differences);
}

/* ---- files ---- */

static void check_files(const kind_case *c, const net *n)
{
    cb_adapter *adapter = put_random_on(n, c);
    cb_tensor *wanted = result(n);
    char *config = cb_adapter_json(adapter);
    const char *path = scratch_path(c->kind);
    assert_ok(config && cb_adapter_save(adapter, path, "base"));
    cb_adapter_free(adapter);
    adapter = cb_adapter_load(path, n->root, NULL);
    assert_ok(adapter);
    if (strstr(c->options, "save_only_topk")) /* the file has the softmax of logits, f32 */
        assert_within(result(n), wanted, 1e-6, c->kind);
    else
        assert_true(distance(result(n), wanted) == 0);
    cb_adapter *again = cb_adapter_new(c->kind, NULL); /* what is written is read as the same options */
    assert_ok(again && cb_adapter_set_json(again, "config", config));
    cb_adapter_free(again);
    cb_free(config);
    cb_adapter_free(adapter);
}

static void files_come_back(void **state)
{
    (void)state;
    for_all(plain, check_files);
}

/* What a checkpoint has, parameters, in another run of the same seed gives the same bits: nothing else was random. */
static void parameters_and_the_seed_are_all(void **state)
{
    (void)state;
    for (int i = 0; i < CASES; i++) {
        cb_scope *scope = cb_scope_open();
        net n = make_net(plain), resumed = make_net(plain);
        cb_adapter *adapter = put_random_on(&n, &cases[i]), *other = put_on(&resumed, &cases[i], 3);
        copy_parameters(other, adapter);
        if (distance(result(&resumed), result(&n)) != 0)
            fail_msg("%s %s: resumed it is another", cases[i].kind, cases[i].options);
        cb_adapter_free(adapter);
        cb_adapter_free(other);
        cb_layer_free(n.root);
        cb_layer_free(resumed.root);
        cb_scope_close(scope);
    }
}

/* ---- what is refused ---- */

typedef struct refusal {
    const char *kind, *layers, *options, *text;
} refusal;

static const refusal refusals[] = {
    {"ln_tuning", "a", "{}", "hits layer a (linear), which ln_tuning cannot adapt"},
    {"bitfit", "table", "{}", "hits layer table (embedding), which bitfit cannot adapt"},
    {"bitfit", "bare", "{}", "hits layer bare, which has no bias for bitfit to adapt"},
    {"shira", "a", "{\"r\": 15}", "rank: found 15 for layer a, expected at most 14"},
    {"miss", "a", "{\"r\": 25}", "rank: found 25 for layer a of 24 inputs"},
    {"miss", "a", "{\"r\": 8, \"init_weights\": \"bat\"}", "rank: found 8 for layer a of 36 outputs, which it must divide"},
    {"miss", "a", "{\"r\": 4, \"init_weights\": \"mini\", \"mini_r\": 5}", "mini_r: found 5 for layer a of 36 outputs"},
    {"c3a", "a", "{\"block_size\": 8}", "block_size: found 8 for layer a of 24 inputs and 36 outputs, expected a divisor of both"},
    {"road", "a", "{\"group_size\": 8}", "group_size: found 8 for layer a of 36 outputs, expected a divisor"},
    {"road", "a", "{\"group_size\": 9}", "group_size: found 9, expected an even number"},
    {"hira", "a", "{\"rank_pattern\": {\"a\": 3}}", "rank_pattern: found {\"a\":3}, only {} is supported for HIRA"},
    {"oft", "a", "{\"r\": 3}", "r: found 3 with oft_block_size 32, expected one of them 0"},
    {"boft", "a", "{\"boft_block_size\": 5}", "boft_block_size: found 5 for layer a of 24 inputs, expected a divisor"},
    {"boft", "a", "{\"boft_n_butterfly_factor\": 3}", "boft_n_butterfly_factor: found 3 for layer a with 6 blocks of 4"},
    {"vblora", "a", "{\"vector_length\": 8}", "vector_length: found 8 for layer a of 24 inputs and 36 outputs"},
    {"adalora", "a", "{\"init_r\": 4}", "target_r: found 8, expected at most init_r, which is 4"},
    {"adalora", "a", "{\"tinit\": 3, \"tfinal\": 4, \"total_step\": 7}", "tinit: found 3 with tfinal 4 and total_step 7"},
    {"adalora", "a", "{\"rank_pattern\": {\"a.lora_E\": [true, false]}}",
     "rank_pattern: found 10 for layer a, expected one 0 or 1 for each"},
    {"mtlora", "a", "{\"r\": 0, \"task_rank\": 0}", "rank and task_rank: found 0 and 0, expected one of them more"},
    {"mtlora", "a", "{\"task_ranks\": {\"1\": 2}}",
     "task_ranks: found '1', expected the number of a task, less than num_tasks, which is 1"},
    {"mtlora", "a", "{\"task_ranks\": {\"0\": 1.5}}", "task_ranks: found 1.5 for task 0, expected a whole number"},
    {"mtlora", "a", "{\"use_task\": 1}", "use_task: found 1, expected less than num_tasks, which is 1"},
    {"mtlora", "a", "{\"r\": 0, \"task_modules\": [\"b\"]}", "task_modules: leaves layer a without tasks, and rank is 0"},
    {"petalface", "a", "{\"use_weight\": -0.5}", "use_weight: found -0.5, expected -1, or 0 to 1"},
    {"s3diff", "a", "{\"use_conditions\": [\"0.5\"]}", "use_conditions: found 1, expected as many as conditions, which is 2"},
    {"s3diff", "a", "{\"use_conditions\": [\"0.5\", \"much\"]}", "use_conditions: found 'much', expected a number"},
    {"krona", "a", "{\"a1\": 5}", "a1: found 5 for layer a of 36 outputs, expected a divisor"},
    {"krona", "a", "{\"a1\": 4, \"a2\": 7}", "a2: found 7 for layer a of 24 inputs, expected a divisor"},
    {"mora", "narrow", "{}", "mora_type: found rotation for layer narrow of 4 inputs and 1 outputs, expected two or more of each"},
    {"mora", "a", "{\"r\": 0}", "rank: found 0"},
    {"mora", "a", "{\"mora_type\": \"folding\"}", "mora_type: found \"folding\""},
    {"mora", "conv", "{}", "hits layer conv (convolution), which mora cannot adapt"},
    {"gdcan", "norm", "{}", "hits layer norm, a norm of tokens; expected one of maps"},
    {"gdcan", "conv", "{\"attention\": \"none\"}", "attention: found none, which leaves nothing to do on layer conv"},
    {"gdcan", "a", "{\"feature_width\": 0, \"logits\": false}", "feature_width and logits: found 0 and false"},
    {"vblora", "a", "{\"topk\": 9, \"num_vectors\": 8}", "topk: found 9, expected at most num_vectors, which is 8"},
};

static bool made_on(const net *n, const refusal *r)
{
    cb_adapter *adapter = cb_adapter_new(r->kind, NULL);
    bool ok = cb_adapter_set_json(adapter, r->kind, r->options) && cb_adapter_set(adapter, "target_modules", r->layers) &&
              cb_adapter_attach(adapter, n->root, NULL, 3);
    cb_adapter_free(adapter);
    return ok;
}

static void what_does_not_fit_is_refused_by_name(void **state)
{
    (void)state;
    net n = make_net(plain);
    cb_layer *bare = cb_layer_new(n.root, "bare", CB_LAYER_LINEAR);
    bare->in_features = bare->out_features = 4;
    add_weight(bare, "weight", CB_F32, 0, 1, CB_SHAPE(4, 4));
    cb_layer *narrow = cb_layer_new(n.root, "narrow", CB_LAYER_LINEAR);
    narrow->in_features = 4;
    narrow->out_features = 1;
    add_weight(narrow, "weight", CB_F32, 0, 1, CB_SHAPE(1, 4));
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++)
        assert_refused(!made_on(&n, &refusals[i]), refusals[i].text);
    cb_layer_free(n.root);
}

/* Saves an adapter, and then all its tensors as f32; first >= 0: the first number of the one that is named so becomes that. */
static const char *saved_with_f32(const kind_case *c, const net *n, const char *name, float first)
{
    cb_adapter *adapter = put_random_on(n, c);
    const char *path = scratch_path("changed");
    assert_ok(cb_adapter_save(adapter, path, NULL));
    cb_adapter_free(adapter);
    char *file = cb_format("%s/adapter_model.safetensors", path);
    cb_safetensors *read = cb_safetensors_open(file);
    assert_ok(read);
    cb_scope *scope = cb_scope_open();
    cb_weight_entry entries[16];
    size_t count = cb_safetensors_count(read);
    assert_true(count <= 16);
    for (size_t i = 0; i < count; i++) {
        entries[i] = *cb_safetensors_at(read, i);
        cb_tensor *t = cb_contiguous(cb_add_scalar(cb_cast(entry_tensor(&entries[i]), CB_F32), 0));
        assert_ok(t);
        if (strstr(entries[i].name, name) && first >= 0)
            ((float *)t->data)[0] = first;
        entries[i].dtype = CB_F32;
        entries[i].type_name = NULL;
        entries[i].data = t->data;
        entries[i].size = (size_t)t->count * sizeof(float);
    }
    char *other = cb_format("%s.new", file);
    assert_ok(cb_safetensors_write(other, entries, count, NULL, NULL, NULL));
    cb_scope_close(scope);
    cb_safetensors_close(read);
    assert_int_equal(rename(other, file), 0);
    cb_free(other);
    cb_free(file);
    return path;
}

/* PEFT on Windows writes them so. */
static void indices_may_be_f32_and_must_be_in_range(void **state)
{
    (void)state;
    static const kind_case shira = {"shira", "a,b", "{\"r\": 3}", 0};
    net n = make_net(plain);
    cb_adapter *adapter = put_random_on(&n, &shira);
    cb_tensor *wanted = result(&n);
    cb_adapter_free(adapter);
    adapter = cb_adapter_load(saved_with_f32(&shira, &n, "shira_indices", -1), n.root, NULL);
    assert_ok(adapter);
    assert_true(distance(result(&n), wanted) == 0);
    cb_adapter_free(adapter);
    adapter = cb_adapter_load(saved_with_f32(&shira, &n, "a.shira_indices", 36), n.root, NULL);
    assert_refused(!adapter, "layer a: shira_indices: found row 36 and column");
    cb_layer_free(n.root);
}

static void a_file_of_another_oft_is_refused(void **state)
{
    (void)state;
    static const kind_case oft = {"oft", "a", "{\"oft_block_size\": 4}", 0};
    net n = make_net(plain);
    cb_adapter *adapter = put_random_on(&n, &oft);
    const char *path = scratch_path("old_oft");
    assert_ok(cb_adapter_save(adapter, path, NULL));
    cb_adapter_free(adapter);
    char *file = cb_format("%s/adapter_config.json", path);
    json_t *config = json_load_file(file, 0, NULL);
    assert_non_null(config);
    json_object_del(config, "oft_block_size");
    assert_int_equal(json_dump_file(config, file, 0), 0);
    json_decref(config);
    cb_free(file);
    assert_refused(!cb_adapter_load(path, n.root, NULL),
                   "oft_block_size is missing: found a file of an older PEFT, whose OFT means something else");
    cb_layer_free(n.root);
}

/* Every allocation fails in turn: the error is told, nothing stays. */
static void check_memory(const kind_case *c, const net *n)
{
    cb_adapter_free(put_on(n, c, 3)); /* layers keep the room for their lists of modules */
    uint64_t before = cb_memory().live_bytes;
    bool done = false;
    for (uint64_t k = 1; !done && k < 20000; k += 1 + k / 16) {
        cb_adapter *adapter = cb_adapter_new(c->kind, NULL);
        assert_ok(cb_adapter_set_json(adapter, c->kind, c->options) && cb_adapter_set(adapter, "target_modules", c->layers));
        cb_memory_fail_after(k);
        done = cb_adapter_attach(adapter, n->root, NULL, 3);
        cb_memory_fail_after(0);
        if (!done)
            assert_int_equal(cb_error_status(), CB_ERR_MEMORY);
        cb_error_clear();
        cb_adapter_free(adapter);
        assert_int_equal(cb_memory().live_bytes, before);
    }
    assert_true(done);
}

static void failing_allocations_leave_nothing_behind(void **state)
{
    (void)state;
    for_all(plain, check_memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_has_a_case),
        cmocka_unit_test(every_kind_is_documented),
        cmocka_unit_test(fresh_ones_change_nothing),
        cmocka_unit_test(merging_gives_the_adapters_results),
        cmocka_unit_test(two_kinds_on_a_layer_merge_in_their_order),
        cmocka_unit_test(strength_goes_from_off_to_on),
        cmocka_unit_test(gradients_are_those_of_finite_differences),
        cmocka_unit_test(files_come_back),
        cmocka_unit_test(parameters_and_the_seed_are_all),
        cmocka_unit_test(what_does_not_fit_is_refused_by_name),
        cmocka_unit_test(indices_may_be_f32_and_must_be_in_range),
        cmocka_unit_test(a_file_of_another_oft_is_refused),
        cmocka_unit_test(failing_allocations_leave_nothing_behind),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
