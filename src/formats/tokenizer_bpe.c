/* tokenizer_bpe.c: byte pair encoding (Sennrich et al. 2016, arXiv:1508.07909).  A word starts as its characters (or bytes);
 * the adjacent pair with the lowest rank, the leftmost of equals, is merged until no pair has a rank.  Short words are merged
 * by scanning, long ones with a heap over a linked list (n log n). */
#include <string.h>

#include "formats/tokenizer_parts.h"
#include "formats/tokenizer_unicode.h"

enum {
    short_word = 24, /* symbols up to which scanning beats the heap */
    max_merges = 16 << 20
};

typedef struct merge_entry {
    uint32_t left, right;
    uint32_t rank; /* UINT32_MAX: free */
    uint32_t id;
} merge_entry;

typedef struct bpe {
    merge_entry *merges; /* hash table by (left, right) */
    size_t merge_slots;
    int32_t byte_ids[256];     /* of the byte-level alphabet's characters; -1: none */
    int32_t ascii_ids[128];    /* of the ASCII characters in the middle of a word */
    int32_t fallback_ids[256]; /* of <0x00> to <0xFF> */
    char *prefix, *suffix, *unk_token;
    size_t prefix_length, suffix_length;
    int32_t unk; /* -1: not in the vocabulary */
    bool fuse_unk, byte_fallback, ignore_merges;
    double dropout;
} bpe;

typedef struct symbol {
    uint32_t id;
    int32_t previous, next;
    uint32_t length; /* bytes of the word it covers; 0: merged into another */
} symbol;

typedef struct candidate {
    uint32_t rank, position, id;
} candidate;

typedef struct bpe_state {
    symbol *symbols;
    size_t count, capacity;
    candidate *heap, *skipped;
    size_t heap_count, heap_capacity, skipped_count, skipped_capacity;
    cb_string text;
    cb_rng rng;
} bpe_state;

/* ---- Merges ---- */

static inline size_t pair_slot(const bpe *model, uint32_t left, uint32_t right)
{
    uint64_t hash = ((uint64_t)left << 32 | right) * 0x9E3779B97F4A7C15u;
    return (size_t)(hash ^ hash >> 32) & (model->merge_slots - 1);
}

static const merge_entry *find_merge(const bpe *model, uint32_t left, uint32_t right)
{
    for (size_t slot = pair_slot(model, left, right);; slot = (slot + 1) & (model->merge_slots - 1)) {
        const merge_entry *entry = &model->merges[slot];
        if (entry->rank == UINT32_MAX)
            return NULL;
        if (entry->left == left && entry->right == right)
            return entry;
    }
}

static void put_merge(bpe *model, merge_entry merge)
{
    size_t slot = pair_slot(model, merge.left, merge.right);
    while (model->merges[slot].rank != UINT32_MAX && (model->merges[slot].left != merge.left || model->merges[slot].right != merge.right))
        slot = (slot + 1) & (model->merge_slots - 1);
    model->merges[slot] = merge;
}

/* ---- Reading the model ---- */

typedef struct merge_texts {
    const char *left, *right;
    size_t left_length, right_length;
} merge_texts;

/* "a b" or ["a", "b"] */
static bool read_merge(const json_t *value, merge_texts *out)
{
    if (json_is_string(value)) {
        const char *text = json_string_value(value), *space = memchr(text, ' ', json_string_length(value));
        if (!space)
            return false;
        out->left = text;
        out->left_length = (size_t)(space - text);
        out->right = space + 1;
        out->right_length = json_string_length(value) - out->left_length - 1;
        return memchr(out->right, ' ', out->right_length) == NULL;
    }
    const json_t *left = json_array_get(value, 0), *right = json_array_get(value, 1);
    if (json_array_size(value) != 2 || !json_is_string(left) || !json_is_string(right))
        return false;
    *out = (merge_texts){json_string_value(left), json_string_value(right), json_string_length(left), json_string_length(right)};
    return true;
}

static bool add_merge(bpe *model, const cb_source *source, const json_t *value, const cb_vocab *vocab, size_t index, uint32_t rank,
                      cb_string *joined)
{
    merge_texts texts;
    if (!read_merge(value, &texts))
        return cb_fail(CB_ERR_FORMAT, "%s: model BPE: merge %zu must be \"a b\" or [\"a\", \"b\"]", source->what, index), false;
    int32_t left = cb_vocab_find(vocab, texts.left, texts.left_length);
    int32_t right = cb_vocab_find(vocab, texts.right, texts.right_length);
    if (left < 0 || right < 0)
        return cb_fail(CB_ERR_FORMAT, "%s: model BPE: merge %zu joins \"%.*s\", which is not in the vocabulary", source->what, index,
                       (int)(left < 0 ? texts.left_length : texts.right_length), left < 0 ? texts.left : texts.right),
               false;
    if (texts.right_length < model->prefix_length)
        return cb_fail(CB_ERR_FORMAT, "%s: model BPE: merge %zu: \"%s\" is shorter than continuing_subword_prefix", source->what, index,
                       texts.right),
               false;
    cb_string_clear(joined);
    if (!cb_string_append(joined, texts.left, texts.left_length) ||
        !cb_string_append(joined, texts.right + model->prefix_length, texts.right_length - model->prefix_length))
        return false;
    int32_t id = cb_vocab_find(vocab, joined->data, joined->length);
    if (id < 0)
        return cb_fail(CB_ERR_FORMAT, "%s: model BPE: merge %zu makes \"%s\", which is not in the vocabulary", source->what, index,
                       joined->data),
               false;
    put_merge(model, (merge_entry){(uint32_t)left, (uint32_t)right, rank, (uint32_t)id});
    return true;
}

static bool read_merges(bpe *model, const cb_source *source, const json_t *merges, const cb_vocab *vocab)
{
    size_t count = json_array_size(merges);
    if (!json_is_array(merges) || count > max_merges)
        return cb_fail(CB_ERR_FORMAT, "%s: model BPE: \"merges\" must be a list of at most %d pairs", source->what, max_merges), false;
    for (model->merge_slots = 16; model->merge_slots < count * 2;)
        model->merge_slots *= 2;
    model->merges = cb_alloc(model->merge_slots * sizeof *model->merges);
    if (!model->merges)
        return false;
    memset(model->merges, 0xFF, model->merge_slots * sizeof *model->merges);
    cb_string joined = {0};
    bool ok = true;
    uint32_t rank = 0;
    for (size_t i = 0; ok && i < count; i++) {
        const json_t *value = json_array_get(merges, i);
        if (json_is_string(value) && strncmp(json_string_value(value), "#version", 8) == 0)
            continue;
        ok = add_merge(model, source, value, vocab, i, rank++, &joined);
    }
    cb_string_free(&joined);
    return ok;
}

static bool read_dropout(bpe *model, const cb_source *source, const json_t *object)
{
    const json_t *value = json_object_get(object, "dropout");
    if (!value || json_is_null(value))
        return true;
    model->dropout = json_number_value(value);
    if (!json_is_number(value) || !(model->dropout >= 0 && model->dropout <= 1))
        return cb_source_fail(source, "dropout", "a number from 0 to 1");
    return true;
}

/* True: every byte has a character of the byte-level alphabet. */
static bool find_characters(bpe *model, const cb_vocab *vocab)
{
    bool raw_bytes = !model->prefix_length && !model->suffix_length;
    for (unsigned byte = 0; byte < 256; byte++) {
        char text[8];
        size_t length = cb_utf8_write(cb_byte_to_code((uint8_t)byte), text);
        model->byte_ids[byte] = cb_vocab_find(vocab, text, length);
        raw_bytes &= model->byte_ids[byte] >= 0;
        snprintf(text, sizeof text, "<0x%02X>", byte);
        model->fallback_ids[byte] = cb_vocab_find(vocab, text, 6);
        text[0] = (char)byte;
        if (byte < 128)
            model->ascii_ids[byte] = model->prefix_length ? -1 : cb_vocab_find(vocab, text, 1);
    }
    return raw_bytes;
}

static void bpe_release(void *state)
{
    bpe *model = state;
    cb_free(model->merges);
    cb_free(model->prefix);
    cb_free(model->suffix);
    cb_free(model->unk_token);
}

static bool bpe_parse(cb_model *out, const cb_source *source, const json_t *object, cb_vocab *vocab)
{
    bpe *model = out->state;
    size_t unk_length;
    bool ok = cb_vocab_parse(vocab, source, object) && cb_source_optional(source, object, "unk_token", &model->unk_token, &unk_length) &&
              cb_source_optional(source, object, "continuing_subword_prefix", &model->prefix, &model->prefix_length) &&
              cb_source_optional(source, object, "end_of_word_suffix", &model->suffix, &model->suffix_length) &&
              cb_source_bool(source, object, "fuse_unk", false, &model->fuse_unk) &&
              cb_source_bool(source, object, "byte_fallback", false, &model->byte_fallback) &&
              cb_source_bool(source, object, "ignore_merges", false, &model->ignore_merges) && read_dropout(model, source, object) &&
              read_merges(model, source, json_object_get(object, "merges"), vocab);
    if (!ok)
        return false;
    model->unk = model->unk_token ? cb_vocab_find(vocab, model->unk_token, unk_length) : -1;
    out->raw_bytes = find_characters(model, vocab);
    out->cached = model->dropout == 0;
    return true;
}

static bool bpe_fits(const json_t *object)
{
    return json_is_object(json_object_get(object, "vocab")) && json_is_array(json_object_get(object, "merges"));
}

/* ---- A word's first symbols ---- */

static bool add_symbol(bpe_state *state, int32_t id, uint32_t length)
{
    if (state->count == state->capacity && !cb_grow(&state->symbols, &state->capacity, state->count + 1, sizeof *state->symbols))
        return false;
    int32_t at = (int32_t)state->count;
    if (at > 0)
        state->symbols[at - 1].next = at;
    state->symbols[state->count++] = (symbol){(uint32_t)id, at - 1, -1, length};
    return true;
}

/* *id: of the character with the affixes of its place; -1: not in the vocabulary. */
static bool find_character(const bpe *model, const cb_vocab *vocab, bpe_state *state, const char *text, uint32_t size, bool first,
                           bool last, int32_t *id)
{
    if (size == 1 && !(last && model->suffix_length) && model->ascii_ids[(uint8_t)text[0]] >= 0) {
        *id = model->ascii_ids[(uint8_t)text[0]];
        return true;
    }
    bool prefixed = !first && model->prefix_length, suffixed = last && model->suffix_length;
    if (!prefixed && !suffixed) {
        *id = cb_vocab_find(vocab, text, size);
        return true;
    }
    cb_string_clear(&state->text);
    if ((prefixed && !cb_string_append(&state->text, model->prefix, model->prefix_length)) || !cb_string_append(&state->text, text, size) ||
        (suffixed && !cb_string_append(&state->text, model->suffix, model->suffix_length)))
        return false;
    *id = cb_vocab_find(vocab, state->text.data, state->text.length);
    return true;
}

/* Adds the character's bytes as <0x..> tokens; *added false: one of them is not in the vocabulary. */
static bool add_fallback(const bpe *model, bpe_state *state, const char *bytes, size_t length, bool *added)
{
    *added = false;
    for (size_t i = 0; i < length; i++)
        if (model->fallback_ids[(uint8_t)bytes[i]] < 0)
            return true;
    *added = true;
    for (size_t i = 0; i < length; i++)
        if (!add_symbol(state, model->fallback_ids[(uint8_t)bytes[i]], 1))
            return false;
    return true;
}

static bool word_symbols(const bpe *model, const cb_vocab *vocab, bpe_state *state, const cb_work *work, const cb_piece *piece)
{
    const char *text = piece->text;
    uint32_t unknown = 0; /* bytes of the unknown characters waiting for their token */
    unsigned size;
    for (uint32_t i = 0; i < piece->length; i += size) {
        cb_utf8_read(text + i, &size);
        bool first = i == 0, last = i + size == piece->length;
        int32_t id;
        if (!find_character(model, vocab, state, text + i, size, first, last, &id))
            return false;
        if (id >= 0) {
            if (unknown && !add_symbol(state, model->unk, unknown))
                return false;
            unknown = 0;
            if (!add_symbol(state, id, size))
                return false;
            continue;
        }
        if (model->byte_fallback) {
            bool affixed = (!first && model->prefix_length) || (last && model->suffix_length), added;
            const char *bytes = affixed ? state->text.data : text + i;
            if (!add_fallback(model, state, bytes, affixed ? state->text.length : size, &added))
                return false;
            if (added)
                continue;
        }
        if (!model->unk_token)
            continue; /* nothing to say it with: the character is lost */
        if (model->unk < 0)
            return cb_fail(CB_ERR_FORMAT, "%s: model BPE: unk_token \"%s\" is not in the vocabulary", work->tokenizer->what,
                           model->unk_token),
                   false;
        if (unknown && !model->fuse_unk) {
            if (!add_symbol(state, model->unk, unknown))
                return false;
            unknown = 0;
        }
        unknown += size;
    }
    return !unknown || add_symbol(state, model->unk, unknown);
}

/* ---- Merging ---- */

static void merge_short(const bpe *model, bpe_state *state)
{
    symbol *s = state->symbols;
    const merge_entry *pairs[short_word];
    size_t count = state->count;
    for (size_t i = 0; i + 1 < count; i++)
        pairs[i] = find_merge(model, s[i].id, s[i + 1].id);
    for (;;) {
        size_t best = SIZE_MAX;
        for (size_t i = 0; i + 1 < count; i++)
            if (pairs[i] && (best == SIZE_MAX || pairs[i]->rank < pairs[best]->rank))
                best = i;
        if (best == SIZE_MAX)
            break;
        s[best].id = pairs[best]->id;
        s[best].length += s[best + 1].length;
        count--;
        for (size_t i = best + 1; i < count; i++)
            s[i] = s[i + 1];
        for (size_t i = best + 1; i + 1 < count; i++)
            pairs[i] = pairs[i + 1];
        if (best > 0)
            pairs[best - 1] = find_merge(model, s[best - 1].id, s[best].id);
        if (best + 1 < count)
            pairs[best] = find_merge(model, s[best].id, s[best + 1].id);
    }
    state->count = count;
}

static bool before(candidate a, candidate b)
{
    return a.rank != b.rank ? a.rank < b.rank : a.position < b.position;
}

static bool heap_push(bpe_state *state, candidate item)
{
    if (state->heap_count == state->heap_capacity &&
        !cb_grow(&state->heap, &state->heap_capacity, state->heap_count + 1, sizeof *state->heap))
        return false;
    size_t i = state->heap_count++;
    for (; i > 0 && before(item, state->heap[(i - 1) / 2]); i = (i - 1) / 2)
        state->heap[i] = state->heap[(i - 1) / 2];
    state->heap[i] = item;
    return true;
}

static candidate heap_pop(bpe_state *state)
{
    candidate top = state->heap[0], last = state->heap[--state->heap_count];
    size_t i = 0, count = state->heap_count;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= count)
            break;
        if (child + 1 < count && before(state->heap[child + 1], state->heap[child]))
            child++;
        if (!before(state->heap[child], last))
            break;
        state->heap[i] = state->heap[child];
        i = child;
    }
    state->heap[i] = last;
    return top;
}

static bool push_pair(const bpe *model, bpe_state *state, int32_t left, int32_t right)
{
    if (left < 0 || right < 0)
        return true;
    const merge_entry *merge = find_merge(model, state->symbols[left].id, state->symbols[right].id);
    return !merge || heap_push(state, (candidate){merge->rank, (uint32_t)left, merge->id});
}

/* Merges what `top` points at unless it has become outdated. */
static bool apply_candidate(const bpe *model, bpe_state *state, candidate top)
{
    symbol *left = &state->symbols[top.position];
    if (left->length == 0 || left->next < 0)
        return true;
    symbol *right = &state->symbols[left->next];
    const merge_entry *merge = find_merge(model, left->id, right->id);
    if (!merge || merge->id != top.id)
        return true;
    left->id = top.id;
    left->length += right->length;
    left->next = right->next;
    right->length = 0;
    if (left->next >= 0)
        state->symbols[left->next].previous = (int32_t)top.position;
    return push_pair(model, state, left->previous, (int32_t)top.position) && push_pair(model, state, (int32_t)top.position, left->next);
}

/* BPE-dropout (Provilkov et al. 2020): a merge is passed over with probability `dropout`, until another one was applied. */
static bool passes_over(const bpe *model, bpe_state *state, candidate top, bool *passed)
{
    *passed = model->dropout > 0 && cb_rng_uniform(&state->rng) < model->dropout;
    if (!*passed)
        return true;
    if (state->skipped_count == state->skipped_capacity &&
        !cb_grow(&state->skipped, &state->skipped_capacity, state->skipped_count + 1, sizeof *state->skipped))
        return false;
    state->skipped[state->skipped_count++] = top;
    return true;
}

static bool merge_long(const bpe *model, bpe_state *state)
{
    state->heap_count = state->skipped_count = 0;
    for (size_t i = 0; i + 1 < state->count; i++)
        if (!push_pair(model, state, (int32_t)i, (int32_t)i + 1))
            return false;
    while (state->heap_count) {
        candidate top = heap_pop(state);
        bool passed;
        if (!passes_over(model, state, top, &passed))
            return false;
        if (passed)
            continue;
        while (state->skipped_count)
            if (!heap_push(state, state->skipped[--state->skipped_count]))
                return false;
        if (!apply_candidate(model, state, top))
            return false;
    }
    size_t count = 0;
    for (size_t i = 0; i < state->count; i++)
        if (state->symbols[i].length)
            state->symbols[count++] = state->symbols[i];
    state->count = count;
    return true;
}

/* ---- Encoding ---- */

static bool add_symbols(cb_work *work, const bpe_state *state)
{
    uint32_t at = 0;
    for (size_t i = 0; i < state->count; i++) {
        uint32_t end = at + state->symbols[i].length;
        if (!cb_word_add(work, (int32_t)state->symbols[i].id, at, end))
            return false;
        at = end;
    }
    return true;
}

/* *id: of the word as one token, for ignore_merges; -1: not in the vocabulary. */
static bool find_word(const cb_vocab *vocab, bpe_state *state, const cb_piece *piece, int32_t *id)
{
    *id = -1;
    if (piece->length > vocab->longest)
        return true;
    if (!piece->byte_level) {
        *id = cb_vocab_find(vocab, piece->text, piece->length);
        return true;
    }
    cb_string_clear(&state->text);
    for (uint32_t i = 0; i < piece->length; i++) {
        char encoded[4];
        unsigned size = cb_utf8_write(cb_byte_to_code((uint8_t)piece->text[i]), encoded);
        if (!cb_string_append(&state->text, encoded, size))
            return false;
    }
    *id = cb_vocab_find(vocab, state->text.data, state->text.length);
    return true;
}

static bool encode_word(const bpe *model, const cb_vocab *vocab, cb_work *work, bpe_state *state, const cb_piece *piece)
{
    state->count = 0;
    if (model->ignore_merges && model->dropout == 0) {
        int32_t id;
        if (!find_word(vocab, state, piece, &id))
            return false;
        if (id >= 0)
            return add_symbol(state, id, piece->length);
    }
    if (piece->byte_level) {
        for (uint32_t i = 0; i < piece->length; i++)
            if (!add_symbol(state, model->byte_ids[(uint8_t)piece->text[i]], 1))
                return false;
    } else if (!word_symbols(model, vocab, state, work, piece)) {
        return false;
    }
    if (model->dropout == 0 && state->count <= short_word) {
        merge_short(model, state);
        return true;
    }
    return merge_long(model, state);
}

static bool bpe_encode(const void *pointer, const cb_vocab *vocab, cb_work *work, const cb_piece *piece)
{
    const bpe *model = pointer;
    if (!work->model_state && !(work->model_state = cb_calloc(1, sizeof(bpe_state))))
        return false;
    bpe_state *state = work->model_state;
    if (model->dropout > 0) {
        unsigned which = work->target == &work->sequence[1];
        uint64_t stream = cb_hash_bytes(work->originals[which].bytes, work->originals[which].length) + piece->shift;
        state->rng = (cb_rng){.seed = work->tokenizer->seed, .stream = stream};
    }
    return encode_word(model, vocab, work, state, piece) && add_symbols(work, state);
}

static void bpe_free_state(void *pointer)
{
    bpe_state *state = pointer;
    cb_free(state->symbols);
    cb_free(state->heap);
    cb_free(state->skipped);
    cb_string_free(&state->text);
    cb_free(state);
}

const cb_model_kind cb_model_bpe = {.type = "BPE",
                                    .state_size = sizeof(bpe),
                                    .parse = bpe_parse,
                                    .release = bpe_release,
                                    .fits = bpe_fits,
                                    .encode = bpe_encode,
                                    .free_state = bpe_free_state};
