/* test_batch.c: many texts generated as one batch: each is what it is alone, whatever way the batch takes others in, in whatever rounds the
 * others are, and with adapters of its own.  "What it is alone": every token and round is the same; sums in products may be in another order,
 * which no token here hangs on, drawn ones included. */
#include "recursive_fixtures.h"

enum { TEXTS = 7 };

static const char *const ways[] = {"static", "sequence", "depth"};

typedef struct texts {
    int32_t ids[TEXTS][40];
    cb_prompt_ids prompts[TEXTS];
} texts;

/* Of different lengths, to be continued by different lengths. */
static texts make_texts(void)
{
    static texts t;
    for (int i = 0; i < TEXTS; i++) {
        size_t count = 1 + (size_t)(i * 11) % 29;
        for (size_t k = 0; k < count; k++)
            t.ids[i][k] = (int32_t)(3 + (i * 31 + (int)k * 17) % 90);
        t.prompts[i] = (cb_prompt_ids){.ids = t.ids[i], .count = count, .max_new_tokens = 2 + (i * 5) % 13};
    }
    return t;
}

static const cb_generate_options kinds_of_options[] = {
    {.ignore_eos = true},
    {.ignore_eos = true, .exit_round = 1},
    {.ignore_eos = true, .exit_confidence = 0.3},
    {.ignore_eos = true, .exit_oracle = true},
    {.temperature = 0.8, .seed = 3, .exit_confidence = 0.2, .repetition_penalty = 1.2},
};
enum { PLAIN = 1, OPTIONS = sizeof kinds_of_options / sizeof *kinds_of_options };

static void assert_same(const cb_generation *a, const cb_generation *b, const char *what, int text)
{
    if (a->count != b->count || memcmp(a->ids, b->ids, a->count * sizeof *a->ids) != 0 ||
        memcmp(a->rounds, b->rounds, a->count * sizeof *a->rounds) != 0 || strcmp(a->finish_reason, b->finish_reason) != 0)
        fail_msg("text %d, %s: not as alone", text, what);
    assert_int_equal(a->prompt_tokens, b->prompt_tokens);
}

/* `alone`: of every text. */
static void assert_batches(cb_model *model, const texts *t, const cb_blend *blend, cb_generate_options o, const cb_generation *alone)
{
    for (int way = CB_BATCHING_STATIC; way <= CB_BATCHING_DEPTH; way++)
        for (int64_t slots = 2; slots <= 5; slots += 3) {
            if (way == CB_BATCHING_DEPTH && !cb_model_shared_layers(model))
                continue;
            cb_generation out[TEXTS] = {0};
            const cb_batch_options batch = {.batching = (cb_batching)way, .batch_size = slots};
            assert_true(cb_generate_batch(model, NULL, t->prompts, TEXTS, blend, NULL, &o, &batch, out));
            for (int i = 0; i < TEXTS; i++) {
                assert_same(&out[i], &alone[i], ways[way], i);
                cb_generation_free(&out[i]);
            }
        }
}

static void generate_alone(cb_model *model, const texts *t, int i, cb_generate_options o, cb_generation *out)
{
    o.max_new_tokens = t->prompts[i].max_new_tokens;
    o.task_id = t->prompts[i].task;
    bool made = cb_generate_ids(model, NULL, t->prompts[i].ids, t->prompts[i].count, &o, NULL, NULL, out);
    assert_ok();
    assert_true(made);
}

static void texts_are_as_alone(void **state)
{
    (void)state;
    texts t = make_texts();
    for (int m = 0; m < MODELS; m++) {
        recursive r = open_recursive(models[m].name, models[m].shared, models[m].rank);
        for (int k = 0; k < OPTIONS; k++) {
            cb_generation alone[TEXTS] = {0};
            for (int i = 0; i < TEXTS; i++)
                generate_alone(r.model, &t, i, kinds_of_options[k], &alone[i]);
            assert_batches(r.model, &t, NULL, kinds_of_options[k], alone);
            for (int i = 0; i < TEXTS; i++)
                cb_generation_free(&alone[i]);
        }
        close_recursive(&r);
    }
}

static void models_without_rounds_too(void **state)
{
    (void)state;
    texts t = make_texts();
    static const char *const names[] = {"llama2", "mistral", "gpt2"};
    for (size_t m = 0; m < sizeof names / sizeof *names; m++) {
        cb_model *model = cb_model_load(model_path(names[m]));
        cb_generation alone[TEXTS] = {0};
        for (int i = 0; i < TEXTS; i++)
            generate_alone(model, &t, i, kinds_of_options[0], &alone[i]);
        assert_batches(model, &t, NULL, kinds_of_options[0], alone);
        for (int i = 0; i < TEXTS; i++)
            cb_generation_free(&alone[i]);
        cb_model_free(model);
    }
}

/* ---- adapters ---- */

static const struct {
    const char *kind, *options;
} added[] = {{"lora", "{\"r\": 4, \"target_modules\": \"all-linear\"}"},
             {"oft", "{\"oft_block_size\": 4, \"target_modules\": \"all-linear\"}"},
             {"ia3", "{}"},
             {"bottleneck", "{}"}};
enum { ADDED = sizeof added / sizeof *added };

static cb_adapter *add(cb_model *model, int i)
{
    cb_adapter *adapter = cb_adapter_new(added[i].kind, NULL);
    const cb_named_tensor *list;
    assert_true(cb_adapter_set_json(adapter, added[i].kind, added[i].options));
    assert_true(cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), (uint64_t)i));
    size_t count = cb_adapter_parameters(adapter, &list);
    for (size_t k = 0; k < count; k++) {
        cb_scope *scope = cb_scope_open();
        cb_tensor *noise = cb_empty_nd(list[k].tensor->dtype, list[k].tensor->ndim, list[k].tensor->shape);
        cb_init_normal(noise, (cb_rng){.seed = (uint64_t)i, .stream = k}, 0.2);
        cb_no_grad assert_true(cb_copy_into(list[k].tensor, cb_add(cb_detach(list[k].tensor), noise)));
        cb_scope_close(scope);
    }
    cb_adapter_set_strength(adapter, 0);
    return adapter;
}

/* Text i has the relaxation, and adapter i % 5 where there is one. */
static void texts_have_adapters_of_their_own(void **state)
{
    (void)state;
    texts t = make_texts();
    recursive r = open_recursive("llama3", 1, 3);
    cb_adapter *adapters[ADDED];
    cb_blend *blend = cb_blend_new(cb_model_root(r.model));
    assert_true(cb_blend_add(blend, r.relaxation));
    for (int a = 0; a < ADDED; a++) {
        const int64_t rows[] = {a, a + 5};
        adapters[a] = add(r.model, a);
        assert_true(cb_blend_add(blend, adapters[a], .rows = rows, .row_count = a + 5 < TEXTS ? 2 : 1));
    }
    for (int k = 0; k < OPTIONS; k++) {
        cb_generation alone[TEXTS] = {0}, without = {0};
        int changed = 0;
        for (int i = 0; i < TEXTS; i++) {
            cb_adapter *own = i % 5 < ADDED ? adapters[i % 5] : NULL;
            generate_alone(r.model, &t, i, kinds_of_options[k], &without);
            if (own)
                cb_adapter_set_strength(own, 1);
            generate_alone(r.model, &t, i, kinds_of_options[k], &alone[i]);
            if (own)
                cb_adapter_set_strength(own, 0);
            changed += without.count != alone[i].count || memcmp(without.ids, alone[i].ids, without.count * sizeof *without.ids) != 0;
        }
        assert_true(changed >= 4);
        assert_batches(r.model, &t, blend, kinds_of_options[k], alone);
        for (int i = 0; i < TEXTS; i++)
            cb_generation_free(&alone[i]);
        cb_generation_free(&without);
    }
    cb_blend_free(blend);
    for (int a = 0; a < ADDED; a++)
        cb_adapter_free(adapters[a]);
    close_recursive(&r);
}

/* Two adapters, shared out by a row's task. */
static cb_tensor *weigh_by_task(void *user, cb_model *model, cb_tensor *ids, int64_t rows, const cb_context *ctx)
{
    (void)user, (void)model, (void)ids;
    cb_tensor *weights = cb_empty(CB_F32, rows, 2);
    for (int64_t i = 0; weights && i < rows; i++) {
        int32_t task = ctx->tasks ? ((const int32_t *)ctx->tasks->data)[i] : 0;
        ((float *)weights->data)[2 * i] = (float)task / 2;
        ((float *)weights->data)[2 * i + 1] = 1 - (float)task / 2;
    }
    return weights;
}

static void a_model_with_a_blend_of_its_own(void **state)
{
    (void)state;
    texts t = make_texts();
    recursive r = open_recursive("llama3", 1, 3);
    cb_blend *blend = cb_blend_new(cb_model_root(r.model));
    cb_adapter *adapters[2];
    assert_true(cb_blend_add(blend, r.relaxation));
    for (int a = 0; a < 2; a++) {
        adapters[a] = add(r.model, 2 * a);
        assert_true(cb_blend_add(blend, adapters[a], .weighted = true, .column = a));
    }
    cb_model_set_blend(r.model, blend, weigh_by_task, NULL);
    for (int i = 0; i < TEXTS; i++)
        t.prompts[i].task = i % 3;
    for (int k = 0; k < OPTIONS; k += 2) {
        cb_generation alone[TEXTS] = {0};
        for (int i = 0; i < TEXTS; i++)
            generate_alone(r.model, &t, i, kinds_of_options[k], &alone[i]);
        assert_batches(r.model, &t, NULL, kinds_of_options[k], alone);
        for (int i = 0; i < TEXTS; i++)
            cb_generation_free(&alone[i]);
    }
    cb_model_set_blend(r.model, NULL, NULL, NULL);
    for (int a = 0; a < 2; a++)
        cb_adapter_free(adapters[a]);
    close_recursive(&r);
}

static void virtual_tokens_are_before_every_text(void **state)
{
    (void)state;
    static const char *const kinds[] = {"prompt_tuning", "prefix_tuning"};
    texts t = make_texts();
    for (int k = 0; k < 2; k++) {
        recursive r = open_recursive("llama3", 1, 0);
        cb_adapter *adapter = cb_adapter_new(kinds[k], NULL);
        const cb_named_tensor *list;
        assert_true(cb_adapter_set_json(adapter, kinds[k], "{\"num_virtual_tokens\": 3}"));
        assert_true(cb_adapter_attach(adapter, cb_model_root(r.model), cb_model_type(r.model), 1));
        size_t count = cb_adapter_parameters(adapter, &list);
        for (size_t i = 0; i < count; i++)
            cb_init_normal(list[i].tensor, (cb_rng){.seed = 5, .stream = i}, 1);
        cb_generation alone[TEXTS] = {0};
        const cb_generate_options o = {.ignore_eos = true, .exit_confidence = 0.3};
        for (int i = 0; i < TEXTS; i++)
            generate_alone(r.model, &t, i, o, &alone[i]);
        assert_batches(r.model, &t, NULL, o, alone);
        for (int i = 0; i < TEXTS; i++)
            cb_generation_free(&alone[i]);
        cb_adapter_free(adapter);
        close_recursive(&r);
    }
}

/* ---- the order of things ---- */

typedef struct order {
    size_t ended[TEXTS], count, most;
} order;

static bool note(void *user, size_t index)
{
    order *o = user;
    o->ended[o->count++] = index;
    return o->count < o->most;
}

static order ended_in(recursive *r, int way, int64_t slots, size_t most)
{
    static const int32_t id = 7;
    static const int64_t lengths[TEXTS] = {4, 9, 2, 2, 2, 2, 2};
    cb_prompt_ids prompts[TEXTS];
    cb_generation out[TEXTS] = {0};
    order o = {.most = most};
    const cb_generate_options options = {.ignore_eos = true};
    const cb_batch_options batch = {.batching = (cb_batching)way, .batch_size = slots, .ended = note, .user = &o};
    for (int i = 0; i < TEXTS; i++)
        prompts[i] = (cb_prompt_ids){.ids = &id, .count = 1, .max_new_tokens = lengths[i]};
    assert_true(cb_generate_batch(r->model, NULL, prompts, TEXTS, NULL, NULL, &options, &batch, out) == (most > TEXTS));
    for (int i = 0; i < TEXTS; i++)
        cb_generation_free(&out[i]);
    return o;
}

static void slots_are_filled_when_they_should(void **state)
{
    (void)state;
    recursive r = open_recursive("llama3", 1, 0);
    /* two at once: 0 and 1 begin; while 1 is being written there is room for others in all ways but the static one */
    order o = ended_in(&r, CB_BATCHING_STATIC, 2, 100), sequence = ended_in(&r, CB_BATCHING_SEQUENCE, 2, 100),
          depth = ended_in(&r, CB_BATCHING_DEPTH, 2, 100);
    static const size_t in_pairs[TEXTS] = {0, 1, 2, 3, 4, 5, 6};
    assert_true(o.count == TEXTS && sequence.count == TEXTS && depth.count == TEXTS);
    assert_memory_equal(o.ended, in_pairs, sizeof in_pairs);
    assert_true(sequence.ended[0] == 0 && sequence.ended[1] == 2 && depth.ended[0] == 0 && depth.ended[1] == 2);
    order stopped = ended_in(&r, CB_BATCHING_DEPTH, 2, 3);
    assert_int_equal(stopped.count, 3);
    close_recursive(&r);
}

static void refuse(cb_model *model, cb_batch_options batch, const char *what)
{
    const int32_t id = 7;
    const cb_prompt_ids prompt = {.ids = &id, .count = 1};
    const cb_generate_options o = {.max_new_tokens = 2};
    cb_generation out = {0};
    assert_false(cb_generate_batch(model, NULL, &prompt, 1, NULL, NULL, &o, &batch, &out));
    assert_int_equal(cb_error_status(), CB_ERR_ARGUMENT);
    assert_non_null(strstr(cb_error_message(), what));
    cb_error_clear();
    cb_generation_free(&out);
}

static void what_cannot_be_is_refused(void **state)
{
    (void)state;
    cb_model *model = cb_model_load(model_path("llama3"));
    refuse(model, (cb_batch_options){.batching = CB_BATCHING_DEPTH, .batch_size = 1}, "recursive_llama");
    refuse(model, (cb_batch_options){.batching = CB_BATCHING_STATIC}, "batch_size is 0");
    cb_model_free(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_are_as_alone),
        cmocka_unit_test(models_without_rounds_too),
        cmocka_unit_test(texts_have_adapters_of_their_own),
        cmocka_unit_test(a_model_with_a_blend_of_its_own),
        cmocka_unit_test(virtual_tokens_are_before_every_text),
        cmocka_unit_test(slots_are_filled_when_they_should),
        cmocka_unit_test(what_cannot_be_is_refused),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
