/* exit.c: when a token leaves the rounds of a recursive model before the last (Bae et al. 2025, arXiv:2410.20672, section 3.8).
 *
 * By the confidence of CALM (Schuster et al. 2022, arXiv:2207.07061, section 3.5): how far the likeliest token's probability is ahead of the
 * next one's, after the last norm and the head, which all rounds share.  Or after a fixed round.  The oracle leaves nothing out: it says of
 * each token after which round the likeliest was what it was in the end. */
#include "core/rehearsal.h"
#include "models/internal.h"

static bool check_oracle(const cb_generate_options *o)
{
    return !o->exit_oracle || (!o->exit_round && !cb_exit_by_confidence(o)) ||
           cb_fail(CB_ERR_ARGUMENT, "generate: exit_oracle measures what runs all rounds, expected no exit_round and no exit_confidence") ==
               CB_OK;
}

bool cb_exit_open(cb_exit *e, const cb_model *model, const cb_generate_options *o)
{
    *e = (cb_exit){.options = o, .rounds = cb_model_exits(model)};
    if (!(o->exit_confidence >= 0 && o->exit_confidence <= 1))
        return cb_fail(CB_ERR_ARGUMENT, "generate: exit_confidence is %g, expected 0 to 1", o->exit_confidence) == CB_OK;
    if (cb_exit_early(e) && !cb_model_shared_layers(model))
        return cb_fail(CB_ERR_ARGUMENT, "generate: %s leaves rounds early, and the model has none (its model_type is %s, expected %s%s)",
                       o->exit_round    ? "exit_round"
                       : o->exit_oracle ? "exit_oracle"
                                        : "exit_confidence",
                       cb_model_type(model), CB_RECURSIVE, cb_model_type(model)) == CB_OK;
    if (o->exit_round < 0 || (o->exit_round && o->exit_round > e->rounds))
        return cb_fail(CB_ERR_ARGUMENT, "generate: exit_round is %lld, expected at most the %lld rounds of the model",
                       (long long)o->exit_round, (long long)e->rounds) == CB_OK;
    e->likeliest = o->exit_oracle ? cb_alloc((size_t)e->rounds * sizeof *e->likeliest) : NULL;
    return check_oracle(o) && (!o->exit_oracle || e->likeliest);
}

void cb_exit_close(cb_exit *e)
{
    cb_free(e->likeliest);
}

bool cb_exit_early(const cb_exit *e)
{
    return e->options->exit_round || e->options->exit_oracle || cb_exit_by_confidence(e->options);
}

bool cb_exit_by_confidence(const cb_generate_options *o)
{
    return o->exit_confidence > 0 && o->exit_confidence < 1;
}

bool cb_exit_reads_logits(const cb_exit *e)
{
    return e->options->exit_oracle || cb_exit_by_confidence(e->options);
}

static int32_t likeliest(const cb_tensor *logits)
{
    cb_tensor *flat = cb_reshape((cb_tensor *)(uintptr_t)logits, -1), *best = flat ? cb_argmax(flat, 0, false) : NULL;
    return best ? (int32_t)cb_item(best) : -1;
}

double cb_confidence(const cb_tensor *logits)
{
    cb_tensor *flat = cb_reshape((cb_tensor *)(uintptr_t)logits, -1), *p = flat ? cb_softmax(cb_cast(flat, CB_F32), 0) : NULL;
    float first = 0, second = 0;
    for (int64_t i = 0; p && i < p->count; i++) {
        float value = ((const float *)p->data)[i];
        second = value > first ? first : value > second ? value : second;
        first = value > first ? value : first;
    }
    return (double)first - (double)second;
}

bool cb_exit_leaves(cb_exit *e, int64_t round, const cb_tensor *logits)
{
    const cb_generate_options *o = e->options;
    if (o->exit_round == round)
        return true;
    if (cb_rehearsing())
        return false;
    if (o->exit_oracle)
        e->likeliest[round - 1] = likeliest(logits);
    return cb_exit_by_confidence(o) && cb_confidence(logits) > o->exit_confidence;
}

int64_t cb_exit_first_right(const cb_exit *e, const cb_tensor *logits)
{
    int64_t round = 1;
    int32_t last = likeliest(logits);
    while (round < e->rounds && e->likeliest[round - 1] != last)
        round++;
    return round;
}
