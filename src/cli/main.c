/* main.c: the `cambium` program: finds the command, takes its line apart, runs it and says how it went. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "kernels/kernels.h"

/* ---- signals and messages ---- */

/* The first signal asks long work to stop at its next step, where it leaves a checkpoint; the second ends at once. */
static void on_signal(int number)
{
    if (cb_interrupted()) {
        signal(number, SIG_DFL);
        raise(number);
    }
    cb_interrupt();
}

static void catch_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is an error like any other */
    cb_file_maps_guard();
}

static void on_log(void *user, cb_log_level level, const char *message)
{
    const cli_call *call = user;
    bool wanted = level == CB_LOG_WARNING ? !call->common.quiet : call->common.verbose;
    if (!wanted || !cb_parallel_speaks())
        return;
    cli_status_clear();
    fprintf(stderr, "%s %s: %s%s\n", CLI_PROGRAM, call->command->name, level == CB_LOG_WARNING ? "warning: " : "", message);
}

/* The one line of a failure: control characters of hostile files must not reach the terminal. */
static void print_error(const char *command)
{
    cb_string line = {0};
    const char *message = cb_error_message();
    cli_escape(message, strlen(message), &line);
    cli_status_clear();
    fprintf(stderr, "%s%s%s: %s\n", CLI_PROGRAM, command ? " " : "", command ? command : "",
            line.length ? line.data : "failed without a message");
    cb_string_free(&line);
}

static bool flush_output(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return true;
    cb_fail(CB_ERR_IO, "standard output: %s", strerror(errno));
    return false;
}

static bool set_by_us(const char *variable, const char *value)
{
    return !getenv(variable) && setenv(variable, value, 1) == 0;
}

/* A thread of GNU's OpenMP that waits for the others spins for milliseconds first, and one of OpenBLAS, which LAPACK's decompositions run on,
 * spins without end.  On a machine that does other work besides, the one it waits for may be waiting for this very core: a step then takes
 * ten times as long, a decomposition a hundred.  Both are read from the environment when the runtimes are loaded, so the program starts once more
 * with a short time and one thread for LAPACK, unless the user has chosen otherwise. */
static void spin_briefly(char **argv)
{
    bool again = !getenv("OMP_WAIT_POLICY") && set_by_us("GOMP_SPINCOUNT", "10000");
    if (set_by_us("OPENBLAS_NUM_THREADS", "1") || again)
        execv("/proc/self/exe", argv); /* where it cannot, this process goes on */
}

/* ---- commands ---- */

static int run_command(const cli_command *command, int count, char **words)
{
    cli_call call;
    cb_string help = {0};
    bool ok = !command->parallel || cb_parallel_begin();
    if (!cb_parallel_speaks() && !freopen("/dev/null", "w", stdout))
        ok = cb_fail(CB_ERR_IO, "/dev/null: %s", strerror(errno)) == CB_OK;
    ok = cli_parse(&call, command, count, words) && ok;
    if (ok && call.common.help) {
        ok = cli_help_command(command, call.kind ? call.kind : CLI_DEFAULT_KIND, &help) && fputs(help.data, stdout) != EOF;
    } else if (ok) {
        cb_log_set(on_log, &call);
        if (call.common.threads > 0)
            cb_set_threads((int)call.common.threads);
        catch_signals();
        ok = command->run(&call, call.settings);
        cli_status_clear();
    }
    ok = flush_output() && ok && cb_ok();
    if (command->parallel)
        ok = cb_parallel_end() && ok;
    if (!ok && cb_parallel_speaks())
        print_error(command->name);
    int status = ok ? CLI_EXIT_DONE : call.usage ? CLI_EXIT_USAGE : CLI_EXIT_FAILED;
    if (cb_error_status() == CB_ERR_INTERRUPTED)
        status = CLI_EXIT_INTERRUPTED;
    cb_log_set(NULL, NULL);
    cb_string_free(&help);
    cli_call_free(&call);
    return status;
}

static size_t length_of_first_word(const char *name)
{
    return strcspn(name, " ");
}

/* Takes two words, or one where no command has both; *used is how many. */
static const cli_command *find_command(int count, char **words, int *used)
{
    const cli_command *found = NULL;
    for (const cli_command *const *c = cli_commands(); *c && count > 0; c++) {
        const char *name = (*c)->name;
        size_t first = length_of_first_word(name);
        if (strlen(words[0]) != first || strncmp(name, words[0], first) != 0)
            continue;
        bool two = name[first] == ' ';
        if (two && (count < 2 || strcmp(name + first + 1, words[1]) != 0))
            continue;
        if (found && !two)
            continue;
        *used = two ? 2 : 1;
        found = *c;
    }
    return found;
}

/* Commands of two words that begin with this one: "train, encode, decode"; empty when there are none. */
static bool second_words(const char *word, cb_string *out)
{
    for (const cli_command *const *c = cli_commands(); *c; c++) {
        size_t first = length_of_first_word((*c)->name);
        if (strlen(word) == first && strncmp((*c)->name, word, first) == 0 && (*c)->name[first])
            cb_string_printf(out, "%s%s", out->length ? ", " : "", (*c)->name + first + 1);
    }
    return out->length > 0;
}

static int unknown_command(int count, char **words)
{
    cb_string list = {0};
    if (second_words(words[0], &list)) {
        bool named = count > 1 && words[1][0] != '-';
        cb_fail(CB_ERR_ARGUMENT, "found %s, expected one of %s; see %s help", named ? words[1] : "nothing", list.data, CLI_PROGRAM);
        print_error(words[0]);
    } else {
        const char *names[64];
        size_t n = 0;
        for (const cli_command *const *c = cli_commands(); *c && n < 64; c++)
            names[n++] = (*c)->name;
        cb_closest_names(words[0], names, n, 3, &list);
        cb_fail(CB_ERR_ARGUMENT, "unknown command \"%s\"; close names: %s; see %s help", words[0], list.data ? list.data : "none",
                CLI_PROGRAM);
        print_error(NULL);
    }
    cb_string_free(&list);
    return CLI_EXIT_USAGE;
}

/* ---- help, completion, version ---- */

static int print_text(const char *command, bool ok, cb_string *text)
{
    if (ok && text->data)
        fputs(text->data, stdout);
    ok = flush_output() && ok;
    cb_string_free(text);
    if (!ok)
        print_error(command);
    return ok ? CLI_EXIT_DONE : CLI_EXIT_FAILED;
}

/* Every command whose name begins with this word ("tokenizer"). */
static bool help_family(const char *word, cb_string *out)
{
    bool ok = true;
    for (const cli_command *const *c = cli_commands(); *c && ok; c++)
        if (strlen(word) == length_of_first_word((*c)->name) && strncmp((*c)->name, word, strlen(word)) == 0)
            ok = cb_string_printf(out, "%s%s %s %s\n    %s\n", out->length ? "\n" : "", CLI_PROGRAM, (*c)->name, (*c)->synopsis,
                                  (*c)->summary);
    return ok;
}

static int run_help(int count, char **words)
{
    cb_string text = {0};
    int used;
    if (count == 0)
        return print_text("help", cli_help_overview(&text), &text);
    if (strcmp(words[0], "--man") == 0)
        return print_text("help", cli_manual(&text), &text);
    if (strcmp(words[0], "--markdown") == 0)
        return print_text("help", cli_markdown(&text), &text);
    const cli_command *command = find_command(count, words, &used);
    if (command)
        return print_text("help", cli_help_command(command, CLI_DEFAULT_KIND, &text), &text);
    if (count == 1 && help_family(words[0], &text) && text.length)
        return print_text("help", true, &text);
    cb_string_free(&text);
    return unknown_command(count, words);
}

static int run_completion(int count, char **words)
{
    cb_string text = {0};
    if (count != 1) {
        cb_fail(CB_ERR_ARGUMENT, "expected one of bash, zsh, fish");
        print_error("completion");
        return CLI_EXIT_USAGE;
    }
    bool ok = cli_completion(words[0], &text);
    int status = print_text("completion", ok, &text);
    return ok ? status : CLI_EXIT_USAGE;
}

static int run_version(void)
{
    printf("%s %s\nvector kernels: %s\n", CLI_PROGRAM, CB_VERSION, cbk_isa());
    return flush_output() ? CLI_EXIT_DONE : CLI_EXIT_FAILED;
}

static bool is_one_of(const char *word, const char *a, const char *b, const char *c)
{
    return strcmp(word, a) == 0 || strcmp(word, b) == 0 || strcmp(word, c) == 0;
}

int main(int argc, char **argv)
{
    int used, count = argc - 1;
    char **words = argv + 1;
    if (count <= 0) {
        cb_string text = {0};
        if (cli_help_overview(&text))
            fputs(text.data, stderr);
        cb_string_free(&text);
        return CLI_EXIT_USAGE;
    }
    if (is_one_of(words[0], "help", "--help", "-h"))
        return run_help(count - 1, words + 1);
    if (is_one_of(words[0], "version", "--version", "-V"))
        return run_version();
    if (strcmp(words[0], "completion") == 0)
        return run_completion(count - 1, words + 1);
    const cli_command *command = find_command(count, words, &used);
    if (command) {
        spin_briefly(argv);
        return run_command(command, count - used, words + used);
    }
    if (count > 1 && is_one_of(words[1], "--help", "-h", "help"))
        return run_help(1, words);
    return unknown_command(count, words);
}
