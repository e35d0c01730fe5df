/* onednn.h: primitives of oneDNN with what they run on, each kept under everything that shaped it (onednn.c). */
#ifndef CB_KERNELS_ONEDNN_H
#define CB_KERNELS_ONEDNN_H

#include <dnnl.h>

#include "cambium/core.h"
#include "cambium/dtype.h"

enum { CBK_ONEDNN_MEMORIES = 6, CBK_ONEDNN_KEY = 28 };

typedef struct cbk_onednn {
    dnnl_primitive_t primitive;
    dnnl_primitive_t reorder;                  /* brings one operand into the primitive's order of elements or out of it, or NULL */
    dnnl_memory_t memory[CBK_ONEDNN_MEMORIES]; /* the maker says which is which; they carry the pointers of one run */
    dnnl_memory_t scratchpad;
    size_t scratch_bytes, ordered_bytes; /* working memory of the primitive, and for the reordered operand */

    int64_t key[CBK_ONEDNN_KEY]; /* private from here on */
    uint32_t hash;
    bool busy;
    uint64_t used; /* the clock of the last use */
    struct cbk_onednn *next;
} cbk_onednn;

/* The entry of a key of `words` words (the first tells kinds of primitive apart), for one caller until cbk_onednn_release(); `make` fills in
 * a new one.  NULL: oneDNN refused, with the status and without an error in *refused, or no memory, with an error. */
typedef dnnl_status_t cbk_onednn_maker(cbk_onednn *e, const int64_t *key);
cbk_onednn *cbk_onednn_acquire(const int64_t *key, int words, cbk_onednn_maker *make, dnnl_status_t *refused);
void cbk_onednn_release(cbk_onednn *e);
/* Gives back every entry that nobody uses. */
void cbk_onednn_flush(void);
/* Makes the primitive of a descriptor with its scratchpad. */
dnnl_status_t cbk_onednn_finish(cbk_onednn *e, const_dnnl_primitive_desc_t descriptor);
dnnl_engine_t cbk_onednn_engine(void); /* for makers; NULL where there is none */
dnnl_stream_t cbk_onednn_stream(void); /* this thread's */
/* Points memory i at data. */
void cbk_onednn_point(cbk_onednn *e, int i, const void *data);
dnnl_data_type_t cbk_onednn_type(cb_dtype dtype);

#endif
