/* formats.h: floor 3: the files of the ecosystem: safetensors, torch.save, sharded checkpoints, llama2.c models, records of training
 * text, TensorBoard events.  (Tokenizers have a header of their own, tokenizer.h.)
 *
 * Files come from strangers: every length, offset and type is checked before it is used, memory asked for is bounded by
 * the size of the file, and an error names file, field, found and expected. */
#ifndef CAMBIUM_FORMATS_H
#define CAMBIUM_FORMATS_H

#include "cambium/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- safetensors, read ---- */

/* One tensor of a checkpoint, where it lies in the mapped file. */
typedef struct cb_weight_entry {
    const char *name;
    cb_dtype dtype;        /* CB_DTYPE_COUNT: a type that no tensor of ours has (I8, F8_E4M3, ...); see type_name */
    const char *type_name; /* as in the file: "BF16" */
    int ndim;
    int64_t shape[CB_MAX_DIMS];
    const void *data; /* size bytes, little-endian, row-major; aligned to its element unless the header has an odd length */
    size_t size;
} cb_weight_entry;

CB_API bool cb_weight_entry_fits(const cb_weight_entry *entry, int ndim, const int64_t *shape); /* the same sizes */
/* The entry, of one of our dtypes, as a tensor: in place, or a copy where it is not aligned to its element. */
CB_API cb_tensor *cb_weight_entry_tensor(const cb_weight_entry *entry);

/* A mapped file.  Entries, names and data live until it is closed. */
typedef struct cb_safetensors cb_safetensors;
CB_API cb_safetensors *cb_safetensors_open(const char *path);
CB_API void cb_safetensors_close(cb_safetensors *file); /* NULL is allowed */
CB_API size_t cb_safetensors_count(const cb_safetensors *file);
CB_API const cb_weight_entry *cb_safetensors_at(const cb_safetensors *file, size_t index); /* in order of the data */
/* NULL, and no error, when there is none of that name. */
CB_API const cb_weight_entry *cb_safetensors_find(const cb_safetensors *file, const char *name);
/* A value of __metadata__, or NULL. */
CB_API const char *cb_safetensors_metadata(const cb_safetensors *file, const char *key);

/* How weights are quantised in safetensors: by row or by blocks to 8 bits, to 4-bit NormalFloat (quantized.c says how they lie). */
enum { CB_QUANTIZE_NONE, CB_QUANTIZE_INT8, CB_QUANTIZE_INT8_BLOCK, CB_QUANTIZE_NF4 };

/* ---- safetensors, written ---- */

/* Gives the bytes of entries[index]: entries[index].size of them, which stay valid until the next call; NULL on failure. */
typedef const void *cb_weight_provider(void *user, size_t index);

/* Writes a file atomically, tensors in the order of the reference writer (largest alignment first, then by name).  Of an
 * entry, name, dtype (or type_name when dtype is CB_DTYPE_COUNT), ndim and shape are read, and size is checked against
 * them.  The bytes come from entry->data, or from `provide` one tensor at a time when it is given, in the order of the
 * file, so that a model larger than memory can be written.  metadata: key, value, key, value, ..., NULL; a NULL array
 * stands for {"format": "pt"}, without which transformers refuses a file. */
CB_API bool cb_safetensors_write(const char *path, const cb_weight_entry *entries, size_t count, const char *const *metadata,
                                 cb_weight_provider *provide, void *user);
/* Writes the bytes of entries[index] itself, all entries[index].size of them, by cb_writer_values() in pieces of any size: they are still in the
 * processor's cache then, and no tensor is in memory whole. */
typedef bool cb_weight_emitter(void *user, size_t index, cb_writer *w);
CB_API bool cb_safetensors_stream(const char *path, const cb_weight_entry *entries, size_t count, const char *const *metadata,
                                  cb_weight_emitter *emit, void *user);

/* ---- a checkpoint: one file or shards ---- */

/* model.safetensors of a directory, or the shards of model.safetensors.index.json (its weight_map is checked against
 * the files); where there is neither, the same of pytorch_model.bin, those of diffusers (diffusion_pytorch_model), or the one .pth or .pt that is there; files of torch.save are read without running
 * anything of them: what is more than tensors and plain values is refused by name.  Such a file gives the tensors of nested
 * dicts and lists under names joined by dots ("" for a file that is one tensor). `directory` may also
 * be a GGUF file: its tensors come under Hugging Face's names and in its shapes (gguf.h). */
typedef struct cb_weights cb_weights;
CB_API cb_weights *cb_weights_open(const char *directory);
CB_API cb_weights *cb_weights_open_file(const char *path); /* one file: .bin, .pt, .pth are torch.save's, else safetensors */
CB_API void cb_weights_close(cb_weights *weights);         /* NULL is allowed */
CB_API size_t cb_weights_count(const cb_weights *weights);
CB_API const cb_weight_entry *cb_weights_at(const cb_weights *weights, size_t index);
CB_API const cb_weight_entry *cb_weights_find(const cb_weights *weights, const char *name); /* NULL: none */
/* One of `parts` equal parts of an entry's rows, as an entry that lives until the checkpoint is closed; NULL with an error, where they do not divide. */
CB_API const cb_weight_entry *cb_weights_part(cb_weights *weights, const cb_weight_entry *entry, int part, int parts);
/* The files it consists of, in order of their names: model.safetensors, or the shards; the name of one, and which of
 * cb_weights_at() are its tensors.  A GGUF file counts as a model.safetensors. */
CB_API size_t cb_weights_file_count(const cb_weights *weights);
CB_API const char *cb_weights_file(const cb_weights *weights, size_t index, size_t *first, size_t *count);

/* Writes a checkpoint into an existing directory: model.safetensors, or shards of at most `shard_bytes` (0: 5 GB) named
 * as transformers names them, with their index.  What an earlier checkpoint left there under other names is removed
 * last.  Each file is replaced atomically. */
CB_API bool cb_weights_write(const char *directory, const cb_weight_entry *entries, size_t count, uint64_t shard_bytes,
                             cb_weight_provider *provide, void *user);
/* The same with another stem: STEM.safetensors, STEM-00001-of-00002.safetensors, STEM.safetensors.index.json. */
#define CB_WEIGHTS_OF_MODEL     "model"
#define CB_WEIGHTS_OF_DIFFUSERS "diffusion_pytorch_model"
CB_API bool cb_weights_write_as(const char *directory, const char *stem, const cb_weight_entry *entries, size_t count, uint64_t shard_bytes,
                                cb_weight_provider *provide, void *user);

/* ---- llama2.c ---- */

/* Converts a llama2.c model (the version-0 "legacy" file: seven int32, then f32 weights) and its tokenizer.bin into a
 * Hugging Face directory: config.json, generation_config.json, model.safetensors (f32), tokenizer.json,
 * tokenizer_config.json.  Rows of q and k are permuted from interleaved to half-split rotary order.  `output` is made if
 * it is missing. */
CB_API bool cb_llama2c_convert(const char *model_bin, const char *tokenizer_bin, const char *output);

/* ---- records of training text ---- */

enum { CB_MOST_TASKS = 1 << 20, CB_MOST_CONDITIONS = 1 << 16 };

/* What records hold. */
typedef enum cb_record_form {
    CB_RECORDS_OF_TEXT,  /* texts, prompts with completions, conversations */
    CB_RECORDS_LABELLED, /* a text, or a pair of them, with its label or labels */
    CB_RECORDS_TAGGED,   /* words, each with a tag */
    CB_RECORDS_TRIPLES   /* edges of a knowledge graph: a subject, a relation, an object */
} cb_record_form;

/* One example: plain text, a prompt with its completion, a conversation, or what the form says.  Those that it is not are NULL and 0.  The
 * text has text_length bytes and, unless it is labelled, no NUL after them; the others end with one. */
typedef struct cb_record_text {
    const char *text;
    size_t text_length;
    const char *prompt, *completion;
    const struct json_t *conversation;       /* the whole object (jansson's): messages, and what a chat template may want beside them */
    size_t asked;                            /* of its messages the first so many are the prompt, of which nothing is learned */
    const char *pair;                        /* labelled: the second text */
    const cb_string_list *labels;            /* labelled: names or numbers, as text; tagged: one a word */
    const cb_string_list *words;             /* tagged */
    const char *subject, *relation, *object; /* triples */
    const char *language, *object_language;  /* of the subject and the object, where that is known; else NULL */
    int32_t task;                            /* which of several tasks it is of, from 0 */
    const float *conditions;                 /* what is known of it beside the text, or NULL */
    size_t condition_count;
    const char *path; /* the file and line it came from, for messages */
    int64_t line;
} cb_record_text;

typedef struct cb_records_options {
    const char *separator; /* plain text: string between documents; NULL: a file is one document */
    bool lines;            /* plain text: a line is a document (blank lines are none) */
    int64_t max_records;   /* 0: all */
    cb_record_form form;
    bool several_labels; /* labelled, in a table: commas separate them */
    bool unlabelled;     /* labelled: a text needs no label, and none is read */
    bool may_lack_label; /* labelled: a text needs no label; where there is none, the record has no labels */
    bool unquoted;       /* tables: a quote is a character like others, and a row is a line */
    /* What fields are called in these files: "prompt=question", "messages=turns"; copied.  NULL: by the names below */
    const cb_string_list *columns;
} cb_records_options;

/* Walks files, directories (sorted, recursively; hidden files left out) and "-" (standard input; there and in a pipe the
 * first byte tells JSONL from plain text).  By extension: .jsonl, .ndjson (one object a line), .json (an array of objects,
 * or objects one after another), .csv and .tsv (RFC 4180 quoting, unless they are unquoted; a header names the columns); anything else is UTF-8
 * text.  Packed files are refused by name.  A leading byte-order mark is dropped; line ends within texts stay as they are.
 *
 * Fields of an object: messages (an array of objects with a role, for a chat template), else prompt + completion (two texts, or two such
 * arrays, which become messages), else instruction +
 * output, else input + target (a prompt and its completion), else text: the first of these that is there counts, what else is there is passed over, null is nothing.  Columns
 * of a table: the same without messages.  Beside them task_ids, a whole number under CB_MOST_TASKS (PEFT's name; 0 where there is none), and conditions, a number or an array of them,
 * in a table with blanks or commas between them.  The prompt of an instruction is the instruction, a blank line and, when `input`
 * is there and not empty, the input and another blank line.  Texts that hold a NUL are refused, but for plain text.
 * Plain text of white space alone is no record.
 *
 * Labelled records: text (or sentence, sentence1), text_pair (or sentence2; may be missing) and label (or labels: text, a number, or an array
 * of them; in a table several are separated by commas).  Tagged ones: tokens (or words) and tags (or ner_tags, labels), arrays of the same length; in a table,
 * both are separated by blanks; any other file is CoNLL's: a word a line, its tag in the last column, an empty line between sentences.  A
 * text that is empty, a label that is missing and tags that are fewer or more than their words are errors.
 *
 * Triples: subject (or head, start), relation (or rel, predicate), object (or tail, end) and, where wanted, language (or lang); a file that begins
 * with /a/[ is ConceptNet's dump, whatever its name. */
typedef struct cb_records cb_records;
/* options NULL: a file is one document, all are read. */
CB_API cb_records *cb_records_open(const cb_string_list *paths, const cb_records_options *options);
/* True and a record, whose strings live until the next call or until closing (UTF-8, checked); false at the end (cb_ok())
 * or on failure (CB_ERR_FORMAT: file, line, field, found, expected). */
CB_API bool cb_records_next(cb_records *records, cb_record_text *record);
CB_API void cb_records_close(cb_records *records); /* NULL is allowed */

/* ---- NumPy arrays ---- */

enum { CB_NPY_DIMS = 4 };
/* Writes values (shape) of up to four dimensions as an .npy file, atomically. */
CB_API bool cb_npy_write(const char *path, const float *values, int ndim, const int64_t *shape);

/* ---- TensorBoard events ---- */

/* An events.out.tfevents.* file: TFRecord framing with masked CRC-32C around Event protocol buffers.  It grows by whole
 * records and is flushed after each. */
typedef struct cb_events cb_events;
/* Makes a new file in `directory`: events.out.tfevents.SECONDS.HOST.PROCESS.NUMBER and `suffix` (NULL: none),
 * SECONDS since 1970. */
CB_API cb_events *cb_events_open(const char *directory, const char *suffix);
CB_API bool cb_events_scalar(cb_events *events, int64_t step, const char *tag, double value);
CB_API void cb_events_close(cb_events *events); /* NULL is allowed */

#ifdef __cplusplus
}
#endif
#endif
