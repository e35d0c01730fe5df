/* zip.h: the members of a zip archive that are stored as they are (PKWARE's APPNOTE 6.3, with zip64), where they lie in a
 * mapped file: the container of torch.save. */
#ifndef CB_FORMATS_ZIP_H
#define CB_FORMATS_ZIP_H

#include "cambium/core.h"

typedef struct cb_zip_member {
    const char *name; /* in the file, without a NUL after its name_length bytes */
    size_t name_length;
    const uint8_t *data;
    size_t size;
} cb_zip_member;

typedef struct cb_zip {
    cb_zip_member *members; /* sorted by name */
    size_t count, capacity;
} cb_zip;

/* Reads the directory of a mapped archive, which must outlive it.  Packed or encrypted members are CB_ERR_UNSUPPORTED. */
bool cb_zip_open(cb_zip *zip, const cb_file_map *file);
void cb_zip_close(cb_zip *zip);
/* NULL, and no error: there is none of that name. */
const cb_zip_member *cb_zip_find(const cb_zip *zip, const char *name, size_t name_length);

#endif
