/* adapt.h: what the files of `cambium adapt` share. */
#ifndef CLI_ADAPT_H
#define CLI_ADAPT_H

#include "cli/cli.h"

typedef struct cli_adapt_settings {
    char *method, *output, *adapter_kind, *save, *tokenizer;
    cb_string_list stream, source_images, adapter, adapter_option, method_option;
    int dtype;
    int64_t seed, save_batches, max_batches, source_count;
    bool list_methods, resume, overwrite, watch, save_each, dry_run;
    cb_stream_options order;
    cb_adapt_options adapt;
    cli_image_settings images;
    cb_data_options text;
} cli_adapt_settings;

extern const cb_option cli_adapt_text_table[]; /* of cb_data_options */

/* ---- adapt_stream.c ---- */

/* What is said of --stream: one live stream, or data on disk. */
bool cli_adapt_check_stream(cli_call *call, cli_adapt_settings *s);
/* Makes ready what the inputs need: how images are made ready, or (a model of texts) the tokenizer, which goes into the base. */
bool cli_adapt_inputs(cli_call *call, cli_adapt_settings *s, cli_base *base);
cb_stream *cli_adapt_stream(cli_adapt_settings *s, const cli_base *base);
/* What the model was trained on, as many as --source-count; NULL with cb_ok(): there is none. */
cb_stream *cli_adapt_source(cli_adapt_settings *s, const cli_base *base);

/* ---- adapt_save.c ---- */

/* Whether --save can be written, and is no place of somebody else's. */
bool cli_adapt_check_save(const cli_adapt_settings *s, const char *model);
/* Whether what is trained can take the place of what an earlier run saved: a model that of a model, an adapter that of an adapter. */
bool cli_adapt_check_kind(const cli_adapt_settings *s, const cb_adaptation *a);
typedef struct cli_adapt_saver {
    const cli_adapt_settings *settings;
    const cli_base *base;
} cli_adapt_saver;
bool cli_adapt_save(void *saver, cb_adaptation *a); /* of cb_adapt_run_options */
/* What --dry-run has found out. */
bool cli_adapt_plan(cli_call *call, const cli_adapt_settings *s, const cb_model *model, cli_rehearsal *r, const cb_stream *stream,
                    const cb_adapt_result *result, bool ok);

#endif
