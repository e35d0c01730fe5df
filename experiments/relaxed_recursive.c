/* relaxed_recursive.c: Relaxed Recursive Transformers (07).  Bae et al. 2025, arXiv:2410.20672.
 *
 * A model of six layers becomes three that are looped over twice, and is trained on for a two-hundredth of the tokens that it was trained on.  What
 * the paper compares: how the shared layers start, whether the tie is relaxed, how the relaxation starts and of which rank, distillation, a
 * model of three layers from nothing, and the original trained as long. */
#include <stdio.h>
#include <string.h>

#include "experiments/language.h"

enum { LENGTH = 256, BATCH = 4, STEPS = 60, QUICK_LENGTH = 32, QUICK_STEPS = 3, ROWS = 96, QUICK_ROWS = 4 };

typedef struct plan {
    int start;      /* cb_tie_start; -1: not tied */
    int64_t rank;   /* of the relaxation */
    bool zero;      /* which starts from nothing */
    bool mean;      /* of norms, as in the paper, instead of multiplying them into what follows */
    bool still;     /* nothing is trained */
    bool fresh;     /* three layers from nothing */
    double distill; /* weight of the divergence from the original */
    double exits;   /* weight of the earlier round's */
} plan;

static const double grid[] = {1e-4, 3e-4, 1e-3, 0}, high[] = {1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 0}, low[] = {3e-5, 1e-4, 3e-4, 1e-3, 0};
static const plan original = {.start = -1, .rank = 0, .still = true}, further = {.start = -1, .rank = 0},
                  reduced = {.start = -1, .rank = 0, .fresh = true};
static const plan from_random = {.start = CB_TIE_RANDOM, .rank = 0}, from_lower = {.start = CB_TIE_LOWER, .rank = 0},
                  from_average = {.start = CB_TIE_AVERAGE, .rank = 0}, from_steps = {.start = CB_TIE_STEPWISE, .rank = 0};
static const plan relaxed8 = {.start = CB_TIE_AVERAGE, .rank = 8}, relaxed32 = {.start = CB_TIE_AVERAGE, .rank = 32},
                  relaxed96 = {.start = CB_TIE_AVERAGE, .rank = 96};
static const plan relaxed_zero = {.start = CB_TIE_AVERAGE, .rank = 32, .zero = true},
                  relaxed_mean = {.start = CB_TIE_AVERAGE, .rank = 32, .mean = true};
static const plan relaxed_steps = {.start = CB_TIE_STEPWISE, .rank = 32},
                  relaxed_distilled = {.start = CB_TIE_AVERAGE, .rank = 32, .distill = 1};
static const plan with_exits = {.start = CB_TIE_AVERAGE, .rank = 32, .exits = 0.1};

static const cb_measure measures[] = {
    {"loss", "nats a token", .digits = 3, .lower = true}, {"loss of the first round", "nats a token", .digits = 3, .lower = true}, {0}};
static const cb_arm arms[] = {{"original", .settings = &original},
                              {"original, trained on", NULL, low, &further},
                              {"three layers from nothing", NULL, high, &reduced},
                              {"recursive, random", NULL, high, &from_random},
                              {"recursive, lower", NULL, high, &from_lower},
                              {"recursive, average", NULL, high, &from_average},
                              {"recursive, stepwise", NULL, grid, &from_steps},
                              {"relaxed, rank 8", NULL, high, &relaxed8},
                              {"relaxed, rank 32", NULL, grid, &relaxed32},
                              {"relaxed, rank 96", NULL, low, &relaxed96},
                              {"relaxed, rank 32, from zero", NULL, high, &relaxed_zero},
                              {"relaxed, rank 32, norms averaged", NULL, high, &relaxed_mean},
                              {"relaxed, rank 32, stepwise", NULL, grid, &relaxed_steps},
                              {"relaxed, rank 32, distilled", NULL, grid, &relaxed_distilled},
                              {"relaxed, rank 32, early exits", NULL, grid, &with_exits},
                              {0}};
#define LOSS "loss"
static const cb_comparison comparisons[] = {
    {"recursive beats a small model from nothing", LOSS, "recursive, stepwise", "three layers from nothing", 0, "+13.5 points of accuracy"},
    {"stepwise is the best start of a plain tie", LOSS, "recursive, stepwise", "recursive, average", 0, "shown in figure 5"},
    {"average beats random", LOSS, "recursive, average", "recursive, random", 0, "shown in figure 5"},
    {"relaxing helps", LOSS, "relaxed, rank 32", "recursive, average", 0, "58.4 against about 57 at rank 512"},
    {"more rank is better", LOSS, "relaxed, rank 96", "relaxed, rank 8", 0, "monotone"},
    {"the decomposition is a better start than zero", LOSS, "relaxed, rank 32", "relaxed, rank 32, from zero", 0, "up to +6.5 points"},
    {"relaxed: average beats stepwise", LOSS, "relaxed, rank 32", "relaxed, rank 32, stepwise", 0, "shown in figure 6"},
    {"norms multiplied in beat their mean (ours)", LOSS, "relaxed, rank 32", "relaxed, rank 32, norms averaged", 0, "no difference"},
    {"distillation helps", LOSS, "relaxed, rank 32, distilled", "relaxed, rank 32", 0, "+1.7 points with more tokens"},
    {"relaxed is as good as the original trained on", LOSS, "relaxed, rank 96", "original, trained on", -0.05, "58.4 against 58.6"},
    {"early exits make the first round usable", "loss of the first round", "relaxed, rank 32, early exits", "relaxed, rank 32", 0,
     "52.6 to 48.0 points at the first exit"},
    {"early exits do not hurt the last round", LOSS, "relaxed, rank 32, early exits", "relaxed, rank 32", -0.02,
     "aggressive weights: no loss"},
    {0}};

/* ---- data ---- */

static bool write_training_text(const char *data, const char *path)
{
    static const char *const files[] = {"text-en/en-fiction.txt.xz", "text-en/en-nonfiction.txt.xz"};
    const size_t most = 3 << 20;
    cb_writer *w = cb_writer_open(path);
    bool ok = w;
    for (int i = 0; ok && i < 2; i++) {
        size_t length = 0;
        char *from = cb_path_join(data, files[i]), *text = from ? cb_archive_read(from, NULL, 0, &length) : NULL;
        size_t end = text && length > most ? most : length;
        while (text && end > 0 && text[end - 1] != '\n')
            end--;
        ok = text && cb_writer_write(w, text, end);
        cb_free(text);
        cb_free(from);
    }
    if (ok)
        return cb_writer_commit(w);
    cb_writer_abort(w);
    return false;
}

/* "The/at Fulton/np-tl" without the tags. */
static bool put_untagged(cb_writer *w, char *text)
{
    for (char *word = strtok(text, " \t\n"); word; word = strtok(NULL, " \t\n")) {
        char *slash = strrchr(word, '/');
        if (slash && !cb_writer_printf(w, "%.*s%s", (int)(slash - word), word, strcmp(slash, "/.") == 0 ? "\n" : " "))
            return false;
    }
    return cb_writer_printf(w, "\n");
}

/* The Brown corpus, which the base has not seen: the odd texts of each genre are for validation, the even ones for the test. */
static bool write_judging_text(const char *data, const char *path, int parity)
{
    char *archive = cb_path_join(data, "text-corpora/nltk/brown.zip");
    cb_writer *w = archive ? cb_writer_open(path) : NULL;
    bool ok = w;
    for (const char *genre = "abcdefghjklmnpr"; ok && *genre; genre++)
        for (int i = parity; ok && i <= 6; i += 2) {
            char member[32];
            size_t length = 0;
            snprintf(member, sizeof member, "brown/c%c%02d", *genre, i);
            char *text = cb_archive_read(archive, member, 1 << 20, &length);
            ok = text && put_untagged(w, text);
            cb_free(text);
        }
    cb_free(archive);
    if (ok)
        return cb_writer_commit(w);
    cb_writer_abort(w);
    return false;
}

static bool prepare(const cb_run *run)
{
    char *train = cb_path_join(run->shared, "train.txt"), *test = cb_path_join(run->shared, "test.txt"),
         *validation = cb_path_join(run->shared, "validation.txt");
    bool ok = train && test && validation;
    if (ok && run->data && !run->quick)
        ok =
            write_training_text(run->data, train) && write_judging_text(run->data, validation, 1) && write_judging_text(run->data, test, 2);
    else if (ok)
        ok = experiment_made_up_text(train, 1) && experiment_made_up_text(validation, 2) && experiment_made_up_text(test, 3);
    cb_free(train);
    cb_free(test);
    cb_free(validation);
    return ok;
}

/* ---- models ---- */

/* The base's config with three layers, and new values. */
static cb_model *three_layers(const cb_run *run, const char *base)
{
    char *from = cb_path_join(base, "config.json"), *path = cb_path_join(run->directory, "config.json");
    size_t length = 0;
    char *text = from && path ? cb_file_read(from, 1 << 20, &length) : NULL;
    char *number = text ? strstr(text, "\"num_hidden_layers\": 6") : NULL;
    bool ok = number || cb_fail(CB_ERR_FORMAT, "%s: expected six layers", base) == CB_OK;
    if (number)
        number[strlen("\"num_hidden_layers\": ")] = '3';
    ok = ok && cb_file_write(path, text, length);
    cb_model *model = ok ? cb_model_create(path, run->seed + 1, (cb_model_options){0}) : NULL;
    cb_free(text);
    cb_free(path);
    cb_free(from);
    return model;
}

typedef struct subject {
    cb_model *model;
    cb_adapter *relaxation; /* or NULL */
} subject;

static bool make_subject(const cb_run *run, const char *base, subject *s)
{
    const plan *p = run->arm->settings;
    *s = (subject){0};
    if (p->fresh)
        return (s->model = three_layers(run, base)) != NULL;
    if (p->start < 0)
        return (s->model = cb_model_load(base, .keep_weights = true)) != NULL;
    cb_tie_options o = {.start = p->start, .rank = p->rank, .svd = !p->zero, .fold_norms = !p->mean, .seed = run->seed + 1};
    char *tied = cb_path_join(run->directory, "tied"), *relaxation = cb_path_join(run->directory, "tied/relaxation");
    bool ok = tied && relaxation && (cb_is_directory(tied) || cb_tie_layers(base, tied, &o));
    s->model = ok ? cb_model_load(tied, .keep_weights = true) : NULL;
    if (s->model && p->rank)
        s->relaxation = cb_adapter_load(relaxation, cb_model_root(s->model), cb_model_type(s->model));
    cb_free(tied);
    cb_free(relaxation);
    return cb_ok();
}

static bool train(const cb_run *run, const char *base, const cb_tokenizer *tokenizer, const subject *s)
{
    const plan *p = run->arm->settings;
    char *text = cb_path_join(run->shared, "train.txt");
    cb_distillation d = {.weight = p->distill, .exit_weight = p->exits, .teacher = p->distill > 0 ? cb_model_load(base) : NULL};
    const experiment_training t = {.text = text,
                                   .output = run->directory,
                                   .steps = run->quick ? QUICK_STEPS : STEPS,
                                   .batch_size = BATCH,
                                   .sequence_length = run->quick ? QUICK_LENGTH : LENGTH,
                                   .learning_rate = run->value,
                                   .seed = run->seed + 1,
                                   .whole = true,
                                   .distillation = p->distill > 0 || p->exits > 0 ? &d : NULL};
    bool ok = text && cb_ok() && experiment_train(s->model, s->relaxation, tokenizer, &t);
    cb_model_free(d.teacher);
    cb_free(text);
    return ok;
}

static bool judge(const cb_run *run, const subject *s, const cb_tokenizer *tokenizer, cb_outcome *outcome)
{
    double losses[ROWS];
    char *text = cb_path_join(run->shared, run->validation ? "validation.txt" : "test.txt");
    int64_t length = run->quick ? QUICK_LENGTH : LENGTH;
    size_t rows = run->quick ? QUICK_ROWS : ROWS, n = text ? experiment_losses(s->model, tokenizer, text, length, false, rows, losses) : 0;
    bool ok = n && cb_outcome_items(outcome, "loss", losses, n);
    if (ok && cb_model_exits(s->model) > 1 && !run->validation) {
        n = experiment_losses(s->model, tokenizer, text, length, true, rows, losses);
        ok = n && cb_outcome_items(outcome, "loss of the first round", losses, n);
    }
    const plan *p = run->arm->settings;
    cb_outcome_parameters(
        outcome, p->still ? 0 : cb_model_parameter_count(s->model) + (s->relaxation ? cb_adapter_parameter_count(s->relaxation) : 0));
    cb_free(text);
    return ok;
}

static bool run_arm(const cb_run *run, cb_outcome *outcome)
{
    char *base = experiment_base();
    cb_tokenizer *tokenizer = base ? cb_tokenizer_load(base) : NULL;
    subject s = {0};
    bool ok = tokenizer && make_subject(run, base, &s) && (((const plan *)run->arm->settings)->still || train(run, base, tokenizer, &s)) &&
              judge(run, &s, tokenizer, outcome);
    cb_adapter_free(s.relaxation);
    cb_model_free(s.model);
    cb_tokenizer_free(tokenizer);
    cb_free(base);
    return ok;
}

static const char *const data[] = {"text-en", "text-corpora", NULL};

const cb_experiment experiment_relaxed_recursive = {
    .name = "relaxed-recursive",
    .system = 7,
    .title = "Relaxed Recursive Transformers",
    .claim = "A pre-trained model whose layers are tied into a loop, relaxed by LoRA for each depth that starts from the decomposition of "
             "what was tied "
             "away, and trained on for a little, is much better than a small model from nothing and nearly as good as the original.",
    .setting = "models/sprig-5m (six layers, 12.3 M tokens) to three layers looped twice; trained on for 61,000 tokens of fiction and "
               "non-fiction, all "
               "parameters, the learning rate of each arm chosen on validation texts; judged on 96 rows of 256 tokens of the Brown corpus.",
    .data = data,
    .seeds = 3,
    .measures = measures,
    .arms = arms,
    .comparisons = comparisons,
    .prepare = prepare,
    .run = run_arm};
