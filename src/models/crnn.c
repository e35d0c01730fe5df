/* crnn.c: text out of the picture of a line (Shi et al. 2015, arXiv:1507.05717): convolutions and pooling until a map is one row high, whose
 * columns are frames; recurrent layers over them; a token or the blank for each.
 *
 * The configuration is our own, in the words of wav2vec 2.0's: `conv_dim`, `conv_kernel`, `conv_stride`, `conv_padding`, `conv_batch_norm` (0 or
 * 1), `pool_height` and `pool_width` are lists of one number a convolution, each followed by a batch norm where there is one, `hidden_act` and
 * max pooling (1 by 1: none), whose windows lie side by side.  `image_height`, `num_channels`; `rnn_type` (lstm, gru), `hidden_size`, `num_hidden_layers`,
 * `bidirectional`, `hidden_dropout` (between the layers); `vocab_size`, `pad_token_id` (the blank), `ctc_zero_infinity`.  The default is the
 * paper's network.
 *
 * Images of a batch are padded at their right to one width, and cb_context.lengths says how wide each is.  What is behind that is 0 before every
 * convolution, as the padding of a convolution is, and behind the end of every row for the recurrent layers, so that a row comes out as if it
 * were alone.  Only the batch's own statistics, in training, count these zeros too. */
#include <stdio.h>
#include <string.h>

#include "core/rehearsal.h"
#include "models/internal.h"

enum { MOST_CONVS = 32, MOST_WIDTH = 1 << 16, MOST_HEIGHT = 4096 };

/* One number of each convolution. */
enum { DIM, KERNEL, STRIDE, PADDING, NORM, POOL_HEIGHT, POOL_WIDTH, LISTS };

typedef struct crnn {
    int64_t convs, list[LISTS][MOST_CONVS];
    cb_conv_unit units[MOST_CONVS];
    cb_recurrent rnn;
} crnn;

/* ---- configuration ---- */

static bool read_lists(const cb_model *model, crnn *n)
{
    static const struct {
        const char *key;
        int64_t otherwise[7], min, max;
    } lists[LISTS] = {{"conv_dim", {64, 128, 256, 256, 512, 512, 512}, 1, MOST_WIDTH},
                      {"conv_kernel", {3, 3, 3, 3, 3, 3, 2}, 1, 63},
                      {"conv_stride", {1, 1, 1, 1, 1, 1, 1}, 1, 63},
                      {"conv_padding", {1, 1, 1, 1, 1, 1, 0}, 0, 63},
                      {"conv_batch_norm", {0, 0, 0, 0, 1, 1, 0}, 0, 1},
                      {"pool_height", {2, 2, 1, 2, 1, 2, 1}, 1, 63},
                      {"pool_width", {2, 2, 1, 1, 1, 1, 1}, 1, 63}};
    static const int64_t ones[MOST_CONVS] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                             1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    bool given = json_object_get(model->json, lists[DIM].key);
    for (int i = 0; i < LISTS; i++) {
        bool own = given && (i == STRIDE || i == POOL_HEIGHT || i == POOL_WIDTH); /* these may be left out */
        int64_t count = cb_config_list(model, lists[i].key, own ? ones : lists[i].otherwise, own ? n->convs : 7, MOST_CONVS, lists[i].min,
                                       lists[i].max, n->list[i]);
        if (!count)
            return false;
        if (i == DIM)
            n->convs = count;
        if (count != n->convs)
            return cb_config_error(model, "%s has %lld numbers, expected %lld as conv_dim", lists[i].key, (long long)count,
                                   (long long)n->convs);
    }
    return true;
}

/* What is left of a side after convolution i, and after its pooling. */
static int64_t convolved(const crnn *n, int i, int64_t side)
{
    int64_t room = side + 2 * n->list[PADDING][i] - n->list[KERNEL][i];
    return room < 0 ? 0 : room / n->list[STRIDE][i] + 1;
}

static int64_t pooled(const crnn *n, int i, int64_t side, int pool)
{
    return side / n->list[pool][i];
}

static bool check_height(const cb_model *model, const crnn *n)
{
    int64_t height = model->config.image_size[0];
    for (int i = 0; i < n->convs; i++)
        height = pooled(n, i, convolved(n, i, height), POOL_HEIGHT);
    return height == 1 || cb_config_error(model, "image_height %lld comes out of the convolutions as %lld, expected 1",
                                          (long long)model->config.image_size[0], (long long)height);
}

static bool read_recurrent(cb_model *model, crnn *n)
{
    const char *file = model->config_path, *type = cb_json_string(file, model->json, "rnn_type", "lstm");
    cb_recurrent *r = &n->rnn;
    int64_t layers = cb_json_int(file, model->json, "num_hidden_layers", 2);
    r->hidden = cb_json_int(file, model->json, "hidden_size", 256);
    r->bidirectional = cb_json_bool(file, model->json, "bidirectional", true);
    if (!cb_ok() || !cb_config_number(model, "hidden_dropout", 0, 0, 0.999, &r->dropout))
        return false;
    r->gru = strcmp(type, "gru") == 0;
    int64_t most = CB_MOST_RECURRENT / (r->bidirectional ? 2 : 1);
    if (!r->gru && strcmp(type, "lstm") != 0)
        return cb_config_error(model, "rnn_type is \"%.40s\", expected lstm or gru", type);
    if (layers < 1 || layers > most)
        return cb_config_error(model, "num_hidden_layers is %lld, expected 1 to %lld", (long long)layers, (long long)most);
    if (r->hidden < 1 || r->hidden > MOST_WIDTH)
        return cb_config_error(model, "hidden_size is %lld, expected 1 to %d", (long long)r->hidden, MOST_WIDTH);
    r->layers = (int)layers;
    model->config.width = r->hidden * (r->bidirectional ? 2 : 1);
    return true;
}

static bool configure(cb_model *model)
{
#define FIELD(name) offsetof(cb_model_config, name)
    static const cb_config_field fields[] = {{"num_channels", FIELD(channels), 1, 1, MOST_WIDTH},
                                             {"image_height", FIELD(image_size), 32, 1, MOST_HEIGHT},
                                             {"vocab_size", FIELD(vocab_size), CB_REQUIRED, 2, 1 << 20},
                                             {"pad_token_id", FIELD(blank), 0, 0, 1 << 20},
                                             {0}};
#undef FIELD
    cb_model_config *c = &model->config;
    crnn *n = model->details = cb_calloc(1, sizeof *n);
    if (!n || !cb_config_integers(model, fields) || !cb_config_activation(model, "hidden_act", "relu") ||
        !cb_config_number(model, "batch_norm_eps", 1e-5, 1e-30, 1, &c->eps) || !read_lists(model, n) || !read_recurrent(model, n))
        return false;
    if (c->blank >= c->vocab_size)
        return cb_config_error(model, "pad_token_id is %lld, expected less than vocab_size (%lld)", (long long)c->blank,
                               (long long)c->vocab_size);
    c->zero_infinity = cb_json_bool(model->config_path, model->json, "ctc_zero_infinity", false);
    return cb_ok() && check_height(model, n);
}

/* ---- layers ---- */

static bool build(cb_model *model, cb_weight_source *source)
{
    crnn *n = model->details;
    cb_layer *top = cb_model_top(model, "crnn"), *convs = top ? cb_layer_new(top, "conv_layers", CB_LAYER_GROUP) : NULL;
    int64_t in = model->config.channels;
    for (int i = 0; convs && i < n->convs; i++) {
        char name[24];
        snprintf(name, sizeof name, "%d", i);
        cb_conv_options o = {.stride = {n->list[STRIDE][i], n->list[STRIDE][i]}, .padding = {n->list[PADDING][i], n->list[PADDING][i]}};
        int64_t out = n->list[DIM][i], kernel = n->list[KERNEL][i];
        cb_activation act = model->config.activation;
        bool ok = n->list[NORM][i] ? cb_conv_unit_build(model, source, convs, name, in, out, kernel, o, act, &n->units[i])
                                   : cb_conv_unit_build_folded(source, convs, name, in, out, kernel, o, act, &n->units[i]);
        if (!ok)
            return false;
        in = out;
    }
    return convs && cb_source_recurrent(source, model, top, "rnn", in, &n->rnn);
}

/* ---- forward ---- */

/* How wide each row is, (B) i32 of its own; or NULL: all are as wide as the images. */
static bool widths_of(const cb_tensor *pixels, const cb_context *ctx, cb_tensor **widths)
{
    const cb_tensor *lengths = ctx->lengths;
    int64_t rows = pixels->shape[0], most = pixels->shape[3];
    *widths = NULL;
    if (!lengths)
        return true;
    if (lengths->ndim != 1 || lengths->shape[0] != rows || (lengths->dtype != CB_I32 && lengths->dtype != CB_I64))
        return cb_fail(CB_ERR_SHAPE, "model: lengths are %s for images %s, expected integers (B)", cb_shape_text(lengths),
                       cb_shape_text(pixels)) == CB_OK;
    bool all = true;
    for (int64_t i = 0; i < rows && !cb_rehearsing(); i++) {
        double n = cb_get(lengths, i);
        if (!(n >= 1 && n <= (double)most))
            return cb_fail(CB_ERR_ARGUMENT, "model: row %lld is %.0f columns wide, expected 1 to %lld", (long long)i, n, (long long)most) ==
                   CB_OK;
        all = all && n == (double)most;
    }
    if (all && !cb_rehearsing())
        return true;
    *widths = cb_empty(CB_I32, rows);
    return *widths && cb_copy_into(*widths, cb_cast((cb_tensor *)(uintptr_t)lengths, CB_I32));
}

/* 1 in the columns that are a row's own and 0 behind them, (B, 1, W, 1). */
static cb_tensor *own_columns(const cb_tensor *widths, int64_t most, cb_dtype dtype)
{
    int64_t rows = widths->shape[0];
    cb_tensor *mask = cb_empty(CB_F32, rows, 1, most, 1);
    for (int64_t i = 0; mask && i < rows && !cb_rehearsing(); i++)
        for (int64_t w = 0; w < most; w++)
            ((float *)mask->data)[i * most + w] = w < ((const int32_t *)widths->data)[i];
    return mask ? cb_cast(mask, dtype) : NULL;
}

/* Zeros behind the end of each row of x (B, C, H, W). */
static cb_tensor *cut(cb_tensor *x, const cb_tensor *widths)
{
    if (!x || !widths)
        return x;
    cb_tensor *behind = cb_pixels_channels_behind(x);
    return cb_pixels_channels_in_front(cb_mul(behind, own_columns(widths, x->shape[3], x->dtype)));
}

static cb_tensor *unit_run(const crnn *n, int i, cb_tensor *x, cb_tensor *widths, const cb_pass *pass)
{
    int64_t high = n->list[POOL_HEIGHT][i], wide = n->list[POOL_WIDTH][i];
    x = cb_conv_unit_run(&n->units[i], x, &pass->ctx);
    if (high > 1 || wide > 1)
        x = cb_max_pool(x, .kernel = {high, wide});
    for (int64_t b = 0; widths && !cb_rehearsing() && b < widths->shape[0]; b++) {
        int32_t *w = &((int32_t *)widths->data)[b];
        *w = (int32_t)pooled(n, i, convolved(n, i, *w), POOL_WIDTH);
    }
    return cut(x, widths);
}

static int64_t frames(const cb_model *model, int64_t length)
{
    const crnn *n = model->details;
    for (int i = 0; i < n->convs; i++)
        length = pooled(n, i, convolved(n, i, length), POOL_WIDTH);
    return length;
}

static bool check_size(const cb_model *model, const cb_tensor *pixels)
{
    int64_t height = model->config.image_size[0];
    if (pixels->shape[2] != height)
        return cb_fail(CB_ERR_SHAPE, "model: images %lld high, expected %lld (image_height)", (long long)pixels->shape[2],
                       (long long)height) == CB_OK;
    return frames(model, pixels->shape[3]) > 0 ||
           cb_fail(CB_ERR_SHAPE, "model: images %lld wide give no frame, expected wider ones", (long long)pixels->shape[3]) == CB_OK;
}

static cb_tensor *embed(cb_model *model, cb_tensor *pixels, const cb_pass *pass)
{
    const crnn *n = model->details;
    cb_tensor *widths;
    if (!check_size(model, pixels) || !widths_of(pixels, &pass->ctx, &widths))
        return NULL;
    cb_tensor *x = cut(pixels->dtype == model->dtype ? pixels : cb_cast(pixels, model->dtype), widths);
    for (int i = 0; x && i < n->convs; i++)
        x = unit_run(n, i, x, widths, pass);
    x = cb_pixels_channels_behind(x); /* (B, 1, W, C) */
    x = x ? cb_reshape(x, x->shape[0], x->shape[2], x->shape[3]) : NULL;
    return cb_recurrent_forward(&n->rnn, x, widths, &pass->ctx);
}

/* ---- heads ---- */

static const cb_head_plan heads[] = {
    {.kind = CB_HEAD_CTC, .class_end = "ForCTC", .output = "lm_head", .bias = true},
    {.kind = CB_HEAD_NONE, .class_end = "Model", .pooling = CB_POOL_MEAN},
    {0},
};

const cb_architecture cb_crnn_family[] = {
    {.model_type = "crnn",
     .class_prefix = "CRNN",
     .prefix = "crnn.",
     .heads = heads,
     .bidirectional = true,
     .images = true,
     .configure = configure,
     .build = build,
     .embed = embed,
     .frames = frames},
    {0},
};
