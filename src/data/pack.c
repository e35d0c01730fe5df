/* pack.c: rows of several whole examples.
 *
 * An example that is asked and answered in one piece is best not cut in the middle, so examples (or, of those longer than a row,
 * parts) are put into rows as into bins, by best-fit decreasing: from the longest to the shortest, each goes into the row with the
 * least room that is enough.  Rows are found by their room: a list of rows for each, and a bit set of those that are not empty.  A row is of
 * one task: those of each are packed by themselves. */
#include <string.h>

#include "data/dataset.h"

enum { WORD = 64, NONE = -1 };

typedef struct packing {
    const document_list *documents;
    document_part *parts;
    int64_t count;       /* of parts */
    int64_t capacity;    /* of a row */
    int64_t *order;      /* numbers of parts, the longest first */
    int64_t *row_of;     /* of every part */
    int64_t *head;       /* the first row with so much room */
    int64_t *next;       /* the next row with the same */
    uint64_t *available; /* bit r: there is a row with room r */
    int64_t rows;
} packing;

int64_t cb_data_parts(const document *d, int64_t row_length)
{
    return d->length <= row_length ? 1 : (d->length - 1 + row_length - 1) / row_length; /* the last token is only ever a target */
}

static int64_t needed(const packing *p, int64_t number)
{
    int64_t length = p->documents->items[p->parts[number].document].length - p->parts[number].offset;
    return length < p->capacity ? length : p->capacity;
}

static bool list_parts(packing *p, int64_t row_length, bool split)
{
    int64_t total = (int64_t)p->documents->count, n = 0;
    p->parts = cb_alloc((size_t)p->count * sizeof *p->parts);
    for (int64_t i = 0; p->parts && i < total; i++) {
        const document *d = &p->documents->items[i];
        for (int64_t k = 0, end = d->wrapped ? 0 : split ? cb_data_parts(d, row_length) : 1; k < end; k++)
            p->parts[n++] = (document_part){i, k * row_length};
    }
    return p->parts;
}

/* Counting sort by length; of equals the earlier one first. */
static bool sort_parts(packing *p)
{
    int64_t *start = cb_calloc((size_t)p->capacity + 2, sizeof *start);
    if (!start)
        return false;
    for (int64_t i = 0; i < p->count; i++)
        start[p->capacity - needed(p, i) + 1]++;
    for (int64_t r = 0; r <= p->capacity; r++)
        start[r + 1] += start[r];
    for (int64_t i = 0; i < p->count; i++)
        p->order[start[p->capacity - needed(p, i)]++] = i;
    cb_free(start);
    return true;
}

int32_t cb_data_last_task(const document_list *documents)
{
    int32_t last = 0;
    for (size_t i = 0; i < documents->count; i++)
        last = documents->items[i].task > last ? documents->items[i].task : last;
    return last;
}

static int32_t task_of(const document_list *documents, const document_part *parts, int64_t item)
{
    return documents->items[parts ? parts[item].document : item].task;
}

/* Counting sort again. */
bool cb_data_sort_by_task(const document_list *documents, const document_part *parts, int64_t *items, int64_t count)
{
    int32_t last = cb_data_last_task(documents);
    if (!last)
        return true;
    int64_t *start = cb_calloc((size_t)last + 2, sizeof *start), *sorted = cb_alloc((size_t)(count + 1) * sizeof *sorted);
    bool ok = start && sorted;
    for (int64_t i = 0; ok && i < count; i++)
        start[task_of(documents, parts, items[i]) + 1]++;
    for (int32_t t = 0; ok && t <= last; t++)
        start[t + 1] += start[t];
    for (int64_t i = 0; ok && i < count; i++)
        sorted[start[task_of(documents, parts, items[i])]++] = items[i];
    if (ok)
        memcpy(items, sorted, (size_t)count * sizeof *items);
    cb_free(start);
    cb_free(sorted);
    return ok;
}

/* The least room of `from` or more that some row has; -1: none. */
static int64_t find_room(const packing *p, int64_t from)
{
    int64_t words = p->capacity / WORD + 1, w = from / WORD;
    uint64_t bits = p->available[w] & ~0ull << from % WORD;
    while (!bits && ++w < words)
        bits = p->available[w];
    return bits ? w * WORD + __builtin_ctzll(bits) : NONE;
}

static int64_t take_row(packing *p, int64_t room)
{
    int64_t row = p->head[room];
    p->head[room] = p->next[row];
    if (p->head[room] == NONE)
        p->available[room / WORD] &= ~(1ull << room % WORD);
    return row;
}

static void give_row(packing *p, int64_t row, int64_t room)
{
    p->next[row] = p->head[room];
    p->head[room] = row;
    p->available[room / WORD] |= 1ull << room % WORD;
}

static void place_parts(packing *p)
{
    int32_t task = NONE;
    for (int64_t i = 0; i < p->count; i++) {
        int32_t own = task_of(p->documents, p->parts, p->order[i]);
        if (own != task) {                                                      /* the rows of the last one are closed */
            memset(p->head, 0xff, ((size_t)p->capacity + 1) * sizeof *p->head); /* NONE */
            memset(p->available, 0, (size_t)(p->capacity / WORD + 1) * sizeof *p->available);
        }
        task = own;
        int64_t length = needed(p, p->order[i]), room = find_room(p, length);
        int64_t row = room == NONE ? p->rows++ : take_row(p, room);
        p->row_of[p->order[i]] = row;
        give_row(p, row, (room == NONE ? p->capacity : room) - length);
    }
}

/* Lists the parts of each row, in their own order. */
static bool list_rows(const packing *p, document_rows *rows)
{
    rows->parts = cb_alloc((size_t)p->count * sizeof *rows->parts);
    rows->starts = cb_calloc((size_t)p->rows + 2, sizeof *rows->starts);
    if (!rows->parts || !rows->starts)
        return false;
    rows->count = p->rows;
    for (int64_t i = 0; i < p->count; i++)
        rows->starts[p->row_of[i] + 2]++;
    for (int64_t r = 0; r < p->rows; r++)
        rows->starts[r + 2] += rows->starts[r + 1];
    for (int64_t i = 0; i < p->count; i++)
        rows->parts[rows->starts[p->row_of[i] + 1]++] = p->parts[i];
    return true;
}

bool cb_data_pack(const document_list *documents, int64_t row_length, bool split, document_rows *rows)
{
    packing p = {.documents = documents};
    int64_t tokens = 0;
    for (size_t i = 0; i < documents->count; i++)
        if (!documents->items[i].wrapped) {
            p.count += split ? cb_data_parts(&documents->items[i], row_length) : 1;
            tokens += documents->items[i].length;
        }
    *rows = (document_rows){0};
    if (!p.count)
        return true;
    p.capacity = row_length < tokens ? row_length : tokens; /* more room than there are tokens is never used */
    p.order = cb_alloc((size_t)p.count * sizeof *p.order);
    p.row_of = cb_alloc((size_t)p.count * sizeof *p.row_of);
    p.next = cb_alloc((size_t)p.count * sizeof *p.next);
    p.head = cb_alloc(((size_t)p.capacity + 1) * sizeof *p.head);
    p.available = cb_calloc((size_t)(p.capacity / WORD + 1), sizeof *p.available);
    bool ok = p.order && p.row_of && p.next && p.head && p.available && list_parts(&p, row_length, split) && sort_parts(&p) &&
              cb_data_sort_by_task(documents, p.parts, p.order, p.count);
    if (ok) {
        place_parts(&p);
        ok = list_rows(&p, rows);
    }
    cb_free(p.parts);
    cb_free(p.order);
    cb_free(p.row_of);
    cb_free(p.next);
    cb_free(p.head);
    cb_free(p.available);
    return ok;
}
