/* forward.c: what a layer computes, with the modules it hosts.
 *
 * Every layer goes the same way: modules may give it another input (`before`), another weight (`weight`) or bias, then comes
 * the layer's own product, then modules work on the result (`forward`), each kind of function in the order the modules
 * were attached.  A layer without modules pays one comparison.  Operations pass NULL through, so nothing is checked in
 * between.
 *
 * In a blend a module may act on a share of the batch.  What works on the input or the result works on those rows alone; low-rank
 * updates of many modules are one operation.  Where weights, bias or attention change, rows that have the same modules go through the
 * layer together (shared.c). */
#include "core/rehearsal.h"
#include "nn/matrix.h"
#include "nn/shared.h"

_Thread_local const cb_layer_watch *cb_layer_watching;

static cb_tensor *given(const cb_layer *layer, cb_tensor *x)
{
    if (__builtin_expect(cb_layer_watching != NULL, 0) && x && cb_layer_watching->input)
        cb_layer_watching->input(cb_layer_watching->user, layer, x);
    return x;
}

cb_tensor *cb_layer_before(const cb_layer *layer, cb_tensor *x, const cb_context *ctx)
{
    cb_parts parts = cb_parts_on(layer, ctx);
    if (parts.parts)
        return cb_shared_before(&parts, x, ctx);
    for (size_t i = 0; x && i < parts.count; i++) {
        const cb_module *m = parts.modules[i];
        if (m->kind->before)
            x = m->kind->before(m, x, ctx);
    }
    return x;
}

cb_tensor *cb_layer_after(const cb_layer *layer, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    cb_parts parts = cb_parts_on(layer, ctx);
    if (parts.parts)
        return cb_shared_after(layer, &parts, x, y, ctx);
    for (size_t i = 0; y && i < parts.count; i++) {
        const cb_module *m = parts.modules[i];
        if (m->kind->forward)
            y = cb_watched(layer, m, m->kind->forward(m, x, y, ctx));
    }
    return y;
}

cb_tensor *cb_joined_stream(cb_tensor *y, const cb_context *ctx)
{
    if (!ctx->residual)
        return y;
    cb_tensor *sum = cb_add(y, ctx->residual);
    return ctx->residual_norm ? cb_layer_norm_forward(ctx->residual_norm, sum, ctx) : sum;
}

bool cb_layer_prompt(const cb_layer *layer, const cb_context *ctx, const cb_module **found)
{
    cb_parts parts = cb_parts_on(layer, ctx);
    *found = NULL;
    for (size_t i = 0; i < parts.count; i++) {
        const cb_module *m = cb_part_at(&parts, i).module;
        if (!m->kind->virtual_tokens || m->kind->virtual_tokens(m) == 0)
            continue;
        if (*found)
            return cb_fail(CB_ERR_UNSUPPORTED, "virtual tokens: found those of two adapters (%s and %s), expected one of them on",
                           (*found)->kind->name, m->kind->name) == CB_OK;
        *found = m;
    }
    return true;
}

/* ---- the layer's own part ---- */

/* What a layer computes from its parameters; `on` says which modules count (shared.h). */
typedef struct own_part {
    cb_shared shared; /* first */
    const cb_layer *layer;
    cb_tensor *x;
    cb_tensor *(*run)(const struct own_part *own, cb_tensor *x, cb_tensor *weight, cb_tensor *bias);
    cb_tensor *(*linear)(cb_tensor *x, cb_tensor *weight, cb_tensor *bias);
    cb_dtype dtype; /* of an embedding's result */
} own_part;

static cb_tensor *effective_weight(const own_part *own, const bool *on)
{
    const cb_parts *parts = &own->shared.parts;
    cb_tensor *weight = cb_layer_weight(own->layer, "weight");
    for (size_t i = 0; weight && i < parts->count; i++) {
        const cb_module *m = cb_part_at(parts, i).module;
        if (m->kind->weight && (!on || on[i]))
            weight = m->kind->weight(m, weight, own->shared.ctx);
    }
    return weight;
}

static cb_tensor *effective_bias(const own_part *own, const bool *on)
{
    const cb_parts *parts = &own->shared.parts;
    cb_tensor *bias = cb_layer_weight(own->layer, "bias");
    for (size_t i = 0; cb_ok() && i < parts->count; i++) {
        const cb_module *m = cb_part_at(parts, i).module;
        if (m->kind->bias && (!on || on[i]))
            bias = m->kind->bias(m, bias, own->shared.ctx);
    }
    return bias;
}

static cb_tensor *own_rows(const cb_shared *shared, const cb_region *rows, const bool *on)
{
    const own_part *own = (const own_part *)(const void *)shared;
    cb_tensor *x = cb_region_rows(rows, own->x);
    cb_tensor *weight = effective_weight(own, on);
    return own->run(own, x, weight, effective_bias(own, on));
}

/* Bit by what the kind has: whether it changes what own_rows() computes. */
static bool changes_parameters(const cb_module_kind *kind)
{
    return kind->weight || kind->bias;
}

static cb_tensor *own_result(own_part own, cb_tensor *x, const cb_context *ctx)
{
    own.x = x;
    own.shared = (cb_shared){.parts = cb_parts_on(own.layer, ctx), .ctx = ctx, .concerns = changes_parameters, .run = own_rows};
    return x ? cb_watched(own.layer, NULL, cb_shared_result(&own.shared, x)) : NULL;
}

static cb_tensor *run_linear(const own_part *own, cb_tensor *x, cb_tensor *weight, cb_tensor *bias)
{
    if (weight && own->layer->transposed)
        weight = cb_transpose(weight, 0, 1);
    return own->linear(x, weight, bias);
}

typedef cb_tensor *linear_function(cb_tensor *x, cb_tensor *weight, cb_tensor *bias);

static cb_tensor *linear_with(linear_function *linear, const cb_layer *layer, cb_tensor *x, const cb_context *ctx)
{
    x = given(layer, cb_layer_before(layer, x, ctx));
    cb_tensor *y = own_result((own_part){.layer = layer, .run = run_linear, .linear = linear}, x, ctx);
    return cb_layer_after(layer, x, y, ctx);
}

cb_tensor *cb_linear_forward(const cb_layer *layer, cb_tensor *x, const cb_context *ctx)
{
    return linear_with(cb_linear, layer, x, ctx);
}

/* Whether nobody reads the values of the layer's own product. */
static bool modules_only_add(const cb_layer *layer, const cb_context *ctx)
{
    cb_parts parts = cb_parts_on(layer, ctx);
    for (size_t i = 0; i < parts.count; i++) {
        cb_part p = cb_part_at(&parts, i);
        const cb_module_kind *kind = p.module->kind;
        if (p.mix || (kind->forward && !(kind->adds && kind->adds(p.module))) || (p.share && changes_parameters(kind)))
            return false;
    }
    return true;
}

cb_tensor *cb_linear_forward_add(const cb_layer *layer, cb_tensor *residual, cb_tensor *x, const cb_context *ctx)
{
    if (ctx->unread && modules_only_add(layer, ctx))
        return cb_add(residual, linear_with(cb_linear_unread, layer, x, ctx));
    if (!cb_layer_hosts(layer, ctx) && !layer->transposed && !cb_layer_weight(layer, "bias"))
        return cb_watched(layer, NULL, cb_linear_add(residual, given(layer, x), cb_layer_weight(layer, "weight"), 1));
    return cb_add(residual, cb_linear_forward(layer, x, ctx));
}

/* What a module's part in forward comes to: it is a low-rank update, or none. */
static bool adds_a_pair(const cb_part *p, const cb_context *ctx, cb_low_rank *pair, bool *any)
{
    const cb_module_kind *kind = p->module->kind;
    *any = kind->forward;
    return !p->share && !p->mix && !kind->before && (!kind->forward || (kind->low_rank && kind->low_rank(p->module, ctx, pair)));
}

int cb_layer_matrix(const cb_layer *layer, const cb_context *ctx, cb_dtype dtype, cb_tensor **weight, cb_tensor **bias)
{
    own_part own = {.layer = layer, .shared = {.parts = cb_parts_on(layer, ctx), .ctx = ctx}};
    const cb_parts *parts = &own.shared.parts;
    cb_low_rank pair;
    bool any;
    for (size_t i = 0; i < parts->count; i++) {
        cb_part p = cb_part_at(parts, i);
        if (!adds_a_pair(&p, ctx, &pair, &any))
            return cb_ok() ? 0 : -1;
    }
    *weight = effective_weight(&own, NULL);
    *bias = effective_bias(&own, NULL);
    *weight = *weight ? cb_cast(layer->transposed ? cb_transpose(*weight, 0, 1) : *weight, dtype) : NULL;
    *bias = *bias ? cb_cast(*bias, dtype) : NULL;
    for (size_t i = 0; cb_ok() && i < parts->count; i++) {
        cb_part p = cb_part_at(parts, i);
        if (adds_a_pair(&p, ctx, &pair, &any) && any)
            *weight = cb_add(*weight, cb_scale(cb_matmul(cb_cast(pair.b, dtype), cb_cast(pair.a, dtype)), pair.scale));
    }
    return cb_ok() ? 1 : -1;
}

static cb_tensor *run_conv2d(const own_part *own, cb_tensor *x, cb_tensor *weight, cb_tensor *bias)
{
    return cb_conv_with(x, weight, bias, own->layer->conv);
}

cb_tensor *cb_conv2d_forward(const cb_layer *layer, cb_tensor *x, const cb_context *ctx)
{
    x = cb_layer_before(layer, x, ctx);
    return cb_layer_after(layer, x, own_result((own_part){.layer = layer, .run = run_conv2d}, x, ctx), ctx);
}

static cb_tensor *run_embedding(const own_part *own, cb_tensor *ids, cb_tensor *weight, cb_tensor *bias)
{
    (void)bias;
    cb_tensor *y = cb_embedding(weight, ids);
    return y && y->dtype != own->dtype ? cb_cast(y, own->dtype) : y;
}

cb_tensor *cb_embedding_forward(const cb_layer *layer, cb_tensor *ids, cb_dtype dtype, const cb_context *ctx)
{
    ids = cb_layer_before(layer, ids, ctx);
    return cb_layer_after(layer, ids, own_result((own_part){.layer = layer, .run = run_embedding, .dtype = dtype}, ids, ctx), ctx);
}

static cb_tensor *run_rms_norm(const own_part *own, cb_tensor *x, cb_tensor *weight, cb_tensor *bias)
{
    (void)bias;
    return cb_rms_norm(x, weight, own->layer->eps);
}

cb_tensor *cb_rms_norm_forward(const cb_layer *layer, cb_tensor *x, const cb_context *ctx)
{
    x = cb_layer_before(layer, x, ctx);
    return cb_layer_after(layer, x, own_result((own_part){.layer = layer, .run = run_rms_norm}, x, ctx), ctx);
}

static cb_tensor *run_layer_norm(const own_part *own, cb_tensor *x, cb_tensor *weight, cb_tensor *bias)
{
    if (weight && bias && weight->dtype != bias->dtype) { /* one of them is trained */
        weight = cb_cast(weight, CB_F32);
        bias = cb_cast(bias, CB_F32);
    }
    return cb_layer_norm(x, weight, bias, own->layer->eps);
}

cb_tensor *cb_layer_norm_forward(const cb_layer *layer, cb_tensor *x, const cb_context *ctx)
{
    x = cb_layer_before(layer, x, ctx);
    return cb_layer_after(layer, x, own_result((own_part){.layer = layer, .run = run_layer_norm}, x, ctx), ctx);
}

static cb_tensor *run_group_norm(const own_part *own, cb_tensor *x, cb_tensor *weight, cb_tensor *bias)
{
    return cb_group_norm(x, own->layer->groups, weight, bias, own->layer->eps);
}

cb_tensor *cb_group_norm_forward(const cb_layer *layer, cb_tensor *x, const cb_context *ctx)
{
    x = cb_layer_before(layer, x, ctx);
    return cb_layer_after(layer, x, own_result((own_part){.layer = layer, .run = run_group_norm}, x, ctx), ctx);
}

/* ---- batch norm ---- */

/* Fills in running_weight and momentum. */
static bool choose_statistics(const cb_layer *layer, const cb_context *ctx, cb_batch_norm_options *o)
{
    bool follows =
        ctx->training && (ctx->statistics == CB_STATISTICS_FOLLOWED || (ctx->statistics == CB_STATISTICS_OF_TRAINED && layer->moves));
    o->running_weight = follows || ctx->statistics == CB_STATISTICS_BATCH ? 0 : 1;
    if (ctx->statistics == CB_STATISTICS_MIXED)
        o->running_weight = ctx->running_weight;
    if (follows)
        o->momentum = layer->momentum > 0 ? layer->momentum : 0.1;
    return follows;
}

static cb_tensor *run_batch_norm(const own_part *own, cb_tensor *x, cb_tensor *weight, cb_tensor *bias)
{
    const cb_layer *layer = own->layer;
    cb_batch_norm_options o = {
        .eps = layer->eps, .running_mean = cb_layer_buffer(layer, "running_mean"), .running_var = cb_layer_buffer(layer, "running_var")};
    bool follows = choose_statistics(layer, own->shared.ctx, &o);
    cb_tensor *y = cb_batch_norm_with(x, weight, bias, o), *batches = cb_layer_buffer(layer, "num_batches_tracked");
    if (y && follows && batches && !own->shared.ctx->unread && !cb_rehearsing()) /* a second run is of the same batch */
        ++*(float *)batches->data;
    return y;
}

cb_tensor *cb_batch_norm_forward(const cb_layer *layer, cb_tensor *x, const cb_context *ctx)
{
    x = cb_layer_before(layer, x, ctx);
    return cb_layer_after(layer, x, own_result((own_part){.layer = layer, .run = run_batch_norm}, x, ctx), ctx);
}

/* ---- attention ---- */

typedef struct attention_part {
    cb_shared shared; /* first */
    cb_tensor *q, *k, *v;
    cb_attention_options options;
} attention_part;

static cb_tensor *attend_rows(const cb_shared *shared, const cb_region *rows, const bool *on)
{
    const attention_part *a = (const attention_part *)(const void *)shared;
    cb_attention_options options = a->options;
    cb_context ctx = *shared->ctx;
    if (!rows->all) {
        options.segments = cb_region_rows(rows, options.segments);
        options.rows = cb_region_rows(rows, options.rows);
        options.lengths = cb_region_rows(rows, options.lengths);
        options.mask =
            options.mask && options.mask->ndim == 4 && options.mask->shape[0] > 1 ? cb_region_rows(rows, options.mask) : options.mask;
        ctx.positions = cb_region_rows(rows, ctx.positions);
        ctx.segments = cb_region_rows(rows, ctx.segments);
        ctx.tasks = ctx.tasks && ctx.tasks->shape[0] > 1 ? cb_region_rows(rows, ctx.tasks) : ctx.tasks;
        ctx.conditions = cb_region_rows(rows, ctx.conditions);
        ctx.blend = NULL;
    }
    for (size_t i = 0; i < shared->parts.count; i++) {
        const cb_module *m = cb_part_at(&shared->parts, i).module;
        if (m->kind->attend && (!on || on[i]) && !m->kind->attend(m, &options, &ctx))
            return NULL;
    }
    cb_tensor *q = cb_region_rows(rows, a->q);
    cb_tensor *k = options.rows ? a->k : cb_region_rows(rows, a->k), *v = options.rows ? a->v : cb_region_rows(rows, a->v);
    cb_tensor *y = cb_attention_with(q, k, v, options);
    for (size_t i = 0; y && i < shared->parts.count; i++) {
        const cb_module *m = cb_part_at(&shared->parts, i).module;
        if (m->kind->attended && (!on || on[i]))
            y = m->kind->attended(m, q, y, &ctx);
    }
    return y;
}

static bool attends(const cb_module_kind *kind)
{
    return kind->attend || kind->attended;
}

cb_tensor *cb_attention_forward(const cb_layer *layer, cb_tensor *q, cb_tensor *k, cb_tensor *v, cb_attention_options options,
                                const cb_context *ctx)
{
    attention_part a = {.shared = {.parts = cb_parts_on(layer, ctx), .ctx = ctx, .concerns = attends, .run = attend_rows},
                        .q = q,
                        .k = k,
                        .v = v,
                        .options = options};
    return q && k && v ? cb_watched(layer, NULL, cb_shared_result(&a.shared, q)) : NULL;
}
