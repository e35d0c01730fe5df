/* whole.c: a model all of whose weights are trained, as something to train. */
#include "cambium/files.h"
#include "cambium/training.h"

/* ---- every weight as a parameter ---- */

typedef struct parameter_list {
    cb_named_tensor *items;
    size_t count, capacity;
    cb_model_part part; /* of the model that is listed */
} parameter_list;

/* Takes the name. */
static bool add_tensor(parameter_list *list, char *name, cb_tensor *tensor)
{
    if (!name || !cb_grow(&list->items, &list->capacity, list->count + 1, sizeof *list->items)) {
        cb_free(name);
        return false;
    }
    list->items[list->count++] = (cb_named_tensor){name, tensor};
    return true;
}

/* A layer's own weights, made trainable where they are frozen, and statistics that follow.  A tied layer has none of its own. */
static bool collect(void *user, cb_layer *layer)
{
    parameter_list *list = user;
    if (list->part != CB_PART_ALL && (list->part == CB_PART_HEAD) != layer->head)
        return true;
    for (int i = 0; i < layer->weight_count; i++) {
        const char *name = layer->weights[i].name;
        if (!layer->weights[i].tensor->requires_grad && !cb_layer_train_copy(layer, name, CB_F32, true))
            return false;
        if (!add_tensor(list, cb_layer_weight_name(layer, name), layer->weights[i].tensor))
            return false;
    }
    layer->moves = layer->kind == CB_LAYER_NORM && layer->buffer_count > 0;
    return true;
}

/* Running statistics are no parameters, but a checkpoint needs them. */
static bool collect_buffers(void *user, cb_layer *layer)
{
    for (int i = 0; i < layer->buffer_count; i++)
        if (!add_tensor(user, cb_layer_weight_name(layer, layer->buffers[i].name), layer->buffers[i].tensor))
            return false;
    return true;
}

static void parameters_free(parameter_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        cb_free((void *)(uintptr_t)list->items[i].name);
    cb_free(list->items);
}

/* ---- saving ---- */

typedef struct saver {
    const cb_tokenizer *tokenizer;
    char *tokenizer_path; /* a directory's other tokenizer files are carried over */
    cb_dtype dtype;
    cb_adapter *adapter; /* or NULL */
} saver;

/* What a model of text has beside its weights. */
static bool save_text_files(const saver *s, const char *directory)
{
    static const char generation[] = "generation_config.json";
    bool ok = cb_tokenizer_save_directory(s->tokenizer, s->tokenizer_path, directory);
    char *from = cb_path_join(s->tokenizer_path, generation), *to = cb_path_join(directory, generation);
    ok = ok && from && to && cb_file_copy(from, to);
    cb_free(from);
    cb_free(to);
    return ok;
}

static bool save(const cb_trainee *what, const char *directory)
{
    const saver *s = what->user;
    char *path;
    bool ok = (!s->tokenizer_path || save_text_files(s, directory)) && cb_model_save(what->model, directory, s->dtype);
    path = ok && s->adapter ? cb_path_join(directory, cb_adapter_name(s->adapter)) : NULL;
    ok = ok && (!s->adapter || (path && cb_adapter_save(s->adapter, path, NULL) && cb_adapter_labels_write(what->model, path)));
    cb_free(path);
    return ok;
}

/* The adapter's options belong to what a checkpoint was made with. */
static char *describe(const cb_trainee *what)
{
    const saver *s = what->user;
    return s->adapter ? cb_adapter_json(s->adapter) : cb_strdup("");
}

/* ---- what the adapter's kind does while it is trained ---- */

static cb_adapter *adapter_of(const cb_trainee *what)
{
    return ((const saver *)what->user)->adapter;
}

static bool begin(const cb_trainee *what, int64_t steps)
{
    return cb_adapter_begin(adapter_of(what), steps);
}

static cb_tensor *regulariser(const cb_trainee *what)
{
    return cb_adapter_regulariser(adapter_of(what));
}

static bool stepped(const cb_trainee *what, const cb_adapter_step *step)
{
    return cb_adapter_stepped(adapter_of(what), step);
}

static bool phase(const cb_trainee *what, int64_t step, int64_t *first, int64_t *end)
{
    return cb_adapter_phase(adapter_of(what), step, first, end);
}

static void add_hooks(cb_trainee *what)
{
    what->begin = begin;
    what->regulariser = regulariser;
    what->stepped = stepped;
    what->phase = phase;
}

static bool is_listed(const parameter_list *list, const cb_tensor *tensor)
{
    for (size_t i = 0; i < list->count; i++)
        if (list->items[i].tensor == tensor)
            return true;
    return false;
}

static bool add_all(parameter_list *list, size_t count, const cb_named_tensor *tensors)
{
    for (size_t i = 0; i < count; i++)
        if (!is_listed(list, tensors[i].tensor) && !add_tensor(list, cb_strdup(tensors[i].name), tensors[i].tensor))
            return false;
    return true;
}

/* What the adapter has in place of layers' own weights (modules_to_save, biases) is among the model's already. */
static bool add_adapter(parameter_list *list, const cb_adapter *adapter)
{
    const cb_named_tensor *parameters = NULL;
    size_t count = adapter ? cb_adapter_parameters(adapter, &parameters) : 0;
    return add_all(list, count, parameters);
}

/* What a checkpoint holds beside the parameters. */
static bool collect_state(parameter_list *state, cb_model *model, const cb_adapter *adapter)
{
    const cb_named_tensor *own = NULL;
    size_t count = adapter ? cb_adapter_state(adapter, &own) : 0;
    return cb_layer_visit(cb_model_root(model), collect_buffers, state) && add_all(state, count, own);
}

/* ---- as something to train ---- */

static bool train_weights(cb_trainee *what, cb_model *model, cb_model_part part, cb_adapter *adapter, const cb_tokenizer *tokenizer,
                          const char *tokenizer_path, cb_dtype dtype)
{
    parameter_list list = {.part = part}, state = {0};
    saver *s = cb_calloc(1, sizeof *s);
    bool ok = s && (!tokenizer_path || (s->tokenizer_path = cb_strdup(tokenizer_path))) &&
              cb_layer_visit(cb_model_root(model), collect, &list) && add_adapter(&list, adapter) && collect_state(&state, model, adapter);
    if (s) {
        s->tokenizer = tokenizer;
        s->dtype = dtype;
        s->adapter = adapter;
    }
    *what = (cb_trainee){.model = model,
                         .count = list.count,
                         .parameters = list.items,
                         .save = save,
                         .describe = describe,
                         .state_count = state.count,
                         .state = state.items,
                         .user = s};
    if (adapter)
        add_hooks(what);
    if (!ok)
        cb_train_whole_free(what);
    return ok;
}

bool cb_train_whole(cb_trainee *what, cb_model *model, cb_adapter *adapter, const cb_tokenizer *tokenizer, const char *tokenizer_path,
                    cb_dtype dtype)
{
    return train_weights(what, model, CB_PART_ALL, adapter, tokenizer, tokenizer_path, dtype);
}

bool cb_train_part(cb_trainee *what, cb_model *model, cb_model_part part, const cb_tokenizer *tokenizer, const char *tokenizer_path,
                   cb_dtype dtype)
{
    return train_weights(what, model, part, NULL, tokenizer, tokenizer_path, dtype);
}

void cb_train_whole_free(cb_trainee *what)
{
    parameters_free(&(parameter_list){.items = (cb_named_tensor *)(uintptr_t)what->parameters, .count = what->count});
    parameters_free(&(parameter_list){.items = (cb_named_tensor *)(uintptr_t)what->state, .count = what->state_count});
    saver *s = what->user;
    if (s)
        cb_free(s->tokenizer_path);
    cb_free(s);
    *what = (cb_trainee){0};
}
