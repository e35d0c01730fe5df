/* series.c: series of numbers, graphs of their nodes and how they are made ready.  The first byte of the input says which: an array of NumPy's, a
 * table with a header, a matrix of three nodes, preprocessor_config.json, or adcsd_config.json beside weights. */
#include "cambium/data.h"
#include "cambium/methods.h"
#include "fuzz.h"

static void read_windows(cb_series *series)
{
    cb_series_processor processor;
    cb_batch batch = {0};
    const cb_window_options o = {.part = CB_SERIES_ALL, .context = 2, .prediction = 1, .targets = 1};
    if (!fuzz_expect(cb_series_fit(series, &processor)))
        return;
    cb_dataset *data = cb_series_windows(series, &processor, &o);
    if (fuzz_expect(data != NULL)) {
        fuzz_expect(cb_dataset_sequential(data, 0, 1, &batch));
        fuzz_touch(batch.ids->data, (size_t)batch.ids->count * sizeof(float));
    }
    cb_batch_free(&batch);
    cb_dataset_free(data);
    cb_series_processor_free(&processor);
}

static void read_series(const char *path)
{
    cb_series_options o;
    cb_options_init(cb_series_option_table, &o);
    cb_series *series = cb_series_open(path, &o);
    if (fuzz_expect(series != NULL))
        read_windows(series);
    cb_series_free(series);
    cb_options_free(cb_series_option_table, &o);
}

static void read_graph(const char *path)
{
    enum { NODES = 3 };
    float *weights = cb_adjacency_read(path, NULL, NODES);
    if (fuzz_expect(weights != NULL))
        fuzz_touch(weights, NODES * NODES * sizeof *weights);
    cb_free(weights);
}

static void read_processor(const uint8_t *data, size_t size)
{
    cb_series_processor processor;
    fuzz_expect(cb_series_processor_parse("input", (const char *)data, size, &processor));
    cb_series_processor_free(&processor);
}

static void read_adcsd(const uint8_t *data, size_t size)
{
    static bool saved;
    if (!saved) {
        cb_adcsd_options o = {.adcsd_hidden_size = 2, .adcsd_kernel = 3, .adcsd_decompose = true, .adcsd_lambda = true};
        cb_adcsd *adcsd = cb_adcsd_new(2, 3, 1, &o, 0);
        saved = fuzz_expect(adcsd && cb_adcsd_save(adcsd, fuzz_path("adcsd")));
        cb_adcsd_free(adcsd);
    }
    fuzz_file("adcsd/adcsd_config.json", data, size);
    cb_adcsd *adcsd = cb_adcsd_load(fuzz_path("adcsd"));
    fuzz_expect(adcsd != NULL);
    cb_adcsd_free(adcsd);
}

void fuzz_target(const uint8_t *data, size_t size)
{
    if (!size)
        return;
    switch (data[0]) {
    case 'n':
        read_series(fuzz_file("series.npy", data + 1, size - 1));
        break;
    case 't':
        read_series(fuzz_file("series.csv", data + 1, size - 1));
        break;
    case 'g':
        read_graph(fuzz_file("graph.csv", data + 1, size - 1));
        break;
    case 'p':
        read_processor(data + 1, size - 1);
        break;
    case 'a':
        read_adcsd(data + 1, size - 1);
        break;
    default:
        break;
    }
}
