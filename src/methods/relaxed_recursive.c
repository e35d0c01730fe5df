/* relaxed_recursive.c: Relaxed Recursive Transformers: a pre-trained model whose L blocks become K blocks that are looped over, relaxed by
 * thin factors for each depth.  Bae et al. 2025, arXiv:2410.20672.
 *
 * Tying is CYCLE: block i runs with the weights of block i mod K (cb_model_shared_layers()).  What the K shared blocks start from (section 2.2):
 *
 *     stepwise  the blocks round(i (L - 1) / (K - 1)), first and last included
 *     average   the mean of the L / K blocks that are tied together
 *     lower     the first K
 *     random    new values
 *
 * The paper takes the mean of the norms' weights.  Here they are multiplied into the linear layers that follow, W diag(g), before anything is
 * tied, and are all ones: so the relaxation can make up for them, and at full rank gives back the original (fold_norms; off: the paper's way).
 *
 * The relaxation is LoRA on every linear layer of every depth, which starts from the first singular triples of W_i - W'_(i mod K), or from
 * nothing (section 2.3). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cambium/files.h"
#include "cambium/methods.h"
#include "cambium/training.h"
#include "core/json.h"

static const char *const start_names[] = {"stepwise", "average", "lower", "random", NULL};
const cb_option cb_tie_option_table[] = {
    CB_OPT_INT(cb_tie_options, shared_layers, 0, 0, 65536, "how many blocks are kept and looped over (0: half of them)"),
    CB_OPT_ENUM(cb_tie_options, start, CB_TIE_STEPWISE, start_names,
                "what they start from: blocks at even distances, the mean of those tied together, the first ones, or new values"),
    CB_OPT_INT(cb_tie_options, rank, 0, 0, 65536, "relax with LoRA of this rank on every linear layer of every depth (0: none)"),
    CB_OPT_BOOL(cb_tie_options, svd, true,
                "the relaxation starts from the singular value decomposition of what was tied away, else from nothing"),
    CB_OPT_BOOL(cb_tie_options, fold_norms, true,
                "multiply the norms before linear layers into those first, so that tying the norms loses nothing"),
    CB_OPT_INT(cb_tie_options, seed, 0, 0, 9e15, "of new values"),
    CB_OPT_END};

/* ---- config.json ---- */

/* That of `model_directory` with other fields, as a file in `directory`; shared 0: of a model that is not recursive.  Free with cb_free(). */
static char *write_config(const char *model_directory, const char *directory, int64_t shared)
{
    char *from = cb_path_join(model_directory, "config.json"), *to = cb_path_join(directory, "config.json");
    json_t *config = from && to ? cb_json_load(from, 1 << 24) : NULL;
    const char *type = config ? cb_json_string(from, config, "model_type", "") : "";
    size_t prefix = strncmp(type, CB_RECURSIVE, strlen(CB_RECURSIVE)) == 0 ? strlen(CB_RECURSIVE) : 0;
    char *named = config ? cb_format("%s%s", shared ? CB_RECURSIVE : "", type + prefix) : NULL;
    bool ok = named && cb_json_put(config, "model_type", json_string(named));
    if (ok && shared)
        ok = cb_json_put(config, "num_shared_layers", json_integer(shared));
    else if (ok)
        json_object_del(config, "num_shared_layers");
    ok = ok && cb_json_save(to, config, false);
    json_decref(config);
    cb_free(named);
    cb_free(from);
    if (ok)
        return to;
    cb_free(to);
    return NULL;
}

/* ---- weights ---- */

typedef struct filling {
    cb_model *from;                /* the layers of its tree are found by name */
    bool fold;                     /* norms into the linear layers behind them; then options are NULL */
    const cb_tie_options *options; /* NULL: every layer is there under its own name */
    int64_t layers, shared;
} filling;

/* Writes the name of the layer that stands in block `index` where `name` stands in another; a name outside the blocks as it is. */
static void name_in_block(char *out, size_t room, const char *name, int64_t index)
{
    const char *digits = name;
    while (*digits && !(digits > name && digits[-1] == '.' && *digits >= '0' && *digits <= '9'))
        digits++;
    if (*digits)
        snprintf(out, room, "%.*s%lld%s", (int)(digits - name), name, (long long)index, digits + strspn(digits, "0123456789"));
    else
        snprintf(out, room, "%s", name);
}

/* The number of the block that a layer is in; -1: in none. */
static int64_t block_of(const cb_layer *layer)
{
    while (layer && layer->kind != CB_LAYER_BLOCK)
        layer = layer->parent;
    const char *dot = layer ? strrchr(layer->name, '.') : NULL;
    return dot ? strtoll(dot + 1, NULL, 10) : -1;
}

static cb_tensor *source_weight(const filling *f, const cb_layer *layer, const char *name, int64_t block)
{
    char other[512];
    name_in_block(other, sizeof other, layer->name, block);
    cb_layer *found = cb_layer_find(cb_model_root(f->from), block < 0 ? layer->name : other);
    cb_tensor *weight = found ? cb_layer_weight(found, name) : NULL;
    if (!weight)
        cb_fail(CB_ERR_STATE, "tie: the model has no %s.%s", block < 0 ? layer->name : other, name);
    else if (cb_dtype_is_quantized(weight->dtype))
        cb_fail(CB_ERR_UNSUPPORTED, "tie: %s.%s is quantised (%s); tie the model before it is quantised", layer->name, name,
                cb_dtype_name(weight->dtype));
    else
        return weight;
    return NULL;
}

/* Of the blocks tied to this one. */
static bool fill_mean(const filling *f, const cb_layer *layer, cb_weight *weight, int64_t block)
{
    cb_tensor *sum = NULL;
    int64_t count = 0;
    for (int64_t i = block; i < f->layers; i += f->shared, count++) {
        cb_tensor *w = cb_cast(source_weight(f, layer, weight->name, i), CB_F32);
        sum = sum ? cb_add(sum, w) : w;
    }
    return cb_copy_into(weight->tensor, cb_scale(sum, 1.0 / (double)count));
}

/* The norm whose output a linear layer of the llama family is given; NULL: none. */
static cb_layer *norm_before(const filling *f, const cb_layer *layer)
{
    static const char *const pairs[][2] = {{"self_attn.q_proj", "input_layernorm"},
                                           {"self_attn.k_proj", "input_layernorm"},
                                           {"self_attn.v_proj", "input_layernorm"},
                                           {"mlp.gate_proj", "post_attention_layernorm"},
                                           {"mlp.up_proj", "post_attention_layernorm"}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        if (cb_ends_with(layer->name, pairs[i][0])) {
            char name[512];
            snprintf(name, sizeof name, "%.*s%s", (int)(strlen(layer->name) - strlen(pairs[i][0])), layer->name, pairs[i][1]);
            return cb_layer_find(cb_model_root(f->from), name);
        }
    return NULL;
}

static bool is_norm_before(const cb_layer *layer)
{
    return cb_ends_with(layer->name, ".input_layernorm") || cb_ends_with(layer->name, ".post_attention_layernorm");
}

static bool fill_folded(const filling *f, const cb_layer *layer, cb_weight *weight)
{
    const cb_layer *norm = norm_before(f, layer);
    cb_tensor *from = source_weight(f, layer, weight->name, block_of(layer));
    if (is_norm_before(layer))
        return cb_copy_into(weight->tensor, cb_full_nd(CB_F32, 1, weight->tensor->ndim, weight->tensor->shape));
    if (norm && strcmp(weight->name, "weight") == 0)
        from = cb_mul(cb_cast(from, CB_F32), cb_cast(cb_layer_weight(norm, "weight"), CB_F32)); /* (out, in) (in) */
    return from && cb_copy_into(weight->tensor, from);
}

static bool fill_weight(const filling *f, const cb_layer *layer, cb_weight *weight)
{
    int64_t block = block_of(layer);
    if (f->fold)
        return fill_folded(f, layer, weight);
    if (f->options && block >= 0 && f->options->start == CB_TIE_RANDOM)
        return true;
    if (f->options && block >= 0 && f->options->start == CB_TIE_AVERAGE)
        return fill_mean(f, layer, weight, block);
    if (f->options && block >= 0 && f->options->start == CB_TIE_STEPWISE && f->shared > 1)
        block = llround((double)block * (double)(f->layers - 1) / (double)(f->shared - 1));
    cb_tensor *from = source_weight(f, layer, weight->name, block);
    return from && cb_copy_into(weight->tensor, from);
}

static bool fill_layer(void *user, cb_layer *layer)
{
    const filling *f = user;
    bool ok = true;
    for (int i = 0; ok && i < layer->weight_count; i++) {
        cb_scope *scope = cb_scope_open();
        if (!scope)
            return false;
        cb_no_grad ok = fill_weight(f, layer, &layer->weights[i]);
        cb_scope_close(scope);
    }
    return ok;
}

/* ---- directories ---- */

static cb_dtype first_dtype(const cb_model *model)
{
    const cb_tensor *weight = cb_layer_weight(cb_model_embedding_layer(model), "weight");
    return weight && (weight->dtype == CB_BF16 || weight->dtype == CB_F16) ? weight->dtype : CB_F32;
}

/* Models without a tokenizer are tied as well. */
static bool has_tokenizer(const char *directory)
{
    static const char *const names[] = {"tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt"};
    bool found = false;
    for (size_t i = 0; i < sizeof names / sizeof *names && !found; i++) {
        char *path = cb_path_join(directory, names[i]);
        found = path && cb_is_file(path);
        cb_free(path);
    }
    return found;
}

/* A model of the config in `stage`, filled from another, saved there with the other's tokenizer. */
static cb_model *make_model(const char *config, const filling *f, const char *stage, uint64_t seed, cb_dtype dtype)
{
    const char *directory = cb_model_directory(f->from);
    cb_tokenizer *tokenizer = has_tokenizer(directory) ? cb_tokenizer_load(directory) : NULL;
    cb_model *model = cb_ok() ? cb_model_create(config, seed, (cb_model_options){0}) : NULL;
    cb_trainee what = {0};
    bool ok = model && cb_layer_visit(cb_model_root(model), fill_layer, (void *)(uintptr_t)f) &&
              cb_train_whole(&what, model, NULL, tokenizer, directory, dtype) && what.save(&what, stage);
    cb_train_whole_free(&what);
    cb_tokenizer_free(tokenizer);
    if (ok)
        return model;
    cb_model_free(model);
    return NULL;
}

typedef struct narrow {
    json_t *ranks; /* by layer name */
    int64_t rank;
} narrow;

/* A layer can take no more factors than its smaller side. */
static bool note_narrow(void *user, cb_layer *layer)
{
    narrow *n = user;
    int64_t most = layer->in_features < layer->out_features ? layer->in_features : layer->out_features;
    return layer->kind != CB_LAYER_LINEAR || layer->output || most >= n->rank || cb_json_put(n->ranks, layer->name, json_integer(most));
}

static bool set_ranks(cb_adapter *adapter, cb_model *model, int64_t rank)
{
    narrow n = {json_object(), rank};
    bool ok = n.ranks && cb_layer_visit(cb_model_root(model), note_narrow, &n);
    json_t *fields = ok ? json_pack("{s:I, s:I, s:O, s:O}", "r", (json_int_t)rank, "lora_alpha", (json_int_t)rank, "rank_pattern", n.ranks,
                                    "alpha_pattern", n.ranks)
                        : NULL;
    char *text = fields ? cb_json_dump(fields, false) : NULL;
    ok = text && cb_adapter_set_json(adapter, "relaxation", text);
    cb_free(text);
    json_decref(fields);
    json_decref(n.ranks);
    return ok;
}

/* LoRA on every linear layer of every depth, in stage/relaxation; s = 1. */
static bool relax(cb_model *model, const char *original, const char *stage, const cb_tie_options *o)
{
    char *output = cb_path_join(stage, "relaxation"), *start_file = output ? cb_path_join(output, "start.safetensors") : NULL;
    cb_adapter *adapter = start_file ? cb_adapter_new("lora", "relaxation") : NULL;
    bool ok = adapter && set_ranks(adapter, model, o->rank) && cb_adapter_set(adapter, "target_modules", "all-linear") &&
              (!o->svd || cb_adapter_set(adapter, "init_weights", "residual"));
    cb_train_options train = {.output = output, .batch_size = 1, .seed = o->seed};
    cb_start_options start = {.original_model = (char *)(uintptr_t)original};
    ok =
        ok && cb_train_attach(model, adapter, NULL, &train, &start) && cb_adapter_save(adapter, output, NULL) && cb_file_remove(start_file);
    cb_adapter_free(adapter);
    cb_free(start_file);
    cb_free(output);
    return ok;
}

/* Directories are made beside the output. */
static bool make_parent(const char *output)
{
    char *parent = cb_path_parent(output);
    bool ok = parent && cb_directory_make(parent);
    cb_free(parent);
    return ok;
}

/* Whether norms can be multiplied into what follows: RMS norms, and linear layers that are not stored transposed. */
static bool folds(const cb_model *model)
{
    return cb_layer_find(cb_model_root(model), "model.layers.0.post_attention_layernorm") != NULL;
}

/* The model with its norms multiplied into its linear layers, in a temporary directory, f32; free with cb_stage_discard(). */
static char *fold_norms(cb_model *model, const char *output)
{
    char *folded = cb_format("%s-norms", output), *stage = folded ? cb_directory_stage(folded) : NULL;
    char *config = stage ? write_config(cb_model_directory(model), stage, 0) : NULL;
    filling f = {.from = model, .fold = true};
    cb_model *made = config ? make_model(config, &f, stage, 0, CB_F32) : NULL;
    bool ok = made;
    cb_model_free(made);
    cb_free(config);
    cb_free(folded);
    if (ok)
        return stage;
    cb_stage_discard(stage);
    return NULL;
}

static bool tie(cb_model *model, const char *output, const cb_tie_options *options, cb_dtype dtype)
{
    const char *directory = cb_model_directory(model);
    filling f = {.from = model, .options = options, .layers = cb_model_layers(model)};
    f.shared = options->shared_layers ? options->shared_layers : (f.layers + 1) / 2;
    if (f.shared > f.layers)
        return cb_fail(CB_ERR_ARGUMENT, "shared_layers: found %lld, expected at most the %lld of the model", (long long)f.shared,
                       (long long)f.layers) == CB_OK;
    cb_model *tied = NULL;
    char *stage = cb_directory_stage(output), *config = stage ? write_config(directory, stage, f.shared) : NULL;
    bool ok = config && (tied = make_model(config, &f, stage, options->seed, dtype));
    if (ok && options->rank) { /* what rounding took away is made up for as well */
        cb_model_free(tied);
        tied = cb_model_load(stage, .keep_weights = true);
        ok = tied && relax(tied, directory, stage, options);
    }
    cb_free(config);
    cb_model_free(tied);
    if (ok)
        return cb_stage_publish(stage, output);
    cb_stage_discard(stage);
    return false;
}

bool cb_tie_layers(const char *directory, const char *output, const cb_tie_options *options)
{
    cb_model *model = make_parent(output) ? cb_model_load(directory, .keep_weights = true) : NULL;
    if (!model)
        return false;
    cb_dtype dtype = first_dtype(model);
    char *folded = NULL;
    bool ok = !cb_model_shared_layers(model) || cb_fail(CB_ERR_ARGUMENT, "%s: its layers are tied already", directory) == CB_OK;
    if (ok && options->fold_norms && folds(model)) {
        folded = fold_norms(model, output);
        cb_model_free(model);
        model = folded ? cb_model_load(folded, .keep_weights = true) : NULL;
    }
    ok = ok && model && tie(model, output, options, dtype);
    cb_model_free(model);
    cb_stage_discard(folded);
    return ok;
}

bool cb_untie_layers(const char *directory, const char *output)
{
    cb_model *model = make_parent(output) ? cb_model_load(directory, .keep_weights = true) : NULL, *plain = NULL;
    if (!model)
        return false;
    filling f = {.from = model};
    char *stage = NULL, *config = NULL;
    bool ok = cb_model_shared_layers(model) || cb_fail(CB_ERR_ARGUMENT, "%s: its layers are not tied", directory) == CB_OK;
    ok = ok && (stage = cb_directory_stage(output)) && (config = write_config(directory, stage, 0)) &&
         (plain = make_model(config, &f, stage, 0, first_dtype(model)));
    cb_free(config);
    cb_model_free(plain);
    cb_model_free(model);
    if (ok)
        return cb_stage_publish(stage, output);
    cb_stage_discard(stage);
    return false;
}
