/* test_faults.c: the main job with every allocation and every call on a file failing in turn (fault_sweep.h).
 *
 * The job: load a model, attach an adapter, train a step, checkpoint, be interrupted, resume, train the second step, save, load the
 * adapter, merge it, generate from the merged model.
 *
 * The program also serves the tests in tests/faults and tests/parallel:
 *
 *     test_faults files DIRECTORY [killed]          whether every file is whole, and (unless killed) no temporary one is there
 *     test_faults fingerprint FILE...               a number for the tensors of each safetensors file, without the clock of checkpoints
 *     test_faults tree DIRECTORY                    a number for all that a directory holds, without clocks
 *     test_faults prepare DIRECTORY                 makes the files that this one wants in its directory:
 *     test_faults parallel RANK KINDS ACTION N      see in_parallel() */
#include <errno.h>
#include <signal.h>

#include "cambium/merge.h"
#include "fault_sweep.h"
#include "training_job.h"

/* ---- the job ---- */

enum { TOKENS = 4 };
#define ADAPTER "{\"r\": 2, \"lora_dropout\": 0.1, \"target_modules\": \".*(q_proj|down_proj)\"}"

static void stop_after_first(void *user, const cb_train_report *report)
{
    (void)user;
    if (report->step == 1)
        cb_interrupt();
}

static bool train(const char *output)
{
    training_job run = {model_path("llama2"), ADAPTER, output, .steps = 2, .batch_size = 1, .save_steps = 1, .callback = stop_after_first};
    bool ok = training_job_run(&run);
    if (ok || cb_error_status() != CB_ERR_INTERRUPTED)
        return ok;
    cb_error_clear();
    cb_interrupt_clear();
    return training_job_run(&run); /* it is past its first step */
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

/* Writes the tokens as bytes to `path`. */
static bool generate(const char *directory, const char *path)
{
    static const int32_t prompt[] = {1, 2, 3};
    cb_generate_options options = {0};
    cb_generation out = {0};
    cb_model *model = cb_options_init(cb_generate_option_table, &options) ? cb_model_load(directory) : NULL;
    options.max_new_tokens = TOKENS;
    options.ignore_eos = true;
    bool ok = model && cb_generate_ids(model, NULL, prompt, 3, &options, NULL, NULL, &out) && out.count == TOKENS &&
              cb_file_write(path, out.ids, TOKENS * sizeof *out.ids);
    cb_generation_free(&out);
    cb_model_free(model);
    return ok;
}

static bool job(const char *directory)
{
    char *run = cb_path_join(directory, "run"), *merged = run ? cb_path_join(directory, "merged") : NULL;
    char *tokens = merged ? cb_path_join(directory, "tokens") : NULL;
    bool ok = tokens && train(run) && (cb_is_directory(merged) || merge(run, merged)) && generate(merged, tokens);
    cb_free(tokens);
    cb_free(merged);
    cb_free(run);
    cb_interrupt_clear();
    cb_scope_close(NULL);
    return ok;
}

/* ---- the tests ---- */

static char tree[256];
static fault_job sound;
static const char *program;

static void every_allocation(void **state)
{
    (void)state;
    fault_allocations(&sound, 60);
}

static void every_call_on_files(void **state)
{
    (void)state;
    fault_files(&sound, 12);
}

static void interrupted_and_short_calls(void **state)
{
    (void)state;
    fault_short_calls(&sound, 12);
}

static void killed_before_and_within_every_call(void **state)
{
    (void)state;
    fault_kills(&sound, program, scratch, 24);
}

static int prepare(void **state)
{
    fault_prepare();
    if (make_scratch(state) != 0)
        return 1;
    training_job_files();
    snprintf(tree, sizeof tree, "%s/tree", scratch);
    sound = fault_job_of(job, tree);
    return 0;
}

/* ---- for other tests ---- */

static int print_fingerprints(int count, char **paths)
{
    for (int i = 0; i < count; i++)
        printf("%016llx %s\n", (unsigned long long)fault_hash_tensors(CB_HASH_START, paths[i]), cb_path_base(paths[i]));
    return 0;
}

static int print_tree(const char *directory)
{
    fault_check_files(directory, false);
    printf("%016llx\n", (unsigned long long)fault_fingerprint(directory));
    return 0;
}

static int look_at_files(const char *directory, bool killed)
{
    fault_check_files(directory, killed);
    return 0;
}

static void on_signal(int number)
{
    (void)number;
    cb_interrupt();
}

/* One of several processes that mpirun started in a directory with the files of a job: trains into run/, with the fault in process RANK; with
 * N = 0 the calls of these kinds are only counted.  ACTION: a cb_fault_action; a call fails as one for want of memory or, of files, of
 * room. */
static int in_parallel(char **words)
{
    int rank = atoi(words[0]);
    cb_fault_plan plan = {.kinds = (uint32_t)strtoul(words[1], NULL, 0),
                          .action = (cb_fault_action)atoi(words[2]),
                          .n = strtoull(words[3], NULL, 10),
                          .error = ENOSPC};
    const training_job run = {model_path("llama2"), ADAPTER, "run", .steps = 4, .batch_size = 2, .save_steps = 2};
    strcpy(scratch, ".");
    sigaction(SIGTERM, &(struct sigaction){.sa_handler = on_signal}, NULL);
    fault_prepare();
    bool ok = cb_parallel_begin(), mine = cb_parallel_rank() == rank;
    if (mine)
        cb_fault_arm(plan);
    ok = ok && training_job_run(&run);
    uint64_t calls = mine ? cb_fault_disarm() : 0;
    ok = cb_parallel_end() && ok;
    if (!ok && cb_parallel_speaks())
        fprintf(stderr, "job: %s\n", cb_error_message());
    if (mine && !plan.n)
        printf("%llu\n", (unsigned long long)calls);
    return ok ? 0 : 1;
}

/* The files that it wants. */
static int make_files(const char *directory)
{
    snprintf(scratch, sizeof scratch, "%s", directory);
    training_job_files();
    return 0;
}

static int serve(int count, char **words)
{
    const char *what = words[0];
    if (count == 5 && strcmp(what, "job") == 0) {
        snprintf(scratch, sizeof scratch, "%s", words[1]);
        return fault_killed_job(job, words + 2);
    }
    if (count > 1 && strcmp(what, "files") == 0)
        return look_at_files(words[1], count > 2);
    if (count > 1 && strcmp(what, "fingerprint") == 0)
        return print_fingerprints(count - 1, words + 1);
    if (count == 2 && strcmp(what, "tree") == 0)
        return print_tree(words[1]);
    if (count == 2 && strcmp(what, "prepare") == 0)
        return make_files(words[1]);
    if (count == 5 && strcmp(what, "parallel") == 0)
        return in_parallel(words + 1);
    fprintf(stderr, "%s: what is %s?\n", program, what);
    return 2;
}

int main(int argc, char **argv)
{
    cb_set_threads(1); /* the model is tiny */
    program = argv[0];
    if (argc > 1)
        return serve(argc - 1, argv + 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(every_allocation, without_errors),
        cmocka_unit_test_setup(every_call_on_files, without_errors),
        cmocka_unit_test_setup(interrupted_and_short_calls, without_errors),
        cmocka_unit_test_setup(killed_before_and_within_every_call, without_errors),
    };
    return cmocka_run_group_tests(tests, prepare, remove_scratch);
}
