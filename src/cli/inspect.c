/* inspect.c: `cambium inspect`: what a file or directory holds: weights, a model, an adapter, a tokenizer. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cambium/formats.h"
#include "cambium/gguf.h"
#include "cli/cli.h"
#include "core/json.h"
#include "formats/tokenizer_readers.h"

typedef struct settings {
    bool tensors;
} settings;

static const cb_option table[] = {CB_OPT_BOOL(settings, tensors, true, "list the tensors"), CB_OPT_END};
static const cli_group groups[] = {{"What to show", table, 0}, {0}};

/* ---- tensors ---- */

static json_t *tensor_json(const cb_weight_entry *entry)
{
    json_t *shape = json_array();
    for (int i = 0; i < entry->ndim; i++)
        json_array_append_new(shape, json_integer((json_int_t)entry->shape[i]));
    return json_pack("{s:s, s:s, s:o, s:I}", "name", entry->name, "dtype", cb_dtype_name(entry->dtype), "shape", shape, "bytes",
                     (json_int_t)entry->size);
}

/* {"file", "bytes", "tensors": [...]} of a safetensors file or one of torch.save */
static json_t *weights_json(const char *path)
{
    cb_weights *file = cb_weights_open_file(path);
    if (!file)
        return NULL;
    json_t *tensors = json_array();
    for (size_t i = 0; i < cb_weights_count(file); i++)
        json_array_append_new(tensors, tensor_json(cb_weights_at(file, i)));
    cb_weights_close(file);
    struct stat st = {0};
    stat(path, &st);
    return json_pack("{s:s, s:I, s:o}", "file", cb_path_base(path), "bytes", (json_int_t)st.st_size, "tensors", tensors);
}

/* Is it a file of the weights of a model or an adapter ("": of anything), not one of a checkpoint beside them? */
static bool holds_weights(const char *name, const char *prefix)
{
    char pickled[40];
    snprintf(pickled, sizeof pickled, "pytorch_%s", prefix);
    bool named = strncmp(name, prefix, strlen(prefix)) == 0;
    if (cb_ends_with(name, ".safetensors"))
        return named;
    return cb_ends_with(name, ".bin") && *prefix && ((named && *prefix == 'a') || strncmp(name, pickled, strlen(pickled)) == 0);
}

/* model.safetensors, pytorch_model.bin, adapter_model.bin, pytorch_adapter.bin and their like. */
static json_t *all_weights(const char *directory, const char *prefix)
{
    cb_string_list names = {0};
    json_t *files = json_array();
    bool ok = cb_directory_list(directory, false, &names);
    for (size_t i = 0; ok && i < names.count; i++) {
        if (!holds_weights(names.items[i], prefix))
            continue;
        char *path = cb_path_join(directory, names.items[i]);
        json_t *file = path ? weights_json(path) : NULL;
        ok = file;
        json_array_append_new(files, file);
        cb_free(path);
    }
    cb_string_list_free(&names);
    if (ok)
        return files;
    json_decref(files);
    return NULL;
}

/* ---- kinds of path ---- */

static json_t *tokenizer_json(const char *path)
{
    cb_tokenizer *t = cb_tokenizer_load(path);
    if (!t)
        return NULL;
    json_t *result =
        json_pack("{s:I, s:i, s:i, s:i, s:i, s:i, s:b}", "vocabulary", (json_int_t)cb_tokenizer_vocab_size(t), "id_limit",
                  (int)cb_tokenizer_id_limit(t), "bos", (int)cb_tokenizer_bos(t), "eos", (int)cb_tokenizer_eos(t), "unk",
                  (int)cb_tokenizer_unk(t), "pad", (int)cb_tokenizer_pad(t), "chat_template", cb_tokenizer_chat_template(t) != NULL);
    cb_tokenizer_free(t);
    return result;
}

static json_t *json_at(const char *directory, const char *name)
{
    char *path = cb_path_join(directory, name);
    json_t *value = path ? cb_json_load(path, 0) : NULL;
    cb_free(path);
    return value;
}

static bool has(const char *directory, const char *name)
{
    char *path = cb_path_join(directory, name);
    bool found = path && cb_is_file(path);
    cb_free(path);
    return found;
}

static bool put(json_t *result, const char *key, json_t *value)
{
    return value && json_object_set_new(result, key, value) == 0;
}

/* vocab.txt and the like, which may be of a class that this build does not read: the rest is shown all the same. */
static bool put_other_tokenizer(const char *path, json_t *result)
{
    json_t *tokenizer = tokenizer_json(path);
    if (tokenizer)
        return put(result, "tokenizer", tokenizer);
    bool ok = put(result, "tokenizer_refused", json_string(cb_error_message()));
    cb_error_clear();
    return ok;
}

/* The name of a part's directory; NULL and an error when it is none. */
static const char *part_name(const char *path, const json_t *part)
{
    const char *name = json_string_value(json_object_get(part, "name"));
    if (name && *name && *name != '.' && !strchr(name, '/'))
        return name;
    cli_refuse("%s/blend.json: parts: expected a name for each, of a directory beside it", path);
    return NULL;
}

/* {"name", "weight", "config", "files"} */
static json_t *part_json(const char *path, const json_t *part)
{
    const char *name = part_name(path, part);
    char *directory = name ? cb_path_join(path, name) : NULL;
    json_t *config = directory ? json_at(directory, "adapter_config.json") : NULL;
    json_t *files = config ? all_weights(directory, "adapter") : NULL, *weight = json_object_get(part, "weight");
    cb_free(directory);
    if (files)
        return json_pack("{s:s, s:o, s:o, s:o}", "name", name, "weight", weight ? json_incref(weight) : json_real(1), "config", config,
                         "files", files);
    json_decref(config);
    return NULL;
}

/* Several adapters and how they are mixed: blend.json, a directory for each, and what a gate or a mixer has learned. */
static bool inspect_composition(const char *path, json_t *result)
{
    static const char *const learned[] = {"gate.safetensors", "mixer.safetensors"};
    json_t *blend = json_at(path, "blend.json"), *list = json_object_get(blend, "parts"), *parts = json_array(), *files = json_array();
    bool ok = blend && (json_array_size(list) || cli_refuse("%s/blend.json: expected parts", path));
    for (size_t i = 0; ok && i < json_array_size(list); i++) {
        json_t *part = part_json(path, json_array_get(list, i));
        ok = part && json_array_append_new(parts, part) == 0;
    }
    for (int i = 0; ok && i < 2; i++) {
        char *file = has(path, learned[i]) ? cb_path_join(path, learned[i]) : NULL;
        json_t *weights = file ? weights_json(file) : NULL;
        ok = !has(path, learned[i]) || (weights && json_array_append_new(files, weights) == 0);
        cb_free(file);
    }
    ok = ok && put(result, "kind", json_string("composition")) && put(result, "config", json_incref(blend)) &&
         put(result, "parts", json_incref(parts)) && put(result, "files", json_incref(files));
    json_decref(blend);
    json_decref(parts);
    json_decref(files);
    return ok;
}

/* Several adapters in other packages' directories, AdapterHub's fusions and X-LoRA: what their JSON says. */
static bool inspect_foreign(const char *path, json_t *result)
{
    static const char *const names[] = {"adapter_setup.json", "adapter_fusion_config.json", "xlora_config.json", "adapter_config.json"};
    int i = 0;
    while (i < 3 && !has(path, names[i]))
        i++;
    return put(result, "kind", json_string(i < 2 ? "composition of AdapterHub's package" : "composition by X-LoRA")) &&
           put(result, "config", json_at(path, names[i])) && (i < 3 || put(result, "files", all_weights(path, "adapter")));
}

static bool inspect_directory(const char *path, json_t *result)
{
    if (cb_is_composition(path))
        return has(path, "blend.json") ? inspect_composition(path, result) : inspect_foreign(path, result);
    const char *kind = has(path, "adapter_config.json") ? "adapter" : has(path, "config.json") ? "model" : "directory";
    bool ok = put(result, "kind", json_string(kind));
    if (ok && strcmp(kind, "directory") != 0)
        ok = put(result, "config", json_at(path, *kind == 'a' ? "adapter_config.json" : "config.json"));
    if (ok && has(path, "tokenizer.json"))
        ok = put(result, "tokenizer", tokenizer_json(path));
    else if (ok && cb_tokenizer_json_finds(path))
        ok = put_other_tokenizer(path, result);
    ok = ok && put(result, "files", all_weights(path, *kind == 'a' ? "adapter" : *kind == 'm' ? "model" : ""));
    bool nothing = ok && *kind == 'd' && !json_object_get(result, "tokenizer") && json_array_size(json_object_get(result, "files")) == 0;
    return nothing ? cli_refuse("%s: found no config.json, adapter_config.json, tokenizer or *.safetensors in it", path) : ok;
}

/* A scalar of GGUF metadata; of an array how many items it has. */
static json_t *gguf_value(const cb_gguf_value *v)
{
    double number = 0;
    if (v->is_array)
        return json_sprintf("%llu items", (unsigned long long)v->count);
    if (v->text)
        return json_string(v->text);
    cb_gguf_number_at(v, 0, &number);
    return v->type == CB_GGUF_F32 || v->type == CB_GGUF_F64 ? cli_real(number)
           : v->type == CB_GGUF_BOOL                        ? json_boolean(number != 0)
                                                            : json_integer((json_int_t)number);
}

static bool inspect_gguf(const char *path, json_t *result)
{
    cb_gguf *file = cb_gguf_open(path);
    if (!file)
        return false;
    json_t *metadata = json_object(), *tensors = json_array(), *files = json_array();
    for (size_t i = 0; i < cb_gguf_value_count(file); i++)
        json_object_set_new(metadata, cb_gguf_value_at(file, i)->key, gguf_value(cb_gguf_value_at(file, i)));
    for (size_t i = 0; i < cb_gguf_count(file); i++) {
        json_t *tensor = tensor_json(cb_gguf_at(file, i));
        json_object_set_new(tensor, "dtype", json_string(cb_gguf_at(file, i)->type_name));
        json_array_append_new(tensors, tensor);
    }
    const char *type = cb_gguf_string(file, "general.type", "model");
    bool ok = put(result, "kind", json_sprintf("gguf %s", type)) && put(result, "config", metadata);
    bool tokens = cb_gguf_value_find(file, "tokenizer.ggml.tokens") != NULL;
    cb_gguf_close(file);
    struct stat st = {0};
    stat(path, &st);
    json_array_append_new(files,
                          json_pack("{s:s, s:I, s:o}", "file", cb_path_base(path), "bytes", (json_int_t)st.st_size, "tensors", tensors));
    ok = ok && put(result, "files", files);
    return ok && (!tokens || put(result, "tokenizer", tokenizer_json(path)));
}

static bool inspect_file(const char *path, json_t *result)
{
    if (cb_is_gguf(path))
        return inspect_gguf(path, result);
    if (cb_ends_with(path, ".json") || cb_ends_with(path, ".model") || cb_ends_with(path, ".txt"))
        return put(result, "kind", json_string("tokenizer")) && put(result, "tokenizer", tokenizer_json(path));
    json_t *file = weights_json(path), *files = json_array();
    bool ok = file && json_array_append_new(files, file) == 0;
    return put(result, "files", files) && ok && put(result, "kind", json_string("weights"));
}

/* ---- text ---- */

/* The plain fields of a config; what is nested is for --json. */
static void print_config(const json_t *config)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)config, key, value)
    {
        char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(12));
        if (text && !json_is_null(value))
            cli_field(key, "%.300s", text);
        free(text);
    }
}

static void print_tokenizer(const json_t *t)
{
    static const char *const keys[] = {"bos", "eos", "unk", "pad"};
    cli_field("tokenizer", "%lld tokens, ids below %lld", (long long)json_integer_value(json_object_get(t, "vocabulary")),
              (long long)json_integer_value(json_object_get(t, "id_limit")));
    for (int i = 0; i < 4; i++) {
        long long id = (long long)json_integer_value(json_object_get(t, keys[i]));
        if (id >= 0)
            cli_field(keys[i], "%lld", id);
    }
}

static void print_tensors(const json_t *tensors)
{
    cli_table rows = {.columns = 4, .right = "llrr"};
    size_t i;
    const json_t *tensor;
    json_array_foreach(tensors, i, tensor)
    {
        cb_string shape = {0};
        const json_t *list = json_object_get(tensor, "shape");
        int64_t count = 1;
        for (size_t d = 0; d < json_array_size(list); d++) {
            int64_t n = json_integer_value(json_array_get(list, d));
            count *= n;
            cb_string_printf(&shape, "%s%lld", d ? " x " : "", (long long)n);
        }
        cli_table_add(&rows, "%s", json_string_value(json_object_get(tensor, "name")));
        cli_table_add(&rows, "%s", json_string_value(json_object_get(tensor, "dtype")));
        cli_table_add(&rows, "%s", shape.data ? shape.data : "scalar");
        cli_table_add(&rows, "%s", cli_thousands(count));
        cb_string_free(&shape);
    }
    cli_table_print(&rows);
}

/* Elements of all tensors. */
static int64_t elements(const json_t *files)
{
    int64_t sum = 0;
    size_t i, k, d;
    const json_t *file, *tensor, *n;
    json_array_foreach(files, i, file) json_array_foreach(json_object_get(file, "tensors"), k, tensor)
    {
        int64_t count = 1;
        json_array_foreach(json_object_get(tensor, "shape"), d, n) count *= json_integer_value(n);
        sum += count;
    }
    return sum;
}

static void print_files(const json_t *files, bool tensors)
{
    size_t i;
    const json_t *file;
    json_array_foreach(files, i, file)
    {
        const json_t *list = json_object_get(file, "tensors");
        cli_field("file", "%s, %s, %zu tensors", json_string_value(json_object_get(file, "file")),
                  cli_bytes((uint64_t)json_integer_value(json_object_get(file, "bytes"))), json_array_size(list));
        if (tensors)
            print_tensors(list);
    }
}

static void print_parts(const json_t *parts, bool tensors)
{
    size_t i;
    const json_t *part;
    json_array_foreach(parts, i, part)
    {
        const char *kind = json_string_value(json_object_get(json_object_get(part, "config"), "peft_type"));
        cli_field("part", "%s: %s, weight %g, %s elements", json_string_value(json_object_get(part, "name")),
                  kind ? kind : "of no known kind", json_number_value(json_object_get(part, "weight")),
                  cli_thousands(elements(json_object_get(part, "files"))));
        print_files(json_object_get(part, "files"), tensors);
    }
}

static void print_text(const json_t *result, bool tensors)
{
    cli_field("kind", "%s", json_string_value(json_object_get(result, "kind")));
    print_config(json_object_get(result, "config"));
    if (json_object_get(result, "tokenizer"))
        print_tokenizer(json_object_get(result, "tokenizer"));
    if (json_object_get(result, "tokenizer_refused"))
        cli_field("tokenizer", "refused: %s", json_string_value(json_object_get(result, "tokenizer_refused")));
    const json_t *files = json_object_get(result, "files");
    print_parts(json_object_get(result, "parts"), tensors);
    if (json_array_size(files))
        cli_field("elements", "%s", cli_thousands(elements(files)));
    print_files(files, tensors);
}

/* ---- the command ---- */

static bool run(cli_call *call, void *settings_)
{
    const settings *s = settings_;
    const char *path = call->arguments[0];
    json_t *result = json_pack("{s:s}", "path", path);
    bool ok = cb_is_directory(path) ? inspect_directory(path, result) : inspect_file(path, result);
    if (ok && call->common.json)
        return cli_json(result);
    if (ok)
        print_text(result, s->tensors);
    json_decref(result);
    return ok;
}

const cli_command cli_inspect = {
    .name = "inspect",
    .summary = "show what a model, adapter, composition, tokenizer or file of weights holds",
    .synopsis = "PATH [options]",
    .description =
        "PATH is a directory of a model, an adapter or several composed, a safetensors or GGUF file, one of torch.save (.bin, .pt, .pth), "
        "or a tokenizer.json, "
        "vocab.json, vocab.txt or SentencePiece model. Files are checked as they are when they are used: a damaged one is an error "
        "that names the field.",
    .least = 1,
    .most = 1,
    .settings_size = sizeof(settings),
    .groups = groups,
    .examples = (const char *const[]){"cambium inspect models/base", "cambium inspect out/adapter --no-tensors",
                                      "cambium inspect model.safetensors --json", NULL},
    .run = run};
