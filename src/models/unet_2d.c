/* unet_2d.c: diffusers' UNet2DModel: the U-Net that denoises images (Ho et al. 2020, arXiv:2006.11239; Dhariwal and Nichol 2021,
 * arXiv:2105.05233).
 *
 * On the way down each level has a few residual blocks and a convolution of stride 2, on the way up one block more and an enlargement; every
 * map of the way down meets one of the way up, beside which it is put.  A residual block is told the timestep, and the class: what two linear
 * layers make of them is projected to its channels and added between its two convolutions, or scales and shifts what is normalised there
 * (`scale_shift`).  Levels may attend over their places behind each block.  Blocks are run by embed(), since maps meet others that are not their
 * neighbours.
 *
 * The positional embedding of timesteps and the blocks that DDPM and ADM have are known; what else UNet2DModel can be made of (skip and FIR
 * blocks of score networks, blocks that resize) is refused by name. */
#include <stdio.h>
#include <string.h>

#include "models/internal.h"

enum { MOST_LEVELS = 16, MOST_BLOCKS = 16, MOST_WIDTH = 1 << 16, MOST_MAPS = MOST_LEVELS * (MOST_BLOCKS + 1) + 1 };

typedef struct unet_2d {
    int64_t levels, widths[MOST_LEVELS], blocks, time_width, head_dim, groups, middle_groups, down_padding; /* head_dim 0: one head */
    double frequency_shift, dropout, middle_scale;
    bool down_attends[MOST_LEVELS], up_attends[MOST_LEVELS], middle, middle_attends, scale_shift, centred, cosines_first;
    int64_t middle_first, middle_end; /* its blocks among the model's */
    cb_time_layers time;
    cb_layer *conv_in, *classes, *norm_out, *conv_out, *shrink[MOST_LEVELS], *enlarge[MOST_LEVELS];
} unet_2d;

/* ---- configuration ---- */

/* A field that has no other value here than the one it has by default. */
static bool check_only(const cb_model *model, const char *key, const char *only)
{
    const json_t *value = json_object_get(model->json, key);
    const char *found = cb_json_string(model->config_path, model->json, key, only);
    if (!cb_ok() || !value || json_is_null(value))
        return cb_ok();
    return (only && strcmp(found, only) == 0) || cb_config_error(model, "%s is \"%.60s\", expected %s", key, found, only ? only : "null");
}

static bool check_known(const cb_model *model)
{
    return check_only(model, "time_embedding_type", "positional") && check_only(model, "downsample_type", "conv") &&
           check_only(model, "upsample_type", "conv") && check_only(model, "class_embed_type", NULL);
}

/* One block type a level: with attention or without. */
static bool read_types(const cb_model *model, const char *key, const char *plain, const char *attending, bool *attends)
{
    const unet_2d *u = model->details;
    const json_t *list = json_object_get(model->json, key);
    size_t count = json_array_size(list);
    if (!json_is_array(list) || (int64_t)count != u->levels)
        return cb_config_error(model, "%s has %zu items, expected one for each of block_out_channels (%lld)", key, count,
                               (long long)u->levels);
    for (size_t i = 0; i < count; i++) {
        const char *type = json_string_value(json_array_get(list, i));
        attends[i] = type && strcmp(type, attending) == 0;
        if (!type || (!attends[i] && strcmp(type, plain) != 0))
            return cb_config_error(model, "%s[%zu] is \"%.60s\", expected %s or %s", key, i, type ? type : "", plain, attending);
    }
    return true;
}

/* null in place of a type: there is no middle. */
static bool read_middle(const cb_model *model, unet_2d *u)
{
    const json_t *type = json_object_get(model->json, "mid_block_type"), *groups = json_object_get(model->json, "attn_norm_num_groups");
    u->middle = !json_is_null(type);
    u->middle_attends = cb_json_bool(model->config_path, model->json, "add_attention", true);
    bool given = groups && !json_is_null(groups);
    u->middle_groups = given ? cb_json_int(model->config_path, model->json, "attn_norm_num_groups", 0) : u->scale_shift ? 0 : u->groups;
    if (cb_ok() && given && u->middle_groups < 1)
        return cb_config_error(model, "attn_norm_num_groups is %lld, expected 1 or more", (long long)u->middle_groups);
    return cb_ok() && (!u->middle || check_only(model, "mid_block_type", "UNetMidBlock2D")) &&
           cb_config_number(model, "mid_block_scale_factor", 1, 1e-6, 1e6, &u->middle_scale);
}

static bool between(const cb_model *model, const char *key, int64_t otherwise, int64_t min, int64_t max, int64_t *out)
{
    *out = cb_json_int(model->config_path, model->json, key, otherwise);
    return cb_ok() && ((*out >= min && *out <= max) ||
                       cb_config_error(model, "%s is %lld, expected %lld to %lld", key, (long long)*out, (long long)min, (long long)max));
}

static bool read_time(const cb_model *model, unet_2d *u)
{
    static const char *const ways[] = {"default", "scale_shift"};
    const char *way = cb_json_string(model->config_path, model->json, "resnet_time_scale_shift", ways[0]);
    if (!cb_ok())
        return false;
    u->scale_shift = strcmp(way, ways[1]) == 0;
    if (!u->scale_shift && strcmp(way, ways[0]) != 0)
        return cb_config_error(model, "resnet_time_scale_shift is \"%.60s\", expected %s or %s", way, ways[0], ways[1]);
    u->cosines_first = cb_json_bool(model->config_path, model->json, "flip_sin_to_cos", true);
    return cb_ok() && between(model, "time_embedding_dim", 4 * u->widths[0], 1, MOST_WIDTH, &u->time_width) &&
           cb_config_number(model, "freq_shift", 0, -1e6, 1e6, &u->frequency_shift) &&
           (2 * u->frequency_shift < (double)(u->widths[0] & ~INT64_C(1)) ||
            cb_config_error(model, "freq_shift is %g, expected less than half of block_out_channels[0] (%lld)", u->frequency_shift,
                            (long long)u->widths[0]));
}

/* sample_size: of the images that it makes; without it any. */
static bool read_size(cb_model *model)
{
    int64_t *size = model->config.image_size;
    const json_t *value = json_object_get(model->json, "sample_size");
    return !value || json_is_null(value) || cb_config_size(model, "sample_size", 0, 1 << 14, size);
}

static bool read_attention(const cb_model *model, unet_2d *u)
{
    const json_t *value = json_object_get(model->json, "attention_head_dim");
    u->head_dim = value && json_is_null(value) ? 0 : cb_json_int(model->config_path, model->json, "attention_head_dim", 8);
    for (int64_t i = 0; cb_ok() && i < u->levels; i++) {
        bool attends = u->down_attends[i] || u->up_attends[u->levels - 1 - i] || (i + 1 == u->levels && u->middle && u->middle_attends);
        bool fits = u->head_dim >= 0 && (!u->head_dim || u->widths[i] % u->head_dim == 0);
        if (attends && !fits)
            return cb_config_error(model, "attention_head_dim is %lld, expected a divisor of block_out_channels[%lld] (%lld)",
                                   (long long)u->head_dim, (long long)i, (long long)u->widths[i]);
    }
    return cb_ok();
}

static bool configure(cb_model *model)
{
    static const int64_t widths[] = {224, 448, 672, 896};
    static const cb_config_field fields[] = {{"in_channels", offsetof(cb_model_config, channels), 3, 1, 1 << 12},
                                             {"out_channels", offsetof(cb_model_config, output_channels), 3, 1, 1 << 12},
                                             {"num_class_embeds", offsetof(cb_model_config, class_rows), 0, 0, 1 << 20},
                                             {0}};
    cb_model_config *c = &model->config;
    unet_2d *u = model->details = cb_calloc(1, sizeof *u);
    if (!u || !check_known(model) || !cb_config_integers(model, fields) || !read_size(model) ||
        !(u->levels = cb_config_list(model, "block_out_channels", widths, 4, MOST_LEVELS, 1, MOST_WIDTH, u->widths)) ||
        !between(model, "layers_per_block", 2, 1, MOST_BLOCKS - 1, &u->blocks) ||
        !between(model, "norm_num_groups", 32, 1, MOST_WIDTH, &u->groups) ||
        !between(model, "downsample_padding", 1, 0, 1, &u->down_padding) || !cb_config_number(model, "norm_eps", 1e-5, 1e-30, 1, &c->eps) ||
        !cb_config_number(model, "dropout", 0, 0, 0.999, &u->dropout) || !read_time(model, u) || !read_middle(model, u) ||
        !read_types(model, "down_block_types", "DownBlock2D", "AttnDownBlock2D", u->down_attends) ||
        !read_types(model, "up_block_types", "UpBlock2D", "AttnUpBlock2D", u->up_attends) || !read_attention(model, u))
        return false;
    u->centred = cb_json_bool(model->config_path, model->json, "center_input_sample", false);
    c->width = u->widths[0];
    for (int i = 0; i < 2; i++)
        if (c->image_size[i] % (INT64_C(1) << (u->levels - 1)))
            return cb_config_error(model, "sample_size is %lld, expected a multiple of %lld for %lld levels", (long long)c->image_size[i],
                                   (long long)(INT64_C(1) << (u->levels - 1)), (long long)u->levels);
    model->labels = c->class_rows;
    return cb_ok() && cb_config_activation(model, "act_fn", "silu");
}

/* ---- layers ---- */

/* What lies below a group called by a number. */
typedef struct place {
    cb_model *model;
    cb_weight_source *source;
    cb_layer *resnets, *attentions; /* of a level */
    int64_t groups;                 /* of the norms of attentions; 0: they have none */
} place;

static cb_layer *build_norm(const place *p, cb_layer *parent, const char *name, int64_t width, int64_t groups)
{
    if (width % groups) {
        cb_config_error(p->model, "norm_num_groups is %lld, expected a divisor of the %lld channels of %s.%s", (long long)groups,
                        (long long)width, parent->name, name);
        return NULL;
    }
    cb_layer *norm = cb_source_norm(p->source, parent, name, width, p->model->config.eps, true);
    if (norm)
        norm->groups = groups;
    return norm;
}

static cb_layer *build_conv(const place *p, cb_layer *parent, const char *name, int64_t in, int64_t out, int64_t kernel, cb_initial initial)
{
    cb_conv_options same = {.padding = {kernel / 2, kernel / 2}};
    return parent ? cb_source_conv(p->source, parent, name, in, out, kernel, same, true, initial) : NULL;
}

static cb_layer *numbered(cb_layer *parent, int64_t number, cb_layer_kind kind)
{
    char name[24];
    snprintf(name, sizeof name, "%lld", (long long)number);
    return parent ? cb_layer_new(parent, name, kind) : NULL;
}

/* Begins as the identity: its last convolution is zero. */
static bool build_resnet(const place *p, int64_t number, int64_t in, int64_t out)
{
    const unet_2d *u = p->model->details;
    cb_block *b = cb_model_add_block(p->model);
    cb_layer *layer = b ? b->layer = numbered(p->resnets, number, CB_LAYER_BLOCK) : NULL;
    if (!layer || !(b->units[0].norm = build_norm(p, layer, "norm1", in, u->groups)) ||
        !(b->units[0].conv = build_conv(p, layer, "conv1", in, out, 3, CB_INITIAL_KAIMING)))
        return false;
    b->up =
        cb_source_linear(p->source, layer, "time_emb_proj", u->time_width, u->scale_shift ? 2 * out : out, false, true, CB_INITIAL_KAIMING);
    if (!b->up || !(b->units[1].norm = build_norm(p, layer, "norm2", out, u->groups)) ||
        !(b->units[1].conv = build_conv(p, layer, "conv2", out, out, 3, CB_INITIAL_ZEROS)))
        return false;
    b->unit_count = 2;
    return in == out || (b->shortcut.conv = build_conv(p, layer, "conv_shortcut", in, out, 1, CB_INITIAL_KAIMING));
}

static bool build_attention(const place *p, int64_t number, int64_t width)
{
    cb_block *b = cb_model_add_block(p->model);
    cb_layer *layer = b ? b->layer = b->attention = numbered(p->attentions, number, CB_LAYER_ATTENTION) : NULL, *out;
    cb_weight_source *s = p->source;
    int64_t head_dim = ((const unet_2d *)p->model->details)->head_dim;
    if (!layer)
        return false;
    layer->in_features = layer->out_features = head_dim ? width / head_dim : 1;
    if (p->groups && !(b->attention_norm = build_norm(p, layer, "group_norm", width, p->groups)))
        return false;
    return (b->q = cb_source_linear(s, layer, "to_q", width, width, false, true, CB_INITIAL_KAIMING)) &&
           (b->k = cb_source_linear(s, layer, "to_k", width, width, false, true, CB_INITIAL_KAIMING)) &&
           (b->v = cb_source_linear(s, layer, "to_v", width, width, false, true, CB_INITIAL_KAIMING)) &&
           (out = cb_layer_new(layer, "to_out", CB_LAYER_GROUP)) &&
           (b->o = cb_source_linear(s, out, "0", width, width, false, true, CB_INITIAL_ZEROS));
}

/* A level's groups. */
static bool open_place(place *p, cb_layer *level, bool attends)
{
    p->resnets = level ? cb_layer_new(level, "resnets", CB_LAYER_GROUP) : NULL;
    p->attentions = p->resnets && attends ? cb_layer_new(level, "attentions", CB_LAYER_GROUP) : NULL;
    return p->resnets && (!attends || p->attentions);
}

static bool build_resizing(const place *p, cb_layer *level, const char *group, int64_t width, cb_conv_options options, cb_layer **out)
{
    cb_layer *all = cb_layer_new(level, group, CB_LAYER_GROUP), *one = all ? numbered(all, 0, CB_LAYER_GROUP) : NULL;
    return one && (*out = cb_source_conv(p->source, one, "conv", width, width, 3, options, true, CB_INITIAL_KAIMING));
}

static bool build_down(place *p, cb_layer *levels, int64_t i)
{
    unet_2d *u = p->model->details;
    int64_t in = u->widths[i ? i - 1 : 0], out = u->widths[i];
    cb_layer *level = numbered(levels, i, CB_LAYER_GROUP);
    bool ok = open_place(p, level, u->down_attends[i]);
    for (int64_t k = 0; ok && k < u->blocks; k++)
        ok = build_resnet(p, k, k ? out : in, out) && (!u->down_attends[i] || build_attention(p, k, out));
    cb_conv_options options = {.stride = {2, 2}, .padding = {u->down_padding, u->down_padding}};
    return ok && (i + 1 == u->levels || build_resizing(p, level, "downsamplers", out, options, &u->shrink[i]));
}

static bool build_middle(place *p, cb_layer *root)
{
    unet_2d *u = p->model->details;
    int64_t width = u->widths[u->levels - 1];
    u->middle_first = u->middle_end = (int64_t)p->model->block_count;
    if (!u->middle)
        return true;
    place middle = *p;
    middle.groups = u->middle_groups;
    cb_layer *layer = cb_layer_new(root, "mid_block", CB_LAYER_GROUP);
    bool ok = open_place(&middle, layer, u->middle_attends) && build_resnet(&middle, 0, width, width) &&
              (!u->middle_attends || build_attention(&middle, 0, width)) && build_resnet(&middle, 1, width, width);
    u->middle_end = (int64_t)p->model->block_count;
    return ok;
}

/* Level i of the way up, from below; each of its blocks reads the one before beside a map of the way down. */
static bool build_up(place *p, cb_layer *levels, int64_t i)
{
    unet_2d *u = p->model->details;
    int64_t at = u->levels - 1 - i, out = u->widths[at], before = u->widths[i ? at + 1 : at], last = u->widths[at ? at - 1 : 0];
    cb_layer *level = numbered(levels, i, CB_LAYER_GROUP);
    bool ok = open_place(p, level, u->up_attends[i]);
    for (int64_t k = 0; ok && k <= u->blocks; k++)
        ok =
            build_resnet(p, k, (k ? out : before) + (k < u->blocks ? out : last), out) && (!u->up_attends[i] || build_attention(p, k, out));
    return ok && (i + 1 == u->levels || build_resizing(p, level, "upsamplers", out, (cb_conv_options){.padding = {1, 1}}, &u->enlarge[i]));
}

static bool build(cb_model *model, cb_weight_source *source)
{
    unet_2d *u = model->details;
    const cb_model_config *c = &model->config;
    cb_layer *root = model->root;
    place p = {.model = model, .source = source, .groups = u->groups};
    if (!(u->conv_in = build_conv(&p, root, "conv_in", c->channels, u->widths[0], 3, CB_INITIAL_KAIMING)) ||
        !cb_time_layers_build(source, root, "time_embedding", u->widths[0], u->time_width, &u->time) ||
        (c->class_rows && !(u->classes = cb_source_embedding(source, root, "class_embedding", c->class_rows, u->time_width))))
        return false;
    cb_layer *down = cb_layer_new(root, "down_blocks", CB_LAYER_GROUP);
    for (int64_t i = 0; i < u->levels; i++)
        if (!down || !build_down(&p, down, i))
            return false;
    cb_layer *up = build_middle(&p, root) ? cb_layer_new(root, "up_blocks", CB_LAYER_GROUP) : NULL;
    for (int64_t i = 0; i < u->levels; i++)
        if (!up || !build_up(&p, up, i))
            return false;
    return (u->norm_out = build_norm(&p, root, "conv_norm_out", u->widths[0], u->groups)) &&
           (u->conv_out = build_conv(&p, root, "conv_out", u->widths[0], c->output_channels, 3, CB_INITIAL_ZEROS));
}

/* Attention of files that are older than diffusers 0.15. */
static char *other_name(const cb_model *model, const char *name)
{
    static const char *const names[][2] = {
        {".to_q.", ".query."}, {".to_k.", ".key."}, {".to_v.", ".value."}, {".to_out.0.", ".proj_attn."}};
    (void)model;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *at = strstr(name, names[i][0]);
        if (at && strstr(name, ".attentions."))
            return cb_format("%.*s%s%s", (int)(at - name), name, names[i][1], at + strlen(names[i][0]));
    }
    return NULL;
}

/* ---- forward ---- */

/* What blocks are told: (B, 1, time_width), activated. */
static bool begin(cb_model *model, const cb_tensor *pixels, cb_pass *pass)
{
    const unet_2d *u = model->details;
    const cb_context *ctx = &pass->ctx;
    int64_t step = INT64_C(1) << (u->levels - 1);
    if (pixels->shape[2] % step || pixels->shape[3] % step)
        return cb_fail(CB_ERR_SHAPE, "model: images of %lld by %lld, expected multiples of %lld for %lld levels",
                       (long long)pixels->shape[2], (long long)pixels->shape[3], (long long)step, (long long)u->levels) == CB_OK;
    if (!cb_denoiser_begin(model, pixels, pass))
        return false;
    cb_tensor *waves = cb_denoiser_waves(model, ctx->timesteps, u->widths[0], u->cosines_first, u->frequency_shift);
    cb_tensor *time = cb_time_layers_run(&u->time, waves, ctx);
    if (pass->classes)
        time = cb_add(time, cb_embedding_forward(u->classes, pass->classes, model->dtype, ctx));
    pass->time = cb_activate(model->config.activation, time);
    return pass->time;
}

/* x (N, C, H, W) told the time (N, 1, C), or (N, 1, 2 C) where it scales and shifts what is normalised. */
static cb_tensor *told(const unet_2d *u, const cb_block *b, cb_tensor *x, cb_tensor *time, const cb_context *ctx)
{
    int64_t rows = time ? time->shape[0] : 0, width = b->units[1].norm->out_features;
    time = time ? cb_reshape(time, rows, -1, 1, 1) : NULL;
    if (!u->scale_shift)
        return cb_group_norm_forward(b->units[1].norm, cb_add(x, time), ctx);
    x = cb_group_norm_forward(b->units[1].norm, x, ctx);
    cb_tensor *scale = time ? cb_slice(time, 1, 0, width, 1) : NULL, *shift = time ? cb_slice(time, 1, width, 2 * width, 1) : NULL;
    return cb_add(cb_mul(x, cb_add_scalar(scale, 1)), shift);
}

/* Blocks of the middle may be divided by a number. */
static cb_tensor *scaled(const unet_2d *u, int64_t index, cb_tensor *x)
{
    bool middle = index >= u->middle_first && index < u->middle_end;
    return middle && u->middle_scale != 1 ? cb_scale(x, 1 / u->middle_scale) : x;
}

static cb_tensor *resnet(const cb_model *model, int64_t index, cb_tensor *x, const cb_pass *pass)
{
    const unet_2d *u = model->details;
    const cb_block *b = &model->blocks[index];
    const cb_context *ctx = &pass->ctx;
    cb_activation activation = model->config.activation;
    cb_tensor *y = cb_conv_behind_norm(b->units[0].norm, b->units[0].conv, activation, x, ctx);
    y = cb_activate(activation, told(u, b, y, cb_linear_forward(b->up, pass->time, ctx), ctx));
    y = cb_conv2d_forward(b->units[1].conv, ctx->training ? cb_dropout(y, u->dropout, ctx->rng) : y, ctx);
    return scaled(u, index, cb_add(b->shortcut.conv ? cb_conv2d_forward(b->shortcut.conv, x, ctx) : x, y));
}

/* Over the places of maps: (N, C, H, W) as (N, H W, C). */
static cb_tensor *attention(const cb_model *model, int64_t index, cb_tensor *x, const cb_pass *pass)
{
    const unet_2d *u = model->details;
    const cb_block *b = &model->blocks[index];
    const cb_context *ctx = &pass->ctx;
    int64_t rows = x->shape[0], width = x->shape[1], height = x->shape[2], columns = x->shape[3], head = u->head_dim ? u->head_dim : width;
    cb_tensor *normed = b->attention_norm ? cb_group_norm_forward(b->attention_norm, x, ctx) : x;
    cb_tensor *stream = cb_pixels_channels_behind(x), *tokens = cb_pixels_channels_behind(normed);
    if (!stream || !tokens)
        return NULL;
    tokens = cb_layer_before(b->attention, cb_reshape(tokens, rows, height * columns, width), ctx);
    cb_tensor *q = cb_encoder_heads(b->q, tokens, head, ctx), *k = cb_encoder_heads(b->k, tokens, head, ctx);
    cb_tensor *y = cb_attention_forward(b->attention, q, k, cb_encoder_heads(b->v, tokens, head, ctx), (cb_attention_options){0}, ctx);
    y = y ? cb_reshape(y, rows, height * columns, width) : NULL;
    y = cb_close_branch(b->attention, b->o, cb_reshape(stream, rows, height * columns, width), tokens, y, ctx);
    y = y ? cb_pixels_channels_in_front(cb_reshape(y, rows, height, columns, width)) : NULL;
    return scaled(u, index, y);
}

static cb_tensor *block(cb_model *model, int64_t index, cb_tensor *x, const cb_pass *pass)
{
    return cb_branch_run(resnet, model, index, x, pass);
}

/* The next blocks: a residual one and, where there is one, the attention behind it. */
static cb_tensor *run_next(cb_model *model, int64_t *next, bool attends, cb_tensor *x, const cb_pass *pass)
{
    x = x ? cb_block_run(model, (*next)++, x, pass) : NULL;
    return attends && x ? cb_branch_run(attention, model, (*next)++, x, pass) : x;
}

/* x beside a map of the way down: (N, C + D, H, W), channels-last. */
static cb_tensor *joined(cb_tensor *x, cb_tensor *beside)
{
    cb_tensor *parts[] = {cb_pixels_channels_behind(x), cb_pixels_channels_behind(beside)};
    return parts[0] && parts[1] ? cb_pixels_channels_in_front(cb_cat(2, parts, 3)) : NULL;
}

/* Without padding on all sides there is some at the right and the lower one. */
static cb_tensor *shrunk(const unet_2d *u, const cb_layer *conv, cb_tensor *x, const cb_context *ctx)
{
    if (!conv || !x)
        return x;
    if (!u->down_padding)
        x = cb_pixels_channels_in_front(cb_pad(cb_pad(cb_pixels_channels_behind(x), 1, 0, 1, 0), 2, 0, 1, 0));
    return cb_conv2d_forward(conv, x, ctx);
}

static cb_tensor *enlarged(const cb_layer *conv, cb_tensor *x, const cb_context *ctx)
{
    if (!conv || !x)
        return x;
    return cb_conv2d_forward(conv, cb_interpolate(x, .size = {2 * x->shape[2], 2 * x->shape[3]}, .mode = CB_NEAREST), ctx);
}

/* The maps that were made on the way down, and the block that comes next. */
typedef struct descent {
    cb_tensor *maps[MOST_MAPS];
    int count;
    int64_t next;
} descent;

static cb_tensor *go_down(cb_model *model, descent *d, cb_tensor *x, const cb_pass *pass)
{
    const unet_2d *u = model->details;
    d->maps[d->count++] = x;
    for (int64_t i = 0; x && i < u->levels; i++) {
        for (int64_t k = 0; x && k < u->blocks; k++)
            d->maps[d->count++] = x = run_next(model, &d->next, u->down_attends[i], x, pass);
        if (u->shrink[i])
            d->maps[d->count++] = x = shrunk(u, u->shrink[i], x, &pass->ctx);
    }
    return x;
}

/* What the blocks of a level read is freed with the scope, where the tape does not hold it. */
static cb_tensor *climb(cb_model *model, descent *d, int64_t level, cb_tensor *x, const cb_pass *pass)
{
    const unet_2d *u = model->details;
    cb_scope *scope = x ? cb_scope_open() : NULL;
    if (!scope)
        return NULL;
    for (int64_t k = 0; x && k <= u->blocks; k++)
        x = run_next(model, &d->next, u->up_attends[level], joined(x, d->maps[--d->count]), pass);
    x = cb_scope_return(scope, enlarged(u->enlarge[level], x, &pass->ctx));
    cb_scope_close(scope);
    return x;
}

static cb_tensor *embed(cb_model *model, cb_tensor *pixels, const cb_pass *pass)
{
    const unet_2d *u = model->details;
    descent d = {0};
    if (u->centred)
        pixels = cb_add_scalar(cb_scale(pixels, 2), -1);
    cb_tensor *x = go_down(model, &d, cb_pixels_conv(model, u->conv_in, pixels, &pass->ctx), pass);
    if (u->middle)
        x = run_next(model, &d.next, false, run_next(model, &d.next, u->middle_attends, x, pass), pass);
    for (int64_t i = 0; i < u->levels; i++)
        x = climb(model, &d, i, x, pass);
    return cb_conv_behind_norm(u->norm_out, u->conv_out, CB_ACT_SILU, x, &pass->ctx);
}

static const cb_head_plan heads[] = {{.kind = CB_HEAD_DENOISING, .class_end = ""}, {0}};

const cb_architecture cb_unet_2d_family[] = {{.model_type = "UNet2DModel",
                                              .class_prefix = "UNet2DModel",
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
                                              .other_name = other_name},
                                             {0}};
