/* gguf_names.c: the architectures that both llama.cpp and this build know: their names of tensors and settings. */
#include <string.h>

#include "formats/gguf_model.h"

static const cb_gguf_tensor_name llama_tensors[] = {
    {"model.embed_tokens", "token_embd", 0},
    {"model.norm", "output_norm", 0},
    {"lm_head", "output", 0},
    {"model.layers.#.input_layernorm", "blk.#.attn_norm", 0},
    {"model.layers.#.self_attn.q_proj", "blk.#.attn_q", CB_GGUF_QUERY},
    {"model.layers.#.self_attn.k_proj", "blk.#.attn_k", CB_GGUF_KEY},
    {"model.layers.#.self_attn.v_proj", "blk.#.attn_v", 0},
    {"model.layers.#.self_attn.o_proj", "blk.#.attn_output", 0},
    {"model.layers.#.self_attn.q_norm", "blk.#.attn_q_norm", 0},
    {"model.layers.#.self_attn.k_norm", "blk.#.attn_k_norm", 0},
    {"model.layers.#.post_attention_layernorm", "blk.#.ffn_norm", 0},
    {"model.layers.#.mlp.gate_proj", "blk.#.ffn_gate", 0},
    {"model.layers.#.mlp.up_proj", "blk.#.ffn_up", 0},
    {"model.layers.#.mlp.down_proj", "blk.#.ffn_down", 0},
    {0},
};

static const cb_gguf_tensor_name gpt2_tensors[] = {
    {"transformer.wte", "token_embd", 0},
    {"transformer.wpe", "position_embd", 0},
    {"transformer.ln_f", "output_norm", 0},
    {"lm_head", "output", 0},
    {"transformer.h.#.ln_1", "blk.#.attn_norm", 0},
    {"transformer.h.#.attn.c_attn", "blk.#.attn_qkv", CB_GGUF_CONV1D},
    {"transformer.h.#.attn.c_proj", "blk.#.attn_output", CB_GGUF_CONV1D},
    {"transformer.h.#.ln_2", "blk.#.ffn_norm", 0},
    {"transformer.h.#.mlp.c_fc", "blk.#.ffn_up", CB_GGUF_CONV1D},
    {"transformer.h.#.mlp.c_proj", "blk.#.ffn_down", CB_GGUF_CONV1D},
    {0},
};

static const cb_gguf_setting llama_settings[] = {
    {"max_position_embeddings", "context_length", false, true},
    {"hidden_size", "embedding_length", false, true},
    {"num_hidden_layers", "block_count", false, true},
    {"intermediate_size", "feed_forward_length", false, true},
    {"num_attention_heads", "attention.head_count", false, true},
    {"num_key_value_heads", "attention.head_count_kv", false, false},
    {"head_dim", "attention.key_length", false, false},
    {"sliding_window", "attention.sliding_window", false, false},
    {"rms_norm_eps", "attention.layer_norm_rms_epsilon", true, true},
    {0},
};

static const cb_gguf_setting gpt2_settings[] = {
    {"n_positions", "context_length", false, true},
    {"n_embd", "embedding_length", false, true},
    {"n_layer", "block_count", false, true},
    {"n_inner", "feed_forward_length", false, false},
    {"n_head", "attention.head_count", false, true},
    {"layer_norm_epsilon", "attention.layer_norm_epsilon", true, true},
    {0},
};

#define LLAMA_KIN(gguf, type, class, ...)                                                                                                  \
    {                                                                                                                                      \
        .name = gguf, .model_type = type, .class_name = class, .prefix = "model.", .tensors = llama_tensors, .settings = llama_settings,   \
        .heads = "num_attention_heads", .kv_heads = "num_key_value_heads", .rotary = true, .activation_key = "hidden_act",                 \
        .activation = "silu", __VA_ARGS__                                                                                                  \
    }

static const cb_gguf_architecture architectures[] = {
    LLAMA_KIN("llama", "llama", "LlamaForCausalLM", .permuted = true, .factors = true),
    LLAMA_KIN("llama", "mistral", "MistralForCausalLM", .permuted = true, .factors = true),
    LLAMA_KIN("qwen2", "qwen2", "Qwen2ForCausalLM", .square = true),
    LLAMA_KIN("qwen3", "qwen3", "Qwen3ForCausalLM", .square = false),
    {.name = "gpt2",
     .model_type = "gpt2",
     .class_name = "GPT2LMHeadModel",
     .prefix = "transformer.",
     .tensors = gpt2_tensors,
     .settings = gpt2_settings,
     .heads = "n_head",
     .kv_heads = "n_head",
     .activation_key = "activation_function",
     .activation = "gelu_new"},
    {0},
};

static const cb_gguf_architecture *find(const char *what, const char *field, const char *name, bool by_name)
{
    for (const cb_gguf_architecture *a = architectures; a->name; a++) {
        if (strcmp(by_name ? a->name : a->model_type, name) == 0)
            return a;
    }
    cb_string known = {0};
    for (const cb_gguf_architecture *a = architectures; a->name; a++) {
        const char *own = by_name ? a->name : a->model_type;
        if (!known.length || !cb_ends_with(known.data, own))
            cb_string_printf(&known, "%s%s", known.length ? ", " : "", own);
    }
    cb_fail(CB_ERR_UNSUPPORTED, "%s: %s: found \"%.100s\", expected one of %s", what, field, name, known.data ? known.data : "");
    cb_string_free(&known);
    return NULL;
}

const cb_gguf_architecture *cb_gguf_architecture_named(const char *what, const char *name)
{
    return find(what, "general.architecture", name, true);
}

const cb_gguf_architecture *cb_gguf_architecture_of(const char *what, const char *model_type)
{
    return find(what, "model_type (for GGUF)", model_type, false);
}

const char *cb_gguf_setting_name(const cb_gguf_architecture *a, const char *gguf)
{
    const cb_gguf_setting *s = a->settings;
    while (s->hf && strcmp(s->gguf, gguf) != 0)
        s++;
    return s->hf;
}

/* ---- names of tensors ---- */

/* Whether `name` is `pattern`, followed by ".weight", ".bias" or nothing; then *number is its block's digits and *rest what follows. */
static bool matches(const char *pattern, const char *name, const char **number, int *digits, const char **rest)
{
    *digits = 0;
    *number = "";
    for (; *pattern; pattern++) {
        if (*pattern != '#') {
            if (*pattern != *name++)
                return false;
            continue;
        }
        *number = name;
        while (*name >= '0' && *name <= '9')
            name++;
        *digits = (int)(name - *number);
        if (*digits < 1 || *digits > 5 || (**number == '0' && *digits > 1))
            return false;
    }
    *rest = name;
    return !*name || *name == '.';
}

static char *translate(const cb_gguf_architecture *a, const char *name, bool to_hf, int *kind)
{
    for (const cb_gguf_tensor_name *t = a->tensors; t->hf; t++) {
        const char *number, *rest, *target = to_hf ? t->hf : t->gguf, *hash = strchr(target, '#');
        int digits;
        if (!matches(to_hf ? t->gguf : t->hf, name, &number, &digits, &rest))
            continue;
        if (kind)
            *kind = t->kind;
        return hash ? cb_format("%.*s%.*s%s%s", (int)(hash - target), target, digits, number, hash + 1, rest)
                    : cb_format("%s%s", target, rest);
    }
    return NULL;
}

char *cb_gguf_name_to_hf(const cb_gguf_architecture *a, const char *name, int *kind)
{
    return translate(a, name, true, kind);
}

char *cb_gguf_name_from_hf(const cb_gguf_architecture *a, const char *name, int *kind)
{
    char *found = translate(a, name, false, kind);
    if (found || !cb_ok() || strncmp(name, a->prefix, strlen(a->prefix)) == 0)
        return found;
    char *full = cb_format("%s%s", a->prefix, name); /* files of the bare model leave the prefix out */
    found = full ? translate(a, full, false, kind) : NULL;
    cb_free(full);
    return found;
}
