/* study.c: what is common to starts that are worked out beforehand: which layers there are, which of them are given the same input, and the
 * inputs themselves as a model runs.  See study.h. */
#include "adapters/study.h"

#include <string.h>

#include "adapters/tied.h"
#include "nn/watch.h"

static const cb_study_method *const methods[] = {&cb_study_eva, &cb_study_corda, &cb_study_loftq, &cb_study_residual};

const cb_study_method *cb_study_method_of(const cb_adapter *adapter)
{
    if (adapter->kind != &cb_kind_lora)
        return NULL;
    const char *start = ((const lora_config *)adapter->config)->init_weights;
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        if (strcmp(methods[i]->name, start) == 0)
            return methods[i];
    return NULL;
}

bool cb_adapter_needs_study(const cb_adapter *adapter)
{
    return cb_study_method_of(adapter) != NULL;
}

char *cb_study_options(const cb_adapter *adapter)
{
    char *own = cb_options_to_json(adapter->kind->options, adapter->config);
    char *target = own ? cb_options_to_json(cb_target_option_table, &adapter->target) : NULL;
    char *text = target ? cb_format("%s %s", own, target) : NULL;
    cb_free(own);
    cb_free(target);
    return text;
}

/* ---- beginning and end ---- */

const char *cb_study_name(const cb_study *s, const cb_layer *layer)
{
    return s->by_modules ? cb_layer_module_name(layer) : layer->name;
}

/* The linear layers among those that the adapter hits, each a group of its own. */
static bool list_layers(cb_study *s, cb_layer *root, const char *model_type)
{
    cb_layer **hits;
    size_t count;
    cb_string_list resolved = {0};
    bool is_pattern = false;
    bool found = cb_match_targets(s->adapter, root, model_type, &hits, &count, &resolved, &is_pattern, &s->by_modules);
    cb_string_list_free(&resolved);
    if (!found)
        return false;
    cb_tied_replace(cb_tied_head(s->adapter, root), hits, &count); /* such a head starts as its embedding does */
    s->layers = cb_calloc(count, sizeof *s->layers);
    s->groups = s->layers ? cb_calloc(count, sizeof *s->groups) : NULL;
    bool ok = s->groups;
    for (size_t i = 0; ok && i < count; i++) {
        if (hits[i]->kind != CB_LAYER_LINEAR) {
            ok = cb_string_list_add(&s->others, cb_study_name(s, hits[i]));
            continue;
        }
        if (hits[i]->recurrent && s->method->see) {
            ok = cb_fail(CB_ERR_UNSUPPORTED,
                         "init_lora_weights: found %s, and layer %s is a matrix of a recurrence, whose inputs are not looked at; expected "
                         "another start, or the layer in exclude_modules",
                         s->method->name, cb_study_name(s, hits[i])) == CB_OK;
            continue;
        }
        cb_study_layer *layer = &s->layers[s->layer_count];
        *layer = (cb_study_layer){.layer = hits[i], .group = s->layer_count};
        s->groups[s->layer_count++] = (cb_study_group){.leader = hits[i], .active = true};
        ok = cb_lora_sizes(s->config, hits[i], &layer->rank, &layer->alpha);
    }
    s->group_count = s->layer_count;
    cb_free(hits);
    if (ok && !s->layer_count)
        return cb_fail(CB_ERR_ARGUMENT, "init_lora_weights: found %s, but no linear layer is adapted", s->method->name) == CB_OK;
    return ok;
}

cb_study *cb_study_begin(cb_adapter *adapter, cb_layer *root, const char *model_type, bool writes)
{
    cb_study *s = NULL;
    if (adapter->attached)
        cb_fail(CB_ERR_STATE, "adapter %s is attached already", adapter->name);
    else
        s = cb_calloc(1, sizeof *s);
    if (!s)
        return NULL;
    *s = (cb_study){.method = cb_study_method_of(adapter), .adapter = adapter, .config = adapter->config, .writes = writes};
    cb_given_free(adapter);
    if (adapter->kind->check(adapter->config, NULL) && list_layers(s, root, model_type) && (!s->method->begin || s->method->begin(s)))
        return s;
    cb_study_free(s);
    return NULL;
}

void cb_study_free(cb_study *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->group_count; i++)
        if (s->groups[i].state) {
            s->method->release(s->groups[i].state);
            cb_free(s->groups[i].state);
        }
    cb_string_list_free(&s->others);
    cb_free(s->groups);
    cb_free(s->layers);
    cb_free(s->row_begins);
    cb_free(s);
}

bool cb_study_done(const cb_study *s)
{
    return s->done;
}

static bool apply(cb_study *s)
{
    return !s->method->apply || s->method->apply(s);
}

bool cb_study_finish(cb_study *s)
{
    bool ok = false;
    cb_no_grad ok = s->method->finish(s);
    return ok && apply(s);
}

bool cb_study_read(cb_study *s, const char *path)
{
    cb_layer **layers = cb_calloc(s->layer_count, sizeof *layers);
    bool ok = layers;
    for (size_t i = 0; ok && i < s->layer_count; i++)
        layers[i] = s->layers[i].layer;
    cb_no_grad ok = ok && cb_given_read(s->adapter, path, layers, s->layer_count);
    cb_free(layers);
    return ok && apply(s);
}

bool cb_study_looks_at(const cb_study *s, const cb_layer *layer)
{
    for (size_t i = 0; i < s->layer_count; i++)
        if (s->layers[i].layer == layer)
            return true;
    return false;
}

/* ---- which tokens of a batch count ---- */

/* PEFT's label of a token is its id where it was to be predicted, else -100.  Targets are those of the token after; whether a first token
 * was to be predicted does not show in them, and it counts where the second does.  Where targets are not those of tokens, all count. */
static bool counts(const cb_study *s, const cb_study_tokens *tokens, int64_t row, int64_t column)
{
    int64_t length = tokens->ids->shape[1], at = row * length + column;
    const int32_t *segments = tokens->segments ? tokens->segments->data : NULL;
    if (segments && segments[at] < 0)
        return false;
    if (strcmp(s->method->name, "eva") != 0 || !s->config->eva_use_label_mask || !tokens->targets ||
        !cb_same_shape(tokens->targets, tokens->ids))
        return true;
    const int32_t *ids = tokens->ids->data, *targets = tokens->targets->data;
    bool first = column == 0 || (segments && segments[at - 1] != segments[at]);
    bool learned = targets[first ? at : at - 1] != -100;
    return (learned ? ids[at] : -100) != s->config->eva_label_mask_value;
}

static bool take(cb_study *s, const cb_study_tokens *tokens)
{
    int64_t rows = tokens->ids->shape[0], length = tokens->ids->shape[1], count = 0;
    cb_free(s->row_begins);
    s->row_begins = cb_calloc((size_t)rows + 1, sizeof *s->row_begins);
    cb_tensor *all = s->row_begins ? cb_empty(CB_I64, rows * length) : NULL;
    if (!all)
        return false;
    int64_t *indices = all->data;
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t t = 0; t < length; t++)
            if (counts(s, tokens, r, t))
                indices[count++] = r * length + t;
        s->row_begins[r + 1] = count;
    }
    s->rows = rows;
    s->taken = cb_slice(all, 0, 0, count, 1);
    return s->taken;
}

cb_tensor *cb_study_rows(const cb_study *s, cb_tensor *x, int64_t first, int64_t end)
{
    cb_tensor *flat = x ? cb_reshape(x, -1, x->shape[x->ndim - 1]) : NULL;
    cb_tensor *indices = cb_slice(s->taken, 0, s->row_begins[first], s->row_begins[end], 1);
    return cb_cast(cb_index_select(flat, 0, indices), CB_F32);
}

/* ---- looking on ---- */

/* FNV-1a over the bytes of x; in a rehearsal, where there are none, of where they would be. */
static uint64_t hash_values(const cb_layer *layer, const cb_tensor *x)
{
    uint64_t hash = CB_HASH_START;
    const uint8_t *bytes = x->data;
    if (cb_rehearsing())
        return cb_hash_text(hash, layer->parent ? layer->parent->name : "") ^ (uintptr_t)x->data;
    for (size_t i = 0, n = (size_t)x->count * cb_dtype_size(x->dtype); i < n; i++)
        hash = (hash ^ bytes[i]) * UINT64_C(0x100000001b3);
    return hash;
}

static cb_study_group *group_of(cb_study *s, const cb_layer *layer)
{
    for (size_t i = 0; i < s->layer_count; i++)
        if (s->layers[i].layer == layer)
            return &s->groups[s->layers[i].group];
    return NULL;
}

/* In the first batch every layer has a group of its own, which only notes what it was given. */
static void note_input(void *user, const cb_layer *layer, cb_tensor *x)
{
    cb_study *s = user;
    cb_study_group *group = group_of(s, layer);
    cb_scope *scope = group && cb_ok() ? cb_scope_open() : NULL;
    if (!scope)
        return;
    x = cb_contiguous(x);
    if (x)
        group->hash = cb_hash_text(hash_values(layer, x), cb_shape_text(x));
    cb_scope_close(scope);
}

static void see_input(void *user, const cb_layer *layer, cb_tensor *x)
{
    cb_study *s = user;
    cb_study_group *group = group_of(s, layer);
    if (!group || group->leader != layer || !group->active || !cb_ok())
        return;
    cb_scope *scope = cb_scope_open();
    if (scope)
        s->method->see(s, group, x);
    cb_scope_close(scope);
}

static bool run(cb_study *s, void (*input)(void *user, const cb_layer *layer, cb_tensor *x), bool (*forward)(void *user), void *user)
{
    const cb_layer_watch watch = {.input = input, .user = s};
    bool ok = false;
    cb_layer_watching = &watch;
    cb_no_grad ok = forward(user);
    cb_layer_watching = NULL;
    return ok && cb_ok();
}

/* Joins layers that were given the same values; the first stands for the others. */
static bool join_groups(cb_study *s)
{
    size_t count = 0;
    for (size_t i = 0; i < s->layer_count; i++) {
        cb_study_group own = s->groups[i];
        size_t g = 0;
        while (g < count && (s->groups[g].hash != own.hash || s->groups[g].leader->in_features != own.leader->in_features))
            g++;
        if (g == count)
            s->groups[count++] = own;
        s->layers[i].group = g;
        if (!own.hash)
            return cb_fail(CB_ERR_UNSUPPORTED, "init_lora_weights: %s: layer %s was given nothing on the data", s->method->name,
                           own.leader->name) == CB_OK;
    }
    s->group_count = count;
    s->grouped = true;
    for (size_t g = 0; g < count; g++)
        if (!(s->groups[g].state = cb_calloc(1, s->method->state_size)))
            return false;
    return !s->method->check || s->method->check(s);
}

bool cb_study_batch(cb_study *s, const cb_study_tokens *tokens, bool (*forward)(void *user), void *user)
{
    cb_scope *scope = cb_scope_open();
    bool ok = scope && take(s, tokens);
    if (ok && !s->grouped)
        ok = run(s, note_input, forward, user) && join_groups(s);
    ok = ok && run(s, see_input, forward, user);
    s->batches++;
    cb_no_grad ok = ok && (!s->method->after_batch || s->method->after_batch(s));
    s->taken = NULL;
    if (scope)
        cb_scope_close(scope);
    return ok;
}
