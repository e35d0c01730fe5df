/* lora_gguf.c: LoRA adapters in llama.cpp's GGUF files.
 *
 * Tensors are called as the model's with ".lora_a" (rank, in) and ".lora_b" (out, rank) behind.  llama.cpp scales with alpha / rank, alpha
 * being one number for the file; other scales go into B.  Where the model's rows of q and k change places, those of B do. */
#include <math.h>
#include <string.h>

#include "adapters/lora_file.h"
#include "formats/gguf_model.h"
#include "formats/rotary_rows.h"

#define ALPHA "adapter.lora.alpha"

static bool recognise(const char *path, const json_t *config)
{
    if (config || !cb_is_gguf(path))
        return false;
    cb_gguf *file = cb_gguf_open(path);
    const char *type = file ? cb_gguf_string(file, "general.type", "model") : "model";
    bool adapter = strcmp(type, "adapter") == 0;
    cb_gguf_close(file);
    return adapter;
}

/* Rows of q and k: how many heads they are cut into; 0: they keep their places. */
static int64_t turned_heads(const cb_gguf_architecture *a, const cb_lora_pair *p, int kind)
{
    const cb_layer *attention = p->host->parent;
    if (!a->permuted || !attention || attention->kind != CB_LAYER_ATTENTION)
        return 0;
    return kind == CB_GGUF_QUERY ? attention->in_features : kind == CB_GGUF_KEY ? attention->out_features : 0;
}

static bool turn(const cb_lora_set *set, const cb_lora_pair *p, int64_t heads, bool to_file, float *out)
{
    int64_t rows = p->host->out_features;
    if (rows % (2 * heads))
        return cb_fail(CB_ERR_FORMAT, "%s: %s: found %lld rows, expected a multiple of twice its %lld heads", set->what, p->layer,
                       (long long)rows, (long long)heads) == CB_OK;
    (to_file ? cb_rotary_rows_join : cb_rotary_rows_split)(out, p->b, heads, rows / heads, (size_t)p->rank * sizeof(float));
    return true;
}

/* ---- reading ---- */

static bool take(cb_lora_set *set, const cb_gguf_architecture *a, const cb_weight_entry *e)
{
    bool is_a = cb_ends_with(e->name, ".weight.lora_a"), is_b = cb_ends_with(e->name, ".weight.lora_b");
    int kind;
    char *name = is_a || is_b ? cb_gguf_name_to_hf(a, e->name, &kind) : NULL;
    if (!name)
        return cb_ok() && cb_fail(CB_ERR_UNSUPPORTED, "%s: tensor %.200s: found no LoRA matrix of a linear layer of %s models", set->what,
                                  e->name, a->name) == CB_OK;
    name[strlen(name) - strlen(".weight.lora_a")] = '\0';
    cb_lora_pair *p = cb_lora_pair_of(set, name);
    cb_free(name);
    if (!p || !cb_lora_take(set, p, is_b, e, false))
        return false;
    int64_t heads = is_b ? turned_heads(a, p, kind) : 0;
    if (!heads)
        return true;
    float *turned = cb_alloc(sizeof *turned * (size_t)(p->host->out_features * p->rank));
    if (!turned || !turn(set, p, heads, false, turned)) {
        cb_free(turned);
        return false;
    }
    cb_free(p->b);
    p->b = turned;
    return true;
}

static bool check_file(const cb_lora_set *set, const cb_gguf *file, const cb_gguf_architecture *a)
{
    const char *name = cb_gguf_string(file, "general.architecture", ""), *type = cb_gguf_string(file, "adapter.type", "");
    if (!cb_ok())
        return false;
    if (strcmp(type, "lora") != 0)
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: adapter.type: found \"%.50s\", expected lora", set->what, type) == CB_OK;
    if (strcmp(name, a->name) != 0)
        return cb_fail(CB_ERR_FORMAT, "%s: general.architecture: found \"%.50s\", the base is %s", set->what, name, a->name) == CB_OK;
    return !cb_gguf_value_find(file, "adapter.alora.invocation_tokens") ||
           cb_fail(CB_ERR_UNSUPPORTED, "%s: adapter.alora.invocation_tokens: found an activated LoRA, which this build does not have",
                   set->what) == CB_OK;
}

static bool read(cb_lora_set *set, const char *path, const json_t *config)
{
    (void)config;
    const cb_gguf_architecture *a = cb_gguf_architecture_of(path, set->model_type);
    cb_gguf *file = a ? cb_gguf_open(path) : NULL;
    bool ok = file && check_file(set, file, a);
    for (size_t i = 0; ok && i < cb_gguf_count(file); i++)
        ok = take(set, a, cb_gguf_at(file, i));
    double alpha = ok ? cb_gguf_float(file, ALPHA, 0) : 0;
    if (ok && !(isfinite(alpha) && fabs(alpha) < 1e9))
        ok = cb_fail(CB_ERR_FORMAT, "%s: " ALPHA ": found %g, expected a number below 1e9", path, alpha) == CB_OK;
    for (size_t i = 0; ok && i < set->count; i++)
        set->pairs[i].scale = alpha != 0 ? alpha / (double)(set->pairs[i].rank ? set->pairs[i].rank : 1) : 1;
    cb_gguf_close(file);
    return ok && cb_ok();
}

/* ---- writing ---- */

typedef struct gguf_writing {
    const cb_lora_set *set;
    const cb_gguf_architecture *a;
    cb_weight_entry *entries; /* A and B of each pair in turn */
    int *kinds;
    double alpha;
    float *b;
    size_t capacity;
} gguf_writing;

static const void *provide(void *user, size_t index)
{
    gguf_writing *w = user;
    const cb_lora_pair *p = &w->set->pairs[index / 2];
    size_t count = (size_t)(p->host->out_features * p->rank);
    if (index % 2 == 0)
        return p->a;
    int64_t heads = turned_heads(w->a, p, w->kinds[index / 2]);
    float factor = (float)(p->scale * (double)p->rank / w->alpha);
    if (!cb_grow(&w->b, &w->capacity, count, sizeof *w->b))
        return NULL;
    if (!heads)
        memcpy(w->b, p->b, count * sizeof *w->b);
    else if (!turn(w->set, p, heads, true, w->b))
        return NULL;
    for (size_t i = 0; factor != 1 && i < count; i++)
        w->b[i] *= factor;
    return w->b;
}

static bool list_tensors(gguf_writing *w)
{
    w->entries = cb_calloc(2 * w->set->count, sizeof *w->entries);
    w->kinds = cb_calloc(w->set->count, sizeof *w->kinds);
    for (size_t i = 0; w->entries && w->kinds && i < w->set->count; i++) {
        const cb_lora_pair *p = &w->set->pairs[i];
        char *full = cb_format("%s.weight", p->layer), *name = full ? cb_gguf_name_from_hf(w->a, full, &w->kinds[i]) : NULL;
        cb_free(full);
        if (!name)
            return cb_ok() && cb_fail(CB_ERR_UNSUPPORTED, "%s: %s: found a layer that GGUF's %s models have no name for", w->set->what,
                                      p->layer, w->a->name) == CB_OK;
        for (int b = 0; b < 2; b++)
            w->entries[2 * i + (size_t)b] =
                (cb_weight_entry){.name = cb_format("%s.lora_%c", name, b ? 'b' : 'a'),
                                  .dtype = CB_F32,
                                  .ndim = 2,
                                  .shape = {b ? p->host->out_features : p->rank, b ? p->rank : p->host->in_features},
                                  .size = sizeof(float) * (size_t)(p->rank * (b ? p->host->out_features : p->host->in_features))};
        cb_free(name);
        if (!w->entries[2 * i].name || !w->entries[2 * i + 1].name)
            return false;
    }
    return w->entries && w->kinds;
}

/* A head that is the embedding is no layer of its own there. */
static bool check_heads(const cb_lora_set *set)
{
    for (size_t i = 0; i < set->count; i++)
        if (set->pairs[i].host->tied)
            return cb_fail(CB_ERR_UNSUPPORTED, "%s: %s: found an adapter of a tied output head, which llama.cpp does not apply", set->what,
                           set->pairs[i].layer) == CB_OK;
    return true;
}

static bool write(const cb_lora_set *set, const char *path, const char *name)
{
    gguf_writing w = {.set = set, .a = cb_gguf_architecture_of(path, set->model_type)};
    cb_gguf_metadata m = {0};
    w.alpha = set->pairs[0].scale * (double)set->pairs[0].rank;
    w.alpha = w.alpha > 0 ? (double)(float)w.alpha : 1; /* 0 means "no scale" there */
    bool ok = w.a && check_heads(set) && list_tensors(&w) && cb_gguf_put_string(&m, "general.architecture", w.a->name) &&
              cb_gguf_put_string(&m, "general.type", "adapter") && cb_gguf_put_string(&m, "adapter.type", "lora") &&
              cb_gguf_put_string(&m, "general.name", name) && cb_gguf_put_f32(&m, ALPHA, (float)w.alpha) &&
              cb_gguf_put_u32(&m, "general.file_type", 0) && cb_gguf_write(path, &m, w.entries, 2 * set->count, provide, &w);
    for (size_t i = 0; w.entries && i < 2 * set->count; i++)
        cb_free((void *)(uintptr_t)w.entries[i].name);
    cb_free(w.entries);
    cb_free(w.kinds);
    cb_free(w.b);
    cb_gguf_metadata_free(&m);
    return ok;
}

const cb_lora_format cb_lora_gguf = {.name = "gguf-lora", .title = "GGUF adapter", .recognise = recognise, .read = read, .write = write};
