/* tokens.c: some rows of an embedding trained in place of the frozen ones, so that new or rare tokens cost a row each and not the matrix.
 * N tokens, V vocabulary, C width.  The N rows (N, C) replace those of the tokens: an embedding looks their ids up in them, a head has
 * their logits from them.  A head that is tied to the embedding uses the embedding's rows and has none of its own. */
#include "adapters/tokens.h"

#include <stdlib.h>
#include <string.h>

typedef struct tokens_config {
    cb_string_list token_indices;
    bool init_weights;
    bool beside; /* not an option: these rows are trained beside another kind's modules, which shows in their names */
} tokens_config;

typedef struct tokens_state {
    cb_tensor *delta; /* (N, C) */
    cb_tensor *slots; /* (V) f32: which of the rows is a token's, -1: none */
    const struct tokens_state *leader;
    int64_t count;
    bool beside;
} tokens_state;

static const cb_option tokens_options[] = {
    CB_OPT_LIST(tokens_config, token_indices, NULL, "N,...", "ids of the tokens whose rows are trained"),
    CB_OPT_BOOL(tokens_config, init_weights, true, "start from the rows as they are; otherwise from random ones"), CB_OPT_END};

static const tokens_state *rows_of(const cb_module *m)
{
    const tokens_state *state = m->state;
    return state->leader ? state->leader : state;
}

/* ---- which rows ---- */

/* The number in "7" or "lm_head:7" if the item is for this layer, -1 if it is not, -2 if it is nothing of the kind. */
static int64_t index_for(const char *item, const char *layer_name)
{
    const char *colon = strrchr(item, ':'), *digits = colon ? colon + 1 : item;
    char *end;
    long long id = strtoll(digits, &end, 10);
    if (end == digits || *end || id < 0)
        return -2;
    if (!colon)
        return id;
    char *name = cb_strndup(item, (size_t)(colon - item));
    bool ours = name && cb_ends_with(layer_name, name);
    cb_free(name);
    return ours ? id : -1;
}

static bool count_indices(const cb_string_list *items, const cb_layer *layer, int64_t *count)
{
    *count = 0;
    for (size_t i = 0; i < items->count; i++) {
        int64_t id = index_for(items->items[i], layer->name);
        int64_t rows = layer->kind == CB_LAYER_EMBEDDING ? layer->in_features : layer->out_features;
        if (id == -2 || id >= rows)
            return cb_fail(CB_ERR_ARGUMENT, "token indices: found '%.100s' for layer %s, expected ids below %lld", items->items[i],
                           layer->name, (long long)rows) == CB_OK;
        *count += id >= 0;
    }
    return true;
}

static bool tokens_check(const void *config_, const cb_layer *layer)
{
    const tokens_config *config = config_;
    if (!config->token_indices.count)
        return cb_fail(CB_ERR_ARGUMENT, "token_indices: found none, expected ids of tokens") == CB_OK;
    if (layer && layer->kind == CB_LAYER_LINEAR && (layer->transposed || !layer->output))
        return cb_fail(CB_ERR_UNSUPPORTED, "token indices: layer %s is neither an embedding nor the head", layer->name) == CB_OK;
    return true;
}

static bool tokens_create(cb_module *m, const void *config_, const cb_layer *layer)
{
    const tokens_config *config = config_;
    tokens_state *state = m->state;
    state->beside = config->beside;
    return count_indices(&config->token_indices, layer, &state->count);
}

static int64_t width_of(const cb_layer *layer)
{
    return layer->kind == CB_LAYER_EMBEDDING ? layer->out_features : layer->in_features;
}

static int64_t height_of(const cb_layer *layer)
{
    return layer->kind == CB_LAYER_EMBEDDING ? layer->in_features : layer->out_features;
}

static int tokens_parameters(cb_module *m, cb_adapter_parameter *list)
{
    tokens_state *state = m->state;
    const char *suffix = state->beside ? "token_adapter.trainable_tokens_delta" : "trainable_tokens_delta";
    int n = 0;
    if (!state->leader) {
        list[n++] = (cb_adapter_parameter){suffix, &state->delta, 2, {state->count, width_of(m->layer)}, CB_ROLE_TRAINED};
        list[n++] = (cb_adapter_parameter){"slots", &state->slots, 1, {height_of(m->layer)}, CB_ROLE_PRIVATE};
    } else if (!state->beside) {
        list[n++] = (cb_adapter_parameter){suffix, NULL, 2, {state->leader->count, width_of(m->layer)}, CB_ROLE_ECHO};
    }
    return n;
}

/* ids (N) i64 of the rows, in their order */
static cb_tensor *indices_of(const tokens_state *rows)
{
    cb_tensor *indices = cb_empty(CB_I64, rows->count);
    const float *slots = rows->slots->data;
    for (int64_t i = 0; indices && i < rows->slots->count; i++)
        if (slots[i] >= 0)
            ((int64_t *)indices->data)[(int64_t)slots[i]] = i;
    return indices;
}

static bool fill_slots(const cb_module *m, const tokens_config *config)
{
    tokens_state *state = m->state;
    float *slots = state->slots->data;
    int64_t next = 0;
    for (int64_t i = 0; i < state->slots->count; i++)
        slots[i] = -1;
    for (size_t i = 0; i < config->token_indices.count; i++) {
        int64_t id = index_for(config->token_indices.items[i], m->layer->name);
        if (id < 0)
            continue;
        if (slots[id] >= 0)
            return cb_fail(CB_ERR_ARGUMENT, "token indices: found %lld twice for layer %s", (long long)id, m->layer->name) == CB_OK;
        slots[id] = (float)next++;
    }
    return true;
}

/* The weight's rows, to start from. */
static bool tokens_initialise(cb_module *m, const void *config_, uint64_t seed)
{
    const tokens_config *config = config_;
    tokens_state *state = m->state;
    if (state->leader)
        return true;
    if (!fill_slots(m, config))
        return false;
    if (!config->init_weights)
        return cb_init_normal(state->delta, cb_adapter_rng(seed, m, "trainable_tokens_delta"), 1);
    cb_scope *scope = cb_scope_open();
    bool ok = false;
    cb_no_grad
    {
        cb_tensor *rows = scope ? cb_embedding(cb_layer_weight(m->layer, "weight"), indices_of(state)) : NULL;
        ok = rows && cb_copy_into(state->delta, rows);
    }
    if (scope)
        cb_scope_close(scope);
    return ok;
}

static bool tokens_ready(cb_module *m, const void *config, bool fresh)
{
    (void)fresh;
    return ((tokens_state *)m->state)->leader || fill_slots(m, config);
}

static cb_tensor *tokens_stored(const cb_module *m, const char *suffix)
{
    (void)suffix;
    const tokens_state *state = m->state;
    return state->leader && !state->beside ? state->leader->delta : NULL;
}

/* ---- forward ---- */

/* Where x (...) has one of the tokens (a mask (..., 1)), and which of the rows is theirs (0 elsewhere); false when it has none or on
 * failure. */
static bool look_up(const tokens_state *rows, cb_tensor *ids, cb_tensor **mask, cb_tensor **slot)
{
    const float *slots = rows->slots->data;
    cb_tensor *found = cb_empty_nd(CB_BOOL, ids->ndim, ids->shape);
    *slot = cb_empty_nd(CB_I32, ids->ndim, ids->shape);
    if (!found || !*slot)
        return false;
    bool any = false;
    for (int64_t i = 0; i < ids->count; i++) {
        int64_t id = (int64_t)cb_get(ids, i);
        bool ours = id >= 0 && id < rows->slots->count && slots[id] >= 0;
        ((uint8_t *)found->data)[i] = ours;
        ((int32_t *)(*slot)->data)[i] = ours ? (int32_t)slots[id] : 0;
        any |= ours;
    }
    *mask = cb_unsqueeze(found, -1);
    return any && *mask;
}

static cb_tensor *replaced_rows(const tokens_state *rows, cb_tensor *ids, cb_tensor *y)
{
    cb_tensor *mask, *slot;
    if (!look_up(rows, ids, &mask, &slot))
        return cb_ok() ? y : NULL;
    return cb_where(mask, cb_cast(cb_embedding(rows->delta, slot), y->dtype), y);
}

/* Logits of the tokens from their rows. */
static cb_tensor *replaced_columns(const tokens_state *rows, cb_tensor *x, cb_tensor *y)
{
    cb_tensor *every = cb_arange(CB_I64, 0, 1, rows->slots->count), *mask, *slot;
    if (!every || !look_up(rows, every, &mask, &slot))
        return cb_ok() ? y : NULL;
    cb_tensor *logits = cb_linear(x, rows->delta, NULL);
    return cb_where(cb_squeeze(mask, -1), cb_index_select(logits, -1, slot), y);
}

static cb_tensor *tokens_forward(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    (void)ctx;
    if (m->strength == 0)
        return y;
    const tokens_state *rows = rows_of(m);
    cb_tensor *replaced = m->layer->kind == CB_LAYER_EMBEDDING ? replaced_rows(rows, x, y) : replaced_columns(rows, x, y);
    return m->strength == 1 || replaced == y ? replaced : cb_lerp(y, replaced, m->strength);
}

static cb_tensor *tokens_delta(const cb_module *m, cb_tensor *weight)
{
    const tokens_state *rows = rows_of(m);
    cb_tensor *indices = indices_of(rows);
    cb_tensor *change = cb_sub(rows->delta, cb_index_select(weight, 0, indices));
    return cb_index_add(cb_zeros_like(weight), 0, indices, cb_scale(change, m->strength));
}

/* ---- planning ---- */

static bool first_embedding(void *user, cb_layer *layer)
{
    cb_layer **found = user;
    if (layer->kind == CB_LAYER_EMBEDDING && !*found)
        *found = layer;
    return true;
}

typedef struct named_search {
    const cb_string_list *items;
    cb_layer *list[16];
    size_t count;
} named_search;

static bool named_layer(void *user, cb_layer *layer)
{
    named_search *search = user;
    bool hit = false;
    for (size_t i = 0; i < search->items->count && layer->weight_count + (layer->tied != NULL) > 0; i++)
        hit |= strchr(search->items->items[i], ':') && index_for(search->items->items[i], layer->name) >= 0;
    if (hit && search->count < sizeof search->list / sizeof *search->list)
        search->list[search->count++] = layer;
    return true;
}

static bool plan_rows(cb_adapter *adapter, cb_layer *layer, bool fresh)
{
    for (size_t i = 0; i < adapter->module_count; i++)
        if (adapter->modules[i]->layer == layer)
            return cb_fail(CB_ERR_ARGUMENT, "trainable_token_indices: layer %s is in target_modules too", layer->name) == CB_OK;
    for (size_t i = 0; i < adapter->trained_count; i++)
        if (adapter->trained[i].layer == layer)
            return cb_fail(CB_ERR_ARGUMENT, "trainable_token_indices: layer %s is in modules_to_save too", layer->name) == CB_OK;
    return cb_adapter_plan_module(adapter, &cb_kind_trainable_tokens, adapter->companion, layer, fresh);
}

/* Those of a tied head count only where they are not the embedding's. */
static bool same_rows(const cb_string_list *items, const cb_layer *layer)
{
    for (size_t i = 0; layer->tied && i < items->count; i++) {
        int64_t id = index_for(items->items[i], layer->name);
        bool found = id < 0;
        for (size_t k = 0; !found && k < items->count; k++)
            found = index_for(items->items[k], layer->tied->name) == id;
        if (!found)
            return false;
    }
    return layer->tied != NULL;
}

bool cb_tokens_plan(cb_adapter *adapter, cb_layer *root, const cb_string_list *indices, bool tied, bool fresh)
{
    tokens_config *config = cb_calloc(1, sizeof *config);
    adapter->companion = config; /* freed with the adapter's modules */
    if (!config)
        return false;
    *config = (tokens_config){.token_indices = *indices, .init_weights = true, .beside = true};
    named_search search = {.items = indices};
    bool plain = false;
    for (size_t i = 0; i < indices->count; i++) {
        plain |= !strchr(indices->items[i], ':');
        if (index_for(indices->items[i], "") == -2)
            return cb_fail(CB_ERR_ARGUMENT, "trainable_token_indices: found '%.100s', expected an id or LAYER:id", indices->items[i]) ==
                   CB_OK;
    }
    if (plain)
        cb_layer_visit(root, first_embedding, &search.list[search.count++]);
    else
        cb_layer_visit(root, named_layer, &search);
    if (!search.count || !search.list[0])
        return cb_fail(CB_ERR_ARGUMENT, "trainable_token_indices: no layer of the model is meant") == CB_OK;
    for (size_t i = 0; i < search.count; i++) {
        if (same_rows(indices, search.list[i]))
            continue;
        if (tied && search.list[i]->tied)
            return cb_fail(CB_ERR_ARGUMENT,
                           "trainable_token_indices: layer %s gets other rows than %s, expected the same for "
                           "ensure_weight_tying",
                           search.list[i]->name, search.list[i]->tied->name) == CB_OK;
        if (!plan_rows(adapter, search.list[i], fresh))
            return false;
    }
    return true;
}

static cb_module *rows_on(const cb_adapter *adapter, const cb_layer *layer)
{
    for (size_t i = 0; layer && i < adapter->module_count; i++)
        if (adapter->modules[i]->layer == layer && cb_adapter_module_of(adapter->modules[i])->kind == &cb_kind_trainable_tokens)
            return adapter->modules[i];
    return NULL;
}

typedef struct tied_search {
    cb_adapter *adapter;
    bool fresh;
} tied_search;

static bool plan_tied(void *user, cb_layer *layer)
{
    tied_search *search = user;
    cb_module *leader = rows_on(search->adapter, layer->tied);
    if (!leader || cb_layer_own_weight(layer, "weight") || rows_on(search->adapter, layer))
        return true;
    const void *config = cb_adapter_module_of(leader)->config;
    if (!cb_adapter_plan_module(search->adapter, &cb_kind_trainable_tokens, config, layer, search->fresh))
        return false;
    cb_module *m = search->adapter->modules[search->adapter->module_count - 1];
    ((tokens_state *)m->state)->leader = leader->state;
    m->follows = true;
    return true;
}

bool cb_tokens_plan_tied(cb_adapter *adapter, cb_layer *root, bool fresh)
{
    return cb_layer_visit(root, plan_tied, &(tied_search){adapter, fresh});
}

/* Input embeddings. */
static const cb_default_target tokens_default_targets[] = {{"gpt2", "wte"}, {"*", "embed_tokens"}, {0}};

const cb_adapter_kind cb_kind_trainable_tokens = {
    .name = "trainable_tokens",
    .peft_type = "TRAINABLE_TOKENS",
    .summary = "some rows of the token embedding, and of a head that is tied to it",
    .paper = "PEFT's TrainableTokensModel",
    .options = tokens_options,
    .config_size = sizeof(tokens_config),
    .state_size = sizeof(tokens_state),
    .module = {.name = "trainable_tokens", .forward = tokens_forward, .delta = tokens_delta},
    .hosts = 1u << CB_LAYER_EMBEDDING | 1u << CB_LAYER_LINEAR,
    .check = tokens_check,
    .create = tokens_create,
    .parameters = tokens_parameters,
    .initialise = tokens_initialise,
    .ready = tokens_ready,
    .stored = tokens_stored,
    .default_targets = tokens_default_targets,
};
