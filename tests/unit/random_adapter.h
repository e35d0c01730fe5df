/* random_adapter.h: an attached LoRA whose every parameter is random, so that it does something. */
#ifndef RANDOM_ADAPTER_H
#define RANDOM_ADAPTER_H

#include "cambium/adapters.h"
#include "model_fixtures.h"

static inline cb_adapter *random_adapter(cb_model *model, const char *options, uint64_t seed)
{
    cb_adapter *adapter = cb_adapter_new("lora", NULL);
    assert_true(cb_adapter_set_json(adapter, "options", options));
    assert_true(cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), seed));
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list);
    for (size_t i = 0; i < count; i++) {
        cb_rng rng = {.seed = seed, .stream = i};
        for (int64_t k = 0; k < list[i].tensor->count; k++)
            ((float *)list[i].tensor->data)[k] += 0.1f * (float)cb_rng_normal(&rng);
    }
    assert_ok();
    return adapter;
}

#endif
