/* head.c: what comes after a model's hidden states: the vocabulary, labels, or nothing.
 *
 * Every head is the same chain, parts of which may be missing: what a row is judged by (a token of it, the mean of an image), or all tokens,
 * a linear layer with an activation, a norm, and the linear layer whose result are the logits.  An architecture lists its heads (cb_head_plan) with the names that their layers have
 * in checkpoints; `architectures` of config.json, or the caller, says which it is. */
#include <string.h>

#include "models/internal.h"

/* ---- which head ---- */

/* Of architectures that do not list it. */
static const cb_head_plan bare = {.kind = CB_HEAD_NONE, .class_end = "Model"};

static const cb_head_plan *plan_of_kind(const cb_architecture *architecture, cb_head_kind kind)
{
    const cb_head_plan *plan = architecture->heads;
    while (plan->kind && plan->kind != kind)
        plan++;
    return plan->kind ? plan : kind == CB_HEAD_NONE ? &bare : NULL;
}

static void list_classes(const cb_architecture *architecture, cb_string *out)
{
    for (const cb_head_plan *plan = architecture->heads; plan->kind; plan++)
        cb_string_printf(out, "%s%s%s", out->length ? ", " : "", architecture->class_prefix, plan->class_end);
}

static CB_COLD bool refuse_class(const cb_model *model, const char *found)
{
    cb_string known = {0};
    list_classes(model->architecture, &known);
    cb_fail(CB_ERR_UNSUPPORTED, "%s: architectures[0] is \"%s\", expected one of %s", model->config_path, found,
            known.data ? known.data : "");
    cb_string_free(&known);
    return false;
}

/* The plan of a class name; one that is not this model_type's, or a decoder's bare model, is what most of its kin are. */
static bool plan_of_config(cb_model *model)
{
    const cb_architecture *a = model->architecture;
    const char *class = json_string_value(json_array_get(json_object_get(model->json, "architectures"), 0));
    size_t prefix = strlen(a->class_prefix);
    model->head_plan = a->heads;
    if (class && strncmp(class, "Recursive", 9) == 0)
        class += 9;
    if (!class || strncmp(class, a->class_prefix, prefix) != 0)
        return true;
    for (const cb_head_plan *plan = a->heads; plan->kind; plan++)
        if (strcmp(class + prefix, plan->class_end) == 0) {
            model->head_plan = plan->output || plan->projection ? plan : plan_of_kind(a, plan->kind);
            return true;
        }
    return strcmp(class + prefix, "Model") == 0 || refuse_class(model, class);
}

static bool configure_labels(cb_model *model, int64_t asked)
{
    cb_head_kind kind = model->head_plan->kind;
    const json_t *names = json_object_get(model->json, "id2label");
    if (kind == CB_HEAD_DENOISING)
        return cb_denoiser_configure_classes(model);
    if (kind < CB_HEAD_SEQUENCE_CLASSIFICATION || kind >= CB_HEAD_NONE || kind == CB_HEAD_FORECASTING)
        return true;
    int64_t labels = json_is_object(names) ? (int64_t)json_object_size(names) : kind == CB_HEAD_DENSE_REGRESSION ? 1 : 2;
    labels = cb_places_numbers(kind) ? cb_places_numbers(kind) : cb_json_int(model->config_path, model->json, "num_labels", labels);
    if (cb_ok() && (labels < 1 || labels > INT32_MAX))
        return cb_config_error(model, "num_labels is %lld, expected 1 or more", (long long)labels);
    if (cb_places_numbers(kind) && asked && asked != labels)
        return cb_fail(CB_ERR_ARGUMENT, "model: %lld labels, expected the %lld numbers that %s gives of a place", (long long)asked,
                       (long long)labels, model->head_plan->class_end) == CB_OK;
    model->labels = asked ? asked : labels;
    return cb_ok() && cb_places_configure(model) && cb_labels_configure(model, model->labels);
}

bool cb_head_configure(cb_model *model, const cb_model_options *options)
{
    if (options->labels < 0 || options->labels > INT32_MAX)
        return cb_fail(CB_ERR_ARGUMENT, "model: %lld labels, expected 1 or more", (long long)options->labels) == CB_OK;
    if (options->head == CB_HEAD_OF_CONFIG)
        return plan_of_config(model) && configure_labels(model, options->labels);
    model->head_plan = plan_of_kind(model->architecture, options->head);
    model->head_asked = true;
    model->head_seed = options->head_seed;
    model->head_follows = options->head_follows;
    if (model->head_plan)
        return configure_labels(model, options->labels);
    cb_string known = {0};
    list_classes(model->architecture, &known);
    cb_fail(CB_ERR_UNSUPPORTED, "%s: a %s model has no such head, only those of %s", model->config_path, model->architecture->model_type,
            known.data ? known.data : "");
    cb_string_free(&known);
    return false;
}

/* ---- its layers ---- */

/* The group that a layer of this whole name belongs into, made where it is not there; *last is the name's last part. */
static cb_layer *group_of(cb_layer *root, const char *name, const char **last)
{
    cb_layer *at = root;
    *last = name;
    for (const char *dot = strchr(name, '.'); at && dot; dot = strchr(*last, '.')) {
        char *whole = cb_strndup(name, (size_t)(dot - name)), *part = cb_strndup(*last, (size_t)(dot - *last));
        cb_layer *found = whole && part ? cb_layer_find(root, whole) : NULL;
        at = found || !whole || !part ? found : cb_layer_new(at, part, CB_LAYER_GROUP);
        cb_free(whole);
        cb_free(part);
        *last = dot + 1;
    }
    return at;
}

static cb_layer *linear_named(cb_weight_source *source, cb_model *model, const char *name, int64_t out, bool bias)
{
    const char *last;
    cb_layer *group = group_of(model->root, name, &last);
    return group ? cb_source_linear(source, group, last, model->config.width, out, false, bias, CB_INITIAL_NORMAL) : NULL;
}

/* A layer that judges each place by itself. */
static cb_layer *places_named(cb_weight_source *source, cb_model *model, const char *name, int64_t out, bool bias)
{
    const char *last;
    cb_layer *group = group_of(model->root, name, &last);
    const cb_conv_options plain = {0};
    return group ? cb_source_conv(source, group, last, model->config.width, out, 1, plain, bias, CB_INITIAL_NORMAL) : NULL;
}

static bool has_layer(const cb_weight_source *source, const char *name)
{
    char *weight = cb_format("%s.weight", name);
    bool has = weight && cb_source_has(source, weight);
    cb_free(weight);
    return has;
}

static bool build_inner(cb_model *model, cb_weight_source *source)
{
    const cb_head_plan *plan = model->head_plan;
    const cb_model_config *c = &model->config;
    if (plan->dense && (plan->output || has_layer(source, plan->dense))) {
        model->head_dense = linear_named(source, model, plan->dense, c->width, true);
        if (!model->head_dense)
            return false;
    }
    if (!plan->norm)
        return true;
    const char *last;
    cb_layer *group = group_of(model->root, plan->norm, &last);
    model->head_norm = group ? cb_source_norm(source, group, last, c->width, c->eps, true) : NULL;
    return model->head_norm;
}

/* BERT's kin keep the bias of the vocabulary beside the layer that it belongs to.  A head that is not tied may have one of its own. */
static bool share_bias(cb_model *model, cb_weight_source *source)
{
    cb_layer *head = model->head, *group = head->parent;
    if (!model->head_plan->group_bias)
        return true;
    char *own = cb_format("%s.bias", head->name);
    bool has = own && model->file && cb_source_has(source, own);
    cb_free(own);
    if (!head->tied && has)
        return cb_source_weight(source, head, "bias", CB_INITIAL_ZEROS, 1, &model->config.vocab_size);
    head->bias_at = group;
    return cb_source_weight(source, group, "bias", CB_INITIAL_ZEROS, 1, &model->config.vocab_size);
}

static bool build_vocabulary(cb_model *model, cb_weight_source *source)
{
    const cb_head_plan *plan = model->head_plan;
    const char *last;
    cb_layer *group = group_of(model->root, plan->output, &last);
    model->head = group ? cb_source_head(source, model, group, last, plan->bias) : NULL;
    return model->head && share_bias(model, source);
}

static bool build_labels(cb_model *model, cb_weight_source *source)
{
    const cb_head_plan *plan = model->head_plan;
    bool places = cb_head_judges_places(model) || plan->maps_first;
    model->head = (places ? places_named : linear_named)(source, model, plan->output, model->labels, plan->bias);
    if (model->head && plan->second)
        model->head_second = linear_named(source, model, plan->second, model->labels, plan->bias);
    if (!model->head || (plan->second && !model->head_second))
        return false;
    model->head->output = model->head->classifies = true;
    if (model->head_second)
        model->head_second->output = model->head_second->classifies = true;
    return true;
}

/* Of series, a number for each step that is foretold. */
static bool build_forecast(cb_model *model, cb_weight_source *source)
{
    const cb_head_plan *plan = model->head_plan;
    int64_t channels = plan->each_channel ? 1 : model->config.targets;
    model->head = linear_named(source, model, plan->output, model->config.prediction * channels, plan->bias);
    return model->head;
}

/* Its results are a vocabulary's. */
static bool says_words(cb_head_kind kind)
{
    return kind == CB_HEAD_CAUSAL_LM || kind == CB_HEAD_MASKED_LM || kind == CB_HEAD_SEQ2SEQ_LM || kind == CB_HEAD_CTC;
}

static bool build_output(cb_model *model, cb_weight_source *source)
{
    cb_head_kind kind = model->head_plan->kind;
    if (kind == CB_HEAD_FORECASTING)
        return build_forecast(model, source);
    return (says_words(kind) ? build_vocabulary : build_labels)(model, source);
}

static bool build_projection(cb_model *model, cb_weight_source *source)
{
    const cb_model_config *c = &model->config;
    const char *name = model->head_plan->projection, *last = NULL;
    cb_layer *group = name ? group_of(model->root, name, &last) : NULL;
    model->projection = group ? cb_source_linear(source, group, last, c->width, c->projection, false, false, CB_INITIAL_NORMAL) : NULL;
    return !name || model->projection;
}

/* Marks layers made since the tree had `first`. */
static bool mark_head(void *first, cb_layer *layer)
{
    layer->head = layer->index >= *(const size_t *)first;
    return true;
}

bool cb_head_build(cb_model *model, cb_weight_source *source)
{
    const cb_head_plan *plan = model->head_plan;
    size_t first = model->root->made;
    bool words = says_words(plan->kind);
    if (model->head_asked)
        cb_source_allow_new(source, model->head_seed, words ? NULL : plan->output);
    if (!cb_ok() || !build_inner(model, source) || !build_projection(model, source) || (plan->output && !build_output(model, source)))
        return false;
    cb_layer_visit(model->root, mark_head, &first);
    if (cb_source_new(source) && !(model->head_new = cb_strdup(cb_source_new(source))))
        return false;
    if (cb_source_new(source) && !model->head_follows)
        cb_log_message(CB_LOG_WARNING, "%s: has no %s that fit: they are new and random, and should be trained", model->directory,
                       cb_source_new(source));
    return true;
}

/* ---- forward ---- */

/* The index of the token that a row is judged by. */
int64_t cb_token_place(const cb_tensor *segments, int64_t row, int64_t length, bool last)
{
    for (int64_t i = 0; segments && i < length; i++) {
        int64_t at = last ? length - 1 - i : i;
        if (cb_get(segments, row * length + at) >= 0)
            return at;
    }
    return last ? length - 1 : 0;
}

cb_tensor *cb_one_token(cb_tensor *x, const cb_tensor *segments, bool last)
{
    int64_t rows = x->shape[0], length = x->shape[1];
    if (length == 1) /* there is no other */
        return cb_reshape(x, rows, -1);
    cb_tensor *places = cb_empty(CB_I64, rows);
    for (int64_t i = 0; places && i < rows; i++)
        ((int64_t *)places->data)[i] = i * length + cb_token_place(segments, i, length, last);
    return cb_index_select(cb_reshape(x, rows * length, -1), 0, places);
}

/* Where a text ends: as CLIP has it in transformers, which looks for the largest id where the config's is the wrong one of old. */
static int64_t end_of(const cb_tensor *ids, int64_t row, int64_t end)
{
    int64_t best = 0, length = ids->shape[1];
    for (int64_t i = 0; i < length; i++) {
        int64_t id = (int64_t)cb_get(ids, row * length + i);
        if (end != 2 && id == end)
            return i;
        if (end == 2 && id > (int64_t)cb_get(ids, row * length + best))
            best = i;
    }
    return best;
}

static cb_tensor *end_token(const cb_model *model, const cb_tensor *ids, cb_tensor *hidden)
{
    int64_t rows = hidden->shape[0], length = hidden->shape[1];
    cb_tensor *places = cb_empty(CB_I64, rows);
    for (int64_t i = 0; places && i < rows; i++)
        ((int64_t *)places->data)[i] = i * length + end_of(ids, i, model->config.end_token);
    return cb_index_select(cb_reshape(hidden, rows * length, -1), 0, places);
}

/* What a row is judged by: hidden (B, T, C) or (B, C, H, W) -> (B, C) */
static cb_tensor *pooled(cb_tensor *hidden, cb_pooling pooling, const cb_context *ctx)
{
    if (hidden->ndim == 4)
        return cb_reshape(cb_adaptive_avg_pool(hidden, 1, 1), hidden->shape[0], -1);
    if (pooling == CB_POOL_FIRST || pooling == CB_POOL_LAST)
        return cb_one_token(hidden, ctx->segments, pooling == CB_POOL_LAST);
    int64_t first = pooling == CB_POOL_MEAN_PATCHES;
    return cb_mean(cb_slice(hidden, 1, first, hidden->shape[1], 1), 1, false);
}

bool cb_head_judges_rows(const cb_model *model)
{
    cb_head_kind kind = model->head_plan->kind;
    return kind == CB_HEAD_SEQUENCE_CLASSIFICATION || kind == CB_HEAD_IMAGE_CLASSIFICATION;
}

bool cb_head_reads_first(const cb_model *model)
{
    const cb_head_plan *plan = model->head_plan;
    return cb_head_judges_rows(model) && plan->pooling == CB_POOL_FIRST && !plan->second && !plan->maps_first;
}

bool cb_head_judges_places(const cb_model *model)
{
    cb_head_kind kind = model->head_plan->kind;
    return kind == CB_HEAD_SEMANTIC_SEGMENTATION || kind == CB_HEAD_DENSE_REGRESSION || cb_places_numbers(kind);
}

/* What comes before the last layer, of x (..., C). */
static cb_tensor *inner_layers(const cb_model *model, cb_tensor *x, const cb_context *ctx)
{
    cb_activation activation = model->head_plan->activation;
    if (model->config.head_scale > 0)
        x = cb_scale(x, model->config.head_scale);
    if (model->head_dense && model->head_plan->output)
        x = cb_activate(activation == CB_ACT_OF_CONFIG   ? model->config.activation
                        : activation == CB_ACT_OF_POOLER ? model->config.pooler_activation
                                                         : activation,
                        cb_linear_forward(model->head_dense, x, ctx));
    return model->head_norm ? cb_layer_norm_forward(model->head_norm, x, ctx) : x;
}

/* Of what a row is judged by (B, C), as (B, 1, C), since layers take tokens. */
static cb_tensor *features_of_rows(const cb_model *model, cb_tensor *x, const cb_context *ctx)
{
    return inner_layers(model, cb_unsqueeze(x, 1), ctx);
}

cb_tensor *cb_head_features(const cb_model *model, const cb_tensor *input, cb_tensor *hidden, const cb_context *ctx)
{
    cb_pooling pooling = model->head_plan->pooling;
    if (!cb_head_judges_rows(model) && !model->architecture->images && pooling != CB_POOL_END) {
        cb_fail(CB_ERR_UNSUPPORTED, "%s: %s%s judges no rows, so it has no features of them", model->config_path,
                model->architecture->class_prefix, model->head_plan->class_end);
        return NULL;
    }
    cb_tensor *x = pooling == CB_POOL_END ? end_token(model, input, hidden) : pooled(hidden, pooling, ctx);
    x = features_of_rows(model, x, ctx);
    return cb_squeeze(model->projection ? cb_linear_forward(model->projection, x, ctx) : x, 1);
}

/* Tokens of patches, behind one or two others, as maps: (B, T, C) -> (B, C, h, w); maps are there already. */
static cb_tensor *maps_of(const cb_model *model, cb_tensor *hidden)
{
    const cb_model_config *c = &model->config;
    if (hidden->ndim == 4)
        return hidden;
    int64_t h = c->image_size[0] / c->patch_size[0], w = c->image_size[1] / c->patch_size[1], others = hidden->shape[1] - h * w;
    if (others != 1 && others != 2) {
        cb_fail(CB_ERR_UNSUPPORTED, "model: %lld tokens, expected those of %lld by %lld patches where places are judged",
                (long long)hidden->shape[1], (long long)h, (long long)w);
        return NULL;
    }
    cb_tensor *patches = cb_slice(hidden, 1, others, hidden->shape[1], 1);
    return cb_pixels_channels_in_front(cb_reshape(patches, hidden->shape[0], h, w, -1));
}

/* The mean of two heads' logits, of the first and the second token (DeiT). */
static cb_tensor *with_second(const cb_model *model, cb_tensor *logits, cb_tensor *hidden, const cb_context *ctx)
{
    cb_tensor *second = cb_contiguous(cb_slice(hidden, 1, 1, 2, 1));
    return cb_scale(cb_add(logits, cb_linear_forward(model->head_second, second, ctx)), 0.5);
}

cb_tensor *cb_head_run(const cb_model *model, cb_tensor *hidden, const cb_context *ctx)
{
    if (model->head_plan->kind == CB_HEAD_DENOISING) /* comes out of its last layer as it is */
        return hidden;
    if (!model->head) {
        cb_fail(CB_ERR_UNSUPPORTED, "%s: %s%s has no head, so it gives hidden states only", model->config_path,
                model->architecture->class_prefix, model->head_plan->class_end);
        return NULL;
    }
    if (model->architecture->series)
        return cb_series_arrange(model, cb_linear_forward(model->head, hidden, ctx));
    if (cb_head_judges_places(model))
        return cb_conv2d_forward(model->head, maps_of(model, hidden), ctx);
    if (model->head_plan->maps_first)
        return pooled(cb_relu(cb_conv2d_forward(model->head, hidden, ctx)), CB_POOL_MEAN, ctx);
    if (!cb_head_judges_rows(model))
        return cb_linear_forward(model->head, inner_layers(model, hidden, ctx), ctx);
    cb_tensor *logits = cb_linear_forward(model->head, features_of_rows(model, pooled(hidden, model->head_plan->pooling, ctx), ctx), ctx);
    return cb_squeeze(model->head_second ? with_second(model, logits, hidden, ctx) : logits, 1);
}

/* Whether the logits are what the last layer makes of the features, and nothing else. */
static bool reads_features_alone(const cb_model *model)
{
    return model->head && !model->head_second && !model->head_plan->maps_first;
}

cb_tensor *cb_head_judge_features(const cb_model *model, cb_tensor *features, const cb_context *ctx)
{
    if (reads_features_alone(model) && cb_head_judges_rows(model))
        return cb_squeeze(cb_linear_forward(model->head, cb_unsqueeze(features, 1), ctx), 1);
    cb_fail(CB_ERR_UNSUPPORTED, "%s: the head of a %s reads more than the features of rows", model->config_path,
            model->architecture->model_type);
    return NULL;
}

cb_tensor *cb_head_judge(const cb_model *model, cb_tensor *hidden, const cb_context *ctx, cb_tensor **features)
{
    *features = cb_head_features(model, NULL, hidden, ctx);
    return reads_features_alone(model) ? cb_head_judge_features(model, *features, ctx) : cb_head_run(model, hidden, ctx);
}

/* ---- questions ---- */

cb_head_kind cb_model_head_kind(const cb_model *model)
{
    return model->head_plan->kind;
}

int64_t cb_model_labels(const cb_model *model)
{
    return model->labels;
}
