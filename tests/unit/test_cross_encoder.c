/* test_cross_encoder.c: models that read a query together with a document: scores, losses and gradients against PyTorch's, runs that stop and
 * go on, what is measured on held-out pairs, and the ranking of a corpus. */
#include "cambium/metrics.h"
#include "cambium/retrieval.h"
#include "text_fixtures.h"

#define DIRECTORY CB_TEST_DATA "/cross_encoder"

static const int64_t length = 16;

static cb_model *load(void)
{
    cb_model *model = cb_model_load(DIRECTORY "/model");
    assert_ok();
    return model;
}

static cb_tokenizer *load_tokenizer(void)
{
    cb_tokenizer *tokenizer = cb_tokenizer_load(DIRECTORY "/model");
    assert_ok();
    return tokenizer;
}

static cb_dataset *open_file(const char *path, const cb_tokenizer *tokenizer, int64_t negatives, int64_t random)
{
    char *items[] = {(char *)(uintptr_t)path};
    const cb_groups_options options = {.data = {.items = items, .count = 1},
                                       .hard_negatives = negatives,
                                       .random_negatives = random,
                                       .shuffle = true,
                                       .seed = 2,
                                       .pairs = tokenizer,
                                       .max_tokens = length};
    return cb_dataset_open_groups(&options);
}

static cb_tensor *expected(const char *name)
{
    cb_safetensors *file = cb_safetensors_open(DIRECTORY "/expected.safetensors");
    const cb_weight_entry *entry = cb_safetensors_find(file, name);
    assert_non_null(entry);
    cb_tensor *t = cb_from_nd(entry->dtype, entry->data, entry->ndim, entry->shape);
    cb_safetensors_close(file);
    return t;
}

static cb_context context_of(const cb_batch *batch)
{
    return (cb_context){.segments = batch->segments, .positions = batch->positions, .types = batch->types};
}

static double metric(const cb_metrics *metrics, const char *name)
{
    for (int i = 0; i < metrics->count; i++)
        if (strcmp(metrics->items[i].name, name) == 0)
            return metrics->items[i].value;
    fail_msg("there is no %s", name);
    return NAN;
}

/* ---- losses ---- */

static void losses_and_gradients_are_pytorchs(void **state)
{
    (void)state;
    static const struct {
        int loss;
        const char *value, *gradient;
    } cases[] = {{CB_RANKING_BCE, "groups.bce", "groups.bce.grad"}, {CB_RANKING_LISTWISE, "groups.listwise", "groups.listwise.grad"}};
    for (size_t i = 0; i < 2; i++) {
        cb_scope *scope = cb_scope_open();
        cb_model *model = load();
        cb_tokenizer *tokenizer = load_tokenizer();
        cb_dataset *data = open_file(DIRECTORY "/groups.jsonl", tokenizer, -1, 0);
        assert_ok();
        assert_int_equal(cb_dataset_objective(data), CB_OBJECTIVE_RANKING);
        cb_layer *layer = cb_layer_find(cb_model_root(model), "bert.encoder.layer.0.attention.self.query");
        assert_true(cb_layer_train_copy(layer, "weight", CB_F32, true));
        cb_ranking_training training = {.model = model, .options = {.ranking_loss = cases[i].loss, .positive_weight = 2.5}};
        cb_trainee what = {.model = model};
        assert_true(cb_train_ranking(&what, &training));
        cb_batch batch = {0};
        assert_true(cb_dataset_sequential(data, 0, 3, &batch));
        const cb_context ctx = context_of(&batch);
        cb_tensor *loss = what.loss(&what, batch.ids, batch.targets, 0, &ctx);
        assert_ok();
        assert_true(fabs(cb_item(loss) - cb_item(expected(cases[i].value))) < 1e-5);
        assert_true(cb_backward(loss));
        assert_true(relative_difference(cb_layer_weight(layer, "weight")->grad, expected(cases[i].gradient)) < 1e-4);
        /* of two micro-batches each counts by its groups */
        cb_no_grad loss = what.loss(&what, batch.ids, batch.targets, 12, &ctx);
        assert_true(fabs(cb_item(loss) - cb_item(expected(cases[i].value)) * 3 / 12) < 1e-5);
        cb_batch_free(&batch);
        cb_dataset_free(data);
        cb_tokenizer_free(tokenizer);
        cb_model_free(model);
        cb_scope_close(scope);
    }
}

static void scores_are_transformers(void **state)
{
    (void)state;
    static const struct {
        const char *file, *scores;
    } cases[] = {{DIRECTORY "/groups.jsonl", "groups.scores"}, {DIRECTORY "/pairs.jsonl", "pairs.scores"}};
    cb_model *model = load();
    cb_tokenizer *tokenizer = load_tokenizer();
    for (size_t i = 0; i < 2; i++) {
        cb_scope *scope = cb_scope_open();
        const cb_ranking_training training = {.model = model};
        cb_evaluation e;
        cb_dataset *data = open_file(cases[i].file, tokenizer, -1, 0);
        assert_true(cb_evaluate_ranking(&training, data, 2, 0, &e));
        assert_ok();
        cb_tensor *scores = expected(cases[i].scores);
        assert_int_equal(e.predictions.rows * e.predictions.labels, scores->count);
        for (int64_t k = 0; k < scores->count; k++)
            assert_true(fabs((double)e.predictions.scores[k] - cb_get(scores, k)) < 1e-5);
        if (i == 1)
            assert_true(fabs(e.loss - cb_item(expected("pairs.bce"))) < 1e-5);
        cb_predictions_free(&e.predictions);
        cb_dataset_free(data);
        cb_scope_close(scope);
    }
    cb_tokenizer_free(tokenizer);
    cb_model_free(model);
}

/* ---- data ---- */

static void random_negatives_are_of_other_queries(void **state)
{
    (void)state;
    cb_tokenizer *tokenizer = load_tokenizer();
    const char *path = write_file("positives.jsonl", "{\"query\": \"wing\", \"positive\": [\"lift\", \"thin wing\"]}\n"
                                                     "{\"query\": \"shock\", \"positive\": \"wave\"}\n"
                                                     "{\"query\": \"heat\", \"positive\": [\"flow\", \"air\"]}\n");
    cb_dataset *data = open_file(path, tokenizer, -1, 2);
    assert_ok();
    assert_int_equal(cb_dataset_rows(data), 5);
    assert_int_equal(cb_dataset_group(data), 3);
    for (int64_t i = 0; i < 5; i++) { /* lines 0, 1 and 3, 4 have a query in common */
        assert_true(cb_dataset_text_hash(data, i, 1) != cb_dataset_text_hash(data, i, 2));
        for (int64_t k = 0; k < 5; k++)
            for (int64_t n = 1; n < 3; n++)
                if (cb_dataset_query_hash(data, i) == cb_dataset_query_hash(data, k))
                    assert_true(cb_dataset_text_hash(data, i, n) != cb_dataset_text_hash(data, k, 0));
    }
    assert_true(cb_dataset_query_hash(data, 0) == cb_dataset_query_hash(data, 1));
    cb_dataset_free(data);
    assert_null(open_file(path, tokenizer, -1, 4)); /* "heat" has but three of others */
    assert_non_null(strstr(cb_error_message(), "random_negatives: found too few documents"));
    cb_error_clear();
    cb_tokenizer_free(tokenizer);
}

static void a_split_keeps_a_query_together(void **state)
{
    (void)state;
    cb_tokenizer *tokenizer = load_tokenizer();
    static const char *const words[] = {"wing", "lift", "flow", "heat", "plate", "body", "air", "layer"};
    char text[4096], *at = text;
    for (int i = 0; i < 40; i++)
        at += sprintf(at, "{\"query\": \"%s\", \"document\": \"%s wave %d\", \"label\": %d}\n", words[i % 8], words[i / 5], i, i % 3 == 0);
    for (uint64_t seed = 0; seed < 5; seed++) {
        cb_dataset *data = open_file(write_file("labels.jsonl", text), tokenizer, -1, 0), *held = cb_dataset_split(data, 0.2, seed);
        assert_ok();
        assert_int_equal(cb_dataset_rows(held), 10); /* two queries */
        assert_int_equal(cb_dataset_rows(data), 30);
        for (int64_t i = 0; i < 10; i++)
            for (int64_t k = 0; k < 30; k++)
                assert_true(cb_dataset_query_hash(held, i) != cb_dataset_query_hash(data, k));
        cb_dataset_free(held);
        cb_dataset_free(data);
    }
    cb_tokenizer_free(tokenizer);
}

static void lines_that_are_no_pairs_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {{"{\"query\": \"a\", \"document\": \"b\", \"label\": 2}\n", "label: found 2, expected how relevant the document is"},
                 {"{\"query\": \"a\", \"document\": \"b\", \"label\": \"yes\"}\n", "found no number, expected how relevant"},
                 {"{\"query\": \"a\", \"document\": \"b\", \"label\": 1}\n{\"query\": \"a\", \"document\": \"b\"}\n", "found no number"},
                 {"{\"query\": \"a\", \"label\": 1}\n", "found none, expected a text"},
                 {"\n", "found 0 pairs, expected one at least"}};
    cb_tokenizer *tokenizer = load_tokenizer();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_null(open_file(write_file("bad.jsonl", cases[i].text), tokenizer, -1, 0));
        if (!strstr(cb_error_message(), cases[i].message))
            fail_msg("\"%s\" does not say \"%s\"", cb_error_message(), cases[i].message);
        cb_error_clear();
    }
    cb_tokenizer_free(tokenizer);
}

/* ---- runs ---- */

static void stop_at(void *user, const cb_train_report *report)
{
    if (report->step == *(const int64_t *)user)
        cb_interrupt();
}

static bool train(const char *output, int64_t interrupt_at, bool resume, double *loss, cb_metrics *metrics)
{
    cb_model *model = load();
    cb_tokenizer *tokenizer = load_tokenizer();
    cb_adapter *adapter = cb_adapter_new("lora", "default");
    assert_true(cb_adapter_set_json(adapter, "options", "{\"r\": 2, \"lora_dropout\": 0.2}"));
    assert_true(cb_adapter_fit_labels(adapter, model));
    assert_true(cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), 3));
    cb_dataset *data = open_file(DIRECTORY "/groups.jsonl", tokenizer, -1, 0);
    cb_dataset *validation = open_file(DIRECTORY "/groups.jsonl", tokenizer, -1, 0);
    cb_train_options options = {0};
    assert_true(cb_options_init(cb_train_option_table, &options));
    options.output = (char *)(uintptr_t)output;
    options.steps = 24;
    options.batch_size = 2;
    options.eval_steps = 8;
    options.learning_rate = 3e-2;
    options.resume = resume;
    options.overwrite = !resume;
    cb_ranking_training training = {.model = model, .options = {.ranking_loss = CB_RANKING_LISTWISE}};
    cb_trainee what = cb_train_adapter(model, adapter);
    cb_train_result result = {0};
    assert_true(cb_train_ranking(&what, &training));
    bool ok = cb_train(&what, data, validation, &options, stop_at, &interrupt_at, &result);
    cb_interrupt_clear();
    *loss = result.last_loss;
    *metrics = result.best_eval;
    cb_dataset_free(validation);
    cb_dataset_free(data);
    cb_adapter_free(adapter);
    cb_tokenizer_free(tokenizer);
    cb_model_free(model);
    return ok;
}

static void a_run_that_stopped_ends_with_the_same_bits(void **state)
{
    (void)state;
    char whole[96], parts[96], command[500];
    double loss, other;
    cb_metrics metrics, same;
    snprintf(whole, sizeof whole, "%s", scratch_path("whole"));
    snprintf(parts, sizeof parts, "%s", scratch_path("parts"));
    assert_true(train(whole, -1, false, &loss, &metrics));
    assert_ok();
    assert_true(metric(&metrics, "mrr_at_10") == 1); /* three groups are learned by heart */
    assert_false(train(parts, 5, false, &other, &same));
    assert_int_equal(cb_error_status(), CB_ERR_INTERRUPTED);
    cb_error_clear();
    assert_true(train(parts, -1, true, &other, &same));
    assert_true(loss == other);
    snprintf(command, sizeof command, "cmp '%s/adapter_model.safetensors' '%s/adapter_model.safetensors'", whole, parts);
    assert_int_equal(system(command), 0);
    cb_adapter_labels labels;
    assert_true(cb_adapter_labels_read(whole, &labels));
    assert_true(labels.named && labels.objective == CB_OBJECTIVE_RANKING && labels.names.count == 1);
    cb_string_list_free(&labels.names);
}

static void listwise_needs_documents_to_choose_from(void **state)
{
    (void)state;
    cb_model *model = load();
    cb_tokenizer *tokenizer = load_tokenizer();
    cb_dataset *data = open_file(DIRECTORY "/pairs.jsonl", tokenizer, -1, 0);
    const cb_ranking_training training = {.model = model, .options = {.ranking_loss = CB_RANKING_LISTWISE}};
    cb_evaluation e;
    assert_false(cb_evaluate_ranking(&training, data, 2, 0, &e));
    assert_non_null(strstr(cb_error_message(), "ranking_loss: listwise"));
    cb_error_clear();
    cb_predictions_free(&e.predictions);
    cb_dataset_free(data);
    cb_tokenizer_free(tokenizer);
    cb_model_free(model);
}

/* ---- measures ---- */

/* By the scores that transformers gives: pairs.jsonl has two queries with documents of both kinds, the third is passed over. */
static void held_out_pairs_are_ranked_by_query(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_model *model = load();
    cb_tokenizer *tokenizer = load_tokenizer();
    cb_dataset *data = open_file(DIRECTORY "/pairs.jsonl", tokenizer, -1, 0);
    const cb_ranking_training training = {.model = model};
    cb_evaluation e;
    assert_true(cb_evaluate_ranking(&training, data, 4, 0, &e));
    cb_tensor *s = expected("pairs.scores");
    bool first = cb_get(s, 0) > cb_get(s, 1), second = cb_get(s, 3) > cb_get(s, 2);
    assert_true(fabs(metric(&e.metrics, "mrr_at_10") - ((first ? 1 : 0.5) + (second ? 1 : 0.5)) / 2) < 1e-12);
    float scores[5];
    static const uint8_t relevant[] = {1, 0, 0, 1, 0};
    for (int i = 0; i < 5; i++)
        scores[i] = (float)cb_get(s, i);
    assert_true(fabs(metric(&e.metrics, "average_precision") - cb_average_precision(scores, relevant, 5)) < 1e-12);
    cb_predictions_free(&e.predictions);
    cb_dataset_free(data);
    cb_tokenizer_free(tokenizer);
    cb_model_free(model);
    cb_scope_close(scope);
}

static const char corpus_text[] =
    "{\"_id\": \"d0\", \"text\": \"the lift of a thin wing\"}\n"
    "{\"_id\": \"d1\", \"text\": \"shock wave\"}\n"
    "{\"_id\": \"d2\", \"text\": \"the heat flow under a body\"}\n"
    "{\"_id\": \"d3\", \"text\": \"the air flow at the plate does rise , layers of air speed under the body how "
    "does the pressure rise\"}\n"
    "{\"_id\": \"d4\", \"text\": \"thin plate\"}\n"
    "{\"_id\": \"d5\", \"text\": \"heat\"}\n"
    "{\"_id\": \"d6\", \"text\": \"the pressure of a shock wave\"}\n"
    "{\"_id\": \"d7\", \"text\": \"a wing\"}\n";
static const char queries_text[] = "{\"_id\": \"q0\", \"text\": \"what is the lift of a wing ?\"}\n"
                                   "{\"_id\": \"q1\", \"text\": \"how does air flow ?\"}\n{\"_id\": \"q2\", \"text\": \"shock wave\"}\n";
enum { QUERIES = 3, DOCUMENTS = 8 };

static void read_corpus(cb_retrieval_data *data)
{
    const char *c = write_file("corpus.jsonl", corpus_text), *q = write_file("queries.jsonl", queries_text);
    assert_true(cb_retrieval_read(c, q, write_file("qrels.tsv", "q0\td0\t1\nq1\td3\t1\nq2\td6\t2\nq2\td1\t1\n"), data));
}

/* That each query's documents come in the order of their scores, which are transformers'. */
static bool check_order(void *user, size_t query, const cb_hit *hits, size_t count)
{
    size_t *seen = user;
    cb_tensor *scores = expected("corpus.scores");
    assert_int_equal(count, DOCUMENTS);
    for (size_t i = 0; i < count; i++) {
        assert_true(fabs((double)hits[i].score - cb_get(scores, (int64_t)(query * DOCUMENTS + hits[i].index))) < 1e-5);
        assert_true(!i || hits[i].score <= hits[i - 1].score);
    }
    ++*seen;
    return true;
}

static void candidates_are_put_in_the_order_of_their_scores(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_model *model = load();
    cb_tokenizer *tokenizer = load_tokenizer();
    cb_retrieval_data data;
    cb_candidates all;
    cb_reranking_result result;
    char run[4096], *at = run;
    for (int q = 0; q < QUERIES; q++)
        for (int d = 0; d < DOCUMENTS; d++)
            at += sprintf(at, "q%d Q0 d%d %d %g bm25\n", q, d, d + 1, -d * 0.5);
    read_corpus(&data);
    assert_true(cb_candidates_read(write_file("run.txt", run), &data, &all));
    size_t seen = 0;
    const cb_reranking_options options = {.batch_size = 3, .max_tokens = length, .ranked = check_order, .user = &seen};
    assert_true(cb_evaluate_reranking(model, tokenizer, &data, &all, &options, &result));
    assert_ok();
    assert_int_equal(seen, QUERIES);
    assert_int_equal(result.pairs, QUERIES * DOCUMENTS);
    assert_true(metric(&result.metrics, "recall_at_10") == 1);
    assert_true(fabs(metric(&result.first, "mrr_at_10") - (1 + 1.0 / 4 + 1.0 / 2) / 3) < 1e-12);
    /* the first two alone */
    const cb_reranking_options few = {.most = 2, .max_tokens = length};
    assert_true(cb_evaluate_reranking(model, tokenizer, &data, &all, &few, &result));
    assert_int_equal(result.pairs, QUERIES * 2);
    assert_true(fabs(metric(&result.metrics, "recall_at_10") - (1 + 0 + 0.5) / 3) < 1e-12);
    cb_candidates_free(&all);
    cb_retrieval_free(&data);
    cb_tokenizer_free(tokenizer);
    cb_model_free(model);
    cb_scope_close(scope);
}

/* Whoever asks for an evaluation or a search may stop it. */
static void it_stops_when_interrupted(void **state)
{
    (void)state;
    cb_model *model = load();
    cb_tokenizer *tokenizer = load_tokenizer();
    cb_dataset *pairs = open_file(DIRECTORY "/pairs.jsonl", tokenizer, -1, 0);
    const cb_ranking_training training = {.model = model};
    cb_evaluation e;
    cb_retrieval_data data;
    cb_candidates found;
    read_corpus(&data);
    cb_interrupt();
    assert_false(cb_evaluate_ranking(&training, pairs, 2, 0, &e));
    assert_true(cb_error_status() == CB_ERR_INTERRUPTED && strstr(cb_error_message(), "after 1 batches"));
    cb_error_clear();
    assert_false(cb_candidates_search(&data, 0, &found));
    assert_true(cb_error_status() == CB_ERR_INTERRUPTED && strstr(cb_error_message(), "after the search for 1 queries"));
    cb_error_clear();
    cb_interrupt_clear();
    cb_candidates_free(&found);
    cb_retrieval_free(&data);
    cb_predictions_free(&e.predictions);
    cb_dataset_free(pairs);
    cb_tokenizer_free(tokenizer);
    cb_model_free(model);
}

/* By hand: q2's words "shock" and "wave" are in d1 and d6; d1 is shorter. */
static void words_find_candidates(void **state)
{
    (void)state;
    cb_retrieval_data data;
    cb_candidates found;
    read_corpus(&data);
    assert_true(cb_candidates_search(&data, 0, &found));
    assert_int_equal(found.starts[3] - found.starts[2], 2);
    assert_int_equal(found.documents[found.starts[2]], 1);
    assert_int_equal(found.documents[found.starts[2] + 1], 6);
    assert_int_equal(found.documents[found.starts[0]], 0);
    assert_int_equal(found.documents[found.starts[1]], 3);
    cb_candidates_free(&found);
    assert_true(cb_candidates_search(&data, 1, &found));
    assert_int_equal(found.starts[3], 3);
    cb_candidates_free(&found);
    cb_retrieval_free(&data);
}

static void candidates_come_in_several_forms(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
        size_t first;
    } cases[] = {{"q0\td3\nq0\td1\n", NULL, 3},
                 {"query-id\tcorpus-id\tscore\nq0\td3\t0.5\nq0\td1\t0.75\nq7\td1\t3\n", NULL, 1},
                 {"q0 Q0 d3 1 7 x\nq0 Q0 d3 2 6 x\nq0 Q0 d5 2 9 x\n", NULL, 5},
                 {"q0\td3\tx\nq0\td1\ty\n", ":2: found a score that is no number", 0},
                 {"q0\td9\t1\n", ":1: found the document \"d9\"", 0},
                 {"q0\n", ":1: found 1 columns", 0},
                 {"q9\td1\n", "found no candidate of any query", 0}};
    cb_retrieval_data data;
    read_corpus(&data);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cb_candidates found;
        bool ok = cb_candidates_read(write_file("candidates.tsv", cases[i].text), &data, &found);
        assert_true(ok == !cases[i].message);
        if (ok) {
            assert_int_equal(found.documents[0], cases[i].first);
            assert_int_equal(found.starts[1], 2); /* each once */
        } else if (!strstr(cb_error_message(), cases[i].message))
            fail_msg("\"%s\" does not say \"%s\"", cb_error_message(), cases[i].message);
        cb_error_clear();
        cb_candidates_free(&found);
    }
    cb_retrieval_free(&data);
}

/* A byte of 0 ends no file: what comes behind it is not left out in silence. */
static void candidates_are_text(void **state)
{
    (void)state;
    static const char text[] = "q0\td3\nq0\td1\0\nq1\td2\n";
    cb_retrieval_data data;
    cb_candidates found;
    read_corpus(&data);
    const char *path = write_file("candidates.tsv", "");
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, sizeof text - 1, file), sizeof text - 1);
    assert_int_equal(fclose(file), 0);
    assert_false(cb_candidates_read(path, &data, &found));
    assert_non_null(strstr(cb_error_message(), "candidates.tsv: found a byte of 0 at 11, expected lines of text"));
    cb_error_clear();
    cb_candidates_free(&found);
    cb_retrieval_free(&data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(candidates_are_text, without_errors),
        cmocka_unit_test_setup(losses_and_gradients_are_pytorchs, without_errors),
        cmocka_unit_test_setup(scores_are_transformers, without_errors),
        cmocka_unit_test_setup(random_negatives_are_of_other_queries, without_errors),
        cmocka_unit_test_setup(a_split_keeps_a_query_together, without_errors),
        cmocka_unit_test_setup(lines_that_are_no_pairs_are_refused, without_errors),
        cmocka_unit_test_setup(a_run_that_stopped_ends_with_the_same_bits, without_errors),
        cmocka_unit_test_setup(listwise_needs_documents_to_choose_from, without_errors),
        cmocka_unit_test_setup(held_out_pairs_are_ranked_by_query, without_errors),
        cmocka_unit_test_setup(candidates_are_put_in_the_order_of_their_scores, without_errors),
        cmocka_unit_test_setup(words_find_candidates, without_errors),
        cmocka_unit_test_setup(it_stops_when_interrupted, without_errors),
        cmocka_unit_test_setup(candidates_come_in_several_forms, without_errors),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
