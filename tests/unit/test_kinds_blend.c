/* test_kinds_blend.c: every adapter kind in a blend: rows, weights and tokens that have adapters of their own. */
#include "kind_fixtures.h"

enum { LENGTH = 5, ADAPTERS = 3 };

static const int32_t batch_ids[BATCH][LENGTH] = {{0, 1, 2, 3, 4}, {5, 6, 3, 1, 3}, {2, 2, 6, 0, 5}, {4, 1, 1, 3, 6}, {6, 5, 4, 3, 2}};

/* Rows first.. of the batch: ids (rows, LENGTH) through the network; tokens stay apart without the convolution. */
static cb_tensor *run_rows(const net *n, int first, int rows, bool convolve, const cb_context *ctx)
{
    cb_context placed = of_rows(ctx, first, rows); /* as in a model, tokens know their places */
    placed.positions = cb_contiguous(cb_repeat(cb_reshape(cb_cast(cb_arange(CB_F32, 0, 1, LENGTH), CB_I32), 1, LENGTH), rows, 1));
    cb_tensor *y = through(n, cb_embedding_forward(n->table, cb_from(CB_I32, batch_ids[first], rows, LENGTH), n->dtype, ctx), &placed);
    y = convolve ? cb_conv2d_forward(n->conv, cb_reshape(y, rows, 4, 5, 6), &placed) : y;
    assert_ok(y);
    return y;
}

/* Two of the case's kind, then a LoRA; all off. */
static void put_three_on(const net *n, const kind_case *c, cb_adapter **adapters)
{
    const kind_case lora = {"lora", "a,b", "{\"r\": 2}", 0};
    for (int i = 0; i < ADAPTERS; i++) {
        adapters[i] = put_on(n, i == 2 ? &lora : c, 3 + (uint64_t)i);
        randomise(adapters[i], 14 + (uint64_t)i);
        cb_adapter_set_strength(adapters[i], 0);
    }
}

/* Bit i: the row has adapter i. */
static const unsigned row_has[BATCH] = {1, 0, 2, 1 | 4, 4};

static cb_blend *blend_of_rows(const net *n, cb_adapter *const *adapters)
{
    cb_blend *blend = cb_blend_new(n->root);
    for (unsigned i = 0; i < ADAPTERS; i++) {
        int64_t rows[BATCH];
        size_t count = 0;
        for (int row = BATCH; row-- > 0;) /* any order will do */
            if (row_has[row] >> i & 1)
                rows[count++] = row;
        assert_ok(cb_blend_add(blend, adapters[i], .rows = rows, .row_count = count));
    }
    return blend;
}

static void switch_adapters(cb_adapter *const *adapters, unsigned which)
{
    for (unsigned i = 0; i < ADAPTERS; i++) /* first all off: two cannot train one layer whole */
        cb_adapter_set_strength(adapters[i], 0);
    for (unsigned i = 0; i < ADAPTERS; i++)
        cb_adapter_set_strength(adapters[i], which >> i & 1);
}

static double weighted_sum(cb_tensor *y, int first, bool backward)
{
    cb_rng rng = {.seed = 8};
    int64_t shape[] = {BATCH, y->shape[1], y->shape[2], y->shape[3]};
    cb_tensor *weights = cb_slice(cb_randn_nd(CB_F32, &rng, 4, shape), 0, first, first + y->shape[0], 1);
    cb_tensor *loss = cb_sum(cb_mul(y, weights), CB_ALL, false);
    if (backward)
        assert_ok(cb_backward(loss));
    return cb_item(loss);
}

/* What was added up, kept and taken back to nothing. */
static void take_gradients(const cb_adapter *adapter, cb_tensor **grads)
{
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list);
    for (size_t i = 0; i < count; i++) {
        assert_non_null(list[i].tensor->grad);
        grads[i] = cb_contiguous(cb_add_scalar(list[i].tensor->grad, 0));
        cb_zero_grad(list[i].tensor);
    }
}

/* Every row as if it were alone with its own adapters, and parameters get what the rows alone give, added up. */
static void check_rows(const kind_case *c, const net *n)
{
    cb_adapter *adapters[ADAPTERS];
    put_three_on(n, c, adapters);
    enum { MOST = 32 };
    cb_tensor *wanted[ADAPTERS][MOST], *found[ADAPTERS][MOST], *alone[BATCH];
    const cb_context plain_context = {.training = true};
    for (int row = 0; row < BATCH; row++) {
        switch_adapters(adapters, row_has[row]);
        alone[row] = run_rows(n, row, 1, true, &plain_context);
        if (row_has[row])
            weighted_sum(alone[row], row, true);
    }
    switch_adapters(adapters, 0);
    for (int i = 0; i < ADAPTERS; i++)
        take_gradients(adapters[i], wanted[i]);
    cb_blend *blend = blend_of_rows(n, adapters);
    cb_tensor *together = run_rows(n, 0, BATCH, true, &(cb_context){.training = true, .blend = blend});
    for (int row = 0; row < BATCH; row++)
        assert_within(cb_slice(together, 0, row, row + 1, 1), alone[row], 1e-5, c->options);
    weighted_sum(together, 0, true);
    for (int i = 0; i < ADAPTERS; i++) {
        const cb_named_tensor *list;
        size_t count = cb_adapter_parameters(adapters[i], &list);
        take_gradients(adapters[i], found[i]);
        for (size_t k = 0; k < count; k++)
            assert_within(found[i][k], wanted[i][k], 2e-5, list[k].name);
    }
    cb_blend_free(blend);
    for (int i = 0; i < ADAPTERS; i++)
        cb_adapter_free(adapters[i]);
}

static void rows_of_a_batch_have_adapters_of_their_own(void **state)
{
    (void)state;
    for_all(plain, check_rows);
    for_all((net_form){.dtype = CB_F32, .transposed = true}, check_rows);
}

static cb_tensor *in_blend(const net *n, const cb_blend *blend, cb_tensor *weights, bool convolve)
{
    cb_tensor *y = NULL;
    cb_no_grad y = run_rows(n, 0, BATCH, convolve, &(cb_context){.blend = blend, .blend_weights = weights});
    return y;
}

/* Weights of one and none are rows with and without; a number is a strength; half of the tokens are those of the whole. */
static void check_shares(const kind_case *c, const net *n)
{
    cb_adapter *adapters[ADAPTERS];
    put_three_on(n, c, adapters);
    cb_blend *blend = cb_blend_new(n->root);
    cb_tensor *off = in_blend(n, blend, NULL, true), *off_tokens = in_blend(n, blend, NULL, false);
    assert_ok(cb_blend_add(blend, adapters[0], .weight = 0.5));
    cb_tensor *half = in_blend(n, blend, NULL, true);
    cb_blend_clear(blend);
    assert_ok(cb_blend_add(blend, adapters[0]));
    cb_tensor *on = in_blend(n, blend, NULL, true), *on_tokens = in_blend(n, blend, NULL, false);
    cb_adapter_set_strength(adapters[0], 0.5);
    assert_within(half, in_blend(n, NULL, NULL, true), 0, c->kind);
    cb_adapter_set_strength(adapters[0], 1);
    assert_within(on, in_blend(n, NULL, NULL, true), 0, c->kind);
    cb_adapter_set_strength(adapters[0], 0);

    cb_blend_clear(blend);
    assert_ok(cb_blend_add(blend, adapters[1], .weighted = true, .column = 0));
    assert_ok(cb_blend_add(blend, adapters[0], .weighted = true, .column = 1));
    const float hot[BATCH][2] = {{0, 1}, {0, 0}, {0, 1}, {0, 1}, {0, 0}};
    cb_tensor *mixed = in_blend(n, blend, cb_from(CB_F32, hot, BATCH, 2), true);
    for (int row = 0; row < BATCH; row++)
        assert_within(cb_slice(mixed, 0, row, row + 1, 1), cb_slice(hot[row][1] == 1 ? on : off, 0, row, row + 1, 1), 1e-5, c->options);

    cb_blend_clear(blend);
    if (strstr(c->layers, "conv")) {
        assert_refused(!cb_blend_add(blend, adapters[0], .first_token = 1, .end_token = 3), "a convolution");
    } else if (!strstr(c->options, "use_gating")) { /* a gate is a mean over tokens */
        assert_ok(cb_blend_add(blend, adapters[0], .first_token = 1, .end_token = 3));
        cb_tensor *some = in_blend(n, blend, NULL, false);
        for (int t = 0; t < LENGTH; t++)
            assert_within(cb_slice(some, 1, t, t + 1, 1), cb_slice(t >= 1 && t < 3 ? on_tokens : off_tokens, 1, t, t + 1, 1), 1e-5,
                          c->options);
    }
    cb_blend_free(blend);
    for (int i = 0; i < ADAPTERS; i++)
        cb_adapter_free(adapters[i]);
}

static void shares_are_what_they_say(void **state)
{
    (void)state;
    for_all(plain, check_shares);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_of_a_batch_have_adapters_of_their_own),
        cmocka_unit_test(shares_are_what_they_say),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
