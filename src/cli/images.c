/* images.c: images as the data of commands: how they are made ready for a model, and which they are. */
#include <string.h>

#include "cli/cli.h"
#include "models/labels.h"

const cb_option cli_image_table[] = {
    CB_OPT_STRING(cli_image_settings, image_processor, NULL, "PATH",
                  "preprocessor_config.json or its directory; without it the adapter's or the model's own"),
    CB_OPT_END};

bool cli_takes_images(const cb_model *model)
{
    return cb_model_image_format(model).channels > 0;
}

bool cli_is_of_images(cb_objective objective)
{
    return objective == CB_OBJECTIVE_IMAGE_CLASSIFICATION || cb_objective_is_of_places(objective) ||
           objective == CB_OBJECTIVE_IMAGE_GENERATION;
}

/* The directory that `path` is, or that a config.json of it lies in. */
static char *directory_of(const char *path)
{
    return cb_is_directory(path) ? cb_strdup(path) : cb_path_parent(path);
}

static bool has_processor(const char *directory)
{
    char *path = directory ? cb_path_join(directory, "preprocessor_config.json") : NULL;
    bool has = path && cb_is_file(path);
    cb_free(path);
    return has;
}

static bool check(const cb_image_processor *p, const cb_model *model, const char *source)
{
    cb_image_format takes = cb_model_image_format(model);
    int64_t height, width;
    if (p->channels != takes.channels)
        return cli_refuse("%s: makes images of %d channels (image_mean), and the model takes %lld", source, p->channels,
                          (long long)takes.channels);
    if (cli_recognises(model))
        return (p->height == takes.height && !p->width && p->do_resize && !p->do_center_crop) ||
               cli_refuse("%s: expected a size of height %lld alone, which is what the model takes, and no crop", source,
                          (long long)takes.height);
    if (!cb_image_processor_size(p, &height, &width))
        return cli_refuse("%s: makes images of different sizes, expected size as height and width, or a crop", source);
    if (takes.height && (height != takes.height || width != takes.width))
        return cli_refuse("%s: makes images of %lld x %lld, and the model takes %lld x %lld", source, (long long)height, (long long)width,
                          (long long)takes.height, (long long)takes.width);
    return true;
}

/* What an adapter was trained with, and what is used instead. */
static bool warn_of_difference(const cb_image_processor *used, const char *source, const char *adapter)
{
    cb_image_processor own;
    if (!cb_image_processor_load(adapter, &own))
        return false;
    char *a = cb_image_processor_describe(used), *b = cb_image_processor_describe(&own);
    if (a && b && strcmp(a, b) != 0)
        cb_log_message(
            CB_LOG_WARNING,
            "%s differs from what %s was trained with (preprocessor_config.json): image_mean %.4g and %.4g, image_std %.4g and %.4g, "
            "%lld x %lld and %lld x %lld",
            source, adapter, used->image_mean[0], own.image_mean[0], used->image_std[0], own.image_std[0], (long long)used->height,
            (long long)used->width, (long long)own.height, (long long)own.width);
    cb_free(a);
    cb_free(b);
    return cb_ok();
}

bool cli_is_denoiser(const cb_model *model)
{
    return cb_model_head_kind(model) == CB_HEAD_DENOISING;
}

/* diffusers' own have none: images of the size that the network was made for, levels as -1 to 1. */
static bool denoised(cli_image_settings *s, const cb_model *model, const char *source)
{
    cb_image_format takes = cb_model_image_format(model);
    cb_image_processor *p = &s->processor;
    cb_image_processor_init(p);
    p->channels = (int)takes.channels;
    p->height = takes.height ? takes.height : s->made[0];
    p->width = takes.height ? takes.width : s->made[1];
    if (takes.channels != 1 && takes.channels != 3)
        return cli_refuse("%s: in_channels is %lld, expected 1 or 3 where the data are images", source, (long long)takes.channels);
    return p->height || cli_refuse("%s: found no sample_size in config.json, expected one, or --image-processor", source);
}

/* Pictures of lines of text: as high as the model takes them, in their own shape, levels as -1 to 1. */
static bool of_lines(cb_image_processor *p, const cb_model *model)
{
    cb_image_format takes = cb_model_image_format(model);
    cb_image_processor_init(p);
    p->channels = (int)takes.channels;
    p->height = takes.height;
    p->width = 0;
    return true;
}

/* What a model says itself, where there is no file; *known: it does. */
static bool without_file(cli_image_settings *s, const cb_model *model, const char *directory, const char *adapter, bool *known)
{
    bool lines = cli_recognises(model);
    *known = (lines || cli_is_denoiser(model)) && !s->image_processor && !has_processor(adapter) && !has_processor(directory);
    return !*known || (lines ? of_lines(&s->processor, model) : denoised(s, model, directory));
}

bool cli_images_ready(cli_image_settings *s, const cb_model *model, const char *path, const char *adapter)
{
    bool known = false;
    char *directory = directory_of(path);
    bool ok = directory && without_file(s, model, directory, adapter, &known);
    const char *source = s->image_processor ? s->image_processor : has_processor(adapter) ? adapter : directory;
    if (ok && !known)
        ok = cb_image_processor_load(source, &s->processor) && check(&s->processor, model, source);
    if (ok && s->image_processor && has_processor(adapter))
        ok = warn_of_difference(&s->processor, source, adapter);
    cb_free(directory);
    return ok;
}

cb_dataset *cli_images_open(cli_image_settings *s, const cb_string_list *data, const cb_string_list *labels, int64_t seed, bool train)
{
    cb_image_data_options o = s->data;
    o.data = *data;
    o.labels = labels;
    o.processor = &s->processor;
    o.augment = train ? &s->augment : NULL;
    o.seed = (uint64_t)seed;
    return cb_dataset_open_images(&o);
}

cb_dataset *cli_images_to_make(cli_image_settings *s, const cb_model *model, const cb_string_list *data, const cb_string_list *labels,
                               int64_t seed, bool train)
{
    const cb_string_list *names = cb_model_label_names(model);
    const cb_string_list *known = labels && labels->count ? labels : names->count && !cb_labels_generic(names) ? names : NULL;
    s->data.objective = CB_OBJECTIVE_IMAGE_GENERATION;
    s->data.unlabelled = !names->count;
    return cli_images_open(s, data, known, seed, train);
}

bool cli_images_save(const cli_image_settings *s, const char *directory)
{
    return cb_parallel_rank() > 0 || cb_image_processor_save(&s->processor, directory);
}
