/* tokenizer_unigram.c: the unigram language model (Kudo 2018, arXiv:1804.10959).  Of all ways to cut a word into pieces of the
 * vocabulary, the one whose pieces' log probabilities add up to most is taken (Viterbi, left to right over the bytes; of equals
 * the one found first).  A character that is no piece counts as unknown, at 10 below the least likely piece; unknown
 * characters side by side are one token, or one for each byte with byte_fallback. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/tokenizer_parts.h"
#include "formats/tokenizer_unicode.h"

enum { max_pieces = 4 << 20 };
static const double unknown_penalty = 10;

typedef struct unigram {
    cb_trie trie; /* of the pieces; values are ids */
    double *scores;
    double unknown_score;
    int32_t unk; /* -1: none */
    bool byte_fallback;
    int32_t byte_ids[256]; /* of <0x00> to <0xFF>; -1: none */
} unigram;

/* The best way to the end of a piece. */
typedef struct step {
    double score;
    uint32_t begin; /* of its last piece; NOWHERE: not reached */
    int32_t id;
} step;
enum { NOWHERE = UINT32_MAX };

typedef struct unigram_state {
    step *steps;    /* per byte of the word, and its end */
    uint32_t *ends; /* of the pieces of the best way, the last first */
    size_t step_capacity, end_capacity;
} unigram_state;

static void unigram_release(void *state)
{
    unigram *model = state;
    cb_trie_free(&model->trie);
    cb_free(model->scores);
}

/* ---- Reading ---- */

/* The number that the package reads of a file: it takes the digits as one whole number and divides by a power of ten, which may
 * be the next number to the right one; ways through a word that are equally likely can depend on it. */
static double as_package_reads(double number)
{
    char text[40];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*e", digits - 1, number);
        if (strtod(text, NULL) == number)
            break;
    }
    uint64_t digits = 0;
    long exponent = strtol(strchr(text, 'e') + 1, NULL, 10);
    const char *mark = strchr(text, '.');
    for (const char *c = text; *c != 'e'; c++) {
        if (*c < '0' || *c > '9')
            continue;
        digits = digits * 10 + (uint64_t)(*c - '0');
        exponent -= mark && c > mark;
    }
    for (; digits && digits % 10 == 0; exponent++)
        digits /= 10;
    if (exponent >= 0 || exponent < -22) /* a whole number; a power of ten that is not exact */
        return number;
    double power = 1;
    for (long i = 0; i > exponent; i--)
        power *= 10;
    return number < 0 ? -((double)digits / power) : (double)digits / power;
}

static bool read_piece(unigram *model, const cb_source *source, const json_t *entry, int32_t id, cb_vocab *vocab)
{
    const json_t *text = json_array_get(entry, 0), *score = json_array_get(entry, 1);
    if (json_array_size(entry) != 2 || !json_is_string(text) || !json_is_number(score))
        return cb_fail(CB_ERR_FORMAT, "%s: model Unigram: piece %d must be [\"text\", score]", source->what, (int)id), false;
    model->scores[id] = json_number_value(score);
    if (json_is_real(score))
        model->scores[id] = as_package_reads(model->scores[id]);
    return cb_vocab_add(vocab, json_string_value(text), json_string_length(text), id);
}

/* Ids whose text stands again further down have a text, too. */
static bool index_pieces(const json_t *list, cb_vocab *vocab)
{
    vocab->listed = json_array_size(list);
    if (!cb_vocab_index(vocab))
        return false;
    for (size_t id = 0; id < vocab->id_limit; id++) {
        const json_t *text = json_array_get(json_array_get(list, id), 0);
        if (!vocab->by_id[id])
            vocab->by_id[id] = cb_vocab_entry(vocab, json_string_value(text), json_string_length(text));
    }
    return true;
}

static bool read_pieces(unigram *model, const cb_source *source, const json_t *list, cb_vocab *vocab)
{
    size_t count = json_array_size(list);
    if (!json_is_array(list) || count > max_pieces)
        return cb_fail(CB_ERR_FORMAT, "%s: model Unigram: \"vocab\" must be a list of at most %d pieces", source->what, max_pieces), false;
    model->scores = cb_alloc((count + 1) * sizeof *model->scores);
    bool ok = model->scores != NULL;
    double least = INFINITY;
    for (size_t i = 0; ok && i < count; i++) {
        ok = read_piece(model, source, json_array_get(list, i), (int32_t)i, vocab);
        least = ok && model->scores[i] < least ? model->scores[i] : least;
    }
    model->unknown_score = least - unknown_penalty;
    return ok && index_pieces(list, vocab);
}

static bool read_unknown(unigram *model, const cb_source *source, const json_t *object, const cb_vocab *vocab)
{
    const json_t *value = json_object_get(object, "unk_id");
    model->unk = -1;
    if (!value || json_is_null(value))
        return true;
    json_int_t id = json_integer_value(value);
    if (!json_is_integer(value) || id < 0 || (size_t)id >= vocab->listed)
        return cb_source_fail(source, "unk_id", "the number of a piece");
    model->unk = (int32_t)id;
    return true;
}

static bool unigram_parse(cb_model *out, const cb_source *source, const json_t *object, cb_vocab *vocab)
{
    unigram *model = out->state;
    if (!read_pieces(model, source, json_object_get(object, "vocab"), vocab) || !cb_vocab_trie(vocab, &model->trie) ||
        !read_unknown(model, source, object, vocab) || !cb_source_bool(source, object, "byte_fallback", false, &model->byte_fallback))
        return false;
    for (unsigned byte = 0; byte < 256; byte++) {
        char text[8];
        snprintf(text, sizeof text, "<0x%02X>", byte);
        model->byte_ids[byte] = cb_vocab_find(vocab, text, 6);
    }
    out->unknown = model->unk;
    out->cached = true;
    return true;
}

static bool unigram_fits(const json_t *object)
{
    return json_is_array(json_object_get(object, "vocab"));
}

/* ---- Encoding ---- */

static CB_COLD bool no_unknown(const cb_work *work)
{
    return cb_fail(CB_ERR_FORMAT, "%s: model Unigram: found a character that is not in the vocabulary, and there is no unk_id",
                   work->tokenizer->what),
           false;
}

static void offer(step *at, double score, uint32_t begin, int32_t id)
{
    if (at->begin == NOWHERE || score > at->score)
        *at = (step){score, begin, id};
}

/* Fills steps[0 .. length] with the best ways through the word. */
static bool find_best(const unigram *model, const cb_work *work, step *steps, const char *text, uint32_t length)
{
    const cb_trie *trie = &model->trie;
    for (uint32_t i = 0; i <= length; i++)
        steps[i] = (step){.begin = NOWHERE};
    unsigned size;
    for (uint32_t begin = 0; begin < length; begin += size) {
        double so_far = steps[begin].score;
        bool single = false; /* the character itself is a piece */
        cb_utf8_read(text + begin, &size);
        uint32_t node = 0;
        for (uint32_t end = begin; end < length && (node = cb_trie_child(trie, node, (uint8_t)text[end]));) {
            end++;
            int32_t id = trie->nodes[node].value;
            if (id < 0)
                continue;
            offer(&steps[end], model->scores[id] + so_far, begin, id);
            single |= end == begin + size;
        }
        if (single)
            continue;
        offer(&steps[begin + size], model->unknown_score + so_far, begin, model->unk);
        if (steps[begin + size].id < 0)
            return no_unknown(work);
    }
    return true;
}

/* Unknown text: it may be a piece as a whole after all, or is bytes, or is unknown. */
static bool add_unknown(const unigram *model, const cb_vocab *vocab, cb_work *work, const char *text, uint32_t begin, uint32_t end)
{
    int32_t id = cb_vocab_find(vocab, text + begin, end - begin);
    if (id >= 0)
        return cb_word_add(work, id, begin, end);
    bool bytes = model->byte_fallback;
    for (uint32_t i = begin; bytes && i < end; i++)
        bytes = model->byte_ids[(uint8_t)text[i]] >= 0;
    if (!bytes)
        return cb_word_add(work, model->unk, begin, end);
    for (uint32_t i = begin; i < end; i++)
        if (!cb_word_add(work, model->byte_ids[(uint8_t)text[i]], begin, end))
            return false;
    return true;
}

static bool prepare(cb_work *work, uint32_t length, unigram_state **out)
{
    if (!work->model_state && !(work->model_state = cb_calloc(1, sizeof(unigram_state))))
        return false;
    unigram_state *state = *out = work->model_state;
    return cb_grow(&state->steps, &state->step_capacity, (size_t)length + 1, sizeof *state->steps) &&
           cb_grow(&state->ends, &state->end_capacity, (size_t)length + 1, sizeof *state->ends);
}

static bool unigram_encode(const void *pointer, const cb_vocab *vocab, cb_work *work, const cb_piece *piece)
{
    const unigram *model = pointer;
    unigram_state *state;
    if (!prepare(work, piece->length, &state) || !find_best(model, work, state->steps, piece->text, piece->length))
        return false;
    const step *steps = state->steps;
    size_t count = 0;
    for (uint32_t end = piece->length; end > 0; end = steps[end].begin)
        state->ends[count++] = end;
    for (uint32_t begin = 0; count > 0;) {
        uint32_t end = state->ends[--count];
        int32_t id = steps[end].id;
        if (id != model->unk) {
            if (!cb_word_add(work, id, begin, end))
                return false;
        } else {
            while (count > 0 && steps[state->ends[count - 1]].id == model->unk)
                end = state->ends[--count];
            if (!add_unknown(model, vocab, work, piece->text, begin, end))
                return false;
        }
        begin = end;
    }
    return true;
}

static void unigram_free_state(void *pointer)
{
    unigram_state *state = pointer;
    cb_free(state->steps);
    cb_free(state->ends);
    cb_free(state);
}

const cb_model_kind cb_model_unigram = {.type = "Unigram",
                                        .state_size = sizeof(unigram),
                                        .parse = unigram_parse,
                                        .release = unigram_release,
                                        .fits = unigram_fits,
                                        .encode = unigram_encode,
                                        .free_state = unigram_free_state};
