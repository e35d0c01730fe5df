/* convert.h: floor 5: models and adapters from one format into another.
 *
 *     cb_convert_options options;
 *     cb_options_init(cb_convert_option_table, &options);
 *     options.to = CB_CONVERT_GGUF;
 *     cb_convert("models/base", "base.gguf", &options, &report);
 *
 * What the input is shows in its content.  The result is written beside `output`, loaded, and its logits on a probe batch are compared
 * with the input's; only then it gets its name, and not when the difference is beyond a bound. */
#ifndef CAMBIUM_CONVERT_H
#define CAMBIUM_CONVERT_H

#include "cambium/merge.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Targets: two for models, four for adapters, of which two hold LoRA only. */
enum { CB_CONVERT_HF, CB_CONVERT_GGUF, CB_CONVERT_PEFT, CB_CONVERT_GGUF_LORA, CB_CONVERT_MLX, CB_CONVERT_ADAPTERHUB };
enum { CB_CONVERT_KEEP, CB_CONVERT_F32, CB_CONVERT_BF16, CB_CONVERT_F16 }; /* and the others of cb_gguf_dtype_names */
typedef struct cb_convert_options {
    int to, dtype;   /* dtype: of a model's matrices */
    char *base;      /* the model that an adapter belongs to */
    char *tokenizer; /* of a llama2.c model: its tokenizer.bin */
    bool verify;
    double max_kl; /* negative: 0.01, and 0.2 where matrices are rounded to 6 bits or fewer */
    double min_agreement;
    int64_t seed; /* of the probe */
} cb_convert_options;
extern CB_API const cb_option cb_convert_option_table[];

typedef struct cb_convert_report {
    const char *input;        /* what the input is: "model directory", "GGUF model", "PEFT adapter", ... */
    bool verified;            /* false: not asked for, or nothing else reads the input (llama2.c) */
    cb_difference difference; /* of the result from the input */
} cb_convert_report;

/* Converts `input` to `output`, which must not exist (or be an empty directory).  report may be NULL.  What the target cannot hold is
 * CB_ERR_UNSUPPORTED and named, a difference beyond the bounds CB_ERR_NUMERIC; nothing is left then. */
CB_API bool cb_convert(const char *input, const char *output, const cb_convert_options *options, cb_convert_report *report);

#ifdef __cplusplus
}
#endif
#endif
