/* ranking.c: cross-encoders, as `train --task ranking` and `eval --task ranking` have them: pairs of a query and a document, and the ranking of
 * what a first stage found in a corpus. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "core/json.h"

/* ---- data ---- */

cb_dataset *cli_pairs_read(const cb_string_list *files, const cb_data_options *text, int64_t hard_negatives, int64_t random_negatives,
                           const cb_tokenizer *tokenizer, bool held_out)
{
    const cb_groups_options options = {.data = *files,
                                       .columns = text->columns,
                                       .max_records = held_out ? 0 : text->max_records,
                                       .hard_negatives = hard_negatives,
                                       .random_negatives = random_negatives,
                                       .shuffle = text->shuffle && !held_out,
                                       .seed = text->seed,
                                       .pairs = tokenizer,
                                       .max_tokens = text->sequence_length};
    return cb_dataset_open_groups(&options);
}

static bool has_only_positives(cli_call *call, const cb_dataset *data)
{
    cb_batch batch = {0};
    bool found = false;
    for (int64_t i = 0; !found && cb_dataset_group(data) == 1 && cb_dataset_sequential((cb_dataset *)(uintptr_t)data, i, 1, &batch); i++)
        found = cb_get(batch.targets, 0) < 1;
    found |= cb_dataset_group(data) > 1;
    cb_batch_free(&batch);
    return cb_ok() && !found &&
           !cli_usage(call, "--data: found relevant documents only, expected negatives, labels, or --random-negatives");
}

bool cli_pairs_open(cli_corpus *corpus, cli_call *call, cli_corpus_settings *settings, const cli_sentence_settings *s,
                    const cb_model *model, const cb_tokenizer *tokenizer, int64_t seed)
{
    cb_data_options *text = &settings->text;
    *corpus = (cli_corpus){0};
    if (settings->validation_data.count && settings->validation_split > 0)
        return cli_usage(call, "--validation-data and --validation-split exclude each other");
    cli_fit_sequence_length(call, text, model);
    text->seed = (uint64_t)seed;
    corpus->train = cli_pairs_read(&settings->data, text, s->hard_negatives, s->random_negatives, tokenizer, false);
    if (!corpus->train || has_only_positives(call, corpus->train))
        return false;
    if (settings->validation_split > 0)
        corpus->validation = cb_dataset_split(corpus->train, settings->validation_split, (uint64_t)seed);
    else if (settings->validation_data.count)
        corpus->validation = cli_pairs_read(&settings->validation_data, text, -1, s->random_negatives, tokenizer, true);
    return cb_ok();
}

/* ---- held-out pairs ---- */

static bool write_scores(cb_writer *w, const cb_predictions *p, int64_t row, const cb_dataset *data)
{
    enum { DIGITS = 9 };
    char *source = cb_dataset_row_source(data, row), *text = NULL;
    json_t *line = source ? json_object() : NULL, *scores = line ? json_array() : NULL;
    bool ok = scores && cb_json_put(line, "source", json_string(source));
    for (int64_t k = 0; ok && k < p->labels; k++)
        ok = cb_json_add(scores, json_real((double)p->scores[row * p->labels + k]));
    ok = ok && cb_json_put(line, "scores", json_incref(scores)) && (text = json_dumps(line, JSON_REAL_PRECISION(DIGITS))) &&
         cb_writer_printf(w, "%s\n", text);
    free(text);
    json_decref(scores);
    json_decref(line);
    cb_free(source);
    return ok || (cb_ok() && cb_fail(CB_ERR_MEMORY, "no memory for a prediction") == CB_OK);
}

static bool write_pairs(const char *path, const cb_predictions *p, const cb_dataset *data)
{
    cb_writer *w = cb_writer_open(path);
    bool ok = w;
    for (int64_t i = 0; ok && i < p->rows; i++)
        ok = write_scores(w, p, i, data);
    if (ok)
        return cb_writer_commit(w);
    cb_writer_abort(w);
    return false;
}

static bool judge_pairs(cli_call *call, const cb_string_list *files, const cb_data_options *text, const cli_base *base,
                        const char *predictions, int64_t batch_size, int64_t max_batches)
{
    const cb_ranking_training training = {.model = base->model};
    cb_dataset *data = cli_pairs_read(files, text, -1, 0, base->tokenizer, true);
    cb_evaluation e = {0};
    bool ok = data && cb_evaluate_ranking(&training, data, batch_size, max_batches, &e);
    if (ok && predictions && !cb_rehearsing())
        ok = write_pairs(predictions, &e.predictions, data);
    int64_t size = data ? cb_dataset_group(data) : 0;
    cb_predictions_free(&e.predictions);
    cb_dataset_free(data);
    if (!ok || cb_rehearsing())
        return ok;
    return cli_print_ranks(call,
                           json_pack("{s:s, s:s, s:I, s:o}", "task", "ranking", "model", cb_model_directory(base->model), "pairs",
                                     (json_int_t)(e.rows * size), "loss", cli_real(e.loss)),
                           &e.metrics, e.seconds);
}

/* ---- a corpus ---- */

typedef struct ranks_run {
    const cli_call *call;
    const cb_retrieval_data *data;
    cb_writer *out; /* NULL: nothing is written */
} ranks_run;

static void on_progress(void *user, size_t queries, size_t count)
{
    const ranks_run *run = user;
    if (!run->call->common.quiet && !run->call->common.json)
        cli_status("%s of %s queries", cli_thousands((int64_t)queries), cli_thousands((int64_t)count));
}

static bool write_ranked(void *user, size_t query, const cb_hit *hits, size_t count)
{
    const ranks_run *run = user;
    bool ok = true;
    for (size_t i = 0; run->out && ok && i < count; i++)
        ok = cb_writer_printf(run->out, "%s Q0 %s %zu %.9g cambium\n", run->data->query_ids.items[query],
                              run->data->document_ids.items[hits[i].index], i + 1, (double)hits[i].score);
    return ok;
}

static bool print_ranks(cli_call *call, const cli_base *base, const cb_reranking_result *r)
{
    json_t *line = json_pack("{s:s, s:s, s:I, s:I}", "task", "ranking", "model", cb_model_directory(base->model), "queries",
                             (json_int_t)r->queries, "pairs", (json_int_t)r->pairs);
    if (line && call->common.json)
        cli_metrics_json(line, "first_stage_", &r->first, 0);
    for (int i = 0; !call->common.json && i < r->first.count; i++) {
        char *name = cb_format("first_stage_%s", r->first.items[i].name);
        if (name)
            cli_field(name, "%.4f", r->first.items[i].value);
        cb_free(name);
    }
    return cli_print_ranks(call, line, &r->metrics, r->seconds);
}

static bool rank_corpus(cli_call *call, const cli_retrieval_settings *s, const char *directory, const cb_data_options *text,
                        const cli_base *base, const char *predictions, int64_t batch_size)
{
    cb_retrieval_data data = {0};
    cb_candidates candidates = {0};
    cb_reranking_result r;
    ranks_run run = {.call = call, .data = &data};
    const cb_reranking_options options = {.most = (size_t)s->top_k,
                                          .batch_size = batch_size,
                                          .max_tokens = text->sequence_length,
                                          .progress = on_progress,
                                          .ranked = write_ranked,
                                          .user = &run};
    bool ok = cli_retrieval_files(call, s, directory, &data) && (s->candidates ? cb_candidates_read(s->candidates, &data, &candidates)
                                                                               : cb_candidates_search(&data, options.most, &candidates));
    ok = ok && (!predictions || cb_rehearsing() || (run.out = cb_writer_open(predictions))) &&
         cb_evaluate_reranking(base->model, base->tokenizer, &data, &candidates, &options, &r);
    cli_status_clear();
    if (run.out && ok)
        ok = cb_writer_commit(run.out);
    else if (run.out)
        cb_writer_abort(run.out);
    cb_candidates_free(&candidates);
    cb_retrieval_free(&data);
    return ok && (cb_rehearsing() || print_ranks(call, base, &r));
}

bool cli_eval_ranking(cli_call *call, const cli_retrieval_settings *s, const cb_string_list *files, cb_data_options *text,
                      const cli_base *base, const char *predictions, int64_t batch_size, int64_t max_batches)
{
    bool corpus = s->corpus || s->queries || s->qrels;
    const char *directory = !corpus && files->count == 1 && cb_is_directory(files->items[0]) ? files->items[0] : NULL;
    if (corpus && files->count)
        return cli_usage(call, "--data and --corpus, --queries and --qrels exclude each other");
    if (corpus || directory)
        return rank_corpus(call, s, directory, text, base, predictions, batch_size);
    if (s->candidates)
        return cli_usage(call, "--candidates is of a corpus");
    return judge_pairs(call, files, text, base, predictions, batch_size, max_batches);
}
