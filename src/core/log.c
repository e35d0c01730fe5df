/* log.c: messages go to whoever asked for them, and nowhere otherwise. */
#include <stdarg.h>
#include <stdio.h>

#include "cambium/core.h"

static cb_log_function *log_function;
static void *log_user;

void cb_log_set(cb_log_function *function, void *user)
{
    log_function = function;
    log_user = user;
}

void cb_log_message(cb_log_level level, const char *format, ...)
{
    if (!log_function)
        return;
    char message[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    log_function(log_user, level, message);
}
