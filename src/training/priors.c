/* priors.c: what is known beforehand of the shares that labels have of images: one vector for all of them, with tags that say which labels an image
 * has, or each image's own.  K labels. */
#include "cambium/priors.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cambium/formats.h"

#define OPT cb_prior_options
const cb_option cb_prior_option_table[] = {
    CB_OPT_LIST(OPT, prior, NULL, "X,...",
                "of segmentation: the share of an image that each label is expected to have, in the order of labels"),
    CB_OPT_LIST(
        OPT, prior_maps, NULL, "PATH,...",
        "the same, as the mean over label maps of a few images: a directory of maps, or of images and annotations, or a table; read as "
        "--label-values, --ignore-index, --mask-threshold and --map-suffix say"),
    CB_OPT_STRING(
        OPT, tags, NULL, "FILE",
        "a table (.csv, .tsv, .jsonl) of images (--image-column) and the labels that each has (--label-column, with commas between "
        "them): others get a share of 0"),
    CB_OPT_LIST(
        OPT, true_size_maps, NULL, "PATH,...",
        "label maps of the target itself, each the prior of its own image: what could be done at best, and no adaptation without labels"),
    CB_OPT_INT(OPT, prior_background, 0, -1, 254, "with tags: the label that takes the rest (-1: none; shares are brought to a sum of 1)"),
    CB_OPT_END};
#undef OPT

void cb_priors_free(cb_priors *priors)
{
    cb_free(priors->shares);
    *priors = (cb_priors){0};
}

/* ---- one vector ---- */

static bool read_numbers(const cb_string_list *numbers, int64_t labels, double *shares)
{
    double sum = 0;
    if ((int64_t)numbers->count != labels)
        return cb_fail(CB_ERR_ARGUMENT, "prior: found %zu numbers, expected the shares of %lld labels", numbers->count,
                       (long long)labels) == CB_OK;
    for (int64_t k = 0; k < labels; k++) {
        char *end;
        shares[k] = strtod(numbers->items[k], &end);
        if (end == numbers->items[k] || *end || !(shares[k] >= 0) || shares[k] > 1)
            return cb_fail(CB_ERR_ARGUMENT, "prior: found \"%s\", expected shares from 0 to 1", numbers->items[k]) == CB_OK;
        sum += shares[k];
    }
    const double allowed = 0.01;
    if (fabs(sum - 1) > allowed)
        return cb_fail(CB_ERR_ARGUMENT, "prior: found shares that add up to %.4g, expected 1", sum) == CB_OK;
    for (int64_t k = 0; k < labels; k++)
        shares[k] /= sum;
    return true;
}

/* Means over all maps, or (present) over those that have the label. */
static void average(const cb_label_shares *s, bool present, double *shares)
{
    for (int64_t k = 0; k < s->labels; k++) {
        double sum = 0, maps = 0;
        for (size_t i = 0; i < s->maps; i++) {
            double share = s->shares[(int64_t)i * s->labels + k];
            sum += share;
            maps += share > 0 || !present;
        }
        shares[k] = maps > 0 ? sum / maps : 0;
    }
}

static bool read_maps(const cb_string_list *paths, const cb_string_list *labels, const cb_image_data_options *maps, cb_label_shares *shares)
{
    cb_image_data_options o = *maps;
    o.data = *paths;
    o.labels = labels;
    o.labels_may_differ = false;
    return cb_label_shares_read(&o, shares);
}

static bool mean_of_maps(const cb_string_list *paths, const cb_string_list *labels, const cb_image_data_options *maps, bool present,
                         double *shares)
{
    cb_label_shares s = {0};
    bool ok = read_maps(paths, labels, maps, &s);
    if (ok)
        average(&s, present, shares);
    cb_label_shares_free(&s);
    return ok;
}

/* ---- images by their names ---- */

/* What a file is called, without directories and ending; of a map without what map_suffix has in the place of the ending. */
typedef struct stem {
    const char *name;
    size_t length;
} stem;

static stem stem_of(const char *path, const char *suffix)
{
    const char *name = cb_path_base(path), *dot = strrchr(name, '.');
    size_t all = strlen(name), cut = suffix ? strlen(suffix) : 0;
    if (cut && cut < all && cb_ends_with(name, suffix))
        return (stem){name, all - cut};
    return (stem){name, dot && dot > name ? (size_t)(dot - name) : all};
}

static bool same_stem(stem a, stem b)
{
    return a.length == b.length && memcmp(a.name, b.name, a.length) == 0;
}

/* Whether one path is the other's end. */
static bool same_path(const char *a, const char *b)
{
    const char *end = strlen(a) < strlen(b) ? a : b, *path = end == a ? b : a;
    size_t before = strlen(path) - strlen(end);
    return cb_ends_with(path, end) && (!before || path[before - 1] == '/');
}

/* Which of these names is an image's: the only one of its stem, or of several the one of its path.  -1: none is, or several are. */
static int64_t find_name(char *const *names, size_t count, const char *suffix, const char *image, const char *from, const char *what)
{
    size_t stems = 0, paths = 0;
    int64_t of_stem = 0, of_path = 0;
    for (size_t i = 0; i < count; i++) {
        if (!same_stem(stem_of(names[i], suffix), stem_of(image, NULL)))
            continue;
        stems++;
        of_stem = (int64_t)i;
        if (same_path(names[i], image)) {
            paths++;
            of_path = (int64_t)i;
        }
    }
    if (stems == 1 || paths == 1)
        return stems == 1 ? of_stem : of_path;
    if (stems)
        cb_fail(CB_ERR_FORMAT, "%s: found %zu %ss for %s, expected one: of several directories' files of one name paths say which", from,
                stems, what, image);
    else
        cb_fail(CB_ERR_FORMAT, "%s: found no %s for %s among %zu, expected one of its name", from, what, image, count);
    return -1;
}

/* ---- tags ---- */

/* A bit for each image and label. */
typedef struct tags {
    cb_string_list names; /* of images */
    bool *has;            /* (names, K) */
    size_t capacity;
} tags;

static bool tag(const char *path, const cb_record_text *record, const cb_string_list *labels, bool *has)
{
    for (size_t i = 0; i < record->labels->count; i++) {
        size_t k = 0;
        while (k < labels->count && strcmp(labels->items[k], record->labels->items[i]) != 0)
            k++;
        if (k == labels->count)
            return cb_fail(CB_ERR_FORMAT, "%s:%lld: found label %s, expected one of the model's %zu, as %s", path, (long long)record->line,
                           record->labels->items[i], labels->count, labels->items[labels->count - 1]) == CB_OK;
        has[k] = true;
    }
    return true;
}

static bool read_tags(const char *path, const cb_string_list *labels, const cb_image_data_options *o, tags *t)
{
    cb_string_list paths = {0}, columns = {0};
    cb_record_text record;
    char *file = cb_format("text=%s", o->image_column ? o->image_column : "file"),
         *label = cb_format("label=%s", o->label_column ? o->label_column : "label");
    bool ok =
        file && label && cb_string_list_add(&paths, path) && cb_string_list_add(&columns, file) && cb_string_list_add(&columns, label);
    cb_records *records =
        ok ? cb_records_open(&paths, &(cb_records_options){.form = CB_RECORDS_LABELLED, .several_labels = true, .columns = &columns})
           : NULL;
    ok = records;
    while (ok && cb_records_next(records, &record)) {
        ok = cb_string_list_add(&t->names, record.text) && cb_grow(&t->has, &t->capacity, t->names.count * labels->count, sizeof *t->has);
        bool *row = ok ? t->has + (t->names.count - 1) * labels->count : NULL;
        if (row)
            memset(row, 0, labels->count * sizeof *row);
        ok = row && tag(path, &record, labels, row);
    }
    ok = ok && cb_ok();
    cb_records_close(records);
    cb_string_list_free(&paths);
    cb_string_list_free(&columns);
    cb_free(file);
    cb_free(label);
    return ok;
}

/* What an image's tags make of the shares of labels that are there; false: nothing. */
static bool shares_by_tags(const double *shares, const bool *has, int64_t labels, int64_t background, double *out)
{
    double sum = 0;
    for (int64_t k = 0; k < labels; k++) {
        out[k] = k != background && has[k] ? shares[k] : 0;
        sum += out[k];
    }
    if (background >= 0 && sum < 1) {
        out[background] = 1 - sum;
        sum = 1;
    }
    for (int64_t k = 0; k < labels && sum > 0; k++)
        out[k] /= sum;
    return sum > 0;
}

static bool tagged(const cb_dataset *target, const tags *t, const double *shares, const cb_prior_options *o, cb_priors *p)
{
    double row[UINT8_MAX];
    bool ok = true;
    for (int64_t i = 0; ok && i < p->rows; i++) {
        char *source = cb_dataset_row_source(target, i);
        int64_t at = source ? find_name(t->names.items, t->names.count, NULL, source, o->tags, "line") : -1;
        ok = at >= 0 && (shares_by_tags(shares, t->has + at * p->labels, p->labels, o->prior_background, row) ||
                         cb_fail(CB_ERR_FORMAT, "%s: found no label of %s that the prior gives a share, and no prior_background", o->tags,
                                 source) == CB_OK);
        for (int64_t k = 0; ok && k < p->labels; k++)
            p->shares[i * p->labels + k] = (float)row[k];
        cb_free(source);
    }
    return ok;
}

static bool with_tags(const cb_dataset *target, const cb_string_list *labels, const cb_prior_options *o, const cb_image_data_options *maps,
                      const double *shares, cb_priors *p)
{
    tags t = {0};
    bool ok = read_tags(o->tags, labels, maps, &t) && tagged(target, &t, shares, o, p);
    cb_string_list_free(&t.names);
    cb_free(t.has);
    return ok;
}

/* ---- each image's own ---- */

static bool find_own(const cb_label_shares *s, const char *image, const char *suffix, bool *taken, float *row)
{
    int64_t at = find_name(s->names, s->maps, suffix, image, "true_size_maps", "map");
    if (at < 0)
        return false;
    if (taken[at])
        return cb_fail(CB_ERR_FORMAT, "true_size_maps: found %s for two images, the second %s, expected one for each", s->names[at],
                       image) == CB_OK;
    taken[at] = true;
    for (int64_t k = 0; k < s->labels; k++)
        row[k] = (float)s->shares[at * s->labels + k];
    return true;
}

static bool own_sizes(const cb_dataset *target, const cb_string_list *labels, const cb_prior_options *o, const cb_image_data_options *maps,
                      cb_priors *p)
{
    cb_label_shares s = {0};
    bool *taken = read_maps(&o->true_size_maps, labels, maps, &s) ? cb_calloc(s.maps, sizeof *taken) : NULL;
    bool ok = taken;
    for (int64_t i = 0; ok && i < p->rows; i++) {
        char *source = cb_dataset_row_source(target, i);
        ok = source && find_own(&s, source, maps->map_suffix, taken, p->shares + i * p->labels);
        cb_free(source);
    }
    cb_label_shares_free(&s);
    cb_free(taken);
    return ok;
}

/* ---- all of it ---- */

static bool check(const cb_prior_options *o, int64_t labels)
{
    int ways = (o->prior.count > 0) + (o->prior_maps.count > 0) + (o->true_size_maps.count > 0);
    if (ways > 1)
        return cb_fail(CB_ERR_ARGUMENT, "prior: found several, expected one of prior, prior_maps and true_size_maps") == CB_OK;
    if (o->tags && !o->prior.count && !o->prior_maps.count)
        return cb_fail(CB_ERR_ARGUMENT, "tags: found no shares of labels that are there, expected prior or prior_maps beside them") ==
               CB_OK;
    if (ways && (labels < 2 || labels > UINT8_MAX))
        return cb_fail(CB_ERR_ARGUMENT, "prior: found a model of %lld labels, expected 2 to %d", (long long)labels, UINT8_MAX) == CB_OK;
    return o->prior_background < labels || cb_fail(CB_ERR_ARGUMENT, "prior_background: is %lld, expected less than %lld labels",
                                                   (long long)o->prior_background, (long long)labels) == CB_OK;
}

bool cb_priors_make(const cb_dataset *target, const cb_string_list *labels, const cb_prior_options *o, const cb_image_data_options *maps,
                    cb_priors *p)
{
    double shares[UINT8_MAX] = {0};
    *p = (cb_priors){.rows = cb_dataset_rows(target), .labels = (int64_t)labels->count};
    bool given = o->prior.count || o->prior_maps.count || o->true_size_maps.count;
    if (!check(o, p->labels))
        return false;
    if (!given)
        return true;
    p->shares = cb_calloc((size_t)(p->rows * p->labels), sizeof *p->shares);
    bool ok = p->shares;
    if (ok && o->prior.count)
        ok = read_numbers(&o->prior, p->labels, shares);
    if (ok && o->prior_maps.count)
        ok = mean_of_maps(&o->prior_maps, labels, maps, o->tags != NULL, shares);
    if (ok && o->true_size_maps.count)
        ok = own_sizes(target, labels, o, maps, p);
    else if (ok && o->tags)
        ok = with_tags(target, labels, o, maps, shares, p);
    else
        for (int64_t i = 0; ok && i < p->rows * p->labels; i++)
            p->shares[i] = (float)shares[i % p->labels];
    if (!ok)
        cb_priors_free(p);
    return ok;
}
