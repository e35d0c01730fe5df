/* series_processor.c: how series are made ready, as preprocessor_config.json beside a model or an adapter. */
#include <math.h>
#include <string.h>

#include "cambium/data.h"
#include "core/json.h"

#define FILE_NAME "preprocessor_config.json"
#define TYPE      "zscore"
enum { MOST = 1 << 24 };

void cb_series_processor_free(cb_series_processor *processor)
{
    cb_free(processor->mean);
    cb_free(processor->std);
    *processor = (cb_series_processor){0};
}

/* ---- reading ---- */

static double *read_numbers(const char *file, const json_t *json, const char *key, size_t count, bool positive)
{
    const json_t *list = json_object_get(json, key);
    if (!json_is_array(list) || json_array_size(list) != count) {
        cb_fail(CB_ERR_FORMAT, "%s: %s has %zu numbers, expected %zu: one for each channel, or each channel of each node", file, key,
                json_array_size(list), count);
        return NULL;
    }
    double *numbers = cb_calloc(count, sizeof *numbers);
    for (size_t i = 0; numbers && i < count; i++) {
        const json_t *item = json_array_get(list, i);
        numbers[i] = json_number_value(item);
        if (!json_is_number(item) || !isfinite(numbers[i]) || (positive && !(numbers[i] > 0))) {
            cb_fail(CB_ERR_FORMAT, "%s: %s[%zu] is no %snumber", file, key, i, positive ? "positive " : "");
            cb_free(numbers);
            return NULL;
        }
    }
    return numbers;
}

static bool read(const char *file, const json_t *json, cb_series_processor *p)
{
    const char *type = cb_json_string(file, json, "series_processor_type", "");
    if (cb_ok() && strcmp(type, TYPE) != 0)
        return cb_fail(CB_ERR_FORMAT,
                       "%s: series_processor_type is \"%.40s\", expected \"" TYPE "\": how a forecaster's series are normalised", file,
                       type) == CB_OK;
    p->channels = cb_json_int(file, json, "num_channels", 0);
    p->nodes = cb_json_int(file, json, "num_nodes", 0);
    p->steps_per_day = cb_json_int(file, json, "steps_per_day", 0);
    p->train_share = cb_json_float(file, json, "train_share", 0.7);
    p->validation_share = cb_json_float(file, json, "validation_share", 0.1);
    if (!cb_ok())
        return false;
    if (p->channels < 1 || p->channels > MOST || p->nodes < 0 || p->nodes > MOST || p->channels * (p->nodes ? p->nodes : 1) > MOST)
        return cb_fail(CB_ERR_FORMAT, "%s: num_channels is %lld and num_nodes %lld, expected 1 or more channels, and %d numbers at most",
                       file, (long long)p->channels, (long long)p->nodes, MOST) == CB_OK;
    if (p->steps_per_day < 0 || p->steps_per_day > 86400 || !(p->train_share > 0 && p->train_share <= 1) ||
        !(p->validation_share >= 0 && p->validation_share < 1))
        return cb_fail(CB_ERR_FORMAT, "%s: steps_per_day is %lld, train_share %g and validation_share %g, expected up to 86400, and shares",
                       file, (long long)p->steps_per_day, p->train_share, p->validation_share) == CB_OK;
    size_t count = (size_t)(p->channels * (p->nodes ? p->nodes : 1));
    p->mean = read_numbers(file, json, "mean", count, false);
    p->std = p->mean ? read_numbers(file, json, "std", count, true) : NULL;
    return p->std;
}

bool cb_series_processor_parse(const char *name, const char *json, size_t length, cb_series_processor *processor)
{
    *processor = (cb_series_processor){0};
    json_t *value = cb_json_parse(name, json, length);
    bool ok = value && read(name, value, processor);
    json_decref(value);
    if (!ok)
        cb_series_processor_free(processor);
    return ok;
}

bool cb_series_processor_load(const char *path, cb_series_processor *processor)
{
    size_t length;
    *processor = (cb_series_processor){0};
    char *file = cb_is_directory(path) ? cb_path_join(path, FILE_NAME) : cb_strdup(path);
    char *text = file ? cb_file_read(file, (size_t)1 << 30, &length) : NULL;
    bool ok = text && cb_series_processor_parse(file, text, length, processor);
    cb_free(text);
    cb_free(file);
    return ok;
}

/* ---- writing ---- */

static bool put_numbers(json_t *json, const char *key, const double *numbers, size_t count)
{
    json_t *list = json_array();
    for (size_t i = 0; list && i < count; i++)
        if (!cb_json_add(list, json_real(numbers[i])))
            break;
    return cb_json_put(json, key, list) && cb_ok();
}

bool cb_series_processor_save(const cb_series_processor *p, const char *directory)
{
    size_t count = (size_t)(p->channels * (p->nodes ? p->nodes : 1));
    json_t *json = json_object();
    char *path = cb_path_join(directory, FILE_NAME);
    bool ok = path && cb_json_put(json, "series_processor_type", json_string(TYPE)) &&
              cb_json_put(json, "num_channels", json_integer((json_int_t)p->channels)) &&
              cb_json_put(json, "num_nodes", json_integer((json_int_t)p->nodes)) &&
              cb_json_put(json, "steps_per_day", json_integer((json_int_t)p->steps_per_day)) &&
              cb_json_put(json, "train_share", json_real(p->train_share)) &&
              cb_json_put(json, "validation_share", json_real(p->validation_share)) && put_numbers(json, "mean", p->mean, count) &&
              put_numbers(json, "std", p->std, count) && cb_json_save(path, json, false);
    json_decref(json);
    cb_free(path);
    return ok;
}
