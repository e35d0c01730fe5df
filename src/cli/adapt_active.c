/* adapt_active.c: `cambium adapt active`: a person labels a few rows of a new domain in each of several rounds.
 *
 * A call takes the answers of the round before, trains, asks the next questions and ends; where it stands lies in the work directory (active.h). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

typedef struct settings {
    char *work, *kind, *tokenizer;
    cb_string_list target, test_data, labels_data;
    int trained, dtype;
    int64_t seed;
    cli_corpus_settings corpus;
    cb_train_options train;
    cb_active_options active;
} settings;

enum { TRAINED_ALL, TRAINED_ADAPTER, TRAINED_BASE, TRAINED_HEAD };
static const char *const trained_names[] = {"all", "adapter", "base", "head", NULL};
static const cb_model_part parts[] = {CB_PART_ALL, CB_PART_ALL, CB_PART_BASE, CB_PART_HEAD};

static const cb_option table[] = {
    CB_OPT_LIST(settings, target, NULL, "FILE,...", "data of the new domain; labels are not read, should there be any"),
    CB_OPT_STRING(settings, work, NULL, "DIR", "questions, answers, and what was learned of each round"),
    CB_OPT_LIST(settings, test_data, NULL, "FILE,...",
                "labelled data of the new domain to measure after each round: nothing is chosen by it"),
    CB_OPT_LIST(settings, labels_data, NULL, "FILE,...",
                "the target with its labels, which then answer in place of a person: all rounds run, one after another"),
    CB_OPT_ENUM(settings, trained, TRAINED_ALL, trained_names,
                "what is trained: all weights; an adapter with the head; the base model without the head; the head alone"),
    CB_OPT_STRING(settings, kind, CLI_DEFAULT_KIND, "NAME", "adapter kind"),
    CB_OPT_STRING(settings, tokenizer, NULL, "PATH", "tokenizer.json or its directory; without it the model's own"),
    CB_OPT_ENUM(settings, dtype, 1, cli_dtype_names, "how activations are kept and products are computed; what is trained is f32"),
    CB_OPT_INT(settings, seed, 0, 0, 9e15, "seed of initial values, order of the data, dropout and random queries"),
    CB_OPT_END};

static const cli_group groups[] = {{"Run", table, 0},
                                   {"Method", cb_active_option_table, offsetof(settings, active)},
                                   {"Task", cli_task_table, offsetof(settings, corpus.asked)},
                                   {"Rows", cb_data_option_table, offsetof(settings, corpus.text)},
                                   {"Images", cli_image_table, offsetof(settings, corpus.images)},
                                   {"Images as rows", cb_image_data_option_table, offsetof(settings, corpus.images.data)},
                                   {"Augmentation of images", cb_augment_option_table, offsetof(settings, corpus.images.augment)},
                                   {"Training of a round", cb_train_option_table, offsetof(settings, train)},
                                   {0}};

static const cb_string_list no_maps;

typedef struct active_run {
    cli_call *call;
    settings *s;
    const char *source; /* the model's directory */
    cb_tokenizer *tokenizer;
    cb_active *active;
    cb_dataset *test;
    int32_t *answers; /* of --labels-data: of each row of the pool; NULL: a person answers */
    bool asked;       /* by this call, so that there are no answers yet */
} active_run;

/* ---- the model at hand ---- */

/* What was learned last, or the source; an adapter stays to be loaded. */
static cb_model *open_model(const settings *s, cli_task *task, cli_task_settings *asked, const char *source, const char *learned)
{
    bool adapter = s->trained == TRAINED_ADAPTER;
    const char *path = learned && !adapter ? learned : source;
    cb_model_options options = {.dtype = cli_dtype(s->dtype), .keep_weights = !adapter};
    return cli_task_open(task, asked, path, adapter ? learned : NULL) ? cli_task_model(task, path, false, (uint64_t)s->seed, options)
                                                                      : NULL;
}

typedef struct learner {
    cli_task task;
    cb_model *model;
    cb_adapter *adapter; /* NULL: there is none, or none yet */
} learner;

/* An adapter and a model do not go on from each other. */
static bool check_learned(const active_run *r, const char *learned)
{
    char *config = cb_path_join(learned, "adapter_config.json");
    bool left = config && cb_is_file(config), asked = r->s->trained == TRAINED_ADAPTER;
    cb_free(config);
    return config && (left == asked || cli_refuse("--trained: found %s, expected %s as in %s, the round before",
                                                  trained_names[r->s->trained], left ? "adapter" : "all, base or head", learned));
}

static bool open_learner(active_run *r, learner *l)
{
    *l = (learner){0};
    char *learned = cb_active_learned(r->active);
    bool ok = cb_ok() && (!learned || check_learned(r, learned));
    l->model = ok ? open_model(r->s, &l->task, &r->s->corpus.asked, r->source, learned) : NULL;
    if (l->model && learned && r->s->trained == TRAINED_ADAPTER)
        l->adapter = cb_adapter_load(learned, cb_model_root(l->model), cb_model_type(l->model));
    cb_free(learned);
    return l->model && cb_ok();
}

static void close_learner(learner *l)
{
    cb_adapter_free(l->adapter);
    cb_model_free(l->model);
    cli_task_close(&l->task);
}

static bool measure(const active_run *r, cb_model *model, double *accuracy)
{
    cb_evaluation e = {0};
    *accuracy = NAN;
    if (!r->test)
        return true;
    bool ok = cb_evaluate(model, r->test, r->s->train.batch_size, 0, &e);
    *accuracy = ok ? e.metrics.items[0].value : NAN;
    cb_predictions_free(&e.predictions);
    return ok;
}

/* ---- stages ---- */

static bool tell_accuracy(const active_run *r, const char *when, double accuracy)
{
    if (isnan(accuracy) || r->call->common.json || r->call->common.quiet)
        return true;
    cli_field("test", "accuracy %.4f %s", accuracy, when);
    return true;
}

static bool ask(active_run *r)
{
    learner l;
    double accuracy = NAN;
    bool first = cb_active_round(r->active) == 1;
    bool ok = open_learner(r, &l) && (!first || (measure(r, l.model, &accuracy) && tell_accuracy(r, "before", accuracy))) &&
              cb_active_ask(r->active, l.model, r->tokenizer);
    close_learner(&l);
    r->asked = ok;
    return ok;
}

static bool train(active_run *r, learner *l, cb_trainee *inner, double *accuracy)
{
    settings *s = r->s;
    cb_trainee what = {0};
    if (!cb_train_active(&what, inner, r->active))
        return false;
    cb_train_options t = s->train;
    t.output = (char *)(uintptr_t)cb_active_directory(r->active);
    t.steps = t.steps ? t.steps : cb_active_steps(r->active, t.epochs);
    t.resume = !t.overwrite;
    const cli_corpus corpus = {.train = cb_active_rows(r->active)};
    bool images = cli_takes_images(l->model);
    return cli_train_run(r->call, &what, &corpus, &t) && (!images || cli_images_save(&s->corpus.images, t.output)) &&
           measure(r, l->model, accuracy);
}

static bool learn(active_run *r)
{
    settings *s = r->s;
    learner l;
    cb_trainee inner = {0};
    double accuracy = NAN;
    bool whole = s->trained != TRAINED_ADAPTER, ok = open_learner(r, &l);
    if (ok && !r->call->common.json && !r->call->common.quiet)
        cli_field("round", "%lld, %lld answers", (long long)cb_active_round(r->active), (long long)cb_active_asked(r->active));
    if (ok && !whole && !l.adapter)
        ok = (l.adapter = cli_new_adapter(r->call, s->kind, NULL, l.model, true, s->seed));
    const char *path = r->tokenizer ? s->tokenizer ? s->tokenizer : r->source : NULL;
    if (ok && whole)
        ok = cb_train_part(&inner, l.model, parts[s->trained], r->tokenizer, path, CB_F32);
    else if (ok)
        inner = cb_train_adapter(l.model, l.adapter);
    ok = ok && train(r, &l, &inner, &accuracy) && tell_accuracy(r, "after this round", accuracy) && cb_active_finish(r->active, accuracy);
    if (whole)
        cb_train_whole_free(&inner);
    close_learner(&l);
    return ok;
}

/* Until a person is to answer, or the end. */
static bool go_on(active_run *r)
{
    bool ok = true;
    while (ok && cb_active_stage(r->active) != CB_ACTIVE_END && !(r->asked && !r->answers)) {
        switch (cb_active_stage(r->active)) {
        case CB_ACTIVE_ASK:
            ok = ask(r);
            break;
        case CB_ACTIVE_WAIT:
            ok = (!r->answers || cb_active_answer(r->active, r->answers)) && cb_active_read(r->active);
            break;
        default:
            ok = learn(r);
        }
    }
    return ok;
}

/* ---- what there is to say ---- */

static bool summarise(const active_run *r)
{
    const cb_active *a = r->active;
    enum { MOST = 4096 };
    double *accuracies = cb_calloc(MOST, sizeof *accuracies), area = 0;
    int64_t *labels = cb_calloc(MOST, sizeof *labels), finished = 0;
    bool waits = cb_active_stage(a) == CB_ACTIVE_WAIT, ok = accuracies && labels;
    if (ok)
        finished = cb_active_accuracies(a, MOST, accuracies, labels);
    int64_t shown = finished < MOST ? finished : MOST;
    char *learned = cb_active_learned(a), *questions = cb_active_questions(a);
    for (int64_t i = 0; i < shown; i++)
        area += accuracies[i] / (double)shown;
    ok = ok && cb_ok() && questions;
    if (ok && r->call->common.json) {
        json_t *curve = json_array();
        for (int64_t i = 0; ok && i < shown; i++)
            ok = json_array_append_new(
                     curve, json_pack("{s:I, s:o}", "labelled", (json_int_t)labels[i], "accuracy", cli_real(accuracies[i]))) == 0;
        ok = cli_json(json_pack("{s:b, s:I, s:I, s:s?, s:s?, s:o, s:o}", "finished", !waits, "rounds", (json_int_t)finished, "waiting",
                                (json_int_t)(waits ? cb_active_waiting(a) : 0), "questions", waits ? questions : NULL, "learned", learned,
                                "area", cli_real(finished ? area : NAN), "curve", curve));
    } else if (ok) {
        for (int64_t i = 0; i < shown; i++)
            if (!isnan(accuracies[i]))
                cli_field("curve", "round %lld, %lld labels: accuracy %.4f", (long long)i + 1, (long long)labels[i], accuracies[i]);
        if (finished && !isnan(area))
            cli_field("area", "%.4f (mean accuracy of the rounds)", area);
        if (learned)
            cli_field("learned", "%s", learned);
        if (waits)
            cli_field("to label", "%lld in %s, or by its page %.*shtml; then run the command again", (long long)cb_active_waiting(a),
                      questions, (int)strlen(questions) - 3, questions);
        else
            cli_field("done", "%lld rounds", (long long)finished);
    }
    cb_free(learned);
    cb_free(questions);
    cb_free(accuracies);
    cb_free(labels);
    return ok;
}

/* ---- opening ---- */

static int by_text(const void *a, const void *b)
{
    return strcmp(((const cli_pair *)a)->name, ((const cli_pair *)b)->name);
}

/* The labels of the rows of `pool` in `labelled`, by what their sources are called. */
static int32_t *match_labels(const cb_dataset *pool, const cb_dataset *labelled)
{
    size_t n = (size_t)cb_dataset_rows(labelled), rows = (size_t)cb_dataset_rows(pool), count;
    cli_pair *known = cb_calloc(n + 1, sizeof *known);
    int32_t *answers = known ? cb_alloc((rows + 1) * sizeof *answers) : NULL;
    bool ok = answers;
    for (size_t i = 0; ok && i < n; i++) {
        known[i].name = cb_dataset_row_source(labelled, (int64_t)i);
        known[i].value = (char *)(uintptr_t)cb_dataset_row_labels(labelled, (int64_t)i, &count);
        ok = known[i].name;
    }
    if (ok)
        qsort(known, n, sizeof *known, by_text);
    for (size_t i = 0; ok && i < rows; i++) {
        cli_pair wanted = {.name = cb_dataset_row_source(pool, (int64_t)i)};
        const cli_pair *found = wanted.name ? bsearch(&wanted, known, n, sizeof *known, by_text) : NULL;
        ok = found || cli_refuse("--labels-data: found no %s in it, expected all of the target, named in the same way",
                                 wanted.name ? wanted.name : "row");
        if (found)
            memcpy(&answers[i], found->value, sizeof *answers);
        cb_free(wanted.name);
    }
    for (size_t i = 0; known && i < n; i++)
        cb_free(known[i].name);
    cb_free(known);
    if (ok)
        return answers;
    cb_free(answers);
    return NULL;
}

static bool open_answers(active_run *r, const cb_model *model, const cb_dataset *pool)
{
    settings *s = r->s;
    if (!s->labels_data.count)
        return true;
    cb_dataset *labelled = cli_pool_data(r->call, &s->corpus, s->seed, &s->labels_data, &no_maps, model, r->tokenizer, false);
    r->answers = labelled ? match_labels(pool, labelled) : NULL;
    cb_dataset_free(labelled);
    return r->answers;
}

/* The source says how images are made ready and what labels are called. */
static bool open_run(active_run *r, const cb_model *model)
{
    settings *s = r->s;
    bool images = cli_takes_images(model);
    r->tokenizer = images ? NULL : cli_tokenizer(s->tokenizer, model);
    bool ok = images ? cli_images_ready(&s->corpus.images, model, r->source, NULL) : r->tokenizer != NULL;
    cb_objective objective = cb_objective_of(model);
    if (ok && objective != CB_OBJECTIVE_IMAGE_CLASSIFICATION && objective != CB_OBJECTIVE_SEQUENCE_CLASSIFICATION)
        ok = cli_refuse("%s: found no head that gives one label of several of an image or a text, expected a classifier", r->source);
    if (ok && cb_model_new_weights(model))
        ok = cli_refuse("%s: has no %s, expected a model that was trained on another domain", r->source, cb_model_new_weights(model));
    s->active.batch_size = s->train.batch_size;
    s->active.seed = (uint64_t)s->seed;
    cb_dataset *pool = ok ? cli_pool_data(r->call, &s->corpus, s->seed, &s->target, &no_maps, model, r->tokenizer, true) : NULL;
    if (pool && !open_answers(r, model, pool)) {
        cb_dataset_free(pool);
        pool = NULL;
    }
    r->active = pool ? cb_active_open(s->work, pool, cb_model_label_names(model), &s->active) : NULL;
    if (r->active && s->test_data.count)
        r->test = cli_pool_data(r->call, &s->corpus, s->seed, &s->test_data, &no_maps, model, r->tokenizer, false);
    return r->active && cb_ok();
}

static bool check(cli_call *call, const settings *s)
{
    if (s->trained != TRAINED_ADAPTER && (cli_given(call, "kind") || call->adapter_count))
        return cli_usage(call, "--trained %s goes without an adapter, so --%s cannot be given", trained_names[s->trained],
                         call->adapter_count ? call->adapter[0].name : "kind");
    const cb_string_list *lists[] = {&s->target, &s->test_data, &s->labels_data};
    bool ok = true;
    for (size_t i = 0; ok && i < sizeof lists / sizeof *lists; i++)
        ok = cli_output_apart(s->work, &(cli_corpus_settings){.data = *lists[i]});
    return ok;
}

static bool run(cli_call *call, void *settings_)
{
    settings *s = settings_;
    active_run r = {.call = call, .s = s, .source = call->arguments[0]};
    cli_task task = {0};
    s->train.seed = (uint64_t)s->seed;
    if (!check(call, s) || !cli_output_directory(s->work, r.source))
        return false;
    cb_model *model = open_model(s, &task, &s->corpus.asked, r.source, NULL);
    bool ok = model && open_run(&r, model);
    cb_model_free(model);
    cli_task_close(&task);
    ok = ok && go_on(&r) && summarise(&r);
    cb_active_free(r.active);
    cb_dataset_free(r.test);
    cb_tokenizer_free(r.tokenizer);
    cb_free(r.answers);
    return ok;
}

const cli_command cli_adapt_active = {
    .name = "adapt active",
    .summary = "adapt a classifier to another domain, of which a person labels a few rows in each of several rounds",
    .synopsis = "MODEL_DIR --target DATA --work DIR [options]",
    .description =
        "Each call trains on the answers of the round before, chooses the rows whose labels would tell the model most, and writes them "
        "into "
        "WORK/round-N.csv, where a person fills in the column label; WORK/round-N.html shows them in a browser and gives the finished "
        "table back.  Then the same command goes on (docs/active.md).  A call that was interrupted, in whatever way, is simply made "
        "again.  --labels-data answers in place of a person.",
    .least = 1,
    .most = 1,
    .settings_size = sizeof(settings),
    .groups = groups,
    .adapter_options = true,
    .required = (const char *const[]){"target", "work", NULL},
    .examples =
        (const char *const[]){
            "cambium adapt active models/net --target webcam/ --work out/webcam --budget 50 --rounds 5 --epochs 10 --batch-size 32 "
            "--learning-rate 3e-4",
            "cambium adapt active models/vit --target sketches/ --work out/sketches --trained adapter --target-modules query,value "
            "--query badge --method supervised",
            "cambium adapt active models/net --target webcam/ --labels-data webcam/ --test-data webcam-test/ --work out/oracle", NULL},
    .run = run};
