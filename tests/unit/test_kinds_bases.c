/* test_kinds_bases.c: every adapter kind on bases of other forms, in the dtypes and in training: transposed and quantised weights, bf16,
 * dropout. */
#include "kind_fixtures.h"

/* ---- other bases ---- */

/* The same module on the same weight stored the other way. */
static void transposed_layers_are_the_same(void **state)
{
    (void)state;
    for (int i = 0; i < CASES; i++) {
        cb_scope *scope = cb_scope_open();
        net n = make_net(plain), turned = make_net((net_form){.dtype = CB_F32, .transposed = true});
        cb_adapter *adapter = put_random_on(&n, &cases[i]), *other = put_on(&turned, &cases[i], 3);
        copy_parameters(other, adapter);
        assert_within(result(&turned), result(&n), 1e-5, cases[i].kind);
        cb_adapter_free(adapter);
        cb_adapter_free(other);
        cb_layer_free(n.root);
        cb_layer_free(turned.root);
        cb_scope_close(scope);
    }
}

/* Over int8 weights a module does what it does over the numbers they stand for. */
static void quantised_layers_are_what_they_stand_for(void **state)
{
    (void)state;
    for (int i = 0; i < CASES; i++) {
        cb_scope *scope = cb_scope_open();
        net n = make_net((net_form){.dtype = CB_F32, .rounded = true}), codes = make_net((net_form){.dtype = CB_F32, .quantized = true});
        cb_adapter *adapter = put_random_on(&n, &cases[i]), *other = put_on(&codes, &cases[i], 3);
        copy_parameters(other, adapter);
        assert_within(result(&codes), result(&n), 1e-5, cases[i].kind);
        assert_ok(cb_backward(cb_sum(run(&codes, NULL, &(cb_context){.training = true}), CB_ALL, false)));
        cb_adapter_free(adapter);
        cb_adapter_free(other);
        cb_layer_free(n.root);
        cb_layer_free(codes.root);
        cb_scope_close(scope);
    }
}

static double difference_of_means(const cb_tensor *a, const cb_tensor *b)
{
    double sum = 0;
    for (int64_t i = 0; i < a->count; i++)
        sum += fabs(cb_get(a, i) - cb_get(b, i)) / (double)a->count;
    return sum;
}

/* A pass in bf16 is as near to that in f32 with an adapter as without, but for the roundings that the adapter's own steps add. */
static void bf16_passes_are_near(void **state)
{
    (void)state;
    for (int i = 0; i < CASES; i++) {
        cb_scope *scope = cb_scope_open();
        net n = make_net(plain), half = make_net((net_form){.dtype = CB_BF16});
        double without = difference_of_means(result(&half), result(&n));
        cb_adapter *adapter = put_random_on(&n, &cases[i]), *other = put_on(&half, &cases[i], 3);
        copy_parameters(other, adapter);
        double with = difference_of_means(result(&half), result(&n));
        if (!(with < 4 * without))
            fail_msg("%s %s: bf16 differs by %g with it, %g without", cases[i].kind, cases[i].options, with, without);
        assert_ok(cb_backward(cb_sum(cb_cast(run(&half, NULL, &(cb_context){.training = true}), CB_F32), CB_ALL, false)));
        const cb_named_tensor *list;
        size_t count = cb_adapter_parameters(other, &list);
        for (size_t k = 0; k < count; k++)
            assert_true(list[k].tensor->dtype == CB_F32 && list[k].tensor->grad && largest(list[k].tensor->grad) > 0 &&
                        isfinite(largest(list[k].tensor->grad)));
        cb_adapter_free(adapter);
        cb_adapter_free(other);
        cb_layer_free(n.root);
        cb_layer_free(half.root);
        cb_scope_close(scope);
    }
}

/* ---- dropout ---- */

static cb_tensor *trained_result(const net *n, uint64_t seed)
{
    cb_rng rng = {.seed = seed};
    cb_tensor *y = NULL;
    cb_no_grad y = run(n, NULL, &(cb_context){.training = true, .rng = &rng});
    return y;
}

/* Every option that is a dropout acts in training, by the generator of the pass, and only there. */
static void check_dropout(const kind_case *c, const net *n)
{
    const cb_adapter_kind *kind = cb_adapter_kind_find(c->kind);
    for (const cb_option *o = kind->options; o->type != CB_OPTION_END; o++) {
        if (o->type != CB_OPTION_FLOAT || !cb_ends_with(o->name, "dropout"))
            continue;
        cb_adapter *without = put_random_on(n, c);
        cb_tensor *wanted = result(n);
        cb_adapter_detach(without);
        cb_adapter *adapter = cb_adapter_new(c->kind, NULL);
        assert_ok(cb_adapter_set_json(adapter, c->kind, c->options) && cb_adapter_set(adapter, "target_modules", c->layers));
        assert_ok(cb_adapter_set(adapter, o->name, "0.5") && cb_adapter_attach(adapter, n->root, NULL, 3));
        randomise(adapter, 4);
        assert_true(distance(result(n), wanted) == 0);
        assert_true(distance(trained_result(n, 1), trained_result(n, 1)) == 0);
        bool differs = false;
        for (uint64_t seed = 2; !differs && seed < 40; seed++)
            differs = distance(trained_result(n, 1), trained_result(n, seed)) > 1e-3;
        if (!differs)
            fail_msg("%s: %s does nothing", c->kind, o->name);
        cb_adapter_free(adapter);
        cb_adapter_free(without);
    }
}

static void dropout_acts_while_training_only(void **state)
{
    (void)state;
    for_all(plain, check_dropout);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(transposed_layers_are_the_same),
        cmocka_unit_test(quantised_layers_are_what_they_stand_for),
        cmocka_unit_test(bf16_passes_are_near),
        cmocka_unit_test(dropout_acts_while_training_only),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
