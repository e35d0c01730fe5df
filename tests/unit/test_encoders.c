/* test_encoders.c: encoders and heads against what transformers computes with the same files (tests/oracle/encoders.py), and against
 * themselves: padding, packing, checkpointing, new heads, saving, and files that must be refused. */
#include "cambium/losses.h"
#include "cambium/training.h"
#include "model_fixtures.h"

static const char *const encoders[] = {
    "bert",          "bert_untied",     "roberta",     "xlm_roberta",        "distilbert",        "bert_rows",       "bert_regression",
    "roberta_rows",  "distilbert_rows", "bert_tokens", "xlm_roberta_tokens", "distilbert_tokens", "bert_bare",       "llama_rows",
    "gpt2_rows",     "qwen2_tokens",    "deberta_v3",  "deberta_v2",         "deberta_v3_rows",   "deberta_v2_conv", "deberta_v2_tokens",
    "deberta_plain", "mpnet",           "mpnet_rows",  "mpnet_bare",         "camembert",         "t5_rows",         "umt5_rows"};
#define ENCODERS (sizeof encoders / sizeof *encoders)

static const char *encoder_path(const char *name)
{
    static char ring[4][512];
    static unsigned turn;
    char *path = ring[turn++ % 4];
    snprintf(path, sizeof ring[0], "%s/encoders/%s", CB_TEST_DATA, name);
    return path;
}

/* A model with what was computed from it, and the context of its inputs. */
typedef struct encoder {
    fixture f;
    cb_context ctx;
    cb_tensor *mask;
} encoder;

static encoder encoder_open_at(const char *name, const char *directory)
{
    char path[600];
    encoder e = {.f = {.scope = cb_scope_open()}};
    e.f.model = cb_model_load(directory);
    assert_ok();
    snprintf(path, sizeof path, "%s/expected.safetensors", encoder_path(name));
    e.f.expected = cb_safetensors_open(path);
    assert_ok();
    e.f.ids = as_i32(expected_tensor(&e.f, "input_ids"));
    e.mask = as_i32(expected_tensor(&e.f, "attention_mask"));
    e.ctx.segments = cb_sub(e.mask, cb_ones(CB_I32, e.mask->shape[0], e.mask->shape[1]));
    if (cb_safetensors_find(e.f.expected, "token_type_ids"))
        e.ctx.types = as_i32(expected_tensor(&e.f, "token_type_ids"));
    assert_ok();
    return e;
}

static encoder encoder_open(const char *name)
{
    return encoder_open_at(name, encoder_path(name));
}

/* Where tokens are padding what comes out means nothing. */
static void assert_close_where_text(const char *what, cb_tensor *found, cb_tensor *expected, const cb_tensor *mask, double tolerance)
{
    assert_ok();
    assert_true(cb_same_shape(found, expected));
    if (found->ndim == 3) {
        cb_tensor *kept = cb_unsqueeze(cb_cast((cb_tensor *)(uintptr_t)mask, CB_F32), 2);
        for (int64_t i = 0; i < found->count; i++)
            assert_true(isfinite(cb_get(found, i)));
        found = cb_mul(found, kept);
        expected = cb_mul(expected, kept);
    }
    assert_close(what, found, expected, tolerance);
}

static void hidden_states_and_logits_equal_transformers(void **state)
{
    (void)state;
    for (size_t i = 0; i < ENCODERS; i++) {
        encoder e = encoder_open(encoders[i]);
        cb_tensor *hidden = cb_model_hidden(e.f.model, e.f.ids, &e.ctx);
        assert_close_where_text(encoders[i], hidden, expected_tensor(&e.f, "hidden"), e.mask, 1e-4);
        if (cb_model_head_kind(e.f.model) != CB_HEAD_NONE)
            assert_close_where_text(encoders[i], cb_model_logits(e.f.model, e.f.ids, &e.ctx), expected_tensor(&e.f, "logits"), e.mask,
                                    1e-4);
        fixture_close(&e.f);
    }
}

/* As transformers' problem_type has it: squares, or labels that are each on or off. */
static cb_tensor *loss_of(encoder *e, const cb_context *ctx)
{
    cb_tensor *labels = expected_tensor(&e->f, "labels");
    if (cb_model_head_kind(e->f.model) == CB_HEAD_CAUSAL_LM)
        fail_msg("no model here has a causal head");
    if (labels->dtype != CB_F32)
        return cb_model_loss(e->f.model, e->f.ids, as_i32(labels), 0, ctx);
    cb_tensor *logits = cb_model_logits(e->f.model, e->f.ids, ctx);
    return cb_model_labels(e->f.model) == 1 ? cb_mse_loss(logits, labels, CB_REDUCE_MEAN)
                                            : cb_bce_with_logits_loss(logits, labels, 1, CB_REDUCE_MEAN);
}

static void loss_and_gradients_of(const char *name, bool checkpoint)
{
    encoder e = encoder_open(name);
    if (cb_model_head_kind(e.f.model) != CB_HEAD_NONE) {
        e.ctx.checkpoint = checkpoint;
        each_gradient(&e.f, "grad.", make_trainable);
        cb_tensor *loss = loss_of(&e, &e.ctx);
        assert_close(name, loss, expected_tensor(&e.f, "loss"), 1e-5);
        assert_true(cb_backward(loss));
        assert_true(each_gradient(&e.f, "grad.", compare_gradient) >= 12);
    }
    fixture_close(&e.f);
}

static void losses_and_all_gradients_equal_transformers(void **state)
{
    (void)state;
    for (size_t i = 0; i < ENCODERS; i++)
        for (int checkpoint = 0; checkpoint < 2; checkpoint++)
            loss_and_gradients_of(encoders[i], checkpoint);
}

/* ---- against themselves ---- */

/* Logits of one row of the batch without its padding, at the places `from` of a batch's row. */
static cb_tensor *row_alone(encoder *e, int64_t row, int64_t length)
{
    cb_context ctx = {0};
    if (e->ctx.types)
        ctx.types = cb_contiguous(cb_slice(cb_slice(e->ctx.types, 0, row, row + 1, 1), 1, 0, length, 1));
    return cb_model_logits(e->f.model, cb_contiguous(cb_slice(cb_slice(e->f.ids, 0, row, row + 1, 1), 1, 0, length, 1)), &ctx);
}

static int64_t text_length(const encoder *e, int64_t row)
{
    int64_t length = 0;
    for (int64_t i = 0; i < e->mask->shape[1]; i++)
        length += cb_get(e->mask, row * e->mask->shape[1] + i) != 0;
    return length;
}

/* Moves the text of each row behind its padding. */
static cb_tensor *moved(const encoder *e, cb_tensor *t, double padding)
{
    int64_t width = t->shape[1];
    cb_tensor *to = cb_full_nd(CB_I32, padding, 2, t->shape);
    for (int64_t row = 0; row < t->shape[0]; row++)
        for (int64_t i = 0, n = text_length(e, row); i < n; i++)
            ((int32_t *)to->data)[row * width + width - n + i] = (int32_t)cb_get(t, row * width + i);
    return to;
}

static void compare_rows(encoder *e, const char *what, cb_tensor *logits, bool left)
{
    for (int64_t row = 0; row < 3; row++) {
        int64_t n = text_length(e, row), skip = left ? e->mask->shape[1] - n : 0;
        cb_tensor *found = cb_slice(logits, 0, row, row + 1, 1);
        assert_close(what, logits->ndim == 3 ? cb_slice(found, 1, skip, skip + n, 1) : found, row_alone(e, row, n), 1e-5);
    }
}

static void padding_on_either_side_changes_nothing(void **state)
{
    (void)state;
    for (size_t i = 0; i < ENCODERS; i++) {
        encoder e = encoder_open(encoders[i]);
        cb_head_kind kind = cb_model_head_kind(e.f.model);
        if (kind != CB_HEAD_NONE)
            compare_rows(&e, encoders[i], cb_model_logits(e.f.model, e.f.ids, &e.ctx), false);
        if (kind != CB_HEAD_NONE && strncmp(encoders[i], "gpt2", 4) != 0 && strncmp(encoders[i], "llama", 5) != 0 &&
            strncmp(encoders[i], "qwen2", 5) != 0) {
            cb_context ctx = {.segments = moved(&e, e.ctx.segments, -1), .types = e.ctx.types ? moved(&e, e.ctx.types, 0) : NULL};
            compare_rows(&e, encoders[i], cb_model_logits(e.f.model, moved(&e, e.f.ids, 9), &ctx), true);
        }
        fixture_close(&e.f);
    }
}

static void packed_documents_do_not_see_each_other(void **state)
{
    (void)state;
    static const char *const names[] = {"bert", "roberta", "distilbert"};
    for (size_t i = 0; i < 3; i++) {
        encoder e = encoder_open(names[i]);
        int32_t segments[11], positions[11];
        for (int t = 0; t < 11; t++) {
            segments[t] = t < 4 ? 0 : 1;
            positions[t] = t < 4 ? t : t - 4;
        }
        cb_context ctx = {.segments = cb_from(CB_I32, segments, 1, 11), .positions = cb_from(CB_I32, positions, 1, 11)};
        cb_tensor *ids = cb_contiguous(cb_slice(e.f.ids, 0, 0, 1, 1));
        cb_tensor *both = cb_model_logits(e.f.model, ids, &ctx);
        assert_close(names[i], cb_slice(both, 1, 0, 4, 1), cb_model_logits(e.f.model, cb_contiguous(cb_slice(ids, 1, 0, 4, 1)), NULL),
                     1e-5);
        assert_close(names[i], cb_slice(both, 1, 4, 11, 1), cb_model_logits(e.f.model, cb_contiguous(cb_slice(ids, 1, 4, 11, 1)), NULL),
                     1e-5);
        fixture_close(&e.f);
    }
}

static void bf16_activations_come_close(void **state)
{
    (void)state;
    for (size_t i = 0; i < ENCODERS; i++) {
        encoder e = encoder_open(encoders[i]);
        cb_model *half = cb_model_load(encoder_path(encoders[i]), .dtype = CB_BF16);
        assert_ok();
        cb_tensor *hidden = cb_model_hidden(half, e.f.ids, &e.ctx);
        bool two_stacks = strstr(encoders[i], "t5"); /* and scores that are not scaled: as in test_seq2seq.c */
        assert_close_where_text(encoders[i], cb_cast(hidden, CB_F32), expected_tensor(&e.f, "hidden"), e.mask, two_stacks ? 0.1 : 0.05);
        cb_model_free(half);
        fixture_close(&e.f);
    }
}

/* ---- adapters ---- */

/* What kinds are given on models this small, and where they have no default for them. */
static const struct {
    const char *kind, *option, *value;
} settings[] = {
    {"trainable_tokens", "token_indices", "4,5,6,7,8,9,10,11,12"},
    {"trainable_tokens", "target_modules", "word_embeddings"},
    {"fourierft", "n_frequency", "40"},
    {"prefix_tuning", "num_virtual_tokens", "3"},
    {"ln_tuning", "target_modules", "LayerNorm,sa_layer_norm"},
    {"ia3", "target_modules", "query,output.dense,q_lin,lin2"},
    {"beft", "target_modules", "query,q_lin"},
    {"shira", "rank", "4"},
    {"miss", "rank", "4"},
    {"c3a", "block_size", "8"},
    {"road", "group_size", "8"},
    {"orthogonal_adaptation", "rank", "4"},
    {"vblora", "vector_length", "8"},
    {"vblora", "num_vectors", "16"},
    {"krona", "a1", "4"},
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
    encoder e = encoder_open(name);
    cb_tensor *base = cb_model_logits(e.f.model, e.f.ids, &e.ctx);
    cb_adapter *adapter = adapter_on(kind, e.f.model);
    cb_tensor *logits = cb_model_logits(e.f.model, e.f.ids, &e.ctx);
    assert_ok();
    if (!(relative_difference(logits, base) > 1e-4))
        fail_msg("%s changes nothing on %s", kind->name, name);
    compare_rows(&e, kind->name, logits, false);
    /* what the head does not read of the last block may have been left out */
    assert_close(kind->name, logits, cb_model_head(e.f.model, cb_model_hidden(e.f.model, e.f.ids, &e.ctx), &e.ctx), 1e-5);
    assert_true(cb_backward(loss_of(&e, &e.ctx)));
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list), reached = 0;
    for (size_t i = 0; i < count; i++)
        reached += list[i].tensor->grad && isfinite(cb_item(cb_sum(list[i].tensor->grad, CB_ALL, false)));
    if (!reached)
        fail_msg("%s on %s gets no gradient", kind->name, name);
    cb_adapter_free(adapter);
    assert_close(kind->name, cb_model_logits(e.f.model, e.f.ids, &e.ctx), base, 0);
    fixture_close(&e.f);
}

/* Those of virtual tokens that go through the model before the text, and LLaMA-Adapter, which PEFT has for decoders. */
static bool needs_a_decoder(const cb_adapter_kind *kind)
{
    return (kind->module.virtual_tokens && !kind->module.prefix) || strcmp(kind->name, "adaption_prompt") == 0;
}

static void every_adapter_kind_works_on_encoders(void **state)
{
    (void)state;
    static const char *const names[] = {"bert_rows", "roberta_rows", "distilbert_rows"};
    for (const cb_adapter_kind *const *kind = cb_adapter_kinds(); *kind; kind++)
        for (size_t i = 0; i < 3 && !needs_a_decoder(*kind); i++)
            check_kind(*kind, names[i]);
}

/* In the middle of an encoder's text there is no place for tokens that see nothing of it. */
/* A T5 that writes can be made to judge, under the names that such a model has; one that judges reads no other source. */
static void a_t5_that_writes_can_judge(void **state)
{
    (void)state;
    char path[512];
    snprintf(path, sizeof path, "%s/seq2seq/t5", CB_TEST_DATA);
    cb_scope *scope = cb_scope_open();
    cb_model *model = cb_model_load(path, .head = CB_HEAD_SEQUENCE_CLASSIFICATION, .labels = 3, .head_seed = 4);
    assert_ok();
    assert_non_null(cb_layer_find(cb_model_root(model), "transformer.decoder.block.0.layer.1.EncDecAttention.q"));
    assert_non_null(strstr(cb_model_new_weights(model), "classification_head.out_proj"));
    const int32_t text[] = {5, 9, 4, 1, 7, 6, 1, 0}, segments[] = {0, 0, 0, 0, 0, 0, 0, -1};
    cb_tensor *ids = cb_from(CB_I32, text, 2, 4), *padding = cb_from(CB_I32, segments, 2, 4);
    cb_tensor *logits = cb_model_logits(model, ids, &(cb_context){.segments = padding});
    assert_ok();
    assert_true(logits->shape[0] == 2 && logits->shape[1] == 3);
    assert_null(cb_model_logits(model, ids, &(cb_context){.source = ids}));
    assert_non_null(strstr(cb_error_message(), "expected the text alone that is judged"));
    cb_error_clear();
    const cb_generate_options options = {.max_new_tokens = 2};
    cb_generation out = {0};
    assert_false(cb_generate_ids(model, NULL, text, 4, &options, NULL, NULL, &out));
    assert_non_null(strstr(cb_error_message(), "generates nothing"));
    cb_error_clear();
    cb_generation_free(&out);
    cb_model_free(model);
    cb_scope_close(scope);
}

static void virtual_tokens_on_an_encoder_are_refused(void **state)
{
    (void)state;
    encoder e = encoder_open("bert_rows");
    cb_adapter *adapter = cb_adapter_new("prompt_tuning", "default");
    assert_true(cb_adapter_set(adapter, "num_virtual_tokens", "3"));
    assert_true(cb_adapter_attach(adapter, cb_model_root(e.f.model), cb_model_type(e.f.model), 3));
    assert_null(cb_model_logits(e.f.model, e.f.ids, &e.ctx));
    assert_int_equal(cb_error_status(), CB_ERR_UNSUPPORTED);
    assert_non_null(strstr(cb_error_message(), "found prompt_tuning on bert, an encoder"));
    cb_error_clear();
    cb_adapter_free(adapter);
    fixture_close(&e.f);
}

/* Bottlenecks beside attention take its width, which is that of a layer two levels down. */
static void bottlenecks_fit_attention(void **state)
{
    (void)state;
    static const char *const names[] = {"bert_rows", "distilbert_rows"};
    for (int i = 0; i < 2; i++) {
        encoder e = encoder_open(names[i]);
        cb_adapter *adapter = cb_adapter_new("bottleneck", "default");
        assert_true(cb_adapter_set(adapter, "mh_adapter", "true"));
        assert_true(cb_adapter_attach(adapter, cb_model_root(e.f.model), cb_model_type(e.f.model), 3));
        cb_model_logits(e.f.model, e.f.ids, &e.ctx);
        assert_ok();
        cb_adapter_free(adapter);
        fixture_close(&e.f);
    }
}

/* What PEFT made: low-rank factors, and heads that are trained and saved whole. */
static void adapters_of_peft_give_its_logits(void **state)
{
    (void)state;
    static const char *const names[] = {"bert",       "bert_rows",  "roberta_rows", "distilbert_rows", "xlm_roberta_tokens",
                                        "llama_rows", "mpnet_rows", "t5_rows"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[600];
        encoder e = encoder_open(names[i]);
        snprintf(path, sizeof path, "%s/adapter", encoder_path(names[i]));
        cb_adapter *adapter = cb_adapter_load(path, cb_model_root(e.f.model), cb_model_type(e.f.model));
        assert_close_where_text(names[i], cb_model_logits(e.f.model, e.f.ids, &e.ctx), expected_tensor(&e.f, "adapted"), e.mask, 1e-4);
        cb_adapter_free(adapter);
        fixture_close(&e.f);
    }
}

/* The same layers as PEFT's: the transform of the words' head, and not what is tied to the embedding. */
static void all_linear_leaves_out_the_head_of_words(void **state)
{
    (void)state;
    encoder e = encoder_open("bert");
    char path[600];
    snprintf(path, sizeof path, "%s/adapter/adapter_model.safetensors", encoder_path("bert"));
    cb_safetensors *file = cb_safetensors_open(path);
    cb_adapter *adapter = cb_adapter_new("lora", "default");
    assert_true(cb_adapter_set(adapter, "target_modules", "all-linear"));
    assert_true(cb_adapter_attach(adapter, cb_model_root(e.f.model), cb_model_type(e.f.model), 3));
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list);
    assert_int_equal(count, cb_safetensors_count(file));
    for (size_t i = 0; i < count; i++)
        assert_non_null(cb_safetensors_find(file, list[i].name));
    cb_adapter_free(adapter);
    cb_safetensors_close(file);
    fixture_close(&e.f);
}

/* ---- new heads ---- */

static void a_head_that_is_asked_for_is_made(void **state)
{
    (void)state;
    encoder e = encoder_open("bert_rows");
    cb_model *model = cb_model_load(encoder_path("bert_rows"), .head = CB_HEAD_SEQUENCE_CLASSIFICATION, .labels = 7, .head_seed = 4);
    assert_ok();
    assert_int_equal(cb_model_labels(model), 7);
    cb_layer *pooler = cb_layer_find(cb_model_root(model), "bert.pooler.dense");
    cb_layer *mine = cb_layer_find(cb_model_root(e.f.model), "bert.pooler.dense");
    assert_close("the pooler is the file's", cb_layer_weight(pooler, "weight"), cb_layer_weight(mine, "weight"), 0);
    cb_tensor *weight = cb_layer_weight(cb_model_head_layer(model), "weight");
    assert_int_equal(weight->shape[0], 7);
    assert_false(weight->requires_grad);
    cb_model *again = cb_model_load(encoder_path("bert_rows"), .head = CB_HEAD_SEQUENCE_CLASSIFICATION, .labels = 7, .head_seed = 4);
    cb_model *other = cb_model_load(encoder_path("bert_rows"), .head = CB_HEAD_SEQUENCE_CLASSIFICATION, .labels = 7, .head_seed = 5);
    assert_close("by its seed", cb_layer_weight(cb_model_head_layer(again), "weight"), weight, 0);
    assert_true(relative_difference(cb_layer_weight(cb_model_head_layer(other), "weight"), weight) > 0.1);
    assert_int_equal(cb_model_logits(model, e.f.ids, &e.ctx)->shape[1], 7);
    cb_model *words = cb_model_load(encoder_path("bert_rows"), .head = CB_HEAD_MASKED_LM);
    assert_int_equal(cb_model_logits(words, e.f.ids, &e.ctx)->shape[2], 30);
    cb_model *none = cb_model_load(encoder_path("bert_rows"), .head = CB_HEAD_NONE);
    assert_close("hidden", cb_model_hidden(none, e.f.ids, &e.ctx), cb_model_hidden(e.f.model, e.f.ids, &e.ctx), 0);
    assert_null(cb_model_logits(none, e.f.ids, &e.ctx));
    assert_non_null(strstr(cb_error_message(), "BertModel has no head"));
    cb_error_clear();
    cb_model *const all[] = {model, again, other, words, none};
    for (int i = 0; i < 5; i++)
        cb_model_free(all[i]);
    fixture_close(&e.f);
}

/* ---- masked rows ---- */

static const char word_pieces[] =
    "{\"version\": \"1.0\", \"added_tokens\": [{\"id\": 0, \"content\": \"[PAD]\", \"special\": true}, {\"id\": 1, \"content\": "
    "\"[UNK]\", \"special\": true}, {\"id\": 2, \"content\": \"[CLS]\", \"special\": true}, {\"id\": 3, \"content\": \"[SEP]\", "
    "\"special\": true}, {\"id\": 4, \"content\": \"[MASK]\", \"special\": true}], \"normalizer\": {\"type\": \"BertNormalizer\", "
    "\"clean_text\": true, \"handle_chinese_chars\": true, \"strip_accents\": null, \"lowercase\": true}, \"pre_tokenizer\": {\"type\": "
    "\"BertPreTokenizer\"}, \"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"[CLS]\", "
    "\"type_id\": 0}}, {\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}, {\"SpecialToken\": {\"id\": \"[SEP]\", \"type_id\": 0}}], "
    "\"pair\": [{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}, {\"Sequence\": {\"id\": \"B\", \"type_id\": 1}}], \"special_tokens\": "
    "{\"[CLS]\": {\"id\": \"[CLS]\", \"ids\": [2], \"tokens\": [\"[CLS]\"]}, \"[SEP]\": {\"id\": \"[SEP]\", \"ids\": [3], \"tokens\": "
    "[\"[SEP]\"]}}}, \"model\": {\"type\": \"WordPiece\", \"unk_token\": \"[UNK]\", \"continuing_subword_prefix\": \"##\", "
    "\"max_input_chars_per_word\": 100, \"vocab\": {\"[PAD]\": 0, \"[UNK]\": 1, \"[CLS]\": 2, \"[SEP]\": 3, \"[MASK]\": 4, \"the\": 5, "
    "\"knife\": 6, \"cut\": 7, \"##s\": 8, \"##ter\": 9, \"branch\": 10, \"##es\": 11, \"a\": 12, \"tree\": 13, \"grow\": 14, \"slow\": "
    "15, \"##ly\": 16, \"and\": 17, \"stem\": 18}}}";

enum { MASK = 4, FIRST_WORD = 5 };

static cb_dataset *masked_rows(cb_tokenizer *tokenizer, double probability, bool whole)
{
    char path[] = "/tmp/cambium-text-XXXXXX";
    cb_data_options options = {0};
    int file = mkstemp(path);
    assert_true(file >= 0);
    for (int i = 0; i < 60; i++)
        dprintf(file, "%s\n", i % 3 ? "The cutters cut branches and a slow tree grows slowly" : "a knife cuts the stem");
    close(file);
    assert_true(cb_options_init(cb_data_option_table, &options) && cb_string_list_add(&options.data, path));
    options.lines = true;
    options.objective = CB_OBJECTIVE_MASKED_LM;
    options.sequence_length = 18;
    options.mlm_probability = probability;
    options.whole_word_mask = whole;
    options.seed = 3;
    cb_dataset *data = cb_dataset_open(tokenizer, &options);
    assert_ok();
    cb_string_list_free(&options.data);
    cb_options_free(cb_data_option_table, &options);
    unlink(path);
    return data;
}

typedef struct mask_counts {
    int64_t words, chosen, masks, kept;
} mask_counts;

/* Where there is a target the row had that token; where there is none it stands as it was, and is never a special token's. */
static void count_masks(const cb_batch *batch, mask_counts *n)
{
    const int32_t *ids = batch->ids->data, *targets = batch->targets->data;
    int64_t predicted = 0;
    for (int64_t i = 0; i < batch->ids->count; i++) {
        n->words += targets[i] != -100 || ids[i] >= FIRST_WORD;
        if (targets[i] == -100) {
            assert_true(ids[i] != MASK);
            continue;
        }
        assert_true(targets[i] >= FIRST_WORD);
        predicted++;
        n->masks += ids[i] == MASK;
        n->kept += ids[i] == targets[i];
    }
    assert_int_equal(predicted, batch->predicted);
    n->chosen += predicted;
}

static void tokens_are_masked_as_bert_has_it(void **state)
{
    (void)state;
    cb_tokenizer *tokenizer = cb_tokenizer_parse("test", word_pieces, strlen(word_pieces));
    assert_ok();
    cb_dataset *data = masked_rows(tokenizer, 0.15, false);
    cb_batch batch = {0}, again = {0};
    mask_counts n = {0};
    for (int i = 0; i < 400; i++) {
        assert_true(cb_dataset_batch(data, i, 8, &batch));
        count_masks(&batch, &n);
    }
    double words = (double)n.words, chosen = (double)n.chosen; /* four standard deviations */
    assert_true(fabs(chosen / words - 0.15) < 4 * sqrt(0.15 * 0.85 / words));
    assert_true(fabs((double)n.masks / chosen - (0.8 + 0.1 / 19)) < 4 * sqrt(0.16 / chosen));
    assert_true(fabs((double)n.kept / chosen - (0.1 + 0.1 / 19)) < 4 * sqrt(0.09 / chosen));
    assert_true(cb_dataset_batch(data, 399, 8, &again)); /* the same each time it is asked for */
    assert_close("ids", again.ids, batch.ids, 0);
    assert_true(cb_dataset_sequential(data, 0, 4, &batch) && cb_dataset_sequential(data, 0, 4, &again));
    assert_close("validation", again.ids, batch.ids, 0);
    cb_batch_free(&batch);
    cb_batch_free(&again);
    cb_dataset_free(data);
    cb_tokenizer_free(tokenizer);
}

static void words_are_masked_whole(void **state)
{
    (void)state;
    cb_tokenizer *tokenizer = cb_tokenizer_parse("test", word_pieces, strlen(word_pieces));
    cb_dataset *data = masked_rows(tokenizer, 0.4, true);
    cb_batch batch = {0};
    int64_t pieces = 0;
    for (int i = 0; i < 50; i++) {
        assert_true(cb_dataset_batch(data, i, 8, &batch));
        const int32_t *ids = batch.ids->data, *targets = batch.targets->data;
        for (int64_t k = 1; k < batch.ids->count; k++) {
            int32_t piece = targets[k] == -100 ? ids[k] : targets[k];
            bool goes_on = k % 18 && (piece == 8 || piece == 9 || piece == 11 || piece == 16);
            if (!goes_on)
                continue;
            assert_int_equal(targets[k] == -100, targets[k - 1] == -100);
            pieces += targets[k] != -100;
        }
    }
    assert_true(pieces > 50);
    cb_batch_free(&batch);
    cb_dataset_free(data);
    cb_tokenizer_free(tokenizer);
}

static void an_encoder_learns_masked_words(void **state)
{
    (void)state;
    cb_tokenizer *tokenizer = cb_tokenizer_parse("test", word_pieces, strlen(word_pieces));
    cb_dataset *data = masked_rows(tokenizer, 0.15, false);
    cb_model *model = cb_model_load(encoder_path("bert"), .keep_weights = true);
    char output[] = "/tmp/cambium-train-XXXXXX";
    assert_non_null(mkdtemp(output));
    cb_train_options options = {0};
    assert_true(cb_options_init(cb_train_option_table, &options));
    options.output = output;
    options.steps = 100;
    options.batch_size = 8;
    options.learning_rate = 1e-2;
    cb_trainee what;
    assert_true(cb_train_whole(&what, model, NULL, NULL, "", CB_F32));
    assert_true(cb_train(&what, data, NULL, &options, NULL, NULL, NULL));
    assert_ok();
    cb_perplexity_result after;
    assert_true(cb_evaluate_perplexity(model, data, 8, 0, &after));
    if (!(after.loss < 2.2)) /* of words drawn by their frequencies it would be 2.53: the text around a mask says more */
        fail_msg("the loss is %g", after.loss);
    cb_train_whole_free(&what);
    options.output = NULL;
    cb_options_free(cb_train_option_table, &options);
    cb_model_free(model);
    cb_dataset_free(data);
    cb_tokenizer_free(tokenizer);
    remove_model(strdup(output));
}

/* An embedding that is trained whole leaves the words' head with a weight of its own, and where it is found again. */
static void a_trained_embedding_leaves_the_head_behind(void **state)
{
    (void)state;
    encoder e = encoder_open("bert");
    cb_layer *head = cb_model_head_layer(e.f.model);
    cb_tensor *before = cb_layer_weight(head, "weight"), *bias = cb_layer_weight(head, "bias");
    cb_adapter *adapter = cb_adapter_new("lora", "default");
    assert_true(cb_adapter_set(adapter, "modules_to_save", "word_embeddings") && cb_adapter_set_task_type(adapter, NULL));
    char *json = cb_adapter_json(adapter);
    assert_non_null(strstr(json, "\"task_type\": null"));
    cb_free(json);
    assert_true(cb_adapter_attach(adapter, cb_model_root(e.f.model), cb_model_type(e.f.model), 3));
    assert_ptr_equal(cb_layer_weight(head, "weight"), before);
    assert_ptr_equal(cb_layer_weight(head, "bias"), bias);
    assert_true(cb_layer_weight(cb_model_embedding_layer(e.f.model), "weight") != before);
    assert_true(head->tied == cb_model_embedding_layer(e.f.model) && cb_layer_own_weight(head, "weight"));
    cb_adapter_free(adapter);
    assert_null(cb_layer_own_weight(head, "weight"));
    fixture_close(&e.f);
}

/* ---- saving ---- */

static void saving_and_loading_changes_nothing(void **state)
{
    (void)state;
    for (size_t i = 0; i < ENCODERS; i++) {
        encoder e = encoder_open(encoders[i]);
        char *directory = strdup("/tmp/cambium-test-XXXXXX");
        assert_non_null(mkdtemp(directory));
        assert_true(cb_model_save(e.f.model, directory, CB_F32));
        encoder saved = encoder_open_at(encoders[i], directory);
        assert_int_equal(cb_model_head_kind(saved.f.model), cb_model_head_kind(e.f.model));
        assert_int_equal(cb_model_parameter_count(saved.f.model), cb_model_parameter_count(e.f.model));
        assert_close(encoders[i], cb_model_hidden(saved.f.model, e.f.ids, &e.ctx), cb_model_hidden(e.f.model, e.f.ids, &e.ctx), 0);
        if (cb_model_head_kind(e.f.model) != CB_HEAD_NONE)
            assert_close(encoders[i], cb_model_logits(saved.f.model, e.f.ids, &e.ctx), cb_model_logits(e.f.model, e.f.ids, &e.ctx), 0);
        fixture_close(&saved.f);
        fixture_close(&e.f);
        remove_model(directory);
    }
}

/* ---- what is refused ---- */

static void refused(const char *name, const char *changes, cb_status status, const char *message)
{
    char *directory = changed_model_at(encoder_path(name), changes);
    assert_null(cb_model_load(directory));
    if (cb_error_status() != status || !strstr(cb_error_message(), message) || !strstr(cb_error_message(), directory))
        fail_msg("%s with %s: \"%s\", expected \"%s\"", name, changes, cb_error_message(), message);
    cb_error_clear();
    remove_model(directory);
}

static void configs_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    refused("bert", "{\"num_attention_heads\": 3}", CB_ERR_FORMAT, "hidden_size is 16, expected a multiple of num_attention_heads (3)");
    refused("bert", "{\"layer_norm_eps\": 2}", CB_ERR_FORMAT, "layer_norm_eps is 2");
    refused("bert", "{\"is_decoder\": true}", CB_ERR_UNSUPPORTED, "is_decoder is true");
    refused("bert", "{\"position_embedding_type\": \"relative_key\"}", CB_ERR_UNSUPPORTED, "relative_key");
    refused("bert", "{\"type_vocab_size\": 0}", CB_ERR_FORMAT, "type_vocab_size is 0");
    refused("bert", "{\"architectures\": [\"BertForQuestionAnswering\"]}", CB_ERR_UNSUPPORTED,
            "architectures[0] is \"BertForQuestionAnswering\", expected one of BertForMaskedLM");
    refused("bert", "{\"architectures\": [\"BertForSequenceClassification\"]}", CB_ERR_FORMAT, "bert.pooler.dense.weight is missing");
    refused("bert_rows", "{\"id2label\": {\"0\": \"a\", \"1\": \"b\"}}", CB_ERR_FORMAT,
            "classifier.weight has shape (4, 16), expected (2, 16)");
    refused("bert_rows", "{\"id2label\": null, \"num_labels\": 0}", CB_ERR_FORMAT, "num_labels is 0");
    refused("roberta", "{\"pad_token_id\": 19}", CB_ERR_FORMAT, "pad_token_id is 19");
    refused("distilbert", "{\"n_heads\": 5}", CB_ERR_FORMAT, "dim is 16");
    refused("deberta_v3", "{\"num_attention_heads\": 3}", CB_ERR_FORMAT, "hidden_size is 16, expected a multiple");
    refused("deberta_v3", "{\"embedding_size\": 8}", CB_ERR_UNSUPPORTED, "embedding_size is 8, expected 16");
    refused("deberta_v3", "{\"attention_head_size\": 4}", CB_ERR_UNSUPPORTED, "attention_head_size is 4, expected 8");
    refused("deberta_v3", "{\"position_buckets\": 3}", CB_ERR_FORMAT, "position_buckets is 3");
    refused("deberta_v3", "{\"position_buckets\": 40}", CB_ERR_FORMAT, "position_buckets is 40");
    refused("deberta_v3", "{\"position_buckets\": 8}", CB_ERR_FORMAT, "rel_embeddings.weight has shape (12, 16), expected (16, 16)");
    refused("deberta_v3", "{\"max_relative_positions\": 999999999999}", CB_ERR_FORMAT, "expected at most");
    refused("deberta_v3", "{\"conv_kernel_size\": 4}", CB_ERR_FORMAT, "conv_kernel_size is 4, expected an odd number");
    refused("deberta_v2_conv", "{\"conv_groups\": 2}", CB_ERR_UNSUPPORTED, "conv_groups is 2, expected 1");
    refused("deberta_v2_conv", "{\"pooler_hidden_act\": \"mish\"}", CB_ERR_UNSUPPORTED, "pooler_hidden_act is \"mish\"");
    refused("deberta_v3", "{\"architectures\": [\"DebertaV2ForQuestionAnswering\"]}", CB_ERR_UNSUPPORTED,
            "expected one of DebertaV2ForMaskedLM");
    refused("distilbert", "{\"max_position_embeddings\": 2147483647}", CB_ERR_FORMAT, "position_embeddings");
    refused("mpnet", "{\"relative_attention_num_buckets\": 16}", CB_ERR_FORMAT, "relative_attention_num_buckets is 16, expected 32");
    refused("mpnet", "{\"relative_attention_num_buckets\": 34}", CB_ERR_FORMAT,
            "relative_attention_bias.weight has shape (33, 2), expected (34, 2)");
}

/* As Microsoft has published it: the words' head of its own, and no word of that in the config. */
static void the_first_debertas_are_read(void **state)
{
    (void)state;
    char *directory =
        changed_model_at(encoder_path("deberta_v3"), "{\"legacy\": null, \"architectures\": null, \"pos_att_type\": \"c2p|p2c\"}");
    encoder e = encoder_open_at("deberta_v3", directory);
    assert_int_equal(cb_model_head_kind(e.f.model), CB_HEAD_MASKED_LM);
    assert_close_where_text("logits", cb_model_logits(e.f.model, e.f.ids, &e.ctx), expected_tensor(&e.f, "logits"), e.mask, 1e-4);
    fixture_close(&e.f);
    remove_model(directory);
}

static void bad_calls_are_refused(void **state)
{
    (void)state;
    encoder e = encoder_open("roberta");
    cb_tensor *long_ids = cb_full(CB_I32, 5, 1, 19);
    assert_null(cb_model_hidden(e.f.model, long_ids, NULL)); /* 20 rows, two of them for padding */
    assert_non_null(strstr(cb_error_message(), "position 18, expected less than 18"));
    cb_error_clear();
    cb_cache *cache = cb_cache_new(e.f.model, 3, 16);
    assert_null(cb_model_hidden(e.f.model, e.f.ids, &(cb_context){.cache = cache}));
    assert_non_null(strstr(cb_error_message(), "generates nothing"));
    cb_error_clear();
    cb_cache_free(cache);
    assert_null(cb_model_hidden(e.f.model, e.f.ids, &(cb_context){.types = cb_zeros(CB_I32, 3, 4)}));
    assert_int_equal(cb_error_status(), CB_ERR_SHAPE);
    cb_error_clear();
    assert_null(cb_model_load(encoder_path("roberta"), .head = CB_HEAD_CAUSAL_LM));
    assert_non_null(strstr(cb_error_message(), "has no such head"));
    cb_error_clear();
    fixture_close(&e.f);
}

/* ---- pseudo-perplexity ---- */

enum { MASKED_BY = 4, MOST_SENTENCES = 8 };

/* The tiny models have no tokenizer: sentences of ids. */
static size_t read_sentences(const fixture *f, const char *name, cb_encoding *sentences, cb_tensor **each)
{
    char key[64];
    snprintf(key, sizeof key, "%s.ids", name);
    cb_tensor *ids = as_i32(expected_tensor(f, key));
    snprintf(key, sizeof key, "%s.lengths", name);
    cb_tensor *lengths = expected_tensor(f, key);
    snprintf(key, sizeof key, "%s.each", name);
    *each = expected_tensor(f, key);
    assert_ok();
    size_t count = (size_t)lengths->count, at = 0;
    assert_true(count <= MOST_SENTENCES);
    for (size_t i = 0; i < count; i++) {
        sentences[i] = (cb_encoding){.ids = (int32_t *)ids->data + at, .count = (size_t)cb_get(lengths, (int64_t)i)};
        at += sentences[i].count;
    }
    return count;
}

/* In batches of any size what transformers gives position by position. */
static void pseudo_perplexities_equal_transformers(void **state)
{
    (void)state;
    static const char *const names[] = {"bert", "roberta", "xlm_roberta", "distilbert"};
    static const int64_t batch_sizes[] = {1, 7, 100};
    fixture f = {.expected = cb_safetensors_open(CB_TEST_DATA "/encoders/pseudo_perplexity.safetensors")};
    assert_ok();
    for (size_t m = 0; m < 4; m++)
        for (size_t b = 0; b < 3; b++) {
            cb_scope *scope = cb_scope_open();
            cb_model *model = cb_model_load(encoder_path(names[m]));
            cb_encoding sentences[MOST_SENTENCES];
            cb_tensor *wanted;
            double each[MOST_SENTENCES], mean = 0, sum = 0;
            size_t n = read_sentences(&f, names[m], sentences, &wanted);
            cb_pseudo_perplexity r;
            assert_true(cb_evaluate_pseudo_perplexity(model, MASKED_BY, sentences, n, batch_sizes[b], each, &r));
            for (size_t i = 0; i < n; i++) {
                double expected = cb_get(wanted, (int64_t)i);
                assert_true(fabs(each[i] - expected) < 2e-6 * expected); /* f32 logits */
                mean += expected / (double)n;
                sum += log(expected) * (double)sentences[i].count;
            }
            assert_true(fabs(r.perplexity - mean) < 2e-6 * mean);
            assert_true(fabs(log(r.corpus_perplexity) - sum / (double)r.tokens) < 2e-6);
            assert_int_equal(r.sentences, n);
            cb_model_free(model);
            cb_scope_close(scope);
        }
    cb_safetensors_close(f.expected);
}

static void assert_refuses(bool done, const char *text)
{
    assert_false(done);
    assert_non_null(strstr(cb_error_message(), text));
    cb_error_clear();
}

static void what_has_no_pseudo_perplexity_is_refused(void **state)
{
    (void)state;
    int32_t ids[] = {5, 6, 30};
    cb_encoding sentence = {.ids = ids, .count = 2}, beyond = {.ids = ids, .count = 3}, empty = {0};
    cb_pseudo_perplexity r;
    cb_model *model = cb_model_load(encoder_path("bert")), *rows = cb_model_load(encoder_path("bert_rows"));
    assert_ok();
    assert_refuses(cb_evaluate_pseudo_perplexity(rows, MASKED_BY, &sentence, 1, 4, NULL, &r), "predicts no masked tokens");
    assert_refuses(cb_evaluate_pseudo_perplexity(model, -1, &sentence, 1, 4, NULL, &r), "found the mask token -1");
    assert_refuses(cb_evaluate_pseudo_perplexity(model, MASKED_BY, &sentence, 0, 4, NULL, &r), "found 0 sentences");
    assert_refuses(cb_evaluate_pseudo_perplexity(model, MASKED_BY, &beyond, 1, 4, NULL, &r), "sentence 1: expected tokens");
    assert_refuses(cb_evaluate_pseudo_perplexity(model, MASKED_BY, &empty, 1, 4, NULL, &r), "sentence 1: expected tokens");
    cb_model_free(model);
    cb_model_free(rows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(padding_on_either_side_changes_nothing, without_errors),
        cmocka_unit_test_setup(packed_documents_do_not_see_each_other, without_errors),
        cmocka_unit_test_setup(bf16_activations_come_close, without_errors),
        cmocka_unit_test_setup(every_adapter_kind_works_on_encoders, without_errors),
        cmocka_unit_test_setup(a_t5_that_writes_can_judge, without_errors),
        cmocka_unit_test_setup(virtual_tokens_on_an_encoder_are_refused, without_errors),
        cmocka_unit_test_setup(bottlenecks_fit_attention, without_errors),
        cmocka_unit_test_setup(adapters_of_peft_give_its_logits, without_errors),
        cmocka_unit_test_setup(all_linear_leaves_out_the_head_of_words, without_errors),
        cmocka_unit_test_setup(a_head_that_is_asked_for_is_made, without_errors),
        cmocka_unit_test_setup(tokens_are_masked_as_bert_has_it, without_errors),
        cmocka_unit_test_setup(words_are_masked_whole, without_errors),
        cmocka_unit_test_setup(an_encoder_learns_masked_words, without_errors),
        cmocka_unit_test_setup(a_trained_embedding_leaves_the_head_behind, without_errors),
        cmocka_unit_test_setup(saving_and_loading_changes_nothing, without_errors),
        cmocka_unit_test_setup(configs_that_do_not_fit_are_refused, without_errors),
        cmocka_unit_test_setup(the_first_debertas_are_read, without_errors),
        cmocka_unit_test_setup(bad_calls_are_refused, without_errors),
        cmocka_unit_test_setup(hidden_states_and_logits_equal_transformers, without_errors),
        cmocka_unit_test_setup(losses_and_all_gradients_equal_transformers, without_errors),
        cmocka_unit_test_setup(pseudo_perplexities_equal_transformers, without_errors),
        cmocka_unit_test_setup(what_has_no_pseudo_perplexity_is_refused, without_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
