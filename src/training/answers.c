/* answers.c: how well a model with an encoder and a decoder answers: the loss of the right targets, and the texts that it makes itself of their
 * sources, compared with them. */
#include <string.h>

#include "training/internal.h"

/* One evaluation under way. */
typedef struct answers {
    cb_model *model;
    const cb_tokenizer *tokenizer;
    const cb_generate_options *options;
    cb_answer_callback *see;
    void *user;
    int64_t rows;
    cb_bleu_counts bleu;
    cb_chrf_counts chrf;
    double exact, rouge1, rouge2, rouge_l; /* sums */
} answers;

static int64_t count_tokens(const int32_t *segments, int64_t most)
{
    int64_t count = 0;
    while (count < most && segments[count] >= 0)
        count++;
    return count;
}

static bool judge(answers *a, const char *text, const char *target)
{
    cb_rouge rouge;
    bool ok = cb_bleu_add(text, &target, 1, NULL, &a->bleu) && cb_chrf_add(text, &target, 1, NULL, &a->chrf) &&
              cb_rouge_of(text, target, &rouge) && (!a->see || a->see(a->user, a->rows, text, target));
    if (!ok)
        return false;
    a->exact += strcmp(text, target) == 0;
    a->rouge1 += rouge.rouge1.f1;
    a->rouge2 += rouge.rouge2.f1;
    a->rouge_l += rouge.rouge_l.f1;
    a->rows++;
    return true;
}

/* The target as the tokenizer gives it back, as what is generated comes. */
static bool judge_row(answers *a, const cb_batch *batch, int64_t row, const cb_generation *g)
{
    int64_t most = batch->targets->shape[1];
    const int32_t *ids = (const int32_t *)batch->targets->data + row * most,
                  *segments = (const int32_t *)batch->segments->data + row * most;
    cb_string target = {0};
    bool ok = cb_tokenizer_decode(a->tokenizer, ids, (size_t)count_tokens(segments, most), true, &target) &&
              judge(a, g->text.data ? g->text.data : "", target.data ? target.data : "");
    cb_string_free(&target);
    return ok;
}

static bool answer_batch(answers *a, const cb_batch *batch)
{
    int64_t rows = batch->ids->shape[0], most = batch->source->shape[1], width = batch->conditions ? batch->conditions->shape[1] : 0;
    cb_prompt_ids *prompts = cb_calloc((size_t)rows, sizeof *prompts);
    cb_generation *out = cb_calloc((size_t)rows, sizeof *out);
    for (int64_t i = 0; prompts && i < rows; i++)
        prompts[i] = (cb_prompt_ids){.ids = (const int32_t *)batch->source->data + i * most,
                                     .count = (size_t)count_tokens((const int32_t *)batch->source_segments->data + i * most, most),
                                     .task = batch->tasks ? ((const int32_t *)batch->tasks->data)[i] : 0,
                                     .conditions = width ? (const float *)batch->conditions->data + i * width : NULL,
                                     .condition_count = (size_t)width};
    bool ok = prompts && out && cb_generate_rows(a->model, a->tokenizer, prompts, (size_t)rows, NULL, NULL, a->options, out);
    for (int64_t i = 0; ok && !cb_rehearsing() && i < rows; i++)
        ok = judge_row(a, batch, i, &out[i]);
    for (int64_t i = 0; out && i < rows; i++)
        cb_generation_free(&out[i]);
    cb_free(out);
    cb_free(prompts);
    return ok;
}

static bool collect(const answers *a, cb_metrics *metrics)
{
    cb_bleu_result bleu = {0};
    double n = a->rows ? (double)a->rows : 1;
    if (a->rows && !cb_bleu_of(&a->bleu, NULL, &bleu))
        return false;
    *metrics = (cb_metrics){.items = {{"exact_match", a->exact / n},
                                      {"bleu", bleu.score},
                                      {"chrf", a->rows ? cb_chrf_of(&a->chrf, NULL) : 0},
                                      {"rouge1", a->rouge1 / n},
                                      {"rouge2", a->rouge2 / n},
                                      {"rouge_l", a->rouge_l / n}},
                            .count = 6};
    return true;
}

bool cb_evaluate_answers(cb_model *model, const cb_tokenizer *tokenizer, cb_dataset *data, const cb_generate_options *options,
                         int64_t batch_size, int64_t max_batches, cb_answer_callback *see, void *user, cb_evaluation *result)
{
    if (cb_model_decoder_start(model) < 0 || cb_dataset_objective(data) != CB_OBJECTIVE_SEQ2SEQ_LM)
        return cb_fail(CB_ERR_UNSUPPORTED, "evaluation: answers are of a model with an encoder and a decoder, and of data with sources and "
                                           "targets; found another") == CB_OK;
    double begin = cb_now();
    answers a = {.model = model, .tokenizer = tokenizer, .options = options, .see = see, .user = user};
    cb_batch batch = {0};
    bool ok = cb_evaluate(model, data, batch_size, max_batches, result);
    for (int64_t i = 0; ok && (!max_batches || i < max_batches) && cb_dataset_sequential(data, i, batch_size, &batch); i++) {
        ok = answer_batch(&a, &batch);
        if (cb_rehearsing()) /* has seen what one takes */
            break;
    }
    cb_batch_free(&batch);
    ok = ok && cb_ok() && collect(&a, &result->metrics);
    result->seconds = cb_now() - begin;
    return ok;
}
