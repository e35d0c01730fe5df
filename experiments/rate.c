/* rate.c: a run's learning rate, as a file in its directory. */
#include "experiments/rate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool leave_rate(const cb_run *run)
{
    char text[32], *path = cb_path_join(run->directory, "rate");
    snprintf(text, sizeof text, "%.9g", run->value);
    bool ok = path && cb_file_write(path, text, strlen(text));
    cb_free(path);
    return ok;
}

bool rate_of(const cb_run *run, double *rate)
{
    *rate = run->value;
    if (!run->uses)
        return leave_rate(run);
    size_t length;
    char *path = cb_path_join(run->uses, "rate"), *text = path ? cb_file_read(path, 64, &length) : NULL;
    if (text)
        *rate = strtod(text, NULL);
    cb_free(path);
    cb_free(text);
    return cb_ok();
}
