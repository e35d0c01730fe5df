/* test_kinds.c: what holds for every adapter kind, on a small network: fresh modules change nothing, gradients are those of finite
 * differences, merged weights give the adapter's results, files come back, strength, dropout, and bases of other forms.  A kind that is not
 * in the table of cases fails. */
#include "adapter_fixtures.h"
#include "cambium/merge.h"

typedef struct kind_case {
    const char *kind, *layers, *options; /* options: a JSON object */
    double start;                        /* what a fresh module may change, as a share of the largest value; -1: it does change it */
} kind_case;

/* Rotations are products that are one in exact arithmetic only. */
#define ROUNDING 2e-6

static const kind_case cases[] = {
    {"lora", "a,b", "{\"r\": 3, \"lora_alpha\": 5}", 0},
    {"lora", "a,conv", "{\"r\": 4, \"lora_bias\": true}", 0},
    {"ia3", "a,b,conv", "{\"feedforward_modules\": [\"b\"]}", 0},
    {"trainable_tokens", "table", "{\"token_indices\": [1, 3, 6]}", 0},
    {"loha", "a,b,conv", "{\"r\": 2, \"alpha\": 3}", 0},
    {"loha", "a,b,conv", "{\"r\": 7, \"alpha\": 9, \"use_effective_conv2d\": true}", 0},
    {"lokr", "a,b,conv", "{\"r\": 1, \"alpha\": 2, \"decompose_both\": true}", 0},
    {"lokr", "a,b,conv", "{\"r\": 9, \"alpha\": 9, \"init_weights\": \"lycoris\", \"decompose_factor\": 3}", 0},
    {"lokr", "a,b,conv", "{\"r\": 2, \"alpha\": 2, \"use_effective_conv2d\": true}", 0},
    {"vera", "a,b", "{\"r\": 5}", 0},
    {"vera", "a,b", "{\"r\": 3, \"save_projection\": false, \"init_weights\": false, \"bias\": \"vera_only\"}", -1},
    {"fourierft", "a,b", "{\"n_frequency\": 40, \"scaling\": 30, \"init_weights\": true}", 0},
    {"fourierft", "a,b", "{\"n_frequency\": 4, \"scaling\": 60, \"n_frequency_pattern\": {\"b\": 90}}", -1},
    {"hra", "a,b,conv", "{\"r\": 4}", ROUNDING},
    {"hra", "a,b,conv", "{\"r\": 3, \"apply_GS\": true}", -1},
    {"ln_tuning", "norm", "{}", 0},
    {"bitfit", "norm,a,conv", "{}", 0},
    {"beft", "a,b", "{}", 0},
    {"shira", "a,b", "{\"r\": 3}", 0},
    {"shira", "a,b", "{\"r\": 2, \"random_seed\": 5, \"init_weights\": false}", -1},
    {"hira", "table,a,b,conv", "{\"r\": 3}", 0},
    {"hira", "a,b", "{\"r\": 2, \"init_weights\": \"gaussian\"}", 0},
    {"miss", "a,b", "{\"r\": 7}", 0},
    {"miss", "a,b", "{\"r\": 6, \"init_weights\": \"bat\"}", 0},
    {"miss", "a,b", "{\"r\": 5, \"init_weights\": \"mini\", \"mini_r\": 4}", 0},
    {"c3a", "a,b", "{\"block_size\": 6, \"init_weights\": true}", 0},
    {"c3a", "a,b", "{\"block_size\": 12, \"block_size_pattern\": {\"b\": 4}, \"init_weights\": \"gaussian\"}", -1},
    {"road", "a,b", "{\"group_size\": 4}", 0},
    {"road", "a,b", "{\"group_size\": 6, \"variant\": \"road_2\"}", 0},
    {"road", "a,b", "{\"group_size\": 12, \"variant\": \"road_4\", \"init_weights\": false}", -1},
    {"oft", "a,b,conv,table", "{\"oft_block_size\": 6}", 0},
    {"oft", "a,b", "{\"oft_block_size\": 0, \"r\": 4, \"use_cayley_neumann\": false, \"init_weights\": false}", -1},
    {"oft", "a,conv", "{\"oft_block_size\": 12, \"block_share\": true, \"num_cayley_neumann_terms\": 8}", 0},
    {"oft", "a,b", "{\"oft_block_size\": 4, \"coft\": true, \"eps\": 9}", 0},
    {"boft", "a,b,conv", "{}", 0},
    {"boft", "a", "{\"boft_block_size\": 2, \"boft_n_butterfly_factor\": 3, \"init_weights\": false}", -1},
    {"boft", "b,conv", "{\"boft_block_size\": 0, \"boft_block_num\": 6, \"boft_n_butterfly_factor\": 2}", 0},
    {"randlora", "a,b", "{\"r\": 5, \"randlora_alpha\": 40}", 0},
    {"randlora", "a,b", "{\"r\": 7, \"save_projection\": false, \"sparse\": true, \"init_weights\": false, \"randlora_alpha\": 1}", -1},
    {"randlora", "a,b", "{\"r\": 24, \"randlora_alpha\": 60, \"very_sparse\": true}", 0},
    {"vblora", "a,b", "{\"r\": 3, \"num_vectors\": 20, \"vector_length\": 6, \"init_vector_bank_bound\": 1, \"init_logits_std\": 3}", -1},
    {"vblora", "a,b",
     "{\"r\": 2, \"num_vectors\": 300, \"vector_length\": 4, \"topk\": 3, \"save_only_topk_weights\": true, \"init_logits_std\": 2,"
     " \"init_vector_bank_bound\": 1}",
     -1},
    {"bottleneck", "mlp", "{\"reduction_factor\": 5, \"init_weights\": \"mam_adapter\", \"non_linearity\": \"tanh\"}", 0},
    {"bottleneck", "mlp,attention",
     "{\"reduction_factor\": 5, \"original_ln_before\": false, \"ln_before\": true, \"use_gating\": true, \"scaling\": \"channel\","
     " \"non_linearity\": \"swish\", \"reduction_factor_pattern\": {\"0\": 3}}",
     -1},
    {"bottleneck", "mlp",
     "{\"is_parallel\": true, \"reduction_factor\": 3, \"scaling\": 4.0, \"init_weights\": \"mam_adapter\", \"non_linearity\": \"gelu\"}",
     0},
    {"bottleneck", "mlp",
     "{\"original_ln_after\": false, \"residual_before_ln\": false, \"scaling\": 3, \"init_weights\": \"houlsby\","
     " \"non_linearity\": \"gelu_new\", \"ln_after\": true}",
     -1},
    {"bottleneck", "mlp",
     "{\"residual_before_ln\": false, \"adapter_residual_before_ln\": true, \"ln_after\": true, \"non_linearity\": \"sigmoid\"}", -1},
    {"bottleneck", "a,b", "{\"bottleneck_size\": 5, \"non_linearity\": \"tanh\", \"init_weights\": \"mam_adapter\"}", 0},
    {"bottleneck", "a,b",
     "{\"bottleneck_size\": 5, \"non_linearity\": \"tanh\", \"init_weights\": \"mam_adapter\", \"use_parallel_adapter\": true,"
     " \"scaling\": \"learned\"}",
     0},
    {"bottleneck", "mlp,attention",
     "{\"reduction_factor\": 3, \"phm_layer\": true, \"phm_init_range\": 0.5, \"init_weights\": \"mam_adapter\", \"non_linearity\": "
     "\"tanh\"}",
     0},
    {"bottleneck", "mlp",
     "{\"reduction_factor\": 3, \"phm_layer\": true, \"phm_dim\": 2, \"shared_phm_rule\": false, \"factorized_phm_rule\": true,"
     " \"factorized_phm_W\": false, \"phm_c_init\": \"uniform\", \"init_weights\": \"mam_adapter\", \"phm_bias\": false,"
     " \"non_linearity\": \"tanh\", \"scaling\": 30}",
     0},
    {"bottleneck", "mlp,attention",
     "{\"reduction_factor\": 3, \"phm_layer\": true, \"phm_rank\": 2, \"shared_W_phm\": true, \"learn_phm\": false, \"phm_c_init\": "
     "\"uniform\","
     " \"hypercomplex_nonlinearity\": \"normal\", \"phm_init_range\": 0.5, \"non_linearity\": \"tanh\"}",
     -1},
    {"bottleneck", "block,mlp", "{\"inv_adapter\": \"nice\", \"non_linearity\": \"tanh\"}", -1},
    {"bottleneck", "block,mlp", "{\"inv_adapter\": \"glow\", \"inv_adapter_reduction_factor\": 3, \"non_linearity\": \"gelu\"}", -1},
    {"reft", "block", "{\"r\": 3, \"suffix_positions\": 2, \"dropout\": 0}", -1},
    {"reft", "block",
     "{\"r\": 2, \"orthogonality\": false, \"tied_weights\": true, \"suffix_positions\": 3, \"dropout\": 0, \"non_linearity\": \"tanh\"}",
     -1},
    {"reft", "block", "{\"r\": 2, \"subtract_projection\": false, \"orthogonality\": false, \"dropout\": 0, \"prefix_positions\": 2}", -1},
    {"hydra", "a,b", "{\"r\": 3, \"sequential_rank\": 2}", 0},
    {"hydra", "a,b", "{\"r\": 0, \"sequential_rank\": 4, \"scale\": 2}", 0},
    {"lora_xs", "a,b", "{\"r\": 4, \"lora_alpha\": 5, \"init_deviation\": 0}", 0},
    {"orthogonal_adaptation", "a,b", "{\"r\": 5}", 0},
    {"orthogonal_adaptation", "a,b", "{\"r\": 4, \"basis\": \"gaussian\", \"scale\": 2}", 0},
    {"pego", "a,b", "{\"r\": 2, \"members\": 3}", 0},
    {"codyra", "a,b", "{\"r\": 5}", 0},
    {"dylora", "a,b", "{\"r\": 4, \"min_rank\": 4, \"rule\": \"full\", \"lora_alpha\": 6}", 0},
    {"lt_sft", "a,b", "{}", 0},
    {"lt_sft", "a,b", "{\"counts\": {\"a\": 40, \"b\": 7}}", 0},
    {"delora", "a,b", "{\"r\": 3, \"delora_lambda\": 3, \"lambda_pattern\": {\"b\": 5}}", 0},
    {"poly", "a,b", "{\"r\": 3, \"n_tasks\": 2}", 0},
    {"poly", "a,b", "{\"r\": 2, \"n_skills\": 3, \"n_splits\": 4, \"init_weights\": false}", -1},
    {"adalora", "a,b,conv", "{\"init_r\": 4, \"target_r\": 2, \"total_step\": 10}", 0},
    {"adalora", "a,b",
     "{\"init_r\": 3, \"target_r\": 2, \"lora_alpha\": 0.2, \"init_lora_weights\": false, \"rank_pattern\": {\"a.lora_E\": [true, false, "
     "true]}}",
     -1},
};
enum { CASES = sizeof cases / sizeof *cases };

/* ---- the network ---- */

/* table (7 rows, 24) -> norm -> a (24 to 36) -> tanh -> b (36 to 24) -> conv (4 channels to 6).  Around them, with no arithmetic of their own:
 * `attention` and `mlp` add what follows the norm, as a transformer's do, to a stream that the test leaves out; `block` is around it all. */
enum { ROWS = 10, TOKENS = 7, WIDTH = 24, INNER = 36 };

typedef struct net {
    cb_layer *root, *table, *block, *attention, *mlp, *norm, *a, *b, *conv;
    cb_dtype dtype; /* of activations */
} net;

typedef struct net_form {
    cb_dtype dtype;  /* of weights and activations */
    bool transposed; /* a and b are stored (in, out) */
    bool quantized;  /* a and b are int8 rows */
    bool rounded;    /* ... or what those stand for, in f32 */
} net_form;

static void add_weight(cb_layer *layer, const char *name, cb_dtype dtype, double mean, double deviation, int ndim, const int64_t *shape)
{
    cb_rng rng = {.seed = 5, .stream = cb_hash_text(CB_HASH_START, layer->name) + (uint64_t)name[0]};
    cb_tensor *values = cb_add_scalar(cb_scale(cb_randn_nd(CB_F32, &rng, ndim, shape), deviation), mean);
    assert_ok(cb_layer_add_weight(layer, name, cb_contiguous(cb_cast(values, dtype))));
}

static cb_layer *add_linear(net *n, const char *name, int64_t in, int64_t out, net_form form)
{
    cb_layer *layer = cb_layer_new(n->root, name, CB_LAYER_LINEAR);
    layer->in_features = in;
    layer->out_features = out;
    layer->transposed = form.transposed;
    cb_rng rng = {.seed = 5, .stream = (uint64_t)name[0]};
    cb_tensor *w = cb_scale(cb_randn(CB_F32, &rng, out, in), 0.3);
    if (form.quantized || form.rounded)
        w = cb_quantize(w, CB_INT8, 0);
    if (!form.quantized)
        w = cb_cast(w, form.dtype);
    if (form.transposed)
        w = cb_contiguous(cb_transpose(w, 0, 1));
    assert_ok(cb_layer_add_weight(layer, "weight", w));
    add_weight(layer, "bias", form.dtype, 0, 0.2, CB_SHAPE(out));
    return layer;
}

static cb_layer *add_host(net *n, const char *name, cb_layer_kind kind)
{
    cb_layer *layer = cb_layer_new(n->root, name, kind);
    layer->in_features = layer->out_features = WIDTH;
    return layer;
}

static net make_net(net_form form)
{
    cb_scope *scope = cb_scope_open();
    net n = {.root = cb_layer_new(NULL, "", CB_LAYER_GROUP), .dtype = form.dtype};
    n.table = cb_layer_new(n.root, "table", CB_LAYER_EMBEDDING);
    n.table->in_features = TOKENS;
    n.table->out_features = WIDTH;
    add_weight(n.table, "weight", form.dtype, 0, 1, CB_SHAPE(TOKENS, WIDTH));
    n.norm = cb_layer_new(n.root, "norm", CB_LAYER_NORM);
    n.norm->in_features = n.norm->out_features = WIDTH;
    n.norm->eps = 1e-5;
    add_weight(n.norm, "weight", form.dtype, 1, 0.2, CB_SHAPE(WIDTH));
    add_weight(n.norm, "bias", form.dtype, 0, 0.2, CB_SHAPE(WIDTH));
    n.block = add_host(&n, "block", CB_LAYER_BLOCK);
    n.attention = add_host(&n, "attention", CB_LAYER_ATTENTION);
    n.mlp = add_host(&n, "mlp", CB_LAYER_MLP);
    n.a = add_linear(&n, "a", WIDTH, INNER, form);
    n.b = add_linear(&n, "b", INNER, WIDTH, form);
    n.conv = cb_layer_new(n.root, "conv", CB_LAYER_CONV);
    n.conv->in_features = 4;
    n.conv->out_features = 6;
    n.conv->conv = (cb_conv2d_options){.stride = {2, 1}, .padding = {1, 1}};
    add_weight(n.conv, "weight", form.dtype, 0, 0.3, CB_SHAPE(6, 4, 3, 3));
    add_weight(n.conv, "bias", form.dtype, 0, 0.2, CB_SHAPE(6));
    assert_ok(cb_ok());
    cb_scope_close(scope);
    return n;
}

/* From the embedding's result (B, T, WIDTH) to that of b, with all that is around */
static cb_tensor *through(const net *n, cb_tensor *x, const cb_context *ctx)
{
    cb_tensor *stream = cb_layer_before(n->block, x, ctx);
    cb_context inside = *ctx;
    inside.residual = stream;
    cb_tensor *normed = cb_layer_norm_forward(n->norm, stream, ctx);
    cb_tensor *y = cb_linear_forward(n->b, cb_tanh(cb_linear_forward(n->a, normed, ctx)), ctx);
    y = cb_layer_after(n->attention, normed, y, &inside);
    y = cb_layer_after(n->mlp, normed, y, &inside);
    return cb_layer_after(n->block, stream, y, ctx);
}

/* x: what is added behind the embedding, (ROWS, WIDTH); NULL: nothing */
static cb_tensor *run(const net *n, cb_tensor *x, const cb_context *ctx)
{
    const int32_t ids[ROWS] = {0, 1, 2, 3, 4, 5, 6, 3, 1, 3};
    cb_tensor *y = cb_embedding_forward(n->table, cb_from(CB_I32, ids, ROWS), n->dtype, ctx);
    y = through(n, cb_reshape(x ? cb_add(y, x) : y, 2, ROWS / 2, WIDTH), ctx);
    y = cb_conv2d_forward(n->conv, cb_reshape(y, 2, 4, 5, 6), ctx);
    assert_ok(y);
    return y;
}

static cb_tensor *result(const net *n)
{
    cb_tensor *y = NULL;
    cb_no_grad y = cb_cast(run(n, NULL, &(cb_context){0}), CB_F32);
    return y;
}

static cb_adapter *put_on(const net *n, const kind_case *c, uint64_t seed)
{
    cb_adapter *adapter = cb_adapter_new(c->kind, NULL);
    assert_ok(adapter && cb_adapter_set_json(adapter, c->kind, c->options) && cb_adapter_set(adapter, "target_modules", c->layers));
    assert_ok(cb_adapter_attach(adapter, n->root, NULL, seed));
    return adapter;
}

/* One that does something: every parameter is another than a fresh one's. */
static cb_adapter *put_random_on(const net *n, const kind_case *c)
{
    cb_adapter *adapter = put_on(n, c, 3);
    randomise(adapter, 4);
    return adapter;
}

static void copy_parameters(const cb_adapter *to, const cb_adapter *from)
{
    const cb_named_tensor *a, *b;
    size_t count = cb_adapter_parameters(to, &a);
    assert_int_equal(cb_adapter_parameters(from, &b), count);
    for (size_t i = 0; i < count; i++) {
        assert_string_equal(a[i].name, b[i].name);
        assert_ok(cb_copy_into(a[i].tensor, b[i].tensor));
    }
}

/* ---- for every case ---- */

typedef void check_case(const kind_case *c, const net *n);

static void for_all(net_form form, check_case *check)
{
    for (int i = 0; i < CASES; i++) {
        cb_scope *scope = cb_scope_open();
        net n = make_net(form);
        check(&cases[i], &n);
        cb_layer_free(n.root);
        cb_scope_close(scope);
    }
}

static const net_form plain = {.dtype = CB_F32};

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
            if (!last && strcmp(c->kind, "boft") == 0) {
                assert_refused(!fold, "lora after boft cannot be merged");
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

/* ---- other bases ---- */

/* The same module on the same weight stored the other way. */
static void transposed_layers_are_the_same(void **state)
{
    (void)state;
    for (int i = 0; i < CASES; i++) {
        cb_scope *scope = cb_scope_open();
        net n = make_net(plain), turned = make_net((net_form){.dtype = CB_F32, .transposed = true});
        cb_adapter *adapter = put_random_on(&n, &cases[i]), *other = put_on(&turned, &cases[i], 3);
        copy_parameters(other, adapter);
        assert_within(result(&turned), result(&n), 1e-5, cases[i].kind);
        cb_adapter_free(adapter);
        cb_adapter_free(other);
        cb_layer_free(n.root);
        cb_layer_free(turned.root);
        cb_scope_close(scope);
    }
}

/* Over int8 weights a module does what it does over the numbers they stand for. */
static void quantised_layers_are_what_they_stand_for(void **state)
{
    (void)state;
    for (int i = 0; i < CASES; i++) {
        cb_scope *scope = cb_scope_open();
        net n = make_net((net_form){.dtype = CB_F32, .rounded = true}), codes = make_net((net_form){.dtype = CB_F32, .quantized = true});
        cb_adapter *adapter = put_random_on(&n, &cases[i]), *other = put_on(&codes, &cases[i], 3);
        copy_parameters(other, adapter);
        assert_within(result(&codes), result(&n), 1e-5, cases[i].kind);
        assert_ok(cb_backward(cb_sum(run(&codes, NULL, &(cb_context){.training = true}), CB_ALL, false)));
        cb_adapter_free(adapter);
        cb_adapter_free(other);
        cb_layer_free(n.root);
        cb_layer_free(codes.root);
        cb_scope_close(scope);
    }
}

static double difference_of_means(const cb_tensor *a, const cb_tensor *b)
{
    double sum = 0;
    for (int64_t i = 0; i < a->count; i++)
        sum += fabs(cb_get(a, i) - cb_get(b, i)) / (double)a->count;
    return sum;
}

/* A pass in bf16 is as near to that in f32 with an adapter as without, but for the roundings that the adapter's own steps add. */
static void bf16_passes_are_near(void **state)
{
    (void)state;
    for (int i = 0; i < CASES; i++) {
        cb_scope *scope = cb_scope_open();
        net n = make_net(plain), half = make_net((net_form){.dtype = CB_BF16});
        double without = difference_of_means(result(&half), result(&n));
        cb_adapter *adapter = put_random_on(&n, &cases[i]), *other = put_on(&half, &cases[i], 3);
        copy_parameters(other, adapter);
        double with = difference_of_means(result(&half), result(&n));
        if (!(with < 4 * without))
            fail_msg("%s %s: bf16 differs by %g with it, %g without", cases[i].kind, cases[i].options, with, without);
        assert_ok(cb_backward(cb_sum(cb_cast(run(&half, NULL, &(cb_context){.training = true}), CB_F32), CB_ALL, false)));
        const cb_named_tensor *list;
        size_t count = cb_adapter_parameters(other, &list);
        for (size_t k = 0; k < count; k++)
            assert_true(list[k].tensor->dtype == CB_F32 && list[k].tensor->grad && largest(list[k].tensor->grad) > 0 &&
                        isfinite(largest(list[k].tensor->grad)));
        cb_adapter_free(adapter);
        cb_adapter_free(other);
        cb_layer_free(n.root);
        cb_layer_free(half.root);
        cb_scope_close(scope);
    }
}

/* ---- dropout ---- */

static cb_tensor *trained_result(const net *n, uint64_t seed)
{
    cb_rng rng = {.seed = seed};
    cb_tensor *y = NULL;
    cb_no_grad y = run(n, NULL, &(cb_context){.training = true, .rng = &rng});
    return y;
}

/* Every option that is a dropout acts in training, by the generator of the pass, and only there. */
static void check_dropout(const kind_case *c, const net *n)
{
    const cb_adapter_kind *kind = cb_adapter_kind_find(c->kind);
    for (const cb_option *o = kind->options; o->type != CB_OPTION_END; o++) {
        if (o->type != CB_OPTION_FLOAT || !cb_ends_with(o->name, "dropout"))
            continue;
        cb_adapter *without = put_random_on(n, c);
        cb_tensor *wanted = result(n);
        cb_adapter_detach(without);
        cb_adapter *adapter = cb_adapter_new(c->kind, NULL);
        assert_ok(cb_adapter_set_json(adapter, c->kind, c->options) && cb_adapter_set(adapter, "target_modules", c->layers));
        assert_ok(cb_adapter_set(adapter, o->name, "0.5") && cb_adapter_attach(adapter, n->root, NULL, 3));
        randomise(adapter, 4);
        assert_true(distance(result(n), wanted) == 0);
        assert_true(distance(trained_result(n, 1), trained_result(n, 1)) == 0);
        bool differs = false;
        for (uint64_t seed = 2; !differs && seed < 40; seed++)
            differs = distance(trained_result(n, 1), trained_result(n, seed)) > 1e-3;
        if (!differs)
            fail_msg("%s: %s does nothing", c->kind, o->name);
        cb_adapter_free(adapter);
        cb_adapter_free(without);
    }
}

static void dropout_acts_while_training_only(void **state)
{
    (void)state;
    for_all(plain, check_dropout);
}

/* ---- in a blend ---- */

enum { BATCH = 5, LENGTH = 5, ADAPTERS = 3 };

static const int32_t batch_ids[BATCH][LENGTH] = {{0, 1, 2, 3, 4}, {5, 6, 3, 1, 3}, {2, 2, 6, 0, 5}, {4, 1, 1, 3, 6}, {6, 5, 4, 3, 2}};

/* Rows first.. of the batch: ids (rows, LENGTH) through the network; tokens stay apart without the convolution. */
static cb_tensor *run_rows(const net *n, int first, int rows, bool convolve, const cb_context *ctx)
{
    cb_context placed = *ctx; /* as in a model, tokens know their places */
    placed.positions = cb_contiguous(cb_repeat(cb_reshape(cb_cast(cb_arange(CB_F32, 0, 1, LENGTH), CB_I32), 1, LENGTH), rows, 1));
    cb_tensor *y = through(n, cb_embedding_forward(n->table, cb_from(CB_I32, batch_ids[first], rows, LENGTH), n->dtype, ctx), &placed);
    y = convolve ? cb_conv2d_forward(n->conv, cb_reshape(y, rows, 4, 5, 6), ctx) : y;
    assert_ok(y);
    return y;
}

/* Two of the case's kind, then a LoRA; all off. */
static void put_three_on(const net *n, const kind_case *c, cb_adapter **adapters)
{
    const kind_case lora = {"lora", "a,b", "{\"r\": 2}", 0};
    for (int i = 0; i < ADAPTERS; i++) {
        adapters[i] = put_on(n, i == 2 ? &lora : c, 3 + (uint64_t)i);
        randomise(adapters[i], 14 + (uint64_t)i);
        cb_adapter_set_strength(adapters[i], 0);
    }
}

/* Bit i: the row has adapter i. */
static const unsigned row_has[BATCH] = {1, 0, 2, 1 | 4, 4};

static cb_blend *blend_of_rows(const net *n, cb_adapter *const *adapters)
{
    cb_blend *blend = cb_blend_new(n->root);
    for (unsigned i = 0; i < ADAPTERS; i++) {
        int64_t rows[BATCH];
        size_t count = 0;
        for (int row = BATCH; row-- > 0;) /* any order will do */
            if (row_has[row] >> i & 1)
                rows[count++] = row;
        assert_ok(cb_blend_add(blend, adapters[i], .rows = rows, .row_count = count));
    }
    return blend;
}

static void switch_adapters(cb_adapter *const *adapters, unsigned which)
{
    for (unsigned i = 0; i < ADAPTERS; i++) /* first all off: two cannot train one layer whole */
        cb_adapter_set_strength(adapters[i], 0);
    for (unsigned i = 0; i < ADAPTERS; i++)
        cb_adapter_set_strength(adapters[i], which >> i & 1);
}

static double weighted_sum(cb_tensor *y, int first, bool backward)
{
    cb_rng rng = {.seed = 8};
    int64_t shape[] = {BATCH, y->shape[1], y->shape[2], y->shape[3]};
    cb_tensor *weights = cb_slice(cb_randn_nd(CB_F32, &rng, 4, shape), 0, first, first + y->shape[0], 1);
    cb_tensor *loss = cb_sum(cb_mul(y, weights), CB_ALL, false);
    if (backward)
        assert_ok(cb_backward(loss));
    return cb_item(loss);
}

/* What was added up, kept and taken back to nothing. */
static void take_gradients(const cb_adapter *adapter, cb_tensor **grads)
{
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list);
    for (size_t i = 0; i < count; i++) {
        assert_non_null(list[i].tensor->grad);
        grads[i] = cb_contiguous(cb_add_scalar(list[i].tensor->grad, 0));
        cb_zero_grad(list[i].tensor);
    }
}

/* Every row as if it were alone with its own adapters, and parameters get what the rows alone give, added up. */
static void check_rows(const kind_case *c, const net *n)
{
    cb_adapter *adapters[ADAPTERS];
    put_three_on(n, c, adapters);
    enum { MOST = 32 };
    cb_tensor *wanted[ADAPTERS][MOST], *found[ADAPTERS][MOST], *alone[BATCH];
    const cb_context plain_context = {.training = true};
    for (int row = 0; row < BATCH; row++) {
        switch_adapters(adapters, row_has[row]);
        alone[row] = run_rows(n, row, 1, true, &plain_context);
        if (row_has[row])
            weighted_sum(alone[row], row, true);
    }
    switch_adapters(adapters, 0);
    for (int i = 0; i < ADAPTERS; i++)
        take_gradients(adapters[i], wanted[i]);
    cb_blend *blend = blend_of_rows(n, adapters);
    cb_tensor *together = run_rows(n, 0, BATCH, true, &(cb_context){.training = true, .blend = blend});
    for (int row = 0; row < BATCH; row++)
        assert_within(cb_slice(together, 0, row, row + 1, 1), alone[row], 1e-5, c->options);
    weighted_sum(together, 0, true);
    for (int i = 0; i < ADAPTERS; i++) {
        const cb_named_tensor *list;
        size_t count = cb_adapter_parameters(adapters[i], &list);
        take_gradients(adapters[i], found[i]);
        for (size_t k = 0; k < count; k++)
            assert_within(found[i][k], wanted[i][k], 2e-5, list[k].name);
    }
    cb_blend_free(blend);
    for (int i = 0; i < ADAPTERS; i++)
        cb_adapter_free(adapters[i]);
}

static void rows_of_a_batch_have_adapters_of_their_own(void **state)
{
    (void)state;
    for_all(plain, check_rows);
    for_all((net_form){.dtype = CB_F32, .transposed = true}, check_rows);
}

static cb_tensor *in_blend(const net *n, const cb_blend *blend, cb_tensor *weights, bool convolve)
{
    cb_tensor *y = NULL;
    cb_no_grad y = run_rows(n, 0, BATCH, convolve, &(cb_context){.blend = blend, .blend_weights = weights});
    return y;
}

/* Weights of one and none are rows with and without; a number is a strength; half of the tokens are those of the whole. */
static void check_shares(const kind_case *c, const net *n)
{
    cb_adapter *adapters[ADAPTERS];
    put_three_on(n, c, adapters);
    cb_blend *blend = cb_blend_new(n->root);
    cb_tensor *off = in_blend(n, blend, NULL, true), *off_tokens = in_blend(n, blend, NULL, false);
    assert_ok(cb_blend_add(blend, adapters[0], .weight = 0.5));
    cb_tensor *half = in_blend(n, blend, NULL, true);
    cb_blend_clear(blend);
    assert_ok(cb_blend_add(blend, adapters[0]));
    cb_tensor *on = in_blend(n, blend, NULL, true), *on_tokens = in_blend(n, blend, NULL, false);
    cb_adapter_set_strength(adapters[0], 0.5);
    assert_within(half, in_blend(n, NULL, NULL, true), 0, c->kind);
    cb_adapter_set_strength(adapters[0], 1);
    assert_within(on, in_blend(n, NULL, NULL, true), 0, c->kind);
    cb_adapter_set_strength(adapters[0], 0);

    cb_blend_clear(blend);
    assert_ok(cb_blend_add(blend, adapters[1], .weighted = true, .column = 0));
    assert_ok(cb_blend_add(blend, adapters[0], .weighted = true, .column = 1));
    const float hot[BATCH][2] = {{0, 1}, {0, 0}, {0, 1}, {0, 1}, {0, 0}};
    cb_tensor *mixed = in_blend(n, blend, cb_from(CB_F32, hot, BATCH, 2), true);
    for (int row = 0; row < BATCH; row++)
        assert_within(cb_slice(mixed, 0, row, row + 1, 1), cb_slice(hot[row][1] == 1 ? on : off, 0, row, row + 1, 1), 1e-5, c->options);

    cb_blend_clear(blend);
    if (strstr(c->layers, "conv")) {
        assert_refused(!cb_blend_add(blend, adapters[0], .first_token = 1, .end_token = 3), "a convolution");
    } else if (!strstr(c->options, "use_gating")) { /* a gate is a mean over tokens */
        assert_ok(cb_blend_add(blend, adapters[0], .first_token = 1, .end_token = 3));
        cb_tensor *some = in_blend(n, blend, NULL, false);
        for (int t = 0; t < LENGTH; t++)
            assert_within(cb_slice(some, 1, t, t + 1, 1), cb_slice(t >= 1 && t < 3 ? on_tokens : off_tokens, 1, t, t + 1, 1), 1e-5,
                          c->options);
    }
    cb_blend_free(blend);
    for (int i = 0; i < ADAPTERS; i++)
        cb_adapter_free(adapters[i]);
}

static void shares_are_what_they_say(void **state)
{
    (void)state;
    for_all(plain, check_shares);
}

static int make_scratch(void **state)
{
    (void)state;
    cb_error_clear();
    return mkdtemp(scratch) ? 0 : -1;
}

static int remove_scratch(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", scratch);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_has_a_case),
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
        cmocka_unit_test(transposed_layers_are_the_same),
        cmocka_unit_test(quantised_layers_are_what_they_stand_for),
        cmocka_unit_test(bf16_passes_are_near),
        cmocka_unit_test(dropout_acts_while_training_only),
        cmocka_unit_test(rows_of_a_batch_have_adapters_of_their_own),
        cmocka_unit_test(shares_are_what_they_say),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
