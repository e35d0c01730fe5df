/* op_cases.c: the tables of cases, and inputs for them. */
#include "op_cases.h"

#include <math.h>
#include <string.h>

/* ---- the tables ---- */

static int one(cb_tensor **y, cb_tensor *result)
{
    y[0] = result;
    return result != NULL;
}

/* What the signs of singular vectors do not change: s, the polar factor u v^T and u element by element squared. */
static int svd_invariants(cb_tensor *x, cb_tensor **y)
{
    cb_tensor *u, *vt;
    if (!cb_svd(x, &u, &y[0], &vt))
        return 0;
    y[1] = cb_matmul(u, vt);
    y[2] = cb_square(u);
    return y[1] && y[2] ? 3 : 0;
}

/* x (..., n, n) made one that has an inverse */
static cb_tensor *with_diagonal(cb_tensor *x)
{
    int64_t n = x ? x->shape[x->ndim - 1] : 0;
    cb_tensor *diagonal = x ? cb_zeros(x->dtype, n, n) : NULL;
    for (int64_t i = 0; diagonal && i < n; i++)
        cb_write(cb_slice(cb_slice(diagonal, 0, i, i + 1, 1), 1, i, i + 1, 1), CB_F32, &(float){8});
    return cb_add(x, diagonal);
}

/* The eigenvalues, and the eigenvectors element by element squared, of x + x^T. */
static int eigh_invariants(cb_tensor *x, cb_tensor **y)
{
    cb_tensor *v;
    if (!cb_eigh(cb_add(x, cb_transpose(x, 0, 1)), &y[0], &v))
        return 0;
    y[1] = cb_square(v);
    return y[1] ? 2 : 0;
}

static cb_tensor *lengths(int64_t a, int64_t b, int64_t c)
{
    return cb_from(CB_I64, ((const int64_t[]){a, b, c}), 3);
}

static cb_tensor *checkpointed(void *user, cb_tensor *const *x)
{
    (void)user;
    return cb_tanh(cb_mul(x[0], cb_square(x[1])));
}

/* A frozen (3, 256) matrix of a quantised dtype, and x (..., 5) made as wide. */
static cb_tensor *frozen(cb_dtype dtype)
{
    cb_rng rng = {.seed = 5};
    return cb_quantize(cb_randn(CB_F32, &rng, 3, 256), dtype, 0);
}

static cb_tensor *widened(cb_tensor *x)
{
    cb_rng rng = {.seed = 6};
    return x ? cb_linear(x, cb_cast(cb_randn(CB_F32, &rng, 256, 5), x->dtype), NULL) : NULL;
}

/* Update 0 for the first half of x's rows and 1 for the second, which share a middle one; the last row of all has 0 again. */
static const cb_low_rank_rows *halves(const cb_tensor *x)
{
    static _Thread_local cb_low_rank_rows segments[3];
    int64_t rows = 1;
    for (int i = 0; i < x->ndim - 1; i++)
        rows *= x->shape[i];
    segments[0] = (cb_low_rank_rows){0, (rows + 1) / 2, 0};
    segments[1] = (cb_low_rank_rows){rows / 2, rows, 1};
    segments[2] = (cb_low_rank_rows){rows - 1, rows, 0};
    return segments;
}

static int halves_count(const cb_tensor *x)
{
    return halves(x)[1].end ? 3 : 0;
}

/* Values that are not known where those of `at` are above 1.5. */
static cb_tensor *with_holes(cb_tensor *at, cb_tensor *values)
{
    return values ? cb_where(cb_gt(at, cb_scalar(at->dtype, 1.5)), cb_scalar(values->dtype, NAN), values) : NULL;
}

#define CASE(name_, expression, ...)                                                                                                       \
    static int run_##name_(cb_tensor *const *x, cb_tensor **y)                                                                             \
    {                                                                                                                                      \
        return one(y, expression);                                                                                                         \
    }
#define CASE_MANY(name_, expression, ...)                                                                                                  \
    static int run_##name_(cb_tensor *const *x, cb_tensor **y)                                                                             \
    {                                                                                                                                      \
        return expression;                                                                                                                 \
    }
#include "loss_cases.inc.h"
#include "op_cases.inc.h"
#undef CASE
#undef CASE_MANY

/* an input without a domain is NORMAL */
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#define CASE(name_, expression, ...)      {.name = #name_, .text = #expression, .run = run_##name_, __VA_ARGS__},
#define CASE_MANY(name_, expression, ...) CASE(name_, expression, __VA_ARGS__)
const op_case op_cases[] = {
#include "op_cases.inc.h"
};
const op_case loss_cases[] = {
#include "loss_cases.inc.h"
};
const size_t op_case_count = sizeof op_cases / sizeof *op_cases, loss_case_count = sizeof loss_cases / sizeof *loss_cases;

/* ---- sizes ---- */

/* Small sizes differ from one another, so that exchanged dimensions show; large ones are off the multiples of vectors
 * and tiles (16, 64) or cross them (attention takes keys by 64, cross-entropy rows by 512). */
static const struct {
    char letter;
    int64_t size[3];
} sizes_of[] = {
    {'A', {2, 1, 3}},   {'B', {3, 1, 7}},   {'C', {5, 1, 33}},  {'D', {4, 2, 32}}, /* of a head: even */
    {'G', {2, 1, 2}},                                                              /* key-value heads */
    {'H', {4, 1, 4}},                                                              /* query heads: a multiple of G */
    {'K', {5, 1, 67}},  {'M', {3, 1, 19}},  {'N', {4, 1, 34}},  {'P', {2, 1, 3}},
    {'R', {1, 1, 8}},   /* half of the rotated part of a head */
    {'S', {7, 1, 150}}, /* keys; at least as many as queries, T */
    {'T', {5, 1, 70}},  {'V', {6, 2, 131}}, {'Z', {5, 1, 600}},
};

int64_t op_size(char letter, sizes s)
{
    if (letter >= '0' && letter <= '9')
        return letter - '0';
    if (letter == s.zero)
        return 0;
    for (size_t i = 0; i < sizeof sizes_of / sizeof *sizes_of; i++)
        if (sizes_of[i].letter == letter)
            return sizes_of[i].size[s.scale];
    fail_msg("the letter %c has no size", letter);
    return 0;
}

/* ---- values ---- */

static double quantized(double value)
{
    return round(value * 1024) / 1024;
}

static int64_t below(cb_rng *rng, int64_t bound)
{
    return bound > 0 ? (int64_t)cb_rng_below(rng, (uint64_t)bound) : 0;
}

/* A permutation of values 96/1024 apart; 16 + 32 i modulo 96 and 512 keeps inputs apart, and all of them from multiples of 1/2. */
static void distinct(double *v, int64_t n, int input, cb_rng *rng)
{
    int64_t middle = n / 2;
    for (int64_t i = 0; i < n; i++)
        v[i] = (double)(96 * (i - middle) + 16 + 32 * input) / 1024;
    for (int64_t i = n - 1; i > 0; i--) {
        int64_t j = below(rng, i + 1);
        double swap = v[i];
        v[i] = v[j];
        v[j] = swap;
    }
}

static void probabilities(double *v, int64_t n, int64_t row, bool log_form, cb_rng *rng)
{
    for (int64_t i = 0; i < n; i++)
        v[i] = 0.1 + cb_rng_uniform(rng);
    for (int64_t first = 0; first < n; first += row) {
        double sum = 0;
        for (int64_t i = first; i < first + row; i++)
            sum += v[i];
        for (int64_t i = first; i < first + row; i++)
            v[i] = log_form ? log(v[i] / sum) : v[i] / sum;
    }
}

static double value_of(domain d, int64_t limit, int64_t index, int64_t row, cb_rng *rng)
{
    switch (d) {
    case POSITIVE:
    case VARIANCES:
        return quantized(0.5 + 2 * cb_rng_uniform(rng));
    case UNIT:
        return quantized(0.1 + 0.8 * cb_rng_uniform(rng));
    case LEVELS:
        return (double)below(rng, 3) - 1;
    case PLUS_MINUS:
        return below(rng, 2) ? 1 : -1;
    case BOOLEAN:
        return (double)below(rng, 2);
    case INDEX:
    case INDEX32:
    case POSITIONS:
        return (double)below(rng, limit);
    case TARGETS:
    case TARGETS32:
        return index % 4 == 1 ? -100 : (double)below(rng, limit);
    case SEGMENTS:
        return index % row == row - 1 && row > 1 ? -1 : 2 * (index % row) >= row;
    default:
        return quantized(4 * cb_rng_uniform(rng) - 2);
    }
}

static void fill(double *v, int64_t n, const op_input *input, int position, int64_t row, int64_t limit, cb_rng *rng)
{
    switch (input->domain) {
    case DISTINCT:
        distinct(v, n, position, rng);
        break;
    case PROBABILITIES:
    case LOG_PROBABILITIES:
        probabilities(v, n, row, input->domain == LOG_PROBABILITIES, rng);
        break;
    default:
        for (int64_t i = 0; i < n; i++)
            v[i] = value_of(input->domain, limit, i, row, rng);
    }
}

static cb_dtype dtype_of(domain d, cb_dtype dtype)
{
    switch (d) {
    case BOOLEAN:
        return CB_BOOL;
    case INDEX:
    case TARGETS:
        return CB_I64;
    case INDEX32:
    case TARGETS32:
    case POSITIONS:
    case SEGMENTS:
        return CB_I32;
    case TABLE:
    case VARIANCES:
        return CB_F32;
    default:
        return dtype;
    }
}

bool op_is_differentiable(const op_input *input)
{
    return input->domain < CONSTANT;
}

/* ---- views ---- */

static layout layout_of(const op_input *input, layout wanted, int ndim)
{
    bool repeats = wanted == EXPANDED && (input->domain == DISTINCT || input->domain == PROBABILITIES);
    return ndim == 0 || input->domain >= POSITIONS || repeats ? DENSE : wanted;
}

static void leaf_shape(layout l, int ndim, const int64_t *shape, int64_t *leaf)
{
    for (int i = 0; i < ndim; i++)
        leaf[i] = l == PERMUTED ? shape[ndim - 1 - i] : shape[i];
    if (l == SLICED)
        leaf[ndim - 1] = 2 * shape[ndim - 1] + 1;
    if (l == EXPANDED && shape[0] > 0)
        leaf[0] = 1;
}

static cb_tensor *view_of(cb_tensor *leaf, layout l, int ndim, const int64_t *shape)
{
    static const int reversed[5][5] = {{0}, {1, 0}, {2, 1, 0}, {3, 2, 1, 0}, {4, 3, 2, 1, 0}};
    switch (l) {
    case PERMUTED:
        return cb_permute_nd(leaf, ndim, reversed[ndim - 1]);
    case SLICED:
        return cb_slice(leaf, -1, 1, 2 * shape[ndim - 1] + 1, 2);
    case EXPANDED:
        return cb_expand_nd(leaf, ndim, shape);
    default:
        return leaf;
    }
}

/* ---- samples ---- */

static uint64_t hash(const char *name)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (; *name; name++)
        h = (h ^ (uint8_t)*name) * 0x100000001b3u;
    return h;
}

static cb_tensor *leaf_make(const op_input *input, int position, cb_dtype dtype, int64_t limit, int ndim, const int64_t *shape, cb_rng *rng)
{
    cb_tensor *leaf = cb_empty_nd(dtype_of(input->domain, dtype), ndim, shape);
    double *values = leaf ? cb_calloc((size_t)leaf->count + 1, sizeof *values) : NULL;
    if (!values)
        return NULL;
    int64_t row = ndim && shape[ndim - 1] > 0 ? shape[ndim - 1] : 1;
    fill(values, leaf->count, input, position, row, limit, rng);
    if (!cb_dtype_is_float(dtype) && op_is_differentiable(input) && input->domain != LEVELS)
        for (int64_t i = 0; i < leaf->count; i++)
            values[i] = round(32 * values[i]);
    bool ok = cb_write(leaf, CB_F64, values);
    cb_free(values);
    if (ok && op_is_differentiable(input) && cb_dtype_is_float(leaf->dtype))
        cb_parameter(leaf);
    return ok ? leaf : NULL;
}

sample sample_make(const op_case *c, cb_dtype dtype, sizes s, layout wanted)
{
    sample made = {.c = c, .layout = wanted};
    cb_rng rng = {.seed = hash(c->name)};
    for (int i = 0; i < OP_INPUTS && c->input[i].shape; i++) {
        const op_input *input = &c->input[i];
        int ndim = (int)strlen(input->shape);
        int64_t leaf[CB_MAX_DIMS] = {0};
        for (int d = 0; d < ndim; d++)
            made.shape[i][d] = op_size(input->shape[d], s);
        leaf_shape(layout_of(input, wanted, ndim), ndim, made.shape[i], leaf);
        made.ndim[i] = ndim;
        made.leaf[i] = leaf_make(input, i, dtype, input->limit ? op_size(input->limit, s) : 0, ndim, leaf, &rng);
        if (!made.leaf[i])
            fail_msg("%s: no input %d: %s", c->name, i, cb_error_message());
        made.inputs = i + 1;
    }
    return made;
}

int sample_run(const sample *s, cb_tensor **y)
{
    cb_tensor *x[OP_INPUTS] = {0};
    for (int i = 0; i < s->inputs; i++) {
        x[i] = view_of(s->leaf[i], layout_of(&s->c->input[i], s->layout, s->ndim[i]), s->ndim[i], s->shape[i]);
        if (!x[i])
            return 0;
    }
    return s->c->run(x, y);
}
