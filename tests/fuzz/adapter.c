/* adapter.c: an adapter_config.json beside good weights, for a model that they fit. */
#include <stdlib.h>

#include "cambium/adapters.h"
#include "cambium/models.h"
#include "fuzz.h"

#define REFERENCE "tests/reference/"

void fuzz_target(const uint8_t *data, size_t size)
{
    static cb_model *model;
    if (!model) {
        fuzz_link("adapter/adapter_model.safetensors", REFERENCE "adapters/lora_qv/adapter_model.safetensors");
        model = cb_model_load(CB_SOURCE_DIR "/" REFERENCE "models/llama2");
        if (!model)
            abort();
    }
    fuzz_file("adapter/adapter_config.json", data, size);
    cb_adapter *adapter = cb_adapter_load(fuzz_path("adapter"), cb_model_root(model), cb_model_type(model));
    if (fuzz_expect(adapter)) {
        char *json = cb_adapter_json(adapter);
        fuzz_expect(json);
        cb_free(json);
    }
    cb_adapter_free(adapter);
}
