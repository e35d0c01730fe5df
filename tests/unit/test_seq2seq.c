/* test_seq2seq.c: models with an encoder and a decoder against what transformers computes with the same files (tests/oracle/seq2seq.py), and against
 * themselves: padding, checkpointing, caches, batches, adapters, saving, and what must be refused. */
#include "cambium/adapters.h"
#include "cambium/training.h"
#include "model_fixtures.h"

static const char *const names[] = {"t5", "t5_v1_1", "mt5", "umt5"};
enum { MODELS = 4, ROWS = 3, NEW = 12 };

static const char *seq2seq_path(const char *name)
{
    static char ring[4][512];
    static unsigned turn;
    char *path = ring[turn++ % 4];
    snprintf(path, sizeof ring[0], "%s/seq2seq/%s", CB_TEST_DATA, name);
    return path;
}

/* A model with what was computed from it; f.ids are what the decoder reads, ctx has the source. */
typedef struct pair {
    fixture f;
    cb_context ctx;
    cb_tensor *mask, *targets;
} pair;

static pair pair_open_at(const char *name, const char *directory, cb_dtype dtype)
{
    char path[600];
    pair p = {.f = {.scope = cb_scope_open()}};
    p.f.model = cb_model_load(directory, .dtype = dtype);
    assert_ok();
    snprintf(path, sizeof path, "%s/expected.safetensors", seq2seq_path(name));
    p.f.expected = cb_safetensors_open(path);
    assert_ok();
    p.mask = as_i32(expected_tensor(&p.f, "attention_mask"));
    p.ctx.source = as_i32(expected_tensor(&p.f, "input_ids"));
    p.ctx.source_segments = cb_sub(p.mask, cb_ones(CB_I32, p.mask->shape[0], p.mask->shape[1]));
    if (cb_safetensors_find(p.f.expected, "labels")) {
        p.targets = as_i32(expected_tensor(&p.f, "labels"));
        p.f.ids = as_i32(expected_tensor(&p.f, "decoder_input_ids"));
    }
    assert_ok();
    return p;
}

static pair pair_open(const char *name)
{
    return pair_open_at(name, seq2seq_path(name), CB_F32);
}

static cb_tensor *row_of(cb_tensor *t, int64_t row, int64_t length)
{
    return cb_contiguous(cb_slice(cb_slice(t, 0, row, row + 1, 1), 1, 0, length, 1));
}

static int64_t source_length(const pair *p, int64_t row)
{
    int64_t length = 0;
    for (int64_t i = 0; i < p->mask->shape[1]; i++)
        length += cb_get(p->mask, row * p->mask->shape[1] + i) != 0;
    return length;
}

/* ---- transformers ---- */

/* f32 against f32, with sums in another order. */
static const double SAME = 1e-5;

static void logits_and_losses_equal_transformers(void **state)
{
    (void)state;
    for (int i = 0; i < MODELS; i++) {
        pair p = pair_open(names[i]);
        assert_int_equal(cb_model_head_kind(p.f.model), CB_HEAD_SEQ2SEQ_LM);
        assert_close(names[i], cb_model_logits(p.f.model, p.f.ids, &p.ctx), expected_tensor(&p.f, "logits"), SAME);
        assert_close(names[i], cb_model_loss(p.f.model, p.f.ids, p.targets, 0, &p.ctx), expected_tensor(&p.f, "loss"), SAME);
        assert_int_equal(cb_model_decoder_start(p.f.model), (int)cb_get(p.f.ids, 0));
        fixture_close(&p.f);
    }
}

static void gradients_of(const char *name, bool checkpoint)
{
    pair p = pair_open(name);
    p.ctx.checkpoint = checkpoint;
    each_gradient(&p.f, "grad.", make_trainable);
    assert_true(cb_backward(cb_model_loss(p.f.model, p.f.ids, p.targets, 0, &p.ctx)));
    assert_true(each_gradient(&p.f, "grad.", compare_gradient) >= 30);
    fixture_close(&p.f);
}

static void all_gradients_equal_transformers(void **state)
{
    (void)state;
    for (int i = 0; i < MODELS; i++)
        for (int checkpoint = 0; checkpoint < 2; checkpoint++)
            gradients_of(names[i], checkpoint);
}

static void compare_states(const char *name, cb_model *model, const pair *p)
{
    cb_tensor *hidden = cb_model_hidden(model, p->ctx.source, &(cb_context){.segments = p->ctx.source_segments});
    assert_ok();
    cb_tensor *kept = cb_unsqueeze(cb_cast(p->mask, CB_F32), 2);
    assert_close(name, cb_mul(hidden, kept), cb_mul(expected_tensor(&p->f, "hidden"), kept), SAME);
}

/* As a file of its own, and out of those of whole models. */
static void encoders_alone_equal_transformers(void **state)
{
    (void)state;
    pair alone = pair_open("t5_encoder");
    assert_int_equal(cb_model_head_kind(alone.f.model), CB_HEAD_NONE);
    assert_int_equal(cb_model_decoder_start(alone.f.model), -1);
    assert_string_equal(cb_model_type(alone.f.model), "t5");
    compare_states("t5_encoder", alone.f.model, &alone);
    fixture_close(&alone.f);
    for (int i = 0; i < MODELS; i++) {
        pair p = pair_open(names[i]);
        cb_model *encoder = cb_model_load(seq2seq_path(names[i]), .head = CB_HEAD_NONE);
        assert_ok();
        compare_states(names[i], encoder, &p);
        cb_model_free(encoder);
        fixture_close(&p.f);
    }
}

static void adapters_of_peft_give_its_logits(void **state)
{
    (void)state;
    static const char *const adapted[] = {"t5", "t5_v1_1", "umt5"};
    for (int i = 0; i < 3; i++) {
        char path[600];
        pair p = pair_open(adapted[i]);
        snprintf(path, sizeof path, "%s/adapter", seq2seq_path(adapted[i]));
        cb_adapter *adapter = cb_adapter_load(path, cb_model_root(p.f.model), cb_model_type(p.f.model));
        assert_ok();
        assert_close(adapted[i], cb_model_logits(p.f.model, p.f.ids, &p.ctx), expected_tensor(&p.f, "adapted"), SAME);
        cb_adapter_free(adapter);
        fixture_close(&p.f);
    }
}

/* ---- against themselves ---- */

static void padding_changes_nothing(void **state)
{
    (void)state;
    for (int i = 0; i < MODELS; i++) {
        pair p = pair_open(names[i]);
        cb_tensor *all = cb_model_logits(p.f.model, p.f.ids, &p.ctx);
        for (int64_t row = 0; row < ROWS; row++) {
            int64_t length = p.f.ids->shape[1] - 3;
            const cb_context own = {.source = row_of(p.ctx.source, row, source_length(&p, row))};
            cb_tensor *alone = cb_model_logits(p.f.model, row_of(p.f.ids, row, length), &own);
            assert_close(names[i], alone, row_of(all, row, length), SAME);
        }
        fixture_close(&p.f);
    }
}

/* Targets that are padded in front, as segments say, come out as they do alone. */
static void targets_may_be_padded_on_the_left(void **state)
{
    (void)state;
    for (int i = 0; i < MODELS; i++) {
        pair p = pair_open(names[i]);
        enum { PADDING = 2 };
        int64_t length = p.f.ids->shape[1];
        cb_tensor *ids = cb_contiguous(cb_pad(cb_cast(p.f.ids, CB_F32), 1, PADDING, 0, 0)), *segments;
        segments = cb_cast(cb_pad(cb_ones(CB_F32, ROWS, length), 1, PADDING, 0, 0), CB_I32);
        segments = cb_sub(segments, cb_ones(CB_I32, ROWS, length + PADDING));
        cb_context ctx = p.ctx;
        ctx.segments = segments;
        cb_tensor *moved = cb_model_logits(p.f.model, cb_cast(ids, CB_I32), &ctx), *all = cb_model_logits(p.f.model, p.f.ids, &p.ctx);
        assert_ok();
        assert_close(names[i], cb_contiguous(cb_slice(moved, 1, PADDING, length + PADDING, 1)), all, SAME);
        fixture_close(&p.f);
    }
}

/* Scores are not scaled, so they are as large here as the weights are, and 8 bits of them say less than elsewhere. */
static void bf16_activations_come_close(void **state)
{
    (void)state;
    const double close = 0.1;
    for (int i = 0; i < MODELS; i++) {
        pair p = pair_open_at(names[i], seq2seq_path(names[i]), CB_BF16);
        assert_close(names[i], cb_cast(cb_model_logits(p.f.model, p.f.ids, &p.ctx), CB_F32), expected_tensor(&p.f, "logits"), close);
        fixture_close(&p.f);
    }
}

/* Token by token with a cache, whose first pass alone has the source. */
static void a_cache_changes_nothing(void **state)
{
    (void)state;
    for (int i = 0; i < MODELS; i++) {
        pair p = pair_open(names[i]);
        cb_tensor *all = cb_model_logits(p.f.model, p.f.ids, &p.ctx);
        cb_cache *cache = cb_cache_new(p.f.model, ROWS, 2);
        for (int64_t at = 0, n = 4; at < all->shape[1]; at += n, n = 1) {
            cb_context ctx = {.cache = cache};
            if (at == 0) {
                ctx.source = p.ctx.source;
                ctx.source_segments = p.ctx.source_segments;
            }
            cb_tensor *some = cb_model_logits(p.f.model, cb_contiguous(cb_slice(p.f.ids, 1, at, at + n, 1)), &ctx);
            assert_close(names[i], some, cb_contiguous(cb_slice(all, 1, at, at + n, 1)), SAME);
        }
        assert_null(cb_model_logits(p.f.model, p.f.ids, &(cb_context){.cache = cache, .source = p.ctx.source}));
        assert_non_null(strstr(cb_error_message(), "in a later pass"));
        cb_error_clear();
        cb_cache_free(cache);
        fixture_close(&p.f);
    }
}

/* ---- generation ---- */

static void compare_text(const char *name, const pair *p, int64_t row, const cb_generation *g)
{
    cb_tensor *expected = expected_tensor(&p->f, "greedy");
    int64_t most = expected->shape[1];
    for (size_t k = 0; k < g->count; k++)
        if (g->ids[k] != (int32_t)cb_get(expected, row * most + (int64_t)k))
            fail_msg("%s, row %d: token %zu is %d", name, (int)row, k, g->ids[k]);
    bool ended = g->ids[g->count - 1] == 1;
    assert_string_equal(g->finish_reason, ended ? "stop" : "length");
    assert_true(ended || g->count == NEW);
}

static void prompts_of(const pair *p, cb_prompt_ids *prompts)
{
    for (int64_t row = 0; row < ROWS; row++)
        prompts[row] =
            (cb_prompt_ids){.ids = (int32_t *)p->ctx.source->data + row * p->ctx.source->shape[1], .count = (size_t)source_length(p, row)};
}

static void greedy_texts_equal_transformers(void **state)
{
    (void)state;
    const cb_generate_options options = {.max_new_tokens = NEW};
    for (int i = 0; i < MODELS; i++) {
        pair p = pair_open(names[i]);
        cb_prompt_ids prompts[ROWS];
        prompts_of(&p, prompts);
        for (int64_t rows = 1; rows <= ROWS; rows++) { /* that run together */
            cb_generation out[ROWS] = {0};
            const cb_batch_options batch = {.batching = CB_BATCHING_STATIC, .batch_size = rows};
            assert_true(cb_generate_batch(p.f.model, NULL, prompts, ROWS, NULL, NULL, &options, &batch, out));
            for (int row = 0; row < ROWS; row++) {
                compare_text(names[i], &p, row, &out[row]);
                cb_generation_free(&out[row]);
            }
        }
        cb_generation one = {0};
        assert_true(cb_generate_ids(p.f.model, NULL, prompts[1].ids, prompts[1].count, &options, NULL, NULL, &one));
        assert_int_equal(one.prompt_tokens, prompts[1].count);
        compare_text(names[i], &p, 1, &one);
        cb_generation_free(&one);
        fixture_close(&p.f);
    }
}

/* Each row of a batch has its own adapter, in whatever batches they run. */
static void rows_may_have_adapters_of_their_own(void **state)
{
    (void)state;
    const cb_generate_options options = {.max_new_tokens = NEW, .ignore_eos = true};
    pair p = pair_open("t5");
    cb_prompt_ids prompts[ROWS];
    prompts_of(&p, prompts);
    cb_adapter *adapter = cb_adapter_load(seq2seq_path("t5/adapter"), cb_model_root(p.f.model), cb_model_type(p.f.model));
    assert_ok();
    cb_generation with[ROWS] = {0}, without[ROWS] = {0}, mixed[ROWS] = {0};
    assert_true(cb_generate_rows(p.f.model, NULL, prompts, ROWS, NULL, NULL, &options, with));
    cb_adapter_set_strength(adapter, 0);
    assert_true(cb_generate_rows(p.f.model, NULL, prompts, ROWS, NULL, NULL, &options, without));
    int64_t changed = 0; /* a row whose text the adapter changes */
    while (changed < ROWS && !memcmp(with[changed].ids, without[changed].ids, NEW * sizeof(int32_t)))
        changed++;
    assert_true(changed < ROWS);
    cb_blend *blend = cb_blend_new(cb_model_root(p.f.model));
    assert_true(cb_blend_add(blend, adapter, .weight = 1, .rows = &changed, .row_count = 1));
    const cb_batch_options batch = {.batching = CB_BATCHING_STATIC, .batch_size = 2};
    assert_true(cb_generate_batch(p.f.model, NULL, prompts, ROWS, blend, NULL, &options, &batch, mixed));
    assert_ok();
    for (int row = 0; row < ROWS; row++)
        assert_memory_equal(mixed[row].ids, row == changed ? with[row].ids : without[row].ids, NEW * sizeof(int32_t));
    for (int row = 0; row < ROWS; row++) {
        cb_generation_free(&with[row]);
        cb_generation_free(&without[row]);
        cb_generation_free(&mixed[row]);
    }
    cb_blend_free(blend);
    cb_adapter_free(adapter);
    fixture_close(&p.f);
}

/* ---- adapters ---- */

/* What kinds are given on models this small. */
static const struct {
    const char *kind, *option, *value;
} settings[] = {
    {"trainable_tokens", "token_indices", "4,5,6,7,8,9,10,11,12"},
    {"fourierft", "n_frequency", "40"},
    {"lora_xs", "rank", "4"},
    {"shira", "rank", "2"},
    {"miss", "rank", "2"},
    {"miss", "target_modules", "k,q"},
    {"c3a", "block_size", "4"},
    {"road", "group_size", "4"},
    {"orthogonal_adaptation", "rank", "4"},
    {"vblora", "vector_length", "4"},
    {"vblora", "num_vectors", "16"},
    {"oft", "oft_block_size", "4"},
    {"krona", "a1", "4"},
    {"ln_tuning", "target_modules", "layer_norm,final_layer_norm"},
};

static cb_adapter *adapter_on(const cb_adapter_kind *kind, cb_model *model)
{
    cb_adapter *adapter = cb_adapter_new(kind->name, "default");
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
        if (strcmp(settings[i].kind, kind->name) == 0)
            cb_adapter_set(adapter, settings[i].option, settings[i].value);
    assert_ok();
    if (!cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), 3))
        fail_msg("%s on %s: %s", kind->name, cb_model_type(model), cb_error_message());
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list);
    cb_rng rng = {.seed = 5};
    for (size_t i = 0; i < count; i++) {
        cb_tensor *noise = cb_randn_nd(CB_F32, &rng, list[i].tensor->ndim, list[i].tensor->shape);
        float *p = list[i].tensor->data;
        for (int64_t k = 0; k < noise->count; k++)
            p[k] += 0.1F * ((const float *)noise->data)[k];
    }
    return adapter;
}

static void check_kind(const cb_adapter_kind *kind, const char *name)
{
    pair p = pair_open(name);
    cb_tensor *base = cb_model_logits(p.f.model, p.f.ids, &p.ctx);
    cb_adapter *adapter = adapter_on(kind, p.f.model);
    cb_tensor *logits = cb_model_logits(p.f.model, p.f.ids, &p.ctx);
    assert_ok();
    if (!(relative_difference(logits, base) > 1e-4))
        fail_msg("%s changes nothing on %s", kind->name, name);
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list), reached = 0;
    p.ctx.checkpoint = true;
    assert_true(cb_backward(cb_model_loss(p.f.model, p.f.ids, p.targets, 0, &p.ctx)));
    for (size_t i = 0; i < count; i++)
        reached += list[i].tensor->grad && isfinite(cb_item(cb_sum(list[i].tensor->grad, CB_ALL, false)));
    if (!reached)
        fail_msg("%s on %s gets no gradient", kind->name, name);
    p.ctx.checkpoint = false;
    cb_adapter_free(adapter);
    assert_close(kind->name, cb_model_logits(p.f.model, p.f.ids, &p.ctx), base, 0);
    fixture_close(&p.f);
}

/* Virtual tokens have no distance from others, LLaMA-Adapter is PEFT's for decoders alone, and there are no biases, nor maps or heads of labels. */
static bool has_no_place(const cb_adapter_kind *kind)
{
    return kind->module.virtual_tokens || strcmp(kind->name, "adaption_prompt") == 0 || strcmp(kind->name, "bitfit") == 0 ||
           strcmp(kind->name, "gdcan") == 0;
}

static void every_adapter_kind_works(void **state)
{
    (void)state;
    for (const cb_adapter_kind *const *kind = cb_adapter_kinds(); *kind; kind++)
        for (int i = 0; i < 2 && !has_no_place(*kind); i++)
            check_kind(*kind, i ? "umt5" : "t5");
}

static void virtual_tokens_are_refused(void **state)
{
    (void)state;
    static const char *const kinds[] = {"prompt_tuning", "prefix_tuning"};
    for (int i = 0; i < 2; i++) {
        pair p = pair_open("t5");
        cb_adapter *adapter = cb_adapter_new(kinds[i], "default");
        assert_true(cb_adapter_set(adapter, "num_virtual_tokens", "3"));
        assert_true(cb_adapter_attach(adapter, cb_model_root(p.f.model), cb_model_type(p.f.model), 3));
        assert_null(cb_model_logits(p.f.model, p.f.ids, &p.ctx));
        assert_int_equal(cb_error_status(), CB_ERR_UNSUPPORTED);
        assert_non_null(strstr(cb_error_message(), "t5: found virtual tokens"));
        cb_error_clear();
        cb_adapter_free(adapter);
        fixture_close(&p.f);
    }
}

static void virtual_tokens_of_the_encoder_alone_are_refused(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_model *model = cb_model_load(CB_TEST_DATA "/seq2seq/t5", .head = CB_HEAD_NONE);
    cb_adapter *adapter = cb_adapter_new("prefix_tuning", "default");
    assert_true(cb_adapter_set(adapter, "num_virtual_tokens", "3"));
    assert_true(cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), 3));
    assert_null(cb_model_hidden(model, cb_zeros(CB_I32, 1, 4), NULL));
    assert_int_equal(cb_error_status(), CB_ERR_UNSUPPORTED);
    assert_non_null(strstr(cb_error_message(), "found virtual tokens"));
    cb_error_clear();
    cb_adapter_free(adapter);
    cb_model_free(model);
    cb_scope_close(scope);
}

/* ---- saving ---- */

static void saving_and_loading_changes_nothing(void **state)
{
    (void)state;
    for (int i = 0; i <= MODELS; i++) {
        bool whole = i < MODELS;
        const char *name = whole ? names[i] : "t5_encoder";
        pair p = pair_open(name);
        char *directory = strdup("/tmp/cambium-test-XXXXXX");
        assert_non_null(mkdtemp(directory));
        assert_true(cb_model_save(p.f.model, directory, CB_F32));
        pair saved = pair_open_at(name, directory, CB_F32);
        assert_int_equal(cb_model_head_kind(saved.f.model), cb_model_head_kind(p.f.model));
        assert_int_equal(cb_model_parameter_count(saved.f.model), cb_model_parameter_count(p.f.model));
        if (whole)
            assert_close(name, cb_model_logits(saved.f.model, p.f.ids, &p.ctx), cb_model_logits(p.f.model, p.f.ids, &p.ctx), 0);
        else
            compare_states(name, saved.f.model, &p);
        fixture_close(&saved.f);
        fixture_close(&p.f);
        remove_model(directory);
    }
}

/* A head that came to differ from the embedding is the checkpoint's from then on, and is given what it was given before. */
static void a_head_of_its_own_stays_scaled(void **state)
{
    (void)state;
    pair p = pair_open("t5");
    char *directory = strdup("/tmp/cambium-test-XXXXXX");
    assert_non_null(mkdtemp(directory));
    cb_layer *head = cb_model_head_layer(p.f.model);
    assert_true(cb_layer_train_copy(head, "weight", CB_F32, true));
    ((float *)cb_layer_weight(head, "weight")->data)[0] += 1;
    cb_tensor *logits = cb_model_logits(p.f.model, p.f.ids, &p.ctx);
    assert_true(cb_model_save(p.f.model, directory, CB_F32));
    pair saved = pair_open_at("t5", directory, CB_F32);
    assert_close("logits", cb_model_logits(saved.f.model, p.f.ids, &p.ctx), logits, 0);
    assert_null(cb_model_head_layer(saved.f.model)->tied);
    fixture_close(&saved.f);
    fixture_close(&p.f);
    remove_model(directory);
}

/* As transformers 4 has written it. */
static void older_configs_say_the_same(void **state)
{
    (void)state;
    char *directory = changed_model_at(seq2seq_path("t5_v1_1"), "{\"scale_decoder_outputs\": null, \"dense_act_fn\": null, "
                                                                "\"decoder_start_token_id\": null, \"architectures\": [\"T5Model\"]}");
    pair p = pair_open_at("t5_v1_1", directory, CB_F32);
    assert_close("logits", cb_model_logits(p.f.model, p.f.ids, &p.ctx), expected_tensor(&p.f, "logits"), SAME);
    fixture_close(&p.f);
    remove_model(directory);
    directory = changed_model_at(seq2seq_path("t5"), "{\"scale_decoder_outputs\": null, \"tie_word_embeddings\": null, "
                                                     "\"num_decoder_layers\": null, \"architectures\": [\"T5WithLMHeadModel\"]}");
    p = pair_open_at("t5", directory, CB_F32);
    assert_close("logits", cb_model_logits(p.f.model, p.f.ids, &p.ctx), expected_tensor(&p.f, "logits"), SAME);
    fixture_close(&p.f);
    remove_model(directory);
}

/* ---- what is refused ---- */

static void refused(const char *name, const char *changes, cb_status status, const char *message)
{
    char *directory = changed_model_at(seq2seq_path(name), changes);
    if (cb_model_load(directory))
        fail_msg("%s with %s is loaded", name, changes);
    if (cb_error_status() != status || !strstr(cb_error_message(), message) || !strstr(cb_error_message(), directory))
        fail_msg("%s with %s: \"%s\", expected \"%s\"", name, changes, cb_error_message(), message);
    cb_error_clear();
    remove_model(directory);
}

static void configs_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    refused("t5", "{\"d_kv\": 0}", CB_ERR_FORMAT, "d_kv is 0");
    refused("t5", "{\"d_kv\": 8}", CB_ERR_FORMAT, "encoder.block.0.layer.0.SelfAttention.q.weight has shape (12, 16), expected (16, 16)");
    refused("t5", "{\"num_layers\": 3}", CB_ERR_FORMAT, "encoder.block.2.layer.0.layer_norm.weight is missing");
    refused("t5", "{\"num_decoder_layers\": 0}", CB_ERR_FORMAT, "num_decoder_layers is 0");
    refused("t5", "{\"num_decoder_layers\": 3}", CB_ERR_FORMAT, "decoder.block.2.layer.0.layer_norm.weight is missing");
    refused("t5", "{\"feed_forward_proj\": \"gated-gelu\"}", CB_ERR_FORMAT, "DenseReluDense.wi_0.weight is missing");
    refused("t5", "{\"feed_forward_proj\": \"gated-mish\"}", CB_ERR_UNSUPPORTED, "feed_forward_proj is \"mish\"");
    refused("t5", "{\"relative_attention_num_buckets\": 6}", CB_ERR_FORMAT, "relative_attention_num_buckets is 6");
    refused("t5", "{\"relative_attention_num_buckets\": 12}", CB_ERR_FORMAT,
            "relative_attention_bias.weight has shape (8, 2), expected (12, 2)");
    refused("t5", "{\"relative_attention_max_distance\": 4}", CB_ERR_FORMAT, "relative_attention_max_distance is 4");
    refused("t5", "{\"layer_norm_epsilon\": 0}", CB_ERR_FORMAT, "layer_norm_epsilon is 0");
    refused("t5", "{\"decoder_start_token_id\": 30}", CB_ERR_FORMAT, "decoder_start_token_id is 30");
    refused("t5", "{\"decoder_start_token_id\": -1}", CB_ERR_FORMAT, "decoder_start_token_id is -1");
    refused("t5", "{\"architectures\": [\"T5ForQuestionAnswering\"]}", CB_ERR_UNSUPPORTED,
            "architectures[0] is \"T5ForQuestionAnswering\", expected one of T5ForConditionalGeneration");
    refused("t5", "{\"model_type\": \"recursive_t5\", \"num_shared_layers\": 1}", CB_ERR_UNSUPPORTED, "recursive_t5");
    refused("t5", "{\"model_type\": \"umt5\"}", CB_ERR_FORMAT,
            "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight is missing");
    refused("t5_encoder", "{\"architectures\": [\"T5ForConditionalGeneration\"]}", CB_ERR_FORMAT, "decoder.block.0");
}

static void assert_refuses(const void *result, cb_status status, const char *message)
{
    assert_null(result);
    if (cb_error_status() != status || !strstr(cb_error_message(), message))
        fail_msg("\"%s\", expected \"%s\"", cb_error_message(), message);
    cb_error_clear();
}

static void bad_calls_are_refused(void **state)
{
    (void)state;
    pair p = pair_open("t5");
    cb_model *encoder = cb_model_load(seq2seq_path("t5"), .head = CB_HEAD_NONE);
    assert_refuses(cb_model_logits(p.f.model, p.f.ids, NULL), CB_ERR_ARGUMENT, "found no source text");
    const cb_context fewer = {.source = row_of(p.ctx.source, 0, 5)};
    assert_refuses(cb_model_logits(p.f.model, p.f.ids, &fewer), CB_ERR_SHAPE, "expected as many rows");
    assert_refuses(cb_model_hidden(encoder, p.f.ids, &p.ctx), CB_ERR_ARGUMENT, "found a source text, which t5 has no encoder for");
    const cb_context other = {.source = p.ctx.source, .source_segments = cb_zeros(CB_I32, ROWS, 4)};
    assert_refuses(cb_model_logits(p.f.model, p.f.ids, &other), CB_ERR_SHAPE, "segments are");
    assert_refuses(cb_model_load(seq2seq_path("t5"), .head = CB_HEAD_CAUSAL_LM), CB_ERR_UNSUPPORTED, "has no such head");
    cb_model_free(encoder);
    fixture_close(&p.f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(logits_and_losses_equal_transformers, without_errors),
        cmocka_unit_test_setup(all_gradients_equal_transformers, without_errors),
        cmocka_unit_test_setup(encoders_alone_equal_transformers, without_errors),
        cmocka_unit_test_setup(adapters_of_peft_give_its_logits, without_errors),
        cmocka_unit_test_setup(padding_changes_nothing, without_errors),
        cmocka_unit_test_setup(targets_may_be_padded_on_the_left, without_errors),
        cmocka_unit_test_setup(bf16_activations_come_close, without_errors),
        cmocka_unit_test_setup(a_cache_changes_nothing, without_errors),
        cmocka_unit_test_setup(greedy_texts_equal_transformers, without_errors),
        cmocka_unit_test_setup(rows_may_have_adapters_of_their_own, without_errors),
        cmocka_unit_test_setup(every_adapter_kind_works, without_errors),
        cmocka_unit_test_setup(virtual_tokens_are_refused, without_errors),
        cmocka_unit_test_setup(virtual_tokens_of_the_encoder_alone_are_refused, without_errors),
        cmocka_unit_test_setup(saving_and_loading_changes_nothing, without_errors),
        cmocka_unit_test_setup(a_head_of_its_own_stays_scaled, without_errors),
        cmocka_unit_test_setup(older_configs_say_the_same, without_errors),
        cmocka_unit_test_setup(configs_that_do_not_fit_are_refused, without_errors),
        cmocka_unit_test_setup(bad_calls_are_refused, without_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
