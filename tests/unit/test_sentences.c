/* test_sentences.c: sentence encoders that learn from groups of texts: the loss and its gradient against PyTorch's, in parts and whole; runs
 * that stop and go on; and what is measured on held-out pairs and on a corpus. */
#include "cambium/metrics.h"
#include "cambium/retrieval.h"
#include "text_fixtures.h"

#define MODEL CB_TEST_DATA "/sentence_encoders/model"

static bool encode(void *user, int role, const char *text, cb_encoding *out, int32_t *skipped)
{
    (void)role;
    return cb_embedder_encode(user, "", text, out, skipped);
}

static cb_embedder *load(void)
{
    cb_embedder *e = cb_embedder_load(MODEL, CB_F32);
    assert_ok();
    return e;
}

static cb_dataset *open_groups(cb_embedder *e, const char *text, bool scored)
{
    const char *path = write_file("groups.jsonl", text);
    char *items[] = {(char *)(uintptr_t)path};
    const cb_groups_options options = {.data = {.items = items, .count = 1},
                                       .hard_negatives = -1,
                                       .scored = scored,
                                       .shuffle = true,
                                       .seed = 2,
                                       .encode = encode,
                                       .user = e};
    cb_dataset *data = cb_dataset_open_groups(&options);
    assert_ok();
    return data;
}

static const char groups_text[] = "{\"anchor\": \"the lift of a thin wing\", \"positive\": \"what is the pressure rise at the plate ? how "
                                  "does the heat flow under a body\", "
                                  "\"negative\": \"layers , speeds , waves\"}\n"
                                  "{\"anchor\": \"shock wave\", \"positive\": \"air\", \"negative\": \"the lift of a thin wing\"}\n";

static cb_tensor *expected(const char *name)
{
    cb_safetensors *file = cb_safetensors_open(CB_TEST_DATA "/sentence_encoders/expected.safetensors");
    const cb_weight_entry *entry = cb_safetensors_find(file, name);
    assert_non_null(entry);
    cb_tensor *t = cb_from_nd(entry->dtype, entry->data, entry->ndim, entry->shape);
    cb_safetensors_close(file);
    return t;
}

static cb_context context_of(const cb_batch *batch)
{
    return (cb_context){.segments = batch->segments, .positions = batch->positions};
}

/* ---- the loss ---- */

static void the_loss_and_its_gradient_are_pytorchs(void **state)
{
    (void)state;
    static const int64_t parts[] = {0, 1, 2, 4, 100};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        cb_scope *scope = cb_scope_open();
        cb_embedder *e = load();
        cb_dataset *data = open_groups(e, groups_text, false);
        cb_layer *layer = cb_layer_find(cb_model_root(cb_embedder_model(e)), "encoder.layer.0.attention.self.query");
        assert_true(cb_layer_train_copy(layer, "weight", CB_F32, true));
        cb_sentence_training training = {.embedder = e, .options = {.mini_batch_size = parts[i]}};
        cb_trainee what = {.model = cb_embedder_model(e)};
        assert_true(cb_train_sentences(&what, &training));
        cb_batch batch = {0};
        assert_true(cb_dataset_sequential(data, 0, 2, &batch));
        const cb_context ctx = context_of(&batch);
        cb_tensor *loss = what.loss(&what, batch.ids, batch.targets, 0, &ctx);
        assert_ok();
        assert_true(fabs(cb_item(loss) - cb_item(expected("ranking.loss"))) < 1e-5);
        assert_true(cb_backward(loss));
        cb_tensor *gradient = cb_layer_weight(layer, "weight")->grad;
        if (relative_difference(gradient, expected("ranking.grad")) > 1e-4)
            fail_msg("in parts of %d: the gradient differs by %g", (int)parts[i], relative_difference(gradient, expected("ranking.grad")));
        /* of two micro-batches each counts by its groups */
        cb_no_grad loss = what.loss(&what, batch.ids, batch.targets, 8, &ctx);
        assert_true(fabs(cb_item(loss) - cb_item(expected("ranking.loss")) * 2 / 8) < 1e-5);
        cb_batch_free(&batch);
        cb_dataset_free(data);
        cb_embedder_free(e);
        cb_scope_close(scope);
    }
}

/* ---- runs ---- */

static cb_adapter *attach(cb_embedder *e)
{
    cb_adapter *adapter = cb_adapter_new("lora", "default");
    assert_true(cb_adapter_set_json(adapter, "options", "{\"r\": 2, \"lora_dropout\": 0.2}"));
    assert_true(cb_adapter_set_task_type(adapter, "FEATURE_EXTRACTION"));
    assert_true(cb_adapter_attach(adapter, cb_model_root(cb_embedder_model(e)), cb_model_type(cb_embedder_model(e)), 3));
    return adapter;
}

static void many_groups(char *text)
{
    static const char *const words[] = {"wing", "lift", "flow", "heat", "plate", "body", "air", "layer", "shock", "wave", "speed", "thin"};
    for (int i = 0; i < 12; i++)
        text += sprintf(text, "{\"query\": \"what is the %s ?\", \"document\": \"%s %s\"}\n", words[i], words[i], words[(i + 5) % 12]);
}

static void stop_at(void *user, const cb_train_report *report)
{
    if (report->step == *(const int64_t *)user)
        cb_interrupt();
}

static bool train(const char *output, int64_t interrupt_at, bool resume, double *loss, cb_metrics *metrics)
{
    char text[2048];
    cb_embedder *e = load();
    cb_adapter *adapter = attach(e);
    many_groups(text);
    cb_dataset *data = open_groups(e, text, false), *validation = cb_dataset_split(data, 0.3, 1);
    cb_train_options options = {0};
    assert_true(cb_options_init(cb_train_option_table, &options));
    options.output = (char *)(uintptr_t)output;
    options.steps = 12;
    options.batch_size = 4;
    options.eval_steps = 4;
    options.learning_rate = 2e-2;
    options.resume = resume;
    options.overwrite = !resume;
    cb_sentence_training training = {.embedder = e, .options = {.mini_batch_size = 3}};
    cb_trainee what = cb_train_adapter(cb_embedder_model(e), adapter);
    cb_train_result result = {0};
    assert_true(cb_train_sentences(&what, &training));
    bool ok = cb_train(&what, data, validation, &options, stop_at, &interrupt_at, &result);
    cb_interrupt_clear();
    *loss = result.last_loss;
    *metrics = result.best_eval;
    cb_dataset_free(validation);
    cb_dataset_free(data);
    cb_adapter_free(adapter);
    cb_embedder_free(e);
    return ok;
}

static void assert_same_file(const char *a, const char *b, const char *name)
{
    char command[500];
    snprintf(command, sizeof command, "cmp '%s/%s' '%s/%s'", a, name, b, name);
    assert_int_equal(system(command), 0);
}

static void a_run_that_stopped_ends_with_the_same_bits(void **state)
{
    (void)state;
    char whole[96], parts[96];
    double loss, other;
    cb_metrics metrics, same;
    snprintf(whole, sizeof whole, "%s", scratch_path("whole"));
    snprintf(parts, sizeof parts, "%s", scratch_path("parts"));
    assert_true(train(whole, -1, false, &loss, &metrics));
    assert_ok();
    assert_string_equal(metrics.items[0].name, "ndcg_at_10");
    assert_false(train(parts, 5, false, &other, &same));
    assert_int_equal(cb_error_status(), CB_ERR_INTERRUPTED);
    cb_error_clear();
    assert_true(train(parts, -1, true, &other, &same));
    assert_true(loss == other);
    assert_same_file(whole, parts, "adapter_model.safetensors");
    assert_same_file(whole, parts, "modules.json");
    assert_same_file(whole, parts, "1_Pooling/config.json");
    assert_same_file(whole, parts, "tokenizer.json");

    cb_embedder *e = load();
    cb_adapter *adapter = cb_adapter_load(whole, cb_model_root(cb_embedder_model(e)), cb_model_type(cb_embedder_model(e)));
    assert_ok();
    char *config = cb_adapter_json(adapter);
    assert_non_null(strstr(config, "\"FEATURE_EXTRACTION\""));
    cb_free(config);
    cb_adapter_free(adapter);
    cb_embedder_free(e);
}

/* ---- measures ---- */

static void held_out_pairs_are_ranked_among_each_other(void **state)
{
    (void)state;
    cb_embedder *e = load();
    cb_evaluation result;
    /* every anchor finds itself; two have the same positive, one text is a negative only */
    cb_dataset *data = open_groups(e,
                                   "{\"anchor\": \"wing\", \"positive\": \"wing\", \"negative\": \"heat\"}\n"
                                   "{\"anchor\": \"shock wave\", \"positive\": \"shock wave\", \"negative\": \"heat\"}\n"
                                   "{\"anchor\": \"shock wave\", \"positive\": \"wing\", \"negative\": \"air\"}\n",
                                   false);
    const cb_sentence_training training = {.embedder = e};
    assert_true(cb_evaluate_sentences(&training, data, 2, 0, &result));
    assert_int_equal(result.metrics.count, 3);
    assert_string_equal(result.metrics.items[1].name, "mrr_at_10");
    assert_true(result.metrics.items[1].value == 1);
    assert_string_equal(result.metrics.items[2].name, "recall_at_10");
    assert_true(result.metrics.items[2].value == 1); /* 4 documents in all */
    assert_true(result.metrics.items[0].value > 0.8 && result.metrics.items[0].value <= 1);
    assert_int_equal(result.rows, 3);
    assert_true(result.loss > 0);
    cb_interrupt();
    assert_false(cb_evaluate_sentences(&training, data, 2, 0, &result));
    assert_true(cb_error_status() == CB_ERR_INTERRUPTED);
    cb_error_clear();
    cb_interrupt_clear();
    cb_dataset_free(data);
    data = open_groups(e,
                       "{\"sentence1\": \"wing\", \"sentence2\": \"wing\", \"score\": 1}\n"
                       "{\"sentence1\": \"wing\", \"sentence2\": \"thin wing\", \"score\": 0.9}\n"
                       "{\"sentence1\": \"wing\", \"sentence2\": \"what is the pressure ?\", \"score\": 0.1}\n",
                       true);
    const cb_sentence_training scored = {.embedder = e, .scored = true};
    assert_true(cb_evaluate_sentences(&scored, data, 2, 0, &result));
    assert_string_equal(result.metrics.items[0].name, "spearman");
    assert_string_equal(result.metrics.items[1].name, "pearson");
    const float *vectors[4];
    float all[4 * 16];
    static const char *const texts[] = {"wing", "wing", "thin wing", "what is the pressure ?"};
    assert_true(cb_embed(e, texts, 4, &(cb_embed_options){.normalize = true}, all));
    double cosines[3] = {0}, scores[] = {1, 0.9F, 0.1F};
    for (int i = 0; i < 4; i++)
        vectors[i] = all + 16 * i;
    for (int i = 0; i < 3; i++)
        for (int d = 0; d < 16; d++)
            cosines[i] += (double)vectors[0][d] * vectors[i + 1][d];
    assert_true(fabs(result.metrics.items[1].value - cb_pearson(cosines, scores, 3)) < 1e-5);
    assert_true(result.metrics.items[0].value == cb_spearman(cosines, scores, 3));
    cb_dataset_free(data);
    cb_embedder_free(e);
}

static bool read_corpus(const char *corpus, const char *queries, const char *judgements, cb_retrieval_data *data)
{
    const char *c = write_file("corpus.jsonl", corpus), *q = write_file("queries.jsonl", queries), *j = write_file("qrels.tsv", judgements);
    return cb_retrieval_read(c, q, j, data);
}

static const char corpus_text[] = "{\"_id\": \"d1\", \"title\": \"thin\", \"text\": \"wing\"}\n"
                                  "{\"_id\": \"d2\", \"title\": \"\", \"text\": \"shock wave\"}\n"
                                  "{\"_id\": \"q2\", \"text\": \"air\"}\n"
                                  "{\"_id\": \"d4\", \"text\": \"heat flow\"}\n";
static const char queries_text[] = "{\"_id\": \"q1\", \"text\": \"shock wave\"}\n{\"_id\": \"q2\", \"text\": \"air\"}\n"
                                   "{\"_id\": \"q3\", \"text\": \"no judgement\"}\n";

static double metric(const cb_metrics *metrics, const char *name)
{
    for (int i = 0; i < metrics->count; i++)
        if (strcmp(metrics->items[i].name, name) == 0)
            return metrics->items[i].value;
    fail_msg("there is no %s", name);
    return NAN;
}

static void a_corpus_is_searched_for_every_query(void **state)
{
    (void)state;
    cb_retrieval_data data;
    cb_retrieval_result result;
    cb_embedder *e = load();
    /* q1 finds its document first; q2's own text is left out, so it finds d4 and what else there is */
    assert_true(read_corpus(corpus_text, queries_text, "query-id\tcorpus-id\tscore\nq1\td2\t1\nq2\td1\t1\nq2\td4\t1\nq2\td2\t0\n", &data));
    assert_ok();
    assert_string_equal(data.documents.items[0], "thin wing");
    assert_string_equal(data.documents.items[1], "shock wave");
    assert_true(data.own[0] == CB_NO_DOCUMENT && data.own[1] == 2);
    assert_true(cb_evaluate_retrieval(e, &data, NULL, &result));
    assert_int_equal(result.queries, 2);
    assert_int_equal(result.documents, 4);
    assert_true(metric(&result.metrics, "recall_at_10") == 1);
    assert_true(metric(&result.metrics, "mrr_at_10") >= 0.75);
    assert_true(fabs(metric(&result.metrics, "precision_at_10") - (0.1 + 0.2) / 2) < 1e-12);
    cb_retrieval_free(&data);
    /* TREC's columns; a document that is not there counts as not found */
    assert_true(read_corpus(corpus_text, queries_text, "q1 0 d2 1\nq1 0 d9 1\n", &data));
    assert_true(cb_evaluate_retrieval(e, &data, NULL, &result));
    assert_true(metric(&result.metrics, "recall_at_10") == 0.5);
    assert_true(metric(&result.metrics, "mrr_at_10") == 1);
    cb_retrieval_free(&data);
    cb_embedder_free(e);
}

static void files_that_are_no_corpus_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *corpus, *queries, *judgements, *message;
    } cases[] = {
        {"{\"_id\": \"a\"}\n", queries_text, "q1\td1\t1\n", "corpus.jsonl:1: text: found none"},
        {"{\"text\": \"a\"}\n", queries_text, "q1\td1\t1\n", "corpus.jsonl:1: _id: found none"},
        {"{\"_id\": [], \"text\": \"a\"}\n", queries_text, "q1\td1\t1\n", "corpus.jsonl:1: _id: found another value"},
        {"{\"_id\": \"a\", \"text\": \"a\"}\n{\"_id\": \"a\", \"text\": \"b\"}\n", queries_text, "q1\td1\t1\n", "the _id \"a\" twice"},
        {"[\"a\"]\n", queries_text, "q1\td1\t1\n", "found an array"},
        {"\n", queries_text, "q1\td1\t1\n", "found no document"},
        {corpus_text, "", "q1\td1\t1\n", "found no query"},
        {corpus_text, queries_text, "q1\td1\t1\nq9\td1\t1\n", "qrels.tsv:2: found the query \"q9\""},
        {corpus_text, queries_text, "q1\td1\n", "qrels.tsv:1: found less than three columns"},
        {corpus_text, queries_text, "q1\td1\t1\nq1\td1\tx\n", "qrels.tsv:2: found a grade that is no number"},
        {corpus_text, queries_text, "q1\td1\t1e9\n", "a grade beyond a million"},
        {corpus_text, queries_text, "a\tb\tc\td\te\n", "more than four columns"},
        {corpus_text, queries_text, "query-id\tcorpus-id\tscore\n", "found no judgement"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cb_retrieval_data data;
        assert_false(read_corpus(cases[i].corpus, cases[i].queries, cases[i].judgements, &data));
        if (!strstr(cb_error_message(), cases[i].message))
            fail_msg("\"%s\" does not say \"%s\"", cb_error_message(), cases[i].message);
        cb_error_clear();
        cb_retrieval_free(&data);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(the_loss_and_its_gradient_are_pytorchs, without_errors),
        cmocka_unit_test_setup(a_run_that_stopped_ends_with_the_same_bits, without_errors),
        cmocka_unit_test_setup(held_out_pairs_are_ranked_among_each_other, without_errors),
        cmocka_unit_test_setup(a_corpus_is_searched_for_every_query, without_errors),
        cmocka_unit_test_setup(files_that_are_no_corpus_are_refused, without_errors),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
