/* generate_rows.c: `cambium generate --prompts`: prompts that run as batches, each row with adapters of its own. */
#include <string.h>

#include "cli/cli.h"
#include "core/json.h"

static const char *const batchings[] = {"static", "sequence", "depth", NULL};
const cb_option cli_rows_table[] = {
    CB_OPT_STRING(
        cli_rows_settings, prompts, NULL, "FILE",
        "JSON lines instead of a prompt: {\"prompt\": TEXT, \"adapter\": NAME}, a list of names, or {NAME: weight}; a line without "
        "has no adapter; \"task_ids\": N says which of its tasks an adapter of several does (--task-id), \"conditions\": [X, ...] what is "
        "known of it (--condition), \"max_new_tokens\": N how much is "
        "generated"),
    CB_OPT_INT(cli_rows_settings, batch_size, 16, 1, 65536, "prompts of --prompts that run together"),
    CB_OPT_ENUM(cli_rows_settings, batching, CB_BATCHING_SEQUENCE, batchings,
                "when the next prompt of --prompts begins: static, when all that run together have ended; sequence, when one has; depth, "
                "recursive models, between two rounds of the others"),
    CB_OPT_END};

/* A line of the file. */
typedef struct request {
    json_t *line;
    const char *prompt;
    double *weights; /* of each of the base's adapters; 0: it has it not */
    int32_t task;
    float *conditions;
    size_t condition_count;
    int64_t max_new_tokens; /* 0: those of the options */
    cb_encoding ids;
} request;

typedef struct requests {
    request *list;
    size_t count, capacity;
} requests;

static void free_requests(requests *all)
{
    for (size_t i = 0; i < all->count; i++) {
        json_decref(all->list[i].line);
        cb_free(all->list[i].conditions);
        cb_free(all->list[i].weights);
        cb_encoding_free(&all->list[i].ids);
    }
    cb_free(all->list);
}

/* ---- reading ---- */

static bool give(const cli_base *base, request *r, const char *where, const char *name, double weight)
{
    for (size_t i = 0; i < base->adapter_count; i++)
        if (strcmp(base->names.items[i], name) == 0) {
            r->weights[i] = weight * base->weights[i];
            return true;
        }
    cb_string close = {0};
    cb_closest_names(name, (const char *const *)base->names.items, base->names.count, 3, &close);
    cli_refuse("%s: adapter: found \"%.100s\", expected one that --adapter names, such as %s", where, name,
               close.data && close.length ? close.data : "NAME=DIR");
    cb_string_free(&close);
    return false;
}

static bool read_adapters(const cli_base *base, request *r, const char *where, json_t *value)
{
    bool ok = true;
    const char *name;
    json_t *item;
    size_t i;
    if (!value || json_is_null(value))
        return true;
    if (json_is_string(value))
        return give(base, r, where, json_string_value(value), 1);
    if (json_is_array(value))
        json_array_foreach(value, i, item) ok = ok && (json_is_string(item) ? give(base, r, where, json_string_value(item), 1)
                                                                            : cli_refuse("%s: adapter: expected names", where));
    else if (json_is_object(value))
        json_object_foreach(value, name, item) ok = ok && (json_is_number(item) ? give(base, r, where, name, json_number_value(item))
                                                                                : cli_refuse("%s: adapter: expected weights", where));
    else
        ok = cli_refuse("%s: adapter: expected a name, an array of names or an object of weights", where);
    return ok;
}

static bool check_fields(const char *where, json_t *line)
{
    static const char *const fields[] = {"prompt", "adapter", "task_ids", "conditions", "max_new_tokens"};
    const char *name;
    json_t *value;
    json_object_foreach(line, name, value)
    {
        bool known = false;
        for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
            known |= strcmp(name, fields[i]) == 0;
        if (!known)
            return cli_refuse("%s: found a field \"%.100s\", expected prompt, adapter, task_ids, conditions and max_new_tokens", where,
                              name);
    }
    return true;
}

static bool read_length(const char *where, const json_t *line, int64_t *length)
{
    const json_t *value = json_object_get(line, "max_new_tokens");
    *length = json_integer_value(value);
    return !value || (json_is_integer(value) && *length >= 1) || cli_refuse("%s: max_new_tokens: expected a positive integer", where);
}

static bool add_line(requests *all, const cli_base *base, const cb_generate_options *options, const char *where, const char *text,
                     size_t length)
{
    if (!cb_grow(&all->list, &all->capacity, all->count + 1, sizeof *all->list))
        return false;
    request *r = &all->list[all->count++];
    *r = (request){.line = cb_json_parse(where, text, length), .weights = cb_calloc(base->adapter_count, sizeof(double))};
    if (!r->line || !r->weights)
        return false;
    const json_t *prompt = json_object_get(r->line, "prompt");
    r->prompt = json_string_value(prompt);
    if (!r->prompt)
        return cli_refuse("%s: found no prompt, expected an object with a text of that name", where);
    if (strlen(r->prompt) != json_string_length(prompt))
        return cli_refuse("%s: prompt: found a zero byte at offset %zu, expected text", where, strlen(r->prompt));
    if (!check_fields(where, r->line) || !read_length(where, r->line, &r->max_new_tokens) ||
        !cli_read_task(where, r->line, options->task_id, &r->task) ||
        !cli_read_conditions(where, r->line, &options->condition, &r->conditions, &r->condition_count) ||
        !read_adapters(base, r, where, json_object_get(r->line, "adapter")) ||
        !cb_tokenizer_encode(base->tokenizer, r->prompt, strlen(r->prompt), true, &r->ids))
        return false;
    return r->ids.count || cli_refuse("%s: the prompt is empty, expected at least one token", where);
}

/* Lines name adapters, so each needs a name of its own. */
static bool check_names(const cli_base *base)
{
    for (size_t i = 0; i < base->adapter_count; i++)
        for (size_t k = 0; k < i; k++)
            if (strcmp(base->names.items[i], base->names.items[k]) == 0)
                return cli_refuse("--adapter: found \"%.100s\" twice, expected a name for each: NAME=DIR", base->names.items[i]);
    return true;
}

static bool read_requests(requests *all, const cli_base *base, const cb_generate_options *options, const char *path)
{
    size_t length;
    char *text = cb_file_read(path, (size_t)1 << 30, &length);
    bool ok = text;
    int64_t number = 1;
    for (char *at = text, *end; ok && at < text + length; at = end + 1, number++) {
        end = memchr(at, '\n', (size_t)(text + length - at));
        end = end ? end : text + length;
        if (strspn(at, " \t\r") >= (size_t)(end - at))
            continue;
        char *where = cb_format("%s:%lld", path, (long long)number);
        ok = where && add_line(all, base, options, where, at, (size_t)(end - at));
        cb_free(where);
    }
    cb_free(text);
    return ok && (all->count || cli_refuse("%s: found no prompts", path));
}

/* ---- running ---- */

/* Each adapter once for every weight that rows give it. */
static bool blend_rows(cb_blend *blend, const cli_base *base, const request *list, size_t count)
{
    int64_t *rows = cb_alloc(count * sizeof *rows);
    bool ok = rows;
    for (size_t a = 0; ok && a < base->adapter_count; a++)
        for (size_t i = 0; ok && i < count; i++) {
            double weight = list[i].weights[a];
            size_t with = 0;
            bool first = weight != 0;
            for (size_t k = 0; k < i; k++)
                first &= list[k].weights[a] != weight;
            for (size_t k = i; first && k < count; k++)
                if (list[k].weights[a] == weight)
                    rows[with++] = (int64_t)k;
            ok = !first || cb_blend_add(blend, base->adapters[a], .weight = weight, .rows = rows, .row_count = with);
        }
    cb_free(rows);
    return ok;
}

static bool show(const cli_call *call, const cb_model *model, const request *r, size_t number, const cb_generation *g)
{
    json_t *adapter = json_object_get(r->line, "adapter");
    const char *text = g->text.data ? g->text.data : "";
    if (call->common.json) {
        json_t *line = json_pack("{s:s, s:s, s:O?, s:s%, s:I, s:I, s:s}", "event", "generation", "prompt", r->prompt, "adapter", adapter,
                                 "text", text, g->text.length, "prompt_tokens", (json_int_t)g->prompt_tokens, "tokens",
                                 (json_int_t)g->count, "finish_reason", g->finish_reason);
        return line && cli_put_rounds(line, model, g) && cli_json(line);
    }
    char *name = adapter ? json_dumps(adapter, JSON_ENCODE_ANY | JSON_COMPACT) : NULL;
    printf("[%zu] %s\n", number + 1, json_is_string(adapter) ? json_string_value(adapter) : name ? name : "-");
    free(name);
    return fwrite(text, 1, g->text.length, stdout) == g->text.length && putchar('\n') != EOF;
}

/* Texts are shown in the order of their lines, each as soon as those before it are ready. */
typedef struct showing {
    const cli_call *call;
    const cb_model *model;
    const request *list;
    const cb_generation *out;
    size_t count, shown;
    bool *ready;
} showing;

static bool show_ready(void *user, size_t index)
{
    showing *s = user;
    bool ok = true;
    s->ready[index] = true;
    for (; ok && s->shown < s->count && s->ready[s->shown] && !cb_rehearsing(); s->shown++)
        ok = show(s->call, s->model, &s->list[s->shown], s->shown, &s->out[s->shown]);
    return ok;
}

/* X-LoRA looks at each text before it goes on, so they do not run together. */
static bool run_each(const cli_base *base, const cb_prompt_ids *prompts, size_t count, const cb_generate_options *options, showing *shown,
                     cb_generation *out)
{
    bool ok = true;
    for (size_t i = 0; ok && i < count; i++) {
        cb_generate_options own = *options;
        own.max_new_tokens = prompts[i].max_new_tokens ? prompts[i].max_new_tokens : options->max_new_tokens;
        own.task_id = prompts[i].task;
        ok = cb_generate_ids(base->model, base->tokenizer, prompts[i].ids, prompts[i].count, &own, NULL, NULL, &out[i]) &&
             show_ready(shown, i);
    }
    return ok;
}

static bool run_all(const cli_call *call, const cli_base *base, const cli_rows_settings *s, const cb_generate_options *options,
                    const requests *all, int64_t *tokens)
{
    size_t count = all->count;
    bool own = base->composition.count; /* passes go through it */
    cb_blend *blend = own ? NULL : cb_blend_new(cb_model_root(base->model));
    cb_prompt_ids *prompts = cb_calloc(count, sizeof *prompts);
    cb_generation *out = cb_calloc(count, sizeof *out);
    showing shown = {call, base->model, all->list, out, count, 0, cb_calloc(count, sizeof(bool))};
    bool ok = (own || blend) && prompts && out && shown.ready && (own || blend_rows(blend, base, all->list, count));
    for (size_t i = 0; ok && i < count; i++)
        prompts[i] = (cb_prompt_ids){all->list[i].ids.ids,        all->list[i].ids.count,  all->list[i].task,
                                     all->list[i].max_new_tokens, all->list[i].conditions, all->list[i].condition_count};
    const cb_batch_options batch = {(cb_batching)s->batching, s->batch_size, show_ready, &shown};
    if (ok && base->composition.xlora)
        ok = run_each(base, prompts, count, options, &shown, out);
    else
        ok = ok && cb_generate_batch(base->model, base->tokenizer, prompts, count, blend, NULL, options, &batch, out);
    for (size_t i = 0; out && i < count; i++) {
        *tokens += (int64_t)out[i].count;
        cb_generation_free(&out[i]);
    }
    cb_free(shown.ready);
    cb_free(out);
    cb_free(prompts);
    cb_blend_free(blend);
    return ok;
}

bool cli_generate_rows(const cli_call *call, const cli_base *base, const cli_rows_settings *s, const cb_generate_options *options)
{
    requests all = {0};
    double start = cb_now();
    int64_t tokens = 0;
    bool ok = check_names(base) && read_requests(&all, base, options, s->prompts) && run_all(call, base, s, options, &all, &tokens);
    double seconds = cb_now() - start;
    if (ok && call->common.json && !cb_rehearsing())
        ok = cli_json(json_pack("{s:s, s:I, s:I, s:o, s:o, s:I}", "event", "result", "prompts", (json_int_t)all.count, "tokens",
                                (json_int_t)tokens, "seconds", cli_real(seconds), "tokens_per_second",
                                cli_real(seconds > 0 ? (double)tokens / seconds : 0), "peak_memory", (json_int_t)cb_peak_rss()));
    free_requests(&all);
    return ok;
}
