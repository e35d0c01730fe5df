/* convert.c: any format into any other, checked against the input before it is kept.
 *
 * A target is a line in a table: its name, whether it takes models or adapters, and a function that writes it.  The input is recognised
 * from its content; llama2.c's files are turned into a model directory first, which then is the input. */
#include "cambium/convert.h"

#include <string.h>

#include "cambium/files.h"
#include "cambium/training.h"
#include "core/temporary.h"
#include "formats/gguf_model.h"
#include "formats/quantized.h"
#include "merge/internal.h"
#include "models/names.h"

typedef struct conversion {
    const char *input, *output, *written;
    const char *name; /* of the model, in files that hold one */
    const cb_convert_options *options;
    int dtype;        /* that of the options, or what stands for keep */
    cb_model *base;   /* of adapters */
    bool several;     /* the input is several adapters and what composes them */
    cb_gguf_job gguf; /* what was found while writing one */
    cb_convert_report report;
} conversion;

/* ---- targets ---- */

static const char *const to_choices[] = {"hf", "gguf", "peft", "gguf-lora", "mlx", "adapterhub", NULL};

/* A model whose file has another package's names, under its own: what transformers reads, and adapters are merged into. */
static bool write_under_own_names(const conversion *c, const cb_model *model)
{
    static const char prepared[] = "preprocessor_config.json";
    const cb_dtype dtypes[] = {
        [CB_CONVERT_KEEP] = CB_F32, [CB_CONVERT_F32] = CB_F32, [CB_CONVERT_BF16] = CB_BF16, [CB_CONVERT_F16] = CB_F16};
    char *from = cb_path_join(c->input, prepared), *to = cb_path_join(c->written, prepared);
    bool ok = from && to && cb_model_save(model, c->written, dtypes[c->dtype]) && cb_file_copy(from, to);
    cb_free(from);
    cb_free(to);
    return ok;
}

static bool write_directory(conversion *c)
{
    cb_model *model = cb_is_gguf(c->input) ? NULL : cb_model_load(c->input, .keep_weights = true);
    bool renamed = model && cb_model_is_renamed(model), ok = renamed && write_under_own_names(c, model);
    cb_model_free(model);
    if (renamed || !cb_ok())
        return ok;
    return cb_model_unpack(c->input, c->written, cb_gguf_dtype_names[c->dtype]);
}

static bool write_gguf(conversion *c)
{
    c->gguf = (cb_gguf_job){.model = c->input, .output = c->written, .dtype = cb_gguf_dtype_names[c->dtype], .name = c->name};
    return cb_gguf_export_job(&c->gguf);
}

static bool write_composition(conversion *c)
{
    cb_composition parts;
    cb_layer *root = cb_model_root(c->base);
    const char *type = cb_model_type(c->base);
    bool ok = cb_composition_load(&parts, c->input, root, type);
    parts.home = c->output;
    if (ok && c->options->to == CB_CONVERT_PEFT)
        ok = cb_composition_save(&parts, c->written, c->options->base);
    else if (ok)
        ok = cb_composition_save_hub(&parts, c->written, root, type);
    cb_composition_free(&parts);
    return ok;
}

static bool write_adapter(conversion *c)
{
    if (c->several)
        return write_composition(c);
    return cb_adapter_rewrite(c->input, cb_model_root(c->base), cb_model_type(c->base), to_choices[c->options->to], c->written);
}

/* The whole of adapter_config.json, as PEFT writes it. */
static bool write_peft(conversion *c)
{
    if (c->several)
        return write_composition(c);
    cb_adapter *adapter = cb_adapter_load(c->input, cb_model_root(c->base), cb_model_type(c->base));
    bool ok = adapter && cb_adapter_save(adapter, c->written, c->options->base);
    cb_adapter_free(adapter);
    return ok;
}

static const struct target {
    bool adapter, directory;
    bool (*write)(conversion *c);
} targets[] = {
    [CB_CONVERT_HF] = {false, true, write_directory}, [CB_CONVERT_GGUF] = {false, false, write_gguf},
    [CB_CONVERT_PEFT] = {true, true, write_peft},     [CB_CONVERT_GGUF_LORA] = {true, false, write_adapter},
    [CB_CONVERT_MLX] = {true, true, write_adapter},   [CB_CONVERT_ADAPTERHUB] = {true, true, write_adapter},
};

const cb_option cb_convert_option_table[] = {
    CB_OPT_ENUM(cb_convert_options, to, CB_CONVERT_HF, to_choices,
                "hf: a model directory; gguf: a GGUF file of llama.cpp; and for adapters peft, adapterhub and, of LoRA, gguf-lora, mlx"),
    CB_OPT_ENUM(cb_convert_options, dtype, CB_CONVERT_KEEP, cb_gguf_dtype_names,
                "how a model's matrices are stored; hf takes the first four, with keep quantised ones become f16"),
    CB_OPT_STRING(cb_convert_options, base, NULL, "MODEL", "the model that an adapter belongs to"),
    CB_OPT_STRING(cb_convert_options, tokenizer, NULL, "FILE", "the tokenizer that goes with a llama2.c model (tok512.bin)"),
    CB_OPT_BOOL(cb_convert_options, verify, true, "load what was written and compare its logits with the input's"),
    CB_OPT_FLOAT(
        cb_convert_options, max_kl, -1, -1, 1e9,
        "keep nothing when the mean KL divergence (nats) of the next token is larger; -1: 0.01, and 0.2 where matrices are rounded to 6 "
        "bits or fewer"),
    CB_OPT_FLOAT(cb_convert_options, min_agreement, 0, 0, 1, "keep nothing when the most likely token is the same less often"),
    CB_OPT_INT(cb_convert_options, seed, 0, 0, 9e15, "of the random tokens that are compared"),
    CB_OPT_END};

/* ---- what the input is ---- */

enum { INPUT_MODEL, INPUT_QUANTIZED, INPUT_ADAPTER, INPUT_LLAMA2C };

static bool has_config(const char *path)
{
    char *config = cb_path_join(path, "config.json");
    bool found = config && cb_is_file(config);
    cb_free(config);
    return found;
}

static bool recognise_directory(conversion *c, int *kind)
{
    bool quantized = false;
    if (!has_config(c->input))
        return cb_fail(CB_ERR_FORMAT, "%s: found neither config.json nor adapter_config.json, expected a model or an adapter", c->input) ==
               CB_OK;
    if (!cb_holds_quantized(c->input, &quantized))
        return false;
    *kind = quantized ? INPUT_QUANTIZED : INPUT_MODEL;
    c->report.input = quantized ? "quantised model directory" : "model directory";
    return true;
}

static bool recognise(conversion *c, int *kind)
{
    static const char *const titles[][2] = {
        {"peft", "PEFT adapter"}, {"gguf-lora", "GGUF adapter"}, {"mlx", "MLX adapter"}, {"adapterhub", "AdapterHub adapter"}};
    c->several = cb_is_composition(c->input);
    if (c->several) {
        *kind = INPUT_ADAPTER;
        c->report.input = "composition";
        return cb_ok();
    }
    const char *format = cb_adapter_format(c->input);
    if (!cb_ok())
        return false;
    *kind = format ? INPUT_ADAPTER : INPUT_MODEL;
    for (int i = 0; format && i < 4; i++)
        if (strcmp(titles[i][0], format) == 0)
            c->report.input = titles[i][1];
    if (format)
        return true;
    if (cb_is_directory(c->input))
        return recognise_directory(c, kind);
    if (cb_is_gguf(c->input)) {
        c->report.input = "GGUF model";
        return true;
    }
    if (!cb_is_file(c->input))
        return cb_fail(CB_ERR_IO, "%s: found neither a file nor a directory", c->input) == CB_OK;
    *kind = INPUT_LLAMA2C;
    c->report.input = "llama2.c model";
    return true;
}

static bool check_target(const conversion *c, int kind)
{
    const cb_convert_options *o = c->options;
    if (targets[o->to].adapter != (kind == INPUT_ADAPTER))
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: found a %s, which %s cannot hold: it is for %s", c->input, c->report.input,
                       to_choices[o->to], targets[o->to].adapter ? "adapters" : "models") == CB_OK;
    if (c->several && o->to != CB_CONVERT_PEFT && o->to != CB_CONVERT_ADAPTERHUB)
        return cb_fail(CB_ERR_UNSUPPORTED,
                       "%s: is a composition of several adapters, of which %s knows nothing; expected peft, adapterhub or one of the "
                       "directories in it",
                       c->input, to_choices[o->to]) == CB_OK;
    if (targets[o->to].directory && cb_ends_with(c->output, ".gguf"))
        return cb_fail(CB_ERR_ARGUMENT, "%s: is the name of a GGUF file, and %s makes a directory: expected another name, or --to %s",
                       c->output, to_choices[o->to], kind == INPUT_ADAPTER ? "gguf-lora" : "gguf") == CB_OK;
    if (kind == INPUT_ADAPTER && o->dtype != CB_CONVERT_KEEP && o->dtype != CB_CONVERT_F32)
        return cb_fail(CB_ERR_ARGUMENT, "dtype: found %s, adapters are written as f32", cb_gguf_dtype_names[o->dtype]) == CB_OK;
    if (o->to == CB_CONVERT_HF && o->dtype > CB_CONVERT_F16)
        return cb_fail(CB_ERR_ARGUMENT, "dtype: found %s, a model directory holds keep, f32, bf16 or f16", cb_gguf_dtype_names[o->dtype]) ==
               CB_OK;
    if (kind == INPUT_ADAPTER && !o->base)
        return cb_fail(CB_ERR_ARGUMENT, "base: an adapter is converted beside its model, expected the model's directory or file") == CB_OK;
    return kind != INPUT_LLAMA2C || o->tokenizer ||
           cb_fail(CB_ERR_ARGUMENT, "tokenizer: expected the tokenizer.bin of the llama2.c model %s", c->input) == CB_OK;
}

/* ---- comparing ---- */

/* An adapter on its model, or several that its passes go through. */
typedef struct attached {
    cb_adapter *adapter;
    cb_composition parts;
} attached;

static bool attach(attached *a, const conversion *c, const char *path, cb_model *model)
{
    cb_layer *root = cb_model_root(model);
    if (c->several)
        return cb_composition_load(&a->parts, path, root, cb_model_type(model)) && cb_composition_use(&a->parts, model);
    a->adapter = cb_adapter_load(path, root, cb_model_type(model));
    return a->adapter;
}

static void detach(attached *a, cb_model *model)
{
    if (a->parts.count)
        cb_model_set_blend(model, NULL, NULL, NULL);
    cb_composition_free(&a->parts);
    cb_adapter_free(a->adapter);
}

static bool compare(conversion *c, bool adapters)
{
    const char *left = adapters ? c->options->base : c->input, *right = adapters ? c->options->base : c->written;
    cb_model *reference = cb_model_load(left), *result = reference ? cb_model_load(right) : NULL;
    attached a = {0}, b = {0};
    bool ok = result != NULL;
    if (ok && adapters)
        ok = attach(&a, c, c->input, reference) && attach(&b, c, c->written, result);
    ok = ok && cb_merge_difference(reference, result, NULL, (uint64_t)c->options->seed, &c->report.difference);
    detach(&a, reference);
    detach(&b, result);
    cb_model_free(reference);
    cb_model_free(result);
    c->report.verified = ok;
    c->report.difference.weight_error = c->gguf.weight_error;
    const cb_convert_options *o = c->options;
    return ok && cb_difference_within(&c->report.difference, c->output, cb_largest_kl(o->max_kl, c->gguf.coarse), o->min_agreement);
}

/* ---- carrying out ---- */

static bool write_and_keep(conversion *c, bool adapters)
{
    const struct target *target = &targets[c->options->to];
    char *parent = cb_path_parent(c->output), *stage = NULL;
    if (parent && cb_directory_make(parent))
        stage = target->directory ? cb_directory_stage(c->output) : cb_file_stage(c->output);
    cb_free(parent);
    if (!stage)
        return false;
    c->written = stage;
    if (target->write(c) && (!c->options->verify || compare(c, adapters)))
        return cb_stage_publish(stage, c->output);
    cb_stage_discard(stage);
    return false;
}

static bool convert_adapter(conversion *c)
{
    c->base = cb_model_load(c->options->base);
    bool ok = c->base && write_and_keep(c, true);
    cb_model_free(c->base);
    return ok;
}

/* By way of a model directory, which is the input of the rest. */
static bool by_way_of_directory(conversion *c, bool (*make)(const conversion *c, const char *directory))
{
    char *between = cb_temporary_name(c->output);
    const char *input = c->input;
    bool ok = between && make(c, between);
    c->name = input;
    c->input = between;
    ok = ok && write_and_keep(c, false);
    c->input = input;
    cb_stage_discard(between);
    return ok;
}

static bool make_from_llama2c(const conversion *c, const char *directory)
{
    return cb_llama2c_convert(c->input, c->options->tokenizer, directory);
}

/* Quantised weights as plain ones: folding no adapters does it. */
static bool unquantize(const conversion *c, const char *directory, int dtype, cb_difference *difference)
{
    cb_merge_options options = {0};
    if (!cb_options_init(cb_merge_option_table, &options))
        return false;
    options.dtype = dtype;
    options.verify = c->options->verify;
    options.max_kl = c->options->max_kl;
    options.min_agreement = c->options->min_agreement;
    options.seed = c->options->seed;
    cb_model *model = cb_model_load(c->input);
    bool ok = model && cb_merge_fold(model, NULL, 0, directory, &options, difference);
    cb_model_free(model);
    return ok;
}

static bool make_from_quantized(const conversion *c, const char *directory)
{
    return unquantize(c, directory, CB_MERGE_F32, NULL);
}

static bool convert_quantized(conversion *c)
{
    static const int dtypes[] = {[CB_CONVERT_F32] = CB_MERGE_F32, [CB_CONVERT_BF16] = CB_MERGE_BF16, [CB_CONVERT_F16] = CB_MERGE_F16};
    if (c->dtype == CB_CONVERT_KEEP)
        c->dtype = CB_CONVERT_F16;
    if (c->options->to != CB_CONVERT_HF)
        return by_way_of_directory(c, make_from_quantized);
    bool ok = unquantize(c, c->output, dtypes[c->dtype], &c->report.difference);
    c->report.verified = ok && c->options->verify;
    return ok;
}

static bool carry_out(conversion *c, int kind)
{
    switch (kind) {
    case INPUT_ADAPTER:
        return convert_adapter(c);
    case INPUT_QUANTIZED:
        return convert_quantized(c);
    case INPUT_LLAMA2C:
        return c->options->to == CB_CONVERT_HF && c->options->dtype <= CB_CONVERT_F32 ? make_from_llama2c(c, c->output)
                                                                                      : by_way_of_directory(c, make_from_llama2c);
    default:
        return write_and_keep(c, false);
    }
}

bool cb_convert(const char *input, const char *output, const cb_convert_options *options, cb_convert_report *report)
{
    conversion c = {.input = input, .output = output, .options = options, .dtype = options->dtype};
    int kind = INPUT_MODEL;
    if (!cb_ok())
        return false;
    bool ok = recognise(&c, &kind) && check_target(&c, kind) && carry_out(&c, kind);
    if (report)
        *report = c.report;
    return ok;
}
