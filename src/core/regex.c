/* regex.c: PCRE2 with the library's memory. */
#include "core/regex.h"

static void *take(size_t size, void *user)
{
    (void)user;
    return cb_alloc(size);
}

static void give(void *block, void *user)
{
    (void)user;
    cb_free(block);
}

pcre2_general_context *cb_regex_memory(void)
{
    return pcre2_general_context_create(take, give, NULL);
}
