/* op_check.c: the questions asked of every case of op_cases.h.
 *
 * Derivatives are measured on L = sum_k <y_k, dy_k> with fixed random dy_k: by central differences of fourth order for each
 * element of each input at small sizes, and along one random direction at large sizes.  The step 2^-10 is exact in every input;
 * the formula's own error is about f^(5) h^4 / 30 = 3e-14 f^(5), rounding adds 2^-53 |L| / h = 1e-13 |L|, and an op that
 * keeps its statistics or a mask in f32 adds 2^-24. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "op_cases.h"

static const double step = 0x1p-10;
static const sizes small = {SMALL, 0}, ones = {ONE, 0}, large = {LARGE, 0};

/* One case under examination: what is printed when it fails. */
typedef struct trial {
    const op_case *c;
    cb_dtype dtype;
    sizes s;
    layout layout;
} trial;

__attribute__((format(printf, 2, 3))) static bool complain(const trial *t, const char *format, ...)
{
    static const char *const layouts[] = {"dense", "permuted", "sliced", "expanded"}, *const scales[] = {"small", "one", "large"};
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    print_error("%s (%s, %s sizes%s%c, %s): %s%s%s\n", t->c->name, cb_dtype_name(t->dtype), scales[t->s.scale], t->s.zero ? ", zero " : "",
                t->s.zero ? t->s.zero : ' ', layouts[t->layout], text, cb_ok() ? "" : ": ", cb_error_message());
    cb_error_clear();
    return false;
}

/* ---- numbers ---- */

/* The elements of a tensor as doubles; zeros for NULL.  Freed by the caller. */
static double *numbers(const cb_tensor *x, int64_t count)
{
    double *v = cb_calloc((size_t)count + 1, sizeof *v);
    assert_non_null(v);
    if (x)
        assert_true(cb_read(x, CB_F64, v));
    return v;
}

static double inner_product(const cb_tensor *x, const double *v)
{
    double *u = numbers(x, x->count), sum = 0;
    for (int64_t i = 0; i < x->count; i++)
        sum += u[i] * v[i];
    cb_free(u);
    return sum;
}

static double largest(const double *v, int64_t count)
{
    double most = 0;
    for (int64_t i = 0; i < count; i++)
        most = fabs(v[i]) > most ? fabs(v[i]) : most;
    return most;
}

/* False, with a complaint, at the first element that is off by more than `allowed`. */
static bool close_to(const trial *t, const char *what, int index, const double *got, const double *expected, int64_t count, double allowed)
{
    for (int64_t i = 0; i < count; i++) {
        bool same = got[i] == expected[i] || (isnan(got[i]) && isnan(expected[i])) || fabs(got[i] - expected[i]) <= allowed;
        if (!same)
            return complain(t, "%s %d, element %lld of %lld is %.12g, expected %.12g (within %.3g)", what, index, (long long)i,
                            (long long)count, got[i], expected[i], allowed);
    }
    return true;
}

/* ---- runs ---- */

/* A sample with the gradients of its outputs. */
typedef struct problem {
    trial t;
    sample s;
    int outputs;
    cb_tensor *dy[OP_OUTPUTS]; /* NULL where the output has no gradient */
} problem;

static bool has_gradient(const cb_tensor *y)
{
    return cb_dtype_is_float(y->dtype) && y->requires_grad;
}

/* A random gradient like y, with the strides of a view when the sample has them. */
static cb_tensor *random_like(const cb_tensor *y, layout l, cb_rng *rng)
{
    int64_t shape[CB_MAX_DIMS];
    int turned[CB_MAX_DIMS];
    for (int i = 0; i < y->ndim; i++) {
        turned[i] = l == PERMUTED ? y->ndim - 1 - i : i;
        shape[i] = l == EXPANDED && i == 0 && y->shape[0] > 0 ? 1 : y->shape[turned[i]];
    }
    cb_tensor *dy = cb_empty_nd(y->dtype, y->ndim, shape);
    for (int64_t i = 0; dy && i < dy->count; i++) {
        double value = round(2048 * cb_rng_uniform(rng) - 1024) / 512;
        cb_tensor *element = cb_view(dy, 0, NULL, NULL, i);
        if (!element || !cb_write(element, CB_F64, &value))
            return NULL;
    }
    dy = l == PERMUTED ? cb_permute_nd(dy, y->ndim, turned) : dy;
    return l == EXPANDED ? cb_expand_nd(dy, y->ndim, y->shape) : dy;
}

/* Draws the sample and the gradients of its outputs; false when the case fails. */
static bool problem_make(problem *p, const trial *t)
{
    *p = (problem){.t = *t, .s = sample_make(t->c, t->dtype, t->s, t->layout)};
    cb_tensor *y[OP_OUTPUTS] = {0};
    p->outputs = sample_run(&p->s, y);
    cb_rng rng = {.seed = 11};
    for (int k = 0; k < p->outputs; k++)
        if (has_gradient(y[k]) && !(p->dy[k] = random_like(y[k], t->layout, &rng)))
            break;
    return p->outputs && cb_ok() ? true : complain(t, "fails");
}

static bool has_any_gradient(const problem *p)
{
    bool any = false;
    for (int k = 0; k < p->outputs; k++)
        any = any || p->dy[k];
    return any;
}

/* The leaves that have gradients; *count of them, their position in `index`. */
static void differentiable(const sample *s, cb_tensor **leaf, int *index, int *count)
{
    *count = 0;
    for (int i = 0; i < s->inputs; i++)
        if (s->leaf[i]->requires_grad) {
            leaf[*count] = s->leaf[i];
            index[(*count)++] = i;
        }
}

/* Runs `times` times and gives the gradients of the sum over runs: with two, the rules that add into an existing gradient show. */
static bool gradients(const problem *p, int times, int nx, cb_tensor **x, cb_tensor **grads, cb_grad_options options)
{
    cb_tensor *ys[2 * OP_OUTPUTS], *dys[2 * OP_OUTPUTS];
    int ny = 0;
    for (int i = 0; i < times; i++) {
        cb_tensor *y[OP_OUTPUTS] = {0};
        if (sample_run(&p->s, y) != p->outputs)
            return false;
        for (int k = 0; k < p->outputs; k++) {
            if (!p->dy[k] || !has_gradient(y[k]))
                continue;
            ys[ny] = y[k];
            dys[ny++] = cb_cast(p->dy[k], y[k]->dtype);
        }
    }
    return cb_grad_of(ny, ys, dys, nx, x, grads, options);
}

/* ---- finite differences ---- */

typedef double scalar_function(const problem *p, const void *user);

/* Derivative of f along the direction in which element `element` of x moves, or every element by `direction` (element < 0). */
static double difference(scalar_function *f, const problem *p, const void *user, cb_tensor *x, int64_t element, const double *direction)
{
    static const double at[] = {-2, -1, 1, 2}, weight[] = {1, -8, 8, -1};
    double *saved = numbers(x, x->count), *v = numbers(x, x->count), sum = 0;
    for (int i = 0; i < 4; i++) {
        for (int64_t j = 0; j < x->count; j++)
            v[j] = saved[j] + at[i] * step * (direction ? direction[j] : j == element);
        assert_true(cb_write(x, CB_F64, v));
        sum += weight[i] * f(p, user);
    }
    assert_true(cb_write(x, CB_F64, saved));
    cb_free(saved);
    cb_free(v);
    return sum / (12 * step);
}

static bool matches_differences(const problem *p, const char *what, int index, scalar_function *f, const void *user, cb_tensor *x,
                                const cb_tensor *gradient, bool one_direction)
{
    double *g = numbers(gradient, x->count), *d = cb_calloc((size_t)x->count + 1, sizeof *d);
    assert_non_null(d);
    int64_t count = x->count;
    double allowed = 1e-6 * (1 + largest(g, count));
    if (one_direction) {
        double along = 0;
        for (int64_t i = 0; i < count; i++) {
            d[i] = (double)(i * 7 % 3 - 1);
            along += d[i] * g[i];
        }
        allowed *= 1 + sqrt((double)count);
        d[0] = difference(f, p, user, x, -1, d);
        g[0] = along;
        count = 1;
    } else {
        for (int64_t i = 0; i < count; i++)
            d[i] = difference(f, p, user, x, i, NULL);
    }
    bool ok = close_to(&p->t, what, index, g, d, count, allowed);
    cb_free(g);
    cb_free(d);
    return ok && (cb_ok() || complain(&p->t, "fails beside its sample"));
}

static double projection(const problem *p, const void *user)
{
    (void)user;
    cb_scope *scope = cb_scope_open();
    cb_tensor *y[OP_OUTPUTS] = {0};
    double sum = 0;
    cb_no_grad
    {
        int outputs = sample_run(&p->s, y);
        for (int k = 0; k < outputs; k++) {
            if (!p->dy[k])
                continue;
            double *dy = numbers(p->dy[k], p->dy[k]->count);
            sum += inner_product(y[k], dy);
            cb_free(dy);
        }
    }
    cb_scope_close(scope);
    return sum;
}

/* ---- the first derivative ---- */

/* One input at a time, the others frozen: what an op saves depends on who wants a gradient. */
static bool alone_as_together(const problem *p, int nx, cb_tensor **x, const int *index, cb_tensor **together)
{
    bool ok = true;
    for (int i = 0; i < nx && ok && nx > 1 && p->t.s.scale == SMALL; i++) {
        for (int j = 0; j < nx; j++)
            x[j]->requires_grad = j == i;
        cb_tensor *g = NULL;
        if (!gradients(p, 1, 1, &x[i], &g, (cb_grad_options){0})) {
            ok = complain(&p->t, "no gradient for input %d alone", index[i]);
            break;
        }
        double *a = numbers(g, x[i]->count), *b = numbers(together[i], x[i]->count);
        ok = close_to(&p->t, "alone, gradient", index[i], a, b, x[i]->count, 1e-12 * (1 + largest(b, x[i]->count)));
        cb_free(a);
        cb_free(b);
    }
    for (int j = 0; j < nx; j++)
        x[j]->requires_grad = true;
    return ok;
}

static bool twice_is_double(const problem *p, int nx, cb_tensor **x, const int *index, cb_tensor **once)
{
    cb_tensor *g[OP_INPUTS] = {0};
    if (!gradients(p, 2, nx, x, g, (cb_grad_options){0}))
        return complain(&p->t, "no gradient of two runs");
    bool ok = true;
    for (int i = 0; i < nx && ok; i++) {
        double *a = numbers(g[i], x[i]->count), *b = numbers(once[i], x[i]->count);
        for (int64_t j = 0; j < x[i]->count; j++)
            b[j] *= 2;
        ok = close_to(&p->t, "of two runs, gradient", index[i], a, b, x[i]->count, 1e-6 * (1 + largest(b, x[i]->count)));
        cb_free(a);
        cb_free(b);
    }
    return ok;
}

static bool check_gradient(const trial *t)
{
    problem p;
    if (!problem_make(&p, t))
        return false;
    if (!has_any_gradient(&p))
        return t->c->op ? complain(t, "records nothing") : true;
    cb_tensor *x[OP_INPUTS], *g[OP_INPUTS];
    int index[OP_INPUTS], nx;
    differentiable(&p.s, x, index, &nx);
    if (!gradients(&p, 1, nx, x, g, (cb_grad_options){0}))
        return complain(t, "no gradient");
    bool ok = true;
    for (int i = 0; i < nx && ok && !t->c->kinks; i++)
        ok = matches_differences(&p, "gradient", index[i], projection, NULL, x[i], g[i], t->s.scale == LARGE);
    return ok && alone_as_together(&p, nx, x, index, g) && twice_is_double(&p, nx, x, index, g);
}

/* ---- variants ---- */

typedef bool check_function(const trial *t);

/* A check in a scope of its own that must leave no memory behind. */
static bool run_check(check_function *check, const op_case *c, cb_dtype dtype, sizes s, layout l)
{
    trial t = {c, dtype, s, l};
    uint64_t live = cb_memory().live_bytes;
    cb_scope *scope = cb_scope_open();
    bool ok = check(&t);
    cb_scope_close(scope);
    /* the other dtypes' products keep a cache */
    if (ok && dtype == CB_F64 && cb_memory().live_bytes != live)
        return complain(&t, "%lld bytes are left behind", (long long)(cb_memory().live_bytes - live));
    return ok;
}

static bool uses(const op_case *c, char letter)
{
    for (int i = 0; i < OP_INPUTS && c->input[i].shape; i++)
        if (strchr(c->input[i].shape, letter))
            return true;
    return false;
}

/* Each letter in turn is 0. */
static bool with_zeros(check_function *check, const op_case *c, layout l)
{
    bool ok = true;
    for (char letter = 'A'; letter <= 'Z' && ok; letter++)
        if (uses(c, letter) && !(c->nonzero && strchr(c->nonzero, letter)))
            ok = run_check(check, c, CB_F64, (sizes){SMALL, letter}, l);
    return ok;
}

bool gradient_is_the_derivative(const op_case *c)
{
    bool ok = true;
    for (int l = DENSE; l < LAYOUTS; l++)
        ok = run_check(check_gradient, c, CB_F64, small, (layout)l) && ok;
    if (c->fixed)
        return ok;
    ok = run_check(check_gradient, c, CB_F64, ones, DENSE) && ok;
    ok = with_zeros(check_gradient, c, DENSE) && with_zeros(check_gradient, c, PERMUTED) && ok;
    if (c->plain_f64)
        return ok;
    return run_check(check_gradient, c, CB_F64, large, DENSE) && run_check(check_gradient, c, CB_F64, large, SLICED) && ok;
}

/* ---- what a graph contains ---- */

/* Calls visit for the op of every node below `node`; graphs of samples are small. */
static void walk(const cb_node *node, void (*visit)(const cb_op *op, void *user), void *user)
{
    if (!node)
        return;
    visit(node->op, user);
    for (int i = 0; i < node->inputs; i++)
        walk(node->input[i].node, visit, user);
}

static void mark_op(const cb_op *op, void *user)
{
    bool *seen = user;
    for (size_t i = 0; i < cb_op_table_count; i++)
        if (cb_op_table[i] == op) {
            seen[i] = true;
            return;
        }
    fail_msg("the op %s is not in the table", op->name);
}

static void keep_fused(const cb_op *op, void *user)
{
    if (!op->twice)
        *(const cb_op **)user = op;
}

static bool *walked_seen; /* in the order of cb_op_table */

/* The graphs of the sample and of its gradient. */
static bool check_record(const trial *t)
{
    problem p;
    if (!problem_make(&p, t))
        return false;
    cb_tensor *y[OP_OUTPUTS] = {0}, *x[OP_INPUTS], *g[OP_INPUTS] = {0};
    const cb_op *fused = NULL;
    sample_run(&p.s, y);
    for (int k = 0; k < p.outputs; k++) {
        walk(y[k]->node, mark_op, walked_seen);
        walk(y[k]->node, keep_fused, &fused);
    }
    if (fused || !has_any_gradient(&p))
        return true;
    int index[OP_INPUTS], nx;
    differentiable(&p.s, x, index, &nx);
    if (!gradients(&p, 1, nx, x, g, (cb_grad_options){.create_graph = true}))
        return complain(t, "no gradient that can be differentiated");
    for (int i = 0; i < nx; i++)
        walk(g[i] ? g[i]->node : NULL, mark_op, walked_seen);
    return true;
}

bool records_its_op(const op_case *c, bool *seen)
{
    bool *here = cb_calloc(cb_op_table_count, sizeof *here);
    assert_non_null(here);
    walked_seen = here;
    bool ok = true, found = !c->op;
    for (int l = DENSE; l < LAYOUTS; l++)
        ok = run_check(check_record, c, CB_F64, small, (layout)l) && ok;
    for (size_t i = 0; i < cb_op_table_count; i++) {
        seen[i] = seen[i] || here[i];
        found = found || (here[i] && strcmp(cb_op_table[i]->name, c->op) == 0);
    }
    cb_free(here);
    if (!found)
        print_error("%s: its op, %s, is not recorded\n", c->name, c->op);
    return ok && found;
}

/* ---- the second derivative ---- */

/* v_j for each gradient of the first pass. */
typedef struct second {
    int nx;
    cb_tensor *x[OP_INPUTS];
    cb_tensor *v[OP_INPUTS];
} second;

/* sum_j <gradient of x_j, v_j> at the present inputs, by the rules that are not recorded. */
static double gradient_projection(const problem *p, const void *user)
{
    const second *s = user;
    cb_scope *scope = cb_scope_open();
    cb_tensor *g[OP_INPUTS] = {0}, *x[OP_INPUTS];
    memcpy(x, s->x, sizeof x);
    double sum = 0;
    if (gradients(p, 1, s->nx, x, g, (cb_grad_options){0}))
        for (int i = 0; i < s->nx; i++) {
            double *v = numbers(s->v[i], s->x[i]->count);
            sum += g[i] ? inner_product(g[i], v) : 0;
            cb_free(v);
        }
    cb_scope_close(scope);
    return sum;
}

/* The pass must be refused by the name of an op that has no second derivative. */
static bool check_refusal(const trial *t, bool given, const cb_op *fused)
{
    char expected[160];
    snprintf(expected, sizeof expected, "%s has no second derivative", fused->name);
    bool refused = !given && cb_error_status() == CB_ERR_UNSUPPORTED && strstr(cb_error_message(), "has no second derivative");
    if (!refused)
        return complain(t, "expected the refusal \"%s\"", expected);
    cb_error_clear();
    return true;
}

static bool check_second(const trial *t)
{
    problem p;
    if (!problem_make(&p, t))
        return false;
    if (!has_any_gradient(&p))
        return true;
    second s = {0};
    int index[OP_INPUTS];
    differentiable(&p.s, s.x, index, &s.nx);
    cb_tensor *y[OP_OUTPUTS] = {0};
    const cb_op *fused = NULL;
    sample_run(&p.s, y);
    for (int k = 0; k < p.outputs; k++) {
        walk(y[k]->node, keep_fused, &fused);
        if (p.dy[k])
            cb_parameter(p.dy[k] = cb_contiguous(p.dy[k]));
    }
    cb_tensor *g[OP_INPUTS] = {0};
    bool given = gradients(&p, 1, s.nx, s.x, g, (cb_grad_options){.create_graph = true});
    if (fused)
        return check_refusal(t, given, fused);
    if (!given)
        return complain(t, "no gradient that can be differentiated");

    cb_rng rng = {.seed = 12};
    cb_tensor *first[OP_INPUTS], *v[OP_INPUTS], *leaf[OP_INPUTS + OP_OUTPUTS], *h[OP_INPUTS + OP_OUTPUTS] = {0};
    int ny = 0, nx = 0;
    for (int i = 0; i < s.nx; i++) {
        leaf[nx++] = s.x[i];
        s.v[i] = g[i] ? random_like(g[i], DENSE, &rng) : NULL;
        if (!g[i] || !g[i]->requires_grad)
            continue;
        first[ny] = g[i];
        v[ny++] = s.v[i];
    }
    for (int k = 0; k < p.outputs; k++)
        if (p.dy[k])
            leaf[nx++] = p.dy[k];
    if (ny && !cb_grad_of(ny, first, v, nx, leaf, h, (cb_grad_options){0}))
        return complain(t, "no second gradient");
    bool ok = true;
    for (int i = 0; i < nx && ok; i++)
        ok = matches_differences(&p, i < s.nx ? "second gradient" : "gradient of the gradient by that of output",
                                 i < s.nx ? index[i] : i - s.nx, gradient_projection, &s, leaf[i], h[i], false);
    return ok;
}

bool second_gradient_is_the_derivative(const op_case *c)
{
    if (c->kinks)
        return true;
    bool ok = run_check(check_second, c, CB_F64, small, DENSE);
    ok = run_check(check_second, c, CB_F64, small, PERMUTED) && ok;
    return (c->fixed || run_check(check_second, c, CB_F64, ones, DENSE)) && ok;
}

/* ---- dtypes ---- */

/* Half of the distance from 1 to the next number. */
static double unit_roundoff(cb_dtype dtype)
{
    return dtype == CB_F64 ? 0x1p-53 : dtype == CB_F32 ? 0x1p-24 : dtype == CB_F16 ? 0x1p-11 : 0x1p-8;
}

/* The sample with every float leaf widened to f64: the same numbers, so rounding of inputs is no error. */
static bool widened(const problem *narrow, problem *wide)
{
    *wide = *narrow;
    wide->t.dtype = CB_F64;
    for (int i = 0; i < narrow->s.inputs; i++) {
        cb_tensor *leaf = narrow->s.leaf[i];
        if (leaf->dtype != narrow->t.dtype || narrow->t.c->input[i].domain > PLUS_MINUS)
            continue;
        wide->s.leaf[i] = cb_cast(cb_detach(leaf), CB_F64);
        if (op_is_differentiable(&narrow->t.c->input[i]))
            cb_parameter(wide->s.leaf[i]);
    }
    for (int k = 0; k < narrow->outputs; k++)
        if (narrow->dy[k])
            wide->dy[k] = cb_cast(narrow->dy[k], CB_F64);
    return cb_ok();
}

/* A result is rounded once to the dtype; a gradient is a product of a few values that were, and a composite rounds between its
 * parts: an error is a few units of the largest element, four for the half types, which are computed on in f32.  In f32 the
 * sums and the vector kernels' functions add to it, by up to sqrt(n) for n terms: sixteen. */
static bool agree(const trial *t, const char *what, int index, const cb_tensor *got, const cb_tensor *expected)
{
    int64_t count = got ? got->count : expected ? expected->count : 0;
    double *a = numbers(got, count), *b = numbers(expected, count), scale = 0;
    for (int64_t i = 0; i < count; i++)
        if (isfinite(b[i]))
            scale = fabs(b[i]) > scale ? fabs(b[i]) : scale;
    double units = !cb_dtype_is_float(t->dtype) ? 0 : t->dtype == CB_F32 ? 16 : 4, loose = t->c->loose > 0 ? t->c->loose : 1;
    bool ok = close_to(t, what, index, a, b, count, units * loose * unit_roundoff(t->dtype) * (scale > 1 ? scale : 1));
    cb_free(a);
    cb_free(b);
    return ok;
}

static bool check_dtype(const trial *t)
{
    problem narrow, wide;
    if (!problem_make(&narrow, t))
        return false;
    if (!widened(&narrow, &wide))
        return complain(t, "cannot be widened");
    cb_tensor *y[OP_OUTPUTS] = {0}, *z[OP_OUTPUTS] = {0};
    if (sample_run(&narrow.s, y) != sample_run(&wide.s, z))
        return complain(t, "fails in f64");
    bool ok = true;
    for (int k = 0; k < narrow.outputs && ok; k++) {
        ok = cb_same_shape(y[k], z[k]) || complain(t, "output %d is %s, in f64 %s", k, cb_shape_text(y[k]), cb_shape_text(z[k]));
        ok = ok && agree(t, "output", k, y[k], z[k]);
    }
    if (!ok || !has_any_gradient(&narrow))
        return ok;
    cb_tensor *x[2][OP_INPUTS], *g[2][OP_INPUTS] = {{0}};
    int index[OP_INPUTS], nx;
    differentiable(&narrow.s, x[0], index, &nx);
    differentiable(&wide.s, x[1], index, &nx);
    if (!gradients(&narrow, 1, nx, x[0], g[0], (cb_grad_options){0}) || !gradients(&wide, 1, nx, x[1], g[1], (cb_grad_options){0}))
        return complain(t, "no gradient");
    for (int i = 0; i < nx && ok; i++) {
        ok = !g[0][i] || g[0][i]->dtype == t->dtype || complain(t, "gradient %d is %s", index[i], cb_shape_text(g[0][i]));
        ok = ok && agree(t, "gradient", index[i], g[0][i], g[1][i]);
    }
    return ok;
}

static bool check_dtype_sizes(const op_case *c, cb_dtype dtype)
{
    bool ok = run_check(check_dtype, c, dtype, small, DENSE) && run_check(check_dtype, c, dtype, small, PERMUTED);
    return ok && (c->fixed || run_check(check_dtype, c, dtype, large, DENSE));
}

bool every_dtype_agrees_with_f64(const op_case *c)
{
    bool ok = check_dtype_sizes(c, CB_F32);
    if (!c->no_half)
        ok = check_dtype_sizes(c, CB_BF16) && ok;
    if (!c->no_half && !c->no_f16)
        ok = check_dtype_sizes(c, CB_F16) && ok;
    if (c->integers)
        ok = check_dtype_sizes(c, CB_I32) && check_dtype_sizes(c, CB_I64) && ok;
    return ok;
}

/* ---- PyTorch's values ---- */

static const cb_safetensors *reference;

/* A tensor of the reference file, or NULL, with a complaint unless it is optional. */
static cb_tensor *reference_of(const trial *t, const char *role, int index, bool optional)
{
    char name[128];
    snprintf(name, sizeof name, "%s.%s%d", t->c->name, role, index);
    const cb_weight_entry *e = cb_safetensors_find(reference, name);
    if (e)
        return cb_from_nd(e->dtype, e->data, e->ndim, e->shape);
    if (!optional)
        complain(t, "%s is not in the reference file", name);
    return NULL;
}

static bool take_inputs(const trial *t, sample *s)
{
    for (int i = 0; i < s->inputs; i++) {
        cb_tensor *x = reference_of(t, "x", i, false);
        if (!x)
            return false;
        if (!cb_same_shape(x, s->leaf[i]) || x->dtype != s->leaf[i]->dtype)
            return complain(t, "input %d is %s here, %s in the reference file", i, cb_shape_text(s->leaf[i]), cb_shape_text(x));
        s->leaf[i] = op_is_differentiable(&t->c->input[i]) ? cb_parameter(x) : x;
    }
    return true;
}

/* f64 against f64: a few roundings, and 2^-24 where a mask or statistics are f32. */
static bool as_pytorch(const trial *t, const char *what, int index, const cb_tensor *got, const cb_tensor *expected)
{
    bool empty = !got && expected; /* a gradient that is zero */
    if (!empty && !cb_same_shape(got, expected))
        return complain(t, "%s %d is %s, in PyTorch %s", what, index, cb_shape_text(got), cb_shape_text(expected));
    double *a = numbers(got, expected->count), *b = numbers(expected, expected->count);
    bool rounded = got && got->dtype == CB_F32;
    bool masked = strncmp(t->c->name, "attention", 9) == 0;
    bool ok = close_to(t, what, index, a, b, expected->count, (rounded || masked ? 1e-6 : 1e-12) * (1 + largest(b, expected->count)));
    cb_free(a);
    cb_free(b);
    return ok;
}

static bool check_values(const trial *t)
{
    problem p = {.t = *t, .s = sample_make(t->c, CB_F64, small, DENSE)};
    if (!take_inputs(t, &p.s))
        return false;
    cb_tensor *y[OP_OUTPUTS] = {0};
    p.outputs = sample_run(&p.s, y);
    if (!p.outputs)
        return complain(t, "fails");
    bool ok = true;
    for (int k = 0; k < p.outputs && ok; k++) {
        cb_tensor *expected = reference_of(t, "y", k, false);
        ok = expected && as_pytorch(t, "output", k, y[k], expected);
        p.dy[k] = has_gradient(y[k]) ? reference_of(t, "dy", k, false) : NULL;
    }
    if (!ok || !has_any_gradient(&p))
        return ok;
    cb_tensor *x[OP_INPUTS], *g[OP_INPUTS] = {0};
    int index[OP_INPUTS], nx;
    differentiable(&p.s, x, index, &nx);
    if (!gradients(&p, 1, nx, x, g, (cb_grad_options){0}))
        return complain(t, "no gradient");
    for (int i = 0; i < nx && ok; i++) {
        cb_tensor *expected = reference_of(t, "dx", index[i], g[i] == NULL);
        ok = expected ? as_pytorch(t, "gradient", index[i], g[i], expected) : !g[i];
    }
    return ok;
}

bool values_are_pytorchs(const op_case *c, const cb_safetensors *file)
{
    reference = file;
    return c->own || run_check(check_values, c, CB_F64, small, DENSE);
}

/* ---- failed allocations ---- */

/* Forward and backward with the n-th allocation failing, for n = 1, 2, ... until nothing fails. */
static bool check_allocations(const trial *t)
{
    problem p;
    if (!problem_make(&p, t))
        return false;
    cb_tensor *x[OP_INPUTS], *g[OP_INPUTS];
    int index[OP_INPUTS], nx;
    differentiable(&p.s, x, index, &nx);
    uint64_t live = 0; /* what is kept for good, such as the cache of products, is made before it counts */
    for (uint64_t n = 0;; n++) {
        cb_scope *scope = cb_scope_open();
        cb_memory_fail_after(n);
        cb_tensor *y[OP_OUTPUTS] = {0};
        bool ok = has_any_gradient(&p) ? gradients(&p, 1, nx, x, g, (cb_grad_options){0}) : sample_run(&p.s, y) > 0;
        cb_memory_fail_after(0);
        cb_scope_close(scope);
        bool expected = ok ? cb_ok() : cb_error_status() == CB_ERR_MEMORY;
        if (!expected)
            return complain(t, "allocation %llu failed, and the op %s", (unsigned long long)n, ok ? "did not" : "gave another reason");
        cb_error_clear();
        if (n == 0)
            live = cb_memory().live_bytes;
        if (cb_memory().live_bytes != live)
            return complain(t, "allocation %llu failed, and %lld bytes are left behind", (unsigned long long)n,
                            (long long)(cb_memory().live_bytes - live));
        if (ok && n > 0)
            return true;
    }
}

bool survives_failed_allocations(const op_case *c)
{
    return run_check(check_allocations, c, CB_F64, small, PERMUTED) && run_check(check_allocations, c, CB_F32, small, DENSE);
}

/* ---- threads ---- */

/* Outputs and gradients of one run, each kept by the open scope. */
static int everything(const problem *p, cb_tensor **result)
{
    cb_tensor *x[OP_INPUTS];
    int index[OP_INPUTS], nx = 0, n = sample_run(&p->s, result);
    if (n == 0 || !has_any_gradient(p))
        return n;
    differentiable(&p->s, x, index, &nx);
    return gradients(p, 1, nx, x, result + n, (cb_grad_options){0}) ? n + nx : 0;
}

static bool check_threads(const trial *t)
{
    enum { MOST = OP_OUTPUTS + OP_INPUTS };
    problem p;
    int threads = cb_threads();
    if (!problem_make(&p, t))
        return false;
    cb_tensor *one[MOST] = {0}, *many[MOST] = {0};
    cb_set_threads(1);
    int n = everything(&p, one);
    bool ok = n > 0 || complain(t, "fails with one thread");
    for (int count = 2; count <= 3 && ok; count++) {
        cb_set_threads(count);
        ok = everything(&p, many) == n || complain(t, "fails with %d threads", count);
        for (int i = 0; i < n && ok; i++) {
            double *a = numbers(one[i], one[i] ? one[i]->count : 0), *b = numbers(many[i], one[i] ? one[i]->count : 0);
            ok = close_to(t, "with more threads, result", i, b, a, one[i] ? one[i]->count : 0, 0);
            cb_free(a);
            cb_free(b);
        }
    }
    cb_set_threads(threads);
    return ok;
}

bool threads_change_no_bit(const op_case *c)
{
    if (c->fixed)
        return true;
    return run_check(check_threads, c, CB_F32, large, DENSE) && (c->no_half || run_check(check_threads, c, CB_BF16, large, DENSE));
}

/* ---- whole tables ---- */

void ask_every_case(const op_case *cases, size_t count, bool (*question)(const op_case *))
{
    int failures = 0;
    for (size_t i = 0; i < count; i++)
        failures += !question(&cases[i]);
    assert_int_equal(failures, 0);
}

void compare_every_case(const op_case *cases, size_t count, const char *file)
{
    cb_safetensors *values = cb_safetensors_open(file);
    if (!values)
        fail_msg("%s", cb_error_message());
    int failures = 0;
    for (size_t i = 0; i < count; i++)
        failures += !values_are_pytorchs(&cases[i], values);
    cb_safetensors_close(values);
    assert_int_equal(failures, 0);
}
