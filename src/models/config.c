/* config.c: reading config.json: integers through a table, each with its range, and messages that name file and
 * field. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "models/internal.h"

bool cb_config_error(const cb_model *model, const char *format, ...)
{
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    cb_fail(CB_ERR_FORMAT, "%s: %s", model->config_path, line);
    return false;
}

static bool read_integer(cb_model *model, const cb_config_field *field)
{
    const json_t *value = json_object_get(model->json, field->key);
    bool given = value && !json_is_null(value);
    if (!given && field->otherwise == CB_REQUIRED)
        return cb_config_error(model, "%s is missing, expected an integer", field->key);
    int64_t number = cb_json_int(model->config_path, model->json, field->key, field->otherwise);
    if (!cb_ok())
        return false;
    if (given && (number < field->min || number > field->max))
        return cb_config_error(model, "%s is %lld, expected %lld to %lld", field->key, (long long)number, (long long)field->min,
                               (long long)field->max);
    *(int64_t *)((char *)&model->config + field->offset) = number;
    return true;
}

bool cb_config_integers(cb_model *model, const cb_config_field *fields)
{
    for (; fields->key; fields++)
        if (!read_integer(model, fields))
            return false;
    return true;
}

bool cb_config_activation_named(const cb_model *model, const char *key, const char *name, cb_activation *out)
{
    static const struct {
        const char *name;
        cb_activation activation;
    } known[] = {
        {"silu", CB_ACT_SILU},
        {"swish", CB_ACT_SILU},
        {"gelu", CB_ACT_GELU},
        {"gelu_python", CB_ACT_GELU},
        {"gelu_new", CB_ACT_GELU_TANH},
        {"gelu_fast", CB_ACT_GELU_TANH},
        {"gelu_pytorch_tanh", CB_ACT_GELU_TANH},
        {"quick_gelu", CB_ACT_QUICK_GELU},
        {"relu", CB_ACT_RELU},
        {"relu6", CB_ACT_RELU6},
        {"tanh", CB_ACT_TANH},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(name, known[i].name) != 0)
            continue;
        *out = known[i].activation;
        return true;
    }
    cb_string names = {0};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        cb_string_printf(&names, "%s%s", i ? ", " : "", known[i].name);
    cb_fail(CB_ERR_UNSUPPORTED, "%s: %s is \"%s\", expected one of %s", model->config_path, key, name, names.data ? names.data : "");
    cb_string_free(&names);
    return false;
}

bool cb_config_activation_of(const cb_model *model, const char *key, const char *otherwise, cb_activation *out)
{
    const char *name = cb_json_string(model->config_path, model->json, key, otherwise);
    return cb_ok() && cb_config_activation_named(model, key, name, out);
}

bool cb_config_activation(cb_model *model, const char *key, const char *otherwise)
{
    return cb_config_activation_of(model, key, otherwise, &model->config.activation);
}

int64_t cb_config_list(const cb_model *model, const char *key, const int64_t *otherwise, int64_t count, int64_t most, int64_t min,
                       int64_t max, int64_t *out)
{
    const json_t *list = json_object_get(model->json, key);
    if (!list || json_is_null(list)) {
        memcpy(out, otherwise, (size_t)count * sizeof *out);
        return count;
    }
    size_t n = json_array_size(list);
    if (!json_is_array(list) || n < 1 || n > (size_t)most)
        return cb_config_error(model, "%s is no list of 1 to %lld integers", key, (long long)most);
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(list, i);
        out[i] = json_integer_value(item);
        if (!json_is_integer(item) || out[i] < min || out[i] > max)
            return cb_config_error(model, "%s[%zu] is no integer from %lld to %lld", key, i, (long long)min, (long long)max);
    }
    return (int64_t)n;
}

bool cb_config_size(const cb_model *model, const char *key, int64_t otherwise, int64_t max, int64_t size[2])
{
    const json_t *value = json_object_get(model->json, key);
    if (json_is_array(value)) {
        int64_t count = cb_config_list(model, key, NULL, 0, 2, 1, max, size);
        return count == 2 || (count && cb_config_error(model, "%s is a list of one integer, expected height and width", key));
    }
    size[0] = size[1] = cb_json_int(model->config_path, model->json, key, otherwise);
    if (cb_ok() && (size[0] < 1 || size[0] > max))
        return cb_config_error(model, "%s is %lld, expected 1 to %lld", key, (long long)size[0], (long long)max);
    return cb_ok();
}

bool cb_config_number(const cb_model *model, const char *key, double otherwise, double min, double max, double *out)
{
    *out = cb_json_float(model->config_path, model->json, key, otherwise);
    if (cb_ok() && !(*out >= min && *out <= max))
        return cb_config_error(model, "%s is %g, expected %g to %g", key, *out, min, max);
    return cb_ok();
}
