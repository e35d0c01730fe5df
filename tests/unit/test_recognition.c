/* test_recognition.c: reading text in images: CRNNs against the same networks in PyTorch, whose rows are alone and without padding
 * (tests/oracle/crnn.py), in inference, training and with a LoRA on the matrices of their recurrent layers; padding; every kind of adapter there,
 * merged; vocabularies, decoding, data, and what must be refused. */
#include "cambium/adapters.h"
#include "cambium/ctc.h"
#include "cambium/data.h"
#include "cambium/merge.h"
#include "cambium/training.h"
#include "model_fixtures.h"

static const char *const networks[] = {"lstm", "gru"};
#define NETWORKS (sizeof networks / sizeof *networks)

static const char *reference(const char *name)
{
    static char ring[4][512];
    static unsigned turn;
    char *path = ring[turn++ % 4];
    snprintf(path, sizeof ring[0], "%s/crnn/%s", CB_TEST_DATA, name);
    return path;
}

/* f.ids are the pixels. */
static fixture network_open_at(const char *name, const char *directory)
{
    char path[600];
    fixture f = {.scope = cb_scope_open(), .model = cb_model_load(directory)};
    assert_ok();
    snprintf(path, sizeof path, "%s/expected.safetensors", reference(name));
    f.expected = cb_safetensors_open(path);
    assert_ok();
    f.ids = expected_tensor(&f, "pixel_values");
    return f;
}

static fixture network_open(const char *name)
{
    return network_open_at(name, reference(name));
}

static cb_context widths_of(const fixture *f)
{
    return (cb_context){.lengths = as_i32(expected_tensor(f, "lengths"))};
}

static cb_tensor *logits_of(const fixture *f)
{
    cb_context ctx = widths_of(f);
    return cb_model_logits(f->model, f->ids, &ctx);
}

static cb_tensor *loss_of(const fixture *f, bool training)
{
    cb_context ctx = widths_of(f);
    ctx.training = training;
    return cb_model_loss(f->model, f->ids, as_i32(expected_tensor(f, "labels")), 0, &ctx);
}

/* ---- against PyTorch ---- */

static void rows_of_a_batch_equal_rows_alone_in_torch(void **state)
{
    (void)state;
    for (size_t i = 0; i < NETWORKS; i++) {
        fixture f = network_open(networks[i]);
        cb_context ctx = widths_of(&f);
        assert_close(networks[i], cb_model_hidden(f.model, f.ids, &ctx), expected_tensor(&f, "hidden"), 1e-5);
        assert_close(networks[i], logits_of(&f), expected_tensor(&f, "logits"), 1e-5);
        cb_no_grad assert_close(networks[i], logits_of(&f), expected_tensor(&f, "logits"), 1e-5);
        fixture_close(&f);
    }
}

static void losses_and_all_gradients_equal_torch(void **state)
{
    (void)state;
    for (size_t i = 0; i < NETWORKS; i++) {
        fixture f = network_open(networks[i]);
        each_gradient(&f, "grad.", make_trainable);
        cb_tensor *loss = loss_of(&f, false);
        assert_close(networks[i], loss, expected_tensor(&f, "loss"), 1e-5);
        assert_true(cb_backward(loss));
        assert_true(each_gradient(&f, "grad.", compare_gradient) >= 12);
        fixture_close(&f);
    }
}

static bool let_move(void *user, cb_layer *layer)
{
    (void)user;
    layer->moves = layer->buffer_count > 0;
    return true;
}

static void a_step_in_training_equals_torchs(void **state)
{
    (void)state;
    for (size_t i = 0; i < NETWORKS; i++) {
        fixture f = network_open(networks[i]);
        each_gradient(&f, "grad.", make_trainable);
        cb_layer_visit(cb_model_root(f.model), let_move, NULL);
        cb_tensor *loss = loss_of(&f, true);
        assert_close("loss", loss, expected_tensor(&f, "train.loss"), 1e-5);
        assert_true(cb_backward(loss));
        assert_true(each_gradient(&f, "train.grad.", compare_gradient) >= 12);
        cb_layer *norm = cb_layer_find(cb_model_root(f.model), "crnn.conv_layers.1.normalization");
        assert_close("variance", cb_layer_buffer(norm, "running_var"),
                     expected_tensor(&f, "train.buffer.crnn.conv_layers.1.normalization.running_var"), 1e-5);
        fixture_close(&f);
    }
}

static void a_lora_on_recurrent_matrices_equals_torchs(void **state)
{
    (void)state;
    fixture f = network_open("lstm");
    char path[600];
    snprintf(path, sizeof path, "%s/adapter", reference("lstm"));
    cb_adapter *adapter = cb_adapter_load(path, cb_model_root(f.model), cb_model_type(f.model));
    assert_ok();
    assert_close("adapted", logits_of(&f), expected_tensor(&f, "adapted"), 1e-5);
    assert_true(cb_backward(loss_of(&f, false)));
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list);
    assert_int_equal(count, 10);
    for (size_t i = 0; i < count; i++) {
        char key[300];
        const char *name = strstr(list[i].name, "crnn.");
        assert_non_null(name);
        snprintf(key, sizeof key, "adapted.grad.%s", name);
        assert_close(key, list[i].tensor->grad, expected_tensor(&f, key), 1e-4);
    }
    cb_adapter_free(adapter);
    fixture_close(&f);
}

/* ---- padding ---- */

/* What stands behind the end of a row changes no bit of any row, and a row alone is what it is in a batch. */
static void what_is_behind_the_end_of_a_row_changes_nothing(void **state)
{
    (void)state;
    for (size_t i = 0; i < NETWORKS; i++) {
        fixture f = network_open(networks[i]);
        cb_tensor *lengths = expected_tensor(&f, "lengths"), *logits = logits_of(&f);
        int64_t width = f.ids->shape[3], lines = f.ids->shape[1] * f.ids->shape[2], frames = logits->shape[1], classes = logits->shape[2];
        float *before = malloc((size_t)logits->count * sizeof *before);
        memcpy(before, logits->data, (size_t)logits->count * sizeof *before);
        for (int64_t b = 0; b < 3; b++)
            for (int64_t y = 0; y < lines; y++)
                for (int64_t x = (int64_t)cb_get(lengths, b); x < width; x++)
                    ((float *)f.ids->data)[(b * lines + y) * width + x] = (float)(1000 - 37 * x);
        assert_memory_equal(logits_of(&f)->data, before, (size_t)logits->count * sizeof *before);
        for (int64_t b = 0; b < 3; b++) {
            int64_t own = (int64_t)cb_get(lengths, b), count = cb_model_frames(f.model, own);
            cb_tensor *alone = cb_contiguous(cb_slice(cb_slice(f.ids, 0, b, b + 1, 1), 3, 0, own, 1));
            cb_tensor *found = cb_model_logits(f.model, alone, NULL);
            assert_int_equal(found->shape[1], count);
            assert_close("row alone", found, cb_from(CB_F32, before + b * frames * classes, 1, count, classes), 2e-6);
        }
        free(before);
        fixture_close(&f);
    }
}

/* ---- adapters on recurrent matrices ---- */

static void nudge(cb_adapter *adapter)
{
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list);
    cb_rng rng = {.seed = 5};
    for (size_t i = 0; i < count; i++) {
        cb_scope *scope = cb_scope_open();
        cb_tensor *noise = cb_scale(cb_randn_nd(CB_F32, &rng, list[i].tensor->ndim, list[i].tensor->shape), 0.1);
        for (int64_t k = 0; k < noise->count; k++)
            ((float *)list[i].tensor->data)[k] += (float)cb_get(noise, k);
        cb_scope_close(scope);
    }
}

typedef struct kind_case {
    const char *kind, *option, *value;
} kind_case;

/* Low-rank pairs become a part of the matrix; the others go from step to step with their modules.  Merged, all are matrices again. */
static void every_change_of_a_recurrent_matrix_merges(void **state)
{
    (void)state;
    static const kind_case kinds[] = {
        {"lora", NULL, NULL},  {"lora", "use_dora", "true"}, {"loha", "rank", "2"}, {"lokr", "rank", "2"},
        {"vera", "rank", "4"}, {"ia3", NULL, NULL},          {"hra", "rank", "2"},  {"fourierft", "n_frequency", "10"},
        {"bitfit", NULL, NULL}};
    for (size_t n = 0; n < NETWORKS; n++)
        for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
            fixture f = network_open(networks[n]);
            cb_tensor *base = logits_of(&f), *adapted, *checked;
            cb_adapter *adapter = cb_adapter_new(kinds[i].kind, "default");
            bool ready = adapter && (!kinds[i].option || cb_adapter_set(adapter, kinds[i].option, kinds[i].value)) &&
                         (strcmp(kinds[i].kind, "lora") != 0 || cb_adapter_set(adapter, "rank", "2")) &&
                         cb_adapter_set(adapter, "target_modules", "weight_ih_l0,weight_hh_l0") &&
                         cb_adapter_attach(adapter, cb_model_root(f.model), cb_model_type(f.model), 3);
            if (!ready)
                fail_msg("%s: %s", kinds[i].kind, cb_error_message());
            nudge(adapter);
            cb_no_grad adapted = logits_of(&f);
            assert_ok();
            if (!(relative_difference(adapted, base) > 1e-4))
                fail_msg("%s changes nothing", kinds[i].kind);
            assert_true(cb_backward(loss_of(&f, true)));
            cb_fold *fold = cb_fold_in_place(&adapter, 1);
            assert_ok();
            cb_no_grad checked = logits_of(&f);
            assert_close(kinds[i].kind, checked, adapted, 2e-5);
            cb_unfold(fold);
            cb_adapter_free(adapter);
            assert_close(kinds[i].kind, logits_of(&f), base, 0);
            fixture_close(&f);
        }
}

/* Dropout of its input takes LoRA from step to step; without training it is the same matrix. */
static void both_ways_through_the_steps_agree(void **state)
{
    (void)state;
    for (size_t n = 0; n < NETWORKS; n++) {
        fixture f = network_open(networks[n]);
        cb_adapter *adapter = cb_adapter_new("lora", "default");
        assert_true(cb_adapter_set(adapter, "rank", "2") && cb_adapter_set(adapter, "dropout", "1e-9") &&
                    cb_adapter_set(adapter, "target_modules", "weight_hh_l0") &&
                    cb_adapter_attach(adapter, cb_model_root(f.model), cb_model_type(f.model), 3));
        nudge(adapter);
        const cb_named_tensor *list;
        size_t count = cb_adapter_parameters(adapter, &list);
        cb_tensor *gradients[2][8];
        assert_true(count <= 8);
        for (int steps = 0; steps < 2; steps++) {
            cb_rng rng = {.seed = 1};
            cb_context ctx = widths_of(&f);
            ctx.training = steps;
            ctx.statistics = CB_STATISTICS_RUNNING;
            ctx.rng = &rng;
            cb_tensor *loss = cb_model_loss(f.model, f.ids, as_i32(expected_tensor(&f, "labels")), 0, &ctx);
            assert_true(cb_backward(loss));
            for (size_t i = 0; i < count; i++) {
                gradients[steps][i] = cb_contiguous(cb_add_scalar(list[i].tensor->grad, 0));
                cb_zero_grad(list[i].tensor);
            }
        }
        for (size_t i = 0; i < count; i++)
            assert_close(list[i].name, gradients[1][i], gradients[0][i], 1e-5);
        cb_adapter_free(adapter);
        fixture_close(&f);
    }
}

/* A directory that is merged has torch's names again. */
static void a_merged_directory_is_the_adapted_model(void **state)
{
    (void)state;
    fixture f = network_open("lstm");
    cb_tensor *adapted;
    char path[600], directory[] = "/tmp/cambium-merged-XXXXXX";
    snprintf(path, sizeof path, "%s/adapter", reference("lstm"));
    cb_adapter *adapter = cb_adapter_load(path, cb_model_root(f.model), cb_model_type(f.model));
    cb_no_grad adapted = logits_of(&f);
    assert_non_null(mkdtemp(directory));
    cb_merge_options options = {0};
    assert_true(cb_options_init(cb_merge_option_table, &options));
    if (!cb_merge_fold(f.model, &adapter, 1, directory, &options, NULL))
        fail_msg("%s", cb_error_message());
    fixture merged = network_open_at("lstm", directory);
    assert_close("merged", logits_of(&merged), adapted, 1e-5);
    cb_weights *weights = cb_weights_open(directory);
    assert_int_equal(cb_weights_count(weights), 5 + 5 + 16 + 2); /* convolutions, a norm, matrices with biases, the head */
    assert_non_null(cb_weights_find(weights, "crnn.rnn.bias_hh_l1_reverse"));
    cb_weights_close(weights);
    cb_adapter_free(adapter);
    fixture_close(&merged);
    fixture_close(&f);
    remove_model(strdup(directory));
}

static void saving_and_loading_changes_nothing(void **state)
{
    (void)state;
    for (size_t i = 0; i < NETWORKS; i++) {
        fixture f = network_open(networks[i]);
        char *directory = strdup("/tmp/cambium-test-XXXXXX");
        assert_non_null(mkdtemp(directory));
        assert_true(cb_model_save(f.model, directory, CB_F32));
        fixture saved = network_open_at(networks[i], directory);
        assert_int_equal(cb_model_head_kind(saved.model), CB_HEAD_CTC);
        assert_close(networks[i], logits_of(&saved), logits_of(&f), 0);
        fixture_close(&saved);
        fixture_close(&f);
        remove_model(directory);
    }
}

/* ---- vocabularies and decoding ---- */

static int64_t collapse(const json_t *frames, int32_t *ids)
{
    float logits[64 * 9] = {0};
    for (size_t t = 0; t < json_array_size(frames); t++)
        logits[t * 9 + (size_t)json_integer_value(json_array_get(frames, t))] = 1;
    return cb_ctc_greedy(logits, (int64_t)json_array_size(frames), 9, 0, ids);
}

static void vocabularies_are_transformers(void **state)
{
    (void)state;
    cb_ctc_vocabulary *v = cb_ctc_vocabulary_load(reference("vocabulary"));
    assert_ok();
    assert_true(cb_ctc_vocabulary_size(v) == 9 && cb_ctc_vocabulary_blank(v) == 0);
    char path[600];
    snprintf(path, sizeof path, "%s/expected.jsonl", reference("vocabulary"));
    FILE *file = fopen(path, "r");
    char line[1000];
    int lines = 0;
    for (; fgets(line, sizeof line, file); lines++) {
        json_t *o = json_loads(line, 0, NULL);
        const char *text = json_string_value(json_object_get(o, "text"));
        const json_t *list = json_object_get(o, "ids"), *frames = json_object_get(o, "frames");
        int32_t *ids, found[64];
        size_t count, unknown;
        cb_string read = {0};
        if (list) {
            assert_true(cb_ctc_encode(v, text, &ids, &count, &unknown));
            assert_int_equal(count, json_array_size(list));
            for (size_t i = 0; i < count; i++)
                assert_int_equal(ids[i], json_integer_value(json_array_get(list, i)));
            cb_free(ids);
        } else {
            int64_t n = collapse(frames, found);
            assert_true(cb_ctc_decode(v, found, (size_t)n, &read));
            assert_string_equal(read.data, text);
        }
        cb_string_free(&read);
        json_decref(o);
    }
    assert_int_equal(lines, 10);
    fclose(file);
    cb_ctc_vocabulary_free(v);
}

static void write_text(const char *directory, const char *name, const char *text)
{
    char path[600];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *f = fopen(path, "w");
    fputs(text, f);
    fclose(f);
}

static void expect_error(bool failed, const char *text)
{
    assert_true(failed);
    if (!strstr(cb_error_message(), text))
        fail_msg("the error is \"%s\", expected \"%s\" in it", cb_error_message(), text);
    cb_error_clear();
}

static void bad_vocabularies_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *vocab, *config, *text;
    } cases[] = {{"[1, 2]", NULL, "expected an object of 2 to"},
                 {"{\"<pad>\": 0}", NULL, "found 1 tokens"},
                 {"{\"<pad>\": 0, \"a\": 0}", NULL, "expected an id of its own"},
                 {"{\"<pad>\": 0, \"a\": 7}", NULL, "\"a\": expected an id of its own from 0 to 1"},
                 {"{\"<pad>\": 0, \"a\": \"1\"}", NULL, "expected an id"},
                 {"{\"a\": 0, \"b\": 1}", NULL, "pad_token: found no"},
                 {"{\"<pad>\": 0, \"a\": 1}", "{\"pad_token\": 3}", "pad_token: expected text"},
                 {"{\"<pad>\": 0, \"a\": 1}", "{\"pad_token\": \"b\"}", "found no \"b\""}};
    char *directory = strdup("/tmp/cambium-test-XXXXXX");
    assert_non_null(mkdtemp(directory));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_text(directory, "vocab.json", cases[i].vocab);
        write_text(directory, "tokenizer_config.json", cases[i].config ? cases[i].config : "{}");
        expect_error(!cb_ctc_vocabulary_load(directory), cases[i].text);
    }
    write_text(directory, "vocab.json", "{\"[PAD]\": 1, \"a\": 0}");
    write_text(directory, "tokenizer_config.json", "{}");
    cb_ctc_vocabulary *v = cb_ctc_vocabulary_load(directory);
    assert_int_equal(cb_ctc_vocabulary_blank(v), 1);
    int32_t *ids;
    size_t count, unknown;
    expect_error(!cb_ctc_encode(v, "aba", &ids, &count, &unknown), "found \"b\"");
    expect_error(!cb_ctc_encode(v, "a\xff", &ids, &count, &unknown), "no UTF-8 at byte 1");
    assert_true(cb_ctc_vocabulary_save(v, directory));
    cb_ctc_vocabulary *again = cb_ctc_vocabulary_load(directory);
    assert_int_equal(cb_ctc_vocabulary_blank(again), 1);
    assert_string_equal(cb_ctc_vocabulary_token(again, 0), "a");
    cb_ctc_vocabulary_free(again);
    cb_ctc_vocabulary_free(v);
    remove_model(directory);
}

/* -log p of a text, by the loss. */
static double cost(cb_tensor *log_probs, const int32_t *text, int64_t length)
{
    int32_t padded[8] = {0};
    memcpy(padded, text, (size_t)length * sizeof *text);
    const int64_t frames = log_probs->shape[0];
    cb_tensor *loss =
        cb_ctc(log_probs, cb_from(CB_I32, padded, 1, 8), cb_from(CB_I64, &frames, 1), cb_from(CB_I64, &length, 1), .blank = 2);
    return cb_item(loss);
}

/* All texts of up to T letters; a beam that keeps them all finds the likeliest, and its probability. */
static void a_wide_beam_finds_the_likeliest_text(void **state)
{
    (void)state;
    enum { T = 5, V = 3, TEXTS = 63 }; /* two letters: 1 + 2 + 4 + ... + 32 texts */
    for (uint64_t seed = 1; seed <= 20; seed++) {
        cb_scope *scope = cb_scope_open();
        cb_rng rng = {.seed = seed};
        cb_tensor *logits = cb_randn(CB_F32, &rng, T, V), *log_probs = cb_reshape(cb_log_softmax(logits, -1), T, 1, V);
        double best = INFINITY;
        int32_t likeliest[T], found[T];
        int64_t length = 0;
        for (int64_t n = 0; n <= T; n++)
            for (int64_t bits = 0; bits < 1 << n; bits++) {
                int32_t text[T];
                for (int64_t i = 0; i < n; i++)
                    text[i] = (int32_t)(bits >> i & 1);
                double now = cost(log_probs, text, n);
                if (now < best) {
                    best = now;
                    length = n;
                    memcpy(likeliest, text, sizeof text);
                }
            }
        double score;
        assert_int_equal(cb_ctc_beam(logits->data, T, V, 2, TEXTS, found, &score), length);
        assert_memory_equal(found, likeliest, (size_t)length * sizeof *found);
        assert_true(fabs(score + best) < 1e-5);
        int64_t greedy = cb_ctc_greedy(logits->data, T, V, 2, found);
        assert_true(cost(log_probs, found, greedy) >= best - 1e-6);
        assert_true(cb_ctc_beam(logits->data, T, V, 2, 1, found, NULL) >= 0);
        assert_int_equal(cb_ctc_beam(logits->data, 0, V, 2, 4, found, &score), 0);
        cb_scope_close(scope);
    }
}

/* Long enough that prefixes are forgotten on the way: of letters that are sure the text is known. */
static void a_long_beam_keeps_its_text(void **state)
{
    (void)state;
    enum { T = 120, V = 40 };
    float *logits = calloc((size_t)T * V, sizeof *logits);
    int32_t found[T];
    double score;
    for (int t = 0; t < T; t++)
        logits[t * V + (t % 2 ? 0 : 1 + t / 2 % (V - 1))] = 12;
    assert_int_equal(cb_ctc_beam(logits, T, V, 0, 200, found, &score), T / 2);
    for (int i = 0; i < T / 2; i++)
        assert_int_equal(found[i], 1 + i % (V - 1));
    cb_scope *scope = cb_scope_open();
    cb_tensor *log_probs = cb_reshape(cb_log_softmax(cb_cast(cb_from(CB_F32, logits, T, V), CB_F64), -1), T, 1, V);
    const int64_t frames = T, length = T / 2;
    double expected =
        -cb_item(cb_ctc(log_probs, cb_from(CB_I32, found, 1, T / 2), cb_from(CB_I64, &frames, 1), cb_from(CB_I64, &length, 1)));
    if (!(fabs(score - expected) < 1e-3))
        fail_msg("the score is %g, expected %g", score, expected);
    cb_scope_close(scope);
    free(logits);
}

static void bad_beams_are_refused(void **state)
{
    (void)state;
    static const int64_t cases[][4] = {{2, 3, 2, 0},  {2, 3, 2, -1}, {2, 0, 0, 4},        {2, 3, 3, 4},
                                       {2, 3, -1, 4}, {-1, 3, 2, 4}, {2, 3, 2, INT64_MAX}};
    const float logits[6] = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int32_t ids[2];
        const int64_t *c = cases[i];
        bool failed = cb_ctc_beam(logits, c[0], c[1], c[2], c[3], ids, NULL) < 0;
        assert_int_equal(cb_error_status(), CB_ERR_ARGUMENT);
        expect_error(failed, "beam search: found a width of");
    }
}

/* ---- data ---- */

static void write_picture(const char *directory, const char *name, int64_t width, int64_t height)
{
    char path[600];
    cb_image image = {0};
    snprintf(path, sizeof path, "%s/%s", directory, name);
    assert_true(cb_image_make(&image, width, height, 1, 8));
    for (int64_t i = 0; i < width * height; i++)
        image.pixels[i] = (uint8_t)(i * 7 % 256);
    assert_true(cb_image_write_png(path, &image));
    cb_image_free(&image);
}

static int64_t a_frame_for_four_columns(const void *user, int64_t width)
{
    (void)user;
    return width / 4;
}

static cb_image_data_options line_options(const char *path, const cb_ctc_vocabulary *v, const cb_image_processor *p)
{
    cb_image_data_options o = {0};
    assert_true(cb_options_init(cb_image_data_option_table, &o));
    o.objective = CB_OBJECTIVE_TEXT_RECOGNITION;
    o.processor = p;
    o.vocabulary = v;
    o.frames = a_frame_for_four_columns;
    o.seed = 3;
    assert_true(cb_string_list_add(&o.data, path));
    return o;
}

static cb_dataset *open_lines(cb_image_data_options *o)
{
    cb_dataset *data = cb_dataset_open_images(o);
    cb_options_free(cb_image_data_option_table, o);
    cb_string_list_free(&o->data);
    return data;
}

static void batches_are_as_wide_as_their_widest(void **state)
{
    (void)state;
    char *directory = strdup("/tmp/cambium-test-XXXXXX"), path[600];
    assert_non_null(mkdtemp(directory));
    write_picture(directory, "a.png", 20, 10);
    write_picture(directory, "b.png", 90, 20);
    write_picture(directory, "c.png", 8, 4);
    write_text(directory, "metadata.jsonl",
               "{\"file_name\": \"a.png\", \"text\": \"AB\"}\n{\"file_name\": \"b.png\", \"text\": \"B A\"}\n"
               "{\"file_name\": \"c.png\", \"text\": \"\"}\n");
    write_text(directory, "lines.csv", "text,image\nAB,a.png\n\"B A\",b.png\n,c.png\n");
    cb_ctc_vocabulary *v = cb_ctc_vocabulary_load(reference("vocabulary"));
    cb_image_processor p;
    cb_image_processor_init(&p);
    p.channels = 1;
    p.height = 8;
    p.width = 0;
    for (int table = 0; table < 2; table++) {
        snprintf(path, sizeof path, "%s%s", directory, table ? "/lines.csv" : "");
        cb_image_data_options o = line_options(path, v, &p);
        cb_dataset *data = open_lines(&o);
        assert_ok();
        assert_int_equal(cb_dataset_rows(data), 3);
        cb_batch batch = {0};
        assert_true(cb_dataset_sequential(data, 0, 3, &batch));
        const int32_t *widths = batch.lengths->data, *targets = batch.targets->data;
        assert_true(widths[0] == 16 && widths[1] == 36 && widths[2] == 16);
        assert_true(batch.ids->shape[2] == 8 && batch.ids->shape[3] == 40 && batch.targets->shape[1] == 8);
        assert_true(targets[0] == 5 && targets[1] == 6 && targets[2] == -100);
        assert_true(targets[8] == 6 && targets[9] == 4 && targets[10] == 5 && targets[16] == -100);
        assert_true(batch.predicted == 5 && batch.tokens == 3);
        const float *pixels = batch.ids->data;
        assert_true(pixels[16] == 0 && pixels[39] == 0 && pixels[7 * 40 + 16] == 0 && pixels[40] != 0);
        assert_false(cb_dataset_sequential(data, 1, 3, &batch));
        assert_string_equal(cb_dataset_row_text(data, 1), "B A");
        assert_true(cb_dataset_batch(data, 5, 3, &batch));
        float first[8 * 40];
        memcpy(first, batch.ids->data, sizeof first);
        assert_true(cb_dataset_batch(data, 4, 3, &batch) && cb_dataset_batch(data, 5, 3, &batch));
        assert_memory_equal(first, batch.ids->data, sizeof first);
        cb_dataset *part = cb_dataset_split(data, 0.34, 1);
        assert_true(cb_dataset_rows(data) == 2 && cb_dataset_rows(part) == 1);
        cb_dataset_free(part);
        cb_dataset_free(data);
        cb_batch_free(&batch);
    }
    cb_ctc_vocabulary_free(v);
    remove_model(directory);
}

static void bad_lines_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *error;
    } cases[] = {{"{\"image\": \"a.png\", \"text\": \"ABABAB\"}\n", "needs 6 frames"},
                 {"{\"image\": \"a.png\", \"text\": \"AAB\"}\n", "\"AAB\" needs 4 frames"},
                 {"{\"image\": \"none.png\", \"text\": \"A\"}\n", "none.png"},
                 {"{\"image\": \"a.png\", \"label\": \"A\"}\n", "text: found none beside image"},
                 {"{\"image\": \"lines.jsonl\", \"text\": \"A\"}\n", "lines.jsonl"}};
    char *directory = strdup("/tmp/cambium-test-XXXXXX"), path[600];
    assert_non_null(mkdtemp(directory));
    write_picture(directory, "a.png", 14, 8); /* three frames */
    snprintf(path, sizeof path, "%s/lines.jsonl", directory);
    cb_ctc_vocabulary *v = cb_ctc_vocabulary_load(reference("vocabulary"));
    cb_image_processor p;
    cb_image_processor_init(&p);
    p.channels = 1;
    p.height = 8;
    p.width = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_text(directory, "lines.jsonl", cases[i].text);
        cb_image_data_options o = line_options(path, v, &p);
        cb_dataset *data = open_lines(&o);
        cb_batch batch = {0};
        expect_error(!data || !cb_dataset_sequential(data, 0, 1, &batch), cases[i].error);
        cb_batch_free(&batch);
        cb_dataset_free(data);
    }
    write_text(directory, "lines.jsonl", cases[0].text);
    cb_image_data_options o = line_options(path, v, &p);
    o.ctc_zero_infinity = true;
    cb_dataset *data = open_lines(&o);
    cb_batch batch = {0};
    assert_true(cb_dataset_sequential(data, 0, 1, &batch) && cb_dataset_sequential(data, 0, 1, &batch));
    assert_int_equal(cb_dataset_too_long(data), 1);
    assert_int_equal(batch.predicted, 0);
    cb_batch_free(&batch);
    cb_dataset_free(data);
    o = line_options(directory, v, &p);
    expect_error(!open_lines(&o), "a directory with metadata.jsonl");
    cb_ctc_vocabulary_free(v);
    remove_model(directory);
}

/* ---- configurations and calls ---- */

static void bad_configurations_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *change, *text;
    } cases[] = {{"{\"image_height\": 32}", "image_height 32 comes out of the convolutions as 3, expected 1"},
                 {"{\"conv_kernel\": [3, 3]}", "conv_kernel has 2 numbers, expected 3"},
                 {"{\"conv_dim\": [4, 0, 5]}", "conv_dim[1]"},
                 {"{\"rnn_type\": \"rnn\"}", "expected lstm or gru"},
                 {"{\"num_hidden_layers\": 33}", "num_hidden_layers is 33, expected 1 to 32"},
                 {"{\"hidden_size\": 0}", "hidden_size is 0"},
                 {"{\"pad_token_id\": 6}", "pad_token_id is 6, expected less than vocab_size"},
                 {"{\"vocab_size\": null}", "vocab_size is missing"},
                 {"{\"hidden_size\": 6}", "crnn.rnn.weight_ih_l0 has shape"},
                 {"{\"num_hidden_layers\": 3}", "tensor crnn.rnn.weight_ih_l2 is missing"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *directory = changed_model_at(reference("lstm"), cases[i].change);
        expect_error(!cb_model_load(directory), cases[i].text);
        remove_model(directory);
    }
}

static void bad_calls_are_refused(void **state)
{
    (void)state;
    fixture f = network_open("lstm");
    cb_context ctx = {.lengths = cb_full(CB_I32, 4, 2)};
    expect_error(!cb_model_logits(f.model, f.ids, &ctx), "lengths are i32(2)");
    ctx.lengths = cb_full(CB_I32, 25, 3);
    expect_error(!cb_model_logits(f.model, f.ids, &ctx), "row 0 is 25 columns wide, expected 1 to 24");
    expect_error(!cb_model_logits(f.model, cb_zeros(CB_F32, 1, 1, 12, 24), NULL), "images 12 high, expected 16");
    expect_error(!cb_model_logits(f.model, cb_zeros(CB_F32, 1, 1, 16, 2), NULL), "give no frame");
    expect_error(!cb_model_loss(f.model, f.ids, cb_zeros(CB_I32, 3), 0, NULL), "(B, S)");
    expect_error(!cb_model_loss(f.model, f.ids, cb_from(CB_I32, ((const int32_t[]){-100, 1, 1, 1, 1, 1}), 3, 2), 0, NULL),
                 "target 1 of row 0 stands behind one below 0");
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(rows_of_a_batch_equal_rows_alone_in_torch, without_errors),
        cmocka_unit_test_setup(losses_and_all_gradients_equal_torch, without_errors),
        cmocka_unit_test_setup(a_step_in_training_equals_torchs, without_errors),
        cmocka_unit_test_setup(a_lora_on_recurrent_matrices_equals_torchs, without_errors),
        cmocka_unit_test_setup(what_is_behind_the_end_of_a_row_changes_nothing, without_errors),
        cmocka_unit_test_setup(every_change_of_a_recurrent_matrix_merges, without_errors),
        cmocka_unit_test_setup(both_ways_through_the_steps_agree, without_errors),
        cmocka_unit_test_setup(a_merged_directory_is_the_adapted_model, without_errors),
        cmocka_unit_test_setup(saving_and_loading_changes_nothing, without_errors),
        cmocka_unit_test_setup(vocabularies_are_transformers, without_errors),
        cmocka_unit_test_setup(bad_vocabularies_are_refused, without_errors),
        cmocka_unit_test_setup(a_wide_beam_finds_the_likeliest_text, without_errors),
        cmocka_unit_test_setup(a_long_beam_keeps_its_text, without_errors),
        cmocka_unit_test_setup(bad_beams_are_refused, without_errors),
        cmocka_unit_test_setup(batches_are_as_wide_as_their_widest, without_errors),
        cmocka_unit_test_setup(bad_lines_are_refused, without_errors),
        cmocka_unit_test_setup(bad_configurations_are_refused, without_errors),
        cmocka_unit_test_setup(bad_calls_are_refused, without_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
