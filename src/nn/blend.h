/* blend.h: what acts on a layer in a pass, whether it stands on the layer's own list or in a blend, and the part of a batch that a share
 * means. */
#ifndef CB_NN_BLEND_H
#define CB_NN_BLEND_H

#include "cambium/nn.h"

typedef struct cb_part {
    const cb_module *module;
    const cb_share *share; /* NULL: all */
    const cb_mix *mix;     /* NULL: it acts by itself; those of a mix follow each other */
} cb_part;

/* One of the two is the list. */
typedef struct cb_parts {
    cb_module *const *modules;
    const cb_part *parts;
    size_t count;
} cb_parts;

cb_parts cb_parts_of_blend(const cb_layer *layer, const cb_blend *blend);

static inline cb_parts cb_parts_on(const cb_layer *layer, const cb_context *ctx)
{
    if (__builtin_expect(ctx->blend != NULL, 0))
        return cb_parts_of_blend(layer, ctx->blend);
    return (cb_parts){.modules = layer->modules, .count = layer->module_count};
}

static inline cb_part cb_part_at(const cb_parts *p, size_t i)
{
    return p->parts ? p->parts[i] : (cb_part){.module = p->modules[i]};
}

/* A share of the tensors at hand: rows (all: every one) and tokens of each. */
typedef struct cb_region {
    bool all;            /* every row */
    const int64_t *rows; /* (count) ascending, `base` more than the row's index */
    int64_t base, count;
    bool cut; /* tokens begin..end-1 only */
    int64_t begin, end;
} cb_region;

/* False: nothing of the share is at hand (or, with an error, x has no tokens to be cut).  x (B, ...), or (B, T, ...) for some tokens. */
bool cb_region_of(cb_region *r, const cb_share *share, const cb_tensor *x, const cb_context *ctx);
bool cb_regions_meet(const cb_region *a, const cb_region *b); /* share a row */
/* Those rows of x, and of them (cut) those tokens: a view where rows lie together. */
cb_tensor *cb_region_rows(const cb_region *r, cb_tensor *x);
cb_tensor *cb_region_take(const cb_region *r, cb_tensor *x);
/* The region's rows of y with `part` in place of the region's tokens; part itself when it is not cut. */
cb_tensor *cb_region_mend(const cb_region *r, cb_tensor *y, cb_tensor *part);
/* y (n, ...) with rows[i] for the rows of region i; no two regions meet.  y NULL: they cover everything. */
cb_tensor *cb_regions_put(cb_tensor *y, int64_t n, size_t count, const cb_region *regions, cb_tensor *const *rows);
/* A weighted share's weights as a factor of `like`, a taken part: 1 but in the first one or two dimensions. */
cb_tensor *cb_region_weights(const cb_region *r, const cb_share *share, const cb_tensor *like, const cb_context *ctx);
/* The context for a region, with its positions, segments (not of some tokens), tasks, conditions and residual, and no blend in it. */
cb_context cb_region_context(const cb_context *ctx, const cb_region *r);

#endif
