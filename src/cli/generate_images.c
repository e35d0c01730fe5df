/* generate_images.c: `cambium generate --images`: images that a network makes from noise, as PNG files. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "core/json.h"

const cb_option cli_make_table[] = {
    CB_OPT_INT(cli_make_settings, images, 0, 0, 1e9, "make so many images, with a network that denoises (docs/diffusion.md)"),
    CB_OPT_STRING(cli_make_settings, output, NULL, "DIR", "directory of them, new or empty; of a network with classes, directories in it"),
    CB_OPT_LIST(cli_make_settings, class, NULL, "NAME,...",
                "classes by name or number, which images get in turn; without it all, and none where the network can do without"),
    CB_OPT_INT(cli_make_settings, height, 0, 0, 1 << 14, "height of an image (0: the network's)"),
    CB_OPT_INT(cli_make_settings, width, 0, 0, 1 << 14, "its width"),
    CB_OPT_END};

/* Images on their way. */
typedef struct making {
    cli_call *call;
    const cli_base *base;
    const cli_make_settings *s;
    const cb_image_processor *processor;
    const cb_noise_schedule *schedule;
    int32_t *classes; /* of all images; NULL: the network has none */
    int64_t size[2], done;
    uint64_t seed;
} making;

/* ---- classes ---- */

static int32_t class_named(const cb_model *model, const char *name)
{
    const cb_string_list *names = cb_model_label_names(model);
    for (size_t i = 0; i < names->count; i++)
        if (strcmp(names->items[i], name) == 0)
            return (int32_t)i;
    char *end;
    long number = strtol(name, &end, 10);
    if (*name && !*end && number >= 0 && number < cb_model_labels(model))
        return (int32_t)number;
    cb_string close = {0};
    cb_closest_names(name, (const char *const *)names->items, names->count, 3, &close);
    cli_refuse("--class: found \"%.100s\", expected one of %lld classes by name or number, such as %s", name,
               (long long)cb_model_labels(model), close.data ? close.data : "0");
    cb_string_free(&close);
    return -1;
}

/* In turn those that are asked for, or all. */
static bool choose_classes(making *m)
{
    const cb_model *model = m->base->model;
    const cb_string_list *asked = &m->s->class;
    int64_t all = cb_model_labels(model), turns = asked->count ? (int64_t)asked->count : all;
    if (!all)
        return !asked->count || cli_refuse("--class: the network has no classes");
    m->classes = cb_calloc((size_t)m->s->images, sizeof *m->classes);
    for (int64_t i = 0; m->classes && i < m->s->images && i < turns; i++) {
        m->classes[i] = asked->count ? class_named(model, asked->items[i]) : (int32_t)i;
        if (m->classes[i] < 0)
            return false;
    }
    for (int64_t i = turns; m->classes && i < m->s->images; i++)
        m->classes[i] = m->classes[i - turns];
    return m->classes;
}

/* Names of classes come from files: only plain ones are names of directories. */
static char *directory_of(const making *m, int64_t image)
{
    if (!m->classes)
        return cb_strdup(m->s->output);
    int32_t class = m->classes[image];
    const char *name = cb_model_label_names(m->base->model)->items[class];
    size_t plain = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_- ");
    if (*name && !name[plain] && plain < 100)
        return cb_path_join(m->s->output, name);
    return cb_format("%s/class-%d", m->s->output, (int)class);
}

/* ---- pixels ---- */

/* (C, H, W) as it was normalised for training, back to levels. */
static bool to_image(const cb_image_processor *p, const float *values, const int64_t size[2], cb_image *image)
{
    if (!cb_image_make(image, size[1], size[0], p->channels, 8))
        return false;
    int64_t places = size[0] * size[1];
    for (int64_t i = 0; i < places; i++)
        for (int c = 0; c < p->channels; c++) {
            double x = (double)values[c * places + i];
            x = p->do_normalize ? x * p->image_std[c] + p->image_mean[c] : x;
            x = p->do_rescale ? x / p->rescale_factor : x;
            int at = p->do_flip_channel_order ? p->channels - 1 - c : c;
            image->pixels[i * p->channels + at] = (uint8_t)fmin(fmax(rint(x), 0), 255);
        }
    return true;
}

static bool write_image(const making *m, int64_t number, const float *values)
{
    cb_image image = {0};
    char *directory = directory_of(m, number), *path = directory ? cb_format("%s/%05lld.png", directory, (long long)number) : NULL;
    bool ok = path && to_image(m->processor, values, m->size, &image) && cb_directory_make(directory) && cb_image_write_png(path, &image);
    cb_image_free(&image);
    cb_free(path);
    cb_free(directory);
    return ok;
}

static bool write_batch(making *m, const cb_tensor *images)
{
    const cb_tensor *whole = cb_contiguous((cb_tensor *)(uintptr_t)images);
    bool ok = whole;
    for (int64_t i = 0; ok && !cb_rehearsing() && i < whole->shape[0]; i++) {
        const float *values = (const float *)whole->data + i * (whole->count / whole->shape[0]);
        for (int64_t k = 0; ok && k < whole->count / whole->shape[0]; k++)
            ok = isfinite(values[k]) ||
                 cb_fail(CB_ERR_NUMERIC, "image %lld: the network gave %g", (long long)(m->done + i), (double)values[k]) == CB_OK;
        ok = ok && write_image(m, m->done + i, values);
    }
    return ok;
}

/* ---- the command's part ---- */

static void on_step(void *user, int64_t step, int64_t steps)
{
    const making *m = user;
    if (!m->call->common.json && !m->call->common.quiet)
        cli_status("images %lld of %lld, step %lld of %lld", (long long)m->done, (long long)m->s->images, (long long)step,
                   (long long)steps);
}

static bool make_all(making *m)
{
    bool ok = true;
    while (ok && m->done < m->s->images) {
        int64_t left = m->s->images - m->done, count = left < m->s->batch_size ? left : m->s->batch_size;
        cb_sample_request request = {.count = count,
                                     .first = m->done,
                                     .seed = m->seed,
                                     .size = {m->size[0], m->size[1]},
                                     .classes = m->classes ? m->classes + m->done : NULL};
        cb_scope *scope = cb_scope_open();
        cb_tensor *images = scope ? cb_model_sample(m->base->model, m->schedule, &request, &m->s->sample, on_step, m) : NULL;
        ok = images && write_batch(m, images);
        if (scope)
            cb_scope_close(scope);
        m->done = cb_rehearsing() ? m->s->images : m->done + count;
    }
    cli_status_clear();
    return ok;
}

static bool choose_size(making *m)
{
    cb_image_format format = cb_model_image_format(m->base->model);
    m->size[0] = m->s->height ? m->s->height : format.height;
    m->size[1] = m->s->width ? m->s->width : format.width;
    return (m->size[0] && m->size[1]) ||
           cli_refuse("%s: found no sample_size in config.json, expected one, or --height and --width", cb_model_directory(m->base->model));
}

static bool show(const making *m, double seconds)
{
    double rate = seconds > 0 ? (double)m->s->images / seconds : 0;
    if (!m->call->common.json) {
        cli_field("images", "%s of %lld x %lld in %s", cli_thousands(m->s->images), (long long)m->size[1], (long long)m->size[0],
                  m->s->output);
        cli_field("time", "%s, %.2f images/s", cli_seconds(seconds), rate);
        return true;
    }
    return cli_json(json_pack("{s:s, s:I, s:s, s:I, s:I, s:I, s:f, s:o, s:o, s:I}", "model", cb_model_directory(m->base->model), "images",
                              (json_int_t)m->s->images, "output", m->s->output, "height", (json_int_t)m->size[0], "width",
                              (json_int_t)m->size[1], "steps", (json_int_t)m->s->sample.sampling_steps, "guidance_scale",
                              m->s->sample.guidance_scale, "seconds", cli_real(seconds), "images_per_second", cli_real(rate), "peak_memory",
                              (json_int_t)cb_peak_rss()));
}

/* The first of the adapters' directories; to be freed with *text. */
static const char *first_adapter(const cb_string_list *adapters, cli_adapter_argument *a)
{
    return adapters->count && cli_split_adapter(adapters->items[0], a) ? a->directory : NULL;
}

static bool ready(const making *m, cli_image_settings *how, const char *directory, const char *adapter)
{
    memcpy(how->made, m->size, sizeof how->made);
    return cli_images_ready(how, m->base->model, directory, adapter);
}

bool cli_make_images(cli_call *call, const cli_base *base, const cli_make_settings *s, const cb_string_list *adapters, uint64_t seed)
{
    making m = {.call = call, .base = base, .s = s, .seed = seed};
    cli_image_settings how = {0};
    cli_diffusion_settings noise = {0};
    cli_adapter_argument first = {0};
    const char *adapter = first_adapter(adapters, &first), *directory = cb_model_directory(base->model);
    double begin = cb_now();
    bool existed = cb_is_directory(s->output);
    bool ok = cb_ok() && cb_options_init(cb_noise_option_table, &noise.noise) && choose_size(&m) && ready(&m, &how, directory, adapter) &&
              cli_diffusion_open(call, &noise, directory, adapter) && choose_classes(&m) && cb_directory_vacant(s->output) &&
              (cb_rehearsing() || cb_directory_make(s->output));
    m.processor = &how.processor;
    m.schedule = noise.schedule;
    ok = ok && make_all(&m) && (cb_rehearsing() || show(&m, cb_now() - begin));
    if (!ok && !existed)
        rmdir(s->output); /* which only takes one that is still empty */
    cli_diffusion_close(&noise);
    cb_free(m.classes);
    cb_free(first.text);
    return ok;
}
