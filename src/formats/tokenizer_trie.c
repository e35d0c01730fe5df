/* tokenizer_trie.c: tries of byte strings.  A trie is built at once from all its strings, level by level, so that the children
 * of a node stand side by side and finding one is a search through at most 256 bytes. */
#include <stdlib.h>
#include <string.h>

#include "formats/tokenizer_parts.h"

/* The keys that pass through a node. */
typedef struct range {
    uint32_t begin, end, depth;
} range;

typedef struct builder {
    range *ranges; /* per node */
    size_t range_capacity, node_capacity, label_capacity;
} builder;

static int by_text(const void *a_, const void *b_)
{
    const cb_trie_key *a = a_, *b = b_;
    int order = memcmp(a->text, b->text, a->length < b->length ? a->length : b->length);
    if (order)
        return order;
    if (a->length != b->length)
        return a->length < b->length ? -1 : 1;
    return (a->value > b->value) - (a->value < b->value);
}

static bool add_node(cb_trie *trie, builder *b, uint8_t label, range keys)
{
    size_t need = trie->count + 1;
    if (!cb_grow(&trie->nodes, &b->node_capacity, need, sizeof *trie->nodes) ||
        !cb_grow(&trie->labels, &b->label_capacity, need, sizeof *trie->labels) ||
        !cb_grow(&b->ranges, &b->range_capacity, need, sizeof *b->ranges))
        return false;
    trie->nodes[trie->count] = (cb_trie_node){.value = -1};
    trie->labels[trie->count] = label;
    b->ranges[trie->count++] = keys;
    return true;
}

/* Takes the strings that end at the node and makes its children. */
static bool open_node(cb_trie *trie, builder *b, const cb_trie_key *keys, size_t node)
{
    range r = b->ranges[node];
    while (r.begin < r.end && keys[r.begin].length == r.depth)
        trie->nodes[node].value = keys[r.begin++].value;
    trie->nodes[node].first = (uint32_t)trie->count;
    while (r.begin < r.end) {
        uint8_t label = (uint8_t)keys[r.begin].text[r.depth];
        uint32_t end = r.begin + 1;
        while (end < r.end && (uint8_t)keys[end].text[r.depth] == label)
            end++;
        if (!add_node(trie, b, label, (range){r.begin, end, r.depth + 1}))
            return false;
        trie->nodes[node].count++;
        r.begin = end;
    }
    return true;
}

bool cb_trie_build(cb_trie *trie, cb_trie_key *keys, size_t count)
{
    *trie = (cb_trie){0};
    if (!count)
        return true;
    qsort(keys, count, sizeof *keys, by_text);
    uint32_t begin = 0;
    while (begin < count && keys[begin].length == 0)
        begin++;
    builder b = {0};
    bool ok = add_node(trie, &b, 0, (range){begin, (uint32_t)count, 0});
    for (size_t node = 0; ok && node < trie->count; node++)
        ok = trie->count < UINT32_MAX - 256 ? open_node(trie, &b, keys, node)
                                            : (cb_fail(CB_ERR_UNSUPPORTED, "a vocabulary of too much text"), false);
    for (uint32_t i = 0; ok && i < trie->nodes[0].count; i++)
        trie->root[trie->labels[trie->nodes[0].first + i]] = trie->nodes[0].first + i;
    cb_free(b.ranges);
    return ok;
}

void cb_trie_free(cb_trie *trie)
{
    cb_free(trie->nodes);
    cb_free(trie->labels);
    *trie = (cb_trie){0};
}

size_t cb_trie_longest(const cb_trie *trie, uint32_t node, const char *text, size_t length, int32_t *value)
{
    size_t longest = 0;
    for (size_t i = 0; i < length && (node = cb_trie_child(trie, node, (uint8_t)text[i]));) {
        i++;
        if (trie->nodes[node].value >= 0) {
            longest = i;
            *value = trie->nodes[node].value;
        }
    }
    return longest;
}
