/* adapter_fixtures.h: what the tests of adapters share: reference models, adapters that PEFT made and what it computed with them, and
 * comparisons. */
#ifndef ADAPTER_FIXTURES_H
#define ADAPTER_FIXTURES_H

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

#include "cambium/adapters.h"
#include "cambium/formats.h"
#include "cambium/models.h"

static char scratch[] = "/tmp/cambium-adapters-XXXXXX";

#define assert_ok(condition)                                                                                                               \
    do {                                                                                                                                   \
        if (!(condition))                                                                                                                  \
            fail_msg("%s: %s", #condition, cb_error_message());                                                                            \
    } while (0)

/* The call failed with a message that has `text` in it; the error is cleared. */
static inline void assert_refused(bool failed, const char *text)
{
    if (!failed || !strstr(cb_error_message(), text))
        fail_msg("expected a refusal with '%s', found: %s", text, failed ? cb_error_message() : "success");
    cb_error_clear();
}

static inline cb_model *load_model(const char *name)
{
    char path[512];
    snprintf(path, sizeof(path), CB_TEST_DATA "/models/%s", name);
    cb_model *model = cb_model_load(path);
    assert_ok(model);
    return model;
}

static inline json_t *load_json(const char *format, const char *name)
{
    char path[512];
    snprintf(path, sizeof(path), format, name);
    json_t *json = json_load_file(path, 0, NULL);
    assert_non_null(json);
    return json;
}

static inline const char *reference_path(const char *name)
{
    static char path[512];
    snprintf(path, sizeof(path), CB_TEST_DATA "/adapters/%s", name);
    return path;
}

static inline const char *scratch_path(const char *name)
{
    static char path[4][512];
    static int next;
    char *p = path[next++ % 4];
    snprintf(p, sizeof(path[0]), "%s/%s", scratch, name);
    return p;
}

/* For cmocka_run_group_tests(): the directory of scratch_path(). */
static inline int make_scratch(void **state)
{
    (void)state;
    cb_error_clear();
    return mkdtemp(scratch) ? 0 : -1;
}

static inline int remove_scratch(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", scratch);
    return system(command);
}

/* ---- expected values ---- */

typedef struct expected {
    cb_safetensors *file;
} expected;

static inline expected expected_open(const char *name)
{
    char path[512];
    snprintf(path, sizeof(path), CB_TEST_DATA "/adapters/%s/expected.safetensors", name);
    expected e = {cb_safetensors_open(path)};
    assert_ok(e.file);
    return e;
}

static inline cb_tensor *entry_tensor(const cb_weight_entry *entry)
{
    return cb_from_nd(entry->dtype, entry->data, entry->ndim, entry->shape);
}

static inline cb_tensor *expected_tensor(const expected *e, const char *name)
{
    const cb_weight_entry *entry = cb_safetensors_find(e->file, name);
    if (!entry)
        fail_msg("no %s in expected.safetensors", name);
    return entry_tensor(entry);
}

/* labels (B, T) to targets: position t predicts label t + 1 */
static inline cb_tensor *targets_of(cb_tensor *labels)
{
    int64_t rows = labels->shape[0], length = labels->shape[1];
    int32_t *targets = calloc((size_t)labels->count, sizeof(*targets));
    for (int64_t b = 0; b < rows; b++)
        for (int64_t t = 0; t < length; t++)
            targets[b * length + t] = t + 1 < length ? (int32_t)cb_get(labels, b * length + t + 1) : -100;
    cb_tensor *y = cb_from(CB_I32, targets, rows, length);
    free(targets);
    return y;
}

static inline double largest(const cb_tensor *x)
{
    double top = 0;
    for (int64_t i = 0; i < x->count; i++)
        top = fmax(top, fabs(cb_get(x, i)));
    return top;
}

static inline double distance(const cb_tensor *a, const cb_tensor *b)
{
    double top = 0;
    if (!a || !b || !cb_same_shape(a, b))
        fail_msg("cannot compare %s and %s: %s", a ? cb_shape_text(a) : "NULL", b ? cb_shape_text(b) : "NULL", cb_error_message());
    for (int64_t i = 0; i < a->count; i++) {
        double d = fabs(cb_get(a, i) - cb_get(b, i));
        top = d > top || isnan(d) ? d : top;
    }
    return top;
}

static inline void assert_within(const cb_tensor *found, const cb_tensor *wanted, double tolerance, const char *what)
{
    double d = distance(found, wanted), top = largest(wanted);
    if (!(d <= tolerance * top))
        fail_msg("%s: differs by %g, largest value %g", what, d, top);
}

/* f32 sums in another order: 1e-5 of the largest value, and 1e-4 in all */
static inline void assert_close(const cb_tensor *found, const cb_tensor *wanted, const char *what)
{
    assert_within(found, wanted, 1e-5, what);
    assert_true(distance(found, wanted) <= 1e-4);
}

static inline cb_tensor *logits_in(cb_model *model, cb_tensor *ids, const cb_context *ctx)
{
    cb_tensor *y = NULL;
    cb_no_grad y = cb_model_logits(model, cb_cast(ids, CB_I32), ctx);
    assert_ok(y);
    return y;
}

static inline cb_tensor *logits_for(cb_model *model, cb_tensor *ids, cb_tensor *tasks)
{
    return logits_in(model, ids, &(cb_context){.tasks = tasks});
}

static inline cb_tensor *logits_of(cb_model *model, cb_tensor *ids)
{
    return logits_for(model, ids, NULL);
}

static inline cb_tensor *some_ids(void)
{
    int32_t ids[2][9];
    for (int i = 0; i < 18; i++)
        ids[i / 9][i % 9] = 3 + (i * 37) % 90;
    return cb_from(CB_I32, ids, 2, 9);
}

/* ---- adapters ---- */

static inline cb_model *load_base_of(const char *name)
{
    json_t *config = load_json(CB_TEST_DATA "/adapters/%s/adapter_config.json", name);
    cb_model *model = load_model(json_string_value(json_object_get(config, "base_model_name_or_path")));
    json_decref(config);
    return model;
}

/* A gradient that is a sum of terms that cancel is off by the rounding of those, which are as large as other gradients: one part in 2^23 of
 * the largest of all is let pass. */
static inline void check_gradients(const cb_adapter *adapter, const expected *e, double tolerance, const char *name)
{
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list), compared = 0;
    double most = 0;
    for (size_t i = 0; i < count; i++)
        most = list[i].tensor->grad ? fmax(most, largest(list[i].tensor->grad)) : most;
    for (size_t i = 0; i < count; i++) {
        char key[256];
        snprintf(key, sizeof(key), "grad.%s", list[i].name);
        const cb_weight_entry *entry = cb_safetensors_find(e->file, key);
        if (!entry)
            continue;
        assert_non_null(list[i].tensor->grad);
        cb_tensor *wanted = entry_tensor(entry);
        double d = distance(list[i].tensor->grad, wanted), top = largest(wanted);
        if (!(d <= tolerance * top + ldexp(most, -23)))
            fail_msg("%s: gradient of %s differs by %g, largest value %g", name, list[i].name, d, top);
        compared++;
    }
    assert_true(compared > 0);
}

/* Logits, loss and gradients of an adapter that PEFT made; `loose` times the tolerances. */
static inline void check_adapter(const char *name, double loose)
{
    cb_model *model = load_base_of(name);
    cb_scope *scope = cb_scope_open();
    expected e = expected_open(name);
    cb_adapter *adapter = cb_adapter_load(reference_path(name), cb_model_root(model), cb_model_type(model));
    assert_ok(adapter);
    cb_tensor *ids = cb_cast(expected_tensor(&e, "input_ids"), CB_I32);
    cb_context ctx = {.tasks = cb_safetensors_find(e.file, "task_ids") ? cb_cast(expected_tensor(&e, "task_ids"), CB_I32) : NULL,
                      .conditions = cb_safetensors_find(e.file, "conditions") ? expected_tensor(&e, "conditions") : NULL};
    assert_within(logits_in(model, ids, &ctx), expected_tensor(&e, "logits"), 1e-5 * loose, name);
    ctx.training = true;
    cb_tensor *loss = cb_model_loss(model, ids, targets_of(expected_tensor(&e, "labels")), 0, &ctx);
    cb_tensor *rest = cb_adapter_regulariser(adapter);
    loss = rest ? cb_add(loss, rest) : loss;
    assert_ok(loss);
    double wanted = cb_get(expected_tensor(&e, "loss"), 0);
    if (!(fabs(cb_item(loss) - wanted) < 1e-5 * loose * fabs(wanted)))
        fail_msg("%s: the loss is %g, expected %g", name, cb_item(loss), wanted);
    assert_ok(cb_backward(loss));
    check_gradients(adapter, &e, 1e-4 * loose, name);
    cb_scope_close(scope);
    cb_safetensors_close(e.file);
    cb_adapter_free(adapter);
    cb_model_free(model);
}

/* A fresh one; NULL when it is refused by the model. */
static inline cb_adapter *attempt(cb_model *model, const char *kind, const char *options, uint64_t seed)
{
    cb_adapter *adapter = cb_adapter_new(kind, NULL);
    assert_ok(adapter && cb_adapter_set_json(adapter, kind, options));
    if (cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), seed))
        return adapter;
    cb_adapter_free(adapter);
    return NULL;
}

static inline cb_adapter *made(cb_model *model, const char *kind, const char *options, uint64_t seed)
{
    cb_adapter *adapter = attempt(model, kind, options, seed);
    assert_ok(adapter);
    return adapter;
}

static inline cb_adapter *fresh(cb_model *model, const char *options, uint64_t seed)
{
    return made(model, "lora", options, seed);
}

static inline cb_tensor *parameter(const cb_adapter *adapter, const char *name)
{
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list);
    for (size_t i = 0; i < count; i++)
        if (strstr(list[i].name, name))
            return list[i].tensor;
    fail_msg("no parameter %s", name);
    return NULL;
}

static inline void randomise(const cb_adapter *adapter, uint64_t seed)
{
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list);
    for (size_t i = 0; i < count; i++) {
        cb_rng rng = {.seed = seed, .stream = i};
        for (int64_t k = 0; k < list[i].tensor->count; k++)
            ((float *)list[i].tensor->data)[k] += 0.1f * (float)cb_rng_normal(&rng);
    }
}

#endif
