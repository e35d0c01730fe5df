/* schedule.c: scheduler_config.json of diffusers, and steps through the noise that it says. */
#include "cambium/diffusion.h"
#include "fuzz.h"

enum { STEPS = 5 };

static bool use(const cb_noise_schedule *s)
{
    int64_t steps[STEPS];
    cb_scope *scope = cb_scope_open();
    bool ok = scope && cb_noise_timesteps(s, STEPS, steps);
    cb_tensor *x = ok ? cb_full(CB_F32, 0.5, 2, 3) : NULL, *noise = ok ? cb_full(CB_F32, 0.25, 2, 3) : NULL;
    for (int i = 0; x && i < STEPS; i++)
        x = (i & 1 ? cb_ddpm_step(s, noise, steps[i], i + 1 < STEPS ? steps[i + 1] : -1, x, noise)
                   : cb_ddim_step(s, noise, steps[i], i + 1 < STEPS ? steps[i + 1] : -1, x, 0.5, noise));
    if (scope)
        cb_scope_close(scope);
    return ok && x;
}

void fuzz_target(const uint8_t *data, size_t size)
{
    cb_noise_schedule *s = cb_noise_schedule_parse("input", (const char *)data, size);
    if (fuzz_expect(s))
        fuzz_expect(use(s));
    cb_noise_schedule_free(s);
}
