/* diffusion.c: an objective: networks learn to say what is noise in an image, by drawing timesteps and noise for each.
 *
 * In training the draws come from the run's generator; held-out images have their own, which are the same in every run. */
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "training/parallel.h"

#define OPT cb_diffusion_options
const cb_option cb_diffusion_option_table[] = {
    CB_OPT_FLOAT(OPT, min_snr_gamma, 0, 0, 1e6, "weigh timesteps by min-SNR with this gamma, such as 5 (0: all alike)"),
    CB_OPT_FLOAT(OPT, class_dropout, 0, 0, 1, "so often an image is shown without its class, for --guidance-scale of generate"),
    CB_OPT_INT(OPT, validation_draws, 4, 1, 1000, "noise and timesteps that each image for validation is judged with"), CB_OPT_END};
#undef OPT

/* ---- the loss ---- */

/* What is drawn for the images of a batch. */
typedef struct noise_draw {
    cb_tensor *timesteps, *classes, *noise; /* (B) i32, (B) i32 or NULL, as the images */
} noise_draw;

/* What a network says, without what it says of the variance, which is not learned here. */
static cb_tensor *said_of(cb_model *model, cb_tensor *noisy, const noise_draw *draw, const cb_context *ctx)
{
    cb_context told = *ctx;
    told.timesteps = cb_cast(draw->timesteps, CB_F32);
    told.classes = draw->classes;
    cb_tensor *said = cb_model_logits(model, noisy, &told);
    int64_t channels = noisy ? noisy->shape[1] : 0;
    return said && said->shape[1] == 2 * channels ? cb_slice(said, 1, 0, channels, 1) : said;
}

/* The sum over images. */
static cb_tensor *loss_of(cb_model *model, const cb_diffusion_training *t, cb_tensor *images, const noise_draw *draw, double gamma,
                          const cb_context *ctx)
{
    if (!draw->timesteps || !draw->noise)
        return NULL;
    cb_tensor *said = said_of(model, cb_add_noise(t->schedule, images, draw->noise, draw->timesteps), draw, ctx);
    return cb_denoising_loss(t->schedule, said, cb_denoising_target(t->schedule, images, draw->noise, draw->timesteps), draw->timesteps,
                             gamma);
}

static bool is_told(const cb_model *model)
{
    return cb_model_labels(model) > 0;
}

/* The stream is drawn from the run's generator, so that no two steps, and no two processes, have the same. */
static noise_draw draw_for(const cb_diffusion_training *t, const cb_model *model, const cb_tensor *images, const cb_tensor *targets,
                           cb_rng *run)
{
    uint64_t high = cb_rng_u32(run), low = cb_rng_u32(run);
    cb_rng rng = {.seed = run->seed, .stream = high << 32 ^ low ^ (uint64_t)cb_parallel_rank()};
    int64_t rows = images->shape[0], steps = cb_noise_schedule_options(t->schedule)->num_train_timesteps;
    noise_draw draw = {.timesteps = cb_empty(CB_I32, rows), .classes = is_told(model) ? cb_empty(CB_I32, rows) : NULL};
    for (int64_t i = 0; draw.timesteps && i < rows; i++)
        ((int32_t *)draw.timesteps->data)[i] = (int32_t)cb_rng_below(&rng, (uint64_t)steps);
    for (int64_t i = 0; draw.classes && i < rows; i++) {
        bool hidden = t->options.class_dropout > 0 && cb_rng_uniform(&rng) < t->options.class_dropout;
        ((int32_t *)draw.classes->data)[i] = hidden ? -1 : (int32_t)cb_get(targets, i);
    }
    draw.noise = cb_randn_nd(images->dtype, &rng, images->ndim, images->shape);
    return draw;
}

static cb_tensor *loss(const cb_trainee *what, cb_tensor *images, cb_tensor *targets, double normalizer, const cb_context *ctx)
{
    const cb_diffusion_training *t = what->objective;
    cb_scope *scope = images && targets ? cb_scope_open() : NULL;
    if (!scope)
        return NULL;
    const noise_draw draw = draw_for(t, what->model, images, targets, ctx->rng);
    cb_tensor *sum = loss_of(what->model, t, images, &draw, t->options.min_snr_gamma, ctx);
    sum = cb_scope_return(scope, sum ? cb_scale(sum, 1 / (normalizer > 0 ? normalizer : (double)images->shape[0])) : NULL);
    cb_scope_close(scope);
    return sum;
}

/* ---- held-out images ---- */

/* Draw `number` of each image, by the image's number in the data, wherever in a batch it stands.  Timesteps are those of a sequence of low discrepancy (Weyl 1916), so that
 * few images are spread over all. */
static noise_draw draw_for_validation(const cb_diffusion_training *t, const cb_model *model, const cb_dataset *data, const cb_batch *batch,
                                      int64_t first_row, int64_t number)
{
    const double golden = 0.6180339887498949;
    const uint64_t seed = 0x6e6f697365; /* "noise" */
    const cb_tensor *images = batch->ids;
    int64_t rows = images->shape[0], each = images->count / rows, steps = cb_noise_schedule_options(t->schedule)->num_train_timesteps;
    noise_draw draw = {.timesteps = cb_empty(CB_I32, rows),
                       .classes = is_told(model) ? batch->targets : NULL,
                       .noise = cb_empty_nd(CB_F32, images->ndim, images->shape)};
    for (int64_t i = 0; draw.timesteps && draw.noise && !cb_rehearsing() && i < rows; i++) {
        int64_t at = cb_dataset_row_number(data, first_row + i) * t->options.validation_draws + number;
        double place = ((double)at + 0.5) * golden;
        cb_rng rng = {.seed = seed, .stream = (uint64_t)at};
        ((int32_t *)draw.timesteps->data)[i] = (int32_t)((place - floor(place)) * (double)steps);
        cb_tensor *noise = cb_randn(CB_F32, &rng, each);
        if (noise)
            memcpy((float *)draw.noise->data + i * each, noise->data, (size_t)each * sizeof(float));
    }
    return draw;
}

static double judge_batch(cb_model *model, const cb_diffusion_training *t, const cb_dataset *data, const cb_batch *batch, int64_t first_row)
{
    const cb_context ctx = cb_train_context(batch);
    double sum = 0;
    for (int64_t number = 0; number < t->options.validation_draws && cb_ok(); number++) {
        cb_scope *scope = cb_scope_open();
        if (!scope)
            return NAN;
        cb_no_grad
        {
            const noise_draw draw = draw_for_validation(t, model, data, batch, first_row, number);
            sum += cb_item(loss_of(model, t, batch->ids, &draw, 0, &ctx));
        }
        cb_scope_close(scope);
    }
    if (cb_ok() && cb_file_maps_check() && !isfinite(sum) && !cb_rehearsing())
        cb_fail(CB_ERR_NUMERIC, "evaluation: the mean square of %lld images is %g", (long long)batch->predicted, sum);
    return sum;
}

static bool judge(cb_model *model, const cb_diffusion_training *t, cb_dataset *data, const cb_validation *how, cb_evaluation *result)
{
    int64_t size = how->batch_size, rows = cb_dataset_rows(data), batches = (rows + size - 1) / size, each = cb_parallel_size();
    double begin = cb_now(), sums[] = {0, 0};
    cb_batch batch = {0};
    bool ok = true;
    batches = how->max_batches && how->max_batches < batches ? how->max_batches : batches;
    *result = (cb_evaluation){.rows = batches * size < rows ? batches * size : rows};
    for (int64_t i = cb_parallel_rank(); ok && i < batches && cb_dataset_sequential(data, i, size, &batch); i += each) {
        if (!cb_rehearsing() || i < each || i + each >= batches) /* a rehearsal sees a whole batch and the last one */
            sums[0] += judge_batch(model, t, data, &batch, i * size);
        sums[1] += (double)(batch.predicted * t->options.validation_draws);
        ok = cb_train_goes_on(how, i + 1);
    }
    cb_batch_free(&batch);
    if (!cb_parallel_meet(CB_AT_VALIDATION, 0, 2, sums))
        return false;
    result->predicted = (int64_t)sums[1];
    result->loss = sums[0] / fmax(sums[1], 1);
    result->metrics = (cb_metrics){.items = {{"mse", result->loss}}, .count = 1};
    result->seconds = cb_now() - begin;
    return cb_ok();
}

static bool evaluate(const cb_trainee *what, cb_dataset *data, int64_t batch_size, int64_t max_batches, cb_evaluation *result)
{
    const cb_validation how = {.batch_size = batch_size, .max_batches = max_batches};
    return judge(what->model, what->objective, data, &how, result);
}

bool cb_evaluate_diffusion(cb_model *model, const cb_diffusion_training *t, cb_dataset *data, int64_t batch_size, int64_t max_batches,
                           cb_evaluation *result)
{
    const cb_validation how = {.batch_size = batch_size, .max_batches = max_batches, .interruptible = true};
    return judge(model, t, data, &how, result);
}

/* ---- as something to train ---- */

static bool save_schedule(const cb_noise_schedule *s, const char *directory)
{
    char *folder = cb_path_join(directory, CB_SCHEDULE_FOLDER), *path = folder ? cb_path_join(directory, CB_SCHEDULE_FILE) : NULL;
    bool ok = path && cb_directory_make(folder) && cb_noise_schedule_save(s, path);
    if (folder && cb_rehearsing()) /* which leaves nothing; one that holds anything stays */
        rmdir(folder);
    cb_free(folder);
    cb_free(path);
    return ok;
}

static bool save(const cb_trainee *what, const char *directory)
{
    const cb_diffusion_training *t = what->objective;
    return t->before.save(what, directory) && save_schedule(t->schedule, directory);
}

static char *describe(const cb_trainee *what)
{
    const cb_diffusion_training *t = what->objective;
    char *settings = t->before.describe ? t->before.describe(what) : cb_strdup("");
    char *noise = cb_options_to_json(cb_noise_option_table, cb_noise_schedule_options(t->schedule)),
         *own = cb_options_to_json(cb_diffusion_option_table, &t->options);
    char *all = settings && noise && own ? cb_format("%s %s %s", settings, noise, own) : NULL;
    cb_free(settings);
    cb_free(noise);
    cb_free(own);
    return all;
}

/* What is shown without its class needs a row for none, and what the network says of the images has to fit them. */
static bool check(const cb_model *model, const cb_diffusion_training *t)
{
    int64_t in = cb_model_image_format(model).channels, out = cb_model_output_channels(model);
    if (cb_model_head_kind(model) != CB_HEAD_DENOISING)
        return cb_fail(CB_ERR_ARGUMENT, "image generation: %s is no network that denoises, expected UNet2DModel or such",
                       cb_model_type(model)) == CB_OK;
    if (out != in && out != 2 * in)
        return cb_fail(CB_ERR_ARGUMENT, "image generation: the network reads %lld channels and gives %lld, expected as many, or twice",
                       (long long)in, (long long)out) == CB_OK;
    return t->options.class_dropout <= 0 || cb_model_has_null_class(model) ||
           cb_fail(CB_ERR_ARGUMENT, "class_dropout: found %g, and the network's table of %lld classes has no row for images without one",
                   t->options.class_dropout, (long long)cb_model_labels(model)) == CB_OK;
}

bool cb_train_diffusion(cb_trainee *what, cb_diffusion_training *training)
{
    if (!check(what->model, training))
        return false;
    training->before = *what;
    what->objective = training;
    what->loss = loss;
    what->evaluate = evaluate;
    what->save = save;
    what->describe = describe;
    return true;
}
