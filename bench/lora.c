/* lora.c: our side of the LoRA benchmark; bench/peer/lora_peer.py is the other, bench/compare_lora.py runs both.
 *
 *     lora --model DIR --ids FILE --adapter DIR [--dtype bf16|f32] [--steps N] [--batch-size N] [--sequence-length N]
 *          [--learning-rate X] [--threads N]
 *
 * The same weights, initial adapter, rows, order and optimiser as the peer: AdamW without decay, constant rate, no clipping.  Prints one
 * JSON object with the peer's field names. */
#include <cambium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct settings {
    char *model, *ids, *adapter;
    int dtype;
    int64_t steps, batch_size, sequence_length, threads;
    double learning_rate;
    bool checkpoint;
} settings;

static const char *const dtypes[] = {"bf16", "f32", NULL};
static const cb_option table[] = {
    CB_OPT_STRING(settings, model, NULL, "DIR", "Hugging Face model directory"),
    CB_OPT_STRING(settings, ids, NULL, "FILE", "little-endian int32 ids: steps * batch size * sequence length"),
    CB_OPT_STRING(settings, adapter, NULL, "DIR", "PEFT directory with the initial weights"),
    CB_OPT_ENUM(settings, dtype, 0, dtypes, "dtype of activations"),
    CB_OPT_INT(settings, steps, 50, 1, 1e9, "optimiser steps"),
    CB_OPT_INT(settings, batch_size, 4, 1, 65536, "rows a step"),
    CB_OPT_INT(settings, sequence_length, 256, 2, 1 << 20, "tokens a row"),
    CB_OPT_INT(settings, threads, 2, 1, 1024, "threads"),
    CB_OPT_FLOAT(settings, learning_rate, 1e-3, 0, 10, "constant learning rate"),
    CB_OPT_BOOL(settings, checkpoint, 0, "activation checkpointing"),
    CB_OPT_END,
};

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

/* Row-major targets: the next token of the row, nothing after the last. */
static void shift(const int32_t *ids, int32_t *targets, int64_t rows, int64_t length)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t t = 0; t < length; t++)
            targets[r * length + t] = t + 1 < length ? ids[r * length + t + 1] : -100;
}

/* Per token: 2 forward and 2 backward for a frozen weight, three times the forward work of attention, 6 for an adapter's weight. */
static double necessary_flops(const cb_model *model, const cb_adapter *adapter, int64_t length)
{
    double weights = cb_model_flops_per_token(model, 0), attention = cb_model_flops_per_token(model, length) - weights;
    return 2 * weights + 3 * attention + 6 * (double)cb_adapter_parameter_count(adapter);
}

static bool run(const settings *s)
{
    cb_set_threads((int)s->threads);
    cb_file_map file;
    cb_model *model = cb_model_load(s->model, .dtype = s->dtype == 0 ? CB_BF16 : CB_F32);
    cb_adapter *adapter = model ? cb_adapter_load(s->adapter, cb_model_root(model), cb_model_type(model)) : NULL;
    if (!adapter || !cb_file_map_open(&file, s->ids))
        return false;
    int64_t tokens = s->batch_size * s->sequence_length;
    if (file.size < (size_t)(s->steps * tokens) * sizeof(int32_t))
        return cb_fail(CB_ERR_ARGUMENT, "%s: %zu ids, expected %lld", s->ids, file.size / 4, (long long)(s->steps * tokens)) == CB_OK;
    const cb_named_tensor *named;
    size_t count = cb_adapter_parameters(adapter, &named);
    cb_tensor **parameters = calloc(count, sizeof *parameters);
    double *losses = calloc((size_t)s->steps, sizeof *losses), *seconds = calloc((size_t)s->steps, sizeof *seconds);
    int32_t *targets = malloc((size_t)tokens * sizeof *targets);
    for (size_t i = 0; i < count; i++)
        parameters[i] = named[i].tensor;
    cb_optimizer *optimizer = cb_adamw(count, parameters);
    double first_step = 0, started = cb_process_age();
    uint64_t after_warm_up = 0;
    for (int64_t step = 0; step < s->steps && cb_ok(); step++) {
        double begin = cb_now();
        const int32_t *ids = (const int32_t *)file.data + step * tokens;
        shift(ids, targets, s->batch_size, s->sequence_length);
        cb_scope *scope = cb_scope_open();
        cb_context ctx = {.training = true, .checkpoint = s->checkpoint};
        cb_tensor *loss = cb_model_loss(model, cb_wrap(CB_I32, ids, s->batch_size, s->sequence_length),
                                        cb_wrap(CB_I32, targets, s->batch_size, s->sequence_length), 0, &ctx);
        cb_backward(loss);
        losses[step] = cb_item(loss);
        cb_scope_close(scope);
        cb_optimizer_step(optimizer, s->learning_rate, 1);
        cb_optimizer_zero_grad(optimizer);
        seconds[step] = cb_now() - begin;
        if (step == 0)
            first_step = cb_process_age();
        if (step == 2)
            after_warm_up = cb_memory().system_allocations;
    }
    if (!cb_ok())
        return false;
    int64_t skip = s->steps > 3 ? 3 : 0;
    printf("{\"losses\": [");
    for (int64_t i = 0; i < s->steps; i++)
        printf("%s%.6f", i ? ", " : "", losses[i]);
    printf("], \"tokens_per_second_by_tenth\": [");
    for (int64_t i = 0; i < 10 && s->steps >= 100; i++) {
        int64_t begin = i * s->steps / 10 + (i ? 0 : skip), end = (i + 1) * s->steps / 10;
        double sum = 0;
        for (int64_t k = begin; k < end; k++)
            sum += seconds[k];
        printf("%s%.0f", i ? ", " : "", (double)(tokens * (end - begin)) / sum);
    }
    double typical = median(seconds + skip, s->steps - skip);
    printf("], \"tokens_per_second\": %.1f, \"seconds_per_step\": %.6f, \"seconds_to_first_step\": %.4f, \"seconds_to_step_start\": %.4f, "
           "\"peak_rss_bytes\": %llu, \"trainable_parameters\": %lld, \"allocations_after_warm_up\": %llu, \"flops_per_token\": %.0f}\n",
           (double)tokens / typical, typical, first_step, started, (unsigned long long)cb_peak_rss(),
           (long long)cb_adapter_parameter_count(adapter),
           (unsigned long long)(s->steps > 3 ? cb_memory().system_allocations - after_warm_up : 0),
           necessary_flops(model, adapter, s->sequence_length));
    cb_optimizer_free(optimizer);
    cb_adapter_free(adapter);
    cb_model_free(model);
    cb_file_map_close(&file);
    free(parameters);
    free(losses);
    free(seconds);
    free(targets);
    return true;
}

int main(int argc, char **argv)
{
    settings s;
    bool ok = cb_options_init(table, &s);
    for (int i = 1; i < argc && ok; i += 2)
        ok = strncmp(argv[i], "--", 2) == 0 && i + 1 < argc ? cb_options_set(table, &s, argv[i] + 2, argv[i + 1])
                                                            : cb_fail(CB_ERR_ARGUMENT, "%s: expected --NAME VALUE", argv[i]) == CB_OK;
    if (ok && !(s.model && s.ids && s.adapter))
        ok = cb_fail(CB_ERR_ARGUMENT, "--model, --ids and --adapter are needed") == CB_OK;
    ok = ok && run(&s);
    if (!ok)
        fprintf(stderr, "bench lora: %s\n", cb_error_message());
    cb_options_free(table, &s);
    return ok ? 0 : 1;
}
