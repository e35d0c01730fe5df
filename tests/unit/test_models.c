/* test_models.c: models against what transformers computes with the same files (tests/oracle/models.py), and against
 * themselves: with and without cache, checkpointing and bf16; saving; and configs and files that must be refused. */
#include "kernels/kernels.h"
#include "model_fixtures.h"

/* ---- against transformers ---- */

/* HF shifts labels inside its loss: position t predicts label t + 1. */
static cb_tensor *shifted(const cb_tensor *labels)
{
    int64_t rows = labels->shape[0], time = labels->shape[1];
    cb_tensor *targets = cb_empty(CB_I32, rows, time);
    int32_t *t = targets->data;
    for (int64_t i = 0; i < rows * time; i++)
        t[i] = i % time + 1 < time ? (int32_t)cb_get(labels, i + 1) : -100;
    return targets;
}

static void logits_equal_transformers(void **state)
{
    (void)state;
    for (size_t i = 0; i < REFERENCE_COUNT; i++) {
        fixture f = fixture_open(reference_models[i]);
        assert_close(reference_models[i], cb_model_logits(f.model, f.ids, &(cb_context){0}), expected_tensor(&f, "logits"), 1e-4);
        fixture_close(&f);
    }
}

static void both_config_styles_mean_the_same(void **state)
{
    (void)state;
    static const char *const names[] = {"llama3", "llama_yarn_rope"};
    for (size_t i = 0; i < 2; i++) {
        char path[600], to[600];
        char *directory = changed_model(names[i], "{}");
        snprintf(path, sizeof path, "%s/config_v4.json", model_path(names[i]));
        snprintf(to, sizeof to, "%s/config.json", directory);
        char *text = cb_file_read(path, 1 << 20, NULL);
        assert_true(cb_file_write(to, text, strlen(text)));
        cb_free(text);
        fixture f = fixture_open_with(names[i], directory, CB_F32);
        assert_close(names[i], cb_model_logits(f.model, f.ids, NULL), expected_tensor(&f, "logits"), 1e-4);
        fixture_close(&f);
        remove_model(directory);
    }
}

/* Named parameters become trainable; the loss and their gradients are compared. */
static void loss_and_gradients_of(const char *name, bool checkpoint)
{
    fixture f = fixture_open(name);
    size_t count = cb_safetensors_count(f.expected), compared = 0;
    char layer_name[256];
    for (int turn = 0; turn < 2; turn++) { /* first make trainable, then compare */
        for (size_t i = 0; i < count; i++) {
            const char *key = cb_safetensors_at(f.expected, i)->name;
            if (strncmp(key, "grad.", 5) != 0)
                continue;
            snprintf(layer_name, sizeof layer_name, "%s", key + 5);
            char *dot = strrchr(layer_name, '.');
            *dot = 0;
            const char *weight = !strcmp(dot + 1, "bias") ? "bias" : "weight";
            cb_layer *layer = cb_layer_find(cb_model_root(f.model), layer_name);
            assert_non_null(layer);
            if (!turn) {
                assert_true(cb_layer_train_copy(layer, weight, CB_F32, true));
                continue;
            }
            assert_close(key, cb_layer_weight(layer, weight)->grad, expected_tensor(&f, key), 1e-3);
            compared++;
        }
        if (turn)
            break;
        cb_context ctx = {.checkpoint = checkpoint};
        cb_tensor *loss = cb_model_loss(f.model, f.ids, shifted(expected_tensor(&f, "labels")), 0, &ctx);
        assert_close(name, loss, expected_tensor(&f, "loss"), 1e-4);
        assert_true(cb_backward(loss));
    }
    assert_true(compared >= 5);
    fixture_close(&f);
}

static void loss_and_gradients_equal_transformers(void **state)
{
    (void)state;
    for (size_t i = 0; i < REFERENCE_COUNT; i++)
        loss_and_gradients_of(reference_models[i], false);
}

static void gradients_with_checkpointing_equal_transformers(void **state)
{
    (void)state;
    loss_and_gradients_of("llama3", true);
    loss_and_gradients_of("qwen3", true);
    loss_and_gradients_of("gpt2", true);
}

/* Padding is a negative segment; logits at padded positions mean nothing. */
static void padded_batches_equal_transformers(void **state)
{
    (void)state;
    for (size_t i = 0; i < REFERENCE_COUNT; i++) {
        fixture f = fixture_open(reference_models[i]);
        cb_tensor *mask = expected_tensor(&f, "attention_mask"), *expected = expected_tensor(&f, "logits_masked");
        cb_tensor *segments = as_i32(mask);
        for (int64_t j = 0; j < mask->count; j++)
            ((int32_t *)segments->data)[j] = cb_get(mask, j) != 0 ? 0 : -1;
        cb_context ctx = {.segments = segments};
        cb_tensor *logits = cb_model_logits(f.model, f.ids, &ctx);
        assert_ok();
        int64_t vocab = cb_model_vocab_size(f.model);
        double worst = 0, scale = 0;
        for (int64_t j = 0; j < logits->count; j++) {
            assert_true(isfinite(cb_get(logits, j)));
            if (cb_get(mask, j / vocab) == 0)
                continue;
            worst = fmax(worst, fabs(cb_get(logits, j) - cb_get(expected, j)));
            scale = fmax(scale, fabs(cb_get(expected, j)));
        }
        if (!(worst <= 1e-4 * scale))
            fail_msg("%s: padded logits differ by %g of %g", reference_models[i], worst, scale);
        fixture_close(&f);
    }
}

/* ---- against itself ---- */

static void cache_gives_the_same_logits(void **state)
{
    (void)state;
    for (size_t i = 0; i < REFERENCE_COUNT; i++) {
        fixture f = fixture_open(reference_models[i]);
        cb_tensor *whole = cb_model_logits(f.model, f.ids, NULL);
        cb_cache *cache = cb_cache_new(f.model, 2, 6); /* grows on the way */
        cb_context ctx = {.cache = cache};
        for (int64_t at = 0, next = 5; at < 17; at = next, next++) {
            cb_tensor *part = cb_model_logits(f.model, cb_contiguous(cb_slice(f.ids, 1, at, next, 1)), &ctx);
            assert_close(reference_models[i], part, cb_slice(whole, 1, at, next, 1), 1e-5);
            assert_int_equal(cb_cache_length(cache), next);
        }
        cb_cache_truncate(cache, 9); /* and again from the middle */
        cb_tensor *rest = cb_model_logits(f.model, cb_contiguous(cb_slice(f.ids, 1, 9, 17, 1)), &ctx);
        assert_close(reference_models[i], rest, cb_slice(whole, 1, 9, 17, 1), 1e-5);
        cb_cache_free(cache);
        fixture_close(&f);
    }
}

/* A row of two packed documents is the two rows. */
static void packed_documents_do_not_see_each_other(void **state)
{
    (void)state;
    for (size_t i = 0; i < REFERENCE_COUNT; i++) {
        fixture f = fixture_open(reference_models[i]);
        cb_tensor *apart = cb_model_logits(f.model, f.ids, NULL);
        int32_t places[34], documents[34];
        for (int j = 0; j < 34; j++) {
            places[j] = j % 17;
            documents[j] = j / 17;
        }
        cb_context ctx = {.positions = cb_from(CB_I32, places, 1, 34), .segments = cb_from(CB_I32, documents, 1, 34)};
        cb_tensor *packed = cb_model_logits(f.model, cb_reshape(f.ids, 1, 34), &ctx);
        assert_ok();
        assert_close(reference_models[i], cb_reshape(packed, 2, 17, -1), apart, 1e-5);
        fixture_close(&f);
    }
}

/* The logits of a reference model with another config. */
static cb_tensor *logits_with(const char *name, const char *changes, cb_tensor *ids)
{
    char *directory = changed_model(name, changes);
    cb_model *model = cb_model_load(directory);
    cb_tensor *logits = cb_model_logits(model, ids, NULL);
    assert_ok();
    cb_model_free(model);
    remove_model(directory);
    return logits;
}

/* Qwen's rule: from layer max_window_layers on, or as layer_types says, and only with use_sliding_window. */
static void sliding_windows_follow_the_config(void **state)
{
    (void)state;
    fixture f = fixture_open("qwen2");
    cb_tensor *plain = cb_model_logits(f.model, f.ids, NULL);
    cb_tensor *off = logits_with("qwen2", "{\"sliding_window\": 4, \"max_window_layers\": 0, \"layer_types\": null}", f.ids);
    cb_tensor *counted = logits_with(
        "qwen2", "{\"use_sliding_window\": true, \"sliding_window\": 4, \"max_window_layers\": 1, \"layer_types\": null}", f.ids);
    cb_tensor *listed = logits_with("qwen2",
                                    "{\"use_sliding_window\": true, \"sliding_window\": 4, \"max_window_layers\": 0,"
                                    " \"layer_types\": [\"full_attention\", \"sliding_attention\"]}",
                                    f.ids);
    cb_tensor *both = logits_with(
        "qwen2", "{\"use_sliding_window\": true, \"sliding_window\": 4, \"max_window_layers\": 0, \"layer_types\": null}", f.ids);
    assert_close("window not in use", off, plain, 0);
    assert_close("counted and listed", counted, listed, 0);
    assert_close("before the window", cb_slice(counted, 1, 0, 4, 1), cb_slice(plain, 1, 0, 4, 1), 1e-6);
    assert_true(relative_difference(counted, plain) > 1e-3);
    assert_true(relative_difference(counted, both) > 1e-3);
    fixture_close(&f);
}

/* Beyond its context of M a dynamic model of length L is the plain one with base theta ((f L / M) - (f - 1))^(D / (D -
 * 2)), and within it the plain one. */
static void dynamic_rope_is_a_longer_base(void **state)
{
    (void)state;
    static const char *const dynamic = "{\"rope_parameters\": {\"rope_type\": \"dynamic\", \"rope_theta\": 10000.0, \"factor\": 2.0},"
                                       " \"max_position_embeddings\": 8}";
    fixture f = fixture_open("llama2"); /* D = 12 */
    char base[200];
    snprintf(base, sizeof base, "{\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": %.17g}}",
             10000 * pow(2.0 * 17 / 8 - 1, 12.0 / 10));
    cb_tensor *beyond = logits_with("llama2", dynamic, f.ids);
    assert_close("beyond", beyond, logits_with("llama2", base, f.ids), 1e-5);
    assert_true(relative_difference(beyond, expected_tensor(&f, "logits")) > 1e-3);
    cb_tensor *within = logits_with("llama2", dynamic, cb_contiguous(cb_slice(f.ids, 1, 0, 8, 1)));
    assert_close("within", within, cb_slice(expected_tensor(&f, "logits"), 1, 0, 8, 1), 1e-4);
    fixture_close(&f);
}

/* Someone who stretches a model by hand adds rope_scaling to what is there; the context it was trained for may stand outside. */
static void rope_scaling_counts_beside_rope_parameters(void **state)
{
    (void)state;
    fixture f = fixture_open("llama2");
    cb_tensor *both = logits_with("llama2",
                                  "{\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4.0, \"original_max_position_embeddings\": 64},"
                                  " \"original_max_position_embeddings\": 8}",
                                  f.ids);
    cb_tensor *one = logits_with("llama2",
                                 "{\"rope_parameters\": {\"rope_type\": \"yarn\", \"rope_theta\": 10000.0, \"factor\": 4.0,"
                                 " \"original_max_position_embeddings\": 8}}",
                                 f.ids);
    assert_close("stretched", both, one, 0);
    assert_true(relative_difference(both, expected_tensor(&f, "logits")) > 1e-3);
    fixture_close(&f);
}

static void head_of_its_own_is_not_tied(void **state)
{
    (void)state;
    fixture f = fixture_open("llama2");
    cb_tensor *logits = logits_with("llama2", "{\"tie_word_embeddings\": true}", f.ids);
    assert_close("logits", logits, expected_tensor(&f, "logits"), 1e-4);
    fixture_close(&f);
}

static cb_tensor *gradient_of(fixture *f, const char *layer_name, bool checkpoint)
{
    cb_layer *layer = cb_layer_find(cb_model_root(f->model), layer_name);
    assert_true(cb_layer_train_copy(layer, "weight", CB_F32, true));
    cb_tensor *weight = cb_layer_weight(layer, "weight");
    cb_zero_grad(weight);
    cb_context ctx = {.checkpoint = checkpoint};
    assert_true(cb_backward(cb_model_loss(f->model, f->ids, shifted(expected_tensor(f, "labels")), 0, &ctx)));
    assert_non_null(weight->grad);
    cb_tensor *copy = cb_empty_like(weight->grad);
    assert_true(cb_copy_into(copy, weight->grad));
    return copy;
}

static void checkpointing_gives_the_same_bits(void **state)
{
    (void)state;
    static const struct {
        const char *model, *layer;
    } cases[] = {{"llama2", "model.layers.0.self_attn.q_proj"}, {"qwen2", "model.embed_tokens"},
                 {"mistral", "model.layers.1.mlp.gate_proj"},   {"mistral", "model.layers.0.mlp.down_proj"},
                 {"gpt2", "transformer.h.0.mlp.c_fc"},          {"gpt2", "transformer.h.1.attn.c_proj"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fixture f = fixture_open(cases[i].model);
        cb_tensor *plain = gradient_of(&f, cases[i].layer, false), *again = gradient_of(&f, cases[i].layer, true);
        assert_memory_equal(plain->data, again->data, (size_t)plain->count * sizeof(float));
        fixture_close(&f);
    }
}

static void bf16_activations_come_close(void **state)
{
    (void)state;
    for (size_t i = 0; i < REFERENCE_COUNT; i++) {
        fixture f = fixture_open_with(reference_models[i], model_path(reference_models[i]), CB_BF16);
        cb_tensor *logits = cb_model_logits(f.model, f.ids, NULL);
        assert_ok();
        assert_int_equal(logits->dtype, CB_BF16);
        /* bf16 keeps 8 bits: about 2^-8 an operation, a dozen of them one after another */
        assert_close(reference_models[i], logits, expected_tensor(&f, "logits"), 0.05);
        cb_tensor *loss = cb_model_loss(f.model, f.ids, shifted(expected_tensor(&f, "labels")), 0, NULL);
        assert_close(reference_models[i], loss, expected_tensor(&f, "loss"), 0.02);
        fixture_close(&f);
    }
}

static void loss_with_a_normalizer_adds_up(void **state)
{
    (void)state;
    fixture f = fixture_open("qwen3");
    cb_tensor *targets = shifted(expected_tensor(&f, "labels"));
    double whole = cb_item(cb_model_loss(f.model, f.ids, targets, 0, NULL)), sum = 0;
    int64_t count = 0;
    for (int64_t i = 0; i < targets->count; i++)
        count += cb_get(targets, i) >= 0;
    for (int64_t row = 0; row < 2; row++)
        sum += cb_item(
            cb_model_loss(f.model, cb_slice(f.ids, 0, row, row + 1, 1), cb_slice(targets, 0, row, row + 1, 1), (double)count, NULL));
    assert_ok();
    assert_true(fabs(sum - whole) < 1e-5 * whole);
    fixture_close(&f);
}

/* ---- modules ---- */

static cb_tensor *double_input(const cb_module *m, cb_tensor *x, const cb_context *ctx)
{
    (void)ctx;
    return cb_scale(x, *(double *)m->state);
}

static cb_tensor *scale_weight(const cb_module *m, cb_tensor *weight, const cb_context *ctx)
{
    (void)ctx;
    return cb_scale(weight, *(double *)m->state);
}

static cb_tensor *scale_result(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    (void)ctx;
    (void)x;
    return cb_scale(y, *(double *)m->state);
}

static bool no_window(const cb_module *m, cb_attention_options *options, const cb_context *ctx)
{
    (void)m;
    (void)ctx;
    options->window = 0;
    return true;
}

/* Factors that cancel leave the logits as they were, wherever a module sits; one that does not cancel changes them. */
static void modules_act_where_they_say(void **state)
{
    (void)state;
    static const cb_module_kind kinds[] = {
        {.name = "input", .before = double_input}, {.name = "weight", .weight = scale_weight}, {.name = "result", .forward = scale_result}};
    static const char *const hosts[] = {"model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj", "lm_head",
                                        "model.layers.1.self_attn.o_proj"};
    double two = 2, half = 0.5;
    fixture f = fixture_open("llama2");
    cb_tensor *plain = cb_model_logits(f.model, f.ids, NULL);
    cb_tensor *targets = shifted(expected_tensor(&f, "labels"));
    double plain_loss = cb_item(cb_model_loss(f.model, f.ids, targets, 0, NULL));
    for (size_t h = 0; h < 4; h++)
        for (size_t k = 0; k < 3; k++) {
            cb_layer *layer = cb_layer_find(cb_model_root(f.model), hosts[h]);
            cb_module up = {.kind = &kinds[k], .state = &two, .strength = 1};
            cb_module down = {.kind = &kinds[(k + 1) % 3], .state = &half, .strength = 1};
            assert_true(cb_layer_attach(layer, &up));
            assert_true(relative_difference(cb_model_logits(f.model, f.ids, NULL), plain) > 1e-3);
            assert_true(cb_layer_attach(layer, &down));
            assert_close(hosts[h], cb_model_logits(f.model, f.ids, NULL), plain, 1e-5);
            double loss = cb_item(cb_model_loss(f.model, f.ids, targets, 0, NULL));
            assert_true(fabs(loss - plain_loss) < 1e-5 * plain_loss);
            cb_layer_detach(layer, &up);
            cb_layer_detach(layer, &down);
        }
    assert_close("after detaching", cb_model_logits(f.model, f.ids, NULL), plain, 0);
    fixture_close(&f);
}

static void modules_reach_inside_attention(void **state)
{
    (void)state;
    static const cb_module_kind kind = {.name = "no window", .attend = no_window};
    cb_module modules[2] = {{.kind = &kind}, {.kind = &kind}};
    char *directory = changed_model("mistral", "{\"sliding_window\": 64}");
    fixture wide = fixture_open_with("mistral", directory, CB_F32), f = fixture_open("mistral");
    cb_tensor *expected = cb_model_logits(wide.model, f.ids, NULL);
    assert_true(relative_difference(cb_model_logits(f.model, f.ids, NULL), expected) > 1e-3);
    for (int i = 0; i < 2; i++) {
        char name[64];
        snprintf(name, sizeof name, "model.layers.%d.self_attn", i);
        assert_true(cb_layer_attach(cb_layer_find(cb_model_root(f.model), name), &modules[i]));
    }
    assert_close("without a window", cb_model_logits(f.model, f.ids, NULL), expected, 1e-6);
    fixture_close(&f);
    fixture_close(&wide);
    remove_model(directory);
}

/* The head's own path of the loss, with gradients through its module, equals the fused one. */
static void loss_through_a_head_with_modules(void **state)
{
    (void)state;
    static const cb_module_kind kind = {.name = "result", .forward = scale_result};
    double one = 1;
    cb_module module = {.kind = &kind, .state = &one};
    fixture f = fixture_open("smollm");
    cb_tensor *fused = gradient_of(&f, "model.embed_tokens", false);
    assert_true(cb_layer_attach(cb_model_head_layer(f.model), &module));
    cb_tensor *own = gradient_of(&f, "model.embed_tokens", false);
    assert_close("gradient", own, fused, 1e-5);
    cb_layer_detach(cb_model_head_layer(f.model), &module);
    fixture_close(&f);
}

static void a_tied_head_can_be_trained_alone(void **state)
{
    (void)state;
    fixture f = fixture_open("qwen2");
    cb_layer *head = cb_model_head_layer(f.model), *embedding = cb_layer_find(cb_model_root(f.model), "model.embed_tokens");
    int64_t parameters = cb_model_parameter_count(f.model);
    assert_ptr_equal(cb_layer_weight(head, "weight"), cb_layer_weight(embedding, "weight"));
    assert_true(cb_layer_train_copy(head, "weight", CB_F32, true));
    assert_ptr_not_equal(cb_layer_weight(head, "weight"), cb_layer_weight(embedding, "weight"));
    assert_false(cb_layer_weight(embedding, "weight")->requires_grad);
    assert_int_equal(cb_model_parameter_count(f.model), parameters + 96 * 32);
    assert_true(cb_layer_train_copy(head, "weight", CB_F32, false));
    assert_ptr_equal(cb_layer_weight(head, "weight"), cb_layer_weight(embedding, "weight"));
    assert_int_equal(cb_model_parameter_count(f.model), parameters);
    fixture_close(&f);
}

/* ---- facts, new models, saving ---- */

static void a_model_knows_its_sizes(void **state)
{
    (void)state;
    fixture f = fixture_open("qwen3");
    assert_string_equal(cb_model_type(f.model), "qwen3");
    assert_int_equal(cb_model_vocab_size(f.model), 96);
    assert_int_equal(cb_model_width(f.model), 32);
    assert_int_equal(cb_model_layers(f.model), 2);
    assert_int_equal(cb_model_max_positions(f.model), 64);
    /* by hand: two embeddings; a block: q, o 32x48 each, k, v 32x24 each, two head norms, three 32x56, two norms; the
     * last norm */
    int64_t block = 2 * 32 * 48 + 2 * 32 * 24 + 2 * 12 + 3 * 32 * 56 + 2 * 32;
    assert_int_equal(cb_model_parameter_count(f.model), 2 * 96 * 32 + 2 * block + 32);
    double products = 2.0 * (96 * 32 + 2 * (2 * 32 * 48 + 2 * 32 * 24 + 3 * 32 * 56)), attention = 2 * 4 * 10 * 48 / 2.0;
    assert_true(fabs(cb_model_flops_per_token(f.model, 10) - products - attention) < 0.5);
    int32_t eos[4];
    assert_int_equal(cb_model_eos_ids(f.model, eos, 4), 1);
    assert_int_equal(eos[0], 2);
    fixture_close(&f);
}

static void a_new_model_depends_on_its_seed_only(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    char path[600];
    snprintf(path, sizeof path, "%s/config.json", model_path("llama2"));
    cb_model *a = cb_model_create(path, 7, (cb_model_options){0}), *b = cb_model_create(path, 7, (cb_model_options){0});
    cb_model *c = cb_model_create(path, 8, (cb_model_options){0});
    assert_ok();
    static const char *const name = "model.layers.1.mlp.gate_proj";
    const cb_tensor *wa = cb_layer_weight(cb_layer_find(cb_model_root(a), name), "weight");
    const cb_tensor *wb = cb_layer_weight(cb_layer_find(cb_model_root(b), name), "weight");
    const cb_tensor *wc = cb_layer_weight(cb_layer_find(cb_model_root(c), name), "weight");
    assert_true(wa->requires_grad);
    assert_memory_equal(wa->data, wb->data, (size_t)wa->count * sizeof(float));
    assert_memory_not_equal(wa->data, wc->data, (size_t)wa->count * sizeof(float));
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < wa->count; i++) {
        sum += cb_get(wa, i);
        squares += cb_get(wa, i) * cb_get(wa, i);
    }
    /* 2688 draws of deviation 0.02: the sample deviation is within 5 of its standard errors */
    double n = (double)wa->count, deviation = sqrt(squares / n - sum / n * (sum / n));
    assert_true(fabs(deviation / 0.02 - 1) < 5 / sqrt(2 * n));
    /* an untrained model knows nothing: the loss is near ln V */
    int32_t ids[16];
    for (int i = 0; i < 16; i++)
        ids[i] = 5 * i + 3;
    cb_tensor *loss = cb_model_loss(a, cb_from(CB_I32, ids, 1, 16), cb_from(CB_I32, ids, 1, 16), 0, NULL);
    assert_ok();
    assert_true(fabs(cb_item(loss) - log(96)) < 0.3);
    assert_true(cb_backward(loss));
    assert_non_null(wa->grad);
    cb_scope_close(scope);
    cb_model_free(a);
    cb_model_free(b);
    cb_model_free(c);
    assert_ok();
}

static void saving_and_loading_changes_nothing(void **state)
{
    (void)state;
    for (size_t i = 0; i < REFERENCE_COUNT; i++) {
        char *directory = strdup("/tmp/cambium-test-XXXXXX");
        assert_non_null(mkdtemp(directory));
        fixture f = fixture_open(reference_models[i]);
        cb_tensor *before = cb_model_logits(f.model, f.ids, NULL);
        bool stored_bf16 = !strcmp(reference_models[i], "llama3") || !strcmp(reference_models[i], "smollm");
        assert_true(cb_model_save(f.model, directory, stored_bf16 ? CB_BF16 : CB_F32));
        fixture g = fixture_open_with(reference_models[i], directory, CB_F32);
        assert_int_equal(cb_model_parameter_count(g.model), cb_model_parameter_count(f.model));
        assert_close(reference_models[i], cb_model_logits(g.model, f.ids, NULL), before, stored_bf16 ? 0 : 1e-6);
        fixture_close(&g);
        fixture_close(&f);
        remove_model(directory);
    }
}

static void saving_keeps_what_it_does_not_know(void **state)
{
    (void)state;
    char *from = changed_model("llama2", "{\"something_of_mine\": {\"a\": [1, 2]}}"), *to = strdup("/tmp/cambium-test-XXXXXX");
    assert_non_null(mkdtemp(to));
    fixture f = fixture_open_with("llama2", from, CB_F32);
    assert_true(cb_model_save(f.model, to, CB_F16));
    fixture_close(&f);
    char path[600];
    snprintf(path, sizeof path, "%s/config.json", to);
    json_t *config = json_load_file(path, 0, NULL);
    assert_non_null(config);
    assert_int_equal(json_array_size(json_object_get(json_object_get(config, "something_of_mine"), "a")), 2);
    assert_string_equal(json_string_value(json_object_get(config, "dtype")), "float16");
    assert_string_equal(json_string_value(json_object_get(config, "model_type")), "llama");
    json_decref(config);
    remove_model(from);
    remove_model(to);
}

/* A head that is trained apart from the embedding it was tied to is saved beside it, and the config says so. */
static void saving_writes_a_head_of_its_own(void **state)
{
    (void)state;
    char *directory = strdup("/tmp/cambium-test-XXXXXX");
    assert_non_null(mkdtemp(directory));
    fixture f = fixture_open("qwen2");
    assert_true(cb_layer_train_copy(cb_model_head_layer(f.model), "weight", CB_F32, true));
    ((float *)cb_layer_weight(cb_model_head_layer(f.model), "weight")->data)[5] += 1;
    cb_tensor *before = cb_model_logits(f.model, f.ids, NULL);
    assert_true(cb_model_save(f.model, directory, CB_F32));
    fixture g = fixture_open_with("qwen2", directory, CB_F32);
    assert_close("logits", cb_model_logits(g.model, f.ids, NULL), before, 0);
    assert_true(relative_difference(before, expected_tensor(&f, "logits")) > 1e-3);
    char path[600];
    snprintf(path, sizeof path, "%s/config.json", directory);
    json_t *config = json_load_file(path, 0, NULL);
    assert_true(json_is_false(json_object_get(config, "tie_word_embeddings")));
    json_decref(config);
    fixture_close(&g);
    fixture_close(&f);
    remove_model(directory);
}

/* Saving over another model: at whatever allocation it fails, the directory holds the old model, the new one, or none. */
static void saving_that_fails_leaves_no_mixture(void **state)
{
    (void)state;
    char *directory = strdup("/tmp/cambium-test-XXXXXX");
    assert_non_null(mkdtemp(directory));
    fixture f = fixture_open("qwen2"), other = fixture_open("gpt2");
    uint64_t before = cb_memory().live_bytes;
    bool done = false;
    for (uint64_t n = 1; !done; n++) {
        assert_true(cb_model_save(other.model, directory, CB_F32));
        cb_memory_fail_after(n);
        done = cb_model_save(f.model, directory, CB_BF16);
        cb_memory_fail_after(0);
        if (!done)
            assert_int_equal(cb_error_status(), CB_ERR_MEMORY);
        cb_error_clear();
        assert_int_equal(cb_memory().live_bytes, before);
        cb_model *model = cb_model_load(directory); /* every tensor's shape is held against the config */
        if (!model)
            assert_non_null(strstr(cb_error_message(), "config.json: cannot open"));
        assert_true(!done || (model && !strcmp(cb_model_type(model), "qwen2")));
        cb_error_clear();
        cb_model_free(model);
        assert_true(n < 10000);
    }
    assert_false(cb_model_save(f.model, directory, CB_I32));
    assert_int_equal(cb_error_status(), CB_ERR_ARGUMENT);
    cb_error_clear();
    fixture_close(&other);
    fixture_close(&f);
    remove_model(directory);
}

/* ---- what must be refused ---- */

static void refused(const char *reference, const char *changes, cb_status status, const char *part_of_message)
{
    char *directory = changed_model(reference, changes);
    cb_memory_reset_peak();
    uint64_t before = cb_memory().live_bytes;
    cb_model *model = cb_model_load(directory);
    if (model)
        fail_msg("%s was loaded with %s", reference, changes);
    if (cb_error_status() != status || !strstr(cb_error_message(), part_of_message))
        fail_msg("%s: status %d, \"%s\"; expected \"%s\"", changes, cb_error_status(), cb_error_message(), part_of_message);
    cb_error_clear();
    cb_memory_stats after = cb_memory();
    assert_int_equal(after.live_bytes, before);
    assert_true(after.peak_bytes - before < 4 << 20); /* nothing of the size a config claims */
    remove_model(directory);
}

static void configs_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    refused("llama2", "{\"intermediate_size\": 64}", CB_ERR_FORMAT, "expected (64, 48)");
    refused("llama2", "{\"num_hidden_layers\": 3}", CB_ERR_FORMAT, "model.layers.2.input_layernorm.weight is missing");
    refused("llama2", "{\"vocab_size\": 97}", CB_ERR_FORMAT, "model.embed_tokens.weight has shape (96, 48), expected (97, 48)");
    refused("llama2", "{\"model_type\": \"nosuch\"}", CB_ERR_UNSUPPORTED,
            "expected one of llama, mistral, qwen2, qwen3, gpt2, bert, roberta, xlm-roberta, camembert, distilbert, mpnet, deberta-v2");
    refused("llama2", "{\"model_type\": null}", CB_ERR_FORMAT, "model_type is missing");
    refused("llama2", "{\"model_type\": 3}", CB_ERR_FORMAT, "model_type");
    refused("llama2", "{\"hidden_size\": null}", CB_ERR_FORMAT, "hidden_size is missing");
    refused("llama2", "{\"hidden_size\": -48}", CB_ERR_FORMAT, "hidden_size is -48");
    refused("llama2", "{\"hidden_size\": 48.5}", CB_ERR_FORMAT, "hidden_size");
    refused("llama2", "{\"num_attention_heads\": 0}", CB_ERR_FORMAT, "num_attention_heads is 0");
    refused("llama2", "{\"num_key_value_heads\": 3}", CB_ERR_FORMAT, "multiple of num_key_value_heads");
    refused("llama2", "{\"head_dim\": 7}", CB_ERR_FORMAT, "head_dim is 7");
    refused("llama2", "{\"head_dim\": 65536}", CB_ERR_FORMAT, "expected (262144, 48)");
    refused("llama2", "{\"head_dim\": null, \"hidden_size\": 50}", CB_ERR_FORMAT, "hidden_size is 50");
    refused("llama2", "{\"rms_norm_eps\": -1}", CB_ERR_FORMAT, "rms_norm_eps is -1");
    refused("llama2", "{\"hidden_act\": \"nosuch\"}", CB_ERR_UNSUPPORTED, "hidden_act is \"nosuch\"");
    refused("llama2", "{\"attention_bias\": true}", CB_ERR_FORMAT, "q_proj.bias is missing");
    refused("llama2", "{\"eos_token_id\": \"x\"}", CB_ERR_FORMAT, "eos_token_id");
    refused("llama2", "{\"rope_parameters\": {\"rope_type\": \"nosuch\"}}", CB_ERR_UNSUPPORTED, "rope_type is \"nosuch\"");
    refused("llama2", "{\"rope_parameters\": {\"rope_type\": \"linear\", \"factor\": 0}}", CB_ERR_FORMAT, "factor");
    refused("llama2", "{\"rope_parameters\": {\"rope_theta\": -1}}", CB_ERR_FORMAT, "rope_theta is -1");
    refused("llama2", "{\"rope_parameters\": [1]}", CB_ERR_FORMAT, "rope_parameters is not an object");
    refused("mistral", "{\"sliding_window\": -4}", CB_ERR_FORMAT, "sliding_window is -4");
    refused("qwen2", "{\"use_sliding_window\": true, \"sliding_window\": 4, \"layer_types\": [\"full_attention\"]}", CB_ERR_FORMAT,
            "layer_types[1]");
    refused("gpt2", "{\"n_head\": 5}", CB_ERR_FORMAT, "n_embd is 32");
    refused("gpt2", "{\"add_cross_attention\": true}", CB_ERR_UNSUPPORTED, "add_cross_attention");
}

/* Sizes that would need more memory than there is are found out by the file's own before anything is allocated. */
static void hostile_sizes_cost_nothing(void **state)
{
    (void)state;
    refused("llama2", "{\"vocab_size\": 2147483647, \"hidden_size\": 16777216}", CB_ERR_FORMAT, "embed_tokens");
    refused("llama2", "{\"num_hidden_layers\": 65536}", CB_ERR_FORMAT, "missing");
    refused("llama2", "{\"num_hidden_layers\": 9223372036854775807}", CB_ERR_FORMAT, "num_hidden_layers");
    refused("llama2", "{\"intermediate_size\": 16777216}", CB_ERR_FORMAT, "gate_proj");
    refused("llama2", "{\"head_dim\": 65536, \"num_attention_heads\": 65536, \"num_key_value_heads\": 65536}", CB_ERR_FORMAT, "q_proj");
    refused("gpt2", "{\"n_positions\": 2147483647}", CB_ERR_FORMAT, "wpe");
}

static void missing_files_are_named(void **state)
{
    (void)state;
    assert_null(cb_model_load("/nowhere/at/all"));
    assert_int_equal(cb_error_status(), CB_ERR_IO);
    assert_non_null(strstr(cb_error_message(), "/nowhere/at/all/config.json"));
    cb_error_clear();
    char *directory = changed_model("llama2", "{}"), path[600];
    snprintf(path, sizeof path, "%s/model.safetensors", directory);
    unlink(path);
    assert_null(cb_model_load(directory));
    assert_false(cb_ok());
    assert_non_null(strstr(cb_error_message(), directory));
    cb_error_clear();
    snprintf(path, sizeof path, "%s/config.json", directory);
    assert_true(cb_file_write(path, "[1]", 3));
    assert_null(cb_model_load(directory));
    assert_non_null(strstr(cb_error_message(), "not a JSON object"));
    cb_error_clear();
    remove_model(directory);
}

static void bad_calls_are_refused(void **state)
{
    (void)state;
    fixture f = fixture_open("gpt2");
    cb_context ctx = {.positions = cb_ones(CB_I32, 2, 3)};
    assert_null(cb_model_logits(f.model, f.ids, &ctx));
    assert_int_equal(cb_error_status(), CB_ERR_SHAPE);
    cb_error_clear();
    ctx = (cb_context){.positions = cb_full(CB_I32, 32, 2, 17)};
    assert_null(cb_model_logits(f.model, f.ids, &ctx));
    assert_non_null(strstr(cb_error_message(), "position 32, expected less than 32"));
    cb_error_clear();
    ctx = (cb_context){.positions = cb_full(CB_I32, -1, 2, 17)};
    assert_null(cb_model_logits(f.model, f.ids, &ctx));
    cb_error_clear();
    assert_null(cb_model_logits(f.model, cb_full(CB_I32, 96, 1, 4), NULL));
    assert_false(cb_ok());
    cb_error_clear();
    assert_null(cb_model_loss(f.model, f.ids, cb_zeros(CB_I32, 2, 16), 0, NULL));
    assert_int_equal(cb_error_status(), CB_ERR_SHAPE);
    cb_error_clear();
    fixture_close(&f);
}

/* Every allocation of a load and a pass fails once: an error comes back, nothing crashes, nothing leaks. */
static void running_out_of_memory_is_an_error(void **state)
{
    (void)state;
    cbk_gemm_flush(); /* products keep what they prepared for their shapes */
    uint64_t before = cb_memory().live_bytes;
    bool finished = false;
    for (uint64_t n = 1; !finished; n += 1 + n / 40) {
        cb_scope *scope = cb_scope_open();
        cb_memory_fail_after(n);
        cb_model *model = cb_model_load(model_path("smollm"));
        int32_t ids[] = {3, 4, 5};
        cb_tensor *tensor = model ? cb_from(CB_I32, ids, 1, 3) : NULL;
        cb_tensor *logits = cb_model_logits(model, tensor, NULL);
        cb_memory_fail_after(0);
        finished = logits && cb_ok();
        assert_true(finished || cb_error_status() == CB_ERR_MEMORY);
        cb_error_clear();
        cb_scope_close(scope);
        cb_model_free(model);
        cbk_gemm_flush();
        assert_int_equal(cb_memory().live_bytes, before);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(logits_equal_transformers, without_errors),
        cmocka_unit_test_setup(both_config_styles_mean_the_same, without_errors),
        cmocka_unit_test_setup(loss_and_gradients_equal_transformers, without_errors),
        cmocka_unit_test_setup(gradients_with_checkpointing_equal_transformers, without_errors),
        cmocka_unit_test_setup(padded_batches_equal_transformers, without_errors),
        cmocka_unit_test_setup(cache_gives_the_same_logits, without_errors),
        cmocka_unit_test_setup(packed_documents_do_not_see_each_other, without_errors),
        cmocka_unit_test_setup(sliding_windows_follow_the_config, without_errors),
        cmocka_unit_test_setup(dynamic_rope_is_a_longer_base, without_errors),
        cmocka_unit_test_setup(rope_scaling_counts_beside_rope_parameters, without_errors),
        cmocka_unit_test_setup(head_of_its_own_is_not_tied, without_errors),
        cmocka_unit_test_setup(checkpointing_gives_the_same_bits, without_errors),
        cmocka_unit_test_setup(bf16_activations_come_close, without_errors),
        cmocka_unit_test_setup(loss_with_a_normalizer_adds_up, without_errors),
        cmocka_unit_test_setup(modules_act_where_they_say, without_errors),
        cmocka_unit_test_setup(modules_reach_inside_attention, without_errors),
        cmocka_unit_test_setup(loss_through_a_head_with_modules, without_errors),
        cmocka_unit_test_setup(a_tied_head_can_be_trained_alone, without_errors),
        cmocka_unit_test_setup(a_model_knows_its_sizes, without_errors),
        cmocka_unit_test_setup(a_new_model_depends_on_its_seed_only, without_errors),
        cmocka_unit_test_setup(saving_and_loading_changes_nothing, without_errors),
        cmocka_unit_test_setup(saving_keeps_what_it_does_not_know, without_errors),
        cmocka_unit_test_setup(saving_writes_a_head_of_its_own, without_errors),
        cmocka_unit_test_setup(saving_that_fails_leaves_no_mixture, without_errors),
        cmocka_unit_test_setup(configs_that_do_not_fit_are_refused, without_errors),
        cmocka_unit_test_setup(hostile_sizes_cost_nothing, without_errors),
        cmocka_unit_test_setup(missing_files_are_named, without_errors),
        cmocka_unit_test_setup(bad_calls_are_refused, without_errors),
        cmocka_unit_test_setup(running_out_of_memory_is_an_error, without_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
