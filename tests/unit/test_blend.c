/* test_blend.c: several adapters in one pass through a model: rows of a batch that have their own, weights with gradients, checkpoints,
 * the cache; and what it costs to have many loaded.  What holds for every kind of adapter is in test_kinds.c. */
#include "adapter_fixtures.h"

enum { ROWS = 6, LENGTH = 9, KINDS = 5 };

static const struct {
    const char *kind, *options;
} on_model[KINDS] = {
    {"lora", "{\"r\": 4, \"lora_alpha\": 8, \"target_modules\": \"all-linear\"}"},
    {"ia3", "{}"},
    {"ln_tuning", "{}"},
    {"lora", "{\"r\": 2, \"target_modules\": \"all-linear\", \"modules_to_save\": [\"lm_head\"]}"},
    {"oft", "{\"oft_block_size\": 4, \"target_modules\": \"all-linear\"}"},
};

/* Which of them a row has, in their order; -1 ends. */
static const int row_has[ROWS][3] = {{0, -1}, {-1}, {1, 4, -1}, {3, -1}, {0, 2, -1}, {0, -1}};

static cb_tensor *batch_ids(void)
{
    int32_t ids[ROWS][LENGTH];
    for (int i = 0; i < ROWS * LENGTH; i++)
        ids[i / LENGTH][i % LENGTH] = 3 + (i * 37) % 90;
    return cb_from(CB_I32, ids, ROWS, LENGTH);
}

static cb_adapter *put(cb_model *model, const char *kind, const char *options, uint64_t seed)
{
    cb_adapter *adapter = cb_adapter_new(kind, NULL);
    assert_ok(adapter && cb_adapter_set_json(adapter, kind, options));
    assert_ok(cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), seed));
    randomise(adapter, seed);
    cb_adapter_set_strength(adapter, 0);
    return adapter;
}

typedef struct setting {
    cb_scope *scope;
    cb_model *model;
    cb_adapter *adapters[KINDS];
    cb_blend *blend;
    cb_tensor *ids;
} setting;

static setting open_setting(const char *name)
{
    setting s = {.scope = cb_scope_open(), .model = load_model(name), .ids = batch_ids()};
    s.blend = cb_blend_new(cb_model_root(s.model));
    for (int i = 0; i < KINDS; i++) {
        s.adapters[i] = put(s.model, on_model[i].kind, on_model[i].options, 20 + (uint64_t)i);
        int64_t rows[ROWS];
        size_t count = 0;
        for (int row = 0; row < ROWS; row++)
            for (int k = 0; row_has[row][k] >= 0; k++)
                if (row_has[row][k] == i)
                    rows[count++] = row;
        assert_ok(cb_blend_add(s.blend, s.adapters[i], .rows = rows, .row_count = count));
    }
    return s;
}

static void close_setting(setting *s)
{
    cb_blend_free(s->blend);
    for (int i = 0; i < KINDS; i++)
        cb_adapter_free(s->adapters[i]);
    cb_model_free(s->model);
    cb_scope_close(s->scope);
}

static void switch_row(setting *s, int row, double strength)
{
    for (int k = 0; row_has[row][k] >= 0; k++)
        cb_adapter_set_strength(s->adapters[row_has[row][k]], strength);
}

static cb_tensor *row_of(cb_tensor *x, int row)
{
    return cb_contiguous(cb_slice(x, 0, row, row + 1, 1));
}

static const char *const bases[] = {"llama2", "gpt2", "qwen3", NULL};

/* f32 sums in another order, through a few layers. */
static const double rounding = 2e-5;

static void each_row_is_as_if_alone(void **state)
{
    (void)state;
    for (int b = 0; bases[b]; b++) {
        setting s = open_setting(bases[b]);
        cb_tensor *together = NULL, *plain = NULL;
        cb_no_grad together = cb_model_logits(s.model, s.ids, &(cb_context){.blend = s.blend});
        cb_no_grad plain = cb_model_logits(s.model, s.ids, &(cb_context){0});
        assert_ok(together);
        for (int row = 0; row < ROWS; row++) {
            switch_row(&s, row, 1);
            cb_tensor *alone = logits_of(s.model, row_of(s.ids, row));
            switch_row(&s, row, 0);
            assert_within(row_of(together, row), alone, rounding, bases[b]);
            bool has_none = row_has[row][0] < 0;
            assert_true((distance(alone, row_of(plain, row)) > 1e-3 * largest(alone)) != has_none);
        }
        close_setting(&s);
    }
}

/* What PEFT computes for a batch with adapter_names. */
static void mixed_batches_are_pefts(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_safetensors *file = cb_safetensors_open(CB_TEST_DATA "/blend/expected.safetensors");
    assert_ok(file);
    expected e = {file};
    cb_model *model = load_model("llama2");
    enum { MIXED = 4 };
    cb_adapter *rows[MIXED] = {NULL}, *loaded[MIXED];
    size_t count = 0;
    for (int i = 0; i < MIXED; i++) {
        char key[16];
        snprintf(key, sizeof key, "row%d", i);
        const char *name = cb_safetensors_metadata(file, key);
        assert_non_null(name);
        for (size_t k = 0; k < count; k++)
            if (strcmp(cb_adapter_name(loaded[k]), name) == 0)
                rows[i] = loaded[k];
        if (rows[i] || strcmp(name, "__base__") == 0)
            continue;
        rows[i] = loaded[count++] = cb_adapter_load(reference_path(name), cb_model_root(model), cb_model_type(model));
        assert_ok(rows[i]);
        cb_adapter_set_strength(rows[i], 0);
    }
    assert_int_equal(count, 2);
    cb_blend *blend = cb_blend_new(cb_model_root(model));
    assert_ok(cb_blend_rows(blend, rows, MIXED));
    cb_tensor *found = NULL, *ids = cb_cast(expected_tensor(&e, "input_ids"), CB_I32);
    cb_no_grad found = cb_model_logits(model, ids, &(cb_context){.blend = blend});
    assert_within(found, expected_tensor(&e, "logits"), 1e-5, "a mixed batch");
    cb_blend_free(blend);
    while (count)
        cb_adapter_free(loaded[--count]);
    cb_safetensors_close(file);
    cb_model_free(model);
    cb_scope_close(scope);
}

static void a_cache_changes_nothing(void **state)
{
    (void)state;
    setting s = open_setting("llama2");
    cb_tensor *whole = NULL, *parts[3];
    cb_no_grad whole = cb_model_logits(s.model, s.ids, &(cb_context){.blend = s.blend});
    cb_cache *cache = cb_cache_new(s.model, ROWS, 4);
    const int64_t ends[] = {0, 5, 6, LENGTH};
    for (int i = 0; i < 3; i++)
        parts[i] = cb_model_logits(s.model, cb_contiguous(cb_slice(s.ids, 1, ends[i], ends[i + 1], 1)),
                                   &(cb_context){.blend = s.blend, .cache = cache});
    assert_within(cb_cat(3, parts, 1), whole, rounding, "with a cache");
    cb_cache_free(cache);
    close_setting(&s);
}

static void tokens_are_counted_from_the_start_of_the_sequence(void **state)
{
    (void)state;
    setting s = open_setting("llama2");
    cb_blend_clear(s.blend);
    assert_ok(cb_blend_add(s.blend, s.adapters[0], .first_token = 3, .end_token = 6));
    cb_tensor *whole = NULL, *plain = NULL, *parts[2];
    cb_no_grad whole = cb_model_logits(s.model, s.ids, &(cb_context){.blend = s.blend});
    cb_no_grad plain = cb_model_logits(s.model, s.ids, &(cb_context){0});
    cb_cache *cache = cb_cache_new(s.model, ROWS, LENGTH);
    for (int i = 0; i < 2; i++)
        parts[i] = cb_model_logits(s.model, cb_contiguous(cb_slice(s.ids, 1, i ? 4 : 0, i ? LENGTH : 4, 1)),
                                   &(cb_context){.blend = s.blend, .cache = cache});
    assert_within(cb_cat(2, parts, 1), whole, rounding, "some tokens");
    assert_true(distance(cb_slice(whole, 1, 0, 3, 1), cb_slice(plain, 1, 0, 3, 1)) <= rounding * largest(plain));
    assert_true(distance(cb_slice(whole, 1, 3, 4, 1), cb_slice(plain, 1, 3, 4, 1)) > 1e-3 * largest(plain));
    cb_cache_free(cache);
    close_setting(&s);
}

/* Prompts of other lengths, some that end early, with adapters of their own: what each alone gives, by sampling too. */
static void generation_is_as_if_alone(void **state)
{
    (void)state;
    for (int b = 0; bases[b]; b++) {
        setting s = open_setting(bases[b]);
        const int32_t *ids = s.ids->data;
        cb_prompt_ids prompts[ROWS];
        cb_generation together[ROWS] = {0}, alone = {0};
        cb_generate_options options;
        assert_ok(cb_options_init(cb_generate_option_table, &options));
        options.max_new_tokens = 12;
        options.temperature = b ? 0.7 : 0;
        options.seed = 5;
        options.repetition_penalty = 1.1;
        for (int row = 0; row < ROWS; row++)
            prompts[row] = (cb_prompt_ids){.ids = ids + (ptrdiff_t)row * LENGTH, .count = 1 + (size_t)(row * 5) % LENGTH};
        assert_ok(cb_generate_rows(s.model, NULL, prompts, ROWS, s.blend, NULL, &options, together));
        for (int row = 0; row < ROWS; row++) {
            switch_row(&s, row, 1);
            assert_ok(cb_generate_ids(s.model, NULL, prompts[row].ids, prompts[row].count, &options, NULL, NULL, &alone));
            switch_row(&s, row, 0);
            assert_int_equal(together[row].count, alone.count);
            assert_memory_equal(together[row].ids, alone.ids, alone.count * sizeof *alone.ids);
            assert_string_equal(together[row].finish_reason, alone.finish_reason);
            assert_int_equal(together[row].prompt_tokens, prompts[row].count);
            cb_generation_free(&together[row]);
        }
        cb_generation_free(&alone);
        cb_options_free(cb_generate_option_table, &options);
        close_setting(&s);
    }
}

/* Kinds that look at positions, that act at the head, and copies of both ends of a model that ties them, each beside a model of its own. */
static void generation_is_as_in_a_model_of_its_own(void **state)
{
    (void)state;
    static const struct {
        const char *kind, *options;
    } kinds[] = {{"reft", "{\"r\": 3, \"prefix_positions\": 2, \"suffix_positions\": 2}"},
                 {"bottleneck", "{\"inv_adapter\": \"nice\"}"},
                 {"lora", "{\"r\": 2, \"modules_to_save\": [\"embed_tokens\", \"lm_head\"]}"}};
    static const int of_row[ROWS] = {2, -1, 1, 0, 0, -1};
    cb_scope *scope = cb_scope_open();
    cb_model *model = load_model("llama3");
    cb_blend *blend = cb_blend_new(cb_model_root(model));
    cb_adapter *adapters[3];
    cb_prompt_ids prompts[ROWS];
    cb_generation together[ROWS] = {0}, alone = {0};
    cb_generate_options options;
    const int32_t *ids = batch_ids()->data;
    assert_ok(cb_options_init(cb_generate_option_table, &options));
    options.max_new_tokens = 12;
    for (int i = 0; i < 3; i++) {
        int64_t rows[ROWS];
        size_t count = 0;
        for (int row = 0; row < ROWS; row++)
            if (of_row[row] == i)
                rows[count++] = row;
        adapters[i] = put(model, kinds[i].kind, kinds[i].options, 7 + (uint64_t)i);
        assert_ok(cb_blend_add(blend, adapters[i], .rows = rows, .row_count = count));
    }
    for (int row = 0; row < ROWS; row++)
        prompts[row] = (cb_prompt_ids){.ids = ids + (ptrdiff_t)row * LENGTH, .count = 1 + (size_t)(row * 5) % LENGTH};
    assert_ok(cb_generate_rows(model, NULL, prompts, ROWS, blend, NULL, &options, together));
    for (int row = 0; row < ROWS; row++) {
        int i = of_row[row];
        cb_model *own = load_model("llama3");
        cb_adapter *adapter = i >= 0 ? put(own, kinds[i].kind, kinds[i].options, 7 + (uint64_t)i) : NULL;
        if (adapter)
            cb_adapter_set_strength(adapter, 1);
        assert_ok(cb_generate_ids(own, NULL, prompts[row].ids, prompts[row].count, &options, NULL, NULL, &alone));
        assert_int_equal(together[row].count, alone.count);
        assert_memory_equal(together[row].ids, alone.ids, alone.count * sizeof *alone.ids);
        cb_generation_free(&together[row]);
        cb_adapter_free(adapter);
        cb_model_free(own);
    }
    cb_generation_free(&alone);
    cb_options_free(cb_generate_option_table, &options);
    cb_blend_free(blend);
    for (int i = 0; i < 3; i++)
        cb_adapter_free(adapters[i]);
    cb_model_free(model);
    cb_scope_close(scope);
}

/* ---- gradients ---- */

static double loss_of(const setting *s, const cb_context *ctx, bool backward)
{
    cb_scope *scope = cb_scope_open();
    cb_tensor *targets = targets_of(s->ids), *loss = cb_model_loss(s->model, s->ids, targets, 0, ctx);
    assert_ok(loss);
    if (backward)
        assert_ok(cb_backward(loss));
    double value = cb_item(loss);
    cb_scope_close(scope);
    return value;
}

/* With checkpoints and a head that has modules (its rows go in pieces) the gradients are those of the rows alone, added up. */
static void gradients_are_those_of_the_rows_alone(void **state)
{
    (void)state;
    for (int checkpoint = 0; checkpoint < 2; checkpoint++) {
        setting s = open_setting("llama2");
        double sum = 0, together = loss_of(&s, &(cb_context){.training = true, .blend = s.blend, .checkpoint = checkpoint}, true);
        cb_tensor *found[KINDS][512], *ids = s.ids;
        for (int i = 0; i < KINDS; i++) {
            const cb_named_tensor *list;
            size_t count = cb_adapter_parameters(s.adapters[i], &list);
            assert_true(count > 0 && count < 512);
            for (size_t k = 0; k < count; k++) {
                assert_ok(list[k].tensor->grad);
                found[i][k] = cb_add_scalar(list[k].tensor->grad, 0);
                cb_zero_grad(list[k].tensor);
            }
        }
        for (int row = 0; row < ROWS; row++) {
            switch_row(&s, row, 1);
            s.ids = row_of(ids, row);
            sum += loss_of(&s, &(cb_context){.training = true}, row_has[row][0] >= 0) / ROWS;
            switch_row(&s, row, 0);
        }
        assert_true(fabs(together - sum) < 1e-5 * sum);
        for (int i = 0; i < KINDS; i++) {
            const cb_named_tensor *list;
            size_t count = cb_adapter_parameters(s.adapters[i], &list);
            for (size_t k = 0; k < count; k++)
                assert_within(found[i][k], cb_scale(list[k].tensor->grad, 1.0 / ROWS), 1e-4, list[k].name);
        }
        close_setting(&s);
    }
}

/* Kinds that add, that change the input, the result and the weights, each with a weight of its own for each row, or token. */
static void weights_have_gradients(void **state)
{
    (void)state;
    for (int variant = 0; variant < 4; variant++) {
        bool per_token = variant % 2, checkpoint = variant / 2;
        setting s = open_setting("llama2");
        cb_blend_clear(s.blend);
        const int of[] = {0, 1, 2, 4};
        for (int k = 0; k < 4; k++)
            assert_ok(cb_blend_add(s.blend, s.adapters[of[k]], .weighted = true, .column = k));
        cb_rng rng = {.seed = 4};
        const int64_t shape[] = {ROWS, LENGTH, 4}, row_shape[] = {ROWS, 4};
        cb_tensor *weights = cb_parameter(cb_rand_nd(CB_F32, &rng, per_token ? 3 : 2, per_token ? shape : row_shape));
        cb_tensor *direction = cb_randn_nd(CB_F32, &rng, weights->ndim, weights->shape);
        /* not a leaf: what a checkpoint must take along */
        cb_context ctx = {.blend = s.blend, .blend_weights = cb_scale(weights, 1), .checkpoint = checkpoint};
        loss_of(&s, &ctx, true);
        double found = 0, wanted = 0;
        assert_ok(weights->grad);
        for (int64_t i = 0; i < weights->count; i++)
            found += cb_get(weights->grad, i) * cb_get(direction, i);
        const double step = 0.02; /* the loss is f32: 1e-7 / 0.02 */
        for (int side = -1; side <= 1; side += 2) {
            ctx.blend_weights = cb_detach(cb_add(cb_detach(weights), cb_scale(direction, side * step)));
            cb_no_grad wanted += side * loss_of(&s, &ctx, false) / (2 * step);
        }
        if (!(fabs(found - wanted) < 5e-3 * fabs(wanted) + 1e-4) || fabs(wanted) < 1e-3)
            fail_msg("variant %d: derivative %g, finite differences give %g", variant, found, wanted);
        close_setting(&s);
    }
}

/* ---- gates and compositions ---- */

static void gates_give_weights(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_gate *tasks = cb_gate_new(3, .input = CB_GATE_TASK, .size = 2),
            *best = cb_gate_new(3, .input = CB_GATE_FEATURES, .size = 2, .top_k = 2);
    const cb_named_tensor *list;
    assert_int_equal(cb_gate_parameters(tasks, &list), 1);
    const float logits[] = {0, logf(2), logf(5), 0, 0, 0};
    memcpy(list[0].tensor->data, logits, sizeof logits);
    cb_tensor *w = cb_gate_weights(tasks, cb_from(CB_I32, ((int32_t[]){1, 0}), 2));
    assert_within(w, cb_from(CB_F32, ((float[]){1 / 3.f, 1 / 3.f, 1 / 3.f, 0.125f, 0.25f, 0.625f}), 2, 3), 1e-6, "tasks");
    assert_int_equal(cb_gate_parameters(best, &list), 2);
    const float weight[] = {1, 0, 0, 1, 0, 0}, x[] = {logf(2), 0, 0, logf(3)};
    memcpy(list[0].tensor->data, weight, sizeof weight);
    w = cb_gate_weights(best, cb_from(CB_F32, x, 2, 2)); /* exp: (2, 1, 1) and (1, 3, 1); of equals the first */
    assert_within(w, cb_from(CB_F32, ((float[]){0.5f, 0.25f, 0, 0.2f, 0.6f, 0}), 2, 3), 1e-6, "the two best");
    assert_ok(cb_backward(cb_sum(cb_square(w), CB_ALL, false)));
    assert_true(largest(list[1].tensor->grad) > 0.01);
    assert_refused(!cb_gate_weights(tasks, cb_from(CB_F32, x, 2, 2)), "expected i32 (B)");
    assert_refused(!cb_gate_new(2, .size = 3, .top_k = 3), "top_k 3");
    cb_gate_free(tasks);
    cb_gate_free(best);
    cb_scope_close(scope);
}

/* A gate that learns: two adapters, two tasks, and for each task the logits of one adapter; the right one is found. */
static void a_gate_finds_the_adapter_of_a_task(void **state)
{
    (void)state;
    setting s = open_setting("llama2");
    cb_tensor *wanted = NULL;
    cb_blend_clear(s.blend);
    const int64_t first[] = {0, 1, 2}, second[] = {3, 4, 5};
    assert_ok(cb_blend_add(s.blend, s.adapters[0], .rows = first, .row_count = 3) &&
              cb_blend_add(s.blend, s.adapters[4], .rows = second, .row_count = 3));
    cb_no_grad wanted = cb_model_logits(s.model, s.ids, &(cb_context){.blend = s.blend});
    cb_blend_clear(s.blend);
    cb_gate *gate = cb_gate_new(2, .input = CB_GATE_TASK, .size = 2);
    cb_composition both = {
        .adapters = (cb_adapter *[]){s.adapters[0], s.adapters[4]}, .weights = (double[]){1, 1}, .count = 2, .gate = gate};
    assert_ok(cb_composition_blend(&both, s.blend));
    const cb_named_tensor *list;
    cb_gate_parameters(gate, &list);
    cb_tensor *tasks = cb_from(CB_I32, ((int32_t[]){0, 0, 0, 1, 1, 1}), ROWS), *w = NULL;
    for (int step = 0; step < 60; step++) {
        cb_scope *scope = cb_scope_open();
        w = cb_gate_weights(gate, tasks);
        cb_tensor *y = cb_model_logits(s.model, s.ids, &(cb_context){.blend = s.blend, .blend_weights = w});
        assert_ok(cb_backward(cb_mean(cb_square(cb_sub(y, wanted)), CB_ALL, false)));
        float *p = list[0].tensor->data, *g = list[0].tensor->grad->data;
        for (int i = 0; i < 4; i++) /* the sign's own size: the scale of the loss does not matter */
            p[i] -= g[i] > 0 ? 0.1f : -0.1f;
        cb_zero_grad(list[0].tensor);
        cb_scope_close(scope);
    }
    w = cb_gate_weights(gate, tasks);
    assert_true(cb_get(w, 0) > 0.95 && cb_get(w, 2L * ROWS - 1) > 0.95);
    cb_gate_free(gate);
    close_setting(&s);
}

static void compositions_come_back(void **state)
{
    (void)state;
    for (int gated = 0; gated < 2; gated++) {
        cb_model *model = load_model("llama2");
        cb_scope *scope = cb_scope_open();
        cb_adapter *adapters[] = {cb_adapter_new("lora", "formal"), cb_adapter_new("ia3", "short")};
        for (int i = 0; i < 2; i++) {
            assert_ok(cb_adapter_attach(adapters[i], cb_model_root(model), "llama", 1));
            randomise(adapters[i], 3 + (uint64_t)i);
            cb_adapter_set_strength(adapters[i], 0);
        }
        cb_gate *gate = gated ? cb_gate_new(2, .input = CB_GATE_FEATURES, .size = 3) : NULL;
        const cb_named_tensor *list;
        if (gated && cb_gate_parameters(gate, &list))
            cb_init_normal(list[0].tensor, (cb_rng){.seed = 3}, 1);
        cb_composition made = {.adapters = adapters, .weights = (double[]){0.5, 1.25}, .count = 2, .gate = gate}, read;
        cb_tensor *features = cb_from(CB_F32, ((float[]){1, 0, 2, -1, 1, 0}), 2, 3);
        cb_blend *blend = cb_blend_new(cb_model_root(model));
        cb_tensor *wanted, *found;
        assert_ok(cb_composition_blend(&made, blend));
        const char *path = scratch_path(gated ? "gated" : "mixed");
        cb_no_grad wanted = cb_model_logits(model, cb_cast(some_ids(), CB_I32),
                                            &(cb_context){.blend = blend, .blend_weights = gated ? cb_gate_weights(gate, features) : NULL});
        assert_ok(wanted && cb_composition_save(&made, path, "base"));
        cb_adapter_free(adapters[0]);
        cb_adapter_free(adapters[1]);
        assert_true(cb_is_composition(path));
        assert_ok(cb_composition_load(&read, path, cb_model_root(model), "llama"));
        assert_int_equal(read.count, 2);
        assert_true(read.weights[1] == 1.25 && !read.gate == !gated);
        cb_blend_clear(blend);
        assert_ok(cb_composition_blend(&read, blend));
        cb_no_grad found =
            cb_model_logits(model, cb_cast(some_ids(), CB_I32),
                            &(cb_context){.blend = blend, .blend_weights = gated ? cb_gate_weights(read.gate, features) : NULL});
        assert_true(distance(found, wanted) == 0);
        cb_blend_free(blend);
        cb_composition_free(&read);
        cb_gate_free(gate);
        char *part = cb_format("%s/formal", path);
        cb_adapter *alone = cb_adapter_load(part, cb_model_root(model), "llama"); /* a part is an adapter */
        assert_ok(alone);
        cb_adapter_free(alone);
        cb_free(part);
        cb_scope_close(scope);
        cb_model_free(model);
    }
}

/* Whatever is written where a composition was: nothing of the old one may be taken for it, even if the writing stops half-way. */
static void what_is_written_over_a_composition_replaces_it(void **state)
{
    (void)state;
    cb_model *model = load_model("llama2");
    cb_adapter *adapters[] = {cb_adapter_new("lora", "formal"), cb_adapter_new("lora", "short")};
    for (int i = 0; i < 2; i++)
        assert_ok(cb_adapter_attach(adapters[i], cb_model_root(model), "llama", 1));
    cb_composition c = {.adapters = adapters, .weights = (double[]){0.5, 1.25}, .count = 2};
    const char *path = scratch_path("replaced");
    assert_ok(cb_composition_save(&c, path, "base") && cb_is_composition(path));
    assert_ok(cb_adapter_save(adapters[0], path, "base"));
    assert_false(cb_is_composition(path));
    c.count = 1;
    assert_ok(cb_composition_save(&c, path, "base") && cb_is_composition(path));
    char *plain = cb_format("%s/adapter_config.json", path);
    assert_false(cb_is_file(plain)); /* of the adapter that was there */
    cb_free(plain);
    char *second = cb_format("%s/other", path);
    assert_ok(cb_adapter_rename(adapters[1], "other") && cb_file_write(second, "", 0));
    c.count = 2;
    assert_refused(!cb_composition_save(&c, path, "base"), "other");
    assert_false(cb_is_composition(path));
    cb_free(second);
    cb_adapter_free(adapters[0]);
    cb_adapter_free(adapters[1]);
    cb_model_free(model);
}

static void bad_compositions_are_refused(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"[]", "expected format cambium-blend"},
        {"{\"format\": \"cambium-blend\", \"version\": 2, \"parts\": [{}]}", "expected format cambium-blend, version 1"},
        {"{\"format\": \"cambium-blend\", \"version\": 1, \"parts\": []}", "and parts"},
        {"{\"format\": \"cambium-blend\", \"version\": 1, \"parts\": [{\"name\": \"../mixed\"}]}", "parts[0]: expected a name"},
        {"{\"format\": \"cambium-blend\", \"version\": 1, \"parts\": [{\"name\": \"x\", \"weight\": 0}]}", "a number other than 0"},
        {"{\"format\": \"cambium-blend\", \"version\": 1, \"parts\": [{\"name\": \"x\"}]}", "/x"},
        {"{\"format\": \"cambium-blend\", \"version\": 1, \"parts\": [{\"name\": \"x\", \"wieght\": 1}]}", "found a field \"wieght\""},
    };
    cb_model *model = load_model("llama2");
    const char *path = scratch_path("bad");
    assert_ok(cb_directory_make(path));
    char *file = cb_path_join(path, "blend.json");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cb_composition c;
        assert_ok(cb_file_write(file, cases[i][0], strlen(cases[i][0])));
        assert_refused(!cb_composition_load(&c, path, cb_model_root(model), "llama"), cases[i][1]);
    }
    cb_free(file);
    cb_model_free(model);
}

/* ---- many ---- */

static void what_is_off_is_not_there(void **state)
{
    (void)state;
    cb_model *model = load_model("llama2");
    cb_scope *scope = cb_scope_open();
    enum { MANY = 1000 };
    static cb_adapter *adapters[MANY];
    size_t modules = 0;
    for (int i = 0; i < MANY; i++) {
        adapters[i] = put(model, "lora", "{\"r\": 1}", (uint64_t)i);
        cb_module *const *list;
        modules = cb_adapter_modules(adapters[i], &list);
        assert_int_equal(list[0]->layer->module_count, 0);
        assert_true(list[0]->layer->module_capacity <= 8);
    }
    cb_blend *blend = cb_blend_new(cb_model_root(model));
    assert_ok(cb_blend_rows(blend, (cb_adapter *[]){adapters[999], NULL, adapters[3], adapters[999]}, 4));
    assert_int_equal(cb_blend_parts(blend), 2 * modules);
    cb_adapter_set_strength(adapters[500], 1);
    cb_adapter_set_strength(adapters[2], 1);
    cb_module *const *first, *const *second;
    cb_adapter_modules(adapters[2], &first);
    cb_adapter_modules(adapters[500], &second);
    assert_int_equal(first[0]->layer->module_count, 2); /* in the order in which they were attached */
    assert_ptr_equal(first[0]->layer->modules[0], first[0]);
    assert_ptr_equal(first[0]->layer->modules[1], second[0]);
    cb_blend_free(blend);
    for (int i = 0; i < MANY; i++)
        cb_adapter_free(adapters[i]);
    cb_scope_close(scope);
    cb_model_free(model);
}

/* ---- refusals and failures ---- */

static void what_does_not_fit_is_refused(void **state)
{
    (void)state;
    setting s = open_setting("llama2");
    cb_context ctx = {.blend = s.blend};
    cb_tensor *two = cb_contiguous(cb_slice(s.ids, 0, 0, 2, 1));
    assert_refused(!cb_model_logits(s.model, two, &ctx), "names row 5 of a batch of 2");
    cb_blend_clear(s.blend);
    assert_ok(cb_blend_add(s.blend, s.adapters[0], .weighted = true, .column = 1));
    assert_refused(!cb_model_logits(s.model, two, &ctx), "expected blend_weights");
    ctx.blend_weights = cb_ones(CB_F32, 2, 1);
    assert_refused(!cb_model_logits(s.model, two, &ctx), "weights are f32(2, 1) for 2 rows");
    ctx.blend_weights = cb_ones(CB_F32, 3, 2);
    assert_refused(!cb_model_logits(s.model, two, &ctx), "weights are f32(3, 2) for 2 rows");
    cb_adapter_set_strength(s.adapters[3], 1);
    assert_refused(!cb_blend_add(s.blend, s.adapters[3]), "trained layer lm_head whole; expected it off");
    assert_refused(!cb_blend_add(s.blend, s.adapters[0], .rows = (int64_t[]){1, 1}, .row_count = 2), "expected ascending ones");
    assert_refused(!cb_blend_add(s.blend, s.adapters[0], .first_token = 4, .end_token = 2), "tokens 4 to 2");
    cb_adapter *bare = cb_adapter_new("lora", "bare");
    assert_refused(!cb_blend_add(s.blend, bare), "adapter bare is not attached");
    cb_adapter_free(bare);
    close_setting(&s);
}

static bool one_pass(setting *s)
{
    cb_scope *scope = cb_scope_open();
    cb_blend *blend = scope ? cb_blend_new(cb_model_root(s->model)) : NULL;
    cb_adapter *rows[ROWS] = {s->adapters[0], NULL, s->adapters[1], s->adapters[2], s->adapters[3], s->adapters[4]};
    bool ok = blend && cb_blend_rows(blend, rows, ROWS) && cb_model_loss(s->model, s->ids, s->ids, 0, &(cb_context){.blend = blend});
    cb_scope_close(scope);
    cb_blend_free(blend);
    return ok;
}

static void a_failed_allocation_is_an_error(void **state)
{
    (void)state;
    setting s = open_setting("llama2");
    assert_ok(one_pass(&s));
    uint64_t live = cb_memory().live_bytes;
    bool done = false;
    for (uint64_t n = 1; !done; n += 1 + n / 40) {
        cb_memory_fail_after(n);
        done = one_pass(&s);
        cb_memory_fail_after(0);
        assert_true(done == cb_ok());
        cb_error_clear();
        assert_int_equal(cb_memory().live_bytes, live);
    }
    close_setting(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_row_is_as_if_alone),
        cmocka_unit_test(mixed_batches_are_pefts),
        cmocka_unit_test(a_cache_changes_nothing),
        cmocka_unit_test(tokens_are_counted_from_the_start_of_the_sequence),
        cmocka_unit_test(generation_is_as_if_alone),
        cmocka_unit_test(generation_is_as_in_a_model_of_its_own),
        cmocka_unit_test(gradients_are_those_of_the_rows_alone),
        cmocka_unit_test(weights_have_gradients),
        cmocka_unit_test(gates_give_weights),
        cmocka_unit_test(a_gate_finds_the_adapter_of_a_task),
        cmocka_unit_test(compositions_come_back),
        cmocka_unit_test(what_is_written_over_a_composition_replaces_it),
        cmocka_unit_test(bad_compositions_are_refused),
        cmocka_unit_test(what_is_off_is_not_there),
        cmocka_unit_test(what_does_not_fit_is_refused),
        cmocka_unit_test(a_failed_allocation_is_an_error),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
