/* segformer.c: SegFormer (Xie et al. 2021, arXiv:2105.15203): four stages of transformer blocks over shrinking maps, whose keys and values come of
 * fewer places and whose MLP sees its neighbours, so that places need no learned positions; and for places a decoder that brings the maps of all
 * stages to the width and size of one.  Letters: B images, H, W a stage's places, C its channels, D the decoder's.
 *
 * Stages are run by embed(), since the decoder reads each of them.  Where places are judged the hidden state is the decoder's map, (B, D, H, W) of the
 * first stage's size; else the last stage's. */
#include <stdio.h>

#include "models/internal.h"

enum { MOST_STAGES = 8, MOST_WIDTH = 1 << 20 };
static const double norm_eps = 1e-5; /* layer_norm_eps of the config is not read by transformers either */

typedef struct segformer {
    int64_t stages, depths[MOST_STAGES], widths[MOST_STAGES], heads[MOST_STAGES],
        ratios[MOST_STAGES]; /* ratios of places to keys, a side */
    int64_t patches[MOST_STAGES], strides[MOST_STAGES], mlp_ratios[MOST_STAGES], decoder_width;
    int64_t first[MOST_STAGES]; /* block of each stage: the one that shrinks */
    cb_layer *norms[MOST_STAGES], *projections[MOST_STAGES];
    cb_conv_unit fuse;
} segformer;

/* ---- configuration ---- */

static bool lists(cb_model *model, segformer *s)
{
    static const int64_t depths[] = {2, 2, 2, 2}, ratios[] = {8, 4, 2, 1}, widths[] = {32, 64, 160, 256}, patches[] = {7, 3, 3, 3};
    static const int64_t strides[] = {4, 2, 2, 2}, heads[] = {1, 2, 5, 8}, mlp_ratios[] = {4, 4, 4, 4};
    const struct {
        const char *key;
        const int64_t *otherwise;
        int64_t most, *out;
    } all[] = {{"depths", depths, 1 << 10, s->depths},
               {"sr_ratios", ratios, 1 << 10, s->ratios},
               {"hidden_sizes", widths, MOST_WIDTH, s->widths},
               {"patch_sizes", patches, 1 << 10, s->patches},
               {"strides", strides, 1 << 10, s->strides},
               {"num_attention_heads", heads, MOST_WIDTH, s->heads},
               {"mlp_ratios", mlp_ratios, 1 << 10, s->mlp_ratios}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        int64_t count = cb_config_list(model, all[i].key, all[i].otherwise, 4, MOST_STAGES, 1, all[i].most, all[i].out);
        if (!count)
            return false;
        if (count < s->stages)
            return cb_config_error(model, "%s are %lld, expected as many as num_encoder_blocks (%lld)", all[i].key, (long long)count,
                                   (long long)s->stages);
    }
    return true;
}

static bool configure(cb_model *model)
{
    segformer *s = model->details = cb_calloc(1, sizeof *s);
    const char *file = model->config_path;
    if (!s || !cb_pixels_configure_channels(model))
        return false;
    s->stages = cb_json_int(file, model->json, "num_encoder_blocks", 4);
    s->decoder_width = cb_json_int(file, model->json, "decoder_hidden_size", 256);
    if (!cb_ok())
        return false;
    if (s->stages < 1 || s->stages > MOST_STAGES || s->decoder_width < 1 || s->decoder_width > MOST_WIDTH)
        return cb_config_error(model, "num_encoder_blocks is %lld and decoder_hidden_size %lld, expected 1 to %d and 1 to %d",
                               (long long)s->stages, (long long)s->decoder_width, MOST_STAGES, MOST_WIDTH);
    if (!lists(model, s))
        return false;
    for (int64_t i = 0; i < s->stages; i++)
        if (s->widths[i] % s->heads[i] || s->widths[i] * s->mlp_ratios[i] > MOST_WIDTH)
            return cb_config_error(
                model, "hidden_sizes[%lld] is %lld, expected a multiple of num_attention_heads[%lld] (%lld), below %d with its MLP",
                (long long)i, (long long)s->widths[i], (long long)i, (long long)s->heads[i], MOST_WIDTH);
    model->config.width = s->widths[s->stages - 1];
    model->config.eps = norm_eps;
    return cb_config_activation(model, "hidden_act", "gelu");
}

/* ---- layers ---- */

static cb_layer *numbered(cb_layer *parent, int64_t number, cb_layer_kind kind)
{
    char name[24];
    snprintf(name, sizeof name, "%lld", (long long)number);
    return parent ? cb_layer_new(parent, name, kind) : NULL;
}

static bool build_shrinking(cb_model *model, cb_weight_source *source, cb_layer *patches, int64_t stage)
{
    segformer *s = model->details;
    cb_block *b = cb_model_add_block(model);
    s->first[stage] = (int64_t)model->block_count - 1;
    if (!b || !(b->layer = numbered(patches, stage, CB_LAYER_BLOCK)))
        return false;
    int64_t in = stage ? s->widths[stage - 1] : model->config.channels, kernel = s->patches[stage], stride = s->strides[stage];
    cb_conv_options o = {.stride = {stride, stride}, .padding = {kernel / 2, kernel / 2}};
    b->units[0].conv = cb_source_conv(source, b->layer, "proj", in, s->widths[stage], kernel, o, true, CB_INITIAL_NORMAL);
    b->mlp_norm = cb_source_norm(source, b->layer, "layer_norm", s->widths[stage], norm_eps, true);
    return b->mlp_norm;
}

static cb_layer *linear(cb_weight_source *source, cb_layer *parent, const char *name, int64_t in, int64_t out)
{
    return parent ? cb_source_linear(source, parent, name, in, out, false, true, CB_INITIAL_NORMAL) : NULL;
}

static bool build_attention(const segformer *s, cb_weight_source *source, cb_block *b, int64_t stage)
{
    int64_t width = s->widths[stage], ratio = s->ratios[stage];
    b->attention_norm = cb_source_norm(source, b->layer, "layer_norm_1", width, norm_eps, true);
    b->attention = cb_layer_new(b->layer, "attention", CB_LAYER_ATTENTION);
    cb_layer *self = b->attention ? cb_layer_new(b->attention, "self", CB_LAYER_GROUP) : NULL;
    cb_layer *out = self ? cb_layer_new(b->attention, "output", CB_LAYER_GROUP) : NULL;
    if (!out)
        return false;
    b->attention->in_features = b->attention->out_features = s->heads[stage];
    b->q = linear(source, self, "query", width, width);
    b->k = linear(source, self, "key", width, width);
    b->v = linear(source, self, "value", width, width);
    b->o = linear(source, out, "dense", width, width);
    if (ratio == 1)
        return b->o;
    cb_conv_options o = {.stride = {ratio, ratio}};
    b->units[0].conv = cb_source_conv(source, self, "sr", width, width, ratio, o, true, CB_INITIAL_NORMAL);
    b->units[0].norm = cb_source_norm(source, self, "layer_norm", width, norm_eps, true);
    return b->units[0].norm;
}

static bool build_mlp(const segformer *s, cb_weight_source *source, cb_block *b, int64_t stage)
{
    int64_t width = s->widths[stage], inner = width * s->mlp_ratios[stage];
    cb_conv_options depthwise = {.padding = {1, 1}, .groups = inner};
    b->mlp_norm = cb_source_norm(source, b->layer, "layer_norm_2", width, norm_eps, true);
    b->mlp = cb_layer_new(b->layer, "mlp", CB_LAYER_MLP);
    b->up = linear(source, b->mlp, "dense1", width, inner);
    cb_layer *group = b->up ? cb_layer_new(b->mlp, "dwconv", CB_LAYER_GROUP) : NULL;
    b->units[1].conv = group ? cb_source_conv(source, group, "dwconv", inner, inner, 3, depthwise, true, CB_INITIAL_NORMAL) : NULL;
    b->down = linear(source, b->mlp, "dense2", inner, width);
    return b->units[1].conv && b->down;
}

static bool build_block(cb_model *model, cb_weight_source *source, cb_layer *stage, int64_t index, int64_t number)
{
    cb_block *b = cb_model_add_block(model);
    b = b && (b->layer = numbered(stage, number, CB_LAYER_BLOCK)) ? b : NULL;
    return b && build_attention(model->details, source, b, index) && build_mlp(model->details, source, b, index);
}

static bool build_encoder(cb_model *model, cb_weight_source *source, cb_layer *encoder)
{
    segformer *s = model->details;
    cb_layer *patches = encoder ? cb_layer_new(encoder, "patch_embeddings", CB_LAYER_GROUP) : NULL;
    cb_layer *blocks = patches ? cb_layer_new(encoder, "block", CB_LAYER_GROUP) : NULL;
    cb_layer *norms = blocks ? cb_layer_new(encoder, "layer_norm", CB_LAYER_GROUP) : NULL;
    for (int64_t i = 0; norms && i < s->stages; i++) {
        char name[24];
        snprintf(name, sizeof name, "%lld", (long long)i);
        cb_layer *stage = build_shrinking(model, source, patches, i) ? numbered(blocks, i, CB_LAYER_GROUP) : NULL;
        for (int64_t k = 0; stage && k < s->depths[i]; k++)
            if (!build_block(model, source, stage, i, k))
                return false;
        s->norms[i] = stage ? cb_source_norm(source, norms, name, s->widths[i], norm_eps, true) : NULL;
        if (!s->norms[i])
            return false;
    }
    return norms;
}

static bool mark_head(void *user, cb_layer *layer)
{
    (void)user;
    layer->head = true;
    return true;
}

/* What comes before the layer that judges places; new where the file has an encoder only. */
static bool build_decoder(cb_model *model, cb_weight_source *source)
{
    segformer *s = model->details;
    int64_t width = model->config.width = s->decoder_width;
    if (model->head_asked)
        cb_source_allow_new(source, model->head_seed, model->head_plan->output);
    cb_layer *head = cb_layer_new(model->root, "decode_head", CB_LAYER_GROUP),
             *maps = head ? cb_layer_new(head, "linear_c", CB_LAYER_GROUP) : NULL;
    for (int64_t i = 0; maps && i < s->stages; i++) {
        s->projections[i] = linear(source, numbered(maps, i, CB_LAYER_GROUP), "proj", s->widths[i], width);
        if (!s->projections[i])
            return false;
    }
    const cb_conv_options plain = {0};
    s->fuse.activation = CB_ACT_RELU;
    s->fuse.conv = maps ? cb_source_conv(source, head, "linear_fuse", s->stages * width, width, 1, plain, false, CB_INITIAL_KAIMING) : NULL;
    s->fuse.norm = s->fuse.conv ? cb_source_batch_norm(source, head, "batch_norm", width, norm_eps) : NULL;
    return s->fuse.norm && cb_layer_visit(head, mark_head, NULL);
}

static bool build(cb_model *model, cb_weight_source *source)
{
    cb_layer *top = cb_model_top(model, "segformer"), *encoder = top ? cb_layer_new(top, "encoder", CB_LAYER_GROUP) : NULL;
    return build_encoder(model, source, encoder) && (!cb_head_judges_places(model) || build_decoder(model, source));
}

/* ---- transformers' modules ---- */

#define BLOCK  "encoder.block.%.%."
#define MODULE "stages.%.blocks.%."
static const cb_rename_rule modules[] = {{BLOCK "attention.self.query", MODULE "attention.q_proj", 0, 0},
                                         {BLOCK "attention.self.key", MODULE "attention.k_proj", 0, 0},
                                         {BLOCK "attention.self.value", MODULE "attention.v_proj", 0, 0},
                                         {BLOCK "attention.self.sr", MODULE "attention.sequence_reduction.sequence_reduction", 0, 0},
                                         {BLOCK "attention.self.layer_norm", MODULE "attention.sequence_reduction.layer_norm", 0, 0},
                                         {BLOCK "attention.self", "", 0, 0},
                                         {BLOCK "attention.output.dense", MODULE "attention.o_proj", 0, 0},
                                         {BLOCK "attention.output", "", 0, 0},
                                         {BLOCK "layer_norm_1", MODULE "layernorm_before", 0, 0},
                                         {BLOCK "layer_norm_2", MODULE "layernorm_after", 0, 0},
                                         {BLOCK "mlp.dense1", MODULE "mlp.fc1", 0, 0},
                                         {BLOCK "mlp.dense2", MODULE "mlp.fc2", 0, 0},
                                         {"encoder.block.%.%", "stages.%.blocks.%", 0, 0},
                                         {"encoder.block.%", "stages.%.blocks", 0, 0},
                                         {"encoder.block", "", 0, 0},
                                         {"encoder.patch_embeddings.%", "stages.%.patch_embeddings", 0, 0},
                                         {"encoder.patch_embeddings", "", 0, 0},
                                         {"encoder.layer_norm.%", "stages.%.layer_norm", 0, 0},
                                         {"encoder.layer_norm", "", 0, 0},
                                         {"encoder", "stages", 0, 0},
                                         {"decode_head.linear_c", "decode_head.linear_projections", 0, 0},
                                         {0}};

/* ---- forward: maps are (B, H, W, C) ---- */

static cb_tensor *convolved(const cb_layer *conv, cb_tensor *x, const cb_context *ctx)
{
    return cb_pixels_channels_behind(cb_conv2d_forward(conv, cb_pixels_channels_in_front(x), ctx));
}

static cb_tensor *shrink(const cb_model *model, int64_t index, cb_tensor *x, const cb_pass *pass)
{
    const cb_block *b = &model->blocks[index];
    return cb_layer_norm_forward(b->mlp_norm, convolved(b->units[0].conv, x, &pass->ctx), &pass->ctx);
}

static cb_tensor *heads_of(const cb_block *b, const cb_layer *projection, cb_tensor *x, const cb_context *ctx)
{
    cb_tensor *y = cb_linear_forward(projection, x, ctx);
    int64_t heads = b->attention->in_features;
    return y ? cb_reshape(y, y->shape[0], y->shape[1] * y->shape[2], heads, y->shape[3] / heads) : NULL;
}

static cb_tensor *attention(const cb_model *model, int64_t index, cb_tensor *residual, const cb_pass *pass)
{
    const cb_block *b = &model->blocks[index];
    const cb_context *ctx = &pass->ctx;
    cb_tensor *x = cb_layer_before(b->attention, cb_layer_norm_forward(b->attention_norm, residual, ctx), ctx), *seen = x;
    if (x && b->units[0].conv)
        seen = cb_layer_norm_forward(b->units[0].norm, convolved(b->units[0].conv, x, ctx), ctx);
    if (!x || !seen)
        return NULL;
    cb_tensor *y = cb_attention_forward(b->attention, heads_of(b, b->q, x, ctx), heads_of(b, b->k, seen, ctx), heads_of(b, b->v, seen, ctx),
                                        (cb_attention_options){0}, ctx);
    y = y ? cb_reshape(y, x->shape[0], x->shape[1], x->shape[2], x->shape[3]) : NULL;
    return cb_close_branch(b->attention, b->o, residual, x, y, ctx);
}

static cb_tensor *mlp(const cb_model *model, int64_t index, cb_tensor *residual, const cb_pass *pass)
{
    const cb_block *b = &model->blocks[index];
    const cb_context *ctx = &pass->ctx;
    cb_tensor *x = cb_layer_before(b->mlp, cb_layer_norm_forward(b->mlp_norm, residual, ctx), ctx);
    cb_tensor *inner = cb_activate(model->config.activation, convolved(b->units[1].conv, cb_linear_forward(b->up, x, ctx), ctx));
    return cb_close_branch(b->mlp, b->down, residual, x, inner, ctx);
}

static cb_tensor *block(cb_model *model, int64_t index, cb_tensor *x, const cb_pass *pass)
{
    if (!model->blocks[index].attention)
        return cb_branch_run(shrink, model, index, x, pass);
    return cb_branch_run(mlp, model, index, cb_branch_run(attention, model, index, x, pass), pass);
}

/* Keys and values come of whole patches of places. */
static bool check_size(const segformer *s, const cb_tensor *x, int64_t stage)
{
    int64_t ratio = s->ratios[stage];
    return (x->shape[1] >= ratio && x->shape[2] >= ratio) ||
           cb_fail(CB_ERR_SHAPE, "model: maps of %lld by %lld in stage %lld, expected at least sr_ratios of it (%lld): larger images",
                   (long long)x->shape[1], (long long)x->shape[2], (long long)stage, (long long)ratio) == CB_OK;
}

static cb_tensor *run_stage(cb_model *model, int64_t stage, cb_tensor *x, const cb_pass *pass)
{
    const segformer *s = model->details;
    int64_t first = s->first[stage];
    x = cb_block_run(model, first, x, pass);
    if (!x || !check_size(s, x, stage))
        return NULL;
    for (int64_t k = 1; x && k <= s->depths[stage]; k++)
        x = cb_block_run(model, first + k, x, pass);
    return cb_layer_norm_forward(s->norms[stage], x, &pass->ctx);
}

/* All maps in the decoder's width and the first one's size, the last in front. */
static cb_tensor *decode(const cb_model *model, cb_tensor *const *maps, const cb_context *ctx)
{
    const segformer *s = model->details;
    cb_tensor *parts[MOST_STAGES];
    int64_t height = maps[0]->shape[1], width = maps[0]->shape[2];
    for (int64_t i = 0; i < s->stages; i++) {
        cb_tensor *x = cb_pixels_channels_in_front(cb_linear_forward(s->projections[i], maps[i], ctx));
        x = x && i ? cb_interpolate(x, .size = {height, width}, .mode = CB_LINEAR) : x;
        parts[s->stages - 1 - i] = cb_pixels_channels_behind(x);
        if (!parts[s->stages - 1 - i])
            return NULL;
    }
    return cb_conv_unit_run(&s->fuse, cb_pixels_channels_in_front(cb_cat((int)s->stages, parts, 3)), ctx);
}

static cb_tensor *embed(cb_model *model, cb_tensor *pixels, const cb_pass *pass)
{
    const segformer *s = model->details;
    cb_tensor *maps[MOST_STAGES] = {0}, *x = pixels->dtype == model->dtype ? pixels : cb_cast(pixels, model->dtype);
    x = cb_pixels_channels_behind(x);
    for (int64_t i = 0; x && i < s->stages; i++)
        maps[i] = x = run_stage(model, i, x, pass);
    if (!x)
        return NULL;
    return cb_head_judges_places(model) ? decode(model, maps, &pass->ctx) : cb_pixels_channels_in_front(x);
}

static const cb_head_plan heads[] = {CB_MAP_HEADS("classifier", false)};

const cb_architecture cb_segformer_family[] = {
    {.model_type = "segformer",
     .class_prefix = "Segformer",
     .prefix = "segformer.",
     .heads = heads,
     .bidirectional = true,
     .images = true,
     .configure = configure,
     .build = build,
     .embed = embed,
     .block = block,
     .modules = modules},
    {0},
};
