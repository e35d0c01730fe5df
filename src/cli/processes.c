/* processes.c: this program run by itself: benchmarks, whose peak of memory is then a run's own, and commands that are made of others. */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cli/cli.h"

/* Everything that can be read from `fd`. */
static bool read_all(int fd, cb_string *out)
{
    char piece[4096];
    ssize_t n;
    while ((n = read(fd, piece, sizeof piece)) > 0 || (n < 0 && errno == EINTR))
        if (n > 0 && !cb_string_append(out, piece, (size_t)n))
            return false;
    return n == 0;
}

json_t *cli_run_self(const char *what, const char *const *words)
{
    int ends[2], status = 0;
    if (pipe(ends) != 0) {
        cb_fail(CB_ERR_IO, "no pipe can be made: %s", strerror(errno));
        return NULL;
    }
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDOUT_FILENO);
        close(ends[0]);
        close(ends[1]);
        execv("/proc/self/exe", (char *const *)(uintptr_t)words);
        _exit(127);
    }
    close(ends[1]);
    cb_string text = {0};
    bool ok = child > 0 && read_all(ends[0], &text);
    close(ends[0]);
    ok = child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0 && ok;
    json_t *result = ok && text.data ? json_loads(text.data, 0, NULL) : NULL;
    cb_string_free(&text);
    if (!result && cb_interrupted())
        cb_fail(CB_ERR_INTERRUPTED, "interrupted");
    else if (!result)
        cb_fail(CB_ERR_IO, CLI_PROGRAM " %s: failed, see above (exit status %d)", what, WIFEXITED(status) ? WEXITSTATUS(status) : -1);
    return result;
}

bool cli_run_command(const char *what, const char *const *words)
{
    int status = 0;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGTERM); /* it stops at its next checkpoint when this process is gone */
        execv("/proc/self/exe", (char *const *)(uintptr_t)words);
        _exit(127);
    }
    if (child < 0)
        return cb_fail(CB_ERR_IO, "no process can be started: %s", strerror(errno)) == CB_OK;
    const struct timespec moment = {.tv_nsec = 20000000};
    pid_t ended;
    bool told = false; /* a signal may be sent to this process alone */
    while ((ended = waitpid(child, &status, WNOHANG)) == 0 || (ended < 0 && errno == EINTR)) {
        if (cb_interrupted() && !told)
            told = kill(child, SIGTERM) == 0;
        nanosleep(&moment, NULL);
    }
    if (ended == child && WIFEXITED(status) && WEXITSTATUS(status) == CLI_EXIT_DONE)
        return true;
    if (cb_interrupted() || (WIFEXITED(status) && WEXITSTATUS(status) == CLI_EXIT_INTERRUPTED))
        return cb_fail(CB_ERR_INTERRUPTED, "interrupted; the same command goes on from here") == CB_OK;
    return cb_fail(CB_ERR_STATE, CLI_PROGRAM " %s: failed, see above (exit status %d)", what,
                   WIFEXITED(status) ? WEXITSTATUS(status) : -1) == CB_OK;
}
