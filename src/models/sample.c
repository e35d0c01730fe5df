/* sample.c: images from noise: a network that denoises, step by step back through a schedule.
 *
 * Each image has draws of its own, so what comes of a number and a seed does not depend on how many are made at once.  With guidance (Ho and Salimans
 * 2022, arXiv:2207.12598) each image goes through the network twice in one batch, with its class and without. */
#include <string.h>

#include "cambium/diffusion.h"
#include "models/internal.h"

static const char *const sampler_names[] = {"ddim", "ddpm", NULL};

#define OPT cb_sample_options
const cb_option cb_sample_option_table[] = {
    CB_OPT_ENUM(OPT, sampler, CB_SAMPLER_DDIM, sampler_names, "how steps back are made: ddim, which needs few of them, or ddpm"),
    CB_OPT_INT(OPT, sampling_steps, 50, 1, 1 << 20, "steps back from noise to an image"),
    CB_OPT_FLOAT(OPT, eta, 0, 0, 1, "ddim: noise of a step, as a share of ddpm's"),
    CB_OPT_FLOAT(OPT, guidance_scale, 1, 0, 1e3,
                 "how far images are drawn to their class, away from what they are without one (1: not at all)"),
    CB_OPT_END};
#undef OPT

/* What stays the same from step to step. */
typedef struct sampling {
    cb_model *model;
    const cb_noise_schedule *schedule;
    const cb_sample_options *options;
    cb_tensor *classes; /* (B) or with guidance (2 B), of which the second half is of none; NULL: the network has no classes */
    bool guided;
} sampling;

/* ---- draws ---- */

/* A normal draw for each image, from its own generator. */
static cb_tensor *draw(cb_rng *rngs, int64_t count, int64_t channels, const int64_t size[2])
{
    int64_t each = channels * size[0] * size[1];
    cb_tensor *all = cb_empty(CB_F32, count, channels, size[0], size[1]);
    for (int64_t i = 0; all && i < count; i++) {
        cb_scope *scope = cb_scope_open();
        cb_tensor *one = scope ? cb_randn(CB_F32, &rngs[i], each) : NULL;
        if (one && !cb_rehearsing())
            memcpy((float *)all->data + i * each, one->data, (size_t)each * sizeof(float));
        if (scope)
            cb_scope_close(scope);
        all = one ? all : NULL;
    }
    return all;
}

/* ---- what the network says ---- */

static cb_tensor *part(cb_tensor *x, int64_t first, int64_t end, int dim)
{
    return x ? cb_slice(x, dim, first, end, 1) : NULL;
}

/* none + scale (class - none) of what is said of the images; what is said of the variance stays that of the class. */
static cb_tensor *guided(const sampling *s, cb_tensor *said, int64_t channels)
{
    int64_t rows = said ? said->shape[0] / 2 : 0, all = said ? said->shape[1] : 0;
    cb_tensor *of_class = part(said, 0, rows, 0), *of_none = part(part(said, rows, 2 * rows, 0), 0, channels, 1);
    cb_tensor *with = part(of_class, 0, channels, 1);
    cb_tensor *drawn = cb_add(of_none, cb_scale(cb_sub(with, of_none), s->options->guidance_scale));
    cb_tensor *parts[] = {drawn, part(of_class, channels, all, 1)};
    return !drawn || all == channels ? drawn : cb_cat(2, parts, 1);
}

static cb_tensor *said_of(const sampling *s, cb_tensor *images, int64_t t)
{
    cb_tensor *twice[] = {images, images}, *input = s->guided ? cb_cat(2, twice, 0) : images;
    if (!input)
        return NULL;
    cb_context ctx = {.timesteps = cb_full(CB_F32, (double)t, input->shape[0]), .classes = s->classes};
    cb_tensor *said = ctx.timesteps ? cb_model_logits(s->model, input, &ctx) : NULL;
    said = said && said->dtype != CB_F32 ? cb_cast(said, CB_F32) : said;
    return s->guided ? guided(s, said, images->shape[1]) : said;
}

/* ---- steps ---- */

static cb_tensor *step_back(const sampling *s, const int64_t *steps, int64_t at, cb_tensor *images, cb_rng *rngs)
{
    const cb_sample_options *o = s->options;
    const int64_t size[] = {images->shape[2], images->shape[3]};
    int64_t t = steps[at], count = o->sampling_steps, all = cb_noise_schedule_options(s->schedule)->num_train_timesteps;
    bool ddpm = o->sampler == CB_SAMPLER_DDPM, noisy = ddpm ? t > 0 : o->eta > 0;
    cb_tensor *said = said_of(s, images, t), *noise = said && noisy ? draw(rngs, images->shape[0], images->shape[1], size) : NULL;
    if (!said || (noisy && !noise))
        return NULL;
    if (ddpm)
        return cb_ddpm_step(s->schedule, said, t, at + 1 < count ? steps[at + 1] : -1, images, noise);
    return cb_ddim_step(s->schedule, said, t, t - all / count, images, o->eta, noise); /* as diffusers counts, whatever the spacing */
}

/* Steps of a rehearsal are alike. */
static int64_t steps_to_go(int64_t steps)
{
    return cb_rehearsing() && steps > 2 ? 2 : steps;
}

/* The images are overwritten, so that what is held does not grow with the steps. */
static bool step_in_place(const sampling *s, const int64_t *steps, int64_t at, cb_tensor *images, cb_rng *rngs)
{
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return false;
    cb_tensor *next = step_back(s, steps, at, images, rngs);
    bool ok = next && cb_copy_into(images, next);
    cb_scope_close(scope);
    return ok;
}

static cb_tensor *run(const sampling *s, const int64_t *steps, cb_rng *rngs, int64_t count, const int64_t size[2],
                      cb_sample_callback *callback, void *user)
{
    int64_t all = s->options->sampling_steps;
    cb_tensor *images = draw(rngs, count, s->model->config.channels, size);
    for (int64_t at = 0; images && at < steps_to_go(all); at++) {
        images = step_in_place(s, steps, at, images, rngs) ? images : NULL;
        if (images && cb_interrupted())
            cb_fail(CB_ERR_INTERRUPTED, "interrupted after step %lld of %lld", (long long)at + 1, (long long)all), images = NULL;
        if (images && callback)
            callback(user, at + 1, all);
    }
    return images;
}

/* ---- all of it ---- */

static bool check(const cb_model *model, const cb_sample_options *o, const int32_t *classes)
{
    int64_t in = model->config.channels, out = model->config.output_channels;
    if (model->head_plan->kind != CB_HEAD_DENOISING)
        return cb_fail(CB_ERR_ARGUMENT, "images: %s makes none, expected a network that denoises", model->architecture->model_type) ==
               CB_OK;
    if (out != in && out != 2 * in)
        return cb_fail(CB_ERR_ARGUMENT, "images: the network reads %lld channels and gives %lld, expected as many, or twice", (long long)in,
                       (long long)out) == CB_OK;
    if (classes && !model->config.class_rows)
        return cb_fail(CB_ERR_ARGUMENT, "class: the network has no classes") == CB_OK;
    if (!classes && model->config.class_rows && !cb_model_has_null_class(model))
        return cb_fail(CB_ERR_ARGUMENT, "class: found none, expected one of %lld for each image", (long long)model->labels) == CB_OK;
    return o->guidance_scale == 1 || (classes && cb_model_has_null_class(model)) ||
           cb_fail(CB_ERR_ARGUMENT, "guidance_scale: found %g, and the network %s, expected 1", o->guidance_scale,
                   !model->config.class_rows ? "has no classes"
                   : classes                 ? "has no row for images without a class"
                                             : "is told no class") == CB_OK;
}

/* (B), or with guidance (2 B). */
static cb_tensor *told_classes(const int32_t *classes, int64_t count, bool guided)
{
    cb_tensor *all = cb_full(CB_I32, -1, guided ? 2 * count : count);
    if (all)
        memcpy(all->data, classes, (size_t)count * sizeof *classes);
    return all;
}

cb_tensor *cb_model_sample(cb_model *model, const cb_noise_schedule *schedule, const cb_sample_request *request,
                           const cb_sample_options *options, cb_sample_callback *callback, void *user)
{
    if (!cb_ok() || !check(model, options, request->classes))
        return NULL;
    int64_t count = request->count, steps = options->sampling_steps;
    int64_t *timesteps = cb_calloc((size_t)steps, sizeof *timesteps);
    cb_rng *rngs = cb_calloc((size_t)count, sizeof *rngs);
    cb_scope *scope = timesteps && rngs ? cb_scope_open() : NULL;
    cb_tensor *images = NULL;
    for (int64_t i = 0; rngs && i < count; i++)
        rngs[i] = (cb_rng){.seed = request->seed, .stream = (uint64_t)(request->first + i)};
    if (scope) {
        sampling s = {.model = model, .schedule = schedule, .options = options, .guided = options->guidance_scale != 1};
        s.classes = request->classes ? told_classes(request->classes, count, s.guided) : NULL;
        if (cb_ok() && cb_noise_timesteps(schedule, steps, timesteps))
            cb_no_grad images = run(&s, timesteps, rngs, count, request->size, callback, user);
        images = cb_scope_return(scope, images);
        cb_scope_close(scope);
    }
    cb_free(timesteps);
    cb_free(rngs);
    return images;
}
