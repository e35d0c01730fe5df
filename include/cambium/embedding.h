/* embedding.h: floor 4: sentence encoders: texts to vectors, and exact search among them.
 *
 *     cb_embedder *e = cb_embedder_load("models/all-MiniLM-L6-v2", CB_F32);
 *     float *vectors = malloc(2 * cb_embedder_dimension(e) * sizeof *vectors);
 *     cb_embed(e, (const char *[]){"a text", "another"}, 2, NULL, vectors);
 *
 * A sentence encoder is a directory of sentence-transformers: modules.json names what a text goes through, a transformer first, then
 * pooling, dense layers and normalisation.  A plain encoder or decoder directory is one as well: its tokens' mean, as sentence-transformers
 * takes it.  Adapters are attached to the model inside (cb_embedder_model()), which has no head.
 * Shape letters: B texts, T tokens, C width of the model, D dimension of the vectors. */
#ifndef CAMBIUM_EMBEDDING_H
#define CAMBIUM_EMBEDDING_H

#include "cambium/models.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- sentence encoders ---- */

typedef struct cb_embedder cb_embedder;

typedef enum cb_similarity { CB_SIMILARITY_COSINE, CB_SIMILARITY_DOT } cb_similarity;

/* Reads modules.json with the modules' own files, sentence_bert_config.json, config_sentence_transformers.json, the model and its tokenizer;
 * `dtype` is that of activations, vectors are f32.  Modules: Transformer, Pooling, Dense, Normalize; another one, and what these cannot do
 * (another activation, module names of other features), is CB_ERR_UNSUPPORTED by its name, a file that is not what it should be
 * CB_ERR_FORMAT. */
CB_API cb_embedder *cb_embedder_load(const char *directory, cb_dtype dtype);
CB_API void cb_embedder_free(cb_embedder *e); /* NULL is allowed; adapters of its model first */
CB_API cb_model *cb_embedder_model(const cb_embedder *e);
CB_API const cb_tokenizer *cb_embedder_tokenizer(const cb_embedder *e);
CB_API const char *cb_embedder_directory(const cb_embedder *e); /* as given to load */
CB_API int64_t cb_embedder_dimension(const cb_embedder *e);     /* D */
CB_API int64_t cb_embedder_max_tokens(const cb_embedder *e);    /* of a text; what is longer is cut */
/* From now on; more than the model has positions for, or none: CB_ERR_ARGUMENT. */
CB_API bool cb_embedder_set_max_tokens(cb_embedder *e, int64_t tokens);
CB_API cb_similarity cb_embedder_similarity(const cb_embedder *e); /* what its vectors are compared by */
CB_API char *cb_embedder_describe(const cb_embedder *e);           /* "mean of 384, normalized"; free with cb_free() */

/* A prompt is text put before every text.  The one of this name, or NULL (no error): there is none. */
CB_API const char *cb_embedder_prompt(const cb_embedder *e, const char *name);
/* As sentence-transformers' encode_query() and encode_document(): the prompt "query", or "document", "passage" or "corpus", where there is
 * one, else the default one, else "". */
CB_API const char *cb_embedder_query_prompt(const cb_embedder *e);
CB_API const char *cb_embedder_document_prompt(const cb_embedder *e);
CB_API const char *cb_embedder_default_prompt(const cb_embedder *e);

/* Writes what makes a sentence encoder of a model directory, or an adapter's that names it as its base: modules.json and the modules' files,
 * and tokenizer.json with what stands beside it.  The weights are the caller's to write. */
CB_API bool cb_embedder_save_modules(const cb_embedder *e, const char *directory);

/* The files of the modules below a directory of sentence-transformers, as names relative to it, added to a list; of other directories none. */
CB_API bool cb_embedder_list_files(const char *directory, cb_string_list *names);

/* ---- vectors ---- */

/* Tokens of prompt and text, cut to the most there may be.  *skipped (may be NULL): how many tokens at the beginning are left out by pooling,
 * because they are the prompt's and the model leaves those out (include_prompt). */
CB_API bool cb_embedder_encode(const cb_embedder *e, const char *prompt, const char *text, cb_encoding *out, int32_t *skipped);
/* ids (B, T) i32 -> (B, D) f32.  ctx->segments (B, T), negative where there is padding, which comes behind a text; skipped (B) i32, or NULL:
 * see above.  Differentiable. */
CB_API cb_tensor *cb_embedder_forward(const cb_embedder *e, cb_tensor *ids, cb_tensor *skipped, const cb_context *ctx);

typedef struct cb_embed_options {
    const char *prompt;                                      /* before every text; NULL: the default one of the model; "": none */
    int64_t batch_size;                                      /* texts per forward pass; 0: 32 */
    bool normalize;                                          /* to length 1, whatever the modules say */
    void (*progress)(void *user, size_t done, size_t count); /* may be NULL */
    void *user;
} cb_embed_options;
/* vectors (count, D).  Texts of like length go through the model together; what comes out for one does not depend on the others, but for the
 * order of sums in products.  A text without tokens gets zeros.  CB_ERR_INTERRUPTED between batches.  options NULL: as above. */
CB_API bool cb_embed(cb_embedder *e, const char *const *texts, size_t count, const cb_embed_options *options, float *vectors);

/* ---- search ---- */

typedef struct cb_hit {
    size_t index; /* among all that were added */
    float score;  /* the product */
} cb_hit;
/* The k documents with the largest products for each of some queries (count, dimension), which must stay where they are.  Documents are added
 * in blocks, which are forgotten: memory is that of the hits. */
typedef struct cb_search cb_search;
CB_API cb_search *cb_search_open(const float *queries, size_t count, size_t dimension, size_t k);
CB_API bool cb_search_add(cb_search *s, const float *documents, size_t count);
/* Of a query, best first, of equal ones the one that was added first: *hits lives as long as the search.  Nothing may be added after it. */
CB_API size_t cb_search_hits(cb_search *s, size_t query, const cb_hit **hits);
CB_API void cb_search_free(cb_search *s); /* NULL is allowed */

#ifdef __cplusplus
}
#endif
#endif
