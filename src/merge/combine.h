/* combine.h: several versions of one tensor made into one, in pieces that fit a cache.
 *
 * Nothing of a tensor is held whole but the result: a method goes through the pieces as often as it needs to (what are the largest changes,
 * how do the versions lie to each other), and each time the values are read from the mapped files again.  Sums over pieces are taken in their
 * order, so that threads do not change bits. */
#ifndef CB_MERGE_COMBINE_H
#define CB_MERGE_COMBINE_H

#include "cambium/formats.h"
#include "cambium/merge.h"

enum { CB_COMBINE_PIECE = 16384, CB_COMBINE_STRETCH = 1 << 18 }; /* elements: of a piece, of pieces that are made and written together */

/* One tensor: the base's, and those of the models to be merged. */
typedef struct cb_versions {
    const cb_weight_entry *base;
    const cb_weight_entry *const *others;
    const double *weights, *densities;
    size_t count;          /* of the others */
    int64_t rows, columns; /* a vector is one row */
} cb_versions;

/* Takes the next `bytes` bytes of the result. */
typedef bool cb_combine_sink(void *user, const void *data, size_t bytes);
/* The result, rows * columns elements of `dtype`, goes to `sink` in order, in pieces that fit a cache. */
bool cb_combine(const cb_model_merge_options *options, const cb_versions *versions, cb_dtype dtype, cb_combine_sink *sink, void *user);

/* What a method is: a line of the table in combine.c. */
typedef enum cb_combine_family {
    CB_COMBINE_SPAN,    /* a combination of the versions, with factors from the products of the versions with each other */
    CB_COMBINE_CHANGES, /* thinned out changes against the base, added up */
    CB_COMBINE_VALUES   /* element by element */
} cb_combine_family;

typedef enum cb_thinning {
    CB_THIN_NOT,
    CB_THIN_MAGNITUDE, /* the largest stay */
    CB_THIN_RANDOM,
    CB_THIN_OUTLIERS, /* neither the largest nor the smallest stay */
    CB_THIN_RANKED    /* at random, the larger the likelier */
} cb_thinning;

typedef struct cb_combine_method {
    const char *name;
    cb_combine_family family;
    cb_thinning thinning;
    bool consensus;      /* only changes of the sign that weighs more count */
    bool normalize;      /* unless told otherwise */
    int rescale;         /* CB_RESCALE_*: unless told otherwise */
    size_t fewest, most; /* models; most 0: any number */
} cb_combine_method;
const cb_combine_method *cb_combine_method_of(const cb_model_merge_options *options);
/* The densities of `count` models, from the option's text; refuses what is none. */
bool cb_combine_densities(const cb_model_merge_options *options, size_t count, double *densities);

/* ---- for the families ---- */

/* Work on one tensor: its pieces, and room for the values of one piece of every version for each thread. */
typedef struct cb_combine_job {
    const cb_model_merge_options *options;
    const cb_combine_method *method;
    const cb_versions *v;
    int64_t count, piece, pieces; /* elements, elements of a piece, pieces */
    int64_t step;                 /* from the beginning of a piece to that of the next: a piece, or in a sample more */
    int threads;
    bool base_unused; /* the base is not read: nothing depends on it */
    float *room;      /* threads x (count of versions + 3) x piece */
    uint64_t key;     /* of random draws */
    cb_dtype dtype;
    char *out; /* stretch pieces of the result */
    int64_t stretch;
    cb_combine_sink *sink;
    void *user;
} cb_combine_job;

/* A piece in a thread's hands. */
typedef struct cb_combine_piece {
    int64_t index, first, count;
    float *base, *out, *spare;
    float **others; /* the versions, or their changes against the base */
} cb_combine_piece;

typedef void cb_combine_visitor(const cb_combine_job *job, const cb_combine_piece *piece, void *user);
/* Calls `visit` for all pieces, in threads.  changes: the base is taken off the others.  write: what visit leaves in piece->out becomes the
 * result; once, at the end. */
bool cb_combine_visit(const cb_combine_job *job, bool changes, bool write, cb_combine_visitor *visit, void *user);

bool cb_combine_span(cb_combine_job *job);
bool cb_combine_changes(cb_combine_job *job);
bool cb_combine_values(cb_combine_job *job);

/* The keep-th largest of non-negative numbers: those above `threshold` are kept, and of its equals those before the ones that
 * `equals` counts off: an element of piece p is kept if fewer than `keep_equal` equals come before it. */
typedef struct cb_combine_largest {
    uint32_t threshold; /* bits of the number */
    int64_t keep_equal; /* so many of its equals are kept */
    int64_t *before;    /* pieces + 1: equals in the pieces before this one; the caller's to free */
} cb_combine_largest;
/* What is ranked, of one piece: the magnitudes of piece->count numbers, NaN counting as large; in piece->spare or elsewhere.  There may be
 * several series of them. */
typedef const float *cb_combine_ranked(const cb_combine_job *job, const cb_combine_piece *piece, void *user, size_t series);
typedef struct cb_combine_question {
    size_t series;
    int64_t keep;                /* at most the number of elements; 0: threshold is beyond all numbers */
    cb_combine_largest *largest; /* the answer */
} cb_combine_question;
/* Answers all questions in one pass over the tensor, or nearly always (combine_select.c). */
bool cb_combine_select(const cb_combine_job *job, cb_combine_ranked *ranked, void *user, const cb_combine_question *questions,
                       size_t count);

static inline uint32_t cb_combine_bits(float magnitude)
{
    union {
        float f;
        uint32_t u;
    } x = {magnitude};
    return x.u & 0x7fffffffu;
}

#endif
