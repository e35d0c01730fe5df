/* test_sentinel.c: models and text under pseudonyms: the same function of other ids, an isometry of rows, swaps that are their own inverse,
 * names that hashlib gives, and what is refused. */
#include "cambium/methods.h"
#include "model_fixtures.h"

enum { WIDTH = 32 };
#define KEY "a key that only the client has"

static const char *const words[] = {"the old river went to a house", "and said nothing of it", "the house said nothing", "a river of old"};

typedef struct word_list {
    size_t next;
} word_list;

static bool next_word(void *user, const char **text, size_t *length)
{
    word_list *list = user;
    if (list->next == sizeof words / sizeof *words)
        return false;
    *text = words[list->next++];
    *length = strlen(*text);
    return true;
}

static void write_text(const char *path, const char *text)
{
    assert_true(cb_file_write(path, text, strlen(text)));
}

/* A tiny encoder of its own, with a head by `class`, in directory `name`. */
static void make_encoder(const char *name, const char *type, const char *class)
{
    char path[256], config[1024];
    bool roberta = strcmp(type, "roberta") == 0;
    assert_true(cb_directory_make(name));
    cb_tokenizer_train_config t = {.vocab_size = 290, .min_frequency = 2, .post_processor = roberta ? CB_AROUND_ROBERTA : CB_AROUND_BERT};
    static const char *const specials[2][5] = {{"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}, {"<s>", "<pad>", "</s>", "<unk>", "<mask>"}};
    for (int i = 0; i < 5; i++)
        assert_true(cb_string_list_add(&t.special_tokens, specials[roberta][i]));
    snprintf(path, sizeof path, "%s/tokenizer.json", name);
    assert_true(cb_tokenizer_train(&t, next_word, &(word_list){0}, path));
    cb_string_list_free(&t.special_tokens);
    snprintf(path, sizeof path, "%s/tokenizer_config.json", name);
    write_text(path, roberta ? "{\"unk_token\": \"<unk>\", \"pad_token\": \"<pad>\", \"mask_token\": \"<mask>\"}"
                             : "{\"unk_token\": \"[UNK]\", \"pad_token\": \"[PAD]\", \"mask_token\": \"[MASK]\"}");
    snprintf(config, sizeof config,
             "{\"architectures\": [\"%s\"], \"model_type\": \"%s\", \"vocab_size\": 290, \"hidden_size\": %d, \"num_hidden_layers\": 2, "
             "\"num_attention_heads\": 2, \"intermediate_size\": 64, \"max_position_embeddings\": 64, \"type_vocab_size\": 2, "
             "\"pad_token_id\": %d, \"initializer_range\": 0.3}",
             class, type, WIDTH, roberta);
    write_text("config.json", config);
    cb_model *model = cb_model_create("config.json", 3, (cb_model_options){0});
    assert_ok();
    assert_true(cb_model_save(model, name, CB_F32));
    cb_model_free(model);
}

static void remove_directory(const char *name)
{
    char command[300];
    snprintf(command, sizeof command, "rm -rf '%s'", name);
    assert_int_equal(system(command), 0);
}

static cb_sentinel_options all_of_it(int transform, int64_t rounds)
{
    return (cb_sentinel_options){.hash = true, .shuffle = true, .transform = transform, .rounds = rounds};
}

static void convert(const char *from, const char *to, const char *key, cb_sentinel_options options)
{
    remove_directory(to);
    assert_true(cb_sentinel_convert(from, to, key, strlen(key), &options));
    assert_ok();
}

/* Hidden states of a text by a model and its tokenizer. */
static cb_tensor *hidden_of(const char *directory, const char *text, size_t length)
{
    cb_model *model = cb_model_load(directory);
    cb_tokenizer *tokenizer = cb_tokenizer_load(directory);
    assert_ok();
    cb_encoding e = {0};
    assert_true(cb_tokenizer_encode(tokenizer, text, length, true, &e));
    cb_tensor *ids = cb_reshape(cb_from(CB_I32, e.ids, (int64_t)e.count), 1, -1);
    cb_tensor *hidden = cb_contiguous(cb_model_hidden(model, ids, &(cb_context){0}));
    assert_ok();
    cb_encoding_free(&e);
    cb_tokenizer_free(tokenizer);
    cb_model_free(model);
    return hidden;
}

static double largest_difference(const cb_tensor *a, const cb_tensor *b)
{
    double most = 0;
    assert_true(a && b && cb_same_shape(a, b));
    for (int64_t i = 0; i < a->count; i++) {
        assert_true(isfinite(cb_get(a, i)) && isfinite(cb_get(b, i)));
        most = fmax(most, fabs(cb_get(a, i) - cb_get(b, i)));
    }
    return most;
}

/* What the converted model makes of the text under its key, less what the original makes of the text. */
static double change(const char *from, const char *to, const char *key)
{
    cb_scope *scope = cb_scope_open();
    cb_tokenizer *tokenizer = cb_tokenizer_load(from);
    cb_string hidden = {0};
    const char *text = "the old house said nothing of a river";
    assert_true(cb_sentinel_encode(tokenizer, text, strlen(text), key, strlen(key), NULL, &hidden));
    double most = largest_difference(hidden_of(from, text, strlen(text)), hidden_of(to, hidden.data, hidden.length));
    cb_string_free(&hidden);
    cb_tokenizer_free(tokenizer);
    cb_scope_close(scope);
    return most;
}

static void the_papers_transform_changes_no_result(void **state)
{
    (void)state;
    static const char *const kinds[][2] = {
        {"bert", "BertForMaskedLM"}, {"roberta", "RobertaForMaskedLM"}, {"bert", "BertForSequenceClassification"}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        make_encoder("plain", kinds[i][0], kinds[i][1]);
        for (int64_t rounds = 1; rounds <= 3; rounds++) {
            convert("plain", "hidden", KEY, all_of_it(CB_SENTINEL_ONES, rounds));
            assert_true(change("plain", "hidden", KEY) < 1e-5);
        }
        convert("plain", "hidden", KEY, all_of_it(CB_SENTINEL_PLAIN, 1));
        assert_true(change("plain", "hidden", KEY) == 0);
        assert_true(change("plain", "hidden", "another key") > 0.1); /* every token is unknown to it */
        convert("plain", "hidden", KEY, all_of_it(CB_SENTINEL_GENERAL, 2));
        assert_true(change("plain", "hidden", KEY) > 0.1);
        remove_directory("plain");
    }
}

static cb_tensor *rows_of(const char *directory, cb_model **model)
{
    *model = cb_model_load(directory);
    assert_ok();
    return cb_layer_weight(cb_model_embedding_layer(*model), "weight");
}

static double distance(const cb_tensor *rows, int64_t a, int64_t b)
{
    double sum = 0;
    for (int64_t i = 0; i < WIDTH; i++) {
        double d = cb_get(rows, a * WIDTH + i) - cb_get(rows, b * WIDTH + i);
        sum += d * d;
    }
    return sqrt(sum);
}

static void distances_between_rows_stay(void **state)
{
    (void)state;
    make_encoder("plain", "bert", "BertForMaskedLM");
    cb_tokenizer *tokenizer = cb_tokenizer_load("plain");
    int32_t limit = cb_tokenizer_id_limit(tokenizer), *swapped = malloc((size_t)limit * sizeof *swapped), moved = 0;
    assert_true(cb_sentinel_swaps(tokenizer, KEY, strlen(KEY), limit, swapped));
    for (int32_t id = 0; id < limit; id++) {
        assert_int_equal(swapped[swapped[id]], id);
        assert_true(!cb_tokenizer_is_special(tokenizer, id) || swapped[id] == id);
        moved += swapped[id] != id;
    }
    assert_true(moved >= limit - 6); /* five special ones, and one where the number is odd */
    for (int transform = CB_SENTINEL_ONES; transform <= CB_SENTINEL_GENERAL; transform++) {
        convert("plain", "hidden", KEY, all_of_it(transform, 2));
        cb_model *old_model, *new_model;
        cb_tensor *old = rows_of("plain", &old_model), *new = rows_of("hidden", &new_model);
        for (int32_t id = 1; id < limit; id++)
            assert_true(fabs(distance(old, id, id - 1) - distance(new, swapped[id], swapped[id - 1])) <
                        1e-5 * distance(old, id, id - 1) + 1e-6);
        assert_true(fabs(cb_get(old, 7 * WIDTH) - cb_get(new, swapped[7] * WIDTH)) > 1e-3);
        cb_model_free(old_model);
        cb_model_free(new_model);
    }
    free(swapped);
    cb_tokenizer_free(tokenizer);
    remove_directory("plain");
}

/* Of two rows less their means. */
static double cosine(const cb_tensor *a, int64_t i, const cb_tensor *b, int64_t k)
{
    double sums[2] = {0}, products[3] = {0};
    for (int64_t j = 0; j < WIDTH; j++) {
        sums[0] += cb_get(a, i * WIDTH + j) / WIDTH;
        sums[1] += cb_get(b, k * WIDTH + j) / WIDTH;
    }
    for (int64_t j = 0; j < WIDTH; j++) {
        double x = cb_get(a, i * WIDTH + j) - sums[0], y = cb_get(b, k * WIDTH + j) - sums[1];
        products[0] += x * y;
        products[1] += x * x;
        products[2] += y * y;
    }
    return products[0] / sqrt(products[1] * products[2]);
}

static void noise_takes_its_share_of_the_rows(void **state)
{
    (void)state;
    make_encoder("plain", "bert", "BertForMaskedLM");
    cb_tokenizer *tokenizer = cb_tokenizer_load("plain");
    int32_t limit = cb_tokenizer_id_limit(tokenizer), *swapped = malloc((size_t)limit * sizeof *swapped);
    assert_true(cb_sentinel_swaps(tokenizer, KEY, strlen(KEY), limit, swapped));
    static const double shares[] = {0, 0.5, 1};
    for (int n = 0; n < 3; n++) {
        cb_sentinel_options options = all_of_it(CB_SENTINEL_ONES, 1);
        options.noise = shares[n];
        convert("plain", "hidden", KEY, options);
        cb_model *old_model, *new_model;
        cb_tensor *old = rows_of("plain", &old_model), *new = rows_of("hidden", &new_model);
        double mean = 0, squares[2] = {0};
        for (int32_t id = 0; id < limit; id++) {
            mean += cosine(old, id, new, swapped[id]) / limit;
            squares[0] += pow(distance(old, id, (id + 1) % limit), 2);
            squares[1] += pow(distance(new, swapped[id], swapped[(id + 1) % limit]), 2);
        }
        /* the mean of 290 cosines of 32 numbers has a deviation of 0.01; with `ones` directions from the mean only change their sign twice */
        assert_true(fabs(mean - sqrt(1 - shares[n])) < 0.05);
        assert_true(fabs(squares[1] / squares[0] - 1) < 0.1); /* rows are as large as they were */
        cb_model_free(old_model);
        cb_model_free(new_model);
    }
    cb_sentinel_options wrong = all_of_it(CB_SENTINEL_ONES, 1);
    wrong.noise = NAN;
    assert_false(cb_sentinel_convert("plain", "refused", KEY, strlen(KEY), &wrong));
    assert_non_null(strstr(cb_error_message(), "noise"));
    cb_error_clear();
    free(swapped);
    cb_tokenizer_free(tokenizer);
    remove_directory("plain");
    remove_directory("hidden");
}

/* hashlib.blake2b(token, key=key, digest_size=16).hexdigest() */
static void tokens_have_the_names_that_hashlib_gives(void **state)
{
    (void)state;
    static const char *const cases[][3] = {
        {"hello", "key", "eddb887b56d767c529625eb51a51b659"},
        {"\xc4\xa0the", "a longer key of forty bytes, as it were..", "05055f034785ef2a31e251ef424928dc"}};
    make_encoder("plain", "bert", "BertForMaskedLM");
    for (size_t i = 0; i < 2; i++) {
        char json[512];
        snprintf(
            json, sizeof json,
            "{\"version\": \"1.0\", \"added_tokens\": [{\"id\": 0, \"content\": \"[UNK]\", \"special\": true}], \"pre_tokenizer\": "
            "{\"type\": "
            "\"WhitespaceSplit\"}, \"model\": {\"type\": \"WordLevel\", \"vocab\": {\"[UNK]\": 0, \"%s\": 1}, \"unk_token\": \"[UNK]\"}}",
            cases[i][0]);
        cb_tokenizer *t = cb_tokenizer_parse("words", json, strlen(json));
        assert_ok();
        cb_string text = {0}, name = {0}, expected = {0};
        cb_string_printf(&text, "%s [UNK] %s", cases[i][0], cases[i][0]);
        cb_string_printf(&expected, "%s [UNK] %s", cases[i][2], cases[i][2]); /* special tokens keep their names */
        assert_true(cb_sentinel_encode(t, text.data, text.length, cases[i][1], strlen(cases[i][1]), NULL, &name));
        assert_string_equal(name.data, expected.data);
        cb_string_free(&text);
        cb_string_free(&name);
        cb_string_free(&expected);
        cb_tokenizer_free(t);
    }
    remove_directory("plain");
}

static char *contents(const char *path, size_t *length)
{
    char *bytes = cb_file_read(path, 1 << 24, length);
    assert_ok();
    return bytes;
}

static void one_key_gives_the_same_bytes_and_another_does_not(void **state)
{
    (void)state;
    make_encoder("plain", "bert", "BertForMaskedLM");
    static const char *const files[] = {"model.safetensors", "tokenizer.json"};
    convert("plain", "hidden", KEY, all_of_it(CB_SENTINEL_GENERAL, 2));
    convert("plain", "again", KEY, all_of_it(CB_SENTINEL_GENERAL, 2));
    convert("plain", "other", "another key", all_of_it(CB_SENTINEL_GENERAL, 2));
    for (int i = 0; i < 2; i++) {
        char path[3][64];
        size_t length[3];
        char *bytes[3];
        static const char *const names[] = {"hidden", "again", "other"};
        for (int k = 0; k < 3; k++) {
            snprintf(path[k], sizeof path[k], "%s/%s", names[k], files[i]);
            bytes[k] = contents(path[k], &length[k]);
        }
        assert_true(length[0] == length[1] && memcmp(bytes[0], bytes[1], length[0]) == 0);
        assert_true(length[0] != length[2] || memcmp(bytes[0], bytes[2], length[0]) != 0);
        for (int k = 0; k < 3; k++)
            cb_free(bytes[k]);
    }
    /* nothing of the text is left in the tokenizer but special tokens */
    size_t length;
    char *text = contents("hidden/tokenizer.json", &length);
    assert_null(strstr(text, "house"));
    assert_non_null(strstr(text, "[MASK]"));
    cb_free(text);
    remove_directory("plain");
}

static void assert_refused(const char *from, const char *to, const char *key, size_t length, cb_sentinel_options o, cb_status status,
                           const char *message)
{
    assert_false(cb_sentinel_convert(from, to, key, length, &o));
    assert_int_equal(cb_error_status(), status);
    if (!strstr(cb_error_message(), message))
        fail_msg("\"%s\", expected \"%s\"", cb_error_message(), message);
    cb_error_clear();
}

static void what_makes_no_sense_is_refused(void **state)
{
    (void)state;
    make_encoder("plain", "bert", "BertForMaskedLM");
    char long_key[65];
    memset(long_key, 'k', sizeof long_key);
    cb_sentinel_options o = all_of_it(CB_SENTINEL_ONES, 2);
    assert_refused("plain", "new", "", 0, o, CB_ERR_ARGUMENT, "key: found 0 bytes, expected 1 to 64");
    assert_refused("plain", "new", long_key, 65, o, CB_ERR_ARGUMENT, "key: found 65 bytes");
    assert_refused("plain", "plain", KEY, strlen(KEY), o, CB_ERR_ARGUMENT, "not an empty directory");
    assert_refused("nowhere", "new", KEY, strlen(KEY), o, CB_ERR_IO, "nowhere");
    assert_refused(model_path("llama2"), "new", KEY, strlen(KEY), o, CB_ERR_UNSUPPORTED, "expected an encoder");
    o.rounds = 0;
    assert_refused("plain", "new", KEY, strlen(KEY), o, CB_ERR_ARGUMENT, "rounds");
    o.rounds = 1;
    convert("plain", "hidden", KEY, o);
    cb_tokenizer *own = cb_tokenizer_load("hidden");
    cb_string text = {0};
    assert_false(cb_sentinel_encode(own, "the river", 9, KEY, strlen(KEY), NULL, &text));
    assert_non_null(strstr(cb_error_message(), "expected that of the model before"));
    cb_error_clear();
    cb_string_free(&text);
    cb_tokenizer_free(own);
    assert_false(cb_sentinel_convert("plain", "new", KEY, strlen(KEY), NULL));
    cb_error_clear();
    write_text("plain/tokenizer_config.json", "{}");
    assert_refused("plain", "new", KEY, strlen(KEY), o, CB_ERR_UNSUPPORTED, "no unknown token");
    assert_false(cb_is_directory("new"));
    remove_directory("plain");
}

#define FILE_TEST(name) cmocka_unit_test_setup(name, without_errors)
int main(void)
{
    char directory[] = "/tmp/cambium-sentinel-XXXXXX";
    if (!mkdtemp(directory) || chdir(directory) != 0)
        return 1;
    const struct CMUnitTest tests[] = {
        FILE_TEST(the_papers_transform_changes_no_result),
        FILE_TEST(distances_between_rows_stay),
        FILE_TEST(noise_takes_its_share_of_the_rows),
        FILE_TEST(tokens_have_the_names_that_hashlib_gives),
        FILE_TEST(one_key_gives_the_same_bytes_and_another_does_not),
        FILE_TEST(what_makes_no_sense_is_refused),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    remove_directory(directory);
    return failed;
}
