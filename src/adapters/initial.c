/* initial.c: how the two factors of a low-rank change start: PEFT's init_lora_weights.
 *
 *     true         A uniform as a linear layer, B zero            He et al. 2015
 *     false        both as linear layers
 *     gaussian     A normal with deviation 1 / R, B zero
 *     orthogonal   A and B random in subspaces at right angles, so that B A = 0
 *     pissa        the first singular triples of W                 Meng et al. 2024, arXiv:2404.02948
 *     pissa_niter_N  the same from random projections and N power iterations
 *     olora        the first columns of Q and rows of R, W = Q R    Buyukakyuz 2024, arXiv:2406.01775
 *     eva          A: the first principal components of the inputs  Paischer et al. 2024, arXiv:2410.07170 (eva.c)
 *     corda        singular triples of W C, C the inputs' covariance  Yang et al. 2024, arXiv:2406.05223 (corda.c)
 *     loftq        the first singular triples of W - Q              Li et al. 2023, arXiv:2310.08659 (loftq.c)
 *     residual     those of another model's weights less W          Bae et al. 2025, arXiv:2410.20672 (loftq.c)
 *
 * The last three are worked out before the adapter is attached, and given to it (study.h).
 *
 * pissa, olora and corda start with s B A = s B0 A0 other than zero and take it from the base.  PEFT changes W; here W stays where it is
 * mapped, and B0 A0 is subtracted beside it (lora.c). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "adapters/internal.h"
#include "adapters/low_rank.h"

typedef struct cb_start_kind {
    const char *name; /* "..._": a whole number follows */
    bool takes_from_base;
    bool (*begin)(const cb_factors_start *start, const cb_module *m, cb_tensor *a, cb_tensor *b);
} cb_start_kind;

#define PISSA_NITER "pissa_niter_"

/* torch's default for linear layers and convolutions: kaiming uniform with a = sqrt(5), which is uniform within 1 / sqrt(inputs). */
static bool begin_default(const cb_factors_start *start, const cb_module *m, cb_tensor *a, cb_tensor *b)
{
    (void)b;
    return cb_init_uniform(a, cb_adapter_rng(start->seed, m, "lora_A.weight"), 1 / sqrt((double)a->count / (double)start->rank));
}

static bool begin_random(const cb_factors_start *start, const cb_module *m, cb_tensor *a, cb_tensor *b)
{
    return begin_default(start, m, a, b) &&
           cb_init_uniform(b, cb_adapter_rng(start->seed, m, "lora_B.weight"), 1 / sqrt((double)b->shape[1]));
}

static bool begin_gaussian(const cb_factors_start *start, const cb_module *m, cb_tensor *a, cb_tensor *b)
{
    (void)b;
    return cb_init_normal(a, cb_adapter_rng(start->seed, m, "lora_A.weight"), 1 / (double)start->rank);
}

/* Rows of a random rotation (R, R) at even places span A, those at odd places B. */
static bool begin_orthogonal(const cb_factors_start *start, const cb_module *m, cb_tensor *a, cb_tensor *b)
{
    int64_t r = start->rank;
    if (r % 2)
        return cb_fail(CB_ERR_ARGUMENT, "rank: found %lld for layer %s, init_lora_weights orthogonal expects an even one", (long long)r,
                       m->layer->name) == CB_OK;
    cb_rng rng_a = cb_adapter_rng(start->seed, m, "lora_A.weight"), rng_b = cb_adapter_rng(start->seed, m, "lora_B.weight");
    cb_rng rng_q = cb_adapter_rng(start->seed, m, "rotation");
    cb_tensor *q, *unused;
    if (!cb_qr(cb_randn(CB_F32, &rng_q, r, r), &q, &unused))
        return false;
    cb_tensor *even = cb_slice(q, 0, 0, r, 2), *odd = cb_slice(q, 0, 1, r, 2);
    cb_tensor *to_a = cb_scale(cb_randn(CB_F32, &rng_a, m->layer->in_features, r / 2), 0.1);
    cb_tensor *to_b = cb_scale(cb_randn(CB_F32, &rng_b, m->layer->out_features, r / 2), 0.1);
    cb_tensor *turned = cb_transpose(cb_matmul(to_a, even), 0, 1), *straight = cb_matmul(to_b, odd);
    return turned && straight && cb_copy_into(a, turned) && cb_copy_into(b, straight);
}

/* A = sqrt(S / s) V^T, B = U sqrt(S / s), so that s B A is the part of W that u, s and vt are. */
static bool share_singular_values(const cb_factors_start *start, cb_tensor *u, cb_tensor *s, cb_tensor *vt, cb_tensor *a, cb_tensor *b)
{
    cb_tensor *root = cb_sqrt(cb_scale(s, 1 / start->scale));
    cb_tensor *first = cb_mul(cb_unsqueeze(root, 1), vt), *second = cb_mul(u, root);
    return first && second && cb_copy_into(a, first) && cb_copy_into(b, second);
}

static bool scale_is_positive(const cb_factors_start *start, const cb_module *m)
{
    return start->scale > 0 ||
           cb_fail(CB_ERR_ARGUMENT, "alpha: found 0 for layer %s, init_lora_weights %s expects more", m->layer->name, start->name) == CB_OK;
}

static bool begin_pissa(const cb_factors_start *start, const cb_module *m, cb_tensor *a, cb_tensor *b)
{
    int niter = strncmp(start->name, PISSA_NITER, strlen(PISSA_NITER)) == 0 ? atoi(start->name + strlen(PISSA_NITER)) : -1;
    cb_tensor *u, *s, *vt;
    return scale_is_positive(start, m) &&
           cb_svd_first(cb_weight_f32(m->layer), start->rank, 0, niter, cb_adapter_rng(start->seed, m, "pissa"), &u, &s, &vt) &&
           share_singular_values(start, u, s, vt, a, b);
}

static bool begin_olora(const cb_factors_start *start, const cb_module *m, cb_tensor *a, cb_tensor *b)
{
    cb_tensor *q, *r;
    if (!cb_qr(cb_weight_f32(m->layer), &q, &r))
        return false;
    q = cb_slice(q, 1, 0, start->rank, 1);
    r = cb_slice(r, 0, 0, start->rank, 1);
    return q && r && cb_copy_into(b, q) && cb_copy_into(a, r);
}

/* ---- given ones ---- */

static const cb_given_start *given_to(const cb_factors_start *start, const cb_module *m)
{
    const cb_given_start *given = cb_adapter_module_of(m)->given;
    if (!given)
        cb_fail(CB_ERR_STATE, "init_lora_weights: layer %s has no start for %s, which cb_train_attach() works out", m->layer->name,
                start->name);
    else if (given->vt->shape[0] != start->rank)
        cb_fail(CB_ERR_STATE, "init_lora_weights: the start of layer %s is of rank %lld, expected %lld", m->layer->name,
                (long long)given->vt->shape[0], (long long)start->rank);
    else
        return given;
    return NULL;
}

static bool begin_eva(const cb_factors_start *start, const cb_module *m, cb_tensor *a, cb_tensor *b)
{
    (void)b;
    const cb_given_start *given = given_to(start, m);
    return given && cb_copy_into(a, given->vt);
}

static bool begin_given(const cb_factors_start *start, const cb_module *m, cb_tensor *a, cb_tensor *b)
{
    const cb_given_start *given = scale_is_positive(start, m) ? given_to(start, m) : NULL;
    return given && share_singular_values(start, given->u, given->s, given->vt, a, b);
}

/* What is not quantised starts as usual. */
static bool begin_loftq(const cb_factors_start *start, const cb_module *m, cb_tensor *a, cb_tensor *b)
{
    const cb_tensor *weight = cb_layer_weight(m->layer, "weight");
    bool quantized = weight && cb_dtype_is_quantized(weight->dtype);
    return quantized ? begin_given(start, m, a, b) : begin_default(start, m, a, b);
}

static const cb_start_kind kinds[] = {
    {"true", false, begin_default},      {"false", false, begin_random},
    {"gaussian", false, begin_gaussian}, {"orthogonal", false, begin_orthogonal},
    {"pissa", true, begin_pissa},        {PISSA_NITER, true, begin_pissa},
    {"olora", true, begin_olora},        {"eva", false, begin_eva},
    {"corda", true, begin_given},        {"loftq", false, begin_loftq},
    {"residual", false, begin_given},
};
enum { KINDS = sizeof kinds / sizeof *kinds };

static bool is_count(const char *text)
{
    size_t digits = strspn(text, "0123456789");
    return digits > 0 && digits < 4 && !text[digits];
}

static const cb_start_kind *find(const char *name)
{
    for (int i = 0; i < KINDS; i++) {
        size_t length = strlen(kinds[i].name);
        bool counted = kinds[i].name[length - 1] == '_';
        if (counted ? strncmp(name, kinds[i].name, length) == 0 && is_count(name + length) : strcmp(name, kinds[i].name) == 0)
            return &kinds[i];
    }
    return NULL;
}

bool cb_factors_start_check(const char *option, const char *name)
{
    if (find(name))
        return true;
    cb_string names = {0};
    for (int i = 0; i < KINDS; i++)
        cb_string_printf(&names, "%s%s%s", i ? ", " : "", kinds[i].name, strcmp(kinds[i].name, PISSA_NITER) == 0 ? "N" : "");
    cb_fail(CB_ERR_UNSUPPORTED, "%s: found \"%.100s\", expected one of %s", option, name, names.data ? names.data : "");
    cb_string_free(&names);
    return false;
}

bool cb_factors_start_takes_from_base(const char *name)
{
    const cb_start_kind *kind = find(name);
    return kind && kind->takes_from_base;
}

bool cb_factors_begin(const cb_factors_start *start, const cb_module *m, cb_tensor *a, cb_tensor *b)
{
    const cb_start_kind *kind = find(start->name);
    cb_scope *scope = kind && kind->begin ? cb_scope_open() : NULL;
    if (!scope)
        return false;
    bool ok = false;
    cb_no_grad ok = kind->begin(start, m, a, b);
    cb_scope_close(scope);
    return ok;
}
