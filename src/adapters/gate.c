/* gate.c: weights for the parts of a blend, one row a sample: from the number of its task, or from features of it.
 *
 *     task      softmax(w[task])            features     softmax(w x + b)          linear: without the softmax
 *
 * Petalface weighs two LoRAs by an image's quality, PSEC a library of skills by the state; mixtures keep the top k (no rescaling, as in
 * ModuleFormer).  Shape letters: B samples, N parts, C features. */
#include "adapters/gate.h"

#include <string.h>

#include "adapters/named.h"

struct cb_gate {
    cb_gate_options options;
    int64_t parts;
    cb_named_tensor list[2]; /* weight, bias */
    size_t count;
};

static bool add(cb_gate *gate, const char *name, int ndim, const int64_t *shape)
{
    cb_tensor *t = cb_full_nd(CB_F32, 0, ndim, shape);
    if (!t || !cb_parameter(t))
        return false;
    gate->list[gate->count++] = (cb_named_tensor){name, cb_keep(t)};
    return true;
}

cb_gate *cb_gate_new_with(size_t parts, cb_gate_options options)
{
    const int64_t most = INT64_C(1) << 24, n = (int64_t)parts;
    if (n < 1 || n > 65536 || options.size < 1 || options.size > most || options.top_k < 0 || options.top_k > n ||
        (options.linear && options.top_k))
        return cb_fail(CB_ERR_ARGUMENT,
                       "gate: %zu parts of %lld tasks or features, top_k %lld%s; expected at least one each, top_k of a softmax", parts,
                       (long long)options.size, (long long)options.top_k, options.linear ? " and linear" : ""),
               NULL;
    cb_gate *gate = cb_calloc(1, sizeof *gate);
    cb_scope *scope = gate ? cb_scope_open() : NULL;
    bool ok = scope;
    if (ok) {
        gate->options = options;
        gate->parts = n;
        bool task = options.input == CB_GATE_TASK;
        const int64_t shape[] = {task ? options.size : n, task ? n : options.size};
        ok = add(gate, "weight", 2, shape) && (task || add(gate, "bias", 1, &n));
        cb_scope_close(scope);
    }
    if (ok)
        return gate;
    cb_gate_free(gate);
    return NULL;
}

void cb_gate_free(cb_gate *gate)
{
    if (!gate)
        return;
    for (size_t i = 0; i < gate->count; i++)
        cb_release(gate->list[i].tensor);
    cb_free(gate);
}

const cb_gate_options *cb_gate_options_of(const cb_gate *gate)
{
    return &gate->options;
}

size_t cb_gate_parameters(const cb_gate *gate, const cb_named_tensor **list)
{
    *list = gate->list;
    return gate->count;
}

cb_tensor *cb_keep_largest(cb_tensor *p, int64_t k)
{
    cb_tensor *values, *indices;
    if (!p || !cb_topk(p, k, 1, true, &values, &indices))
        return NULL;
    return cb_scatter_add(cb_zeros_like(p), 1, indices, values);
}

cb_tensor *cb_gate_weights(const cb_gate *gate, cb_tensor *input)
{
    bool task = gate->options.input == CB_GATE_TASK;
    if (!input)
        return NULL;
    if (input->ndim != (task ? 1 : 2) || (task ? input->dtype != CB_I32 : input->dtype != CB_F32 || input->shape[1] != gate->options.size))
        return cb_fail(CB_ERR_SHAPE, "gate: input is %s, expected %s", cb_shape_text(input),
                       task ? "i32 (B): numbers of tasks" : "f32 (B, C) of the gate's C"),
               NULL;
    cb_tensor *logits = task ? cb_embedding(gate->list[0].tensor, input) : cb_linear(input, gate->list[0].tensor, gate->list[1].tensor);
    if (gate->options.linear)
        return logits;
    cb_tensor *p = cb_softmax(logits, 1);
    return gate->options.top_k ? cb_keep_largest(p, gate->options.top_k) : p;
}

/* ---- on disk ---- */

json_t *cb_gate_json(const cb_gate *gate)
{
    return json_pack("{s:s, s:I, s:b, s:I}", "input", gate->options.input == CB_GATE_TASK ? "task" : "features", "size",
                     (json_int_t)gate->options.size, "linear", gate->options.linear, "top_k", (json_int_t)gate->options.top_k);
}

bool cb_gate_write(const cb_gate *gate, const char *path)
{
    return cb_named_write(path, gate->list, gate->count);
}

cb_gate *cb_gate_read(const char *file, const json_t *json, const char *path, size_t parts)
{
    const char *input = json_string_value(json_object_get(json, "input"));
    bool task = input && strcmp(input, "task") == 0;
    if (!input || (!task && strcmp(input, "features") != 0))
        return cb_fail(CB_ERR_FORMAT, "%s: gate: input is %s, expected task or features", file, input ? input : "no string"), NULL;
    cb_gate *gate =
        cb_gate_new(parts, .input = task ? CB_GATE_TASK : CB_GATE_FEATURES, .size = json_integer_value(json_object_get(json, "size")),
                    .linear = json_is_true(json_object_get(json, "linear")), .top_k = json_integer_value(json_object_get(json, "top_k")));
    if (!gate)
        cb_error_prefix("%s: ", file);
    if (gate && cb_named_read(path, gate->list, gate->count))
        return gate;
    cb_gate_free(gate);
    return NULL;
}
