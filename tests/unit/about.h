/* about.h: numbers that are to be within an absolute bound of others.  NaN is within none: cmocka's assert_float_equal takes it for any number. */
#ifndef ABOUT_H
#define ABOUT_H

/* cmocka.h wants these before it */
/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <math.h>

#define assert_about(got, expected, allowed)                                                                                               \
    do {                                                                                                                                   \
        double got_ = (double)(got), expected_ = (double)(expected);                                                                       \
        if (!(fabs(got_ - expected_) <= (double)(allowed)))                                                                                \
            fail_msg("%s is %.17g, expected %.17g", #got, got_, expected_);                                                                \
    } while (0)

#endif
