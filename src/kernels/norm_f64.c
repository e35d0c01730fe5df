/* norm_f64.c: normalisation and softmax in f64, written as the formulas stand. */
#include "kernels/norm_f64.h"

#include <math.h>

void cbk_rms_norm_forward_f64(double *y, double *rstd, const double *x, const double *weight, int64_t first, int64_t last, int64_t c,
                              double eps)
{
    for (int64_t row = first; row < last; row++) {
        double s = 0;
        for (int64_t i = 0; i < c; i++)
            s += x[row * c + i] * x[row * c + i];
        double r = 1 / sqrt(s / (double)c + eps);
        if (rstd)
            rstd[row] = r;
        for (int64_t i = 0; i < c; i++)
            y[row * c + i] = x[row * c + i] * r * (weight ? weight[i] : 1);
    }
}

void cbk_rms_norm_backward_f64(double *dx, bool accumulate, double *dweight, const double *dy, const double *x, const double *weight,
                               const double *rstd, int64_t n, int64_t c)
{
    for (int64_t row = 0; row < n; row++) {
        const double *g = dy + row * c, *a = x + row * c;
        double s = 0, r = rstd[row];
        for (int64_t i = 0; i < c; i++) {
            s += g[i] * (weight ? weight[i] : 1) * a[i];
            if (dweight)
                dweight[i] += g[i] * a[i] * r;
        }
        for (int64_t i = 0; dx && i < c; i++) {
            double d = g[i] * (weight ? weight[i] : 1) * r - a[i] * r * r * r * s / (double)c;
            dx[row * c + i] = accumulate ? dx[row * c + i] + d : d;
        }
    }
}

void cbk_layer_norm_forward_f64(double *y, double *mean, double *rstd, const double *x, const double *weight, const double *bias,
                                int64_t first, int64_t last, int64_t c, double eps)
{
    for (int64_t row = first; row < last; row++) {
        const double *a = x + row * c;
        double m = 0, v = 0;
        for (int64_t i = 0; i < c; i++)
            m += a[i] / (double)c;
        for (int64_t i = 0; i < c; i++)
            v += (a[i] - m) * (a[i] - m) / (double)c;
        double r = 1 / sqrt(v + eps);
        if (mean)
            mean[row] = m;
        if (rstd)
            rstd[row] = r;
        for (int64_t i = 0; i < c; i++)
            y[row * c + i] = (a[i] - m) * r * (weight ? weight[i] : 1) + (bias ? bias[i] : 0);
    }
}

void cbk_layer_norm_backward_f64(double *dx, bool accumulate, double *dweight, double *dbias, const double *dy, const double *x,
                                 const double *weight, const double *mean, const double *rstd, int64_t n, int64_t c)
{
    for (int64_t row = 0; row < n; row++) {
        const double *a = x + row * c, *d = dy + row * c;
        double r = rstd[row], m = mean[row], s = 0, t = 0;
        for (int64_t i = 0; i < c; i++) {
            double g = d[i] * (weight ? weight[i] : 1), normal = (a[i] - m) * r;
            s += g / (double)c;
            t += g * normal / (double)c;
            if (dweight)
                dweight[i] += d[i] * normal;
            if (dbias)
                dbias[i] += d[i];
        }
        for (int64_t i = 0; dx && i < c; i++) {
            double g = (d[i] * (weight ? weight[i] : 1) - s - (a[i] - m) * r * t) * r;
            dx[row * c + i] = accumulate ? dx[row * c + i] + g : g;
        }
    }
}

void cbk_softmax_forward_f64(double *y, const double *x, int64_t first, int64_t last, int64_t k, bool log_form)
{
    for (int64_t row = first; row < last; row++) {
        const double *a = x + row * k;
        double m = -INFINITY, s = 0;
        for (int64_t i = 0; i < k; i++)
            m = a[i] > m ? a[i] : m;
        for (int64_t i = 0; i < k; i++)
            s += exp(a[i] - m);
        for (int64_t i = 0; i < k; i++)
            y[row * k + i] = log_form ? a[i] - m - log(s) : exp(a[i] - m) / s;
    }
}

void cbk_softmax_backward_f64(double *dx, const double *dy, const double *y, int64_t first, int64_t last, int64_t k, bool log_form)
{
    for (int64_t row = first; row < last; row++) {
        const double *g = dy + row * k, *p = y + row * k;
        double s = 0;
        for (int64_t i = 0; i < k; i++)
            s += log_form ? g[i] : g[i] * p[i];
        for (int64_t i = 0; i < k; i++)
            dx[row * k + i] = log_form ? g[i] - exp(p[i]) * s : p[i] * (g[i] - s);
    }
}
