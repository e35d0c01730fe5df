/* load.c: what it takes to load one more adapter, and to switch one on or off, while others are loaded.
 *
 *     load --model DIR --adapters DIR[,DIR...] [--loaded N]
 *
 * Goes through the directories, again and again, until N adapters are loaded; all stay loaded, and off.  Prints one JSON object: milliseconds
 * of one load (median, fastest, and the median of the last tenth), of the first read of a byte of every page of its values, of a switch. */
#include <cambium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct settings {
    char *model;
    cb_string_list adapters;
    int64_t loaded;
} settings;

static const cb_option table[] = {
    CB_OPT_STRING(settings, model, NULL, "DIR", "Hugging Face model directory"),
    CB_OPT_LIST(settings, adapters, NULL, "DIR,...", "adapters"),
    CB_OPT_INT(settings, loaded, 300, 1, 100000, "how many are loaded in the end"),
    CB_OPT_END,
};

static bool parse(int count, char **words, settings *s)
{
    for (int i = 1; i < count; i += 2)
        if (strncmp(words[i], "--", 2) != 0 || i + 1 == count || !cb_options_set(table, s, words[i] + 2, words[i + 1]))
            return false;
    return s->model && s->adapters.count;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *values, int64_t n)
{
    qsort(values, (size_t)n, sizeof *values, by_value);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

static int64_t read_pages(const cb_adapter *adapter)
{
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list);
    int64_t sum = 0;
    for (size_t i = 0; i < count; i++)
        for (int64_t k = 0; k < list[i].tensor->count; k += 1024)
            sum += ((const volatile char *)list[i].tensor->data)[4 * k];
    return sum;
}

static bool run(cb_model *model, const settings *s, cb_adapter **adapters)
{
    int64_t n = s->loaded, tenth = (n + 9) / 10;
    double *load = cb_calloc((size_t)n * 3, sizeof *load), *page = load + n, *turn = page + n;
    bool ok = load;
    for (int64_t i = 0; ok && i < n; i++) {
        double start = cb_now();
        adapters[i] = cb_adapter_load(s->adapters.items[(size_t)i % s->adapters.count], cb_model_root(model), cb_model_type(model));
        load[i] = (cb_now() - start) * 1e3;
        ok = adapters[i];
        if (!ok)
            break;
        start = cb_now();
        read_pages(adapters[i]);
        page[i] = (cb_now() - start) * 1e3;
        start = cb_now();
        cb_adapter_set_strength(adapters[i], 0);
        cb_adapter_set_strength(adapters[i], 1);
        turn[i] = (cb_now() - start) * 1e3 / 2;
        cb_adapter_set_strength(adapters[i], 0);
    }
    if (ok) {
        double last = median(load + n - tenth, tenth), half = median(load, n);
        printf("{\"loaded\": %lld, \"parameters\": %lld, \"load_ms\": %.4f, \"fastest_ms\": %.4f, \"last_tenth_ms\": %.4f, \"pages_ms\": "
               "%.4f, "
               "\"switch_ms\": %.5f}\n",
               (long long)n, (long long)cb_adapter_parameter_count(adapters[0]), half, load[0], last, median(page, n), median(turn, n));
    }
    cb_free(load);
    return ok;
}

int main(int count, char **words)
{
    settings s;
    cb_options_init(table, &s);
    if (!parse(count, words, &s)) {
        fprintf(stderr, "load: %s\n", cb_ok() ? "expected --model DIR --adapters DIR[,DIR...] and options by pairs" : cb_error_message());
        return 2;
    }
    cb_model *model = cb_model_load(s.model, .dtype = CB_BF16);
    cb_adapter **adapters = model ? cb_calloc((size_t)s.loaded, sizeof(cb_adapter *)) : NULL;
    bool ok = adapters && run(model, &s, adapters);
    if (!ok)
        fprintf(stderr, "load: %s\n", cb_error_message());
    for (int64_t i = 0; adapters && i < s.loaded; i++)
        cb_adapter_free(adapters[i]);
    cb_free(adapters);
    cb_model_free(model);
    cb_options_free(table, &s);
    return ok ? 0 : 1;
}
