/* index.c: the index of a sharded checkpoint, model.safetensors.index.json, beside four good shards. */
#include "cambium/formats.h"
#include "fuzz.h"

#define MODEL "tests/reference/models/llama_sharded/"

void fuzz_target(const uint8_t *data, size_t size)
{
    static bool linked;
    if (!linked) {
        fuzz_link("model/model-00001-of-00004.safetensors", MODEL "model-00001-of-00004.safetensors");
        fuzz_link("model/model-00002-of-00004.safetensors", MODEL "model-00002-of-00004.safetensors");
        fuzz_link("model/model-00003-of-00004.safetensors", MODEL "model-00003-of-00004.safetensors");
        fuzz_link("model/model-00004-of-00004.safetensors", MODEL "model-00004-of-00004.safetensors");
        linked = true;
    }
    fuzz_file("model/model.safetensors.index.json", data, size);
    cb_weights *weights = cb_weights_open(fuzz_path("model"));
    if (fuzz_expect(weights))
        for (size_t i = 0; i < cb_weights_count(weights); i++)
            fuzz_touch(cb_weights_at(weights, i)->data, cb_weights_at(weights, i)->size);
    cb_weights_close(weights);
}
