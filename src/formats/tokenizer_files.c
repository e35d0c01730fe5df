/* tokenizer_files.c: vocab.txt of BERT, vocab.json with merges.txt of GPT-2 and its kin, and which file a directory has.
 * What goes around the vocabulary follows from tokenizer_class in tokenizer_config.json, as in transformers 5. */
#include <string.h>

#include "core/json.h"
#include "formats/tokenizer_blueprint.h"
#include "formats/tokenizer_readers.h"

static const size_t file_limit = (size_t)1 << 30;

static int config_flag(const cb_blueprint *b, const char *key, int fallback)
{
    const json_t *value = json_object_get(b->config, key);
    return json_is_boolean(value) ? json_is_true(value) : fallback;
}

/* The next line of a text without its end; false: there is none. */
static bool next_line(const char **at, const char *end, const char **line, size_t *length)
{
    if (*at == end)
        return false;
    const char *stop = memchr(*at, '\n', (size_t)(end - *at));
    *line = *at;
    *length = (size_t)((stop ? stop : end) - *at);
    *at = stop ? stop + 1 : end;
    while (*length && (*line)[*length - 1] == '\r')
        --*length;
    return true;
}

static bool check_line(const char *what, const char *line, size_t length, size_t number)
{
    if (memchr(line, 0, length) || !cb_utf8_valid(line, length, NULL))
        return cb_fail(CB_ERR_FORMAT, "%s: line %zu: found bytes that are no text in UTF-8", what, number), false;
    return true;
}

/* RoBERTa's post-processor. */
static bool roberta_ends(cb_blueprint *b, const char *sep, const char *cls, bool trim, bool prefix)
{
    int32_t sep_id = sep ? cb_blueprint_id(b, sep) : -1, cls_id = cls ? cb_blueprint_id(b, cls) : -1;
    if (sep_id < 0 || cls_id < 0)
        return cb_fail(CB_ERR_FORMAT, "%s: found no tokens to stand before and behind a text", b->what), false;
    b->post_processor = json_pack("{s:s, s:[s, i], s:[s, i], s:b, s:b}", "type", "RobertaProcessing", "sep", sep, (int)sep_id, "cls", cls,
                                  (int)cls_id, "trim_offsets", (int)trim, "add_prefix_space", (int)prefix);
    return b->post_processor != NULL;
}

/* ---- vocab.txt ---- */

static bool read_vocab_txt(cb_blueprint *b, const char *text, size_t length)
{
    const char *at = text, *end = text + length, *line;
    size_t size;
    for (int32_t id = 0; next_line(&at, end, &line, &size); id++) {
        if (!check_line(b->what, line, size, (size_t)id + 1))
            return false;
        while (size && strchr(" \t\v\f", line[size - 1]))
            size--;
        if (!cb_vocab_add(&b->vocab, line, size, id))
            return false;
        b->next_id = id + 1;
    }
    return b->vocab.count || (cb_fail(CB_ERR_FORMAT, "%s: found no lines, expected a token on each", b->what), false);
}

static bool bert_model(cb_blueprint *b, const char *unk)
{
    const json_t *accents = json_object_get(b->config, "strip_accents");
    b->normalizer = json_pack("{s:s, s:b, s:b, s:o, s:b}", "type", "BertNormalizer", "clean_text", 1, "handle_chinese_chars",
                              config_flag(b, "tokenize_chinese_chars", 1), "strip_accents",
                              json_is_boolean(accents) ? json_boolean(json_is_true(accents)) : json_null(), "lowercase",
                              config_flag(b, "do_lower_case", 1));
    b->pre_tokenizer = cb_blueprint_part("{\"type\": \"BertPreTokenizer\"}");
    b->decoder = cb_blueprint_part("{\"type\": \"WordPiece\", \"prefix\": \"##\", \"cleanup\": true}");
    b->model = json_pack("{s:s, s:s, s:s, s:i, s:o}", "type", "WordPiece", "unk_token", unk ? unk : "[UNK]", "continuing_subword_prefix",
                         "##", "max_input_chars_per_word", 100, "vocab", cb_blueprint_vocab(b));
    return b->normalizer && b->pre_tokenizer && b->decoder && b->model;
}

static bool build_bert(cb_blueprint *b)
{
    static const cb_special_default defaults[] = {{"unk_token", "[UNK]"}, {"sep_token", "[SEP]"},   {"pad_token", "[PAD]"},
                                                  {"cls_token", "[CLS]"}, {"mask_token", "[MASK]"}, {NULL, NULL}};
    const char *cls = cb_blueprint_special(b, defaults, "cls_token"), *sep = cb_blueprint_special(b, defaults, "sep_token");
    const cb_template_part single[CB_TEMPLATE_PARTS] = {{cls, 0}, {"$A", 0}, {sep, 0}};
    const cb_template_part pair[CB_TEMPLATE_PARTS] = {{cls, 0}, {"$A", 0}, {sep, 0}, {"$B", 1}, {sep, 1}};
    return cb_blueprint_add_tokens(b, defaults) && cb_blueprint_template(b, single, pair) &&
           bert_model(b, cb_blueprint_special(b, defaults, "unk_token"));
}

static bool build_mpnet(cb_blueprint *b)
{
    static const cb_special_default defaults[] = {
        {"bos_token", "<s>"},   {"eos_token", "</s>"}, {"unk_token", "[UNK]"},   {"sep_token", "</s>"},
        {"pad_token", "<pad>"}, {"cls_token", "<s>"},  {"mask_token", "<mask>"}, {NULL, NULL}};
    b->mask_lstrip = true;
    return cb_blueprint_add_tokens(b, defaults) &&
           roberta_ends(b, cb_blueprint_special(b, defaults, "sep_token"), cb_blueprint_special(b, defaults, "cls_token"), true, false) &&
           bert_model(b, cb_blueprint_special(b, defaults, "unk_token"));
}

json_t *cb_tokenizer_json_of_wordpiece(const char *what, const char *vocab_txt, size_t length, const json_t *config, const json_t *specials)
{
    cb_blueprint b = {.what = what, .config = config, .specials = specials};
    const char *class = cb_blueprint_class(&b);
    bool ok = cb_blueprint_check_class(&b, class) && read_vocab_txt(&b, vocab_txt, length);
    return cb_blueprint_finish(&b, ok && (class && cb_blueprint_is(class, "MPNetTokenizer") ? build_mpnet : build_bert)(&b));
}

/* ---- vocab.json and merges.txt ---- */

#define BYTE_LEVEL "{\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, \"use_regex\": true}"

static json_t *read_merges_txt(const char *what, const char *text, size_t length)
{
    const char *at = text, *end = text + length, *line;
    size_t size;
    json_t *list = json_array();
    for (size_t number = 1; list && next_line(&at, end, &line, &size); number++) {
        if (!size || (size >= 8 && memcmp(line, "#version", 8) == 0))
            continue;
        const char *space = memchr(line, ' ', size);
        size_t left = space ? (size_t)(space - line) : 0;
        bool ok = check_line(what, line, size, number);
        if (ok && (!left || left + 1 == size || memchr(space + 1, ' ', size - left - 1)))
            ok = (cb_fail(CB_ERR_FORMAT, "%s: line %zu: found \"%.*s\", expected two tokens and a space between", what, number,
                          (int)(size < 60 ? size : 60), line),
                  false);
        if (!ok || !cb_json_add(list, json_pack("[s%, s%]", line, left, space + 1, size - left - 1))) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static bool read_vocab_json(cb_blueprint *b, const json_t *vocab)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)vocab, key, value)
    {
        json_int_t id = json_integer_value(value);
        if (!json_is_integer(value) || id < 0 || id > INT32_MAX - 1)
            return cb_fail(CB_ERR_FORMAT, "%s: the id of \"%.60s\" must be a whole number over 0", b->what, key), false;
        if (!cb_vocab_add(&b->vocab, key, strlen(key), (int32_t)id))
            return false;
    }
    return true;
}

static bool add_bpe(cb_blueprint *b, const json_t *vocab, json_t *merges, const char *unk, const char *suffix)
{
    b->model = json_pack("{s:s, s:n, s:s?, s:s, s:s, s:b, s:b, s:b, s:O, s:o}", "type", "BPE", "dropout", "unk_token", unk,
                         "continuing_subword_prefix", "", "end_of_word_suffix", suffix, "fuse_unk", 0, "byte_fallback", 0, "ignore_merges",
                         0, "vocab", vocab, "merges", merges);
    return b->model != NULL;
}

static json_t *byte_level(bool prefix, bool use_regex)
{
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", (int)prefix, "trim_offsets", 1, "use_regex",
                     (int)use_regex);
}

/* add_bos_token of the config; then nothing else is added. */
static bool begin(cb_blueprint *b, const cb_special_default *defaults)
{
    const char *bos = config_flag(b, "add_bos_token", 0) ? cb_blueprint_special(b, defaults, "bos_token") : NULL;
    const char *eos = config_flag(b, "add_eos_token", 0) ? cb_blueprint_special(b, defaults, "eos_token") : NULL;
    const cb_template_part single[CB_TEMPLATE_PARTS] = {{bos, 0}, {"$A", 0}, {eos, 0}};
    const cb_template_part pair[CB_TEMPLATE_PARTS] = {{bos, 0}, {"$A", 0}, {eos, 0}, {bos, 1}, {"$B", 1}, {eos, 1}};
    return (!bos && !eos) || cb_blueprint_template(b, single, pair);
}

static bool build_gpt2(cb_blueprint *b, const json_t *vocab, json_t *merges)
{
    static const cb_special_default defaults[] = {
        {"bos_token", "<|endoftext|>"}, {"eos_token", "<|endoftext|>"}, {"unk_token", "<|endoftext|>"}, {NULL, NULL}};
    b->pre_tokenizer = byte_level(config_flag(b, "add_prefix_space", 0), true);
    b->decoder = cb_blueprint_part(BYTE_LEVEL);
    return add_bpe(b, vocab, merges, NULL, "") && b->pre_tokenizer && b->decoder && cb_blueprint_add_tokens(b, defaults) &&
           begin(b, defaults);
}

static bool build_roberta(cb_blueprint *b, const json_t *vocab, json_t *merges)
{
    static const cb_special_default defaults[] = {
        {"bos_token", "<s>"},   {"eos_token", "</s>"}, {"unk_token", "<unk>"},   {"sep_token", "</s>"},
        {"pad_token", "<pad>"}, {"cls_token", "<s>"},  {"mask_token", "<mask>"}, {NULL, NULL}};
    bool prefix = config_flag(b, "add_prefix_space", 0), trim = config_flag(b, "trim_offsets", 1);
    b->pre_tokenizer = byte_level(prefix, true);
    b->decoder = cb_blueprint_part(BYTE_LEVEL);
    return add_bpe(b, vocab, merges, NULL, "") && b->pre_tokenizer && b->decoder && cb_blueprint_add_tokens(b, defaults) &&
           roberta_ends(b, cb_blueprint_special(b, defaults, "sep_token"), cb_blueprint_special(b, defaults, "cls_token"), trim, prefix);
}

static bool build_clip(cb_blueprint *b, const json_t *vocab, json_t *merges)
{
    static const cb_special_default defaults[] = {{"bos_token", "<|startoftext|>"},
                                                  {"eos_token", "<|endoftext|>"},
                                                  {"unk_token", "<|endoftext|>"},
                                                  {"pad_token", "<|endoftext|>"},
                                                  {NULL, NULL}};
    b->normalizer =
        cb_blueprint_part("{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFC\"}, {\"type\": \"Replace\", \"pattern\": "
                          "{\"Regex\": \"\\\\s+\"}, \"content\": \" \"}, {\"type\": \"Lowercase\"}]}");
    b->pre_tokenizer = cb_blueprint_part(
        "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", \"pattern\": {\"Regex\": "
        "\"<\\\\|startoftext\\\\|>|<\\\\|endoftext\\\\|>|'s|'t|'re|'ve|'m|'ll|'d|[\\\\p{L}]+|[\\\\p{N}]|[^\\\\s\\\\p{L}\\\\p{N}]+\"}, "
        "\"behavior\": \"Removed\", \"invert\": true}, {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, "
        "\"use_regex\": true}]}");
    /* as transformers decodes: the ends of words are spaces, and none is left at either end */
    b->decoder = cb_blueprint_part("{\"type\": \"Sequence\", \"decoders\": [" BYTE_LEVEL
                                   ", {\"type\": \"Replace\", \"pattern\": {\"String\": \"</w>\"}, \"content\": \" \"}, "
                                   "{\"type\": \"Replace\", \"pattern\": {\"Regex\": "
                                   "\"\\\\A[\\\\s\\\\x1c-\\\\x1f]+|[\\\\s\\\\x1c-\\\\x1f]+\\\\z\"}, \"content\": \"\"}]}");
    return add_bpe(b, vocab, merges, cb_blueprint_special(b, defaults, "unk_token"), "</w>") && b->normalizer && b->pre_tokenizer &&
           b->decoder && cb_blueprint_add_tokens(b, defaults) &&
           roberta_ends(b, cb_blueprint_special(b, defaults, "eos_token"), cb_blueprint_special(b, defaults, "bos_token"), false, false);
}

static bool build_qwen2(cb_blueprint *b, const json_t *vocab, json_t *merges)
{
    static const cb_special_default defaults[] = {
        {"eos_token", "<|endoftext|>"}, {"unk_token", "<|endoftext|>"}, {"pad_token", "<|endoftext|>"}, {NULL, NULL}};
    b->normalizer = cb_blueprint_part("{\"type\": \"NFC\"}");
    b->pre_tokenizer =
        json_pack("{s:s, s:[{s:s, s:{s:s}, s:s, s:b}, o]}", "type", "Sequence", "pretokenizers", "type", "Split", "pattern", "Regex",
                  cb_pattern_qwen2, "behavior", "Isolated", "invert", 0, byte_level(config_flag(b, "add_prefix_space", 0), false));
    b->decoder = cb_blueprint_part(BYTE_LEVEL);
    return add_bpe(b, vocab, merges, NULL, "") && b->normalizer && b->pre_tokenizer && b->decoder && cb_blueprint_add_tokens(b, defaults) &&
           begin(b, defaults);
}

/* [CLS] $A [SEP], and of a pair [CLS] $A [SEP] [SEP] $B [SEP]. */
static bool build_deberta(cb_blueprint *b, const json_t *vocab, json_t *merges)
{
    static const cb_special_default defaults[] = {
        {"bos_token", "[CLS]"}, {"eos_token", "[SEP]"}, {"unk_token", "[UNK]"},   {"sep_token", "[SEP]"},
        {"pad_token", "[PAD]"}, {"cls_token", "[CLS]"}, {"mask_token", "[MASK]"}, {NULL, NULL}};
    const char *cls = cb_blueprint_special(b, defaults, "cls_token"), *sep = cb_blueprint_special(b, defaults, "sep_token");
    const cb_template_part single[CB_TEMPLATE_PARTS] = {{cls, 0}, {"$A", 0}, {sep, 0}};
    const cb_template_part pair[CB_TEMPLATE_PARTS] = {{cls, 0}, {"$A", 0}, {sep, 0}, {sep, 0}, {"$B", 0}, {sep, 0}};
    b->pre_tokenizer = byte_level(config_flag(b, "add_prefix_space", 0), true);
    b->decoder = cb_blueprint_part(BYTE_LEVEL);
    return add_bpe(b, vocab, merges, NULL, "") && b->pre_tokenizer && b->decoder && cb_blueprint_add_tokens(b, defaults) &&
           cb_blueprint_template(b, single, pair);
}

static bool build_gpt_neox(cb_blueprint *b, const json_t *vocab, json_t *merges)
{
    static const cb_special_default defaults[] = {{"bos_token", "<|endoftext|>"},
                                                  {"eos_token", "<|endoftext|>"},
                                                  {"unk_token", "<|endoftext|>"},
                                                  {"pad_token", "<|padding|>"},
                                                  {NULL, NULL}};
    b->normalizer = cb_blueprint_part("{\"type\": \"NFC\"}");
    b->pre_tokenizer = byte_level(config_flag(b, "add_prefix_space", 0), true);
    b->decoder = cb_blueprint_part(BYTE_LEVEL);
    return add_bpe(b, vocab, merges, NULL, "") && b->normalizer && b->pre_tokenizer && b->decoder && cb_blueprint_add_tokens(b, defaults) &&
           begin(b, defaults);
}

json_t *cb_tokenizer_json_of_bpe(const char *what, const json_t *vocab, const char *merges_txt, size_t length, const json_t *config,
                                 const json_t *specials)
{
    static const struct {
        const char *class;
        bool (*build)(cb_blueprint *b, const json_t *vocab, json_t *merges);
    } styles[] = {{"GPT2Tokenizer", build_gpt2},    {"RobertaTokenizer", build_roberta},    {"CLIPTokenizer", build_clip},
                  {"Qwen2Tokenizer", build_qwen2},  {"DebertaTokenizer", build_deberta},    {"GPTNeoXTokenizer", build_gpt_neox},
                  {"BartTokenizer", build_roberta}, {"LongformerTokenizer", build_roberta}, {"LEDTokenizer", build_roberta},
                  {"MvpTokenizer", build_roberta}};
    bool (*build)(cb_blueprint *, const json_t *, json_t *) = build_gpt2;
    cb_blueprint b = {.what = what, .config = config, .specials = specials};
    const char *class = cb_blueprint_class(&b);
    for (size_t i = 0; class && i < sizeof styles / sizeof *styles; i++)
        if (cb_blueprint_is(class, styles[i].class))
            build = styles[i].build;
    json_t *merges = NULL;
    bool ok = cb_blueprint_check_class(&b, class);
    ok = ok && (json_is_object(vocab) || (cb_fail(CB_ERR_FORMAT, "%s: must be an object of tokens and ids", what), false));
    ok = ok && read_vocab_json(&b, vocab) && (merges = read_merges_txt(what, merges_txt, length));
    return cb_blueprint_finish(&b, ok && build(&b, vocab, merges));
}

/* ---- Finding the file ---- */

typedef json_t *reader(const char *path, const json_t *config, const json_t *specials);

static json_t *read_sentencepiece(const char *path, const json_t *config, const json_t *specials)
{
    size_t length;
    char *bytes = cb_file_read(path, file_limit, &length);
    json_t *json = bytes ? cb_tokenizer_json_of_sentencepiece(path, bytes, length, config, specials) : NULL;
    cb_free(bytes);
    return json;
}

static json_t *read_wordpiece(const char *path, const json_t *config, const json_t *specials)
{
    size_t length;
    char *text = cb_file_read(path, file_limit, &length);
    json_t *json = text ? cb_tokenizer_json_of_wordpiece(path, text, length, config, specials) : NULL;
    cb_free(text);
    return json;
}

/* merges.txt stands beside vocab.json. */
static json_t *read_bpe(const char *path, const json_t *config, const json_t *specials)
{
    const char *slash = strrchr(path, '/');
    char *directory = slash ? cb_strndup(path, (size_t)(slash - path)) : cb_strdup(".");
    char *merges = directory ? cb_path_join(directory, "merges.txt") : NULL;
    size_t length;
    char *text = merges ? cb_file_read(merges, file_limit, &length) : NULL;
    json_t *vocab = text ? cb_json_load(path, file_limit) : NULL;
    json_t *json = vocab ? cb_tokenizer_json_of_bpe(path, vocab, text, length, config, specials) : NULL;
    json_decref(vocab);
    cb_free(text);
    cb_free(merges);
    cb_free(directory);
    return json;
}

static const struct {
    const char *name;
    reader *read;
} files[] = {{"tokenizer.model", read_sentencepiece},
             {"spiece.model", read_sentencepiece},
             {"sentencepiece.bpe.model", read_sentencepiece},
             {"sentencepiece.model", read_sentencepiece},
             {"spm.model", read_sentencepiece},
             {"vocab.json", read_bpe},
             {"vocab.txt", read_wordpiece}};
enum { FILES = sizeof files / sizeof *files };

/* vocab.json alone is one of characters (Wav2Vec2CTCTokenizer). */
static bool is_whole(const char *directory, size_t i, const char *path)
{
    if (!cb_is_file(path) || files[i].read != read_bpe)
        return cb_is_file(path);
    char *merges = cb_path_join(directory, "merges.txt");
    bool whole = merges && cb_is_file(merges);
    cb_free(merges);
    return whole;
}

/* The number of the file that the directory has; FILES: none. */
static size_t find_file(const char *directory, char **path)
{
    size_t i = 0;
    for (*path = NULL; i < FILES; i++) {
        *path = cb_path_join(directory, files[i].name);
        if (!*path || is_whole(directory, i, *path))
            break;
        cb_free(*path);
        *path = NULL;
    }
    return i;
}

bool cb_tokenizer_json_finds(const char *directory)
{
    char *path;
    find_file(directory, &path);
    bool found = path != NULL;
    cb_free(path);
    return found;
}

json_t *cb_tokenizer_json_of_path(const char *path, const json_t *config, const json_t *specials)
{
    if (!cb_is_directory(path))
        return (cb_ends_with(path, ".model") ? read_sentencepiece
                : cb_ends_with(path, ".txt") ? read_wordpiece
                                             : read_bpe)(path, config, specials);
    char *file;
    size_t i = find_file(path, &file);
    json_t *json = file ? files[i].read(file, config, specials) : NULL;
    if (!file && i == FILES)
        cb_fail(CB_ERR_IO,
                "%s: found no tokenizer, expected tokenizer.json, tokenizer.model, spiece.model, spm.model, vocab.json with merges.txt, or "
                "vocab.txt",
                path);
    cb_free(file);
    return json;
}
