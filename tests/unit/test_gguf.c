/* test_gguf.c: GGUF files: the container and files that must be refused, models in it against what transformers computes with the
 * originals (files made by tests/oracle/gguf_models.py with the gguf package), and what is written read again. */
#include "cambium/gguf.h"
#include "format_fixtures.h"
#include "formats/gguf_model.h"
#include "model_fixtures.h"

static const char *gguf_path(const char *name)
{
    static char path[4][512];
    static unsigned turn;
    char *out = path[turn++ % 4];
    snprintf(out, sizeof path[0], "%s/gguf/%s.gguf", CB_TEST_DATA, name);
    return out;
}

static const char *const gguf_models[] = {"llama3", "llama_sharded", "llama_yarn_rope", "qwen2", "qwen3", "gpt2"};

/* ---- models ---- */

static void models_equal_transformers(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof gguf_models / sizeof *gguf_models; i++) {
        fixture f = fixture_open_with(gguf_models[i], gguf_path(gguf_models[i]), CB_F32);
        assert_close(gguf_models[i], cb_model_logits(f.model, f.ids, NULL), expected_tensor(&f, "logits"), 1e-4);
        fixture_close(&f);
    }
}

/* Every reference model that GGUF can hold, to GGUF and back. */
static void models_go_there_and_back(void **state)
{
    (void)state;
    for (size_t i = 0; i < REFERENCE_COUNT; i++) {
        const char *name = reference_models[i];
        bool ok = cb_gguf_export(model_path(name), "there.gguf", "keep");
        if (strcmp(name, "llama_biases") == 0 || strcmp(name, "gpt2_scaled") == 0) {
            assert_false(ok);
            assert_message(CB_ERR_UNSUPPORTED, "found \"relu\"");
            assert_false(cb_is_file("there.gguf"));
            continue;
        }
        assert_ok();
        assert_true(ok && cb_model_unpack("there.gguf", "back", "keep"));
        static const char *const places[] = {"there.gguf", "back"};
        for (int place = 0; place < 2; place++) {
            fixture f = fixture_open_with(name, places[place], CB_F32);
            assert_close(name, cb_model_logits(f.model, f.ids, NULL), expected_tensor(&f, "logits"), 1e-4);
            fixture_close(&f);
        }
        assert_int_equal(system("rm -rf there.gguf back"), 0);
    }
}

/* What the package wrote and what we write of the same model: the same tensors, byte for byte. */
static void tensors_equal_the_packages(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof gguf_models / sizeof *gguf_models; i++) {
        assert_true(cb_gguf_export(model_path(gguf_models[i]), "ours.gguf", "keep"));
        cb_gguf *ours = cb_gguf_open("ours.gguf"), *theirs = cb_gguf_open(gguf_path(gguf_models[i]));
        assert_ok();
        assert_int_equal(cb_gguf_count(ours), cb_gguf_count(theirs));
        for (size_t k = 0; k < cb_gguf_count(theirs); k++) {
            const cb_weight_entry *a = cb_gguf_at(theirs, k), *b = cb_gguf_find(ours, a->name);
            if (!b || !cb_weight_entry_fits(b, a->ndim, a->shape) || strcmp(a->type_name, b->type_name) != 0)
                fail_msg("%s: %s is missing or another", gguf_models[i], a->name);
            if (strcmp(a->name, "rope_freqs.weight") != 0) /* computed in f64 there */
                assert_memory_equal(a->data, b->data, a->size);
        }
        cb_gguf_close(ours);
        cb_gguf_close(theirs);
        unlink("ours.gguf");
    }
}

/* Rotary scaling of Llama 3 is found again from its factors where these tell enough. */
static void llama3_scaling_is_found_again(void **state)
{
    (void)state;
    char *directory =
        changed_model("llama3", "{\"rope_parameters\": {\"rope_type\": \"llama3\", \"rope_theta\": 200.0, \"factor\": 8.0,"
                                " \"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 300}}");
    assert_true(cb_gguf_export(directory, "scaled.gguf", "keep") && cb_model_unpack("scaled.gguf", "unpacked", "keep"));
    json_t *config = json_load_file("unpacked/config.json", 0, NULL), *scaling = json_object_get(config, "rope_scaling");
    assert_string_equal(json_string_value(json_object_get(scaling, "rope_type")), "llama3");
    assert_int_equal(json_integer_value(json_object_get(scaling, "original_max_position_embeddings")), 300);
    assert_true(json_number_value(json_object_get(scaling, "high_freq_factor")) == 4 &&
                json_number_value(json_object_get(scaling, "factor")) == 8);
    json_decref(config);
    remove_model(directory);
}

/* A checkpoint that ties its head may hold the head alone. */
static void tied_models_may_hold_the_head_alone(void **state)
{
    (void)state;
    cb_weights *weights = cb_weights_open(model_path("smollm"));
    cb_weight_entry *entries = calloc(cb_weights_count(weights), sizeof *entries);
    for (size_t i = 0; i < cb_weights_count(weights); i++) {
        entries[i] = *cb_weights_at(weights, i);
        if (strcmp(entries[i].name, "model.embed_tokens.weight") == 0)
            entries[i].name = "lm_head.weight";
    }
    char command[700];
    snprintf(command, sizeof command, "mkdir head && cp %s/config.json head", model_path("smollm"));
    assert_int_equal(system(command), 0);
    assert_true(cb_weights_write("head", entries, cb_weights_count(weights), 0, NULL, NULL));
    cb_weights_close(weights);
    free(entries);
    fixture f = fixture_open_with("smollm", "head", CB_F32);
    assert_close("smollm", cb_model_logits(f.model, f.ids, NULL), expected_tensor(&f, "logits"), 1e-4);
    fixture_close(&f);
}

/* ---- tokenizers ---- */

static const char *const texts[] = {"Hello world", "  two  blanks\n\n\tand a tab", "don't WON'T 1234567", "Grüße, 你好 🙂 <s>", ""};

static void encode(const cb_tokenizer *t, const char *text, cb_encoding *out)
{
    assert_true(cb_tokenizer_encode(t, text, strlen(text), true, out));
}

/* A model with a tokenizer, to GGUF: the tokenizer in it gives the same ids and the same text. */
static void tokenizer_goes_there(const char *source, int64_t vocab_size)
{
    char changes[64], path[600], command[1200];
    snprintf(changes, sizeof changes, "{\"vocab_size\": %lld, \"num_hidden_layers\": 1}", (long long)vocab_size);
    char *directory = changed_model("smollm", changes);
    snprintf(path, sizeof path, "%s/config.json", directory);
    cb_model *model = cb_model_create(path, 1, (cb_model_options){0});
    assert_ok();
    assert_true(cb_model_save(model, directory, CB_F16));
    cb_model_free(model);
    snprintf(command, sizeof command, cb_is_directory(source) ? "cp %s/* %s" : "cp %s %s/tokenizer.json", source, directory);
    assert_int_equal(system(command), 0);
    assert_true(cb_gguf_export(directory, "with.gguf", "keep"));
    cb_tokenizer *original = cb_tokenizer_load(directory), *ours = cb_tokenizer_load("with.gguf");
    assert_ok();
    cb_encoding a = {0}, b = {0};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        encode(original, texts[i], &a);
        encode(ours, texts[i], &b);
        if (a.count != b.count || memcmp(a.ids, b.ids, a.count * sizeof *a.ids) != 0)
            fail_msg("%s: \"%s\": other ids", source, texts[i]);
        cb_string x = {0}, y = {0};
        assert_true(cb_tokenizer_decode(original, a.ids, a.count, true, &x) && cb_tokenizer_decode(ours, b.ids, b.count, true, &y));
        assert_string_equal(x.data ? x.data : "", y.data ? y.data : "");
        cb_string_free(&x);
        cb_string_free(&y);
    }
    cb_encoding_free(&a);
    cb_encoding_free(&b);
    cb_tokenizer_free(original);
    cb_tokenizer_free(ours);
    unlink("with.gguf");
    remove_model(directory);
}

static void tokenizers_go_there(void **state)
{
    (void)state;
    static const char *const names[] = {"gpt2.json", "llama3.json", "qwen2.json", "files/gpt2", "files/qwen2"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[600];
        snprintf(path, sizeof path, "%s/tokenizers/%s", CB_TEST_DATA, names[i]);
        cb_tokenizer *t = cb_tokenizer_load(path);
        assert_ok();
        int64_t limit = cb_tokenizer_id_limit(t);
        cb_tokenizer_free(t);
        tokenizer_goes_there(path, limit + 3); /* with ids that no token has */
    }
}

/* The ids that llama.cpp gives for the vocabularies in its repository: TEXT, a line, TEXT, ...; ids a line. */
static void check_vectors(const char *name)
{
    static const char mark[] = "\n__ggml_vocab_test__\n";
    char path[600];
    snprintf(path, sizeof path, "%s/loader-fixtures/tokenizers/gguf/ggml-vocab-%s.gguf", getenv("CAMBIUM_DATA"), name);
    cb_tokenizer *t = cb_tokenizer_load(path);
    assert_ok();
    size_t length = strlen(path);
    strcpy(path + length, ".inp");
    char *input = cb_file_read(path, 1 << 20, NULL);
    strcpy(path + length, ".out");
    char *output = cb_file_read(path, 1 << 20, NULL), *text = input, *line = output;
    cb_encoding e = {0};
    int count = 0;
    for (char *next; text; text = next, count++) {
        next = strstr(text, mark);
        size_t size = next ? (size_t)(next - text) : strlen(text);
        next = next ? next + strlen(mark) : NULL;
        assert_true(cb_tokenizer_encode(t, text, size, false, &e));
        char *end = line + strcspn(line, "\n");
        size_t found = 0;
        while (line < end) {
            char *after;
            long id = strtol(line, &after, 10);
            if (after == line || after > end)
                break;
            assert_true(found < e.count && e.ids[found] == id);
            found++;
            line = after;
        }
        assert_int_equal(found, e.count);
        line = *end ? end + 1 : end;
    }
    assert_true(count > 40);
    cb_encoding_free(&e);
    cb_free(input);
    cb_free(output);
    cb_tokenizer_free(t);
}

static void ids_equal_llama_cpp(void **state)
{
    (void)state;
    if (!getenv("CAMBIUM_DATA"))
        skip();
    check_vectors("gpt-2");
    check_vectors("llama-spm");
}

/* ---- the container ---- */

static void metadata_is_kept(void **state)
{
    (void)state;
    const float numbers[] = {1.5f, -2};
    const char *const words[] = {"", "two"};
    cb_gguf_metadata m = {0};
    assert_true(cb_gguf_put_u32(&m, "u", 4000000000u) && cb_gguf_put_f32(&m, "f", 0.5f) && cb_gguf_put_bool(&m, "b", true) &&
                cb_gguf_put_string(&m, "s", "tëxt") && cb_gguf_put_array(&m, "n", CB_GGUF_F32, 2, numbers) &&
                cb_gguf_put_strings(&m, "w", 2, words));
    const uint16_t halves[64] = {1, 2, 3};
    const cb_weight_entry tensors[] = {{.name = "one", .dtype = CB_F16, .ndim = 1, .shape = {3}, .data = halves, .size = 6},
                                       {.name = "two", .dtype = CB_F16, .ndim = 2, .shape = {2, 32}, .data = halves, .size = 128}};
    assert_true(cb_gguf_write("small.gguf", &m, tensors, 2, NULL, NULL));
    cb_gguf *file = cb_gguf_open("small.gguf");
    assert_ok();
    assert_int_equal(cb_gguf_int(file, "u", 0), 4000000000);
    assert_true(cb_gguf_float(file, "f", 0) == 0.5 && cb_gguf_bool(file, "b", false));
    assert_string_equal(cb_gguf_string(file, "s", ""), "tëxt");
    double number;
    assert_true(cb_gguf_number_at(cb_gguf_value_find(file, "n"), 1, &number) && number == -2);
    size_t offset = 0, length;
    const char *text;
    for (int i = 0; i < 2; i++) {
        assert_true(cb_gguf_next_string(cb_gguf_value_find(file, "w"), &offset, &text, &length));
        assert_int_equal(length, strlen(words[i]));
        assert_memory_equal(text, words[i], length);
    }
    assert_true(cb_weight_entry_fits(cb_gguf_find(file, "two"), 2, (int64_t[]){2, 32}));
    assert_memory_equal(cb_gguf_find(file, "two")->data, halves, 128);
    assert_null(cb_gguf_find(file, "three"));
    assert_int_equal(cb_gguf_int(file, "missing", 7), 7);
    assert_int_equal(cb_gguf_int(file, "s", 7), 7);
    assert_message(CB_ERR_FORMAT, "s: found another type of value, expected an integer");
    cb_gguf_close(file);
    cb_gguf_metadata_free(&m);
}

/* Everything one can ask of a file, so that a sanitizer sees what a wrong one leads to. */
static void use(cb_gguf *file)
{
    double number;
    for (size_t i = 0; i < cb_gguf_value_count(file); i++) {
        const cb_gguf_value *v = cb_gguf_value_at(file, i);
        size_t offset = 0, length;
        const char *text;
        for (uint64_t k = 0; v->type == CB_GGUF_STRING && k < v->count; k++)
            assert_true(cb_gguf_next_string(v, &offset, &text, &length));
        assert_false(v->type == CB_GGUF_STRING && cb_gguf_next_string(v, &offset, &text, &length));
        cb_gguf_number_at(v, v->count - 1, &number);
    }
    volatile uint8_t sum = 0;
    for (size_t i = 0; i < cb_gguf_count(file); i++) {
        const cb_weight_entry *e = cb_gguf_at(file, i);
        sum = (uint8_t)(sum + ((const uint8_t *)e->data)[0] + ((const uint8_t *)e->data)[e->size - 1]);
    }
}

/* Each byte of a header changed in turn, and the file cut off at each: refused or read, never beyond its end. */
static void damage_is_found(void **state)
{
    (void)state;
    size_t length;
    char *bytes = get_bytes(gguf_path("qwen2"), &length);
    enum { HEADER = 2600 };
    size_t refused = 0;
    for (size_t i = 0; i < HEADER; i++) {
        static const uint8_t changes[] = {0xFF, 0x01, 0x80};
        for (size_t k = 0; k < sizeof changes; k++) {
            bytes[i] = (char)(bytes[i] ^ changes[k]);
            cb_gguf *file = cb_gguf_parse("damaged", bytes, length);
            if (file)
                use(file);
            refused += !file;
            assert_true(file || !cb_ok());
            cb_error_clear();
            cb_gguf_close(file);
            bytes[i] = (char)(bytes[i] ^ changes[k]);
        }
        char *cut = malloc(i);
        memcpy(cut, bytes, i);
        assert_null(cb_gguf_parse("cut", cut, i));
        assert_int_equal(cb_error_status(), CB_ERR_FORMAT);
        cb_error_clear();
        free(cut);
    }
    assert_true(refused > HEADER / 4);
    free(bytes);
}

/* A damaged header through everything that reads models. */
static void damaged_models_are_refused(void **state)
{
    (void)state;
    size_t length;
    char *bytes = get_bytes(gguf_path("llama_sharded"), &length);
    for (size_t i = 8; i < 2400; i += 7) {
        bytes[i] = (char)(bytes[i] ^ 0x15);
        put_bytes("damaged.gguf", bytes, length);
        cb_model *model = cb_model_load("damaged.gguf");
        assert_true(model || !cb_ok());
        cb_error_clear();
        cb_model_free(model);
        bytes[i] = (char)(bytes[i] ^ 0x15);
    }
    free(bytes);
}

static void what_is_no_model_is_refused(void **state)
{
    (void)state;
    const struct {
        const char *key, *value, *message;
    } cases[] = {{"general.architecture", "mamba", "found \"mamba\", expected one of llama, qwen2, qwen3, gpt2"},
                 {"general.type", "adapter", "general.type: found \"adapter\", expected a model"},
                 {"llama.expert_count", "8", "llama.expert_count: found a mixture of experts"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cb_gguf_metadata m = {0};
        assert_true(i == 2 ? cb_gguf_put_u32(&m, cases[i].key, 8) : cb_gguf_put_string(&m, cases[i].key, cases[i].value));
        if (i > 0)
            assert_true(cb_gguf_put_string(&m, "general.architecture", "llama"));
        assert_true(cb_gguf_write("other.gguf", &m, NULL, 0, NULL, NULL));
        cb_gguf_metadata_free(&m);
        assert_null(cb_model_load("other.gguf"));
        assert_false(cb_ok());
        if (!strstr(cb_error_message(), cases[i].message))
            fail_msg("found: %s", cb_error_message());
        cb_error_clear();
    }
}

/* ---- rotary positions ---- */

#define TEN_NUMBERS(x) x ", " x ", " x ", " x ", " x ", " x

/* Factors of LongRoPE go there and back; llama.cpp's architecture for Qwen has no place for them, nor for those of Llama 3. */
static void longrope_has_two_lists(void **state)
{
    (void)state;
    static const char scaling[] = "{\"rope_parameters\": {\"rope_type\": \"longrope\", \"rope_theta\": 500.0, \"factor\": 4.0,"
                                  " \"original_max_position_embeddings\": 8, \"short_factor\": [" TEN_NUMBERS(
                                      "1.25") "], \"long_factor\": [" TEN_NUMBERS("2.5") "]}}";
    char *directory = changed_model("llama2", scaling);
    assert_true(cb_gguf_export(directory, "long.gguf", "keep") && cb_model_unpack("long.gguf", "long", "keep"));
    cb_gguf *file = cb_gguf_open("long.gguf");
    assert_string_equal(cb_gguf_string(file, "llama.rope.scaling.type", ""), "longrope");
    assert_non_null(cb_gguf_find(file, "rope_factors_long.weight"));
    cb_gguf_close(file);
    static const char *const places[] = {"long.gguf", "long"};
    cb_scope *scope = cb_scope_open();
    cb_model *model = cb_model_load(directory);
    for (int length = 7; length <= 17; length += 10) { /* within the original length, and beyond it */
        int32_t ids[17];
        for (int i = 0; i < length; i++)
            ids[i] = 3 + i;
        cb_tensor *expected = cb_model_logits(model, cb_from(CB_I32, ids, 1, length), NULL);
        for (int place = 0; place < 2; place++) {
            cb_model *other = cb_model_load(places[place]);
            assert_close(places[place], cb_model_logits(other, cb_from(CB_I32, ids, 1, length), NULL), expected, 1e-5);
            cb_model_free(other);
        }
    }
    cb_model_free(model);
    cb_scope_close(scope);
    remove_model(directory);
    /* an original length beyond the largest */
    directory = changed_model("llama2",
                              "{\"max_position_embeddings\": 32, \"rope_parameters\": {\"rope_type\": \"longrope\", \"rope_theta\": 500.0,"
                              " \"original_max_position_embeddings\": 1000, \"attention_factor\": 1.2, \"factor\": 4.0,"
                              " \"short_factor\": [" TEN_NUMBERS("1.25") "], \"long_factor\": [" TEN_NUMBERS("2.5") "]}}");
    assert_true(cb_gguf_export(directory, "far.gguf", "keep"));
    model = cb_model_load("far.gguf");
    assert_ok();
    assert_non_null(model);
    cb_model_free(model);
    remove_model(directory);
    static const struct {
        const char *model, *changes, *message;
    } refused[] = {
        {"qwen2", "{\"rope_parameters\": {\"rope_type\": \"llama3\", \"rope_theta\": 1e4, \"factor\": 8.0}}",
         "rope_type: found \"llama3\", GGUF's qwen2 models have default, linear and yarn"},
        {"llama2", "{\"rope_parameters\": {\"rope_type\": \"dynamic\", \"rope_theta\": 1e4, \"factor\": 8.0}}",
         "rope_type: found \"dynamic\""},
        {"qwen2", "{\"head_dim\": 12}", "head_dim: found heads that are not"},
        {"qwen3", "{\"attention_bias\": true}", "attention_bias: found true"},
    };
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        directory = changed_model(refused[i].model, refused[i].changes);
        assert_false(cb_gguf_export(directory, "never.gguf", "keep"));
        assert_message(CB_ERR_UNSUPPORTED, refused[i].message);
        remove_model(directory);
    }
}

/* ---- types ---- */

/* The types that llama.cpp's quantiser chose (tests/oracle/llama_cpp.py): one object a model and file type. */
static void types_are_those_of_llama_cpp(void **state)
{
    (void)state;
    json_t *cases = json_load_file(CB_TEST_DATA "/gguf/types.json", 0, NULL), *entry, *list;
    assert_true(json_array_size(cases) > 20);
    size_t i, compared = 0;
    json_array_foreach(cases, i, entry)
    {
        const char *target_name = json_string_value(json_object_get(entry, "type")), *tensor;
        const cb_gguf_target *target = cb_gguf_target_named(target_name);
        cb_gguf_model_sizes sizes = {.blocks = json_integer_value(json_object_get(entry, "blocks")),
                                     .heads = json_integer_value(json_object_get(entry, "heads")),
                                     .kv_heads = json_integer_value(json_object_get(entry, "kv_heads")),
                                     .tied = json_is_true(json_object_get(entry, "tied"))};
        json_object_foreach(json_object_get(entry, "tensors"), tensor, list)
        {
            int64_t columns = json_integer_value(json_array_get(list, 0));
            for (size_t block = 0; block + 1 < json_array_size(list); block++, compared++) {
                char name[64];
                if (strncmp(tensor, "blk.", 4) == 0)
                    snprintf(name, sizeof name, "blk.%d.%s.weight", (int)block, tensor + 4);
                else
                    snprintf(name, sizeof name, "%s.weight", tensor);
                cb_weight_entry e = {.name = name, .ndim = 2, .shape = {64, columns}};
                assert_true(cb_gguf_target_choose(target, &sizes, "F32", &e));
                const char *expected = json_string_value(json_array_get(list, block + 1));
                if (strcmp(e.type_name, expected) != 0)
                    fail_msg("%s: %s of %d blocks: found %s, expected %s", target_name, name, (int)sizes.blocks, e.type_name, expected);
            }
        }
    }
    assert_true(compared > 1000);
    json_decref(cases);
}

/* ---- parts ---- */

static bool put_split(cb_gguf_metadata *m, uint32_t number, uint32_t count, uint32_t tensors)
{
    return cb_gguf_put_u32(m, "split.no", number) && cb_gguf_put_u32(m, "split.count", count) &&
           cb_gguf_put_u32(m, "split.tensors.count", tensors);
}

/* A model in three parts as llama.cpp's gguf-split writes them: all metadata in the first. */
static void split_in_three(const char *name, uint32_t claimed)
{
    cb_gguf *whole = cb_gguf_open(name);
    size_t count = cb_gguf_count(whole);
    cb_weight_entry entries[64];
    assert_true(count <= 64);
    for (size_t i = 0; i < count; i++)
        entries[i] = *cb_gguf_at(whole, i);
    for (uint32_t part = 0; part < 3; part++) {
        cb_gguf_metadata m = {0};
        for (size_t i = 0; !part && i < cb_gguf_value_count(whole); i++)
            assert_true(cb_gguf_put_value(&m, cb_gguf_value_at(whole, i)->key, cb_gguf_value_at(whole, i)));
        assert_true(put_split(&m, part, 3, claimed ? claimed : (uint32_t)count));
        size_t first = part * count / 3, end = (part + 1) * count / 3;
        char path[64];
        snprintf(path, sizeof path, "model-%05d-of-00003.gguf", (int)part + 1);
        assert_true(cb_gguf_write(path, &m, entries + first, end - first, NULL, NULL));
        cb_gguf_metadata_free(&m);
    }
    cb_gguf_close(whole);
}

static void models_in_parts_are_read_whole(void **state)
{
    (void)state;
    split_in_three(gguf_path("llama3"), 0);
    fixture f = fixture_open_with("llama3", "model-00001-of-00003.gguf", CB_F32);
    assert_close("parts", cb_model_logits(f.model, f.ids, NULL), expected_tensor(&f, "logits"), 1e-4);
    fixture_close(&f);
    /* what is made of them is one file */
    assert_true(cb_gguf_export("model-00001-of-00003.gguf", "joined.gguf", "keep"));
    cb_gguf *joined = cb_gguf_open("joined.gguf"), *whole = cb_gguf_open(gguf_path("llama3"));
    assert_int_equal(cb_gguf_count(joined), cb_gguf_count(whole));
    assert_int_equal(cb_gguf_value_count(joined), cb_gguf_value_count(whole));
    assert_null(cb_gguf_value_find(joined, "split.count"));
    for (size_t i = 0; i < cb_gguf_count(whole); i++) {
        const cb_weight_entry *a = cb_gguf_at(whole, i), *b = cb_gguf_find(joined, a->name);
        assert_memory_equal(a->data, b->data, a->size);
    }
    cb_gguf_close(joined);
    cb_gguf_close(whole);
}

static void refuse_open(const char *path, cb_status status, const char *part)
{
    cb_gguf *file = cb_gguf_open(path);
    if (file)
        fail_msg("%s: opened, expected \"%s\"", path, part);
    assert_message(status, part);
}

static void parts_that_do_not_belong_are_refused(void **state)
{
    (void)state;
    split_in_three(gguf_path("qwen2"), 0);
    refuse_open("model-00002-of-00003.gguf", CB_ERR_ARGUMENT, "found part 2 of 3, expected the first");
    assert_int_equal(rename("model-00001-of-00003.gguf", "first.gguf"), 0);
    refuse_open("first.gguf", CB_ERR_FORMAT, "first.gguf: found the first of 3 parts, expected a name that ends in -00001-of-00003.gguf");
    assert_int_equal(rename("first.gguf", "model-00001-of-00003.gguf"), 0);
    assert_int_equal(rename("model-00003-of-00003.gguf", "aside"), 0);
    refuse_open("model-00001-of-00003.gguf", CB_ERR_IO, "model-00003-of-00003.gguf");
    assert_int_equal(symlink("model-00002-of-00003.gguf", "model-00003-of-00003.gguf"), 0);
    refuse_open("model-00001-of-00003.gguf", CB_ERR_FORMAT, "split.no, split.count: found 1 and 3, expected 2 and 3");
    assert_int_equal(unlink("model-00003-of-00003.gguf"), 0);
    split_in_three(gguf_path("qwen2"), 5);
    refuse_open("model-00001-of-00003.gguf", CB_ERR_FORMAT, "split.tensors.count: found 5");
    size_t length;
    char *bytes = get_bytes("model-00001-of-00003.gguf", &length);
    cb_gguf *file = cb_gguf_parse("alone", bytes, length); /* of bytes, there are no others */
    assert_non_null(file);
    cb_gguf_close(file);
    free(bytes);
}

static bool open_parts(void)
{
    cb_gguf *file = cb_gguf_open("model-00001-of-00003.gguf");
    bool ok = file != NULL;
    cb_gguf_close(file);
    return ok;
}

static void memory_may_fail_between_parts(void **state)
{
    (void)state;
    split_in_three(gguf_path("gpt2"), 0);
    fail_every_allocation(open_parts);
}

static bool load_one(void)
{
    cb_model *model = cb_model_load(gguf_path("llama_sharded"));
    bool ok = model != NULL;
    cb_model_free(model);
    return ok;
}

static bool export_one(void)
{
    bool ok = cb_gguf_export(model_path("smollm"), "failing.gguf", "f32");
    unlink("failing.gguf");
    return ok;
}

static void memory_may_fail(void **state)
{
    (void)state;
    fail_every_allocation(load_one);
    fail_every_allocation(export_one);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(models_equal_transformers, without_errors),
        FILE_TEST(models_go_there_and_back),
        FILE_TEST(tensors_equal_the_packages),
        FILE_TEST(llama3_scaling_is_found_again),
        FILE_TEST(tied_models_may_hold_the_head_alone),
        FILE_TEST(tokenizers_go_there),
        cmocka_unit_test_setup(ids_equal_llama_cpp, without_errors),
        FILE_TEST(metadata_is_kept),
        FILE_TEST(damage_is_found),
        FILE_TEST(damaged_models_are_refused),
        FILE_TEST(what_is_no_model_is_refused),
        FILE_TEST(models_in_parts_are_read_whole),
        FILE_TEST(parts_that_do_not_belong_are_refused),
        FILE_TEST(memory_may_fail_between_parts),
        FILE_TEST(longrope_has_two_lists),
        cmocka_unit_test_setup(types_are_those_of_llama_cpp, without_errors),
        FILE_TEST(memory_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
