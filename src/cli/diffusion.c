/* diffusion.c: what commands share of networks that denoise: the noise that they were, or are to be, trained with. */
#include <string.h>

#include "cli/cli.h"

/* Options that say what noise there is, or how it is learned, are of such networks alone. */
static bool refuse_given(cli_call *call, const cb_option *table, const char *why)
{
    for (const cb_option *o = table; o->name; o++)
        if (cli_given(call, o->name)) {
            cli_refuse("%s: %s", o->name, why);
            cli_blame(call, o->name);
            return false;
        }
    return true;
}

bool cli_diffusion_open(cli_call *call, cli_diffusion_settings *s, const char *path, const char *adapter)
{
    char *directory = cb_is_directory(path) ? cb_strdup(path) : cb_path_parent(path);
    s->schedule = directory ? cb_noise_schedule_of(directory) : NULL;
    if (cb_ok() && !s->schedule && adapter)
        s->schedule = cb_noise_schedule_of(adapter);
    cb_free(directory);
    if (!cb_ok())
        return false;
    if (s->schedule)
        return refuse_given(call, cb_noise_option_table,
                            "the model has a scheduler_config.json, which says what noise it was trained with");
    s->schedule = cb_noise_schedule_new(&s->noise);
    return s->schedule;
}

bool cli_diffusion_train(cli_call *call, cli_diffusion_settings *s, cb_trainee *what, const char *path, const char *adapter)
{
    static const char other[] = "is for networks that make images from noise, found another model";
    if (!cli_is_denoiser(what->model))
        return refuse_given(call, cb_noise_option_table, other) && refuse_given(call, cb_diffusion_option_table, other);
    if (!cli_diffusion_open(call, s, path, adapter))
        return false;
    s->training.schedule = s->schedule;
    return cb_train_diffusion(what, &s->training);
}

void cli_diffusion_close(cli_diffusion_settings *s)
{
    cb_noise_schedule_free(s->schedule);
    s->schedule = NULL;
}
