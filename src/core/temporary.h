/* temporary.h: the names that outputs have while they are made. */
#ifndef CB_CORE_TEMPORARY_H
#define CB_CORE_TEMPORARY_H

#include "cambium/core.h"

/* A name beside `path` that nobody else has, ".BASE.tmp-PROCESS-SERIAL"; what killed processes left of the same BASE is removed on the
 * way.  Free with cb_free(). */
char *cb_temporary_name(const char *path);
/* Whether a path has such a name of this process, or lies in a directory that has. */
bool cb_is_temporary(const char *path);

#endif
