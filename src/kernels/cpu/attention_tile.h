/* attention_tile.h: what the attention drivers and the vector kernels share.
 *
 * Keys are taken in blocks of 64; prefix keys make blocks of their own, before the others.  Before anything is
 * multiplied, each block of K and V is brought into the forms a tile product wants.  All forms consist of 4-byte words:
 * an f32, or two bf16 that are neighbours along the summed dimension (`step` of them, 1 or 2).  `depth` is the head
 * size rounded up to whole vectors, filled with zeros. */
#ifndef CB_KERNELS_ATTENTION_TILE_H
#define CB_KERNELS_ATTENTION_TILE_H

#include "kernels/kernels.h"

enum { CBK_TILE = 64, CBK_MAX_DEPTH = 256 };

typedef struct cbk_attention_job {
    const cbk_attention_args *args;
    const cbk_attention_gradients *gradients; /* NULL in the forward pass */
    int64_t step, depth;
    int64_t prefix_blocks, blocks; /* of keys, prefix included */
    int64_t tile_words;            /* CBK_TILE * depth / step: the size of each form of a block */
    uint32_t *forms;               /* [batch][kv_heads][blocks][forms of a block][tile_words] */
} cbk_attention_job;

/* Forms of a key block.  Forward: K by (depth, key), V by (key, depth).  Backward: K and V by (key, depth) rows of
 * words along depth, K by (depth, key). */
enum { CBK_FORWARD_FORMS = 2, CBK_BACKWARD_FORMS = 3 };

static inline uint32_t *cbk_attention_form(const cbk_attention_job *job, int64_t batch, int64_t kv_head, int64_t block, int form)
{
    int64_t forms = job->gradients ? CBK_BACKWARD_FORMS : CBK_FORWARD_FORMS;
    return job->forms + (((batch * job->args->kv_heads + kv_head) * job->blocks + block) * forms + form) * job->tile_words;
}

/* Keys first..first+count-1 of the prefix or of the others. */
typedef struct cbk_key_block {
    bool prefix;
    int64_t first, count;
} cbk_key_block;

static inline cbk_key_block cbk_attention_block(const cbk_attention_job *job, int64_t block)
{
    bool prefix = block < job->prefix_blocks;
    int64_t first = (prefix ? block : block - job->prefix_blocks) * CBK_TILE, total = prefix ? job->args->prefix : job->args->tk;
    return (cbk_key_block){prefix, first, total - first < CBK_TILE ? total - first : CBK_TILE};
}

/* Bytes of scratch memory one thread needs. */
int64_t cbk_attention_forward_scratch(const cbk_attention_job *job);
int64_t cbk_attention_backward_scratch(const cbk_attention_job *job);

/* The largest and smallest segment id among rows of a block, padding left out (smallest > largest: nothing but
 * padding), and whether some are padding. */
typedef struct cbk_segment_span {
    int32_t smallest, largest;
    bool padding;
} cbk_segment_span;
cbk_segment_span cbk_attention_span(const int32_t *segments, int64_t count);

/* Whether queries t.. (count of them) of a batch entry see any, and all, of a block's keys. */
typedef enum cbk_sight { CBK_SEES_NONE, CBK_SEES_SOME, CBK_SEES_ALL } cbk_sight;
cbk_sight cbk_attention_sight(const cbk_attention_args *args, int64_t batch, int64_t t, int64_t count, cbk_key_block block);

#endif
