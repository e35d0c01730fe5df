/* bench_lora.c: `cambium bench lora`: speed and memory of LoRA steps, and what share of the machine's own product rate they
 * reach.
 *
 * Necessary operations of a step, per token: 4 for a frozen weight (2 forward, 2 for the gradient of its input), 3
 * times the forward operations of attention, 6 for a weight of the adapter.  What is computed twice does not count. */
#include <stdlib.h>

#include "cli/cli.h"
#include "kernels/kernels.h"

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, size_t count)
{
    qsort(values, count, sizeof *values, by_value);
    return values[count / 2];
}

typedef struct lora_settings {
    int shape, dtype, quantize;
    int64_t rank, steps, batch_size, sequence_length;
    bool gradient_checkpointing;
} lora_settings;

static const cb_option lora_table[] = {
    CB_OPT_ENUM(lora_settings, shape, 0, cli_bench_shapes, "size of the model"),
    CB_OPT_ENUM(lora_settings, dtype, 0, cli_dtype_names, "dtype of weights and activations"),
    CB_OPT_ENUM(lora_settings, quantize, 0, cli_bench_quantize, "quantise the frozen linear layers; with types of GGUF the embedding too"),
    CB_OPT_INT(lora_settings, rank, 8, 1, 65536, "rank on every linear layer"),
    CB_OPT_INT(lora_settings, steps, 30, 4, 1e9, "optimiser steps"),
    CB_OPT_INT(lora_settings, batch_size, 4, 1, 65536, "rows a step"),
    CB_OPT_INT(lora_settings, sequence_length, 256, 2, 1 << 20, "tokens a row"),
    CB_OPT_BOOL(lora_settings, gradient_checkpointing, false, "make activations again in the backward pass instead of keeping them"),
    CB_OPT_END};
static const cli_group lora_groups[] = {{"Measuring", lora_table, 0}, {0}};

typedef struct lora_run {
    cb_model *model;
    cb_adapter *adapter;
    cb_optimizer *optimizer;
    int32_t *ids, *targets;
    double *seconds;
    double first_loss, last_loss;
    uint64_t allocations; /* of the system, after the third step */
} lora_run;

/* Ids as skewed as words are. */
static void draw_ids(const lora_settings *s, int64_t step, lora_run *r)
{
    cb_rng rng = {.seed = 7, .stream = (uint64_t)step};
    int64_t length = s->sequence_length;
    for (int64_t i = 0; i < s->batch_size * length; i++) {
        double u = cb_rng_uniform(&rng);
        r->ids[i] = 3 + (int32_t)(31996 * u * u * u * u);
    }
    for (int64_t i = 0; i < s->batch_size * length; i++)
        r->targets[i] = i % length + 1 < length ? r->ids[i + 1] : -100;
}

static bool lora_step(const lora_settings *s, int64_t step, lora_run *r)
{
    draw_ids(s, step, r);
    double begin = cb_now();
    cb_context ctx = {.training = true, .checkpoint = s->gradient_checkpointing};
    cb_scope *scope = cb_scope_open();
    cb_tensor *loss = cb_model_loss(r->model, cb_wrap(CB_I32, r->ids, s->batch_size, s->sequence_length),
                                    cb_wrap(CB_I32, r->targets, s->batch_size, s->sequence_length), 0, &ctx);
    bool ok = loss && cb_backward(loss);
    r->last_loss = ok ? cb_item(loss) : 0;
    cb_scope_close(scope);
    ok = ok && cb_optimizer_step(r->optimizer, 1e-3, 1);
    cb_optimizer_zero_grad(r->optimizer);
    r->seconds[step] = cb_now() - begin;
    if (step == 0)
        r->first_loss = r->last_loss;
    if (ok && cb_interrupted())
        return cb_fail(CB_ERR_INTERRUPTED, "interrupted after step %lld of %lld", (long long)step + 1, (long long)s->steps) == CB_OK;
    return ok;
}

static bool lora_steps(const lora_settings *s, lora_run *r)
{
    uint64_t warm = 0;
    for (int64_t step = 0; step < s->steps; step++) {
        if (!lora_step(s, step, r))
            return false;
        if (step == 2)
            warm = cb_memory().system_allocations;
        cli_status("step %lld/%lld  %s", (long long)step + 1, (long long)s->steps, cli_seconds(r->seconds[step]));
    }
    r->allocations = cb_memory().system_allocations - warm;
    return true;
}

static bool lora_open(const lora_settings *s, const char *directory, lora_run *r)
{
    size_t tokens = (size_t)s->batch_size * (size_t)s->sequence_length;
    r->model = cb_model_load_with(directory, (cb_model_options){.dtype = cli_dtype(s->dtype)});
    r->adapter = r->model ? cb_adapter_new("lora", "bench") : NULL;
    char *rank = cb_format("%lld", (long long)s->rank);
    bool ok = r->adapter && rank && cb_adapter_set(r->adapter, "rank", rank) && cb_adapter_set(r->adapter, "alpha", "16") &&
              cb_adapter_set(r->adapter, "target_modules", "all-linear") &&
              cb_adapter_attach(r->adapter, cb_model_root(r->model), cb_model_type(r->model), 1);
    cb_free(rank);
    r->ids = cb_calloc(tokens, sizeof *r->ids);
    r->targets = cb_calloc(tokens, sizeof *r->targets);
    r->seconds = cb_calloc((size_t)s->steps, sizeof *r->seconds);
    if (!ok || !r->ids || !r->targets || !r->seconds)
        return false;
    const cb_named_tensor *named;
    size_t count = cb_adapter_parameters(r->adapter, &named);
    cb_tensor **parameters = cb_calloc(count, sizeof *parameters);
    for (size_t i = 0; parameters && i < count; i++)
        parameters[i] = named[i].tensor;
    r->optimizer = parameters ? cb_adamw(count, parameters) : NULL;
    cb_free(parameters);
    return r->optimizer;
}

static void lora_close(lora_run *r)
{
    cb_optimizer_free(r->optimizer);
    cb_adapter_free(r->adapter);
    cb_model_free(r->model);
    cb_free(r->ids);
    cb_free(r->targets);
    cb_free(r->seconds);
}

static double necessary_flops(const lora_settings *s, const lora_run *r)
{
    double weights = cb_model_flops_per_token(r->model, 0), attention = cb_model_flops_per_token(r->model, s->sequence_length) - weights;
    return 2 * weights + 3 * attention + 6 * (double)cb_adapter_parameter_count(r->adapter);
}

static bool lora_report(cli_call *call, const lora_settings *s, lora_run *r, uint64_t peak)
{
    size_t skip = 3, count = (size_t)s->steps - skip;
    double typical = median(r->seconds + skip, count);
    double rate = (double)(s->batch_size * s->sequence_length) / typical, gflops = 1e-9 * rate * necessary_flops(s, r);
    const cli_bench_shape *shape = cli_bench_shape_at(s->shape);
    double product = cbk_gemm_rate(cli_dtype(s->dtype), false, true, s->batch_size * s->sequence_length, shape->hidden, shape->width, 0.5);
    if (!cb_ok())
        return false;
    if (call->common.json)
        return cli_json(json_pack("{s:s, s:s, s:s, s:i, s:o, s:o, s:o, s:o, s:o, s:I, s:I, s:I, s:o, s:o}", "shape",
                                  cli_bench_shapes[s->shape], "dtype", cli_dtype_names[s->dtype], "quantize",
                                  cli_bench_quantize[s->quantize], "threads", cb_threads(), "tokens_per_second", cli_real(rate),
                                  "seconds_per_step", cli_real(typical), "gflops", cli_real(gflops), "product_gflops", cli_real(product),
                                  "share", cli_real(gflops / product), "peak_memory", (json_int_t)peak, "step_allocations",
                                  (json_int_t)r->allocations, "parameters", (json_int_t)cb_adapter_parameter_count(r->adapter),
                                  "first_loss", cli_real(r->first_loss), "last_loss", cli_real(r->last_loss)));
    cli_field("model", "%s, %s parameters, %s; rank %lld on every linear layer", cli_bench_shapes[s->shape],
              cli_count((double)cb_model_parameter_count(r->model)), cli_dtype_names[s->dtype], (long long)s->rank);
    cli_field("speed", "%s tokens/s (%s a step of %lld x %lld tokens, median)", cli_thousands((int64_t)rate), cli_seconds(typical),
              (long long)s->batch_size, (long long)s->sequence_length);
    cli_field("necessary products", "%.0f GF/s, %.0f %% of the %.0f GF/s of this machine's matrix product", gflops, 100 * gflops / product,
              product);
    cli_field("peak memory", "%s", cli_bytes(peak));
    cli_field("allocations", "%llu by the system after the third step", (unsigned long long)r->allocations);
    cli_field("loss", "%.4f at the first step, %.4f at the last", r->first_loss, r->last_loss);
    return true;
}

static bool lora_run_all(cli_call *call, void *settings_)
{
    const lora_settings *s = settings_;
    cli_bench_model made = {0};
    lora_run r = {0};
    bool ok = cli_bench_model_make(&made, s->shape, cli_dtype(s->dtype), s->quantize) && lora_open(s, made.path, &r) && lora_steps(s, &r);
    uint64_t peak = cb_peak_rss();
    cli_status_clear();
    ok = ok && lora_report(call, s, &r, peak);
    lora_close(&r);
    cli_bench_model_remove(&made);
    return ok;
}

const cli_command cli_bench_lora = {
    .name = "bench lora",
    .summary = "speed and memory of LoRA steps on a model of random weights",
    .synopsis = "[options]",
    .description = "Makes a Llama-shaped model in a temporary directory, trains LoRA on every linear layer for some steps, and reports "
                   "tokens per second, the share of the machine's own product rate (necessary operations only), peak memory and "
                   "allocations.",
    .settings_size = sizeof(lora_settings),
    .groups = lora_groups,
    .examples =
        (const char *const[]){"cambium bench lora --shape 15m", "cambium bench lora --shape 125m --dtype f32 --json",
                              "cambium bench lora --shape 1b --quantize nf4 --batch-size 1 --sequence-length 512 --gradient-checkpointing",
                              NULL},
    .run = lora_run_all};
