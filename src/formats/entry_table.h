/* entry_table.h: the tensors of one file and a table of their names: what readers of weight files share. */
#ifndef CB_FORMATS_ENTRY_TABLE_H
#define CB_FORMATS_ENTRY_TABLE_H

#include "cambium/formats.h"

typedef struct cb_entry_slot cb_entry_slot;

typedef struct cb_entry_table {
    cb_weight_entry *entries;
    size_t count, capacity;
    cb_entry_slot *slots; /* after cb_entry_table_index() */
    size_t mask;          /* slots - 1; a power of two of them */
} cb_entry_table;

/* Makes room for one more entry, which the caller fills and counts. */
bool cb_entry_table_grow(cb_entry_table *table);
/* After the last entry: fills the table of names.  CB_ERR_FORMAT when two tensors have one. */
bool cb_entry_table_index(cb_entry_table *table, const char *path);
const cb_weight_entry *cb_entry_table_find(const cb_entry_table *table, const char *name); /* NULL: none */
void cb_entry_table_free(cb_entry_table *table);

#endif
