/* maps.c: what evaluation says of the places of images: maps of labels or numbers as files, and how well each label is found. */
#include "cli/cli.h"
#include "core/json.h"

bool cli_maps_see(void *maps_, int64_t row, const cb_image *map)
{
    const cli_maps *maps = maps_;
    return cb_rehearsing() || cb_dataset_write_map(maps->data, row, map, maps->directory);
}

static bool has_places(cb_class_counts c)
{
    return c.true_positives + c.false_positives + c.false_negatives > 0;
}

void cli_maps_json(json_t *object, const cb_predictions *p, const cb_string_list *names)
{
    json_t *iou = p->counts ? json_object() : NULL, *dice = iou ? json_object() : NULL;
    bool ok = dice;
    for (size_t i = 0; ok && i < names->count; i++) {
        cb_class_score score = cb_class_score_of(p->counts[i]);
        bool has = has_places(p->counts[i]);
        ok = cb_json_put(iou, names->items[i], has ? json_real(score.iou) : json_null()) &&
             cb_json_put(dice, names->items[i], has ? json_real(score.f1) : json_null());
    }
    if (ok && cb_json_put(object, "iou", json_incref(iou)))
        cb_json_put(object, "label_dice", json_incref(dice));
    json_decref(iou);
    json_decref(dice);
}

void cli_maps_print(const cb_predictions *p, const cb_string_list *names)
{
    for (size_t i = 0; p->counts && i < names->count; i++)
        if (has_places(p->counts[i])) {
            cb_class_score score = cb_class_score_of(p->counts[i]);
            char *field = cb_format("  %s", names->items[i]);
            cli_field(field ? field : "", "iou %.4f, dice %.4f", score.iou, score.f1);
            cb_free(field);
        }
}
