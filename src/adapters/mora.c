/* mora.c: a square matrix between operators without parameters, W x + decompress(M compress(x)), whose change of the weight has a rank far
 * above that of a LoRA with as many numbers.  Jiang et al. 2024, arXiv:2405.12130 (MoRA).
 * M (S, S), S = floor(sqrt(R (in + out))), at most the smaller side of the weight; it begins at zero.  N rows of x; n = ceil(in / S) chunks of S
 * inputs, the last one filled up with the first inputs again, as the authors' code does.
 *   truncation (equation 5)  the first S inputs; the first S outputs
 *   sharing (6)              the sum of all chunks; repeated over the outputs: columns, and rows, that are S apart are the same
 *   decoupling (7)           M times each chunk, one after another: blocks M on the diagonal; cut off, or repeated, at the outputs
 *   rotation (9)             the same, chunk i turned as the i-th token of RoPE before: blocks M R_i; S is even */
#include <math.h>

#include "adapters/dense.h"

typedef struct mora_config {
    int64_t rank;
    int mora_type;
    double dropout;
} mora_config;

typedef struct mora_state {
    cb_tensor *matrix;
    cb_tensor *cos, *sin, *chunk; /* of rotation: (n, S / 2), (n, S / 2), 0 ... n - 1 */
    int64_t size, chunks;
    int type;
    double dropout;
} mora_state;

enum { MORA_TRUNCATION, MORA_SHARING, MORA_DECOUPLING, MORA_ROTATION };
static const char *const mora_types[] = {"truncation", "sharing", "decoupling", "rotation", NULL};

static const cb_option mora_options[] = {
    CB_OPT_INT(mora_config, rank, 8, 1, 65536, "the square matrix has as many numbers as a LoRA of this rank, or a few less"),
    CB_OPT_ENUM(
        mora_config, mora_type, MORA_ROTATION, mora_types,
        "how inputs are compressed and outputs made of the result; rotation for low ranks (the authors: 8), sharing for high ones (256)"),
    CB_OPT_FLOAT(mora_config, dropout, 0, 0, 1, "dropout on the module's input while training"), CB_OPT_END};

static const char *const mora_peft_names[] = {"rank", "r", "dropout", "lora_dropout", NULL};

static bool mora_create(cb_module *m, const void *config_, const cb_layer *layer)
{
    const mora_config *config = config_;
    int64_t in = layer->in_features, out = layer->out_features, least = config->mora_type == MORA_ROTATION ? 2 : 1;
    int64_t size = (int64_t)sqrt((double)config->rank * (double)(in + out));
    size = size < in ? size : in;
    size = size < out ? size : out;
    size -= size % least;
    if (size == 0)
        return cb_fail(CB_ERR_ARGUMENT,
                       "mora_type: found rotation for layer %s of %lld inputs and %lld outputs, expected two or more of each", layer->name,
                       (long long)in, (long long)out) == CB_OK;
    *(mora_state *)m->state =
        (mora_state){.size = size, .chunks = (in + size - 1) / size, .type = config->mora_type, .dropout = config->dropout};
    return true;
}

static int mora_parameters(cb_module *m, cb_adapter_parameter *list)
{
    mora_state *s = m->state;
    list[0] = (cb_adapter_parameter){"mora_M", &s->matrix, 2, {s->size, s->size}, CB_ROLE_TRAINED};
    list[1] = (cb_adapter_parameter){"cos", &s->cos, 2, {s->chunks, s->size / 2}, CB_ROLE_PRIVATE};
    list[2] = (cb_adapter_parameter){"sin", &s->sin, 2, {s->chunks, s->size / 2}, CB_ROLE_PRIVATE};
    list[3] = (cb_adapter_parameter){"chunk", &s->chunk, 1, {s->chunks}, CB_ROLE_PRIVATE | CB_ROLE_I32};
    return s->type == MORA_ROTATION ? 4 : 1;
}

/* RoPE's angles, i 10000^(-2j / S) */
static bool mora_ready(cb_module *m, const void *config, bool fresh)
{
    (void)config;
    (void)fresh;
    const mora_state *s = m->state;
    for (int64_t i = 0, half = s->size / 2; s->type == MORA_ROTATION && i < s->chunks; i++) {
        ((int32_t *)s->chunk->data)[i] = (int32_t)i;
        for (int64_t j = 0; j < half; j++) {
            double angle = (double)i * pow(10000, -(double)j / (double)half);
            ((float *)s->cos->data)[i * half + j] = (float)cos(angle);
            ((float *)s->sin->data)[i * half + j] = (float)sin(angle);
        }
    }
    return true;
}

/* ---- forward ---- */

/* x (N, in) -> (N, n, S) */
static cb_tensor *in_chunks(const cb_module *m, cb_tensor *x)
{
    const mora_state *s = m->state;
    int64_t missing = s->chunks * s->size - m->layer->in_features;
    cb_tensor *parts[] = {x, missing ? cb_slice(x, 1, 0, missing, 1) : NULL};
    return cb_reshape(missing ? cb_cat(2, parts, 1) : x, -1, s->chunks, s->size);
}

/* z (N, width), cut off or repeated -> (N, out) */
static cb_tensor *fitted(const cb_module *m, cb_tensor *z, int64_t width)
{
    int64_t out = m->layer->out_features;
    if (width < out)
        z = cb_repeat(z, 1, (out + width - 1) / width);
    return cb_slice(z, 1, 0, out, 1);
}

/* M R_i x_i of every chunk, side by side: (N, n S).  Chunks are RoPE's tokens, rows its heads. */
static cb_tensor *turned(const mora_state *s, cb_tensor *chunks, cb_tensor *matrix)
{
    cb_tensor *tokens = cb_rope(cb_unsqueeze(cb_transpose(chunks, 0, 1), 0), s->cos, s->sin, s->chunk);
    return cb_transpose(cb_squeeze(cb_linear(tokens, matrix, NULL), 0), 0, 1);
}

/* What x (N, in) adds to the outputs, (N, out) */
static cb_tensor *mora_product(const cb_module *m, cb_tensor *x)
{
    const mora_state *s = m->state;
    cb_tensor *matrix = cb_scale(s->matrix, m->strength);
    if (s->type == MORA_TRUNCATION)
        return cb_pad(cb_linear(cb_slice(x, 1, 0, s->size, 1), matrix, NULL), 1, 0, m->layer->out_features - s->size, 0);
    cb_tensor *chunks = in_chunks(m, x);
    if (s->type == MORA_SHARING)
        return fitted(m, cb_linear(cb_sum(chunks, 1, false), matrix, NULL), s->size);
    cb_tensor *z = s->type == MORA_ROTATION ? turned(s, chunks, matrix) : cb_linear(chunks, matrix, NULL);
    return fitted(m, cb_reshape(z, -1, s->chunks * s->size), s->chunks * s->size);
}

static cb_tensor *mora_change(const cb_module *m)
{
    return cb_dense_of(m, mora_product);
}

static cb_tensor *mora_forward(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    const mora_state *s = m->state;
    if (m->strength == 0)
        return y;
    if (ctx->training && s->dropout > 0)
        x = cb_dropout(x, s->dropout, ctx->rng);
    return cb_rows_add(m, x, y, mora_product);
}

static cb_tensor *mora_delta(const cb_module *m, cb_tensor *weight)
{
    (void)weight;
    return cb_dense_delta(m, mora_change, 1);
}

const cb_adapter_kind cb_kind_mora = {
    .name = "mora",
    .peft_type = "MORA",
    .summary = "a square matrix between operators without parameters: W x + decompress(M compress(x))",
    .paper = "Jiang et al. 2024, arXiv:2405.12130",
    .options = mora_options,
    .config_size = sizeof(mora_config),
    .state_size = sizeof(mora_state),
    .module = {.name = "mora", .forward = mora_forward, .adds = cb_adds_always, .delta = mora_delta},
    .hosts = 1u << CB_LAYER_LINEAR,
    .create = mora_create,
    .parameters = mora_parameters,
    .ready = mora_ready,
    .peft_names = mora_peft_names,
};
