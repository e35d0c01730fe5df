/* test_adapt.c: models that learn while they answer: every method against what a few lines of torch make of the same batches (tests/oracle/adapt.py),
 * the exact cases of CoTTA, going back, resets, guards, streams and their records. */
#include "cambium/adapt.h"
#include "images/views.h"
#include "model_fixtures.h"
#include "training/adapt.h"

#define REFERENCE CB_TEST_DATA "/adapt"
#define NETWORK   CB_TEST_DATA "/vision/resnet_basic"
enum { BATCHES = 4, SOURCE = 2, LABELS = 4 };

typedef struct bench {
    cb_scope *scope;
    cb_model *model;
    cb_safetensors *inputs;
    cb_adapt_options options;
    cb_string_list config;
    cb_adaptation *a;
} bench;

static bench begin(void)
{
    bench b = {.scope = cb_scope_open(), .model = cb_model_load(NETWORK), .inputs = cb_safetensors_open(REFERENCE "/all.safetensors")};
    assert_ok();
    assert_true(cb_options_init(cb_adapt_option_table, &b.options));
    b.options.guard = false;
    return b;
}

static void set(bench *b, const char *option)
{
    assert_true(cb_string_list_add(&b->config, option));
}

static void set_reset(bench *b, const char *rule)
{
    cb_free(b->options.reset);
    b->options.reset = cb_strdup(rule);
}

static void start(bench *b, const char *method)
{
    b->a = cb_adaptation_open(b->model, NULL, method, &b->config, &b->options);
    assert_ok();
    assert_non_null(b->a);
}

static void stop(bench *b)
{
    cb_adaptation_free(b->a);
    cb_options_free(cb_adapt_option_table, &b->options);
    cb_string_list_free(&b->config);
    cb_safetensors_close(b->inputs);
    cb_model_free(b->model);
    cb_scope_close(b->scope);
    assert_ok();
}

static cb_tensor *tensor_of(cb_safetensors *file, const char *name, int number)
{
    char full[64];
    snprintf(full, sizeof full, "%s.%d", name, number);
    const cb_weight_entry *e = cb_safetensors_find(file, full);
    if (!e)
        fail_msg("there is no %s", full);
    return cb_from_nd(e->dtype, e->data, e->ndim, e->shape);
}

static cb_tensor *input(bench *b, int number)
{
    return tensor_of(b->inputs, "input", number);
}

static cb_learner *learner_of(const bench *b)
{
    return cb_adaptation_policy(b->a)->learner;
}

/* The answer's probabilities, kept by the scope. */
static cb_tensor *step(bench *b, cb_tensor *x)
{
    cb_adapt_outcome outcome;
    bool ok = cb_adaptation_step(b->a, x, false, &outcome);
    assert_ok();
    assert_true(ok);
    return cb_from(CB_F32, outcome.probabilities, outcome.rows, LABELS);
}

static void assert_near(const char *what, cb_tensor *found, cb_tensor *expected, double tolerance)
{
    assert_true(cb_same_shape(found, expected));
    for (int64_t i = 0; i < found->count; i++)
        if (!(fabs(cb_get(found, i) - cb_get(expected, i)) <= tolerance))
            fail_msg("%s: number %d is %.7g, expected %.7g", what, (int)i, cb_get(found, i), cb_get(expected, i));
}

/* f32 against f64; steps of learning carry the difference on. */
static const double close_to = 2e-4;

/* Adam takes steps of its rate in the direction of a gradient, also of one that is nearly 0: then rounding decides. */
static double parameters_close_to(const bench *b)
{
    return b->options.optimizer == CB_OPTIMIZER_ADAM ? b->options.learning_rate : close_to;
}

static void answers_are(bench *b, const char *name)
{
    char path[600];
    snprintf(path, sizeof path, REFERENCE "/%s.safetensors", name);
    cb_safetensors *file = cb_safetensors_open(path);
    assert_ok();
    for (int i = 0; i < BATCHES; i++) {
        cb_tensor *expected = tensor_of(file, "scores", i), *found = step(b, input(b, i));
        assert_near(name, found, strcmp(name, "lame") == 0 ? expected : cb_softmax(expected, -1), close_to);
    }
    const cb_named_tensor *list;
    size_t count = cb_learner_parameters(learner_of(b), &list), learned = 0;
    for (size_t i = 0; i < cb_safetensors_count(file); i++)
        learned += strncmp(cb_safetensors_at(file, i)->name, "final.", 6) == 0;
    for (size_t i = 0; learned && i < count; i++) {
        char full[300];
        snprintf(full, sizeof full, "final.%s", list[i].name);
        const cb_weight_entry *e = cb_safetensors_find(file, full);
        if (!e)
            fail_msg("%s: %s is trained, and was not there", name, list[i].name);
        snprintf(full, sizeof full, "%.40s: %.200s", name, list[i].name);
        assert_near(full, list[i].tensor, cb_from_nd(e->dtype, e->data, e->ndim, e->shape), parameters_close_to(b));
    }
    assert_true(!learned || learned == count);
    cb_safetensors_close(file);
}

/* ---- methods against torch ---- */

typedef struct method_case {
    const char *name, *method;
    double rate, running_weight;
    int optimizer, statistics;
    const char *config[6];
    bool studies;
} method_case;

static const method_case cases[] = {
    {"source", "source", 0, -1, 0, 0, {0}, false},
    {"bn", "bn", 0, -1, 0, 0, {0}, false},
    {"bn_mixed", "bn", 0, 0.6, 0, CB_ADAPT_STATISTICS_MIXED, {0}, false},
    {"bn_drifting", "bn", 0, 0.6, 0, CB_ADAPT_STATISTICS_DRIFTING, {0}, false},
    {"tent", "tent", 0.05, -1, CB_OPTIMIZER_SGD, 0, {0}, false},
    {"tent_adam", "tent", 1e-3, -1, CB_OPTIMIZER_ADAM, 0, {0}, false},
    {"eata", "eata", 0.05, -1, 0, 0, {"entropy_margin=0.7", "similarity_margin=0.95", "fisher_alpha=10"}, true},
    {"rdumb", "rdumb", 0.05, -1, 0, 0, {"entropy_margin=0.7", "similarity_margin=0.95"}, false},
    {"sar", "sar", 0.05, -1, 0, 0, {"entropy_margin=0.8", "recover_below=0"}, false},
    {"cotta", "cotta", 0.01, -1, CB_OPTIMIZER_SGD, 0, {"views=0", "momentum=0.9", "restore_rate=0"}, false},
    {"cotta_symmetric", "cotta", 0.01, -1, CB_OPTIMIZER_SGD, 0, {"views=0", "momentum=0.9", "restore_rate=0", "symmetric=true"}, false},
    {"rotta", "rotta", 0.05, 0.9, CB_OPTIMIZER_SGD, 0, {"memory=10", "update_every=8", "teacher_rate=0.1", "augment=false"}, false},
    {"roid", "roid", 0.02, -1, CB_OPTIMIZER_SGD, 0, {"augment=false"}, false},
    {"lame", "lame", 0, -1, 0, 0, {"neighbours=3"}, false},
    {"memo", "memo", 0.05, -1, 0, 0, {"augment=false", "views=2"}, false},
};

static void study(bench *b)
{
    cb_policy *p = cb_adaptation_policy(b->a);
    for (int i = 0; i < SOURCE; i++)
        assert_true(p->kind->study(p, tensor_of(b->inputs, "source", i)));
}

static void methods_are_those_of_their_papers(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const method_case *c = &cases[i];
        bench b = begin();
        b.options.learning_rate = c->rate;
        b.options.running_weight = c->running_weight;
        b.options.optimizer = c->optimizer;
        b.options.statistics = c->statistics;
        for (int k = 0; k < 6 && c->config[k]; k++)
            set(&b, c->config[k]);
        start(&b, c->method);
        if (c->studies)
            study(&b);
        answers_are(&b, c->name);
        stop(&b);
    }
}

/* ---- CoTTA ---- */

static void assert_same_bits(cb_tensor *a, cb_tensor *b)
{
    assert_memory_equal(a->data, b->data, (size_t)a->count * sizeof(float));
}

static void with_all_restored_the_student_is_the_source(void **state)
{
    (void)state;
    bench b = begin();
    set(&b, "restore_rate=1");
    set(&b, "views=0");
    start(&b, "cotta");
    size_t n = cb_learner_values(learner_of(&b));
    float *values = cb_alloc(n * sizeof *values);
    for (int i = 0; i < BATCHES; i++) {
        step(&b, input(&b, i));
        cb_learner_get(learner_of(&b), values);
        assert_memory_equal(values, cb_learner_source(learner_of(&b)), n * sizeof *values);
    }
    cb_free(values);
    stop(&b);
}

static cb_tensor *last_answer(const char *method, double rate, const char *const *config, int batches)
{
    bench b = begin();
    b.options.learning_rate = rate;
    for (; config && *config; config++)
        set(&b, *config);
    start(&b, method);
    cb_tensor *said = NULL;
    for (int i = 0; i < batches; i++)
        said = step(&b, input(&b, i));
    cb_keep(said);
    stop(&b);
    return said;
}

static void with_a_constant_teacher_answers_are_those_of_batch_statistics(void **state)
{
    (void)state;
    cb_tensor *bn = last_answer("bn", 0, NULL, BATCHES);
    static const char *const constant[] = {"momentum=1", "views=0", NULL};
    static const char *const sure[] = {"momentum=1", "threshold=0", NULL};
    cb_tensor *a = last_answer("cotta", 0.1, constant, BATCHES), *b = last_answer("cotta", 0.1, sure, BATCHES);
    assert_same_bits(a, bn);
    assert_same_bits(b, bn);
    cb_release(a);
    cb_release(b);
    cb_release(bn);
}

static void the_same_seed_gives_the_same_bits(void **state)
{
    (void)state;
    static const char *const config[] = {"views=2", "threshold=1", "restore_rate=0.3", NULL};
    cb_tensor *a = last_answer("cotta", 0.01, config, BATCHES), *b = last_answer("cotta", 0.01, config, BATCHES);
    cb_tensor *other = last_answer("cotta", 0.01, (const char *const[]){"views=2", "threshold=1", "restore_rate=0.2", NULL}, BATCHES);
    assert_same_bits(a, b);
    assert_memory_not_equal(a->data, other->data, (size_t)a->count * sizeof(float));
    cb_release(a);
    cb_release(b);
    cb_release(other);
}

static void as_many_numbers_are_restored_as_the_rate_says(void **state)
{
    (void)state;
    bench b = begin();
    start(&b, "cotta");
    cb_learner *l = learner_of(&b);
    size_t n = cb_learner_values(l), restored = 0, rounds = 20;
    float *far = cb_alloc(n * sizeof *far);
    cb_rng rng = {.seed = 3};
    for (size_t i = 0; i < n; i++)
        far[i] = 1000;
    for (size_t r = 0; r < rounds; r++) {
        cb_learner_set(l, far);
        cb_learner_restore(l, 0.03, &rng);
        float *now = cb_alloc(n * sizeof *now);
        cb_learner_get(l, now);
        for (size_t i = 0; i < n; i++)
            restored += now[i] != 1000 && now[i] == cb_learner_source(l)[i];
        cb_free(now);
    }
    double expected = 0.03 * (double)(n * rounds), deviation = sqrt(expected * 0.97);
    assert_true(fabs((double)restored - expected) < 4 * deviation);
    cb_free(far);
    stop(&b);
}

static void a_threshold_comes_from_source_images(void **state)
{
    (void)state;
    bench b = begin();
    start(&b, "cotta");
    cb_policy *p = cb_adaptation_policy(b.a);
    float sureness[16];
    int n = 0;
    for (int i = 0; i < SOURCE; i++) {
        cb_tensor *x = tensor_of(b.inputs, "source", i);
        assert_true(p->kind->study(p, x));
        cb_tensor *said = cb_softmax(cb_learner_source_logits(p->learner, CB_ADAPT_STATISTICS_OF_METHOD, x), -1);
        for (int k = 0; k < 8; k++)
            sureness[n++] = (float)cb_item(cb_max(cb_slice(said, 0, k, k + 1, 1), CB_ALL, false));
    }
    assert_true(p->kind->studied(p));
    float least = 1;
    for (int i = 0; i < n; i++)
        least = fminf(least, sureness[i]);
    cb_block_list blocks = {0};
    assert_true(p->kind->blocks(p, &blocks));
    assert_true(fabs(*(double *)blocks.items[1].data - fmax(0, (double)least - 0.05)) < 1e-6); /* of 16 the least is the fifth percentile */
    cb_block_list_free(&blocks);
    stop(&b);
}

/* ---- going back ---- */

static const char *const all_methods[] = {"source", "bn", "tent", "eata", "sar", "cotta", "rotta", "roid", "rdumb", "lame", "memo"};
#define METHODS (sizeof all_methods / sizeof *all_methods)

/* Those of a few views only. */
static void make_quick(bench *b, const char *method)
{
    if (strcmp(method, "cotta") == 0 || strcmp(method, "memo") == 0)
        set(b, "views=2");
    if (strcmp(method, "rotta") == 0) {
        set(b, "memory=6");
        set(b, "update_every=5");
    }
}

static void a_rollback_takes_back_every_bit(void **state)
{
    (void)state;
    for (size_t m = 0; m < METHODS; m++) {
        bench b = begin(), straight = begin();
        make_quick(&b, all_methods[m]);
        make_quick(&straight, all_methods[m]);
        b.options.rollback = true;
        start(&b, all_methods[m]);
        start(&straight, all_methods[m]);
        size_t n = cb_learner_values(learner_of(&b));
        float *before = cb_calloc(n + 1, sizeof *before), *after = cb_calloc(n + 1, sizeof *after);
        step(&b, input(&b, 0));
        cb_learner_get(learner_of(&b), before);
        step(&b, input(&b, 1));
        assert_true(cb_adaptation_rollback(b.a));
        cb_learner_get(learner_of(&b), after);
        assert_memory_equal(before, after, n * sizeof *before);
        bool draws = strcmp(all_methods[m], "cotta") == 0 || strcmp(all_methods[m], "memo") == 0 || strcmp(all_methods[m], "roid") == 0 ||
                     strcmp(all_methods[m], "rotta") == 0; /* which go on */
        step(&straight, input(&straight, 0));
        cb_tensor *expected = step(&straight, input(&straight, 2)), *found = step(&b, input(&b, 2));
        if (!draws)
            assert_same_bits(found, expected);
        cb_free(before);
        cb_free(after);
        stop(&straight);
        stop(&b);
    }
}

static void a_rollback_before_the_first_step_changes_nothing(void **state)
{
    (void)state;
    for (size_t m = 0; m < METHODS; m++) {
        bench b = begin(), straight = begin();
        make_quick(&b, all_methods[m]);
        make_quick(&straight, all_methods[m]);
        b.options.rollback = true;
        start(&b, all_methods[m]);
        start(&straight, all_methods[m]);
        assert_true(cb_adaptation_rollback(b.a));
        cb_tensor *expected = step(&straight, input(&straight, 0)), *found = step(&b, input(&b, 0));
        assert_same_bits(found, expected);
        stop(&straight);
        stop(&b);
    }
}

/* What a step back copies: parameters, what the optimiser and the method keep of each, and little else, however large the network and its memory. */
static void a_rollback_costs_what_is_trained(void **state)
{
    (void)state;
    enum { COPIES = 4, LITTLE = 1024 };
    for (size_t m = 0; m < METHODS; m++) {
        bench b = begin();
        b.options.rollback = true;
        start(&b, all_methods[m]);
        size_t bytes = 0, trained = cb_learner_values(learner_of(&b)) * sizeof(float);
        for (size_t i = 0; i < b.a->blocks.count; i++)
            bytes += b.a->blocks.items[i].kept ? 0 : b.a->blocks.items[i].bytes;
        if (bytes > COPIES * trained + LITTLE)
            fail_msg("%s: %zu bytes for %zu that are trained", all_methods[m], bytes, trained);
        step(&b, input(&b, 0));
        stop(&b);
    }
}

static void what_nobody_wants_back_is_not_kept(void **state)
{
    (void)state;
    bench b = begin();
    start(&b, "cotta");
    assert_null(b.a->before);
    assert_false(cb_adaptation_rollback(b.a));
    assert_int_equal(cb_error_status(), CB_ERR_STATE);
    cb_error_clear();
    stop(&b);
}

static void a_reset_is_a_new_beginning(void **state)
{
    (void)state;
    for (size_t m = 0; m < METHODS; m++) {
        bool draws = strcmp(all_methods[m], "cotta") == 0 || strcmp(all_methods[m], "memo") == 0 || strcmp(all_methods[m], "roid") == 0 ||
                     strcmp(all_methods[m], "rotta") == 0;
        if (draws) /* other draws than at first */
            continue;
        bench b = begin();
        set_reset(&b, "2");
        start(&b, all_methods[m]);
        cb_tensor *first[2], *again[2];
        for (int i = 0; i < 2; i++)
            first[i] = step(&b, input(&b, i));
        for (int i = 0; i < 2; i++)
            again[i] = step(&b, input(&b, i));
        assert_same_bits(first[0], again[0]);
        assert_same_bits(first[1], again[1]);
        stop(&b);
    }
}

static void the_model_is_as_it_was_afterwards(void **state)
{
    (void)state;
    bench b = begin();
    cb_tensor *x = input(&b, 0), *before = NULL, *after = NULL;
    cb_no_grad before = cb_model_logits(b.model, x, NULL);
    b.options.learning_rate = 0.1;
    start(&b, "rotta");
    for (int i = 0; i < BATCHES; i++)
        step(&b, input(&b, i));
    cb_adaptation_free(b.a);
    b.a = NULL;
    cb_no_grad after = cb_model_logits(b.model, x, NULL);
    assert_same_bits(before, after);
    stop(&b);
}

/* ---- what is trained ---- */

static void what_is_frozen_has_no_gradient(void **state)
{
    (void)state;
    bench b = begin();
    start(&b, "tent");
    cb_learner *l = learner_of(&b);
    cb_tensor *loss = cb_mean(cb_square(cb_learner_logits(l, input(&b, 0))), CB_ALL, false);
    assert_true(cb_learner_gradients(l, loss));
    cb_layer *conv = cb_layer_find(cb_model_root(b.model), "resnet.embedder.embedder.convolution");
    assert_non_null(conv);
    assert_null(cb_layer_weight(conv, "weight")->grad);
    const cb_named_tensor *list;
    size_t count = cb_learner_parameters(l, &list);
    assert_int_equal(count, 18);
    for (size_t i = 0; i < count; i++)
        assert_non_null(list[i].tensor->grad);
    stop(&b);
}

static void every_method_trains_every_kind_of_adapter(void **state)
{
    (void)state;
    static const char *const kinds[] = {"lora", "ia3", "bitfit"};
    static const char *const learning[] = {"tent", "eata", "sar", "cotta", "rotta", "roid", "memo"};
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
        for (size_t m = 0; m < sizeof learning / sizeof *learning; m++) {
            bench b = begin();
            cb_adapter *adapter = cb_adapter_new(kinds[k], "default");
            assert_true(cb_adapter_set(adapter, "target_modules", strcmp(kinds[k], "bitfit") == 0 ? "normalization" : "convolution"));
            if (strcmp(kinds[k], "ia3") == 0) /* of inputs: a batch norm takes back what is done to its channels */
                assert_true(cb_adapter_set(adapter, "feedforward_modules", "convolution"));
            bool ok = cb_adapter_attach(adapter, cb_model_root(b.model), cb_model_type(b.model), 1);
            assert_ok();
            assert_true(ok);
            make_quick(&b, learning[m]);
            if (strcmp(learning[m], "eata") == 0 || strcmp(learning[m], "sar") == 0)
                set(&b, "entropy_margin=2");
            if (strcmp(learning[m], "sar") == 0)
                set(&b, "recover_below=0");
            b.options.learning_rate = 0.01;
            b.a = cb_adaptation_open(b.model, adapter, learning[m], &b.config, &b.options);
            assert_ok();
            assert_int_equal(cb_learner_size(learner_of(&b)), cb_adapter_parameter_count(adapter));
            for (int i = 0; i < 2; i++)
                step(&b, input(&b, i));
            if (strcmp(learning[m], "memo") != 0 && !(cb_learner_drift(learner_of(&b)) > 0))
                fail_msg("%s with %s learns nothing", learning[m], kinds[k]);
            cb_adaptation_free(b.a);
            b.a = NULL;
            cb_adapter_free(adapter);
            stop(&b);
        }
}

static void other_families_learn_too(void **state)
{
    (void)state;
    static const char *const families[] = {"vit", "convnext", "swin", "mobilenet_v2_dilated"};
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        char path[600];
        snprintf(path, sizeof path, CB_TEST_DATA "/vision/%s", families[i]);
        bench b = begin();
        cb_model_free(b.model);
        b.model = cb_model_load(path);
        start(&b, "tent");
        snprintf(path, sizeof path, CB_TEST_DATA "/vision/%s/expected.safetensors", families[i]);
        cb_safetensors *file = cb_safetensors_open(path);
        assert_ok();
        const cb_weight_entry *e = cb_safetensors_find(file, "pixel_values");
        cb_tensor *x = cb_from_nd(e->dtype, e->data, e->ndim, e->shape);
        step(&b, x);
        assert_true(cb_learner_drift(learner_of(&b)) > 0);
        cb_safetensors_close(file);
        stop(&b);
    }
}

static void nothing_is_allocated_in_steady_state(void **state)
{
    (void)state;
    static const char *const learning[] = {"tent", "eata", "cotta", "rotta"};
    for (size_t m = 0; m < sizeof learning / sizeof *learning; m++) {
        bench b = begin();
        b.options.guard = true;
        make_quick(&b, learning[m]);
        start(&b, learning[m]);
        cb_adapt_outcome outcome;
        cb_tensor *x = input(&b, 0);
        for (int i = 0; i < 4; i++)
            assert_true(cb_adaptation_step(b.a, x, false, &outcome));
        uint64_t before = cb_memory().system_allocations;
        for (int i = 0; i < 4; i++)
            assert_true(cb_adaptation_step(b.a, x, false, &outcome));
#ifndef __SANITIZE_ADDRESS__ /* there every block comes from the system */
        assert_int_equal(cb_memory().system_allocations, before);
#endif
        (void)before;
        stop(&b);
    }
}

/* ---- guards ---- */

/* Probabilities of labels, each as sure as this. */
static void say(float *p, const int *labels, int rows, int classes, float sureness)
{
    for (int i = 0; i < rows; i++)
        for (int k = 0; k < classes; k++)
            p[i * classes + k] = k == labels[i] ? sureness : (1 - sureness) / (float)(classes - 1);
}

enum { GUARDED = 100, TEN = 10 };
typedef struct watched {
    cb_guard *guard;
    float source[GUARDED * TEN], answers[GUARDED * TEN];
    int labels[GUARDED];
    cb_rng rng;
} watched;

static watched *watch(void)
{
    watched *w = cb_calloc(1, sizeof *w);
    w->guard = cb_guard_new(TEN, (cb_guard_limits){0.3, 0.5, 1});
    assert_non_null(w->guard);
    return w;
}

static void unwatch(watched *w)
{
    cb_guard_free(w->guard);
    cb_free(w);
}

/* Labels from `first`, `spread` of them. */
static void mix_labels(watched *w, int first, int spread)
{
    for (int i = 0; i < GUARDED; i++)
        w->labels[i] = (first + (int)cb_rng_below(&w->rng, (uint64_t)spread)) % TEN;
}

static cb_alarm judge(watched *w, unsigned wants)
{
    return cb_guard_judge(w->guard, w->source, w->answers, GUARDED, wants, 0);
}

static void a_guard_trusts_what_agrees(void **state)
{
    (void)state;
    watched *w = watch();
    for (int i = 0; i < 30; i++) {
        mix_labels(w, 0, TEN);
        say(w->source, w->labels, GUARDED, TEN, 0.95f);
        for (int k = 0; k < GUARDED / 4; k++)
            w->labels[k] = (w->labels[k] + 1) % TEN;
        say(w->answers, w->labels, GUARDED, TEN, 0.8f);
        assert_int_equal(judge(w, CB_POLICY_WANTS_MIXED), CB_ALARM_NONE);
    }
    unwatch(w);
}

static void a_guard_sees_collapse_disagreement_and_what_is_no_number(void **state)
{
    (void)state;
    watched *w = watch();
    mix_labels(w, 0, TEN);
    say(w->source, w->labels, GUARDED, TEN, 0.95f);
    for (int i = 0; i < GUARDED; i++)
        w->labels[i] = i % 2; /* of ten labels two */
    say(w->answers, w->labels, GUARDED, TEN, 0.99f);
    assert_int_equal(judge(w, 0), CB_ALARM_COLLAPSE);
    mix_labels(w, 0, TEN);
    say(w->source, w->labels, GUARDED, TEN, 0.95f);
    mix_labels(w, 0, TEN);
    say(w->answers, w->labels, GUARDED, TEN, 0.6f);
    assert_int_equal(judge(w, 0), CB_ALARM_DISAGREES);
    assert_int_equal(cb_guard_judge(w->guard, w->source, w->source, GUARDED, 0, 2), CB_ALARM_DRIFT);
    w->answers[5] = NAN;
    assert_int_equal(judge(w, 0), CB_ALARM_NUMERIC);
    unwatch(w);
}

static void a_guard_tells_runs_of_labels_from_a_new_shift(void **state)
{
    (void)state;
    watched *w = watch();
    for (int i = 0; i < 20; i++) { /* one label after another */
        mix_labels(w, i, 2);
        say(w->source, w->labels, GUARDED, TEN, 0.95f);
        unsigned wants = i % 2 ? CB_POLICY_WANTS_MIXED : 0;
        assert_int_equal(cb_guard_judge(w->guard, w->source, w->source, GUARDED, wants, 0), wants ? CB_ALARM_RUNS : CB_ALARM_NONE);
    }
    assert_int_equal(cb_guard_judge(w->guard, w->source, w->source, GUARDED, CB_POLICY_WANTS_RUNS, 0), CB_ALARM_NONE);
    unwatch(w);
    w = watch();
    for (int i = 0; i < 40; i++) { /* shifts under some of which the source answers with two labels only */
        mix_labels(w, i / 5, i / 5 % 2 ? 2 : TEN);
        say(w->source, w->labels, GUARDED, TEN, 0.95f);
        cb_alarm alarm = cb_guard_judge(w->guard, w->source, w->source, GUARDED, CB_POLICY_WANTS_MIXED, 0);
        assert_int_equal(alarm, i == 5 ? CB_ALARM_RUNS : CB_ALARM_NONE);
    }
    assert_int_equal(cb_guard_judge(w->guard, w->source, w->source, GUARDED, CB_POLICY_WANTS_RUNS, 0), CB_ALARM_RUNS);
    unwatch(w);
}

/* All labels in each window, but in blocks. */
static void a_guard_sees_neighbours_with_the_same_label(void **state)
{
    (void)state;
    enum { BLOCK = 5 };
    watched *w = watch();
    for (int i = 0; i < 12; i++) {
        mix_labels(w, 0, TEN);
        for (int k = 0; k < GUARDED; k++) {
            bool known = cb_rng_uniform(&w->rng) < 0.6;
            w->labels[k] = known ? k / BLOCK * 7 % TEN : w->labels[k];
        }
        say(w->source, w->labels, GUARDED, TEN, 0.7f);
        assert_int_equal(cb_guard_judge(w->guard, w->source, w->source, GUARDED, CB_POLICY_WANTS_MIXED, 0), CB_ALARM_RUNS);
    }
    unwatch(w);
}

/* Of two labels one is half, which is never below it. */
static void a_guard_sees_collapse_and_runs_of_two_labels(void **state)
{
    (void)state;
    enum { TWO = 2, RUN = 2 };
    watched *w = watch();
    cb_guard *guard = cb_guard_new(TWO, (cb_guard_limits){0.3, 0.5, 1});
    for (int i = 0; i < 8; i++) { /* one label is rarer than the other */
        for (int k = 0; k < GUARDED; k++)
            w->labels[k] = cb_rng_uniform(&w->rng) < 0.3;
        say(w->source, w->labels, GUARDED, TWO, 0.8f);
        assert_int_equal(cb_guard_judge(guard, w->source, w->source, GUARDED, CB_POLICY_WANTS_MIXED, 0), CB_ALARM_NONE);
    }
    memset(w->labels, 0, sizeof w->labels);
    say(w->answers, w->labels, GUARDED, TWO, 0.9f);
    assert_int_equal(cb_guard_judge(guard, w->source, w->answers, GUARDED, CB_POLICY_WANTS_MIXED, 0), CB_ALARM_COLLAPSE);
    cb_guard_free(guard);
    guard = cb_guard_new(TWO, (cb_guard_limits){0.3, 0.5, 1});
    for (int i = 0; i < 20; i++) { /* hundreds of one label, hundreds of the other */
        for (int k = 0; k < GUARDED; k++)
            w->labels[k] = i / RUN % TWO;
        say(w->source, w->labels, GUARDED, TWO, 0.8f);
        cb_alarm alarm = cb_guard_judge(guard, w->source, w->source, GUARDED, CB_POLICY_WANTS_MIXED, 0);
        assert_true(i < 10 || alarm == CB_ALARM_RUNS);
    }
    cb_guard_free(guard);
    unwatch(w);
}

static int best_of(const float *p)
{
    int best = 0;
    for (int k = 1; k < TEN; k++)
        best = p[k] > p[best] ? k : best;
    return best;
}

static void both_answer_and_the_louder_one_does_not_count_for_more(void **state)
{
    (void)state;
    watched *w = watch();
    int agreed = 0, kept = 0;
    for (int i = 0; i < 30;
         i++) { /* the policy says something else of a fifth, and is as good as certain of all; the source is of all but a fifth */
        mix_labels(w, 0, TEN);
        say(w->source, w->labels, GUARDED, TEN, 0.6f);
        for (int k = 0; k < GUARDED; k += 5)
            w->labels[k] = (w->labels[k] + 1) % TEN;
        say(w->answers, w->labels, GUARDED, TEN, 0.999f);
        for (int k = 0; k < GUARDED; k += 10) /* of these the source is sure */
            say(w->source + k * TEN, &(int){best_of(w->source + k * TEN)}, 1, TEN, 0.9f);
        assert_int_equal(judge(w, CB_POLICY_WANTS_MIXED), CB_ALARM_NONE);
        cb_guard_answer(w->guard, w->source, w->answers, GUARDED);
        for (int k = 0; i > 10 && k < GUARDED; k++) {
            float sum = 0;
            for (int c = 0; c < TEN; c++)
                sum += w->answers[k * TEN + c];
            assert_true(fabsf(sum - 1) < 1e-4f);
            agreed += k % 5 && best_of(w->answers + k * TEN) == best_of(w->source + k * TEN);
            kept += k % 10 == 0 && best_of(w->answers + k * TEN) == best_of(w->source + k * TEN);
        }
    }
    assert_int_equal(agreed, 19 * GUARDED * 4 / 5);
    assert_int_equal(kept, 19 * GUARDED / 10);
    unwatch(w);
}

/* Answers with the same label to everything, and is sure of it; the policy is less sure, and answers with all. */
static void a_source_that_says_little_counts_for_little(void **state)
{
    (void)state;
    watched *w = watch();
    for (int i = 0; i < 5; i++) {
        mix_labels(w, 0, TEN);
        say(w->answers, w->labels, GUARDED, TEN, 0.5f);
        memset(w->labels, 0, sizeof w->labels);
        say(w->source, w->labels, GUARDED, TEN, 0.7f);
        float before[GUARDED * TEN];
        memcpy(before, w->answers, sizeof before);
        judge(w, 0);
        cb_guard_answer(w->guard, w->source, w->answers, GUARDED);
        for (int k = 0; k < GUARDED; k++)
            assert_int_equal(best_of(w->answers + k * TEN), best_of(before + k * TEN));
    }
    unwatch(w);
}

static void after_each_fall_the_source_answers_for_twice_as_long(void **state)
{
    (void)state;
    watched *w = watch();
    mix_labels(w, 0, TEN);
    say(w->source, w->labels, GUARDED, TEN, 0.7f);
    for (int falls = 0, images = 64; falls < 12; falls++, images *= falls <= 10 ? 2 : 1) {
        assert_false(cb_guard_rests(w->guard, NULL, 0));
        cb_guard_fall(w->guard);
        int rested = 0;
        while (cb_guard_rests(w->guard, w->source, 32))
            rested += 32;
        assert_int_equal(rested, images);
    }
    unwatch(w);
}

static void a_collapse_is_answered_by_the_source_and_undone(void **state)
{
    (void)state;
    bench b = begin();
    b.options.guard = true;
    b.options.learning_rate = 1e5;
    b.options.guard_drift = 0.01;
    start(&b, "tent");
    cb_tensor *x = cb_cat(
        8, (cb_tensor *[]){input(&b, 0), input(&b, 0), input(&b, 0), input(&b, 0), input(&b, 0), input(&b, 0), input(&b, 0), input(&b, 0)},
        0);
    cb_adapt_outcome outcome;
    assert_true(cb_adaptation_step(b.a, x, false, &outcome));
    assert_true(outcome.alarm == CB_ALARM_DRIFT || outcome.alarm == CB_ALARM_NUMERIC);
    assert_true(outcome.reset);
    cb_tensor *source = NULL;
    cb_no_grad source = cb_softmax(cb_model_logits(b.model, x, NULL), -1);
    assert_memory_equal(outcome.probabilities, source->data, (size_t)source->count * sizeof(float));
    assert_true(cb_learner_drift(learner_of(&b)) == 0);
    stop(&b);
}

/* ---- views ---- */

static void a_view_that_changes_nothing_is_the_image(void **state)
{
    (void)state;
    float image[3 * 5 * 7], out[3 * 5 * 7];
    cb_rng rng = {.seed = 1};
    for (int i = 0; i < 105; i++)
        image[i] = (float)cb_rng_uniform(&rng);
    cb_view view = cb_view_same();
    assert_true(cb_view_apply(&view, &rng, 1, 3, 5, 7, image, out));
    assert_memory_equal(image, out, sizeof image);
    view.mirrored = true;
    assert_true(cb_view_apply(&view, &rng, 1, 3, 5, 7, image, out));
    for (int y = 0; y < 15; y++)
        for (int x = 0; x < 7; x++)
            assert_true(fabsf(out[y * 7 + x] - image[y * 7 + 6 - x]) < 1e-6f);
    view = cb_view_same();
    view.shift[0] = 2;
    assert_true(cb_view_apply(&view, &rng, 1, 3, 5, 7, image, out));
    for (int y = 0; y < 15; y++)
        for (int x = 0; x < 7; x++)
            assert_true(fabsf(out[y * 7 + x] - image[y * 7 + (x < 2 ? 0 : x - 2)]) < 1e-6f); /* the border goes on */
}

/* Numbers by the formulas of torchvision's functions on tensors. */
static void colors_change_as_torchvision_changes_them(void **state)
{
    (void)state;
    static const float image[3 * 2] = {0.2f, 0.9f, 0.4f, 0.5f, 0.6f, 0.1f}; /* (3, 1, 2): red, green, blue of two places */
    static const struct {
        int color;
        double factor;
        float expected[6];
    } tests[] = {{CB_VIEW_BRIGHTNESS, 1.4, {0.28f, 1, 0.56f, 0.7f, 0.84f, 0.14f}},
                 {CB_VIEW_SATURATION, 0.5, {0.281490f, 0.736955f, 0.381490f, 0.536955f, 0.481490f, 0.336955f}},
                 {CB_VIEW_CONTRAST, 0.7, {0.280534f, 0.770534f, 0.420534f, 0.490534f, 0.560534f, 0.210534f}},
                 {CB_VIEW_HUE, 0.5, {0.6f, 0.1f, 0.4f, 0.5f, 0.2f, 0.9f}},
                 {CB_VIEW_GAMMA, 2, {0.04f, 0.81f, 0.16f, 0.25f, 0.36f, 0.01f}}};
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
        cb_view view = cb_view_same();
        float out[6];
        cb_rng rng = {0};
        view.color[tests[i].color] = tests[i].factor;
        assert_true(cb_view_apply(&view, &rng, 1, 3, 1, 2, image, out));
        for (int k = 0; k < 6; k++)
            if (fabsf(out[k] - tests[i].expected[k]) > 2e-5f)
                fail_msg("color %d, number %d: %.6f, expected %.6f", tests[i].color, k, (double)out[k], (double)tests[i].expected[k]);
    }
}

/* ---- refusals ---- */

static void refused(const char *method, const char *config, const char *reset, bool guard, const char *message)
{
    bench b = begin();
    if (config)
        set(&b, config);
    set_reset(&b, reset);
    b.options.guard = guard;
    assert_null(cb_adaptation_open(b.model, NULL, method, &b.config, &b.options));
    if (!strstr(cb_error_message(), message))
        fail_msg("%s", cb_error_message());
    cb_error_clear();
    stop(&b);
}

static void what_makes_no_sense_is_refused(void **state)
{
    (void)state;
    refused("tint", NULL, "method", true, "method: found tint, expected one like tent");
    refused("eata", "margin=1", "method", true, "margin");
    refused("tent", "margin=1", "method", true, "method option: tent has none");
    refused("cotta", "views", "method", true, "expected NAME=VALUE");
    refused("tent", NULL, "sometimes", true, "reset: found sometimes");
    refused("tent", NULL, "collapse", false, "the guard");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(methods_are_those_of_their_papers, without_errors),
        cmocka_unit_test_teardown(with_all_restored_the_student_is_the_source, without_errors),
        cmocka_unit_test_teardown(with_a_constant_teacher_answers_are_those_of_batch_statistics, without_errors),
        cmocka_unit_test_teardown(the_same_seed_gives_the_same_bits, without_errors),
        cmocka_unit_test_teardown(as_many_numbers_are_restored_as_the_rate_says, without_errors),
        cmocka_unit_test_teardown(a_threshold_comes_from_source_images, without_errors),
        cmocka_unit_test_teardown(a_rollback_takes_back_every_bit, without_errors),
        cmocka_unit_test_teardown(a_rollback_before_the_first_step_changes_nothing, without_errors),
        cmocka_unit_test_teardown(a_rollback_costs_what_is_trained, without_errors),
        cmocka_unit_test_teardown(what_nobody_wants_back_is_not_kept, without_errors),
        cmocka_unit_test_teardown(a_reset_is_a_new_beginning, without_errors),
        cmocka_unit_test_teardown(the_model_is_as_it_was_afterwards, without_errors),
        cmocka_unit_test_teardown(what_is_frozen_has_no_gradient, without_errors),
        cmocka_unit_test_teardown(every_method_trains_every_kind_of_adapter, without_errors),
        cmocka_unit_test_teardown(other_families_learn_too, without_errors),
        cmocka_unit_test_teardown(nothing_is_allocated_in_steady_state, without_errors),
        cmocka_unit_test_teardown(a_guard_trusts_what_agrees, without_errors),
        cmocka_unit_test_teardown(a_guard_sees_collapse_disagreement_and_what_is_no_number, without_errors),
        cmocka_unit_test_teardown(a_guard_tells_runs_of_labels_from_a_new_shift, without_errors),
        cmocka_unit_test_teardown(a_guard_sees_neighbours_with_the_same_label, without_errors),
        cmocka_unit_test_teardown(a_guard_sees_collapse_and_runs_of_two_labels, without_errors),
        cmocka_unit_test_teardown(both_answer_and_the_louder_one_does_not_count_for_more, without_errors),
        cmocka_unit_test_teardown(a_source_that_says_little_counts_for_little, without_errors),
        cmocka_unit_test_teardown(after_each_fall_the_source_answers_for_twice_as_long, without_errors),
        cmocka_unit_test_teardown(a_collapse_is_answered_by_the_source_and_undone, without_errors),
        cmocka_unit_test_teardown(a_view_that_changes_nothing_is_the_image, without_errors),
        cmocka_unit_test_teardown(colors_change_as_torchvision_changes_them, without_errors),
        cmocka_unit_test_teardown(what_makes_no_sense_is_refused, without_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
