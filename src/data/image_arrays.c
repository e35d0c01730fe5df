/* image_arrays.c: images in files of arrays: IDX (MNIST's: http://yann.lecun.com/exdb/mnist) with the labels in a file beside it, NumPy's .npy likewise,
 * and .npz of both (MedMNIST: train_images, train_labels, val_..., test_...). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/images.h"

enum { UINT8 = 8 }; /* IDX's type */
static const size_t most_bytes = (size_t)4 << 30;

/* An array as it was read. */
typedef struct raw {
    char *block; /* owned */
    const uint8_t *data;
    int ndim, item; /* bytes of an item */
    char kind;      /* u, i, b: whole numbers without and with a sign */
    int64_t shape[4];
} raw;

static bool damaged(const char *name, const char *problem)
{
    return cb_fail(CB_ERR_FORMAT, "%s: %s", name, problem) == CB_OK;
}

/* Whether `left` bytes hold the array. */
static bool fits(const char *name, const raw *r, size_t left)
{
    uint64_t bytes = (uint64_t)r->item;
    for (int i = 0; i < r->ndim; i++) {
        if (r->shape[i] < 0 || (r->shape[i] && bytes > UINT64_MAX / (uint64_t)r->shape[i]))
            return damaged(name, "found an array of impossible size");
        bytes *= (uint64_t)r->shape[i];
    }
    return bytes <= left ||
           cb_fail(CB_ERR_FORMAT, "%s: found %zu bytes, expected %llu for the array", name, left, (unsigned long long)bytes) == CB_OK;
}

/* ---- IDX ---- */

static bool parse_idx(const char *name, size_t length, raw *r)
{
    const uint8_t *b = (const uint8_t *)r->block;
    if (length < 4 || b[0] || b[1] || b[2] != UINT8 || b[3] < 1 || b[3] > 4 || length < 4 + 4 * (size_t)b[3])
        return damaged(name, "found no IDX header of unsigned bytes in one to four dimensions");
    r->ndim = b[3];
    r->item = 1;
    r->kind = 'u';
    for (int i = 0; i < r->ndim; i++)
        r->shape[i] = (int64_t)b[4 + 4 * i] << 24 | b[5 + 4 * i] << 16 | b[6 + 4 * i] << 8 | b[7 + 4 * i];
    r->data = b + 4 + 4 * r->ndim;
    return fits(name, r, length - 4 - 4 * (size_t)r->ndim);
}

/* ---- NPY: numpy.lib.format ---- */

/* The header is a Python dict: {'descr': '|u1', 'fortran_order': False, 'shape': (2, 28, 28), }. */
static bool parse_npy_header(const char *name, const char *header, raw *r)
{
    const char *descr = strstr(header, "'descr'"), *order = strstr(header, "'fortran_order'"), *shape = strstr(header, "'shape'");
    descr = descr ? strpbrk(descr + 7, "'\"") : NULL;
    shape = shape ? strchr(shape, '(') : NULL;
    if (!descr || !order || !shape || !strchr("|<=", descr[1]) || !descr[1] || !strchr("uib", descr[2]) || !descr[2])
        return damaged(name, "expected an array of whole numbers, little-endian");
    r->kind = descr[2];
    r->item = (int)strtol(descr + 3, NULL, 10);
    if (r->item != 1 && r->item != 2 && r->item != 4 && r->item != 8)
        return damaged(name, "expected items of 1, 2, 4 or 8 bytes");
    const char *value = order + 15 + strspn(order + 15, ": ");
    if (strncmp(value, "False", 5) != 0)
        return damaged(name, "found an array in Fortran's order, expected C's");
    char *at = (char *)shape + 1;
    for (r->ndim = 0; *at && *at != ')'; r->ndim++) {
        char *end;
        long long size = strtoll(at, &end, 10);
        if (end == at || r->ndim == 4 || size < 0)
            return damaged(name, "found a shape that is not one of up to four dimensions");
        r->shape[r->ndim] = size;
        at = end + strspn(end, ", ");
    }
    return true;
}

static bool parse_npy(const char *name, size_t length, raw *r)
{
    const uint8_t *b = (const uint8_t *)r->block;
    if (length < 12 || memcmp(b, "\x93NUMPY", 6) != 0 || b[6] < 1 || b[6] > 3)
        return damaged(name, "found no header of NumPy's");
    size_t start = b[6] == 1 ? 10 : 12, size = (size_t)b[8] | (size_t)b[9] << 8;
    if (b[6] > 1)
        size |= (size_t)b[10] << 16 | (size_t)b[11] << 24;
    if (size > length - start || size > 1 << 16)
        return damaged(name, "found a header that is longer than the file");
    char *header = cb_strndup((const char *)b + start, size);
    bool ok = header && parse_npy_header(name, header, r);
    cb_free(header);
    r->data = b + start + size;
    return ok && fits(name, r, length - start - size);
}

/* ---- images and labels ---- */

static bool read_raw(const char *path, const char *member, bool numpy, raw *r)
{
    size_t length;
    char *name = member ? cb_format("%s: %s", path, member) : cb_strdup(path);
    *r = (raw){0};
    r->block = name ? cb_archive_read(path, member, most_bytes, &length) : NULL;
    bool ok = r->block && (numpy ? parse_npy(name, length, r) : parse_idx(name, length, r));
    cb_free(name);
    if (!ok) {
        cb_free(r->block);
        r->block = NULL;
    }
    return ok;
}

static int64_t value_at(const raw *r, int64_t i)
{
    uint64_t value = 0;
    for (int b = 0; b < r->item; b++)
        value |= (uint64_t)r->data[i * r->item + b] << (8 * b);
    unsigned unused = 64 - 8 * (unsigned)r->item;
    return r->kind == 'i' ? (int64_t)(value << unused) >> unused : (int64_t)value;
}

/* (N, height, width) or (N, height, width, 1 or 3) of bytes; labels (N) or (N, 1). */
static bool check(const char *path, const raw *images, const raw *labels)
{
    int64_t n = images->shape[0];
    if (images->ndim < 3 || images->item != 1 || images->kind != 'u' || !n || !images->shape[1] || !images->shape[2] ||
        (images->ndim == 4 && images->shape[3] != 1 && images->shape[3] != 3))
        return damaged(path, "expected images as bytes (number, height, width) or (number, height, width, 1 or 3)");
    if (labels->ndim < 1 || labels->ndim > 2 || labels->shape[0] != n || (labels->ndim == 2 && labels->shape[1] != 1))
        return cb_fail(CB_ERR_FORMAT, "%s: found %lld labels of %d dimensions for %lld images, expected one for each", path,
                       (long long)labels->shape[0], labels->ndim, (long long)n) == CB_OK;
    return true;
}

/* Takes the images. */
static bool add_array(image_store *s, const raw *images)
{
    size_t bytes = 1;
    for (int i = 0; i < images->ndim; i++)
        bytes *= (size_t)images->shape[i];
    if (!cb_grow(&s->arrays, &s->array_capacity, s->array_count + 1, sizeof *s->arrays))
        return false;
    image_array a = {.count = images->shape[0], .height = images->shape[1], .width = images->shape[2]};
    a.channels = images->ndim == 4 ? (int)images->shape[3] : 1;
    a.pixels = cb_alloc(bytes);
    if (!a.pixels)
        return false;
    memcpy(a.pixels, images->data, bytes);
    s->arrays[s->array_count++] = a;
    return true;
}

static bool add(image_store *s, const char *path, const char *member, const raw *images, const raw *labels)
{
    if (!check(path, images, labels) || !add_array(s, images))
        return false;
    bool ok = true;
    for (int64_t i = 0; ok && i < images->shape[0]; i++) {
        char label[32];
        const image_item item = {
            .name = cb_format("%s:%s image %lld", path, member, (long long)i), .array = (int32_t)s->array_count - 1, .at = i};
        snprintf(label, sizeof label, "%lld", (long long)value_at(labels, i));
        ok = cb_image_store_add(s, item, label, strlen(label));
    }
    return ok;
}

static bool read_pair(image_store *s, const char *path, const char *images_member, const char *labels_path, const char *labels_member,
                      bool numpy)
{
    raw images, labels = {0};
    bool ok = read_raw(path, images_member, numpy, &images) && read_raw(labels_path, labels_member, numpy, &labels) &&
              add(s, path, images_member ? images_member : "", &images, &labels);
    cb_free(images.block);
    cb_free(labels.block);
    return ok;
}

static bool read_npz(image_store *s, const char *path, const char *split)
{
    char *images = cb_format("%s_images.npy", split), *labels = cb_format("%s_labels.npy", split);
    bool ok = images && labels && read_pair(s, path, images, path, labels, true);
    cb_free(images);
    cb_free(labels);
    return ok;
}

/* The name of the file of labels: "images" becomes "labels", and MNIST's idx3 idx1; NULL and no error: this is no name of images. */
static char *labels_name(const char *path)
{
    const char *at = NULL;
    for (const char *found = cb_path_base(path); (found = strstr(found, "images")); found++)
        at = found;
    if (!at)
        return NULL;
    const char *after = at + 6, *digit = strstr(after, "idx3");
    return digit ? cb_format("%.*slabels%.*sidx1%s", (int)(at - path), path, (int)(digit - after), after, digit + 4)
                 : cb_format("%.*slabels%s", (int)(at - path), path, after);
}

bool cb_image_arrays_is_name(const char *path)
{
    return cb_ends_with(path, ".npz") || cb_ends_with(path, ".npy") || strstr(cb_path_base(path), "ubyte") ||
           strstr(cb_path_base(path), ".idx");
}

bool cb_image_arrays_read(image_store *s, const char *path, const char *split)
{
    if (cb_ends_with(path, ".npz"))
        return read_npz(s, path, split && *split ? split : "train");
    char *labels = labels_name(path);
    if (!labels)
        return cb_ok() &&
               cb_fail(CB_ERR_FORMAT, "%s: expected a name with \"images\" in it, beside a file with \"labels\" there", path) == CB_OK;
    bool ok = read_pair(s, path, NULL, labels, NULL, cb_ends_with(path, ".npy"));
    cb_free(labels);
    return ok;
}
