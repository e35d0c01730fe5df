/* pickle.c: the machine that follows a pickle (pickle protocols 2 to 5, docs.python.org/3/library/pickletools.html).
 *
 * It has a stack of values and a memo of values met before.  Lists, dicts and tuples are made once and referred to by
 * index, as in Python.  Every instruction that makes a value takes a byte of the file, so what a file makes us allocate is
 * a multiple of its length; programs beyond LIMIT bytes (some 80 000 tensors) are refused. */
#include "formats/pickle.h"

#include <string.h>

enum { LIMIT = 1 << 24 };

typedef struct machine {
    cb_pickle *out;
    const char *path;
    const uint8_t *start, *at, *end;
    cb_pickle_value *stack, *memo;
    size_t depth, stack_capacity, memo_count, memo_capacity;
    bool stopped;
} machine;

static CB_COLD bool damaged(const machine *m, const char *problem)
{
    cb_fail(CB_ERR_FORMAT, "%s: pickle, byte %zu: %s", m->path, (size_t)(m->at - m->start), problem);
    return false;
}

/* ---- operands ---- */

static const uint8_t *take(machine *m, size_t count)
{
    if (count > (size_t)(m->end - m->at)) {
        damaged(m, "found the end of the file, expected the rest of the pickle");
        return NULL;
    }
    m->at += count;
    return m->at - count;
}

/* An unsigned number of `bytes` bytes, little-endian. */
static bool read_number(machine *m, int bytes, uint64_t *number)
{
    const uint8_t *from = take(m, (size_t)bytes);
    *number = 0;
    for (int i = 0; from && i < bytes; i++)
        *number |= (uint64_t)from[i] << (8 * i);
    return from;
}

/* A text with its length in `bytes` bytes before it. */
static bool read_text(machine *m, int bytes, cb_pickle_value *text)
{
    uint64_t length;
    if (!read_number(m, bytes, &length))
        return false;
    const uint8_t *from = length <= SIZE_MAX ? take(m, (size_t)length) : NULL;
    *text = (cb_pickle_value){.kind = CB_PICKLE_STRING, .text = (const char *)from, .length = (size_t)length};
    return from;
}

/* A text that a newline ends. */
static bool read_line(machine *m, cb_pickle_value *text)
{
    const uint8_t *from = m->at, *newline = memchr(from, '\n', (size_t)(m->end - from));
    if (!newline)
        return damaged(m, "found no end of a name");
    m->at = newline + 1;
    *text = (cb_pickle_value){.kind = CB_PICKLE_STRING, .text = (const char *)from, .length = (size_t)(newline - from)};
    return true;
}

/* ---- the stack ---- */

static bool push(machine *m, cb_pickle_value value)
{
    if (!cb_grow(&m->stack, &m->stack_capacity, m->depth + 1, sizeof *m->stack))
        return false;
    m->stack[m->depth++] = value;
    return true;
}

static bool push_integer(machine *m, cb_pickle_kind kind, int64_t integer)
{
    return push(m, (cb_pickle_value){.kind = kind, .integer = integer});
}

static bool pop(machine *m, cb_pickle_value *value)
{
    *value = (cb_pickle_value){0};
    if (!m->depth || m->stack[m->depth - 1].kind == CB_PICKLE_MARK)
        return damaged(m, "found an instruction without its operands");
    *value = m->stack[--m->depth];
    return true;
}

/* The value on top, which stays there. */
static const cb_pickle_value *top(machine *m, cb_pickle_kind kind)
{
    if (m->depth && m->stack[m->depth - 1].kind == kind)
        return &m->stack[m->depth - 1];
    damaged(m, "found an instruction for another kind of value");
    return NULL;
}

/* Takes everything above the last mark off the stack, and the mark; valid until the next push. */
static bool pop_marked(machine *m, const cb_pickle_value **items, size_t *count)
{
    size_t mark = m->depth;
    *items = NULL;
    *count = 0;
    while (mark && m->stack[mark - 1].kind != CB_PICKLE_MARK)
        mark--;
    if (!mark)
        return damaged(m, "found an instruction without a mark before it");
    *items = m->stack + mark;
    *count = m->depth - mark;
    m->depth = mark - 1;
    return true;
}

/* ---- lists, dicts and tuples ---- */

static bool append(machine *m, uint32_t list, const cb_pickle_value *items, size_t count)
{
    cb_pickle_list *l = &m->out->lists[list];
    if (count && !cb_grow(&l->items, &l->capacity, l->count + count, sizeof *l->items))
        return false;
    if (count)
        memcpy(l->items + l->count, items, count * sizeof *items);
    l->count += count;
    return true;
}

static bool push_list(machine *m, cb_pickle_kind kind, const cb_pickle_value *items, size_t count)
{
    cb_pickle *p = m->out;
    if (!cb_grow(&p->lists, &p->list_capacity, p->list_count + 1, sizeof *p->lists))
        return false;
    uint32_t index = (uint32_t)p->list_count++;
    p->lists[index] = (cb_pickle_list){0};
    return append(m, index, items, count) && push(m, (cb_pickle_value){.kind = kind, .index = index});
}

static bool push_marked(machine *m, cb_pickle_kind kind)
{
    const cb_pickle_value *items;
    size_t count;
    if (!pop_marked(m, &items, &count))
        return false;
    if (kind == CB_PICKLE_DICT && count % 2)
        return damaged(m, "found a key without a value");
    return push_list(m, kind, items, count);
}

static bool push_tuple(machine *m, size_t count)
{
    cb_pickle_value items[3];
    for (size_t i = count; i--;)
        if (!pop(m, &items[i]))
            return false;
    return push_list(m, CB_PICKLE_TUPLE, items, count);
}

static bool append_marked(machine *m, cb_pickle_kind kind)
{
    const cb_pickle_value *items, *list;
    size_t count;
    if (!pop_marked(m, &items, &count) || !(list = top(m, kind)))
        return false;
    if (kind == CB_PICKLE_DICT && count % 2)
        return damaged(m, "found a key without a value");
    return append(m, list->index, items, count);
}

/* One item, or a key and its value. */
static bool append_popped(machine *m, cb_pickle_kind kind, size_t count)
{
    cb_pickle_value items[2];
    for (size_t i = count; i--;)
        if (!pop(m, &items[i]))
            return false;
    const cb_pickle_value *list = top(m, kind);
    return list && append(m, list->index, items, count);
}

/* ---- the memo ---- */

/* Python numbers them in turn, so a place far beyond the last is no memo of its. */
static bool remember(machine *m, uint64_t place)
{
    if (!m->depth || m->stack[m->depth - 1].kind == CB_PICKLE_MARK || place > (uint64_t)(m->at - m->start))
        return damaged(m, "found a memo of nothing, or far from the last");
    if (!cb_grow(&m->memo, &m->memo_capacity, (size_t)place + 1, sizeof *m->memo))
        return false;
    while (m->memo_count <= place)
        m->memo[m->memo_count++] = (cb_pickle_value){.kind = CB_PICKLE_MARK};
    m->memo[place] = m->stack[m->depth - 1];
    return true;
}

static bool recall(machine *m, uint64_t place)
{
    if (place >= m->memo_count || m->memo[place].kind == CB_PICKLE_MARK)
        return damaged(m, "found a reference to nothing");
    return push(m, m->memo[place]);
}

/* ---- names and calls ---- */

/* The part of a name that a message can show. */
static int shown(const cb_pickle_value *text)
{
    return (int)(text->length < 100 ? text->length : 100);
}

static bool push_name(machine *m, const cb_pickle_value *module, const cb_pickle_value *name)
{
    if (module->kind != CB_PICKLE_STRING || name->kind != CB_PICKLE_STRING)
        return damaged(m, "found a name that is no text");
    int index = cb_pickle_name_find(module->text, module->length, name->text, name->length);
    if (index < 0)
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: pickle, byte %zu: found %.*s.%.*s, expected only what tensors need: it is not run", m->path,
                       (size_t)(m->at - m->start), shown(module), module->text, shown(name), name->text) == CB_OK;
    return push(m, (cb_pickle_value){.kind = CB_PICKLE_NAME, .index = (uint32_t)index});
}

static const cb_pickle_name *name_of(const cb_pickle_value *value)
{
    return value->kind == CB_PICKLE_NAME ? &cb_pickle_names[value->index] : NULL;
}

static bool read_sizes(const machine *m, const cb_pickle_value *value, int64_t sizes[CB_MAX_DIMS], int *ndim)
{
    if (value->kind != CB_PICKLE_TUPLE)
        return damaged(m, "found sizes of a tensor that are no tuple");
    const cb_pickle_list *list = &m->out->lists[value->index];
    if (list->count > CB_MAX_DIMS)
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: pickle, byte %zu: found a tensor of %zu dimensions, expected at most %d", m->path,
                       (size_t)(m->at - m->start), list->count, CB_MAX_DIMS) == CB_OK;
    *ndim = (int)list->count;
    for (int i = 0; i < *ndim; i++) {
        if (list->items[i].kind != CB_PICKLE_INT || list->items[i].integer < 0)
            return damaged(m, "found a size or stride of a tensor that is no whole number or below 0");
        sizes[i] = list->items[i].integer;
    }
    return true;
}

/* Whether offset + sum of (size - 1) * stride is an element of the storage. */
static bool lies_within(const cb_pickle_tensor *t, const cb_pickle_storage *storage)
{
    int64_t last = t->offset, step;
    for (int i = 0; i < t->ndim; i++) {
        if (t->shape[i] == 0)
            return true;
        if (__builtin_mul_overflow(t->shape[i] - 1, t->strides[i], &step) || __builtin_add_overflow(last, step, &last))
            return false;
    }
    return (uint64_t)last < storage->size / (t->type->bits / 8);
}

static bool push_tensor(machine *m, const cb_pickle_list *arguments, const cb_safetensors_type *type)
{
    const cb_pickle_value *a = arguments->items;
    cb_pickle *p = m->out;
    cb_pickle_tensor t = {0};
    int strides = 0;
    size_t size;
    if (a[0].kind != CB_PICKLE_STORAGE || a[1].kind != CB_PICKLE_INT || a[1].integer < 0)
        return damaged(m, "found a tensor without a storage or with no place in it");
    const cb_pickle_storage *storage = &p->storages[a[0].index];
    t.type = type ? type : storage->type;
    t.storage = a[0].index;
    t.offset = a[1].integer;
    if (!read_sizes(m, &a[2], t.shape, &t.ndim) || !read_sizes(m, &a[3], t.strides, &strides))
        return false;
    if (t.ndim != strides || !cb_safetensors_size(t.type, t.ndim, t.shape, &size) || !lies_within(&t, storage))
        return damaged(m, "found a tensor that reaches beyond its storage");
    if (!cb_grow(&p->tensors, &p->tensor_capacity, p->tensor_count + 1, sizeof *p->tensors))
        return false;
    p->tensors[p->tensor_count] = t;
    return push(m, (cb_pickle_value){.kind = CB_PICKLE_TENSOR, .index = (uint32_t)p->tensor_count++});
}

/* Calls of the kind that gives a tensor. */
static bool rebuild(machine *m, cb_pickle_role role, const cb_pickle_list *arguments)
{
    const cb_pickle_value *a = arguments->items;
    size_t count = arguments->count;
    if (role == CB_ROLE_TENSOR && count >= 4)
        return push_tensor(m, arguments, NULL);
    if (role == CB_ROLE_TENSOR_V3 && count >= 7 && name_of(&a[6]) && name_of(&a[6])->role == CB_ROLE_DTYPE)
        return push_tensor(m, arguments, cb_safetensors_type_named(name_of(&a[6])->type));
    if (role == CB_ROLE_PARAMETER && count && a[0].kind == CB_PICKLE_TENSOR)
        return push(m, a[0]);
    return damaged(m, "found a call with arguments of other kinds than expected");
}

static bool call(machine *m, const cb_pickle_name *name, const cb_pickle_list *arguments)
{
    const cb_pickle_value *a = arguments->items;
    size_t count = arguments->count;
    switch (name->role) {
    case CB_ROLE_ORDERED_DICT:
        return count == 0 ? push_list(m, CB_PICKLE_DICT, NULL, 0) : damaged(m, "found an OrderedDict of a form that is not read");
    case CB_ROLE_SIZE:
        return count == 1 && a[0].kind == CB_PICKLE_TUPLE ? push(m, a[0]) : damaged(m, "found a torch.Size of something else than a tuple");
    case CB_ROLE_IGNORED:
        return push_integer(m, CB_PICKLE_NONE, 0);
    case CB_ROLE_FROM_TYPE:
        if (count >= 3 && name_of(&a[0]) && a[2].kind == CB_PICKLE_TUPLE)
            return rebuild(m, name_of(&a[0])->role, &m->out->lists[a[2].index]);
        return damaged(m, "found a call with arguments of other kinds than expected");
    case CB_ROLE_TENSOR:
    case CB_ROLE_TENSOR_V3:
    case CB_ROLE_PARAMETER:
        return rebuild(m, name->role, arguments);
    default:
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: pickle, byte %zu: found a call of %s.%s, which is not run", m->path,
                       (size_t)(m->at - m->start), name->module, name->name) == CB_OK;
    }
}

static bool reduce(machine *m)
{
    cb_pickle_value arguments, callable;
    if (!pop(m, &arguments) || !pop(m, &callable))
        return false;
    if (!name_of(&callable) || arguments.kind != CB_PICKLE_TUPLE)
        return damaged(m, "found a call of what is no name, or without arguments");
    cb_pickle_list list = m->out->lists[arguments.index]; /* the array may move while values are made */
    return call(m, name_of(&callable), &list);
}

/* ("storage", class, key, location, number of elements [, None]) */
static bool push_storage(machine *m)
{
    cb_pickle_value id;
    if (!pop(m, &id))
        return false;
    const cb_pickle_list *list = id.kind == CB_PICKLE_TUPLE ? &m->out->lists[id.index] : NULL;
    const cb_pickle_value *a = list ? list->items : NULL;
    const cb_pickle_name *class = list && list->count >= 5 ? name_of(&a[1]) : NULL;
    if (!class || class->role != CB_ROLE_STORAGE || a[2].kind != CB_PICKLE_STRING || a[4].kind != CB_PICKLE_INT || a[4].integer < 0 ||
        (list->count > 5 && a[5].kind != CB_PICKLE_NONE))
        return damaged(m, "found a storage of another form than expected");
    cb_pickle *p = m->out;
    cb_pickle_storage storage = {.type = cb_safetensors_type_named(class->type ? class->type : "U8"), .key = a[2]};
    if (!cb_safetensors_size(storage.type, 1, &a[4].integer, &storage.size))
        return damaged(m, "found a storage whose size overflows");
    if (!cb_grow(&p->storages, &p->storage_capacity, p->storage_count + 1, sizeof *p->storages))
        return false;
    p->storages[p->storage_count] = storage;
    return push(m, (cb_pickle_value){.kind = CB_PICKLE_STORAGE, .index = (uint32_t)p->storage_count++});
}

/* The state of an object: that of a dict (its attributes) or a tensor says nothing about weights. */
static bool build(machine *m)
{
    cb_pickle_value state;
    if (!pop(m, &state))
        return false;
    if (m->depth && (m->stack[m->depth - 1].kind == CB_PICKLE_DICT || m->stack[m->depth - 1].kind == CB_PICKLE_TENSOR))
        return true;
    return damaged(m, "found the state of an object, expected that of a dict or tensor");
}

/* ---- instructions ---- */

static bool push_text(machine *m, int bytes)
{
    cb_pickle_value text;
    return read_text(m, bytes, &text) && push(m, text);
}

/* A whole number in two's complement. */
static bool push_long(machine *m)
{
    uint64_t length, number = 0;
    const uint8_t *from = read_number(m, 1, &length) ? take(m, (size_t)length) : NULL;
    if (!from)
        return false;
    if (length > 8)
        return push_integer(m, CB_PICKLE_NONE, 0);
    for (uint64_t i = 0; i < length; i++)
        number |= (uint64_t)from[i] << (8 * i);
    if (length && length < 8 && from[length - 1] & 0x80)
        number |= UINT64_MAX << (8 * length);
    return push_integer(m, CB_PICKLE_INT, (int64_t)number);
}

static bool protocol(machine *m)
{
    uint64_t number;
    if (!read_number(m, 1, &number))
        return false;
    return (number >= 2 && number <= 5) ||
           cb_fail(CB_ERR_UNSUPPORTED, "%s: found pickle protocol %d, expected 2 to 5", m->path, (int)number) == CB_OK;
}

static bool global(machine *m)
{
    cb_pickle_value module, name;
    return read_line(m, &module) && read_line(m, &name) && push_name(m, &module, &name);
}

static bool stack_global(machine *m)
{
    cb_pickle_value module, name;
    return pop(m, &name) && pop(m, &module) && push_name(m, &module, &name);
}

static bool pop_to_mark(machine *m)
{
    const cb_pickle_value *items;
    size_t count;
    return pop_marked(m, &items, &count);
}

static bool step(machine *m)
{
    cb_pickle_value value;
    uint64_t number;
    const uint8_t *instruction = take(m, 1);
    switch (instruction ? *instruction : 0) {
    case 0x80:
        return protocol(m);
    case 0x95: /* frame */
        return read_number(m, 8, &number);
    case '.':
        m->stopped = true;
        return pop(m, &m->out->result);
    case '(':
        return push_integer(m, CB_PICKLE_MARK, 0);
    case '0':
        return pop(m, &value);
    case '1':
        return pop_to_mark(m);
    case 'N':
        return push_integer(m, CB_PICKLE_NONE, 0);
    case 0x88:
    case 0x89:
        return push_integer(m, CB_PICKLE_BOOL, *instruction == 0x88);
    case 'K':
        return read_number(m, 1, &number) && push_integer(m, CB_PICKLE_INT, (int64_t)number);
    case 'M':
        return read_number(m, 2, &number) && push_integer(m, CB_PICKLE_INT, (int64_t)number);
    case 'J':
        return read_number(m, 4, &number) && push_integer(m, CB_PICKLE_INT, (int32_t)(uint32_t)number);
    case 0x8A:
        return push_long(m);
    case 'G': /* a double */
        return read_number(m, 8, &number) && push_integer(m, CB_PICKLE_NONE, 0);
    case 0x8C: /* texts with 1, 4 and 8 bytes of length; U and T are those of Python 2 */
    case 'U':
        return push_text(m, 1);
    case 'X':
    case 'T':
        return push_text(m, 4);
    case 0x8D:
        return push_text(m, 8);
    case ')':
        return push_list(m, CB_PICKLE_TUPLE, NULL, 0);
    case 0x85:
    case 0x86:
    case 0x87:
        return push_tuple(m, *instruction - 0x84u);
    case 't':
        return push_marked(m, CB_PICKLE_TUPLE);
    case ']':
        return push_list(m, CB_PICKLE_LIST, NULL, 0);
    case 'l':
        return push_marked(m, CB_PICKLE_LIST);
    case 'a':
        return append_popped(m, CB_PICKLE_LIST, 1);
    case 'e':
        return append_marked(m, CB_PICKLE_LIST);
    case '}':
        return push_list(m, CB_PICKLE_DICT, NULL, 0);
    case 'd':
        return push_marked(m, CB_PICKLE_DICT);
    case 's':
        return append_popped(m, CB_PICKLE_DICT, 2);
    case 'u':
        return append_marked(m, CB_PICKLE_DICT);
    case 'q':
        return read_number(m, 1, &number) && remember(m, number);
    case 'r':
        return read_number(m, 4, &number) && remember(m, number);
    case 0x94:
        return remember(m, m->memo_count);
    case 'h':
        return read_number(m, 1, &number) && recall(m, number);
    case 'j':
        return read_number(m, 4, &number) && recall(m, number);
    case 'c':
        return global(m);
    case 0x93:
        return stack_global(m);
    case 'R':
        return reduce(m);
    case 'Q':
        return push_storage(m);
    case 'b':
        return build(m);
    default:
        if (!instruction)
            return false;
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: pickle, byte %zu: found instruction 0x%02x, expected only those that tensors need", m->path,
                       (size_t)(m->at - m->start - 1), *instruction) == CB_OK;
    }
}

/* ---- the interface ---- */

bool cb_pickle_read(cb_pickle *pickle, const char *path, const uint8_t *bytes, size_t size, size_t *used)
{
    *pickle = (cb_pickle){0};
    machine m = {.out = pickle, .path = path, .start = bytes, .at = bytes, .end = bytes + size};
    bool ok = true;
    while (ok && !m.stopped)
        ok = (m.at - m.start <= LIMIT || cb_fail(CB_ERR_UNSUPPORTED, "%s: found a pickle of more than %d bytes", path, LIMIT) == CB_OK) &&
             step(&m);
    *used = (size_t)(m.at - m.start);
    cb_free(m.stack);
    cb_free(m.memo);
    return ok;
}

void cb_pickle_free(cb_pickle *pickle)
{
    for (size_t i = 0; i < pickle->list_count; i++)
        cb_free(pickle->lists[i].items);
    cb_free(pickle->lists);
    cb_free(pickle->storages);
    cb_free(pickle->tensors);
    *pickle = (cb_pickle){0};
}
