/* setup.c: what commands do before their work: is the output writable, does the tokenizer fit the model, which adapters
 * with which weights.  All of it happens before anything long begins, and leaves nothing behind when it fails. */
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cambium/formats.h"
#include "cli/cli.h"
#include "core/json.h"

/* ---- outputs ---- */

char *cli_existing_above(const char *path)
{
    char *at = cb_strdup(path);
    while (at && access(at, F_OK) != 0 && strcmp(at, ".") != 0 && strcmp(at, "/") != 0) {
        char *up = cb_path_parent(at);
        cb_free(at);
        at = up;
    }
    return at;
}

static bool is_inside(const char *path, const char *directory)
{
    char a[PATH_MAX], b[PATH_MAX];
    if (!directory || !realpath(path, a) || !realpath(directory, b))
        return false;
    size_t length = strlen(b);
    return strncmp(a, b, length) == 0 && (a[length] == '/' || a[length] == '\0');
}

static bool has_file(const char *directory, const char *name)
{
    char *path = cb_path_join(directory, name);
    bool found = path && cb_is_file(path);
    cb_free(path);
    return found;
}

/* A model somebody keeps; what `pretrain` left, and may go on with or write anew, has a log or a checkpoint beside it. */
static bool holds_other_model(const char *path)
{
    return has_file(path, "config.json") && !has_file(path, "checkpoint.safetensors") && !has_file(path, "log.jsonl");
}

bool cli_output_directory(const char *path, const char *model)
{
    if (!*path)
        return cli_refuse("--output: found an empty name, expected a directory");
    if (cb_parallel_rank() > 0) /* the first process writes, and may be at it */
        return true;
    char *above = cli_existing_above(path);
    bool ok = above;
    if (ok && !cb_is_directory(above))
        ok = cli_refuse("%s: %s is a file, expected a directory", path, above);
    else if (ok && is_inside(above, model))
        ok = cli_refuse("%s: is the model's own directory or inside it, expected another place", path);
    else if (ok && holds_other_model(path))
        ok = cli_refuse("%s: found a model in it (config.json), expected a new or empty directory", path);
    else
        ok = ok && cb_directory_writable(above);
    cb_free(above);
    return ok;
}

bool cli_output_apart(const char *path, const cli_corpus_settings *corpus)
{
    const cb_string_list *lists[] = {&corpus->data, &corpus->validation_data};
    char *above = cli_existing_above(path);
    bool ok = above;
    for (int l = 0; l < 2; l++)
        for (size_t i = 0; ok && i < lists[l]->count; i++)
            if (is_inside(above, lists[l]->items[i]))
                ok = cli_refuse("%s: is inside the directory of data %s, expected another place: the next run would read it", path,
                                lists[l]->items[i]);
    cb_free(above);
    return ok;
}

bool cli_output_is_no_input(const char *path, const cb_string_list *inputs)
{
    struct stat output, input;
    bool there = stat(path, &output) == 0, ok = true;
    for (size_t i = 0; there && ok && i < inputs->count; i++) {
        const char *name = inputs->items[i];
        if (stat(name, &input) == 0 && input.st_dev == output.st_dev && input.st_ino == output.st_ino)
            ok = cli_refuse("%s: is %s, which is read, expected another place", path, name);
        else if (cb_is_directory(name) && is_inside(path, name))
            ok = cli_refuse("%s: is there already, in the directory of data %s, expected another place", path, name);
    }
    return ok;
}

bool cli_output_file(const char *path)
{
    if (!*path)
        return cli_refuse("--output: found an empty name, expected a file");
    if (cb_is_directory(path))
        return cli_refuse("%s: is a directory, expected a file", path);
    char *parent = cb_path_parent(path);
    bool ok = parent;
    if (ok && !cb_is_directory(parent))
        ok = cli_refuse("%s: there is no directory %s", path, parent);
    else
        ok = ok && cb_directory_writable(parent);
    cb_free(parent);
    return ok;
}

bool cli_read_task(const char *where, const json_t *line, int64_t otherwise, int32_t *task)
{
    const json_t *value = json_object_get(line, "task_ids");
    int64_t number = value ? json_integer_value(value) : otherwise;
    if ((value && !json_is_integer(value)) || number < 0 || number >= CB_MOST_TASKS)
        return cli_refuse("%s: task_ids: expected the number of a task, from 0 to %d", where, CB_MOST_TASKS - 1);
    *task = (int32_t)number;
    return true;
}

static bool condition_of(const char *where, double value, float *condition)
{
    *condition = (float)value;
    return isfinite(*condition) || cli_refuse("%s: conditions: expected a number or an array of numbers", where);
}

bool cli_read_conditions(const char *where, const json_t *line, const cb_string_list *otherwise, float **values, size_t *count)
{
    const json_t *given = json_object_get(line, "conditions");
    size_t n = !given ? otherwise->count : json_is_array(given) ? json_array_size(given) : 1;
    bool ok = (*values = cb_alloc((n + 1) * sizeof **values));
    for (size_t i = 0; ok && i < n; i++) {
        const json_t *number = json_is_array(given) ? json_array_get(given, i) : given;
        char *end = NULL;
        double value = !given ? strtod(otherwise->items[i], &end) : json_is_number(number) ? json_number_value(number) : NAN;
        ok = condition_of(where, !given && (end == otherwise->items[i] || *end) ? NAN : value, *values + i);
    }
    *count = ok ? n : 0;
    return ok;
}

/* ---- models, tokenizers, adapters ---- */

const char *const cli_dtype_names[] = {"bf16", "f32", NULL};

cb_dtype cli_dtype(int index)
{
    return index == 0 ? CB_BF16 : CB_F32;
}

cb_tokenizer *cli_tokenizer(const char *path, const cb_model *model)
{
    const char *where = path || !model ? path : cb_model_directory(model);
    cb_tokenizer *tokenizer = cb_tokenizer_load(where);
    if (tokenizer && model && cb_tokenizer_id_limit(tokenizer) > cb_model_vocab_size(model)) {
        cli_refuse("%s: the tokenizer's ids go up to %lld, expected less than the model's vocab_size %lld", where,
                   (long long)cb_tokenizer_id_limit(tokenizer) - 1, (long long)cb_model_vocab_size(model));
        cb_tokenizer_free(tokenizer);
        return NULL;
    }
    return tokenizer;
}

/* "DIR=0.5" is a directory and a weight, unless a directory of that very name exists. */
bool cli_split_weight(const char *option, const char *text, char **directory, double *weight)
{
    const char *equals = strrchr(text, '=');
    *weight = 1;
    if (!equals || cb_is_directory(text)) {
        *directory = cb_strdup(text);
        return *directory;
    }
    char *end;
    *weight = strtod(equals + 1, &end);
    if (end == equals + 1 || *end || !(*weight > -1e6 && *weight < 1e6))
        return cli_refuse("%s: found \"%s\", expected DIR or DIR=weight with a number", option, text);
    *directory = cb_strndup(text, (size_t)(equals - text));
    return *directory;
}

/* "NAME=DIR" names an adapter, unless a directory of that very name exists: the text becomes the name alone. */
static char *split_name(char *text, const char **directory)
{
    char *equals = strchr(text, '=');
    *directory = text;
    if (!equals || equals == text || memchr(text, '/', (size_t)(equals - text)) || cb_is_directory(text))
        return NULL;
    *equals = 0;
    *directory = equals + 1;
    return text;
}

bool cli_split_adapter(const char *given, cli_adapter_argument *out)
{
    *out = (cli_adapter_argument){.weight = 1};
    const char *last = strrchr(given, '=');
    if (last && cb_is_directory(last + 1) && !cb_is_directory(given)) /* NAME=DIR: what follows is no weight */
        out->text = cb_strdup(given);
    else if (!cli_split_weight("--adapter", given, &out->text, &out->weight))
        return false;
    out->name = out->text ? split_name(out->text, &out->directory) : NULL;
    return out->text;
}

/* Takes over the adapter (NULL: failure) and the name (NULL: the adapter's own). */
static bool take_adapter(cli_base *base, cb_adapter *adapter, const char *name, double weight)
{
    bool ok = adapter && cb_grow(&base->adapters, &base->adapter_capacity, base->adapter_count + 1, sizeof(cb_adapter *)) &&
              cb_grow(&base->weights, &base->weight_capacity, base->adapter_count + 1, sizeof *base->weights) &&
              cb_string_list_add(&base->names, name ? name : cb_adapter_name(adapter));
    if (!ok) {
        cb_adapter_free(adapter);
        return false;
    }
    base->weights[base->adapter_count] = weight;
    base->adapters[base->adapter_count++] = adapter;
    cb_adapter_set_strength(adapter, 0);
    return cb_ok();
}

/* The parts of a composition, which stay together where they are mixed. */
static bool add_composition(cli_base *base, const char *directory, double weight)
{
    cb_composition c;
    if (!cb_composition_load(&c, directory, cb_model_root(base->model), cb_model_type(base->model)))
        return false;
    bool mixed = c.gate || c.mixer || c.xlora, alone = weight == 1 && !base->adapter_count && !base->composition.count;
    if (mixed && alone) {
        base->composition = c;
        return true;
    }
    bool ok = !mixed || cli_refuse("--adapter: %s weighs its parts itself, expected it alone and without a weight", directory);
    for (size_t i = 0; ok && i < c.count; i++) {
        cb_adapter *adapter = c.adapters[i];
        c.adapters[i] = NULL;
        ok = take_adapter(base, adapter, NULL, weight * c.weights[i]);
    }
    cb_composition_free(&c);
    return ok;
}

static bool add_adapter(cli_base *base, const char *given)
{
    cli_adapter_argument a;
    bool ok = cli_split_adapter(given, &a);
    if (ok && base->composition.count)
        ok = cli_refuse("--adapter: found %s beside a composition that weighs its parts itself, expected that alone", a.directory);
    if (ok && cb_is_composition(a.directory))
        ok = a.name ? cli_refuse("--adapter %s: %s is several adapters, which have names of their own", given, a.directory)
                    : add_composition(base, a.directory, a.weight);
    else if (ok)
        ok = take_adapter(base, cb_adapter_load(a.directory, cb_model_root(base->model), cb_model_type(base->model)), a.name, a.weight);
    cb_free(a.text);
    return ok;
}

static bool has_live(const cb_adapter *adapter, const char *option)
{
    const char *const *name = cb_adapter_kind_of(adapter)->live;
    while (name && *name && strcmp(*name, option) != 0)
        name++;
    return name && *name;
}

static bool set_live(cb_adapter *const *adapters, size_t count, const char *name, const char *value, bool *any)
{
    bool ok = true;
    for (size_t i = 0; ok && i < count; i++)
        if (has_live(adapters[i], name)) {
            *any = true;
            ok = cb_adapter_set(adapters[i], name, value);
        }
    return ok;
}

static bool set_option(const cli_base *base, const char *given)
{
    const cb_composition *parts = &base->composition;
    const char *equals = strchr(given, '=');
    char *name = equals ? cb_strndup(given, (size_t)(equals - given)) : NULL;
    bool ok = name || (cb_ok() && cli_refuse("--adapter-option: found \"%s\", expected NAME=VALUE", given)), any = false;
    for (char *c = name; c && *c; c++)
        *c = *c == '-' ? '_' : *c;
    ok = ok && set_live(base->adapters, base->adapter_count, name, equals + 1, &any) &&
         set_live(parts->adapters, parts->count, name, equals + 1, &any);
    if (ok && !any)
        ok = cli_refuse("--adapter-option: no adapter here has an option \"%s\" that can be chosen after training", name);
    cb_free(name);
    return ok;
}

/* Whether the first of the adapters is one of a sentence encoder, whose model has no head. */
static bool is_of_encoder(const cb_string_list *adapters)
{
    cli_adapter_argument a = {0};
    char *path = adapters->count && cli_split_adapter(adapters->items[0], &a) ? cb_path_join(a.directory, "adapter_config.json") : NULL;
    json_t *config = path && cb_is_file(path) ? cb_json_load(path, 1 << 24) : NULL;
    const char *type = json_string_value(json_object_get(config, "task_type"));
    bool found = type && strcmp(type, "FEATURE_EXTRACTION") == 0;
    json_decref(config);
    cb_free(path);
    cb_free(a.text);
    return found && cb_ok();
}

/* The first of the adapters that was trained with a head says which the model has.  Where it has no names for its labels, the model's own
 * stay, of which cb_model_load_with() keeps as many as fit, and its problem, as in transformers. */
static cb_model *load_with_head(const char *path, const cb_string_list *adapters, cb_dtype dtype, bool *ranks)
{
    cb_adapter_labels labels = {0};
    bool found = false;
    for (size_t i = 0; cb_ok() && !found && i < adapters->count; i++) {
        cli_adapter_argument a;
        if (!cli_split_adapter(adapters->items[i], &a))
            return NULL;
        found = cb_adapter_labels_read(a.directory, &labels);
        cb_free(a.text);
    }
    cb_model_options options = {.dtype = dtype};
    if (cb_ok() && !found && is_of_encoder(adapters)) {
        options.head = CB_HEAD_NONE;
    } else if (found) {
        options.head = cb_objective_head(labels.objective);
        options.labels = (int64_t)labels.names.count;
        options.head_follows = true;
    }
    cb_model *model = cb_ok() ? cb_model_load_with(path, options) : NULL;
    bool named = model && labels.named;
    if (named && (!cb_model_set_labels(model, &labels.names, cb_objective_problem(labels.objective)) ||
                  (labels.dense_loss && !cb_model_set_dense_loss(model, labels.dense_loss)))) {
        cb_model_free(model);
        model = NULL;
    }
    *ranks = labels.named && labels.objective == CB_OBJECTIVE_RANKING;
    cb_string_list_free(&labels.names);
    return model;
}

bool cli_adapter_trains(const cb_adapter *adapter, const char *weight)
{
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list);
    for (size_t i = 0; i < count; i++)
        if (cb_ends_with(list[i].name, weight) && strlen(list[i].name) > strlen(weight) &&
            list[i].name[strlen(list[i].name) - strlen(weight) - 1] == '.')
            return true;
    return false;
}

/* Of what the model's file lacks the adapters bring some, or all. */
static void warn_of_new_weights(const cli_base *base)
{
    char *names = cb_strdup(cb_model_new_weights(base->model)), *rest = NULL;
    for (char *name = names && base->adapter_count ? strtok_r(names, ", ", &rest) : NULL; name; name = strtok_r(NULL, ", ", &rest)) {
        bool brought = false;
        for (size_t i = 0; !brought && i < base->adapter_count; i++)
            brought = cli_adapter_trains(base->adapters[i], name);
        if (!brought)
            cb_log_message(CB_LOG_WARNING, "%s: has no %s, nor has an adapter: it is random", cb_model_directory(base->model), name);
    }
    cb_free(names);
}

static bool add_adapters(cli_base *base, const cb_string_list *adapters, const cb_string_list *options)
{
    for (size_t i = 0; i < adapters->count; i++)
        if (!add_adapter(base, adapters->items[i]))
            return false;
    for (size_t i = 0; options && i < options->count; i++)
        if (!set_option(base, options->items[i]))
            return false;
    warn_of_new_weights(base);
    return true;
}

bool cli_base_load(cli_base *base, const char *model, const cb_string_list *adapters, const cb_string_list *options, cb_dtype dtype)
{
    *base = (cli_base){0};
    base->model = load_with_head(model, adapters, dtype, &base->ranks);
    return base->model && add_adapters(base, adapters, options);
}

bool cli_base_switch_on(cli_base *base)
{
    if (base->composition.count)
        return cb_composition_use(&base->composition, base->model);
    for (size_t i = 0; cb_ok() && i < base->adapter_count; i++)
        cb_adapter_set_strength(base->adapters[i], base->weights[i]);
    return cb_ok();
}

bool cli_base_open(cli_base *base, const char *model, const cb_string_list *adapters, const cb_string_list *options, cb_dtype dtype)
{
    return cli_base_load(base, model, adapters, options, dtype) && cli_base_switch_on(base);
}

bool cli_embedder_open(cli_call *call, cli_base *base, const char *model, const cb_string_list *adapters, const cb_string_list *options,
                       cb_dtype dtype, int64_t tokens)
{
    *base = (cli_base){.embedder = cb_embedder_load(model, dtype)};
    if (!base->embedder)
        return false;
    base->model = cb_embedder_model(base->embedder);
    if (tokens && !cb_embedder_set_max_tokens(base->embedder, tokens)) {
        cb_error_prefix("max_seq_length");
        cli_blame(call, "max_seq_length");
        return false;
    }
    return add_adapters(base, adapters, options) && cli_base_switch_on(base);
}

void cli_base_close(cli_base *base)
{
    cb_composition_free(&base->composition);
    for (size_t i = base->adapter_count; i-- > 0;)
        cb_adapter_free(base->adapters[i]);
    cb_free(base->adapters);
    cb_free(base->weights);
    cb_string_list_free(&base->names);
    cb_tokenizer_free(base->tokenizer);
    if (base->embedder)
        cb_embedder_free(base->embedder);
    else
        cb_model_free(base->model);
    *base = (cli_base){0};
}

char *cli_text_argument(const char *text, size_t *length)
{
    if (strcmp(text, "-") == 0)
        return cb_file_read("-", (size_t)1 << 30, length);
    *length = strlen(text);
    return cb_strdup(text);
}
