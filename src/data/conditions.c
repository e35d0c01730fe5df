/* conditions.c: what is known of each record beside its text, numbers that its rows carry (cb_context's conditions).  Documents of one task and
 * with the same numbers are a group, whose number then takes the place of the task's where rows are made: a row is of one group. */
#include <string.h>

#include "data/dataset.h"

static uint64_t hash_of(int32_t task, const float *values, int64_t width)
{
    uint64_t h = (CB_HASH_START ^ (uint64_t)(uint32_t)task) * 0x100000001b3u;
    for (int64_t i = 0; i < width; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        h = (h ^ bits) * 0x100000001b3u;
    }
    return h;
}

static bool is_group(const condition_store *s, int32_t group, int32_t task, const float *values)
{
    return s->tasks[group] == task && memcmp(s->values + group * s->width, values, (size_t)s->width * sizeof *values) == 0;
}

/* The slot of the table that has the group, or is free for it. */
static int32_t *find_slot(const condition_store *s, int32_t task, const float *values)
{
    size_t at = (size_t)hash_of(task, values, s->width) & (s->slot_count - 1);
    while (s->slots[at] >= 0 && !is_group(s, s->slots[at], task, values))
        at = (at + 1) & (s->slot_count - 1);
    return &s->slots[at];
}

/* A table twice as large; at most half of it is used. */
static bool grow_table(condition_store *s)
{
    if (2 * (s->count + 1) <= s->slot_count)
        return true;
    size_t larger = s->slot_count ? 2 * s->slot_count : 64;
    int32_t *slots = cb_alloc(larger * sizeof *slots);
    if (!slots)
        return false;
    memset(slots, 0xff, larger * sizeof *slots); /* -1: free */
    cb_free(s->slots);
    s->slots = slots;
    s->slot_count = larger;
    for (size_t i = 0; i < s->count; i++)
        *find_slot(s, s->tasks[i], s->values + (int64_t)i * s->width) = (int32_t)i;
    return true;
}

int32_t cb_conditions_group(condition_store *s, int32_t task, const float *values, int64_t width, const char *path, int64_t line)
{
    if (!s->begun)
        s->width = width;
    s->begun = true;
    if (width != s->width) {
        cb_fail(CB_ERR_FORMAT, "%s:%lld: conditions: found %lld numbers, expected %lld, as records before have", path, (long long)line,
                (long long)width, (long long)s->width);
        return -1;
    }
    if (!width)
        return task;
    if (!grow_table(s))
        return -1;
    int32_t *slot = find_slot(s, task, values);
    if (*slot >= 0)
        return *slot;
    if (s->count >= INT32_MAX || !cb_grow(&s->tasks, &s->task_capacity, s->count + 1, sizeof *s->tasks) ||
        !cb_grow(&s->values, &s->value_capacity, (s->count + 1) * (size_t)width, sizeof *s->values))
        return -1;
    memcpy(s->values + (int64_t)s->count * width, values, (size_t)width * sizeof *values);
    s->tasks[s->count] = task;
    s->several_tasks |= task != 0;
    *slot = (int32_t)s->count;
    return (int32_t)s->count++;
}

void cb_conditions_free(condition_store *s)
{
    cb_free(s->tasks);
    cb_free(s->values);
    cb_free(s->slots);
    *s = (condition_store){0};
}

uint64_t cb_conditions_hash(const condition_store *s, uint64_t hash, int32_t group)
{
    return s->width ? (hash ^ hash_of(s->tasks[group], s->values + group * s->width, s->width)) * 0x100000001b3u : hash;
}

/* ---- batches ---- */

static void release(cb_tensor **slot)
{
    cb_release(*slot);
    *slot = NULL;
}

bool cb_conditions_ready(const cb_dataset *data, int64_t rows, cb_batch *batch)
{
    const condition_store *s = &data->store->conditions;
    bool tasks = s->width ? s->several_tasks : data->last_task != 0;
    if (!tasks)
        release(&batch->tasks);
    if (!s->width)
        release(&batch->conditions);
    return (!tasks || cb_batch_tensor(&batch->tasks, CB_I32, 1, (int64_t[]){rows})) &&
           (!s->width || cb_batch_tensor(&batch->conditions, CB_F32, 2, (int64_t[]){rows, s->width}));
}

void cb_conditions_fill(const cb_dataset *data, int32_t group, int64_t at, cb_batch *batch)
{
    const condition_store *s = &data->store->conditions;
    if (batch->tasks)
        ((int32_t *)batch->tasks->data)[at] = s->width ? s->tasks[group] : group;
    if (batch->conditions)
        memcpy((float *)batch->conditions->data + at * s->width, s->values + group * s->width, (size_t)s->width * sizeof(float));
}
