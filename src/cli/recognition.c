/* recognition.c: reading text in images: the data, what was read, and how well. */
#include <stdlib.h>

#include "cli/cli.h"
#include "core/json.h"

bool cli_recognises(const cb_model *model)
{
    return cb_objective_of(model) == CB_OBJECTIVE_TEXT_RECOGNITION;
}

static int64_t frames(const void *model, int64_t width)
{
    return cb_model_frames(model, width);
}

/* The vocabulary in `path`, which must be the model's; and what reading texts takes in the options of images. */
static cb_ctc_vocabulary *prepare(cli_image_settings *s, const cb_model *model, const char *path)
{
    cb_ctc_vocabulary *v = cb_ctc_vocabulary_load(path);
    bool ok = v;
    if (ok && (cb_ctc_vocabulary_size(v) != cb_model_vocab_size(model) || cb_ctc_vocabulary_blank(v) != cb_model_blank(model)))
        ok = cli_refuse(
            "%s: found %lld tokens, of which %lld is the blank; the model has %lld (vocab_size), of which %lld is (pad_token_id)", path,
            (long long)cb_ctc_vocabulary_size(v), (long long)cb_ctc_vocabulary_blank(v), (long long)cb_model_vocab_size(model),
            (long long)cb_model_blank(model));
    s->data.objective = CB_OBJECTIVE_TEXT_RECOGNITION;
    s->data.vocabulary = v;
    s->data.frames = frames;
    s->data.frames_user = model;
    if (ok)
        return v;
    cb_ctc_vocabulary_free(v);
    return NULL;
}

bool cli_lines_open(cli_corpus *corpus, cli_corpus_settings *s, cb_model *model, int64_t seed)
{
    const char *path = s->vocabulary ? s->vocabulary : cb_model_directory(model);
    corpus->vocabulary = prepare(&s->images, model, path);
    corpus->train = corpus->vocabulary ? cli_images_open(&s->images, &s->data, NULL, seed, true) : NULL;
    if (!corpus->train)
        return false;
    if (s->images.data.ctc_zero_infinity)
        cb_model_set_zero_infinity(model, true);
    if (s->validation_split > 0)
        corpus->validation = cb_dataset_split(corpus->train, s->validation_split, (uint64_t)seed);
    else if (s->validation_data.count)
        corpus->validation = cli_images_open(&s->images, &s->validation_data, NULL, seed, false);
    return cb_ok();
}

bool cli_lines_save(const cli_corpus *corpus, const char *directory)
{
    return !corpus->vocabulary || cb_parallel_rank() > 0 || cb_ctc_vocabulary_save(corpus->vocabulary, directory);
}

/* ---- evaluation ---- */

const cb_option cli_recognition_table[] = {
    CB_OPT_INT(cli_recognition_settings, beam_width, 1, 1, 10000,
               "texts that are kept at each frame in a search for the likeliest one (1: that of the likeliest path)"),
    CB_OPT_END};

static bool write_row(cb_writer *w, const cb_predictions *p, int64_t row, const cb_dataset *data)
{
    char *source = cb_dataset_row_source(data, row), *text = NULL;
    json_t *line = source ? json_object() : NULL;
    bool ok = line && cb_json_put(line, "source", json_string(source)) &&
              cb_json_put(line, "text", json_string(p->texts[row] ? p->texts[row] : "")) &&
              cb_json_put(line, "reference", json_string(cb_dataset_row_text(data, row))) && (text = json_dumps(line, 0));
    ok = ok && cb_writer_printf(w, "%s\n", text);
    free(text);
    json_decref(line);
    cb_free(source);
    return ok || (cb_ok() && cb_fail(CB_ERR_MEMORY, "no memory for a prediction") == CB_OK);
}

static bool write(const char *path, const cb_predictions *p, const cb_dataset *data)
{
    cb_writer *w = cb_writer_open(path);
    bool ok = w;
    for (int64_t i = 0; ok && i < p->rows; i++)
        ok = write_row(w, p, i, data);
    if (ok)
        return cb_writer_commit(w);
    cb_writer_abort(w);
    return false;
}

static bool print(cli_call *call, const cb_model *model, const cb_dataset *data, const cb_evaluation *e)
{
    if (call->common.json) {
        json_t *line =
            json_pack("{s:s, s:s, s:o}", "task", "text-recognition", "model", cb_model_directory(model), "loss", cli_real(e->loss));
        cli_metrics_json(line, "", &e->metrics, e->loss);
        json_object_set_new(line, "rows", json_integer((json_int_t)e->rows));
        json_object_set_new(line, "characters", json_integer((json_int_t)e->predicted));
        json_object_set_new(line, "too_long", json_integer((json_int_t)cb_dataset_too_long(data)));
        json_object_set_new(line, "seconds", cli_real(e->seconds));
        json_object_set_new(line, "peak_memory", json_integer((json_int_t)cb_peak_rss()));
        return cli_json(line);
    }
    for (int i = 0; i < e->metrics.count; i++)
        cli_field(e->metrics.items[i].name, "%.4f", e->metrics.items[i].value);
    cli_field("loss", "%.6f per character", e->loss);
    cli_field("rows", "%s", cli_thousands(e->rows));
    if (cb_dataset_too_long(data))
        cli_field("texts too long", "%s", cli_thousands(cb_dataset_too_long(data)));
    cli_field("time", "%s", cli_seconds(e->seconds));
    cli_field("peak memory", "%s", cli_bytes(cb_peak_rss()));
    return true;
}

bool cli_eval_recognition(cli_call *call, const cli_recognition_settings *s, cli_image_settings *images, const cb_string_list *files,
                          const char *vocabulary, const cli_base *base, const char *predictions, int64_t batch_size, int64_t max_batches)
{
    cb_evaluation e = {0};
    cb_model *model = base->model;
    cb_ctc_vocabulary *v = prepare(images, model, vocabulary ? vocabulary : cb_model_directory(model));
    cb_dataset *data = v ? cli_images_open(images, files, NULL, 0, false) : NULL;
    if (data && images->data.ctc_zero_infinity)
        cb_model_set_zero_infinity(model, true);
    bool ok = data && cb_evaluate_recognition(model, data, batch_size, max_batches, s->beam_width, &e);
    if (ok && predictions && !cb_rehearsing())
        ok = write(predictions, &e.predictions, data);
    if (ok && !cb_rehearsing())
        ok = print(call, model, data, &e);
    cb_predictions_free(&e.predictions);
    cb_dataset_free(data);
    cb_ctc_vocabulary_free(v);
    return ok;
}
