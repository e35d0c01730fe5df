/* fault_sweep.c: see fault_sweep.h. */
#define _GNU_SOURCE /* nftw */
#include "fault_sweep.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/wait.h>

#include "model_fixtures.h"

/* ---- what a job leaves ---- */

static bool temporaries; /* are allowed */
static bool cut_lines;   /* are allowed at the end of a log: of a process killed within a write.  Real kills come between system calls */

static void check_json_lines(const char *path)
{
    size_t length;
    char *text = cb_file_read(path, 1 << 20, &length);
    assert_non_null(text);
    for (char *at = text; *at;) {
        char *end = strchr(at, '\n');
        json_t *line = end ? json_loadb(at, (size_t)(end - at), 0, NULL) : NULL;
        if (!end && cut_lines)
            break;
        if (!line)
            fail_msg("%s: a line is not whole: %s", path, at);
        json_decref(line);
        at = end + 1;
    }
    cb_free(text);
}

static void check_picture(const char *path)
{
    static const char head[] = "\x89PNG\r\n\x1a\n", tail[] = "IEND\xae\x42\x60\x82";
    size_t length;
    char *bytes = cb_file_read(path, 1 << 24, &length);
    assert_non_null(bytes);
    if (length < 16 || memcmp(bytes, head, 8) != 0 || memcmp(bytes + length - 8, tail, 8) != 0)
        fail_msg("%s: not a whole picture", path);
    cb_free(bytes);
}

static int check_entry(const char *path, const struct stat *st, int kind, struct FTW *walk)
{
    (void)st;
    const char *name = path + walk->base;
    bool temporary = walk->level > 0 && name[0] == '.';
    if (temporary && !temporaries)
        fail_msg("%s was left", path);
    if (kind != FTW_F || strstr(path, ".tmp-"))
        return 0;
    if (cb_ends_with(name, ".safetensors")) {
        cb_safetensors *file = cb_safetensors_open(path);
        if (!file)
            fail_msg("%s", cb_error_message());
        cb_safetensors_close(file);
    } else if (cb_ends_with(name, ".json")) {
        json_t *value = json_load_file(path, 0, NULL);
        if (!value)
            fail_msg("%s: not JSON", path);
        json_decref(value);
    } else if (cb_ends_with(name, ".jsonl")) {
        check_json_lines(path);
    } else if (cb_ends_with(name, ".png")) {
        check_picture(path);
    }
    return 0;
}

void fault_check_files(const char *tree, bool killed)
{
    temporaries = killed;
    if (cb_is_directory(tree))
        assert_int_equal(nftw(tree, check_entry, 16, FTW_PHYS), 0);
    assert_ok();
}

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *walk)
{
    (void)st, (void)kind, (void)walk;
    return remove(path);
}

static void empty(const char *tree)
{
    nftw(tree, remove_entry, 16, FTW_PHYS | FTW_DEPTH);
    assert_true(cb_directory_make(tree));
}

static uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t size)
{
    const uint8_t *p = bytes;
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ p[i]) * 0x100000001b3;
    return hash;
}

uint64_t fault_hash_tensors(uint64_t hash, const char *path)
{
    cb_safetensors *file = cb_safetensors_open(path);
    if (!file)
        fail_msg("%s", cb_error_message());
    for (size_t i = 0; i < cb_safetensors_count(file); i++) {
        const cb_weight_entry *e = cb_safetensors_at(file, i);
        hash = cb_hash_text(hash, e->name);
        if (strcmp(e->name, "state.seconds") != 0 && strcmp(e->name, "state.log_bytes") != 0)
            hash = hash_bytes(hash, e->data, e->size);
    }
    cb_safetensors_close(file);
    return hash;
}

/* Steps and losses. */
static uint64_t hash_log(uint64_t hash, const char *path)
{
    static const char *const keys[] = {"step", "loss", "grad_norm", "eval_loss", "best_loss"};
    size_t length;
    char *text = cb_file_read(path, 1 << 20, &length);
    assert_non_null(text);
    for (char *at = text, *end; (end = strchr(at, '\n')); at = end + 1) {
        json_t *line = json_loadb(at, (size_t)(end - at), 0, NULL);
        for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
            double value = json_number_value(json_object_get(line, keys[k]));
            hash = hash_bytes(hash, &value, sizeof value);
        }
        json_decref(line);
    }
    cb_free(text);
    return hash;
}

static uint64_t hash_file(uint64_t hash, const char *path)
{
    size_t length;
    char *bytes = cb_file_read(path, 1 << 26, &length);
    if (!bytes)
        fail_msg("%s", cb_error_message());
    hash = hash_bytes(hash, bytes, length);
    cb_free(bytes);
    return hash;
}

uint64_t fault_fingerprint(const char *tree)
{
    uint64_t hash = CB_HASH_START;
    cb_string_list names = {0};
    assert_true(cb_directory_list(tree, true, &names));
    for (size_t i = 0; i < names.count; i++) {
        const char *name = names.items[i];
        char *path = cb_path_join(tree, name);
        if (strstr(name, "events.out.tfevents.")) { /* has the clock in its name */
            cb_free(path);
            continue;
        }
        hash = cb_hash_text(hash, name);
        if (cb_ends_with(name, ".safetensors"))
            hash = fault_hash_tensors(hash, path);
        else
            hash = cb_ends_with(name, ".jsonl") ? hash_log(hash, path) : hash_file(hash, path);
        cb_free(path);
    }
    cb_string_list_free(&names);
    return hash;
}

static int open_files(void)
{
    int count = 0;
    for (int fd = 0; fd < 256; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

/* ---- the job as it should be ---- */

/* jansson 2.14's lexer keeps the text of a token in a buffer that doubles from 16 bytes, and does not look whether it could grow (lex_save()
 * in load.c): without memory it goes on with a text that lacks its end, and reads beyond it.  Blocks of such sizes are given. */
static void *counted_malloc(size_t size)
{
    if (size >= 32 && (size & (size - 1)) == 0)
        return malloc(size);
    return cb_fault(CB_FAULT_MEMORY) == CB_FAULT_NONE ? malloc(size) : NULL;
}

void fault_prepare(void)
{
    json_set_alloc_funcs(counted_malloc, free);
}

fault_job fault_job_of(bool (*run)(const char *tree), const char *tree)
{
    fault_job job = {.run = run, .tree = tree};
    for (int i = 0; i < 2; i++) { /* what is made once is made */
        empty(tree);
        if (!run(tree))
            fail_msg("%s", cb_error_message());
        job.fingerprint = fault_fingerprint(tree);
        job.live_bytes = cb_memory().live_bytes;
        job.open_files = open_files();
    }
    return job;
}

/* ---- going through the calls ---- */

/* Says what is wrong; the sweep goes on, and fails at its end. */
static void complain(fault_job *job, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    char text[512];
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    print_error("%s\n", text);
    job->complaints++;
}

static void run_again(fault_job *job, const char *what, uint64_t n)
{
    if (!job->run(job->tree))
        complain(job, "%s %llu: the next try fails: %s", what, (unsigned long long)n, cb_error_message());
    cb_error_clear();
    fault_check_files(job->tree, false);
    if (fault_fingerprint(job->tree) != job->fingerprint)
        complain(job, "%s %llu: the next try ends with other bits", what, (unsigned long long)n);
}

static uint64_t count_calls(const fault_job *job, uint32_t kinds)
{
    empty(job->tree);
    cb_fault_arm((cb_fault_plan){.kinds = kinds});
    assert_true(job->run(job->tree));
    return cb_fault_disarm();
}

/* The first call whose turn it is, and the way to the next; whether they are a sample. */
static bool choose_calls(uint64_t calls, uint64_t sample, uint64_t *first, uint64_t *step)
{
    const char *wanted = getenv("CAMBIUM_FAULTS");
    unsigned long long part, parts;
    *first = 1;
    *step = (calls + sample - 1) / sample;
    if (wanted && strcmp(wanted, "all") == 0)
        *step = 1;
    else if (wanted && sscanf(wanted, "%llu/%llu", &part, &parts) == 2 && part >= 1 && part <= parts)
        *first = part, *step = parts;
    else if (wanted && *wanted)
        fail_msg("CAMBIUM_FAULTS: found \"%s\", expected \"all\" or a part of them such as \"3/8\"", wanted);
    return !wanted || !*wanted;
}

/* Whether what a job has left allocated grows when the same happens once more: a way around that is taken for the first time may leave
 * something that is kept for good (a product of another shape prepared). */
static bool leaks(fault_job *job, cb_fault_plan plan)
{
    uint64_t before = cb_memory().live_bytes;
    empty(job->tree);
    cb_fault_arm(plan);
    job->run(job->tree);
    cb_fault_disarm();
    cb_error_clear();
    return cb_memory().live_bytes != before;
}

/* One job under the plan; whether it ended well. */
static bool job_under(fault_job *job, const char *what, cb_fault_plan plan)
{
    unsigned long long n = plan.n;
    cb_fault_arm(plan);
    bool ok = job->run(job->tree);
    cb_fault_disarm();
    if (ok != cb_ok())
        complain(job, "%s %llu: success and error do not agree: \"%s\"", what, n, cb_error_message());
    if (!ok && (!*cb_error_message() || cb_error_status() == CB_OK))
        complain(job, "%s %llu: fails without a message", what, n);
    cb_error_clear();
    if (cb_memory().live_bytes != job->live_bytes && leaks(job, plan))
        complain(job, "%s %llu: %lld bytes were left, and again by another try", what, n,
                 (long long)(cb_memory().live_bytes - job->live_bytes));
    job->live_bytes = cb_memory().live_bytes;
    if (open_files() != job->open_files)
        complain(job, "%s %llu: %d files were left open", what, n, open_files() - job->open_files);
    fault_check_files(job->tree, false);
    if (ok && fault_fingerprint(job->tree) != job->fingerprint)
        complain(job, "%s %llu: ends well with other bits", what, n);
    return ok;
}

/* How many jobs failed; -1: none was run, where a part of few calls was asked for. */
static int64_t sweep(fault_job *job, const char *what, cb_fault_plan plan, uint64_t sample)
{
    uint64_t calls = count_calls(job, plan.kinds), step, failed = 0, runs = 0;
    for (choose_calls(calls, sample, &plan.n, &step); plan.n <= calls; plan.n += step, runs++) {
        empty(job->tree);
        bool ok = job_under(job, what, plan);
        failed += !ok;
        if (!ok)
            run_again(job, what, plan.n);
    }
    print_message("%s: %llu calls, %llu tried, %llu failed with a message, the others went through\n", what, (unsigned long long)calls,
                  (unsigned long long)runs, (unsigned long long)failed);
    if (job->complaints)
        fail_msg("%s: %u complaints", what, job->complaints);
    return runs ? (int64_t)failed : -1;
}

void fault_allocations(fault_job *job, uint64_t sample)
{
    cb_fault_plan plan = {.kinds = 1u << CB_FAULT_MEMORY, .action = CB_FAULT_FAIL};
    assert_true(sweep(job, "allocation", plan, sample) != 0);
    plan.onward = true;
    assert_true(sweep(job, "memory gone at", plan, sample / 2) != 0);
}

void fault_files(fault_job *job, uint64_t sample)
{
    static const char *const names[CB_FAULT_KINDS] = {"memory", "open",  "stat",   "map",      "read",  "write",
                                                      "sync",   "close", "rename", "truncate", "mkdir", "readdir"};
    for (uint32_t kind = CB_FAULT_MEMORY + 1; kind < CB_FAULT_KINDS; kind++)
        sweep(job, names[kind], (cb_fault_plan){.kinds = 1u << kind, .action = CB_FAULT_FAIL, .error = EIO}, sample);
    cb_fault_plan plan = {.kinds = CB_FAULT_FILES, .action = CB_FAULT_FAIL, .error = EIO, .onward = true};
    assert_true(sweep(job, "disk broken at", plan, 3 * sample) != 0);
    plan.kinds = 1u << CB_FAULT_WRITE | 1u << CB_FAULT_SYNC | 1u << CB_FAULT_MAKE;
    plan.error = ENOSPC;
    assert_true(sweep(job, "disk full at", plan, 3 * sample) != 0);
}

void fault_short_calls(fault_job *job, uint64_t sample)
{
    cb_fault_plan plan = {.kinds = 1u << CB_FAULT_READ | 1u << CB_FAULT_WRITE, .action = CB_FAULT_FAIL, .error = EINTR};
    assert_true(sweep(job, "EINTR", plan, sample) <= 0);
    plan.action = CB_FAULT_SHORT;
    assert_true(sweep(job, "short", plan, sample) <= 0);
    plan.onward = true;
    assert_true(sweep(job, "short from", plan, sample / 2) <= 0);
}

/* ---- being killed ---- */

static bool killed_at(const fault_job *job, const char *program, const char *name, cb_fault_action action, uint64_t n)
{
    char action_text[16], n_text[32];
    snprintf(action_text, sizeof action_text, "%d", (int)action);
    snprintf(n_text, sizeof n_text, "%llu", (unsigned long long)n);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        execl(program, program, "job", name, job->tree, action_text, n_text, (char *)NULL);
        _exit(127);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
        return true;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        fail_msg("the job killed at %llu ended with status %d", (unsigned long long)n, status);
    return false;
}

void fault_kills(fault_job *job, const char *program, const char *name, uint64_t sample)
{
    uint64_t calls = count_calls(job, CB_FAULT_FILES), first, step, kills = 0;
    uint64_t shift = choose_calls(calls, sample, &first, &step) ? step / 2 : 0;
    for (int within = 0; within < 2; within++)
        for (uint64_t n = first + (within ? shift : 0); n <= calls; n += step) {
            empty(job->tree);
            bool killed = killed_at(job, program, name, within ? CB_FAULT_KILL_SHORT : CB_FAULT_KILL, n);
            kills += killed;
            cut_lines = killed && within;
            fault_check_files(job->tree, killed);
            cut_lines = false;
            run_again(job, "killed at", n);
        }
    print_message("killed: %llu calls on files, %llu kills\n", (unsigned long long)calls, (unsigned long long)kills);
    assert_int_equal(job->complaints, 0);
    assert_true(kills > 0 || first > calls);
}

int fault_killed_job(bool (*run)(const char *tree), char **words)
{
    cb_fault_arm((cb_fault_plan){.kinds = CB_FAULT_FILES, .n = strtoull(words[2], NULL, 10), .action = (cb_fault_action)atoi(words[1])});
    return run(words[0]) ? 0 : 1;
}
