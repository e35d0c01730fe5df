/* test_faults.c: the main job with every allocation and every call on a file failing in turn.
 *
 * The job: load a model, attach an adapter, train a step, checkpoint, be interrupted, resume, train the second step, save, load the
 * adapter, merge it, generate from the merged model.  It is run again and again while its first, second, ... call fails (fault.h).  What
 * must hold each time: it ends well with the bits of a job that nothing happened to, or it says what went wrong; nothing stays allocated
 * or open; every file under its final name is whole and no other is left; and the next try, without faults, ends with those bits.
 * Killed in the middle of a call it may leave a temporary file, which the next try sweeps up.
 *
 * Plain runs take a sample of the calls, spread evenly; with CAMBIUM_FAULTS=all every one has its turn.
 *
 * The program also serves the tests in tests/faults:
 *
 *     test_faults files DIRECTORY [killed]   whether every file is whole, and (unless killed) no temporary one is there
 *     test_faults fingerprint FILE...        a number for the tensors of each safetensors file, without the clock of checkpoints */
#define _GNU_SOURCE /* nftw */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <sys/wait.h>

#include "cambium/merge.h"
#include "cambium/training.h"
#include "core/fault.h"
#include "text_fixtures.h"

/* ---- the job ---- */

enum { STEPS = 2, TOKENS = 4 };

static int32_t generated[TOKENS];

static void stop_after_first(void *user, const cb_train_report *report)
{
    (void)user;
    if (report->step == 1)
        cb_interrupt();
}

typedef struct session {
    cb_tokenizer *tokenizer;
    cb_data_options text;
    cb_dataset *train, *validation;
    cb_model *model;
    cb_adapter *adapter;
    cb_train_options options;
} session;

static bool session_open(session *s, const char *output)
{
    static const char settings[] = "{\"r\": 2, \"lora_dropout\": 0.1, \"target_modules\": \".*(q_proj|down_proj)\"}";
    *s = (session){0};
    if (!cb_options_init(cb_data_option_table, &s->text) || !cb_options_init(cb_train_option_table, &s->options))
        return false;
    s->text.sequence_length = 8;
    s->text.lines = true;
    s->options.output = (char *)(uintptr_t)output;
    s->options.seed = 11;
    s->options.steps = STEPS;
    s->options.batch_size = 1;
    s->options.save_steps = 1;
    s->options.eval_steps = 1;
    s->options.eval_batches = 1;
    s->options.learning_rate = 1e-2;
    s->options.resume = true;
    s->tokenizer = cb_string_list_add(&s->text.data, scratch_path("text.txt")) ? cb_tokenizer_load(scratch_path("tokenizer")) : NULL;
    s->train = s->tokenizer ? cb_dataset_open(s->tokenizer, &s->text) : NULL;
    s->validation = s->train ? cb_dataset_split(s->train, 0.3, 1) : NULL;
    s->model = s->validation ? cb_model_load(model_path("llama2")) : NULL;
    s->adapter = s->model ? cb_adapter_new("lora", "default") : NULL;
    return s->adapter && cb_adapter_set_json(s->adapter, "options", settings) &&
           cb_adapter_attach(s->adapter, cb_model_root(s->model), cb_model_type(s->model), 3);
}

static void session_close(session *s)
{
    cb_adapter_free(s->adapter);
    cb_model_free(s->model);
    cb_dataset_free(s->validation);
    cb_dataset_free(s->train);
    cb_tokenizer_free(s->tokenizer);
    cb_string_list_free(&s->text.data);
    cb_options_free(cb_data_option_table, &s->text);
    s->options.output = NULL; /* the caller's; the table knows nothing of it */
    cb_options_free(cb_train_option_table, &s->options);
}

static bool train(const char *output)
{
    session s;
    bool ok = session_open(&s, output);
    if (ok) {
        cb_trainee what = cb_train_adapter(s.model, s.adapter);
        ok = cb_train(&what, s.train, s.validation, &s.options, stop_after_first, NULL, NULL);
    }
    session_close(&s);
    if (ok || cb_error_status() != CB_ERR_INTERRUPTED)
        return ok;
    cb_error_clear();
    cb_interrupt_clear();
    return train(output); /* a second time only: it is past its first step */
}

static bool merge(const char *adapter, const char *output)
{
    cb_merge_options options = {0};
    cb_model *model = cb_options_init(cb_merge_option_table, &options) ? cb_model_load(model_path("llama2")) : NULL;
    cb_adapter *loaded = model ? cb_adapter_load(adapter, cb_model_root(model), cb_model_type(model)) : NULL;
    bool ok = loaded && cb_merge_fold(model, &loaded, 1, output, &options, NULL);
    cb_adapter_free(loaded);
    cb_model_free(model);
    return ok;
}

static bool generate(const char *directory)
{
    static const int32_t prompt[] = {1, 2, 3};
    cb_generate_options options = {0};
    cb_generation out = {0};
    cb_model *model = cb_options_init(cb_generate_option_table, &options) ? cb_model_load(directory) : NULL;
    options.max_new_tokens = TOKENS;
    options.ignore_eos = true;
    bool ok = model && cb_generate_ids(model, NULL, prompt, 3, &options, NULL, NULL, &out) && out.count == TOKENS;
    if (ok)
        memcpy(generated, out.ids, sizeof generated);
    cb_generation_free(&out);
    cb_model_free(model);
    return ok;
}

static bool job(const char *directory)
{
    char *run = cb_path_join(directory, "run"), *merged = run ? cb_path_join(directory, "merged") : NULL;
    bool ok = merged && train(run) && (cb_is_directory(merged) || merge(run, merged)) && generate(merged);
    cb_free(merged);
    cb_free(run);
    cb_interrupt_clear();
    cb_scope_close(NULL);
    return ok;
}

/* ---- what it leaves ---- */

static char tree[256];
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

static void check_files(bool killed)
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

static void remove_tree(void)
{
    nftw(tree, remove_entry, 16, FTW_PHYS | FTW_DEPTH);
    assert_true(cb_directory_make(tree));
}

/* Goes on from `hash` with the tensors of a file, but for the clock and the length of the log, which has times in it. */
static uint64_t hash_tensors(uint64_t hash, const char *path)
{
    cb_safetensors *file = cb_safetensors_open(path);
    if (!file)
        fail_msg("%s", cb_error_message());
    for (size_t i = 0; i < cb_safetensors_count(file); i++) {
        const cb_weight_entry *e = cb_safetensors_at(file, i);
        hash = cb_hash_text(hash, e->name);
        if (strcmp(e->name, "state.seconds") != 0 && strcmp(e->name, "state.log_bytes") != 0)
            for (size_t k = 0; k < e->size; k++)
                hash = (hash ^ ((const uint8_t *)e->data)[k]) * 0x100000001b3;
    }
    cb_safetensors_close(file);
    return hash;
}

/* Everything that a job decides: the tensors of adapter, checkpoint and merged model, and the tokens. */
static uint64_t fingerprint(void)
{
    static const char *const names[] = {"run/adapter_model.safetensors", "run/checkpoint.safetensors", "merged/model.safetensors"};
    uint64_t hash = CB_HASH_START;
    for (int f = 0; f < 3; f++) {
        char path[400];
        snprintf(path, sizeof path, "%s/%s", tree, names[f]);
        hash = hash_tensors(hash, path);
    }
    for (int i = 0; i < TOKENS; i++)
        hash = (hash ^ (uint64_t)generated[i]) * 0x100000001b3;
    return hash;
}

static int open_files(void)
{
    int count = 0;
    for (int fd = 0; fd < 256; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

/* ---- going through the calls ---- */

static struct {
    uint64_t fingerprint;
    uint64_t live_bytes;
    int open_files;
} sound;

static void run_again(const char *what, uint64_t n)
{
    if (!job(tree))
        fail_msg("%s %llu: the next try fails: %s", what, (unsigned long long)n, cb_error_message());
    check_files(false);
    if (fingerprint() != sound.fingerprint)
        fail_msg("%s %llu: the next try ends with other bits", what, (unsigned long long)n);
}

static uint64_t count_calls(uint32_t kinds)
{
    remove_tree();
    cb_fault_arm((cb_fault_plan){.kinds = kinds});
    assert_true(job(tree));
    uint64_t calls = cb_fault_disarm();
    assert_true(calls > 0);
    return calls;
}

static uint64_t stride(uint64_t calls, uint64_t sample)
{
    const char *wanted = getenv("CAMBIUM_FAULTS");
    return (wanted && strcmp(wanted, "all") == 0) || calls <= sample ? 1 : calls / sample;
}

/* One job under the plan; whether it ended well. */
static bool job_under(const char *what, cb_fault_plan plan)
{
    unsigned long long n = plan.n;
    cb_fault_arm(plan);
    bool ok = job(tree);
    cb_fault_disarm();
    if (ok != cb_ok())
        fail_msg("%s %llu: success and error do not agree: \"%s\"", what, n, cb_error_message());
    if (!ok && (!*cb_error_message() || cb_error_status() == CB_OK))
        fail_msg("%s %llu: fails without a message", what, n);
    cb_error_clear();
    if (cb_memory().live_bytes != sound.live_bytes)
        fail_msg("%s %llu: %lld bytes were left", what, n, (long long)(cb_memory().live_bytes - sound.live_bytes));
    if (open_files() != sound.open_files)
        fail_msg("%s %llu: %d files were left open", what, n, open_files() - sound.open_files);
    check_files(false);
    if (ok && fingerprint() != sound.fingerprint)
        fail_msg("%s %llu: ends well with other bits", what, n);
    return ok;
}

/* Makes call n fail for every n in turn, and, each time, tries again without. */
static void sweep(const char *what, cb_fault_plan plan, uint64_t sample, bool must_succeed)
{
    uint64_t calls = count_calls(plan.kinds), step = stride(calls, sample), failed = 0, runs = 0;
    for (plan.n = 1; plan.n <= calls; plan.n += step, runs++) {
        remove_tree();
        bool ok = job_under(what, plan);
        failed += !ok;
        if (must_succeed && !ok)
            fail_msg("%s %llu: expected to be gone through", what, (unsigned long long)plan.n);
        if (!ok)
            run_again(what, plan.n);
    }
    print_message("%s: %llu calls, %llu tried, %llu failed with a message, the others went through\n", what, (unsigned long long)calls,
                  (unsigned long long)runs, (unsigned long long)failed);
    assert_true(must_succeed || failed > 0);
}

static void every_allocation(void **state)
{
    (void)state;
    sweep("allocation", (cb_fault_plan){.kinds = 1u << CB_FAULT_MEMORY, .action = CB_FAULT_FAIL}, 100, false);
}

static void memory_that_is_gone_for_good(void **state)
{
    (void)state;
    sweep("memory gone at", (cb_fault_plan){.kinds = 1u << CB_FAULT_MEMORY, .action = CB_FAULT_FAIL, .onward = true}, 40, false);
}

static void every_call_on_files(void **state)
{
    (void)state;
    static const char *const names[CB_FAULT_KINDS] = {"memory", "open",  "stat",   "map",      "read",  "write",
                                                      "sync",   "close", "rename", "truncate", "mkdir", "readdir"};
    for (uint32_t kind = CB_FAULT_MEMORY + 1; kind < CB_FAULT_KINDS; kind++)
        sweep(names[kind], (cb_fault_plan){.kinds = 1u << kind, .action = CB_FAULT_FAIL, .error = EIO}, 12, false);
}

static void a_disk_that_breaks(void **state)
{
    (void)state;
    sweep("disk broken at", (cb_fault_plan){.kinds = CB_FAULT_FILES, .action = CB_FAULT_FAIL, .error = EIO, .onward = true}, 40, false);
}

static void a_disk_that_is_full(void **state)
{
    (void)state;
    uint32_t kinds = 1u << CB_FAULT_WRITE | 1u << CB_FAULT_SYNC | 1u << CB_FAULT_MAKE;
    sweep("disk full at", (cb_fault_plan){.kinds = kinds, .action = CB_FAULT_FAIL, .error = ENOSPC, .onward = true}, 40, false);
}

static void interrupted_and_short_calls(void **state)
{
    (void)state;
    uint32_t kinds = 1u << CB_FAULT_READ | 1u << CB_FAULT_WRITE;
    sweep("EINTR", (cb_fault_plan){.kinds = kinds, .action = CB_FAULT_FAIL, .error = EINTR}, 20, true);
    sweep("short", (cb_fault_plan){.kinds = kinds, .action = CB_FAULT_SHORT}, 20, true);
    sweep("short from", (cb_fault_plan){.kinds = kinds, .action = CB_FAULT_SHORT, .onward = true}, 10, true);
}

/* ---- being killed ---- */

static const char *program;

static bool killed_at(cb_fault_action action, uint64_t n)
{
    char action_text[16], n_text[32];
    snprintf(action_text, sizeof action_text, "%d", (int)action);
    snprintf(n_text, sizeof n_text, "%llu", (unsigned long long)n);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        execl(program, program, "job", scratch, tree, action_text, n_text, (char *)NULL);
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

static void killed_before_and_within_every_call(void **state)
{
    (void)state;
    uint64_t calls = count_calls(CB_FAULT_FILES), step = stride(calls, 40), kills = 0;
    for (int within = 0; within < 2; within++)
        for (uint64_t n = 1 + (uint64_t)within * (step / 2); n <= calls; n += step) {
            remove_tree();
            bool killed = killed_at(within ? CB_FAULT_KILL_SHORT : CB_FAULT_KILL, n);
            kills += killed;
            cut_lines = killed && within;
            check_files(killed);
            cut_lines = false;
            run_again("killed at", n);
        }
    print_message("killed: %llu calls on files, %llu kills\n", (unsigned long long)calls, (unsigned long long)kills);
    assert_true(kills > 0);
}

static int job_in_process(char **words)
{
    snprintf(scratch, sizeof scratch, "%s", words[0]);
    cb_fault_arm((cb_fault_plan){.kinds = CB_FAULT_FILES, .n = strtoull(words[3], NULL, 10), .action = (cb_fault_action)atoi(words[2])});
    return job(words[1]) ? 0 : 1;
}

/* ---- the whole ---- */

/* jansson 2.14's lexer keeps the text of a token in a buffer that doubles from 16 bytes, and does not look whether it could grow (lex_save()
 * in load.c): without memory it goes on with a text that lacks its end, and reads beyond it.  Blocks of such sizes are given. */
static void *counted_malloc(size_t size)
{
    if (size >= 32 && (size & (size - 1)) == 0)
        return malloc(size);
    return cb_fault(CB_FAULT_MEMORY) == CB_FAULT_NONE ? malloc(size) : NULL;
}

static int prepare(void **state)
{
    json_set_alloc_funcs(counted_malloc, free);
    if (make_scratch(state) != 0)
        return 1;
    cb_tokenizer_free(characters(false, false));
    char text[2048], *at = text;
    for (int i = 0; i < 24; i++)
        at += sprintf(at, "The %s cuts the %s.\n", i % 3 ? "knife" : "gardener", i % 5 ? "branch" : "stem");
    write_file("text.txt", text);
    snprintf(tree, sizeof tree, "%s/tree", scratch);
    for (int i = 0; i < 2; i++) { /* what is made once is made */
        remove_tree();
        if (!job(tree))
            fail_msg("%s", cb_error_message());
        sound.fingerprint = fingerprint();
        sound.live_bytes = cb_memory().live_bytes;
        sound.open_files = open_files();
    }
    return 0;
}

static int print_fingerprints(int count, char **paths)
{
    for (int i = 0; i < count; i++)
        printf("%016llx %s\n", (unsigned long long)hash_tensors(CB_HASH_START, paths[i]), cb_path_base(paths[i]));
    return 0;
}

static int look_at_files(const char *directory, bool killed)
{
    snprintf(tree, sizeof tree, "%s", directory);
    check_files(killed);
    return 0;
}

int main(int argc, char **argv)
{
    cb_set_threads(1); /* the model is tiny */
    program = argv[0];
    if (argc == 6 && strcmp(argv[1], "job") == 0)
        return job_in_process(argv + 2);
    if (argc > 2 && strcmp(argv[1], "files") == 0)
        return look_at_files(argv[2], argc > 3);
    if (argc > 2 && strcmp(argv[1], "fingerprint") == 0)
        return print_fingerprints(argc - 2, argv + 2);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(every_allocation, without_errors),
        cmocka_unit_test_setup(memory_that_is_gone_for_good, without_errors),
        cmocka_unit_test_setup(every_call_on_files, without_errors),
        cmocka_unit_test_setup(a_disk_that_breaks, without_errors),
        cmocka_unit_test_setup(a_disk_that_is_full, without_errors),
        cmocka_unit_test_setup(interrupted_and_short_calls, without_errors),
        cmocka_unit_test_setup(killed_before_and_within_every_call, without_errors),
    };
    return cmocka_run_group_tests(tests, prepare, remove_scratch);
}
