/* safetensors.c: a file of the format; every name is found again and every byte of a tensor may be read. */
#include <stdlib.h>

#include "cambium/formats.h"
#include "fuzz.h"

void fuzz_target(const uint8_t *data, size_t size)
{
    cb_safetensors *file = cb_safetensors_open(fuzz_file("model.safetensors", data, size));
    if (!fuzz_expect(file))
        return;
    for (size_t i = 0; i < cb_safetensors_count(file); i++) {
        const cb_weight_entry *entry = cb_safetensors_at(file, i);
        if (cb_safetensors_find(file, entry->name) != entry)
            abort();
        fuzz_touch(entry->data, entry->size);
    }
    cb_safetensors_metadata(file, "format");
    cb_safetensors_close(file);
}
