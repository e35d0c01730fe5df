/* recursive.c: the throughput of a recursive model on one trace of requests, batched in each way, with and without early exits.
 *
 *     recursive --model DIR --ids FILE [--adapter DIR] [--requests N] [--batch-size N] [--exit-confidence X] [--exit-round N] [--rounds N] ...
 *
 * A request is a prompt from a place of the ids and a number of tokens to come, both drawn from a uniform distribution and the same in all
 * cases.  A round goes through all cases, one after the other; ratios are to static batching within the round.  Tokens per second are of wall
 * clock, prompts included.  Prints one JSON object a case. */
#include <cambium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct settings {
    char *model, *adapter, *ids;
    int dtype;
    int64_t requests, batch_size, prompt_tokens, new_tokens, exit_round, rounds, threads;
    double exit_confidence;
} settings;

static const char *const dtypes[] = {"bf16", "f32", NULL};
static const cb_option table[] = {
    CB_OPT_STRING(settings, model, NULL, "DIR", "recursive model"),
    CB_OPT_STRING(settings, adapter, NULL, "DIR", "its relaxation"),
    CB_OPT_STRING(settings, ids, NULL, "FILE", "little-endian int32 ids"),
    CB_OPT_ENUM(settings, dtype, 0, dtypes, "dtype of activations"),
    CB_OPT_INT(settings, requests, 64, 1, 1e6, "requests of the trace"),
    CB_OPT_INT(settings, batch_size, 16, 1, 65536, "texts that are generated at once"),
    CB_OPT_INT(settings, prompt_tokens, 32, 1, 1 << 20, "most tokens of a prompt"),
    CB_OPT_INT(settings, new_tokens, 96, 1, 1 << 20, "most tokens to come"),
    CB_OPT_FLOAT(settings, exit_confidence, 0.5, 0, 1, "with exits: how far the likeliest token must lead"),
    CB_OPT_INT(settings, exit_round, 0, 0, 65536, "with exits: the last round, 0: of the model"),
    CB_OPT_INT(settings, rounds, 5, 1, 1000, "rounds"),
    CB_OPT_INT(settings, threads, 2, 1, 1024, "threads"),
    CB_OPT_END,
};

static const struct {
    const char *name;
    cb_batching batching;
    bool exits;
} cases[] = {{"static", CB_BATCHING_STATIC, false},
             {"sequence", CB_BATCHING_SEQUENCE, false},
             {"depth", CB_BATCHING_DEPTH, false},
             {"static, exits", CB_BATCHING_STATIC, true},
             {"sequence, exits", CB_BATCHING_SEQUENCE, true},
             {"depth, exits", CB_BATCHING_DEPTH, true}};
enum { CASES = sizeof cases / sizeof *cases };

static bool parse(int count, char **words, settings *s)
{
    for (int i = 1; i < count; i += 2)
        if (strncmp(words[i], "--", 2) != 0 || i + 1 == count || !cb_options_set(table, s, words[i] + 2, words[i + 1]))
            return false;
    return s->model && s->ids;
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

static void draw_requests(const settings *s, const int32_t *ids, int64_t id_count, cb_prompt_ids *prompts)
{
    cb_rng rng = {.seed = 1};
    for (int64_t i = 0; i < s->requests; i++) {
        int64_t length = 1 + (int64_t)cb_rng_below(&rng, (uint64_t)s->prompt_tokens);
        prompts[i] = (cb_prompt_ids){.ids = ids + cb_rng_below(&rng, (uint64_t)(id_count - length)),
                                     .count = (size_t)length,
                                     .max_new_tokens = 1 + (int64_t)cb_rng_below(&rng, (uint64_t)s->new_tokens)};
    }
}

/* Tokens per second; *rounds: that a token took on average. */
static double measure(cb_model *model, const settings *s, const cb_prompt_ids *prompts, int which, cb_generation *out, double *rounds)
{
    cb_generate_options o = {.ignore_eos = true};
    if (cases[which].exits) {
        o.exit_confidence = s->exit_confidence;
        o.exit_round = s->exit_round;
    }
    const cb_batch_options batch = {.batching = cases[which].batching, .batch_size = s->batch_size};
    double start = cb_now(), tokens = 0, sum = 0;
    bool ok = cb_generate_batch(model, NULL, prompts, (size_t)s->requests, NULL, NULL, &o, &batch, out);
    double seconds = cb_now() - start;
    for (int64_t i = 0; ok && i < s->requests; i++)
        for (size_t k = 0; k < out[i].count; k++, tokens++)
            sum += out[i].rounds[k];
    *rounds = sum / tokens;
    return ok ? tokens / seconds : 0;
}

static bool run(cb_model *model, const settings *s, const cb_prompt_ids *prompts)
{
    cb_generation *out = cb_calloc((size_t)s->requests, sizeof *out);
    double *rates = cb_calloc((size_t)(s->rounds * CASES), sizeof *rates), *ratios = cb_calloc((size_t)(s->rounds * CASES), sizeof *ratios),
           depth[CASES] = {0}, warm;
    bool ok = out && rates && ratios && measure(model, s, prompts, 0, out, &warm) > 0;
    for (int64_t i = 0; ok && i < s->rounds; i++)
        for (int c = 0; ok && c < CASES; c++) {
            double *rate = &rates[c * s->rounds + i];
            *rate = measure(model, s, prompts, c, out, &depth[c]);
            ratios[c * s->rounds + i] = *rate / rates[i];
            ok = *rate > 0;
        }
    for (int c = 0; ok && c < CASES; c++) {
        double rate = median(rates + c * s->rounds, s->rounds), *sorted = ratios + c * s->rounds, ratio = median(sorted, s->rounds);
        printf("{\"case\": \"%s\", \"tokens_per_second\": %.1f, \"ratio\": %.3f, \"ratio_least\": %.3f, \"ratio_most\": %.3f, "
               "\"mean_rounds\": %.3f}\n",
               cases[c].name, rate, ratio, sorted[0], sorted[s->rounds - 1], depth[c]);
    }
    for (int64_t i = 0; out && i < s->requests; i++)
        cb_generation_free(&out[i]);
    cb_free(out);
    cb_free(rates);
    cb_free(ratios);
    return ok;
}

int main(int count, char **words)
{
    settings s;
    cb_options_init(table, &s);
    if (!parse(count, words, &s)) {
        fprintf(stderr, "recursive: %s\n", cb_ok() ? "expected --model DIR --ids FILE and options by pairs" : cb_error_message());
        return 2;
    }
    cb_set_threads((int)s.threads);
    size_t length = 0;
    char *ids = cb_file_read(s.ids, (size_t)1 << 32, &length);
    int64_t id_count = (int64_t)(length / sizeof(int32_t));
    cb_model *model = ids ? cb_model_load(s.model, .dtype = s.dtype ? CB_F32 : CB_BF16) : NULL;
    cb_adapter *adapter = model && s.adapter ? cb_adapter_load(s.adapter, cb_model_root(model), cb_model_type(model)) : NULL;
    cb_prompt_ids *prompts = model ? cb_calloc((size_t)s.requests, sizeof *prompts) : NULL;
    bool ok = prompts && cb_ok() &&
              (id_count > s.prompt_tokens ||
               cb_fail(CB_ERR_ARGUMENT, "%s: found %lld ids, expected more than those of a prompt", s.ids, (long long)id_count) == CB_OK);
    if (ok) {
        draw_requests(&s, (const int32_t *)(const void *)ids, id_count, prompts);
        ok = run(model, &s, prompts);
    }
    if (!ok)
        fprintf(stderr, "recursive: %s\n", cb_error_message());
    cb_free(prompts);
    cb_adapter_free(adapter);
    cb_model_free(model);
    cb_free(ids);
    cb_options_free(table, &s);
    return ok ? 0 : 1;
}
