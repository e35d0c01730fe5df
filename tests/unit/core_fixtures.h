/* core_fixtures.h: what the tests of the core floor share. */
#ifndef CORE_FIXTURES_H
#define CORE_FIXTURES_H

/* cmocka.h wants the others before it. */
/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
/* clang-format on */

#include "cambium/core.h"

static inline int clear_error(void **state)
{
    (void)state;
    cb_error_clear();
    return 0;
}

/* A test that begins without a recorded failure. */
#define CORE_TEST(function) cmocka_unit_test_setup(function, clear_error)

#endif
