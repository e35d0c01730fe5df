/* named.h: a list of named f32 tensors as a file of its own: what a gate or a mixer has learned. */
#ifndef CB_ADAPTERS_NAMED_H
#define CB_ADAPTERS_NAMED_H

#include "cambium/adapters.h"
#include "cambium/formats.h"

/* An open file of that sort; `path` names it in messages. */
typedef struct cb_named_file {
    const char *path;
    cb_safetensors *file;
} cb_named_file;

bool cb_named_write(const char *path, const cb_named_tensor *list, size_t count);
bool cb_named_open(cb_named_file *from, const char *path);
void cb_named_close(cb_named_file *from);
/* Whether the file holds a tensor of this name and shape: asked before memory for it is allocated.  from NULL: there is no file, true. */
bool cb_named_has(const cb_named_file *from, const char *name, int ndim, const int64_t *shape);
/* Fills the tensors of the list, which must be those of the file. */
bool cb_named_read(const cb_named_file *from, const cb_named_tensor *list, size_t count);

#endif
