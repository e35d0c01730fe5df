/* gate.h: a gate on disk: what blend.json says of it, and its file. */
#ifndef CB_ADAPTERS_GATE_H
#define CB_ADAPTERS_GATE_H

#include "adapters/internal.h"

#define CB_GATE_FILE "gate.safetensors"

/* p (rows, N) where it is among the k largest of its row, else 0. */
cb_tensor *cb_keep_largest(cb_tensor *p, int64_t k);
json_t *cb_gate_json(const cb_gate *gate);
bool cb_gate_write(const cb_gate *gate, const char *path);
/* Of `parts` outputs; `file` names the JSON in messages. */
cb_gate *cb_gate_read(const char *file, const json_t *json, const char *path, size_t parts);

#endif
