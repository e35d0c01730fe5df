/* adapt.c: our side of bench/compare_adaptation.py; bench/peer/adaptation_peer.py is the other.
 *
 *     adapt --model DIR --inputs FILE [--method tent|cotta|...] [--views N] [--batch-size N] [--size N] [--steps N] [--threads N]
 *           [--processor-time true]
 *
 * Steps of cb_adaptation_step() without a guard over the batches of a file of pixels, again from the front at its end.  The learning rate is 1e-3, the
 * optimiser Adam; CoTTA looks at its views in every batch.  Prints one JSON object with the peer's field names; `answers` are the first three
 * probabilities of the last batch's first image. */
#include <cambium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct settings {
    char *model, *inputs, *method;
    int64_t views, batch_size, size, steps, threads;
    bool processor_time;
} settings;

static const cb_option table[] = {
    CB_OPT_STRING(settings, model, NULL, "DIR", "Hugging Face model directory"),
    CB_OPT_STRING(settings, inputs, NULL, "FILE", "little-endian f32 pixels (N, 3, size, size)"),
    CB_OPT_STRING(settings, method, "tent", "NAME", "how the model adapts"),
    CB_OPT_INT(settings, views, 32, 0, 1000, "of cotta"),
    CB_OPT_INT(settings, batch_size, 64, 1, 65536, "images a step"),
    CB_OPT_INT(settings, size, 32, 1, 1 << 16, "height and width of images"),
    CB_OPT_INT(settings, steps, 10, 1, 1e9, "steps"),
    CB_OPT_INT(settings, threads, 1, 1, 1024, "threads"),
    CB_OPT_BOOL(settings, processor_time, 0, "processor time instead of that on the wall: for one thread on a busy machine"),
    CB_OPT_END,
};

static double now(const settings *s)
{
    return s->processor_time ? (double)clock() / CLOCKS_PER_SEC : cb_now();
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

static cb_adaptation *begin(cb_model *model, const settings *s)
{
    cb_adapt_options options = {0};
    cb_string_list config = {0};
    bool views = strcmp(s->method, "cotta") == 0;
    char *how_many = cb_format("views=%lld", (long long)s->views);
    bool ok = how_many && cb_options_init(cb_adapt_option_table, &options);
    if (ok && views)
        ok = cb_string_list_add(&config, how_many) && cb_string_list_add(&config, "threshold=1");
    options.guard = false;
    cb_adaptation *a = ok ? cb_adaptation_open(model, NULL, s->method, &config, &options) : NULL;
    cb_options_free(cb_adapt_option_table, &options);
    cb_string_list_free(&config);
    cb_free(how_many);
    return a;
}

static void print(const settings *s, const cb_adaptation *a, double *seconds, const float *answer, uint64_t allocations)
{
    int64_t skip = s->steps > 3 ? 2 : 0;
    double typical = median(seconds + skip, s->steps - skip);
    printf("{\"seconds_per_step\": %.6f, \"examples_per_second\": %.3f, \"peak_rss_bytes\": %llu, \"trainable_parameters\": %lld, "
           "\"allocations_after_warm_up\": %llu, \"answers\": [%.6f, %.6f, %.6f]}\n",
           typical, (double)s->batch_size / typical, (unsigned long long)cb_peak_rss(),
           (long long)cb_learner_size(cb_adaptation_policy(a)->learner), (unsigned long long)allocations, (double)answer[0],
           (double)answer[1], (double)answer[2]);
}

static bool take_steps(cb_adaptation *a, const settings *s, const cb_file_map *file)
{
    int64_t elements = s->batch_size * 3 * s->size * s->size, count = (int64_t)(file->size / sizeof(float)) / elements;
    double *seconds = calloc((size_t)s->steps, sizeof *seconds);
    cb_adapt_outcome outcome = {0};
    uint64_t warm = 0;
    bool ok = seconds && (count || cb_fail(CB_ERR_ARGUMENT, "%s: %zu bytes, less than a batch", s->inputs, file->size) == CB_OK);
    for (int64_t i = 0; ok && i < s->steps; i++) {
        double start = now(s);
        cb_scope *scope = cb_scope_open();
        const char *at = (const char *)file->data + (size_t)(i % count * elements) * sizeof(float);
        ok = cb_adaptation_step(a, cb_wrap(CB_F32, at, s->batch_size, 3, s->size, s->size), false, &outcome);
        cb_scope_close(scope);
        seconds[i] = now(s) - start;
        if (i == 1)
            warm = cb_memory().system_allocations;
    }
    if (ok)
        print(s, a, seconds, outcome.probabilities, s->steps > 2 ? cb_memory().system_allocations - warm : 0);
    free(seconds);
    return ok;
}

static bool run(const settings *s)
{
    cb_file_map file = {0};
    cb_set_threads((int)s->threads);
    cb_model *model = cb_file_map_open(&file, s->inputs) ? cb_model_load(s->model) : NULL;
    cb_adaptation *a = model ? begin(model, s) : NULL;
    bool ok = a && take_steps(a, s, &file);
    cb_adaptation_free(a);
    cb_model_free(model);
    cb_file_map_close(&file);
    return ok;
}

int main(int argc, char **argv)
{
    settings s;
    bool ok = cb_options_init(table, &s);
    for (int i = 1; i < argc && ok; i += 2)
        ok = strncmp(argv[i], "--", 2) == 0 && i + 1 < argc ? cb_options_set(table, &s, argv[i] + 2, argv[i + 1])
                                                            : cb_fail(CB_ERR_ARGUMENT, "%s: expected --NAME VALUE", argv[i]) == CB_OK;
    if (ok && !(s.model && s.inputs))
        ok = cb_fail(CB_ERR_ARGUMENT, "--model and --inputs are needed") == CB_OK;
    ok = ok && run(&s);
    if (!ok)
        fprintf(stderr, "bench adapt: %s\n", cb_error_message());
    cb_options_free(table, &s);
    return ok ? 0 : 1;
}
