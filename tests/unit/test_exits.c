/* test_exits.c: tokens that leave the rounds of a recursive model early, in generation. */
#include "about.h"
#include "models/internal.h"
#include "recursive_fixtures.h"

enum { NEW = 12 };

static cb_generate_options options_of(double confidence, int64_t round)
{
    return (cb_generate_options){.max_new_tokens = NEW, .ignore_eos = true, .exit_confidence = confidence, .exit_round = round};
}

static cb_generation generated(recursive *r, cb_generate_options o)
{
    cb_generation out = {0};
    assert_true(cb_generate_ids(r->model, NULL, r->prompt, PROMPT, &o, NULL, NULL, &out));
    assert_int_equal(out.count, NEW);
    return out;
}

/* ---- what generation should be ---- */

typedef struct by_hand {
    cb_model *model;
    cb_generate_options options;
    int32_t text[PROMPT + NEW];
    int64_t left[PROMPT + NEW]; /* after how many blocks each token left */
    int32_t rounds[NEW];
} by_hand;

static cb_tensor *logits_of_last(cb_model *model, cb_tensor *x, const cb_pass *pass)
{
    cb_tensor *last = cb_contiguous(cb_slice(x, 1, x->shape[1] - 1, x->shape[1], 1));
    return cb_reshape(cb_cast(cb_model_head(model, model->architecture->norm(model->norm, last, &pass->ctx), NULL), CB_F32), -1);
}

static double lead_of(cb_tensor *logits)
{
    cb_tensor *p, *indices;
    assert_true(cb_topk(cb_softmax(logits, 0), 2, 0, true, &p, &indices));
    return cb_get(p, 0) - cb_get(p, 1);
}

/* The whole text goes through block after block with no cache; a token that left early has the state with which it left ever after. */
static void next_by_hand(by_hand *h, int n)
{
    cb_model *model = h->model;
    int64_t length = PROMPT + n, blocks = cb_model_layers(model), each = cb_model_shared_layers(model), done = 0;
    cb_scope *scope = cb_scope_open();
    cb_pass pass = {.ctx = {.positions = cb_reshape(cb_arange(CB_I32, 0, 1, length), 1, length)}};
    if (!model->position_embedding) {
        assert_true(cb_rope_prepare(&model->rope, length));
        pass.cos = model->rope.cos;
        pass.sin = model->rope.sin;
    }
    cb_tensor *x = model->architecture->embed(model, cb_wrap(CB_I32, h->text, 1, length), &pass), *logits = NULL;
    bool leaves = false;
    while (!leaves) {
        cb_tensor *before = cb_scale(x, 1);
        x = cb_contiguous(cb_block_run(model, done++, x, &pass));
        assert_ok();
        size_t width = (size_t)x->shape[2];
        for (int64_t i = 0; i + 1 < length; i++)
            if (h->left[i] < done)
                memcpy((float *)x->data + (size_t)i * width, (float *)before->data + (size_t)i * width, width * sizeof(float));
        leaves = done == blocks;
        if (leaves || done % each == 0) {
            logits = logits_of_last(model, x, &pass);
            double most = h->options.exit_confidence;
            leaves |= n && (done / each == h->options.exit_round || (most > 0 && lead_of(logits) > most));
        }
    }
    h->rounds[n] = (int32_t)((done + each - 1) / each);
    h->left[length - 1] = done;
    h->text[length] = (int32_t)cb_item(cb_argmax(logits, 0, false));
    cb_scope_close(scope);
}

static by_hand generated_by_hand(recursive *r, cb_generate_options o)
{
    by_hand h = {.model = r->model, .options = o};
    memcpy(h.text, r->prompt, sizeof r->prompt);
    for (int i = 0; i < PROMPT; i++)
        h.left[i] = cb_model_layers(r->model);
    cb_no_grad for (int n = 0; n < NEW; n++) next_by_hand(&h, n);
    return h;
}

/* ---- tests ---- */

static void tokens_leave_as_by_hand(void **state)
{
    (void)state;
    static const struct {
        double confidence;
        int64_t round;
    } cases[] = {{0, 1}, {0, 2}, {0.02, 0}, {0.2, 0}, {0.6, 0}, {0.4, 2}};
    for (int m = 0; m < MODELS; m++) {
        recursive r = open_recursive(models[m].name, models[m].shared, models[m].rank);
        int early = 0, late = 0;
        for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
            cb_generate_options o = options_of(cases[c].confidence, cases[c].round);
            cb_generation out = generated(&r, o);
            by_hand h = generated_by_hand(&r, o);
            assert_memory_equal(out.ids, h.text + PROMPT, sizeof(int32_t) * NEW);
            assert_memory_equal(out.rounds, h.rounds, sizeof h.rounds);
            assert_int_equal(out.rounds[0], cb_model_exits(r.model)); /* out of the prompt's pass */
            for (int i = 1; i < NEW && cases[c].confidence > 0; i++)
                *(out.rounds[i] < cb_model_exits(r.model) ? &early : &late) += 1;
            cb_generation_free(&out);
        }
        assert_true(early && late);
        close_recursive(&r);
    }
}

static void who_never_leaves_generates_as_always(void **state)
{
    (void)state;
    for (int m = 0; m < MODELS; m++) {
        recursive r = open_recursive(models[m].name, models[m].shared, models[m].rank);
        int64_t rounds = cb_model_exits(r.model);
        const cb_generate_options cases[] = {options_of(1, 0), options_of(0, rounds), options_of(1 - 1e-12, 0)};
        cb_generation plain = generated(&r, options_of(0, 0));
        for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
            cb_generation out = generated(&r, cases[c]);
            assert_memory_equal(out.ids, plain.ids, sizeof(int32_t) * NEW);
            for (int i = 0; i < NEW; i++)
                assert_int_equal(out.rounds[i], rounds);
            cb_generation_free(&out);
        }
        cb_generation_free(&plain);
        close_recursive(&r);
    }
}

static bool never(void *user, int64_t round, cb_tensor *hidden)
{
    return ++*(int *)user, !(round >= 1 && hidden);
}

static void asking_changes_no_bit(void **state)
{
    (void)state;
    recursive r = open_recursive("llama3", 1, 3);
    cb_cache *cache[2] = {cb_cache_new(r.model, 1, 8), cb_cache_new(r.model, 1, 8)};
    int asked = 0;
    const cb_leaving leaving = {never, &asked};
    cb_scope *scope = cb_scope_open();
    cb_no_grad for (int i = 0; i < PROMPT; i++)
    {
        cb_tensor *ids = cb_wrap(CB_I32, r.prompt + i, 1, 1);
        cb_tensor *a = cb_model_hidden(r.model, ids, &(cb_context){.cache = cache[0]});
        cb_tensor *b = cb_hidden_leaving(r.model, ids, &(cb_context){.cache = cache[1]}, &leaving);
        assert_ok();
        assert_memory_equal(a->data, b->data, (size_t)a->count * sizeof(float));
    }
    assert_int_equal(asked, 2 * PROMPT);
    cb_scope_close(scope);
    cb_cache_free(cache[0]);
    cb_cache_free(cache[1]);
    close_recursive(&r);
}

static void the_oracle_knows_when_it_was_right(void **state)
{
    (void)state;
    for (int m = 0; m < MODELS; m++) {
        recursive r = open_recursive(models[m].name, models[m].shared, models[m].rank);
        cb_generate_options o = options_of(0, 0);
        o.exit_oracle = true;
        cb_generation plain = generated(&r, options_of(0, 0)), out = generated(&r, o);
        assert_memory_equal(out.ids, plain.ids, sizeof(int32_t) * NEW);
        int32_t text[PROMPT + NEW];
        memcpy(text, r.prompt, sizeof r.prompt);
        memcpy(text + PROMPT, out.ids, NEW * sizeof *text);
        cb_scope *scope = cb_scope_open();
        cb_tensor *exits[3] = {NULL};
        cb_no_grad
        {
            assert_non_null(cb_model_hidden_exits(r.model, cb_wrap(CB_I32, text, 1, PROMPT + NEW), NULL, exits));
            for (int n = 1; n < NEW; n++) {
                int32_t round = 1;
                for (; round < cb_model_exits(r.model); round++) {
                    cb_tensor *made = cb_argmax(cb_model_head(r.model, exits[round - 1], NULL), 2, false);
                    if ((int32_t)cb_get(made, PROMPT + n - 1) == out.ids[n])
                        break;
                }
                assert_int_equal(out.rounds[n], round);
            }
        }
        cb_scope_close(scope);
        cb_generation_free(&plain);
        cb_generation_free(&out);
        close_recursive(&r);
    }
}

static void refuse(cb_model *model, const recursive *r, cb_generate_options o, const char *what)
{
    cb_generation out = {0};
    assert_false(cb_generate_ids(model, NULL, r->prompt, PROMPT, &o, NULL, NULL, &out));
    assert_int_equal(cb_error_status(), CB_ERR_ARGUMENT);
    assert_non_null(strstr(cb_error_message(), what));
    cb_error_clear();
    cb_generation_free(&out);
}

static void what_cannot_be_is_refused(void **state)
{
    (void)state;
    recursive r = open_recursive("llama3", 1, 0);
    cb_model *plain = cb_model_load(model_path("llama3"));
    refuse(plain, &r, options_of(0.5, 0), "exit_confidence");
    refuse(plain, &r, options_of(0, 1), "exit_round");
    refuse(plain, &r, (cb_generate_options){.max_new_tokens = 1, .exit_oracle = true}, "exit_oracle");
    refuse(r.model, &r, options_of(1.5, 0), "expected 0 to 1");
    refuse(r.model, &r, options_of(NAN, 0), "expected 0 to 1");
    refuse(r.model, &r, options_of(0, 4), "the 3 rounds");
    refuse(r.model, &r, options_of(0, -1), "exit_round");
    refuse(r.model, &r, (cb_generate_options){.max_new_tokens = 1, .exit_oracle = true, .exit_round = 1}, "exit_oracle");
    cb_model_free(plain);
    close_recursive(&r);
}

static void confidence_is_the_lead(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    const float values[] = {0, 2, 1, -3, 1.5f};
    cb_tensor *logits = cb_from(CB_F32, values, 5);
    assert_about(cb_confidence(logits), lead_of(logits), 1e-6);
    assert_about(cb_confidence(cb_from(CB_F32, values, 1)), 1, 0);
    cb_scope_close(scope);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_leave_as_by_hand),   cmocka_unit_test(who_never_leaves_generates_as_always),
        cmocka_unit_test(asking_changes_no_bit),     cmocka_unit_test(the_oracle_knows_when_it_was_right),
        cmocka_unit_test(what_cannot_be_is_refused), cmocka_unit_test(confidence_is_the_lead),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
