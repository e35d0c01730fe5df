/* label_tasks.c: see label_tasks.h. */
#define _GNU_SOURCE /* memrchr */
#include "experiments/label_tasks.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "experiments/language.h"

static const label_task tasks[] = {
    {"sst2", "\nIs this film good or bad? It is", {" good", " bad"}},
    {"polarity", "\nWould you go and see it? It sounds", {" good", " bad"}},
    {"mpqa", "\nIs this said in favour or against? The feeling is", {" good", " bad"}},
    {"cr", "\nWhat does the customer say of it? It is", {" good", " bad"}},
    {"subj", "\nIs this a fact or a view? It is a", {" fact", " view"}},
    {"qc", "\nWhat does this ask for? For a", {" reason", " thing", " person", " place", " number", " short"}},
    {"cola", "\nIs this sentence sound? The sentence is", {" sound", " wrong"}},
};

const label_task *label_task_find(const char *name)
{
    for (size_t i = 0; i < sizeof tasks / sizeof *tasks; i++)
        if (strcmp(tasks[i].name, name) == 0)
            return &tasks[i];
    cb_fail(CB_ERR_ARGUMENT, "there is no task %s", name);
    return NULL;
}

/* ---- examples ---- */

/* Latin-1 to UTF-8, without blanks at the ends. */
static bool put_sentence(cb_string *out, const char *text, size_t length)
{
    while (length > 0 && strchr(" \t\r\n", text[length - 1]))
        length--;
    bool utf8 = cb_utf8_valid(text, length, NULL);
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        const char pair[2] = {(char)(0xC0 | c >> 6), (char)(0x80 | (c & 0x3F))};
        if (!(utf8 || c < 0x80 ? cb_string_append(out, text + i, 1) : cb_string_append(out, pair, 2)))
            return false;
    }
    return true;
}

static bool add(label_part *part, const label_task *task, const char *text, size_t length, size_t label)
{
    cb_string prompt = {0};
    if (!cb_grow(&part->items, &part->capacity, part->count + 1, sizeof *part->items) || !put_sentence(&prompt, text, length) ||
        !cb_string_puts(&prompt, task->question)) {
        cb_string_free(&prompt);
        return false;
    }
    part->items[part->count++] = (label_example){prompt.data, label};
    return true;
}

/* Calls `line` for each line that is not empty. */
typedef bool line_reader(label_part *part, const label_task *task, const char *line, size_t length, size_t label);
static bool read_lines(label_part *part, const label_task *task, const char *directory, const char *file, const char *member,
                       line_reader *line, size_t label)
{
    char *path = cb_path_join(directory, file);
    size_t length = 0;
    char *text = path ? cb_archive_read(path, member, 0, &length) : NULL;
    bool ok = text;
    for (char *at = text, *end; ok && at < text + length; at = end + 1) {
        end = memchr(at, '\n', (size_t)(text + length - at));
        end = end ? end : text + length;
        ok = end - at < 4 || line(part, task, at, (size_t)(end - at), label);
    }
    cb_free(text);
    cb_free(path);
    return ok;
}

/* "1 a sentence": 1 is good, 0 bad. */
static bool digit_line(label_part *part, const label_task *task, const char *line, size_t length, size_t label)
{
    (void)label;
    return add(part, task, line + 2, length - 2, *line == '0');
}

static bool whole_line(label_part *part, const label_task *task, const char *line, size_t length, size_t label)
{
    return add(part, task, line, length, label);
}

/* "DESC:manner How did ..." */
static bool question_line(label_part *part, const label_task *task, const char *line, size_t length, size_t label)
{
    static const char *const classes[] = {"DESC", "ENTY", "HUM", "LOC", "NUM", "ABBR"};
    const char *blank = memchr(line, ' ', length);
    for (label = 0; blank && label < 6; label++)
        if (strncmp(line, classes[label], strlen(classes[label])) == 0)
            return add(part, task, blank + 1, length - (size_t)(blank + 1 - line), label);
    return true;
}

/* "gj04\t1\t\ta sentence": 1 is sound. */
static bool cola_line(label_part *part, const label_task *task, const char *line, size_t length, size_t label)
{
    const char *first = memchr(line, '\t', length), *last = memrchr(line, '\t', length);
    (void)label;
    return !first || first == last || add(part, task, last + 1, length - (size_t)(last + 1 - line), first[1] == '0');
}

/* Made-up sentences: a word tells the label. */
static bool made_up(label_data *d)
{
    static const char *const names[] = {"the dog", "a king", "my house", "the river", "that book", "her horse"};
    label_part *const parts[] = {&d->train, &d->validation, &d->test};
    cb_rng rng = {.seed = 1};
    size_t labels = 0;
    while (labels < LABEL_WORDS && d->task->words[labels])
        labels++;
    for (int p = 0; p < 3; p++)
        for (int i = 0; i < 40; i++) {
            size_t label = (size_t)cb_rng_below(&rng, labels);
            char text[128];
            int length = snprintf(text, sizeof text, "%s was %s", names[cb_rng_below(&rng, 6)], d->task->words[label] + 1);
            if (!add(parts[p], d->task, text, (size_t)length, label))
                return false;
        }
    return true;
}

static void shuffle(label_part *part)
{
    cb_rng rng = {.seed = 20240229};
    for (size_t i = part->count; i > 1; i--) {
        size_t k = (size_t)cb_rng_below(&rng, i);
        label_example other = part->items[k];
        part->items[k] = part->items[i - 1];
        part->items[i - 1] = other;
    }
}

/* Moves the last `count` examples of one part to another. */
static bool move(label_part *from, label_part *to, size_t count)
{
    if (!cb_grow(&to->items, &to->capacity, to->count + count, sizeof *to->items))
        return false;
    memcpy(to->items + to->count, from->items + from->count - count, count * sizeof *to->items);
    to->count += count;
    from->count -= count;
    return true;
}

static void shorten(label_part *part, size_t most)
{
    while (part->count > most)
        cb_free(part->items[--part->count].prompt);
}

static bool read_task(label_data *d, const char *data)
{
    const label_task *t = d->task;
    const char *name = t->name;
    char *folder = cb_path_join(data, "text-corpora");
    label_part *train = &d->train;
    bool ok = folder;
    if (!ok) {
    } else if (strcmp(name, "sst2") == 0) {
        ok = read_lines(train, t, folder, "sst/stsa.binary.train.gz", NULL, digit_line, 0) &&
             read_lines(&d->validation, t, folder, "sst/stsa.binary.dev", NULL, digit_line, 0) &&
             read_lines(&d->test, t, folder, "sst/stsa.binary.test", NULL, digit_line, 0);
    } else if (strcmp(name, "mpqa") == 0 || strcmp(name, "cr") == 0) {
        ok = read_lines(train, t, folder, *name == 'm' ? "sst/mpqa.all" : "sst/custrev.all", NULL, digit_line, 0);
    } else if (strcmp(name, "subj") == 0) {
        ok = read_lines(train, t, folder, "nltk/subjectivity.zip", "subjectivity/plot.tok.gt9.5000", whole_line, 0) &&
             read_lines(train, t, folder, "nltk/subjectivity.zip", "subjectivity/quote.tok.gt9.5000", whole_line, 1);
    } else if (strcmp(name, "polarity") == 0) {
        ok = read_lines(train, t, folder, "nltk/sentence_polarity.zip", "sentence_polarity/rt-polarity.pos", whole_line, 0) &&
             read_lines(train, t, folder, "nltk/sentence_polarity.zip", "sentence_polarity/rt-polarity.neg", whole_line, 1);
    } else if (strcmp(name, "qc") == 0) {
        ok = read_lines(train, t, folder, "nltk/qc.zip", "qc/train.txt", question_line, 0) &&
             read_lines(&d->test, t, folder, "nltk/qc.zip", "qc/test.txt", question_line, 0);
    } else {
        ok = read_lines(train, t, folder, "glue/CoLA/train.tsv", NULL, cola_line, 0) &&
             read_lines(&d->test, t, folder, "glue/CoLA/dev.tsv", NULL, cola_line, 0);
    }
    cb_free(folder);
    return ok;
}

bool label_data_load(label_data *d, const char *task, const char *data, size_t most_train, size_t most_judged)
{
    *d = (label_data){.task = label_task_find(task)};
    if (!d->task || !(data ? read_task(d, data) : made_up(d)))
        return false;
    shuffle(&d->train);
    shuffle(&d->validation);
    shuffle(&d->test);
    size_t tenth = d->train.count / 10;
    bool ok = (d->test.count || move(&d->train, &d->test, tenth)) && (d->validation.count || move(&d->train, &d->validation, tenth));
    shorten(&d->train, most_train);
    shorten(&d->validation, most_judged);
    shorten(&d->test, most_judged);
    return ok;
}

void label_data_free(label_data *d)
{
    label_part *const parts[] = {&d->train, &d->validation, &d->test};
    for (int p = 0; p < 3; p++) {
        shorten(parts[p], 0);
        cb_free(parts[p]->items);
    }
    *d = (label_data){0};
}

static bool put_examples(const label_data *d, cb_writer *w)
{
    bool ok = true;
    for (size_t i = 0; ok && i < d->train.count; i++) {
        const label_example *e = &d->train.items[i];
        json_t *line = json_pack("{s:s, s:s}", "prompt", e->prompt, "completion", d->task->words[e->label]);
        char *text = line ? json_dumps(line, JSON_COMPACT) : NULL;
        ok = text ? cb_writer_printf(w, "%s\n", text) : cb_fail(CB_ERR_MEMORY, "no memory for JSON") == CB_OK;
        free(text);
        json_decref(line);
    }
    return ok;
}

bool label_data_write(const label_data *d, const char *path)
{
    cb_writer *w = cb_writer_open(path);
    if (w && put_examples(d, w))
        return cb_writer_commit(w);
    cb_writer_abort(w);
    return false;
}

/* ---- a base that knows the label words ---- */

const char *const label_warm_tasks[LABEL_WARM_TASKS] = {"sst2", "mpqa", "cr", "subj", "qc", "cola"};

static size_t warm_examples(const cb_run *run)
{
    return run->quick ? 10 : 200;
}

/* Which sentence has which label. */
static void deal_labels(label_part *part)
{
    cb_rng rng = {.seed = 46};
    for (size_t i = part->count; i > 1; i--) {
        size_t k = (size_t)cb_rng_below(&rng, i), label = part->items[k].label;
        part->items[k].label = part->items[i - 1].label;
        part->items[i - 1].label = label;
    }
}

static bool write_warm_text(const cb_run *run, bool words_alone, const char *path)
{
    cb_writer *w = cb_writer_open(path);
    bool ok = w;
    for (int t = 0; ok && t < LABEL_WARM_TASKS; t++) {
        label_data d;
        ok = label_data_load(&d, label_warm_tasks[t], run->data, warm_examples(run), 1);
        if (ok && words_alone)
            deal_labels(&d.train);
        ok = ok && put_examples(&d, w);
        label_data_free(&d);
    }
    if (ok)
        return cb_writer_commit(w);
    cb_writer_abort(w);
    return false;
}

char *label_warmed(const cb_run *run)
{
    return cb_path_join(run->shared, "base");
}

bool label_warm_base(const cb_run *run, bool words_alone)
{
    char *text = cb_path_join(run->shared, "warm.jsonl"), *output = label_warmed(run), *base = experiment_base();
    cb_tokenizer *tokenizer = text && output && base ? cb_tokenizer_load(base) : NULL;
    cb_model *model = tokenizer ? cb_model_load(base, .keep_weights = true) : NULL;
    const experiment_training t = {.text = text,
                                   .output = output,
                                   .steps = run->quick ? 2 : 120,
                                   .batch_size = 8,
                                   .sequence_length = 128,
                                   .learning_rate = 1e-3,
                                   .seed = 1,
                                   .whole = true};
    bool ok = model && write_warm_text(run, words_alone, text) && experiment_train(model, NULL, tokenizer, &t);
    cb_model_free(model);
    cb_tokenizer_free(tokenizer);
    cb_free(base);
    cb_free(output);
    cb_free(text);
    return ok;
}

bool label_data_unseen(label_data *d, const cb_run *run, const char *task, size_t most_train, size_t most_judged)
{
    size_t seen = warm_examples(run);
    if (!label_data_load(d, task, run->data, most_train + seen, most_judged))
        return false;
    for (size_t i = 0; i < seen && d->train.count > seen; i++) {
        cb_free(d->train.items[0].prompt);
        d->train.items[0] = d->train.items[--d->train.count];
    }
    return true;
}

/* ---- judging ---- */

bool label_judge(cb_model *model, const cb_tokenizer *tokenizer, const label_data *d, const label_part *part, double *items)
{
    cb_choice_question *questions = cb_calloc(part->count, sizeof *questions);
    size_t *chosen = cb_calloc(part->count, sizeof *chosen), words = 0;
    while (words < LABEL_WORDS && d->task->words[words])
        words++;
    for (size_t i = 0; questions && i < part->count; i++)
        questions[i] = (cb_choice_question){
            .prompt = part->items[i].prompt, .choices = d->task->words, .count = words, .answer = part->items[i].label};
    cb_choice_result result;
    bool ok = questions && chosen && cb_evaluate_choices(model, tokenizer, questions, part->count, 16, chosen, &result);
    for (size_t i = 0; ok && i < part->count; i++)
        items[i] = chosen[i] == part->items[i].label;
    cb_free(questions);
    cb_free(chosen);
    return ok;
}
