/* recognition.c: what a model reads in images, and how far that is from what is written there. */
#include "cambium/ctc.h"
#include "cambium/metrics.h"
#include "training/internal.h"

/* Of cb_predictions.exact. */
enum { RIGHT, READ, CHARACTER_EDITS, CHARACTERS, WORD_EDITS, WORDS };

bool cb_recognition_open(cb_predictions *p)
{
    p->texts = cb_calloc((size_t)p->rows + 1, sizeof *p->texts);
    p->exact = p->texts ? cb_calloc(RECOGNITION_COUNTS, sizeof *p->exact) : NULL;
    return p->exact;
}

static bool count(cb_predictions *p, const char *text, const char *reference)
{
    cb_edit_counts characters = {0}, words = {0};
    if (!cb_character_errors_add(text, reference, &characters) || !cb_word_errors_add(text, reference, &words))
        return false;
    p->exact[RIGHT] += characters.edits == 0;
    p->exact[READ]++;
    p->exact[CHARACTER_EDITS] += characters.edits;
    p->exact[CHARACTERS] += characters.length;
    p->exact[WORD_EDITS] += words.edits;
    p->exact[WORDS] += words.length;
    return true;
}

/* Of one row's logits (T, V). */
static bool read_row(cb_predictions *p, int64_t row, const float *logits, int64_t frames, int64_t classes, int32_t *ids)
{
    const cb_ctc_vocabulary *v = cb_dataset_vocabulary(p->data);
    int64_t blank = cb_ctc_vocabulary_blank(v);
    int64_t n = p->beam_width > 1 ? cb_ctc_beam(logits, frames, classes, blank, p->beam_width, ids, NULL)
                                  : cb_ctc_greedy(logits, frames, classes, blank, ids);
    cb_string text = {0};
    bool ok = n >= 0 && cb_ctc_decode(v, ids, (size_t)n, &text) && (p->texts[row] = cb_strdup(text.data ? text.data : ""));
    cb_string_free(&text);
    return ok && count(p, p->texts[row], cb_dataset_row_text(p->data, row));
}

bool cb_recognition_add(cb_predictions *p, const cb_model *model, int64_t first_row, cb_tensor *logits, const cb_context *ctx)
{
    int64_t rows = logits->shape[0], most = logits->shape[1], classes = logits->shape[2];
    float *values = cb_alloc((size_t)(rows * most * classes) * sizeof *values + 1);
    int64_t *frames = cb_alloc((size_t)rows * sizeof *frames + 1);
    int32_t *ids = cb_alloc((size_t)most * sizeof *ids + 1);
    bool ok = values && frames && ids && cb_read(logits, CB_F32, values) && cb_model_row_frames(model, logits, ctx, frames);
    for (int64_t i = 0; ok && i < rows; i++)
        ok = read_row(p, first_row + i, values + i * most * classes, frames[i], classes, ids);
    cb_free(values);
    cb_free(frames);
    cb_free(ids);
    return ok;
}

void cb_recognition_measure(const cb_predictions *p, cb_metrics *m)
{
    const int64_t *e = p->exact;
    *m = (cb_metrics){.items = {{"accuracy", e[READ] ? (double)e[RIGHT] / (double)e[READ] : 0},
                                {"cer", cb_error_rate((cb_edit_counts){e[CHARACTER_EDITS], e[CHARACTERS]})},
                                {"wer", cb_error_rate((cb_edit_counts){e[WORD_EDITS], e[WORDS]})}},
                      .count = 3};
}
