/* checkpoint.c: where a run stands, as one safetensors file that is replaced atomically.
 *
 *     parameter.NAME           f32, as the trainee names it
 *     optimizer.SLOT.NAME      f32: exp_avg, ...
 *     trainee.NAME             f32: what else the trainee goes on from
 *     state.FIELD              one element of 8 bytes: i64 (unsigned numbers as their bits) or f64
 *     metadata: fingerprint    what the run's course depends on, in words
 *     metadata: left           there when a process wrote it that others had left
 *
 * Numbers are stored as they are in memory, so a resumed run goes on with the same bits.  Everything about a file is
 * checked before anything of the run is touched. */
#include <string.h>

#include "cambium/formats.h"
#include "training/internal.h"

#define FILE_NAME "checkpoint.safetensors"

/* ---- what a checkpoint holds ---- */

typedef struct state_field {
    const char *name;
    cb_dtype dtype;
    size_t offset;
} state_field;

static const state_field state_fields[] = {{"state.step", CB_I64, offsetof(train_state, step)},
                                           {"state.tokens", CB_I64, offsetof(train_state, tokens)},
                                           {"state.seconds", CB_F64, offsetof(train_state, seconds)},
                                           {"state.first_loss", CB_F64, offsetof(train_state, first_loss)},
                                           {"state.last_loss", CB_F64, offsetof(train_state, last_loss)},
                                           {"state.best_loss", CB_F64, offsetof(train_state, best_loss)},
                                           {"state.best_step", CB_I64, offsetof(train_state, best_step)},
                                           {"state.bad_evaluations", CB_I64, offsetof(train_state, bad_evaluations)},
                                           {"state.loss_sum", CB_F64, offsetof(train_state, loss_sum)},
                                           {"state.loss_steps", CB_I64, offsetof(train_state, loss_steps)},
                                           {"state.pending", CB_I64, offsetof(train_state, pending)},
                                           {"state.log_bytes", CB_I64, offsetof(train_state, log_bytes)},
                                           {"state.rng_seed", CB_I64, offsetof(train_state, rng.seed)},
                                           {"state.rng_stream", CB_I64, offsetof(train_state, rng.stream)},
                                           {"state.rng_counter", CB_I64, offsetof(train_state, rng.counter)}};
enum { STATE_FIELDS = sizeof state_fields / sizeof *state_fields };

/* The tensors of a checkpoint of this run, each with the memory it is written from and read into. */
typedef struct layout {
    cb_weight_entry *entries;
    char **names; /* those of parameters and slots are made here */
    size_t count;
    int64_t optimizer_steps;
} layout;

static void add_number(layout *l, const char *name, cb_dtype dtype, void *value)
{
    l->entries[l->count++] = (cb_weight_entry){.name = name, .dtype = dtype, .data = value, .size = 8};
}

static bool add_tensor(layout *l, char *name, const cb_tensor *t)
{
    if (!name || !t) {
        cb_free(name);
        return false;
    }
    cb_weight_entry *e = &l->entries[l->count];
    *e = (cb_weight_entry){.name = name, .dtype = CB_F32, .ndim = t->ndim, .data = t->data, .size = (size_t)t->count * sizeof(float)};
    memcpy(e->shape, t->shape, sizeof e->shape);
    l->names[l->count++] = name;
    return true;
}

static bool layout_make(layout *l, const cb_trainee *what, cb_optimizer *optimizer, train_state *state)
{
    int slots = cb_optimizer_slots(optimizer);
    size_t most = STATE_FIELDS + 1 + what->count * (1 + (size_t)slots) + what->state_count;
    *l = (layout){.optimizer_steps = cb_optimizer_steps(optimizer)};
    l->entries = cb_calloc(most, sizeof *l->entries);
    l->names = cb_calloc(most, sizeof *l->names);
    if (!l->entries || !l->names)
        return false;
    for (size_t i = 0; i < STATE_FIELDS; i++)
        add_number(l, state_fields[i].name, state_fields[i].dtype, (char *)state + state_fields[i].offset);
    add_number(l, "state.optimizer_steps", CB_I64, &l->optimizer_steps);
    for (size_t i = 0; i < what->count; i++) {
        const cb_named_tensor *p = &what->parameters[i];
        if (!add_tensor(l, cb_format("parameter.%s", p->name), p->tensor))
            return false;
        for (int s = 0; s < slots; s++)
            if (!add_tensor(l, cb_format("optimizer.%s.%s", cb_optimizer_slot_name(optimizer, s), p->name),
                            cb_optimizer_slot(optimizer, i, s)))
                return false;
    }
    for (size_t i = 0; i < what->state_count; i++)
        if (!add_tensor(l, cb_format("trainee.%s", what->state[i].name), what->state[i].tensor))
            return false;
    return true;
}

static void layout_free(layout *l)
{
    for (size_t i = 0; l->names && i < l->count; i++)
        cb_free(l->names[i]);
    cb_free(l->names);
    cb_free(l->entries);
}

/* ---- writing ---- */

bool cb_train_state_write(const char *directory, const cb_trainee *what, cb_optimizer *optimizer, const train_state *state,
                          const char *fingerprint, bool left)
{
    const char *const metadata[] = {"format", "pt", "fingerprint", fingerprint, left ? "left" : NULL, "by the other processes", NULL};
    train_state copy = *state;
    layout l;
    char *path = cb_path_join(directory, FILE_NAME);
    bool ok = layout_make(&l, what, optimizer, &copy) && path && cb_safetensors_write(path, l.entries, l.count, metadata, NULL, NULL);
    layout_free(&l);
    cb_free(path);
    return ok;
}

/* ---- reading ---- */

/* The length of the first item of "a, b, c". */
static size_t item_length(const char *list)
{
    const char *comma = strstr(list, ", ");
    return comma ? (size_t)(comma - list) : strlen(list);
}

static const char *next_item(const char *list, size_t length)
{
    return list[length] ? list + length + 2 : list + length;
}

/* Names the items of two fingerprints that are not the same. */
bool cb_train_refuse_other(const char *what, const char *found, const char *expected)
{
    cb_string f = {0}, e = {0};
    while (*found && *expected) {
        size_t n = item_length(found), m = item_length(expected);
        if (n != m || memcmp(found, expected, n) != 0) {
            cb_string_printf(&f, "%s%.*s", f.length ? ", " : "", (int)n, found);
            cb_string_printf(&e, "%s%.*s", e.length ? ", " : "", (int)m, expected);
        }
        found = next_item(found, n);
        expected = next_item(expected, m);
    }
    cb_fail(CB_ERR_STATE, "%s: found %s; expected %s", what, f.data ? f.data : "more or fewer settings",
            e.data ? e.data : "those of this run");
    cb_string_free(&f);
    cb_string_free(&e);
    return false;
}

static bool refuse_checkpoint(const char *path, const char *found, const char *expected)
{
    char *what = cb_format("%s: the checkpoint is of another run", path);
    if (what)
        cb_train_refuse_other(what, found, expected);
    cb_free(what);
    return false;
}

static bool check_entry(const char *path, const cb_weight_entry *found, const cb_weight_entry *wanted)
{
    if (!found)
        return cb_fail(CB_ERR_FORMAT, "%s: tensor %s is missing", path, wanted->name) == CB_OK;
    if (found->dtype == wanted->dtype && cb_weight_entry_fits(found, wanted->ndim, wanted->shape))
        return true;
    return cb_fail(CB_ERR_FORMAT, "%s: tensor %s: found %s%s, expected %s%s", path, wanted->name, found->type_name,
                   cb_shape_text_nd(found->ndim, found->shape), cb_dtype_name(wanted->dtype),
                   cb_shape_text_nd(wanted->ndim, wanted->shape)) == CB_OK;
}

static bool check_file(const char *path, const cb_safetensors *file, const layout *l, const char *fingerprint)
{
    const char *found = cb_safetensors_metadata(file, "fingerprint");
    if (!found)
        return cb_fail(CB_ERR_FORMAT, "%s: metadata has no fingerprint; this is no checkpoint of a training run", path) == CB_OK;
    if (strcmp(found, fingerprint) != 0)
        return refuse_checkpoint(path, found, fingerprint);
    for (size_t i = 0; i < l->count; i++)
        if (!check_entry(path, cb_safetensors_find(file, l->entries[i].name), &l->entries[i]))
            return false;
    if (cb_safetensors_count(file) != l->count)
        return cb_fail(CB_ERR_FORMAT, "%s: found %zu tensors, expected %zu", path, cb_safetensors_count(file), l->count) == CB_OK;
    return true;
}

/* Updates that an optimiser remembers after so many of the run: those of the last one's phase. */
static int64_t updates_of_phase(const cb_trainee *what, int64_t step)
{
    int64_t first = 0, end;
    return step > 0 && what->phase && what->phase(what, step - 1, &first, &end) ? step - first : step;
}

/* Numbers that no run writes. */
static bool check_state(const char *path, const cb_trainee *what, const train_state *s, int64_t optimizer_steps)
{
    bool sane = s->step >= 0 && s->tokens >= 0 && s->seconds >= 0 && s->best_step >= 0 && s->best_step <= s->step &&
                s->bad_evaluations >= 0 && s->loss_steps >= 0 && s->loss_steps <= s->step &&
                (s->pending == 0 || (s->pending == 1 && s->step > 0)) && s->bad_evaluations <= s->step &&
                optimizer_steps == updates_of_phase(what, s->step);
    return sane || cb_fail(CB_ERR_FORMAT, "%s: the state of step %lld is not one that a run can be in", path, (long long)s->step) == CB_OK;
}

/* Reads the numbers first, into `l`'s own state; tensors only when all is well. */
static bool read_entries(const char *path, const cb_safetensors *file, layout *l, const cb_trainee *what, const train_state *state)
{
    for (int tensors = 0; tensors < 2; tensors++) {
        for (size_t i = 0; i < l->count; i++)
            if ((l->names[i] != NULL) == (tensors == 1) && l->entries[i].size)
                memcpy((void *)(uintptr_t)l->entries[i].data, cb_safetensors_find(file, l->entries[i].name)->data, l->entries[i].size);
        if (!tensors && !check_state(path, what, state, l->optimizer_steps))
            return false;
    }
    return true;
}

bool cb_train_state_read(const char *directory, const cb_trainee *what, cb_optimizer *optimizer, train_state *state,
                         const char *fingerprint)
{
    char *path = cb_path_join(directory, FILE_NAME);
    if (!path || !cb_is_file(path)) {
        cb_free(path);
        return false;
    }
    train_state read = *state;
    layout l = {0};
    cb_safetensors *file = cb_safetensors_open(path);
    bool ok = file && layout_make(&l, what, optimizer, &read) && check_file(path, file, &l, fingerprint) &&
              read_entries(path, file, &l, what, &read);
    if (ok) {
        *state = read;
        cb_optimizer_set_steps(optimizer, l.optimizer_steps);
    }
    layout_free(&l);
    cb_safetensors_close(file);
    cb_free(path);
    return ok;
}

int64_t cb_train_state_left(const char *directory, const char *fingerprint)
{
    char *path = cb_path_join(directory, FILE_NAME);
    cb_safetensors *file = path && cb_is_file(path) ? cb_safetensors_open(path) : NULL;
    const char *found = file ? cb_safetensors_metadata(file, "fingerprint") : NULL;
    const cb_weight_entry *step = file ? cb_safetensors_find(file, "state.step") : NULL;
    int64_t value = -1;
    if (found && strcmp(found, fingerprint) == 0 && cb_safetensors_metadata(file, "left") && step && step->dtype == CB_I64 &&
        step->size == sizeof value)
        memcpy(&value, step->data, sizeof value);
    cb_safetensors_close(file);
    cb_free(path);
    return value;
}
