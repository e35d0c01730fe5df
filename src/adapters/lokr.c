/* lokr.c: low-rank Kronecker product, W + s W1 (x) W2 with s = alpha / R, each factor whole or a product of rank R.
 * Yeh et al. 2024 (LyCORIS), arXiv:2309.14859; Edalati et al. 2022 (KronA), arXiv:2212.10650.
 * R rank; out = L K, in = M N with L <= K, M <= N; W1 (L, M) or (L, R) (R, M); W2 (K, N) or (K, R) (R, N); of a convolution in stands for
 * in / groups, and W2 is (K, N, KH, KW), or (K, R) (R, N KH KW), or a Tucker product.
 */
#include "adapters/dense.h"
#include "adapters/kronecker.h"
#include "adapters/lycoris.h"

typedef struct lokr_config {
    cb_lycoris_config common;
    bool decompose_both, rank_dropout_scale;
    int64_t decompose_factor;
    int init_weights;
} lokr_config;

typedef struct lokr_state {
    cb_lycoris common;
    cb_tensor *w1, *w1a, *w1b, *w2, *w2a, *w2b, *t2; /* those it has not are NULL */
    int64_t l, k, m, n;
    bool whole1, whole2;
} lokr_state;

enum { START_ZERO, START_RANDOM, START_LYCORIS };
static const char *const starts[] = {"true", "false", "lycoris", NULL};

static const cb_option lokr_options[] = {
    CB_LYCORIS_OPTIONS,
    CB_OPT_BOOL(lokr_config, decompose_both, false, "the first factor may be a product too"),
    CB_OPT_INT(lokr_config, decompose_factor, -1, -1, 65536,
               "the first factor's number of rows and columns where it divides the layer's; -1: as near as can be to the second's"),
    CB_OPT_BOOL(lokr_config, rank_dropout_scale, false, "rows that rank_dropout leaves make up for the others"),
    CB_OPT_ENUM(lokr_config, init_weights, START_ZERO, starts,
                "which factor starts at zero: true the first, lycoris the second, false none"),
    CB_OPT_END};

/* ---- sizes ---- */

/* dimension = *small *large, in PEFT's way: *small is `factor` where that divides; else the divisor with the smallest sum that is not larger
 * than `factor` (-1: any). */
static void factorise(int64_t dimension, int64_t factor, int64_t *small, int64_t *large)
{
    if (factor > 0 && dimension % factor == 0) {
        *small = factor;
        *large = dimension / factor;
        return;
    }
    *small = 1;
    for (int64_t d = 2; d * d <= dimension && (factor < 0 || d <= factor); d++)
        if (dimension % d == 0)
            *small = d;
    *large = dimension / *small;
}

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static bool lokr_check(const void *config_, const cb_layer *layer)
{
    const lokr_config *config = config_;
    return layer || config->decompose_factor != 0 ||
           cb_fail(CB_ERR_ARGUMENT, "decompose_factor: found 0, expected -1 or a number of rows and columns") == CB_OK;
}

static bool lokr_create(cb_module *m, const void *config_, const cb_layer *layer)
{
    const lokr_config *config = config_;
    lokr_state *lokr = m->state;
    if (!cb_lycoris_create(&lokr->common, &config->common, layer))
        return false;
    factorise(lokr->common.out, config->decompose_factor, &lokr->l, &lokr->k);
    factorise(lokr->common.in, config->decompose_factor, &lokr->m, &lokr->n);
    lokr->whole1 = !config->decompose_both || 2 * lokr->common.rank >= larger(lokr->l, lokr->m);
    lokr->whole2 = 2 * lokr->common.rank >= larger(lokr->k, lokr->n);
    lokr->common.rescale = config->rank_dropout_scale;
    return true;
}

static int lokr_parameters(cb_module *m, cb_adapter_parameter *list)
{
    lokr_state *lokr = m->state;
    const cb_lycoris *s = &lokr->common;
    int64_t r = s->rank, l = lokr->l, k = lokr->k, columns = lokr->m, n = lokr->n, kh = s->kh, kw = s->kw;
    int ndim = m->layer->kind == CB_LAYER_CONV ? 4 : 2, count = 0;
    if (lokr->whole1) {
        list[count++] = (cb_adapter_parameter){"lokr_w1", &lokr->w1, 2, {l, columns}, CB_ROLE_TRAINED};
    } else {
        list[count++] = (cb_adapter_parameter){"lokr_w1_a", &lokr->w1a, 2, {l, r}, CB_ROLE_TRAINED};
        list[count++] = (cb_adapter_parameter){"lokr_w1_b", &lokr->w1b, 2, {r, columns}, CB_ROLE_TRAINED};
    }
    if (lokr->whole2) {
        list[count++] = (cb_adapter_parameter){"lokr_w2", &lokr->w2, ndim, {k, n, kh, kw}, CB_ROLE_TRAINED};
    } else if (s->tucker) {
        list[count++] = (cb_adapter_parameter){"lokr_t2", &lokr->t2, 4, {r, r, kh, kw}, CB_ROLE_TRAINED};
        list[count++] = (cb_adapter_parameter){"lokr_w2_a", &lokr->w2a, 2, {r, k}, CB_ROLE_TRAINED};
        list[count++] = (cb_adapter_parameter){"lokr_w2_b", &lokr->w2b, 2, {r, n}, CB_ROLE_TRAINED};
    } else {
        list[count++] = (cb_adapter_parameter){"lokr_w2_a", &lokr->w2a, 2, {k, r}, CB_ROLE_TRAINED};
        list[count++] = (cb_adapter_parameter){"lokr_w2_b", &lokr->w2b, 2, {r, n * kh * kw}, CB_ROLE_TRAINED};
    }
    return count;
}

static bool lokr_initialise(cb_module *m, const void *config, uint64_t seed)
{
    lokr_state *lokr = m->state;
    int start = ((const lokr_config *)config)->init_weights;
    const cb_tensor *zero = start == START_ZERO      ? (lokr->whole1 ? lokr->w1 : lokr->w1a)
                            : start == START_LYCORIS ? (lokr->whole2 ? lokr->w2 : lokr->w2b)
                                                     : NULL;
    cb_adapter_parameter list[CB_MODULE_PARAMETERS];
    int count = lokr_parameters(m, list);
    for (int i = 0; i < count; i++)
        if (*list[i].tensor != zero && !cb_init_kaiming(*list[i].tensor, cb_adapter_rng(seed, m, list[i].suffix)))
            return false;
    return true;
}

/* ---- forward ---- */

/* W2 as its own factors make it: the rows of a Tucker product, or of a kernel, are made whole. */
static cb_tensor *second(const lokr_state *lokr)
{
    const cb_lycoris *s = &lokr->common;
    if (lokr->whole2 || s->tucker)
        return lokr->whole2 ? lokr->w2 : cb_lycoris_tucker(lokr->t2, lokr->w2a, lokr->w2b);
    cb_tensor *w2 = cb_matmul(lokr->w2a, lokr->w2b);
    return s->kh * s->kw > 1 ? cb_reshape(w2, lokr->k, lokr->n, s->kh, s->kw) : w2;
}

static cb_tensor *lokr_change(const cb_module *m)
{
    const lokr_state *lokr = m->state;
    const cb_lycoris *s = &lokr->common;
    cb_tensor *change = cb_kronecker(lokr->whole1 ? lokr->w1 : cb_matmul(lokr->w1a, lokr->w1b), second(lokr));
    return m->layer->kind == CB_LAYER_CONV ? cb_reshape(change, s->out, s->in, s->kh, s->kw) : change;
}

static cb_tensor *lokr_product(const cb_module *m, cb_tensor *x)
{
    const lokr_state *lokr = m->state;
    if (m->layer->kind == CB_LAYER_CONV)
        return cb_dense_product(m, x, lokr_change);
    return cb_kronecker_product(x, (cb_kronecker_factor){lokr->w1, lokr->w1a, lokr->w1b},
                                (cb_kronecker_factor){lokr->w2, lokr->w2a, lokr->w2b});
}

static cb_tensor *lokr_forward(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    return cb_lycoris_forward(m, x, y, ctx, lokr_product);
}

static cb_tensor *lokr_delta(const cb_module *m, cb_tensor *weight)
{
    (void)weight;
    return cb_dense_delta(m, lokr_change, ((const lokr_state *)m->state)->common.scale * m->strength);
}

const cb_adapter_kind cb_kind_lokr = {
    .name = "lokr",
    .peft_type = "LOKR",
    .summary = "Kronecker product of two factors: W x + (alpha / rank) (W1 (x) W2) x",
    .paper = "Yeh et al. 2024, arXiv:2309.14859",
    .options = lokr_options,
    .config_size = sizeof(lokr_config),
    .state_size = sizeof(lokr_state),
    .module = {.name = "lokr", .forward = lokr_forward, .adds = cb_adds_always, .delta = lokr_delta},
    .hosts = 1u << CB_LAYER_LINEAR | 1u << CB_LAYER_CONV,
    .check = lokr_check,
    .create = lokr_create,
    .parameters = lokr_parameters,
    .initialise = lokr_initialise,
    .peft_names = cb_lycoris_peft_names,
    .peft_fixed = CB_LYCORIS_FIXED,
};
