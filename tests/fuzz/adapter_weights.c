/* adapter_weights.c: adapter_model.safetensors beside a good adapter_config.json, for a model that it fits; adapter_model.bin where the bytes
 * are those of an archive.  The model runs with what is read, and it is written. */
#include <stdlib.h>
#include <string.h>

#include "cambium/adapters.h"
#include "cambium/models.h"
#include "fuzz.h"

#define REFERENCE "tests/reference/"

void fuzz_target(const uint8_t *data, size_t size)
{
    static cb_model *model;
    if (!model) {
        fuzz_link("plain/adapter_config.json", REFERENCE "adapters/lora_qv/adapter_config.json");
        fuzz_link("packed/adapter_config.json", REFERENCE "adapters/lora_qv/adapter_config.json");
        model = cb_model_load(CB_SOURCE_DIR "/" REFERENCE "models/llama2");
        if (!model)
            abort();
    }
    bool packed = size > 4 && memcmp(data, "PK\3\4", 4) == 0;
    fuzz_file(packed ? "packed/adapter_model.bin" : "plain/adapter_model.safetensors", data, size);
    cb_adapter *adapter = cb_adapter_load(fuzz_path(packed ? "packed" : "plain"), cb_model_root(model), cb_model_type(model));
    if (fuzz_expect(adapter)) {
        fuzz_expect(fuzz_pass(model));
        const cb_named_tensor *list;
        size_t count = cb_adapter_parameters(adapter, &list);
        for (size_t i = 0; i < count; i++) { /* in place: as training does */
            fuzz_touch(list[i].tensor->data, (size_t)list[i].tensor->count * sizeof(float));
            memset(list[i].tensor->data, 0, (size_t)list[i].tensor->count * sizeof(float));
        }
        fuzz_expect(cb_adapter_save(adapter, fuzz_path("written"), NULL));
    }
    cb_adapter_free(adapter);
}
