/* test_lora.c: the variants of LoRA: DoRA, starts that are taken from the base, embeddings.  What PEFT computes: tests/oracle/peft_adapters.py;
 * the rest are closed forms. */
#include "adapter_fixtures.h"
#include "cambium/merge.h"
#include "cambium/optim.h"

/* ---- against PEFT ---- */

/* Their files are PEFT's own, over a base that PEFT changed. */
static const char *const unconverted[] = {"pissa", "pissa_gpt2", "pissa_dora", "olora", NULL};
static const char *const trained[] = {"tied_saved",
                                      "tokens_tied",
                                      "tokens_untied",
                                      "tokens_apart",
                                      "tokens_only",
                                      "tokens_only_tied",
                                      "tokens_only_gpt2",
                                      "lora_embedding",
                                      "lora_embedding_gpt2",
                                      "lora_untied_head",
                                      "lora_norms_saved",
                                      "dora_qv",
                                      "dora_biases",
                                      "dora_gpt2",
                                      "dora_embedding",
                                      "pissa",
                                      "pissa_gpt2",
                                      "pissa_dora",
                                      "olora",
                                      NULL};

/* Two f32 decompositions differ by rounding divided by the distance of the last singular value taken to the first one left, which is some
 * hundredths of them in random matrices of this size. */
#define SINGULAR_VECTORS 10

static bool is_unconverted(const char *name)
{
    for (int i = 0; unconverted[i]; i++)
        if (strcmp(name, unconverted[i]) == 0)
            return true;
    return false;
}

static void files_over_a_changed_base_are_read(void **state)
{
    (void)state;
    for (int i = 0; unconverted[i]; i++)
        check_adapter(unconverted[i], SINGULAR_VECTORS);
}

static void one_step(cb_model *model, const expected *e, cb_optimizer *optimizer, int step, const char *name)
{
    cb_scope *scope = cb_scope_open();
    cb_optimizer_zero_grad(optimizer);
    cb_tensor *ids = cb_cast(expected_tensor(e, "input_ids"), CB_I32), *targets = targets_of(expected_tensor(e, "labels"));
    cb_tensor *loss = cb_model_loss(model, ids, targets, 0, &(cb_context){.training = true});
    assert_ok(loss);
    double wanted = cb_get(expected_tensor(e, "losses"), step);
    double loose = is_unconverted(name) ? SINGULAR_VECTORS : 1;
    if (!(fabs(cb_item(loss) - wanted) < 2e-5 * loose * wanted)) /* f32 in another order, through up to two steps */
        fail_msg("%s: loss of step %d is %.7f, expected %.7f", name, step, cb_item(loss), wanted);
    assert_ok(cb_backward(loss) && cb_optimizer_step(optimizer, 0.01, 1));
    cb_scope_close(scope);
}

/* Adam divides by the gradient's size: where that is rounding, so is the direction.  Such elements move 0.03 at most. */
static void compare_after(const cb_named_tensor *p, const expected *e, const char *name)
{
    char key[256];
    snprintf(key, sizeof(key), "after.%s", p->name);
    const cb_weight_entry *entry = cb_safetensors_find(e->file, key);
    if (!entry)
        return;
    cb_tensor *wanted = entry_tensor(entry);
    int64_t far = 0;
    for (int64_t i = 0; i < wanted->count; i++)
        far += !(fabs(cb_get(p->tensor, i) - cb_get(wanted, i)) < 2e-4 * (is_unconverted(name) ? SINGULAR_VECTORS : 1));
    if (far > wanted->count / 50 || !(distance(p->tensor, wanted) <= 0.061))
        fail_msg("%s: after three steps %lld of %lld elements of %s are elsewhere", name, (long long)far, (long long)wanted->count,
                 p->name);
}

static void check_steps(const char *name)
{
    cb_model *model = load_base_of(name);
    cb_scope *scope = cb_scope_open();
    expected e = expected_open(name);
    cb_adapter *adapter = cb_adapter_load(reference_path(name), cb_model_root(model), cb_model_type(model));
    assert_ok(adapter);
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list);
    cb_tensor **tensors = calloc(count, sizeof(*tensors));
    for (size_t i = 0; i < count; i++)
        tensors[i] = list[i].tensor;
    cb_optimizer *optimizer = cb_adamw(count, tensors, .weight_decay = 0);
    for (int step = 0; step < 3; step++)
        one_step(model, &e, optimizer, step, name);
    for (size_t i = 0; i < count; i++)
        compare_after(&list[i], &e, name);
    cb_optimizer_zero_grad(optimizer);
    cb_optimizer_free(optimizer);
    free(tensors);
    cb_scope_close(scope);
    cb_safetensors_close(e.file);
    cb_adapter_free(adapter);
    cb_model_free(model);
}

static void three_steps_go_where_pefts_go(void **state)
{
    (void)state;
    for (int i = 0; trained[i]; i++)
        check_steps(trained[i]);
}

/* ---- variants ---- */

typedef struct variant {
    const char *model, *options;
} variant;

static const variant variants[] = {
    {"gpt2", "{\"r\": 4, \"lora_alpha\": 6, \"lora_bias\": true}"},
    {"llama2", "{\"r\": 4, \"use_rslora\": true}"},
    {"gpt2", "{\"r\": 4, \"use_dora\": true}"},
    {"qwen2", "{\"r\": 4, \"lora_alpha\": 6, \"use_dora\": true, \"use_rslora\": true}"},
    {"llama2", "{\"r\": 4, \"lora_alpha\": 6, \"init_lora_weights\": \"pissa\"}"},
    {"gpt2", "{\"r\": 4, \"init_lora_weights\": \"pissa_niter_8\", \"target_modules\": [\"c_fc\", \"wte\"]}"},
    {"llama3", "{\"r\": 4, \"lora_alpha\": 16, \"init_lora_weights\": \"olora\", \"use_rslora\": true}"},
    {"qwen2", "{\"r\": 4, \"init_lora_weights\": \"pissa\", \"use_dora\": true}"},
    {"llama2", "{\"r\": 4, \"init_lora_weights\": \"orthogonal\"}"},
    {"llama2", "{\"r\": 4, \"target_modules\": [\"embed_tokens\"]}"},
    {"gpt2", "{\"r\": 4, \"target_modules\": [\"wte\"], \"use_dora\": true}"},
    {"smollm", "{\"r\": 4, \"target_modules\": [\"lm_head\"], \"use_dora\": true}"},
    {"smollm", "{\"r\": 4, \"target_modules\": [\"lm_head\"], \"ensure_weight_tying\": true}"},
    {"smollm", "{\"r\": 4, \"target_modules\": [\"embed_tokens\", \"q_proj\"], \"ensure_weight_tying\": true, \"use_dora\": true}"},
    {"smollm", "{\"r\": 4, \"target_modules\": [\"lm_head\", \"q_proj\"], \"ensure_weight_tying\": true,"
               " \"init_lora_weights\": \"pissa\"}"},
    {"smollm", "{\"r\": 4, \"modules_to_save\": [\"lm_head\"], \"ensure_weight_tying\": true}"},
    {"smollm", "{\"r\": 4, \"trainable_token_indices\": [5, 40, 7]}"},
    {"llama2", "{\"r\": 4, \"trainable_token_indices\": {\"embed_tokens\": [5, 40], \"lm_head\": [60, 3, 4]}}"},
};
enum { VARIANTS = sizeof(variants) / sizeof(*variants) };

/* What is added and taken away again leaves rounding behind: 1e-5 of the largest logit. */
static void fresh_variants_change_nothing(void **state)
{
    (void)state;
    for (int i = 0; i < VARIANTS; i++) {
        cb_model *model = load_model(variants[i].model);
        cb_scope *scope = cb_scope_open();
        cb_tensor *before = logits_of(model, some_ids());
        cb_adapter *adapter = fresh(model, variants[i].options, 3);
        double d = distance(logits_of(model, some_ids()), before);
        if (!(d <= 1e-5 * largest(before)))
            fail_msg("%s: fresh, and changes logits by %g", variants[i].options, d);
        cb_adapter_free(adapter);
        assert_true(distance(logits_of(model, some_ids()), before) == 0);
        cb_scope_close(scope);
        cb_model_free(model);
    }
}

static cb_tensor *layer_output(const cb_layer *layer, cb_tensor *x)
{
    cb_context ctx = {0};
    return layer->kind == CB_LAYER_EMBEDDING ? cb_embedding_forward(layer, x, CB_F32, &ctx) : cb_linear_forward(layer, x, &ctx);
}

/* The layer's own product with another weight in the place of its own. */
static cb_tensor *product(const cb_layer *layer, cb_tensor *x, cb_tensor *weight, cb_tensor *bias)
{
    if (layer->kind == CB_LAYER_EMBEDDING)
        return cb_embedding(weight, x);
    return layer->transposed ? cb_linear_t(x, weight, bias) : cb_linear(x, weight, bias);
}

static void check_delta(const cb_module *m, const char *what)
{
    const cb_layer *layer = m->layer;
    cb_rng rng = {.seed = 9};
    int32_t ids[5] = {3, 40, 4, 1, 5};
    bool embedding = layer->kind == CB_LAYER_EMBEDDING;
    cb_tensor *x = embedding ? cb_from(CB_I32, ids, 5) : cb_randn(CB_F32, &rng, 5, layer->in_features), *y = NULL, *z = NULL;
    cb_no_grad
    {
        cb_tensor *weight = cb_cast(cb_layer_weight(layer, "weight"), CB_F32), *bias = cb_layer_weight(layer, "bias");
        cb_tensor *more = m->kind->delta_bias ? m->kind->delta_bias(m, bias) : NULL;
        y = layer_output(layer, x);
        z = product(layer, x, cb_add(weight, m->kind->delta(m, weight)), bias ? cb_cast(bias, CB_F32) : NULL);
        z = more ? cb_add(z, more) : z;
    }
    assert_close(y, z, what);
}

static void merged_is_unmerged(void **state)
{
    (void)state;
    for (int i = 0; i < 2 * VARIANTS; i++) {
        cb_model *model = load_model(variants[i / 2].model);
        cb_scope *scope = cb_scope_open();
        cb_adapter *adapter = fresh(model, variants[i / 2].options, 1);
        randomise(adapter, 3);
        cb_adapter_set_strength(adapter, i % 2 ? 0.75 : 1);
        cb_module *const *modules;
        size_t count = cb_adapter_modules(adapter, &modules);
        assert_true(count >= 1);
        for (size_t k = 0; k < count; k++)
            check_delta(modules[k], variants[i / 2].options);
        cb_scope_close(scope);
        cb_adapter_free(adapter);
        cb_model_free(model);
    }
}

/* Whatever is taken from the base, the file is an adapter for the base as it is. */
static void what_is_saved_computes_the_same(void **state)
{
    (void)state;
    for (int i = 0; i < VARIANTS; i++) {
        cb_model *model = load_model(variants[i].model);
        cb_scope *scope = cb_scope_open();
        cb_adapter *adapter = fresh(model, variants[i].options, 1);
        randomise(adapter, 3);
        cb_tensor *wanted = logits_of(model, some_ids());
        const char *out = scratch_path("variant");
        assert_ok(cb_adapter_save(adapter, out, NULL));
        cb_adapter_free(adapter);
        adapter = cb_adapter_load(out, cb_model_root(model), cb_model_type(model));
        assert_ok(adapter);
        assert_close(logits_of(model, some_ids()), wanted, variants[i].options);
        cb_adapter_free(adapter);
        cb_scope_close(scope);
        cb_model_free(model);
    }
}

static void check_merged_model(const char *name, const char *chosen)
{
    cb_model *model = load_model(name);
    cb_adapter *adapter = fresh(model, chosen, 1);
    randomise(adapter, 3);
    cb_merge_options options = {0};
    cb_difference d;
    char command[128];
    assert_ok(cb_options_init(cb_merge_option_table, &options));
    options.dtype = CB_MERGE_F32;
    assert_ok(cb_merge_fold(model, &adapter, 1, scratch_path("merged"), &options, &d));
    if (!(d.max_absolute <= 1e-4 * d.max_logit))
        fail_msg("%s: merged logits differ by %g of %g", chosen, d.max_absolute, d.max_logit);
    cb_adapter_free(adapter);
    cb_model_free(model);
    snprintf(command, sizeof(command), "rm -rf %s/merged", scratch);
    assert_int_equal(system(command), 0);
}

/* What follows an embedding is merged with it, or, where there is more on the head or it has lengths of its own, beside it. */
static void tied_heads_are_merged(void **state)
{
    (void)state;
    for (int i = 0; i < VARIANTS; i++)
        if (strcmp(variants[i].model, "smollm") == 0)
            check_merged_model("smollm", variants[i].options);
    check_merged_model("smollm", "{\"r\": 4, \"target_modules\": [\"lm_head\"], \"trainable_token_indices\": [5, 40, 7]}");
}

/* PEFT goes by names: GPT-2's wte is none that it ties by. */
static void what_stays_tied_is_named_as_in_peft(void **state)
{
    (void)state;
    static const char *const targets[] = {"\"wte\"", "\"lm_head\"", "\".*wte\"", "\".*lm_head\""};
    for (int i = 0; i < 4; i++) {
        char options[120];
        cb_module *const *modules;
        snprintf(options, sizeof(options), "{\"r\": 4, \"ensure_weight_tying\": true, \"target_modules\": %s%s%s}", i < 2 ? "[" : "",
                 targets[i], i < 2 ? "]" : "");
        cb_model *model = load_model("gpt2");
        cb_adapter *adapter = fresh(model, options, 1);
        assert_int_equal(cb_adapter_modules(adapter, &modules), i % 2 ? 2 : 1);
        cb_adapter_free(adapter);
        cb_model_free(model);
    }
}

static void what_cannot_stay_tied_is_refused(void **state)
{
    (void)state;
    cb_model *model = load_model("smollm");
    cb_adapter *adapter = cb_adapter_new("lora", NULL);
    assert_ok(cb_adapter_set_json(adapter, "options",
                                  "{\"r\": 4, \"ensure_weight_tying\": true,"
                                  " \"trainable_token_indices\": {\"embed_tokens\": [5, 6], \"lm_head\": [7]}}"));
    assert_refused(!cb_adapter_attach(adapter, cb_model_root(model), "llama", 1), "trainable_token_indices: layer lm_head gets other rows");
    cb_adapter_free(adapter);
    static const char *const saved[] = {"embed_tokens", "lm_head"};
    for (int i = 0; i < 2; i++) {
        char options[200];
        snprintf(options, sizeof(options),
                 "{\"r\": 4, \"ensure_weight_tying\": true, \"target_modules\": [\"lm_head\", \"q_proj\"], \"modules_to_save\": [\"%s\"]}",
                 saved[i]);
        adapter = cb_adapter_new("lora", NULL);
        assert_ok(cb_adapter_set_json(adapter, "options", options));
        assert_refused(
            !cb_adapter_attach(adapter, cb_model_root(model), "llama", 1),
            "ensure_weight_tying: found layer lm_head or model.embed_tokens, tied to it, in target_modules and in modules_to_save");
        cb_adapter_free(adapter);
    }
    cb_model_free(model);
}

/* ---- how they start ---- */

/* The sum of squares of singular values from `first` on */
static double tail_energy(cb_tensor *weight, int64_t first)
{
    cb_tensor *u, *s, *vt;
    assert_ok(cb_svd(cb_cast(weight, CB_F64), &u, &s, &vt));
    double sum = 0;
    for (int64_t i = first; i < s->count; i++)
        sum += cb_get(s, i) * cb_get(s, i);
    return sum;
}

static cb_tensor *rest_of_weight(const cb_adapter *adapter, const cb_module *m, const char *a, const char *b, double scale)
{
    cb_tensor *weight = cb_cast(cb_layer_weight(m->layer, "weight"), CB_F32);
    cb_tensor *ba = cb_matmul(cb_detach(parameter(adapter, b)), cb_detach(parameter(adapter, a)));
    return cb_sub(m->layer->transposed ? cb_transpose(weight, 0, 1) : weight, cb_scale(ba, scale));
}

/* Eckart and Young: nothing of rank r is nearer to W than its first r singular triples, and what is left are the others'. */
static void pissa_takes_the_first_singular_triples(void **state)
{
    (void)state;
    static const char *const names[] = {"pissa", "pissa_niter_200"};
    for (int i = 0; i < 4; i++) {
        char options[256];
        snprintf(options, sizeof(options), "{\"r\": 4, \"lora_alpha\": 6, \"target_modules\": [\"%s\"], \"init_lora_weights\": \"%s\"}",
                 i < 2 ? "q_proj" : "c_fc", names[i % 2]);
        cb_model *model = load_model(i < 2 ? "llama2" : "gpt2");
        cb_scope *scope = cb_scope_open();
        cb_adapter *adapter = fresh(model, options, 1);
        cb_module *const *modules;
        cb_adapter_modules(adapter, &modules);
        const cb_named_tensor *list;
        cb_adapter_parameters(adapter, &list); /* A and B of the first layer come first */
        cb_tensor *rest = rest_of_weight(adapter, modules[0], list[0].name, list[1].name, 1.5);
        double left = 0, wanted = tail_energy(cb_layer_weight(modules[0]->layer, "weight"), 4);
        for (int64_t k = 0; k < rest->count; k++)
            left += cb_get(rest, k) * cb_get(rest, k);
        if (!(fabs(left / wanted - 1) < 1e-5)) /* sums of f32 squares */
            fail_msg("%s: %.8g is left of the weight, expected %.8g", options, left, wanted);
        cb_scope_close(scope);
        cb_adapter_free(adapter);
        cb_model_free(model);
    }
}

static double gram_error(cb_tensor *x, bool columns)
{
    cb_tensor *t = cb_transpose(x, 0, 1), *gram = columns ? cb_matmul(t, x) : cb_matmul(x, t);
    double most = 0;
    for (int64_t i = 0; i < gram->count; i++)
        most = fmax(most, fabs(cb_get(gram, i) - (i / gram->shape[1] == i % gram->shape[1])));
    return most;
}

static void olora_and_orthogonal_starts_are_orthogonal(void **state)
{
    (void)state;
    cb_model *model = load_model("llama2");
    cb_scope *scope = cb_scope_open();
    cb_adapter *adapter = fresh(model, "{\"r\": 4, \"target_modules\": [\"up_proj\"], \"init_lora_weights\": \"olora\"}", 1);
    cb_tensor *a = cb_detach(parameter(adapter, "layers.0.mlp.up_proj.lora_A.weight")), *weight = NULL;
    cb_tensor *b = cb_detach(parameter(adapter, "layers.0.mlp.up_proj.lora_B.weight"));
    weight = cb_layer_weight(cb_layer_find(cb_model_root(model), "model.layers.0.mlp.up_proj"), "weight");
    assert_true(gram_error(b, true) < 1e-5);                                                /* columns of Q */
    assert_true(distance(a, cb_matmul(cb_transpose(b, 0, 1), weight)) < 1e-5 * largest(a)); /* R = Q^T W */
    cb_adapter_free(adapter);
    adapter = fresh(model, "{\"r\": 8, \"target_modules\": [\"up_proj\"], \"init_lora_weights\": \"orthogonal\"}", 1);
    a = cb_detach(parameter(adapter, "layers.0.mlp.up_proj.lora_A.weight"));
    b = cb_detach(parameter(adapter, "layers.0.mlp.up_proj.lora_B.weight"));
    assert_true(largest(a) > 0.05 && largest(b) > 0.05 && largest(cb_matmul(b, a)) < 1e-6);
    cb_adapter_free(adapter);
    cb_adapter *odd = cb_adapter_new("lora", NULL);
    assert_ok(cb_adapter_set(odd, "rank", "5") && cb_adapter_set(odd, "init-lora-weights", "orthogonal"));
    assert_refused(!cb_adapter_attach(odd, cb_model_root(model), "llama", 0), "an even one");
    assert_ok(cb_adapter_set(odd, "init-lora-weights", "pisa"));
    assert_refused(!cb_adapter_attach(odd, cb_model_root(model), "llama", 0), "pissa_niter_N");
    cb_adapter_free(odd);
    cb_scope_close(scope);
    cb_model_free(model);
}

/* A fresh m are the lengths of W's rows, and PEFT writes it without ".weight". */
static void fresh_magnitudes_are_row_lengths(void **state)
{
    (void)state;
    cb_model *model = load_model("gpt2");
    cb_scope *scope = cb_scope_open();
    cb_adapter *adapter = fresh(model, "{\"r\": 4, \"use_dora\": true, \"target_modules\": [\"c_fc\"]}", 1);
    cb_tensor *m = parameter(adapter, "h.0.mlp.c_fc.lora_magnitude_vector");
    cb_tensor *weight = cb_layer_weight(cb_layer_find(cb_model_root(model), "transformer.h.0.mlp.c_fc"), "weight");
    cb_tensor *lengths = cb_sqrt(cb_sum(cb_square(cb_cast(weight, CB_F64)), 0, false)); /* stored (in, out) */
    assert_true(distance(m, lengths) < 1e-6 * largest(m));
    cb_adapter_free(adapter);
    cb_scope_close(scope);
    cb_model_free(model);
}

/* PEFT: y + (g - 1) W x' + g s B A x', with x' after dropout and g = m / |W + s B A|. */
static void dropout_in_dora_is_pefts(void **state)
{
    (void)state;
    cb_model *model = load_model("qwen2"); /* q_proj has a bias */
    cb_scope *scope = cb_scope_open();
    cb_adapter *adapter = fresh(model, "{\"r\": 4, \"use_dora\": true, \"target_modules\": [\"q_proj\"], \"lora_dropout\": 0.3}", 1);
    randomise(adapter, 3);
    cb_module *const *modules;
    cb_adapter_modules(adapter, &modules);
    cb_layer *layer = modules[0]->layer;
    cb_rng rng = {.seed = 9}, same = {.seed = 5}, again = {.seed = 5};
    cb_no_grad
    {
        cb_tensor *x = cb_randn(CB_F32, &rng, 7, layer->in_features), *weight = cb_layer_weight(layer, "weight");
        cb_tensor *y = cb_linear_forward(layer, x, &(cb_context){.training = true, .rng = &same});
        cb_tensor *ba =
            cb_matmul(parameter(adapter, "layers.0.self_attn.q_proj.lora_B"), parameter(adapter, "layers.0.self_attn.q_proj.lora_A"));
        ba = cb_scale(ba, 8. / 4);
        cb_tensor *gain = cb_div(parameter(adapter, "layers.0.self_attn.q_proj.lora_magnitude_vector"),
                                 cb_sqrt(cb_sum(cb_square(cb_add(weight, ba)), 1, false)));
        cb_tensor *dropped = cb_dropout(x, 0.3, &again);
        cb_tensor *wanted = cb_linear(x, weight, cb_layer_weight(layer, "bias"));
        wanted = cb_add(wanted, cb_mul(cb_linear(dropped, weight, NULL), cb_add_scalar(gain, -1)));
        wanted = cb_add(wanted, cb_mul(cb_linear(dropped, ba, NULL), gain));
        assert_close(y, wanted, "dora with dropout");
    }
    cb_adapter_free(adapter);
    cb_scope_close(scope);
    cb_model_free(model);
}

int main(void)
{
    if (!mkdtemp(scratch))
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_over_a_changed_base_are_read),     cmocka_unit_test(three_steps_go_where_pefts_go),
        cmocka_unit_test(fresh_variants_change_nothing),          cmocka_unit_test(merged_is_unmerged),
        cmocka_unit_test(what_is_saved_computes_the_same),        cmocka_unit_test(tied_heads_are_merged),
        cmocka_unit_test(what_stays_tied_is_named_as_in_peft),    cmocka_unit_test(what_cannot_stay_tied_is_refused),
        cmocka_unit_test(pissa_takes_the_first_singular_triples), cmocka_unit_test(olora_and_orthogonal_starts_are_orthogonal),
        cmocka_unit_test(fresh_magnitudes_are_row_lengths),       cmocka_unit_test(dropout_in_dora_is_pefts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
