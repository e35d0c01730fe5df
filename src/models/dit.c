/* dit.c: diffusers' DiTTransformer2DModel: a transformer over patches that denoises images (Peebles and Xie 2023, arXiv:2212.09748).
 *
 * Each block has an embedding of timestep and class of its own (norm1.emb), and what a linear layer makes of it shifts, scales and gates the two
 * halves of the block (adaLN-zero): x + gate attention(norm(x) (1 + scale) + shift), and the same with an MLP.  The norms have no weights.  Behind the
 * last block the first block's embedding shifts and scales once more.  The table of classes has one row more than there are classes, for none.
 * Positions are sines and cosines, and are no weights. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "models/internal.h"

enum { WAVES = 256, PARTS = 6, MOST_WIDTH = 1 << 16 };
static const double norm_eps = 1e-6; /* of all norms but norm3 */

/* What a block is told by. */
typedef struct dit_block {
    cb_time_layers time;
    cb_layer *classes, *modulation;
} dit_block;

typedef struct dit {
    int64_t patch, side; /* side: patches of a row at the size of the config */

    cb_layer *proj, *norm, *modulation, *out;
    dit_block blocks[];
} dit;

/* ---- configuration ---- */

static bool check_fixed(const cb_model *model)
{
    const char *norm = cb_json_string(model->config_path, model->json, "norm_type", "ada_norm_zero");
    const char *activation = cb_json_string(model->config_path, model->json, "activation_fn", "gelu-approximate");
    bool affine = cb_json_bool(model->config_path, model->json, "norm_elementwise_affine", false);
    double dropout = cb_json_float(model->config_path, model->json, "dropout", 0);
    if (!cb_ok())
        return false;
    if (strcmp(norm, "ada_norm_zero") != 0)
        return cb_config_error(model, "norm_type is \"%.60s\", expected ada_norm_zero", norm);
    if (strcmp(activation, "gelu-approximate") != 0)
        return cb_config_error(model, "activation_fn is \"%.60s\", expected gelu-approximate", activation);
    if (affine)
        return cb_config_error(model, "norm_elementwise_affine is true, expected false");
    return dropout == 0 || cb_config_error(model, "dropout is %g, expected 0", dropout);
}

static bool configure(cb_model *model)
{
    static const cb_config_field fields[] = {{"num_attention_heads", offsetof(cb_model_config, heads), 16, 1, 1 << 12},
                                             {"attention_head_dim", offsetof(cb_model_config, head_dim), 72, 1, 1 << 12},
                                             {"in_channels", offsetof(cb_model_config, channels), 4, 1, 1 << 12},
                                             {"num_layers", offsetof(cb_model_config, layers), 28, 1, 1 << 12},
                                             {"num_embeds_ada_norm", offsetof(cb_model_config, class_rows), 1000, 1, 1 << 20},
                                             {0}};
    cb_model_config *c = &model->config;
    if (!check_fixed(model) || !cb_config_integers(model, fields) || !cb_config_size(model, "sample_size", 32, 1 << 12, c->image_size) ||
        !cb_config_size(model, "patch_size", 2, 1 << 8, c->patch_size) || !cb_config_number(model, "norm_eps", 1e-5, 1e-30, 1, &c->eps))
        return false;
    const json_t *out = json_object_get(model->json, "out_channels");
    c->output_channels = out && !json_is_null(out) ? cb_json_int(model->config_path, model->json, "out_channels", 0) : c->channels;
    if (cb_ok() && (c->output_channels < 1 || c->output_channels > 1 << 12))
        return cb_config_error(model, "out_channels is %lld, expected 1 to %d", (long long)c->output_channels, 1 << 12);
    for (int i = 0; i < 2; i++)
        if (c->image_size[i] != c->image_size[0] || c->patch_size[i] != c->patch_size[0] || c->image_size[i] % c->patch_size[i])
            return cb_config_error(model, "sample_size is %lld, expected one number, a multiple of patch_size (%lld)",
                                   (long long)c->image_size[i], (long long)c->patch_size[i]);
    c->width = c->heads * c->head_dim;
    if (c->width > MOST_WIDTH || c->width % 4)
        return cb_config_error(model, "num_attention_heads times attention_head_dim is %lld, expected a multiple of 4 up to %d",
                               (long long)c->width, MOST_WIDTH);
    c->mlp_width = 4 * c->width;
    c->activation = CB_ACT_GELU_TANH;
    model->labels = c->class_rows++; /* the last row is for none */
    dit *d = model->details = cb_calloc(1, sizeof *d + (size_t)c->layers * sizeof *d->blocks);
    if (!d)
        return false;
    d->patch = c->patch_size[0];
    d->side = c->image_size[0] / d->patch;
    return cb_ok();
}

/* ---- layers ---- */

/* A norm without weights. */
static cb_layer *bare_norm(cb_layer *parent, const char *name, int64_t width, double eps)
{
    cb_layer *norm = parent ? cb_layer_new(parent, name, CB_LAYER_NORM) : NULL;
    if (norm) {
        norm->in_features = norm->out_features = width;
        norm->eps = eps;
    }
    return norm;
}

static bool build_told(cb_model *model, cb_weight_source *source, cb_layer *norm, dit_block *told)
{
    const cb_model_config *c = &model->config;
    cb_layer *emb = cb_layer_new(norm, "emb", CB_LAYER_GROUP), *classes;
    return emb && cb_time_layers_build(source, emb, "timestep_embedder", WAVES, c->width, &told->time) &&
           (classes = cb_layer_new(emb, "class_embedder", CB_LAYER_GROUP)) &&
           (told->classes = cb_source_embedding(source, classes, "embedding_table", c->class_rows, c->width)) &&
           (told->modulation = cb_source_linear(source, norm, "linear", c->width, PARTS * c->width, false, true, CB_INITIAL_ZEROS));
}

static bool build_attention(cb_model *model, cb_weight_source *source, cb_block *b)
{
    int64_t width = model->config.width;
    bool bias = cb_json_bool(model->config_path, model->json, "attention_bias", true);
    cb_layer *out;
    b->attention = cb_layer_new(b->layer, "attn1", CB_LAYER_ATTENTION);
    if (!b->attention)
        return false;
    b->attention->in_features = b->attention->out_features = model->config.heads;
    return (b->q = cb_source_linear(source, b->attention, "to_q", width, width, false, bias, CB_INITIAL_KAIMING)) &&
           (b->k = cb_source_linear(source, b->attention, "to_k", width, width, false, bias, CB_INITIAL_KAIMING)) &&
           (b->v = cb_source_linear(source, b->attention, "to_v", width, width, false, bias, CB_INITIAL_KAIMING)) &&
           (out = cb_layer_new(b->attention, "to_out", CB_LAYER_GROUP)) &&
           (b->o = cb_source_linear(source, out, "0", width, width, false, true, CB_INITIAL_KAIMING));
}

static bool build_mlp(cb_model *model, cb_weight_source *source, cb_block *b)
{
    const cb_model_config *c = &model->config;
    b->mlp = cb_layer_new(b->layer, "ff", CB_LAYER_MLP);
    cb_layer *net = b->mlp ? cb_layer_new(b->mlp, "net", CB_LAYER_GROUP) : NULL,
             *first = net ? cb_layer_new(net, "0", CB_LAYER_GROUP) : NULL;
    b->up = first ? cb_source_linear(source, first, "proj", c->width, c->mlp_width, false, true, CB_INITIAL_KAIMING) : NULL;
    b->down = b->up ? cb_source_linear(source, net, "2", c->mlp_width, c->width, false, true, CB_INITIAL_KAIMING) : NULL;
    return b->down;
}

static bool build_block(cb_model *model, cb_weight_source *source, cb_layer *blocks, int64_t index)
{
    const cb_model_config *c = &model->config;
    dit *d = model->details;
    char name[24];
    snprintf(name, sizeof name, "%lld", (long long)index);
    cb_block *b = cb_model_add_block(model);
    b = b && (b->layer = cb_layer_new(blocks, name, CB_LAYER_BLOCK)) ? b : NULL;
    return b && (b->attention_norm = bare_norm(b->layer, "norm1", c->width, norm_eps)) &&
           build_told(model, source, b->attention_norm, &d->blocks[index]) && build_attention(model, source, b) &&
           (b->mlp_norm = bare_norm(b->layer, "norm3", c->width, c->eps)) && build_mlp(model, source, b);
}

static bool build(cb_model *model, cb_weight_source *source)
{
    const cb_model_config *c = &model->config;
    dit *d = model->details;
    cb_layer *root = model->root, *embedding = cb_layer_new(root, "pos_embed", CB_LAYER_GROUP);
    cb_conv_options patches = {.stride = {d->patch, d->patch}};
    d->proj =
        embedding ? cb_source_conv(source, embedding, "proj", c->channels, c->width, d->patch, patches, true, CB_INITIAL_KAIMING) : NULL;
    cb_layer *blocks = d->proj ? cb_layer_new(root, "transformer_blocks", CB_LAYER_GROUP) : NULL;
    for (int64_t i = 0; blocks && i < c->layers; i++)
        if (!build_block(model, source, blocks, i))
            return false;
    return blocks && (d->norm = bare_norm(root, "norm_out", c->width, norm_eps)) &&
           (d->modulation = cb_source_linear(source, root, "proj_out_1", c->width, 2 * c->width, false, true, CB_INITIAL_ZEROS)) &&
           (d->out = cb_source_linear(source, root, "proj_out_2", c->width, d->patch * d->patch * c->output_channels, false, true,
                                      CB_INITIAL_ZEROS));
}

/* ---- what blocks are told ---- */

static bool begin(cb_model *model, const cb_tensor *pixels, cb_pass *pass)
{
    const dit *d = model->details;
    if (pixels->shape[2] != pixels->shape[3] || pixels->shape[2] % d->patch)
        return cb_fail(CB_ERR_SHAPE, "model: images of %lld by %lld, expected as high as wide, and a multiple of the patches' %lld",
                       (long long)pixels->shape[2], (long long)pixels->shape[3], (long long)d->patch) == CB_OK;
    if (!cb_denoiser_begin(model, pixels, pass))
        return false;
    pass->time = cb_denoiser_waves(model, pass->ctx.timesteps, WAVES, true, 1);
    return pass->time;
}

/* Timestep and class, activated: (B, 1, width). */
static cb_tensor *conditioning(const cb_model *model, const dit_block *told, const cb_pass *pass)
{
    cb_tensor *time = cb_time_layers_run(&told->time, pass->time, &pass->ctx);
    return cb_silu(cb_add(time, cb_embedding_forward(told->classes, pass->classes, model->dtype, &pass->ctx)));
}

/* Part `number` of several (B, 1, width) that lie behind one another. */
static cb_tensor *part(cb_tensor *all, int64_t width, int number)
{
    return all ? cb_slice(all, 2, number * width, (number + 1) * width, 1) : NULL;
}

/* x (1 + scale) + shift */
static cb_tensor *modulated(cb_tensor *x, cb_tensor *shift, cb_tensor *scale)
{
    return cb_add(cb_mul(x, cb_add_scalar(scale, 1)), shift);
}

/* ---- blocks ---- */

static cb_tensor *attend(const cb_model *model, const cb_block *b, cb_tensor *x, const cb_context *ctx)
{
    int64_t head_dim = model->config.head_dim;
    x = cb_layer_before(b->attention, x, ctx);
    if (!x)
        return NULL;
    cb_tensor *q = cb_encoder_heads(b->q, x, head_dim, ctx), *k = cb_encoder_heads(b->k, x, head_dim, ctx);
    cb_tensor *y = cb_attention_forward(b->attention, q, k, cb_encoder_heads(b->v, x, head_dim, ctx), (cb_attention_options){0}, ctx);
    y = y ? cb_reshape(y, x->shape[0], x->shape[1], -1) : NULL;
    return cb_layer_after(b->attention, x, cb_linear_forward(b->o, y, ctx), ctx);
}

static cb_tensor *feed(const cb_model *model, const cb_block *b, cb_tensor *x, const cb_context *ctx)
{
    x = cb_layer_before(b->mlp, x, ctx);
    cb_tensor *inner = cb_activate(model->config.activation, cb_linear_forward(b->up, x, ctx));
    return cb_layer_after(b->mlp, x, cb_linear_forward(b->down, inner, ctx), ctx);
}

/* Both halves at once, since one layer says what both are told. */
static cb_tensor *whole(const cb_model *model, int64_t index, cb_tensor *x, const cb_pass *pass)
{
    enum { SHIFT_ATTENTION, SCALE_ATTENTION, GATE_ATTENTION, SHIFT_MLP, SCALE_MLP, GATE_MLP };
    const dit_block *told = &((const dit *)model->details)->blocks[index];
    const cb_block *b = &model->blocks[index];
    const cb_context *ctx = &pass->ctx;
    int64_t width = model->config.width;
    cb_tensor *all = cb_linear_forward(told->modulation, conditioning(model, told, pass), ctx);
    cb_tensor *y =
        modulated(cb_layer_norm_forward(b->attention_norm, x, ctx), part(all, width, SHIFT_ATTENTION), part(all, width, SCALE_ATTENTION));
    x = cb_add(x, cb_mul(attend(model, b, y, ctx), part(all, width, GATE_ATTENTION)));
    y = modulated(cb_layer_norm_forward(b->mlp_norm, x, ctx), part(all, width, SHIFT_MLP), part(all, width, SCALE_MLP));
    return cb_add(x, cb_mul(feed(model, b, y, ctx), part(all, width, GATE_MLP)));
}

static cb_tensor *block(cb_model *model, int64_t index, cb_tensor *x, const cb_pass *pass)
{
    return cb_branch_run(whole, model, index, x, pass);
}

/* ---- before and behind them ---- */

/* Sines and cosines of a place at width / 4 frequencies, as of a row or column of the size of the config. */
static void waves_of(const dit *d, int64_t place, int64_t places, int64_t width, float *out)
{
    const double longest = 10000;
    int64_t count = width / 4;
    for (int64_t i = 0; i < count; i++) {
        double angle = (double)(place * d->side) / (double)places * pow(longest, -(double)i / (double)count);
        out[i] = (float)sin(angle);
        out[count + i] = (float)cos(angle);
    }
}

/* (1, places places, width): of the column, then of the row. */
static cb_tensor *positions(const cb_model *model, int64_t places)
{
    int64_t width = model->config.width, half = width / 2;
    cb_tensor *each = cb_empty(CB_F32, places, half), *all = cb_empty(CB_F32, 1, places * places, width);
    for (int64_t i = 0; each && all && i < places; i++)
        waves_of(model->details, i, places, width, (float *)each->data + i * half);
    for (int64_t i = 0; each && all && i < places * places; i++) {
        float *to = (float *)all->data + i * width;
        memcpy(to, (const float *)each->data + i % places * half, (size_t)half * sizeof *to);
        memcpy(to + half, (const float *)each->data + i / places * half, (size_t)half * sizeof *to);
    }
    return each && all && model->dtype != CB_F32 ? cb_cast(all, model->dtype) : all;
}

static cb_tensor *embed(cb_model *model, cb_tensor *pixels, const cb_pass *pass)
{
    const dit *d = model->details;
    cb_tensor *x = cb_pixels_patches(model, d->proj, pixels, &pass->ctx);
    return cb_add(x, positions(model, pixels->shape[2] / d->patch));
}

/* Tokens of patches (B, h h, p p C) as maps (B, C, h p, h p). */
static cb_tensor *maps_of(const cb_model *model, cb_tensor *x)
{
    const dit *d = model->details;
    int64_t channels = model->config.output_channels, p = d->patch;
    int64_t h = x ? (int64_t)lround(sqrt((double)x->shape[1])) : 0;
    x = x ? cb_reshape(x, x->shape[0], h, h, p, p, channels) : NULL;
    x = x ? cb_permute(x, 0, 5, 1, 3, 2, 4) : NULL;
    return x ? cb_reshape(x, x->shape[0], channels, h * p, h * p) : NULL;
}

static cb_tensor *finish(cb_model *model, cb_tensor *x, const cb_pass *pass)
{
    const dit *d = model->details;
    const cb_context *ctx = &pass->ctx;
    int64_t width = model->config.width;
    cb_tensor *all = cb_linear_forward(d->modulation, conditioning(model, &d->blocks[0], pass), ctx);
    x = modulated(cb_layer_norm_forward(d->norm, x, ctx), part(all, width, 0), part(all, width, 1));
    return maps_of(model, cb_linear_forward(d->out, x, ctx));
}

static const cb_head_plan heads[] = {{.kind = CB_HEAD_DENOISING, .class_end = ""}, {0}};

const cb_architecture cb_dit_family[] = {{.model_type = "DiTTransformer2DModel",
                                          .class_prefix = "DiTTransformer2DModel",
                                          .prefix = "",
                                          .heads = heads,
                                          .bidirectional = true,
                                          .images = true,
                                          .diffusers = true,
                                          .configure = configure,
                                          .build = build,
                                          .begin = begin,
                                          .embed = embed,
                                          .block = block,
                                          .finish = finish},
                                         {0}};
