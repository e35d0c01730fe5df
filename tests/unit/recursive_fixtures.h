/* recursive_fixtures.h: recursive models with and without a relaxation, made of the reference models. */
#ifndef RECURSIVE_FIXTURES_H
#define RECURSIVE_FIXTURES_H

#include "cambium/adapters.h"
#include "cambium/methods.h"
#include "text_fixtures.h"

enum { PROMPT = 5 };

typedef struct recursive {
    cb_model *model;
    cb_adapter *relaxation;
    int32_t prompt[PROMPT];
} recursive;

static inline recursive open_recursive(const char *name, int64_t shared, int64_t rank)
{
    static int count;
    recursive r = {0};
    char path[700];
    cb_tie_options o = {0};
    assert_true(cb_options_init(cb_tie_option_table, &o));
    o.shared_layers = shared;
    o.start = CB_TIE_AVERAGE;
    o.rank = rank;
    snprintf(path, sizeof path, "%s/%d", scratch, ++count);
    assert_true(cb_tie_layers(model_path(name), path, &o));
    r.model = cb_model_load(path);
    snprintf(path, sizeof path, "%s/%d/relaxation", scratch, count);
    r.relaxation = rank ? cb_adapter_load(path, cb_model_root(r.model), cb_model_type(r.model)) : NULL;
    for (int i = 0; i < PROMPT; i++)
        r.prompt[i] = 3 + (i * 29) % 90;
    assert_ok();
    return r;
}

static inline void close_recursive(recursive *r)
{
    cb_adapter_free(r->relaxation);
    cb_model_free(r->model);
}

static const struct {
    const char *name;
    int64_t shared, rank; /* the models have three layers, gpt2 two */
} models[] = {{"llama3", 1, 0}, {"llama3", 1, 3}, {"llama3", 2, 3}, {"qwen3", 1, 0}, {"gpt2", 1, 2}};
enum { MODELS = sizeof models / sizeof *models };

#endif
