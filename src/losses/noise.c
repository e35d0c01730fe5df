/* noise.c: how much noise there is at each step: schedules by name, and diffusers' scheduler_config.json. */
#include "losses/noise.h"

#include <math.h>
#include <string.h>

#include "core/json.h"

static const char *const beta_names[] = {"linear", "scaled_linear", "squaredcos_cap_v2", NULL},
                         *const prediction_names[] = {"epsilon", "sample", "v_prediction", NULL},
                         *const variance_names[] = {"fixed_small", "fixed_large", "learned_range", NULL},
                         *const spacing_names[] = {"leading", "linspace", "trailing", NULL};

#define OPT cb_noise_options
const cb_option cb_noise_option_table[] = {
    CB_OPT_INT(OPT, num_train_timesteps, 1000, 1, 1 << 20, "steps from an image to noise"),
    CB_OPT_ENUM(OPT, beta_schedule, CB_BETAS_LINEAR, beta_names, "how the noise of a step grows"),
    CB_OPT_FLOAT(OPT, beta_start, 1e-4, 0, 0.999, "variance of the noise of the first step"),
    CB_OPT_FLOAT(OPT, beta_end, 0.02, 0, 0.999, "that of the last one"),
    CB_OPT_ENUM(OPT, prediction_type, CB_PREDICTS_EPSILON, prediction_names,
                "what the network gives: the noise, the image, or the velocity"),
    CB_OPT_ENUM(OPT, variance_type, CB_VARIANCE_FIXED_SMALL, variance_names, "variance of DDPM's steps back"),
    CB_OPT_BOOL(OPT, clip_sample, 1, "clip the image that each step back foresees"),
    CB_OPT_FLOAT(OPT, clip_sample_range, 1, 1e-6, 1e6, "to numbers of this size at most"),
    CB_OPT_ENUM(OPT, timestep_spacing, CB_SPACING_LEADING, spacing_names, "which steps are taken where some are left out"),
    CB_OPT_INT(OPT, steps_offset, 0, 0, 1 << 20, "leading: added to each of them"),
    CB_OPT_BOOL(OPT, set_alpha_to_one, 1, "DDIM: behind the last step there is no noise"),
    CB_OPT_BOOL(OPT, rescale_betas_zero_snr, 0, "nothing is left of the image at the last step"),
    CB_OPT_END};
#undef OPT

/* ---- betas ---- */

/* Of the cosine schedule: Nichol and Dhariwal 2021, arXiv:2102.09672, equation 17. */
static double cosine(double share)
{
    const double offset = 0.008, c = cos((share + offset) / (1 + offset) * M_PI / 2);
    return c * c;
}

static double beta_at(const cb_noise_options *o, int64_t t)
{
    const double most = 0.999;
    int64_t steps = o->num_train_timesteps;
    double share = steps > 1 ? (double)t / (double)(steps - 1) : 0, root;
    switch ((cb_beta_schedule)o->beta_schedule) {
    case CB_BETAS_LINEAR:
        return o->beta_start + share * (o->beta_end - o->beta_start);
    case CB_BETAS_SCALED_LINEAR:
        root = sqrt(o->beta_start) + share * (sqrt(o->beta_end) - sqrt(o->beta_start));
        return root * root;
    case CB_BETAS_SQUAREDCOS_CAP_V2:
        return fmin(1 - cosine((double)(t + 1) / (double)steps) / cosine((double)t / (double)steps), most);
    }
    return 0;
}

/* Square roots are moved and stretched so that the first stays and the last is 0: algorithm 1 of arXiv:2305.08891. */
static void rescale(double *alphas, int64_t steps)
{
    double first = sqrt(alphas[0]), last = sqrt(alphas[steps - 1]);
    for (int64_t t = 0; t < steps && first > last; t++) {
        double root = (sqrt(alphas[t]) - last) * first / (first - last);
        alphas[t] = root * root;
    }
}

/* Each step has noise and, but for the last, something of the image: steps back divide by both. */
static bool check_alphas(const cb_noise_schedule *s)
{
    int64_t steps = s->options.num_train_timesteps;
    return (s->alphas[0] < 1 && (steps < 2 || s->alphas[steps - 2] > 0)) ||
           cb_fail(CB_ERR_ARGUMENT,
                   "beta_schedule: found %s from %g to %g in %lld steps, expected noise at the first step, and something left "
                   "of the image before the last",
                   beta_names[s->options.beta_schedule], s->options.beta_start, s->options.beta_end, (long long)steps) == CB_OK;
}

cb_noise_schedule *cb_noise_schedule_new(const cb_noise_options *options)
{
    cb_noise_schedule *s = cb_calloc(1, sizeof *s);
    if (!s || !(s->alphas = cb_calloc((size_t)options->num_train_timesteps, sizeof *s->alphas))) {
        cb_free(s);
        return NULL;
    }
    s->options = *options;
    double product = 1;
    for (int64_t t = 0; t < options->num_train_timesteps; t++)
        s->alphas[t] = product *= 1 - beta_at(options, t);
    if (options->rescale_betas_zero_snr)
        rescale(s->alphas, options->num_train_timesteps);
    if (check_alphas(s))
        return s;
    cb_noise_schedule_free(s);
    return NULL;
}

void cb_noise_schedule_free(cb_noise_schedule *s)
{
    if (s)
        cb_free(s->alphas);
    cb_free(s);
}

const cb_noise_options *cb_noise_schedule_options(const cb_noise_schedule *s)
{
    return &s->options;
}

double cb_noise_alpha(const cb_noise_schedule *s, int64_t t)
{
    return t < 0 ? 1 : s->alphas[t < s->options.num_train_timesteps ? t : s->options.num_train_timesteps - 1];
}

/* ---- files ---- */

/* Schedulers whose noise is what the options say, and what they leave out is not the same for all. */
static bool set_defaults(const char *path, const json_t *json, cb_noise_options *o)
{
    const char *name = cb_json_string(path, json, "_class_name", NULL);
    if (!cb_ok() || !name || strcmp(name, "DDPMScheduler") == 0 || strcmp(name, "DDIMScheduler") == 0)
        return cb_ok();
    if (strcmp(name, "PNDMScheduler") != 0)
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: _class_name is \"%.60s\", expected DDPMScheduler, DDIMScheduler or PNDMScheduler", path,
                       name) == CB_OK;
    o->clip_sample = o->set_alpha_to_one = false;
    return true;
}

static bool check_unknown(const char *path, const json_t *json)
{
    const json_t *betas = json_object_get(json, "trained_betas");
    if (betas && !json_is_null(betas))
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: trained_betas: found a list, expected null and a beta_schedule", path) == CB_OK;
    return !cb_json_bool(path, json, "thresholding", false) ||
           cb_fail(CB_ERR_UNSUPPORTED, "%s: thresholding: found true, expected false", path) == CB_OK;
}

static cb_noise_schedule *from_json(const char *name, const json_t *json)
{
    cb_noise_options options;
    bool ok = json && cb_options_init(cb_noise_option_table, &options) && (!json_is_object(json) || set_defaults(name, json, &options)) &&
              cb_options_from_json(cb_noise_option_table, &options, name, json) && check_unknown(name, json) && cb_ok();
    cb_noise_schedule *s = ok ? cb_noise_schedule_new(&options) : NULL;
    if (ok && !s)
        cb_error_prefix("%s", name);
    return s;
}

cb_noise_schedule *cb_noise_schedule_load(const char *path)
{
    enum { LIMIT = 1 << 20 };
    json_t *json = cb_json_load(path, LIMIT);
    cb_noise_schedule *s = from_json(path, json);
    json_decref(json);
    return s;
}

cb_noise_schedule *cb_noise_schedule_parse(const char *name, const char *text, size_t length)
{
    json_t *json = cb_json_parse(name, text, length);
    cb_noise_schedule *s = from_json(name, json);
    json_decref(json);
    return s;
}

static bool try_file(const char *directory, const char *name, cb_noise_schedule **s)
{
    char *path = cb_path_join(directory, name);
    if (!*s && path && cb_is_file(path))
        *s = cb_noise_schedule_load(path);
    cb_free(path);
    return cb_ok();
}

cb_noise_schedule *cb_noise_schedule_of(const char *directory)
{
    cb_noise_schedule *s = NULL;
    char *above = cb_path_parent(directory);
    bool ok = above && try_file(directory, CB_SCHEDULE_FILE, &s) && try_file(directory, cb_path_base(CB_SCHEDULE_FILE), &s) &&
              try_file(above, CB_SCHEDULE_FILE, &s);
    cb_free(above);
    return ok ? s : NULL;
}

bool cb_noise_schedule_save(const cb_noise_schedule *s, const char *path)
{
    char *text = cb_options_to_json(cb_noise_option_table, &s->options);
    json_t *json = text ? cb_json_parse("scheduler", text, strlen(text)) : NULL, *file = json ? json_object() : NULL;
    bool ok = file && cb_json_put(file, "_class_name", json_string("DDPMScheduler")) &&
              (json_object_update(file, json) == 0 || cb_fail(CB_ERR_MEMORY, "no memory for a scheduler's settings") == CB_OK) &&
              cb_json_save(path, file, false);
    json_decref(json);
    json_decref(file);
    cb_free(text);
    return ok;
}
