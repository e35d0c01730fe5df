/* gguf_target.c: which type each tensor of a GGUF file gets.
 *
 * A target is what llama.cpp's quantiser calls a file type: the type of most matrices, and better ones where rounding hurts most.  The table
 * says what its llama_tensor_get_type() says of dense models, so that a file of ours and one of llama-quantize (without importance matrix)
 * hold the same types.  A type of large blocks does not fit every row; then one of smaller blocks stands in for it, at last F16. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "formats/gguf_model.h"

/* Where in a model a matrix gets another type than most. */
enum {
    ALL = 1, /* everywhere */
    SPREAD,  /* in the first and the last eighth of the blocks, and in every third between them */
    FIRST_2, /* in so many first blocks */
    FIRST_4,
    EIGHTH,    /* in the first eighth of the blocks */
    SIXTEENTH, /* or sixteenth */
    SHARED,    /* where four heads or more share a key head */
};

typedef struct exception {
    int where;
    const char *type, *otherwise; /* NULL: that of most matrices */
} exception;

struct cb_gguf_target {
    const char *name; /* as an option has it */
    uint32_t file_type;
    const char *type;              /* NULL: as stored */
    exception value, down, output; /* attn_v (or attn_qkv), ffn_down, attn_output */
};

#define IN_SPREAD .value = {SPREAD, "Q6_K", NULL}, .down = {SPREAD, "Q6_K", NULL}

#define Q3_K_MIXTURE .value = {FIRST_2, "Q5_K", "Q4_K"}, .down = {SIXTEENTH, "Q5_K", "Q4_K"}, .output = {ALL, "Q4_K", NULL}

/* Model directories hold the first four. */
#define EACH_TARGET(X)                                                                                                                     \
    X("keep", 0, NULL, )                                                                                                                   \
    X("f32", 0, "F32", )                                                                                                                   \
    X("bf16", 32, "BF16", )                                                                                                                \
    X("f16", 1, "F16", )                                                                                                                   \
    X("q8_0", 7, "Q8_0", )                                                                                                                 \
    X("q6_k", 18, "Q6_K", )                                                                                                                \
    X("q5_k", 17, "Q5_K", IN_SPREAD)                                                                                                       \
    X("q5_k_m", 17, "Q5_K", IN_SPREAD)                                                                                                     \
    X("q5_k_s", 16, "Q5_K", )                                                                                                              \
    X("q5_1", 9, "Q5_1", )                                                                                                                 \
    X("q5_0", 8, "Q5_0", )                                                                                                                 \
    X("q4_k", 15, "Q4_K", IN_SPREAD)                                                                                                       \
    X("q4_k_m", 15, "Q4_K", IN_SPREAD)                                                                                                     \
    X("q4_k_s", 14, "Q4_K", .value = {FIRST_4, "Q5_K", NULL}, .down = {EIGHTH, "Q5_K", NULL})                                              \
    X("q4_1", 3, "Q4_1", )                                                                                                                 \
    X("q4_0", 2, "Q4_0", )                                                                                                                 \
    X("iq4_nl", 25, "IQ4_NL", .value = {SHARED, "Q5_K", NULL}, .down = {EIGHTH, "Q5_K", NULL})                                             \
    X("iq4_xs", 30, "IQ4_XS", .value = {SHARED, "Q5_K", NULL}, .down = {EIGHTH, "Q5_K", NULL})                                             \
    X("q3_k", 12, "Q3_K", Q3_K_MIXTURE)                                                                                                    \
    X("q3_k_l", 13, "Q3_K", .value = {ALL, "Q5_K", NULL}, .down = {ALL, "Q5_K", NULL}, .output = {ALL, "Q5_K", NULL})                      \
    X("q3_k_m", 12, "Q3_K", Q3_K_MIXTURE)                                                                                                  \
    X("q3_k_s", 11, "Q3_K", )                                                                                                              \
    X("q2_k", 10, "Q2_K", .value = {SHARED, "Q4_K", "Q3_K"}, .down = {ALL, "Q3_K", NULL}, .output = {ALL, "Q3_K", NULL})

#define ROW(text, number, most, ...) {.name = text, .file_type = number, .type = most, __VA_ARGS__},
#define NAME(text, ...)              text,
static const cb_gguf_target targets[] = {EACH_TARGET(ROW){.name = NULL}};
const char *const cb_gguf_dtype_names[] = {EACH_TARGET(NAME) NULL};

const cb_gguf_target *cb_gguf_target_named(const char *name)
{
    for (const cb_gguf_target *t = targets; t->name; t++)
        if (strcasecmp(t->name, name) == 0)
            return t;
    cb_string known = {0};
    for (const cb_gguf_target *t = targets; t->name; t++)
        cb_string_printf(&known, "%s%s", t == targets ? "" : t[1].name ? ", " : " or ", t->name);
    cb_fail(CB_ERR_ARGUMENT, "dtype: found \"%.50s\", GGUF files hold %s", name, known.data ? known.data : "");
    cb_string_free(&known);
    return NULL;
}

bool cb_gguf_target_keeps(const cb_gguf_target *target)
{
    return !target->type;
}

uint32_t cb_gguf_target_file_type(const cb_gguf_target *target, const char *type_name)
{
    for (const cb_gguf_target *t = targets + 1; !target->type && t->name; t++)
        if (strcasecmp(t->type, type_name) == 0)
            return t->file_type;
    return target->file_type;
}

/* ---- types ---- */

static bool is_there(int where, int64_t block, const cb_gguf_model_sizes *m)
{
    int64_t eighth = m->blocks / 8;
    switch (where) {
    case ALL:
        return true;
    case SPREAD:
        return block < eighth || block >= 7 * m->blocks / 8 || (block - eighth) % 3 == 2;
    case FIRST_2:
        return block < 2;
    case FIRST_4:
        return block < 4;
    case EIGHTH:
        return block < eighth;
    case SIXTEENTH:
        return block < m->blocks / 16;
    default:
        return where == SHARED && m->kv_heads > 0 && m->heads / m->kv_heads >= 4;
    }
}

static const char *except(const exception *e, const char *type, int64_t block, const cb_gguf_model_sizes *m)
{
    const char *found = is_there(e->where, block, m) ? e->type : e->otherwise;
    return found ? found : type;
}

static bool ends_in(const char *name, const char *part)
{
    const char *dot = strchr(name + strlen("blk."), '.');
    return dot && strcmp(dot + 1, part) == 0;
}

/* A quantised target's type of a matrix, whether or not it fits. */
static const char *wanted_type(const cb_gguf_target *t, const cb_weight_entry *e, const cb_gguf_model_sizes *m)
{
    if (strcmp(e->name, m->tied ? "token_embd.weight" : "output.weight") == 0)
        return e->shape[e->ndim - 1] % cb_gguf_tensor_type_named(t->type)->block || strcmp(t->type, "Q8_0") == 0 ? "Q8_0" : "Q6_K";
    if (strncmp(e->name, "blk.", 4) != 0)
        return t->type;
    int64_t block = atoll(e->name + 4);
    if (ends_in(e->name, "attn_v.weight") || ends_in(e->name, "attn_qkv.weight")) {
        const char *type = except(&t->value, t->type, block, m);
        return m->shares_values && (strcmp(type, "Q3_K") == 0 || strcmp(type, "Q4_K") == 0) ? "Q5_K" : type;
    }
    return ends_in(e->name, "ffn_down.weight")      ? except(&t->down, t->type, block, m)
           : ends_in(e->name, "attn_output.weight") ? except(&t->output, t->type, block, m)
                                                    : t->type;
}

/* What stands in for a type whose blocks do not fit. */
static const char *smaller_type(const char *type)
{
    static const char *const stand_ins[][2] = {{"Q6_K", "Q8_0"},     {"Q5_K", "Q5_1"}, {"Q4_K", "Q5_0"},
                                               {"IQ4_XS", "IQ4_NL"}, {"Q3_K", "Q4_0"}, {"Q2_K", "Q4_0"}};
    for (size_t i = 0; i < sizeof stand_ins / sizeof *stand_ins; i++)
        if (strcmp(stand_ins[i][0], type) == 0)
            return stand_ins[i][1];
    return "F16";
}

static bool fits(const char *type, const cb_weight_entry *e, size_t *size)
{
    return cb_gguf_shape_size(cb_gguf_tensor_type_named(type), e->ndim, e->shape, size);
}

/* Vectors and positions are f32: llama.cpp multiplies with no others. */
bool cb_gguf_target_choose(const cb_gguf_target *t, const cb_gguf_model_sizes *m, const char *stored, cb_weight_entry *e)
{
    bool quantised = t->type && cb_gguf_tensor_type_named(t->type)->block > 1;
    bool vector = e->ndim < 2 || (t->type && strcmp(e->name, "position_embd.weight") == 0);
    const char *type = vector ? "F32" : !t->type ? stored : quantised ? wanted_type(t, e, m) : t->type;
    while (cb_gguf_tensor_type_named(type) && !fits(type, e, &e->size) && cb_gguf_tensor_type_named(type)->block > 1)
        type = smaller_type(type);
    e->type_name = type;
    return cb_gguf_tensor_type_named(type) && fits(type, e, &e->size);
}
