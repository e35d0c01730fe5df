/* ctc.h: floor 3: text out of frames by connectionist temporal classification (Graves et al. 2006): vocabularies of characters with a blank,
 * and how a model's frames become a text.
 *
 *     cb_ctc_vocabulary *v = cb_ctc_vocabulary_load("MODEL_DIR");
 *     int64_t n = cb_ctc_greedy(logits, frames, cb_ctc_vocabulary_size(v), cb_ctc_vocabulary_blank(v), ids);
 *     cb_ctc_decode(v, ids, (size_t)n, &text);
 */
#ifndef CAMBIUM_CTC_H
#define CAMBIUM_CTC_H

#include "cambium/core.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- vocabularies ---- */

/* Characters by number, as transformers' Wav2Vec2CTCTokenizer has them: vocab.json, an object of tokens and their ids 0, 1, ..., each once, and, where it is
 * beside it, tokenizer_config.json with pad_token (the blank; "<pad>"), unk_token ("<unk>"), word_delimiter_token ("|", which stands for a
 * blank between words), bos_token, eos_token and do_lower_case (texts are written in capitals inside, and come out in small letters). */
typedef struct cb_ctc_vocabulary cb_ctc_vocabulary;
/* From a directory, or the file vocab.json itself.  CB_ERR_FORMAT: file, token and what is wrong. */
CB_API cb_ctc_vocabulary *cb_ctc_vocabulary_load(const char *path);
CB_API void cb_ctc_vocabulary_free(cb_ctc_vocabulary *v); /* NULL is allowed */
CB_API bool cb_ctc_vocabulary_save(const cb_ctc_vocabulary *v, const char *directory);
CB_API int64_t cb_ctc_vocabulary_size(const cb_ctc_vocabulary *v);
CB_API int64_t cb_ctc_vocabulary_blank(const cb_ctc_vocabulary *v);
CB_API const char *cb_ctc_vocabulary_token(const cb_ctc_vocabulary *v, int64_t id);
/* The ids of a text (UTF-8), a code point each, to be freed with cb_free(); *unknown: how many of them are the unknown token's.  A character that is
 * not there, where there is no such token: CB_ERR_FORMAT with the character. */
CB_API bool cb_ctc_encode(const cb_ctc_vocabulary *v, const char *text, int32_t **ids, size_t *count, size_t *unknown);
/* Appends the text of ids that are no frames any more (cb_ctc_greedy()): special tokens are left out, blanks at both ends too. */
CB_API bool cb_ctc_decode(const cb_ctc_vocabulary *v, const int32_t *ids, size_t count, cb_string *text);
/* How many frames a text needs at least: one for each id, and one for a blank between two that are equal. */
CB_API int64_t cb_ctc_frames_needed(const int32_t *ids, size_t count);

/* ---- decoding ---- */

/* The likeliest path of logits (T, V), without repetitions and blanks: ids has room for T; gives how many there are. */
CB_API int64_t cb_ctc_greedy(const float *logits, int64_t frames, int64_t classes, int64_t blank, int32_t *ids);
/* The likeliest text that a search over prefixes finds which keeps `width` of them at each frame (Hannun et al. 2014, arXiv:1408.2873, without a
 * language model): probabilities of all paths of a text add up.  *score: its log-probability (of the paths that were kept); NULL: not wanted.
 * -1 without memory, or with CB_ERR_ARGUMENT for less than 1 in `width` or `classes`, less than 0 frames, or a blank that is no class. */
CB_API int64_t cb_ctc_beam(const float *logits, int64_t frames, int64_t classes, int64_t blank, int64_t width, int32_t *ids, double *score);

#ifdef __cplusplus
}
#endif
#endif
