/* kind_fixtures.h: a case for every adapter kind, and the small network that they are put on. */
#ifndef KIND_FIXTURES_H
#define KIND_FIXTURES_H

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
    {"hydra", "a,b", "{\"r\": 2, \"sequential_rank\": 3, \"head_bias\": true, \"init_weights\": \"xavier\"}", 0},
    {"hydra", "a,b", "{\"r\": 3, \"sequential_rank\": 0, \"head_bias\": true, \"init_weights\": \"normal\", \"scale\": 0.5}", 0},
    {"lora_xs", "a,b", "{\"r\": 4, \"lora_alpha\": 5, \"init_deviation\": 0}", 0},
    {"orthogonal_adaptation", "a,b", "{\"r\": 5}", 0},
    {"orthogonal_adaptation", "a,b", "{\"r\": 4, \"basis\": \"gaussian\", \"scale\": 2}", 0},
    {"pego", "a,b", "{\"r\": 2, \"members\": 3}", 0},
    {"pego", "a,b", "{\"r\": 2, \"members\": 2, \"preserve\": false, \"orthogonal_weight\": 0.1}", 0},
    {"pego", "a,b", "{\"r\": 2, \"members\": 2, \"diversify\": false, \"orthogonal_weight\": 0.1}", 0},
    {"codyra", "a,b", "{\"r\": 5}", 0},
    {"dylora", "a,b", "{\"r\": 4, \"min_rank\": 4, \"rule\": \"full\", \"lora_alpha\": 6}", 0},
    {"lt_sft", "a,b", "{}", 0},
    {"lt_sft", "a,b", "{\"counts\": {\"a\": 40, \"b\": 7}}", 0},
    {"lt_sft", "a,b,conv,table", "{}", 0},
    {"lt_sft", "a,b,conv,table", "{\"selection\": \"random\", \"density\": 1}", 0},
    {"lt_sft", "a,conv,table", "{\"counts\": {\"a\": 40, \"conv\": 9, \"table\": 12}, \"biases\": false}", 0},
    {"delora", "a,b", "{\"r\": 3, \"delora_lambda\": 3, \"lambda_pattern\": {\"b\": 5}}", 0},
    {"poly", "a,b", "{\"r\": 3, \"n_tasks\": 2}", 0},
    {"poly", "a,b", "{\"r\": 2, \"n_tasks\": 2, \"n_skills\": 3, \"n_splits\": 4, \"init_weights\": false}", -1},
    {"adalora", "a,b,conv", "{\"init_r\": 4, \"target_r\": 2, \"total_step\": 10}", 0},
    {"adalora", "a,b",
     "{\"init_r\": 3, \"target_r\": 2, \"lora_alpha\": 0.2, \"init_lora_weights\": false, \"rank_pattern\": {\"a.lora_E\": [true, false, "
     "true]}}",
     -1},
    {"mtlora", "a,b", "{\"r\": 3, \"num_tasks\": 2, \"task_rank\": 2, \"dropout\": 0}", 0},
    {"mtlora", "a,b",
     "{\"r\": 2, \"num_tasks\": 3, \"task_ranks\": {\"0\": 0, \"1\": 4}, \"task_scales\": {\"1\": 2}, \"task_modules\": [\"b\"],"
     " \"mode\": \"matrix\", \"dropout\": 0}",
     0},
    {"mtlora", "a,b", "{\"r\": 2, \"num_tasks\": 2, \"task_ranks\": {\"0\": 3}, \"use_task\": 1, \"dropout\": 0}", 0},
    {"mtlora", "a,b", "{\"r\": 0, \"num_tasks\": 2, \"task_scale\": 2, \"dropout\": 0}", 0},
    {"mtlora", "a,b", "{\"r\": 5, \"task_rank\": 0, \"scale\": 2, \"dropout\": 0}", 0},
    {"petalface", "a,b", "{\"r\": 4, \"dropout\": 0}", 0},
    {"petalface", "a,b", "{\"r\": 3, \"condition\": 1, \"threshold\": 0.3, \"clamp\": false, \"scale\": 2, \"dropout\": 0}", 0},
    {"petalface", "a,b", "{\"r\": 3, \"use_weight\": 0.75, \"single_modules\": [\"b\"], \"dropout\": 0}", 0},
    {"s3diff", "a,b,conv", "{\"r\": 3, \"frequencies\": 4, \"hidden_size\": 6, \"block_size\": 4}", 0},
    {"s3diff", "a,b,conv",
     "{\"r\": 4, \"frequencies\": 3, \"hidden_size\": 5, \"use_blocks\": false, \"identity\": true, \"conditions\": 1, \"lora_alpha\": 4}",
     0},
    {"s3diff", "a,b,conv",
     "{\"r\": 3, \"frequencies\": 4, \"hidden_size\": 6, \"block_size\": 4, \"identity\": true, \"use_conditions\": [\"0.25\", \"0.6\"]}",
     0},
    {"krona", "a,b", "{\"a1\": 4, \"a2\": 3}", 0},
    {"krona", "a,b", "{\"a1\": 12, \"a2\": 2, \"a1_pattern\": {\"b\": 6}, \"a2_pattern\": {\"b\": 9}, \"scale\": 2}", 0},
    {"mora", "a,b", "{\"r\": 4}", 0},
    {"mora", "a,b", "{\"r\": 2, \"mora_type\": \"sharing\"}", 0},
    {"mora", "a,b", "{\"r\": 3, \"mora_type\": \"decoupling\"}", 0},
    {"mora", "a,b", "{\"r\": 90, \"mora_type\": \"truncation\"}", 0},
    {"gdcan", "a,b,conv", "{\"reduction\": 2, \"feature_width\": 5, \"attention\": \"split\"}", 0}, /* a gate looks at all rows */
    {"gdcan", "conv", "{\"reduction\": 3, \"attention\": \"split\", \"scale\": 1}", -1},
    {"gdcan", "a,conv", "{\"attention\": \"shared\", \"logits\": false, \"init_weights\": \"paper\"}", -1},
};
enum { CASES = sizeof cases / sizeof *cases };

/* What the refusal to merge one that does something else for each row says; NULL: it can be merged. */
static inline const char *unmerged(const kind_case *c)
{
    static const char *const of_rows[][3] = {{"mtlora", "\"use_task\"", "expected use_task to be one of them"},
                                             {"petalface", "\"use_weight\"", "expected use_weight to be from 0 to 1"},
                                             {"s3diff", "\"use_conditions\"", "expected use_conditions to say which"}};
    for (int i = 0; i < 3; i++)
        if (strcmp(c->kind, of_rows[i][0]) == 0 && !strstr(c->options, of_rows[i][1]) && !strstr(c->options, "\"task_rank\": 0"))
            return of_rows[i][2];
    return NULL;
}

/* ---- the network ---- */

/* table (7 rows, 24) -> norm -> a (24 to 36) -> tanh -> b (36 to 24) -> conv (4 channels to 6).  Around them, with no arithmetic of their own:
 * `attention` and `mlp` add what follows the norm, as a transformer's do, to a stream that the test leaves out; `block` is around it all. */
enum { ROWS = 10, TOKENS = 7, WIDTH = 24, INNER = 36 };
enum { BATCH = 5 }; /* rows of the largest batch */

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

static inline void add_weight(cb_layer *layer, const char *name, cb_dtype dtype, double mean, double deviation, int ndim,
                              const int64_t *shape)
{
    cb_rng rng = {.seed = 5, .stream = cb_hash_text(CB_HASH_START, layer->name) + (uint64_t)name[0]};
    cb_tensor *values = cb_add_scalar(cb_scale(cb_randn_nd(CB_F32, &rng, ndim, shape), deviation), mean);
    assert_ok(cb_layer_add_weight(layer, name, cb_contiguous(cb_cast(values, dtype))));
}

static inline cb_layer *add_linear(net *n, const char *name, int64_t in, int64_t out, net_form form)
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

static inline cb_layer *add_host(net *n, const char *name, cb_layer_kind kind)
{
    cb_layer *layer = cb_layer_new(n->root, name, kind);
    layer->in_features = layer->out_features = WIDTH;
    return layer;
}

static inline net make_net(net_form form)
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
    n.conv->conv = (cb_conv_options){.stride = {2, 1}, .padding = {1, 1}};
    add_weight(n.conv, "weight", form.dtype, 0, 0.3, CB_SHAPE(6, 4, 3, 3));
    add_weight(n.conv, "bias", form.dtype, 0, 0.2, CB_SHAPE(6));
    assert_ok(cb_ok());
    cb_scope_close(scope);
    return n;
}

/* From the embedding's result (B, T, WIDTH) to that of b, with all that is around */
static inline cb_tensor *through(const net *n, cb_tensor *x, const cb_context *ctx)
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

/* The context with what is known of rows first .. first + rows - 1. */
static inline cb_context of_rows(const cb_context *ctx, int first, int rows)
{
    static const int32_t tasks[BATCH] = {1, 0, 0, 1, 0};
    static const float conditions[BATCH][2] = {{0.7f, 0.2f}, {0.1f, 0.9f}, {0.4f, 0.5f}, {1, 0.3f}, {0, 0.6f}};
    cb_context known = *ctx;
    known.tasks = cb_from(CB_I32, tasks + first, rows);
    known.conditions = cb_from(CB_F32, conditions[first], rows, 2);
    return known;
}

/* x: what is added behind the embedding, (ROWS, WIDTH); NULL: nothing */
static inline cb_tensor *run(const net *n, cb_tensor *x, const cb_context *ctx)
{
    const int32_t ids[ROWS] = {0, 1, 2, 3, 4, 5, 6, 3, 1, 3};
    const cb_context known = of_rows(ctx, 0, 2);
    cb_tensor *y = cb_embedding_forward(n->table, cb_from(CB_I32, ids, ROWS), n->dtype, &known);
    y = through(n, cb_reshape(x ? cb_add(y, x) : y, 2, ROWS / 2, WIDTH), &known);
    y = cb_conv2d_forward(n->conv, cb_reshape(y, 2, 4, 5, 6), &known);
    assert_ok(y);
    return y;
}

static inline cb_tensor *result(const net *n)
{
    cb_tensor *y = NULL;
    cb_no_grad y = cb_cast(run(n, NULL, &(cb_context){0}), CB_F32);
    return y;
}

static inline cb_adapter *put_on(const net *n, const kind_case *c, uint64_t seed)
{
    cb_adapter *adapter = cb_adapter_new(c->kind, NULL);
    assert_ok(adapter && cb_adapter_set_json(adapter, c->kind, c->options) && cb_adapter_set(adapter, "target_modules", c->layers));
    assert_ok(cb_adapter_attach(adapter, n->root, NULL, seed));
    return adapter;
}

/* One that does something: every parameter is another than a fresh one's. */
static inline cb_adapter *put_random_on(const net *n, const kind_case *c)
{
    cb_adapter *adapter = put_on(n, c, 3);
    randomise(adapter, 4);
    return adapter;
}

static inline void copy_parameters(const cb_adapter *to, const cb_adapter *from)
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

static inline void for_all(net_form form, check_case *check)
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

#endif
