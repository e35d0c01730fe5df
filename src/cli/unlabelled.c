/* unlabelled.c: `cambium eval --unlabelled`: which of several models, or adapters of one, is likely to do best on data whose labels nobody knows. */
#include <stdlib.h>

#include "cli/cli.h"

/* One of those that are compared. */
typedef struct candidate {
    const char *model, *adapter; /* adapter NULL: none */
    size_t order;                /* as given */
    cb_transfer_score score;
} candidate;

static cb_dataset *open_data(cli_call *call, const cli_unlabelled *u, const cli_base *base, const char *adapter)
{
    if (cli_takes_images(base->model)) {
        bool ready = cli_images_ready(u->images, base->model, cb_model_directory(base->model), adapter);
        u->images->data.unlabelled = true;
        u->images->data.spread = u->max_batches > 0;
        return ready ? cli_images_open(u->images, u->data, cb_model_label_names(base->model), 0, false) : NULL;
    }
    cb_data_options text = *u->text;
    cli_fit_sequence_length(call, &text, base->model);
    text.data = *u->data;
    text.labels = cb_model_label_names(base->model);
    text.objective = cb_objective_of(base->model);
    text.unlabelled = true;
    text.shuffle = false;
    return cb_dataset_open(base->tokenizer, &text);
}

static bool judge(cli_call *call, const cli_unlabelled *u, candidate *c)
{
    cli_base base = {0};
    cli_adapter_argument named = {0};
    cb_string_list one = {0};
    bool ok = !c->adapter || (cb_string_list_add(&one, c->adapter) && cli_split_adapter(c->adapter, &named));
    ok = ok && cli_base_open(&base, c->model, &one, u->adapter_option, u->dtype) &&
         (cli_takes_images(base.model) || (base.tokenizer = cli_tokenizer(u->tokenizer, base.model)));
    cb_objective objective = ok ? cb_objective_of(base.model) : CB_OBJECTIVE_CAUSAL_LM;
    if (ok && objective != CB_OBJECTIVE_IMAGE_CLASSIFICATION && objective != CB_OBJECTIVE_SEQUENCE_CLASSIFICATION)
        ok = cli_refuse("--unlabelled: %s gives no single label of an image or a text, nor does an adapter", c->model);
    cb_dataset *data = ok ? open_data(call, u, &base, named.directory) : NULL;
    ok = data && cb_evaluate_unlabelled(base.model, data, u->batch_size, u->max_batches, u->draws, (uint64_t)u->seed, &c->score);
    cb_dataset_free(data);
    cli_base_close(&base);
    cb_string_list_free(&one);
    cb_free(named.text);
    return ok;
}

/* ---- what is printed ---- */

static json_t *candidate_json(const candidate *c)
{
    const cb_transfer_score *s = &c->score;
    return json_pack("{s:s, s:s?, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:I, s:I}", "model", c->model, "adapter", c->adapter,
                     "transfer_score", cli_real(s->score), "unevenness", cli_real(s->unevenness), "hopkins", cli_real(s->hopkins),
                     "hopkins_deviation", cli_real(s->hopkins_deviation), "information", cli_real(s->information), "batch_transfer_score",
                     cli_real(s->batch_score), "batch_information", cli_real(s->batch_information), "entropy", cli_real(s->entropy), "rows",
                     (json_int_t)s->rows, "labels", (json_int_t)s->classes);
}

static bool print_json(const candidate *list, size_t count)
{
    json_t *all = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(all, candidate_json(&list[i]));
    return cli_json(json_pack("{s:s, s:o}", "task", "unlabelled", "candidates", all));
}

static bool print_text(const candidate *list, size_t count)
{
    cli_table table = {.columns = 7, .right = "lrrrrrr"};
    static const char *const heads[] = {"", "transfer score", "unevenness", "hopkins", "information", "of batches", "entropy"};
    for (int i = 0; i < table.columns; i++)
        cli_table_add(&table, "%s", heads[i]);
    for (size_t i = 0; i < count; i++) {
        const cb_transfer_score *s = &list[i].score;
        cli_table_add(&table, "%s", list[i].adapter ? list[i].adapter : list[i].model);
        cli_table_add(&table, "%.4f", s->score);
        cli_table_add(&table, "%.4f", s->unevenness);
        cli_table_add(&table, "%.4f +- %.4f", s->hopkins, s->hopkins_deviation);
        cli_table_add(&table, "%.4f", s->information);
        cli_table_add(&table, "%.4f", s->batch_information);
        cli_table_add(&table, "%.4f", s->entropy);
    }
    cli_table_print(&table);
    return cb_ok();
}

static int best_first(const void *a_, const void *b_)
{
    const candidate *a = a_, *b = b_;
    int by_score = (a->score.score < b->score.score) - (a->score.score > b->score.score);
    return by_score ? by_score : (a->order > b->order) - (a->order < b->order);
}

bool cli_eval_unlabelled(cli_call *call, const cli_unlabelled *u)
{
    size_t adapters = u->adapters->count, models = (size_t)call->argument_count;
    if (adapters && models > 1)
        return cli_usage(call, "--unlabelled: found %zu models with adapters, expected several models, or several adapters of one", models);
    size_t count = adapters ? adapters : models;
    candidate *list = cb_calloc(count, sizeof *list);
    bool ok = list;
    for (size_t i = 0; ok && i < count; i++) {
        list[i].order = i;
        list[i].model = call->arguments[adapters ? 0 : i];
        list[i].adapter = adapters ? u->adapters->items[i] : NULL;
        if (count > 1 && !call->common.json && !call->common.quiet)
            cli_status("%zu of %zu: %s", i + 1, count, adapters ? list[i].adapter : list[i].model);
        ok = judge(call, u, &list[i]);
    }
    cli_status_clear();
    if (ok && !cb_rehearsing()) {
        qsort(list, count, sizeof *list, best_first);
        ok = (call->common.json ? print_json : print_text)(list, count);
    }
    cb_free(list);
    return ok;
}
