/* test_generate.c: generation: the greedy ids transformers gives, streaming, stop strings, limits; and the sampler
 * against a plain sort-everything version of transformers' definitions. */
#include "model_fixtures.h"

enum { PROMPT = 5, CONTINUATION = 12, VOCABULARY = 96 };

/* ---- a tokenizer for the reference models: id 3 + n is byte '!' + n ---- */

/* Byte-level BPE without merges.  The tokens `first` and `second` stand for the two bytes of U+00E9, so that they come
 * out together. */
static cb_tokenizer *byte_tokenizer(int32_t first, int32_t second)
{
    json_t *vocab = json_object(), *specials = json_array();
    static const char *const special[] = {"<pad>", "<s>", "</s>"};
    for (int i = 0; i < 3; i++) {
        json_object_set_new(vocab, special[i], json_integer(i));
        json_array_append_new(specials, json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", i, "content", special[i], "single_word", 0,
                                                  "lstrip", 0, "rstrip", 0, "normalized", 0, "special", 1));
    }
    for (int i = 3; i < VOCABULARY; i++) {
        char plain[2] = {(char)('!' + i - 3), 0};
        const char *text = i == first ? "\xC3\x83" : i == second ? "\xC2\xA9" : plain; /* the alphabet's letters for C3 and A9 */
        json_object_set_new(vocab, text, json_integer(i));
    }
    json_t *model = json_pack("{s:s, s:o, s:[]}", "type", "BPE", "vocab", vocab, "merges");
    json_t *level = json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1, "use_regex", 0);
    json_t *file = json_pack("{s:s, s:n, s:n, s:o, s:n, s:o, s:n, s:O, s:o}", "version", "1.0", "truncation", "padding", "added_tokens",
                             specials, "normalizer", "pre_tokenizer", level, "post_processor", "decoder", level, "model", model);
    assert_non_null(file);
    char *text = json_dumps(file, 0);
    cb_tokenizer *tokenizer = cb_tokenizer_parse("test", text, strlen(text));
    free(text);
    json_decref(file);
    assert_ok();
    return tokenizer;
}

static cb_generate_options options_default(void)
{
    cb_generate_options options;
    assert_true(cb_options_init(cb_generate_option_table, &options));
    options.max_new_tokens = CONTINUATION;
    options.ignore_eos = true;
    return options;
}

static const int32_t *prompt_of(const fixture *f)
{
    return f->ids->data;
}

static void expected_greedy(const fixture *f, int32_t *ids)
{
    assert_true(cb_read(expected_tensor(f, "greedy"), CB_I32, ids));
}

/* What a callback was given. */
typedef struct listener {
    cb_string text;
    int pieces, most; /* most > 0: has enough after so many */
} listener;

static bool listen(void *user, const char *text, size_t length)
{
    listener *l = user;
    assert_true(length > 0);
    assert_true(cb_utf8_valid(text, length, NULL));
    assert_true(cb_string_append(&l->text, text, length));
    return ++l->pieces != l->most;
}

/* ---- ids ---- */

static void greedy_ids_equal_transformers(void **state)
{
    (void)state;
    for (size_t i = 0; i < REFERENCE_COUNT; i++) {
        fixture f = fixture_open(reference_models[i]);
        int32_t expected[CONTINUATION];
        expected_greedy(&f, expected);
        cb_generate_options options = options_default();
        cb_generation out = {0};
        assert_true(cb_generate_ids(f.model, NULL, prompt_of(&f), PROMPT, &options, NULL, NULL, &out));
        assert_int_equal(out.count, CONTINUATION);
        assert_memory_equal(out.ids, expected, sizeof expected);
        assert_string_equal(out.finish_reason, "length");
        assert_int_equal(out.prompt_tokens, PROMPT);
        cb_generation_free(&out);
        fixture_close(&f);
    }
}

static void generation_ends_with_an_end_of_sequence_id(void **state)
{
    (void)state;
    fixture f = fixture_open("llama2");
    int32_t expected[CONTINUATION];
    expected_greedy(&f, expected);
    int end = 0;
    while (expected[end] != expected[4]) /* its first appearance */
        end++;
    char change[100];
    snprintf(change, sizeof change, "{\"eos_token_id\": [2, %d]}", expected[4]);
    char *directory = changed_model("llama2", change);
    cb_model *model = cb_model_load(directory);
    assert_ok();
    cb_generate_options options = options_default();
    options.ignore_eos = false;
    cb_generation out = {0};
    assert_true(cb_generate_ids(model, NULL, prompt_of(&f), PROMPT, &options, NULL, NULL, &out));
    assert_int_equal(out.count, end + 1);
    assert_string_equal(out.finish_reason, "stop");
    cb_generation_free(&out);
    cb_model_free(model);
    remove_model(directory);
    fixture_close(&f);
}

static void the_context_is_a_limit(void **state)
{
    (void)state;
    fixture f = fixture_open("gpt2"); /* 32 positions */
    cb_generate_options options = options_default();
    cb_generation out = {0};
    int32_t prompt[32];
    for (int i = 0; i < 32; i++)
        prompt[i] = 3 + i;
    assert_true(cb_generate_ids(f.model, NULL, prompt, 28, &options, NULL, NULL, &out));
    assert_int_equal(out.count, 4);
    assert_string_equal(out.finish_reason, "length");
    assert_false(cb_generate_ids(f.model, NULL, prompt, 32, &options, NULL, NULL, &out));
    assert_int_equal(cb_error_status(), CB_ERR_ARGUMENT);
    assert_non_null(strstr(cb_error_message(), "the prompt has 32 tokens, expected less than the 32 positions"));
    cb_error_clear();
    assert_false(cb_generate_ids(f.model, NULL, prompt, 0, &options, NULL, NULL, &out));
    assert_non_null(strstr(cb_error_message(), "empty"));
    cb_error_clear();
    prompt[0] = 96;
    assert_false(cb_generate_ids(f.model, NULL, prompt, 4, &options, NULL, NULL, &out));
    cb_error_clear();
    cb_generation_free(&out);
    fixture_close(&f);
}

static char warnings[256];
static int warned;
static void count_warnings(void *user, cb_log_level level, const char *message)
{
    (void)user;
    warned += level == CB_LOG_WARNING;
    snprintf(warnings, sizeof warnings, "%s", message);
}

/* Rotary angles have no end: the ids are those of a model that was made for more positions, and one warning is given. */
static void rotary_positions_go_on(void **state)
{
    (void)state;
    fixture f = fixture_open("llama2");
    int32_t expected[CONTINUATION];
    expected_greedy(&f, expected);
    static const char *const limits[] = {"{\"max_position_embeddings\": 8}", "{\"max_position_embeddings\": 3}",
                                         "{\"max_position_embeddings\": 16}"};
    cb_log_set(count_warnings, NULL);
    for (int i = 0; i < 3; i++) {
        char *directory = changed_model("llama2", limits[i]);
        cb_model *model = cb_model_load(directory);
        assert_ok();
        cb_generate_options options = options_default();
        cb_generation out = {0};
        warned = 0;
        assert_true(cb_generate_ids(model, NULL, prompt_of(&f), PROMPT, &options, NULL, NULL, &out));
        assert_int_equal(out.count, CONTINUATION);
        assert_memory_equal(out.ids, expected, sizeof expected);
        assert_string_equal(out.finish_reason, "length");
        assert_int_equal(warned, i < 2); /* the last of 17 tokens is not read: 16 positions are enough */
        assert_true(!warned || strstr(warnings, i ? "beyond the 3 positions" : "beyond the 8 positions"));
        cb_generation_free(&out);
        cb_model_free(model);
        remove_model(directory);
    }
    cb_log_set(NULL, NULL);
    fixture_close(&f);
}

static void sampling_repeats_with_its_seed(void **state)
{
    (void)state;
    fixture f = fixture_open("qwen2");
    cb_generate_options options = options_default();
    options.temperature = 1.5;
    options.top_p = 0.95;
    cb_generation out[3] = {0};
    for (int i = 0; i < 3; i++) {
        options.seed = i < 2 ? 11 : 12;
        assert_true(cb_generate_ids(f.model, NULL, prompt_of(&f), PROMPT, &options, NULL, NULL, &out[i]));
    }
    assert_memory_equal(out[0].ids, out[1].ids, CONTINUATION * sizeof(int32_t));
    assert_memory_not_equal(out[0].ids, out[2].ids, CONTINUATION * sizeof(int32_t));
    for (int i = 0; i < 3; i++)
        cb_generation_free(&out[i]);
    fixture_close(&f);
}

static void an_interrupt_stops_generation(void **state)
{
    (void)state;
    fixture f = fixture_open("qwen2");
    cb_generate_options options = options_default();
    cb_generation out = {0};
    cb_interrupt();
    assert_false(cb_generate_ids(f.model, NULL, prompt_of(&f), PROMPT, &options, NULL, NULL, &out));
    assert_int_equal(cb_error_status(), CB_ERR_INTERRUPTED);
    cb_interrupt_clear();
    cb_error_clear();
    cb_generation_free(&out);
    fixture_close(&f);
}

/* ---- text ---- */

static void text_comes_in_whole_characters(void **state)
{
    (void)state;
    fixture f = fixture_open("llama2");
    int32_t expected[CONTINUATION];
    expected_greedy(&f, expected);
    int at = 2;
    while (expected[at] == expected[at + 1])
        at++;
    cb_tokenizer *tokenizer = byte_tokenizer(expected[at], expected[at + 1]);
    cb_generate_options options = options_default();
    cb_generation out = {0};
    listener heard = {0};
    assert_true(cb_generate_ids(f.model, tokenizer, prompt_of(&f), PROMPT, &options, listen, &heard, &out));
    cb_string whole = {0};
    assert_true(cb_tokenizer_decode(tokenizer, expected, CONTINUATION, true, &whole));
    assert_non_null(strstr(whole.data, "\xC3\xA9"));
    assert_string_equal(out.text.data, whole.data);
    assert_string_equal(heard.text.data, whole.data);
    assert_true(heard.pieces > 3);
    cb_string_free(&whole);
    cb_string_free(&heard.text);
    cb_generation_free(&out);
    cb_tokenizer_free(tokenizer);
    fixture_close(&f);
}

static void a_text_prompt_is_its_ids(void **state)
{
    (void)state;
    fixture f = fixture_open("llama2");
    cb_tokenizer *tokenizer = byte_tokenizer(-1, -1);
    char prompt[PROMPT + 1] = {0};
    for (int i = 0; i < PROMPT; i++)
        prompt[i] = (char)('!' + prompt_of(&f)[i] - 3);
    int32_t expected[CONTINUATION];
    expected_greedy(&f, expected);
    cb_generate_options options = options_default();
    cb_generation out = {0};
    assert_true(cb_generate(f.model, tokenizer, prompt, &options, NULL, NULL, &out));
    assert_int_equal(out.count, CONTINUATION);
    assert_memory_equal(out.ids, expected, sizeof expected);
    cb_generation_free(&out);
    cb_tokenizer_free(tokenizer);
    fixture_close(&f);
}

/* The greedy text of llama2 is cut at bytes [from, from + length): what comes out is the text before, and nothing of
 * the stop string is ever handed on. */
static void stop_string_case(int from, int length, bool other_first)
{
    fixture f = fixture_open("llama2");
    cb_tokenizer *tokenizer = byte_tokenizer(-1, -1);
    int32_t expected[CONTINUATION];
    expected_greedy(&f, expected);
    char text[CONTINUATION + 1] = {0}, stop[CONTINUATION + 1] = {0};
    for (int i = 0; i < CONTINUATION; i++)
        text[i] = expected[i] < 3 ? '?' : (char)('!' + expected[i] - 3);
    memcpy(stop, text + from, (size_t)length);
    *strstr(text, stop) = 0;
    cb_generate_options options = options_default();
    if (other_first)
        assert_true(cb_string_list_add(&options.stop, "never said"));
    assert_true(cb_string_list_add(&options.stop, stop));
    cb_generation out = {0};
    listener heard = {0};
    assert_true(cb_generate_ids(f.model, tokenizer, prompt_of(&f), PROMPT, &options, listen, &heard, &out));
    assert_string_equal(out.finish_reason, "stop");
    assert_string_equal(out.text.data, text);
    assert_string_equal(heard.text.data ? heard.text.data : "", text);
    cb_string_free(&heard.text);
    cb_generation_free(&out);
    cb_tokenizer_free(tokenizer);
    cb_string_list_free(&options.stop);
    fixture_close(&f);
}

static void stop_strings_are_never_heard(void **state)
{
    (void)state;
    stop_string_case(4, 1, false);
    stop_string_case(4, 3, true);
    stop_string_case(7, 5, false); /* the very end */
    stop_string_case(0, 2, false); /* nothing before it */
}

static void what_only_began_like_a_stop_string_is_heard(void **state)
{
    (void)state;
    fixture f = fixture_open("llama2");
    cb_tokenizer *tokenizer = byte_tokenizer(-1, -1);
    int32_t expected[CONTINUATION];
    expected_greedy(&f, expected);
    cb_generate_options options = options_default();
    /* its first two characters are said, at the end too, but never the whole of it */
    for (int i = 0; i < CONTINUATION; i += CONTINUATION - 2) {
        char stop[] = {(char)('!' + expected[i] - 3), (char)('!' + expected[i + 1] - 3), '~', '~', 0};
        assert_true(cb_string_list_add(&options.stop, stop));
    }
    cb_string whole = {0};
    assert_true(cb_tokenizer_decode(tokenizer, expected, CONTINUATION, true, &whole));
    cb_generation out = {0};
    listener heard = {0};
    assert_true(cb_generate_ids(f.model, tokenizer, prompt_of(&f), PROMPT, &options, listen, &heard, &out));
    assert_string_equal(out.finish_reason, "length");
    assert_string_equal(heard.text.data, whole.data);
    assert_string_equal(out.text.data, whole.data);
    cb_string_free(&whole);
    cb_string_free(&heard.text);
    cb_generation_free(&out);
    cb_tokenizer_free(tokenizer);
    cb_string_list_free(&options.stop);
    fixture_close(&f);
}

static void a_listener_may_have_enough(void **state)
{
    (void)state;
    fixture f = fixture_open("llama2");
    cb_tokenizer *tokenizer = byte_tokenizer(-1, -1);
    cb_generate_options options = options_default();
    cb_generation out = {0};
    listener heard = {.most = 3};
    assert_true(cb_generate_ids(f.model, tokenizer, prompt_of(&f), PROMPT, &options, listen, &heard, &out));
    assert_int_equal(heard.pieces, 3);
    assert_true(out.count < CONTINUATION);
    assert_string_equal(out.finish_reason, "stop");
    cb_string_free(&heard.text);
    cb_generation_free(&out);
    cb_tokenizer_free(tokenizer);
    fixture_close(&f);
}

/* ---- the sampler ---- */

typedef struct reference {
    double score; /* minus infinity: removed */
    int32_t id;
} reference;

static int by_score(const void *a, const void *b)
{
    const reference *x = a, *y = b;
    return x->score != y->score ? (x->score > y->score ? -1 : 1) : (x->id > y->id) - (x->id < y->id);
}

static double exp_sum(const reference *r, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += exp(r[i].score - r[0].score);
    return sum;
}

/* transformers' processors in its order, with everything sorted; gives how many are left, likeliest first. */
static int filter(const float *logits, int n, const cb_generate_options *o, const uint8_t *seen, reference *r)
{
    for (int i = 0; i < n; i++) {
        double s = (double)logits[i], penalty = o->repetition_penalty;
        if (seen[i])
            s = s < 0 ? s * penalty : s / penalty;
        r[i] = (reference){.score = s / o->temperature, .id = i};
    }
    qsort(r, (size_t)n, sizeof *r, by_score);
    int left = n;
    if (o->top_k && o->top_k < n) /* scores below the k-th go; those equal to it stay */
        for (left = (int)o->top_k; left < n && r[left].score == r[o->top_k - 1].score; left++)
            ;
    double total = exp_sum(r, left), above = 0;
    if (o->top_p < 1)
        for (int i = 0; i < left; i++) { /* removed when what is left from the bottom is at most 1 - p; the first always stays */
            if (i && above >= o->top_p * total)
                left = i;
            else
                above += exp(r[i].score - r[0].score);
        }
    return left;
}

static void candidates_equal_transformers_definitions(void **state)
{
    (void)state;
    enum { N = 500 };
    static const struct {
        double temperature;
        int64_t top_k;
        double top_p, penalty;
    } cases[] = {{1, 0, 1, 1},   {0.7, 0, 1, 1.3}, {1, 1, 1, 1},     {1, 7, 1, 1},        {2, 40, 1, 0.8}, {1, 600, 1, 1},
                 {1, 0, 0.9, 1}, {1, 0, 0.05, 1},  {0.3, 0, 0.5, 1}, {1.5, 50, 0.8, 1.2}, {1, 3, 0.99, 1}, {1, 0, 0.999, 1}};
    cb_rng rng = {.seed = 5};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        for (int repeat = 0; repeat < 5; repeat++) {
            float logits[N];
            uint8_t seen[N] = {0};
            int32_t ids[20];
            reference r[N];
            for (int i = 0; i < N; i++) /* repeat 1: in steps of a half, so that there are ties */
                logits[i] = (float)(repeat == 1 ? round(4 * cb_rng_normal(&rng)) / 2 : 3 * cb_rng_normal(&rng));
            for (int i = 0; i < 20; i++)
                seen[ids[i] = (int32_t)cb_rng_below(&rng, N)] = 1;
            cb_generate_options o = {.temperature = cases[c].temperature,
                                     .top_k = cases[c].top_k,
                                     .top_p = cases[c].top_p,
                                     .repetition_penalty = cases[c].penalty,
                                     .seed = (uint64_t)repeat};
            int left = filter(logits, N, &o, seen, r);
            cb_scope *scope = cb_scope_open();
            cb_sampler *sampler = cb_sampler_new(N, &o);
            assert_true(cb_sampler_see(sampler, ids, 20));
            int32_t id = cb_sampler_next(sampler, cb_from(CB_F32, logits, N));
            assert_ok();
            const cb_candidate *list;
            size_t count = cb_sampler_candidates(sampler, &list);
            if (repeat == 1 && o.top_p < 1) { /* which of equals falls out of the nucleus is nobody's promise; how many is */
                assert_true(abs((int)count - left) <= 1);
            } else {
                assert_int_equal(count, left);
                double sum = exp_sum(r, left), own = 0, probability[N] = {0};
                for (size_t i = 0; i < count; i++)
                    own += (double)list[i].weight;
                for (size_t i = 0; i < count; i++)
                    probability[list[i].id] = (double)list[i].weight / own;
                for (int i = 0; i < left; i++)
                    assert_true(fabs(probability[r[i].id] - exp(r[i].score - r[0].score) / sum) < 1e-5);
                assert_true(probability[id] > 0);
            }
            cb_sampler_free(sampler);
            cb_scope_close(scope);
        }
}

static void draws_follow_the_probabilities(void **state)
{
    (void)state;
    enum { N = 6, DRAWS = 20000 };
    const float logits[N] = {0, 1, 2, -INFINITY, 0.5f, -1};
    double sum = 0, chi = 0;
    int seen[N] = {0};
    for (int i = 0; i < N; i++)
        sum += exp((double)logits[i]);
    cb_generate_options o = {.temperature = 1, .seed = 3};
    cb_scope *scope = cb_scope_open();
    cb_sampler *sampler = cb_sampler_new(N, &o);
    cb_tensor *t = cb_from(CB_F32, logits, 1, N);
    for (int i = 0; i < DRAWS; i++)
        seen[cb_sampler_next(sampler, t)]++;
    assert_ok();
    assert_int_equal(seen[3], 0);
    for (int i = 0; i < N; i++) {
        double expected = DRAWS * exp((double)logits[i]) / sum;
        if (i != 3)
            chi += (seen[i] - expected) * (seen[i] - expected) / expected;
    }
    assert_true(chi < 23.5); /* 4 degrees of freedom: one seed in ten thousand would do worse */
    cb_sampler_free(sampler);
    cb_scope_close(scope);
}

static void bad_logits_and_options_are_refused(void **state)
{
    (void)state;
    const float nan_logits[3] = {0, NAN, 1}, nothing[3] = {-INFINITY, -INFINITY, -INFINITY};
    cb_scope *scope = cb_scope_open();
    cb_generate_options o = {.temperature = 1};
    cb_sampler *sampler = cb_sampler_new(3, &o);
    assert_int_equal(cb_sampler_next(sampler, cb_from(CB_F32, nan_logits, 3)), -1);
    assert_int_equal(cb_error_status(), CB_ERR_NUMERIC);
    cb_error_clear();
    assert_int_equal(cb_sampler_next(sampler, cb_from(CB_F32, nothing, 3)), -1);
    assert_int_equal(cb_error_status(), CB_ERR_NUMERIC);
    cb_error_clear();
    assert_int_equal(cb_sampler_next(sampler, cb_zeros(CB_F32, 4)), -1);
    assert_int_equal(cb_error_status(), CB_ERR_SHAPE);
    cb_error_clear();
    cb_sampler_free(sampler);
    cb_scope_close(scope);
    const cb_generate_options bad[] = {
        {.temperature = -1}, {.temperature = NAN}, {.top_p = 1.5}, {.top_k = -1}, {.repetition_penalty = -2}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_null(cb_sampler_new(3, &bad[i]));
        assert_int_equal(cb_error_status(), CB_ERR_ARGUMENT);
        cb_error_clear();
    }
}

/* 1 - p rounds to 1 here, so that the only candidate's probability is no more than the bound below which tokens fall out. */
static void the_likeliest_token_is_in_every_nucleus(void **state)
{
    (void)state;
    const float logits[4] = {0, 1, 3, 2};
    cb_scope *scope = cb_scope_open();
    for (int64_t k = 0; k <= 2; k++) {
        cb_generate_options o = {.temperature = 0.5, .top_k = k, .top_p = 1e-30};
        cb_sampler *sampler = cb_sampler_new(4, &o);
        const cb_candidate *list;
        assert_int_equal(cb_sampler_next(sampler, cb_from(CB_F32, logits, 4)), 2);
        assert_int_equal(cb_sampler_candidates(sampler, &list), 1);
        cb_sampler_free(sampler);
    }
    cb_scope_close(scope);
}

static void bad_stop_strings_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"", "\xC3"};
    fixture f = fixture_open("llama2");
    cb_tokenizer *tokenizer = byte_tokenizer(-1, -1);
    for (size_t i = 0; i < 3; i++) { /* the third: a good one, but no tokenizer */
        cb_generate_options options = options_default();
        cb_generation out = {0};
        assert_true(cb_string_list_add(&options.stop, i < 2 ? bad[i] : "good"));
        assert_false(cb_generate_ids(f.model, i < 2 ? tokenizer : NULL, prompt_of(&f), PROMPT, &options, NULL, NULL, &out));
        assert_int_equal(cb_error_status(), CB_ERR_ARGUMENT);
        cb_error_clear();
        cb_string_list_free(&options.stop);
        cb_generation_free(&out);
    }
    cb_tokenizer_free(tokenizer);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(greedy_ids_equal_transformers, without_errors),
        cmocka_unit_test_setup(generation_ends_with_an_end_of_sequence_id, without_errors),
        cmocka_unit_test_setup(the_context_is_a_limit, without_errors),
        cmocka_unit_test_setup(rotary_positions_go_on, without_errors),
        cmocka_unit_test_setup(sampling_repeats_with_its_seed, without_errors),
        cmocka_unit_test_setup(an_interrupt_stops_generation, without_errors),
        cmocka_unit_test_setup(text_comes_in_whole_characters, without_errors),
        cmocka_unit_test_setup(a_text_prompt_is_its_ids, without_errors),
        cmocka_unit_test_setup(stop_strings_are_never_heard, without_errors),
        cmocka_unit_test_setup(what_only_began_like_a_stop_string_is_heard, without_errors),
        cmocka_unit_test_setup(a_listener_may_have_enough, without_errors),
        cmocka_unit_test_setup(candidates_equal_transformers_definitions, without_errors),
        cmocka_unit_test_setup(draws_follow_the_probabilities, without_errors),
        cmocka_unit_test_setup(bad_logits_and_options_are_refused, without_errors),
        cmocka_unit_test_setup(bad_stop_strings_are_refused, without_errors),
        cmocka_unit_test_setup(the_likeliest_token_is_in_every_nucleus, without_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
