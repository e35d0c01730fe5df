/* test_recursive.c: models whose layers share weights (Relaxed Recursive Transformers): full rank gives back the original, a relaxation of zero
 * changes nothing, gradients of what is shared are sums over depths, early exits, distillation, and back to a plain model. */
#include "about.h"
#include "cambium/methods.h"
#include "cambium/training.h"
#include "text_fixtures.h"

static cb_tie_options options_of(int64_t shared, int start, int64_t rank)
{
    cb_tie_options o = {0};
    assert_true(cb_options_init(cb_tie_option_table, &o));
    o.shared_layers = shared;
    o.start = start;
    o.rank = rank;
    o.seed = 5;
    return o;
}

static cb_model *tied_model(const char *name, const char *directory, cb_tie_options o)
{
    assert_true(cb_tie_layers(model_path(name), directory, &o));
    cb_model *model = cb_model_load(directory);
    assert_ok();
    return model;
}

static cb_adapter *relaxation(cb_model *model, const char *directory)
{
    char path[600];
    snprintf(path, sizeof path, "%s/relaxation", directory);
    cb_adapter *adapter = cb_adapter_load(path, cb_model_root(model), cb_model_type(model));
    assert_ok();
    return adapter;
}

static cb_tensor *logits_of(cb_model *model, cb_tensor *ids)
{
    cb_tensor *logits = NULL;
    cb_no_grad logits = cb_model_logits(model, ids, &(cb_context){0});
    assert_ok();
    return logits;
}

static const char *const names[] = {"llama2", "llama3", "llama_biases", "qwen2", "qwen3", "mistral"};

static void full_rank_is_the_original(void **state)
{
    (void)state;
    for (size_t n = 0; n < sizeof names / sizeof *names; n++)
        for (int start = CB_TIE_STEPWISE; start <= CB_TIE_RANDOM; start++) {
            char directory[200];
            snprintf(directory, sizeof directory, "%s/%s-%d", scratch, names[n], start);
            fixture f = fixture_open(names[n]);
            /* biases, and norms of queries and keys, are tied and not relaxed: models that have them are looked at with a layer for each block */
            bool more = n >= 2 && n <= 4;
            cb_model *model =
                tied_model(names[n], directory, options_of(more ? cb_model_layers(f.model) : 1, more ? CB_TIE_LOWER : start, 4096));
            cb_adapter *adapter = relaxation(model, directory);
            assert_true(cb_model_shared_layers(model) == (more ? cb_model_layers(f.model) : 1));
            assert_string_equal(cb_model_type(model), cb_model_type(f.model));
            assert_close(names[n], logits_of(model, f.ids), logits_of(f.model, f.ids), 1e-4);
            cb_adapter_free(adapter);
            cb_model_free(model);
            fixture_close(&f);
        }
}

static void less_than_full_rank_is_not(void **state)
{
    (void)state;
    fixture f = fixture_open("llama3");
    const char *directory = scratch_path("low");
    cb_model *model = tied_model("llama3", directory, options_of(2, CB_TIE_AVERAGE, 4));
    double tied = relative_difference(logits_of(model, f.ids), logits_of(f.model, f.ids));
    cb_adapter *adapter = relaxation(model, directory);
    double relaxed = relative_difference(logits_of(model, f.ids), logits_of(f.model, f.ids));
    assert_true(tied > 1e-2 && relaxed > 1e-3);
    cb_adapter_free(adapter);
    cb_model_free(model);
    fixture_close(&f);
}

static void a_relaxation_of_zero_changes_no_bit(void **state)
{
    (void)state;
    fixture f = fixture_open("llama3");
    const char *directory = scratch_path("zero");
    cb_tie_options o = options_of(2, CB_TIE_STEPWISE, 4);
    o.svd = false;
    cb_model *model = tied_model("llama3", directory, o);
    cb_tensor *before = logits_of(model, f.ids);
    cb_adapter *adapter = relaxation(model, directory);
    cb_tensor *after = logits_of(model, f.ids);
    assert_memory_equal(before->data, after->data, (size_t)before->count * sizeof(float));
    cb_adapter_free(adapter);
    cb_model_free(model);
    fixture_close(&f);
}

static void untied_is_the_same_function(void **state)
{
    (void)state;
    fixture f = fixture_open("llama3");
    char rec[200], plain[200], again[200];
    snprintf(rec, sizeof rec, "%s/rec", scratch);
    snprintf(plain, sizeof plain, "%s/plain", scratch);
    snprintf(again, sizeof again, "%s/again", scratch);
    cb_model *model = tied_model("llama3", rec, options_of(2, CB_TIE_AVERAGE, 3));
    assert_true(cb_untie_layers(rec, plain));
    cb_model *untied = cb_model_load(plain);
    assert_ok();
    assert_true(cb_model_shared_layers(untied) == 0);
    assert_true(cb_model_parameter_count(model) < cb_model_parameter_count(untied));
    cb_adapter *adapter = relaxation(model, rec), *same = relaxation(untied, rec);
    cb_tensor *a = logits_of(model, f.ids), *b = logits_of(untied, f.ids);
    assert_memory_equal(a->data, b->data, (size_t)a->count * sizeof(float));
    /* saved whole and loaded: still recursive */
    assert_true(cb_model_save(model, again, CB_F32));
    cb_model *loaded = cb_model_load(again);
    assert_ok();
    cb_adapter *third = relaxation(loaded, rec);
    cb_tensor *c = logits_of(loaded, f.ids);
    assert_memory_equal(a->data, c->data, (size_t)a->count * sizeof(float));
    assert_false(cb_untie_layers(plain, scratch_path("never")));
    cb_error_clear();
    cb_tie_options o = options_of(1, CB_TIE_LOWER, 0);
    assert_false(cb_tie_layers(rec, scratch_path("never"), &o));
    cb_error_clear();
    o.shared_layers = 9;
    assert_false(cb_tie_layers(model_path("llama3"), scratch_path("never"), &o));
    assert_non_null(strstr(cb_error_message(), "shared_layers"));
    cb_error_clear();
    assert_false(cb_is_directory(scratch_path("never")));
    cb_adapter_free(third);
    cb_adapter_free(same);
    cb_adapter_free(adapter);
    cb_model_free(loaded);
    cb_model_free(untied);
    cb_model_free(model);
    fixture_close(&f);
}

/* The gradient of a named weight; kept. */
static cb_tensor *gradient(cb_model *model, const char *layer, const cb_trainee *what, cb_tensor *ids, cb_tensor *targets)
{
    cb_scope *scope = cb_scope_open();
    cb_tensor *loss = what->loss ? what->loss(what, ids, targets, 30, &(cb_context){.training = true})
                                 : cb_model_loss(model, ids, targets, 30, &(cb_context){.training = true});
    assert_true(cb_backward(loss));
    cb_scope_close(scope);
    cb_tensor *weight = cb_layer_weight(cb_layer_find(cb_model_root(model), layer), "weight");
    assert_non_null(weight->grad);
    return weight->grad;
}

static cb_tensor *shifted(cb_tensor *ids)
{
    cb_tensor *targets = cb_empty_nd(CB_I32, ids->ndim, ids->shape);
    const int32_t *from = ids->data;
    int32_t *to = targets->data;
    for (int64_t i = 0; i < ids->count; i++)
        to[i] = (i + 1) % ids->shape[1] ? from[i + 1] : -100;
    return targets;
}

static void gradients_of_shared_weights_are_sums_over_depths(void **state)
{
    (void)state;
    fixture f = fixture_open("llama3");
    char rec[200], plain[200];
    snprintf(rec, sizeof rec, "%s/rec2", scratch);
    snprintf(plain, sizeof plain, "%s/plain2", scratch);
    cb_model *model = tied_model("llama3", rec, options_of(1, CB_TIE_AVERAGE, 0));
    assert_true(cb_untie_layers(rec, plain));
    cb_model *untied = cb_model_load(plain);
    cb_tensor *targets = shifted(f.ids);
    cb_trainee a = {0}, b = {0};
    assert_true(cb_train_whole(&a, model, NULL, NULL, "", CB_F32) && cb_train_whole(&b, untied, NULL, NULL, "", CB_F32));
    static const char *const layers[] = {"self_attn.q_proj", "mlp.down_proj", "input_layernorm"};
    for (int i = 0; i < 3; i++) {
        char name[100];
        cb_tensor *sum = NULL;
        snprintf(name, sizeof name, "model.layers.0.%s", layers[i]);
        for (size_t k = 0; k < a.count; k++)
            cb_zero_grad(a.parameters[k].tensor);
        cb_tensor *found = gradient(model, name, &a, f.ids, targets);
        for (size_t k = 0; k < b.count; k++)
            cb_zero_grad(b.parameters[k].tensor);
        gradient(untied, name, &b, f.ids, targets);
        for (int64_t depth = 0; depth < cb_model_layers(untied); depth++) {
            snprintf(name, sizeof name, "model.layers.%d.%s", (int)depth, layers[i]);
            cb_tensor *one = cb_layer_weight(cb_layer_find(cb_model_root(untied), name), "weight")->grad;
            sum = sum ? cb_add(sum, one) : one;
        }
        assert_close(layers[i], found, sum, 2e-5);
    }
    cb_train_whole_free(&a);
    cb_train_whole_free(&b);
    cb_model_free(model);
    cb_model_free(untied);
    fixture_close(&f);
}

/* What the objective should be, from whole logits. */
static double objective_of_rows(cb_model *model, cb_model *teacher, const cb_distillation *d, cb_tensor *ids, cb_tensor *targets,
                                double normalizer, const cb_context *ctx)
{
    cb_tensor *exits[8], *log_p = NULL, *total = NULL;
    double sum = 0;
    cb_scope *scope = cb_scope_open();
    cb_no_grad
    {
        cb_tensor *hidden = cb_model_hidden_exits(model, ids, ctx, exits);
        log_p = cb_log_softmax(cb_model_head(model, hidden, ctx), -1);
        cb_tensor *log_t = cb_log_softmax(cb_model_logits(teacher, ids, ctx), -1);
        total = cb_model_loss(model, ids, targets, normalizer, ctx);
        sum = cb_item(total);
        for (int64_t i = 0; i < targets->count; i++)
            for (int64_t v = 0; cb_get(targets, i) >= 0 && v < log_p->shape[2]; v++) {
                int64_t at = i * log_p->shape[2] + v;
                double p = cb_get(log_p, at), t = cb_get(log_t, at);
                sum += d->weight * exp(t) * (t - p) / normalizer;
            }
        for (int64_t e = 0; e + 1 < cb_model_exits(model); e++) {
            cb_tensor *log_e = cb_log_softmax(cb_model_head(model, exits[e], NULL), -1);
            for (int64_t i = 0; i < targets->count; i++)
                for (int64_t v = 0; cb_get(targets, i) >= 0 && v < log_p->shape[2]; v++) {
                    int64_t at = i * log_p->shape[2] + v;
                    double p = cb_get(log_p, at), q = cb_get(log_e, at);
                    sum += d->exit_weight * exp(p) * (p - q) / normalizer;
                }
        }
    }
    cb_scope_close(scope);
    return sum;
}

static double objective_by_hand(cb_model *model, cb_model *teacher, const cb_distillation *d, cb_tensor *ids, cb_tensor *targets,
                                double normalizer)
{
    return objective_of_rows(model, teacher, d, ids, targets, normalizer, NULL);
}

/* Rows keep their tasks and conditions on the way to the divergence, in both models, whose heads do something else for each. */
static void distillation_knows_rows(void **state)
{
    (void)state;
    static const char *const kinds[][2] = {{"mtlora", "{\"num_tasks\": 3, \"dropout\": 0, \"target_modules\": [\"q_proj\", \"lm_head\"]}"},
                                           {"petalface", "{\"dropout\": 0, \"target_modules\": [\"q_proj\", \"lm_head\"]}"}};
    for (int k = 0; k < 2; k++) {
        fixture f = fixture_open("llama3"), teacher = fixture_open("llama3");
        cb_adapter *adapters[2];
        for (int i = 0; i < 2; i++) {
            cb_model *model = i ? teacher.model : f.model;
            adapters[i] = cb_adapter_new(kinds[k][0], NULL);
            assert_true(cb_adapter_set_json(adapters[i], "options", kinds[k][1]) &&
                        cb_adapter_attach(adapters[i], cb_model_root(model), cb_model_type(model), 1));
            const cb_named_tensor *list;
            size_t count = cb_adapter_parameters(adapters[i], &list);
            for (size_t p = 0; p < count; p++)
                assert_true(cb_init_normal(list[p].tensor, (cb_rng){.seed = 7 + (uint64_t)i, .stream = p}, 0.3));
        }
        cb_tensor *ids = cb_cat(2, (cb_tensor *[]){cb_slice(f.ids, 0, 0, 1, 1), cb_slice(f.ids, 0, 0, 1, 1)}, 0);
        cb_tensor *targets = shifted(ids);
        const cb_context ctx = {.tasks = cb_from(CB_I32, ((int32_t[]){2, 0}), 2),
                                .conditions = cb_from(CB_F32, ((float[]){0.9f, 0.2f}), 2, 1)};
        const cb_distillation d = {teacher.model, 0.7, 0};
        cb_trainee what = cb_train_adapter(f.model, adapters[0]);
        assert_true(cb_train_distill(&what, &d));
        cb_scope *scope = cb_scope_open();
        double found = NAN;
        cb_no_grad found = cb_item(what.loss(&what, ids, targets, 31, &ctx));
        cb_scope_close(scope);
        double expected = objective_of_rows(f.model, teacher.model, &d, ids, targets, 31, &ctx);
        assert_true(fabs(found - expected) < 2e-5 * expected);
        cb_adapter_free(adapters[0]);
        cb_adapter_free(adapters[1]);
        fixture_close(&teacher);
        fixture_close(&f);
    }
}

static void distillation_is_what_it_should_be(void **state)
{
    (void)state;
    fixture f = fixture_open("llama3");
    cb_model *model = tied_model("llama3", scratch_path("student"), options_of(1, CB_TIE_AVERAGE, 0));
    cb_tensor *targets = shifted(f.ids);
    ((int32_t *)targets->data)[3] = -100;
    cb_trainee what;
    assert_true(cb_train_whole(&what, model, NULL, NULL, "", CB_F32));
    const cb_distillation both = {f.model, 0.7, 0.3}, early = {NULL, 0, 0.3}, from_itself = {model, 1, 0};
    const cb_distillation *const cases[] = {&both, &early};
    for (int i = 0; i < 2; i++) {
        assert_true(cb_train_distill(&what, cases[i]));
        cb_scope *scope = cb_scope_open();
        double found = NAN;
        cb_no_grad found = cb_item(what.loss(&what, f.ids, targets, 31, &(cb_context){0}));
        cb_scope_close(scope);
        assert_about(found, objective_by_hand(model, f.model, cases[i], f.ids, targets, 31), 2e-5);
    }
    /* the teacher that is the model itself adds nothing, and no gradient */
    cb_trainee plain = what;
    plain.loss = NULL;
    cb_tensor *g = gradient(model, "model.layers.0.mlp.up_proj", &plain, f.ids, targets), *without = cb_scale(g, 1);
    for (size_t k = 0; k < what.count; k++)
        cb_zero_grad(what.parameters[k].tensor);
    assert_true(cb_train_distill(&what, &from_itself));
    assert_close("from itself", gradient(model, "model.layers.0.mlp.up_proj", &what, f.ids, targets), without, 1e-4);
    /* directional derivative of the whole objective; the last round is not drawn to the earlier ones, so only the teacher's part is looked at */
    const cb_distillation teacher = {f.model, 0.7, 0};
    for (size_t k = 0; k < what.count; k++)
        cb_zero_grad(what.parameters[k].tensor);
    assert_true(cb_train_distill(&what, &teacher));
    g = gradient(model, "model.layers.0.mlp.up_proj", &what, f.ids, targets);
    cb_tensor *weight = cb_layer_weight(cb_layer_find(cb_model_root(model), "model.layers.0.mlp.up_proj"), "weight");
    double squares = 0, sides[2];
    const double step = 2e-3;
    for (int64_t i = 0; i < g->count; i++)
        squares += cb_get(g, i) * cb_get(g, i);
    for (int side = 0; side < 2; side++) {
        cb_tensor *moved = cb_add(cb_detach(weight), cb_scale(g, (side ? -2 : 1) * step / sqrt(squares)));
        assert_true(cb_copy_into(weight, moved));
        sides[side] = objective_by_hand(model, f.model, &teacher, f.ids, targets, 30);
    }
    assert_true(fabs((sides[0] - sides[1]) / (2 * step) - sqrt(squares)) < 2e-2 * sqrt(squares));
    /* what cannot be */
    const cb_distillation no_rounds = {NULL, 0, 1};
    cb_trainee other = {.model = f.model};
    assert_false(cb_train_distill(&other, &no_rounds));
    cb_error_clear();
    cb_train_whole_free(&what);
    cb_model_free(model);
    fixture_close(&f);
}

static void exits_are_the_shorter_models(void **state)
{
    (void)state;
    fixture f = fixture_open("llama3");
    const char *directory = scratch_path("exits");
    cb_model *model = tied_model("llama3", directory, options_of(1, CB_TIE_AVERAGE, 0));
    char config[600];
    snprintf(config, sizeof config, "sed -i 's/\"num_hidden_layers\": 3/\"num_hidden_layers\": 2/' '%s/config.json'", directory);
    assert_int_equal(system(config), 0);
    cb_model *shorter = cb_model_load(directory);
    assert_ok();
    cb_tensor *exits[2];
    cb_no_grad
    {
        assert_true(cb_model_exits(model) == 3 && cb_model_exits(f.model) == 1);
        assert_non_null(cb_model_hidden_exits(model, f.ids, NULL, exits));
        cb_tensor *expected = cb_model_hidden(shorter, f.ids, NULL);
        assert_memory_equal(exits[1]->data, expected->data, (size_t)expected->count * sizeof(float));
    }
    cb_model_free(shorter);
    cb_model_free(model);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(full_rank_is_the_original),
        cmocka_unit_test(less_than_full_rank_is_not),
        cmocka_unit_test(a_relaxation_of_zero_changes_no_bit),
        cmocka_unit_test(untied_is_the_same_function),
        cmocka_unit_test(gradients_of_shared_weights_are_sums_over_depths),
        cmocka_unit_test(distillation_knows_rows),
        cmocka_unit_test(distillation_is_what_it_should_be),
        cmocka_unit_test(exits_are_the_shorter_models),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
