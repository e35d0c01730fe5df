/* eval_seq2seq.c: `cambium eval` of models with an encoder and a decoder: their loss, and their answers beside the right ones. */
#include <math.h>
#include <stdlib.h>

#include "cli/cli.h"
#include "core/json.h"

/* Writes {"source", "text", "target"} of each row. */
typedef struct writing {
    cb_writer *writer;
    const cb_dataset *data;
} writing;

static bool write_answer(void *user, int64_t row, const char *text, const char *target)
{
    writing *w = user;
    char *source = cb_dataset_row_source(w->data, row);
    json_t *line = source ? json_object() : NULL;
    bool ok = line && cb_json_put(line, "source", json_string(source)) && cb_json_put(line, "text", json_string(text)) &&
              cb_json_put(line, "target", json_string(target));
    char *json = ok ? json_dumps(line, 0) : NULL;
    ok = json && cb_writer_printf(w->writer, "%s\n", json);
    free(json);
    json_decref(line);
    cb_free(source);
    return ok || (cb_ok() && cb_fail(CB_ERR_MEMORY, "no memory for an answer") == CB_OK);
}

static bool evaluate(const cli_base *base, cb_dataset *data, const cb_generate_options *options, const char *predictions,
                     int64_t batch_size, int64_t max_batches, cb_evaluation *e)
{
    writing w = {.writer = predictions ? cb_writer_open(predictions) : NULL, .data = data};
    bool ok = (w.writer || !predictions) && cb_evaluate_answers(base->model, base->tokenizer, data, options, batch_size, max_batches,
                                                                w.writer ? write_answer : NULL, &w, e);
    if (ok && w.writer)
        return cb_writer_commit(w.writer);
    cb_writer_abort(w.writer);
    return ok;
}

static bool print(cli_call *call, const cb_model *model, const cb_evaluation *e)
{
    if (call->common.json) {
        json_t *line = json_pack("{s:s, s:s, s:o, s:o}", "task", "seq2seq", "model", cb_model_directory(model), "loss", cli_real(e->loss),
                                 "perplexity", cli_real(exp(e->loss)));
        cli_metrics_json(line, "", &e->metrics, e->loss);
        json_object_set_new(line, "rows", json_integer((json_int_t)e->rows));
        json_object_set_new(line, "tokens", json_integer((json_int_t)e->predicted));
        json_object_set_new(line, "seconds", cli_real(e->seconds));
        json_object_set_new(line, "peak_memory", json_integer((json_int_t)cb_peak_rss()));
        return cli_json(line);
    }
    for (int i = 0; i < e->metrics.count; i++)
        cli_field(e->metrics.items[i].name, "%.4f", e->metrics.items[i].value);
    cli_field("loss", "%.6f nats per token of a target", e->loss);
    cli_field("perplexity", "%.4f", exp(e->loss));
    cli_field("rows", "%s", cli_thousands(e->rows));
    cli_field("time", "%s", cli_seconds(e->seconds));
    cli_field("peak memory", "%s", cli_bytes(cb_peak_rss()));
    return true;
}

bool cli_eval_seq2seq(cli_call *call, cb_data_options *text, const cli_base *base, int64_t max_new_tokens, int64_t num_beams,
                      const char *predictions, int64_t batch_size, int64_t max_batches)
{
    const cli_task plain = {0};
    const cb_generate_options options = {.max_new_tokens = max_new_tokens, .num_beams = num_beams, .length_penalty = 1};
    cb_evaluation e = {0};
    text->shuffle = false;
    if (!cli_labels_check(call) || !cli_task_fit(&plain, text, base->model))
        return false;
    cb_dataset *data = cb_dataset_open(base->tokenizer, text);
    bool ok = data && evaluate(base, data, &options, predictions, batch_size, max_batches, &e);
    ok = ok && (cb_rehearsing() || print(call, base->model, &e));
    cb_predictions_free(&e.predictions);
    cb_dataset_free(data);
    return ok;
}
