/* tokenizer_parts.h: how the parts of a tokenizer fit together.
 *
 * A text starts as one piece.  Added tokens are cut out of it, a normaliser rewrites what is left, pre-tokenisers cut it into
 * words, the model turns each word into tokens, a post-processor adds special tokens.  A decoder turns the tokens' texts back.
 * Each part is a component: a kind (a constant struct of functions, found by its name in its role's table) and its parsed
 * state.  A new normaliser is one function pair and one line in cb_normalizer_kinds; the same holds for the other roles.
 *
 * A piece knows where each of its bytes came from.  As long as nothing rewrote it, that is just a shift, and cutting it copies
 * nothing.  Byte-level pre-tokenising is lazy too: the piece keeps its raw bytes and is only marked. */
#ifndef CB_FORMATS_TOKENIZER_PARTS_H
#define CB_FORMATS_TOKENIZER_PARTS_H

#include <jansson.h>

#include "cambium/tokenizer.h"

typedef cb_token_span cb_span;

/* ---- Pieces of text ---- */

typedef struct cb_piece {
    const char *text;         /* well-formed UTF-8 */
    const cb_span *alignment; /* per byte of text, bytes of the original; NULL: byte i is byte shift + i of it */
    uint32_t length;
    uint32_t shift, original_length; /* what part of the original it stands for */
    int32_t token;                   /* an added token's id; -1: text still to be tokenised */
    bool byte_level;                 /* its bytes stand for characters of the byte-level alphabet */
} cb_piece;

typedef struct cb_pieces {
    cb_piece *items;
    size_t count, capacity;
} cb_pieces;

/* One character of a rewritten text: change 0 replaces the next character, 1 is new, -n replaces one and drops n after it. */
typedef struct cb_change {
    uint32_t code;
    int32_t change;
} cb_change;

typedef struct cb_match {
    uint32_t begin, end;
    bool is_match;
} cb_match;

typedef enum cb_split_behavior {
    CB_SPLIT_REMOVED,
    CB_SPLIT_ISOLATED,
    CB_SPLIT_MERGED_WITH_PREVIOUS,
    CB_SPLIT_MERGED_WITH_NEXT,
    CB_SPLIT_CONTIGUOUS
} cb_split_behavior;

typedef struct cb_token {
    int32_t id;
    uint32_t begin, end;   /* in the original text; 0 unless spans are wanted */
    uint16_t lead, trail;  /* white space characters its text starts and ends with; 0 unless offsets are trimmed */
    uint8_t type, special; /* as in cb_encoding */
    uint8_t first;         /* the first token of an encoding (of the text, or of a template's piece) */
    uint8_t text;          /* 1: of the second text of a pair */
} cb_token;

typedef struct cb_tokens {
    cb_token *items;
    size_t count, capacity;
} cb_tokens;

/* A token of a word; begin and end are bytes of the word. */
typedef struct cb_word_token {
    int32_t id;
    uint32_t begin, end;
} cb_word_token;

typedef struct cb_word {
    cb_word_token *items;
    size_t count, capacity;
} cb_word;

/* Parts of a text's tokens. */
typedef struct cb_windows {
    cb_span *items; /* begin and end among the tokens */
    size_t count, capacity;
} cb_windows;

/* What one encode needs; kept by the tokenizer and used by one thread at a time. */
typedef struct cb_work {
    const cb_tokenizer *tokenizer;
    struct cb_work *next_idle;
    struct cb_arena_chunk *arena;
    cb_pieces pieces, next;       /* the text's pieces now; the next ones being made */
    cb_tokens sequence[2];        /* of the first text and the second */
    cb_tokens result;             /* of the post-processor */
    cb_tokens *target;            /* where the model's tokens go */
    cb_word word;                 /* what the model made of the piece at hand */
    struct cb_cached_word *words; /* seen before; see tokenizer_words.c */
    cb_match *matches;
    size_t match_count, match_capacity;
    cb_change *changes;
    size_t change_count, change_capacity;
    struct {
        const char *bytes;
        size_t length;
    } originals[2];
    cb_tokens whole[2];    /* of texts that are cut in parts */
    cb_windows windows[2]; /* the parts */
    bool spans;            /* wanted */
    bool pair;             /* the post-processor sees two sequences */
    bool later[2];         /* a sequence is not the first part of its text */
    void *match_data, *match_context, *jit_stack;
    size_t jit_stack_bytes; /* the most it may grow to */
    void *model_state;
} cb_work;

void *cb_work_alloc(cb_work *work, size_t bytes); /* lives until the end of the encode */
void cb_work_reset(cb_work *work);
void cb_work_free_all(cb_tokenizer *tokenizer);
void cb_work_clear_matching(cb_work *work);
cb_work *cb_work_take(const cb_tokenizer *tokenizer);
void cb_work_give(cb_work *work);
bool cb_work_change(cb_work *work, uint32_t code, int32_t change);
bool cb_work_match(cb_work *work, size_t begin, size_t end, bool is_match);
bool cb_work_push(cb_work *work, const cb_piece *piece); /* onto `next`; empty pieces are dropped */
void cb_work_swap(cb_work *work);                        /* `next` becomes `pieces` */

/* Rewrites characters [begin, end) of a piece, or all of it, by work's changes; the first `removed` characters are dropped. */
bool cb_piece_transform_range(cb_work *work, cb_piece *piece, uint32_t begin, uint32_t end, size_t removed);
bool cb_piece_transform(cb_work *work, cb_piece *piece, size_t removed);
bool cb_piece_prepend(cb_work *work, cb_piece *piece, const char *text, size_t length);
/* Puts `content` in place of every match in work->matches. */
bool cb_piece_replace(cb_work *work, cb_piece *piece, const char *content, size_t length);
cb_piece cb_piece_slice(const cb_piece *piece, uint32_t begin, uint32_t end);
/* Cuts a piece at work->matches and pushes what the behaviour keeps. */
bool cb_piece_split(cb_work *work, const cb_piece *piece, cb_split_behavior behavior, bool invert);
/* Where the bytes [begin, end) of the piece's text came from. */
cb_span cb_piece_span(const cb_piece *piece, uint32_t begin, uint32_t end);
bool cb_piece_to_byte_level(cb_work *work, cb_piece *piece, bool lazy);
bool cb_piece_materialize(cb_work *work, cb_piece *piece); /* a lazily byte-level piece becomes the characters it stands for */

/* Appends a token of the piece; begin and end are bytes of the piece's text. */
bool cb_work_emit(cb_work *work, const cb_piece *piece, int32_t id, uint32_t begin, uint32_t end);
/* Appends a token to work->word. */
bool cb_word_add(cb_work *work, int32_t id, uint32_t begin, uint32_t end);
/* Appends the model's tokens of a piece: of a word seen before from memory, where the model allows it. */
bool cb_work_tokenize(cb_work *work, const cb_piece *piece);

/* ---- Patterns ---- */

/* A word scanner does what a well-known regular expression does: the end of the match that begins at `position`. */
typedef uint32_t cb_scanner(const char *text, uint32_t position, uint32_t length);
cb_scanner *cb_scanner_find(const char *regex); /* NULL: no scanner for it */
extern const char cb_pattern_gpt2[], cb_pattern_llama3[], cb_pattern_qwen2[];

typedef struct cb_pattern {
    unsigned flags; /* characters of any of these classes match one by one */
    uint32_t code;  /* over 0: this character matches */
    char *literal;  /* this string matches */
    size_t literal_length;
    void *regex;         /* a compiled pcre2_code */
    cb_scanner *scanner; /* matches without gaps; regex is NULL then */
} cb_pattern;
bool cb_pattern_literal(cb_pattern *pattern, const char *text, size_t length);
/* Compiles an Oniguruma regular expression; scanners are taken where there is one and `scan` allows it. */
bool cb_pattern_regex(cb_pattern *pattern, const char *what, const char *regex, bool scan);
void cb_pattern_free(cb_pattern *pattern);
/* Fills work->matches with consecutive ranges that cover the text. */
bool cb_pattern_find(const cb_pattern *pattern, cb_work *work, const char *text, uint32_t length);
/* Rewrites an Oniguruma (Ruby syntax) expression for PCRE2 with UTF, UCP and MULTILINE. */
bool cb_regex_translate(const char *what, const char *regex, cb_string *out);

/* ---- Components ---- */

/* The texts a decoder works on: token i is data[ends[i-1] .. ends[i]). */
typedef struct cb_texts {
    cb_string data;
    size_t *ends;
    size_t count, capacity;
} cb_texts;
bool cb_texts_close(cb_texts *texts); /* what was appended to data since the last end is a text */
void cb_texts_free(cb_texts *texts);

typedef struct cb_source cb_source;

typedef struct cb_component_kind {
    const char *type; /* its name in JSON */
    size_t state_size;
    bool (*parse)(void *state, const cb_source *source, const json_t *object); /* NULL: nothing to read */
    void (*release)(void *state);                                              /* NULL: nothing to free */
    /* exactly one, by role */
    bool (*normalize)(const void *state, cb_work *work, cb_piece *piece);
    bool (*pre_tokenize)(const void *state, cb_work *work); /* work->pieces in, work->pieces out */
    bool (*process)(const void *state, cb_work *work, bool add_special);
    bool (*decode)(const void *state, const cb_texts *in, cb_texts *out);
    size_t (*added)(const void *state, bool pair); /* of a post-processor: how many tokens it adds */
    bool (*second_first)(const void *state);       /* of a post-processor: the second text of a pair comes first; NULL: no */
} cb_component_kind;

typedef struct cb_component {
    const cb_component_kind *kind; /* NULL: absent */
    void *state;
} cb_component;

typedef struct cb_component_list {
    cb_component *items;
    size_t count;
} cb_component_list;

typedef struct cb_role {
    const char *name;     /* "pre_tokenizer" */
    const char *children; /* the key of a Sequence's list */
    const cb_component_kind *const *kinds;
} cb_role;

struct cb_source {
    const char *what; /* the file, for messages */
    const cb_role *role;
    const char *type;
    int depth;
    const char *nul; /* what stands for a NUL character in keys; NULL: nothing */
};

extern const cb_component_kind cb_normalizer_precompiled;
extern const cb_role cb_normalizer_role, cb_pre_tokenizer_role, cb_post_processor_role, cb_decoder_role;

bool cb_component_parse(cb_component *component, const cb_source *source, const json_t *value);
void cb_component_free(cb_component *component);
bool cb_component_list_parse(void *list, const cb_source *source, const json_t *object); /* parse of every Sequence */
void cb_component_list_free(void *list);

/* Typed fields of a component; a missing or null one gives `fallback`, a wrong type fails with file, part, field and type. */
bool cb_source_bool(const cb_source *source, const json_t *object, const char *key, bool fallback, bool *out);
bool cb_source_string(const cb_source *source, const json_t *object, const char *key, const char *fallback, char **out, size_t *length);
bool cb_source_code(const cb_source *source, const json_t *object, const char *key, uint32_t *out); /* one character */
bool cb_source_count(const cb_source *source, const json_t *object, const char *key, int64_t fallback, uint32_t *out);
bool cb_source_pattern(const cb_source *source, const json_t *object, bool scan, cb_pattern *out);
/* Replace, as normaliser and decoder: what is searched for, and what comes in its place. */
typedef struct cb_replacement {
    cb_pattern pattern;
    char *content;
    size_t length;
} cb_replacement;
bool cb_replacement_parse(void *state, const cb_source *source, const json_t *object);
void cb_replacement_release(void *state);
bool cb_source_behavior(const cb_source *source, const json_t *object, cb_split_behavior *out, bool required);
bool cb_source_fail(const cb_source *source, const char *key, const char *expected);

/* ---- Vocabulary ---- */

/* Texts and their ids; a hash table over one pool of strings. */
typedef struct cb_vocab {
    char *pool;
    size_t pool_length, pool_capacity;
    uint32_t *starts, *lengths; /* per entry */
    int32_t *ids;
    size_t count, capacity;
    size_t listed;   /* entries in the file: over count where a text stands twice */
    uint32_t *slots; /* entry + 1, or 0 */
    size_t slot_count;
    uint32_t *by_id; /* id -> entry + 1; id_limit long */
    size_t id_limit;
    size_t longest;
} cb_vocab;
bool cb_vocab_add(cb_vocab *vocab, const char *text, size_t length, int32_t id); /* a second time replaces the id */
bool cb_vocab_index(cb_vocab *vocab);                                            /* after the last add: fills by_id */
int32_t cb_vocab_find(const cb_vocab *vocab, const char *text, size_t length);   /* -1: none */
uint32_t cb_vocab_entry(const cb_vocab *vocab, const char *text, size_t length); /* its number + 1; 0: none */
const char *cb_vocab_text(const cb_vocab *vocab, int32_t id, size_t *length);    /* NULL: none */
void cb_vocab_free(cb_vocab *vocab);

static inline uint64_t cb_hash_bytes(const char *bytes, size_t length)
{
    uint64_t hash = length * 0x9E3779B97F4A7C15u;
    uint64_t word = 0;
    for (; length >= 8; bytes += 8, length -= 8) {
        __builtin_memcpy(&word, bytes, 8);
        hash = (hash ^ word) * 0xD6E8FEB86659FD93u;
        hash ^= hash >> 32;
    }
    word = 0;
    for (size_t i = 0; i < length; i++)
        word |= (uint64_t)(uint8_t)bytes[i] << (8 * i);
    hash = (hash ^ word) * 0xD6E8FEB86659FD93u;
    hash ^= hash >> 29;
    hash *= 0x9E3779B97F4A7C15u;
    return hash ^ hash >> 32;
}

/* ---- Tries ---- */

/* Byte strings and their values.  The children of a node stand side by side, in the order of their bytes. */
typedef struct cb_trie_node {
    uint32_t first; /* child */
    int32_t value;  /* -1: no string ends here */
    uint16_t count; /* of children */
} cb_trie_node;

typedef struct cb_trie {
    cb_trie_node *nodes; /* the root is node 0 */
    uint8_t *labels;     /* per node: the byte that leads to it */
    size_t count;        /* of nodes; 0: no strings */
    uint32_t root[256];  /* children of the root; 0: none */
} cb_trie;

typedef struct cb_trie_key {
    const char *text;
    uint32_t length;
    int32_t value; /* of equal strings the largest counts */
} cb_trie_key;

/* Sorts the keys and builds the trie of those that are not empty. */
bool cb_trie_build(cb_trie *trie, cb_trie_key *keys, size_t count);
void cb_trie_free(cb_trie *trie);
/* The node that `byte` leads to; 0: none. */
static inline uint32_t cb_trie_child(const cb_trie *trie, uint32_t node, uint8_t byte)
{
    if (node == 0)
        return trie->root[byte];
    const cb_trie_node *from = &trie->nodes[node];
    const uint8_t *labels = trie->labels + from->first;
    if (from->count < 2)
        return from->count && *labels == byte ? from->first : 0;
    const uint8_t *found = (const uint8_t *)__builtin_memchr(labels, byte, from->count);
    return found ? from->first + (uint32_t)(found - labels) : 0;
}
/* The longest string that text[0 ..] starts with, walking from `node`; its length, or 0. */
size_t cb_trie_longest(const cb_trie *trie, uint32_t node, const char *text, size_t length, int32_t *value);

/* ---- Models ---- */

typedef struct cb_model_kind cb_model_kind;

typedef struct cb_model {
    const cb_model_kind *kind; /* NULL: none yet */
    void *state;
    int32_t unknown; /* the id of tokens whose text is what they stand for; -1: every token has its vocabulary's text */
    bool raw_bytes;  /* byte-level text may stay raw bytes */
    bool cached;     /* equal words always have equal tokens, and finding them takes time */
} cb_model;

struct cb_model_kind {
    const char *type;
    size_t state_size;
    /* Reads "model" into the zeroed model->state and fills the vocabulary. */
    bool (*parse)(cb_model *model, const cb_source *source, const json_t *object, cb_vocab *vocab);
    void (*release)(void *state);       /* what the state holds; NULL: nothing */
    bool (*fits)(const json_t *object); /* does a model without "type" look like this kind? */
    /* Adds the tokens of one piece to work->word. */
    bool (*encode)(const void *state, const cb_vocab *vocab, cb_work *work, const cb_piece *piece);
    void (*free_state)(void *work_state); /* of work->model_state; NULL: none is made */
};
extern const cb_model_kind *const cb_model_kinds[];
extern const cb_model_kind cb_model_bpe, cb_model_unigram, cb_model_wordpiece, cb_model_wordlevel;

bool cb_vocab_trie(const cb_vocab *vocab, cb_trie *trie); /* of all texts; values are ids */
/* Reads "vocab", an object of texts and ids. */
bool cb_vocab_parse(cb_vocab *vocab, const cb_source *source, const json_t *object);
/* A text that may be null or missing: *text stays NULL then. */
bool cb_source_optional(const cb_source *source, const json_t *object, const char *key, char **text, size_t *length);

/* ---- Added tokens ---- */

typedef struct cb_added_token {
    char *content;
    size_t length;
    char *normalized_content; /* NULL: as content */
    size_t normalized_length;
    int32_t id;
    bool single_word, lstrip, rstrip, normalized, special;
} cb_added_token;

typedef struct cb_added {
    cb_added_token *items; /* the last one of an id counts */
    size_t count, capacity;
    cb_vocab vocab; /* content -> id */
    int32_t *by_id; /* id -> item, or -1; id_limit long */
    size_t id_limit;
    cb_trie raw, normalized;
} cb_added;

bool cb_added_parse(cb_tokenizer *tokenizer, const char *what, const json_t *list);
void cb_added_free(cb_added *added);
const cb_added_token *cb_added_get(const cb_added *added, int32_t id); /* NULL: not an added token */
/* Cuts added tokens out of the pieces; before normalising, or normalising each piece first. */
bool cb_added_split(cb_work *work, bool normalize);

/* ---- The tokenizer ---- */

struct cb_tokenizer {
    char *what;   /* its file */
    char *source; /* the JSON text */
    size_t source_length;
    cb_component normalizer, pre_tokenizer, post_processor, decoder;
    cb_model model;
    cb_vocab vocab;
    cb_added added;
    cb_truncation truncation;
    cb_padding padding;
    bool truncates, pads;   /* the file has such a section */
    bool trims;             /* a post-processor trims offsets: tokens need lead and trail */
    uint16_t *lead, *trail; /* per id of the vocabulary, when trims */
    int32_t bos, eos, pad, unk, mask;
    int add_bos, add_eos;
    cb_string_list chat_names, chat_templates; /* pairs; "default" counts where no name is given */
    int64_t model_max_length;
    uint64_t seed;
    void *lock; /* of idle */
    struct cb_work *idle;
};

/* Cuts work->sequence into work->windows: the first part, and with `all` the others, too. */
bool cb_work_cut(cb_work *work, const cb_encode_options *options, bool all);
/* Part number `part` of both texts becomes work->sequence. */
bool cb_work_part(cb_work *work, size_t part);

void cb_count_spaces(const char *text, size_t length, uint16_t *lead, uint16_t *trail);
/* Normal form of a piece: composed (NFC, NFKC) or not, compatible (NFKC, NFKD) or not. */
bool cb_piece_normal_form(cb_work *work, cb_piece *piece, bool compose, bool compatible);
bool cb_piece_filter(cb_work *work, cb_piece *piece, unsigned flags); /* drops characters of these classes */

#endif
