/* torch.h: the reader of files that torch.save wrote. */
#ifndef CB_FORMATS_TORCH_H
#define CB_FORMATS_TORCH_H

#include "formats/entry_table.h"

/* A mapped file of either form: the zip archive (since PyTorch 1.6) or the pickles in a row before it.  Its tensors are the
 * entries, those of nested dicts and lists under the keys that lead to them, joined by dots; a tensor that is the whole
 * file has the name "".  Tensors lie in the file, except those whose elements are not in row-major order: these are copied.
 * What is no tensor is passed over. */
typedef struct cb_torch cb_torch;
cb_torch *cb_torch_open(const char *path);
void cb_torch_close(cb_torch *file); /* NULL is allowed */
const cb_entry_table *cb_torch_table(const cb_torch *file);

#endif
