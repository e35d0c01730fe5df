/* fft.c: discrete Fourier transforms of any length, in f64.
 *
 * Lengths with small prime factors by decimation in time (Cooley and Tukey 1965), a factor 4 or 2 or a prime at a time; lengths with a large
 * prime factor as a convolution with a chirp (Bluestein 1970), which is transforms of a power of two. */
#include "kernels/fft.h"

#include <math.h>
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/parallel.h"

typedef struct number {
    double re, im;
} number;

enum { FACTORS = 64, LARGEST = 61 }; /* the largest prime whose butterflies, quadratic in it, pay */

typedef struct plan {
    int64_t n;
    int64_t factor[FACTORS];
    number *root; /* [n] exp(sign 2 pi i j / n) */
} plan;

static number times(number a, number b)
{
    return (number){a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}

static number plus(number a, number b)
{
    return (number){a.re + b.re, a.im + b.im};
}

static number minus(number a, number b)
{
    return (number){a.re - b.re, a.im - b.im};
}

static number conjugate(number a)
{
    return (number){a.re, -a.im};
}

/* exp(sign 2 pi i part / whole), part reduced first so that the angle is small */
static number root_of(int64_t part, int64_t whole, int sign)
{
    double angle = sign * 2 * M_PI * (double)(part % whole) / (double)whole;
    return (number){cos(angle), sin(angle)};
}

/* The factors of n, fours first; false when one is too large. */
static bool factorize(plan *p, int64_t n)
{
    int count = 0;
    p->n = n;
    for (int64_t f = 4; n > 1;) {
        if (n % f == 0) {
            p->factor[count++] = f;
            n /= f;
        } else {
            f = f == 4 ? 2 : f == 2 ? 3 : f + 2;
        }
        if (f > LARGEST && n > 1)
            return false;
    }
    return true;
}

static bool plan_make(plan *p, int sign)
{
    p->root = cb_alloc((size_t)p->n * sizeof *p->root);
    for (int64_t j = 0; p->root && j < p->n; j++)
        p->root[j] = root_of(j, p->n, sign);
    return p->root;
}

/* One butterfly: `f` numbers m apart, already turned, become the f outputs. */
static void butterfly(const plan *p, number *y, int64_t f, int64_t m)
{
    number t[LARGEST];
    for (int64_t q = 0; q < f; q++)
        t[q] = y[q * m];
    if (f == 2) {
        y[0] = plus(t[0], t[1]);
        y[m] = minus(t[0], t[1]);
        return;
    }
    if (f == 4) {
        number quarter = p->root[p->n / 4], a = plus(t[0], t[2]), b = minus(t[0], t[2]), c = plus(t[1], t[3]);
        number d = times(minus(t[1], t[3]), (number){0, quarter.im > 0 ? 1 : -1});
        y[0] = plus(a, c);
        y[m] = plus(b, d);
        y[2 * m] = minus(a, c);
        y[3 * m] = minus(b, d);
        return;
    }
    for (int64_t r = 0; r < f; r++) {
        number sum = t[0];
        for (int64_t q = 1; q < f; q++)
            sum = plus(sum, times(t[q], p->root[q * r % f * (p->n / f)]));
        y[r * m] = sum;
    }
}

/* y (n) = the transform of every step-th number of x; the factors of n are at least 2. */
static void transform(const plan *p, number *y, const number *x, int64_t n, int64_t step, const int64_t *factor)
{
    int64_t f = *factor;
    if (n == 1 || f < 2) {
        *y = *x;
        return;
    }
    int64_t m = n / f;
    for (int64_t q = 0; q < f; q++)
        transform(p, y + q * m, x + q * step, m, step * f, factor + 1);
    for (int64_t k = 0; k < m; k++) {
        for (int64_t q = 1; q < f && k > 0; q++)
            y[q * m + k] = times(y[q * m + k], p->root[q * k * step]); /* p->n = n step */
        butterfly(p, y + k, f, m);
    }
}

/* ---- large prime factors ---- */

/* j k = (j^2 + k^2 - (k - j)^2) / 2: the transform is the chirp exp(sign pi i k^2 / n) times the convolution of its conjugate with x times it. */
typedef struct chirp {
    plan forward, back; /* of a power of two, at least 2 n - 1 */
    int64_t n;
    number *turn, *spectrum; /* [n] the chirp; [m] the transform of its conjugate, over m */
} chirp;

static bool chirp_make(chirp *c, int64_t n, int sign)
{
    int64_t m = 1;
    while (m < 2 * n - 1)
        m *= 2;
    *c = (chirp){.n = n};
    bool ok = factorize(&c->forward, m) && factorize(&c->back, m) && plan_make(&c->forward, -1) && plan_make(&c->back, 1);
    c->turn = cb_alloc((size_t)n * sizeof *c->turn);
    c->spectrum = cb_alloc((size_t)m * sizeof *c->spectrum);
    number *kernel = cb_calloc((size_t)m, sizeof *kernel);
    ok = ok && c->turn && c->spectrum && kernel;
    for (int64_t k = 0, square = 0; ok && k < n; square = (square + 2 * k + 1) % (2 * n), k++) {
        c->turn[k] = root_of(square, 2 * n, sign);
        kernel[k] = kernel[(m - k) % m] = conjugate(c->turn[k]);
    }
    if (ok)
        transform(&c->forward, c->spectrum, kernel, m, 1, c->forward.factor);
    for (int64_t k = 0; ok && k < m; k++)
        c->spectrum[k] = (number){c->spectrum[k].re / (double)m, c->spectrum[k].im / (double)m};
    cb_free(kernel);
    return ok;
}

static void chirp_free(chirp *c)
{
    cb_free(c->forward.root);
    cb_free(c->back.root);
    cb_free(c->turn);
    cb_free(c->spectrum);
}

/* work: 2 m numbers */
static void by_chirp(const chirp *c, number *y, const number *x, number *work)
{
    int64_t m = c->forward.n;
    number *other = work + m;
    memset(work, 0, (size_t)m * sizeof *work);
    for (int64_t k = 0; k < c->n; k++)
        work[k] = times(x[k], c->turn[k]);
    transform(&c->forward, other, work, m, 1, c->forward.factor);
    for (int64_t k = 0; k < m; k++)
        other[k] = times(other[k], c->spectrum[k]);
    transform(&c->back, work, other, m, 1, c->back.factor);
    for (int64_t k = 0; k < c->n; k++)
        y[k] = times(work[k], c->turn[k]);
}

/* ---- rows ---- */

bool cbk_fft(cb_dtype dtype, void *y, const void *x, int64_t rows, int64_t n, int sign)
{
    plan p = {0};
    chirp c = {0};
    bool small = factorize(&p, n), ok = small ? plan_make(&p, sign) : chirp_make(&c, n, sign);
    int threads = cbk_threads(rows * n * 64);
    int64_t width = 2 * n + (small ? 0 : 2 * c.forward.n);
    number *work = ok ? cb_alloc((size_t)(width * threads) * sizeof *work) : NULL;
    size_t size = 2 * (size_t)n * cb_dtype_size(dtype);
    ok = work;
    if (ok && !cb_rehearsing()) {
#pragma omp parallel num_threads(threads) if (threads > 1)
        {
            number *in = work + width * omp_get_thread_num(), *out = in + n;
            cbk_range r = cbk_share(rows, 1);
            for (int64_t i = r.begin; i < r.end; i++) {
                cbk_convert((const char *)x + (size_t)i * size, dtype, in, CB_F64, 2 * n);
                if (small)
                    transform(&p, out, in, n, 1, p.factor);
                else
                    by_chirp(&c, out, in, out + n);
                cbk_convert(out, CB_F64, (char *)y + (size_t)i * size, dtype, 2 * n);
            }
        }
    }
    cb_free(work);
    cb_free(p.root);
    chirp_free(&c);
    return ok;
}
