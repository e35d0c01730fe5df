/* domain_fixtures.h: what tests of adaptation to another domain share. */
#ifndef TEST_DOMAIN_FIXTURES_H
#define TEST_DOMAIN_FIXTURES_H

#include "text_fixtures.h"

/* Of the weights of a reference model and those written to the scratch directory, running statistics differ, each of them, and nothing else does. */
static inline void assert_only_statistics_moved(const char *model, const char *written)
{
    char before[512];
    snprintf(before, sizeof before, "%s/model.safetensors", model_path(model));
    cb_safetensors *a = cb_safetensors_open(before), *b = cb_safetensors_open(scratch_path(written));
    assert_ok();
    size_t moved = 0;
    for (size_t i = 0; i < cb_safetensors_count(a); i++) {
        const cb_weight_entry *x = cb_safetensors_at(a, i), *y = cb_safetensors_find(b, x->name);
        bool statistics = strstr(x->name, "running_") || strstr(x->name, "num_batches");
        if (!y || x->size != y->size || (memcmp(x->data, y->data, x->size) == 0) == statistics)
            fail_msg("%s", x->name);
        moved += statistics;
    }
    assert_true(moved > 0);
    cb_safetensors_close(a);
    cb_safetensors_close(b);
}

#endif
