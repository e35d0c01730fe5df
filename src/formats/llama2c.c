/* llama2c.c: a llama2.c model (github.com/karpathy/llama2.c) as a Hugging Face directory.
 *
 * The file is what export.py calls version 0: seven int32 (dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size,
 * max_seq_len), then f32 weights, each kind for all layers in one block.  vocab_size is negative when the output head has
 * weights of its own.  run.c fixes what the header does not say: RMSNorm's epsilon 1e-5, rotary base 10000.
 *
 * llama2.c rotates neighbouring rows of a head, Hugging Face does not: the rows of q and k change places (rotary_rows.h). */
#include "formats/llama2c.h"

#include <string.h>

#include "cambium/files.h"
#include "formats/rotary_rows.h"

enum { HEADER = 7 };

typedef struct shape {
    int64_t dim, hidden, layers, heads, kv_heads, vocab, positions, head_size;
    bool tied;
} shape;

/* ---- the header ---- */

static bool field(const char *path, const char *name, int64_t value, int64_t *out)
{
    *out = value;
    return value > 0 || cb_fail(CB_ERR_FORMAT, "%s: %s: found %lld, expected a positive number: not a llama2.c model", path, name,
                                (long long)value) == CB_OK;
}

static bool read_shape(const cb_file_map *file, shape *s)
{
    static const uint32_t magic = 0x616b3432; /* "ak42": versions 1 and 2 */
    int32_t header[HEADER];
    if (file->size < sizeof header)
        return cb_fail(CB_ERR_FORMAT, "%s: found %zu bytes, expected a llama2.c model", file->path, file->size) == CB_OK;
    memcpy(header, file->data, sizeof header);
    if ((uint32_t)header[0] == magic)
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: found version %d of llama2.c's format, expected version 0: export it with --version 0",
                       file->path, header[1]) == CB_OK;
    s->tied = header[5] > 0;
    int64_t vocab = header[5];
    if (!field(file->path, "dim", header[0], &s->dim) || !field(file->path, "hidden_dim", header[1], &s->hidden) ||
        !field(file->path, "n_layers", header[2], &s->layers) || !field(file->path, "n_heads", header[3], &s->heads) ||
        !field(file->path, "n_kv_heads", header[4], &s->kv_heads) ||
        !field(file->path, "vocab_size", s->tied ? vocab : -vocab, &s->vocab) ||
        !field(file->path, "max_seq_len", header[6], &s->positions))
        return false;
    if (s->dim % s->heads || s->heads % s->kv_heads || s->dim / s->heads % 2)
        return cb_fail(CB_ERR_FORMAT, "%s: n_heads: found %lld with dim %lld and n_kv_heads %lld, expected heads of equal, even size",
                       file->path, (long long)s->heads, (long long)s->dim, (long long)s->kv_heads) == CB_OK;
    s->head_size = s->dim / s->heads;
    return true;
}

/* ---- the tensors ---- */

/* A block of the file: a tensor, or one for each layer. */
typedef struct block {
    const char *name; /* NULL: not kept.  A layer's: what follows "model.layers.N." */
    int64_t layers;   /* 0: the tensor is not a layer's */
    int64_t rows, columns;
    int64_t rotary_heads; /* 0: rows stay in their order */
} block;

enum { BLOCKS = 13 };

/* columns 0: a vector of `rows`. */
static void list_blocks(const shape *s, block blocks[BLOCKS])
{
    int64_t kv = s->kv_heads * s->head_size, L = s->layers;
    const block list[BLOCKS] = {
        {"model.embed_tokens.weight", 0, s->vocab, s->dim, 0},
        {"input_layernorm.weight", L, s->dim, 0, 0},
        {"self_attn.q_proj.weight", L, s->dim, s->dim, s->heads},
        {"self_attn.k_proj.weight", L, kv, s->dim, s->kv_heads},
        {"self_attn.v_proj.weight", L, kv, s->dim, 0},
        {"self_attn.o_proj.weight", L, s->dim, s->dim, 0},
        {"post_attention_layernorm.weight", L, s->dim, 0, 0},
        {"mlp.gate_proj.weight", L, s->hidden, s->dim, 0},
        {"mlp.down_proj.weight", L, s->dim, s->hidden, 0},
        {"mlp.up_proj.weight", L, s->hidden, s->dim, 0},
        {"model.norm.weight", 0, s->dim, 0, 0},
        {NULL, 0, s->positions, s->head_size, 0}, /* cosines, then sines, of H/2 angles a position */
        {s->tied ? NULL : "lm_head.weight", 0, s->tied ? 0 : s->vocab, s->dim, 0},
    };
    memcpy(blocks, list, sizeof list);
}

static int64_t tensor_elements(const block *b)
{
    return b->rows * (b->columns ? b->columns : 1); /* both come from an int32 */
}

typedef struct conversion {
    cb_file_map file;
    shape shape;
    cb_weight_entry *entries;
    int64_t *rotary_heads; /* of each entry */
    size_t count, capacity;
    float *permuted; /* room for one q or k */
} conversion;

/* Compares the size of the file with what its header announces, before anything is allocated by it. */
static bool check_size(const conversion *c, const block *blocks)
{
    uint64_t expected = HEADER * sizeof(int32_t);
    bool overflow = false;
    for (int i = 0; i < BLOCKS; i++) {
        uint64_t bytes = (uint64_t)tensor_elements(&blocks[i]);
        overflow |= __builtin_mul_overflow(bytes, (uint64_t)(blocks[i].layers ? blocks[i].layers : 1), &bytes);
        overflow |= __builtin_mul_overflow(bytes, sizeof(float), &bytes);
        overflow |= __builtin_add_overflow(expected, bytes, &expected);
    }
    if (!overflow && expected == c->file.size)
        return true;
    const shape *s = &c->shape;
    return cb_fail(CB_ERR_FORMAT,
                   "%s: found %zu bytes, expected %s%llu for dim %lld, hidden_dim %lld, n_layers %lld, vocab_size %lld, max_seq_len %lld",
                   c->file.path, c->file.size, overflow ? "more than " : "", (unsigned long long)(overflow ? UINT64_MAX : expected),
                   (long long)s->dim, (long long)s->hidden, (long long)s->layers, (long long)s->vocab, (long long)s->positions) == CB_OK;
}

static bool add_entry(conversion *c, const block *b, int64_t layer, const void *data)
{
    char *name = b->layers ? cb_format("model.layers.%lld.%s", (long long)layer, b->name) : cb_strdup(b->name);
    if (!name)
        return false;
    c->rotary_heads[c->count] = b->rotary_heads;
    c->entries[c->count++] = (cb_weight_entry){.name = name,
                                               .dtype = CB_F32,
                                               .ndim = b->columns ? 2 : 1,
                                               .shape = {b->rows, b->columns},
                                               .data = data,
                                               .size = (size_t)tensor_elements(b) * sizeof(float)};
    return true;
}

static bool list_tensors(conversion *c)
{
    block blocks[BLOCKS];
    list_blocks(&c->shape, blocks);
    if (!check_size(c, blocks))
        return false;
    size_t most = BLOCKS + BLOCKS * (size_t)c->shape.layers;
    c->entries = cb_calloc(most, sizeof *c->entries);
    c->rotary_heads = cb_calloc(most, sizeof *c->rotary_heads);
    c->permuted = cb_alloc((size_t)(c->shape.dim * c->shape.dim) * sizeof(float));
    bool ok = c->entries && c->rotary_heads && c->permuted;
    const uint8_t *at = c->file.data + HEADER * sizeof(int32_t);
    for (int i = 0; ok && i < BLOCKS; i++) {
        const block *b = &blocks[i];
        int64_t times = b->layers ? b->layers : 1;
        for (int64_t layer = 0; ok && layer < times; layer++) {
            ok = !b->name || add_entry(c, b, layer, at);
            at += (size_t)tensor_elements(b) * sizeof(float);
        }
    }
    return ok;
}

/* A tensor's bytes; rows of rotary heads change places. */
static const void *provide(void *user, size_t index)
{
    conversion *c = user;
    const cb_weight_entry *e = &c->entries[index];
    if (!c->rotary_heads[index])
        return e->data;
    cb_rotary_rows_split(c->permuted, e->data, c->rotary_heads[index], c->shape.head_size, (size_t)e->shape[1] * sizeof(float));
    return c->permuted;
}

static void free_conversion(conversion *c)
{
    for (size_t i = 0; i < c->count; i++)
        cb_free((void *)(uintptr_t)c->entries[i].name);
    cb_free(c->entries);
    cb_free(c->rotary_heads);
    cb_free(c->permuted);
    cb_file_map_close(&c->file);
}

/* ---- the directory ---- */

/* What every llama2.c model has in common. */
static const char fixed_config[] = "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"hidden_act\": \"silu\","
                                   " \"rms_norm_eps\": 1e-5, \"rope_theta\": 10000.0, \"rope_scaling\": null, \"attention_bias\": false,"
                                   " \"attention_dropout\": 0.0, \"mlp_bias\": false, \"initializer_range\": 0.02, \"use_cache\": true,"
                                   " \"dtype\": \"float32\"}";

static json_t *model_config(const shape *s)
{
    const struct {
        const char *key;
        int64_t value;
    } sizes[] = {{"bos_token_id", CB_LLAMA2C_BOS},  {"eos_token_id", CB_LLAMA2C_EOS}, {"head_dim", s->head_size},
                 {"hidden_size", s->dim},           {"intermediate_size", s->hidden}, {"max_position_embeddings", s->positions},
                 {"num_attention_heads", s->heads}, {"num_hidden_layers", s->layers}, {"num_key_value_heads", s->kv_heads},
                 {"vocab_size", s->vocab}};
    json_t *config = cb_json_parse("config.json", fixed_config, strlen(fixed_config));
    bool ok = config && cb_json_put(config, "tie_word_embeddings", json_boolean(s->tied));
    for (size_t i = 0; ok && i < sizeof sizes / sizeof *sizes; i++)
        ok = cb_json_put(config, sizes[i].key, json_integer((json_int_t)sizes[i].value));
    if (ok)
        return config;
    json_decref(config);
    return NULL;
}

/* llama2.c's models put a beginning of text between stories and no end, and run.c stops there. */
static json_t *generation_config(void)
{
    return json_pack("{s:i, s:[i, i]}", "bos_token_id", CB_LLAMA2C_BOS, "eos_token_id", CB_LLAMA2C_BOS, CB_LLAMA2C_EOS);
}

static json_t *tokenizer_config(const shape *s)
{
    return json_pack("{s:b, s:b, s:s, s:b, s:s, s:I, s:s, s:s}", "add_bos_token", 1, "add_eos_token", 0, "bos_token", "<s>",
                     "clean_up_tokenization_spaces", 0, "eos_token", "</s>", "model_max_length", (json_int_t)s->positions,
                     "tokenizer_class", "PreTrainedTokenizerFast", "unk_token", "<unk>");
}

/* Takes the reference. */
static bool save(const char *directory, const char *name, json_t *value, bool sort_keys)
{
    char *path = value ? cb_path_join(directory, name) : NULL;
    bool ok = path && cb_json_save(path, value, sort_keys);
    if (!value)
        cb_fail(CB_ERR_MEMORY, "%s/%s: out of memory", directory, name);
    cb_free(path);
    json_decref(value);
    return ok;
}

static bool write_directory(conversion *c, const char *output, json_t *tokenizer)
{
    char *parent = cb_path_parent(output), *stage = parent && cb_directory_make(parent) ? cb_directory_stage(output) : NULL;
    cb_free(parent);
    bool ok = stage && cb_weights_write(stage, c->entries, c->count, 0, provide, c) &&
              save(stage, "tokenizer.json", json_incref(tokenizer), false) &&
              save(stage, "tokenizer_config.json", tokenizer_config(&c->shape), true) &&
              save(stage, "generation_config.json", generation_config(), true) && save(stage, "config.json", model_config(&c->shape), true);
    if (!ok)
        cb_stage_discard(stage);
    return ok && cb_stage_publish(stage, output);
}

bool cb_llama2c_convert(const char *model_bin, const char *tokenizer_bin, const char *output)
{
    conversion c = {0};
    bool ok = cb_file_map_open(&c.file, model_bin) && read_shape(&c.file, &c.shape) && list_tensors(&c);
    json_t *tokenizer = ok ? cb_llama2c_tokenizer(tokenizer_bin, c.shape.vocab) : NULL;
    ok = tokenizer && write_directory(&c, output, tokenizer);
    json_decref(tokenizer);
    free_conversion(&c);
    return ok;
}
