/* match.c: which layers an adapter hits, by PEFT's rules (peft/tuners/tuners_utils.py: check_target_module_exists,
 * _maybe_include_all_linear_layers; peft/utils/other.py: get_pattern_key, _set_trainable):
 *
 * 1. exclude_modules: a pattern matches the whole name; a list item is the name or what follows one of its dots to the end.
 * 2. A layer that is, or lies under, one of modules_to_save is never hit, but a classifier that the kind chooses itself.
 * 3. target_modules: as 1, or "all-linear".
 * 4. A list item that is not the whole name counts only when the first number in the name is among layers_to_transform.
 *
 * A layer whose module transformers 5 calls otherwise than files do goes by either name: an adapter has one naming or the other.
 *
 * Patterns come from files of strangers: their size, their depth and the work they may cause are bounded. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "adapters/internal.h"
#include "core/regex.h"

#define PATTERN_MAX_LENGTH  8192
#define PATTERN_MATCH_LIMIT 200000 /* calls of the matcher a name; ordinary patterns need some hundred */
#define PATTERN_HEAP_KIB    4096

/* ---- patterns ---- */

struct cb_name_pattern {
    pcre2_general_context *memory;
    pcre2_match_context *limits;
    pcre2_match_data *match;
    pcre2_code *code;
    char *field, *text;
};

void cb_name_pattern_free(cb_name_pattern *pattern)
{
    if (!pattern)
        return;
    pcre2_match_data_free(pattern->match);
    pcre2_code_free(pattern->code);
    pcre2_match_context_free(pattern->limits);
    pcre2_general_context_free(pattern->memory);
    cb_free(pattern->field);
    cb_free(pattern->text);
    cb_free(pattern);
}

static bool pattern_compile(cb_name_pattern *pattern)
{
    pattern->memory = cb_regex_memory();
    pcre2_compile_context *compile = pattern->memory ? pcre2_compile_context_create(pattern->memory) : NULL;
    if (!compile)
        return cb_fail(CB_ERR_MEMORY, "no memory for a regular expression") == CB_OK;
    pcre2_set_parens_nest_limit(compile, 100);
    int error = 0;
    PCRE2_SIZE where = 0;
    pattern->code = pcre2_compile((PCRE2_SPTR)pattern->text, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error,
                                  &where, compile);
    pcre2_compile_context_free(compile);
    if (!pattern->code) {
        PCRE2_UCHAR why[128] = "";
        pcre2_get_error_message(error, why, sizeof why);
        cb_fail(CB_ERR_ARGUMENT, "%s: '%.200s' is not a regular expression: %s at character %zu", pattern->field, pattern->text,
                (const char *)why, (size_t)where);
        return false;
    }
    pattern->limits = pcre2_match_context_create(pattern->memory);
    pattern->match = pcre2_match_data_create_from_pattern(pattern->code, pattern->memory);
    if (!pattern->limits || !pattern->match)
        return cb_fail(CB_ERR_MEMORY, "no memory for a regular expression") == CB_OK;
    pcre2_set_match_limit(pattern->limits, PATTERN_MATCH_LIMIT);
    pcre2_set_heap_limit(pattern->limits, PATTERN_HEAP_KIB);
    return true;
}

cb_name_pattern *cb_name_pattern_new(const char *field, const char *text)
{
    size_t length = strlen(text);
    if (length > PATTERN_MAX_LENGTH) {
        cb_fail(CB_ERR_ARGUMENT, "%s: found a regular expression of %zu characters, expected at most %d", field, length,
                PATTERN_MAX_LENGTH);
        return NULL;
    }
    cb_name_pattern *pattern = cb_calloc(1, sizeof *pattern);
    if (!pattern)
        return NULL;
    pattern->field = cb_strdup(field);
    pattern->text = cb_strdup(text);
    if (!pattern->field || !pattern->text || !pattern_compile(pattern)) {
        cb_name_pattern_free(pattern);
        return NULL;
    }
    return pattern;
}

int cb_name_pattern_test(const cb_name_pattern *pattern, const char *subject, bool whole)
{
    uint32_t options = PCRE2_ANCHORED | (whole ? PCRE2_ENDANCHORED : 0);
    int found = pcre2_match(pattern->code, (PCRE2_SPTR)subject, strlen(subject), 0, options, pattern->match, pattern->limits);
    if (found >= 0)
        return 1;
    if (found == PCRE2_ERROR_NOMATCH)
        return 0;
    PCRE2_UCHAR why[128] = "";
    pcre2_get_error_message(found, why, sizeof why);
    cb_fail(CB_ERR_ARGUMENT, "%s: the regular expression '%.200s' cannot be matched against %s: %s", pattern->field, pattern->text, subject,
            (const char *)why);
    return -1;
}

/* The group `idx` of the last match as a number; -1 when it is none or does not fit. */
static int64_t pattern_index(const cb_name_pattern *pattern)
{
    char digits[20];
    PCRE2_SIZE length = sizeof digits;
    if (pcre2_substring_copy_byname(pattern->match, (PCRE2_SPTR) "idx", (PCRE2_UCHAR *)digits, &length) != 0)
        return -1;
    char *end;
    int64_t value = strtoll(digits, &end, 10);
    return *end == 0 ? value : -1;
}

bool cb_is_pattern_text(const char *text)
{
    return strpbrk(text, "\\^$*+?()[]{}|") != NULL;
}

/* (.*\.)?(K)$ for a K of plain characters, in which a dot stands for any character. */
static bool plain_key_matches(const char *key, const char *name)
{
    size_t key_length = strlen(key), length = strlen(name);
    if (key_length > length || (key_length < length && name[length - key_length - 1] != '.'))
        return false;
    name += length - key_length;
    for (size_t i = 0; i < key_length; i++)
        if (key[i] != '.' && key[i] != name[i])
            return false;
    return true;
}

static int key_matches(const char *option, const char *key, const char *name)
{
    if (!cb_is_pattern_text(key))
        return plain_key_matches(key, name);
    char *text = cb_format("(.*\\.)?(%s)$", key);
    cb_name_pattern *pattern = text ? cb_name_pattern_new(option, text) : NULL;
    int found = pattern ? cb_name_pattern_test(pattern, name, false) : -1;
    cb_name_pattern_free(pattern);
    cb_free(text);
    return found;
}

/* names: of one layer, which ends with NULL. */
static bool first_value(const cb_option_map *map, const char *option, const char *const *names, double *value)
{
    for (size_t i = 0; i < map->count; i++)
        for (int n = 0; names[n]; n++) {
            int found = key_matches(option, map->keys[i], names[n]);
            if (found < 0)
                return false;
            if (found) {
                *value = map->values[i];
                return true;
            }
        }
    return true;
}

bool cb_pattern_of_name(const cb_option_map *map, const char *option, const char *name, double *value)
{
    return first_value(map, option, (const char *const[]){name, NULL}, value);
}

bool cb_adapter_pattern(const cb_option_map *map, const char *option, const cb_layer *layer, double *value)
{
    return first_value(map, option, (const char *const[]){layer->name, layer->module_name, NULL}, value);
}

const char *cb_filed_name(const cb_adapter *adapter, const cb_layer *layer)
{
    return adapter->by_modules ? cb_layer_module_name(layer) : layer->name;
}

/* ---- the matcher: an adapter's target options, compiled ---- */

typedef struct cb_matcher {
    const cb_adapter *adapter;
    const cb_string_list *targets;
    bool all_linear, all_hosts, is_pattern;
    bool by_modules; /* layers go by the names of their modules */
    cb_name_pattern *target, *exclude;
    cb_name_pattern **saved;  /* one per modules_to_save */
    cb_name_pattern **layers; /* one per layers_pattern, or one for any */
    size_t layers_count;
    int64_t *numbers; /* layers_to_transform */
    bool *used;       /* one per target item: some layer was hit by it */
    cb_layer **hits;
    size_t hit_count, hit_capacity, excluded;
    cb_string_list near; /* last parts of names of layers the kind can sit on, for messages */
} cb_matcher;

static void matcher_free(cb_matcher *m)
{
    cb_name_pattern_free(m->target);
    cb_name_pattern_free(m->exclude);
    for (size_t i = 0; m->saved && i < m->adapter->target.modules_to_save.count; i++)
        cb_name_pattern_free(m->saved[i]);
    for (size_t i = 0; m->layers && i < m->layers_count; i++)
        cb_name_pattern_free(m->layers[i]);
    cb_free(m->saved);
    cb_free(m->layers);
    cb_free(m->numbers);
    cb_free(m->used);
    cb_free(m->hits);
    cb_string_list_free(&m->near);
}

static cb_name_pattern *pattern_format(const char *field, const char *before, const char *middle, const char *after)
{
    char *text = cb_format("%s%s%s", before, middle, after);
    cb_name_pattern *pattern = text ? cb_name_pattern_new(field, text) : NULL;
    cb_free(text);
    return pattern;
}

static bool matcher_layer_numbers(cb_matcher *m)
{
    const cb_target *target = &m->adapter->target;
    const cb_string_list *numbers = &target->layers_to_transform, *patterns = &target->layers_pattern;
    if (patterns->count && !numbers->count)
        return cb_fail(CB_ERR_ARGUMENT, "layers_pattern: found without layers_to_transform, which says which layers") == CB_OK;
    if (!numbers->count)
        return true;
    if (m->is_pattern || m->all_linear || m->all_hosts)
        return cb_fail(CB_ERR_ARGUMENT, "layers_to_transform: expected only with a list of names in target_modules, found '%.200s'",
                       m->targets->items[0]) == CB_OK;
    m->numbers = cb_calloc(numbers->count, sizeof *m->numbers);
    if (!m->numbers)
        return false;
    for (size_t i = 0; i < numbers->count; i++) {
        char *end;
        m->numbers[i] = strtoll(numbers->items[i], &end, 10);
        if (end == numbers->items[i] || *end || m->numbers[i] < 0)
            return cb_fail(CB_ERR_ARGUMENT, "layers_to_transform: found '%.100s', expected layer numbers", numbers->items[i]) == CB_OK;
    }
    m->layers_count = patterns->count ? patterns->count : 1;
    m->layers = cb_calloc(m->layers_count, sizeof *m->layers);
    if (!m->layers)
        return false;
    /* lazy, so that the first number counts and not that of an expert further down */
    if (!patterns->count)
        m->layers[0] = cb_name_pattern_new("layers_to_transform", ".*?\\.[^.]*\\.(?P<idx>\\d+)\\.");
    for (size_t i = 0; i < patterns->count; i++)
        if (!(m->layers[i] = pattern_format("layers_pattern", "(?:^|.*?\\.)", patterns->items[i], "\\.(?P<idx>\\d+)\\.")))
            return false;
    return m->layers[0] != NULL;
}

static bool matcher_init(cb_matcher *m, const cb_adapter *adapter, const cb_string_list *targets, bool is_pattern)
{
    const cb_target *target = &adapter->target;
    *m = (cb_matcher){.adapter = adapter, .targets = targets, .is_pattern = is_pattern};
    m->all_linear = targets->count == 1 && strcasecmp(targets->items[0], "all-linear") == 0;
    m->all_hosts = targets->count == 1 && strcmp(targets->items[0], CB_EVERY_HOST) == 0;
    if (is_pattern && targets->count != 1)
        return cb_fail(CB_ERR_ARGUMENT, "target_modules: found %zu patterns, expected one", targets->count) == CB_OK;
    if (is_pattern && !m->all_linear && !m->all_hosts && !(m->target = cb_name_pattern_new("target_modules", targets->items[0])))
        return false;
    if (target->exclude_is_pattern && target->exclude_modules.count &&
        !(m->exclude = cb_name_pattern_new("exclude_modules", target->exclude_modules.items[0])))
        return false;
    if (target->modules_to_save.count && !(m->saved = cb_calloc(target->modules_to_save.count, sizeof *m->saved)))
        return false;
    for (size_t i = 0; i < target->modules_to_save.count; i++)
        if (!(m->saved[i] = pattern_format("modules_to_save", "(^|.*\\.)", target->modules_to_save.items[i], "($|\\..*)")))
            return false;
    m->used = cb_calloc(targets->count ? targets->count : 1, sizeof *m->used);
    return m->used && matcher_layer_numbers(m);
}

static bool ends_with_item(const char *name, const char *item)
{
    size_t length = strlen(name), item_length = strlen(item);
    return length > item_length && name[length - item_length - 1] == '.' && cb_ends_with(name, item);
}

static bool is_or_ends_with(const char *name, const char *item)
{
    return strcmp(name, item) == 0 || ends_with_item(name, item);
}

bool cb_layer_is_listed(const cb_layer *layer, const cb_string_list *names)
{
    for (size_t i = 0; i < names->count; i++)
        if (is_or_ends_with(layer->name, names->items[i]) || is_or_ends_with(cb_layer_module_name(layer), names->items[i]))
            return true;
    return false;
}

/* The kind has a place on a classifier, whether that is trained whole or not. */
static bool is_chosen_classifier(const cb_matcher *m, const cb_layer *layer)
{
    const cb_adapter_kind *kind = m->adapter->kind;
    return layer->classifies && kind->chooses && kind->chooses(m->adapter->config, layer);
}

/* 1 excluded, 0 not, -1 an error */
static int matcher_excludes_name(const cb_matcher *m, const char *name, bool if_saved)
{
    const cb_target *target = &m->adapter->target;
    if (m->exclude) {
        int found = cb_name_pattern_test(m->exclude, name, true);
        if (found)
            return found;
    }
    for (size_t i = 0; !m->exclude && i < target->exclude_modules.count; i++)
        if (is_or_ends_with(name, target->exclude_modules.items[i]))
            return 1;
    for (size_t i = 0; if_saved && i < target->modules_to_save.count; i++) {
        int found = cb_name_pattern_test(m->saved[i], name, false);
        if (found)
            return found;
    }
    return 0;
}

static int matcher_excludes(const cb_matcher *m, const cb_layer *layer)
{
    bool if_saved = !is_chosen_classifier(m, layer);
    int found = matcher_excludes_name(m, layer->name, if_saved);
    return found || !layer->module_name ? found : matcher_excludes_name(m, layer->module_name, if_saved);
}

/* The first pattern that matches gives the layer number. */
static int matcher_number_fits(const cb_matcher *m, const char *name)
{
    for (size_t i = 0; i < m->layers_count; i++) {
        int found = cb_name_pattern_test(m->layers[i], name, false);
        if (found < 0)
            return -1;
        if (!found)
            continue;
        int64_t number = pattern_index(m->layers[i]);
        for (size_t k = 0; k < m->adapter->target.layers_to_transform.count; k++)
            if (m->numbers[k] == number)
                return 1;
        return 0;
    }
    return 0;
}

static int matcher_list_hits(cb_matcher *m, const char *name)
{
    bool whole = false, tail = false;
    for (size_t i = 0; i < m->targets->count; i++) {
        bool same = strcmp(name, m->targets->items[i]) == 0;
        bool end = !same && ends_with_item(name, m->targets->items[i]);
        whole |= same;
        tail |= end;
        m->used[i] |= same || end;
    }
    if (whole || !tail || !m->numbers)
        return whole || tail;
    return matcher_number_fits(m, name);
}

static const char *name_of(const cb_matcher *m, const cb_layer *layer)
{
    return m->by_modules ? cb_layer_module_name(layer) : layer->name;
}

static bool can_host(const cb_adapter_kind *kind, const cb_layer *layer)
{
    return (kind->hosts >> layer->kind & 1) && (!kind->needs || cb_layer_own_weight(layer, kind->needs));
}

static bool asks_for(const cb_adapter *adapter, const cb_layer *layer)
{
    return !adapter->kind->chooses || adapter->kind->chooses(adapter->config, layer);
}

/* 1 hit, 0 not, -1 an error */
static int matcher_hits(cb_matcher *m, const cb_layer *layer)
{
    int excluded = matcher_excludes(m, layer);
    if (excluded < 0)
        return -1;
    int hit;
    if (m->all_linear)
        hit = layer->kind == CB_LAYER_LINEAR && !layer->output;
    else if (m->all_hosts)
        hit = can_host(m->adapter->kind, layer) && asks_for(m->adapter, layer);
    else if (m->target)
        hit = cb_name_pattern_test(m->target, name_of(m, layer), true);
    else
        hit = matcher_list_hits(m, name_of(m, layer));
    if (hit == 1 && excluded)
        m->excluded++;
    return hit == 1 && excluded ? 0 : hit;
}

static const char *const layer_kind_names[] = {"group", "linear", "convolution", "embedding", "norm", "attention", "mlp", "block"};

static const char *last_part(const char *name)
{
    const char *dot = strrchr(name, '.');
    return dot ? dot + 1 : name;
}

static bool add_once(cb_string_list *list, const char *text)
{
    for (size_t i = 0; i < list->count; i++)
        if (strcmp(list->items[i], text) == 0)
            return true;
    return cb_string_list_add(list, text);
}

static bool matcher_visit(void *user, cb_layer *layer)
{
    cb_matcher *m = user;
    if (!layer->name || !*layer->name || !*name_of(m, layer))
        return true;
    const cb_adapter_kind *kind = m->adapter->kind;
    bool can = can_host(kind, layer);
    if (can && !add_once(&m->near, last_part(name_of(m, layer))))
        return false;
    int hit = matcher_hits(m, layer);
    if (hit <= 0)
        return hit == 0;
    if (!can && (kind->hosts >> layer->kind & 1))
        return cb_fail(CB_ERR_UNSUPPORTED, "target_modules: hits layer %s, which has no %s for %s to adapt", layer->name, kind->needs,
                       kind->name) == CB_OK;
    if (!can)
        return cb_fail(CB_ERR_UNSUPPORTED, "target_modules: hits layer %s (%s), which %s cannot adapt", layer->name,
                       layer_kind_names[layer->kind], kind->name) == CB_OK;
    if (!cb_grow(&m->hits, &m->hit_capacity, m->hit_count + 1, sizeof *m->hits))
        return false;
    m->hits[m->hit_count++] = layer;
    return true;
}

static bool matcher_nothing(const cb_matcher *m)
{
    const char *first = m->targets->items[0];
    if (m->excluded)
        return cb_fail(CB_ERR_ARGUMENT, "target_modules: all %zu layers it hits are excluded by exclude_modules or modules_to_save",
                       m->excluded) == CB_OK;
    cb_string names = {0};
    cb_closest_names(last_part(first), (const char *const *)m->near.items, m->near.count, 5, &names);
    if (m->numbers)
        cb_fail(CB_ERR_ARGUMENT, "target_modules: no layer matches '%.200s' in the layers of layers_to_transform; layers here: %s", first,
                names.data ? names.data : "none");
    else
        cb_fail(CB_ERR_ARGUMENT, "target_modules: no layer matches '%.200s'%s; close names: %s", first,
                m->targets->count > 1 ? " or the other items"
                : m->target           ? " as a regular expression for the whole name"
                                      : "",
                names.data ? names.data : "none");
    cb_string_free(&names);
    return false;
}

static bool has_no_other_name(void *user, cb_layer *layer)
{
    (void)user;
    return !layer->module_name;
}

static size_t items_used(const cb_matcher *m)
{
    size_t used = 0;
    for (size_t i = 0; i < m->targets->count; i++)
        used += m->used[i];
    return used;
}

static bool matcher_look(cb_matcher *m, cb_layer *root, bool by_modules)
{
    m->by_modules = by_modules;
    m->hit_count = m->excluded = 0;
    memset(m->used, 0, m->targets->count * sizeof *m->used);
    return cb_layer_visit(root, matcher_visit, m);
}

static bool is_list(const cb_matcher *m)
{
    return !m->all_linear && !m->all_hosts && !m->target;
}

/* How many items of the list are found under these names, or how many layers fit the pattern; -1: one of them cannot be adapted. */
static int64_t matcher_count(cb_matcher *m, cb_layer *root, bool by_modules)
{
    if (!matcher_look(m, root, by_modules))
        return -1;
    return (int64_t)(is_list(m) ? items_used(m) : m->hit_count);
}

/* Under the names of files, or those of modules where more is found under these. */
static bool matcher_run(cb_matcher *m, cb_layer *root)
{
    bool list = is_list(m), by_modules = false;
    if ((list || m->target) && cb_ok() && !cb_layer_visit(root, has_no_other_name, NULL)) {
        int64_t modules = matcher_count(m, root, true), files = matcher_count(m, root, false);
        by_modules = modules > files;
        if (by_modules || files >= 0)
            cb_error_clear();
    }
    if (!matcher_look(m, root, by_modules))
        return false;
    if (!m->hit_count)
        return matcher_nothing(m);
    for (size_t i = 0; list && i < m->targets->count; i++)
        if (!m->used[i])
            cb_log_message(CB_LOG_WARNING, "target_modules: '%.200s' matches no layer", m->targets->items[i]);
    return true;
}

/* ---- what automatic targets come to ---- */

static bool split_commas(const char *text, cb_string_list *list)
{
    for (const char *end; *text; text = *end ? end + 1 : end) {
        end = text + strcspn(text, ",");
        char *item = cb_strndup(text, (size_t)(end - text));
        bool ok = item && cb_string_list_add(list, item);
        cb_free(item);
        if (!ok)
            return false;
    }
    return true;
}

/* The row of a table for a model type; NULL: there is none. */
static const cb_default_target *default_row(const cb_default_target *row, const char *model_type)
{
    for (; model_type && row->model_type; row++)
        if (strcmp(row->model_type, model_type) == 0 || strcmp(row->model_type, "*") == 0)
            return row;
    return NULL;
}

static bool default_targets(const cb_adapter *adapter, const char *model_type, cb_string_list *targets, bool *is_pattern)
{
    const cb_default_target *own = adapter->kind->default_targets, *row = own ? default_row(own, model_type) : NULL;
    if (!own || (row && !row->target_modules))
        row = default_row(cb_lora_default_targets, model_type);
    if (row) {
        *is_pattern = cb_is_pattern_text(row->target_modules);
        return *is_pattern ? cb_string_list_add(targets, row->target_modules) : split_commas(row->target_modules, targets);
    }
    cb_fail(CB_ERR_ARGUMENT, "target_modules: not given, and there is no default for model type '%s'",
            model_type ? model_type : "(unknown)");
    return false;
}

static bool visit_again(cb_matcher *again, const cb_matcher *first, cb_layer *root)
{
    again->by_modules = first->by_modules;
    return cb_layer_visit(root, matcher_visit, again);
}

/* Writes the hits of automatic targets as PEFT and its readers like them: last parts of names where those hit the same layers, else whole
 * names; of modules, where these have names of their own. */
static bool resolve_all(const cb_matcher *m, cb_layer *root, cb_string_list *resolved)
{
    for (size_t i = 0; i < m->hit_count; i++)
        if (!add_once(resolved, last_part(name_of(m, m->hits[i]))))
            return false;
    cb_matcher again;
    /* hits of other kinds than linear end the visit with an error, and are asked about here, so it must not be kept */
    bool clean = cb_ok();
    bool same = matcher_init(&again, m->adapter, resolved, false) && visit_again(&again, m, root) && again.hit_count == m->hit_count;
    matcher_free(&again);
    if (same)
        return true;
    if (clean)
        cb_error_clear();
    cb_string_list_free(resolved);
    *resolved = (cb_string_list){0};
    for (size_t i = 0; i < m->hit_count; i++)
        if (!cb_string_list_add(resolved, name_of(m, m->hits[i])))
            return false;
    return true;
}

/* Virtual tokens go before the layer that tokens are looked up in, which is the first embedding. */
static bool find_embedding(void *user, cb_layer *layer)
{
    if (layer->kind == CB_LAYER_EMBEDDING)
        *(cb_layer **)user = layer;
    return layer->kind != CB_LAYER_EMBEDDING;
}

static bool match_embedding(const cb_adapter *adapter, cb_layer *root, cb_layer ***list, size_t *count)
{
    const cb_target *t = &adapter->target;
    const char *given = t->target_modules.count ? "target_modules" : t->modules_to_save.count ? "modules_to_save" : NULL;
    if (given)
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: found some, expected none: %s has virtual tokens only", given, adapter->kind->name) ==
               CB_OK;
    cb_layer *embedding = NULL;
    cb_layer_visit(root, find_embedding, &embedding);
    if (!embedding)
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: found no embedding to put virtual tokens before", adapter->kind->name) == CB_OK;
    *list = cb_alloc(sizeof **list);
    if (!*list)
        return false;
    **list = embedding;
    *count = 1;
    return true;
}

bool cb_match_targets(const cb_adapter *adapter, cb_layer *root, const char *model_type, cb_layer ***list, size_t *count,
                      cb_string_list *resolved, bool *resolved_is_pattern, bool *by_modules)
{
    const cb_target *target = &adapter->target;
    cb_string_list automatic = {0};
    bool is_pattern = target->target_is_pattern, given = target->target_modules.count > 0;
    *list = NULL;
    *count = 0;
    *by_modules = false;
    if (adapter->kind->module.virtual_tokens)
        return match_embedding(adapter, root, list, count);
    cb_matcher m = {.adapter = adapter};
    bool ok = given || default_targets(adapter, model_type, &automatic, &is_pattern);
    ok = ok && matcher_init(&m, adapter, given ? &target->target_modules : &automatic, is_pattern) && matcher_run(&m, root);
    bool all = m.all_linear || m.all_hosts;
    if (ok && (all || !given) && !cb_layer_visit(root, has_no_other_name, NULL))
        all = m.by_modules = true;
    if (ok && all)
        ok = resolve_all(&m, root, resolved);
    if (ok) {
        *by_modules = m.by_modules;
        *list = m.hits;
        *count = m.hit_count;
        m.hits = NULL;
        ok = !adapter->kind->choose || adapter->kind->choose(adapter->config, *list, count);
    }
    matcher_free(&m);
    if (ok && !given && !all) {
        *resolved = automatic;
        *resolved_is_pattern = is_pattern;
    } else {
        cb_string_list_free(&automatic);
    }
    return ok;
}

bool cb_adapter_match(const cb_adapter *adapter, cb_layer *root, const char *model_type, cb_layer ***list, size_t *count)
{
    cb_string_list resolved = {0};
    bool is_pattern = false, by_modules;
    bool ok = cb_match_targets(adapter, root, model_type, list, count, &resolved, &is_pattern, &by_modules);
    cb_string_list_free(&resolved);
    return ok;
}

/* ---- modules_to_save ---- */

typedef struct saved_search {
    const cb_string_list *items;
    bool *used;
    cb_layer **list;
    size_t count, capacity;
    cb_string_list near;
} saved_search;

static bool below_listed(const saved_search *search, const cb_layer *layer)
{
    for (const cb_layer *up = layer->parent; up; up = up->parent)
        for (size_t i = 0; i < search->count; i++)
            if (search->list[i] == up)
                return true;
    return false;
}

static bool saved_visit(void *user, cb_layer *layer)
{
    saved_search *search = user;
    if (!*layer->name)
        return true;
    if (layer->weight_count && !add_once(&search->near, last_part(layer->name)))
        return false;
    bool hit = false;
    for (size_t i = 0; i < search->items->count; i++)
        if (cb_ends_with(layer->name, search->items->items[i]) || cb_ends_with(cb_layer_module_name(layer), search->items->items[i]))
            hit = search->used[i] = true;
    if (!hit || below_listed(search, layer))
        return true;
    if (!cb_grow(&search->list, &search->capacity, search->count + 1, sizeof *search->list))
        return false;
    search->list[search->count++] = layer;
    return true;
}

bool cb_match_saved(const cb_adapter *adapter, cb_layer *root, bool strict, cb_layer ***list, size_t *count)
{
    saved_search search = {.items = &adapter->target.modules_to_save};
    *list = NULL;
    *count = 0;
    if (!search.items->count)
        return true;
    search.used = cb_calloc(search.items->count, sizeof *search.used);
    bool ok = search.used && cb_layer_visit(root, saved_visit, &search);
    for (size_t i = 0; ok && i < search.items->count; i++) {
        if (search.used[i])
            continue;
        if (strict) {
            cb_string names = {0};
            cb_closest_names(search.items->items[i], (const char *const *)search.near.items, search.near.count, 5, &names);
            cb_fail(CB_ERR_ARGUMENT, "modules_to_save: no layer's name ends with '%.200s'; close names: %s", search.items->items[i],
                    names.data ? names.data : "none");
            cb_string_free(&names);
            ok = false;
        } else {
            cb_log_message(CB_LOG_WARNING, "modules_to_save: '%.200s' matches no layer", search.items->items[i]);
        }
    }
    cb_free(search.used);
    cb_string_list_free(&search.near);
    if (!ok) {
        cb_free(search.list);
        return false;
    }
    *list = search.list;
    *count = search.count;
    return true;
}

/* Whether an item is of this layer by the name that it goes by; *either: by whichever. */
static bool saves(const cb_adapter *adapter, const cb_layer *layer, const char *item, bool *either)
{
    *either = cb_ends_with(layer->name, item) || cb_ends_with(cb_layer_module_name(layer), item);
    return cb_ends_with(cb_filed_name(adapter, layer), item);
}

static bool resolve_item(cb_adapter *adapter, const char *item, bool *other)
{
    cb_string_list *resolved = &adapter->resolved_saved;
    bool own = false, either = false, ok = true;
    for (size_t i = 0; i < adapter->saved_count; i++)
        own |= saves(adapter, adapter->saved[i], item, &either);
    if (own)
        return add_once(resolved, item);
    *other = true;
    for (size_t i = 0; ok && i < adapter->saved_count; i++) {
        const cb_layer *layer = adapter->saved[i];
        if (saves(adapter, layer, item, &either) || !either)
            continue;
        const char *name = cb_filed_name(adapter, layer);
        ok =
            *name
                ? add_once(resolved, name)
                : cb_fail(CB_ERR_ARGUMENT,
                          "modules_to_save: '%.200s' is layer %s, which is no module of transformers 5, by whose names target_modules are; "
                          "expected parts of it",
                          item, layer->name) == CB_OK;
    }
    return ok;
}

bool cb_resolve_saved(cb_adapter *adapter)
{
    const cb_string_list *items = &adapter->target.modules_to_save;
    bool other = false, ok = true;
    for (size_t i = 0; ok && i < items->count; i++)
        ok = resolve_item(adapter, items->items[i], &other);
    if (ok && other)
        return true;
    cb_string_list_free(&adapter->resolved_saved);
    adapter->resolved_saved = (cb_string_list){0};
    return ok;
}
