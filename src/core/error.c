/* error.c: the first failure of each thread, kept until it is cleared. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cambium/core.h"

enum { MESSAGE_SIZE = 1024 };
static _Thread_local cb_status first_status;
static _Thread_local char first_message[MESSAGE_SIZE];

cb_status cb_fail(cb_status status, const char *format, ...)
{
    if (first_status != CB_OK || status == CB_OK)
        return status;
    first_status = status;
    va_list args;
    va_start(args, format);
    vsnprintf(first_message, sizeof first_message, format, args);
    va_end(args);
    for (char *c = first_message; *c; c++)
        if (*c == '\n' || *c == '\r')
            *c = ' ';
    return status;
}

bool cb_ok(void)
{
    return first_status == CB_OK;
}

cb_status cb_error_status(void)
{
    return first_status;
}

const char *cb_error_message(void)
{
    return first_message;
}

void cb_error_clear(void)
{
    first_status = CB_OK;
    first_message[0] = '\0';
}

void cb_error_prefix(const char *format, ...)
{
    if (first_status == CB_OK)
        return;
    char old[MESSAGE_SIZE], prefix[MESSAGE_SIZE / 2];
    memcpy(old, first_message, sizeof old);
    va_list args;
    va_start(args, format);
    vsnprintf(prefix, sizeof prefix, format, args);
    va_end(args);
    int n = snprintf(first_message, sizeof first_message, "%s: ", prefix);
    size_t used = n < 0 ? 0 : (size_t)n < sizeof first_message ? (size_t)n : sizeof first_message - 1;
    size_t room = sizeof first_message - used - 1, length = strlen(old);
    memcpy(first_message + used, old, length < room ? length : room);
    first_message[used + (length < room ? length : room)] = '\0';
}
