/* mask.c: rows of a masked language model (Devlin et al. 2018, arXiv:1810.04805, section 3.1), with the defaults of transformers'
 * DataCollatorForLanguageModeling.  What is drawn for a row depends on seed and row alone. */
#include <string.h>

#include "data/dataset.h"

/* ---- words ---- */

/* How a vocabulary shows where words begin or go on. */
static const struct {
    const char *mark;
    bool goes_on; /* the mark is on what goes on with a word, else on what begins one */
} schemes[] = {{"##", true}, {"\xc4\xa0", false}, {"\xe2\x96\x81", false}}; /* WordPiece; byte-level BPE; SentencePiece */
enum { SCHEMES = sizeof schemes / sizeof *schemes };

static bool has_mark(const char *token, int scheme)
{
    return strncmp(token, schemes[scheme].mark, strlen(schemes[scheme].mark)) == 0;
}

/* The scheme whose mark most tokens have; -1: none has any. */
static int scheme_of(const cb_tokenizer *tokenizer, int32_t words)
{
    int64_t counts[SCHEMES] = {0}, most = 0;
    int scheme = -1;
    for (int32_t id = 0; id < words; id++)
        for (int k = 0; k < SCHEMES; k++) {
            const char *token = cb_tokenizer_token(tokenizer, id);
            counts[k] += token && has_mark(token, k);
        }
    for (int k = 0; k < SCHEMES; k++)
        if (counts[k] > most) {
            most = counts[k];
            scheme = k;
        }
    return scheme;
}

static bool find_words(const cb_tokenizer *tokenizer, token_masking *masking)
{
    int scheme = scheme_of(tokenizer, masking->words);
    if (scheme < 0)
        return cb_fail(CB_ERR_UNSUPPORTED, "whole_word_mask: the tokenizer's tokens do not show where words begin") == CB_OK;
    masking->continues = cb_calloc((size_t)masking->words, 1);
    for (int32_t id = 0; masking->continues && id < masking->words; id++) {
        const char *token = cb_tokenizer_token(tokenizer, id);
        masking->continues[id] = token && has_mark(token, scheme) == schemes[scheme].goes_on;
    }
    return masking->continues;
}

bool cb_data_masking_open(const cb_tokenizer *tokenizer, const cb_data_options *options, token_masking *masking)
{
    if (options->objective != CB_OBJECTIVE_MASKED_LM)
        return true;
    *masking = (token_masking){.mask = cb_tokenizer_mask(tokenizer), .words = cb_tokenizer_id_limit(tokenizer)};
    if (masking->mask < 0)
        return cb_fail(CB_ERR_UNSUPPORTED, "the tokenizer has no mask token (mask_token), which a masked language model needs") == CB_OK;
    if (!(options->mlm_probability > 0 && options->mlm_probability <= 1))
        return cb_fail(CB_ERR_ARGUMENT, "mlm_probability: found %g, expected over 0 and at most 1", options->mlm_probability) == CB_OK;
    return !options->whole_word_mask || find_words(tokenizer, masking);
}

/* ---- masks ---- */

static int32_t replaced(const token_masking *masking, int32_t id, cb_rng *rng)
{
    double chance = cb_rng_uniform(rng);
    if (chance < 0.8)
        return masking->mask;
    return chance < 0.9 ? (int32_t)cb_rng_below(rng, (uint64_t)masking->words) : id;
}

int64_t cb_data_mask(const cb_dataset *data, int32_t *ids, int32_t *targets, int64_t count, uint64_t draw)
{
    const token_masking *masking = &data->store->masking;
    cb_rng rng = {.seed = data->options.seed, .stream = draw ^ (uint64_t)0x6d61736b << 32}; /* "mask" */
    int64_t predicted = 0;
    bool chosen = false, before = false; /* before: the token before this one may be chosen, too */
    for (int64_t i = 0; i < count; i++) {
        bool may = targets[i] != -100, goes_on = may && before && masking->continues && masking->continues[targets[i]];
        if (!goes_on)
            chosen = may && cb_rng_uniform(&rng) < data->options.mlm_probability;
        if (chosen)
            ids[i] = replaced(masking, targets[i], &rng);
        else
            targets[i] = -100;
        before = may;
        predicted += chosen;
    }
    return predicted;
}
