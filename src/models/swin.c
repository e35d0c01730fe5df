/* swin.c: Swin (Liu et al. 2021, arXiv:2103.14030): a transformer over patches of 4 whose attention stays within windows, moved by half of one
 * in every other block, with a learned bias for each distance; between stages four places become one of twice the width.  Stochastic depth is
 * not applied.
 *
 * Between blocks states are (B, H, W, C): linear layers see places, and only attention sees windows.  Shape letters: w the window's side,
 * N windows of an image. */
#include <stdio.h>

#include "models/internal.h"

enum { MOST_STAGES = 16, MOST_DEPTH = 1 << 12, MOST_WIDTH = 1 << 20, MOST_HEADS = 1 << 12, MOST_WINDOW = 256 };
static const double default_eps = 1e-5; /* of the norms that the config's is not for */

typedef struct swin {
    int64_t stages, depths[MOST_STAGES], heads[MOST_STAGES], width, window;
    double mlp_ratio;
    bool bias, positions;
} swin;

static const cb_encoder_names names = {.attention = "attention",
                                       .heads = "self",
                                       .q = "query",
                                       .k = "key",
                                       .v = "value",
                                       .attention_out = "output",
                                       .o = "dense",
                                       .attention_norm = "layernorm_before",
                                       .up_group = "intermediate",
                                       .up = "dense",
                                       .mlp = "output",
                                       .down = "dense",
                                       .mlp_norm = "layernorm_after"};

/* ---- configuration ---- */

static bool configure_stages(cb_model *model, swin *s)
{
    static const int64_t depths[] = {2, 2, 6, 2}, heads[] = {3, 6, 12, 24};
    s->stages = cb_config_list(model, "depths", depths, 4, MOST_STAGES, 1, MOST_DEPTH, s->depths);
    int64_t count = s->stages ? cb_config_list(model, "num_heads", heads, 4, MOST_STAGES, 1, MOST_HEADS, s->heads) : 0;
    if (!count)
        return false;
    if (count != s->stages)
        return cb_config_error(model, "num_heads are %lld, expected as many as depths (%lld)", (long long)count, (long long)s->stages);
    for (int64_t i = 0; i < s->stages; i++) {
        if (s->width << i > MOST_WIDTH || (s->width << i) % s->heads[i])
            return cb_config_error(model, "embed_dim is %lld, expected widths below %d that are multiples of num_heads[%lld] (%lld)",
                                   (long long)s->width, MOST_WIDTH, (long long)i, (long long)s->heads[i]);
        model->config.layers += s->depths[i] + (i > 0);
    }
    model->config.width = s->width << (s->stages - 1);
    return true;
}

static bool configure(cb_model *model)
{
    cb_model_config *c = &model->config;
    swin *s = model->details = cb_calloc(1, sizeof *s);
    const char *file = model->config_path;
    if (!s)
        return false;
    s->positions = cb_json_bool(file, model->json, "use_absolute_embeddings", false);
    s->bias = cb_json_bool(file, model->json, "qkv_bias", true);
    s->width = cb_json_int(file, model->json, "embed_dim", 96);
    s->window = cb_json_int(file, model->json, "window_size", 7);
    if (!cb_ok() || !cb_pixels_configure_patches(model, 224, 4))
        return false;
    if (s->width < 1 || s->width > MOST_WIDTH)
        return cb_config_error(model, "embed_dim is %lld, expected 1 to %d", (long long)s->width, MOST_WIDTH);
    if (s->window < 1 || s->window > MOST_WINDOW)
        return cb_config_error(model, "window_size is %lld, expected 1 to %d", (long long)s->window, MOST_WINDOW);
    if (!configure_stages(model, s) || !cb_config_number(model, "mlp_ratio", 4, 1e-3, 1000, &s->mlp_ratio))
        return false;
    return cb_config_number(model, "layer_norm_eps", 1e-5, 1e-30, 1, &c->eps) && cb_config_activation(model, "hidden_act", "gelu");
}

/* ---- layers ---- */

static bool build_block(cb_model *model, cb_weight_source *source, cb_layer *blocks, int64_t stage, int64_t index)
{
    const swin *s = model->details;
    const int64_t table[] = {(2 * s->window - 1) * (2 * s->window - 1), s->heads[stage]};
    char name[24];
    snprintf(name, sizeof name, "%lld", (long long)index);
    if (!cb_encoder_build(model, source, blocks, name, &names, s->bias))
        return false;
    cb_block *b = &model->blocks[model->block_count - 1];
    b->window = index % 2 ? s->window / 2 : 0;
    return cb_source_weight(source, b->q->parent, "relative_position_bias_table", CB_INITIAL_ZEROS, 2, table);
}

/* Four places become one: a block of its own. */
static bool build_merging(cb_model *model, cb_weight_source *source, cb_layer *stage, int64_t width)
{
    cb_block *b = cb_model_add_block(model);
    if (!b || !(b->layer = cb_layer_new(stage, "downsample", CB_LAYER_GROUP)))
        return false;
    b->down = cb_source_linear(source, b->layer, "reduction", 4 * width, 2 * width, false, false, CB_INITIAL_NORMAL);
    b->mlp_norm = cb_source_norm(source, b->layer, "norm", 4 * width, default_eps, true);
    return b->mlp_norm;
}

static bool build_stage(cb_model *model, cb_weight_source *source, cb_layer *stages, int64_t index)
{
    const swin *s = model->details;
    cb_model_config *c = &model->config; /* blocks are built for what it says: here a stage's sizes, in the end those of the last */
    c->width = s->width << index;
    c->heads = c->kv_heads = s->heads[index];
    c->head_dim = c->width / c->heads;
    c->mlp_width = (int64_t)(s->mlp_ratio * (double)c->width);
    char name[24];
    snprintf(name, sizeof name, "%lld", (long long)index);
    cb_layer *stage = cb_layer_new(stages, name, CB_LAYER_GROUP), *blocks = stage ? cb_layer_new(stage, "blocks", CB_LAYER_GROUP) : NULL;
    for (int64_t i = 0; blocks && i < s->depths[index]; i++)
        if (!build_block(model, source, blocks, index, i))
            return false;
    return blocks && (index + 1 == s->stages || build_merging(model, source, stage, c->width));
}

static bool build_embeddings(cb_model *model, cb_weight_source *source, cb_layer *top)
{
    const swin *s = model->details;
    cb_model_config *c = &model->config;
    const int64_t positions[] = {1, c->image_size[0] / c->patch_size[0] * (c->image_size[1] / c->patch_size[1]), s->width};
    cb_layer *e = model->embeddings = top ? cb_layer_new(top, "embeddings", CB_LAYER_GROUP) : NULL;
    cb_layer *group = e ? cb_layer_new(e, "patch_embeddings", CB_LAYER_GROUP) : NULL;
    if (!group || (s->positions && !cb_source_weight(source, e, "position_embeddings", CB_INITIAL_NORMAL, 3, positions)))
        return false;
    cb_conv_options options = {.stride = {c->patch_size[0], c->patch_size[1]}};
    model->patches = cb_source_conv_of(source, group, "projection", c->channels, s->width, c->patch_size, options, true, CB_INITIAL_NORMAL);
    model->embedding_norm = cb_source_norm(source, e, "norm", s->width, default_eps, true);
    if (!s->positions)
        c->image_size[0] = c->image_size[1] = 0; /* any */
    return model->embedding_norm;
}

static bool build(cb_model *model, cb_weight_source *source)
{
    const swin *s = model->details;
    cb_layer *top = cb_model_top(model, "swin");
    cb_layer *encoder = build_embeddings(model, source, top) ? cb_layer_new(top, "encoder", CB_LAYER_GROUP) : NULL;
    cb_layer *stages = encoder ? cb_layer_new(encoder, "layers", CB_LAYER_GROUP) : NULL;
    for (int64_t i = 0; stages && i < s->stages; i++)
        if (!build_stage(model, source, stages, i))
            return false;
    model->norm = stages ? cb_source_norm(source, top, "layernorm", model->config.width, model->config.eps, true) : NULL;
    return model->norm;
}

/* ---- timm's names ---- */

static char *other_name(const cb_model *model, const char *name)
{
    static const cb_rename_rule rules[] = {
        {"embeddings.patch_embeddings.projection", "patch_embed.proj", 0, 0},
        {"embeddings.norm", "patch_embed.norm", 0, 0},
        {"encoder.layers.%.blocks.%.attention.self.query", "layers.%.blocks.%.attn.qkv", 0, 1},
        {"encoder.layers.%.blocks.%.attention.self.key", "layers.%.blocks.%.attn.qkv", 0, 2},
        {"encoder.layers.%.blocks.%.attention.self.value", "layers.%.blocks.%.attn.qkv", 0, 3},
        {"encoder.layers.%.blocks.%.attention.self.relative_position_bias_table", "layers.%.blocks.%.attn.relative_position_bias_table", 0,
         0},
        {"encoder.layers.%.blocks.%.attention.output.dense", "layers.%.blocks.%.attn.proj", 0, 0},
        {"encoder.layers.%.blocks.%.intermediate.dense", "layers.%.blocks.%.mlp.fc1", 0, 0},
        {"encoder.layers.%.blocks.%.output.dense", "layers.%.blocks.%.mlp.fc2", 0, 0},
        {"encoder.layers.%.blocks.%.layernorm_before", "layers.%.blocks.%.norm1", 0, 0},
        {"encoder.layers.%.blocks.%.layernorm_after", "layers.%.blocks.%.norm2", 0, 0},
        {"encoder.layers.%.downsample", "layers.%.downsample", 1, 0}, /* where the next stage begins, since timm 0.9 */
        {"layernorm", "norm", 0, 0},
        {"classifier", "head.fc", 0, 0},
        {0}};
    return cb_rename(cb_bare_name(model, name), rules);
}

/* ---- transformers' modules ---- */

#define BLOCK "encoder.layers.%.blocks.%."
static const cb_rename_rule modules[] = {{BLOCK "attention.self.query", BLOCK "attention.q_proj", 0, 0},
                                         {BLOCK "attention.self.key", BLOCK "attention.k_proj", 0, 0},
                                         {BLOCK "attention.self.value", BLOCK "attention.v_proj", 0, 0},
                                         {BLOCK "attention.output.dense", BLOCK "attention.o_proj", 0, 0},
                                         {BLOCK "intermediate.dense", BLOCK "mlp.fc1", 0, 0},
                                         {BLOCK "output.dense", BLOCK "mlp.fc2", 0, 0},
                                         {BLOCK "attention.self", "", 0, 0},
                                         {BLOCK "attention.output", "", 0, 0},
                                         {BLOCK "intermediate", "", 0, 0},
                                         {BLOCK "output", BLOCK "mlp", 0, 0},
                                         {0}};

/* ---- windows ---- */

static int64_t missing(int64_t size, int64_t divisor)
{
    return (divisor - size % divisor) % divisor;
}

/* x (B, H, W, C) with zeros behind, so that both sides are multiples of a number. */
static cb_tensor *filled(cb_tensor *x, int64_t divisor)
{
    int64_t rows = x ? missing(x->shape[1], divisor) : 0, columns = x ? missing(x->shape[2], divisor) : 0;
    x = rows ? cb_pad(x, 1, 0, rows, 0) : x;
    return columns ? cb_pad(x, 2, 0, columns, 0) : x;
}

/* Both sides moved round. */
static cb_tensor *rolled(cb_tensor *x, int64_t by)
{
    return by ? cb_roll(cb_roll(x, 1, by), 2, by) : x;
}

/* (B, H, W, C) -> (B N, w w, heads, D) */
static cb_tensor *windows_of(cb_tensor *x, int64_t w, int64_t heads)
{
    if (!x)
        return NULL;
    int64_t b = x->shape[0], rows = x->shape[1] / w, columns = x->shape[2] / w;
    x = cb_permute(cb_reshape(x, b, rows, w, columns, w, x->shape[3]), 0, 1, 3, 2, 4, 5);
    return x ? cb_reshape(x, b * rows * columns, w * w, heads, -1) : NULL;
}

/* And back: (B N, w w, heads, D) -> (B, H, W, C) */
static cb_tensor *from_windows(cb_tensor *x, int64_t w, int64_t height, int64_t width)
{
    x = x ? cb_permute(cb_reshape(x, -1, height / w, width / w, w, w, x->shape[2] * x->shape[3]), 0, 1, 3, 2, 4, 5) : NULL;
    return x ? cb_reshape(x, -1, height, width, x->shape[5]) : NULL;
}

/* The bias of each pair of places in a window, (1, heads, w w, w w): the table has a row for each distance. */
static cb_tensor *distance_bias(const cb_block *b, int64_t w)
{
    cb_tensor *table = cb_layer_weight(b->q->parent, "relative_position_bias_table"), *rows = cb_empty(CB_I32, w * w * w * w);
    for (int64_t i = 0; rows && i < rows->count; i++) {
        int64_t from = i / (w * w), to = i % (w * w), down = from / w - to / w + w - 1, right = from % w - to % w + w - 1;
        ((int32_t *)rows->data)[i] = (int32_t)(down * (2 * w - 1) + right);
    }
    cb_tensor *bias = cb_reshape(cb_index_select(table, 0, rows), w * w, w * w, -1);
    return bias ? cb_unsqueeze(cb_permute(cb_cast(bias, CB_F32), 2, 0, 1), 0) : NULL;
}

/* Which of the three parts of a side a place is in once it was moved: what was torn from the other end must not be seen. */
static int64_t part_of(int64_t at, int64_t size, int64_t w, int64_t shift)
{
    return (at >= size - w) + (at >= size - shift);
}

/* (N, 1, w w, w w): -100 between places of other parts */
static cb_tensor *seams(int64_t height, int64_t width, int64_t w, int64_t shift)
{
    int64_t columns = width / w, count = height / w * columns, area = w * w;
    cb_tensor *mask = cb_empty(CB_F32, count, 1, area, area);
    for (int64_t i = 0; mask && i < count * area * area; i++) {
        int64_t window = i / (area * area), place[2] = {i / area % area, i % area}, part[2];
        for (int k = 0; k < 2; k++) {
            int64_t row = window / columns * w + place[k] / w, column = window % columns * w + place[k] % w;
            part[k] = 3 * part_of(row, height, w, shift) + part_of(column, width, w, shift);
        }
        ((float *)mask->data)[i] = part[0] == part[1] ? 0 : -100;
    }
    return mask;
}

/* The bias, and the seams of moved windows, for `batch` images. */
static cb_tensor *mask_of(const cb_block *b, int64_t w, int64_t shift, int64_t batch, int64_t height, int64_t width)
{
    cb_tensor *bias = distance_bias(b, w), *torn = shift ? seams(height, width, w, shift) : NULL;
    return shift ? cb_repeat(cb_add(bias, torn), batch, 1, 1, 1) : bias;
}

/* ---- forward ---- */

static cb_tensor *embed(cb_model *model, cb_tensor *pixels, const cb_pass *pass)
{
    const swin *s = model->details;
    const cb_context *ctx = &pass->ctx;
    const int64_t *patch = model->config.patch_size;
    int64_t rows = missing(pixels->shape[2], patch[0]), columns = missing(pixels->shape[3], patch[1]);
    cb_tensor *x = rows ? cb_pad(pixels, 2, 0, rows, 0) : pixels;
    x = cb_pixels_channels_behind(cb_pixels_conv(model, model->patches, columns ? cb_pad(x, 3, 0, columns, 0) : x, ctx));
    x = cb_layer_norm_forward(model->embedding_norm, x, ctx);
    if (!x || !s->positions)
        return x;
    int64_t shape[] = {x->shape[0], x->shape[1], x->shape[2], x->shape[3]};
    x = cb_pixels_add_positions(model, cb_reshape(x, shape[0], -1, shape[3]), cb_layer_weight(model->embeddings, "position_embeddings"), 0,
                                pixels, ctx);
    return x ? cb_reshape_nd(x, 4, shape) : NULL;
}

/* Windows as large as the maps are not moved. */
static bool check_window(const cb_tensor *x, int64_t w)
{
    return (x->shape[1] >= w && x->shape[2] >= w) ||
           cb_fail(CB_ERR_SHAPE, "model: maps of %lld by %lld, expected at least the window of %lld (larger images)",
                   (long long)x->shape[1], (long long)x->shape[2], (long long)w) == CB_OK;
}

static cb_tensor *attention(const cb_model *model, int64_t index, cb_tensor *residual, const cb_pass *pass)
{
    const cb_block *b = &model->blocks[index];
    const cb_context *ctx = &pass->ctx;
    int64_t w = ((const swin *)model->details)->window, heads = b->attention->in_features;
    if (!check_window(residual, w))
        return NULL;
    int64_t height = residual->shape[1], width = residual->shape[2], shift = height > w && width > w ? b->window : 0;
    cb_tensor *x = cb_layer_before(b->attention, cb_layer_norm_forward(b->attention_norm, residual, ctx), ctx);
    cb_tensor *moved = rolled(filled(x, w), -shift);
    if (!moved)
        return NULL;
    cb_tensor *q = windows_of(cb_linear_forward(b->q, moved, ctx), w, heads),
              *k = windows_of(cb_linear_forward(b->k, moved, ctx), w, heads);
    cb_tensor *v = windows_of(cb_linear_forward(b->v, moved, ctx), w, heads);
    cb_attention_options options = {.mask = mask_of(b, w, shift, moved->shape[0], moved->shape[1], moved->shape[2])};
    cb_tensor *y = options.mask ? cb_attention_forward(b->attention, q, k, v, options, ctx) : NULL;
    y = rolled(from_windows(y, w, moved->shape[1], moved->shape[2]), shift);
    y = cb_slice(cb_slice(y, 1, 0, height, 1), 2, 0, width, 1);
    return cb_close_branch(b->attention, b->o, residual, x, y, ctx);
}

/* (B, H, W, C) -> (B, H / 2, W / 2, 2 C) */
static cb_tensor *merge(const cb_model *model, int64_t index, cb_tensor *x, const cb_pass *pass)
{
    const cb_block *b = &model->blocks[index];
    cb_tensor *part[4];
    x = filled(x, 2);
    for (int i = 0; x && i < 4; i++)
        part[i] = cb_slice(cb_slice(x, 1, i % 2, x->shape[1], 2), 2, i / 2, x->shape[2], 2);
    cb_tensor *y = x ? cb_layer_norm_forward(b->mlp_norm, cb_cat(4, part, 3), &pass->ctx) : NULL;
    return cb_linear_forward(b->down, y, &pass->ctx);
}

static cb_tensor *block(cb_model *model, int64_t index, cb_tensor *x, const cb_pass *pass)
{
    if (!model->blocks[index].attention)
        return cb_branch_run(merge, model, index, x, pass);
    return cb_branch_run(cb_encoder_mlp, model, index, cb_branch_run(attention, model, index, x, pass), pass);
}

/* As transformers gives it: (B, H, W, C) -> (B, H W, C). */
static cb_tensor *last_norm(const cb_layer *norm, cb_tensor *x, const cb_context *ctx)
{
    return cb_layer_norm_forward(norm, cb_reshape(x, x->shape[0], -1, x->shape[3]), ctx);
}

/* As maps: (B, H, W, C) -> (B, C, H, W). */
static cb_tensor *maps_norm(const cb_layer *norm, cb_tensor *x, const cb_context *ctx)
{
    cb_tensor *y = last_norm(norm, x, ctx);
    return y ? cb_pixels_channels_in_front(cb_reshape(y, x->shape[0], x->shape[1], x->shape[2], x->shape[3])) : NULL;
}

/* ---- heads ---- */

static const cb_head_plan heads[] = {CB_MAP_HEADS("classifier", false)};

const cb_architecture cb_swin_family[] = {
    {.model_type = "swin",
     .class_prefix = "Swin",
     .prefix = "swin.",
     .heads = heads,
     .bidirectional = true,
     .images = true,
     .configure = configure,
     .build = build,
     .embed = embed,
     .block = block,
     .norm = last_norm,
     .maps_norm = maps_norm,
     .other_name = other_name,
     .modules = modules},
    {0},
};
