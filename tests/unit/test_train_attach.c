/* test_train_attach.c: starts of adapters that are worked out from training data, through runs: what is kept of them, going on from it, and
 * what is refused. */
#include "cambium/training.h"
#include "core/rehearsal.h"
#include "text_fixtures.h"

enum { STEPS = 4 };

/* Everything a run needs, on the reference model `llama2`; the adapter is attached by cb_train_attach(). */
typedef struct rig {
    cb_tokenizer *tokenizer;
    cb_data_options text;
    cb_dataset *train;
    cb_model *model;
    cb_adapter *adapter;
    cb_train_options options;
    cb_start_options start;
    int64_t looks; /* batches that were looked at */
} rig;

static void count_looks(void *user, int64_t batch, int64_t most)
{
    assert_true(batch <= most);
    ((rig *)user)->looks = batch;
}

static void rig_open(rig *r, const char *output, const char *adapter_options)
{
    char text[4096], *at = text;
    for (int i = 0; i < 60; i++)
        at += sprintf(at, "The %s cuts the %s.\n", i % 3 ? "knife" : "gardener", i % 5 ? "branch" : "stem");
    *r = (rig){.tokenizer = characters(false, false), .text = data_options(write_file("text.txt", text))};
    r->text.lines = true;
    r->text.sequence_length = 32;
    r->train = cb_dataset_open(r->tokenizer, &r->text);
    r->model = cb_model_load(model_path("llama2"));
    r->adapter = cb_adapter_new("lora", "default");
    assert_true(cb_adapter_set_json(r->adapter, "options", adapter_options));
    assert_true(cb_options_init(cb_train_option_table, &r->options) && cb_options_init(cb_start_option_table, &r->start));
    r->options.output = strdup(scratch_path(output));
    r->options.seed = 11;
    r->options.steps = STEPS;
    r->options.batch_size = 4;
    r->options.save_steps = 1;
    r->options.learning_rate = 1e-2;
    r->start.callback = count_looks;
    r->start.user = r;
    assert_ok();
}

static void rig_close(rig *r)
{
    cb_adapter_free(r->adapter);
    cb_model_free(r->model);
    cb_dataset_free(r->train);
    data_options_free(&r->text);
    cb_tokenizer_free(r->tokenizer);
    free(r->options.output);
    cb_free(r->start.loftq_model);
}

static bool attach(rig *r)
{
    return cb_train_attach(r->model, r->adapter, r->train, &r->options, &r->start);
}

static void stop_after_second(void *user, const cb_train_report *report)
{
    (void)user;
    if (report->step == 2)
        cb_interrupt();
}

/* One process of a run; whether it came to its end. */
static bool run(rig *r, cb_train_callback *callback)
{
    if (!attach(r))
        return false;
    cb_trainee what = cb_train_adapter(r->model, r->adapter);
    return cb_train(&what, r->train, NULL, &r->options, callback, NULL, NULL);
}

static void expect_refusal(bool failed, const char *text)
{
    if (!failed || !strstr(cb_error_message(), text))
        fail_msg("expected a refusal with '%s', found: %s", text, failed ? cb_error_message() : "success");
    cb_error_clear();
}

static void expect_same_tensors(const char *a, const char *b)
{
    cb_safetensors *x = cb_safetensors_open(a), *y = cb_safetensors_open(b);
    assert_ok();
    assert_int_equal(cb_safetensors_count(x), cb_safetensors_count(y));
    for (size_t i = 0; i < cb_safetensors_count(x); i++) {
        const cb_weight_entry *e = cb_safetensors_at(x, i), *f = cb_safetensors_find(y, e->name);
        assert_non_null(f);
        assert_int_equal(e->size, f->size);
        assert_memory_equal(e->data, f->data, e->size);
    }
    cb_safetensors_close(x);
    cb_safetensors_close(y);
}

static const char *const variants[] = {
    "{\"r\": 4, \"target_modules\": \"all-linear\", \"init_lora_weights\": \"eva\", \"eva_config\": {\"tau\": 0.8}}",
    "{\"r\": 4, \"target_modules\": [\"q_proj\", \"lm_head\"], \"init_lora_weights\": \"eva\", \"use_dora\": true}",
    "{\"r\": 4, \"lora_alpha\": 6, \"target_modules\": \"all-linear\", \"init_lora_weights\": \"corda\"}",
    ("{\"r\": 4, \"target_modules\": [\"o_proj\", \"embed_tokens\"], \"init_lora_weights\": \"corda\", \"use_dora\": true,"
     " \"corda_config\": {\"corda_method\": \"kpm\"}}"),
};
enum { VARIANTS = sizeof(variants) / sizeof(*variants) };

/* A run that was interrupted does not look again, and ends with the bits of one that was not. */
static void going_on_does_not_look_again(void **state)
{
    (void)state;
    for (int i = 0; i < VARIANTS; i++) {
        rig r;
        char command[256];
        rig_open(&r, "whole", variants[i]);
        assert_true(run(&r, NULL));
        assert_true(r.looks > 0);
        rig_close(&r);
        rig_open(&r, "parts", variants[i]);
        assert_false(run(&r, stop_after_second));
        assert_int_equal(cb_error_status(), CB_ERR_INTERRUPTED);
        cb_error_clear();
        cb_interrupt_clear();
        rig_close(&r);
        rig_open(&r, "parts", variants[i]);
        r.options.resume = true;
        bool ok = run(&r, NULL);
        if (!ok)
            fail_msg("%s: %s", variants[i], cb_error_message());
        assert_int_equal(r.looks, 0);
        rig_close(&r);
        expect_same_tensors(scratch_path("parts/adapter_model.safetensors"), scratch_path("whole/adapter_model.safetensors"));
        expect_same_tensors(scratch_path("parts/start.safetensors"), scratch_path("whole/start.safetensors"));
        snprintf(command, sizeof command, "rm -rf %s/parts %s/whole", scratch, scratch);
        assert_int_equal(system(command), 0);
    }
}

static void starts_of_other_runs_are_refused(void **state)
{
    (void)state;
    rig r;
    rig_open(&r, "run", variants[2]);
    assert_true(run(&r, NULL));
    rig_close(&r);
    rig_open(&r, "run", variants[2]);
    r.options.resume = true;
    r.options.batch_size = 2;
    expect_refusal(!attach(&r), "batches of 2 rows");
    rig_close(&r);
    rig_open(&r, "run", "{\"r\": 5, \"target_modules\": \"all-linear\", \"init_lora_weights\": \"corda\"}");
    r.options.resume = true;
    expect_refusal(!attach(&r), "the start is of another run: found adapter options");
    rig_close(&r);
    rig_open(&r, "run", variants[2]);
    r.options.resume = true;
    assert_int_equal(unlink(scratch_path("run/start.safetensors")), 0);
    expect_refusal(!attach(&r), "start.safetensors: is missing");
    rig_close(&r);
    /* damaged */
    rig_open(&r, "run", variants[2]);
    r.options.resume = true;
    write_file("run/start.safetensors", "nothing of the kind");
    expect_refusal(!attach(&r), "start.safetensors");
    rig_close(&r);
}

/* Nothing is learned yet: eva's B is zero, corda's first part is taken from the base. */
static void they_begin_where_the_base_is(void **state)
{
    (void)state;
    for (int i = 0; i < VARIANTS; i++) {
        rig r;
        rig_open(&r, "fresh", variants[i]);
        cb_scope *scope = cb_scope_open();
        int32_t ids[12];
        for (int k = 0; k < 12; k++)
            ids[k] = 3 + 7 * k;
        cb_tensor *plain = NULL, *adapted = NULL;
        cb_no_grad plain = cb_model_logits(r.model, cb_from(CB_I32, ids, 1, 12), NULL);
        assert_true(attach(&r));
        cb_no_grad adapted = cb_model_logits(r.model, cb_from(CB_I32, ids, 1, 12), NULL);
        assert_close(variants[i], adapted, plain, 1e-5);
        cb_scope_close(scope);
        rig_close(&r);
    }
}

static const char cached[] = "{\"r\": 4, \"target_modules\": [\"q_proj\", \"down_proj\"], \"init_lora_weights\": \"corda\","
                             " \"corda_config\": {\"cache_file\": \"%s\", \"covariance_file\": \"%s\"}}";

static void cordas_files_save_the_look(void **state)
{
    (void)state;
    char options[1024], first[256];
    snprintf(first, sizeof first, "%s", scratch_path("files/cache.safetensors"));
    snprintf(options, sizeof options, cached, first, scratch_path("files/covariances.safetensors"));
    rig r;
    rig_open(&r, "a", options);
    assert_true(attach(&r));
    assert_int_equal(r.looks, (cb_dataset_rows(r.train) + 3) / 4);
    rig_close(&r);
    rig_open(&r, "b", options);
    assert_true(attach(&r));
    assert_int_equal(r.looks, 0);
    rig_close(&r);
    expect_same_tensors(scratch_path("a/start.safetensors"), scratch_path("b/start.safetensors"));
    /* covariances serve other ranks */
    assert_int_equal(unlink(first), 0);
    options[6] = '3';
    rig_open(&r, "c", options);
    assert_true(attach(&r));
    assert_int_equal(r.looks, 0);
    rig_close(&r);
    /* what does not fit is refused by name */
    options[6] = '5';
    rig_open(&r, "d", options);
    expect_refusal(!attach(&r), "cache.safetensors: model.layers.0.self_attn.q_proj: found 3 singular triples, expected 5");
    rig_close(&r);
    assert_int_equal(unlink(first), 0);
    assert_int_equal(rename(scratch_path("a/start.safetensors"), scratch_path("files/covariances.safetensors")), 0);
    rig_open(&r, "d", options);
    expect_refusal(!attach(&r), "found none, expected the covariance (48, 48)");
    rig_close(&r);
    snprintf(options, sizeof options, cached, scratch_path("files/cache.pt"), scratch_path("files/none.safetensors"));
    rig_open(&r, "d", options);
    expect_refusal(!attach(&r), "a name that ends with .safetensors");
    rig_close(&r);
}

typedef struct refusal {
    const char *options, *message;
} refusal;

static void what_cannot_be_is_refused(void **state)
{
    (void)state;
    static const refusal cases[] = {
        {"{\"r\": 8, \"init_lora_weights\": \"eva\", \"eva_config\": {\"rho\": 7}}", "eva_rho: found 7 at rank 8"},
        {"{\"r\": 4, \"init_lora_weights\": \"eva\", \"eva_config\": {\"label_mask_value\": 3, \"rho\": 13}}", "eva_rho"},
        {"{\"r\": 4, \"init_lora_weights\": \"eva\", \"target_modules\": [\"embed_tokens\"]}", "no linear layer is adapted"},
        {"{\"r\": 4, \"init_lora_weights\": \"eva\", \"target_modules\": [\"q_porj\"]}", "close names"},
        {"{\"r\": 4, \"init_lora_weights\": \"eva\", \"lora_bias\": true}", "lora_bias"},
        {"{\"r\": 4, \"init_lora_weights\": \"corda\", \"lora_alpha\": 0}", "alpha: found 0"},
        {"{\"r\": 49, \"init_lora_weights\": \"corda\", \"target_modules\": [\"q_proj\"]}", "rank"},
        {"{\"r\": 4, \"init_lora_weights\": \"loftq\"}", "is not quantised"},
        {"{\"r\": 4, \"init_lora_weights\": \"loftq\", \"loftq_config\": {\"loftq_iter\": 2}}", "loftq_iter: found 2"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        rig r;
        rig_open(&r, "refused", cases[i].options);
        expect_refusal(!attach(&r), cases[i].message);
        rig_close(&r);
    }
    rig r;
    rig_open(&r, "refused", variants[0]);
    expect_refusal(!cb_adapter_attach(r.adapter, cb_model_root(r.model), "llama", 0), "cb_train_attach");
    expect_refusal(!cb_train_attach(r.model, r.adapter, NULL, &r.options, NULL), "found none");
    r.options.batch_size = 1; /* 32 tokens and fewer for 40 components */
    assert_true(cb_adapter_set(r.adapter, "eva_rho", "10"));
    r.start.start_batches = 2;
    expect_refusal(!attach(&r), "no batch had as many tokens");
    cb_interrupt();
    expect_refusal(!attach(&r), "interrupted after 0 batches");
    cb_interrupt_clear();
    assert_true(cb_adapter_set(r.adapter, "init_weights", "true"));
    assert_true(cb_train_attach(r.model, r.adapter, NULL, &r.options, NULL)); /* like any other */
    rig_close(&r);
}

static void a_rehearsal_writes_nothing(void **state)
{
    (void)state;
    for (int i = 0; i < VARIANTS; i++) {
        rig r;
        rig_open(&r, "rehearsed", variants[i]);
        cb_rehearsal_begin();
        assert_true(attach(&r));
        assert_true(cb_adapter_parameter_count(r.adapter) > 0 && cb_rehearsal_outputs() == 1);
        cb_rehearsal_end();
        assert_false(cb_is_directory(scratch_path("rehearsed")));
        rig_close(&r);
    }
}

/* Some call in a start fails for want of memory: it says so and leaves nothing, or it was not needed. */
static bool attach_without(rig *r, const char *options, uint64_t n, uint64_t live)
{
    r->adapter = cb_adapter_new("lora", "default");
    assert_true(cb_adapter_set_json(r->adapter, "options", options));
    cb_memory_fail_after(n);
    bool ok = attach(r);
    cb_memory_fail_after(0);
    if (ok != cb_ok())
        fail_msg("%s: allocation %llu: success and error do not agree: \"%s\"", options, (unsigned long long)n, cb_error_message());
    cb_error_clear();
    cb_adapter_free(r->adapter);
    r->adapter = NULL;
    if (live && cb_memory().live_bytes != live)
        fail_msg("%s: allocation %llu: %lld bytes were left", options, (unsigned long long)n, (long long)(cb_memory().live_bytes - live));
    return ok;
}

static void allocations_may_fail(void **state)
{
    (void)state;
    for (int i = 0; i < VARIANTS; i++) {
        rig r;
        rig_open(&r, "starved", variants[i]);
        cb_adapter_free(r.adapter);
        r.start.start_batches = 2;
        attach_without(&r, variants[i], 0, 0); /* what is made once is made */
        uint64_t live = cb_memory().live_bytes, n = 1, failed = 0;
        for (int through = 0; through < 16; n += 1 + n / 12) {
            bool ok = attach_without(&r, variants[i], n, live);
            through = ok ? through + 1 : 0;
            failed += !ok;
        }
        assert_true(failed > 30);
        rig_close(&r);
    }
}

int main(void)
{
    cb_set_threads(1); /* the model is tiny */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(going_on_does_not_look_again, without_errors),
        cmocka_unit_test_setup(starts_of_other_runs_are_refused, without_errors),
        cmocka_unit_test_setup(they_begin_where_the_base_is, without_errors),
        cmocka_unit_test_setup(cordas_files_save_the_look, without_errors),
        cmocka_unit_test_setup(what_cannot_be_is_refused, without_errors),
        cmocka_unit_test_setup(a_rehearsal_writes_nothing, without_errors),
        cmocka_unit_test_setup(allocations_may_fail, without_errors),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
