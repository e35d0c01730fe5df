/* tokenizer.c: reading a tokenizer.json and the files beside it, and what the tokenizer knows about its vocabulary. */
#include "cambium/tokenizer.h"

#include <pthread.h>
#include <string.h>

#include "core/json.h"
#include "formats/gguf_model.h"
#include "formats/tokenizer_parts.h"
#include "formats/tokenizer_readers.h"
#include "formats/tokenizer_unicode.h"

static const size_t json_limit = (size_t)1 << 30;
enum { max_padding = 1 << 24 };

const cb_model_kind *const cb_model_kinds[] = {&cb_model_bpe, &cb_model_wordpiece, &cb_model_wordlevel, &cb_model_unigram, NULL};

/* ---- Parsing ---- */

static CB_COLD bool unknown_model(const cb_tokenizer *t, const char *type)
{
    cb_string known = {0};
    for (const cb_model_kind *const *kind = cb_model_kinds; *kind; kind++)
        if (!cb_string_printf(&known, "%s%s", known.length ? ", " : "", (*kind)->type))
            break;
    cb_fail(CB_ERR_UNSUPPORTED, "%s: a model of type \"%s\" is not supported; known: %s", t->what, type ? type : "(none)",
            known.data ? known.data : "");
    cb_string_free(&known);
    return false;
}

static bool parse_model(cb_tokenizer *t, const json_t *object, const char *nul)
{
    static const cb_role role = {"model", "", NULL};
    if (!json_is_object(object))
        return cb_fail(CB_ERR_FORMAT, "%s: \"model\" must be an object", t->what), false;
    const char *type = json_string_value(json_object_get(object, "type"));
    for (const cb_model_kind *const *kind = cb_model_kinds; *kind && !t->model.kind; kind++)
        if (type ? strcmp((*kind)->type, type) == 0 : (*kind)->fits(object))
            t->model.kind = *kind;
    if (!t->model.kind)
        return unknown_model(t, type);
    t->model.unknown = -1;
    t->model.state = cb_calloc(1, t->model.kind->state_size);
    cb_source source = {.what = t->what, .role = &role, .type = t->model.kind->type, .nul = *nul ? nul : NULL};
    return t->model.state && t->model.kind->parse(&t->model, &source, object, &t->vocab);
}

static bool parse_truncation(cb_tokenizer *t, const json_t *object)
{
    static const cb_role role = {"truncation", "", NULL};
    cb_source source = {.what = t->what, .role = &role};
    if (!object || json_is_null(object))
        return true;
    const char *strategy = json_string_value(json_object_get(object, "strategy"));
    const char *direction = json_string_value(json_object_get(object, "direction"));
    uint32_t max_length, stride;
    if (!cb_source_count(&source, object, "max_length", 512, &max_length) || !cb_source_count(&source, object, "stride", 0, &stride))
        return false;
    t->truncates = true;
    t->truncation = (cb_truncation){.max_length = max_length,
                                    .stride = stride,
                                    .strategy = !strategy                         ? CB_TRUNCATE_LONGEST_FIRST
                                                : !strcmp(strategy, "OnlyFirst")  ? CB_TRUNCATE_ONLY_FIRST
                                                : !strcmp(strategy, "OnlySecond") ? CB_TRUNCATE_ONLY_SECOND
                                                                                  : CB_TRUNCATE_LONGEST_FIRST,
                                    .left = direction && !strcmp(direction, "Left")};
    return true;
}

static bool parse_padding(cb_tokenizer *t, const json_t *object)
{
    static const cb_role role = {"padding", "", NULL};
    cb_source source = {.what = t->what, .role = &role};
    if (!object || json_is_null(object))
        return true;
    const json_t *strategy = json_object_get(object, "strategy");
    const char *direction = json_string_value(json_object_get(object, "direction"));
    uint32_t id, fixed = 0, multiple, type_id;
    if (!cb_source_count(&source, object, "pad_to_multiple_of", 0, &multiple) || !cb_source_count(&source, object, "pad_id", 0, &id) ||
        !cb_source_count(&source, object, "pad_type_id", 0, &type_id) ||
        (json_is_object(strategy) && !cb_source_count(&source, strategy, "Fixed", 0, &fixed)))
        return false;
    if (fixed > max_padding || multiple > max_padding)
        return cb_fail(CB_ERR_FORMAT, "%s: padding: to more than %d tokens", t->what, max_padding), false;
    if (id > INT32_MAX)
        return cb_source_fail(&source, "pad_id", "a token id");
    t->pads = true;
    t->padding = (cb_padding){.length = fixed,
                              .longest = !json_is_object(strategy),
                              .multiple = multiple,
                              .id = (int32_t)id,
                              .type_id = (uint8_t)type_id,
                              .left = direction && !strcmp(direction, "Left")};
    return true;
}

/* Does a post-processor trim spans?  Then every token's leading and trailing white space is counted once. */
static bool count_spaces(cb_tokenizer *t)
{
    t->trims = true;
    t->lead = cb_calloc(t->vocab.id_limit + 1, sizeof *t->lead);
    t->trail = cb_calloc(t->vocab.id_limit + 1, sizeof *t->trail);
    if (!t->lead || !t->trail)
        return false;
    for (size_t id = 0; id < t->vocab.id_limit; id++) {
        size_t length;
        const char *text = cb_vocab_text(&t->vocab, (int32_t)id, &length);
        if (text)
            cb_count_spaces(text, length, &t->lead[id], &t->trail[id]);
    }
    return true;
}

static bool parse_parts(cb_tokenizer *t, const json_t *root, const char *nul)
{
    const char *version = json_string_value(json_object_get(root, "version"));
    if (!json_is_object(root))
        return cb_fail(CB_ERR_FORMAT, "%s: a tokenizer must be a JSON object", t->what), false;
    if (version && strcmp(version, "1.0") != 0)
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: tokenizer version \"%s\"; this build reads \"1.0\"", t->what, version), false;
    const struct {
        const cb_role *role;
        cb_component *component;
    } parts[] = {{&cb_normalizer_role, &t->normalizer},
                 {&cb_pre_tokenizer_role, &t->pre_tokenizer},
                 {&cb_post_processor_role, &t->post_processor},
                 {&cb_decoder_role, &t->decoder}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        cb_source source = {.what = t->what, .role = parts[i].role};
        if (!cb_component_parse(parts[i].component, &source, json_object_get(root, parts[i].role->name)))
            return false;
    }
    return parse_model(t, json_object_get(root, "model"), nul) && parse_truncation(t, json_object_get(root, "truncation")) &&
           parse_padding(t, json_object_get(root, "padding")) && (!t->post_processor.kind || count_spaces(t)) &&
           cb_added_parse(t, t->what, json_object_get(root, "added_tokens"));
}

static bool make_lock(cb_tokenizer *t)
{
    t->lock = cb_alloc(sizeof(pthread_mutex_t));
    return t->lock && (pthread_mutex_init(t->lock, NULL) == 0 || (cb_fail(CB_ERR_MEMORY, "no mutex"), false));
}

/* ---- The files beside it ---- */

/* "<s>" or {"content": "<s>", ...}; NULL for anything else. */
static const char *token_content(const json_t *value)
{
    return json_is_object(value) ? json_string_value(json_object_get(value, "content")) : json_string_value(value);
}

static void read_specials(cb_tokenizer *t, const json_t *object)
{
    const struct {
        const char *key;
        int32_t *id;
    } specials[] = {
        {"bos_token", &t->bos}, {"eos_token", &t->eos}, {"pad_token", &t->pad}, {"unk_token", &t->unk}, {"mask_token", &t->mask}};
    for (size_t i = 0; i < sizeof specials / sizeof *specials; i++) {
        const char *content = token_content(json_object_get(object, specials[i].key));
        if (content && *specials[i].id < 0)
            *specials[i].id = cb_tokenizer_id(t, content);
    }
}

/* The last one of a name counts. */
static bool add_template(cb_tokenizer *t, const char *name, const char *text)
{
    return cb_string_list_add(&t->chat_names, name) && cb_string_list_add(&t->chat_templates, text);
}

/* A string, or a list of {name, template}. */
static bool read_templates(cb_tokenizer *t, const json_t *value)
{
    if (json_is_string(value))
        return add_template(t, "default", json_string_value(value));
    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *entry = json_array_get(value, i);
        const char *name = json_string_value(json_object_get(entry, "name")), *text = json_string_value(json_object_get(entry, "template"));
        if (text && !add_template(t, name ? name : "default", text))
            return false;
    }
    return true;
}

static int read_tristate(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_boolean(value) ? json_is_true(value) : -1;
}

static bool read_config(cb_tokenizer *t, const json_t *config)
{
    read_specials(t, config);
    t->add_bos = read_tristate(config, "add_bos_token");
    t->add_eos = read_tristate(config, "add_eos_token");
    const json_t *length = json_object_get(config, "model_max_length");
    double number = json_number_value(length); /* absent limits are written as 1e30 */
    if (json_is_number(length) && number >= 1 && number < 1e15)
        t->model_max_length = (int64_t)number;
    return read_templates(t, json_object_get(config, "chat_template"));
}

/* Reads a JSON object beside the tokenizer; *out stays NULL when there is none. */
static bool read_beside(const char *directory, const char *name, json_t **out)
{
    char *path = cb_path_join(directory, name);
    if (!path)
        return false;
    bool ok = true;
    if (cb_is_file(path)) {
        *out = cb_json_load(path, 0);
        ok = *out != NULL;
        if (ok && !json_is_object(*out))
            ok = (cb_fail(CB_ERR_FORMAT, "%s: must be a JSON object", path), false);
    }
    cb_free(path);
    return ok;
}

static bool read_template_file(cb_tokenizer *t, const char *directory, const char *file, const char *name)
{
    char *path = cb_path_join(directory, file);
    char *text = path && cb_is_file(path) ? cb_file_read(path, (size_t)16 << 20, NULL) : NULL;
    bool ok = cb_ok() && path && (!text || add_template(t, name, text));
    cb_free(text);
    cb_free(path);
    return ok;
}

static bool read_template_directory(cb_tokenizer *t, const char *directory)
{
    char *path = cb_path_join(directory, "additional_chat_templates");
    cb_string_list files = {0};
    bool ok = path && (!cb_is_directory(path) || cb_directory_list(path, false, &files));
    for (size_t i = 0; ok && i < files.count; i++) {
        const char *base = cb_path_base(files.items[i]);
        char *name = cb_ends_with(base, ".jinja") ? cb_strndup(base, strlen(base) - strlen(".jinja")) : NULL;
        ok = cb_ok() && (!name || read_template_file(t, path, base, name));
        cb_free(name);
    }
    cb_string_list_free(&files);
    cb_free(path);
    return ok;
}

static bool read_settings(cb_tokenizer *t, const char *directory, const json_t *config, const json_t *specials)
{
    if (config && !read_config(t, config))
        return false;
    if (specials)
        read_specials(t, specials);
    json_t *chat = NULL; /* later files count before earlier ones */
    bool ok = read_beside(directory, "chat_template.json", &chat) && (!chat || read_templates(t, json_object_get(chat, "chat_template")));
    json_decref(chat);
    return ok && read_template_file(t, directory, "chat_template.jinja", "default") && read_template_directory(t, directory);
}

/* ---- Loading and saving ---- */

/* Takes `source`, the text of root; nul: see cb_source. */
static cb_tokenizer *from_parts(const char *what, const json_t *root, const char *nul, char *source, size_t length)
{
    cb_tokenizer *t = source ? cb_calloc(1, sizeof *t) : NULL;
    if (!t) {
        cb_free(source);
        return NULL;
    }
    t->bos = t->eos = t->pad = t->unk = t->mask = t->add_bos = t->add_eos = -1;
    t->source = source;
    t->source_length = length;
    t->what = cb_strdup(what);
    if (t->what && make_lock(t) && parse_parts(t, root, nul))
        return t;
    cb_tokenizer_free(t);
    return NULL;
}

cb_tokenizer *cb_tokenizer_parse(const char *what, const char *json, size_t length)
{
    if (length > json_limit)
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: %zu bytes of JSON; the most is %zu", what, length, json_limit), NULL;
    cb_unicode_prepare();
    char nul[4];
    json_t *root = cb_json_parse_nul_keys(what, json, length, nul);
    cb_tokenizer *t = root ? from_parts(what, root, nul, cb_strndup(json, length), length) : NULL;
    json_decref(root);
    return t;
}

cb_tokenizer *cb_tokenizer_of_json(const char *what, const json_t *root)
{
    cb_unicode_prepare();
    char *source = cb_json_dump(root, false);
    return from_parts(what, root, "", source, source ? strlen(source) : 0);
}

cb_tokenizer *cb_tokenizer_parse_sentencepiece(const char *what, const void *bytes, size_t length)
{
    json_t *root = cb_tokenizer_json_of_sentencepiece(what, bytes, length, NULL, NULL);
    cb_tokenizer *t = root ? cb_tokenizer_of_json(what, root) : NULL;
    json_decref(root);
    return t;
}

static cb_tokenizer *load_json(const char *file)
{
    size_t length;
    char *json = cb_file_read(file, json_limit, &length);
    cb_tokenizer *t = json ? cb_tokenizer_parse(file, json, length) : NULL;
    cb_free(json);
    return t;
}

static cb_tokenizer *load_other(const char *path, const json_t *config, const json_t *specials)
{
    json_t *root = cb_tokenizer_json_of_path(path, config, specials);
    cb_tokenizer *t = root ? cb_tokenizer_of_json(path, root) : NULL;
    json_decref(root);
    return t;
}

static cb_tokenizer *load_directory(const char *path)
{
    json_t *config = NULL, *specials = NULL;
    char *file = cb_path_join(path, "tokenizer.json");
    bool ok = file && read_beside(path, "tokenizer_config.json", &config) && read_beside(path, "special_tokens_map.json", &specials);
    cb_tokenizer *t = !ok                                                  ? NULL
                      : !cb_is_file(file) && cb_tokenizer_json_finds(path) ? load_other(path, config, specials)
                                                                           : load_json(file);
    if (t && !read_settings(t, path, config, specials)) {
        cb_tokenizer_free(t);
        t = NULL;
    }
    json_decref(config);
    json_decref(specials);
    cb_free(file);
    return t;
}

/* The tokenizer within a GGUF file. */
static cb_tokenizer *load_gguf(const char *path)
{
    cb_gguf *file = cb_gguf_open(path);
    json_t *root = file ? cb_gguf_tokenizer(file) : NULL, *config = root ? cb_gguf_tokenizer_config(file) : NULL;
    cb_tokenizer *t = config ? cb_tokenizer_of_json(path, root) : NULL;
    if (t && !read_config(t, config)) {
        cb_tokenizer_free(t);
        t = NULL;
    }
    json_decref(config);
    json_decref(root);
    cb_gguf_close(file);
    return t;
}

cb_tokenizer *cb_tokenizer_load(const char *path)
{
    if (cb_is_directory(path))
        return load_directory(path);
    if (cb_is_gguf(path))
        return load_gguf(path);
    bool other =
        cb_ends_with(path, ".model") || cb_ends_with(path, ".txt") || cb_ends_with(path, "/vocab.json") || strcmp(path, "vocab.json") == 0;
    return other ? load_other(path, NULL, NULL) : load_json(path);
}

void cb_tokenizer_free(cb_tokenizer *t)
{
    if (!t)
        return;
    cb_work_free_all(t);
    cb_component_free(&t->normalizer);
    cb_component_free(&t->pre_tokenizer);
    cb_component_free(&t->post_processor);
    cb_component_free(&t->decoder);
    if (t->model.state && t->model.kind->release)
        t->model.kind->release(t->model.state);
    cb_free(t->model.state);
    cb_vocab_free(&t->vocab);
    cb_added_free(&t->added);
    if (t->lock)
        pthread_mutex_destroy(t->lock);
    cb_free(t->lock);
    cb_free(t->lead);
    cb_free(t->trail);
    cb_string_list_free(&t->chat_names);
    cb_string_list_free(&t->chat_templates);
    cb_free(t->source);
    cb_free(t->what);
    cb_free(t);
}

bool cb_tokenizer_save(const cb_tokenizer *t, const char *path)
{
    return cb_file_write(path, t->source, t->source_length);
}

/* ---- Vocabulary ---- */

size_t cb_tokenizer_vocab_size(const cb_tokenizer *t)
{
    size_t size = t->vocab.listed;
    for (size_t i = 0; i < t->added.vocab.count; i++) {
        const char *text = t->added.vocab.pool + t->added.vocab.starts[i];
        size += cb_vocab_find(&t->vocab, text, t->added.vocab.lengths[i]) < 0;
    }
    return size;
}

int32_t cb_tokenizer_id_limit(const cb_tokenizer *t)
{
    int32_t limit = (int32_t)t->vocab.id_limit;
    for (size_t i = 0; i < t->added.count; i++)
        if (t->added.items[i].id >= limit)
            limit = t->added.items[i].id + 1;
    return limit;
}

int32_t cb_tokenizer_id(const cb_tokenizer *t, const char *token)
{
    size_t length = strlen(token);
    int32_t id = cb_vocab_find(&t->added.vocab, token, length);
    return id >= 0 ? id : cb_vocab_find(&t->vocab, token, length);
}

const char *cb_tokenizer_token(const cb_tokenizer *t, int32_t id)
{
    const cb_added_token *added = cb_added_get(&t->added, id);
    size_t length;
    return added ? added->content : cb_vocab_text(&t->vocab, id, &length);
}

bool cb_tokenizer_is_special(const cb_tokenizer *t, int32_t id)
{
    const cb_added_token *added = cb_added_get(&t->added, id);
    return added && added->special;
}

bool cb_tokenizer_truncation(const cb_tokenizer *t, cb_truncation *out)
{
    *out = t->truncation;
    return t->truncates;
}
bool cb_tokenizer_padding(const cb_tokenizer *t, cb_padding *out)
{
    *out = t->padding;
    return t->pads;
}
int32_t cb_tokenizer_bos(const cb_tokenizer *t)
{
    return t->bos;
}
int32_t cb_tokenizer_eos(const cb_tokenizer *t)
{
    return t->eos;
}
int32_t cb_tokenizer_pad(const cb_tokenizer *t)
{
    return t->pad;
}
int32_t cb_tokenizer_unk(const cb_tokenizer *t)
{
    return t->unk;
}
int32_t cb_tokenizer_mask(const cb_tokenizer *t)
{
    int32_t usual = t->mask < 0 ? cb_tokenizer_id(t, "[MASK]") : t->mask;
    return usual < 0 ? cb_tokenizer_id(t, "<mask>") : usual;
}
int cb_tokenizer_add_bos(const cb_tokenizer *t)
{
    return t->add_bos;
}
int cb_tokenizer_add_eos(const cb_tokenizer *t)
{
    return t->add_eos;
}
const char *cb_tokenizer_chat_template(const cb_tokenizer *t)
{
    const char *found = cb_tokenizer_chat_template_named(t, "default");
    return found || !t->chat_templates.count ? found : t->chat_templates.items[0];
}
const char *cb_tokenizer_chat_template_named(const cb_tokenizer *t, const char *name)
{
    for (size_t i = t->chat_names.count; i-- > 0;)
        if (strcmp(t->chat_names.items[i], name) == 0)
            return t->chat_templates.items[i];
    return NULL;
}
int64_t cb_tokenizer_model_max_length(const cb_tokenizer *t)
{
    return t->model_max_length;
}
void cb_tokenizer_seed(cb_tokenizer *t, uint64_t seed)
{
    t->seed = seed;
}
