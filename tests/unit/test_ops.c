/* test_ops.c: every operation of the library, by finite differences in f64: gradients, gradients of gradients, and what
 * happens when memory runs out.  The cases are in op_cases.inc.h; values and dtypes are test_ops_values.c's. */
#include <ctype.h>
#include <string.h>

#include "op_cases.h"

static void gradients_are_derivatives(void **state)
{
    (void)state;
    ask_every_case(op_cases, op_case_count, gradient_is_the_derivative);
}

static void second_gradients_are_derivatives_or_refused_by_name(void **state)
{
    (void)state;
    ask_every_case(op_cases, op_case_count, second_gradient_is_the_derivative);
}

static void a_failed_allocation_is_an_error_and_leaks_nothing(void **state)
{
    (void)state;
    ask_every_case(op_cases, op_case_count, survives_failed_allocations);
}

/* ---- nothing is left out ---- */

static void every_op_of_the_table_has_a_case(void **state)
{
    (void)state;
    bool *seen = cb_calloc(cb_op_table_count, sizeof *seen);
    assert_non_null(seen);
    int failures = 0;
    for (size_t i = 0; i < op_case_count; i++)
        failures += !records_its_op(&op_cases[i], seen);
    for (size_t i = 0; i < cb_op_table_count; i++)
        if (!seen[i]) {
            print_error("no case records the op %s\n", cb_op_table[i]->name);
            failures++;
        }
    cb_free(seen);
    assert_int_equal(failures, 0);
}

static bool called_by_a_case(const char *function)
{
    size_t length = strlen(function);
    for (size_t i = 0; i < op_case_count; i++)
        for (const char *at = op_cases[i].text; (at = strstr(at, function)); at += length)
            if (at[length] == '(')
                return true;
    return false;
}

/* A function NAME_nd or NAME_with is called through the macro NAME or by itself. */
static bool has_case(char *function)
{
    if (called_by_a_case(function))
        return true;
    static const char *const endings[] = {"_nd", "_with"};
    size_t length = strlen(function);
    for (size_t i = 0; i < 2; i++) {
        size_t n = strlen(endings[i]);
        if (length > n && strcmp(function + length - n, endings[i]) == 0) {
            function[length - n] = '\0';
            return called_by_a_case(function);
        }
    }
    return false;
}

static void every_operation_of_the_header_has_a_case(void **state)
{
    (void)state;
    char *header = cb_file_read(CB_SOURCE_DIR "/include/cambium/tensor.h", 1 << 20, NULL);
    assert_non_null(header);
    char *at = strstr(header, "---- Operations ----");
    assert_non_null(at);
    int functions = 0, failures = 0;
    while ((at = strstr(at, "\nCB_API "))) {
        at = strstr(at, "cb_");
        if (strncmp(at, "cb_tensor", 9) == 0)
            at = strstr(at + 9, "cb_");
        char function[64] = {0};
        for (size_t n = 0; n + 1 < sizeof function && (isalnum((unsigned char)at[n]) || at[n] == '_'); n++)
            function[n] = at[n];
        functions++;
        if (!has_case(function)) {
            print_error("no case calls %s\n", function);
            failures++;
        }
    }
    cb_free(header);
    assert_true(functions > 90);
    assert_int_equal(failures, 0);
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
        cmocka_unit_test_setup(every_op_of_the_table_has_a_case, clear_error),
        cmocka_unit_test_setup(every_operation_of_the_header_has_a_case, clear_error),
        cmocka_unit_test_setup(gradients_are_derivatives, clear_error),
        cmocka_unit_test_setup(second_gradients_are_derivatives_or_refused_by_name, clear_error),
        cmocka_unit_test_setup(a_failed_allocation_is_an_error_and_leaks_nothing, clear_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
