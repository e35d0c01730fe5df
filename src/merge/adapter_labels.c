/* adapter_labels.c: what adapters that are merged into one were trained for.  Heads of other labels have other outputs under the same
 * numbers, so adapters with labels must agree on them; those for words go with any. */
#include <string.h>

#include "merge/adapters.h"

static bool same_names(const cb_string_list *a, const cb_string_list *b)
{
    bool same = a->count == b->count;
    for (size_t i = 0; same && i < a->count; i++)
        same = strcmp(a->items[i], b->items[i]) == 0;
    return same;
}

static CB_COLD bool refuse(const cb_adapter_merge *m, const char *path, const cb_adapter_labels *labels)
{
    enum { MOST = 12 };
    const cb_string_list *lists[] = {&labels->names, &m->labels.names};
    cb_string texts[2] = {{0}, {0}};
    for (int l = 0; l < 2; l++)
        for (size_t i = 0; i < lists[l]->count && i <= MOST; i++)
            cb_string_printf(&texts[l], "%s%.60s", i ? ", " : "", i < MOST ? lists[l]->items[i] : "...");
    const char *found = texts[0].data ? texts[0].data : "", *expected = texts[1].data ? texts[1].data : "";
    if (labels->objective != m->labels.objective)
        cb_fail(CB_ERR_ARGUMENT, "%s: was trained for another task than %s, expected the same", path, m->sources[m->labels_of].path);
    else
        cb_fail(CB_ERR_ARGUMENT, "%s: labels: found %s, expected %s as in %s", path, found, expected, m->sources[m->labels_of].path);
    for (int l = 0; l < 2; l++)
        cb_string_free(&texts[l]);
    return false;
}

bool cb_adapter_merge_labels(cb_adapter_merge *m)
{
    bool ok = true;
    for (size_t i = 0; ok && i < m->count; i++) {
        cb_adapter_labels own;
        bool found = cb_adapter_labels_read(m->sources[i].path, &own);
        ok = cb_ok();
        if (ok && found && !m->labels.names.count) {
            m->labels = own;
            m->labels_of = i;
            continue;
        }
        if (ok && found && (own.objective != m->labels.objective || !same_names(&own.names, &m->labels.names)))
            ok = refuse(m, m->sources[i].path, &own);
        cb_string_list_free(&own.names);
    }
    return ok;
}

cb_model *cb_adapter_merge_base(const cb_adapter_merge *m, const char *base)
{
    cb_model_options options = {.dtype = CB_F32};
    if (m->labels.names.count) {
        options.head = cb_objective_head(m->labels.objective);
        options.labels = (int64_t)m->labels.names.count;
        options.head_follows = true;
    }
    return cb_model_load_with(base, options);
}
