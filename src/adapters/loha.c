/* loha.c: low-rank Hadamard product, W + s (W1a W1b) o (W2a W2b) with s = alpha / R.
 * Hyeon-Woo et al. 2022 (FedPara), arXiv:2108.06098; Yeh et al. 2024 (LyCORIS), arXiv:2309.14859.
 * R rank; Wa (out, R), Wb (R, in); of a convolution in stands for in / groups KH KW, or the kernel is a Tucker product of
 * Wa (R, out), Wb (R, in / groups) and T (R, R, KH, KW).
 *
 * The product of two matrices of rank R is one of rank R^2, with the factors b1_i b2_j (R^2, in) and a1_i a2_j (out, R^2), i, j = 1 ... R.
 * Where that is the cheaper way x goes through them and no (out, in) is made. */
#include <string.h>

#include "adapters/dense.h"
#include "adapters/lycoris.h"

typedef struct loha_config {
    cb_lycoris_config common;
    bool init_weights;
} loha_config;

enum { W1A, W1B, W2A, W2B, T1, T2, FACTORS };

typedef struct loha_state {
    cb_lycoris common;
    cb_tensor *factors[FACTORS];
    bool thin;
} loha_state;

static const char *const names[FACTORS] = {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"};

static const cb_option loha_options[] = {
    CB_LYCORIS_OPTIONS, CB_OPT_BOOL(loha_config, init_weights, true, "start with a change of zero; false: random"), CB_OPT_END};

static bool loha_create(cb_module *m, const void *config, const cb_layer *layer)
{
    loha_state *loha = m->state;
    cb_lycoris *common = &loha->common;
    if (!cb_lycoris_create(common, config, layer))
        return false;
    loha->thin = layer->kind == CB_LAYER_LINEAR && common->rank * common->rank <= common->out * common->in / (common->out + common->in);
    return true;
}

static int loha_parameters(cb_module *m, cb_adapter_parameter *list)
{
    loha_state *loha = m->state;
    const cb_lycoris *s = &loha->common;
    int64_t r = s->rank, columns = s->in * s->kh * s->kw;
    for (int i = 0; i < 4; i++) {
        int64_t a[] = {s->out, r}, b[] = {r, columns}, tucker[] = {r, i % 2 ? s->in : s->out};
        list[i] = (cb_adapter_parameter){names[i], &loha->factors[i], 2, {0}, CB_ROLE_TRAINED};
        memcpy(list[i].shape, s->tucker ? tucker : i % 2 ? b : a, sizeof a);
    }
    for (int i = T1; i < FACTORS && s->tucker; i++)
        list[i] = (cb_adapter_parameter){names[i], &loha->factors[i], 4, {r, r, s->kh, s->kw}, CB_ROLE_TRAINED};
    return s->tucker ? FACTORS : T1;
}

static bool loha_initialise(cb_module *m, const void *config, uint64_t seed)
{
    loha_state *loha = m->state;
    bool zero = ((const loha_config *)config)->init_weights;
    for (int i = 0; i < FACTORS; i++)
        if (loha->factors[i] && !(zero && i == W2B) && !cb_init_kaiming(loha->factors[i], cb_adapter_rng(seed, m, names[i])))
            return false;
    return true;
}

/* ---- forward ---- */

/* (W1a W1b) o (W2a W2b) */
static cb_tensor *loha_change(const cb_module *m)
{
    const loha_state *loha = m->state;
    cb_tensor *const *f = loha->factors;
    if (loha->common.tucker)
        return cb_mul(cb_lycoris_tucker(f[T1], f[W1A], f[W1B]), cb_lycoris_tucker(f[T2], f[W2A], f[W2B]));
    cb_tensor *change = cb_mul(cb_matmul(f[W1A], f[W1B]), cb_matmul(f[W2A], f[W2B]));
    const cb_lycoris *s = &loha->common;
    return m->layer->kind == CB_LAYER_CONV ? cb_reshape(change, s->out, s->in, s->kh, s->kw) : change;
}

static cb_tensor *loha_product(const cb_module *m, cb_tensor *x)
{
    const loha_state *loha = m->state;
    cb_tensor *const *f = loha->factors;
    if (!loha->thin)
        return cb_dense_product(m, x, loha_change);
    int64_t squared = loha->common.rank * loha->common.rank;
    cb_tensor *b = cb_mul(cb_unsqueeze(f[W1B], 1), cb_unsqueeze(f[W2B], 0));
    cb_tensor *a = cb_mul(cb_unsqueeze(f[W1A], 2), cb_unsqueeze(f[W2A], 1));
    return cb_linear(cb_linear(x, cb_reshape(b, squared, loha->common.in), NULL), cb_reshape(a, loha->common.out, squared), NULL);
}

static cb_tensor *loha_forward(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    return cb_lycoris_forward(m, x, y, ctx, loha_product);
}

static cb_tensor *loha_delta(const cb_module *m, cb_tensor *weight)
{
    (void)weight;
    return cb_dense_delta(m, loha_change, ((const loha_state *)m->state)->common.scale * m->strength);
}

const cb_adapter_kind cb_kind_loha = {
    .name = "loha",
    .peft_type = "LOHA",
    .summary = "product, element by element, of two low-rank updates: W x + (alpha / rank) (A1 B1 o A2 B2) x",
    .paper = "Hyeon-Woo et al. 2022, arXiv:2108.06098",
    .options = loha_options,
    .config_size = sizeof(loha_config),
    .state_size = sizeof(loha_state),
    .module = {.name = "loha", .forward = loha_forward, .adds = cb_adds_always, .delta = loha_delta},
    .hosts = 1u << CB_LAYER_LINEAR | 1u << CB_LAYER_CONV,
    .create = loha_create,
    .parameters = loha_parameters,
    .initialise = loha_initialise,
    .peft_names = cb_lycoris_peft_names,
    .peft_fixed = CB_LYCORIS_FIXED,
};
