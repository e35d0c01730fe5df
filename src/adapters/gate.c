/* gate.c: weights for the parts of a blend, one row a sample: from the number of its task, or from features of it.
 *
 *     task      softmax(w[task])            features     softmax(w h + b)          linear: without the softmax
 *
 * with h the features, or what hidden layers make of them.  PSEC (Liu et al. 2025, arXiv:2502.05932) weighs a library of skills by the state,
 * W(s) = W0 + sum of a_i(s) B_i A_i with a linear gate behind two hidden layers; mixtures keep the top k (no rescaling, as in ModuleFormer).
 * Shape letters: B samples, N parts, C features, H the hidden width. */
#include "adapters/gate.h"

#include <math.h>
#include <string.h>

#include "adapters/named.h"

enum { MOST_HIDDEN = 8 };

struct cb_gate {
    cb_gate_options options;
    int64_t parts;
    cb_named_tensor list[2 * MOST_HIDDEN + 2]; /* weight and bias of each hidden layer, then of the outputs; by task: weight */
    size_t count;
    const cb_named_file *from; /* while it is made: the file that it is read from, or NULL */
};

static bool add(cb_gate *gate, const char *name, double value, int ndim, const int64_t *shape)
{
    if (!cb_named_has(gate->from, name, ndim, shape))
        return false;
    cb_tensor *t = cb_full_nd(CB_F32, value, ndim, shape);
    if (!t || !cb_parameter(t))
        return false;
    gate->list[gate->count++] = (cb_named_tensor){name, cb_keep(t)};
    return true;
}

/* One layer from `in` to `out`. */
static bool add_hidden(cb_gate *gate, int layer, int64_t in, int64_t out)
{
    static const char *const names[MOST_HIDDEN][2] = {{"hidden.0.weight", "hidden.0.bias"}, {"hidden.1.weight", "hidden.1.bias"},
                                                      {"hidden.2.weight", "hidden.2.bias"}, {"hidden.3.weight", "hidden.3.bias"},
                                                      {"hidden.4.weight", "hidden.4.bias"}, {"hidden.5.weight", "hidden.5.bias"},
                                                      {"hidden.6.weight", "hidden.6.bias"}, {"hidden.7.weight", "hidden.7.bias"}};
    for (int part = 0; part < 2; part++) {
        const int64_t shape[] = {out, in};
        cb_rng rng = {.seed = gate->options.seed, .stream = cb_hash_text(CB_HASH_START, names[layer][part])};
        if (!add(gate, names[layer][part], 0, 2 - part, shape) ||
            !cb_init_uniform(gate->list[gate->count - 1].tensor, rng, 1 / sqrt((double)in)))
            return false;
    }
    return true;
}

static bool add_layers(cb_gate *gate)
{
    const cb_gate_options *o = &gate->options;
    int64_t width = o->size, n = gate->parts;
    if (o->input == CB_GATE_TASK)
        return add(gate, "weight", o->start, CB_SHAPE(o->size, n));
    for (int i = 0; o->hidden && i < o->hidden_layers; i++, width = o->hidden)
        if (!add_hidden(gate, i, width, o->hidden))
            return false;
    return add(gate, "weight", 0, CB_SHAPE(n, width)) && add(gate, "bias", o->start, CB_SHAPE(n));
}

static bool check_options(size_t parts, const cb_gate_options *o)
{
    const int64_t most = INT64_C(1) << 24;
    if (parts < 1 || parts > 65536 || o->size < 1 || o->size > most || o->top_k < 0 || o->top_k > (int64_t)parts || (o->linear && o->top_k))
        return cb_fail(CB_ERR_ARGUMENT,
                       "gate: %zu parts of %lld tasks or features, top_k %lld%s; expected at least one each, top_k of a softmax", parts,
                       (long long)o->size, (long long)o->top_k, o->linear ? " and linear" : "") == CB_OK;
    bool hidden = o->hidden || o->hidden_layers;
    return (o->hidden >= 0 && o->hidden <= 65536 && o->hidden_layers >= 0 && o->hidden_layers <= MOST_HIDDEN && isfinite(o->start) &&
            !(hidden && (!o->hidden || o->input == CB_GATE_TASK))) ||
           cb_fail(CB_ERR_ARGUMENT, "gate: %lld hidden layers of width %lld%s; expected at most %d, of a width, behind features",
                   (long long)o->hidden_layers, (long long)o->hidden, o->input == CB_GATE_TASK ? " behind tasks" : "",
                   MOST_HIDDEN) == CB_OK;
}

static cb_gate *make(size_t parts, cb_gate_options options, const cb_named_file *from)
{
    if (!check_options(parts, &options))
        return NULL;
    cb_gate *gate = cb_calloc(1, sizeof *gate);
    cb_scope *scope = gate ? cb_scope_open() : NULL;
    bool ok = scope;
    if (ok) {
        gate->options = options;
        gate->options.hidden_layers = options.hidden && !options.hidden_layers ? 1 : options.hidden_layers;
        gate->parts = (int64_t)parts;
        gate->from = from;
        ok = add_layers(gate) && (!from || cb_named_read(from, gate->list, gate->count));
        gate->from = NULL;
        cb_scope_close(scope);
    }
    if (ok)
        return gate;
    cb_gate_free(gate);
    return NULL;
}

cb_gate *cb_gate_new_with(size_t parts, cb_gate_options options)
{
    return make(parts, options, NULL);
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
    size_t i = 0;
    for (; i + 2 < gate->count; i += 2)
        input = cb_relu(cb_linear(input, gate->list[i].tensor, gate->list[i + 1].tensor));
    cb_tensor *logits = task ? cb_embedding(gate->list[0].tensor, input) : cb_linear(input, gate->list[i].tensor, gate->list[i + 1].tensor);
    if (gate->options.linear)
        return logits;
    cb_tensor *p = cb_softmax(logits, 1);
    return gate->options.top_k ? cb_keep_largest(p, gate->options.top_k) : p;
}

/* ---- on disk ---- */

json_t *cb_gate_json(const cb_gate *gate)
{
    const cb_gate_options *o = &gate->options;
    return json_pack("{s:s, s:I, s:b, s:I, s:I, s:I}", "input", o->input == CB_GATE_TASK ? "task" : "features", "size", (json_int_t)o->size,
                     "linear", o->linear, "top_k", (json_int_t)o->top_k, "hidden", (json_int_t)o->hidden, "hidden_layers",
                     (json_int_t)o->hidden_layers);
}

bool cb_gate_write(const cb_gate *gate, const char *path)
{
    return cb_named_write(path, gate->list, gate->count);
}

/* What the JSON says; a field that is not there holds its default. */
static bool read_options(cb_gate_options *o, const char *file, const json_t *json)
{
    static const char *const fields[] = {"input", "size", "linear", "top_k", "hidden", "hidden_layers", NULL};
    if (!cb_json_only(file, json, fields))
        return false;
    const char *input = cb_json_string(file, json, "input", "");
    bool task = strcmp(input, "task") == 0;
    *o = (cb_gate_options){.input = task ? CB_GATE_TASK : CB_GATE_FEATURES,
                           .size = cb_json_int(file, json, "size", 0),
                           .linear = cb_json_bool(file, json, "linear", false),
                           .top_k = cb_json_int(file, json, "top_k", 0),
                           .hidden = cb_json_int(file, json, "hidden", 0),
                           .hidden_layers = cb_json_int(file, json, "hidden_layers", 0)};
    return cb_ok() &&
           (task || strcmp(input, "features") == 0 ||
            cb_fail(CB_ERR_FORMAT, "%s: input is %.40s, expected task or features", file, *input ? input : "no string") == CB_OK);
}

cb_gate *cb_gate_read(const char *file, const json_t *json, const char *path, size_t parts)
{
    cb_gate_options options;
    char *where = cb_format("%s: gate", file);
    cb_named_file from = {0};
    bool ok = where && read_options(&options, where, json);
    if (ok && !check_options(parts, &options)) {
        cb_error_prefix("%s", file);
        ok = false;
    }
    cb_gate *gate = ok && cb_named_open(&from, path) ? make(parts, options, &from) : NULL;
    cb_named_close(&from);
    cb_free(where);
    return gate;
}
