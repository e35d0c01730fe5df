/* label_shares.c: which share of the places of label maps each label has. */
#include <string.h>

#include "cambium/priors.h"
#include "data/images.h"

void cb_label_shares_free(cb_label_shares *s)
{
    for (size_t i = 0; s->names && i < s->maps; i++)
        cb_free(s->names[i]);
    cb_free(s->names);
    cb_free(s->shares);
    *s = (cb_label_shares){0};
}

/* Of one map; it is left out where no place counts. */
static bool add_map(const image_store *store, int64_t item, cb_label_shares *s)
{
    cb_image map = {0};
    int64_t counts[UINT8_MAX + 1] = {0}, places = 0;
    bool ok = cb_image_map_labels(store, item, &map);
    for (int64_t i = 0; ok && i < map.width * map.height; i++)
        counts[map.pixels[i]]++;
    for (int64_t k = 0; k < s->labels; k++)
        places += counts[k + 1];
    cb_image_free(&map);
    if (!ok || !places)
        return ok;
    for (int64_t k = 0; k < s->labels; k++)
        s->shares[(int64_t)s->maps * s->labels + k] = (double)counts[k + 1] / (double)places;
    s->names[s->maps] = cb_strdup(store->items[item].name);
    return s->names[s->maps++];
}

bool cb_label_shares_read(const cb_image_data_options *options, cb_label_shares *s)
{
    *s = (cb_label_shares){0};
    image_store *store = cb_calloc(1, sizeof *store);
    if (!store)
        return false;
    store->references = 1;
    bool ok = cb_image_maps_alone(store, options);
    s->labels = (int64_t)store->labels.count;
    if (ok) {
        s->names = cb_calloc(store->count, sizeof *s->names);
        s->shares = cb_calloc(store->count * store->labels.count, sizeof *s->shares);
        ok = s->names && s->shares;
    }
    for (size_t i = 0; ok && i < store->count; i++)
        ok = add_map(store, (int64_t)i, s);
    if (ok && !s->maps)
        ok = cb_fail(CB_ERR_FORMAT, "%s: found no place in %zu label maps that counts", options->data.items[0], store->count) == CB_OK;
    cb_image_store_free(store);
    if (!ok)
        cb_label_shares_free(s);
    return ok;
}
