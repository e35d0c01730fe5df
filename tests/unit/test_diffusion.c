/* test_diffusion.c: networks that denoise and schedules of noise against diffusers (tests/oracle/diffusion.py). */
#include "cambium/adapters.h"
#include "cambium/diffusion.h"
#include "cambium/merge.h"
#include "model_fixtures.h"

static const char *const networks[] = {"unet", "unet_shift", "dit"};
#define NETWORKS (sizeof networks / sizeof *networks)

static const char *const schedules[] = {"linear", "scaled", "cosine_v", "zero_snr", "learned"};
#define SCHEDULES (sizeof schedules / sizeof *schedules)

static const char *network_path(const char *name)
{
    static char ring[4][512];
    static unsigned turn;
    char *path = ring[turn++ % 4];
    snprintf(path, sizeof ring[0], "%s/diffusion/%s", CB_TEST_DATA, name);
    return path;
}

/* A network in `directory` with what was computed from it; f.ids are the noisy images. */
static fixture network_open_at(const char *name, const char *directory, cb_dtype dtype)
{
    char path[600];
    fixture f = {.scope = cb_scope_open(), .model = cb_model_load(directory, .dtype = dtype)};
    assert_ok();
    snprintf(path, sizeof path, "%s/expected.safetensors", network_path(name));
    f.expected = cb_safetensors_open(path);
    assert_ok();
    f.ids = expected_tensor(&f, "sample");
    return f;
}

static fixture network_open(const char *name)
{
    return network_open_at(name, network_path(name), CB_F32);
}

/* What the network is told of them. */
static cb_context context_of(const fixture *f)
{
    bool has = cb_safetensors_find(f->expected, "classes");
    cb_tensor *classes = has ? as_i32(expected_tensor(f, "classes")) : NULL;
    for (int64_t i = 0; has && i < classes->count; i++) /* the row for none is the one behind all classes */
        if (((int32_t *)classes->data)[i] == cb_model_labels(f->model))
            ((int32_t *)classes->data)[i] = -1;
    return (cb_context){.timesteps = cb_cast(expected_tensor(f, "timesteps"), CB_F32), .classes = classes};
}

static cb_tensor *output_of(const fixture *f)
{
    cb_context ctx = context_of(f);
    return cb_model_logits(f->model, f->ids, &ctx);
}

static cb_tensor *loss_of(const fixture *f, bool checkpoint)
{
    cb_context ctx = context_of(f);
    ctx.checkpoint = checkpoint;
    return cb_mean(cb_square(cb_sub(cb_model_logits(f->model, f->ids, &ctx), expected_tensor(f, "target"))), CB_ALL, false);
}

/* ---- networks ---- */

/* diffusers rounds the angles of timesteps to f32: at 999 by 3e-5. */
static const double angles = 1e-4;

static void outputs_equal_diffusers(void **state)
{
    (void)state;
    for (size_t i = 0; i < NETWORKS; i++) {
        fixture f = network_open(networks[i]);
        assert_int_equal(cb_model_head_kind(f.model), CB_HEAD_DENOISING);
        assert_close(networks[i], output_of(&f), expected_tensor(&f, "output"), angles);
        cb_no_grad assert_close(networks[i], output_of(&f), expected_tensor(&f, "output"), angles);
        fixture_close(&f);
    }
}

static void bf16_activations_come_close(void **state)
{
    (void)state;
    for (size_t i = 0; i < NETWORKS; i++) {
        fixture f = network_open_at(networks[i], network_path(networks[i]), CB_BF16);
        cb_tensor *output = output_of(&f);
        assert_true(output && output->dtype == CB_BF16);
        assert_close(networks[i], cb_cast(output, CB_F32), expected_tensor(&f, "output"), 0.06); /* some twenty layers of 8 bits */
        fixture_close(&f);
    }
}

static void all_gradients_equal_diffusers(void **state)
{
    (void)state;
    for (size_t i = 0; i < NETWORKS; i++)
        for (int checkpoint = 0; checkpoint < 2; checkpoint++) {
            fixture f = network_open(networks[i]);
            each_gradient(&f, "grad.", make_trainable);
            cb_tensor *loss = loss_of(&f, checkpoint);
            assert_close(networks[i], loss, expected_tensor(&f, "loss"), 1e-5);
            assert_true(cb_backward(loss));
            assert_true(each_gradient(&f, "grad.", compare_gradient) > 40);
            fixture_close(&f);
        }
}

static void adapters_of_peft_give_their_output(void **state)
{
    (void)state;
    static const char *const adapted[] = {"unet", "dit"};
    for (int i = 0; i < 2; i++) {
        fixture f = network_open(adapted[i]);
        char path[600];
        snprintf(path, sizeof path, "%s/adapter", network_path(adapted[i]));
        cb_adapter *adapter = cb_adapter_load(path, cb_model_root(f.model), cb_model_type(f.model));
        assert_ok();
        assert_close(adapted[i], output_of(&f), expected_tensor(&f, "adapted"), angles);
        cb_adapter_free(adapter);
        fixture_close(&f);
    }
}

static void expect_files(const char *directory, const char *const *names)
{
    for (; *names; names++) {
        char *path = cb_path_join(directory, *names);
        assert_true(cb_is_file(path));
        cb_free(path);
    }
}

static const char *const files[] = {"config.json", "diffusion_pytorch_model.safetensors", NULL};

static void saving_and_loading_changes_nothing(void **state)
{
    (void)state;
    for (size_t i = 0; i < NETWORKS; i++) {
        fixture f = network_open(networks[i]);
        char *directory = strdup("/tmp/cambium-test-XXXXXX");
        assert_non_null(mkdtemp(directory));
        assert_true(cb_model_save(f.model, directory, CB_F32));
        expect_files(directory, files);
        fixture saved = network_open_at(networks[i], directory, CB_F32);
        assert_close(networks[i], output_of(&saved), output_of(&f), 0);
        fixture_close(&saved);
        fixture_close(&f);
        remove_model(directory);
    }
}

/* Every layer that hosts anything: on linear layers, convolutions, norms, attention and blocks. */
static void kinds_of_all_places_start_and_learn(void **state)
{
    (void)state;
    static const char *const kinds[][3] = {{"lora", "target_modules", "to_q,to_v,conv1,time_emb_proj"},
                                           {"lokr", "target_modules", "to_q,to_k,conv2"},
                                           {"ia3", "target_modules", "to_k,to_v"},
                                           {"ln_tuning", "target_modules", "norm1,group_norm,conv_norm_out"},
                                           {"bottleneck", "target_modules", "attentions.0"}};
    fixture f = network_open("unet");
    cb_tensor *base = output_of(&f);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        cb_adapter *adapter = cb_adapter_new(kinds[i][0], "default");
        assert_true(cb_adapter_set(adapter, kinds[i][1], kinds[i][2]));
        if (i < 2)
            assert_true(cb_adapter_set(adapter, "rank", "2"));
        if (!cb_adapter_attach(adapter, cb_model_root(f.model), cb_model_type(f.model), 3))
            fail_msg("%s: %s", kinds[i][0], cb_error_message());
        bool identity = strcmp(kinds[i][0], "bottleneck") != 0; /* whose new layers begin at small numbers, not at 0 */
        assert_close(kinds[i][0], output_of(&f), base, identity ? 1e-6 : 0.3);
        assert_true(cb_backward(loss_of(&f, false)));
        const cb_named_tensor *list;
        size_t count = cb_adapter_parameters(adapter, &list);
        double norm = 0;
        for (size_t k = 0; k < count; k++)
            norm += list[k].tensor->grad ? cb_item(cb_sum(cb_square(cb_cast(list[k].tensor->grad, CB_F32)), CB_ALL, false)) : 0;
        if (!(norm > 0))
            fail_msg("%s has no gradient", kinds[i][0]);
        cb_adapter_free(adapter);
    }
    assert_close("base", output_of(&f), base, 0);
    fixture_close(&f);
}

static void merging_is_adapting(void **state)
{
    (void)state;
    fixture f = network_open("unet");
    char path[600], directory[] = "/tmp/cambium-merged-XXXXXX";
    snprintf(path, sizeof path, "%s/adapter", network_path("unet"));
    cb_adapter *adapter = cb_adapter_load(path, cb_model_root(f.model), cb_model_type(f.model));
    assert_non_null(mkdtemp(directory));
    cb_merge_options options = {0};
    assert_true(cb_options_init(cb_merge_option_table, &options));
    if (!cb_merge_fold(f.model, &adapter, 1, directory, &options, NULL))
        fail_msg("%s", cb_error_message());
    expect_files(directory, files);
    fixture merged = network_open_at("unet", directory, CB_F32);
    assert_close("merged", output_of(&merged), expected_tensor(&f, "adapted"), 1e-5);
    fixture_close(&merged);
    cb_adapter_free(adapter);
    fixture_close(&f);
    remove_model(strdup(directory));
}

/* A row for no class: the last one, where there are more rows than names. */
static void a_class_less_than_0_is_the_last_row(void **state)
{
    (void)state;
    char *directory = changed_model_at(network_path("unet"), "{\"id2label\": {\"0\": \"a\", \"1\": \"b\"}}");
    fixture f = network_open_at("unet", directory, CB_F32);
    assert_true(cb_model_has_null_class(f.model) && cb_model_labels(f.model) == 2);
    cb_context ctx = context_of(&f);
    ctx.classes = cb_from(CB_I32, ((const int32_t[]){1, -1, 0}), 3); /* as what was computed has 1, 2, 0 */
    assert_close("output", cb_model_logits(f.model, f.ids, &ctx), expected_tensor(&f, "output"), 1e-5);
    ctx.classes = cb_from(CB_I32, ((const int32_t[]){1, 2, 0}), 3);
    assert_null(cb_model_logits(f.model, f.ids, &ctx));
    assert_non_null(strstr(cb_error_message(), "class 2 of row 1, expected 0 to 1, or less for none"));
    cb_error_clear();
    fixture_close(&f);
    remove_model(directory);
}

static void a_new_network_begins_at_nothing(void **state)
{
    (void)state;
    char path[600];
    snprintf(path, sizeof path, "%s/config.json", network_path("unet_shift"));
    cb_scope *scope = cb_scope_open();
    cb_model *model = cb_model_create(path, 5, (cb_model_options){0});
    assert_ok();
    cb_rng rng = {.seed = 1};
    cb_tensor *pixels = cb_randn(CB_F32, &rng, 2, 2, 8, 4);
    cb_context ctx = {.timesteps = cb_full(CB_F32, 3, 2)};
    cb_tensor *output = cb_model_logits(model, pixels, &ctx);
    assert_true(output && output->shape[1] == 3 && cb_item(cb_sum(cb_square(output), CB_ALL, false)) == 0);
    cb_model_free(model);
    cb_scope_close(scope);
}

/* ---- schedules ---- */

/* A schedule with what was computed from it; f.ids are the images. */
static cb_noise_schedule *schedule_open(const char *name, fixture *f)
{
    char path[600];
    snprintf(path, sizeof path, "%s/schedules/%s/expected.safetensors", network_path(""), name);
    *f = (fixture){.scope = cb_scope_open(), .expected = cb_safetensors_open(path)};
    assert_ok();
    f->ids = expected_tensor(f, "sample");
    snprintf(path, sizeof path, "%s/schedules/%s/scheduler_config.json", network_path(""), name);
    cb_noise_schedule *s = cb_noise_schedule_load(path);
    assert_ok();
    return s;
}

static void schedule_close(fixture *f, cb_noise_schedule *s)
{
    cb_noise_schedule_free(s);
    cb_safetensors_close(f->expected);
    cb_scope_close(f->scope);
    assert_ok();
}

static void noise_equals_that_of_diffusers(void **state)
{
    (void)state;
    for (size_t i = 0; i < SCHEDULES; i++) {
        fixture f;
        cb_noise_schedule *s = schedule_open(schedules[i], &f);
        cb_tensor *alphas = expected_tensor(&f, "alphas"), *noise = expected_tensor(&f, "noise");
        for (int64_t t = 0; t < alphas->count; t++)
            assert_true(fabs(cb_noise_alpha(s, t) - cb_get(alphas, t)) < 2e-6); /* theirs are f32 */
        cb_tensor *t = as_i32(expected_tensor(&f, "timesteps"));
        assert_close(schedules[i], cb_add_noise(s, f.ids, noise, t), expected_tensor(&f, "noisy"), 1e-5);
        cb_tensor *target = cb_denoising_target(s, f.ids, noise, t);
        assert_close(schedules[i], target, expected_tensor(&f, "target"), 1e-5);
        cb_tensor *zero = cb_zeros_like(target), *w = expected_tensor(&f, "snr_weights"), *one = cb_zeros(CB_F32, 1), *sum = NULL;
        for (int64_t row = 0; row < 3; row++) {
            cb_tensor *each = cb_mean(cb_square(cb_slice(target, 0, row, row + 1, 1)), CB_ALL, false);
            sum = cb_add(sum ? sum : one, cb_mul(cb_slice(w, 0, row, row + 1, 1), each));
        }
        assert_close(schedules[i], cb_reshape(cb_denoising_loss(s, zero, target, t, 5), 1), sum, 2e-4); /* of SNR by f32's 1 - a_t */
        schedule_close(&f, s);
    }
}

static void steps_equal_those_of_diffusers(void **state)
{
    (void)state;
    static const int counts[] = {1, 7, 10}, places[] = {0, 4, 9};
    for (size_t i = 0; i < SCHEDULES; i++) {
        fixture f;
        char name[32];
        int64_t steps[10];
        cb_noise_schedule *s = schedule_open(schedules[i], &f);
        for (int c = 0; c < 3; c++) {
            snprintf(name, sizeof name, "steps.%d", counts[c]);
            cb_tensor *expected = expected_tensor(&f, name);
            assert_true(cb_noise_timesteps(s, counts[c], steps));
            for (int64_t k = 0; k < counts[c]; k++)
                assert_int_equal(steps[k], (int64_t)cb_get(expected, k));
        }
        cb_tensor *said = expected_tensor(&f, "prediction"), *noise = expected_tensor(&f, "noise");
        for (int p = 0; p < 3; p++) {
            int64_t t = steps[places[p]], next = places[p] < 9 ? steps[places[p] + 1] : -1,
                    back = t - cb_noise_schedule_options(s)->num_train_timesteps / 10;
            snprintf(name, sizeof name, "ddpm.%d", places[p]);
            assert_close(name, cb_ddpm_step(s, said, t, next, f.ids, noise), expected_tensor(&f, name), 1e-4);
            snprintf(name, sizeof name, "ddim.%d", places[p]);
            assert_close(name, cb_ddim_step(s, said, t, back, f.ids, 0, noise), expected_tensor(&f, name), 1e-4);
            snprintf(name, sizeof name, "ddim_eta.%d", places[p]);
            assert_close(name, cb_ddim_step(s, said, t, back, f.ids, 0.6, noise), expected_tensor(&f, name), 1e-4);
        }
        schedule_close(&f, s);
    }
}

static double loss_at(const cb_noise_schedule *s, cb_tensor *x, cb_tensor *target, cb_tensor *t)
{
    cb_scope *scope = cb_scope_open();
    double loss = NAN;
    cb_no_grad loss = cb_item(cb_denoising_loss(s, x, target, t, 5));
    cb_scope_close(scope);
    return loss;
}

static void the_loss_has_the_gradient_of_its_values(void **state)
{
    (void)state;
    for (size_t i = 0; i < 4; i++) {
        fixture f;
        cb_noise_schedule *s = schedule_open(schedules[i], &f);
        cb_tensor *x = cb_parameter(cb_cast(f.ids, CB_F64)), *target = cb_cast(expected_tensor(&f, "noise"), CB_F64);
        cb_tensor *t = as_i32(expected_tensor(&f, "timesteps"));
        assert_true(cb_backward(cb_denoising_loss(s, x, target, t, 5)));
        for (int64_t k = 0; k < x->count; k++) {
            const double step = 1e-6;
            double *at = (double *)x->data + k, was = *at;
            *at = was + step;
            double more = loss_at(s, x, target, t);
            *at = was - step;
            double less = loss_at(s, x, target, t);
            *at = was;
            assert_true(fabs(cb_get(x->grad, k) - (more - less) / (2 * step)) < 1e-6 * (1 + fabs(cb_get(x->grad, k))));
        }
        schedule_close(&f, s);
    }
}

/* From pure noise, where the noise is what is said, DDIM leads back to the image. */
static void ddim_undoes_the_noise_that_is_known(void **state)
{
    (void)state;
    enum { STEPS = 20 };
    cb_noise_options o;
    assert_true(cb_options_init(cb_noise_option_table, &o));
    o.clip_sample = false;
    cb_scope *scope = cb_scope_open();
    cb_noise_schedule *s = cb_noise_schedule_new(&o);
    cb_rng rng = {.seed = 4};
    cb_tensor *image = cb_randn(CB_F64, &rng, 2, 3, 4, 4), *noise = cb_randn(CB_F64, &rng, 2, 3, 4, 4);
    int64_t steps[STEPS];
    assert_true(cb_noise_timesteps(s, STEPS, steps));
    cb_tensor *x = cb_add_noise(s, image, noise, cb_full(CB_I32, (double)steps[0], 2));
    for (int i = 0; i < STEPS; i++)
        x = cb_ddim_step(s, noise, steps[i], i + 1 < STEPS ? steps[i + 1] : -1, x, 0, NULL);
    assert_close("image", x, image, 1e-9);
    cb_noise_schedule_free(s);
    cb_scope_close(scope);
}

/* ---- images from noise ---- */

/* Of which a network with three classes and a row for none has to say half: a table of 2 classes. */
static fixture network_for_sampling(char **directory)
{
    *directory = changed_model_at(network_path("unet"), "{\"id2label\": {\"0\": \"a\", \"1\": \"b\"}}");
    return network_open_at("unet", *directory, CB_F32);
}

static cb_tensor *said_with(cb_model *model, cb_tensor *x, int64_t t, int32_t class)
{
    cb_context ctx = {.timesteps = cb_full(CB_F32, (double)t, 1), .classes = cb_full(CB_I32, class, 1)};
    return cb_model_logits(model, x, &ctx);
}

/* Image 5 by hand, one step after another, with its class and without. */
static cb_tensor *by_hand(cb_model *model, const cb_noise_schedule *s, const cb_sample_options *o, int32_t class)
{
    int64_t steps[8], count = o->sampling_steps, all = cb_noise_schedule_options(s)->num_train_timesteps;
    cb_rng rng = {.seed = 9, .stream = 5};
    assert_true(count <= 8 && cb_noise_timesteps(s, count, steps));
    cb_tensor *x = cb_reshape(cb_randn(CB_F32, &rng, 64), 1, 1, 8, 8);
    for (int64_t i = 0; i < count; i++) {
        cb_tensor *with = said_with(model, x, steps[i], class), *without = said_with(model, x, steps[i], -1);
        cb_tensor *said = cb_add(without, cb_scale(cb_sub(with, without), o->guidance_scale));
        bool noisy = o->sampler == CB_SAMPLER_DDPM ? steps[i] > 0 : o->eta > 0;
        cb_tensor *noise = noisy ? cb_reshape(cb_randn(CB_F32, &rng, 64), 1, 1, 8, 8) : NULL;
        x = o->sampler == CB_SAMPLER_DDPM ? cb_ddpm_step(s, said, steps[i], i + 1 < count ? steps[i + 1] : -1, x, noise)
                                          : cb_ddim_step(s, said, steps[i], steps[i] - all / count, x, o->eta, noise);
    }
    return x;
}

static void sampling_is_steps_back(void **state)
{
    (void)state;
    static const cb_sample_options options[] = {{CB_SAMPLER_DDIM, 4, 0, 1}, {CB_SAMPLER_DDIM, 5, 0.7, 2.5}, {CB_SAMPLER_DDPM, 7, 0, 1.5}};
    char *directory;
    fixture f = network_for_sampling(&directory);
    cb_noise_options noise;
    assert_true(cb_options_init(cb_noise_option_table, &noise));
    cb_noise_schedule *s = cb_noise_schedule_new(&noise);
    for (int i = 0; i < 3; i++) {
        const cb_sample_request many = {.count = 3, .first = 4, .seed = 9, .size = {8, 8}, .classes = (const int32_t[]){0, 1, 0}};
        cb_tensor *images = cb_model_sample(f.model, s, &many, &options[i], NULL, NULL);
        assert_ok();
        assert_true(images->shape[0] == 3 && images->shape[1] == 1 && images->shape[2] == 8 && images->shape[3] == 8);
        assert_close("image 5", cb_slice(images, 0, 1, 2, 1), by_hand(f.model, s, &options[i], 1), 1e-4);
    }
    cb_noise_schedule_free(s);
    fixture_close(&f);
    remove_model(directory);
}

enum { MOST_STEPS = 8 };

static void note_memory(void *user, int64_t step, int64_t steps)
{
    uint64_t *live = user;
    assert_true(step >= 1 && step <= steps && steps <= MOST_STEPS);
    live[step - 1] = cb_memory().live_bytes;
}

static void sampling_holds_no_more_the_more_steps_there_are(void **state)
{
    (void)state;
    static const cb_sample_options options[] = {{CB_SAMPLER_DDIM, MOST_STEPS, 0.5, 1.5}, {CB_SAMPLER_DDPM, MOST_STEPS, 0, 1}};
    char *directory;
    fixture f = network_for_sampling(&directory);
    cb_noise_options noise;
    assert_true(cb_options_init(cb_noise_option_table, &noise));
    cb_noise_schedule *s = cb_noise_schedule_new(&noise);
    for (int i = 0; i < 2; i++) {
        uint64_t live[MOST_STEPS] = {0};
        const cb_sample_request two = {.count = 2, .size = {8, 8}, .classes = (const int32_t[]){0, 1}};
        assert_non_null(cb_model_sample(f.model, s, &two, &options[i], note_memory, live));
        for (int at = 2; at < MOST_STEPS; at++)
            assert_int_equal(live[at], live[1]);
    }
    cb_noise_schedule_free(s);
    fixture_close(&f);
    remove_model(directory);
}

static void sampling_refuses(cb_model *model, const int32_t *classes, double guidance, int64_t steps, const char *message)
{
    cb_noise_options noise;
    assert_true(cb_options_init(cb_noise_option_table, &noise));
    cb_noise_schedule *s = cb_noise_schedule_new(&noise);
    const cb_sample_request request = {.count = 1, .size = {8, 8}, .classes = classes};
    const cb_sample_options options = {.sampling_steps = steps, .guidance_scale = guidance};
    assert_null(cb_model_sample(model, s, &request, &options, NULL, NULL));
    if (!strstr(cb_error_message(), message))
        fail_msg("\"%s\", expected \"%s\"", cb_error_message(), message);
    cb_error_clear();
    cb_noise_schedule_free(s);
}

static void sampling_that_cannot_be_is_refused(void **state)
{
    (void)state;
    static const int32_t class = 0;
    fixture f = network_open("unet"), plain = network_open("unet_shift");
    sampling_refuses(f.model, NULL, 1, 4, "class: found none, expected one of 3");
    sampling_refuses(f.model, &class, 2, 4, "guidance_scale: found 2, and the network has no row for images without a class");
    sampling_refuses(f.model, &class, 1, 1001, "steps: found 1001, expected 1 to the schedule's 1000");
    sampling_refuses(plain.model, NULL, 1, 4, "the network reads 2 channels and gives 3");
    fixture_close(&plain);
    fixture_close(&f);
}

/* ---- what is refused ---- */

static void refused(const char *name, const char *changes, const char *message)
{
    char *directory = changed_model_at(network_path(name), changes);
    assert_null(cb_model_load(directory));
    if (!strstr(cb_error_message(), message) || !strstr(cb_error_message(), directory))
        fail_msg("%s with %s: \"%s\", expected \"%s\"", name, changes, cb_error_message(), message);
    cb_error_clear();
    remove_model(directory);
}

static void configs_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    refused("unet", "{\"_class_name\": \"UNet1DModel\"}", "model_type is \"UNet1DModel\", expected one of");
    refused("unet", "{\"block_out_channels\": [4, 8, 0]}", "block_out_channels[2] is no integer from 1");
    refused("unet", "{\"block_out_channels\": [4, 8, 8]}", "down_block_types has 2 items, expected one for each of block_out_channels (3)");
    refused("unet", "{\"down_block_types\": [\"SkipDownBlock2D\", \"DownBlock2D\"]}",
            "down_block_types[0] is \"SkipDownBlock2D\", expected DownBlock2D or AttnDownBlock2D");
    refused("unet", "{\"up_block_types\": \"UpBlock2D\"}", "up_block_types has 0 items");
    refused("unet", "{\"norm_num_groups\": 3}", "norm_num_groups is 3, expected a divisor of the 4 channels of");
    refused("unet", "{\"attn_norm_num_groups\": 0}", "attn_norm_num_groups is 0, expected 1 or more");
    refused("unet", "{\"attention_head_dim\": 3}", "attention_head_dim is 3, expected a divisor of block_out_channels[0] (4)");
    refused("unet", "{\"time_embedding_type\": \"fourier\"}", "time_embedding_type is \"fourier\", expected positional");
    refused("unet", "{\"class_embed_type\": \"timestep\"}", "class_embed_type is \"timestep\", expected null");
    refused("unet", "{\"resnet_time_scale_shift\": \"spatial\"}",
            "resnet_time_scale_shift is \"spatial\", expected default or scale_shift");
    refused("unet", "{\"sample_size\": 7}", "sample_size is 7, expected a multiple of 2 for 2 levels");
    refused("unet", "{\"num_class_embeds\": 4}", "class_embedding.weight has shape (3, 16), expected (4, 16)");
    refused("unet", "{\"id2label\": {\"0\": \"a\", \"1\": \"b\", \"2\": \"c\", \"3\": \"d\"}}",
            "id2label has 4 names, expected no more than the table of classes has rows (3)");
    refused("unet", "{\"layers_per_block\": 2}", "tensor down_blocks.0.resnets.1.norm1.weight is missing");
    refused("unet", "{\"freq_shift\": 2}", "freq_shift is 2, expected less than half of block_out_channels[0] (4)");
    refused("dit", "{\"norm_type\": \"layer_norm\"}", "norm_type is \"layer_norm\", expected ada_norm_zero");
    refused("dit", "{\"activation_fn\": \"geglu\"}", "activation_fn is \"geglu\", expected gelu-approximate");
    refused("dit", "{\"sample_size\": 7}", "sample_size is 7, expected one number, a multiple of patch_size (2)");
    refused("dit", "{\"num_layers\": 3}", "transformer_blocks.2.norm1.emb.timestep_embedder.linear_1.weight is missing");
    refused("dit", "{\"num_embeds_ada_norm\": 4}", "embedding_table.weight has shape (4, 8), expected (5, 8)");
    refused("dit", "{\"attention_head_dim\": 3}", "num_attention_heads times attention_head_dim is 6, expected a multiple of 4");
    refused("dit", "{\"out_channels\": 0}", "out_channels is 0, expected 1 to");
    refused("unet_shift", "{\"mid_block_type\": \"UNetMidBlock2DCrossAttn\"}", "mid_block_type is \"UNetMidBlock2DCrossAttn\"");
}

static void schedule_refused(const char *json, const char *message)
{
    char path[] = "/tmp/cambium-schedule-XXXXXX";
    int file = mkstemp(path);
    assert_true(file >= 0 && write(file, json, strlen(json)) == (ssize_t)strlen(json) && close(file) == 0);
    assert_null(cb_noise_schedule_load(path));
    if (!strstr(cb_error_message(), message) || !strstr(cb_error_message(), path))
        fail_msg("%s: \"%s\", expected \"%s\"", json, cb_error_message(), message);
    cb_error_clear();
    unlink(path);
}

static void schedules_that_are_not_known_are_refused(void **state)
{
    (void)state;
    schedule_refused("[]", "expected a JSON object");
    schedule_refused("{\"beta_schedule\": \"sigmoid\"}",
                     "beta_schedule: found \"sigmoid\", expected one of linear, scaled_linear, squaredcos_cap_v2");
    schedule_refused("{\"num_train_timesteps\": 0}", "num_train_timesteps: found 0, expected 1 to");
    schedule_refused("{\"beta_end\": 1}", "beta_end: found");
    schedule_refused("{\"beta_start\": 0}", "expected noise at the first step");
    schedule_refused("{\"num_train_timesteps\": 100000, \"beta_end\": 0.9}", "something left of the image before the last");
    schedule_refused("{\"thresholding\": true}", "thresholding: found true, expected false");
    schedule_refused("{\"trained_betas\": [0.1]}", "trained_betas: found a list");
    schedule_refused("{\"_class_name\": \"FlowMatchEulerDiscreteScheduler\", \"num_train_timesteps\": 1000}",
                     "_class_name is \"FlowMatchEulerDiscreteScheduler\", expected DDPMScheduler, DDIMScheduler or PNDMScheduler");
    schedule_refused("{\"_class_name\": \"EDMEulerScheduler\"}", "_class_name is \"EDMEulerScheduler\"");
    schedule_refused("{\"_class_name\": 1}", "_class_name");
}

static cb_noise_options schedule_read(const char *json)
{
    cb_noise_schedule *s = cb_noise_schedule_parse("schedule", json, strlen(json));
    assert_ok();
    const cb_noise_options o = *cb_noise_schedule_options(s);
    cb_noise_schedule_free(s);
    return o;
}

/* PNDM never clips, and its last step is not to an image without noise: what a file of it leaves out is not what DDIM's leaves out. */
static void what_is_left_out_goes_by_the_scheduler(void **state)
{
    (void)state;
    static const char *const usual[] = {"{}", "{\"_class_name\": \"DDPMScheduler\"}", "{\"_class_name\": \"DDIMScheduler\"}"};
    for (int i = 0; i < 3; i++) {
        const cb_noise_options o = schedule_read(usual[i]);
        assert_true(o.clip_sample && o.set_alpha_to_one);
    }
    cb_noise_options o = schedule_read("{\"_class_name\": \"PNDMScheduler\"}");
    assert_false(o.clip_sample || o.set_alpha_to_one);
    o = schedule_read("{\"_class_name\": \"PNDMScheduler\", \"clip_sample\": true, \"set_alpha_to_one\": true}");
    assert_true(o.clip_sample && o.set_alpha_to_one);
}

static void bad_calls_are_refused(void **state)
{
    (void)state;
    fixture f = network_open("unet");
    cb_context ctx = context_of(&f), none = {0};
    assert_null(cb_model_logits(f.model, f.ids, &none));
    assert_non_null(strstr(cb_error_message(), "found no timesteps in the context"));
    cb_error_clear();
    ctx.classes = NULL;
    assert_null(cb_model_logits(f.model, f.ids, &ctx));
    assert_non_null(strstr(cb_error_message(), "found no classes in the context, expected one of 3"));
    cb_error_clear();
    ctx = context_of(&f);
    ctx.timesteps = cb_zeros(CB_F32, 2);
    assert_null(cb_model_logits(f.model, f.ids, &ctx));
    assert_non_null(strstr(cb_error_message(), "timesteps are f32(2), expected f32(3)"));
    cb_error_clear();
    assert_null(cb_model_logits(f.model, cb_zeros(CB_F32, 3, 1, 7, 8), &ctx));
    assert_non_null(strstr(cb_error_message(), "images of 7 by 8, expected multiples of 2 for 2 levels"));
    cb_error_clear();
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(outputs_equal_diffusers, without_errors),
        cmocka_unit_test_setup(bf16_activations_come_close, without_errors),
        cmocka_unit_test_setup(all_gradients_equal_diffusers, without_errors),
        cmocka_unit_test_setup(adapters_of_peft_give_their_output, without_errors),
        cmocka_unit_test_setup(saving_and_loading_changes_nothing, without_errors),
        cmocka_unit_test_setup(kinds_of_all_places_start_and_learn, without_errors),
        cmocka_unit_test_setup(merging_is_adapting, without_errors),
        cmocka_unit_test_setup(a_class_less_than_0_is_the_last_row, without_errors),
        cmocka_unit_test_setup(a_new_network_begins_at_nothing, without_errors),
        cmocka_unit_test_setup(noise_equals_that_of_diffusers, without_errors),
        cmocka_unit_test_setup(steps_equal_those_of_diffusers, without_errors),
        cmocka_unit_test_setup(the_loss_has_the_gradient_of_its_values, without_errors),
        cmocka_unit_test_setup(ddim_undoes_the_noise_that_is_known, without_errors),
        cmocka_unit_test_setup(sampling_is_steps_back, without_errors),
        cmocka_unit_test_setup(sampling_holds_no_more_the_more_steps_there_are, without_errors),
        cmocka_unit_test_setup(sampling_that_cannot_be_is_refused, without_errors),
        cmocka_unit_test_setup(configs_that_do_not_fit_are_refused, without_errors),
        cmocka_unit_test_setup(schedules_that_are_not_known_are_refused, without_errors),
        cmocka_unit_test_setup(what_is_left_out_goes_by_the_scheduler, without_errors),
        cmocka_unit_test_setup(bad_calls_are_refused, without_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
