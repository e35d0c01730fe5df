/* eval_sentences.c: `cambium eval --task retrieval` and `--task similarity`: how well a sentence encoder finds documents, or says how alike
 * two sentences are. */
#include <string.h>

#include "cli/cli.h"

#define OPT cli_retrieval_settings
const cb_option cli_retrieval_table[] = {
    CB_OPT_STRING(OPT, corpus, NULL, "FILE", "documents, as JSON lines of _id, title and text"),
    CB_OPT_STRING(OPT, queries, NULL, "FILE", "queries, as JSON lines of _id and text"),
    CB_OPT_STRING(OPT, qrels, NULL, "FILE", "judgements: lines of query, document and grade (BEIR), or TREC's"),
    CB_OPT_STRING(OPT, query_prompt, NULL, "TEXT", "what is put before queries, instead of the model's prompt for them"),
    CB_OPT_STRING(OPT, document_prompt, NULL, "TEXT", "the same for documents"),
    CB_OPT_STRING(OPT, candidates, NULL, "FILE",
                  "ranking: documents to rank of each query, a run of TREC or lines of query, document and score; without it those that "
                  "BM25 finds"),
    CB_OPT_INT(OPT, top_k, 100, 0, 1 << 24, "ranking: how many of them are ranked, the best first (0: all)"),
    CB_OPT_INT(OPT, max_seq_length, 0, 0, 1 << 24, "tokens of a text, which is cut behind them (0: as the model says)"),
    CB_OPT_END};
#undef OPT

bool cli_print_ranks(cli_call *call, json_t *line, const cb_metrics *metrics, double seconds)
{
    if (call->common.json) {
        cli_metrics_json(line, "", metrics, 0);
        json_object_set_new(line, "seconds", cli_real(seconds));
        json_object_set_new(line, "peak_memory", json_integer((json_int_t)cb_peak_rss()));
        return cli_json(line);
    }
    const char *name;
    json_t *value;
    for (int i = 0; i < metrics->count; i++)
        cli_field(metrics->items[i].name, "%.4f", metrics->items[i].value);
    json_object_foreach(line, name, value)
    {
        if (json_is_integer(value))
            cli_field(name, "%s", cli_thousands((int64_t)json_integer_value(value)));
    }
    json_decref(line);
    cli_field("time", "%s", cli_seconds(seconds));
    cli_field("peak memory", "%s", cli_bytes(cb_peak_rss()));
    return true;
}

/* ---- a corpus with judgements ---- */

/* What --corpus and its like say, or else what a directory of BEIR has. */
static char *find_file(const char *given, const char *directory, const char *name)
{
    if (given || !directory)
        return cb_strdup(given);
    char *plain = cb_path_join(directory, name), *packed = plain ? cb_format("%s.gz", plain) : NULL;
    bool there = packed && !cb_is_file(plain) && cb_is_file(packed);
    cb_free(there ? plain : packed);
    return there ? packed : plain;
}

static void on_progress(void *user, size_t done, size_t count)
{
    const cli_call *call = user;
    if (!call->common.quiet && !call->common.json)
        cli_status("%s of %s documents", cli_thousands((int64_t)done), cli_thousands((int64_t)count));
}

bool cli_retrieval_files(cli_call *call, const cli_retrieval_settings *s, const char *directory, cb_retrieval_data *data)
{
    char *corpus = find_file(s->corpus, directory, "corpus.jsonl"), *queries = find_file(s->queries, directory, "queries.jsonl");
    char *qrels = find_file(s->qrels, directory, "qrels/test.tsv");
    bool ok = corpus && queries && qrels;
    if (!ok && cb_ok())
        cli_usage(call, "--task: expected --corpus, --queries and --qrels, or --data with a directory that has them, or pairs");
    ok = ok && cb_retrieval_read(corpus, queries, qrels, data);
    cb_free(corpus);
    cb_free(queries);
    cb_free(qrels);
    return ok;
}

static bool search_corpus(cli_call *call, const cli_retrieval_settings *s, const char *directory, const cli_base *base, int64_t batch_size)
{
    cb_retrieval_data data = {0};
    cb_retrieval_result r;
    const cb_retrieval_options options = {.query_prompt = s->query_prompt,
                                          .document_prompt = s->document_prompt,
                                          .batch_size = batch_size,
                                          .progress = on_progress,
                                          .user = call};
    bool ok = cli_retrieval_files(call, s, directory, &data) && cb_evaluate_retrieval(base->embedder, &data, &options, &r);
    cli_status_clear();
    cb_retrieval_free(&data);
    if (!ok || cb_rehearsing())
        return ok;
    return cli_print_ranks(call,
                           json_pack("{s:s, s:s, s:I, s:I}", "task", "retrieval", "model", cb_embedder_directory(base->embedder), "queries",
                                     (json_int_t)r.queries, "documents", (json_int_t)r.documents),
                           &r.metrics, r.seconds);
}

/* ---- pairs ---- */

static bool judge_pairs(cli_call *call, const cli_retrieval_settings *s, const cb_string_list *files, const cb_data_options *text,
                        const cli_base *base, bool scored, int64_t batch_size, int64_t max_batches)
{
    const cli_sentence_settings settings = {.hard_negatives = -1, .query_prompt = s->query_prompt, .document_prompt = s->document_prompt};
    const cb_sentence_training training = {.embedder = base->embedder, .scored = scored};
    cb_dataset *data = cli_sentences_read(files, text, &settings, base->embedder, scored, true);
    cb_evaluation e;
    bool ok = data && cb_evaluate_sentences(&training, data, batch_size, max_batches, &e);
    cb_dataset_free(data);
    if (!ok || cb_rehearsing())
        return ok;
    return cli_print_ranks(call,
                           json_pack("{s:s, s:s, s:I, s:o}", "task", scored ? "similarity" : "retrieval", "model",
                                     cb_embedder_directory(base->embedder), "pairs", (json_int_t)e.rows, "loss", cli_real(e.loss)),
                           &e.metrics, e.seconds);
}

bool cli_eval_sentences(cli_call *call, const cli_retrieval_settings *s, const cb_string_list *files, const cb_data_options *text,
                        const cli_base *base, bool scored, int64_t batch_size, int64_t max_batches)
{
    bool corpus = s->corpus || s->queries || s->qrels;
    const char *directory = !corpus && files->count == 1 && cb_is_directory(files->items[0]) ? files->items[0] : NULL;
    if (corpus && (scored || files->count))
        return cli_usage(call, scored ? "--corpus, --queries and --qrels are of --task retrieval"
                                      : "--data and --corpus, --queries and --qrels exclude each other");
    if (!scored && (corpus || directory || !files->count))
        return search_corpus(call, s, directory, base, batch_size);
    return judge_pairs(call, s, files, text, base, scored, batch_size, max_batches);
}
