/* entry_table.c: a hash table of names, open addressing, half full at most. */
#include "formats/entry_table.h"

#include <string.h>

/* Part of the hash, so that most misses end here, and one more than the entry's index. */
struct cb_entry_slot {
    uint32_t tag, index;
};

/* Folded products of eight bytes at a time (as in wyhash), from a start that nobody knows in advance: names made to
 * collide would need the addresses of our memory. */
static uint64_t hash_name(const cb_entry_table *table, const char *name)
{
    const uint64_t odd = 0x9E3779B97F4A7C15u;
    uint64_t hash = (uint64_t)(uintptr_t)table->entries ^ (uint64_t)(uintptr_t)table->slots << 20;
    for (size_t left = strlen(name) + 1; left;) {
        uint64_t word = 0;
        size_t step = left < sizeof word ? left : sizeof word;
        memcpy(&word, name, step);
        unsigned __int128 product = (unsigned __int128)(hash ^ word) * odd;
        hash = (uint64_t)product ^ (uint64_t)(product >> 64) ^ odd;
        name += step;
        left -= step;
    }
    return hash;
}

/* The slot of a name, or the free one where it would go. */
static cb_entry_slot *find_slot(const cb_entry_table *table, const char *name, uint32_t *tag)
{
    uint64_t hash = hash_name(table, name);
    *tag = (uint32_t)(hash >> 32);
    for (size_t i = hash & table->mask;; i = (i + 1) & table->mask) {
        cb_entry_slot *s = &table->slots[i];
        if (!s->index || (s->tag == *tag && strcmp(table->entries[s->index - 1].name, name) == 0))
            return s;
    }
}

bool cb_entry_table_grow(cb_entry_table *table)
{
    return cb_grow(&table->entries, &table->capacity, table->count + 1, sizeof *table->entries);
}

bool cb_entry_table_index(cb_entry_table *table, const char *path)
{
    size_t slots = 4;
    while (slots < 2 * table->count)
        slots *= 2;
    table->slots = cb_calloc(slots, sizeof *table->slots);
    if (!table->slots)
        return false;
    table->mask = slots - 1;
    for (size_t i = 0; i < table->count; i++) {
        uint32_t tag;
        cb_entry_slot *s = find_slot(table, table->entries[i].name, &tag);
        if (s->index)
            return cb_fail(CB_ERR_FORMAT, "%s: tensor %.200s: found twice, expected once", path, table->entries[i].name) == CB_OK;
        *s = (cb_entry_slot){tag, (uint32_t)i + 1};
    }
    return true;
}

const cb_weight_entry *cb_entry_table_find(const cb_entry_table *table, const char *name)
{
    uint32_t tag;
    const cb_entry_slot *s = find_slot(table, name, &tag);
    return s->index ? &table->entries[s->index - 1] : NULL;
}

void cb_entry_table_free(cb_entry_table *table)
{
    cb_free(table->slots);
    cb_free(table->entries);
    *table = (cb_entry_table){0};
}
