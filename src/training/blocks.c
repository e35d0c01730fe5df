/* blocks.c: state as a list of pieces of memory, for snapshots, rollbacks and checkpoints. */
#include "cambium/adapt.h"

bool cb_block_add(cb_block_list *list, cb_block block)
{
    if (!cb_grow(&list->items, &list->capacity, list->count + 1, sizeof *list->items))
        return false;
    list->items[list->count++] = block;
    return true;
}

void cb_block_list_free(cb_block_list *list)
{
    cb_free(list->items);
    *list = (cb_block_list){0};
}
