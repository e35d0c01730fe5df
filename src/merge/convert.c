/* convert.c: any format into any other, checked against the input before it is kept.
 *
 * A target is a line in a table: its name, whether it takes models or adapters, and a function that writes it.  The input is recognised
 * from its content; llama2.c's files are turned into a model directory first, which then is the input. */
#include "cambium/convert.h"

#include <string.h>

#include "cambium/files.h"
#include "cambium/gguf.h"
#include "core/temporary.h"

typedef struct conversion {
    const char *input, *output, *written;
    const cb_convert_options *options;
    cb_model *base; /* of adapters */
    cb_convert_report report;
} conversion;

/* ---- targets ---- */

static const char *const to_choices[] = {"hf", "gguf", "peft", "gguf-lora", "mlx", "adapterhub", NULL};
static const char *const dtype_choices[] = {"keep", "f32", "bf16", "f16", "q8_0", "q6_k", "q5_k", "q5_0", "q4_k", "q4_0", NULL};

static bool write_directory(const conversion *c)
{
    return cb_model_unpack(c->input, c->written, dtype_choices[c->options->dtype]);
}

static bool write_gguf(const conversion *c)
{
    return cb_gguf_export(c->input, c->written, dtype_choices[c->options->dtype]);
}

static bool write_adapter(const conversion *c)
{
    return cb_adapter_rewrite(c->input, cb_model_root(c->base), cb_model_type(c->base), to_choices[c->options->to], c->written);
}

/* The whole of adapter_config.json, as PEFT writes it. */
static bool write_peft(const conversion *c)
{
    cb_adapter *adapter = cb_adapter_load(c->input, cb_model_root(c->base), cb_model_type(c->base));
    bool ok = adapter && cb_adapter_save(adapter, c->written, c->options->base);
    cb_adapter_free(adapter);
    return ok;
}

static const struct target {
    bool adapter, directory;
    bool (*write)(const conversion *c);
} targets[] = {
    [CB_CONVERT_HF] = {false, true, write_directory}, [CB_CONVERT_GGUF] = {false, false, write_gguf},
    [CB_CONVERT_PEFT] = {true, true, write_peft},     [CB_CONVERT_GGUF_LORA] = {true, false, write_adapter},
    [CB_CONVERT_MLX] = {true, true, write_adapter},   [CB_CONVERT_ADAPTERHUB] = {true, true, write_adapter},
};

const cb_option cb_convert_option_table[] = {
    CB_OPT_ENUM(cb_convert_options, to, CB_CONVERT_HF, to_choices,
                "hf: a model directory; gguf: a GGUF file of llama.cpp; and for LoRA adapters peft, gguf-lora, mlx, adapterhub"),
    CB_OPT_ENUM(cb_convert_options, dtype, CB_CONVERT_KEEP, dtype_choices,
                "how a model's matrices are stored; hf takes the first four, with keep quantised ones become f16"),
    CB_OPT_STRING(cb_convert_options, base, NULL, "MODEL", "the model that an adapter belongs to"),
    CB_OPT_STRING(cb_convert_options, tokenizer, NULL, "FILE", "the tokenizer that goes with a llama2.c model (tok512.bin)"),
    CB_OPT_BOOL(cb_convert_options, verify, true, "load what was written and compare its logits with the input's"),
    CB_OPT_FLOAT(
        cb_convert_options, max_kl, -1, -1, 1e9,
        "keep nothing when the mean KL divergence (nats) of the next token is larger; -1: 0.01, and 0.2 for types of 4 and 5 bits"),
    CB_OPT_FLOAT(cb_convert_options, min_agreement, 0, 0, 1, "keep nothing when the most likely token is the same less often"),
    CB_OPT_INT(cb_convert_options, seed, 0, 0, 9e15, "of the random tokens that are compared"),
    CB_OPT_END};

/* ---- what the input is ---- */

enum { INPUT_MODEL, INPUT_ADAPTER, INPUT_LLAMA2C };

static bool has_config(const char *path)
{
    char *config = cb_path_join(path, "config.json");
    bool found = config && cb_is_file(config);
    cb_free(config);
    return found;
}

static bool recognise(conversion *c, int *kind)
{
    static const char *const titles[][2] = {
        {"peft", "PEFT adapter"}, {"gguf-lora", "GGUF adapter"}, {"mlx", "MLX adapter"}, {"adapterhub", "AdapterHub adapter"}};
    const char *format = cb_adapter_format(c->input);
    if (!cb_ok())
        return false;
    *kind = format ? INPUT_ADAPTER : INPUT_MODEL;
    for (int i = 0; format && i < 4; i++)
        if (strcmp(titles[i][0], format) == 0)
            c->report.input = titles[i][1];
    if (format)
        return true;
    if (cb_is_directory(c->input)) {
        c->report.input = "model directory";
        return has_config(c->input) ||
               cb_fail(CB_ERR_FORMAT, "%s: found neither config.json nor adapter_config.json, expected a model or an adapter", c->input) ==
                   CB_OK;
    }
    if (cb_is_gguf(c->input)) {
        c->report.input = "GGUF model";
        return true;
    }
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
    if (kind == INPUT_ADAPTER && o->dtype != CB_CONVERT_KEEP && o->dtype != CB_CONVERT_F32)
        return cb_fail(CB_ERR_ARGUMENT, "dtype: found %s, adapters are written as f32", dtype_choices[o->dtype]) == CB_OK;
    if (o->to == CB_CONVERT_HF && o->dtype > CB_CONVERT_F16)
        return cb_fail(CB_ERR_ARGUMENT, "dtype: found %s, a model directory holds keep, f32, bf16 or f16", dtype_choices[o->dtype]) ==
               CB_OK;
    if (kind == INPUT_ADAPTER && !o->base)
        return cb_fail(CB_ERR_ARGUMENT, "base: an adapter is converted beside its model, expected the model's directory or file") == CB_OK;
    return kind != INPUT_LLAMA2C || o->tokenizer ||
           cb_fail(CB_ERR_ARGUMENT, "tokenizer: expected the tokenizer.bin of the llama2.c model %s", c->input) == CB_OK;
}

/* ---- comparing ---- */

static bool within_bounds(const conversion *c)
{
    const cb_convert_options *o = c->options;
    const cb_difference *d = &c->report.difference;
    double most = o->max_kl >= 0 ? o->max_kl : o->dtype >= CB_CONVERT_Q5_K ? 0.2 : 0.01;
    if (!(d->mean_kl <= most))
        return cb_fail(CB_ERR_NUMERIC, "%s: not kept: next tokens differ by %.3g nats (mean KL) from the input's, allowed are %.3g",
                       c->output, d->mean_kl, most) == CB_OK;
    return d->agreement >= o->min_agreement ||
           cb_fail(CB_ERR_NUMERIC, "%s: not kept: the likeliest token is the input's at %.4f of positions, wanted are %.4f", c->output,
                   d->agreement, o->min_agreement) == CB_OK;
}

static cb_adapter *attach(const char *path, cb_model *model)
{
    return cb_adapter_load(path, cb_model_root(model), cb_model_type(model));
}

static bool compare(conversion *c, bool adapters)
{
    const char *left = adapters ? c->options->base : c->input, *right = adapters ? c->options->base : c->written;
    cb_model *reference = cb_model_load(left), *result = reference ? cb_model_load(right) : NULL;
    cb_adapter *a = NULL, *b = NULL;
    bool ok = result != NULL;
    if (ok && adapters)
        ok = (a = attach(c->input, reference)) && (b = attach(c->written, result));
    ok = ok && cb_merge_difference(reference, result, NULL, (uint64_t)c->options->seed, &c->report.difference);
    cb_adapter_free(a);
    cb_adapter_free(b);
    cb_model_free(reference);
    cb_model_free(result);
    c->report.verified = ok;
    return ok && within_bounds(c);
}

/* ---- carrying out ---- */

static bool write_and_keep(conversion *c, bool adapters, bool comparable)
{
    const struct target *target = &targets[c->options->to];
    char *parent = cb_path_parent(c->output), *stage = NULL;
    if (parent && cb_directory_make(parent))
        stage = target->directory ? cb_directory_stage(c->output) : cb_file_stage(c->output);
    cb_free(parent);
    if (!stage)
        return false;
    c->written = stage;
    if (target->write(c) && (!c->options->verify || !comparable || compare(c, adapters)))
        return cb_stage_publish(stage, c->output);
    cb_stage_discard(stage);
    return false;
}

static bool convert_adapter(conversion *c)
{
    c->base = cb_model_load(c->options->base);
    bool ok = c->base && write_and_keep(c, true, true);
    cb_model_free(c->base);
    return ok;
}

/* A directory of the model, kept when that is what is wanted. */
static bool convert_llama2c(conversion *c)
{
    if (c->options->to == CB_CONVERT_HF && c->options->dtype <= CB_CONVERT_F32)
        return cb_llama2c_convert(c->input, c->options->tokenizer, c->output);
    char *between = cb_temporary_name(c->output);
    const char *input = c->input;
    bool ok = between && cb_llama2c_convert(c->input, c->options->tokenizer, between);
    c->input = between;
    ok = ok && write_and_keep(c, false, true);
    c->input = input;
    cb_stage_discard(between);
    return ok;
}

bool cb_convert(const char *input, const char *output, const cb_convert_options *options, cb_convert_report *report)
{
    conversion c = {.input = input, .output = output, .options = options};
    int kind;
    if (!cb_ok())
        return false;
    bool ok = recognise(&c, &kind) && check_target(&c, kind);
    if (ok)
        ok = kind == INPUT_ADAPTER ? convert_adapter(&c) : kind == INPUT_LLAMA2C ? convert_llama2c(&c) : write_and_keep(&c, false, true);
    if (report)
        *report = c.report;
    return ok;
}
