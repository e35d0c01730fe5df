/* cli.h: the frame of the `cambium` program.
 *
 * A command is one file: a settings struct, the option tables that describe it, and a run function, tied together by a
 * constant `cli_command` that is listed in command.c.  Parsing, --help, the man page, docs/commands.md and the shell
 * completions all come from those tables; nothing about an option is written twice.
 *
 * Standard output carries results: text for people, or with --json one JSON object a line, the last one final.
 * Standard error carries one line per warning or failure, and the progress line of a terminal.
 * Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted. */
#ifndef CB_CLI_CLI_H
#define CB_CLI_CLI_H

#include <jansson.h>
#include <stdio.h>

#include "cambium.h"

#define CLI_PROGRAM "cambium"

enum { CLI_EXIT_DONE = 0, CLI_EXIT_FAILED = 1, CLI_EXIT_USAGE = 2, CLI_EXIT_INTERRUPTED = 130 };

/* ---- commands (command.c) ---- */

/* Options of a command under one heading; `offset` is where the table's struct lies in the command's settings. */
typedef struct cli_group {
    const char *title;
    const cb_option *table;
    size_t offset;
} cli_group;

typedef struct cli_call cli_call;

typedef struct cli_command {
    const char *name;     /* one word, or two: "tokenizer train" */
    const char *summary;  /* one line, lower case, no full stop */
    const char *synopsis; /* what follows the name */
    const char *description;
    int least, most; /* how many arguments that are no options */
    size_t settings_size;
    const cli_group *groups;     /* ends with a title NULL */
    bool parallel;               /* several processes of mpirun are one run */
    bool adapter_options;        /* takes the options of adapter kinds as well */
    const char *const *required; /* options that must be given; NULL-terminated, or NULL */
    const char *const *examples; /* command lines; NULL-terminated */
    bool (*run)(cli_call *call, void *settings);
} cli_command;

extern const cli_command cli_train, cli_pretrain, cli_adapt_pool, cli_adapt_active, cli_generate, cli_embed, cli_eval, cli_adapt, cli_merge,
    cli_extract, cli_convert, cli_tokenizer_train, cli_tokenizer_encode, cli_tokenizer_decode, cli_tokenizer_convert, cli_inspect,
    cli_bench_gemm, cli_bench_lora, cli_bench_training, cli_bench_generate, cli_bench_packing, cli_methods, cli_repro, cli_tie,
    cli_zoo_build, cli_zoo_list, cli_data, cli_data_verbalize, cli_sentinel_convert, cli_sentinel_encode;

const cli_command *const *cli_commands(void); /* NULL-terminated, in the order of the help */

/* What every command takes. */
typedef struct cli_common {
    int64_t threads;
    bool json, quiet, verbose, help;
} cli_common;
extern const cb_option cli_common_table[];

/* The tables of a command in order: its groups, then those of adapter kinds, then the common ones. */
typedef struct cli_section {
    const char *title;
    const cb_option *table;
    void *config;                /* NULL: adapter options, kept as text until the kind is known */
    const cb_adapter_kind *kind; /* of adapter options; NULL for where they go */
} cli_section;
enum { CLI_MOST_SECTIONS = 128 };
/* Fills `sections` (CLI_MOST_SECTIONS) and returns how many; `settings` and `common` are NULL when only tables are wanted. */
int cli_sections(const cli_command *command, void *settings, cli_common *common, cli_section *sections);

/* ---- a command line, taken apart (arguments.c) ---- */

typedef struct cli_pair {
    char *name, *value;
} cli_pair;

struct cli_call {
    const cli_command *command;
    cli_common common;
    void *settings;
    const char **arguments; /* those that are no options */
    int argument_count;
    const cb_option **given; /* options that stand on the command line */
    size_t given_count, given_capacity;
    cli_pair *adapter; /* adapter options as text, in order */
    double *weights;   /* strengths that the adapters are given */
    size_t adapter_count, adapter_capacity, weight_capacity;
    const char *kind; /* of adapters, as --kind says; NULL: it does not */
    bool usage;       /* the failure is one of usage */
};

/* False with a message when the line is not one of the command's; call->usage is then set. */
bool cli_parse(cli_call *call, const cli_command *command, int count, char **words);
void cli_call_free(cli_call *call);
bool cli_given(const cli_call *call, const char *option); /* whether it stands on the command line */
/* Fails as wrong usage: exit status 2. */
CB_COLD bool cli_usage(cli_call *call, const char *format, ...) CB_PRINTF(2, 3);
/* Turns the library's "batch_size: found ..." into "--batch-size: found ...": exit status 2. */
CB_COLD void cli_blame(cli_call *call, const char *option);
/* Fails with CB_ERR_ARGUMENT and gives false. */
CB_COLD bool cli_refuse(const char *format, ...) CB_PRINTF(1, 2);

/* ---- help in all its forms (help.c, manual.c, completion.c) ---- */

bool cli_option_flag(const cb_option *option, cb_string *out);     /* "--batch-size N", "--[no-]packing" */
bool cli_option_describe(const cb_option *option, cb_string *out); /* help, choices, default and range */
bool cli_help_overview(cb_string *out);
/* Of adapter options, those of `kind`; the others are named. */
bool cli_help_command(const cli_command *command, const char *kind, cb_string *out);
#define CLI_DEFAULT_KIND "lora"
bool cli_manual(cb_string *out);   /* cambium.1 */
bool cli_markdown(cb_string *out); /* docs/commands.md */
bool cli_completion(const char *shell, cb_string *out);

/* ---- output (output.c) ---- */

/* Short text for people, in one of a few static buffers that are reused in turn. */
const char *cli_bytes(uint64_t bytes);                            /* "12.3 MB" */
const char *cli_count(double n);                                  /* "15.2 M" */
const char *cli_seconds(double seconds);                          /* "3.2 s", "4:05", "1:02:03" */
const char *cli_thousands(int64_t n);                             /* "1,234,567" */
void cli_escape(const char *text, size_t length, cb_string *out); /* control characters made visible */

/* A table of text cells with aligned columns: add cells row by row, then print. */
typedef struct cli_table {
    int columns;
    const char *right; /* a letter per column: 'r' right-aligned */
    cb_string_list cells;
} cli_table;
bool cli_table_add(cli_table *table, const char *format, ...) CB_PRINTF(2, 3);
void cli_table_print(cli_table *table); /* and frees its cells */

/* "name            value" lines of a summary. */
void cli_field(const char *name, const char *format, ...) CB_PRINTF(2, 3);

json_t *cli_real(double value); /* null when it is no finite number */
/* One line on standard output; takes the reference.  False (with a message) when the value could not be built. */
bool cli_json(json_t *value);
int cli_terminal_width(int fd); /* columns, or 0 when it is no terminal */

/* What cb_merge_fold() found, as fields of a result or lines of a summary (difference.c); measured: the logits were compared. */
void cli_difference_json(json_t *object, const cb_difference *d, bool measured);
void cli_difference_print(const cb_difference *d, bool measured);

/* The progress line: drawn over itself on a terminal, and wiped before anything else is written. */
void cli_status(const char *format, ...) CB_PRINTF(1, 2);
void cli_status_clear(void);

/* ---- steps that commands share (setup.c) ---- */

char *cli_existing_above(const char *path); /* the nearest directory above it, or itself, that exists; free with cb_free() */
/* True when a directory can be made or written at `path`; refuses a file, the model's own directory or a place inside
 * it (model may be NULL), and a place that cannot be written, without leaving anything behind. */
bool cli_output_directory(const char *path, const char *model);
/* The same for a file to be written. */
bool cli_output_file(const char *path);
/* True when writing the file would replace none of these inputs, whatever name it has, and no file in a directory of them. */
bool cli_output_is_no_input(const char *path, const cb_string_list *inputs);

/* "DIR=0.5" is a directory and a weight (1 when there is none), unless a directory of that very name exists; free *directory with cb_free(). */
bool cli_split_weight(const char *option, const char *text, char **directory, double *weight);

/* "NAME=DIR=0.5": the same with a name before it, unless a directory of the very name "NAME=DIR" exists. */
typedef struct cli_adapter_argument {
    char *text;       /* free with cb_free(); the others point into it */
    const char *name; /* NULL: none is given */
    const char *directory;
    double weight;
} cli_adapter_argument;
bool cli_split_adapter(const char *given, cli_adapter_argument *out);

/* The number of a task under "task_ids" of a line of JSON, or `otherwise` where there is none. */
bool cli_read_task(const char *where, const json_t *line, int64_t otherwise, int32_t *task);
/* The numbers under "conditions" of a line of JSON, or where there are none those of the option, to be freed. */
bool cli_read_conditions(const char *where, const json_t *line, const cb_string_list *otherwise, float **values, size_t *count);

/* A tokenizer from `path` (or the model's directory when NULL), whose ids all fit into `model` (may be NULL). */
cb_tokenizer *cli_tokenizer(const char *path, const cb_model *model);

/* ---- what a model is for (task.c) ---- */

/* The tasks that have a name: X(name, objective). */
#define CLI_TASKS(X)                                                                                                                       \
    X("sequence-classification", CB_OBJECTIVE_SEQUENCE_CLASSIFICATION)                                                                     \
    X("multi-label", CB_OBJECTIVE_MULTI_LABEL)                                                                                             \
    X("regression", CB_OBJECTIVE_REGRESSION)                                                                                               \
    X("token-classification", CB_OBJECTIVE_TOKEN_CLASSIFICATION)                                                                           \
    X("image-classification", CB_OBJECTIVE_IMAGE_CLASSIFICATION)                                                                           \
    X("semantic-segmentation", CB_OBJECTIVE_SEMANTIC_SEGMENTATION)                                                                         \
    X("depth-estimation", CB_OBJECTIVE_DEPTH_ESTIMATION)                                                                                   \
    X("surface-normals", CB_OBJECTIVE_SURFACE_NORMALS)                                                                                     \
    X("saliency", CB_OBJECTIVE_SALIENCY)                                                                                                   \
    X("text-recognition", CB_OBJECTIVE_TEXT_RECOGNITION)                                                                                   \
    X("retrieval", CB_OBJECTIVE_RETRIEVAL)                                                                                                 \
    X("similarity", CB_OBJECTIVE_SIMILARITY)                                                                                               \
    X("ranking", CB_OBJECTIVE_RANKING)                                                                                                     \
    X("forecasting", CB_OBJECTIVE_FORECASTING)                                                                                             \
    X("seq2seq", CB_OBJECTIVE_SEQ2SEQ_LM)                                                                                                  \
    X("image-generation", CB_OBJECTIVE_IMAGE_GENERATION)
#define CLI_TASK_NAME(name, objective) name,

/* As the command line has it. */
typedef struct cli_task_settings {
    int task;
    char *labels_file;
    cb_string_list labels; /* with those of the file, once cli_task_open() has read it */
    char *dense_loss;      /* NULL: the usual one */
} cli_task_settings;
extern const cb_option cli_task_table[];
extern const char *const cli_task_names[];         /* "auto", then CLI_TASKS */
cb_objective cli_task_objective(const char *name); /* CB_OBJECTIVE_CAUSAL_LM for one that has no such name, as auto */
const char *cli_task_name(cb_objective objective); /* "words" for those of words */

/* What it comes to. */
typedef struct cli_task {
    bool labelled;  /* else rows are for what the model predicts */
    bool forecasts; /* of series */
    bool asked;     /* by --task: images then bring labels of their own, where they have not the model's */
    cb_objective objective;
    cb_string_list labels;  /* that are known before the data is read; none: those of the data */
    bool follows;           /* the adapter brings the head */
    int64_t held;           /* labels of the head that an adapter without names for them brings; 0: none */
    const char *dense_loss; /* of numbers of places, as asked or as the adapter was trained; NULL: neither says */
} cli_task;
/* From what is asked, what the adapter in `adapter` (NULL: none) was trained for, and what the model in `model` (or the config.json of that name) is. */
bool cli_task_open(cli_task *task, cli_task_settings *settings, const char *model, const char *adapter);
void cli_task_close(cli_task *task);
/* What --dtype says; of series f32 where it does not. */
cb_dtype cli_task_dtype(const cli_call *call, const cli_task *task, int index);
/* Refuses options of rows of words, which labels have no use for. */
bool cli_labels_check(cli_call *call);
/* Refuses options that rows of sources and targets have not, or that only they have. */
bool cli_pairs_check(cli_call *call, cb_objective objective);
/* The model with a head for it; `config`: a new one, as cb_model_create() makes it. */
cb_model *cli_task_model(cli_task *task, const char *path, bool config, uint64_t seed, cb_model_options options);
/* The rows of `text` are for it, or, of a model that predicts words, for that; one that predicts nothing is refused. */
bool cli_task_fit(const cli_task *task, cb_data_options *text, const cb_model *model);

/* Whether the adapter brings a model's weight of that name. */
bool cli_adapter_trains(const cb_adapter *adapter, const char *weight);

/* What generation and evaluation run: a model, its tokenizer and any number of adapters. */
typedef struct cli_base {
    cb_model *model;
    cb_tokenizer *tokenizer;
    cb_adapter **adapters;
    double *weights; /* strengths that the adapters are given */
    size_t adapter_count, adapter_capacity, weight_capacity;
    cb_string_list names;       /* of the adapters: as given, or their directories' */
    cb_composition composition; /* one whose parts are weighed by a gate or a mixer: then there are no others */
    cb_embedder *embedder;      /* the model is this one's; NULL: there is none */
    bool ranks;                 /* an adapter was trained for rankings */
} cli_base;
/* Beside --adapter. */
#define CLI_ADAPTER_OPTION(type)                                                                                                           \
    CB_OPT_LIST(type, adapter_option, NULL, "NAME=VALUE,...", "what can still be chosen of a trained adapter, such as use_rank=2 of dylora")
/* The model gets the head that an adapter was trained with.
 *
 * `adapters`: directories, of an adapter or a composition, each with an optional "NAME=" before it and "=weight" behind it; `options`
 * (may be NULL): "NAME=VALUE", for all whose kind has such a live option, which one must have.  The tokenizer stays NULL; see cli_tokenizer(). */
bool cli_base_open(cli_base *base, const char *model, const cb_string_list *adapters, const cb_string_list *options, cb_dtype dtype);
/* The same in two steps: loaded, the adapters are off. */
bool cli_base_load(cli_base *base, const char *model, const cb_string_list *adapters, const cb_string_list *options, cb_dtype dtype);
bool cli_base_switch_on(cli_base *base);
/* The same for a sentence encoder, whose model and tokenizer these are then; tokens: of --max-seq-length, 0: as the model says. */
bool cli_embedder_open(cli_call *call, cli_base *base, const char *model, const cb_string_list *adapters, const cb_string_list *options,
                       cb_dtype dtype, int64_t tokens);
void cli_base_close(cli_base *base);

/* What a model says of the places of images (maps.c): the maps in a directory, which must be empty or not there yet; and of each label. */
typedef struct cli_maps {
    const char *directory; /* NULL: none are written */
    const cb_dataset *data;
} cli_maps;
bool cli_maps_see(void *maps, int64_t row, const cb_image *map); /* a cb_map_callback */
void cli_maps_json(json_t *object, const cb_predictions *predictions, const cb_string_list *names);
void cli_maps_print(const cb_predictions *predictions, const cb_string_list *names);

/* What a model said of rows with labels, a line of JSON each (predictions.c). */
bool cli_write_predictions(const char *path, const cb_predictions *predictions, const cb_dataset *data);

/* `cambium generate --prompts` (generate_rows.c). */
typedef struct cli_rows_settings {
    char *prompts;
    int64_t batch_size;
    int batching;
} cli_rows_settings;
extern const cb_option cli_rows_table[];
/* Of recursive models: the rounds that each token took, and their mean. */
bool cli_put_rounds(json_t *object, const cb_model *model, const cb_generation *generation);
double cli_mean_rounds(const cb_generation *generation);
bool cli_generate_rows(const cli_call *call, const cli_base *base, const cli_rows_settings *s, const cb_generate_options *options);

extern const char *const cli_dtype_names[]; /* "bf16", "f32" */
cb_dtype cli_dtype(int index);              /* of a choice among them */
/* The text of an argument, or all of standard input for "-"; free with cb_free(). */
char *cli_text_argument(const char *text, size_t *length);

/* ---- this program, run by itself (processes.c) ---- */

/* Runs this program with `words` (NULL-terminated, the program's name first) and gives the JSON object that it prints; `what` names it in
 * messages. */
json_t *cli_run_self(const char *what, const char *const *words);
/* The same for the user to look at: its output is this one's. */
bool cli_run_command(const char *what, const char *const *words);

/* ---- what benchmarks share (bench_parts.c) ---- */

typedef struct cli_bench_shape {
    int width, layers, heads, kv_heads, hidden;
    bool tied;
} cli_bench_shape;
extern const char *const cli_bench_shapes[];   /* "15m", "125m", "1b" */
extern const char *const cli_bench_quantize[]; /* "none", "int8", ..., "q4_0" */
const cli_bench_shape *cli_bench_shape_at(int index);

/* A Llama of random weights in a temporary directory; indices are those of the lists above. */
typedef struct cli_bench_model {
    char *directory, *plain, *quantized;
    const char *path; /* of what was asked for */
} cli_bench_model;
bool cli_bench_model_make(cli_bench_model *made, int shape, cb_dtype dtype, int quantize);
void cli_bench_model_remove(cli_bench_model *made); /* also after a failure */

/* ---- training, as train and pretrain show it (progress.c) ---- */

/* The rows a run trains on and is judged by. */
typedef struct cli_corpus {
    cb_dataset *train, *validation;
    cb_ctc_vocabulary *vocabulary; /* of texts in images; else NULL */
    cb_dataset *test;              /* judged before and after; nothing is chosen by it.  NULL: there is none */
} cli_corpus;
/* Where training text comes from, as train and pretrain name it. */
/* ---- images (images.c) ---- */

typedef struct cli_image_settings {
    char *image_processor;
    cb_image_data_options data;
    cb_augment_options augment;
    int64_t made[2];              /* height and width of images that are to be made, whatever the network says of them; 0: it says */
    cb_image_processor processor; /* what it comes to */
} cli_image_settings;
extern const cb_option cli_image_table[];
/* Finds how images are made ready: by --image-processor, the adapter, or the model in `path` (a directory, or a config.json), in this order, and holds it
 * against what the model takes. */
bool cli_images_ready(cli_image_settings *s, const cb_model *model, const char *path, const char *adapter);
/* `labels`: in their order; NULL or empty: those of the data.  Augmented where `train`. */
cb_dataset *cli_images_open(cli_image_settings *s, const cb_string_list *data, const cb_string_list *labels, int64_t seed, bool train);
/* The same for a network that denoises: its classes, where it has names for them, are these (or `labels`, where there are any; may be NULL), else those
 * of the data; one without classes takes all images. */
cb_dataset *cli_images_to_make(cli_image_settings *s, const cb_model *model, const cb_string_list *data, const cb_string_list *labels,
                               int64_t seed, bool train);
bool cli_takes_images(const cb_model *model);
bool cli_is_of_images(cb_objective objective);
bool cli_is_denoiser(const cb_model *model); /* whether it makes images from noise */
/* How images were made ready, beside what was trained on them: preprocessor_config.json. */
bool cli_images_save(const cli_image_settings *s, const char *directory);

/* ---- series of numbers (series.c) ---- */

typedef struct cli_series_settings {
    char *adjacency, *adjacency_array;
    int series_part;
    cb_series_options data;
    cb_forecast_options learning;
    cb_online_options online; /* of evaluations */
    char *online_adapter, *online_output;
    cb_series_processor processor; /* what it comes to */
    cb_series *series;
} cli_series_settings;
extern const cb_option cli_graph_table[], cli_series_part_table[], cli_online_table[]; /* of new models; of evaluations */
bool cli_takes_series(const cb_model *model);
/* Refuses what has no meaning for forecasting, or, of other tasks (series false), its options. */
bool cli_series_check(cli_call *call, bool series);
/* Reads the series and finds how they are made ready: as `stored` says (a directory), or, NULL, by their training part, for a new model, which gets
 * its graph.  To be closed, also on failure. */
bool cli_series_ready(cli_call *call, cli_series_settings *s, const cb_string_list *data, cb_model *model, const char *stored);
void cli_series_close(cli_series_settings *s);
cb_dataset *cli_series_windows(const cli_series_settings *s, const cb_model *model, cb_series_part part, int64_t seed);
/* cli_corpus_open() for these, once they are ready. */
bool cli_series_corpus(cli_corpus *corpus, const cli_series_settings *s, const cb_model *model, int64_t seed);
bool cli_eval_forecasting(cli_call *call, cli_series_settings *s, const cb_string_list *data, cb_model *model, int64_t batch_size,
                          int64_t max_batches);

typedef struct cli_corpus_settings {
    cb_string_list data, validation_data, validation_label_maps;
    double validation_split;
    cb_data_options text;
    cli_image_settings images;
    cli_series_settings series;
    cli_task_settings asked;
    cli_task task;
    const char *vocabulary; /* of texts in images: where it is; NULL: in the model's directory */
} cli_corpus_settings;
extern const cb_option cli_corpus_table[];
/* Reads the data; `seed` orders it and chooses the share held out.  Labels that were found in it become the model's. */
bool cli_corpus_open(cli_corpus *corpus, cli_call *call, cli_corpus_settings *settings, cb_model *model, const cb_tokenizer *tokenizer,
                     int64_t seed);
void cli_corpus_close(cli_corpus *corpus);

/* `cambium generate --images` (generate_images.c). */
typedef struct cli_make_settings {
    int64_t images, height, width, batch_size; /* batch_size is not in the table */
    char *output;
    cb_string_list class;
    cb_sample_options sample;
} cli_make_settings;
extern const cb_option cli_make_table[];
/* Makes them by the base's model; `adapters` as they were given, of which the first may have the schedule and the image processor. */
bool cli_make_images(cli_call *call, const cli_base *base, const cli_make_settings *s, const cb_string_list *adapters, uint64_t seed);

/* ---- networks that denoise (diffusion.c) ---- */

typedef struct cli_diffusion_settings {
    cb_noise_options noise; /* of a network that has none beside it */
    cb_diffusion_training training;
    cb_noise_schedule *schedule; /* what it comes to */
} cli_diffusion_settings;
/* Makes denoising the objective, where the model is of that: the schedule is the model's (`path`: its directory or a config.json in it), or the
 * adapter's (NULL: there is none), or what the options say. */
bool cli_diffusion_train(cli_call *call, cli_diffusion_settings *s, cb_trainee *what, const char *path, const char *adapter);
/* The schedule alone; `s` may then hold defaults. */
bool cli_diffusion_open(cli_call *call, cli_diffusion_settings *s, const char *path, const char *adapter);
void cli_diffusion_close(cli_diffusion_settings *s);

/* For evaluation: answers are measured with all of their prompt, unless the user chose otherwise. */
void cli_keep_examples_whole(cb_data_options *text);
/* Rows are as long as asked, or by default no longer than the model can see. */
void cli_fit_sequence_length(const cli_call *call, cb_data_options *text, const cb_model *model);

/* ---- reading text in images (recognition.c) ---- */

bool cli_recognises(const cb_model *model);
/* The rows of cli_corpus_open() for it. */
bool cli_lines_open(cli_corpus *corpus, cli_corpus_settings *settings, cb_model *model, int64_t seed);
/* The vocabulary beside a model that was trained with it. */
bool cli_lines_save(const cli_corpus *corpus, const char *directory);
typedef struct cli_recognition_settings {
    int64_t beam_width;
} cli_recognition_settings;
extern const cb_option cli_recognition_table[];
/* `cambium eval --task text-recognition`; vocabulary NULL: the model's own; predictions NULL: none are written. */
bool cli_eval_recognition(cli_call *call, const cli_recognition_settings *s, cli_image_settings *images, const cb_string_list *files,
                          const char *vocabulary, const cli_base *base, const char *predictions, int64_t batch_size, int64_t max_batches);

/* eval_seq2seq.c: loss and answers; predictions NULL: they are written nowhere. */
bool cli_eval_seq2seq(cli_call *call, cb_data_options *text, const cli_base *base, int64_t max_new_tokens, int64_t num_beams,
                      const char *predictions, int64_t batch_size, int64_t max_batches);

/* ---- sentence encoders (sentences.c, eval_sentences.c) ---- */

/* How texts become groups, beside the options of cli_corpus_settings. */
typedef struct cli_sentence_settings {
    int64_t hard_negatives, random_negatives;
    bool batch_duplicates;
    char *query_prompt, *document_prompt;
} cli_sentence_settings;
extern const cb_option cli_sentence_table[];
/* Refuses options that --task retrieval, similarity and ranking have not, or that only they have; of an adapter that goes on the task is known later. */
bool cli_sentences_check(cli_call *call, cb_objective objective);
/* Groups of texts; held out: all of them, in their order. */
cb_dataset *cli_sentences_read(const cb_string_list *files, const cb_data_options *text, const cli_sentence_settings *s,
                               const cb_embedder *e, bool scored, bool held_out);
/* cli_corpus_open() for these. */
bool cli_sentences_open(cli_corpus *corpus, cli_call *call, cli_corpus_settings *settings, const cli_sentence_settings *s, cb_embedder *e,
                        int64_t seed);

typedef struct cli_retrieval_settings {
    char *corpus, *queries, *qrels, *query_prompt, *document_prompt;
    int64_t max_seq_length;
    char *candidates;
    int64_t top_k;
} cli_retrieval_settings;
extern const cb_option cli_retrieval_table[];
/* What --corpus, --queries and --qrels say, or else what a directory of BEIR has. */
bool cli_retrieval_files(cli_call *call, const cli_retrieval_settings *s, const char *directory, cb_retrieval_data *data);
/* Metrics, and beside them the members of `line`, which is taken over; for people the metrics and the whole numbers among the members. */
bool cli_print_ranks(cli_call *call, json_t *line, const cb_metrics *metrics, double seconds);
/* `cambium eval --task retrieval` and similarity (scored), over base->embedder. */
bool cli_eval_sentences(cli_call *call, const cli_retrieval_settings *s, const cb_string_list *files, const cb_data_options *text,
                        const cli_base *base, bool scored, int64_t batch_size, int64_t max_batches);

/* ---- without labels (unlabelled.c) ---- */

/* `cambium eval --unlabelled`: the models of the call, or the adapters of one, on the same data. */
typedef struct cli_unlabelled {
    const cb_string_list *data, *adapters, *adapter_option;
    const char *tokenizer;
    const cb_data_options *text;
    cli_image_settings *images;
    cb_dtype dtype;
    int64_t batch_size, max_batches, draws, seed;
} cli_unlabelled;
bool cli_eval_unlabelled(cli_call *call, const cli_unlabelled *u);

/* ---- cross-encoders (ranking.c) ---- */

/* Pairs of a query and a document; held out: all of them, in their order. */
cb_dataset *cli_pairs_read(const cb_string_list *files, const cb_data_options *text, int64_t hard_negatives, int64_t random_negatives,
                           const cb_tokenizer *tokenizer, bool held_out);
/* cli_corpus_open() for these. */
bool cli_pairs_open(cli_corpus *corpus, cli_call *call, cli_corpus_settings *settings, const cli_sentence_settings *s,
                    const cb_model *model, const cb_tokenizer *tokenizer, int64_t seed);
/* `cambium eval --task ranking`, over base->model, with what was said of each pair, or document, in the file `predictions` (NULL: none). */
bool cli_eval_ranking(cli_call *call, const cli_retrieval_settings *s, const cb_string_list *files, cb_data_options *text,
                      const cli_base *base, const char *predictions, int64_t batch_size, int64_t max_batches);

/* True when the output is in no directory of data (setup.c): a run that is resumed would read what it wrote. */
bool cli_output_apart(const char *path, const cli_corpus_settings *corpus);

/* What to look at first: of words, for which there are no metrics, the perplexity. */
cb_metric cli_main_metric(const cb_metrics *metrics, double loss);
void cli_metrics_json(json_t *object, const char *prefix, const cb_metrics *metrics, double loss);

/* Data of another domain (adapt_pool.c): without labels, shuffled and augmented, or with those of the model, to measure by; of places of images these are
 * in label_maps, which else are none. */
cb_dataset *cli_pool_data(cli_call *call, cli_corpus_settings *corpus, int64_t seed, const cb_string_list *files,
                          const cb_string_list *label_maps, const cb_model *model, const cb_tokenizer *tokenizer, bool unlabelled);
/* A new adapter with the options of the command line, and before them that of the method (NULL: none) where it is of its kind, attached; head: of labels to be
 * learned, it has the head as well. */
cb_adapter *cli_new_adapter(cli_call *call, const char *kind, const cb_domain_method *method, cb_model *model, bool head, int64_t seed);

/* Trains with progress and prints the summary; with a rehearsal on (--dry-run) prints the plan instead. */
bool cli_train_run(cli_call *call, const cb_trainee *what, const cli_corpus *corpus, const cb_train_options *options);

/* ---- dry runs (plan.c) ---- */

#define CLI_PLAN_HELP           "check everything and print the plan: memory, disk, time; nothing is computed or written"
#define CLI_DRY_RUN(type, help) CB_OPT_BOOL(type, dry_run, 0, help)
#define CLI_NEEDS_HELP          "check everything and print what memory and disk it will take; nothing is computed or written"
/* Work that is rehearsed: begin, the work, end. */
typedef struct cli_rehearsal {
    const char *output; /* NULL: nothing is written */
    char *above;        /* the nearest directory on the way to it that was there before */
} cli_rehearsal;
bool cli_rehearsal_begin(cli_rehearsal *r, const char *output); /* leaves one that is on as it is */
/* What it has found out: {"memory": ..., "disk": ...}.  NULL on failure; ok false and too little room at the output are such. */
json_t *cli_rehearsal_end(cli_rehearsal *r, bool ok);
void cli_print_needs(const json_t *needs);
/* The same, and prints it. */
bool cli_plan(cli_call *call, cli_rehearsal *r, bool ok);

/* The plan of a training run. */
bool cli_train_plan(cli_call *call, const cb_trainee *what, const cli_corpus *corpus, const cb_train_options *options);
/* Peak resident bytes that a run will reach, by a rehearsal of its own; 0 on failure. */
uint64_t cli_train_predict(const cb_trainee *what, const cli_corpus *corpus, const cb_train_options *options);

#endif
