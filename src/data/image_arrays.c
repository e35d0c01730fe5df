/* image_arrays.c: images in files of arrays: IDX (MNIST's: http://yann.lecun.com/exdb/mnist) with the labels in a file beside it, NumPy's .npy likewise,
 * and .npz of both (MedMNIST: train_images, train_labels, val_..., test_...). */
#include <stdio.h>
#include <string.h>

#include "data/arrays.h"
#include "data/images.h"

enum { UINT8 = 8 }; /* IDX's type */

/* ---- IDX ---- */

static bool parse_idx(const char *name, size_t length, raw_array *r)
{
    const uint8_t *b = (const uint8_t *)r->block;
    if (length < 4 || b[0] || b[1] || b[2] != UINT8 || b[3] < 1 || b[3] > 4 || length < 4 + 4 * (size_t)b[3])
        return cb_array_fails(name, "found no IDX header of unsigned bytes in one to four dimensions");
    r->ndim = b[3];
    r->item = 1;
    r->kind = 'u';
    for (int i = 0; i < r->ndim; i++)
        r->shape[i] = (int64_t)b[4 + 4 * i] << 24 | b[5 + 4 * i] << 16 | b[6 + 4 * i] << 8 | b[7 + 4 * i];
    r->data = b + 4 + 4 * r->ndim;
    return cb_array_fits(name, r, length - 4 - 4 * (size_t)r->ndim);
}

/* ---- images and labels ---- */

static bool read_idx(const char *path, raw_array *r)
{
    size_t length;
    *r = (raw_array){0};
    r->block = cb_archive_read(path, NULL, CB_ARRAY_LIMIT, &length);
    if (r->block && parse_idx(path, length, r))
        return true;
    cb_free(r->block);
    r->block = NULL;
    return false;
}

static bool read_array(const char *path, const char *member, bool numpy, raw_array *r)
{
    return numpy ? cb_array_read_npy(path, member, r) : read_idx(path, r);
}

/* (N, height, width) or (N, height, width, 1 or 3) of bytes; labels (N) or (N, 1). */
static bool check(const char *path, const raw_array *images, const raw_array *labels)
{
    int64_t n = images->shape[0];
    if (images->ndim < 3 || images->item != 1 || images->kind != 'u' || !n || !images->shape[1] || !images->shape[2] ||
        (images->ndim == 4 && images->shape[3] != 1 && images->shape[3] != 3))
        return cb_array_fails(path, "expected images as bytes (number, height, width) or (number, height, width, 1 or 3)");
    if (!labels)
        return true;
    if (labels->kind == 'f')
        return cb_array_fails(path, "found labels that are no whole numbers");
    if (labels->ndim < 1 || labels->ndim > 2 || labels->shape[0] != n || (labels->ndim == 2 && labels->shape[1] != 1))
        return cb_fail(CB_ERR_FORMAT, "%s: found %lld labels of %d dimensions for %lld images, expected one for each", path,
                       (long long)labels->shape[0], labels->ndim, (long long)n) == CB_OK;
    return true;
}

/* Takes the images. */
static bool add_array(image_store *s, const raw_array *images)
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

static bool add(image_store *s, const char *path, const char *member, const raw_array *images, const raw_array *labels)
{
    if (!check(path, images, labels) || !add_array(s, images))
        return false;
    bool ok = true;
    for (int64_t i = 0; ok && i < images->shape[0]; i++) {
        char label[32];
        const image_item item = {
            .name = cb_format("%s:%s image %lld", path, member, (long long)i), .array = (int32_t)s->array_count - 1, .at = i};
        snprintf(label, sizeof label, "%lld", labels ? (long long)cb_array_integer(labels, i) : 0);
        ok = cb_image_store_add(s, item, label, strlen(label));
    }
    return ok;
}

static bool read_pair(image_store *s, const char *path, const char *images_member, const char *labels_path, const char *labels_member,
                      bool numpy)
{
    raw_array images, labels = {0};
    bool ok = read_array(path, images_member, numpy, &images) &&
              (s->unlabelled || read_array(labels_path, labels_member, numpy, &labels)) &&
              add(s, path, images_member ? images_member : "", &images, s->unlabelled ? NULL : &labels);
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
    if (!labels && !s->unlabelled)
        return cb_ok() &&
               cb_fail(CB_ERR_FORMAT, "%s: expected a name with \"images\" in it, beside a file with \"labels\" there", path) == CB_OK;
    bool ok = read_pair(s, path, NULL, labels, NULL, cb_ends_with(path, ".npy"));
    cb_free(labels);
    return ok;
}
