/* metrics_dense.c: measures of depths, normals and saliency of the places of images. */
#include <math.h>

#include "cambium/metrics.h"

/* ---- depth ---- */

void cb_depth_errors_add(cb_depth_errors *errors, const float *found, const float *target, size_t n)
{
    const double near = 1.25;
    double places = 0, relative = 0, square = 0, right = 0, log_sum = 0, log_square = 0;
    for (size_t i = 0; i < n; i++) {
        if (isnan(target[i]))
            continue;
        double x = (double)found[i], t = (double)target[i], d = log(x) - log(t);
        places++;
        relative += fabs(x - t) / t;
        square += (x - t) * (x - t);
        right += x > 0 && fmax(x / t, t / x) < near;
        log_sum += d;
        log_square += d * d;
    }
    if (places == 0)
        return;
    errors->images++;
    errors->abs_rel += relative / places;
    errors->rmse += sqrt(square / places);
    errors->delta1 += right / places;
    double variance = log_square / places - log_sum * log_sum / (places * places); /* NaN: of what has no logarithm */
    errors->silog += isfinite(variance) ? sqrt(fmax(variance, 0)) : INFINITY;
}

/* ---- normals ---- */

/* Of the angle's tangent, which is exact for small angles, where the cosine is not. */
static double degrees_between(const double *a, const double *b)
{
    const double c[3] = {a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]};
    double across = sqrt(c[0] * c[0] + c[1] * c[1] + c[2] * c[2]), along = a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
    return atan2(across, along) * 180 / M_PI;
}

void cb_normal_errors_add(cb_normal_errors *errors, const float *found, const float *target, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (isnan(target[i]))
            continue;
        double a[3], b[3];
        for (size_t k = 0; k < 3; k++) {
            a[k] = (double)found[k * n + i];
            b[k] = (double)target[k * n + i];
        }
        double angle = degrees_between(a, b);
        errors->places++;
        errors->angle += angle;
        errors->within_11 += angle <= 11.25;
        errors->within_22 += angle <= 22.5;
        errors->within_30 += angle <= 30;
    }
}

/* ---- saliency ---- */

static int level_of(double probability)
{
    return (int)lrint(fmin(fmax(probability, 0), 1) * (CB_SALIENCY_LEVELS - 1));
}

/* Adds precision and recall at each level, of how many places of each level stand out and do not. */
static void judge(cb_saliency_errors *errors, const double *standing, const double *others, double all)
{
    double right = 0, wrong = 0;
    for (int level = CB_SALIENCY_LEVELS - 1; level >= 0; level--) {
        right += standing[level];
        wrong += others[level];
        errors->precision[level] += right + wrong > 0 ? right / (right + wrong) : 0;
        errors->recall[level] += right / all;
    }
}

void cb_saliency_errors_add(cb_saliency_errors *errors, const float *found, const float *target, size_t n)
{
    double standing[CB_SALIENCY_LEVELS] = {0}, others[CB_SALIENCY_LEVELS] = {0}, places = 0, all = 0, absolute = 0;
    for (size_t i = 0; i < n; i++) {
        if (isnan(target[i]))
            continue;
        bool stands = target[i] > 0.5f;
        (stands ? standing : others)[level_of((double)found[i])]++;
        all += stands;
        places++;
        absolute += fabs((double)found[i] - (double)target[i]);
    }
    if (places == 0)
        return;
    errors->images++;
    errors->absolute += absolute / places;
    errors->judged += all > 0;
    if (all > 0)
        judge(errors, standing, others, all);
}

double cb_saliency_max_f(const cb_saliency_errors *errors)
{
    const double beta_square = 0.3;
    double best = 0;
    for (int level = 0; level < CB_SALIENCY_LEVELS; level++) {
        double p = errors->precision[level] / errors->judged, r = errors->recall[level] / errors->judged;
        if (p + r > 0)
            best = fmax(best, (1 + beta_square) * p * r / (beta_square * p + r));
    }
    return errors->judged > 0 ? best : NAN;
}
