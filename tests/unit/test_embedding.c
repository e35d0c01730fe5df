/* test_embedding.c: sentence encoders against what transformers and torch compute with the same files (tests/oracle/sentence_encoders.py),
 * and against themselves: order, padding, saving; search; and files that must be refused. */
#include "cambium/embedding.h"
#include "text_fixtures.h"

#define REFERENCE CB_TEST_DATA "/sentence_encoders"
enum { TEXTS = 5, WIDTH = 16, MOST = 64 };

static const char *const texts[TEXTS] = {"the lift of a thin wing", "shock wave",
                                         "what is the pressure rise at the plate ? how does the heat flow under a body", "air",
                                         "layers , speeds , waves"};
#define TYPE(kind)  "{\"path\": \"\", \"type\": \"sentence_transformers.models." kind "\"}"
#define AT(kind, p) "{\"path\": \"" p "\", \"type\": \"sentence_transformers.models." kind "\"}"

/* A copy of the reference without modules. */
static const char *copy_model(const char *name)
{
    static char path[96];
    char command[600];
    snprintf(path, sizeof path, "%s", scratch_path(name));
    snprintf(command, sizeof command, "rm -rf '%s' && cp -r '%s/model' '%s' && mkdir '%s/1_Pooling' '%s/2_Dense'", path, REFERENCE, path,
             path, path);
    assert_int_equal(system(command), 0);
    return path;
}

static void write_in(const char *directory, const char *name, const char *text)
{
    char path[160];
    snprintf(path, sizeof path, "%s/%s", cb_path_base(directory), name);
    write_file(path, text);
}

/* One with a Pooling of these settings and what stands behind it in the list. */
static const char *make_encoder(const char *pooling, const char *behind)
{
    const char *path = copy_model("encoder");
    char modules[600];
    snprintf(modules, sizeof modules, "[" TYPE("Transformer") ", " AT("Pooling", "1_Pooling") "%s]", behind);
    write_in(path, "modules.json", modules);
    write_in(path, "1_Pooling/config.json", pooling);
    return path;
}

static cb_embedder *load(const char *path)
{
    cb_embedder *e = cb_embedder_load(path, CB_F32);
    assert_ok();
    assert_non_null(e);
    return e;
}

static void assert_refused(const char *path, cb_status status, const char *message)
{
    cb_embedder *e = cb_embedder_load(path, CB_F32);
    assert_null(e);
    if (!strstr(cb_error_message(), message))
        fail_msg("\"%s\" does not say \"%s\"", cb_error_message(), message);
    assert_int_equal(cb_error_status(), status);
    cb_error_clear();
}

static void assert_vectors(const char *name, const float *found, double tolerance)
{
    cb_safetensors *file = cb_safetensors_open(REFERENCE "/expected.safetensors");
    const cb_weight_entry *entry = file ? cb_safetensors_find(file, name) : NULL;
    assert_non_null(entry);
    size_t count = entry->size / sizeof(float);
    for (size_t i = 0; i < count; i++)
        if (!(fabs((double)found[i] - (double)((const float *)entry->data)[i]) <= tolerance))
            fail_msg("%s[%zu] is %.8g, expected %.8g", name, i, (double)found[i], (double)((const float *)entry->data)[i]);
    cb_safetensors_close(file);
}

static void assert_embeds(const char *name, const char *path, const cb_embed_options *options)
{
    float out[TEXTS * MOST];
    cb_embedder *e = load(path);
    assert_true(cb_embedder_dimension(e) <= MOST);
    cb_embed(e, texts, TEXTS, options, out);
    assert_ok();
    assert_vectors(name, out, 2e-5);
    cb_embedder_free(e);
}

/* ---- against transformers ---- */

static void every_pooling_is_that_of_its_definition(void **state)
{
    (void)state;
    static const char *const modes[][2] = {{"cls", "cls_token"},
                                           {"max", "max_tokens"},
                                           {"mean", "mean_tokens"},
                                           {"mean_sqrt_len_tokens", "mean_sqrt_len_tokens"},
                                           {"weightedmean", "weightedmean_tokens"},
                                           {"lasttoken", "lasttoken"}};
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        char settings[200];
        snprintf(settings, sizeof settings, "{\"word_embedding_dimension\": 16, \"pooling_mode_%s\": true}", modes[i][1]);
        assert_embeds(modes[i][0], make_encoder(settings, ""), NULL);
        snprintf(settings, sizeof settings, "{\"embedding_dimension\": 16, \"pooling_mode\": \"%s\", \"include_prompt\": true}",
                 modes[i][0]);
        assert_embeds(modes[i][0], make_encoder(settings, ""), &(cb_embed_options){.batch_size = 2});
    }
    assert_embeds("cls_mean", make_encoder("{\"pooling_mode\": [\"cls\", \"mean\"]}", ""), NULL);
}

static void a_plain_model_is_the_mean_of_its_tokens(void **state)
{
    (void)state;
    assert_embeds("mean", REFERENCE "/model", NULL);
    assert_embeds("normalized", REFERENCE "/model", &(cb_embed_options){.normalize = true});
}

static void modules_behind_the_pooling_are_applied(void **state)
{
    (void)state;
    assert_embeds("normalized", make_encoder("{}", ", " AT("Normalize", "2_Normalize")), NULL);
    const char *path = make_encoder("{}", ", " AT("Dense", "2_Dense"));
    write_in(path, "2_Dense/config.json",
             "{\"in_features\": 16, \"out_features\": 7, \"bias\": true, "
             "\"activation_function\": \"torch.nn.modules.activation.Tanh\"}");
    cb_safetensors *file = cb_safetensors_open(REFERENCE "/expected.safetensors");
    cb_weight_entry weights[] = {*cb_safetensors_find(file, "dense.weight"), *cb_safetensors_find(file, "dense.bias")};
    weights[0].name = "linear.weight";
    weights[1].name = "linear.bias";
    char target[400];
    snprintf(target, sizeof target, "%s/2_Dense/model.safetensors", path);
    assert_true(cb_safetensors_write(target, weights, 2, NULL, NULL, NULL));
    cb_safetensors_close(file);
    assert_embeds("dense", path, NULL);

    cb_embedder *e = load(path);
    assert_true(cb_embedder_save_modules(e, scratch_path("saved")));
    cb_embedder_free(e);
    char command[600];
    snprintf(command, sizeof command, "cp '%s/config.json' '%s/model.safetensors' '%s'", path, path, scratch_path("saved"));
    assert_int_equal(system(command), 0);
    assert_embeds("dense", scratch_path("saved"), NULL);
}

static void prompts_go_before_texts(void **state)
{
    (void)state;
    static const char settings[] = "{\"prompts\": {\"query\": \"query : \", \"other\": \"the \"}, \"default_prompt_name\": \"query\", "
                                   "\"similarity_fn_name\": \"dot\"}";
    const char *path = make_encoder("{\"pooling_mode_mean_tokens\": true}", "");
    assert_embeds("prompted", path, &(cb_embed_options){.prompt = "query : "});
    write_in(path, "config_sentence_transformers.json", settings);
    assert_embeds("prompted", path, NULL);
    assert_embeds("mean", path, &(cb_embed_options){.prompt = ""});
    write_in(path, "1_Pooling/config.json", "{\"pooling_mode_mean_tokens\": true, \"include_prompt\": false}");
    assert_embeds("prompt_left_out", path, NULL);
    cb_embedder *e = load(path);
    assert_int_equal(cb_embedder_similarity(e), CB_SIMILARITY_DOT);
    assert_string_equal(cb_embedder_query_prompt(e), "query : ");
    assert_string_equal(cb_embedder_document_prompt(e), "query : ");
    assert_string_equal(cb_embedder_prompt(e, "other"), "the ");
    assert_null(cb_embedder_prompt(e, "none"));
    cb_embedder_free(e);
}

static void long_texts_are_cut(void **state)
{
    (void)state;
    const char *path = make_encoder("{}", "");
    write_in(path, "sentence_bert_config.json", "{\"max_seq_length\": 6, \"do_lower_case\": true}");
    assert_embeds("cut", path, NULL);
    cb_embedder *e = load(REFERENCE "/model");
    assert_int_equal(cb_embedder_max_tokens(e), 32); /* the tokenizer's, less than the model's 40 */
    assert_false(cb_embedder_set_max_tokens(e, 41));
    cb_error_clear();
    assert_true(cb_embedder_set_max_tokens(e, 40));
    cb_embedder_free(e);
}

static void a_vector_does_not_depend_on_the_texts_beside_it(void **state)
{
    (void)state;
    const char *turned[TEXTS];
    float out[TEXTS * WIDTH], other[TEXTS * WIDTH];
    cb_embedder *e = load(REFERENCE "/model");
    cb_embed(e, texts, TEXTS, NULL, out);
    for (size_t i = 0; i < TEXTS; i++)
        turned[i] = texts[TEXTS - 1 - i];
    cb_embed(e, turned, TEXTS, &(cb_embed_options){.batch_size = 3}, other);
    assert_ok();
    for (size_t i = 0; i < TEXTS; i++)
        for (size_t d = 0; d < WIDTH; d++)
            assert_true(fabsf(out[i * WIDTH + d] - other[(TEXTS - 1 - i) * WIDTH + d]) <= 1e-5f);
    cb_embedder_free(e);
}

/* Sentence encoders are BertModels; what they are trained from may be a model of masked words. */
static void layers_have_the_names_of_the_bare_model(void **state)
{
    (void)state;
    cb_embedder *e = load(CB_TEST_DATA "/sentence_encoders/model");
    assert_non_null(cb_layer_find(cb_model_root(cb_embedder_model(e)), "encoder.layer.0.attention.self.query"));
    assert_null(cb_layer_find(cb_model_root(cb_embedder_model(e)), "bert"));
    cb_embedder_free(e);
    cb_model *words = cb_model_load(CB_TEST_DATA "/encoders/bert", .head = CB_HEAD_NONE); /* its file has bert.encoder.layer.0 */
    assert_ok();
    assert_non_null(cb_layer_find(cb_model_root(words), "encoder.layer.0.attention.self.query"));
    cb_model_free(words);
    cb_model *decoder = cb_model_load(CB_TEST_DATA "/models/qwen3", .head = CB_HEAD_NONE);
    assert_ok();
    assert_int_equal(cb_model_head_kind(decoder), CB_HEAD_NONE);
    assert_null(cb_model_head_layer(decoder));
    cb_model_free(decoder);
}

/* ---- search ---- */

static void search_gives_the_largest_products(void **state)
{
    (void)state;
    enum { QUERIES = 70, DOCUMENTS = 2500, DIMENSION = 8, K = 7 };
    cb_rng rng = {.seed = 3};
    float *queries = cb_alloc(QUERIES * DIMENSION * sizeof *queries), *documents = cb_alloc(DOCUMENTS * DIMENSION * sizeof *documents);
    for (int i = 0; i < QUERIES * DIMENSION; i++)
        queries[i] = (float)cb_rng_below(&rng, 5) - 2; /* whole numbers: products are exact, and many are equal */
    for (int i = 0; i < DOCUMENTS * DIMENSION; i++)
        documents[i] = (float)cb_rng_below(&rng, 5) - 2;
    cb_search *s = cb_search_open(queries, QUERIES, DIMENSION, K);
    assert_true(cb_search_add(s, documents, 100) && cb_search_add(s, documents + 100 * DIMENSION, DOCUMENTS - 100));
    for (size_t q = 0; q < QUERIES; q++) {
        const cb_hit *hits;
        assert_int_equal(cb_search_hits(s, q, &hits), K);
        float scores[DOCUMENTS];
        for (size_t i = 0; i < DOCUMENTS; i++) {
            scores[i] = 0;
            for (size_t d = 0; d < DIMENSION; d++)
                scores[i] += queries[q * DIMENSION + d] * documents[i * DIMENSION + d];
        }
        for (size_t k = 0; k < K; k++) {
            size_t best = 0;
            for (size_t i = 1; i < DOCUMENTS; i++)
                best = scores[i] > scores[best] ? i : best;
            assert_int_equal(hits[k].index, best);
            assert_true(hits[k].score == scores[best]);
            scores[best] = -INFINITY;
        }
    }
    cb_search_free(s);
    s = cb_search_open(queries, 1, DIMENSION, K);
    assert_true(cb_search_add(s, documents, 3));
    const cb_hit *hits;
    assert_int_equal(cb_search_hits(s, 0, &hits), 3);
    cb_search_free(s);
    cb_free(queries);
    cb_free(documents);
    assert_null(cb_search_open(queries, 1, DIMENSION, 0));
    cb_error_clear();
}

/* ---- what must be refused ---- */

static void unknown_modules_are_refused_by_name(void **state)
{
    (void)state;
    assert_refused(make_encoder("{}", ", " TYPE("LSTM")), CB_ERR_UNSUPPORTED, "sentence_transformers.models.LSTM");
    assert_refused(make_encoder("{}", ", {\"type\": \"custom.Normalize\"}"), CB_ERR_UNSUPPORTED, "found custom.Normalize");
    const char *path = make_encoder("{}", "");
    write_in(path, "modules.json", "[" TYPE("Pooling") ", " TYPE("Transformer") "]");
    assert_refused(path, CB_ERR_UNSUPPORTED, "module 0: found sentence_transformers.models.Pooling, expected Transformer");
    write_in(path, "modules.json", "[" TYPE("Transformer") "]");
    assert_refused(path, CB_ERR_FORMAT, "found no list of modules");
    write_in(path, "modules.json", "[" TYPE("Transformer") ", {\"path\": \"1_Pooling\"}]");
    assert_refused(path, CB_ERR_FORMAT, "module 1: type is missing");
    write_in(path, "modules.json", "[" TYPE("Transformer") ", 3]");
    assert_refused(path, CB_ERR_FORMAT, "module 1: found no object");
    write_in(path, "modules.json", "[" TYPE("Transformer") ", " AT("Pooling", "../other") "]");
    assert_refused(path, CB_ERR_FORMAT, "\"../other\"");
    write_in(path, "modules.json", "[" TYPE("Transformer") ", " AT("Pooling", "/etc") "]");
    assert_refused(path, CB_ERR_FORMAT, "\"/etc\"");
}

static void settings_that_cannot_be_followed_are_refused(void **state)
{
    (void)state;
    assert_refused(make_encoder("{\"pooling_mode\": \"median\"}", ""), CB_ERR_UNSUPPORTED, "pooling_mode: found \"median\"");
    assert_refused(make_encoder("{\"pooling_mode\": [\"cls\", \"cls\"]}", ""), CB_ERR_UNSUPPORTED, "each once");
    assert_refused(make_encoder("{\"pooling_mode\": [1]}", ""), CB_ERR_FORMAT, "an item that is no string");
    assert_refused(make_encoder("{\"pooling_mode_cls_token\": 1}", ""), CB_ERR_FORMAT, "pooling_mode_cls_token");
    assert_refused(make_encoder("{\"word_embedding_dimension\": 768}", ""), CB_ERR_FORMAT, "for width 768, expected the model's 16");
    assert_refused(make_encoder("[]", ""), CB_ERR_FORMAT, "found no JSON object");
    const char *path = make_encoder("{}", "");
    write_in(path, "sentence_bert_config.json", "{\"max_seq_length\": -1}");
    assert_refused(path, CB_ERR_FORMAT, "max_seq_length: found -1");
    path = make_encoder("{}", "");
    write_in(path, "config_sentence_transformers.json", "{\"similarity_fn_name\": \"euclidean\"}");
    assert_refused(path, CB_ERR_UNSUPPORTED, "similarity_fn_name: found \"euclidean\"");
    write_in(path, "config_sentence_transformers.json", "{\"model_type\": \"SparseEncoder\"}");
    assert_refused(path, CB_ERR_UNSUPPORTED, "model_type: found \"SparseEncoder\"");
    write_in(path, "config_sentence_transformers.json", "{\"prompts\": {\"query\": 3}}");
    assert_refused(path, CB_ERR_FORMAT, "query: found a whole number");
    write_in(path, "config_sentence_transformers.json", "{\"default_prompt_name\": \"query\"}");
    assert_refused(path, CB_ERR_FORMAT, "default_prompt_name: found \"query\"");
}

static void dense_layers_are_checked_against_their_weights(void **state)
{
    (void)state;
    const char *path = make_encoder("{}", ", " AT("Dense", "2_Dense"));
    assert_refused(path, CB_ERR_IO, "which a Dense module has");
    write_in(path, "2_Dense/config.json", "{\"in_features\": 16, \"out_features\": 7, \"activation_function\": \"torch.nn.Mish\"}");
    assert_refused(path, CB_ERR_UNSUPPORTED, "activation_function: found \"torch.nn.Mish\"");
    write_in(path, "2_Dense/config.json", "{\"in_features\": 16, \"out_features\": 7, \"use_residual\": true}");
    assert_refused(path, CB_ERR_UNSUPPORTED, "use_residual");
    write_in(path, "2_Dense/config.json", "{\"in_features\": 16, \"out_features\": 99999999999}");
    assert_refused(path, CB_ERR_FORMAT, "in_features, out_features");
    write_in(path, "2_Dense/config.json", "{\"in_features\": 16, \"out_features\": 7, \"module_input_name\": \"token_embeddings\"}");
    assert_refused(path, CB_ERR_UNSUPPORTED, "module_input_name");
    write_in(path, "2_Dense/config.json", "{\"in_features\": 16, \"out_features\": 16777216, \"bias\": false}");
    char command[600];
    snprintf(command, sizeof command, "cp '%s/model.safetensors' '%s/2_Dense'", path, path);
    assert_int_equal(system(command), 0);
    assert_refused(path, CB_ERR_FORMAT, "tensor linear.weight is missing");
    const float ones[12] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    const cb_weight_entry small = {.name = "linear.weight", .dtype = CB_F32, .ndim = 2, .shape = {3, 4}, .data = ones, .size = sizeof ones};
    char target[400];
    snprintf(target, sizeof target, "%s/2_Dense/model.safetensors", path);
    assert_true(cb_safetensors_write(target, &small, 1, NULL, NULL, NULL));
    assert_refused(path, CB_ERR_FORMAT, "expected (16777216, 16) from config.json");
    write_in(path, "2_Dense/config.json", "{\"in_features\": 4, \"out_features\": 3, \"bias\": false}");
    assert_refused(path, CB_ERR_FORMAT, "in_features: found 4, expected 16");
}

static void a_text_that_is_no_text_is_an_error(void **state)
{
    (void)state;
    float out[WIDTH];
    cb_embedder *e = load(REFERENCE "/model");
    assert_false(cb_embed(e, (const char *const[]){"\xff"}, 1, NULL, out));
    assert_non_null(strstr(cb_error_message(), "text 1: found a text that is not UTF-8"));
    cb_error_clear();
    cb_embedder_free(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(every_pooling_is_that_of_its_definition, without_errors),
        cmocka_unit_test_setup(a_plain_model_is_the_mean_of_its_tokens, without_errors),
        cmocka_unit_test_setup(modules_behind_the_pooling_are_applied, without_errors),
        cmocka_unit_test_setup(prompts_go_before_texts, without_errors),
        cmocka_unit_test_setup(long_texts_are_cut, without_errors),
        cmocka_unit_test_setup(a_vector_does_not_depend_on_the_texts_beside_it, without_errors),
        cmocka_unit_test_setup(layers_have_the_names_of_the_bare_model, without_errors),
        cmocka_unit_test_setup(search_gives_the_largest_products, without_errors),
        cmocka_unit_test_setup(unknown_modules_are_refused_by_name, without_errors),
        cmocka_unit_test_setup(settings_that_cannot_be_followed_are_refused, without_errors),
        cmocka_unit_test_setup(dense_layers_are_checked_against_their_weights, without_errors),
        cmocka_unit_test_setup(a_text_that_is_no_text_is_an_error, without_errors),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
