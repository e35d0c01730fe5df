/* classifier.c: our side of bench/compare_classifiers.py; bench/peer/classifier_peer.py is the other.
 *
 *     classifier --model DIR --inputs FILE [--train whole|adapter|norms|nothing] [--adapter DIR] [--dtype f32|bf16] [--batch-size N]
 *                [--size N] [--steps N] [--learning-rate X] [--threads N] [--processor-time true]
 *
 * Steps of a classifier of images (pixels of --size by --size) or of texts (--size tokens) over the batches of a file, again from the front at
 * its end; example i has label i modulo their number.  Trained are all weights, an adapter (PEFT's, with the head), or the scales and shifts of
 * norms towards a lower entropy of the predictions, by the batch's statistics (Tent: Wang et al. 2020, arXiv:2006.10726); `nothing` is the
 * forward pass alone.  AdamW without decay, constant rate, no clipping.  Prints one JSON object with the peer's field names. */
#include <cambium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { WHOLE, ADAPTER, NORMS, NOTHING };
typedef struct settings {
    char *model, *inputs, *adapter;
    int train, dtype;
    int64_t batch_size, size, steps, threads;
    double learning_rate;
    bool processor_time;
} settings;

static const char *const dtypes[] = {"f32", "bf16", NULL}, *const trains[] = {"whole", "adapter", "norms", "nothing", NULL};
static const cb_option table[] = {
    CB_OPT_STRING(settings, model, NULL, "DIR", "Hugging Face model directory"),
    CB_OPT_STRING(settings, inputs, NULL, "FILE", "little-endian f32 pixels (N, channels, size, size), or int32 ids (N, size)"),
    CB_OPT_STRING(settings, adapter, NULL, "DIR", "PEFT directory with the initial weights"),
    CB_OPT_ENUM(settings, train, WHOLE, trains, "what is trained"),
    CB_OPT_ENUM(settings, dtype, 0, dtypes, "dtype of activations"),
    CB_OPT_INT(settings, batch_size, 16, 1, 65536, "examples a step"),
    CB_OPT_INT(settings, size, 224, 1, 1 << 16, "height and width of images; tokens of a text"),
    CB_OPT_INT(settings, steps, 10, 1, 1e9, "steps"),
    CB_OPT_INT(settings, threads, 1, 1, 1024, "threads"),
    CB_OPT_FLOAT(settings, learning_rate, 1e-4, 0, 10, "constant learning rate"),
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

/* ---- what is trained ---- */

enum { MOST = 1024 };
typedef struct trained {
    cb_model *model;
    cb_adapter *adapter;
    cb_trainee whole;
    cb_tensor *parameters[MOST];
    size_t count;
} trained;

static bool add(trained *t, cb_tensor *parameter)
{
    if (t->count == MOST)
        return cb_fail(CB_ERR_ARGUMENT, "more than %d parameters", MOST) == CB_OK;
    t->parameters[t->count++] = parameter;
    return true;
}

static bool add_all(trained *t, size_t count, const cb_named_tensor *named)
{
    bool ok = true;
    for (size_t i = 0; ok && i < count; i++)
        ok = add(t, named[i].tensor);
    return ok;
}

static bool add_norm(void *user, cb_layer *layer)
{
    bool ok = true;
    for (int i = 0; ok && layer->kind == CB_LAYER_NORM && i < layer->weight_count; i++)
        ok = cb_layer_train_copy(layer, layer->weights[i].name, CB_F32, true) && add(user, layer->weights[i].tensor);
    return ok;
}

static bool open(trained *t, const settings *s)
{
    cb_model_options options = {.dtype = s->dtype ? CB_BF16 : CB_F32, .keep_weights = s->train == WHOLE};
    t->model = cb_model_load_with(s->model, options);
    if (!t->model || s->train == NOTHING)
        return t->model;
    if (s->train == NORMS)
        return cb_layer_visit(cb_model_root(t->model), add_norm, t);
    if (s->train == WHOLE)
        return cb_train_whole(&t->whole, t->model, NULL, NULL, NULL, CB_F32) && add_all(t, t->whole.count, t->whole.parameters);
    if (!s->adapter)
        return cb_fail(CB_ERR_ARGUMENT, "--adapter is needed to train one") == CB_OK;
    t->adapter = cb_adapter_load(s->adapter, cb_model_root(t->model), cb_model_type(t->model));
    const cb_named_tensor *named = NULL;
    size_t count = t->adapter ? cb_adapter_parameters(t->adapter, &named) : 0;
    return t->adapter && add_all(t, count, named);
}

/* ---- a step ---- */

static cb_tensor *entropy(cb_tensor *logits)
{
    cb_tensor *log_p = cb_log_softmax(cb_cast(logits, CB_F32), 1);
    return cb_neg(cb_mean(cb_sum(cb_mul(cb_exp(log_p), log_p), 1, false), CB_ALL, false));
}

static cb_tensor *loss_of(trained *t, const settings *s, cb_tensor *x, cb_tensor *labels)
{
    cb_context ctx = {.training = s->train != NOTHING, .statistics = s->train == NORMS ? CB_STATISTICS_BATCH : CB_STATISTICS_OF_TRAINED};
    return s->train == NORMS ? entropy(cb_model_logits(t->model, x, &ctx)) : cb_model_loss(t->model, x, labels, 0, &ctx);
}

static bool step(trained *t, const settings *s, cb_optimizer *optimizer, cb_tensor *x, cb_tensor *labels, double *loss)
{
    cb_scope *scope = cb_scope_open();
    cb_tensor *l = loss_of(t, s, x, labels);
    bool ok = l && (s->train == NOTHING || cb_backward(l));
    *loss = ok ? cb_item(l) : 0;
    cb_scope_close(scope);
    if (ok && optimizer) {
        ok = cb_optimizer_step(optimizer, s->learning_rate, 1);
        cb_optimizer_zero_grad(optimizer);
    }
    return ok;
}

/* What a batch is in the file. */
typedef struct batches {
    cb_file_map file;
    int64_t channels, elements, count; /* 0 channels: ids */
} batches;

static bool batches_open(batches *b, const settings *s, const cb_model *model)
{
    b->channels = cb_model_image_format(model).channels;
    b->elements = s->batch_size * (b->channels ? b->channels * s->size * s->size : s->size);
    if (!cb_file_map_open(&b->file, s->inputs))
        return false;
    b->count = (int64_t)(b->file.size / sizeof(float)) / b->elements;
    return b->count || cb_fail(CB_ERR_ARGUMENT, "%s: %zu bytes, less than a batch", s->inputs, b->file.size) == CB_OK;
}

static cb_tensor *batch_at(const batches *b, const settings *s, int64_t i)
{
    const char *at = (const char *)b->file.data + (size_t)(i % b->count * b->elements) * sizeof(float);
    return b->channels ? cb_wrap(CB_F32, at, s->batch_size, b->channels, s->size, s->size) : cb_wrap(CB_I32, at, s->batch_size, s->size);
}

static void print(const settings *s, const trained *t, const double *losses, double *seconds, uint64_t allocations)
{
    int64_t skip = s->steps > 3 ? 2 : 0, parameters = 0;
    for (size_t i = 0; i < t->count; i++)
        parameters += t->parameters[i]->count;
    printf("{\"losses\": [");
    for (int64_t i = 0; i < s->steps; i++)
        printf("%s%.6f", i ? ", " : "", losses[i]);
    double typical = median(seconds + skip, s->steps - skip);
    printf("], \"seconds_per_step\": %.6f, \"examples_per_second\": %.3f, \"peak_rss_bytes\": %llu, \"trainable_parameters\": %lld, "
           "\"allocations_after_warm_up\": %llu}\n",
           typical, (double)s->batch_size / typical, (unsigned long long)cb_peak_rss(), (long long)parameters,
           (unsigned long long)allocations);
}

static bool run(const settings *s)
{
    cb_set_threads((int)s->threads);
    cb_set_grad_enabled(s->train != NOTHING);
    trained t = {0};
    batches b = {0};
    if (!open(&t, s) || !batches_open(&b, s, t.model))
        return false;
    cb_optimizer *optimizer = t.count ? cb_adamw(t.count, t.parameters) : NULL;
    double *losses = calloc((size_t)s->steps, sizeof *losses), *seconds = calloc((size_t)s->steps, sizeof *seconds);
    int32_t *labels = calloc((size_t)s->batch_size, sizeof *labels);
    uint64_t warm = 0;
    bool ok = true;
    for (int64_t i = 0; ok && i < s->steps; i++) {
        double begin = now(s);
        cb_scope *scope = cb_scope_open();
        for (int64_t k = 0; k < s->batch_size; k++)
            labels[k] = (int32_t)((i % b.count * s->batch_size + k) % cb_model_labels(t.model));
        ok = step(&t, s, optimizer, batch_at(&b, s, i), cb_wrap(CB_I32, labels, s->batch_size), &losses[i]);
        cb_scope_close(scope);
        seconds[i] = now(s) - begin;
        if (i == 1)
            warm = cb_memory().system_allocations;
    }
    if (ok)
        print(s, &t, losses, seconds, s->steps > 2 ? cb_memory().system_allocations - warm : 0);
    cb_optimizer_free(optimizer);
    if (s->train == WHOLE)
        cb_train_whole_free(&t.whole);
    cb_adapter_free(t.adapter);
    cb_model_free(t.model);
    cb_file_map_close(&b.file);
    free(losses);
    free(seconds);
    free(labels);
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
        fprintf(stderr, "bench classifier: %s\n", cb_error_message());
    cb_options_free(table, &s);
    return ok ? 0 : 1;
}
