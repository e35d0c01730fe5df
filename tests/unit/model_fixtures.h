/* model_fixtures.h: what the tests of models and generation share: the reference models, what transformers computed
 * with them, and model directories made by changing a reference's config.json. */
#ifndef MODEL_FIXTURES_H
#define MODEL_FIXTURES_H

/* cmocka.h wants these before it */
/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cambium/formats.h"
#include "cambium/models.h"

#define assert_ok()                                                                                                                        \
    do {                                                                                                                                   \
        if (!cb_ok())                                                                                                                      \
            fail_msg("%s", cb_error_message());                                                                                            \
    } while (0)

static const char *const reference_models[] = {"llama2",          "llama3", "mistral",       "qwen2",
                                               "qwen3",           "smollm", "llama_sharded", "llama_linear_rope",
                                               "llama_yarn_rope", "gpt2",   "llama_biases",  "gpt2_scaled"};
#define REFERENCE_COUNT (sizeof reference_models / sizeof *reference_models)

/* A reference model with what was computed from it. */
typedef struct fixture {
    cb_scope *scope;
    cb_model *model;
    cb_safetensors *expected;
    cb_tensor *ids; /* (2, 17) i32 */
} fixture;

/* A test that failed must not fail those after it. */
static inline int without_errors(void **state)
{
    (void)state;
    cb_error_clear();
    return 0;
}

/* a few at a time */
static inline const char *model_path(const char *name)
{
    static char ring[4][512];
    static unsigned turn;
    char *path = ring[turn++ % 4];
    snprintf(path, sizeof ring[0], "%s/models/%s", CB_TEST_DATA, name);
    return path;
}

static inline cb_tensor *expected_tensor(const fixture *f, const char *name)
{
    const cb_weight_entry *entry = cb_safetensors_find(f->expected, name);
    if (!entry)
        fail_msg("expected.safetensors has no %s", name);
    cb_tensor *t = cb_from_nd(entry->dtype, entry->data, entry->ndim, entry->shape);
    assert_ok();
    assert_non_null(t);
    return t;
}

static inline cb_tensor *as_i32(cb_tensor *t)
{
    cb_tensor *out = cb_empty_nd(CB_I32, t->ndim, t->shape);
    assert_true(cb_copy_into(out, t));
    return out;
}

static inline fixture fixture_open_with(const char *name, const char *directory, cb_dtype dtype)
{
    char path[600];
    fixture f = {.scope = cb_scope_open()};
    f.model = cb_model_load(directory, .dtype = dtype);
    assert_ok();
    assert_non_null(f.model);
    snprintf(path, sizeof path, "%s/expected.safetensors", model_path(name));
    f.expected = cb_safetensors_open(path);
    assert_ok();
    f.ids = as_i32(expected_tensor(&f, "input_ids"));
    return f;
}

static inline fixture fixture_open(const char *name)
{
    return fixture_open_with(name, model_path(name), CB_F32);
}

static inline void fixture_close(fixture *f)
{
    cb_scope_close(f->scope);
    cb_model_free(f->model);
    cb_safetensors_close(f->expected);
    assert_ok();
}

/* The largest difference over the largest expected value. */
static inline double relative_difference(const cb_tensor *found, const cb_tensor *expected)
{
    assert_non_null(found);
    assert_true(cb_same_shape(found, expected));
    double most = 0, scale = 0;
    for (int64_t i = 0; i < expected->count; i++) {
        double e = cb_get(expected, i), d = fabs(cb_get(found, i) - e);
        most = d > most || isnan(d) ? d : most;
        scale = fmax(scale, fabs(e));
    }
    return scale > 0 ? most / scale : most;
}

static inline void assert_close(const char *what, const cb_tensor *found, const cb_tensor *expected, double tolerance)
{
    assert_ok();
    double difference = relative_difference(found, expected);
    if (!(difference <= tolerance))
        fail_msg("%s differs by %g, allowed %g", what, difference, tolerance);
}

/* ---- gradients of every parameter ---- */

typedef void gradient_visit(fixture *f, const char *key, cb_layer *layer, const char *weight);

/* Visits the weights that expected.safetensors has something of under names that begin with `prefix`; returns how many. */
static inline size_t each_gradient(fixture *f, const char *prefix, gradient_visit *visit)
{
    size_t count = 0, skip = strlen(prefix);
    for (size_t i = 0; i < cb_safetensors_count(f->expected); i++) {
        const char *key = cb_safetensors_at(f->expected, i)->name;
        if (strncmp(key, prefix, skip) != 0)
            continue;
        const char *weight;
        cb_layer *tree = cb_model_root(f->model), *layer = cb_layer_of_tensor(tree, key + skip, &weight);
        layer = layer || strchr(key + skip, '.') ? layer : tree;
        if (!layer)
            fail_msg("there is no layer of %s", key + skip);
        while (layer && !cb_layer_own_weight(layer, weight)) /* shared weights go by the name of either layer */
            layer = layer->bias_at && !strcmp(weight, "bias") ? layer->bias_at : layer->tied;
        if (!layer)
            fail_msg("no layer has %s", key + skip);
        visit(f, key, layer, cb_layer_own_weight(layer, weight)->name);
        count++;
    }
    return count;
}

static inline void make_trainable(fixture *f, const char *key, cb_layer *layer, const char *weight)
{
    (void)f, (void)key;
    assert_true(cb_layer_train_copy(layer, weight, CB_F32, true));
}

static inline void compare_gradient(fixture *f, const char *key, cb_layer *layer, const char *weight)
{
    cb_tensor *expected = expected_tensor(f, key), *grad = cb_layer_weight(layer, weight)->grad;
    double most = 0;
    for (int64_t i = 0; i < expected->count; i++)
        most = fmax(most, fabs(cb_get(expected, i)));
    if (most > 1e-6) /* a key's bias changes no softmax: what is there is rounding */
        assert_close(key, grad, expected, 1e-4);
}

/* A new directory with the tensors of the model in `source` (by links) and its config.json changed: the members of
 * `changes`, JSON text, replace or, when null, remove. */
static inline char *changed_model_at(const char *source, const char *changes)
{
    char *directory = strdup("/tmp/cambium-test-XXXXXX");
    assert_non_null(mkdtemp(directory));
    cb_string_list names = {0};
    assert_true(cb_directory_list(source, false, &names));
    for (size_t i = 0; i < names.count; i++) {
        char from[1024], to[1024];
        snprintf(from, sizeof from, "%s/%s", source, names.items[i]);
        snprintf(to, sizeof to, "%s/%s", directory, names.items[i]);
        if (!strncmp(names.items[i], "model", 5) || !strncmp(names.items[i], "diffusion", 9)) {
            char *real = realpath(from, NULL);
            assert_non_null(real);
            assert_int_equal(symlink(real, to), 0);
            free(real);
        }
    }
    cb_string_list_free(&names);
    char path[1024];
    snprintf(path, sizeof path, "%s/config.json", source);
    json_t *config = json_load_file(path, 0, NULL), *change = json_loads(changes, 0, NULL), *value;
    assert_non_null(config);
    assert_non_null(change);
    const char *key;
    json_object_foreach(change, key, value)
    {
        if (json_is_null(value))
            json_object_del(config, key);
        else
            json_object_set(config, key, value);
    }
    snprintf(path, sizeof path, "%s/config.json", directory);
    assert_int_equal(json_dump_file(config, path, 0), 0);
    json_decref(config);
    json_decref(change);
    return directory;
}

/* The same of a reference model. */
static inline char *changed_model(const char *name, const char *changes)
{
    return changed_model_at(model_path(name), changes);
}

static inline void remove_model(char *directory)
{
    cb_string_list names = {0};
    assert_true(cb_directory_list(directory, false, &names));
    for (size_t i = 0; i < names.count; i++) {
        char path[1024];
        snprintf(path, sizeof path, "%s/%s", directory, names.items[i]);
        unlink(path);
    }
    cb_string_list_free(&names);
    static const char *const links[] = {"model.safetensors",
                                        "diffusion_pytorch_model.safetensors"}; /* a list of regular files may leave links out */
    for (size_t i = 0; i < sizeof links / sizeof *links; i++) {
        char path[1024];
        snprintf(path, sizeof path, "%s/%s", directory, links[i]);
        unlink(path);
    }
    rmdir(directory);
    free(directory);
}

#endif
