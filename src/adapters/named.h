/* named.h: a list of named f32 tensors as a file of its own: what a gate or a mixer has learned. */
#ifndef CB_ADAPTERS_NAMED_H
#define CB_ADAPTERS_NAMED_H

#include "cambium/adapters.h"

bool cb_named_write(const char *path, const cb_named_tensor *list, size_t count);
/* Fills the tensors of the list, each of which the file must hold in its shape. */
bool cb_named_read(const char *path, const cb_named_tensor *list, size_t count);

#endif
