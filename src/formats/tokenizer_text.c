/* tokenizer_text.c: pieces of text that know where they came from, and the memory one encode works in.  Rewriting and cutting
 * follow the `tokenizers` package's NormalizedString to the byte, its odd corners included: spans must come out the same. */
#include <pthread.h>
#include <string.h>

#include "formats/tokenizer_parts.h"
#include "formats/tokenizer_unicode.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

/* ---- Memory of one encode ---- */

typedef struct cb_arena_chunk {
    struct cb_arena_chunk *next;
    size_t used, size;
    char bytes[];
} cb_arena_chunk;

void *cb_work_alloc(cb_work *work, size_t bytes)
{
    if (bytes > SIZE_MAX / 2)
        return cb_fail(CB_ERR_MEMORY, "a text of %zu bytes is too long to tokenise", bytes), NULL;
    bytes = (bytes + 15) & ~(size_t)15;
    cb_arena_chunk *chunk = work->arena;
    if (!chunk || chunk->size - chunk->used < bytes) {
        size_t size = bytes > 65536 ? bytes : 65536;
        chunk = cb_alloc(sizeof *chunk + size);
        if (!chunk)
            return NULL;
        *chunk = (cb_arena_chunk){.next = work->arena, .size = size};
        work->arena = chunk;
    }
    void *block = chunk->bytes + chunk->used;
    chunk->used += bytes;
    return block;
}

static void free_arena(cb_work *work, bool keep_one)
{
    while (work->arena) {
        cb_arena_chunk *next = work->arena->next;
        if (keep_one && !next && work->arena->size <= 65536) {
            work->arena->used = 0;
            return;
        }
        cb_free(work->arena);
        work->arena = next;
    }
}

void cb_work_reset(cb_work *work)
{
    free_arena(work, true);
    work->pieces.count = work->next.count = 0;
}

void cb_work_clear_matching(cb_work *work)
{
    cb_free(work->matches);
    pcre2_match_data_free(work->match_data);
    pcre2_match_context_free(work->match_context);
    pcre2_jit_stack_free(work->jit_stack);
}

static void free_work(cb_work *work)
{
    free_arena(work, false);
    cb_free(work->pieces.items);
    cb_free(work->next.items);
    cb_free(work->sequence[0].items);
    cb_free(work->sequence[1].items);
    cb_free(work->result.items);
    for (int i = 0; i < 2; i++) {
        cb_free(work->whole[i].items);
        cb_free(work->windows[i].items);
    }
    cb_free(work->changes);
    cb_work_clear_matching(work);
    cb_free(work->word.items);
    cb_free(work->words);
    if (work->model_state)
        work->tokenizer->model.kind->free_state(work->model_state);
    cb_free(work);
}

/* The tokenizer keeps idle workspaces, with their warm word caches, in a list; a thread takes one for each encode. */
cb_work *cb_work_take(const cb_tokenizer *tokenizer)
{
    cb_tokenizer *owner = (cb_tokenizer *)tokenizer; /* the list of idle workspaces is not part of what is constant */
    pthread_mutex_lock(owner->lock);
    cb_work *work = owner->idle;
    if (work)
        owner->idle = work->next_idle;
    pthread_mutex_unlock(owner->lock);
    if (!work)
        work = cb_calloc(1, sizeof *work);
    if (work)
        work->tokenizer = tokenizer;
    return work;
}

void cb_work_give(cb_work *work)
{
    cb_tokenizer *owner = (cb_tokenizer *)work->tokenizer;
    cb_work_reset(work);
    pthread_mutex_lock(owner->lock);
    work->next_idle = owner->idle;
    owner->idle = work;
    pthread_mutex_unlock(owner->lock);
}

void cb_work_free_all(cb_tokenizer *tokenizer)
{
    while (tokenizer->idle) {
        cb_work *next = tokenizer->idle->next_idle;
        free_work(tokenizer->idle);
        tokenizer->idle = next;
    }
}

bool cb_work_change(cb_work *work, uint32_t code, int32_t change)
{
    if (work->change_count == work->change_capacity &&
        !cb_grow(&work->changes, &work->change_capacity, work->change_count + 1, sizeof *work->changes))
        return false;
    work->changes[work->change_count++] = (cb_change){code, change};
    return true;
}

bool cb_work_match(cb_work *work, size_t begin, size_t end, bool is_match)
{
    if (work->match_count == work->match_capacity &&
        !cb_grow(&work->matches, &work->match_capacity, work->match_count + 1, sizeof *work->matches))
        return false;
    work->matches[work->match_count++] = (cb_match){(uint32_t)begin, (uint32_t)end, is_match};
    return true;
}

bool cb_work_push(cb_work *work, const cb_piece *piece)
{
    if (piece->length == 0)
        return true;
    cb_pieces *next = &work->next;
    if (next->count == next->capacity && !cb_grow(&next->items, &next->capacity, next->count + 1, sizeof *next->items))
        return false;
    next->items[next->count++] = *piece;
    return true;
}

void cb_work_swap(cb_work *work)
{
    cb_pieces made = work->next;
    work->next = work->pieces;
    work->next.count = 0;
    work->pieces = made;
}

/* ---- Where bytes came from ---- */

static cb_span byte_origin(const cb_piece *piece, uint32_t index)
{
    if (piece->alignment)
        return piece->alignment[index < piece->length ? index : piece->length - 1];
    uint32_t begin = index < piece->length ? index : piece->length - 1, end = begin + 1;
    while (begin > 0 && cb_utf8_continues(piece->text[begin]))
        begin--;
    while (end < piece->length && cb_utf8_continues(piece->text[end]))
        end++;
    return (cb_span){piece->shift + begin, piece->shift + end};
}

cb_span cb_piece_span(const cb_piece *piece, uint32_t begin, uint32_t end)
{
    if (begin == end)
        return (cb_span){piece->shift + begin, piece->shift + end};
    if (begin > end || end > piece->length)
        return (cb_span){begin, end};
    return (cb_span){byte_origin(piece, begin).begin, byte_origin(piece, end - 1).end};
}

cb_piece cb_piece_slice(const cb_piece *piece, uint32_t begin, uint32_t end)
{
    cb_piece slice = *piece;
    slice.text = piece->text + begin;
    slice.length = end - begin;
    if (!piece->alignment) {
        slice.shift = piece->shift + begin;
        slice.original_length = end - begin;
    } else if (begin < end) {
        cb_span first = piece->alignment[begin], last = piece->alignment[end - 1];
        slice.alignment = piece->alignment + begin;
        slice.shift = first.begin;
        slice.original_length = last.end > first.begin ? last.end - first.begin : 0;
    }
    return slice;
}

/* ---- Rewriting ---- */

/* Allocates the text and alignment of a piece that is rewritten to `length` bytes.  Rules that make a text grow without
 * bound (a few replacements of one character by two in a row do) are stopped. */
static bool new_text(cb_work *work, const cb_piece *piece, uint64_t length, char **text, cb_span **alignment)
{
    if (length > UINT32_MAX / 2 || length > (uint64_t)piece->original_length * 256 + (1 << 20))
        return cb_fail(CB_ERR_FORMAT, "%s: would turn %u bytes of text into %llu", work->tokenizer->what, (unsigned)piece->original_length,
                       (unsigned long long)length),
               false;
    *text = cb_work_alloc(work, (size_t)length + 1);
    *alignment = *text ? cb_work_alloc(work, (size_t)length * sizeof(cb_span) + 1) : NULL;
    return *alignment != NULL;
}

static void copy_range(const cb_piece *piece, uint32_t begin, uint32_t end, char *text, cb_span *alignment)
{
    memcpy(text, piece->text + begin, end - begin);
    if (piece->alignment) {
        memcpy(alignment, piece->alignment + begin, (end - begin) * sizeof *alignment);
        return;
    }
    for (uint32_t i = begin; i < end;) {
        uint32_t stop = i + 1;
        while (stop < piece->length && cb_utf8_continues(piece->text[stop]))
            stop++;
        for (uint32_t k = i; k < stop && k < end; k++)
            alignment[k - begin] = (cb_span){piece->shift + i, piece->shift + stop};
        i = stop;
    }
}

static uint32_t skip_characters(const cb_piece *piece, uint32_t *at, uint32_t end, size_t count)
{
    uint32_t start = *at;
    for (size_t i = 0; i < count && *at < end; i++) {
        unsigned size;
        cb_utf8_read(piece->text + *at, &size);
        *at += size;
    }
    return *at - start;
}

bool cb_piece_transform_range(cb_work *work, cb_piece *piece, uint32_t begin, uint32_t end, size_t removed)
{
    uint64_t length = piece->length - (end - begin);
    char encoded[4];
    for (size_t i = 0; i < work->change_count; i++)
        length += cb_utf8_write(work->changes[i].code, encoded);
    char *text;
    cb_span *alignment;
    if (!new_text(work, piece, length, &text, &alignment))
        return false;
    copy_range(piece, 0, begin, text, alignment);
    uint32_t at = begin, out = begin; /* the next character to be replaced; the next byte to be written */
    uint32_t offset = begin + skip_characters(piece, &at, end, removed);
    for (size_t i = 0; i < work->change_count; i++) {
        cb_change change = work->changes[i];
        cb_span origin;
        if (change.change > 0)
            origin = offset ? byte_origin(piece, offset - 1) : (cb_span){piece->shift, piece->shift};
        else
            origin = piece->length ? byte_origin(piece, offset) : (cb_span){piece->shift, piece->shift};
        if (change.change <= 0)
            offset += skip_characters(piece, &at, end, 1 + (size_t)-change.change);
        unsigned size = cb_utf8_write(change.code, text + out);
        for (unsigned k = 0; k < size; k++)
            alignment[out++] = origin;
    }
    copy_range(piece, end, piece->length, text + out, alignment + out);
    piece->text = text;
    piece->alignment = alignment;
    piece->length = (uint32_t)length;
    return true;
}

/* The part of a piece that stands for characters of the original.  The package leaves out what a normaliser put before the
 * first character; false: there is nothing to rewrite. */
static bool original_range(const cb_piece *piece, uint32_t *begin, uint32_t *end)
{
    *begin = 0;
    *end = piece->length;
    if (piece->original_length == 0) {
        *end = 0;
        return true;
    }
    if (!piece->alignment)
        return true;
    bool started = false, ended = false;
    for (uint32_t i = 0; i < piece->length; i++) {
        cb_span origin = piece->alignment[i];
        if (origin.end - piece->shift > piece->original_length)
            break;
        if (!started && origin.begin != origin.end) {
            *begin = i;
            started = true;
        }
        *end = i + 1;
        ended = true;
    }
    if (!started)
        *begin = *end;
    return ended;
}

bool cb_piece_transform(cb_work *work, cb_piece *piece, size_t removed)
{
    uint32_t begin, end;
    if (!original_range(piece, &begin, &end))
        return true;
    return cb_piece_transform_range(work, piece, begin, end, removed);
}

bool cb_piece_prepend(cb_work *work, cb_piece *piece, const char *text, size_t length)
{
    if (piece->length == 0)
        return true;
    unsigned size;
    work->change_count = 0;
    for (size_t i = 0; i < length; i += size)
        if (!cb_work_change(work, cb_utf8_read(text + i, &size), i > 0))
            return false;
    uint32_t next = cb_utf8_read(piece->text, &size);
    return cb_work_change(work, next, 1) && cb_piece_transform_range(work, piece, 0, size, 0);
}

bool cb_piece_replace(cb_work *work, cb_piece *piece, const char *content, size_t length)
{
    uint64_t total = piece->length;
    size_t found = 0;
    for (size_t i = 0; i < work->match_count; i++) {
        if (!work->matches[i].is_match)
            continue;
        total += length;
        total -= work->matches[i].end - work->matches[i].begin;
        found++;
    }
    if (!found)
        return true;
    char *text;
    cb_span *alignment;
    if (!new_text(work, piece, total, &text, &alignment))
        return false;
    uint32_t out = 0, last = 0;
    for (size_t i = 0; i < work->match_count; i++) {
        cb_match match = work->matches[i];
        if (!match.is_match)
            continue;
        copy_range(piece, last, match.begin, text + out, alignment + out);
        out += match.begin - last;
        last = match.end;
        memcpy(text + out, content, length);
        cb_span origin = match.end ? byte_origin(piece, match.end - 1) : (cb_span){piece->shift, piece->shift};
        for (size_t k = 0; k < length; k++)
            alignment[out++] = origin;
    }
    copy_range(piece, last, piece->length, text + out, alignment + out);
    piece->text = text;
    piece->alignment = alignment;
    piece->length = (uint32_t)total;
    return true;
}

bool cb_piece_filter(cb_work *work, cb_piece *piece, unsigned flags)
{
    work->change_count = 0;
    size_t removed_first = 0;
    int32_t removed = 0;
    bool any = false;
    unsigned size;
    for (uint32_t i = 0; i < piece->length; i += size) {
        uint32_t code = cb_utf8_read(piece->text + i, &size);
        if (cb_code_flags[code] & flags) {
            removed++;
            any = true;
            continue;
        }
        if (work->change_count)
            work->changes[work->change_count - 1].change = -removed;
        else
            removed_first = (size_t)removed;
        removed = 0;
        if (!cb_work_change(work, code, 0))
            return false;
    }
    if (!any && !piece->alignment)
        return true;
    if (work->change_count)
        work->changes[work->change_count - 1].change = -removed;
    return cb_piece_transform(work, piece, removed_first);
}

/* ---- Cutting ---- */

static bool push_range(cb_work *work, const cb_piece *piece, uint32_t begin, uint32_t end)
{
    cb_piece slice = cb_piece_slice(piece, begin, end);
    return cb_work_push(work, &slice);
}

/* MergedWithNext and MergedWithPrevious: a match joins its neighbour unless that is a match too.  Contiguous: equals join. */
static void merge_matches(cb_work *work, cb_split_behavior behavior, bool invert)
{
    cb_match *m = work->matches;
    size_t count = 0, total = work->match_count;
    bool backwards = behavior == CB_SPLIT_MERGED_WITH_NEXT, previous = false;
    for (size_t i = 0; i < total; i++) {
        cb_match match = m[backwards ? total - 1 - i : i];
        bool is_match = match.is_match != invert;
        bool joins = behavior == CB_SPLIT_CONTIGUOUS ? is_match == previous : is_match && !previous;
        previous = is_match;
        if (joins && count) {
            if (backwards)
                m[total - count].begin = match.begin;
            else
                m[count - 1].end = match.end;
            continue;
        }
        m[backwards ? total - 1 - count : count] = match;
        count++;
    }
    if (backwards)
        memmove(m, m + (total - count), count * sizeof *m);
    work->match_count = count;
}

bool cb_piece_split(cb_work *work, const cb_piece *piece, cb_split_behavior behavior, bool invert)
{
    if (behavior != CB_SPLIT_REMOVED && behavior != CB_SPLIT_ISOLATED)
        merge_matches(work, behavior, invert);
    for (size_t i = 0; i < work->match_count; i++) {
        cb_match match = work->matches[i];
        if (behavior == CB_SPLIT_REMOVED && match.is_match != invert)
            continue;
        if (!push_range(work, piece, match.begin, match.end))
            return false;
    }
    return true;
}

/* ---- Byte level ---- */

static bool map_bytes(cb_work *work, cb_piece *piece)
{
    work->change_count = 0;
    for (uint32_t i = 0; i < piece->length; i++)
        if (!cb_work_change(work, cb_byte_to_code((uint8_t)piece->text[i]), cb_utf8_continues(piece->text[i])))
            return false;
    return cb_piece_transform(work, piece, 0);
}

bool cb_piece_to_byte_level(cb_work *work, cb_piece *piece, bool lazy)
{
    if (!cb_piece_materialize(work, piece))
        return false;
    uint32_t begin, end;
    if (lazy && original_range(piece, &begin, &end) && begin == 0 && end == piece->length) {
        piece->byte_level = true;
        return true;
    }
    return map_bytes(work, piece);
}

bool cb_piece_materialize(cb_work *work, cb_piece *piece)
{
    if (!piece->byte_level)
        return true;
    piece->byte_level = false;
    return map_bytes(work, piece);
}

/* ---- Tokens ---- */

bool cb_work_emit(cb_work *work, const cb_piece *piece, int32_t id, uint32_t begin, uint32_t end)
{
    cb_tokens *tokens = work->target;
    if (tokens->count == tokens->capacity && !cb_grow(&tokens->items, &tokens->capacity, tokens->count + 1, sizeof *tokens->items))
        return false;
    cb_token *token = &tokens->items[tokens->count++];
    *token = (cb_token){.id = id};
    if (!work->spans)
        return true;
    cb_span span = cb_piece_span(piece, begin, end);
    token->begin = span.begin;
    token->end = span.end;
    const cb_tokenizer *tokenizer = work->tokenizer;
    if (!tokenizer->trims)
        return true;
    if (piece->token >= 0) {
        cb_count_spaces(piece->text, piece->length, &token->lead, &token->trail);
    } else if (id == tokenizer->model.unknown) {
        cb_count_spaces(piece->text + begin, end - begin, &token->lead, &token->trail);
    } else if ((size_t)id < tokenizer->vocab.id_limit) {
        token->lead = tokenizer->lead[id];
        token->trail = tokenizer->trail[id];
    }
    return true;
}

void cb_count_spaces(const char *text, size_t length, uint16_t *lead, uint16_t *trail)
{
    size_t count = 0, leading = 0, run = 0;
    unsigned size;
    for (size_t i = 0; i < length; i += size, count++) {
        uint32_t code = cb_utf8_read(text + i, &size);
        bool space = code == cb_byte_to_code(' ') || (cb_code_flags[code] & CB_CODE_RUST_SPACE);
        if (space && leading == count)
            leading++;
        run = space ? run + 1 : 0;
    }
    *lead = (uint16_t)(leading < UINT16_MAX ? leading : UINT16_MAX);
    *trail = (uint16_t)(run < UINT16_MAX ? run : UINT16_MAX);
}
