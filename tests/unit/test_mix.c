/* test_mix.c: mixers over trained adapters: AdapterFusion's values and gradients, routers, one adapter alone, what is trained and what stays,
 * checkpoints, the cache, directories, and what is refused. */
#include <unistd.h>

#include "adapter_fixtures.h"
#include "adapters/mixer.h"
#include "adapters/named.h"
#include "cambium/optim.h"
#include "cambium/training.h"

/* ---- the arithmetic ---- */

static const char *const names[] = {"query.weight", "query.bias", "key.weight", "key.bias", "value.weight"};
enum { NAMES = 5, PARTS = 3 };

static void fusion_is_adapterhubs(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    expected e = {cb_safetensors_open(CB_TEST_DATA "/fusion/expected.safetensors")};
    assert_ok(e.file);
    cb_tensor *t[NAMES], *all = expected_tensor(&e, "changes"), *changes[PARTS];
    for (int i = 0; i < NAMES; i++)
        t[i] = cb_parameter(expected_tensor(&e, names[i]));
    for (int i = 0; i < PARTS; i++)
        changes[i] = cb_squeeze(cb_slice(all, 0, i, i + 1, 1), 0);
    cb_tensor *q = expected_tensor(&e, "q"), *y = expected_tensor(&e, "y");
    cb_tensor *output = cb_fusion_mix(t, q, y, changes, PARTS);
    assert_ok(output);
    assert_within(output, expected_tensor(&e, "output"), 1e-5, "output");
    cb_mixer_options options = {.fusion_regularization = 0.01};
    cb_mixer_layer layer = {.options = &options, .tensors = {t[0], t[1], t[2], t[3], t[4]}};
    cb_tensor *loss = cb_mixer_fusion.regulariser(&layer);
    assert_ok(loss);
    assert_true(fabs(cb_item(loss) - cb_item(expected_tensor(&e, "loss"))) < 1e-6);
    assert_ok(cb_backward(cb_add(cb_sum(cb_mul(output, expected_tensor(&e, "weights")), CB_ALL, false), loss)));
    for (int i = 0; i < NAMES; i++) {
        char key[32];
        snprintf(key, sizeof key, "grad.%s", names[i]);
        if (strcmp(names[i], "key.bias") == 0) /* moves all scores alike: zero but for rounding */
            assert_true(largest(t[i]->grad) < 1e-5);
        else
            assert_within(t[i]->grad, expected_tensor(&e, key), 1e-5, key);
    }
    t[4] = NULL;
    assert_within(cb_fusion_mix(t, q, y, changes, PARTS), expected_tensor(&e, "plain_output"), 1e-5, "without values");
    cb_safetensors_close(e.file);
    cb_scope_close(scope);
}

/* Everything that the result depends on: Q, b, K, d, V, q, y and two changes. */
enum { INPUTS = 9 };

static double objective(cb_tensor *const *x, bool backward)
{
    cb_scope *scope = cb_scope_open();
    cb_tensor *y = cb_fusion_mix(x, x[5], x[6], x + 7, 2);
    assert_ok(y);
    cb_tensor *sum = cb_sum(cb_square(y), CB_ALL, false);
    if (backward)
        assert_ok(cb_backward(sum));
    double value = cb_item(sum);
    cb_scope_close(scope);
    return value;
}

static void gradients_are_those_of_differences(void **state)
{
    (void)state;
    const double h = 1e-5;
    cb_scope *scope = cb_scope_open();
    cb_rng rng = {.seed = 8};
    cb_tensor *x[INPUTS];
    for (int i = 0; i < INPUTS; i++) {
        bool bias = i == 1 || i == 3;
        const int64_t vector[] = {4}, square[] = {4, 4}, rows[] = {2, 3, 4};
        x[i] = cb_parameter(cb_randn_nd(CB_F64, &rng, bias ? 1 : i < 5 ? 2 : 3, bias ? vector : i < 5 ? square : rows));
    }
    objective(x, true);
    for (int i = 0; i < INPUTS; i++)
        for (int64_t k = 0; k < x[i]->count; k++) {
            double *at = (double *)x[i]->data + k, kept = *at, differences[2];
            for (int side = 0; side < 2; side++) {
                *at = kept + (side ? h : -h);
                cb_no_grad differences[side] = objective(x, false);
            }
            *at = kept;
            double found = cb_get(x[i]->grad, k), wanted = (differences[1] - differences[0]) / (2 * h);
            if (!(fabs(found - wanted) <= 1e-6 * (1 + fabs(wanted)))) /* h^2 of the third derivative */
                fail_msg("input %d, element %lld: gradient %g, difference %g", i, (long long)k, found, wanted);
        }
    cb_scope_close(scope);
}

/* ---- on a model ---- */

static cb_adapter *put(cb_model *model, const char *kind, const char *name, const char *options, uint64_t seed)
{
    cb_adapter *adapter = cb_adapter_new(kind, name);
    assert_ok(adapter && cb_adapter_set_json(adapter, kind, options));
    assert_ok(cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), seed));
    randomise(adapter, seed);
    cb_adapter_set_strength(adapter, 0);
    return adapter;
}

static const struct {
    const char *kind, *options;
} parts[] = {
    {"lora", "{\"r\": 4, \"lora_alpha\": 8, \"target_modules\": [\"q_proj\", \"up_proj\"]}"},
    {"lora", "{\"r\": 2, \"use_dora\": true, \"target_modules\": [\"q_proj\", \"down_proj\"]}"},
    {"bottleneck", "{\"reduction_factor\": 4, \"non_linearity\": \"relu\"}"},
};
enum { COUNT = sizeof parts / sizeof *parts };

typedef struct setting {
    cb_scope *scope;
    cb_model *model;
    cb_adapter *adapters[COUNT];
    double weights[COUNT];
    cb_composition c;
    cb_tensor *ids;
} setting;

static void open_setting(setting *s, size_t count)
{
    *s = (setting){.scope = cb_scope_open(), .model = load_model("llama2"), .ids = some_ids()};
    for (size_t i = 0; i < count; i++) {
        char name[8];
        snprintf(name, sizeof name, "part%zu", i);
        s->adapters[i] = put(s->model, parts[i].kind, name, parts[i].options, 5 + i);
        s->weights[i] = 1;
    }
    s->c = (cb_composition){.adapters = s->adapters, .weights = s->weights, .count = count};
}

static void close_setting(setting *s)
{
    cb_model_set_blend(s->model, NULL, NULL, NULL);
    cb_gate_free(s->c.gate);
    cb_mixer_free(s->c.mixer);
    for (size_t i = 0; i < s->c.count; i++)
        cb_adapter_free(s->adapters[i]);
    cb_model_free(s->model);
    cb_scope_close(s->scope);
}

static void make_mixer(setting *s, cb_mixer_form form, int64_t top_k)
{
    cb_mixer_options options;
    assert_ok(cb_options_init(cb_mixer_option_table, &options));
    options.mix_top_k = top_k;
    s->c.mixer = cb_mixer_new(form, s->adapters, s->c.count, &options, 3);
    assert_ok(s->c.mixer);
}

static void randomise_mixer(const setting *s, double deviation)
{
    const cb_named_tensor *list;
    size_t count = cb_mixer_parameters(s->c.mixer, &list);
    for (size_t i = 0; i < count; i++)
        for (int64_t k = 0; k < list[i].tensor->count; k++) {
            cb_rng rng = {.seed = 9, .stream = i * 100000 + (uint64_t)k};
            ((float *)list[i].tensor->data)[k] += (float)(deviation * cb_rng_normal(&rng));
        }
}

/* Values at the identity, and with none of the small numbers beside its diagonal. */
static void set_identity(const setting *s)
{
    const cb_named_tensor *list;
    size_t count = cb_mixer_parameters(s->c.mixer, &list);
    for (size_t i = 0; i < count; i++) {
        cb_tensor *t = list[i].tensor;
        for (int64_t k = 0; cb_ends_with(list[i].name, "value.weight") && k < t->count; k++)
            ((float *)t->data)[k] = k % (t->shape[1] + 1) == 0;
    }
}

static void one_adapter_is_that_adapter(void **state)
{
    (void)state;
    for (int i = 0; i < COUNT; i++)
        for (int form = 0; form < 2; form++) {
            setting s;
            open_setting(&s, 0);
            s.adapters[0] = put(s.model, parts[i].kind, "alone", parts[i].options, 4);
            s.weights[0] = 1;
            s.c.count = 1;
            cb_tensor *plain = logits_of(s.model, s.ids);
            cb_adapter_set_strength(s.adapters[0], 1);
            cb_tensor *wanted = logits_of(s.model, s.ids);
            cb_adapter_set_strength(s.adapters[0], 0);
            make_mixer(&s, form, 0);
            randomise_mixer(&s, 0.3);
            set_identity(&s);
            assert_ok(cb_composition_use(&s.c, s.model));
            assert_within(logits_of(s.model, s.ids), wanted, 1e-5, parts[i].kind);
            assert_true(distance(plain, wanted) > 1e-3 * largest(wanted));
            close_setting(&s);
        }
}

static void set_bias(const setting *s, float second)
{
    const cb_named_tensor *list;
    size_t count = cb_mixer_parameters(s->c.mixer, &list);
    for (size_t i = 0; i < count; i++)
        if (cb_ends_with(list[i].name, "router.bias"))
            ((float *)list[i].tensor->data)[1] = second;
}

/* Both adapters on all of their layers at these strengths, without the mixer. */
static cb_tensor *logits_at(const setting *s, double first, double second)
{
    cb_model_set_blend(s->model, NULL, NULL, NULL);
    cb_adapter_set_strength(s->adapters[0], first);
    cb_adapter_set_strength(s->adapters[1], second);
    cb_tensor *y = logits_of(s->model, s->ids);
    cb_adapter_set_strength(s->adapters[0], 0);
    cb_adapter_set_strength(s->adapters[1], 0);
    return y;
}

/* A fresh router gives each adapter of a layer the same share, and one with biases 0 and 1 what their softmax says, of which top-k leaves the
 * larger as it is. */
static void a_router_weighs(void **state)
{
    (void)state;
    static const char *const both = "{\"r\": 4, \"target_modules\": [\"q_proj\", \"down_proj\"]}";
    for (int64_t top_k = 0; top_k < 2; top_k++) {
        setting s;
        open_setting(&s, 0);
        for (int i = 0; i < 2; i++) {
            s.adapters[i] = put(s.model, "lora", i ? "b" : "a", both, 4 + (uint64_t)i);
            s.weights[i] = 1;
        }
        s.c.count = 2;
        make_mixer(&s, CB_MIXER_ROUTER, top_k);
        if (!top_k) {
            assert_ok(cb_composition_use(&s.c, s.model));
            cb_tensor *fresh = logits_of(s.model, s.ids);
            assert_within(fresh, logits_at(&s, 0.5, 0.5), 1e-5, "halves");
        }
        const double p = 1 / (1 + exp(-1));
        cb_tensor *wanted = logits_at(&s, top_k ? 0 : 1 - p, p);
        assert_true(distance(wanted, logits_at(&s, top_k ? 1 - p : 0, p)) > 1e-3 * largest(wanted));
        assert_true(distance(wanted, logits_at(&s, 0, 1)) > 1e-3 * largest(wanted));
        set_bias(&s, 1);
        assert_ok(cb_composition_use(&s.c, s.model));
        assert_within(logits_of(s.model, s.ids), wanted, 1e-5, top_k ? "the larger" : "both");
        close_setting(&s);
    }
}

static double loss_of(const setting *s, bool checkpoint)
{
    static const int32_t tasks[2] = {1, 0};
    cb_scope *scope = cb_scope_open();
    cb_context ctx = {.training = true, .checkpoint = checkpoint, .tasks = cb_from(CB_I32, tasks, 2)};
    cb_tensor *loss = cb_model_loss(s->model, s->ids, targets_of(s->ids), 0, &ctx);
    assert_ok(loss && cb_backward(loss));
    double value = cb_item(loss);
    cb_scope_close(scope);
    return value;
}

/* What is trained has gradients, the same with checkpoints, and learns; the adapters have none and stay as they are. */
static void only_the_mix_is_trained(void **state)
{
    (void)state;
    for (int form = 0; form < 4; form++) {
        setting s;
        open_setting(&s, COUNT);
        size_t frozen = COUNT;
        if (form < 2)
            make_mixer(&s, form, 0);
        else if (form == 2)
            s.c.gate = cb_gate_new(COUNT, .input = CB_GATE_TASK, .size = 2);
        else
            frozen = COUNT - 1;
        cb_tensor *kept[256], *grads[256];
        size_t parameters = 0;
        const cb_named_tensor *list;
        for (size_t i = 0; i < frozen; i++)
            for (size_t k = 0, n = cb_adapter_parameters(s.adapters[i], &list); k < n; k++)
                kept[parameters++] = cb_add_scalar(cb_detach(list[k].tensor), 0);
        cb_trainee what;
        assert_ok(cb_train_composition(&what, s.model, &s.c, frozen));
        assert_true(what.count > 0 && what.count < 256);
        double first = loss_of(&s, false), last = first;
        for (size_t i = 0; i < what.count; i++) {
            assert_ok(what.parameters[i].tensor->grad);
            grads[i] = cb_add_scalar(what.parameters[i].tensor->grad, 0);
            cb_zero_grad(what.parameters[i].tensor);
        }
        assert_true(loss_of(&s, true) == first);
        cb_tensor **trained = cb_calloc(what.count, sizeof(cb_tensor *));
        for (size_t i = 0; i < what.count; i++) {
            trained[i] = what.parameters[i].tensor;
            assert_within(trained[i]->grad, grads[i], 1e-5, what.parameters[i].name);
        }
        cb_optimizer *optimizer = cb_adamw(what.count, trained, .weight_decay = 0);
        for (int step = 0; step < 10; step++) {
            assert_ok(cb_optimizer_step(optimizer, 3e-3, 1));
            cb_optimizer_zero_grad(optimizer);
            last = loss_of(&s, false);
        }
        assert_true(last < first);
        cb_optimizer_zero_grad(optimizer);
        cb_optimizer_free(optimizer);
        cb_free(trained);
        cb_train_composition_free(&what);
        size_t at = 0;
        for (size_t i = 0; i < frozen; i++)
            for (size_t k = 0, n = cb_adapter_parameters(s.adapters[i], &list); k < n; k++) {
                assert_true(distance(list[k].tensor, kept[at++]) == 0);
                assert_null(list[k].tensor->grad);
                assert_true(list[k].tensor->requires_grad);
            }
        close_setting(&s);
    }
}

/* What a run that goes on is compared by. */
static void a_run_says_which_adapters_are_frozen(void **state)
{
    (void)state;
    setting s;
    open_setting(&s, 2);
    make_mixer(&s, CB_MIXER_ROUTER, 0);
    cb_trainee what;
    assert_ok(cb_train_composition(&what, s.model, &s.c, 2));
    char *before = what.describe(&what), *same = what.describe(&what);
    const cb_named_tensor *list;
    assert_true(cb_adapter_parameters(s.adapters[1], &list) > 0);
    ((float *)list[0].tensor->data)[list[0].tensor->count - 1] += 1;
    char *after = what.describe(&what);
    assert_ok(before && same && after);
    assert_string_equal(before, same);
    assert_string_not_equal(before, after);
    cb_free(before);
    cb_free(same);
    cb_free(after);
    cb_train_composition_free(&what);
    close_setting(&s);
}

static void a_cache_changes_nothing(void **state)
{
    (void)state;
    for (int form = 0; form < 2; form++) {
        setting s;
        open_setting(&s, COUNT);
        make_mixer(&s, form, 0);
        randomise_mixer(&s, 0.2);
        assert_ok(cb_composition_use(&s.c, s.model));
        cb_tensor *whole = logits_of(s.model, s.ids), *pieces[2];
        cb_cache *cache = cb_cache_new(s.model, 2, 9);
        for (int i = 0; i < 2; i++)
            pieces[i] = cb_model_logits(s.model, cb_contiguous(cb_slice(s.ids, 1, i ? 6 : 0, i ? 9 : 6, 1)), &(cb_context){.cache = cache});
        assert_within(cb_cat(2, pieces, 1), whole, 2e-5, "with a cache");
        cb_cache_free(cache);
        close_setting(&s);
    }
}

/* ---- directories ---- */

static void mixed_compositions_come_back(void **state)
{
    (void)state;
    for (int form = 0; form < 2; form++) {
        setting s;
        open_setting(&s, COUNT);
        s.weights[1] = 0.5;
        make_mixer(&s, form, form == CB_MIXER_ROUTER);
        randomise_mixer(&s, 0.2);
        const char *path = scratch_path(form ? "router" : "fusion");
        assert_ok(cb_composition_save(&s.c, path, "base"));
        assert_ok(cb_composition_use(&s.c, s.model));
        cb_tensor *wanted = logits_of(s.model, s.ids);
        cb_composition read;
        assert_ok(cb_composition_load(&read, path, cb_model_root(s.model), "llama"));
        assert_non_null(read.mixer);
        const cb_named_tensor *mine, *theirs;
        size_t count = cb_mixer_parameters(s.c.mixer, &mine);
        assert_int_equal(cb_mixer_parameters(read.mixer, &theirs), count);
        for (size_t i = 0; i < count; i++) {
            assert_string_equal(mine[i].name, theirs[i].name);
            assert_memory_equal(mine[i].tensor->data, theirs[i].tensor->data, (size_t)mine[i].tensor->count * sizeof(float));
        }
        assert_ok(cb_composition_use(&read, s.model));
        assert_true(distance(logits_of(s.model, s.ids), wanted) == 0);
        cb_model_set_blend(s.model, NULL, NULL, NULL);
        cb_composition_free(&read);
        close_setting(&s);
    }
}

static void refuse_in(const char *directory, cb_model *model, const char *json, const char *message)
{
    char *file = cb_path_join(scratch_path(directory), "blend.json"), text[512];
    snprintf(text, sizeof text,
             "{\"format\": \"cambium-blend\", \"version\": 1, \"parts\": [{\"name\": \"part0\"}, {\"name\": \"part1\"}, {\"name\": "
             "\"part2\"}], %s}",
             json);
    assert_ok(file && cb_file_write(file, text, strlen(text)));
    cb_composition c;
    assert_refused(!cb_composition_load(&c, scratch_path(directory), cb_model_root(model), "llama"), message);
    cb_free(file);
}

static void refuse_directory(cb_model *model, const char *json, const char *message)
{
    refuse_in("fusion", model, json, message);
}

static void what_a_gate_does_not_know_is_refused(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"\"gate\": {\"input\": \"task\", \"size\": 2, \"top_k\": \"1\"}", "gate: top_k: found"},
        {"\"gate\": {\"input\": \"task\", \"size\": 2, \"linear\": 1}", "gate: linear: found"},
        {"\"gate\": {\"input\": \"task\", \"size\": 2.5}", "gate: size: found"},
        {"\"gate\": {\"input\": \"task\", \"size\": 2, \"hiden\": 4}", "gate: found a field \"hiden\", expected one of input, size"},
        {"\"gate\": {\"input\": \"task\", \"size\": 2, \"top_k\": 4}", "blend.json: gate: 3 parts of 2 tasks or features, top_k 4"},
        {"\"gate\": []", "gate: expected an object"},
        {"\"gate\": {\"input\": \"task\", \"size\": 3}", "gate.safetensors: tensor weight: found F32"},
        /* 4 TiB, were they made before the file is looked at */
        {"\"gate\": {\"input\": \"features\", \"size\": 16777216, \"hidden\": 65536}", "tensor hidden.0.weight: found none, expected F32"},
        {"\"gate\": {\"input\": \"task\", \"size\": 2}, \"mixre\": 1", "blend.json: found a field \"mixre\", expected one of format"},
    };
    setting s;
    open_setting(&s, COUNT);
    s.c.gate = cb_gate_new(COUNT, .input = CB_GATE_TASK, .size = 2);
    assert_ok(cb_composition_save(&s.c, scratch_path("gate"), "base"));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refuse_in("gate", s.model, cases[i][0], cases[i][1]);
    char *path = cb_path_join(scratch_path("gate"), "gate.safetensors");
    cb_tensor *weight = cb_zeros(CB_F32, 2, COUNT);
    const cb_named_tensor surplus[] = {{"weight", weight}, {"wieght", weight}};
    assert_ok(cb_named_write(path, surplus, 2));
    refuse_in("gate", s.model, "\"gate\": {\"input\": \"task\", \"size\": 2}",
              "tensor wieght has no place here (1 tensors expected, 2 found)");
    cb_free(path);
    close_setting(&s);
}

static void what_cannot_be_mixed_is_refused(void **state)
{
    (void)state;
    setting s;
    open_setting(&s, 1);
    refuse_directory(s.model, "\"mixer\": {\"form\": \"blender\"}", "mixer: form is blender, expected fusion or router");
    refuse_directory(s.model, "\"mixer\": {\"form\": \"router\"}", "router.weight: found none, expected");
    refuse_directory(s.model, "\"mixer\": {\"form\": \"fusion\", \"mix_temperature\": 0}", "mix_temperature");
    refuse_directory(s.model, "\"mixer\": {\"form\": \"fusion\"}, \"gate\": {}", "found a gate and a mixer");
    refuse_directory(s.model, "\"mixer\": {\"form\": \"fusion\", \"fusion_valeu\": false}", "mixer: found a field \"fusion_valeu\"");
    refuse_directory(s.model, "\"mixer\": {\"form\": \"router\", \"mix_top_k\": \"1\"}", "mix_top_k");
    refuse_directory(s.model, "\"mixer\": {\"form\": \"fusion\", \"fusion_value\": false}", "value.weight has no place here");
    s.adapters[1] = put(s.model, "oft", "turn", "{\"oft_block_size\": 4, \"target_modules\": [\"q_proj\"]}", 2);
    s.c.count = 2;
    s.weights[1] = 1;
    make_mixer(&s, CB_MIXER_FUSION, 0);
    assert_refused(!cb_composition_use(&s.c, s.model),
                   "blend: oft on layer model.layers.0.self_attn.q_proj is to be mixed, expected kinds");
    cb_trainee what;
    assert_refused(!cb_train_composition(&what, s.model, &s.c, 0), "composition: 0 of 2 adapters stay as they are");
    cb_mixer_free(s.c.mixer);
    s.c.mixer = NULL;
    assert_refused(!cb_train_composition(&what, s.model, &s.c, 2), "composition: there is nothing to train");
    s.c.gate = cb_gate_new(2, .input = CB_GATE_FEATURES, .size = 2);
    s.c.mixer = NULL;
    cb_adapter_free(s.adapters[1]);
    s.adapters[1] = put(s.model, "lora", "words", "{\"target_modules\": [\"embed_tokens\"]}", 2);
    assert_refused(!cb_mixer_new(CB_MIXER_ROUTER, s.adapters, 2, NULL, 0), "mixer: adapter words is on layer model.embed_tokens");
    close_setting(&s);
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
        cmocka_unit_test_setup(fusion_is_adapterhubs, without_errors),
        cmocka_unit_test_setup(gradients_are_those_of_differences, without_errors),
        cmocka_unit_test_setup(one_adapter_is_that_adapter, without_errors),
        cmocka_unit_test_setup(a_router_weighs, without_errors),
        cmocka_unit_test_setup(only_the_mix_is_trained, without_errors),
        cmocka_unit_test_setup(a_run_says_which_adapters_are_frozen, without_errors),
        cmocka_unit_test_setup(a_cache_changes_nothing, without_errors),
        cmocka_unit_test_setup(mixed_compositions_come_back, without_errors),
        cmocka_unit_test_setup(what_a_gate_does_not_know_is_refused, without_errors),
        cmocka_unit_test_setup(what_cannot_be_mixed_is_refused, without_errors),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
