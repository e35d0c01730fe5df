/* lt_sft.c: Composable Sparse Fine-Tuning (31).  Ansell et al. 2022, arXiv:2110.07560.
 *
 * A task, parts of speech, is learned in English over the English adapter of each family, and judged in languages of which there are no labels, over
 * the language's own adapter.  Languages are learned by masked language modelling on text that the base has not seen; once, for all seeds of the task. */
#include <stdio.h>
#include <string.h>

#include "experiments/encoders.h"
#include "experiments/language.h"
#include "experiments/languages.h"

typedef struct family {
    const char *name; /* of the languages' directories; NULL: there are none */
    const char *kind;
    const char *task[8][2], *language[8][2]; /* options, end with NULL */
    double rate, task_rate;                  /* of languages; of the task, where no grid is tried */
} family;

#define TASK_SHARE     "0.0992" /* as many numbers as MAD-X's adapters have */
#define LANGUAGE_SHARE "0.0562"
#define RANDOM_PLACES                                                                                                                      \
    {                                                                                                                                      \
        "selection", "random"                                                                                                              \
    }

static const family task_alone = {.kind = "lt_sft", .task = {{"density", TASK_SHARE}}};
static const family sparse = {.name = "lt_sft",
                              .kind = "lt_sft",
                              .task = {{"density", TASK_SHARE}},
                              .language = {{"density", LANGUAGE_SHARE}, {"l1_weight", "0.1"}},
                              .rate = 6e-3,
                              .task_rate = 3e-3};
static const family random_places = {.name = "random",
                                     .kind = "lt_sft",
                                     .task = {{"density", TASK_SHARE}, RANDOM_PLACES},
                                     .language = {{"density", LANGUAGE_SHARE}, RANDOM_PLACES, {"l1_weight", "0.1"}},
                                     .rate = 1e-2,
                                     .task_rate = 3e-3};
static const family dense = {.name = "dense",
                             .kind = "lt_sft",
                             .task = {{"density", "1"}, RANDOM_PLACES},
                             .language = {{"density", "1"}, RANDOM_PLACES, {"l1_weight", "0.1"}},
                             .rate = 3e-3,
                             .task_rate = 1e-3};
static const family biases = {.name = "bitfit",
                              .kind = "bitfit",
                              .language = {{"exclude_modules", "lm_head.dense,lm_head.layer_norm,lm_head.decoder"}},
                              .rate = 2e-2};
static const family stacked = {.name = "mad-x",
                               .kind = "bottleneck",
                               .task = {{"reduction_factor", "1"}},
                               .language = {{"reduction_factor", "2"}, {"inv_adapter", "nice"}, {"inv_adapter_reduction_factor", "2"}},
                               .rate = 6e-3};
static const family *const families[] = {&sparse, &random_places, &dense, &biases, &stacked};
enum { FAMILIES = sizeof families / sizeof *families };

static const char *const tags[] = {"ADJ",  "ADP",  "ADV",   "AUX",   "CCONJ", "DET", "INTJ", "NOUN", "NUM",
                                   "PART", "PRON", "PROPN", "PUNCT", "SCONJ", "SYM", "VERB", "X",    NULL};
static const char source[] = "eng", source_folder[] = "en_ewt";
static const struct {
    const char *code, *folder;
} targets[] = {{"ewe", "ewe"}, {"hau", "hau"}, {"swh", "swa"}, {"wol", "wol"}, {"yor", "yor"}, {"zul", "zul"}};
enum { TARGETS = sizeof targets / sizeof *targets, MOST_JUDGED = 200 };

static const double rates[] = {1e-3, 3e-3, 1e-2, 0}, bias_rates[] = {3e-3, 1e-2, 3e-2, 0};
static const cb_measure measures[] = {{"right tags", "%", .scale = 100, .digits = 1},
                                      {"in English", "%", .scale = 100, .digits = 1},
                                      {"Ewe", "%", .scale = 100, .digits = 1, .aside = true},
                                      {"Hausa", "%", .scale = 100, .digits = 1, .aside = true},
                                      {"Swahili", "%", .scale = 100, .digits = 1, .aside = true},
                                      {"Wolof", "%", .scale = 100, .digits = 1, .aside = true},
                                      {"Yoruba", "%", .scale = 100, .digits = 1, .aside = true},
                                      {"Zulu", "%", .scale = 100, .digits = 1, .aside = true},
                                      {0}};
#define RIGHT "right tags"
#define OURS  "LT-SFT"
static const cb_arm arms[] = {{"LT-SFT of the task alone", NULL, rates, &task_alone},
                              {OURS, NULL, NULL, &sparse},
                              {"random places", NULL, NULL, &random_places},
                              {"all places", NULL, NULL, &dense},
                              {"BitFit", NULL, bias_rates, &biases},
                              {"MAD-X", NULL, rates, &stacked},
                              {0}};
static const cb_comparison comparisons[] = {
    {"better than MAD-X with as many numbers", RIGHT, OURS, "MAD-X", 0, "+2.5 (parts of speech)"},
    {"the languages' differences help", RIGHT, OURS, "LT-SFT of the task alone", 0, NULL},
    {"better than random places", RIGHT, OURS, "random places", 0, "better"},
    {"better than biases alone", RIGHT, OURS, "BitFit", 0, "better"},
    {"better than differences everywhere", RIGHT, OURS, "all places", 0, "dense differences interfere"},
    {0}};

/* ---- adapters ---- */

static cb_adapter *make(const char *kind, const char *name, const char *const (*options)[2])
{
    cb_adapter *adapter = cb_adapter_new(kind, name);
    bool ok = adapter;
    for (size_t i = 0; ok && options[i][0]; i++)
        ok = cb_adapter_set(adapter, options[i][0], options[i][1]);
    if (ok)
        return adapter;
    cb_adapter_free(adapter);
    return NULL;
}

/* ---- languages: shared by all seeds ---- */

static char *language_directory(const cb_run *run, const family *f, const char *code)
{
    return cb_format("%s/%s-%s", run->shared, f->name, code);
}

static bool write_lines(const cb_run *run, const char *code, const char *path)
{
    line_list lines = {0};
    if (run->quick)
        return experiment_made_up_text(path, 1);
    bool ok = language_lines(run->data, code, LANGUAGE_ADAPTATION, 1200000, &lines) && line_list_write(&lines, path);
    line_list_free(&lines);
    return ok;
}

static bool learn_language(const cb_run *run, const family *f, const char *code, const char *output)
{
    char *base = encoder_base(run), *text = cb_format("%s/%s.txt", run->shared, code);
    cb_tokenizer *tokenizer = base && text && write_lines(run, code, text) ? cb_tokenizer_load(base) : NULL;
    cb_model *model = tokenizer ? encoder_open_words(base) : NULL;
    cb_adapter *adapter = model ? make(f->kind, code, f->language) : NULL;
    int64_t steps = run->quick ? 2 : 150, phases = f == &sparse ? 2 : 1;
    const encoder_training t = {
        .text = text, .output = output, .steps = phases * steps, .batch_size = run->quick ? 2 : 16, .learning_rate = f->rate, .seed = 1};
    bool ok = adapter && cb_adapter_set_task_type(adapter, NULL) && cb_adapter_begin(adapter, t.steps) &&
              cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), 1) && encoder_adapt(model, adapter, tokenizer, &t);
    cb_adapter_free(adapter);
    cb_model_free(model);
    cb_tokenizer_free(tokenizer);
    cb_free(base);
    cb_free(text);
    return ok;
}

/* What an earlier start has finished is not made again. */
static bool need_language(const cb_run *run, const family *f, const char *code)
{
    char *directory = language_directory(run, f, code), *mark = directory ? cb_format("%s.done", directory) : NULL;
    cb_scope *scope = cb_scope_open();
    bool ok = scope && mark && (cb_is_file(mark) || (learn_language(run, f, code, directory) && cb_file_write(mark, "", 0)));
    cb_scope_close(scope);
    cb_free(directory);
    cb_free(mark);
    return ok;
}

static bool prepare(const cb_run *run)
{
    bool ok = encoder_prepare(run);
    for (size_t i = 0; ok && i < FAMILIES; i++) {
        ok = need_language(run, families[i], source);
        for (size_t k = 0; ok && k < TARGETS; k++)
            ok = need_language(run, families[i], targets[k].code);
    }
    return ok;
}

/* Attached below the task's and frozen; *adapter NULL: this arm has none. */
static bool stand_on(const cb_run *run, const family *f, const char *code, cb_model *model, cb_adapter **adapter)
{
    char *directory = f->name ? language_directory(run, f, code) : NULL;
    const cb_named_tensor *list;
    *adapter = directory ? cb_adapter_load(directory, cb_model_root(model), cb_model_type(model)) : NULL;
    size_t count = *adapter ? cb_adapter_parameters(*adapter, &list) : 0;
    for (size_t i = 0; i < count; i++)
        list[i].tensor->requires_grad = false;
    cb_free(directory);
    return cb_ok();
}

/* ---- the task ---- */

/* Sentences of "word TAG" lines. */
static bool write_sentences(const cb_run *run, const char *folder, const char *part, const char *path)
{
    static const char made_up[] = "the DET\nold ADJ\nriver NOUN\n\na DET\nhouse NOUN\nsaid VERB\nnothing PRON\n\n";
    char *plain = cb_format("%s/crosslingual/pos/%s/%s.txt", run->data ? run->data : "", folder, part), *packed = cb_format("%s.gz", plain);
    size_t length = sizeof made_up - 1;
    const char *from = plain && packed ? cb_is_file(plain) ? plain : packed : NULL;
    char *text = !from ? NULL : run->quick ? cb_strdup(made_up) : cb_archive_read(from, NULL, 0, &length);
    bool ok = text && cb_file_write(path, text, length);
    cb_free(text);
    cb_free(plain);
    cb_free(packed);
    return ok;
}

/* Of the first sentences, 1 for each word whose tag is right, else 0. */
static size_t judge(cb_model *model, const cb_tokenizer *tokenizer, const encoder_task *task, const char *path, double *items, size_t most,
                    double *share)
{
    size_t count = encoder_judge_words(model, tokenizer, task, path, MOST_JUDGED, most, items), right = 0;
    for (size_t i = 0; i < count; i++)
        right += items[i] != 0;
    *share = count ? (double)right / (double)count : 0;
    return count;
}

enum { MOST_WORDS = 20000 };

static bool judge_languages(const cb_run *run, const encoder_task *task, const cb_tokenizer *tokenizer, const char *base,
                            cb_outcome *outcome)
{
    const family *f = run->arm->settings;
    char *path = cb_path_join(run->directory, "judged.txt"), *learned = cb_path_join(run->directory, "task");
    double *items = cb_alloc(TARGETS * MOST_WORDS * sizeof *items), share = 0;
    size_t count = 0, counts[TARGETS] = {0};
    bool ok = path && learned && items;
    for (size_t i = 0; ok && i < TARGETS; i++) {
        cb_model *model = encoder_open(base, task, 1);
        cb_adapter *below = NULL, *adapter = NULL;
        ok = model && stand_on(run, f, targets[i].code, model, &below) &&
             (adapter = cb_adapter_load(learned, cb_model_root(model), cb_model_type(model))) &&
             write_sentences(run, targets[i].folder, "test", path);
        counts[i] = ok ? judge(model, tokenizer, task, path, items + count, MOST_WORDS, &share) : 0;
        ok = counts[i] && cb_outcome_value(outcome, measures[2 + i].name, share);
        count += counts[i];
        cb_adapter_free(adapter);
        cb_adapter_free(below);
        cb_model_free(model);
    }
    for (size_t i = 0, at = 0; ok && i < TARGETS; i++) /* each language counts the same */
        for (size_t k = 0; k < counts[i]; k++)
            items[at++] *= (double)count / (double)(TARGETS * counts[i]);
    ok = ok && cb_outcome_items(outcome, RIGHT, items, count);
    cb_free(items);
    cb_free(path);
    cb_free(learned);
    return ok;
}

/* In English, with what was just trained. */
static bool judge_source(const cb_run *run, cb_model *model, const encoder_task *task, const cb_tokenizer *tokenizer, cb_outcome *outcome)
{
    char *path = cb_path_join(run->directory, "judged.txt");
    double *items = cb_alloc(MOST_WORDS * sizeof *items), share = 0;
    bool ok = path && items && write_sentences(run, source_folder, run->validation ? "dev" : "test", path);
    size_t count = ok ? judge(model, tokenizer, task, path, items, MOST_WORDS, &share) : 0;
    ok = count && cb_outcome_value(outcome, "in English", share);
    if (run->validation) /* the rate is chosen without looking at another language */
        ok = ok && cb_outcome_items(outcome, RIGHT, items, count);
    for (size_t i = 0; ok && run->validation && i < TARGETS; i++)
        ok = cb_outcome_value(outcome, measures[2 + i].name, 0);
    cb_free(items);
    cb_free(path);
    return ok;
}

static bool train_task(const cb_run *run, const encoder_task *task, const cb_tokenizer *tokenizer, const char *base, cb_outcome *outcome)
{
    const family *f = run->arm->settings;
    char *text = cb_path_join(run->directory, "train.txt"), *output = cb_path_join(run->directory, "task");
    cb_adapter *below = NULL, *adapter = NULL;
    int64_t steps = run->quick ? 2 : 200, phases = f == &sparse || f == &task_alone ? 2 : 1;
    const encoder_training t = {.text = text,
                                .output = output,
                                .steps = phases * steps,
                                .batch_size = run->quick ? 2 : 16,
                                .learning_rate = run->value > 0 ? run->value : f->task_rate,
                                .seed = 10 * run->seed + 1};
    cb_model *model = text && output ? encoder_open(base, task, t.seed) : NULL;
    bool ok = model && write_sentences(run, source_folder, "train", text) && stand_on(run, f, source, model, &below) &&
              (adapter = make(f->kind, "task", f->task)) && cb_adapter_fit_labels(adapter, model) && cb_adapter_begin(adapter, t.steps) &&
              cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), t.seed) &&
              encoder_train(model, adapter, tokenizer, task, &t) && judge_source(run, model, task, tokenizer, outcome);
    cb_adapter_free(adapter);
    cb_adapter_free(below);
    cb_model_free(model);
    cb_adapter *saved = NULL; /* as it is saved: without what was not chosen */
    model = ok ? encoder_open(base, task, t.seed) : NULL;
    ok = model && (saved = cb_adapter_load(output, cb_model_root(model), cb_model_type(model)));
    cb_outcome_parameters(outcome, ok ? cb_adapter_parameter_count(saved) : 0);
    cb_adapter_free(saved);
    cb_model_free(model);
    cb_free(text);
    cb_free(output);
    return ok;
}

static bool run_arm(const cb_run *run, cb_outcome *outcome)
{
    cb_string_list labels = {0};
    char *base = encoder_base(run);
    bool ok = base;
    for (size_t i = 0; ok && tags[i]; i++)
        ok = cb_string_list_add(&labels, tags[i]);
    const encoder_task task = {.objective = CB_OBJECTIVE_TOKEN_CLASSIFICATION, .labels = &labels, .sequence_length = 128};
    cb_tokenizer *tokenizer = ok ? cb_tokenizer_load(base) : NULL;
    ok = tokenizer && train_task(run, &task, tokenizer, base, outcome) &&
         (run->validation || judge_languages(run, &task, tokenizer, base, outcome));
    cb_tokenizer_free(tokenizer);
    cb_string_list_free(&labels);
    cb_free(base);
    return ok;
}

const cb_experiment experiment_lt_sft = {
    .name = "lt-sft",
    .system = 31,
    .title = "Composable Sparse Fine-Tuning: a task's sparse difference and a language's, added up",
    .claim =
        "Sparse differences found by lottery tickets, of a task in one language and of languages without labels, are added up and beat "
        "stacked adapters (MAD-X) in zero-shot transfer; chosen places beat random ones and biases.",
    .setting =
        "The zoo's multilingual encoder (5 M parameters, 16 languages).  Languages: masked language modelling on 1.2 MB of text that the "
        "base has not seen, 150 updates of 16 rows of 128 tokens, once for all seeds, at rates that were chosen by held-out Zulu text.  "
        "Task: parts of speech, English Web Treebank (UD), 200 updates of 16 sentences; LT-SFT has as many again for choosing.  Judged on "
        "200 "
        "sentences of each of six languages of MasakhaPOS, which are no part of training.  The task's rate is chosen in English; for the "
        "three of sparse and dense differences over languages it is the one that was best without languages, for the dense one a third of "
        "it.",
    .data = (const char *const[]){"crosslingual", "text-bible", "text-en", NULL},
    .seeds = 3,
    .measures = measures,
    .arms = arms,
    .comparisons = comparisons,
    .prepare = prepare,
    .run = run_arm,
};
