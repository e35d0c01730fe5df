/* invertible.c: see invertible.h. */
#include "adapters/invertible.h"

#include "adapters/activation.h"

const char *const cb_invertible_names[] = {"none", "nice", "glow", NULL};

/* The network that looks at one half and what it gives: (in) -> (out), by way of in / reduction. */
typedef struct shape {
    int64_t in, inner, out;
} shape;

/* F and S2 look at the second half and change the first, G and S1 the other way about. */
static shape shape_of(const cb_invertible *map, bool changes_first)
{
    int64_t first = map->width / 2, second = map->width - first;
    int64_t in = changes_first ? second : first, out = changes_first ? first : second;
    int64_t inner = (int64_t)((double)in / map->reduction);
    return (shape){in, inner > 0 ? inner : 1, map->form == CB_INVERTIBLE_GLOW ? 2 * out : out};
}

/* ---- parameters ---- */

#define NAMES(network) network ".0.weight", network ".0.bias", network ".2.weight", network ".2.bias"
#define PREFIX         "invertible_adapters."
static const char *const nice_names[] = {NAMES(PREFIX "F"), NAMES(PREFIX "G")};
static const char *const glow_names[] = {NAMES(PREFIX "s1"), NAMES(PREFIX "s2")};

int cb_invertible_parameters(cb_invertible *map, cb_adapter_parameter *list)
{
    bool glow = map->form == CB_INVERTIBLE_GLOW;
    const char *const *names = glow ? glow_names : nice_names;
    for (int k = 0; k < 2; k++) {
        shape s = shape_of(map, (k == 0) != glow);
        cb_tensor **p = map->parameters + 4 * k;
        cb_adapter_parameter *to = list + 4 * k;
        to[0] = (cb_adapter_parameter){names[4 * k], &p[0], 2, {s.inner, s.in}, CB_ROLE_TRAINED};
        to[1] = (cb_adapter_parameter){names[4 * k + 1], &p[1], 1, {s.inner}, CB_ROLE_TRAINED};
        to[2] = (cb_adapter_parameter){names[4 * k + 2], &p[2], 2, {s.out, s.inner}, CB_ROLE_TRAINED};
        to[3] = (cb_adapter_parameter){names[4 * k + 3], &p[3], 1, {s.out}, CB_ROLE_TRAINED};
    }
    return 8;
}

bool cb_invertible_initialise(cb_invertible *map, const cb_module *m, uint64_t seed)
{
    const char *const *names = map->form == CB_INVERTIBLE_GLOW ? glow_names : nice_names;
    bool ok = true;
    for (int i = 0; ok && i < 8; i += 2)
        ok = cb_init_normal(map->parameters[i], cb_adapter_rng(seed, m, names[i]), 0.02);
    return ok;
}

/* ---- forward and back ---- */

/* What the first (k 0) or second network makes of x. */
static cb_tensor *network(const cb_invertible *map, int k, cb_tensor *x, double strength)
{
    cb_tensor *const *p = map->parameters + 4 * k;
    cb_tensor *y = cb_linear(cb_adapter_activate(map->activation, cb_linear(x, p[0], p[1])), p[2], p[3]);
    return strength == 1 ? y : cb_scale(y, strength);
}

/* c 0.636 atan(s / c) */
static cb_tensor *log_scale(cb_tensor *s)
{
    const double clamp = 5, slope = 0.636;
    return cb_scale(cb_atan(cb_scale(s, 1 / clamp)), clamp * slope);
}

/* One half with what the networks make of the other: x + F(other), or e(s) x + t; or back. */
static cb_tensor *couple(const cb_invertible *map, int k, cb_tensor *x, cb_tensor *other, double strength, bool back)
{
    cb_tensor *change = network(map, k, other, strength);
    if (!x || !change)
        return NULL;
    if (map->form == CB_INVERTIBLE_NICE)
        return back ? cb_sub(x, change) : cb_add(x, change);
    int64_t width = x->shape[x->ndim - 1];
    cb_tensor *log = log_scale(cb_slice(change, -1, 0, width, 1)), *t = cb_slice(change, -1, width, 2 * width, 1);
    return back ? cb_mul(cb_sub(x, t), cb_exp(cb_neg(log))) : cb_add(cb_mul(cb_exp(log), x), t);
}

/* The network that changes the first half. */
static int changer_of_first(const cb_invertible *map)
{
    return map->form == CB_INVERTIBLE_GLOW ? 1 : 0;
}

/* In f32: what is undone later had better not be rounded on the way. */
static cb_tensor *halves(const cb_invertible *map, cb_tensor *x, cb_tensor **second)
{
    x = cb_cast(x, CB_F32);
    *second = cb_slice(x, -1, map->width / 2, map->width, 1);
    return cb_slice(x, -1, 0, map->width / 2, 1);
}

static cb_tensor *join(cb_tensor *first, cb_tensor *second, const cb_tensor *like)
{
    if (!first || !second)
        return NULL;
    cb_tensor *parts[] = {first, second};
    return cb_cast(cb_cat(2, parts, -1), like->dtype);
}

cb_tensor *cb_invertible_forward(const cb_invertible *map, cb_tensor *x, double strength)
{
    int first = changer_of_first(map);
    cb_tensor *x2, *x1 = halves(map, x, &x2);
    cb_tensor *y1 = couple(map, first, x1, x2, strength, false);
    return join(y1, couple(map, 1 - first, x2, y1, strength, false), x);
}

cb_tensor *cb_invertible_inverse(const cb_invertible *map, cb_tensor *y, double strength)
{
    int first = changer_of_first(map);
    cb_tensor *y2, *y1 = halves(map, y, &y2);
    cb_tensor *x2 = couple(map, 1 - first, y2, y1, strength, true);
    return join(couple(map, first, y1, x2, strength, true), x2, y);
}
