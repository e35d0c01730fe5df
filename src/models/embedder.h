/* embedder.h: what the files about sentence encoders share: a loaded one, and its modules. */
#ifndef CB_MODELS_EMBEDDER_H
#define CB_MODELS_EMBEDDER_H

#include "cambium/embedding.h"
#include "core/json.h"

/* What a text's hidden states become a vector by; in the order in which several are put one after another. */
typedef enum pooling_mode { POOL_CLS, POOL_MAX, POOL_MEAN, POOL_MEAN_SQRT, POOL_WEIGHTED_MEAN, POOL_LAST, POOLING_MODES } pooling_mode;

typedef struct pooling {
    pooling_mode modes[POOLING_MODES];
    int count;
    bool include_prompt;
} pooling;

/* pooling.c: hidden (B, T, C), segments (B, T) or NULL, skipped (B) or NULL -> (B, count C) f32. */
cb_tensor *cb_pool(const pooling *p, cb_tensor *hidden, const cb_tensor *segments, const cb_tensor *skipped);
extern const char *const cb_pooling_names[POOLING_MODES]; /* as in pooling_mode */
extern const char *const cb_pooling_flags[POOLING_MODES]; /* fields of older files, one for each */

/* A module behind the pooling. */
typedef struct embedder_step {
    bool dense; /* else it normalises; what follows is of a dense one */
    int64_t in, out;
    cb_tensor *weight, *bias;             /* kept; bias may be NULL */
    int activation;                       /* index into cb_dense_activations */
    cb_tensor *(*activate)(cb_tensor *x); /* NULL: as it is */
} embedder_step;

enum { MOST_STEPS = 16 };

struct cb_embedder {
    char *directory, *transformer; /* transformer: where model and tokenizer lie */
    cb_model *model;
    cb_tokenizer *tokenizer;
    int64_t max_tokens, most_tokens; /* of a text as it is, and as the model allows */
    bool lower_case;
    pooling pooling;
    embedder_step steps[MOST_STEPS];
    int step_count;
    cb_string_list prompt_names, prompts;
    char *default_prompt; /* a name, or NULL */
    cb_similarity similarity;
    int64_t dimension;
};

/* embedder_read.c: everything but the model and its tokenizer, whose place (e->transformer) it finds.  What depends on the model's width is
 * checked by the other one, once that is known. */
bool cb_embedder_read(cb_embedder *e);
bool cb_embedder_check(cb_embedder *e);
extern const char *const cb_dense_activations[]; /* classes of torch */

#endif
