/* test_training.c: the training loop: resuming to the bit, accumulation, early stopping, interruption, checkpoints from
 * strangers, and what a run leaves behind. */
#include <sys/stat.h>

#include "cambium/training.h"
#include "text_fixtures.h"
#include "training/internal.h"

/* ---- a run ---- */

enum { STEPS = 12, SAVE_STEPS = 3, EVAL_STEPS = 4 };

/* Everything a run needs, on the reference model `llama2`. */
typedef struct rig {
    cb_tokenizer *tokenizer;
    cb_data_options text;
    cb_dataset *train, *validation;
    cb_model *model;
    cb_adapter *adapter;
    cb_train_options options;
    cb_trainee what;
} rig;

static const char *story(void)
{
    static char text[4096];
    static const char *const nouns[] = {"branch", "stem", "root", "knife", "rain"}, *const verbs[] = {"cuts", "joins", "waters"};
    char *at = text;
    for (int i = 0; i < 80; i++)
        at += sprintf(at, "The %s %s the %s.\n", nouns[i * 7 % 5], verbs[i * 5 % 3], nouns[i * 3 % 4]);
    return write_file("story.txt", text);
}

static void rig_open(rig *r, const char *output, const char *adapter_options)
{
    *r = (rig){.tokenizer = characters(false, false), .text = data_options(story())};
    r->text.lines = true;
    r->text.sequence_length = 16;
    r->text.seed = 5;
    r->train = cb_dataset_open(r->tokenizer, &r->text);
    assert_ok();
    r->validation = cb_dataset_split(r->train, 0.2, 1);
    r->model = cb_model_load(model_path("llama2"));
    r->adapter = cb_adapter_new("lora", "default");
    assert_true(cb_adapter_set_json(r->adapter, "options", adapter_options));
    assert_true(cb_adapter_attach(r->adapter, cb_model_root(r->model), cb_model_type(r->model), 3));
    assert_true(cb_options_init(cb_train_option_table, &r->options));
    r->options.output = strdup(scratch_path(output));
    r->options.seed = 11;
    r->options.steps = STEPS;
    r->options.batch_size = 2;
    r->options.learning_rate = 1e-2;
    r->options.overwrite = true;
    r->what = cb_train_adapter(r->model, r->adapter);
    assert_ok();
}

static void rig_close(rig *r)
{
    free(r->options.output);
    cb_adapter_free(r->adapter);
    cb_model_free(r->model);
    cb_dataset_free(r->validation);
    cb_dataset_free(r->train);
    data_options_free(&r->text);
    cb_tokenizer_free(r->tokenizer);
}

static const char plain[] = "{\"r\": 4, \"target_modules\": \"all-linear\"}";
static const char with_dropout[] = "{\"r\": 4, \"lora_dropout\": 0.2, \"target_modules\": [\"q_proj\", \"down_proj\"], \"bias\": \"none\"}";

static char *read_file(const char *path, size_t *length)
{
    char *bytes = cb_file_read(path, (size_t)1 << 30, length);
    assert_ok();
    return bytes;
}

static void write_bytes(const char *path, const char *bytes, size_t length)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, length, f), length);
    fclose(f);
}

static void copy_file(const char *from, const char *to)
{
    size_t length;
    char *bytes = read_file(from, &length);
    write_bytes(to, bytes, length);
    cb_free(bytes);
}

static void assert_same_file(const char *a, const char *b)
{
    size_t na, nb;
    char *x = read_file(a, &na), *y = read_file(b, &nb);
    assert_int_equal(na, nb);
    assert_memory_equal(x, y, na);
    cb_free(x);
    cb_free(y);
}

/* Two checkpoints hold the same but for the clock and the length of the log, which has times in it. */
static void assert_same_state(const char *a, const char *b)
{
    cb_safetensors *x = cb_safetensors_open(a), *y = cb_safetensors_open(b);
    assert_ok();
    assert_int_equal(cb_safetensors_count(x), cb_safetensors_count(y));
    assert_string_equal(cb_safetensors_metadata(x, "fingerprint"), cb_safetensors_metadata(y, "fingerprint"));
    for (size_t i = 0; i < cb_safetensors_count(x); i++) {
        const cb_weight_entry *e = cb_safetensors_at(x, i), *f = cb_safetensors_find(y, e->name);
        assert_non_null(f);
        assert_int_equal(e->size, f->size);
        if (strcmp(e->name, "state.seconds") != 0 && strcmp(e->name, "state.log_bytes") != 0 && memcmp(e->data, f->data, e->size) != 0)
            fail_msg("%s differs", e->name);
    }
    cb_safetensors_close(x);
    cb_safetensors_close(y);
}

/* Every step once and in order, each line an object. */
static void assert_log_of_steps(const char *path, int64_t steps)
{
    size_t length;
    char *text = read_file(path, &length), *at = text;
    for (int64_t step = 1; step <= steps; step++) {
        char *end = strchr(at, '\n');
        assert_non_null(end);
        json_t *line = json_loadb(at, (size_t)(end - at), 0, NULL);
        assert_non_null(line);
        assert_int_equal(json_integer_value(json_object_get(line, "step")), step);
        assert_true(json_is_real(json_object_get(line, "loss")) && json_is_real(json_object_get(line, "grad_norm")));
        assert_int_equal(json_object_get(line, "eval_loss") != NULL, step % EVAL_STEPS == 0);
        json_decref(line);
        at = end + 1;
    }
    assert_int_equal(*at, 0);
    cb_free(text);
}

/* ---- resuming ---- */

typedef struct stopper {
    int64_t stop_after, keep_at;
    const char *checkpoint, *kept;
} stopper;

static void stop(void *user, const cb_train_report *report)
{
    const stopper *s = user;
    if (s->keep_at && report->step == s->keep_at)
        copy_file(s->checkpoint, s->kept);
    if (report->step == s->stop_after)
        cb_interrupt();
}

static void resumable(rig *r, const char *output)
{
    rig_open(r, output, with_dropout);
    r->options.save_steps = SAVE_STEPS;
    r->options.eval_steps = EVAL_STEPS;
    r->options.gradient_accumulation_steps = 2;
    r->options.weight_decay = 0.01;
    r->options.resume = true; /* from nothing is from the start */
}

static void run_to_the_end(const char *output)
{
    rig r;
    resumable(&r, output);
    cb_train_result result;
    assert_true(cb_train(&r.what, r.train, r.validation, &r.options, NULL, NULL, &result));
    assert_ok();
    assert_int_equal(result.steps, STEPS);
    assert_true(result.last_loss < result.first_loss);
    assert_true(result.best_step > 0 && result.best_step % EVAL_STEPS == 0);
    rig_close(&r);
}

static void run_until(const char *output, stopper s)
{
    rig r;
    resumable(&r, output);
    assert_false(cb_train(&r.what, r.train, r.validation, &r.options, stop, &s, NULL));
    assert_int_equal(cb_error_status(), CB_ERR_INTERRUPTED);
    assert_non_null(strstr(cb_error_message(), "--resume"));
    cb_error_clear();
    cb_interrupt_clear();
    rig_close(&r);
}

static void a_resumed_run_ends_with_the_bits_of_one_that_never_stopped(void **state)
{
    (void)state;
    run_to_the_end("whole");
    assert_log_of_steps(scratch_path("whole/log.jsonl"), STEPS);
    /* interrupted: goes on from where it stopped, whether that is a step that saves, validates or neither */
    static const int64_t stops[] = {1, 4, 6, 11};
    for (size_t i = 0; i < sizeof stops / sizeof *stops; i++) {
        char output[32], path[64];
        snprintf(output, sizeof output, "stopped-%d", (int)stops[i]);
        run_until(output, (stopper){.stop_after = stops[i]});
        run_to_the_end(output);
        snprintf(path, sizeof path, "%s/checkpoint.safetensors", output);
        assert_same_state(scratch_path(path), scratch_path("whole/checkpoint.safetensors"));
        snprintf(path, sizeof path, "%s/adapter_model.safetensors", output);
        assert_same_file(scratch_path(path), scratch_path("whole/adapter_model.safetensors"));
        snprintf(path, sizeof path, "%s/adapter_config.json", output);
        assert_same_file(scratch_path(path), scratch_path("whole/adapter_config.json"));
        snprintf(path, sizeof path, "%s/log.jsonl", output);
        assert_log_of_steps(scratch_path(path), STEPS);
    }
}

/* Killed at step 8: the checkpoint is that of step 6, the log has two lines more, the last of them half written. */
static void a_killed_run_resumes_from_its_last_checkpoint(void **state)
{
    (void)state;
    run_to_the_end("whole");
    run_until("killed", (stopper){.stop_after = 8,
                                  .keep_at = 7,
                                  .checkpoint = scratch_path("killed/checkpoint.safetensors"),
                                  .kept = scratch_path("kept.safetensors")});
    copy_file(scratch_path("kept.safetensors"), scratch_path("killed/checkpoint.safetensors"));
    FILE *log = fopen(scratch_path("killed/log.jsonl"), "ab");
    fputs("{\"step\":9,\"lo", log);
    fclose(log);
    run_to_the_end("killed");
    assert_same_state(scratch_path("killed/checkpoint.safetensors"), scratch_path("whole/checkpoint.safetensors"));
    assert_same_file(scratch_path("killed/adapter_model.safetensors"), scratch_path("whole/adapter_model.safetensors"));
    assert_log_of_steps(scratch_path("killed/log.jsonl"), STEPS);
}

static void the_log_of_a_resumed_run_may_be_gone(void **state)
{
    (void)state;
    run_until("no-log", (stopper){.stop_after = 5});
    assert_int_equal(unlink(scratch_path("no-log/log.jsonl")), 0);
    run_to_the_end("no-log");
    size_t length;
    char *text = read_file(scratch_path("no-log/log.jsonl"), &length);
    assert_int_equal(strncmp(text, "{\"step\":6,", 10), 0);
    cb_free(text);
}

static void resuming_a_finished_run_changes_nothing(void **state)
{
    (void)state;
    run_to_the_end("finished");
    copy_file(scratch_path("finished/adapter_model.safetensors"), scratch_path("kept.safetensors"));
    rig r;
    resumable(&r, "finished");
    cb_train_result result;
    assert_true(cb_train(&r.what, r.train, r.validation, &r.options, stop, &(stopper){.stop_after = 1}, &result));
    assert_false(cb_interrupted()); /* no step was made */
    assert_int_equal(result.steps, STEPS);
    rig_close(&r);
    assert_same_file(scratch_path("finished/adapter_model.safetensors"), scratch_path("kept.safetensors"));
}

static void refuse_to_resume(rig *r, const char *what)
{
    assert_false(cb_train(&r->what, r->train, r->validation, &r->options, NULL, NULL, NULL));
    assert_int_equal(cb_error_status(), CB_ERR_STATE);
    assert_non_null(strstr(cb_error_message(), what));
    cb_error_clear();
    rig_close(r);
}

/* Every size is the same; what differs is one letter of the text, or how the adapter is trained. */
static void a_run_is_not_resumed_on_other_data_or_with_another_adapter(void **state)
{
    (void)state;
    run_until("course", (stopper){.stop_after = 4});
    size_t length;
    char *text = read_file(story(), &length);
    text[0] = 't';
    write_bytes(scratch_path("other-story.txt"), text, length);
    cb_free(text);
    rig r;
    resumable(&r, "course");
    cb_dataset_free(r.validation);
    cb_dataset_free(r.train);
    data_options_free(&r.text);
    r.text = data_options(scratch_path("other-story.txt"));
    r.text.lines = true;
    r.text.sequence_length = 16;
    r.text.seed = 5;
    r.train = cb_dataset_open(r.tokenizer, &r.text);
    r.validation = cb_dataset_split(r.train, 0.2, 1);
    assert_ok();
    refuse_to_resume(&r, "data #");

    resumable(&r, "course");
    cb_tensor *weight = cb_layer_weight(cb_layer_find(cb_model_root(r.model), "model.norm"), "weight");
    cb_scope *scope = cb_scope_open();
    cb_tensor *other = cb_full_nd(weight->dtype, 2, weight->ndim, weight->shape);
    assert_true(cb_layer_set_weight(cb_layer_find(cb_model_root(r.model), "model.norm"), "weight", other));
    cb_scope_close(scope);
    refuse_to_resume(&r, "base #");

    resumable(&r, "course");
    cb_adapter_detach(r.adapter);
    assert_true(cb_adapter_set(r.adapter, "dropout", "0.3"));
    assert_true(cb_adapter_attach(r.adapter, cb_model_root(r.model), cb_model_type(r.model), 3));
    r.what = cb_train_adapter(r.model, r.adapter);
    refuse_to_resume(&r, "adapter options #");
}

/* ---- equal ways ---- */

static void assert_near(const rig *a, const rig *b, double tolerance)
{
    for (size_t i = 0; i < a->what.count; i++) {
        double d = relative_difference(a->what.parameters[i].tensor, b->what.parameters[i].tensor);
        if (!(d <= tolerance))
            fail_msg("%s differs by %g", a->what.parameters[i].name, d);
    }
}

static void accumulation_is_a_larger_batch(void **state)
{
    (void)state;
    rig a, b;
    rig_open(&a, "large", plain);
    rig_open(&b, "small", plain);
    a.options.optimizer = b.options.optimizer = 1; /* SGD: AdamW divides by gradients, however small */
    a.options.learning_rate = b.options.learning_rate = 0.5;
    a.options.steps = b.options.steps = 4;
    a.options.batch_size = 6;
    b.options.batch_size = 2;
    b.options.gradient_accumulation_steps = 3;
    cb_train_result ra, rb;
    assert_true(cb_train(&a.what, a.train, NULL, &a.options, NULL, NULL, &ra));
    assert_true(cb_train(&b.what, b.train, NULL, &b.options, NULL, NULL, &rb));
    /* the same sums in another order, in f32 */
    assert_true(fabs(ra.first_loss - rb.first_loss) < 1e-5 * ra.first_loss);
    assert_true(fabs(ra.last_loss - rb.last_loss) < 1e-5 * ra.last_loss);
    assert_true(ra.tokens == rb.tokens && ra.last_loss < ra.first_loss);
    assert_near(&a, &b, 1e-4);
    rig_close(&a);
    rig_close(&b);
}

static void gradient_checkpointing_changes_no_bit(void **state)
{
    (void)state;
    rig a, b;
    rig_open(&a, "kept", with_dropout);
    rig_open(&b, "again", with_dropout);
    a.options.steps = b.options.steps = 4;
    b.options.gradient_checkpointing = true;
    assert_true(cb_train(&a.what, a.train, NULL, &a.options, NULL, NULL, NULL));
    assert_true(cb_train(&b.what, b.train, NULL, &b.options, NULL, NULL, NULL));
    assert_near(&a, &b, 0);
    rig_close(&a);
    rig_close(&b);
}

static void seeds_decide(void **state)
{
    (void)state;
    static const uint64_t seeds[] = {11, 11, 12};
    double losses[3];
    for (int i = 0; i < 3; i++) {
        rig r;
        rig_open(&r, "seed", with_dropout);
        cb_train_result result;
        r.options.seed = seeds[i];
        r.options.steps = 3;
        assert_true(cb_train(&r.what, r.train, NULL, &r.options, NULL, NULL, &result));
        losses[i] = result.last_loss;
        rig_close(&r);
    }
    assert_true(losses[0] == losses[1] && losses[0] != losses[2]);
}

/* ---- validation ---- */

static void early_stopping_keeps_the_best(void **state)
{
    (void)state;
    rig r;
    rig_open(&r, "stopped-early", plain);
    r.options.optimizer = 1;
    r.options.lr_scheduler_type = CB_SCHEDULE_CONSTANT;
    r.options.learning_rate = 0.3;
    r.options.max_grad_norm = 0;
    r.options.steps = 200;
    r.options.eval_steps = 1;
    r.options.early_stopping_patience = 3;
    cb_train_result result;
    assert_true(cb_train(&r.what, r.train, r.validation, &r.options, NULL, NULL, &result));
    assert_true(result.stopped_early);
    assert_int_equal(result.steps, result.best_step + 3);
    cb_perplexity_result last, best;
    assert_true(cb_evaluate_perplexity(r.model, r.validation, 2, 0, &last));
    assert_true(last.loss > result.best_eval_loss);
    /* a stopped run stays stopped */
    r.options.resume = true;
    cb_train_result again;
    assert_true(cb_train(&r.what, r.train, r.validation, &r.options, NULL, NULL, &again));
    assert_int_equal(again.steps, result.steps);
    /* and what it left is the best */
    cb_adapter_free(r.adapter);
    r.adapter = cb_adapter_load(r.options.output, cb_model_root(r.model), cb_model_type(r.model));
    assert_ok();
    assert_true(cb_evaluate_perplexity(r.model, r.validation, 2, 0, &best));
    assert_true(best.loss == result.best_eval_loss);
    rig_close(&r);
}

static void perplexity_is_the_mean_over_predicted_tokens(void **state)
{
    (void)state;
    rig r;
    rig_open(&r, "evaluated", plain);
    cb_batch batch = {0};
    double sum = 0;
    int64_t count = 0;
    for (int64_t i = 0; cb_dataset_sequential(r.validation, i, 1, &batch); i++) {
        cb_scope *scope = cb_scope_open();
        cb_tensor *logits = NULL;
        cb_no_grad logits = cb_model_logits(r.model, batch.ids, &(cb_context){.positions = batch.positions, .segments = batch.segments});
        assert_ok();
        int64_t width = logits->shape[2];
        for (int64_t t = 0; t < batch.ids->count; t++) {
            int32_t target = ((const int32_t *)batch.targets->data)[t];
            double total = 0;
            for (int64_t v = 0; target >= 0 && v < width; v++)
                total += exp(cb_get(logits, t * width + v));
            if (target >= 0) {
                sum += log(total) - cb_get(logits, t * width + target);
                count++;
            }
        }
        cb_scope_close(scope);
    }
    cb_batch_free(&batch);
    cb_perplexity_result result;
    assert_true(cb_evaluate_perplexity(r.model, r.validation, 3, 0, &result));
    assert_int_equal(result.tokens, count);
    assert_true(fabs(result.loss / (sum / (double)count) - 1) < 1e-5);
    assert_true(fabs(result.perplexity / exp(result.loss) - 1) < 1e-12);
    /* a token is a byte here: 18 or so of each line, and the line feed that is cut off */
    assert_true(fabs(result.bits_per_byte / (result.loss / log(2)) - 1) < 1e-9);
    assert_true(cb_evaluate_perplexity(r.model, r.validation, 1, 2, &result));
    assert_true(result.tokens < count && result.tokens > 0);
    cb_interrupt();
    assert_false(cb_evaluate_perplexity(r.model, r.validation, 1, 0, &result));
    assert_int_equal(cb_error_status(), CB_ERR_INTERRUPTED);
    cb_interrupt_clear();
    cb_error_clear();
    rig_close(&r);
}

/* ---- failures ---- */

static void a_loss_that_is_no_number_stops_and_the_checkpoint_stands(void **state)
{
    (void)state;
    rig r;
    rig_open(&r, "nan", plain);
    r.options.steps = 3;
    assert_true(cb_train(&r.what, r.train, NULL, &r.options, NULL, NULL, NULL));
    copy_file(scratch_path("nan/checkpoint.safetensors"), scratch_path("kept.safetensors"));
    ((float *)r.what.parameters[0].tensor->data)[0] = NAN;
    assert_false(cb_train(&r.what, r.train, NULL, &r.options, NULL, NULL, NULL));
    assert_int_equal(cb_error_status(), CB_ERR_NUMERIC);
    assert_non_null(strstr(cb_error_message(), "step 1: the loss is"));
    cb_error_clear();
    assert_same_file(scratch_path("nan/checkpoint.safetensors"), scratch_path("kept.safetensors"));
    /* nothing of the failed step is left on the parameters */
    for (size_t i = 0; i < r.what.count; i++)
        assert_null(r.what.parameters[i].tensor->grad);
    rig_close(&r);
}

/* The message says where it began; nothing of the failed step is left. */
static void assert_stops(rig *r, const char *where)
{
    assert_false(cb_train(&r->what, r->train, NULL, &r->options, NULL, NULL, NULL));
    assert_int_equal(cb_error_status(), CB_ERR_NUMERIC);
    if (!strstr(cb_error_message(), where))
        fail_msg("found \"%s\", expected \"%s\"", cb_error_message(), where);
    cb_error_clear();
    for (size_t i = 0; i < r->what.count; i++)
        assert_null(r->what.parameters[i].tensor->grad);
}

static cb_module *module_of(rig *r, const char *layer)
{
    cb_module *const *modules;
    size_t count = cb_adapter_modules(r->adapter, &modules);
    for (size_t i = 0; i < count; i++)
        if (strcmp(modules[i]->layer->name, layer) == 0)
            return modules[i];
    fail_msg("no module on %s", layer);
    return NULL;
}

static cb_tensor *parameter_named(rig *r, const char *part)
{
    for (size_t i = 0; i < r->what.count; i++)
        if (strstr(r->what.parameters[i].name, part))
            return r->what.parameters[i].tensor;
    fail_msg("no parameter %s", part);
    return NULL;
}

static void the_layer_that_first_gives_no_finite_number_is_named(void **state)
{
    (void)state;
    for (int checkpointing = 0; checkpointing < 2; checkpointing++) {
        rig r;
        rig_open(&r, "named", plain);
        r.options.steps = 1;
        r.options.gradient_checkpointing = checkpointing;
        cb_layer *layer = cb_layer_find(cb_model_root(r.model), "model.layers.1.mlp.down_proj");
        assert_true(cb_layer_train_copy(layer, "weight", CB_F32, true));
        cb_parameter(cb_layer_weight(layer, "weight"))->requires_grad = false;
        float *weight = cb_layer_weight(layer, "weight")->data, kept = weight[3];
        weight[3] = INFINITY;
        assert_stops(&r, "layer model.layers.1.mlp.down_proj is the first to give");
        weight[3] = kept;
        /* the module's own strength: its parameters are as they should be */
        module_of(&r, "model.layers.0.self_attn.v_proj")->strength = INFINITY;
        assert_stops(&r, "the lora on layer model.layers.0.self_attn.v_proj is the first to give");
        /* B is 0, so the output is fine; the gradient of B is strength x gradient x A x */
        module_of(&r, "model.layers.0.self_attn.v_proj")->strength = 1e30;
        float *a = parameter_named(&r, "layers.0.self_attn.v_proj.lora_A")->data, small = a[0];
        a[0] = 1e20f;
        assert_stops(&r, "every layer's output is finite, the gradient is first");
        assert_stops(&r, "of model.layers.0.self_attn.v_proj; the rows are of");
        a[0] = small;
        module_of(&r, "model.layers.0.self_attn.v_proj")->strength = 1;
        assert_true(cb_train(&r.what, r.train, NULL, &r.options, NULL, NULL, NULL));
        a[0] = NAN;
        assert_stops(&r, "lora_A.weight itself holds nan");
        rig_close(&r);
    }
}

static bool cannot_save(const cb_trainee *what, const char *directory)
{
    (void)what;
    return cb_fail(CB_ERR_IO, "%s: no room", directory) == CB_OK;
}

static void failures_of_others_are_passed_on(void **state)
{
    (void)state;
    rig r;
    rig_open(&r, "unsaved", plain);
    r.options.steps = 2;
    cb_trainee unsaved = r.what, nothing = r.what;
    unsaved.save = cannot_save;
    nothing.count = 0;
    assert_false(cb_train(&unsaved, r.train, NULL, &r.options, NULL, NULL, NULL));
    assert_non_null(strstr(cb_error_message(), "no room"));
    cb_error_clear();
    assert_false(cb_train(&nothing, r.train, NULL, &r.options, NULL, NULL, NULL));
    assert_int_equal(cb_error_status(), CB_ERR_ARGUMENT);
    cb_error_clear();
    write_file("a-file", "");
    free(r.options.output);
    r.options.output = strdup(scratch_path("a-file"));
    assert_false(cb_train(&r.what, r.train, NULL, &r.options, NULL, NULL, NULL));
    assert_int_equal(cb_error_status(), CB_ERR_IO);
    cb_error_clear();
    rig_close(&r);
}

/* ---- checkpoints from strangers ---- */

static const char fingerprint[] = "steps 3, seed 1, 4 documents";

typedef struct stand {
    cb_scope *scope;
    cb_tensor *parameters[2];
    cb_named_tensor named[2];
    cb_trainee what;
    cb_optimizer *optimizer;
    train_state state;
} stand;

static void stand_open(stand *s)
{
    *s = (stand){.scope = cb_scope_open()};
    s->parameters[0] = cb_parameter(cb_full(CB_F32, 1.5, 3, 2));
    s->parameters[1] = cb_parameter(cb_full(CB_F32, -2, 5));
    s->named[0] = (cb_named_tensor){"a.weight", s->parameters[0]};
    s->named[1] = (cb_named_tensor){"b", s->parameters[1]};
    s->what = (cb_trainee){.count = 2, .parameters = s->named};
    s->optimizer = cb_adamw(2, s->parameters);
    s->state = (train_state){.step = 3,
                             .tokens = 100,
                             .seconds = 0.1,
                             .first_loss = 3.25,
                             .last_loss = NAN,
                             .best_loss = INFINITY,
                             .log_bytes = 77,
                             .rng = {.seed = UINT64_MAX, .stream = 1, .counter = 12345}};
    cb_optimizer_set_steps(s->optimizer, 3);
    ((float *)cb_optimizer_slot(s->optimizer, 1, 1)->data)[4] = 0.25f;
    assert_ok();
}

static void stand_close(stand *s)
{
    cb_optimizer_free(s->optimizer);
    cb_scope_close(s->scope);
}

static bool read_back(stand *s)
{
    return cb_train_state_read(scratch, &s->what, s->optimizer, &s->state, fingerprint);
}

static void assert_untouched(const stand *s)
{
    assert_true(cb_get(s->parameters[0], 0) == 9 && cb_get(s->parameters[1], 4) == 9);
    assert_int_equal(s->state.step, 0);
    assert_int_equal(cb_optimizer_steps(s->optimizer), 0);
}

/* A fresh run, recognisable by its parameters. */
static void stand_fresh(stand *s)
{
    stand_open(s);
    for (int i = 0; i < 2; i++)
        for (int64_t k = 0; k < s->parameters[i]->count; k++)
            ((float *)s->parameters[i]->data)[k] = 9;
    s->state = (train_state){0};
    cb_optimizer_set_steps(s->optimizer, 0);
}

static void write_checkpoint(void)
{
    stand s;
    stand_open(&s);
    assert_true(cb_train_state_write(scratch, &s.what, s.optimizer, &s.state, fingerprint, false));
    stand_close(&s);
}

static void checkpoints_give_every_bit_back(void **state)
{
    (void)state;
    write_checkpoint();
    stand s, t;
    stand_open(&s);
    stand_fresh(&t);
    assert_true(read_back(&t));
    assert_ok();
    assert_memory_equal(&t.state, &s.state, sizeof s.state);
    for (int i = 0; i < 2; i++)
        assert_true(relative_difference(t.parameters[i], s.parameters[i]) == 0);
    assert_true(cb_get(cb_optimizer_slot(t.optimizer, 1, 1), 4) == 0.25);
    assert_int_equal(cb_optimizer_steps(t.optimizer), 3);
    stand_close(&t);
    stand_close(&s);
    unlink(scratch_path("checkpoint.safetensors"));
    stand_fresh(&t);
    assert_false(read_back(&t)); /* there is none, which is no failure */
    assert_ok();
    assert_untouched(&t);
    stand_close(&t);
}

static void refuse_checkpoint(const char *part)
{
    stand s;
    stand_fresh(&s);
    assert_false(read_back(&s));
    if (cb_ok() || !strstr(cb_error_message(), part) || !strstr(cb_error_message(), "checkpoint.safetensors"))
        fail_msg("expected \"%s\", found \"%s\"", part, cb_error_message());
    cb_error_clear();
    assert_untouched(&s);
    stand_close(&s);
}

static void checkpoints_of_other_runs_are_refused(void **state)
{
    (void)state;
    write_checkpoint();
    stand s;
    stand_fresh(&s);
    assert_false(cb_train_state_read(scratch, &s.what, s.optimizer, &s.state, "steps 4, seed 1, 5 documents"));
    assert_non_null(strstr(cb_error_message(), "found steps 3, 4 documents; expected steps 4, 5 documents"));
    cb_error_clear();
    assert_untouched(&s);
    assert_false(cb_train_state_read(scratch, &s.what, s.optimizer, &s.state, "steps 3"));
    cb_error_clear();
    assert_untouched(&s);
    s.named[1].name = "c";
    assert_false(read_back(&s));
    assert_non_null(strstr(cb_error_message(), "parameter.c is missing"));
    cb_error_clear();
    assert_untouched(&s);
    stand_close(&s);
}

/* The file with one tensor left out, added, or changed. */
static void write_changed(const char *name, const cb_weight_entry *instead, bool add)
{
    write_checkpoint();
    cb_safetensors *file = cb_safetensors_open(scratch_path("checkpoint.safetensors"));
    assert_ok();
    cb_weight_entry entries[64];
    size_t count = 0;
    for (size_t i = 0; i < cb_safetensors_count(file); i++) {
        const cb_weight_entry *e = cb_safetensors_at(file, i);
        if (strcmp(e->name, name) != 0)
            entries[count++] = *e;
        else if (instead && !add)
            entries[count++] = *instead;
    }
    if (add)
        entries[count++] = *instead;
    const char *const metadata[] = {"fingerprint", fingerprint, NULL};
    assert_true(cb_safetensors_write(scratch_path("checkpoint.safetensors"), entries, count, metadata, NULL, NULL));
    cb_safetensors_close(file);
}

static void damaged_checkpoints_are_refused(void **state)
{
    (void)state;
    static const int64_t minus = -1, huge = INT64_MAX;
    static const double nan = NAN;
    static const float values[6] = {0};
    write_changed("state.step", &(cb_weight_entry){.name = "state.step", .dtype = CB_I64, .data = &minus, .size = 8}, false);
    refuse_checkpoint("step -1");
    write_changed("state.step", &(cb_weight_entry){.name = "state.step", .dtype = CB_I64, .data = &huge, .size = 8}, false);
    refuse_checkpoint("not one that a run can be in");
    write_changed("state.seconds", &(cb_weight_entry){.name = "state.seconds", .dtype = CB_F64, .data = &nan, .size = 8}, false);
    refuse_checkpoint("not one that a run can be in");
    write_changed("state.tokens", &(cb_weight_entry){.name = "state.tokens", .dtype = CB_F64, .data = &nan, .size = 8}, false);
    refuse_checkpoint("state.tokens: found F64(), expected i64()");
    write_changed("state.best_step", NULL, false);
    refuse_checkpoint("state.best_step is missing");
    write_changed("optimizer.exp_avg.b", NULL, false);
    refuse_checkpoint("optimizer.exp_avg.b is missing");
    write_changed("parameter.a.weight",
                  &(cb_weight_entry){.name = "parameter.a.weight", .dtype = CB_F32, .ndim = 2, .shape = {2, 3}, .data = values, .size = 24},
                  false);
    refuse_checkpoint("found F32(2, 3), expected f32(3, 2)");
    write_changed("", &(cb_weight_entry){.name = "more", .dtype = CB_F32, .ndim = 1, .shape = {1}, .data = values, .size = 4}, true);
    refuse_checkpoint("tensors, expected");
    /* cut short anywhere, or with a byte more */
    write_checkpoint();
    size_t length;
    char *bytes = read_file(scratch_path("checkpoint.safetensors"), &length);
    for (size_t n = 0; n < length; n += 1 + n / 9) {
        write_bytes(scratch_path("checkpoint.safetensors"), bytes, n);
        refuse_checkpoint("");
    }
    write_bytes(scratch_path("checkpoint.safetensors"), bytes, length + 1); /* the NUL at its end */
    refuse_checkpoint("");
    /* any bit of the header turned: refused, or a change that does not matter; never a crash */
    for (size_t i = 0; i < length && i < 1600; i++) {
        bytes[i] ^= (char)(1 << i % 8);
        write_bytes(scratch_path("checkpoint.safetensors"), bytes, length);
        stand s;
        stand_fresh(&s);
        if (!read_back(&s))
            assert_untouched(&s);
        cb_error_clear();
        stand_close(&s);
        bytes[i] ^= (char)(1 << i % 8);
    }
    cb_free(bytes);
}

/* ---- what is left behind ---- */

static void a_run_leaves_records(void **state)
{
    (void)state;
    rig r;
    rig_open(&r, "records", plain);
    r.options.eval_steps = EVAL_STEPS;
    for (int turn = 0; turn < 2; turn++) { /* the second run replaces the first one's */
        assert_true(cb_train(&r.what, r.train, r.validation, &r.options, NULL, NULL, NULL));
        assert_log_of_steps(scratch_path("records/log.jsonl"), STEPS);
        cb_string_list names = {0};
        assert_true(cb_directory_list(scratch_path("records"), false, &names));
        size_t events = 0, others = 0;
        for (size_t i = 0; i < names.count; i++) {
            static const char *const expected[] = {"adapter_config.json", "adapter_model.safetensors", "checkpoint.safetensors",
                                                   "curves.png", "log.jsonl"};
            bool known = false;
            for (int k = 0; k < 5; k++)
                known |= !strcmp(names.items[i], expected[k]);
            others += known;
            events += !strncmp(names.items[i], "events.out.tfevents.", 20);
        }
        assert_int_equal(events, 1);
        assert_int_equal(others, 5);
        assert_int_equal(names.count, 6);
        cb_string_list_free(&names);
    }
    rig_close(&r);
}

static void steps_in_steady_state_ask_the_system_for_no_memory(void **state)
{
    (void)state;
#ifndef __SANITIZE_ADDRESS__ /* there every block comes from the system */
    rig r;
    rig_open(&r, "steady", with_dropout);
    cb_train_result result;
    assert_true(cb_train(&r.what, r.train, NULL, &r.options, NULL, NULL, &result));
    assert_int_equal(result.step_allocations, 0);
    rig_close(&r);
#endif
}

static void failing_allocations_leave_nothing_behind(void **state)
{
    (void)state;
    rig r;
    rig_open(&r, "failing", with_dropout);
    r.options.steps = 2;
    r.options.save_steps = 1;
    assert_true(cb_train(&r.what, r.train, r.validation, &r.options, NULL, NULL, NULL)); /* what is made once is made */
    r.options.eval_batches = 1;
    uint64_t before = cb_memory().live_bytes;
    bool done = false;
    for (uint64_t n = 1; !done; n += 1 + n / 24) {
        cb_memory_fail_after(n);
        done = cb_train(&r.what, r.train, r.validation, &r.options, NULL, NULL, NULL);
        cb_memory_fail_after(0);
        if (!done && cb_error_status() != CB_ERR_MEMORY)
            fail_msg("allocation %d: status %d, \"%s\"", (int)n, cb_error_status(), cb_error_message());
        cb_error_clear();
        for (size_t i = 0; i < r.what.count; i++)
            assert_null(r.what.parameters[i].tensor->grad);
        if (cb_memory().live_bytes != before)
            fail_msg("allocation %d: %lld bytes were left", (int)n, (long long)(cb_memory().live_bytes - before));
        assert_true(n < 1000000);
    }
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_resumed_run_ends_with_the_bits_of_one_that_never_stopped, without_errors),
        cmocka_unit_test_setup(a_killed_run_resumes_from_its_last_checkpoint, without_errors),
        cmocka_unit_test_setup(the_log_of_a_resumed_run_may_be_gone, without_errors),
        cmocka_unit_test_setup(resuming_a_finished_run_changes_nothing, without_errors),
        cmocka_unit_test_setup(a_run_is_not_resumed_on_other_data_or_with_another_adapter, without_errors),
        cmocka_unit_test_setup(accumulation_is_a_larger_batch, without_errors),
        cmocka_unit_test_setup(gradient_checkpointing_changes_no_bit, without_errors),
        cmocka_unit_test_setup(seeds_decide, without_errors),
        cmocka_unit_test_setup(early_stopping_keeps_the_best, without_errors),
        cmocka_unit_test_setup(perplexity_is_the_mean_over_predicted_tokens, without_errors),
        cmocka_unit_test_setup(a_loss_that_is_no_number_stops_and_the_checkpoint_stands, without_errors),
        cmocka_unit_test_setup(the_layer_that_first_gives_no_finite_number_is_named, without_errors),
        cmocka_unit_test_setup(failures_of_others_are_passed_on, without_errors),
        cmocka_unit_test_setup(checkpoints_give_every_bit_back, without_errors),
        cmocka_unit_test_setup(checkpoints_of_other_runs_are_refused, without_errors),
        cmocka_unit_test_setup(damaged_checkpoints_are_refused, without_errors),
        cmocka_unit_test_setup(a_run_leaves_records, without_errors),
        cmocka_unit_test_setup(steps_in_steady_state_ask_the_system_for_no_memory, without_errors),
        cmocka_unit_test_setup(failing_allocations_leave_nothing_behind, without_errors),
    };
    cb_set_threads(1); /* the model is tiny */
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
