/* domain_attention.c: see domain_attention.h.  N rows, C channels, R inner width.
 *
 *     z = mean of y over its places (N, C);   a = z of the source or a shared one: W0 z + b0, else W1 z + b1;
 *     y * scale sigmoid(V relu(a) + c)
 *
 * The gate: e = mean(z) / sqrt(var(z) + 1e-5) of all numbers of the rows of a domain, gap = tanh(|e_s - e_t| / (|e_t| + 1e-5)), which is less than
 * eta where the target shares the source's path.  The authors divide by e_t as it is, which is near 0 behind a norm without a ReLU and may be negative:
 * then a large gap counts as a negative one.  Rows of the two domains need not come in one pass: of each domain the last rows seen count.  Until there has been a
 * source, as where a saved adapter goes on with one domain alone, the gate stays as it is. */
#include "adapters/domain_attention.h"

#include <math.h>

#include "adapters/tasks.h"
#include "core/rehearsal.h"

static const double tiny = 1e-5;
enum { DOMAINS = 2, TARGET = 0, SOURCE = 1 };

cb_tensor *cb_domains_of(const cb_context *ctx)
{
    return cb_tasks_of(ctx, DOMAINS, "the number of domains");
}

int cb_domain_attention_parameters(cb_domain_attention *a, int64_t channels, int64_t reduction, cb_adapter_parameter *list)
{
    int64_t r = channels > reduction ? channels / reduction : 1, c = channels;
    const cb_adapter_parameter all[] = {
        {"gdcan_squeeze.weight", &a->squeeze, 2, {r, c}, CB_ROLE_TRAINED},
        {"gdcan_squeeze.bias", &a->squeeze_bias, 1, {r}, CB_ROLE_TRAINED},
        {"gdcan_excitation.weight", &a->excite, 2, {c, r}, CB_ROLE_TRAINED},
        {"gdcan_excitation.bias", &a->excite_bias, 1, {c}, CB_ROLE_TRAINED},
        {"gdcan_target_squeeze.weight", &a->target, 2, {r, c}, CB_ROLE_TRAINED},
        {"gdcan_target_squeeze.bias", &a->target_bias, 1, {r}, CB_ROLE_TRAINED},
        {"gdcan_gate", &a->gate, 1, {1}, CB_ROLE_FROZEN},
        {"gdcan_state", &a->state, 1, {CB_GATE_NUMBERS}, CB_ROLE_STATE},
    };
    int count = a->paths == CB_PATHS_GATED ? 8 : a->paths == CB_PATHS_SPLIT ? 6 : 4;
    for (int i = 0; i < count; i++)
        list[i] = all[i];
    return count;
}

bool cb_domain_attention_initialise(cb_domain_attention *a, const cb_module *m, uint64_t seed, bool identity)
{
    bool ok = cb_init_kaiming(a->squeeze, cb_adapter_rng(seed, m, "gdcan_squeeze.weight")) &&
              (identity || cb_init_kaiming(a->excite, cb_adapter_rng(seed, m, "gdcan_excitation.weight"))) &&
              (!a->target || cb_copy_into(a->target, a->squeeze));
    if (ok && a->gate)
        *(float *)a->gate->data = 1;
    return ok;
}

bool cb_domain_attention_ready(cb_domain_attention *a)
{
    if (a->state)
        ((float *)a->state->data)[CB_GATE_SHARED] = *(const float *)a->gate->data > 0.5F;
    return true;
}

/* ---- the gate ---- */

/* mean / deviation of the rows of a domain; false: there are none, or one number alone. */
static bool ratio_of(const float *z, int64_t channels, const cb_tensor *domains, int64_t rows, int domain, float *ratio)
{
    const int32_t *of = domains->data;
    double sum = 0, squares = 0;
    int64_t count = 0;
    for (int pass = 0; pass < 2; pass++)
        for (int64_t i = 0; i < rows; i++) {
            if (of[domains->count > 1 ? i : 0] != domain)
                continue;
            count += pass ? 0 : channels;
            for (int64_t k = 0; k < channels; k++) {
                double x = z[i * channels + k], d = pass ? x - sum / (double)count : x;
                *(pass ? &squares : &sum) += pass ? d * d : d;
            }
        }
    if (count < 2)
        return false;
    *ratio = (float)(sum / (double)count / sqrt(squares / (double)(count - 1) + tiny));
    return true;
}

static bool set_gate(const cb_domain_attention *a, const cb_tensor *z, const cb_tensor *domains)
{
    cb_tensor *plain = NULL;
    cb_no_grad plain = cb_contiguous(cb_detach((cb_tensor *)(uintptr_t)z));
    if (!plain)
        return false;
    float *s = a->state->data;
    int64_t rows = plain->shape[0], channels = plain->shape[1];
    bool known = ratio_of(plain->data, channels, domains, rows, SOURCE, &s[CB_GATE_SOURCE]) || s[CB_GATE_SOURCE] != 0;
    if (!ratio_of(plain->data, channels, domains, rows, TARGET, &s[CB_GATE_TARGET]) || !known)
        return true;
    double source = s[CB_GATE_SOURCE], target = s[CB_GATE_TARGET];
    double gap = tanh(fabs(source - target) / (fabs(target) + tiny));
    s[CB_GATE_GAP] = (float)gap;
    s[CB_GATE_SHARED] = gap < a->eta;
    return true;
}

/* ---- forward ---- */

/* (N, C) f32 */
static cb_tensor *pooled(cb_tensor *y)
{
    if (!y)
        return NULL;
    cb_tensor *z = y->ndim == 4 ? cb_adaptive_avg_pool(y, 1, 1) : y;
    z = cb_reshape(z, y->shape[0], y->shape[1], -1);
    return cb_cast(cb_mean(z, 2, false), CB_F32);
}

static bool shares(const cb_domain_attention *a)
{
    return a->paths == CB_PATHS_SHARED || (a->state && ((const float *)a->state->data)[CB_GATE_SHARED] > 0.5F);
}

/* (N, R): each row by its path. */
static cb_tensor *squeezed(const cb_domain_attention *a, cb_tensor *z, const cb_tensor *domains)
{
    cb_tensor *of_source = cb_linear(z, a->squeeze, a->squeeze_bias);
    if (shares(a))
        return of_source;
    cb_tensor *of_target = cb_linear(z, a->target, a->target_bias);
    cb_tensor *is_target = cb_eq(cb_unsqueeze((cb_tensor *)(uintptr_t)domains, 1), cb_scalar(CB_I32, TARGET));
    return cb_where(is_target, of_target, of_source);
}

cb_tensor *cb_domain_attention_run(const cb_domain_attention *a, cb_tensor *y, double strength, const cb_context *ctx)
{
    cb_tensor *z = pooled(y), *domains = z ? cb_domains_of(ctx) : NULL;
    if (!domains || (ctx->training && a->state && !cb_rehearsing() && !set_gate(a, z, domains)))
        return NULL;
    cb_tensor *factor = cb_linear(cb_relu(squeezed(a, z, domains)), a->excite, a->excite_bias);
    factor = cb_add_scalar(cb_scale(cb_sigmoid(factor), a->scale * strength), 1 - strength);
    int64_t shape[CB_MAX_DIMS];
    for (int i = 0; i < y->ndim; i++)
        shape[i] = i < 2 ? y->shape[i] : 1;
    return cb_mul(y, cb_cast(cb_reshape_nd(factor, y->ndim, shape), y->dtype));
}
