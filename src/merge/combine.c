/* combine.c: the table of merging methods, and how tensors are gone through piece by piece. */
#include "merge/combine.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "core/rehearsal.h"
#include "kernels/kernels.h"

static const cb_combine_method methods[] = {
    [CB_MERGE_LINEAR] = {"linear", CB_COMBINE_SPAN, .normalize = true, .fewest = 1},
    [CB_MERGE_TASK_ARITHMETIC] = {"task_arithmetic", CB_COMBINE_CHANGES, .fewest = 1},
    [CB_MERGE_TIES] = {"ties", CB_COMBINE_CHANGES, CB_THIN_MAGNITUDE, true, true, CB_RESCALE_NONE, .fewest = 1},
    [CB_MERGE_DARE_LINEAR] = {"dare_linear", CB_COMBINE_CHANGES, CB_THIN_RANDOM, false, false, CB_RESCALE_DENSITY, .fewest = 1},
    [CB_MERGE_DARE_TIES] = {"dare_ties", CB_COMBINE_CHANGES, CB_THIN_RANDOM, true, false, CB_RESCALE_DENSITY, .fewest = 1},
    [CB_MERGE_DELLA] = {"della", CB_COMBINE_CHANGES, CB_THIN_RANKED, true, true, CB_RESCALE_DENSITY, .fewest = 1},
    [CB_MERGE_DELLA_LINEAR] = {"della_linear", CB_COMBINE_CHANGES, CB_THIN_RANKED, false, false, CB_RESCALE_DENSITY, .fewest = 1},
    [CB_MERGE_BREADCRUMBS] = {"breadcrumbs", CB_COMBINE_CHANGES, CB_THIN_OUTLIERS, .fewest = 1},
    [CB_MERGE_BREADCRUMBS_TIES] = {"breadcrumbs_ties", CB_COMBINE_CHANGES, CB_THIN_OUTLIERS, true, .fewest = 1},
    [CB_MERGE_MAGNITUDE_PRUNE] = {"magnitude_prune", CB_COMBINE_CHANGES, CB_THIN_MAGNITUDE, .fewest = 1},
    [CB_MERGE_SLERP] = {"slerp", CB_COMBINE_SPAN, .fewest = 1, .most = 1},
    [CB_MERGE_NUSLERP] = {"nuslerp", CB_COMBINE_SPAN, .fewest = 2, .most = 2},
    [CB_MERGE_MULTISLERP] = {"multislerp", CB_COMBINE_SPAN, .normalize = true, .fewest = 2},
    [CB_MERGE_KARCHER] = {"karcher", CB_COMBINE_SPAN, .fewest = 1},
    [CB_MERGE_MODEL_STOCK] = {"model_stock", CB_COMBINE_SPAN, .fewest = 2},
    [CB_MERGE_SCE] = {"sce", CB_COMBINE_VALUES, .fewest = 1},
    [CB_MERGE_NEARSWAP] = {"nearswap", CB_COMBINE_VALUES, .fewest = 1, .most = 1},
    [CB_MERGE_RAM] = {"ram", CB_COMBINE_VALUES, .fewest = 1},
    [CB_MERGE_RAMPLUS] = {"ramplus_tl", CB_COMBINE_VALUES, .fewest = 1},
    [CB_MERGE_ARCEE_FUSION] = {"arcee_fusion", CB_COMBINE_VALUES, .fewest = 1, .most = 1},
    [CB_MERGE_LEGO] = {"lego", .fewest = 1}, /* lego.c, of adapters */
};

static const char *const method_names[] = {"linear",
                                           "task_arithmetic",
                                           "ties",
                                           "dare_linear",
                                           "dare_ties",
                                           "della",
                                           "della_linear",
                                           "breadcrumbs",
                                           "breadcrumbs_ties",
                                           "magnitude_prune",
                                           "slerp",
                                           "nuslerp",
                                           "multislerp",
                                           "karcher",
                                           "model_stock",
                                           "sce",
                                           "nearswap",
                                           "ram",
                                           "ramplus_tl",
                                           "lego",
                                           "arcee_fusion",
                                           NULL};
static const char *const normalize_choices[] = {"auto", "true", "false", NULL};
static const char *const rescale_choices[] = {"auto", "none", "density", "norm", NULL};
static const char *const consensus_choices[] = {"total", "frequency", NULL};

#define OPT cb_model_merge_options
const cb_option cb_model_merge_option_table[] = {
    CB_OPT_ENUM(
        OPT, method, CB_MERGE_LINEAR, method_names,
        "how models, or the changes of adapters, are merged; of models, all but linear, karcher and the slerps add changes against MODEL "
        "to MODEL; lego is for adapters"),
    CB_OPT_LIST(
        OPT, density, "1", "X,...",
        "share of a model's changes that stay (ties, dare, della, breadcrumbs, magnitude_prune): one number, or one for each model"),
    CB_OPT_FLOAT(OPT, lambda, 1, -1e6, 1e6, "factor of all changes together (methods with a density, task_arithmetic)"),
    CB_OPT_ENUM(OPT, normalize, 0, normalize_choices,
                "divide by the sum of the weights; auto: linear (not of adapters), ties, della, multislerp do"),
    CB_OPT_ENUM(OPT, rescale, 0, rescale_choices,
                "make up for changes that were left out: by the share that stays (density; as in the papers and in PEFT), so that absolute "
                "values have the same sum as before (norm; as in mergekit), or not; auto: density for dare and della, else none"),
    CB_OPT_ENUM(OPT, majority_sign_method, 0, consensus_choices,
                "which sign wins where changes disagree (ties): that of their sum, or that of more models"),
    CB_OPT_FLOAT(OPT, epsilon, 0.15, 0, 0.5,
                 "della: the smallest change of a row stays with density - epsilon, the largest with density + epsilon"),
    CB_OPT_FLOAT(OPT, gamma, 0.01, 0, 1, "breadcrumbs: share of the changes, the largest, that is left out"),
    CB_OPT_FLOAT(OPT, t, 0.5, -1e6, 1e6, "slerp: 0 is MODEL, 1 the other; nearswap: changes up to this size are taken over whole"),
    CB_OPT_FLOAT(OPT, select_topk, 1, 0, 1, "sce: share of the elements, those that vary most between models, that is merged"),
    CB_OPT_BOOL(OPT, filter_wise, false, "model_stock: an angle for each row instead of one for the tensor"),
    CB_OPT_BOOL(OPT, changes, false, "nuslerp, multislerp: turn the changes against MODEL instead of the weights"),
    CB_OPT_INT(OPT, max_iter, 10, 1, 10000, "karcher: steps at most"),
    CB_OPT_FLOAT(OPT, tol, 1e-5, 0, 1, "karcher: how small a step ends it"),
    CB_OPT_FLOAT(OPT, ram_epsilon, 1e-5, 0, 1e6, "ram: changes up to this size are none"),
    CB_OPT_FLOAT(OPT, ram_r, 0.1, 0, 1e6, "ramplus_tl: how much changes of one model alone grow with its share of shared ones"),
    CB_OPT_FLOAT(OPT, ram_alpha, 0.2, 0, 1e6, "ramplus_tl: the largest such share that counts"),
    CB_OPT_BOOL(OPT, ignore_tokenizers, false, "merge models whose tokenizers differ; the result has MODEL's"),
    CB_OPT_END};
#undef OPT

const cb_combine_method *cb_combine_method_of(const cb_model_merge_options *options)
{
    return &methods[options->method];
}

bool cb_combine_densities(const cb_model_merge_options *options, size_t count, double *densities)
{
    const cb_string_list *list = &options->density;
    if (list->count != 1 && list->count != count)
        return cb_fail(CB_ERR_ARGUMENT, "density: found %zu numbers, expected one, or one for each of the %zu that are merged", list->count,
                       count) == CB_OK;
    for (size_t i = 0; i < count; i++) {
        const char *text = list->items[list->count == 1 ? 0 : i];
        char *end;
        double d = densities[i] = strtod(text, &end), e = options->epsilon;
        if (end == text || *end || !(d >= 0 && d <= 1))
            return cb_fail(CB_ERR_ARGUMENT, "density: found \"%.40s\", expected a number from 0 to 1", text) == CB_OK;
        if (cb_combine_method_of(options)->thinning == CB_THIN_RANKED && d > 0 && d < 1 && (d + e >= 1 || d - e <= 0))
            return cb_fail(CB_ERR_ARGUMENT,
                           "epsilon: found %g with density %g, expected density - epsilon and density + epsilon between 0 and 1", e,
                           d) == CB_OK;
    }
    return true;
}

/* ---- pieces ---- */

/* False: some are no finite numbers. */
static bool read_piece(const cb_weight_entry *entry, int64_t first, int64_t count, bool check, float *to)
{
    const char *from = (const char *)entry->data + (size_t)first * cb_dtype_size(entry->dtype);
    cbk_convert(from, entry->dtype, to, CB_F32, count);
    return !check || cbk_all_finite(entry->dtype, from, count);
}

static void take_base_off(const float *base, float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        x[i] -= base[i];
}

static bool rehearse(const cb_combine_job *job, bool write)
{
    const cb_versions *v = job->v;
    if (!job->base_unused)
        cb_rehearsal_read(v->base->data, v->base->size);
    for (size_t i = 0; i < v->count; i++)
        cb_rehearsal_read(v->others[i]->data, v->others[i]->size);
    bool ok = true;
    for (int64_t left = write ? job->count : 0, n; ok && left; left -= n) {
        n = left < job->stretch * job->piece ? left : job->stretch * job->piece;
        ok = job->sink(job->user, job->out, (size_t)n * cb_dtype_size(job->dtype));
    }
    return ok;
}

typedef struct visiting {
    const cb_combine_job *job;
    bool changes, write;
    cb_combine_visitor *visit;
    void *user;
} visiting;

/* One piece, by the calling thread; false: something is no finite number. */
static bool visit_piece(const visiting *v, int64_t index)
{
    const cb_combine_job *job = v->job;
    size_t count = job->v->count, size = (size_t)job->piece;
    float *room = job->room + (size_t)omp_get_thread_num() * (count + 3) * size, *others[CB_MERGE_MOST_MODELS];
    cb_combine_piece piece = {.index = index, .first = index * job->step, .base = room, .others = others};
    bool finite = true;
    piece.count = job->count - piece.first < job->piece ? job->count - piece.first : job->piece;
    if (!job->base_unused)
        read_piece(job->v->base, piece.first, piece.count, false, piece.base);
    for (size_t i = 0; i < count; i++) {
        others[i] = room + (i + 1) * size;
        /* methods may leave a change that is no number out, and hide it */
        finite = read_piece(job->v->others[i], piece.first, piece.count, v->write, others[i]) && finite;
        if (v->changes)
            take_base_off(piece.base, others[i], piece.count);
    }
    piece.out = room + (count + 1) * size;
    piece.spare = room + (count + 2) * size;
    v->visit(job, &piece, v->user);
    if (!v->write)
        return true;
    char *out = job->out + (size_t)(index % job->stretch) * size * cb_dtype_size(job->dtype);
    cbk_convert(piece.out, CB_F32, out, job->dtype, piece.count);
    return finite && cbk_all_finite(CB_F32, piece.out, piece.count);
}

/* The pieces of a stretch; then what they became is written. */
static bool visit_stretch(const visiting *v, int64_t first, int64_t end)
{
    const cb_combine_job *job = v->job;
    bool finite = true;
#pragma omp parallel for schedule(static) num_threads(job->threads) reduction(&& : finite) if (job->threads > 1)
    for (int64_t p = first; p < end; p++)
        finite = visit_piece(v, p) && finite;
    if (!finite)
        return cb_fail(CB_ERR_NUMERIC,
                       "merge: tensor %s: found NaN or an infinity in a model or in the result, expected numbers; nothing is kept",
                       job->v->base->name) == CB_OK;
    int64_t stop = end * job->piece < job->count ? end * job->piece : job->count;
    return !v->write || job->sink(job->user, job->out, (size_t)(stop - first * job->piece) * cb_dtype_size(job->dtype));
}

bool cb_combine_visit(const cb_combine_job *job, bool changes, bool write, cb_combine_visitor *visit, void *user)
{
    if (cb_rehearsing())
        return rehearse(job, write);
    if (cb_interrupted())
        return cb_fail(CB_ERR_INTERRUPTED, "interrupted while merging %s; nothing is kept", job->v->base->name) == CB_OK;
    visiting v = {.job = job, .changes = changes, .write = write, .visit = visit, .user = user};
    int64_t stretch = write ? job->stretch : job->pieces;
    bool ok = true;
    for (int64_t first = 0; ok && first < job->pieces; first += stretch)
        ok = visit_stretch(&v, first, first + stretch < job->pieces ? first + stretch : job->pieces);
    return ok;
}

/* ---- a tensor ---- */

bool cb_combine(const cb_model_merge_options *options, const cb_versions *v, cb_dtype dtype, cb_combine_sink *sink, void *user)
{
    static bool (*const families[])(cb_combine_job *) = {cb_combine_span, cb_combine_changes, cb_combine_values};
    const cb_combine_method *method = cb_combine_method_of(options);
    cb_combine_job job = {
        .options = options, .method = method, .v = v, .count = v->rows * v->columns, .dtype = dtype, .sink = sink, .user = user};
    if (!job.count)
        return true;
    bool by_row = method->thinning == CB_THIN_RANKED || options->method == CB_MERGE_ARCEE_FUSION ||
                  (options->method == CB_MERGE_MODEL_STOCK && options->filter_wise);
    job.piece = by_row ? v->columns : job.count < CB_COMBINE_PIECE ? job.count : CB_COMBINE_PIECE;
    job.step = job.piece;
    job.pieces = (job.count + job.piece - 1) / job.piece;
    job.threads = job.pieces < cb_threads() ? (int)job.pieces : cb_threads();
    job.key = cb_hash_text(CB_HASH_START, v->base->name);
    job.stretch = job.piece < CB_COMBINE_STRETCH ? CB_COMBINE_STRETCH / job.piece : 1;
    job.stretch = job.stretch < job.pieces ? job.stretch : job.pieces;
    job.out = cb_alloc((size_t)(job.stretch * job.piece) * cb_dtype_size(dtype));
    job.room = cb_alloc((size_t)job.threads * (v->count + 3) * (size_t)job.piece * sizeof *job.room);
    bool ok = job.room && job.out && families[method->family](&job);
    cb_free(job.room);
    cb_free(job.out);
    return ok;
}
