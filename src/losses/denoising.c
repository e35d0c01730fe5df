/* denoising.c: noise on images, what a network is to say of it, and the steps back.
 *
 * All of it is a x + b y with numbers that the timestep gives: of a batch, where each row has its own, of a step, where all have the same. */
#include <math.h>

#include "losses/noise.h"

/* ---- numbers of each row ---- */

/* What a number of a row is, of the a_t of its timestep. */
typedef double of_alpha(double alpha);

static double root_of_signal(double alpha)
{
    return sqrt(alpha);
}

static double root_of_noise(double alpha)
{
    return sqrt(1 - alpha);
}

static bool check_timesteps(const cb_noise_schedule *s, const cb_tensor *x, const cb_tensor *timesteps)
{
    if (timesteps->ndim != 1 || timesteps->dtype != CB_I32 || timesteps->shape[0] != x->shape[0])
        return cb_fail(CB_ERR_SHAPE, "noise: timesteps are %s for %s, expected i32 (%lld)", cb_shape_text(timesteps), cb_shape_text(x),
                       (long long)x->shape[0]) == CB_OK;
    for (int64_t i = 0; !cb_rehearsing() && i < timesteps->count; i++) {
        int64_t t = ((const int32_t *)timesteps->data)[i];
        if (t < 0 || t >= s->options.num_train_timesteps)
            return cb_fail(CB_ERR_ARGUMENT, "noise: timestep %lld of row %lld, expected 0 to %lld", (long long)t, (long long)i,
                           (long long)s->options.num_train_timesteps - 1) == CB_OK;
    }
    return true;
}

/* (B, 1, ...) in x's dtype. */
static cb_tensor *each_row(const cb_noise_schedule *s, of_alpha *number, const cb_tensor *x, const cb_tensor *timesteps)
{
    int64_t shape[CB_MAX_DIMS];
    for (int i = 0; i < x->ndim; i++)
        shape[i] = i ? 1 : x->shape[0];
    cb_tensor *rows = cb_empty_nd(CB_F64, x->ndim, shape);
    for (int64_t i = 0; rows && !cb_rehearsing() && i < x->shape[0]; i++)
        ((double *)rows->data)[i] = number(cb_noise_alpha(s, ((const int32_t *)timesteps->data)[i]));
    return rows && x->dtype != CB_F64 ? cb_cast(rows, x->dtype) : rows;
}

static bool check_pair(const cb_noise_schedule *s, const cb_tensor *a, const cb_tensor *b, const cb_tensor *timesteps)
{
    if (!a || !b || !timesteps)
        return false;
    if (!cb_same_shape(a, b) || a->dtype != b->dtype || !cb_dtype_is_float(a->dtype))
        return cb_fail(CB_ERR_SHAPE, "noise: found %s %s and %s %s, expected the same floating-point shape", cb_dtype_name(a->dtype),
                       cb_shape_text(a), cb_dtype_name(b->dtype), cb_shape_text(b)) == CB_OK;
    return check_timesteps(s, a, timesteps);
}

/* ---- learning ---- */

cb_tensor *cb_add_noise(const cb_noise_schedule *s, cb_tensor *sample, cb_tensor *noise, const cb_tensor *timesteps)
{
    if (!check_pair(s, sample, noise, timesteps))
        return NULL;
    return cb_add(cb_mul(sample, each_row(s, root_of_signal, sample, timesteps)),
                  cb_mul(noise, each_row(s, root_of_noise, sample, timesteps)));
}

cb_tensor *cb_denoising_target(const cb_noise_schedule *s, cb_tensor *sample, cb_tensor *noise, const cb_tensor *timesteps)
{
    if (!check_pair(s, sample, noise, timesteps))
        return NULL;
    if (s->options.prediction_type != CB_PREDICTS_V)
        return s->options.prediction_type == CB_PREDICTS_SAMPLE ? sample : noise;
    return cb_sub(cb_mul(noise, each_row(s, root_of_signal, sample, timesteps)),
                  cb_mul(sample, each_row(s, root_of_noise, sample, timesteps)));
}

static double min_snr_weight(const cb_noise_schedule *s, double alpha, double gamma)
{
    double snr = alpha / (1 - alpha), least = fmin(snr, gamma);
    if (s->options.prediction_type == CB_PREDICTS_SAMPLE)
        return least;
    return s->options.prediction_type == CB_PREDICTS_V ? least / (snr + 1) : alpha > 0 ? least / snr : 1;
}

/* (B), in f32 or f64. */
static cb_tensor *weights(const cb_noise_schedule *s, cb_dtype dtype, const cb_tensor *timesteps, double gamma)
{
    cb_tensor *w = cb_empty(CB_F64, timesteps->shape[0]);
    for (int64_t i = 0; w && !cb_rehearsing() && i < w->count; i++)
        ((double *)w->data)[i] = min_snr_weight(s, cb_noise_alpha(s, ((const int32_t *)timesteps->data)[i]), gamma);
    return w && dtype != CB_F64 ? cb_cast(w, dtype) : w;
}

cb_tensor *cb_denoising_loss(const cb_noise_schedule *s, cb_tensor *prediction, cb_tensor *target, const cb_tensor *timesteps, double gamma)
{
    if (!prediction || !target)
        return NULL;
    cb_dtype dtype = target->dtype == CB_F64 ? CB_F64 : CB_F32;
    prediction = prediction->dtype == dtype ? prediction : cb_cast(prediction, dtype);
    target = target->dtype == dtype ? target : cb_cast(target, dtype);
    if (!check_pair(s, prediction, target, timesteps))
        return NULL;
    int64_t rows = target->shape[0];
    cb_tensor *each = cb_mean(cb_reshape(cb_square(cb_sub(prediction, target)), rows, -1), 1, false);
    return cb_sum(gamma > 0 ? cb_mul(each, weights(s, dtype, timesteps, gamma)) : each, CB_ALL, false);
}

/* ---- steps back ---- */

/* As DDPMScheduler and DDIMScheduler of diffusers have them. */
bool cb_noise_timesteps(const cb_noise_schedule *s, int64_t count, int64_t *steps)
{
    const cb_noise_options *o = &s->options;
    int64_t all = o->num_train_timesteps;
    if (count < 1 || count > all)
        return cb_fail(CB_ERR_ARGUMENT, "steps: found %lld, expected 1 to the schedule's %lld", (long long)count, (long long)all) == CB_OK;
    double each = (double)all / (double)count;
    for (int64_t i = 0; i < count; i++) {
        int64_t up = count - 1 - i;
        if (o->timestep_spacing == CB_SPACING_LEADING)
            steps[i] = up * (all / count) + o->steps_offset;
        else if (o->timestep_spacing == CB_SPACING_LINSPACE)
            steps[i] = count > 1 ? (int64_t)rint((double)up * (double)(all - 1) / (double)(count - 1)) : 0;
        else
            steps[i] = (int64_t)rint((double)all - (double)i * each) - 1;
        if (steps[i] >= all)
            return cb_fail(CB_ERR_ARGUMENT, "steps: found %lld with a steps_offset of %lld, which lead beyond the schedule's %lld",
                           (long long)count, (long long)o->steps_offset, (long long)all) == CB_OK;
    }
    return true;
}

/* a x + b y */
static cb_tensor *mixed(cb_tensor *x, double a, cb_tensor *y, double b)
{
    return cb_add(cb_scale(x, a), cb_scale(y, b));
}

/* What is said of the image, without what is said of its variance; in *variance, which may be NULL, that, or NULL. */
static cb_tensor *without_variance(cb_tensor *prediction, const cb_tensor *sample, cb_tensor **variance)
{
    if (variance)
        *variance = NULL;
    if (!prediction || !sample)
        return NULL;
    int64_t channels = sample->ndim > 1 ? sample->shape[1] : 0;
    if (!channels || prediction->ndim != sample->ndim || prediction->shape[1] != 2 * channels)
        return prediction;
    if (variance)
        *variance = cb_slice(prediction, 1, channels, 2 * channels, 1);
    return cb_slice(prediction, 1, 0, channels, 1);
}

static bool check_step(const cb_noise_schedule *s, const cb_tensor *prediction, const cb_tensor *sample, int64_t t)
{
    if (!prediction || !sample)
        return false;
    if (t < 0 || t >= s->options.num_train_timesteps)
        return cb_fail(CB_ERR_ARGUMENT, "noise: timestep %lld, expected 0 to %lld", (long long)t,
                       (long long)s->options.num_train_timesteps - 1) == CB_OK;
    return cb_same_shape(prediction, sample) || cb_fail(CB_ERR_SHAPE, "noise: prediction %s of %s, expected the same shape",
                                                        cb_shape_text(prediction), cb_shape_text(sample)) == CB_OK;
}

/* a_t where a division by it is to be made: a schedule that ends without signal says nothing of the image by its noise. */
static bool has_signal(const cb_noise_schedule *s, int64_t t)
{
    return s->options.prediction_type != CB_PREDICTS_EPSILON || cb_noise_alpha(s, t) > 0 ||
           cb_fail(CB_ERR_NUMERIC,
                   "noise: nothing of the image is left at timestep %lld, so its noise does not tell it; expected "
                   "prediction_type v_prediction or sample with rescale_betas_zero_snr",
                   (long long)t) == CB_OK;
}

static cb_tensor *foreseen(const cb_noise_schedule *s, cb_tensor *prediction, int64_t t, cb_tensor *sample)
{
    double alpha = cb_noise_alpha(s, t), signal = sqrt(alpha), noise = sqrt(1 - alpha), most = s->options.clip_sample_range;
    cb_tensor *image = s->options.prediction_type == CB_PREDICTS_SAMPLE ? prediction
                       : s->options.prediction_type == CB_PREDICTS_V    ? mixed(sample, signal, prediction, -noise)
                                                                        : mixed(sample, 1 / signal, prediction, -noise / signal);
    return s->options.clip_sample ? cb_clamp(image, -most, most) : image;
}

cb_tensor *cb_foreseen_sample(const cb_noise_schedule *s, cb_tensor *prediction, int64_t t, cb_tensor *sample)
{
    prediction = without_variance(prediction, sample, NULL);
    return check_step(s, prediction, sample, t) && has_signal(s, t) ? foreseen(s, prediction, t, sample) : NULL;
}

/* sigma noise, sigma^2 the variance of x_previous given x_t and x_0, or what is said of it. */
static cb_tensor *deviation(const cb_noise_schedule *s, cb_tensor *noise, cb_tensor *said, double small, double large)
{
    const double least = 1e-20; /* whose logarithm is taken */
    small = fmax(small, least);
    if (s->options.variance_type != CB_VARIANCE_LEARNED_RANGE || !said)
        return cb_scale(noise, sqrt(s->options.variance_type == CB_VARIANCE_FIXED_LARGE ? large : small));
    double low = log(small), high = log(fmax(large, least));
    cb_tensor *logarithm = cb_add_scalar(cb_scale(said, (high - low) / 2), (high + low) / 2);
    return cb_mul(noise, cb_exp(cb_scale(logarithm, 0.5)));
}

cb_tensor *cb_ddpm_step(const cb_noise_schedule *s, cb_tensor *prediction, int64_t t, int64_t previous, cb_tensor *sample, cb_tensor *noise)
{
    cb_tensor *said;
    prediction = without_variance(prediction, sample, &said);
    if (!check_step(s, prediction, sample, t) || !has_signal(s, t))
        return NULL;
    double alpha = cb_noise_alpha(s, t), before = cb_noise_alpha(s, previous), share = alpha / before, beta = 1 - share;
    cb_tensor *image = foreseen(s, prediction, t, sample);
    cb_tensor *mean = mixed(image, sqrt(before) * beta / (1 - alpha), sample, sqrt(share) * (1 - before) / (1 - alpha));
    if (!noise || t == 0)
        return mean;
    return cb_add(mean, deviation(s, noise, said, (1 - before) / (1 - alpha) * beta, beta));
}

cb_tensor *cb_ddim_step(const cb_noise_schedule *s, cb_tensor *prediction, int64_t t, int64_t previous, cb_tensor *sample, double eta,
                        cb_tensor *noise)
{
    prediction = without_variance(prediction, sample, NULL);
    if (!check_step(s, prediction, sample, t) || !has_signal(s, t))
        return NULL;
    double alpha = cb_noise_alpha(s, t), before = cb_noise_alpha(s, previous < 0 && !s->options.set_alpha_to_one ? 0 : previous);
    double signal = sqrt(alpha), spread = sqrt(1 - alpha);
    cb_tensor *image = foreseen(s, prediction, t, sample); /* clipped, while the noise is what was said */
    cb_tensor *epsilon = s->options.prediction_type == CB_PREDICTS_EPSILON ? prediction
                         : s->options.prediction_type == CB_PREDICTS_V     ? mixed(prediction, signal, sample, spread)
                                                                           : mixed(sample, 1 / spread, prediction, -signal / spread);
    double sigma = eta * sqrt((1 - before) / (1 - alpha) * (1 - alpha / before));
    cb_tensor *y = mixed(image, sqrt(before), epsilon, sqrt(fmax(1 - before - sigma * sigma, 0)));
    return noise && sigma > 0 ? cb_add(y, cb_scale(noise, sigma)) : y;
}
