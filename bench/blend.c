/* blend.c: what it costs that the rows of a batch have LoRAs of their own, beside the base alone; bench/peer/blend_peer.py is PEFT on the same.
 *
 *     blend --model DIR --ids FILE [--adapters N] [--rows N] [--tokens N] [--target-modules q_proj,v_proj] [--dtype bf16|f32]
 *           [--rounds N] [--threads N] [--save DIR]
 *
 * Rounds go through the base, then through the batch in which row i has adapter i modulo N; ratios are taken within a round.  A pass
 * is the prompt (hidden states of every token, logits of the last), then one token a row with the cache.  Prints one JSON object. */
#include <cambium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct settings {
    char *model, *ids, *target_modules, *save;
    int dtype;
    int64_t adapters, rows, tokens, rounds, threads, rank;
} settings;

static const char *const dtypes[] = {"bf16", "f32", NULL};
static const cb_option table[] = {
    CB_OPT_STRING(settings, model, NULL, "DIR", "Hugging Face model directory"),
    CB_OPT_STRING(settings, ids, NULL, "FILE", "little-endian int32 ids"),
    CB_OPT_STRING(settings, target_modules, "all-linear", "NAMES", "layers that the adapters are on"),
    CB_OPT_STRING(settings, save, NULL, "DIR", "writes the adapters there, for the peer"),
    CB_OPT_ENUM(settings, dtype, 0, dtypes, "dtype of activations"),
    CB_OPT_INT(settings, adapters, 16, 1, 4096, "different adapters in the batch"),
    CB_OPT_INT(settings, rows, 64, 1, 65536, "rows of the batch"),
    CB_OPT_INT(settings, tokens, 32, 1, 1 << 20, "tokens of a prompt"),
    CB_OPT_INT(settings, rank, 8, 1, 4096, "rank of each adapter"),
    CB_OPT_INT(settings, rounds, 7, 1, 1000, "rounds"),
    CB_OPT_INT(settings, threads, 2, 1, 1024, "threads"),
    CB_OPT_END,
};

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

static cb_adapter *make_adapter(cb_model *model, const settings *s, int64_t number)
{
    char rank[32];
    snprintf(rank, sizeof rank, "%lld", (long long)s->rank);
    cb_adapter *adapter = cb_adapter_new("lora", "bench");
    if (!adapter || !cb_adapter_set(adapter, "rank", rank) || !cb_adapter_set(adapter, "target_modules", s->target_modules) ||
        !cb_adapter_set(adapter, "init_lora_weights", "gaussian") ||
        !cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), (uint64_t)number))
        return NULL;
    const cb_named_tensor *list;
    size_t parameters = cb_adapter_parameters(adapter, &list);
    for (size_t i = 0; i < parameters; i++)
        cb_init_normal(list[i].tensor, (cb_rng){.seed = (uint64_t)number, .stream = i}, 0.02);
    cb_adapter_set_strength(adapter, 0);
    char path[4096];
    snprintf(path, sizeof path, "%s/%lld", s->save ? s->save : "", (long long)number);
    return !s->save || cb_adapter_save(adapter, path, s->model) ? adapter : NULL;
}

/* Seconds of the prompt and of a token. */
static bool pass(cb_model *model, const settings *s, const int32_t *ids, const cb_blend *blend, double *prompt, double *token)
{
    enum { STEPS = 4 };
    cb_scope *scope = cb_scope_open();
    cb_cache *cache = cb_cache_new(model, s->rows, s->tokens + STEPS);
    cb_context ctx = {.cache = cache, .blend = blend};
    double start = cb_now();
    cb_tensor *hidden = cb_model_hidden(model, cb_wrap(CB_I32, ids, s->rows, s->tokens), &ctx);
    cb_model_head(model, cb_slice(hidden, 1, s->tokens - 1, s->tokens, 1), &ctx);
    *prompt = cb_now() - start;
    start = cb_now();
    for (int i = 0; i < STEPS; i++) {
        cb_scope *step = cb_scope_open();
        cb_model_head(model, cb_model_hidden(model, cb_wrap(CB_I32, ids, s->rows, 1), &ctx), &ctx);
        cb_scope_close(step);
    }
    *token = (cb_now() - start) / STEPS;
    cb_cache_free(cache);
    cb_scope_close(scope);
    return cb_ok();
}

static bool run(cb_model *model, const settings *s, const int32_t *ids, cb_adapter *const *adapters)
{
    cb_adapter **of_row = cb_calloc((size_t)s->rows, sizeof(cb_adapter *));
    double *times = cb_calloc((size_t)s->rounds * 7, sizeof *times);
    cb_blend *blend = cb_blend_new(cb_model_root(model));
    bool ok = of_row && times && blend;
    for (int64_t i = 0; ok && i < s->rows; i++)
        of_row[i] = adapters[i % s->adapters];
    double *base = times, *mixed = base + s->rounds, *ratio = mixed + s->rounds, *base_token = ratio + s->rounds,
           *token = base_token + s->rounds, *token_ratio = token + s->rounds, *made = token_ratio + s->rounds, warm[2];
    ok = ok && pass(model, s, ids, NULL, &warm[0], &warm[1]);
    for (int64_t i = 0; ok && i < s->rounds; i++) {
        double start = cb_now();
        cb_blend_clear(blend);
        ok = cb_blend_rows(blend, of_row, (size_t)s->rows);
        made[i] = cb_now() - start;
        ok = ok && pass(model, s, ids, NULL, &base[i], &base_token[i]) && pass(model, s, ids, blend, &mixed[i], &token[i]);
        ratio[i] = mixed[i] / base[i];
        token_ratio[i] = token[i] / base_token[i];
    }
    if (ok)
        printf("{\"adapters\": %lld, \"rows\": %lld, \"tokens\": %lld, \"rank\": %lld, \"target_modules\": \"%s\", \"dtype\": \"%s\", "
               "\"base_seconds\": %.6f, \"blend_seconds\": %.6f, \"ratio\": %.4f, \"base_token_seconds\": %.6f, \"blend_token_seconds\": "
               "%.6f, "
               "\"token_ratio\": %.4f, \"blend_made_seconds\": %.6f}\n",
               (long long)s->adapters, (long long)s->rows, (long long)s->tokens, (long long)s->rank, s->target_modules, dtypes[s->dtype],
               median(base, s->rounds), median(mixed, s->rounds), median(ratio, s->rounds), median(base_token, s->rounds),
               median(token, s->rounds), median(token_ratio, s->rounds), median(made, s->rounds));
    cb_blend_free(blend);
    cb_free(of_row);
    cb_free(times);
    return ok;
}

int main(int count, char **words)
{
    settings s;
    cb_options_init(table, &s);
    if (!parse(count, words, &s)) {
        fprintf(stderr, "blend: %s\n", cb_ok() ? "expected --model DIR --ids FILE and options by pairs" : cb_error_message());
        return 2;
    }
    cb_set_threads((int)s.threads);
    size_t length = 0;
    char *ids = cb_file_read(s.ids, (size_t)1 << 32, &length);
    cb_model *model = ids ? cb_model_load(s.model, .dtype = s.dtype ? CB_F32 : CB_BF16) : NULL;
    cb_adapter **adapters = model ? cb_calloc((size_t)s.adapters, sizeof(cb_adapter *)) : NULL;
    bool ok = adapters && (length / sizeof(int32_t) >= (size_t)(s.rows * s.tokens) ||
                           cb_fail(CB_ERR_ARGUMENT, "%s: found %zu ids, expected rows * tokens", s.ids, length / sizeof(int32_t)) == CB_OK);
    for (int64_t i = 0; ok && i < s.adapters; i++)
        ok = (adapters[i] = make_adapter(model, &s, i)) != NULL;
    cb_set_grad_enabled(false);
    ok = ok && run(model, &s, (const int32_t *)(const void *)ids, adapters);
    if (!ok)
        fprintf(stderr, "blend: %s\n", cb_error_message());
    for (int64_t i = 0; adapters && i < s.adapters; i++)
        cb_adapter_free(adapters[i]);
    cb_free(adapters);
    cb_model_free(model);
    cb_free(ids);
    cb_options_free(table, &s);
    return ok ? 0 : 1;
}
