/* test_ops_values.c: every operation's values: against PyTorch's (tests/oracle/ops.py), every dtype's against f64, and that
 * the number of threads does not matter to them. */
#include "op_cases.h"

static void values_and_gradients_are_pytorchs(void **state)
{
    (void)state;
    compare_every_case(op_cases, op_case_count, CB_TEST_DATA "/ops/ops.safetensors");
}

static void every_dtype_computes_what_f64_does(void **state)
{
    (void)state;
    ask_every_case(op_cases, op_case_count, every_dtype_agrees_with_f64);
}

static void the_number_of_threads_changes_no_bit(void **state)
{
    (void)state;
    ask_every_case(op_cases, op_case_count, threads_change_no_bit);
}

static int clear_error(void **state)
{
    (void)state;
    cb_error_clear();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(values_and_gradients_are_pytorchs, clear_error),
        cmocka_unit_test_setup(every_dtype_computes_what_f64_does, clear_error),
        cmocka_unit_test_setup(the_number_of_threads_changes_no_bit, clear_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
