/* data.h: floor 4: training text: from files to batches of token ids.
 *
 *     cb_dataset *data = cb_dataset_open(tokenizer, &options);
 *     cb_batch batch = {0};
 *     for (step ...) cb_dataset_batch(data, step, rows, &batch);      random access: a resumed run asks for the same rows
 *
 * Records (formats.h) become token sequences once; rows of `sequence_length` are cut from them.  With packing a row holds
 * several documents (of one task), kept apart by segment ids, so that few positions are wasted and no token attends across documents;
 * plain text goes on in the next row, a prompt with its completion and a conversation stay in one where they can.
 *
 * Labelled rows (cb_objective) hold one example each, between the tokenizer's special tokens and cut to `sequence_length` (longest first, of
 * pairs), and a batch is as long as the longest of its rows; labels are names, given or found in the data.
 *
 * Rows for models with an encoder and a decoder hold a source and a target, each ended by the tokenizer's end-of-sequence token and cut before it,
 * and are padded like labelled ones.
 *
 * Masked rows are those of BERT (Devlin et al. 2018): documents have the tokenizer's special tokens around them, and of the others a share is
 * chosen, anew each time a row is asked for in another epoch, to be predicted from the rest: 80 % of the chosen stand there as the mask
 * token, 10 % as any token, 10 % as they are.  Special tokens are never chosen; of prompts with completions the completions are, as
 * `completion_only` says.  Validation draws the same tokens each time. */
#ifndef CAMBIUM_DATA_H
#define CAMBIUM_DATA_H

#include "cambium/ctc.h"
#include "cambium/images.h"
#include "cambium/tensor.h"
#include "cambium/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct cb_dataset cb_dataset;

/* What packing does with examples (a prompt with its completion, a conversation); names as in TRL.  What goes on in another row is a
 * document of its own there: it sees nothing of what was before, and its positions begin at 0. */
typedef enum cb_packing_strategy {
    CB_PACKING_AUTO,      /* as bfd, but nothing is cut off, and where 2 % of the positions or more would stay empty, the examples of
                           * the emptiest rows are treated as by wrapped, of as few rows as will do */
    CB_PACKING_BFD,       /* best-fit decreasing: whole examples; what is longer than a row loses its end */
    CB_PACKING_BFD_SPLIT, /* the same, but the end is another example */
    CB_PACKING_WRAPPED    /* examples are laid end to end in an order of their own in each epoch, and go on where a row ends */
} cb_packing_strategy;

/* What rows are for. */
typedef enum cb_objective {
    CB_OBJECTIVE_CAUSAL_LM,
    CB_OBJECTIVE_MASKED_LM,
    CB_OBJECTIVE_SEQUENCE_CLASSIFICATION, /* one label of several, of a text or of two */
    CB_OBJECTIVE_MULTI_LABEL,             /* any number of labels, each on or off */
    CB_OBJECTIVE_REGRESSION,              /* a number */
    CB_OBJECTIVE_TOKEN_CLASSIFICATION,    /* a label of each word; its first token is judged */
    CB_OBJECTIVE_IMAGE_CLASSIFICATION,    /* one label of several, of an image: cb_dataset_open_images() */
    CB_OBJECTIVE_SEMANTIC_SEGMENTATION,   /* the same, of each place of an image: likewise */
    CB_OBJECTIVE_DEPTH_ESTIMATION,        /* of each place how far it is */
    CB_OBJECTIVE_SURFACE_NORMALS,         /* which way it faces, a vector of length 1: x to the right, y, z */
    CB_OBJECTIVE_SALIENCY,                /* whether it stands out, from 0 to 1 */
    CB_OBJECTIVE_TEXT_RECOGNITION,        /* what is written in an image: cb_dataset_open_images() */
    CB_OBJECTIVE_RETRIEVAL,               /* groups of an anchor, its positive and hard negatives */
    CB_OBJECTIVE_SIMILARITY,              /* groups of two sentences, with a score */
    CB_OBJECTIVE_RANKING,                 /* groups of documents, each read together with the query that they have in common */
    CB_OBJECTIVE_FORECASTING,             /* what series of numbers come to: cb_series_windows() */
    CB_OBJECTIVE_SEQ2SEQ_LM,              /* a target, given a source: prompts with completions */
    CB_OBJECTIVE_IMAGE_GENERATION         /* images as they are, and the class of each: likewise */
} cb_objective;
CB_API bool cb_objective_is_labelled(cb_objective objective);
CB_API bool cb_objective_is_of_places(cb_objective objective); /* of images: labels or numbers */
CB_API int cb_objective_numbers(cb_objective objective);       /* numbers of a place: 1 or 3; 0: it has none */

typedef struct cb_data_options {
    cb_string_list data; /* files, directories or "-" */
    char *separator;     /* plain text: string between documents; NULL: a file is one document */
    bool lines;          /* plain text: a line is a document */
    int64_t sequence_length;
    bool packing;
    int packing_strategy;
    bool completion_only; /* prompt/completion and messages: no loss on what the model did not have to say */
    char *chat_template;  /* as for cb_chat_open() */
    bool shuffle;
    bool add_bos, add_eos;      /* around documents (not conversations with marks of their own), where the tokenizer has such
                            * tokens and does not say add_bos_token: false, and they do not stand there already */
    cb_string_list columns;     /* as in cb_records_options */
    int quoting;                /* of tables: 0: RFC 4180's, 1: none */
    int64_t max_records;        /* 0: all */
    double mlm_probability;     /* of masked rows: share of the tokens that are to be predicted */
    bool whole_word_mask;       /* of these: all tokens of a word or none */
    char *source_prefix;        /* of rows of a source and a target: stands before every source ("summarize: "); NULL: nothing */
    int64_t max_target_length;  /* of these: tokens of a target; 0: sequence_length, which is that of sources */
    int32_t decoder_start;      /* of these: what the decoder reads first: cb_model_decoder_start() */
    int64_t pad_to_multiple_of; /* labelled rows: 0: a batch is as long as its longest row */
    cb_objective objective;
    const cb_string_list *labels; /* labelled rows: in the order of their numbers; NULL or empty: those of the data, sorted */
    bool unlabelled;              /* of sequence classification: records need no label, and none is read: targets are -100 */
    uint64_t seed;
} cb_data_options;
extern CB_API const cb_option cb_data_option_table
    []; /* all but `data`, `objective`, `labels`, `unlabelled`, `decoder_start` and `seed`, which commands name themselves */

/* ---- conversations ---- */

/* A chat template and the special tokens of a tokenizer, as transformers' apply_chat_template has them. */
typedef struct cb_chat cb_chat;
/* `name`: NULL or "auto": the tokenizer's own template (plain, when it has none); a template of the tokenizer by name; chatml,
 * llama3 or plain; or a file.  The tokenizer must outlive it.  Any number of threads may render with it at once. */
CB_API cb_chat *cb_chat_open(const cb_tokenizer *tokenizer, const char *name);
CB_API void cb_chat_free(cb_chat *chat); /* NULL is allowed */
/* Whether the template writes bos and eos itself, or marks of its own (all but plain): then none are to be added. */
CB_API bool cb_chat_is_framed(const cb_chat *chat);
/* Writes a conversation: a JSON array of messages, or an object with messages and, where wanted, tools, documents,
 * chat_template_kwargs (an object) and others, which all become variables of the template.  With add_generation_prompt it ends where
 * the model's answer begins. */
CB_API bool cb_chat_apply(const cb_chat *chat, const char *json, size_t length, bool add_generation_prompt, cb_string *text);

/* Reads and tokenises everything (in parallel, in a fixed order); `options` are not needed afterwards.  Errors name file,
 * line and field. */
CB_API cb_dataset *cb_dataset_open(const cb_tokenizer *tokenizer, const cb_data_options *options);
CB_API void cb_dataset_free(cb_dataset *data);
/* Moves a share of the documents, chosen by seed, into a new dataset (validation); of fewer than 20 plain texts each is cut
 * near its end instead.  In the new one CB_PACKING_AUTO has become CB_PACKING_BFD.  After a failure `data` must not be used but to be
 * freed. */
CB_API cb_dataset *cb_dataset_split(cb_dataset *data, double share, uint64_t seed);

CB_API int64_t cb_dataset_tokens(const cb_dataset *data);
CB_API int64_t cb_dataset_documents(const cb_dataset *data);
CB_API int64_t cb_dataset_rows(const cb_dataset *data);       /* of sequence_length, in an epoch */
CB_API int64_t cb_dataset_row_length(const cb_dataset *data); /* sequence_length */
CB_API int64_t cb_dataset_padding(const cb_dataset *data);    /* positions of those rows that hold no token; -1: as batches come */
CB_API double cb_dataset_bytes_per_token(
    const cb_dataset *data); /* of source text: turns perplexity into bits per byte; 0: rows are masked */

/* The labels, in the order of their numbers; of regression one, LABEL_0; empty: rows have none.  Lives as long as the dataset. */
CB_API const cb_string_list *cb_dataset_labels(const cb_dataset *data);
CB_API cb_objective cb_dataset_objective(const cb_dataset *data);
/* Labelled rows of the unshuffled data: the numbers of a row's labels (of its words; of regression none), and where it, or a group, comes from:
 * "notes.txt:12" in a string to be freed. */
CB_API const int32_t *cb_dataset_row_labels(const cb_dataset *data, int64_t row, size_t *count);
/* Of images: the number of a row's among all that were found, whatever order the rows are in. */
CB_API int64_t cb_dataset_row_number(const cb_dataset *data, int64_t row);
CB_API double cb_dataset_row_value(const cb_dataset *data, int64_t row); /* of regression */
CB_API char *cb_dataset_row_source(const cb_dataset *data, int64_t row);

/* Of all token ids, in order, of which of them are to be predicted and of the tasks they are of: tells one dataset from another. */
CB_API uint64_t cb_dataset_hash(const cb_dataset *data);

/* Rows as tensors of (rows, sequence_length) i32, refilled in place at each call; labelled rows are as long as the longest of them.
 * Zero-initialise. */
typedef struct cb_batch {
    cb_tensor *ids;
    /* ids shifted left by one (masked rows: what stood there); -100 where there is no loss (padding, prompts, ends).  Labelled rows: (rows) i32
     * labels, (rows, labels) f32 0 or 1, (rows, 1) f32 numbers, or (rows, length) i32 labels of words at their first tokens */
    cb_tensor *targets;
    cb_tensor *segments; /* 0, 1, 2, ... for the documents of a row; -1 is padding */
    cb_tensor *source;   /* (rows, its own length): of rows of a source and a target, where ids are the target shifted right; else NULL */
    cb_tensor *source_segments; /* of it: -1 is padding */
    cb_tensor *positions;       /* 0, 1, 2, ... in each of them */
    cb_tensor *types;           /* which of two texts each is of (token_type_ids); NULL: all tokens of the dataset are of type 0 */
    cb_tensor *words;           /* words with labels: the number of the word whose first token it is, else -1; NULL: rows have none */
    cb_tensor *tasks;           /* (rows) i32: of which task each is; NULL: all documents of the dataset are of task 0 */
    cb_tensor *conditions;      /* (rows, C) f32: what is known of each; NULL: of none of the dataset is anything */
    cb_tensor *lengths;         /* (rows) i32: how wide each image is before its padding; NULL: there is none */
    cb_tensor *items;           /* of joined datasets: (rows) i64: which row of its own, unshuffled dataset each is; else NULL */
    int64_t tokens;             /* that are not padding */
    int64_t predicted;          /* targets that count */
} cb_batch;
/* Rows index * rows ... (index + 1) * rows - 1 of the endless sequence epoch 0, epoch 1, ...: depends on nothing but the
 * arguments, the data and the options. */
CB_API bool cb_dataset_batch(cb_dataset *data, int64_t index, int64_t rows, cb_batch *batch);
/* Where the rows of such a batch come from, appended to `sources`: "notes.txt:12, more.jsonl:3", the line being the one at which a document
 * begins; of very many the first. */
CB_API bool cb_dataset_sources(cb_dataset *data, int64_t index, int64_t rows, cb_string *sources);
/* Consecutive rows of the unshuffled data, for evaluation; rows past the end are left out (batch->ids has fewer rows; false
 * with cb_ok() at the end). */
CB_API bool cb_dataset_sequential(cb_dataset *data, int64_t index, int64_t rows, cb_batch *batch);
CB_API void cb_batch_free(cb_batch *batch);

/* ---- several datasets at once ---- */

/* Batches of `rows` rows of each of `count` datasets, those of the first before those of the second and so on: rows with labels beside rows without
 * (options.unlabelled), or different views of the same (cb_dataset_view()).  All are images of one size, or all texts; every row counts
 * as one that is predicted.  An epoch is one of the last dataset, of which the others go through as many rows.  Labels are those of the first.
 * Takes the datasets, also on failure.  Neither sequential nor to be split: that is for the parts. */
CB_API cb_dataset *cb_dataset_join(size_t count, cb_dataset *const *parts);
/* The same rows in the same order, images augmented in another way (NULL: not at all); of texts it is as the first.  A view of a view is drawn anew,
 * also with the same options. */
CB_API cb_dataset *cb_dataset_view(const cb_dataset *data, const cb_augment_options *augment);
/* Some rows of labelled texts or images, by their places in the unshuffled data, as a dataset of its own with the same options. */
CB_API cb_dataset *cb_dataset_pick(const cb_dataset *data, const int64_t *rows, int64_t count);
/* Of images: a row of the unshuffled data as it is in its file. */
CB_API bool cb_dataset_row_image(const cb_dataset *data, int64_t row, cb_image *image);
/* Which row of the unshuffled data stands at a place of the endless sequence: of labelled rows and images; -1 on failure. */
CB_API int64_t cb_dataset_row_at(cb_dataset *data, int64_t place);

/* ---- knowledge graphs as text ---- */

typedef struct cb_verbalize_options {
    cb_string_list data; /* files of triples: cb_records */
    char *language;      /* only triples of this one; NULL: all */
    bool across;         /* also those whose ends are of two languages */
    cb_string_list phrases, columns;
    double validation_split, test_split;
    int64_t max_records;
    uint64_t seed;
} cb_verbalize_options;
extern CB_API const cb_option cb_verbalize_option_table[]; /* all but `data` and `seed` */
typedef struct cb_verbalize_result {
    int64_t triples, loops, duplicates, other_languages; /* read, and of these left out */
    int64_t train, validation, test;                     /* sentences */
} cb_verbalize_result;
/* Writes train.txt, validation.txt and test.txt into a directory, which is made: a sentence a line, each once, shuffled by the seed.  A relation
 * that has no phrase is an error, and so is nothing to write. */
CB_API bool cb_verbalize(const cb_verbalize_options *options, const char *directory, cb_verbalize_result *result);
/* The English phrase of one of ConceptNet's relations, "is a synonym of" of Synonym; NULL: there is none. */
CB_API const char *cb_relation_phrase(const char *relation);
/* Appends "subject phrase object." */
CB_API bool cb_verbalize_triple(const char *subject, const char *phrase, const char *object, cb_string *line);

/* ---- groups of texts: what sentence encoders learn from ---- */

/* How a text becomes tokens: role 0 is an anchor (a query, a first sentence), others are documents.  *skipped: tokens at the beginning that
 * are a prompt's and not pooled. */
typedef bool cb_text_encoder(void *user, int role, const char *text, cb_encoding *out, int32_t *skipped);

typedef struct cb_groups_options {
    cb_string_list data;    /* files of JSON lines, packed (archives below) or not, or "-" */
    cb_string_list columns; /* "anchor=question": what fields are called in these files */
    int64_t max_records;    /* 0: all */
    int64_t hard_negatives; /* that are used of each record; -1: as many as the first record has */
    bool scored;            /* two sentences and how alike they are, instead of an anchor, a positive and negatives */
    bool duplicates;        /* a text may stand twice in a batch, where it is a wrong negative */
    bool shuffle;
    uint64_t seed;
    cb_text_encoder *encode;
    void *user; /* of encode */
    /* Pairs instead: documents are read together with their query, cut to max_tokens (the longer text first). */
    const cb_tokenizer *pairs;
    int64_t max_tokens, random_negatives; /* random: of other lines, drawn by seed, beside those that a group has */
} cb_groups_options;
/* A dataset of groups of G texts: an anchor, its positive and hard negatives; each line is an object with fields named as in the datasets of
 * sentence-transformers: anchor, query, question or sentence1; positive, pos, document, passage, answer or sentence2 (a text, or a list: a
 * group for each); negative, negative_1, negative_2, ... and negatives or neg (a text or a list); or an array of texts in this order.  With
 * scores: sentence1, sentence2 and score, similarity or label.
 *
 * Its batches hold `rows` groups, the texts of one after another: ids, segments and positions (rows G, T), T being that of the longest, rounded
 * up to 8; targets (rows, 1 + G) f32: the score (0 where there is none), and how many tokens of each text are not pooled.  Batches do not
 * reach into the next epoch: what does not fill one is left out of this epoch, another part in each.
 *
 * Of pairs a group is G documents with one query, the positive first: targets (rows, G) f32 are 1 for it and 0 for the others; or, where the
 * first line has a score (label), one document with it, from 0 to 1.  Batches have token types where the tokenizer's template gives any.
 * A split keeps what has one query together. */
CB_API cb_dataset *cb_dataset_open_groups(const cb_groups_options *options);
CB_API int64_t cb_dataset_group(const cb_dataset *data); /* G; 1: rows are texts of their own */
/* Of text `member` of group `row`, unshuffled: two texts with the same hash are the same.  Of pairs a document's. */
CB_API uint64_t cb_dataset_text_hash(const cb_dataset *data, int64_t row, int64_t member);
CB_API uint64_t cb_dataset_query_hash(const cb_dataset *data, int64_t row); /* of pairs: the query's */

/* ---- images with labels ---- */

/* How many frames a model makes of so many columns. */
typedef int64_t cb_frames_function(const void *user, int64_t width);

typedef struct cb_image_data_options {
    /* Directories with one directory of images for each class, .zip or .tar archives of such, tables (.csv, .tsv, .jsonl) of files and labels, IDX files
     * (.gz), .npy, .npz */
    cb_string_list data;
    char *image_column, *label_column; /* of tables */
    char *data_split;                  /* of .npz files: train, val, test */
    cb_string_list label_maps; /* maps of labels: for each of `data` a directory of files of the same names, or a TIFF of as many images */
    char *map_suffix;          /* maps are called as their images with this in the place of the ending; NULL: with any ending */
    int64_t mask_threshold;    /* maps are masks: grey levels above it are label 1, others 0; -1: numbers are labels */
    int64_t ignore_index;      /* in maps: places that do not count; -1: there are none */
    cb_string_list label_values;   /* in maps: the numbers that stand for labels 0, 1, ...; none: these themselves */
    double map_scale;              /* of maps of numbers: what files' numbers are divided by; 0: 1, of colours and saliency 255 or 65535 */
    cb_string_list invalid_values; /* the numbers in files of places that do not count; none given: 0 of depths and normals; "none" */
    double max_depth;              /* places that are further do not count; 0: all do */
    char *text_column;             /* of text recognition: NULL: text */
    int64_t max_width;             /* likewise: wider images are squeezed to that; 0: none */
    bool ctc_zero_infinity; /* likewise: a text that needs more frames than its image gives is passed over, with a warning, and no error */
    int64_t max_images;     /* 0: all */
    bool shuffle_images, exif_transpose;
    int64_t max_pixels, loader_threads;
    /* these are not in the table: */
    const cb_image_processor *processor; /* must give images of one size; copied */
    const cb_augment_options *augment;   /* of shuffled batches; NULL: none; copied */
    const cb_string_list *labels;        /* in the order of their numbers; NULL or empty: those of the data, sorted */
    bool unlabelled;        /* images need no label, and none is read: targets are -100, and images may lie anywhere in a directory */
    bool labels_may_differ; /* where the data's labels are not these, by name, the data's count */
    cb_objective objective; /* one of places: images have maps; CB_OBJECTIVE_TEXT_RECOGNITION: texts; else a label each.  For
                                          * CB_OBJECTIVE_IMAGE_GENERATION they are not mixed: CB_ERR_ARGUMENT */
    const cb_ctc_vocabulary *vocabulary; /* of texts; must outlive the dataset */
    cb_frames_function *frames;          /* of texts: what they are held against; NULL: nothing */
    const void *frames_user;
    const char *corruption; /* of every image, as the model sees it; NULL: none */
    int severity;
    bool spread; /* unshuffled rows in an order that mixes the classes, for evaluations that stop early */
    uint64_t seed;
} cb_image_data_options;
extern CB_API const cb_option cb_image_data_option_table[];

/* A dataset of images and their labels.  Its batches hold `ids` (rows, channels, height, width) f32, normalised; targets (rows) i32, or, with mixup
 * or CutMix, (rows, labels) f32 of shares; of maps (rows, height, width) i32, -100 where a place does not count, or,
 * of numbers, (rows, numbers, height, width) f32, NaN there; no segments and no positions.  A row depends on seed, epoch and image alone; threads of the dataset
 * decode those that come next.
 *
 * Some images are looked at: when they are far from mean 0 and deviation 1 after normalisation, a warning says so with the numbers (a wrong mean costs
 * accuracy without any other sign).  Errors name the file; a label that is not among `labels` is one.  Directories hold files as
 * torchvision's ImageFolder takes them, but links to directories are not followed. */
CB_API cb_dataset *cb_dataset_open_images(const cb_image_data_options *options);
/* Of texts `data` are tables of images (image_column, or image or file_name where there is no such column) and texts, or directories with metadata.jsonl, .csv
 * or .tsv in them, and the processor gives a height (its width is 0).  Batches are as wide as their widest image, rounded up to 8, with zeros
 * behind narrower ones and `lengths` that say how wide each is; targets (rows, S) i32, -100 behind each text, S rounded up to 8.  The text of a
 * row of the unshuffled data, as it is in the table; what its ids stand for; and of how many images of all so far the text needed more frames than
 * there were. */
CB_API const char *cb_dataset_row_text(const cb_dataset *data, int64_t row);
CB_API const cb_ctc_vocabulary *cb_dataset_vocabulary(const cb_dataset *data);
CB_API int64_t cb_dataset_too_long(const cb_dataset *data);
/* Of a dataset with maps: writes `map`, the labels (8 bits) or numbers (f32, those of a place side by side) that were found for a row of the unshuffled
 * data, into DIRECTORY/name.png, or .npy where the data's own map is one, as the data's maps have them, and in the size of the image where its
 * processor cuts nothing off.  The file must not be there yet. */
CB_API bool cb_dataset_write_map(const cb_dataset *data, int64_t row, const cb_image *map, const char *directory);

/* ---- series of numbers in time ---- */

/* How a series is made ready for a forecaster, stored beside its weights as preprocessor_config.json: (v - mean) / std of each channel, or
 * (nodes not 0) of each channel of each node, over the training part. */
typedef struct cb_series_processor {
    int64_t channels; /* of the input, with the time of day behind the file's own where steps_per_day is not 0 */
    int64_t nodes;    /* 0: a mean and a std for each channel, else for each node and channel */
    int64_t steps_per_day;
    double train_share, validation_share; /* which part was trained on */
    double *mean, *std;                   /* (channels) or (nodes, channels) */
} cb_series_processor;
CB_API bool cb_series_processor_load(const char *path, cb_series_processor *processor); /* a directory, or the file itself */
CB_API bool cb_series_processor_parse(const char *name, const char *json, size_t length, cb_series_processor *processor);
CB_API bool cb_series_processor_save(const cb_series_processor *processor, const char *directory);
CB_API void cb_series_processor_free(cb_series_processor *processor);

typedef enum cb_series_normalize { CB_SERIES_BY_CHANNEL, CB_SERIES_BY_NODE } cb_series_normalize;
typedef struct cb_series_options {
    bool table_header;     /* the first line of a table names its columns */
    char *series_array;    /* of an .npz */
    char *null_value;      /* a number that stands for one that is not known; NULL: none does */
    int64_t steps_per_day; /* 0: no time of day is added */
    int normalize;         /* cb_series_normalize */
    double train_share, validation_share;
} cb_series_options;
extern CB_API const cb_option cb_series_option_table[];

/* Numbers (steps, nodes, channels), NaN where one is not known. */
typedef struct cb_series cb_series;
/* Reads .npy, .npz (the array of options->series_array), or a table of text, packed (archives) or not: a line a step, a column a node;
 * a column whose first entry is no number (a date) is left out.  Arrays are (steps, nodes, channels), or (steps, nodes). */
CB_API cb_series *cb_series_open(const char *path, const cb_series_options *options);
/* The same of numbers in memory, which are copied; `name` is for messages. */
CB_API cb_series *cb_series_from(const char *name, const float *values, int64_t steps, int64_t nodes, int64_t channels,
                                 const cb_series_options *options);
CB_API void cb_series_free(cb_series *series); /* datasets of it stay */
CB_API int64_t cb_series_steps(const cb_series *series);
CB_API int64_t cb_series_nodes(const cb_series *series);
CB_API int64_t cb_series_channels(const cb_series *series); /* with the time of day */
/* Mean and deviation of the training part, and what else the options say.  Free it with cb_series_processor_free(). */
CB_API bool cb_series_fit(const cb_series *series, cb_series_processor *processor);

typedef enum cb_series_part { CB_SERIES_TRAIN, CB_SERIES_VALIDATION, CB_SERIES_TEST, CB_SERIES_ALL } cb_series_part;
extern CB_API const char *const cb_series_part_names[]; /* NULL-terminated */
typedef struct cb_window_options {
    cb_series_part part;
    int64_t context, prediction; /* steps of input, and of what is to be foretold */
    int64_t targets;             /* the first so many channels are */
    bool shuffle;
    uint64_t seed;
} cb_window_options;
/* A dataset of all windows whose steps to be foretold lie in a part of the series; those before them may lie in an earlier part.  Its batches hold
 * ids (rows, context, nodes, channels) f32, normalised, 0 where a number is not known, and targets (rows, prediction, nodes, targets) f32 as they
 * are, NaN where one is not.  In their order the windows begin a step after one another.  A processor that does not fit the series:
 * CB_ERR_ARGUMENT. */
CB_API cb_dataset *cb_series_windows(cb_series *series, const cb_series_processor *processor, const cb_window_options *options);

/* A matrix (nodes, nodes) f32 of a graph from .npy, .npz (the array `array`) or a table without a header, packed or not; NULL with an error,
 * which other sizes, negative weights and what is not finite are.  Free with cb_free(). */
CB_API float *cb_adjacency_read(const char *path, const char *array, int64_t nodes);

/* ---- compressed files ---- */

/* What a file holds when it is unpacked (gzip, xz, bzip2, zstd, or as it stands), or, where `member` is not NULL, that file of a zip or tar
 * archive.  At most `limit` bytes (0: 1 GiB); a NUL follows the text, *length does not count it.  NULL with CB_ERR_FORMAT: path,
 * member and what is wrong.  Free with cb_free(). */
CB_API char *cb_archive_read(const char *path, const char *member, size_t limit, size_t *length);

#ifdef __cplusplus
}
#endif
#endif
