/* eval.c: `cambium eval`: how well a model, with any adapters, does on a task.  A task is a row of the table below. */
#include <math.h>
#include <string.h>

#include "cli/cli.h"

typedef struct settings {
    char *tokenizer, *predictions;
    cb_string_list data, adapter, adapter_option;
    int task, dtype;
    int64_t batch_size, max_batches, max_new_tokens, num_beams, validation_draws;
    bool dry_run;
    cb_data_options text;
    cli_image_settings images;
    cli_series_settings series;
    char *corruption;
    int64_t severity;
    cli_retrieval_settings retrieval;
    cli_recognition_settings recognition;
    bool unlabelled;
    int64_t hopkins_draws, seed;
} settings;

/* ---- tasks ---- */

static bool perplexity(cli_call *call, settings *s, const cli_base *base)
{
    s->text.data = s->data;
    s->text.shuffle = false;
    const cli_task words = {0};
    if (!cli_task_fit(&words, &s->text, base->model))
        return false;
    cli_keep_examples_whole(&s->text);
    cli_fit_sequence_length(call, &s->text, base->model);
    cb_dataset *data = cb_dataset_open(base->tokenizer, &s->text);
    cb_perplexity_result r = {0};
    bool ok = data && cb_evaluate_perplexity(base->model, data, s->batch_size, s->max_batches, &r);
    cb_dataset_free(data);
    if (!ok || cb_rehearsing())
        return ok;
    double rate = r.seconds > 0 ? (double)r.tokens / r.seconds : 0;
    if (call->common.json)
        return cli_json(json_pack("{s:s, s:s, s:o, s:o, s:o, s:I, s:o, s:o, s:I}", "task", "perplexity", "model",
                                  cb_model_directory(base->model), "loss", cli_real(r.loss), "perplexity", cli_real(r.perplexity),
                                  "bits_per_byte", cli_real(r.bits_per_byte), "tokens", (json_int_t)r.tokens, "seconds",
                                  cli_real(r.seconds), "tokens_per_second", cli_real(rate), "peak_memory", (json_int_t)cb_peak_rss()));
    cli_field("perplexity", "%.4f", r.perplexity);
    cli_field("loss", "%.6f nats per token", r.loss);
    if (s->text.objective == CB_OBJECTIVE_CAUSAL_LM) /* of masked ones, which tokens are predicted is drawn, and the others are given */
        cli_field("bits per byte", "%.4f", r.bits_per_byte);
    cli_field("tokens predicted", "%s", cli_thousands(r.tokens));
    cli_field("time", "%s (%s tokens/s)", cli_seconds(r.seconds), cli_thousands((int64_t)rate));
    cli_field("peak memory", "%s", cli_bytes(cb_peak_rss()));
    return true;
}

/* Every token in turn from all the others. */
static bool pseudo_perplexity(cli_call *call, settings *s, const cli_base *base)
{
    cb_encodings sentences = {0};
    cb_pseudo_perplexity r = {0};
    cli_fit_sequence_length(call, &s->text, base->model);
    int64_t rows = cli_given(call, "batch_size") ? s->batch_size : 32; /* rows are short */
    bool ok =
        cb_encode_sentences(base->tokenizer, &s->data, s->text.max_records, s->text.sequence_length, &sentences) &&
        cb_evaluate_pseudo_perplexity(base->model, cb_tokenizer_mask(base->tokenizer), sentences.items, sentences.count, rows, NULL, &r);
    cb_encodings_free(&sentences);
    if (!ok || cb_rehearsing())
        return ok;
    if (call->common.json)
        return cli_json(json_pack("{s:s, s:s, s:o, s:o, s:I, s:I, s:o, s:I}", "task", "pseudo-perplexity", "model",
                                  cb_model_directory(base->model), "pseudo_perplexity", cli_real(r.perplexity), "corpus_pseudo_perplexity",
                                  cli_real(r.corpus_perplexity), "sentences", (json_int_t)r.sentences, "tokens", (json_int_t)r.tokens,
                                  "seconds", cli_real(r.seconds), "peak_memory", (json_int_t)cb_peak_rss()));
    cli_field("pseudo-perplexity", "%.4f (mean over sentences)", r.perplexity);
    cli_field("of all tokens", "%.4f", r.corpus_perplexity);
    cli_field("sentences", "%s", cli_thousands(r.sentences));
    cli_field("tokens predicted", "%s", cli_thousands(r.tokens));
    cli_field("time", "%s", cli_seconds(r.seconds));
    cli_field("peak memory", "%s", cli_bytes(cb_peak_rss()));
    return true;
}

/* One question of a line of JSONL; `answer` is an index from 0, or the text of a choice. */
static bool read_question(const char *where, const json_t *line, cb_choice_question *q)
{
    const json_t *choices = json_object_get(line, "choices"), *answer = json_object_get(line, "answer");
    const char *prompt = json_string_value(json_object_get(line, "prompt"));
    int32_t task;
    if (!prompt || json_array_size(choices) < 2 || !answer)
        return cli_refuse("%s: expected {\"prompt\": text, \"choices\": [text, text, ...], \"answer\": index or text}", where);
    if (!cli_read_task(where, line, 0, &task))
        return false;
    const char **texts = cb_calloc(json_array_size(choices), sizeof *texts);
    *q = (cb_choice_question){.prompt = prompt, .choices = texts, .count = json_array_size(choices), .answer = SIZE_MAX, .task = task};
    const cb_string_list none = {0};
    float *conditions;
    if (!cli_read_conditions(where, line, &none, &conditions, &q->condition_count)) {
        cb_free(conditions);
        return false;
    }
    q->conditions = conditions;
    for (size_t c = 0; texts && c < q->count; c++) {
        texts[c] = json_string_value(json_array_get(choices, c));
        if (!texts[c] || !*texts[c])
            return cli_refuse("%s: choices: found an item that is no text, or is empty", where);
        if (json_is_string(answer) && strcmp(json_string_value(answer), texts[c]) == 0)
            q->answer = c;
    }
    if (json_is_integer(answer) && json_integer_value(answer) >= 0 && (size_t)json_integer_value(answer) < q->count)
        q->answer = (size_t)json_integer_value(answer);
    return texts && (q->answer < q->count || cli_refuse("%s: answer: found none of the %zu choices", where, q->count));
}

typedef struct questions {
    json_t **lines; /* hold the texts */
    cb_choice_question *list;
    size_t count, line_capacity, capacity;
} questions;

static bool add_line(questions *all, const char *where, const char *text, size_t length)
{
    json_error_t problem;
    json_t *line = json_loadb(text, length, 0, &problem);
    if (!line)
        return cli_refuse("%s: no JSON: %s", where, problem.text);
    bool ok = cb_grow(&all->lines, &all->line_capacity, all->count + 1, sizeof *all->lines) &&
              cb_grow(&all->list, &all->capacity, all->count + 1, sizeof *all->list);
    if (!ok) {
        json_decref(line);
        return false;
    }
    all->lines[all->count] = line;
    all->list[all->count++] = (cb_choice_question){0};
    return read_question(where, line, &all->list[all->count - 1]);
}

static bool add_file(questions *all, const char *path)
{
    size_t length;
    char *text = cb_archive_read(path, NULL, 0, &length);
    bool ok = text;
    int64_t number = 1;
    for (char *at = text, *end; ok && at < text + length; at = end + 1, number++) {
        end = memchr(at, '\n', (size_t)(text + length - at));
        end = end ? end : text + length;
        if (strspn(at, " \t\r") < (size_t)(end - at)) {
            char *where = cb_format("%s:%lld", path, (long long)number);
            ok = where && add_line(all, where, at, (size_t)(end - at));
            cb_free(where);
        }
    }
    cb_free(text);
    return ok;
}

static void free_questions(questions *all)
{
    for (size_t i = 0; i < all->count; i++) {
        cb_free((void *)(uintptr_t)all->list[i].choices);
        cb_free((void *)(uintptr_t)all->list[i].conditions);
        json_decref(all->lines[i]);
    }
    cb_free(all->lines);
    cb_free(all->list);
}

static bool choice(cli_call *call, settings *s, const cli_base *base)
{
    questions all = {0};
    cb_choice_result r = {0};
    bool ok = true;
    for (size_t i = 0; ok && i < s->data.count; i++)
        ok = add_file(&all, s->data.items[i]);
    ok = ok && (all.count || cli_refuse("--data: found no question"));
    ok = ok && cb_evaluate_choices(base->model, base->tokenizer, all.list, cb_rehearsing() ? 1 : all.count, s->batch_size, NULL, &r);
    size_t right = (size_t)llround(r.accuracy * (double)all.count);
    free_questions(&all);
    if (!ok || cb_rehearsing())
        return ok;
    cb_interval interval = cb_wilson_interval((int64_t)right, (int64_t)r.questions, 0.95);
    if (call->common.json)
        return cli_json(json_pack("{s:s, s:s, s:o, s:o, s:o, s:o, s:I, s:o, s:I}", "task", "choice", "model",
                                  cb_model_directory(base->model), "accuracy", cli_real(r.accuracy), "low", cli_real(interval.low), "high",
                                  cli_real(interval.high), "accuracy_norm", cli_real(r.accuracy_norm), "questions", (json_int_t)r.questions,
                                  "seconds", cli_real(r.seconds), "peak_memory", (json_int_t)cb_peak_rss()));
    cli_field("accuracy", "%.4f (95 %%: %.4f to %.4f)", r.accuracy, interval.low, interval.high);
    cli_field("by length", "%.4f", r.accuracy_norm);
    cli_field("questions", "%s", cli_thousands((int64_t)r.questions));
    cli_field("time", "%s", cli_seconds(r.seconds));
    cli_field("peak memory", "%s", cli_bytes(cb_peak_rss()));
    return true;
}

static bool print_labels(cli_call *call, const char *task, const cb_model *model, const cb_evaluation *e)
{
    if (call->common.json) {
        json_t *line = json_pack("{s:s, s:s, s:o}", "task", task, "model", cb_model_directory(model), "loss", cli_real(e->loss));
        cli_metrics_json(line, "", &e->metrics, e->loss);
        cli_maps_json(line, &e->predictions, cb_model_label_names(model));
        json_object_set_new(line, "rows", json_integer((json_int_t)e->rows));
        json_object_set_new(line, "predicted", json_integer((json_int_t)e->predicted));
        json_object_set_new(line, "seconds", cli_real(e->seconds));
        json_object_set_new(line, "peak_memory", json_integer((json_int_t)cb_peak_rss()));
        return cli_json(line);
    }
    for (int i = 0; i < e->metrics.count; i++)
        cli_field(e->metrics.items[i].name, "%.4f", e->metrics.items[i].value);
    cli_maps_print(&e->predictions, cb_model_label_names(model));
    cli_field("loss", "%.6f", e->loss);
    cli_field("rows", "%s", cli_thousands(e->rows));
    cli_field("time", "%s", cli_seconds(e->seconds));
    cli_field("peak memory", "%s", cli_bytes(cb_peak_rss()));
    return true;
}

/* How images are made ready, by the first adapter or the model. */
static bool ready_images(settings *s, const cli_base *base)
{
    cli_adapter_argument first = {0};
    bool ok = !s->adapter.count || cli_split_adapter(s->adapter.items[0], &first);
    ok = ok && cli_images_ready(&s->images, base->model, cb_model_directory(base->model), first.directory);
    cb_free(first.text);
    return ok;
}

/* The images of --data, with the labels of the model in their order. */
static cb_dataset *open_images(settings *s, const cli_base *base)
{
    bool ok = ready_images(s, base);
    s->images.data.corruption = s->corruption;
    s->images.data.severity = (int)s->severity;
    s->images.data.spread = s->max_batches > 0;
    s->images.data.objective = s->text.objective;
    return ok ? cli_images_open(&s->images, &s->data, cb_model_label_names(base->model), 0, false) : NULL;
}

/* Maps go into a new directory, all else into a file. */
static bool ready_for_predictions(const settings *s, bool maps)
{
    if (!s->predictions || !maps)
        return !s->predictions || cli_output_file(s->predictions);
    return cb_directory_vacant(s->predictions) && (cb_rehearsing() || cb_directory_make(s->predictions));
}

static bool labels(cli_call *call, settings *s, const cli_base *base)
{
    cb_evaluation e = {0};
    bool images = cli_takes_images(base->model);
    if (!cli_labels_check(call))
        return false;
    s->text.data = s->data;
    s->text.shuffle = false;
    s->text.objective = cb_objective_of(base->model);
    s->text.labels = cb_model_label_names(base->model);
    if (!images)
        cli_fit_sequence_length(call, &s->text, base->model);
    bool maps = cb_objective_is_of_places(s->text.objective);
    if (!ready_for_predictions(s, maps))
        return false;
    cb_dataset *data = images ? open_images(s, base) : cb_dataset_open(base->tokenizer, &s->text);
    cli_maps written = {s->predictions, data};
    bool ok = data && cb_evaluate_maps(base->model, data, s->batch_size, s->max_batches, maps && s->predictions ? cli_maps_see : NULL,
                                       &written, &e);
    if (ok && s->predictions && !maps && !cb_rehearsing())
        ok = cli_write_predictions(s->predictions, &e.predictions, data);
    if (ok && !cb_rehearsing())
        ok = print_labels(call, cli_task_name(s->text.objective), base->model, &e);
    cb_predictions_free(&e.predictions);
    cb_dataset_free(data);
    return ok;
}

/* With the noise of validation (docs/diffusion.md). */
static bool denoising(cli_call *call, settings *s, const cli_base *base)
{
    cb_evaluation e = {0};
    cli_diffusion_settings noise = {0};
    cli_adapter_argument first = {0};
    if (s->predictions)
        return cli_refuse("--predictions is of labels and rankings");
    bool ok = cb_options_init(cb_noise_option_table, &noise.noise) && cb_options_init(cb_diffusion_option_table, &noise.training.options) &&
              (!s->adapter.count || cli_split_adapter(s->adapter.items[0], &first)) && ready_images(s, base) &&
              cli_diffusion_open(call, &noise, cb_model_directory(base->model), first.directory);
    noise.training.options.validation_draws = s->validation_draws;
    noise.training.schedule = noise.schedule;
    s->images.data.spread = s->max_batches > 0;
    cb_dataset *data = ok ? cli_images_to_make(&s->images, base->model, &s->data, NULL, 0, false) : NULL;
    ok = data && cb_evaluate_diffusion(base->model, &noise.training, data, s->batch_size, s->max_batches, &e);
    ok = ok && (cb_rehearsing() || print_labels(call, "image-generation", base->model, &e));
    cb_dataset_free(data);
    cli_diffusion_close(&noise);
    cb_free(first.text);
    return ok;
}

/* Auto comes first, then what is measured of words, then the tasks that models are trained for. */
enum { TASK_AUTO, TASK_PERPLEXITY, TASK_PSEUDO_PERPLEXITY, TASK_CHOICE, TASK_TRAINED };
static const char *const task_names[] = {"auto", "perplexity", "pseudo-perplexity", "choice", CLI_TASKS(CLI_TASK_NAME) NULL};

static cb_objective asked_for(const settings *s)
{
    return cli_task_objective(task_names[s->task]);
}

static bool is_of_vectors(const settings *s)
{
    return asked_for(s) == CB_OBJECTIVE_RETRIEVAL || asked_for(s) == CB_OBJECTIVE_SIMILARITY;
}

static bool refuse_option(cli_call *call, const char *option, const char *task)
{
    cli_refuse("%s: is an option of --task %s", option, task);
    cli_blame(call, option);
    return false;
}

enum { OF_RETRIEVAL = 3 };

/* Options of rankings; the first are of retrieval too, so `from` may pass over them. */
static bool refuse_ranks(cli_call *call, size_t from)
{
    static const char *const ranks[] = {"corpus", "queries", "qrels", "candidates", "top_k"};
    for (size_t i = from; i < sizeof ranks / sizeof *ranks; i++)
        if (cli_given(call, ranks[i]))
            return refuse_option(call, ranks[i], i < OF_RETRIEVAL ? "retrieval or ranking" : "ranking");
    return true;
}

static bool ranking(cli_call *call, settings *s, const cli_base *base)
{
    if (cb_objective_of(base->model) != CB_OBJECTIVE_REGRESSION)
        return cli_refuse("--task ranking: %s has no head that gives one number of a text, nor has an adapter",
                          cb_model_directory(base->model));
    cli_fit_sequence_length(call, &s->text, base->model);
    return cli_eval_ranking(call, &s->retrieval, &s->data, &s->text, base, s->predictions, s->batch_size, s->max_batches);
}

static bool measure(cli_call *call, settings *s, const cli_base *base)
{
    bool series = cli_takes_series(base->model);
    if (!cli_series_check(call, series))
        return false;
    if (asked_for(s) == CB_OBJECTIVE_FORECASTING || (series && s->task == TASK_AUTO))
        return s->predictions ? cli_refuse("--predictions is of labels and rankings")
                              : cli_eval_forecasting(call, &s->series, &s->data, base->model, s->batch_size, s->max_batches);
    if (series)
        return cli_refuse("--task %s: %s takes series, expected forecasting", task_names[s->task], cb_model_directory(base->model));
    if (asked_for(s) == CB_OBJECTIVE_IMAGE_GENERATION || (cli_is_denoiser(base->model) && s->task == TASK_AUTO))
        return cli_is_denoiser(base->model)
                   ? denoising(call, s, base)
                   : cli_refuse("--task image-generation: %s is a %s, expected a network that denoises, such as UNet2DModel",
                                cb_model_directory(base->model), cb_model_type(base->model));
    if (asked_for(s) == CB_OBJECTIVE_RANKING || (s->task == TASK_AUTO && base->ranks))
        return ranking(call, s, base);
    if (!refuse_ranks(call, 0))
        return false;
    bool labelled = cb_objective_is_labelled(cb_objective_of(base->model));
    cb_objective asked = asked_for(s);
    if (s->task >= TASK_TRAINED && cb_objective_of(base->model) != asked)
        return cli_refuse("--task %s: %s has no head for it, nor has an adapter", task_names[s->task], cb_model_directory(base->model));
    if (asked == CB_OBJECTIVE_TEXT_RECOGNITION || (s->task == TASK_AUTO && cli_recognises(base->model)))
        return ready_images(s, base) && cli_eval_recognition(call, &s->recognition, &s->images, &s->data, s->tokenizer, base,
                                                             s->predictions, s->batch_size, s->max_batches);
    if (asked_for(s) == CB_OBJECTIVE_SEQ2SEQ_LM || (s->task == TASK_AUTO && cb_model_head_kind(base->model) == CB_HEAD_SEQ2SEQ_LM)) {
        s->text.data = s->data;
        return cli_eval_seq2seq(call, &s->text, base, s->max_new_tokens, s->num_beams, s->predictions, s->batch_size, s->max_batches);
    }
    if (!cli_pairs_check(call, cb_objective_of(base->model)) ||
        (cli_given(call, "max_new_tokens") && !refuse_option(call, "max_new_tokens", "seq2seq")) ||
        (cli_given(call, "num_beams") && !refuse_option(call, "num_beams", "seq2seq")))
        return false;
    if (s->task >= TASK_TRAINED || (s->task == TASK_AUTO && labelled))
        return labels(call, s, base);
    if (s->predictions || s->corruption)
        return cli_refuse("--%s, and the task is of words", s->predictions ? "predictions is of labels" : "corruption is of images");
    if (s->task == TASK_PSEUDO_PERPLEXITY)
        return pseudo_perplexity(call, s, base);
    return s->task == TASK_CHOICE ? choice(call, s, base) : perplexity(call, s, base);
}

/* ---- the command ---- */

static const cb_option table[] = {
    CB_OPT_ENUM(
        settings, task, TASK_AUTO, task_names,
        "what is measured; auto: labels where the model or an adapter gives any, answers of one with an encoder and a decoder, else "
        "perplexity"),
    CB_OPT_LIST(settings, data, NULL, "FILE,...", "text, JSONL, CSV or TSV files, directories of them, or - for standard input"),
    CB_OPT_LIST(settings, adapter, NULL, "DIR,...", "adapter to attach, each with an optional =weight; may be given again"),
    CLI_ADAPTER_OPTION(settings),
    CB_OPT_STRING(settings, tokenizer, NULL, "PATH", "tokenizer.json or its directory; without it the model's own"),
    CB_OPT_ENUM(settings, dtype, 1, cli_dtype_names, "how activations are kept and products are computed"),
    CB_OPT_STRING(settings, predictions, NULL, "FILE",
                  "labels: what is predicted of each text or image, and what is read in it, as JSONL; of the places of images: a new "
                  "directory of maps (PNG, or "
                  ".npy where the data's are); "
                  "rankings: the scores of each line, or of a corpus a run of TREC; "
                  "seq2seq: what is answered, beside the right target, as JSONL"),
    CB_OPT_INT(settings, batch_size, 4, 1, 65536, "rows per forward pass"),
    CB_OPT_INT(settings, max_batches, 0, 0, 1e12, "forward passes at most; 0: all of the data"),
    CB_OPT_INT(settings, max_new_tokens, 128, 1, 1 << 24, "seq2seq: tokens of an answer at most"),
    CB_OPT_INT(settings, num_beams, 1, 1, CB_MOST_BEAMS,
               "seq2seq: answers by beam search, of so many beginnings side by side; 1: greedily"),
    CB_OPT_INT(settings, validation_draws, 4, 1, 1000, "image generation: noise and timesteps that each image is judged with"),
    CLI_DRY_RUN(settings, CLI_NEEDS_HELP),
    CB_OPT_END};

static const cb_option corruption_table[] = {
    CB_OPT_STRING(
        settings, corruption, NULL, "NAME",
        "of every image: gaussian_noise, shot_noise, impulse_noise, defocus_blur, glass_blur, motion_blur, zoom_blur, snow, frost, fog, "
        "brightness, contrast, elastic_transform, pixelate, jpeg_compression, speckle_noise, gaussian_blur or saturate"),
    CB_OPT_INT(settings, severity, 3, 1, 5, "of the corruption"), CB_OPT_END};

static const cb_option unlabelled_table[] = {
    CB_OPT_BOOL(
        settings, unlabelled, 0,
        "say how well each of several models, or adapters (--adapter, given again) of one, is likely to do, by Transfer Score: labels are "
        "not read"),
    CB_OPT_INT(settings, hopkins_draws, 5, 1, 1000, "of points that Hopkins' statistic is averaged over"),
    CB_OPT_INT(settings, seed, 0, 0, 9e15, "of these draws"), CB_OPT_END};

static const cli_group groups[] = {{"Task", table, 0},
                                   {"Without labels", unlabelled_table, 0},
                                   {"Retrieval and ranking", cli_retrieval_table, offsetof(settings, retrieval)},
                                   {"Data", cb_data_option_table, offsetof(settings, text)},
                                   {"Images", cli_image_table, offsetof(settings, images)},
                                   {"Images as rows", cb_image_data_option_table, offsetof(settings, images.data)},
                                   {"Corruption of images", corruption_table, 0},
                                   {"Series of numbers", cb_series_option_table, offsetof(settings, series.data)},
                                   {"Their parts", cli_series_part_table, offsetof(settings, series)},
                                   {"Forecasts", cb_forecast_option_table, offsetof(settings, series.learning)},
                                   {"Learning while forecasts are made", cb_online_option_table, offsetof(settings, series.online)},
                                   {"What is learned so", cli_online_table, offsetof(settings, series)},
                                   {"ADCSD", cb_adcsd_option_table, offsetof(settings, series.online.adcsd)},
                                   {"Text recognition", cli_recognition_table, offsetof(settings, recognition)},
                                   {0}};

/* Of words and labels, or of vectors. */
static bool evaluate(cli_call *call, settings *s, cli_base *base)
{
    const char *model = call->arguments[0];
    if (is_of_vectors(s))
        return cli_embedder_open(call, base, model, &s->adapter, &s->adapter_option, cli_dtype(s->dtype), s->retrieval.max_seq_length) &&
               cli_eval_sentences(call, &s->retrieval, &s->data, &s->text, base, asked_for(s) != CB_OBJECTIVE_RETRIEVAL, s->batch_size,
                                  s->max_batches);
    return cli_base_open(base, model, &s->adapter, &s->adapter_option, cli_dtype(s->dtype)) &&
           (cli_takes_images(base->model) || cli_takes_series(base->model) ||
            (base->tokenizer = cli_tokenizer(s->tokenizer, base->model))) &&
           measure(call, s, base);
}

static bool unlabelled(cli_call *call, settings *s)
{
    if (s->task != TASK_AUTO || s->predictions || s->corruption)
        return cli_usage(call, "--unlabelled goes without --%s", s->predictions ? "predictions" : s->corruption ? "corruption" : "task");
    return cli_eval_unlabelled(call, &(cli_unlabelled){.data = &s->data,
                                                       .adapters = &s->adapter,
                                                       .adapter_option = &s->adapter_option,
                                                       .tokenizer = s->tokenizer,
                                                       .text = &s->text,
                                                       .images = &s->images,
                                                       .dtype = cli_dtype(s->dtype),
                                                       .batch_size = s->batch_size,
                                                       .max_batches = s->max_batches,
                                                       .draws = s->hopkins_draws,
                                                       .seed = s->seed});
}

/* Options of sentence encoders and of rankings: a task that is found out later (auto) may be the latter. */
static bool check_options(cli_call *call, const settings *s)
{
    static const char *const vectors[] = {"query_prompt", "document_prompt", "max_seq_length"};
    if (call->argument_count > 1 && !s->unlabelled)
        return cli_usage(call, "expected one MODEL_DIR; several go with --unlabelled");
    bool may_rank = asked_for(s) == CB_OBJECTIVE_RANKING || s->task == TASK_AUTO;
    for (size_t i = 0; !is_of_vectors(s) && i < sizeof vectors / sizeof *vectors; i++)
        if (cli_given(call, vectors[i]))
            return refuse_option(call, vectors[i], "retrieval");
    if (!may_rank && !refuse_ranks(call, is_of_vectors(s) ? OF_RETRIEVAL : 0))
        return false;
    if (s->predictions && is_of_vectors(s))
        return cli_usage(call, "--predictions: is of labels and rankings");
    bool corpus = s->retrieval.corpus || s->retrieval.queries || s->retrieval.qrels;
    return s->data.count || is_of_vectors(s) || corpus || cli_usage(call, "--data is needed");
}

static bool run(cli_call *call, void *settings_)
{
    settings *s = settings_;
    cli_base base = {0};
    cli_rehearsal rehearsal;
    if (!check_options(call, s) || (s->predictions && ((!cb_is_directory(s->predictions) && !cli_output_file(s->predictions)) ||
                                                       !cli_output_is_no_input(s->predictions, &s->data))))
        return false;
    bool ok = (!s->dry_run || cli_rehearsal_begin(&rehearsal, NULL)) && (s->unlabelled ? unlabelled(call, s) : evaluate(call, s, &base));
    cli_base_close(&base);
    return s->dry_run ? cli_plan(call, &rehearsal, ok) : ok;
}

const cli_command cli_eval = {
    .name = "eval",
    .summary = "measure a model, with any adapters, on a task",
    .synopsis = "MODEL_DIR... [--adapter DIR[=weight]]... [--task NAME] --data FILE [options]",
    .description =
        "Perplexity is exp of the mean cross-entropy per predicted token, over rows of --sequence-length tokens that do not "
        "overlap; a longer row gives the model more to go on. Bits per byte do not depend on the tokenizer. Of a masked "
        "language model it is that of "
        "masked tokens, which are the same each time; pseudo-perplexity hides every token of a line or text in turn, special ones too, "
        "and is exp of the mean per token, averaged over texts.  Choice: JSONL of "
        "{\"prompt\", \"choices\", \"answer\"}, where wanted with task_ids and conditions; the model chooses the likeliest continuation, "
        "and "
        "accuracy has Wilson's 95 % interval. "
        "By length: sums of log-probabilities are divided by the choices' bytes first. Of labels (docs/tasks.md): accuracy, F1 and "
        "Matthews' correlation; of several at once F1 and the area under the ROC curve; of numbers Pearson's and Spearman's "
        "correlation; of words F1, precision and recall of whole entities; of images (docs/images.md) accuracy, that of the five likeliest "
        "labels, F1 "
        "and the expected calibration error, also under the corruptions of ImageNet-C; of the places of images (docs/dense.md) the mean "
        "intersection over union, the share of places that are right, and Dice's coefficient; of depths relative and root mean square "
        "errors and "
        "the share within 1.25, of normals the mean angle, of saliency the best F and the mean error; of text in images "
        "(docs/recognition.md) the share that is read without an error, and the error rates of characters and words.  Retrieval "
        "(docs/retrieval.md): "
        "nDCG, MRR, "
        "MAP, "
        "recall "
        "and precision of the documents that a sentence encoder finds for queries, in files of BEIR's form or a directory of them, or of "
        "the positives of held-out pairs; similarity: Spearman's and Pearson's correlation of cosines with scores.  Ranking: the same "
        "measures of the order in which a cross-encoder puts what BM25, or --candidates, found.  Forecasting (docs/forecasting.md): mean "
        "absolute error, root of the mean square error and mean relative error of a part of a series, of each step ahead and of all; with "
        "--online "
        "what comes to be is learned from, window after window (docs/methods/adcsd.md).  "
        "Seq2seq (docs/seq2seq.md): the loss of the targets, and exact matches, BLEU, chrF and ROUGE of the greedy answers to the sources.",
    .least = 1,
    .most = 256,
    .settings_size = sizeof(settings),
    .groups = groups,
    .examples =
        (const char *const[]){"cambium eval models/base --task perplexity --data held-out.txt",
                              "cambium eval models/base --adapter out/adapter --task perplexity --data held-out.txt --json",
                              "cambium eval models/bert --adapter out/reviews --data held-out.csv --predictions out/said.jsonl",
                              "cambium eval out/dann out/cdan out/mcc --unlabelled --data webcam/ --json",
                              "cambium eval models/bert --adapter out/ranks --data scifact/ --candidates bm25.run --predictions out.run",
                              "cambium eval models/vit --adapter out/birds --data birds-test/ --corruption fog --severity 5",
                              "cambium eval models/speeds --task forecasting --data speeds.csv --series-part test",
                              "cambium eval models/speeds --data speeds.csv --online adcsd --online-learning-rate 1e-3", NULL},
    .run = run};
