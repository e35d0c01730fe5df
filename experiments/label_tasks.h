/* label_tasks.h: sentence classification as language modelling: a sentence, a question, and a label word to choose. */
#ifndef EXPERIMENTS_LABEL_TASKS_H
#define EXPERIMENTS_LABEL_TASKS_H

#include "experiments/experiments.h"

enum { LABEL_WORDS = 8 };

typedef struct label_task {
    const char *name;               /* "sst2" */
    const char *question;           /* follows the sentence */
    const char *words[LABEL_WORDS]; /* with the blank before them; ends with NULL */
} label_task;
/* sst2, polarity (films), mpqa, cr (customers' reviews): good or bad; subj: fact or view; qc: what a question asks for; cola: is it English. */
const label_task *label_task_find(const char *name);

typedef struct label_example {
    char *prompt; /* the sentence and the question */
    size_t label;
} label_example;
/* What the data sets call test is the test part; where there is none, fixed tenths of a fixed shuffle are validation and test. */
typedef struct label_part {
    label_example *items;
    size_t count, capacity;
} label_part;
typedef struct label_data {
    const label_task *task;
    label_part train, validation, test;
} label_data;

/* At most so many of each part; `data` NULL: made-up sentences with words that tell. */
bool label_data_load(label_data *d, const char *task, const char *data, size_t most_train, size_t most_judged);
void label_data_free(label_data *d);
/* JSONL of prompt and completion for training. */
bool label_data_write(const label_data *d, const char *path);

/* ---- a base that knows the label words ---- */

enum { LABEL_WARM_TASKS = 6 };
extern const char *const label_warm_tasks[LABEL_WARM_TASKS]; /* all but polarity */

/* For an experiment's `prepare`: models/sprig-5m, all of it trained for a little on the first examples of those tasks, so that an adapter need
 * not learn which words are labels.  `words_alone`: their labels are dealt out anew within each task, so that nothing else is learned. */
bool label_warm_base(const cb_run *run, bool words_alone);
char *label_warmed(const cb_run *run); /* its directory; free with cb_free() */
/* A task's data without the examples that the base was warmed with. */
bool label_data_unseen(label_data *d, const cb_run *run, const char *task, size_t most_train, size_t most_judged);

/* ---- judging ---- */

/* 1 for each example that the model labels rightly, else 0; items (part->count). */
bool label_judge(cb_model *model, const cb_tokenizer *tokenizer, const label_data *d, const label_part *part, double *items);

#endif
