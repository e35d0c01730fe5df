/* archive.h: what the readers of archives share. */
#ifndef CB_DATA_ARCHIVE_H
#define CB_DATA_ARCHIVE_H

#include <archive.h>

/* gzip, bzip2, xz and zstd; not those of libarchive's that a file's first bytes would start other programs for. */
void cb_archive_support_filters(struct archive *a);

#endif
