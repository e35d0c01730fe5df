/* series.c: series of numbers in time, divided by time, and windows of them as rows of a dataset.
 *
 * Letters: S steps, N nodes, C channels. */
#include "data/series.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "data/dataset.h"

static const char *const normalize_names[] = {"channel", "node", NULL};
const char *const cb_series_part_names[] = {"train", "validation", "test", "all", NULL};

#define OPT cb_series_options
const cb_option cb_series_option_table[] = {
    CB_OPT_BOOL(OPT, table_header, 1, "of a table: its first line names the columns"),
    CB_OPT_STRING(OPT, series_array, "data", "NAME", "of an .npz file: which of its arrays the series are"),
    CB_OPT_STRING(OPT, null_value, NULL, "X",
                  "a number that stands for one that is not known: it counts neither in the loss nor in metrics"),
    CB_OPT_INT(OPT, steps_per_day, 0, 0, 86400, "adds the time of day as a channel, of so many steps a day (0: none)"),
    CB_OPT_ENUM(OPT, normalize, CB_SERIES_BY_CHANNEL, normalize_names,
                "what has a mean and a deviation of its own: a channel, or each channel of each node (series of different units)"),
    CB_OPT_FLOAT(OPT, train_share, 0.7, 0.01, 1, "of the steps, the first: they are trained on"),
    CB_OPT_FLOAT(OPT, validation_share, 0.1, 0, 0.9, "of the steps, those behind them; the rest is for tests"),
    CB_OPT_END};
#undef OPT

/* ---- the numbers ---- */

static void series_release(cb_series *s)
{
    if (!s || --s->references > 0)
        return;
    cb_free(s->values);
    cb_free(s->name);
    cb_free(s);
}

void cb_series_free(cb_series *series)
{
    series_release(series);
}

static bool mark_unknown(cb_series *s, const char *null_value)
{
    char *end;
    double value = strtod(null_value, &end);
    if (end == null_value || *end)
        return cb_fail(CB_ERR_ARGUMENT, "null_value: found \"%s\", expected a number", null_value) == CB_OK;
    for (int64_t i = 0; i < s->steps * s->nodes * s->channels; i++)
        if (s->values[i] == (float)value)
            s->values[i] = NAN;
    return true;
}

static bool check_sizes(const char *name, int64_t steps, int64_t nodes, int64_t channels)
{
    int64_t values;
    return (steps > 0 && nodes > 0 && channels > 0 && !__builtin_mul_overflow(steps, nodes, &values) &&
            !__builtin_mul_overflow(values, channels, &values)) ||
           cb_fail(CB_ERR_FORMAT, "%s: found series of %lld steps, %lld nodes and %lld channels, expected one of each at least", name,
                   (long long)steps, (long long)nodes, (long long)channels) == CB_OK;
}

/* Takes the values. */
static cb_series *series_new(const char *name, float *values, int64_t steps, int64_t nodes, int64_t channels, const cb_series_options *o)
{
    cb_series *s = cb_calloc(1, sizeof *s);
    if (!s) {
        cb_free(values);
        return NULL;
    }
    *s = (cb_series){.values = values, .steps = steps, .nodes = nodes, .channels = channels, .options = *o, .references = 1};
    s->options.series_array = s->options.null_value = NULL;
    s->name = cb_strdup(name);
    s->train_end = (int64_t)llround((double)steps * o->train_share);
    s->validation_end = (int64_t)llround((double)steps * (o->train_share + o->validation_share));
    bool ok = s->name && (!o->null_value || mark_unknown(s, o->null_value));
    if (ok && o->train_share + o->validation_share > 1 + 1e-9)
        ok = cb_fail(CB_ERR_ARGUMENT, "validation_share: %g of the steps behind %g of them, expected no more than all", o->validation_share,
                     o->train_share) == CB_OK;
    if (ok)
        return s;
    series_release(s);
    return NULL;
}

cb_series *cb_series_open(const char *path, const cb_series_options *options)
{
    series_table t;
    if (!cb_series_table_read(path, options->series_array, options->table_header, &t))
        return NULL;
    return series_new(path, t.values, t.shape[0], t.shape[1], t.ndim == 3 ? t.shape[2] : 1, options);
}

cb_series *cb_series_from(const char *name, const float *values, int64_t steps, int64_t nodes, int64_t channels,
                          const cb_series_options *options)
{
    if (!check_sizes(name, steps, nodes, channels))
        return NULL;
    size_t count = (size_t)(steps * nodes * channels);
    float *copy = cb_calloc(count, sizeof *copy);
    if (!copy)
        return NULL;
    memcpy(copy, values, count * sizeof *copy);
    return series_new(name, copy, steps, nodes, channels, options);
}

int64_t cb_series_steps(const cb_series *series)
{
    return series->steps;
}

int64_t cb_series_nodes(const cb_series *series)
{
    return series->nodes;
}

int64_t cb_series_channels(const cb_series *series)
{
    return series->channels + (series->options.steps_per_day > 0);
}

/* Of all channels, the time of day last. */
static float value_at(const cb_series *s, int64_t step, int64_t node, int64_t channel)
{
    if (channel < s->channels)
        return s->values[(step * s->nodes + node) * s->channels + channel];
    int64_t day = s->options.steps_per_day;
    return (float)((double)(step % day) / (double)day);
}

/* ---- mean and deviation ---- */

/* Of one channel, of one node or (node -1) of all. */
static bool measure(const cb_series *s, int64_t node, int64_t channel, double *mean, double *std)
{
    double sum = 0, squares = 0, n = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t t = 0; t < s->train_end; t++)
            for (int64_t i = node < 0 ? 0 : node; i < (node < 0 ? s->nodes : node + 1); i++) {
                double v = (double)value_at(s, t, i, channel);
                if (!isfinite(v))
                    continue;
                n += pass == 0;
                sum += pass == 0 ? v : 0;
                squares += pass == 1 ? (v - *mean) * (v - *mean) : 0;
            }
        *mean = n > 0 ? sum / n : 0;
    }
    *std = n > 0 ? sqrt(squares / n) : 0;
    *std = *std > 0 ? *std : 1; /* a constant stays near 0 */
    return n > 0 || cb_fail(CB_ERR_FORMAT, "%s: the training part has no number of channel %lld", s->name, (long long)channel) == CB_OK;
}

bool cb_series_fit(const cb_series *series, cb_series_processor *processor)
{
    bool by_node = series->options.normalize == CB_SERIES_BY_NODE;
    int64_t channels = cb_series_channels(series), nodes = by_node ? series->nodes : 1;
    *processor = (cb_series_processor){.channels = channels,
                                       .nodes = by_node ? nodes : 0,
                                       .steps_per_day = series->options.steps_per_day,
                                       .train_share = series->options.train_share,
                                       .validation_share = series->options.validation_share,
                                       .mean = cb_calloc((size_t)(nodes * channels), sizeof(double)),
                                       .std = cb_calloc((size_t)(nodes * channels), sizeof(double))};
    bool ok = processor->mean && processor->std;
    for (int64_t i = 0; ok && i < nodes * channels; i++)
        ok = measure(series, by_node ? i / channels : -1, i % channels, &processor->mean[i], &processor->std[i]);
    if (!ok)
        cb_series_processor_free(processor);
    return ok;
}

/* ---- windows ---- */

struct series_rows {
    cb_series *series;
    cb_window_options options;
    double *mean, *scale; /* (N, C) or (C): 1 / std */
    bool by_node;
    int64_t first, count; /* the first step to be foretold of the first window */
};

void cb_windows_free(series_rows *r)
{
    if (!r)
        return;
    series_release(r->series);
    cb_free(r->mean);
    cb_free(r->scale);
    cb_free(r);
}

static void bounds_of(const cb_series *s, cb_series_part part, int64_t *begin, int64_t *end)
{
    *begin = part == CB_SERIES_VALIDATION ? s->train_end : part == CB_SERIES_TEST ? s->validation_end : 0;
    *end = part == CB_SERIES_TRAIN ? s->train_end : part == CB_SERIES_VALIDATION ? s->validation_end : s->steps;
}

static bool check(const cb_series *s, const cb_series_processor *p, const cb_window_options *o)
{
    if (p->channels != cb_series_channels(s) || p->steps_per_day != s->options.steps_per_day)
        return cb_fail(CB_ERR_ARGUMENT, "%s: %lld channels%s, expected the %lld%s that preprocessor_config.json has (steps_per_day %lld)",
                       s->name, (long long)cb_series_channels(s), s->options.steps_per_day ? " with the time of day" : "",
                       (long long)p->channels, p->steps_per_day ? " with the time of day" : "", (long long)p->steps_per_day) == CB_OK;
    if (p->nodes && p->nodes != s->nodes)
        return cb_fail(CB_ERR_ARGUMENT, "%s: found %lld nodes, expected the %lld that preprocessor_config.json has means for", s->name,
                       (long long)s->nodes, (long long)p->nodes) == CB_OK;
    if (o->context < 1 || o->prediction < 1 || o->targets < 1 || o->targets > s->channels)
        return cb_fail(
                   CB_ERR_ARGUMENT,
                   "%s: windows of %lld and %lld steps with %lld of %lld channels to be foretold, expected one step of each at least, and "
                   "channels of the file",
                   s->name, (long long)o->context, (long long)o->prediction, (long long)o->targets, (long long)s->channels) == CB_OK;
    return true;
}

static bool take_statistics(series_rows *r, const cb_series_processor *p)
{
    size_t count = (size_t)((p->nodes ? p->nodes : 1) * p->channels);
    r->by_node = p->nodes;
    r->mean = cb_calloc(count, sizeof *r->mean);
    r->scale = cb_calloc(count, sizeof *r->scale);
    for (size_t i = 0; r->mean && r->scale && i < count; i++) {
        r->mean[i] = p->mean[i];
        r->scale[i] = 1 / p->std[i];
    }
    return r->mean && r->scale;
}

cb_dataset *cb_series_windows(cb_series *series, const cb_series_processor *processor, const cb_window_options *options)
{
    if (!series || !check(series, processor, options))
        return NULL;
    cb_dataset *data = cb_calloc(1, sizeof *data);
    series_rows *r = data ? data->series = cb_calloc(1, sizeof *r) : NULL;
    bool ok = r && take_statistics(r, processor);
    if (ok) {
        int64_t begin, end;
        bounds_of(series, options->part, &begin, &end);
        r->series = series;
        series->references++;
        r->options = *options;
        r->first = begin > options->context ? begin : options->context;
        r->count = end - options->prediction - r->first + 1;
        ok = r->count > 0 ||
             cb_fail(CB_ERR_ARGUMENT,
                     "%s: the %s part (steps %lld to %lld) has no window of %lld and %lld steps; expected a longer series, or "
                     "other shares",
                     series->name, cb_series_part_names[options->part], (long long)begin, (long long)end, (long long)options->context,
                     (long long)options->prediction) == CB_OK;
    }
    if (ok)
        return data;
    cb_dataset_free(data);
    return NULL;
}

/* ---- batches ---- */

static bool ready(const series_rows *r, int64_t rows, cb_batch *batch)
{
    const cb_series *s = r->series;
    const int64_t ids[] = {rows, r->options.context, s->nodes, cb_series_channels(s)};
    const int64_t targets[] = {rows, r->options.prediction, s->nodes, r->options.targets};
    batch->tokens = rows;
    batch->predicted = 0;
    return cb_batch_tensor(&batch->ids, CB_F32, 4, ids) && cb_batch_tensor(&batch->targets, CB_F32, 4, targets);
}

static void fill_input(const series_rows *r, int64_t begin, float *out)
{
    const cb_series *s = r->series;
    int64_t channels = cb_series_channels(s);
    for (int64_t t = begin; t < begin + r->options.context; t++)
        for (int64_t n = 0; n < s->nodes; n++)
            for (int64_t c = 0; c < channels; c++) {
                int64_t at = (r->by_node ? n * channels : 0) + c;
                double v = ((double)value_at(s, t, n, c) - r->mean[at]) * r->scale[at];
                *out++ = isfinite(v) ? (float)v : 0;
            }
}

static void fill_targets(const series_rows *r, int64_t begin, float *out, cb_batch *batch)
{
    const cb_series *s = r->series;
    for (int64_t t = begin; t < begin + r->options.prediction; t++)
        for (int64_t n = 0; n < s->nodes; n++)
            for (int64_t c = 0; c < r->options.targets; c++) {
                *out = value_at(s, t, n, c);
                batch->predicted += isfinite(*out) != 0;
                *out = isfinite(*out) ? *out : NAN;
                out++;
            }
}

static void fill(const series_rows *r, int64_t window, int64_t at, cb_batch *batch)
{
    int64_t step = r->first + window, in = batch->ids->count / batch->ids->shape[0], out = batch->targets->count / batch->targets->shape[0];
    fill_input(r, step - r->options.context, (float *)batch->ids->data + at * in);
    fill_targets(r, step, (float *)batch->targets->data + at * out, batch);
}

bool cb_windows_batch(series_rows *r, int64_t index, int64_t rows, cb_batch *batch, cb_string *sources)
{
    if (!ready(r, rows, batch))
        return false;
    for (int64_t i = 0; i < rows; i++) {
        int64_t at = index * rows + i, epoch = at / r->count, window = at % r->count;
        window = r->options.shuffle ? cb_data_permuted(r->options.seed, epoch, r->count, window) : window;
        fill(r, window, i, batch);
        if (sources)
            cb_string_printf(sources, "%s%s: step %lld", sources->length ? ", " : "", r->series->name, (long long)(r->first + window));
    }
    return true;
}

bool cb_windows_sequential(series_rows *r, int64_t index, int64_t rows, cb_batch *batch)
{
    int64_t first = index * rows, n = r->count - first < rows ? r->count - first : rows;
    if (n <= 0 || !ready(r, n, batch))
        return false;
    for (int64_t i = 0; i < n; i++)
        fill(r, first + i, i, batch);
    return true;
}

int64_t cb_windows_count(const series_rows *r)
{
    return r->count;
}

uint64_t cb_windows_hash(const series_rows *r)
{
    const cb_series *s = r->series;
    const int64_t numbers[] = {
        s->nodes, s->channels, s->options.steps_per_day, r->options.context, r->options.prediction, r->options.targets, r->first, r->count};
    uint64_t h = CB_HASH_START;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        h = (h ^ (uint64_t)numbers[i]) * 0x100000001b3u;
    int64_t end = (r->first + r->count + r->options.prediction - 1) * s->nodes * s->channels;
    for (int64_t i = (r->first - r->options.context) * s->nodes * s->channels; i < end; i++) {
        uint32_t bits;
        memcpy(&bits, &s->values[i], sizeof bits);
        h = (h ^ bits) * 0x100000001b3u;
    }
    return h;
}

char *cb_windows_source(const series_rows *r, int64_t row)
{
    return cb_format("%s: step %lld", r->series->name, (long long)(r->first + row));
}
