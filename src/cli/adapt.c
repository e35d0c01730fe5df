/* adapt.c: `cambium adapt`: a model that answers a stream and learns from it. */
#include "cli/adapt.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/json.h"

typedef cli_adapt_settings settings;

static const cb_option table[] = {
    CB_OPT_STRING(settings, method, "tent", "NAME",
                  "what is learned: source, bn, tent, eata, sar, cotta, rotta, roid, rdumb, lame or memo; see --list-methods"),
    CB_OPT_LIST(settings, method_option, NULL, "NAME=VALUE,...", "options of the method; see --list-methods"),
    CB_OPT_BOOL(settings, list_methods, 0, "say what each method does and which options it has, and nothing else"),
    CB_OPT_LIST(settings, stream, NULL, "PATH,...",
                "images: directories or archives of classes, directories of images, tables, lists (.txt), IDX or .npz files; or texts: "
                ".jsonl, .csv, .tsv; each a shift of its own.  - reads paths (or texts), or objects {\"file\" (or \"text\"), \"label\", "
                "\"shift\", \"id\"}, line by line from standard input, and so does a named pipe; unix:PATH, tcp:PORT and tcp:HOST:PORT "
                "listen for clients, which get the answers to their lines back; watch:DIR takes files as they are written or moved there"),
    CB_OPT_BOOL(settings, watch, 0, "--stream is a directory that is watched, as watch:DIR"),
    CB_OPT_STRING(settings, output, NULL, "FILE", "what is answered, a line of JSON each, behind one that says how it came about"),
    CB_OPT_LIST(settings, source_images, NULL, "PATH,...",
                "images (or texts) like those the model was trained on, without labels: for eata's parameters and cotta's threshold"),
    CB_OPT_INT(settings, source_count, 2000, 1, 1e9, "of these at most"),
    CB_OPT_LIST(settings, adapter, NULL, "DIR,...", "adapter to attach, each with an optional =weight; one alone is what is trained"),
    CLI_ADAPTER_OPTION(settings),
    CB_OPT_STRING(settings, adapter_kind, NULL, "NAME", "a new adapter of this kind is what is trained; its options may follow"),
    CB_OPT_ENUM(settings, dtype, 1, cli_dtype_names, "how activations are kept and products are computed; what is trained is f32"),
    CB_OPT_INT(settings, seed, 0, 0, 9e15, "of the order of images, corruptions and what a method draws"),
    CB_OPT_INT(settings, max_batches, 0, 0, 1e12, "batches at most (0: all)"),
    CB_OPT_INT(settings, save_batches, 20, 0, 1e12, "batches between checkpoints, OUTPUT.state (0: at the end only)"),
    CB_OPT_BOOL(settings, resume, 0, "go on from the checkpoint, if there is one"),
    CB_OPT_BOOL(settings, overwrite, 0, "write the output anew, if it is there already"),
    CB_OPT_STRING(settings, save, NULL, "DIR", "what was learned, at the end: a model directory, or that of an adapter which is trained"),
    CB_OPT_BOOL(settings, save_each, 0, "and behind each checkpoint"),
    CB_OPT_STRING(settings, tokenizer, NULL, "PATH", "of texts: tokenizer.json or its directory; without it the model's own"),
    CLI_DRY_RUN(settings, CLI_NEEDS_HELP),
    CB_OPT_END};

static const cli_group groups[] = {{"Adaptation", table, 0},
                                   {"Stream", cb_stream_option_table, offsetof(settings, order)},
                                   {"Learning", cb_adapt_option_table, offsetof(settings, adapt)},
                                   {"Images", cli_image_table, offsetof(settings, images)},
                                   {"Images as rows", cb_image_data_option_table, offsetof(settings, images.data)},
                                   {"Texts", cli_adapt_text_table, offsetof(settings, text)},
                                   {0}};

/* ---- methods ---- */

static json_t *method_json(const cb_policy_kind *k)
{
    json_t *options = json_array();
    cb_string text = {0};
    for (const cb_option *o = k->options; o && o->name; o++) {
        cb_string_clear(&text);
        if (cli_option_describe(o, &text))
            json_array_append_new(options, json_pack("{s:s, s:s}", "name", o->name, "help", text.data));
    }
    cb_string_free(&text);
    return json_pack("{s:s, s:s, s:s, s:o}", "name", k->name, "summary", k->summary, "paper", k->paper, "options", options);
}

static bool list_methods(const cli_call *call)
{
    json_t *list = call->common.json ? json_array() : NULL;
    cb_string text = {0};
    for (const cb_policy_kind *const *k = cb_policy_kinds(); *k; k++) {
        if (list) {
            json_array_append_new(list, method_json(*k));
            continue;
        }
        printf("%-8s %s\n", (*k)->name, (*k)->summary);
        if ((*k)->paper[0])
            printf("%-8s %s\n", "", (*k)->paper);
        for (const cb_option *o = (*k)->options; o && o->name; o++) {
            cb_string_clear(&text);
            if (cli_option_describe(o, &text))
                printf("%-8s   %s: %s\n", "", o->name, text.data);
        }
    }
    cb_string_free(&text);
    return !list || cli_json(json_pack("{s:o}", "methods", list));
}

/* ---- what is adapted ---- */

/* A new adapter of --adapter-kind, attached. */
static cb_adapter *make_adapter(cli_call *call, const settings *s, cb_model *model)
{
    cb_adapter *adapter = cb_adapter_new(s->adapter_kind, "default");
    bool ok = adapter;
    if (!ok)
        cli_blame(call, "adapter_kind");
    for (size_t i = 0; ok && i < call->adapter_count; i++) {
        ok = cb_adapter_set(adapter, call->adapter[i].name, call->adapter[i].value);
        if (!ok)
            cli_blame(call, call->adapter[i].name);
    }
    if (ok && cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), (uint64_t)s->seed))
        return adapter;
    cb_adapter_free(adapter);
    return NULL;
}

static bool study(settings *s, const cli_base *base, cb_adaptation *a)
{
    cb_stream *source = cli_adapt_source(s, base);
    bool ok = source ? cb_adaptation_study(a, source) : cb_ok();
    cb_stream_free(source);
    return ok;
}

/* ---- what comes of it ---- */

static double share(int64_t part, int64_t all)
{
    return all ? (double)part / (double)all : NAN;
}

static json_t *shifts_json(const cb_adapt_result *r)
{
    json_t *list = json_array();
    for (size_t i = 0; i < r->shift_count; i++) {
        const cb_shift_result *t = &r->shifts[i];
        json_t *one = json_pack("{s:s, s:I, s:I, s:o}", "name", t->name, "items", (json_int_t)t->items, "labelled", (json_int_t)t->labelled,
                                "accuracy", cli_real(share(t->right, t->labelled)));
        json_array_append_new(list, one ? one : json_null());
    }
    return list;
}

static json_t *alarms_json(const cb_adapt_result *r)
{
    json_t *alarms = json_object();
    for (int i = CB_ALARM_NONE + 1; i < CB_ALARMS; i++)
        json_object_set_new(alarms, cb_alarm_name((cb_alarm)i), json_integer((json_int_t)r->alarms[i]));
    return alarms;
}

static bool report(const cli_call *call, const settings *s, const cb_adapt_result *r)
{
    if (call->common.json)
        return cli_json(json_pack("{s:s, s:s, s:s?, s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:I, s:o, s:o, s:I, s:I}", "method", s->method,
                                  "model", call->arguments[0], "output", s->output, "batches", (json_int_t)r->batches, "items",
                                  (json_int_t)r->items, "unread", (json_int_t)r->unread, "labelled", (json_int_t)r->labelled, "accuracy",
                                  cli_real(share(r->right, r->labelled)), "shifts", shifts_json(r), "alarms", alarms_json(r), "resets",
                                  (json_int_t)r->resets, "seconds", cli_real(r->seconds), "step_seconds", cli_real(r->step_seconds),
                                  "step_allocations", (json_int_t)r->step_allocations, "peak_memory", (json_int_t)cb_peak_rss()));
    int64_t alarms = 0;
    for (int i = CB_ALARM_NONE + 1; i < CB_ALARMS; i++)
        alarms += r->alarms[i];
    for (size_t i = 0; r->labelled && i < r->shift_count; i++)
        cli_field(r->shifts[i].name, "%.4f", share(r->shifts[i].right, r->shifts[i].labelled));
    if (r->labelled)
        cli_field("accuracy", "%.4f of %s with labels", share(r->right, r->labelled), cli_thousands(r->labelled));
    cli_field("answered", "%s in %s batches", cli_thousands(r->items), cli_thousands(r->batches));
    if (r->unread)
        cli_field("not readable", "%s", cli_thousands(r->unread));
    cli_field("guard", "%s batches answered by the source, %s new beginnings", cli_thousands(alarms), cli_thousands(r->resets));
    cli_field("time", "%s, of which %s to answer and learn", cli_seconds(r->seconds), cli_seconds(r->step_seconds));
    cli_field("peak memory", "%s", cli_bytes(cb_peak_rss()));
    if (s->output)
        cli_field("written", "%s", s->output);
    return true;
}

typedef struct watcher {
    const cli_call *call;
    int64_t batches; /* in all; -1: who knows */
} watcher;

static bool on_batch(void *user, const cb_stream_batch *batch, const cb_adapt_outcome *outcome, const cb_adapt_result *so_far)
{
    const watcher *w = user;
    char of[32] = "", right[48] = "";
    (void)batch;
    (void)outcome;
    if (w->call->common.quiet || w->call->common.json)
        return true;
    if (w->batches >= 0)
        snprintf(of, sizeof of, " of %s", cli_thousands(w->batches));
    if (so_far->labelled)
        snprintf(right, sizeof right, ", accuracy %.4f", share(so_far->right, so_far->labelled));
    cli_status("batch %s%s%s", cli_thousands(so_far->batches), of, right);
    return true;
}

/* ---- the command ---- */

/* The stream is answered; of a rehearsal a part of it. */
static bool answer(cli_call *call, settings *s, const cli_base *base, cb_adaptation *a, cb_stream *stream, cb_adapt_result *result)
{
    watcher w = {call, cb_stream_batches(stream)};
    cli_adapt_saver saver = {s, base};
    const cb_adapt_run_options options = {.output = s->output,
                                          .save_batches = s->save_batches,
                                          .resume = s->resume,
                                          .overwrite = s->overwrite,
                                          .max_batches = s->max_batches,
                                          .model = call->arguments[0],
                                          .save = s->save ? cli_adapt_save : NULL,
                                          .save_user = &saver,
                                          .save_each = s->save_each};
    bool ok = (!s->save || (cb_adaptation_check_save(a) && cli_adapt_check_kind(s, a))) && study(s, base, a) &&
              cb_adapt_run(a, stream, &options, s->dry_run ? NULL : on_batch, &w, result);
    cli_status_clear();
    return ok;
}

static bool adapt(cli_call *call, settings *s, const cli_base *base, cb_adapter *adapter)
{
    s->adapt.processor = base->tokenizer ? NULL : &s->images.processor;
    s->adapt.seed = (uint64_t)s->seed;
    cli_rehearsal r;
    bool ok = !s->dry_run || cli_rehearsal_begin(&r, s->save ? s->save : s->output);
    cb_stream *stream = ok ? cli_adapt_stream(s, base) : NULL;
    cb_adaptation *a = stream ? cb_adaptation_open(base->model, adapter, s->method, &s->method_option, &s->adapt) : NULL;
    cb_adapt_result result = {0};
    ok = a && answer(call, s, base, a, stream, &result);
    if (s->dry_run)
        ok = cli_adapt_plan(call, s, base->model, &r, stream, &result, ok);
    else
        ok = ok && report(call, s, &result);
    cb_adapt_result_free(&result);
    cb_adaptation_free(a);
    cb_stream_free(stream);
    return ok;
}

static bool check(cli_call *call, settings *s)
{
    if (!cli_adapt_check_stream(call, s))
        return false;
    if (s->adapter_kind && s->adapter.count)
        return cli_usage(call, "--adapter-kind and --adapter exclude each other");
    if (!s->adapter_kind && call->adapter_count)
        return cli_usage(call, "--%s is an option of an adapter, and there is no --adapter-kind", call->adapter[0].name);
    if (s->resume && !s->output)
        return cli_usage(call, "--resume goes on from OUTPUT.state, and there is no --output");
    if (s->save_each && (!s->save || !s->output))
        return cli_usage(call, "--save-each is of --save and of the checkpoints beside --output, and one of these is not given");
    if (!cb_policy_kind_find(s->method)) {
        cli_blame(call, "method");
        return false;
    }
    return (!s->output || (cli_output_file(s->output) && cli_output_is_no_input(s->output, &s->stream))) &&
           cli_adapt_check_save(s, call->arguments[0]);
}

static bool run(cli_call *call, void *settings_)
{
    settings *s = settings_;
    cli_base base = {0};
    cb_adapter *adapter = NULL;
    if (s->list_methods)
        return list_methods(call);
    if (!call->argument_count)
        return cli_usage(call, "MODEL_DIR is needed");
    bool ok = check(call, s);
    if (ok && s->dry_run)
        cb_rehearsal_begin();
    ok = ok && cli_base_open(&base, call->arguments[0], &s->adapter, &s->adapter_option, cli_dtype(s->dtype)) &&
         cli_adapt_inputs(call, s, &base);
    if (ok && s->adapter_kind)
        ok = (adapter = make_adapter(call, s, base.model));
    ok = ok && adapt(call, s, &base, adapter ? adapter : base.adapter_count == 1 ? base.adapters[0] : NULL);
    cb_rehearsal_end();
    cb_adapter_free(adapter);
    cli_base_close(&base);
    return ok;
}

const cli_command cli_adapt = {
    .name = "adapt",
    .summary = "answer a stream of images or texts and learn from it, without labels",
    .synopsis = "MODEL_DIR --method NAME --stream PATH,... [--output predictions.jsonl] [options]",
    .description = "Batch after batch is answered, and learned from without labels, as data drift away from what the model was trained on; "
                   "where labels "
                   "are known they only measure. A guard compares with what the model would say without adaptation, and goes back to it "
                   "where adaptation "
                   "seems to do harm. With --stream - inputs come line by line for as long as they come, with unix:PATH or tcp:PORT "
                   "those of several clients, with watch:DIR files as they are written; what cannot be read is a record "
                   "with an error. "
                   "After a stop, or kill -9, --resume goes on: of a stream on disk with the same bits. docs/adapt.md has the methods.",
    .least = 0,
    .most = 1,
    .settings_size = sizeof(settings),
    .groups = groups,
    .adapter_options = true,
    .examples = (const char *const[]){"cambium adapt models/resnet --method cotta --stream photos/ --corruptions fog,snow --severity 5 "
                                      "--batch-size 200 --output out/said.jsonl",
                                      "cambium adapt models/vit --method tent --adapter-kind ia3 --stream day/,dusk/,night/ --reset shift "
                                      "--output out/said.jsonl",
                                      "find camera/ -name '*.jpg' | cambium adapt models/resnet --method eata --stream - --batch-size 16 "
                                      "--output out/said.jsonl --resume",
                                      "cambium adapt models/resnet --method tent --stream watch:inbox --output out/said.jsonl --resume",
                                      "cambium adapt models/bert --method tent --stream reviews.csv --save out/adapted",
                                      "cambium adapt --list-methods", NULL},
    .run = run};
