/* op_cases.h: one table of operations and losses with everything needed to make inputs for each, and the questions that
 * are asked of every case.
 *
 * A case names its inputs' shapes by letters (op_cases.c gives each letter a size: small, one, large), so one line of a
 * table serves for odd sizes, ones, zeros, and sizes that cross vector widths and tiles; its inputs also come as views
 * (permuted, sliced, expanded).  tests/oracle/ops.py computes the small sizes of each case with PyTorch under the same name. */
#ifndef OP_CASES_H
#define OP_CASES_H

/* cmocka.h wants the others before it. */
/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
/* clang-format on */

#include "cambium/formats.h"
#include "cambium/losses.h"
#include "tensor/internal.h"

enum { OP_INPUTS = 8, OP_OUTPUTS = 3 };

/* What values an input has.  All are multiples of 2^-10, as is the step of finite differences, so that an op which
 * rounds to f32 inside is differentiated exactly. */
typedef enum domain {
    NORMAL,   /* -2 to 2 */
    POSITIVE, /* 0.5 to 2.5 */
    UNIT,     /* 0.1 to 0.9 */
    DISTINCT, /* no two alike, also across inputs, none near a multiple of a half */
    LEVELS,   /* -1, 0 or 1: ties everywhere */
    /* from here on: no gradient */
    CONSTANT,      /* NORMAL */
    PROBABILITIES, /* rows of the last dimension sum to one */
    LOG_PROBABILITIES,
    PLUS_MINUS, /* -1 or 1 */
    BOOLEAN,    /* dtype bool */
    INDEX,      /* i64 below the size of `limit` */
    INDEX32,    /* the same in i32 */
    TARGETS,    /* i64 below the size of `limit`; -100 where the flat index is 1 modulo 4 */
    TARGETS32,  /* i32 likewise */
    /* from here on: never a view */
    POSITIONS, /* i32 below the size of `limit` */
    TABLE,     /* f32 whatever the case's dtype */
    VARIANCES, /* the same, POSITIVE */
    SEGMENTS   /* i32: runs of 0 and 1 along the last dimension, -1 (padding) at its end */
} domain;

typedef struct op_input {
    const char *shape; /* a letter or a digit a dimension */
    domain domain;
    char limit; /* a letter */
} op_input;

typedef struct op_case {
    const char *name;                               /* as in tests/oracle/ops.py */
    const char *text;                               /* the expression, for the test that every public operation has a case */
    const char *op;                                 /* what must be recorded, as in cb_op_table; NULL: the result has no gradient */
    int (*run)(cb_tensor *const *x, cb_tensor **y); /* gives the number of outputs, 0 on failure */
    op_input input[OP_INPUTS];
    const char *nonzero;  /* letters that may not be 0 */
    bool fixed;           /* only small sizes: the expression contains numbers that depend on them */
    bool plain_f64;       /* its f64 kernel knows no vectors or tiles: large sizes add nothing to finite differences */
    bool kinks;           /* at these inputs, or on purpose, the gradient is not the derivative */
    bool own;             /* has no counterpart in PyTorch */
    bool integers;        /* also for i32 and i64 */
    bool no_f16, no_half; /* not for f16; not for f16 and bf16 */
    double loose;         /* multiplies the tolerance of dtypes; 0: 1 */
} op_case;

extern const op_case op_cases[], loss_cases[];
extern const size_t op_case_count, loss_case_count;

/* ---- one sample ---- */

typedef enum layout { DENSE, PERMUTED, SLICED, EXPANDED, LAYOUTS } layout;
typedef struct sizes {
    enum { SMALL, ONE, LARGE } scale;
    char zero; /* this letter is 0; '\0': none */
} sizes;

typedef struct sample {
    const op_case *c;
    layout layout;
    int inputs;
    cb_tensor *leaf[OP_INPUTS]; /* contiguous; x is a view of it, made anew by each run */
    int ndim[OP_INPUTS];        /* of x */
    int64_t shape[OP_INPUTS][CB_MAX_DIMS];
} sample;

bool op_is_differentiable(const op_input *input);
int64_t op_size(char letter, sizes s);
/* Values are drawn from a generator seeded by the case's name: the same every time, whatever the dtype. */
sample sample_make(const op_case *c, cb_dtype dtype, sizes s, layout layout);
int sample_run(const sample *s, cb_tensor **y); /* number of outputs; 0 on failure */

/* ---- what is asked ---- */

/* Each gives true when the case passes, else says what is wrong (print_error) and gives false. */
bool gradient_is_the_derivative(const op_case *c);
bool second_gradient_is_the_derivative(const op_case *c);
bool every_dtype_agrees_with_f64(const op_case *c);
bool values_are_pytorchs(const op_case *c, const cb_safetensors *reference);
bool survives_failed_allocations(const op_case *c);
bool threads_change_no_bit(const op_case *c);
/* Marks the ops that the graphs of this case's samples contain, in the order of cb_op_table. */
bool records_its_op(const op_case *c, bool *seen);

/* Runs a question over a table and fails the test when a case fails. */
void ask_every_case(const op_case *cases, size_t count, bool (*question)(const op_case *));
void compare_every_case(const op_case *cases, size_t count, const char *file);

#endif
