/* adapt_save.c: what `cambium adapt` leaves: a model or an adapter that `cambium eval` takes; and what it will need (--dry-run). */
#include <math.h>
#include <string.h>

#include "cli/adapt.h"
#include "core/json.h"
#include "kernels/kernels.h"

/* Beside what is saved: how it came about, by which it is known again. */
#define MARK "adapted.json"

/* ---- --save ---- */

static bool holds(const char *directory, const char *name)
{
    char *path = cb_path_join(directory, name);
    bool found = path && cb_is_file(path);
    cb_free(path);
    return found;
}

#define ADAPTER "adapter_config.json"

/* Whether it is none of those that are adapted. */
static bool is_apart(const cli_adapt_settings *s, const char *model)
{
    char *items[] = {(char *)(uintptr_t)model};
    return cli_output_is_no_input(s->save, &(const cb_string_list){.items = items, .count = 1, .capacity = 1}) &&
           cli_output_is_no_input(s->save, &s->adapter);
}

bool cli_adapt_check_save(const cli_adapt_settings *s, const char *model)
{
    if (!s->save)
        return true;
    if (!*s->save)
        return cli_refuse("--save: found an empty name, expected a directory");
    if (!holds(s->save, MARK)) /* of no earlier run */
        return holds(s->save, ADAPTER) ? cli_refuse("%s: found an adapter in it (" ADAPTER "), expected a new or empty directory", s->save)
                                       : cli_output_directory(s->save, model);
    if (!is_apart(s, model))
        return false;
    return s->resume || s->overwrite || cli_refuse("%s: has what an earlier run saved; --resume or --overwrite writes it anew", s->save);
}

bool cli_adapt_check_kind(const cli_adapt_settings *s, const cb_adaptation *a)
{
    bool adapter = cb_learner_options_of(cb_adaptation_policy(a)->learner)->trained == CB_TRAINED_ADAPTER;
    const char *other = adapter ? "config.json" : ADAPTER;
    return !holds(s->save, other) || cli_refuse("%s: found %s, which an earlier run saved, and %s is trained; expected another directory",
                                                s->save, other, adapter ? "an adapter" : "a model");
}

static bool write_mark(const cb_adaptation *a, const cli_adapt_saver *saver)
{
    char *how = cb_adaptation_describe(a), *path = cb_path_join(saver->settings->save, MARK);
    json_t *o = how && path ? json_object() : NULL;
    bool ok = o && cb_json_put(o, "cambium", json_string(CB_VERSION)) &&
              cb_json_put(o, "model", json_string(cb_model_directory(saver->base->model))) &&
              cb_json_put(o, "adaptation", cb_json_parse("adaptation", how, strlen(how))) && cb_json_save(path, o, false);
    json_decref(o);
    cb_free(how);
    cb_free(path);
    return ok;
}

bool cli_adapt_save(void *saver_, cb_adaptation *a)
{
    const cli_adapt_saver *saver = saver_;
    const cli_adapt_settings *s = saver->settings;
    const cb_tokenizer *tokenizer = saver->base->tokenizer;
    bool adapter = cb_learner_options_of(cb_adaptation_policy(a)->learner)->trained == CB_TRAINED_ADAPTER;
    if (!cb_directory_make(s->save) || !write_mark(a, saver) || !cb_adaptation_save(a, s->save))
        return false;
    if (!tokenizer)
        return cli_images_save(&s->images, s->save);
    const char *from = s->tokenizer ? s->tokenizer : cb_model_directory(saver->base->model);
    return adapter || cb_tokenizer_save_directory(tokenizer, from, s->save);
}

/* ---- --dry-run ---- */

typedef struct cost {
    double operations, rate, seconds; /* of a batch; GF/s; of all batches' products, NaN where nobody knows how many there are */
    int64_t batches;                  /* -1: nobody knows */
} cost;

static cost cost_of(const cb_model *model, const cb_stream *stream, const cb_adapt_result *r, double operations)
{
    enum { ROWS = 512 };
    const double measuring = 0.1;
    int64_t done = r->batches ? r->batches : 1;
    cost c = {.operations = operations / (double)done, .batches = cb_stream_batches(stream), .seconds = NAN};
    c.rate = cbk_gemm_rate(cb_model_dtype(model), false, true, ROWS, 2 * cb_model_width(model), cb_model_width(model), measuring);
    if (c.rate > 0 && c.batches >= 0)
        c.seconds = (double)c.batches * c.operations / (c.rate * 1e9);
    return c;
}

bool cli_adapt_plan(cli_call *call, const cli_adapt_settings *s, const cb_model *model, cli_rehearsal *r, const cb_stream *stream,
                    const cb_adapt_result *result, bool ok)
{
    double operations = cb_rehearsal().operations;
    json_t *needs = cli_rehearsal_end(r, ok);
    if (!needs)
        return false;
    cost c = cost_of(model, stream, result, operations);
    if (call->common.json) {
        json_t *line = json_pack("{s:s, s:s, s:s*, s:I, s:o, s:o, s:o}", "event", "plan", "method", s->method, "output", s->output,
                                 "batches", (json_int_t)c.batches, "operations_per_batch", cli_real(c.operations), "product_rate",
                                 cli_real(c.rate), "seconds_at_least", cli_real(c.seconds));
        json_object_update(line, needs);
        json_decref(needs);
        return cli_json(line);
    }
    if (c.batches >= 0)
        cli_field("batches", "%s of %s", cli_thousands(c.batches), cli_thousands(s->order.batch_size));
    cli_field("a batch", "%.4g GF of matrix products: %s at least, at the %.0f GF/s measured now", c.operations / 1e9,
              cli_seconds(c.rate > 0 ? c.operations / (c.rate * 1e9) : 0), c.rate);
    if (c.seconds > 0)
        cli_field("time", "%s at least: the matrix products alone", cli_seconds(c.seconds));
    cli_print_needs(needs);
    json_decref(needs);
    return true;
}
