/* diffusion.h: floor 3: noise that is added step by step, what a network is to say of it, and the steps back.
 *
 *     cb_noise_schedule *noise = cb_noise_schedule_load("MODEL_DIR/scheduler/scheduler_config.json");
 *     cb_tensor *noisy = cb_add_noise(noise, images, draws, timesteps);
 *     cb_tensor *said = ... a network's, of noisy and timesteps ...;
 *     cb_tensor *loss = cb_denoising_loss(noise, said, cb_denoising_target(noise, images, draws, timesteps), timesteps, 0);
 *
 * x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise, a_t the product of 1 - beta up to step t (Ho et al. 2020, arXiv:2006.11239).  Nothing here knows
 * images: tensors are (B, ...), timesteps (B) i32 from 0 to T - 1. */
#ifndef CAMBIUM_DIFFUSION_H
#define CAMBIUM_DIFFUSION_H

#include "cambium/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum cb_beta_schedule { CB_BETAS_LINEAR, CB_BETAS_SCALED_LINEAR, CB_BETAS_SQUAREDCOS_CAP_V2 } cb_beta_schedule;
/* What the network gives: the noise, the image, or v = sqrt(a) noise - sqrt(1 - a) x_0 (Salimans and Ho 2022, arXiv:2202.00512). */
typedef enum cb_prediction_type { CB_PREDICTS_EPSILON, CB_PREDICTS_SAMPLE, CB_PREDICTS_V } cb_prediction_type;
typedef enum cb_variance_type { CB_VARIANCE_FIXED_SMALL, CB_VARIANCE_FIXED_LARGE, CB_VARIANCE_LEARNED_RANGE } cb_variance_type;
typedef enum cb_timestep_spacing { CB_SPACING_LEADING, CB_SPACING_LINSPACE, CB_SPACING_TRAILING } cb_timestep_spacing;

/* scheduler_config.json of diffusers, under its field names. */
typedef struct cb_noise_options {
    int64_t num_train_timesteps; /* T */
    int beta_schedule;           /* cb_beta_schedule */
    double beta_start, beta_end;
    int prediction_type; /* cb_prediction_type */
    int variance_type;   /* cb_variance_type; of DDPM's steps */
    bool clip_sample;    /* the image that a step foresees, to -range ... range */
    double clip_sample_range;
    int timestep_spacing; /* cb_timestep_spacing */
    int64_t steps_offset;
    bool set_alpha_to_one;       /* DDIM: behind the last step there is no noise, else as much as at step 0 */
    bool rescale_betas_zero_snr; /* nothing of the image is left at step T - 1 (Lin et al. 2023, arXiv:2305.08891) */
} cb_noise_options;
extern CB_API const cb_option cb_noise_option_table[];

typedef struct cb_noise_schedule cb_noise_schedule;
CB_API cb_noise_schedule *cb_noise_schedule_new(const cb_noise_options *options);
/* From a file of DDPMScheduler, DDIMScheduler or one of their kin with the same fields.  Betas that are listed, thresholding and schedules that
 * are not among the above are CB_ERR_UNSUPPORTED by name. */
CB_API cb_noise_schedule *cb_noise_schedule_load(const char *path);
/* The same of text; `name` is for messages. */
CB_API cb_noise_schedule *cb_noise_schedule_parse(const char *name, const char *text, size_t length);
/* Where diffusers keeps it, beside a model. */
#define CB_SCHEDULE_FOLDER "scheduler"
#define CB_SCHEDULE_FILE   CB_SCHEDULE_FOLDER "/scheduler_config.json"
/* That of a model or an adapter in a directory: CB_SCHEDULE_FILE of it, scheduler_config.json, or, where the directory is a part of a pipeline,
 * the pipeline's.  NULL with cb_ok(): there is none. */
CB_API cb_noise_schedule *cb_noise_schedule_of(const char *directory);
CB_API bool cb_noise_schedule_save(const cb_noise_schedule *s, const char *path); /* as a DDPMScheduler */
CB_API void cb_noise_schedule_free(cb_noise_schedule *s);                         /* NULL is allowed */
CB_API const cb_noise_options *cb_noise_schedule_options(const cb_noise_schedule *s);
CB_API double cb_noise_alpha(const cb_noise_schedule *s, int64_t t); /* a_t; t < 0: 1 */

/* ---- learning ---- */

/* x_t of x_0 and noise of its shape and dtype. */
CB_API cb_tensor *cb_add_noise(const cb_noise_schedule *s, cb_tensor *sample, cb_tensor *noise, const cb_tensor *timesteps);
/* What the network is to give. */
CB_API cb_tensor *cb_denoising_target(const cb_noise_schedule *s, cb_tensor *sample, cb_tensor *noise, const cb_tensor *timesteps);
/* The sum over rows of w_t times the mean square of prediction - target: w 1, or with gamma > 0 that of min-SNR (Hang et al. 2023,
 * arXiv:2303.09556), min(SNR, gamma) over SNR of epsilon, over SNR + 1 of v, over 1 of the image; SNR = a_t / (1 - a_t). */
CB_API cb_tensor *cb_denoising_loss(const cb_noise_schedule *s, cb_tensor *prediction, cb_tensor *target, const cb_tensor *timesteps,
                                    double gamma);

/* ---- making ---- */

/* The timesteps of so many steps from T - 1 downwards, into steps[count].  More than T: CB_ERR_ARGUMENT. */
CB_API bool cb_noise_timesteps(const cb_noise_schedule *s, int64_t count, int64_t *steps);
/* One step from x_t (`sample`) to x_previous, previous < t, less than 0: the last one.  `noise` of its shape, or NULL: none.
 *
 * DDPM: the mean of x_previous given x_t and the x_0 that is foreseen, and noise of the schedule's variance, but behind t = 0.  A prediction of
 * twice the channels (dimension 1) has the variance's logarithm between the small and the large one in its second half (Nichol and Dhariwal
 * 2021, arXiv:2102.09672).
 * DDIM: Song et al. 2020, arXiv:2010.02502; eta 0: without noise, 1: with that of DDPM.  Such a second half is left out. */
CB_API cb_tensor *cb_ddpm_step(const cb_noise_schedule *s, cb_tensor *prediction, int64_t t, int64_t previous, cb_tensor *sample,
                               cb_tensor *noise);
CB_API cb_tensor *cb_ddim_step(const cb_noise_schedule *s, cb_tensor *prediction, int64_t t, int64_t previous, cb_tensor *sample,
                               double eta, cb_tensor *noise);
/* The image that is foreseen, clipped as the schedule says. */
CB_API cb_tensor *cb_foreseen_sample(const cb_noise_schedule *s, cb_tensor *prediction, int64_t t, cb_tensor *sample);

#ifdef __cplusplus
}
#endif
#endif
