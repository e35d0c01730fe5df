/* series.c: series of numbers as the data of commands, and what a forecaster makes of them: --task forecasting. */
#include <string.h>

#include "cli/cli.h"

const cb_option cli_graph_table[] = {
    CB_OPT_STRING(
        cli_series_settings, adjacency, NULL, "FILE",
        "weights of the graph of the nodes (.npy, .npz, or a table without a header), which the model is saved with; needed where a "
        "new one has graph layers"),
    CB_OPT_STRING(cli_series_settings, adjacency_array, "adj_mx", "NAME", "of an .npz file: which of its arrays that is"), CB_OPT_END};

const cb_option cli_series_part_table[] = {
    CB_OPT_ENUM(cli_series_settings, series_part, CB_SERIES_TEST, cb_series_part_names,
                "which part of the series is foretold, by the shares that the model was trained with"),
    CB_OPT_END};

const cb_option cli_online_table[] = {
    CB_OPT_STRING(cli_series_settings, online_adapter, NULL, "DIR",
                  "adcsd: goes on with what --online-output left there, instead of a new one"),
    CB_OPT_STRING(cli_series_settings, online_output, NULL, "DIR", "adcsd: where what was learned is written"), CB_OPT_END};

bool cli_takes_series(const cb_model *model)
{
    return cb_model_series_format(model).context > 0;
}

static bool refuse_given(cli_call *call, const cb_option *table)
{
    for (const cb_option *o = table; o->name; o++)
        if (cli_given(call, o->name)) {
            cli_refuse("%s: is an option of --task forecasting", o->name);
            cli_blame(call, o->name);
            return false;
        }
    return true;
}

static const char *const others[] = {"validation_data", "validation_split", "labels",         "labels_file",
                                     "tokenizer",       "sequence_length",  "packing",        "lines",
                                     "max_records",     "columns",          "image_processor"};

bool cli_series_check(cli_call *call, bool series)
{
    for (size_t i = 0; series && i < sizeof others / sizeof *others; i++)
        if (cli_given(call, others[i])) {
            cli_refuse("%s: has no meaning for --task forecasting%s", others[i],
                       i < 2 ? "; series are divided by time: --train-share, --validation-share" : "");
            cli_blame(call, others[i]);
            return false;
        }
    return series || (refuse_given(call, cli_graph_table) && refuse_given(call, cli_series_part_table) &&
                      refuse_given(call, cb_online_option_table) && refuse_given(call, cli_online_table) &&
                      refuse_given(call, cb_adcsd_option_table) && refuse_given(call, cb_series_option_table) &&
                      refuse_given(call, cb_forecast_option_table));
}

/* ---- how they are made ready ---- */

static bool agrees(cli_call *call, const char *option, double asked, double known)
{
    if (!cli_given(call, option) || asked == known)
        return true;
    cli_refuse("%s: found %g, expected the %g that the model was trained with (preprocessor_config.json)", option, asked, known);
    cli_blame(call, option);
    return false;
}

static bool normalized_otherwise(cli_call *call, int asked, int known)
{
    if (!cli_given(call, "normalize") || asked == known)
        return false;
    const char *const *names = cb_options_find(cb_series_option_table, "normalize")->choices;
    cli_refuse("normalize: found %s, expected the %s that the model was trained with (preprocessor_config.json)", names[asked],
               names[known]);
    cli_blame(call, "normalize");
    return true;
}

/* What is stored counts, and what is given has to be the same. */
static bool follow_stored(cli_call *call, cli_series_settings *s)
{
    const cb_series_processor *p = &s->processor;
    int normalize = p->nodes ? CB_SERIES_BY_NODE : CB_SERIES_BY_CHANNEL;
    if (!agrees(call, "steps_per_day", (double)s->data.steps_per_day, (double)p->steps_per_day) ||
        !agrees(call, "train_share", s->data.train_share, p->train_share) ||
        !agrees(call, "validation_share", s->data.validation_share, p->validation_share) ||
        normalized_otherwise(call, s->data.normalize, normalize))
        return false;
    s->data.steps_per_day = p->steps_per_day;
    s->data.train_share = p->train_share;
    s->data.validation_share = p->validation_share;
    s->data.normalize = normalize;
    return true;
}

static bool set_graph(cli_call *call, const cli_series_settings *s, cb_model *model, bool fresh)
{
    const cb_series_format f = cb_model_series_format(model);
    if (!s->adjacency)
        return !fresh || !f.graph ||
               cli_usage(call, "--adjacency is needed: the model has graph layers (num_graph_layers 0 in its config.json: none)");
    if (!f.graph)
        return cli_usage(call, "--adjacency: the model has no graph layers");
    float *weights = cb_adjacency_read(s->adjacency, s->adjacency_array, f.nodes);
    bool ok = weights && cb_model_set_graph(model, weights);
    cb_free(weights);
    return ok;
}

static bool check_nodes(const cli_series_settings *s, const char *path, const cb_model *model)
{
    const cb_series_format f = cb_model_series_format(model);
    int64_t nodes = cb_series_nodes(s->series), channels = cb_series_channels(s->series);
    if (f.nodes && nodes != f.nodes)
        return cli_refuse("%s: found %lld nodes, expected the model's num_nodes %lld", path, (long long)nodes, (long long)f.nodes);
    return channels == f.channels ||
           cli_refuse("%s: found %lld channels%s, expected the model's num_input_channels %lld", path, (long long)channels,
                      s->data.steps_per_day ? " with the time of day" : "", (long long)f.channels);
}

bool cli_series_ready(cli_call *call, cli_series_settings *s, const cb_string_list *data, cb_model *model, const char *stored)
{
    if (!cli_takes_series(model))
        return cli_refuse("--task forecasting: a %s model takes no series, expected one of gcgru, dlinear", cb_model_type(model));
    if (data->count != 1)
        return cli_usage(call, "--data: found %zu files, expected one: the numbers of all nodes, step by step", data->count);
    bool ok = !stored || (cb_series_processor_load(stored, &s->processor) && follow_stored(call, s));
    s->series = ok ? cb_series_open(data->items[0], &s->data) : NULL;
    return s->series && check_nodes(s, data->items[0], model) && (stored || cb_series_fit(s->series, &s->processor)) &&
           cb_series_processor_fits(&s->processor, model, stored ? stored : data->items[0]) && set_graph(call, s, model, !stored);
}

void cli_series_close(cli_series_settings *s)
{
    cb_series_free(s->series);
    cb_series_processor_free(&s->processor);
    s->series = NULL;
}

cb_dataset *cli_series_windows(const cli_series_settings *s, const cb_model *model, cb_series_part part, int64_t seed)
{
    const cb_series_format f = cb_model_series_format(model);
    const cb_window_options o = {.part = part,
                                 .context = f.context,
                                 .prediction = f.prediction,
                                 .targets = f.targets,
                                 .shuffle = part == CB_SERIES_TRAIN,
                                 .seed = (uint64_t)seed};
    return cb_series_windows(s->series, &s->processor, &o);
}

bool cli_series_corpus(cli_corpus *corpus, const cli_series_settings *s, const cb_model *model, int64_t seed)
{
    corpus->train = cli_series_windows(s, model, CB_SERIES_TRAIN, seed);
    if (corpus->train && s->data.validation_share > 0)
        corpus->validation = cli_series_windows(s, model, CB_SERIES_VALIDATION, seed);
    return cb_ok();
}

/* ---- evaluation ---- */

static json_t *errors_json(const cb_forecast_errors *e)
{
    return json_pack("{s:o, s:o, s:o, s:I}", "mae", cli_real(e->mae), "rmse", cli_real(e->rmse), "mape", cli_real(e->mape), "targets",
                     (json_int_t)e->count);
}

static bool print_json(const cb_model *model, const cb_forecast_result *r, json_t *online)
{
    json_t *line =
        json_pack("{s:s, s:s, s:o, s:o, s:o, s:I, s:o, s:I, s:o*}", "task", "forecasting", "model", cb_model_directory(model), "mae",
                  cli_real(r->all.mae), "rmse", cli_real(r->all.rmse), "mape", cli_real(r->all.mape), "windows", (json_int_t)r->rows,
                  "seconds", cli_real(r->seconds), "peak_memory", (json_int_t)cb_peak_rss(), "online", online);
    if (line && !online)
        json_object_set_new(line, "loss", cli_real(r->loss));
    json_t *each = json_array();
    for (int64_t t = 0; t < r->prediction; t++)
        json_array_append_new(each, errors_json(&r->each[t]));
    json_object_set_new(line, "horizons", each);
    return cli_json(line);
}

static bool print_table(const cb_forecast_result *r)
{
    cli_table table = {.columns = 4, .right = "rrrr"};
    bool ok = cli_table_add(&table, "step ahead") && cli_table_add(&table, "MAE") && cli_table_add(&table, "RMSE") &&
              cli_table_add(&table, "MAPE %%");
    for (int64_t t = 0; ok && t <= r->prediction; t++) {
        const cb_forecast_errors *e = t < r->prediction ? &r->each[t] : &r->all;
        ok = (t < r->prediction ? cli_table_add(&table, "%lld", (long long)t + 1) : cli_table_add(&table, "all")) &&
             cli_table_add(&table, "%.4f", e->mae) && cli_table_add(&table, "%.4f", e->rmse) &&
             cli_table_add(&table, "%.2f", 100 * e->mape);
    }
    cli_table_print(&table);
    cli_field("windows", "%s", cli_thousands(r->rows));
    cli_field("time", "%s", cli_seconds(r->seconds));
    cli_field("peak memory", "%s", cli_bytes(cb_peak_rss()));
    return ok;
}

/* ---- learning from what comes to be ---- */

static bool check_online(cli_call *call, const cli_series_settings *s)
{
    static const char *const own[] = {"online_learning_rate", "online_seed", "online_adapter", "online_output"};
    bool learns = s->online.online != CB_ONLINE_NONE, corrects = s->online.online == CB_ONLINE_ADCSD || s->online.online == CB_ONLINE_BOTH;
    for (size_t i = 0; !learns && i < sizeof own / sizeof *own; i++)
        if (cli_given(call, own[i]))
            return cli_refuse("%s: has no meaning without --online", own[i]), cli_blame(call, own[i]), false;
    for (const cb_option *o = cb_adcsd_option_table; o->name; o++)
        if (cli_given(call, o->name) && (!corrects || s->online_adapter))
            return cli_refuse("%s: is of a new adcsd: --online adcsd or both, and no --online-adapter", o->name), cli_blame(call, o->name),
                   false;
    if (!corrects && (s->online_adapter || s->online_output))
        return cli_usage(call, "--online-%s: is of --online adcsd or both", s->online_adapter ? "adapter" : "output");
    return !learns || !cli_given(call, "batch_size") || cli_usage(call, "--batch-size: with --online windows come one by one");
}

static bool run_online(cli_call *call, const cli_series_settings *s, const cb_forecast_training *t, cb_dataset *windows,
                       int64_t max_windows)
{
    cb_adcsd *adcsd = s->online_adapter ? cb_adcsd_load(s->online_adapter) : NULL;
    cb_online_forecaster *f = cb_ok() ? cb_online_forecaster_new(t, &s->online, adcsd, cb_series_nodes(s->series)) : NULL;
    cb_forecast_result r = {0};
    bool ok = f != NULL;
    if (ok) {
        const cb_forecast_policy policy = cb_online_forecaster_policy(f);
        ok = cb_forecast_stream(t, windows, &policy, max_windows, &r);
    }
    ok = ok && (!s->online_output || cb_adcsd_save(cb_online_forecaster_adcsd(f), s->online_output));
    if (ok && !cb_rehearsing() && call->common.json) {
        ok = print_json(t->model, &r,
                        json_pack("{s:s, s:I, s:o}", "learns", cb_online_option_table[0].choices[s->online.online], "parameters",
                                  (json_int_t)cb_online_forecaster_size(f), "learning_rate", cli_real(s->online.online_learning_rate)));
    } else if (ok && !cb_rehearsing()) {
        ok = print_table(&r);
        cli_field("learned", "%s numbers (%s)", cli_thousands(cb_online_forecaster_size(f)),
                  cb_online_option_table[0].choices[s->online.online]);
    }
    cb_forecast_result_free(&r);
    cb_online_forecaster_free(f);
    cb_adcsd_free(adcsd);
    return ok;
}

bool cli_eval_forecasting(cli_call *call, cli_series_settings *s, const cb_string_list *data, cb_model *model, int64_t batch_size,
                          int64_t max_batches)
{
    const cb_forecast_training training = {.model = model, .processor = &s->processor, .options = s->learning};
    cb_forecast_result r = {0};
    bool online = s->online.online != CB_ONLINE_NONE;
    bool ok = check_online(call, s) && (!s->online_output || cli_output_directory(s->online_output, cb_model_directory(model))) &&
              cli_series_ready(call, s, data, model, cb_model_directory(model));
    cb_dataset *windows = ok ? cli_series_windows(s, model, (cb_series_part)s->series_part, 0) : NULL;
    if (online)
        ok = windows && run_online(call, s, &training, windows, max_batches);
    else
        ok = windows && cb_evaluate_forecasting(&training, windows, batch_size, max_batches, &r) &&
             (cb_rehearsing() || (call->common.json ? print_json(model, &r, NULL) : print_table(&r)));
    cb_forecast_result_free(&r);
    cb_dataset_free(windows);
    cli_series_close(s);
    return ok;
}
