/* arrays.h: arrays of numbers as NumPy writes them. */
#ifndef CB_DATA_ARRAYS_H
#define CB_DATA_ARRAYS_H

#include "cambium/core.h"

/* An array as it was read, little-endian, in C's order. */
typedef struct raw_array {
    char *block; /* owned */
    const uint8_t *data;
    int ndim, item; /* bytes of an item */
    char kind;      /* u, i, b: whole numbers without and with a sign, and bool; f: floating-point */
    int64_t shape[4];
} raw_array;

#define CB_ARRAY_LIMIT ((size_t)4 << 30) /* bytes of a file of arrays when it is unpacked */

bool cb_array_fails(const char *name, const char *problem); /* records it, and gives false */
/* Whether `left` bytes hold the array. */
bool cb_array_fits(const char *name, const raw_array *r, size_t left);
/* The block of `length` bytes as a file of NumPy's. */
bool cb_array_parse_npy(const char *name, size_t length, raw_array *r);
/* A file, or (member not NULL) one of an .npz; free r->block with cb_free(). */
bool cb_array_read_npy(const char *path, const char *member, raw_array *r);
int64_t cb_array_integer(const raw_array *r, int64_t i); /* of whole numbers; from 2^63: the largest */
double cb_array_number(const raw_array *r, int64_t i);   /* of any */

#endif
