/* tokenizer_train.c: training of byte-level BPE (Sennrich et al. 2016).  Texts are cut into words and only distinct words are
 * kept, with their counts.  The most frequent pair of neighbours becomes a token again and again; a heap holds the pairs with
 * the words that have them, so that a merge touches only those words and the counts of the pairs around it.
 *
 * The order of merges is that of the `tokenizers` package's BpeTrainer, with two consequences of how it keeps count: an entry
 * of the heap knows the words in which its pair arose at one time, so a pair that arises again later is merged again, and its
 * rank is that of the last time. */
#include <string.h>

#include "cambium/tokenizer.h"
#include "formats/tokenizer_parts.h"
#include "formats/tokenizer_unicode.h"

static const char *const pattern_names[] = {"gpt2", "llama3", NULL};
static const char *const around_names[] = {"none", "roberta", "bert", NULL};
/* The tokens before and behind a text, by post_processor. */
static const char *const around_tokens[][2] = {{NULL, NULL}, {"<s>", "</s>"}, {"[CLS]", "[SEP]"}};
const cb_option cb_tokenizer_train_options[] = {
    CB_OPT_INT(cb_tokenizer_train_config, vocab_size, 32000, 256, 4194304, "number of tokens, special ones and the 256 bytes included"),
    CB_OPT_INT(cb_tokenizer_train_config, min_frequency, 2, 0, 1e15, "a pair seen less often is not merged"),
    CB_OPT_LIST(cb_tokenizer_train_config, special_tokens, NULL, "A,B,...", "tokens that get the first ids"),
    CB_OPT_ENUM(cb_tokenizer_train_config, pattern, CB_PATTERN_GPT2, pattern_names, "how text is cut into words"),
    CB_OPT_BOOL(cb_tokenizer_train_config, add_prefix_space, false, "put a space before the first word of a text (gpt2 only)"),
    CB_OPT_ENUM(cb_tokenizer_train_config, post_processor, CB_AROUND_NOTHING, around_names,
                "what goes around texts: nothing, <s> and </s>, or [CLS] and [SEP], which must be special tokens"),
    CB_OPT_END};

typedef struct word {
    size_t start; /* of its bytes in the pool; later of its symbols */
    uint32_t length;
    int64_t count;
} word;

typedef struct pair_record {
    uint32_t left, right;
    int64_t count;
    uint32_t *fresh; /* words in which the running merge made this pair */
    size_t fresh_count, fresh_capacity;
} pair_record;

typedef struct heap_entry {
    int64_t count;
    uint32_t left, right;
    uint32_t pair; /* its record */
    uint32_t *words;
    size_t word_count;
} heap_entry;

typedef struct merge {
    uint32_t left, right;
} merge;

typedef struct trainer {
    const cb_tokenizer_train_config *config;
    cb_string pool; /* the words' bytes */
    word *words;
    size_t word_count, word_capacity;
    uint32_t *word_slots; /* word + 1, or 0 */
    size_t word_slot_count;
    uint32_t *symbols;
    pair_record *pairs;
    size_t pair_count, pair_capacity;
    uint32_t *pair_slots; /* record + 1, or 0 */
    size_t pair_slot_count;
    uint32_t *touched; /* records with fresh words */
    size_t touched_count, touched_capacity;
    heap_entry *heap;
    size_t heap_count, heap_capacity;
    cb_vocab vocab;
    merge *merges;
    size_t merge_count, merge_capacity;
} trainer;

static void free_trainer(trainer *t)
{
    for (size_t i = 0; i < t->pair_count; i++)
        cb_free(t->pairs[i].fresh);
    for (size_t i = 0; i < t->heap_count; i++)
        cb_free(t->heap[i].words);
    cb_string_free(&t->pool);
    cb_free(t->words);
    cb_free(t->word_slots);
    cb_free(t->symbols);
    cb_free(t->pairs);
    cb_free(t->pair_slots);
    cb_free(t->touched);
    cb_free(t->heap);
    cb_free(t->merges);
    cb_vocab_free(&t->vocab);
}

/* ---- Counting words ---- */

static size_t word_slot(const trainer *t, const char *bytes, size_t length)
{
    size_t mask = t->word_slot_count - 1, slot = (size_t)cb_hash_bytes(bytes, length) & mask;
    for (; t->word_slots[slot]; slot = (slot + 1) & mask) {
        const word *w = &t->words[t->word_slots[slot] - 1];
        if (w->length == length && memcmp(t->pool.data + w->start, bytes, length) == 0)
            break;
    }
    return slot;
}

static bool grow_word_slots(trainer *t)
{
    size_t count = t->word_slot_count ? t->word_slot_count * 2 : 1 << 16;
    uint32_t *slots = cb_calloc(count, sizeof *slots);
    if (!slots)
        return false;
    cb_free(t->word_slots);
    t->word_slots = slots;
    t->word_slot_count = count;
    for (size_t i = 0; i < t->word_count; i++)
        slots[word_slot(t, t->pool.data + t->words[i].start, t->words[i].length)] = (uint32_t)i + 1;
    return true;
}

static bool count_word(trainer *t, const char *bytes, size_t length)
{
    if (t->word_count * 2 >= t->word_slot_count && !grow_word_slots(t))
        return false;
    size_t slot = word_slot(t, bytes, length);
    if (t->word_slots[slot]) {
        t->words[t->word_slots[slot] - 1].count++;
        return true;
    }
    if (t->word_count >= UINT32_MAX / 2)
        return cb_fail(CB_ERR_MEMORY, "training text has over %u distinct words", UINT32_MAX / 2), false;
    if (!cb_grow(&t->words, &t->word_capacity, t->word_count + 1, sizeof *t->words))
        return false;
    t->words[t->word_count++] = (word){t->pool.length, (uint32_t)length, 1};
    t->word_slots[slot] = (uint32_t)t->word_count;
    return cb_string_append(&t->pool, bytes, length);
}

static bool count_text(trainer *t, cb_scanner *scanner, const char *text, size_t length, cb_string *prefixed)
{
    size_t bad;
    if (length >= UINT32_MAX / 2)
        return cb_fail(CB_ERR_ARGUMENT, "a training text of %zu bytes is too long; give it in parts", length), false;
    if (!cb_utf8_valid(text, length, &bad))
        return cb_fail(CB_ERR_FORMAT, "a training text is not UTF-8 at byte %zu", bad), false;
    if (t->config->add_prefix_space && length && text[0] != ' ') {
        cb_string_clear(prefixed);
        if (!cb_string_append(prefixed, " ", 1) || !cb_string_append(prefixed, text, length))
            return false;
        text = prefixed->data;
        length = prefixed->length;
    }
    for (uint32_t i = 0, end; i < length; i = end) {
        end = scanner(text, i, (uint32_t)length);
        if (!count_word(t, text + i, end - i))
            return false;
    }
    return true;
}

static bool count_words(trainer *t, cb_text_iterator *next, void *user)
{
    cb_scanner *scanner = cb_scanner_find(t->config->pattern == CB_PATTERN_LLAMA3 ? cb_pattern_llama3 : cb_pattern_gpt2);
    cb_string prefixed = {0};
    const char *text;
    size_t length;
    bool ok = true, failed_before = !cb_ok();
    while (ok && next(user, &text, &length)) {
        ok = count_text(t, scanner, text, length, &prefixed);
        if (ok && cb_interrupted())
            ok = (cb_fail(CB_ERR_INTERRUPTED, "training of the tokenizer was interrupted"), false);
    }
    cb_string_free(&prefixed);
    return ok && (failed_before || cb_ok()); /* the iterator may have failed */
}

/* ---- Vocabulary and first symbols ---- */

static bool add_vocab(trainer *t, const char *text, size_t length)
{
    return cb_vocab_find(&t->vocab, text, length) >= 0 || cb_vocab_add(&t->vocab, text, length, (int32_t)t->vocab.count);
}

static bool start_vocab(trainer *t, uint32_t byte_ids[256])
{
    char text[256][4];
    size_t lengths[256];
    const cb_string_list *specials = &t->config->special_tokens;
    for (size_t i = 0; i < specials->count; i++)
        if (!add_vocab(t, specials->items[i], strlen(specials->items[i])))
            return false;
    for (uint32_t code = 0; code < 256 + 68; code++) { /* the alphabet in the order of its characters */
        int byte = cb_code_to_byte(code);
        if (byte < 0)
            continue;
        lengths[byte] = cb_utf8_write(code, text[byte]);
        if (!add_vocab(t, text[byte], lengths[byte]))
            return false;
        byte_ids[byte] = (uint32_t)cb_vocab_find(&t->vocab, text[byte], lengths[byte]);
    }
    return true;
}

/* From here a word's start is that of its symbols: one per byte. */
static bool start_symbols(trainer *t, const uint32_t byte_ids[256])
{
    t->symbols = cb_alloc(t->pool.length * sizeof *t->symbols);
    if (!t->symbols)
        return false;
    for (size_t i = 0; i < t->pool.length; i++)
        t->symbols[i] = byte_ids[(uint8_t)t->pool.data[i]];
    cb_string_free(&t->pool);
    cb_free(t->word_slots);
    t->word_slots = NULL;
    return true;
}

/* ---- Pairs ---- */

static size_t pair_slot(const trainer *t, uint32_t left, uint32_t right)
{
    uint64_t hash = ((uint64_t)left << 32 | right) * 0x9E3779B97F4A7C15u;
    size_t mask = t->pair_slot_count - 1, slot = (size_t)(hash ^ hash >> 32) & mask;
    for (; t->pair_slots[slot]; slot = (slot + 1) & mask) {
        const pair_record *p = &t->pairs[t->pair_slots[slot] - 1];
        if (p->left == left && p->right == right)
            break;
    }
    return slot;
}

static bool grow_pair_slots(trainer *t)
{
    size_t count = t->pair_slot_count ? t->pair_slot_count * 2 : 1 << 16;
    uint32_t *slots = cb_calloc(count, sizeof *slots);
    if (!slots)
        return false;
    cb_free(t->pair_slots);
    t->pair_slots = slots;
    t->pair_slot_count = count;
    for (size_t i = 0; i < t->pair_count; i++)
        slots[pair_slot(t, t->pairs[i].left, t->pairs[i].right)] = (uint32_t)i + 1;
    return true;
}

/* Changes the count of a pair; one that arises remembers the word. */
static bool change_pair(trainer *t, uint32_t left, uint32_t right, int64_t change, uint32_t word_index)
{
    if (t->pair_count * 2 >= t->pair_slot_count && !grow_pair_slots(t))
        return false;
    size_t slot = pair_slot(t, left, right);
    if (!t->pair_slots[slot]) {
        if (!cb_grow(&t->pairs, &t->pair_capacity, t->pair_count + 1, sizeof *t->pairs))
            return false;
        t->pairs[t->pair_count++] = (pair_record){.left = left, .right = right};
        t->pair_slots[slot] = (uint32_t)t->pair_count;
    }
    uint32_t index = t->pair_slots[slot] - 1;
    pair_record *pair = &t->pairs[index];
    pair->count += change;
    if (change <= 0 || (pair->fresh_count && pair->fresh[pair->fresh_count - 1] == word_index))
        return true;
    if (pair->fresh_count == 0) {
        if (!cb_grow(&t->touched, &t->touched_capacity, t->touched_count + 1, sizeof *t->touched))
            return false;
        t->touched[t->touched_count++] = index;
    }
    if (!cb_grow(&pair->fresh, &pair->fresh_capacity, pair->fresh_count + 1, sizeof *pair->fresh))
        return false;
    pair->fresh[pair->fresh_count++] = word_index;
    return true;
}

/* ---- The heap: highest count first, of equals the smaller pair ---- */

static bool before(const heap_entry *a, const heap_entry *b)
{
    if (a->count != b->count)
        return a->count > b->count;
    return a->left != b->left ? a->left < b->left : a->right < b->right;
}

static bool heap_push(trainer *t, heap_entry entry)
{
    if (!cb_grow(&t->heap, &t->heap_capacity, t->heap_count + 1, sizeof *t->heap))
        return false;
    size_t i = t->heap_count++;
    for (; i > 0 && before(&entry, &t->heap[(i - 1) / 2]); i = (i - 1) / 2)
        t->heap[i] = t->heap[(i - 1) / 2];
    t->heap[i] = entry;
    return true;
}

static heap_entry heap_pop(trainer *t)
{
    heap_entry top = t->heap[0], last = t->heap[--t->heap_count];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= t->heap_count)
            break;
        if (child + 1 < t->heap_count && before(&t->heap[child + 1], &t->heap[child]))
            child++;
        if (!before(&t->heap[child], &last))
            break;
        t->heap[i] = t->heap[child];
        i = child;
    }
    t->heap[i] = last;
    return top;
}

/* Moves the pairs that arose into the heap. */
static bool queue_fresh(trainer *t)
{
    for (size_t i = 0; i < t->touched_count; i++) {
        pair_record *pair = &t->pairs[t->touched[i]];
        heap_entry entry = {pair->count, pair->left, pair->right, t->touched[i], pair->fresh, pair->fresh_count};
        bool wanted = pair->count > 0;
        if (wanted && !heap_push(t, entry))
            return false;
        if (!wanted)
            cb_free(pair->fresh);
        pair->fresh = NULL;
        pair->fresh_count = pair->fresh_capacity = 0;
    }
    t->touched_count = 0;
    return true;
}

/* ---- Merging ---- */

static bool count_pairs(trainer *t)
{
    for (size_t i = 0; i < t->word_count; i++) {
        const word *w = &t->words[i];
        const uint32_t *s = t->symbols + w->start;
        for (uint32_t k = 0; k + 1 < w->length; k++)
            if (!change_pair(t, s[k], s[k + 1], w->count, (uint32_t)i))
                return false;
    }
    return queue_fresh(t);
}

/* Replaces the pair in one word, from left to right, and updates the counts of its neighbours. */
static bool merge_word(trainer *t, uint32_t index, uint32_t left, uint32_t right, uint32_t id)
{
    word *w = &t->words[index];
    uint32_t *s = t->symbols + w->start;
    uint32_t out = 0;
    for (uint32_t i = 0; i < w->length; i++) {
        if (s[i] != left || i + 1 >= w->length || s[i + 1] != right) {
            s[out++] = s[i];
            continue;
        }
        if (out > 0 && (!change_pair(t, s[out - 1], left, -w->count, index) || !change_pair(t, s[out - 1], id, w->count, index)))
            return false;
        if (i + 2 < w->length && (!change_pair(t, right, s[i + 2], -w->count, index) || !change_pair(t, id, s[i + 2], w->count, index)))
            return false;
        s[out++] = id;
        i++;
    }
    w->length = out;
    return true;
}

/* Entries of this vocabulary have their ids' order, so the id is also the entry. */
static bool append_token(const trainer *t, cb_string *out, uint32_t id)
{
    return cb_string_append(out, t->vocab.pool + t->vocab.starts[id], t->vocab.lengths[id]);
}

static bool new_token(trainer *t, const heap_entry *top, uint32_t *id)
{
    cb_string joined = {0};
    bool ok = append_token(t, &joined, top->left) && append_token(t, &joined, top->right) && add_vocab(t, joined.data, joined.length);
    if (ok)
        *id = (uint32_t)cb_vocab_find(&t->vocab, joined.data, joined.length);
    cb_string_free(&joined);
    return ok;
}

static bool apply_merge(trainer *t, const heap_entry *top)
{
    uint32_t id;
    if (!new_token(t, top, &id) || !cb_grow(&t->merges, &t->merge_capacity, t->merge_count + 1, sizeof *t->merges))
        return false;
    t->merges[t->merge_count++] = (merge){top->left, top->right};
    for (size_t i = 0; i < top->word_count; i++)
        if (!merge_word(t, top->words[i], top->left, top->right, id))
            return false;
    return queue_fresh(t);
}

static bool merge_all(trainer *t)
{
    if ((int64_t)t->vocab.count > t->config->vocab_size)
        return cb_fail(CB_ERR_ARGUMENT, "vocab_size: found %lld, expected %zu at least, for the bytes and the special tokens",
                       (long long)t->config->vocab_size, t->vocab.count),
               false;
    while ((int64_t)t->vocab.count < t->config->vocab_size && t->heap_count) {
        heap_entry top = heap_pop(t);
        if (top.count != t->pairs[top.pair].count) { /* outdated: back with today's count */
            top.count = t->pairs[top.pair].count;
            if (!heap_push(t, top)) {
                cb_free(top.words);
                return false;
            }
            continue;
        }
        bool enough = top.count >= 1 && top.count >= t->config->min_frequency;
        bool ok = !enough || apply_merge(t, &top);
        cb_free(top.words);
        if (!ok || !enough)
            return ok;
        if (cb_interrupted())
            return cb_fail(CB_ERR_INTERRUPTED, "training of the tokenizer was interrupted"), false;
    }
    return true;
}

/* ---- Writing ---- */

static bool put_text(cb_string *out, const char *text, size_t length)
{
    bool ok = cb_string_append(out, "\"", 1);
    for (size_t i = 0; ok && i < length; i++) {
        uint8_t c = (uint8_t)text[i];
        if (c == '"' || c == '\\')
            ok = cb_string_append(out, "\\", 1) && cb_string_append(out, text + i, 1);
        else if (c < 0x20)
            ok = cb_string_printf(out, "\\u%04x", c);
        else
            ok = cb_string_append(out, text + i, 1);
    }
    return ok && cb_string_append(out, "\"", 1);
}

static bool put_specials(const trainer *t, cb_string *out)
{
    const cb_string_list *specials = &t->config->special_tokens;
    const char *comma = "";
    for (size_t i = 0; i < specials->count; i++) {
        size_t length = strlen(specials->items[i]);
        bool repeated = length == 0;
        for (size_t k = 0; k < i; k++)
            repeated |= strcmp(specials->items[k], specials->items[i]) == 0;
        if (repeated)
            continue;
        if (!cb_string_printf(out, "%s\n    {\"id\": %d, \"content\": ", comma,
                              (int)cb_vocab_find(&t->vocab, specials->items[i], length)) ||
            !put_text(out, specials->items[i], length) ||
            !cb_string_puts(out, ", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, "
                                 "\"special\": true}"))
            return false;
        comma = ",";
    }
    return true;
}

static bool put_pre_tokenizer(const trainer *t, cb_string *out)
{
    bool llama3 = t->config->pattern == CB_PATTERN_LLAMA3;
    if (llama3 && (!cb_string_puts(out, "{\"type\": \"Sequence\", \"pretokenizers\": [\n    {\"type\": \"Split\", "
                                        "\"pattern\": {\"Regex\": ") ||
                   !put_text(out, cb_pattern_llama3, strlen(cb_pattern_llama3)) ||
                   !cb_string_puts(out, "}, \"behavior\": \"Isolated\", \"invert\": false},\n    ")))
        return false;
    return cb_string_printf(out, "{\"type\": \"ByteLevel\", \"add_prefix_space\": %s, \"trim_offsets\": true, \"use_regex\": %s}%s",
                            t->config->add_prefix_space ? "true" : "false", llama3 ? "false" : "true", llama3 ? "]}" : "");
}

/* As the `tokenizers` package writes RobertaProcessing and BertProcessing. */
static bool put_post_processor(const trainer *t, cb_string *out)
{
    int around = t->config->post_processor;
    if (around == CB_AROUND_NOTHING)
        return cb_string_puts(out, "null");
    const char *first = around_tokens[around][0], *last = around_tokens[around][1];
    int first_id = (int)cb_vocab_find(&t->vocab, first, strlen(first)), last_id = (int)cb_vocab_find(&t->vocab, last, strlen(last));
    bool roberta = around == CB_AROUND_ROBERTA;
    return cb_string_printf(out, "{\"type\": \"%s\", \"sep\": [\"%s\", %d], \"cls\": [\"%s\", %d]",
                            roberta ? "RobertaProcessing" : "BertProcessing", last, last_id, first, first_id) &&
           (!roberta ||
            cb_string_printf(out, ", \"trim_offsets\": true, \"add_prefix_space\": %s", t->config->add_prefix_space ? "true" : "false")) &&
           cb_string_puts(out, "}");
}

static bool put_vocab(const trainer *t, cb_string *out)
{
    for (size_t id = 0; id < t->vocab.count; id++) {
        if (!cb_string_puts(out, id ? ",\n      " : "\n      ") ||
            !put_text(out, t->vocab.pool + t->vocab.starts[id], t->vocab.lengths[id]) || !cb_string_printf(out, ": %zu", id))
            return false;
    }
    return true;
}

/* A pair that was merged more than once has the rank of its last time. */
static bool put_merges(const trainer *t, cb_string *out)
{
    size_t slot_count = 16;
    while (slot_count < t->merge_count * 2)
        slot_count *= 2;
    uint32_t *slots = cb_calloc(slot_count, sizeof *slots); /* merge + 1 */
    bool ok = slots != NULL;
    bool first = true;
    uint8_t *again = ok ? cb_calloc(t->merge_count + 1, 1) : NULL;
    ok = again != NULL;
    for (size_t i = t->merge_count; ok && i-- > 0;) {
        merge m = t->merges[i];
        uint64_t hash = ((uint64_t)m.left << 32 | m.right) * 0x9E3779B97F4A7C15u;
        size_t slot = (size_t)(hash ^ hash >> 32) & (slot_count - 1);
        while (slots[slot] && (t->merges[slots[slot] - 1].left != m.left || t->merges[slots[slot] - 1].right != m.right))
            slot = (slot + 1) & (slot_count - 1);
        again[i] = slots[slot] != 0;
        if (!slots[slot])
            slots[slot] = (uint32_t)i + 1;
    }
    for (size_t i = 0; ok && i < t->merge_count; i++) {
        merge m = t->merges[i];
        if (again[i])
            continue;
        ok = cb_string_puts(out, first ? "\n      [" : ",\n      [") &&
             put_text(out, t->vocab.pool + t->vocab.starts[m.left], t->vocab.lengths[m.left]) && cb_string_puts(out, ", ") &&
             put_text(out, t->vocab.pool + t->vocab.starts[m.right], t->vocab.lengths[m.right]) && cb_string_puts(out, "]");
        first = false;
    }
    cb_free(slots);
    cb_free(again);
    return ok;
}

static bool write_tokenizer(const trainer *t, const char *path)
{
    cb_string out = {0};
    bool ok = cb_string_puts(&out, "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n"
                                   "  \"added_tokens\": [") &&
              put_specials(t, &out) && cb_string_puts(&out, "],\n  \"normalizer\": null,\n  \"pre_tokenizer\": ") &&
              put_pre_tokenizer(t, &out) && cb_string_puts(&out, ",\n  \"post_processor\": ") && put_post_processor(t, &out) &&
              cb_string_puts(&out, ",\n  \"decoder\": {\"type\": \"ByteLevel\", "
                                   "\"add_prefix_space\": true, \"trim_offsets\": true, \"use_regex\": true},\n"
                                   "  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": null,\n"
                                   "    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n"
                                   "    \"fuse_unk\": false,\n    \"byte_fallback\": false,\n    \"ignore_merges\": false,\n"
                                   "    \"vocab\": {") &&
              put_vocab(t, &out) && cb_string_puts(&out, "\n    },\n    \"merges\": [") && put_merges(t, &out) &&
              cb_string_puts(&out, "\n    ]\n  }\n}\n") && cb_file_write(path, out.data, out.length);
    cb_string_free(&out);
    return ok;
}

static bool is_special(const cb_tokenizer_train_config *config, const char *token)
{
    for (size_t i = 0; i < config->special_tokens.count; i++)
        if (strcmp(config->special_tokens.items[i], token) == 0)
            return true;
    return cb_fail(CB_ERR_ARGUMENT, "special_tokens: found no %s, which post_processor %s puts around texts", token,
                   around_names[config->post_processor]) == CB_OK;
}

static bool check_config(const cb_tokenizer_train_config *config)
{
    if (config->post_processor < CB_AROUND_NOTHING || config->post_processor > CB_AROUND_BERT)
        return cb_fail(CB_ERR_ARGUMENT, "post_processor: found %d, expected 0 to %d", config->post_processor, CB_AROUND_BERT) == CB_OK;
    for (int i = 0; i < 2; i++)
        if (config->post_processor && !is_special(config, around_tokens[config->post_processor][i]))
            return false;
    if (config->add_prefix_space && config->pattern == CB_PATTERN_LLAMA3)
        return cb_fail(CB_ERR_ARGUMENT, "add_prefix_space goes with pattern gpt2 only"), false;
    if (config->vocab_size < 256 || config->vocab_size > 4194304)
        return cb_fail(CB_ERR_ARGUMENT, "vocab_size %lld; it must be from 256 to 4194304", (long long)config->vocab_size), false;
    for (size_t i = 0; i < config->special_tokens.count; i++)
        if (!cb_utf8_valid(config->special_tokens.items[i], strlen(config->special_tokens.items[i]), NULL))
            return cb_fail(CB_ERR_ARGUMENT, "special token %zu is not UTF-8", i), false;
    return true;
}

bool cb_tokenizer_train(const cb_tokenizer_train_config *config, cb_text_iterator *next, void *user, const char *path)
{
    cb_unicode_prepare();
    if (!check_config(config))
        return false;
    trainer t = {.config = config};
    uint32_t byte_ids[256];
    bool ok = count_words(&t, next, user) && start_vocab(&t, byte_ids) && start_symbols(&t, byte_ids) && count_pairs(&t) && merge_all(&t) &&
              write_tokenizer(&t, path);
    free_trainer(&t);
    return ok;
}
