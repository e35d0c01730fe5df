/* metrics_vision.c: how near images and key points are to each other. */
#include <math.h>
#include <string.h>

#include "cambium/metrics.h"
#include "eval/check.h"

static bool check_images(const char *what, const float *a, const float *b, size_t n, double range)
{
    if (!(range > 0 && isfinite(range)))
        return cb_fail(CB_ERR_ARGUMENT, "%s: range is %g, expected a positive number", what, range) == CB_OK;
    return cb_check_finite_f32(what, "a", a, n) && cb_check_finite_f32(what, "b", b, n);
}

double cb_psnr(const float *a, const float *b, size_t n, double range)
{
    if (!check_images("psnr", a, b, n, range))
        return NAN;
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)a[i] - (double)b[i];
        sum += d * d;
    }
    return 10 * log10(range * range / (sum / (double)n));
}

/* ---- structural similarity ---- */

enum { WINDOW = 11 };

static void fill_window(double window[WINDOW])
{
    double sum = 0;
    for (int i = 0; i < WINDOW; i++) {
        int d = i - WINDOW / 2;
        sum += window[i] = exp(-(d * d) / (2 * 1.5 * 1.5));
    }
    for (int i = 0; i < WINDOW; i++)
        window[i] /= sum;
}

enum { OF_A, OF_B, OF_AA, OF_BB, OF_AB, SUMS };

/* Weighted sums over the columns of a row's windows: out[m][x]. */
static void filter_row(const float *a, const float *b, size_t width, const double *window, double *const out[SUMS])
{
    for (size_t x = 0; x + WINDOW <= width; x++) {
        double s[SUMS] = {0};
        for (size_t i = 0; i < WINDOW; i++) {
            double w = window[i], p = (double)a[x + i], q = (double)b[x + i];
            s[OF_A] += w * p;
            s[OF_B] += w * q;
            s[OF_AA] += w * p * p;
            s[OF_BB] += w * q * q;
            s[OF_AB] += w * p * q;
        }
        for (int m = 0; m < SUMS; m++)
            out[m][x] = s[m];
    }
}

/* Eq. 13 of Wang et al. from the moments of one place. */
static double similarity(const double s[SUMS], double range)
{
    double c1 = 0.01 * 0.01 * range * range, c2 = 0.03 * 0.03 * range * range, both = s[OF_A] * s[OF_B];
    double squares = s[OF_A] * s[OF_A] + s[OF_B] * s[OF_B], covariance = s[OF_AB] - both, variances = s[OF_AA] + s[OF_BB] - squares;
    return (2 * both + c1) * (2 * covariance + c2) / ((squares + c1) * (variances + c2));
}

/* Sum over the places of one channel; rows: the last WINDOW rows' sums, in a ring. */
static double channel_similarity(const float *a, const float *b, size_t height, size_t width, const double *window, double *rows,
                                 double range)
{
    size_t places = width - WINDOW + 1;
    double sum = 0;
    for (size_t y = 0; y < height; y++) {
        double *out[SUMS];
        for (size_t m = 0; m < SUMS; m++)
            out[m] = rows + ((y % WINDOW) * SUMS + m) * places;
        filter_row(a + y * width, b + y * width, width, window, out);
        for (size_t x = 0; y + 1 >= WINDOW && x < places; x++) {
            double s[SUMS] = {0};
            for (size_t i = 0; i < WINDOW; i++)
                for (size_t m = 0; m < SUMS; m++)
                    s[m] += window[i] * rows[(((y + 1 + i) % WINDOW) * SUMS + m) * places + x];
            sum += similarity(s, range);
        }
    }
    return sum / ((double)places * (double)(height - WINDOW + 1));
}

double cb_ssim(const float *a, const float *b, size_t channels, size_t height, size_t width, double range)
{
    if (height < WINDOW || width < WINDOW)
        return cb_fail(CB_ERR_ARGUMENT, "ssim: the images are %zu x %zu, expected at least %d x %d", width, height, WINDOW, WINDOW), NAN;
    size_t size = height * width;
    if (!check_images("ssim", a, b, channels * size, range))
        return NAN;
    double window[WINDOW], sum = 0, *rows = cb_calloc((size_t)WINDOW * SUMS * (width - WINDOW + 1), sizeof *rows);
    if (!rows)
        return NAN;
    fill_window(window);
    for (size_t c = 0; c < channels; c++)
        sum += channel_similarity(a + c * size, b + c * size, height, width, window, rows, range);
    cb_free(rows);
    return sum / (double)channels;
}

/* ---- key points ---- */

static bool check_points(const char *what, const float *predictions, const float *targets, const uint8_t *visible, size_t points, size_t d)
{
    for (size_t i = 0; i < points; i++) /* what is not visible may be anything */
        if ((!visible || visible[i]) && (!cb_check_finite_f32(what, "predictions of a point", predictions + i * d, d) ||
                                         !cb_check_finite_f32(what, "targets of a point", targets + i * d, d)))
            return false;
    return true;
}

static double distance_of(const float *a, const float *b, size_t dimensions)
{
    double sum = 0;
    for (size_t d = 0; d < dimensions; d++)
        sum += ((double)a[d] - (double)b[d]) * ((double)a[d] - (double)b[d]);
    return sqrt(sum);
}

double cb_keypoints_correct(const float *predictions, const float *targets, const uint8_t *visible, const double *sizes, size_t n,
                            size_t joints, size_t dimensions, double alpha)
{
    if (!check_points("keypoints_correct", predictions, targets, visible, n * joints, dimensions) ||
        (sizes && !cb_check_finite("keypoints_correct", "sizes", sizes, n)))
        return NAN;
    double seen = 0, correct = 0;
    for (size_t i = 0; i < n * joints; i++)
        if (!visible || visible[i]) {
            double distance = distance_of(predictions + i * dimensions, targets + i * dimensions, dimensions);
            seen++;
            correct += distance <= alpha * (sizes ? sizes[i / joints] : 1);
        }
    return correct / seen;
}

double cb_keypoint_error(const float *predictions, const float *targets, const uint8_t *visible, size_t n, size_t joints, size_t dimensions)
{
    if (!check_points("keypoint_error", predictions, targets, visible, n * joints, dimensions))
        return NAN;
    double seen = 0, sum = 0;
    for (size_t i = 0; i < n * joints; i++)
        if (!visible || visible[i]) {
            seen++;
            sum += distance_of(predictions + i * dimensions, targets + i * dimensions, dimensions);
        }
    return sum / seen;
}

/* The greatest eigenvalue of a symmetric matrix and its vector, by Jacobi's rotations. */
static double greatest_eigenvector(double m[4][4], double vector[4])
{
    double v[4][4] = {{1, 0, 0, 0}, {0, 1, 0, 0}, {0, 0, 1, 0}, {0, 0, 0, 1}};
    for (int sweep = 0; sweep < 30; sweep++) /* converges quadratically: a handful are needed */
        for (int p = 0; p < 4; p++)
            for (int q = p + 1; q < 4; q++) {
                if (m[p][q] == 0)
                    continue;
                double theta = (m[q][q] - m[p][p]) / (2 * m[p][q]), t = (theta < 0 ? -1 : 1) / (fabs(theta) + hypot(theta, 1));
                double c = 1 / hypot(t, 1), s = t * c;
                for (int k = 0; k < 4; k++) {
                    double x = m[k][p], y = m[k][q];
                    m[k][p] = c * x - s * y;
                    m[k][q] = s * x + c * y;
                }
                for (int k = 0; k < 4; k++) {
                    double x = m[p][k], y = m[q][k];
                    m[p][k] = c * x - s * y;
                    m[q][k] = s * x + c * y;
                    x = v[k][p];
                    y = v[k][q];
                    v[k][p] = c * x - s * y;
                    v[k][q] = s * x + c * y;
                }
            }
    int best = 0;
    for (int k = 1; k < 4; k++)
        best = m[k][k] > m[best][best] ? k : best;
    for (int k = 0; k < 4; k++)
        vector[k] = v[k][best];
    return m[best][best];
}

/* x -> scale rotation (x - from) + to */
typedef struct alignment {
    double from[3], to[3], rotation[3][3], scale;
} alignment;

/* Horn's quaternion: the eigenvector of N, made of the products of the centred points, his eq. in section 4.B. */
static void rotate_onto(double s[3][3], double squares, alignment *a)
{
    double n[4][4] = {{s[0][0] + s[1][1] + s[2][2], s[1][2] - s[2][1], s[2][0] - s[0][2], s[0][1] - s[1][0]},
                      {s[1][2] - s[2][1], s[0][0] - s[1][1] - s[2][2], s[0][1] + s[1][0], s[2][0] + s[0][2]},
                      {s[2][0] - s[0][2], s[0][1] + s[1][0], -s[0][0] + s[1][1] - s[2][2], s[1][2] + s[2][1]},
                      {s[0][1] - s[1][0], s[2][0] + s[0][2], s[1][2] + s[2][1], -s[0][0] - s[1][1] + s[2][2]}};
    double q[4], sum = greatest_eigenvector(n, q), w = q[0], x = q[1], y = q[2], z = q[3];
    const double r[3][3] = {{w * w + x * x - y * y - z * z, 2 * (x * y - w * z), 2 * (x * z + w * y)},
                            {2 * (x * y + w * z), w * w - x * x + y * y - z * z, 2 * (y * z - w * x)},
                            {2 * (x * z - w * y), 2 * (y * z + w * x), w * w - x * x - y * y + z * z}};
    memcpy(a->rotation, r, sizeof r);
    a->scale = squares > 0 ? sum / squares : 1;
}

static void align(const float *x, const float *y, const uint8_t *visible, size_t joints, alignment *a)
{
    double count = 0, products[3][3] = {{0}}, squares = 0;
    *a = (alignment){0};
    for (size_t j = 0; j < joints; j++)
        for (int d = 0; (!visible || visible[j]) && d < 3; d++) {
            a->from[d] += (double)x[3 * j + d];
            a->to[d] += (double)y[3 * j + d];
            count += d == 0;
        }
    for (int d = 0; d < 3; d++) {
        a->from[d] /= count;
        a->to[d] /= count;
    }
    for (size_t j = 0; j < joints; j++)
        for (int d = 0; (!visible || visible[j]) && d < 3; d++) {
            double centred = (double)x[3 * j + d] - a->from[d];
            squares += centred * centred;
            for (int e = 0; e < 3; e++)
                products[d][e] += centred * ((double)y[3 * j + e] - a->to[e]);
        }
    rotate_onto(products, squares, a);
}

double cb_keypoint_error_aligned(const float *predictions, const float *targets, const uint8_t *visible, size_t n, size_t joints)
{
    if (!check_points("keypoint_error_aligned", predictions, targets, visible, n * joints, 3))
        return NAN;
    double seen = 0, sum = 0;
    for (size_t i = 0; i < n; i++) {
        alignment a;
        const float *x = predictions + 3 * i * joints, *y = targets + 3 * i * joints;
        const uint8_t *shown = visible ? visible + i * joints : NULL;
        align(x, y, shown, joints, &a);
        for (size_t j = 0; j < joints; j++) {
            if (shown && !shown[j])
                continue;
            double squared = 0;
            for (int d = 0; d < 3; d++) {
                double moved = a.to[d] - (double)y[3 * j + d];
                for (int e = 0; e < 3; e++)
                    moved += a.scale * a.rotation[d][e] * ((double)x[3 * j + e] - a.from[e]);
                squared += moved * moved;
            }
            sum += sqrt(squared);
            seen++;
        }
    }
    return sum / seen;
}
