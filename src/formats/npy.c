/* npy.c: NumPy's array files, version 1.0: a magic, a header that is a Python dict padded to 64 bytes, then the values. */
#include <stdio.h>

#include "cambium/formats.h"

bool cb_npy_write(const char *path, const float *values, int ndim, const int64_t *shape)
{
    enum { PREFIX = 10, ALIGNMENT = 64 };
    char header[256];
    size_t count = 1;
    int length = snprintf(header, sizeof header, "{'descr': '<f4', 'fortran_order': False, 'shape': (");
    for (int i = 0; i < ndim && i < CB_NPY_DIMS; i++) {
        length +=
            snprintf(header + length, sizeof header - (size_t)length, "%s%lld%s", i ? ", " : "", (long long)shape[i], ndim == 1 ? "," : "");
        count *= (size_t)shape[i];
    }
    length += snprintf(header + length, sizeof header - (size_t)length, "), }");
    while ((PREFIX + length + 1) % ALIGNMENT)
        header[length++] = ' ';
    header[length++] = '\n';
    const uint8_t prefix[PREFIX] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (uint8_t)(length & 0xff), (uint8_t)(length >> 8)};
    cb_writer *w = cb_writer_open(path);
    if (!w)
        return false;
    if (cb_writer_write(w, prefix, PREFIX) && cb_writer_write(w, header, (size_t)length) &&
        cb_writer_values(w, values, count * sizeof *values))
        return cb_writer_commit(w);
    cb_writer_abort(w);
    return false;
}
