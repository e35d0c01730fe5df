/* parallel.c: data parallel training over MPI.
 *
 * Every process has the whole model (its frozen weights are pages of one mapped file, which the processes of a machine share) and takes
 * its share of the rows of each batch.  Processes talk at meetings: each says in a short note where it is, how it goes and a few
 * numbers, and reads the notes of all.  Only if all are well do gradients follow.  So a failure anywhere ends all processes at
 * their next meeting, with one message.
 *
 * Nothing is waited for blindly: requests are polled, and an interruption ends the wait.  When a process is killed, mpirun sends SIGTERM to
 * the others; they get out of their wait, and what they then do (train.c) needs no other process. */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#ifdef CAMBIUM_MPI
#include <mpi.h>
#endif

#include "training/parallel.h"

static int rank, size = 1;
static bool lost, silent, over; /* over: all know how it ended, and will not meet again */

int cb_parallel_rank(void)
{
    return rank;
}

int cb_parallel_size(void)
{
    return size;
}

bool cb_parallel_lost(void)
{
    return lost;
}

bool cb_parallel_speaks(void)
{
    return !silent;
}

void cb_parallel_let_speak(bool speak)
{
    silent = !speak;
}

/* How many processes mpirun started; 1 without it. */
static int started(const char *variable)
{
    const char *text = getenv(variable);
    int n = text ? atoi(text) : 1;
    return n > 1 ? n : 1;
}

#ifdef CAMBIUM_MPI

static bool refuse(const char *what, int code)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int length;
    MPI_Error_string(code, text, &length);
    return cb_fail(CB_ERR_STATE, "MPI: %s: %s", what, text) == CB_OK;
}

/* Processes of one machine share its processors; a user's own choice counts for more. */
static void share_processors(void)
{
    int local = started("OMPI_COMM_WORLD_LOCAL_SIZE");
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    int own = (int)(processors / local), most = cb_threads();
    if (!getenv("OMP_NUM_THREADS"))
        cb_set_threads(own < 1 ? 1 : own < most ? own : most);
}

bool cb_parallel_begin(void)
{
    if (started("OMPI_COMM_WORLD_SIZE") == 1 || size > 1)
        return true;
    int level, code = MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level);
    if (code != MPI_SUCCESS)
        return refuse("cannot begin", code);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    silent = rank != 0;
    share_processors();
    return true;
}

/* Polls until the request is done.  Once interrupted, the others have a quarter of a second to come as well: mpirun kills what is left a
 * second after its SIGTERM. */
static bool complete(MPI_Request *request)
{
    enum { EAGER = 1000, NAP = 50000 /* ns */ };
    const double patience = 0.25;
    double since = 0;
    for (int turn = 0;; turn++) {
        int done = 0, code = MPI_Test(request, &done, MPI_STATUS_IGNORE);
        if (code != MPI_SUCCESS)
            return refuse("another process cannot be reached", code);
        if (done)
            return true;
        if (cb_interrupted() && since == 0)
            since = cb_now();
        if (since != 0 && cb_now() - since > patience) {
            lost = true;
            return cb_fail(CB_ERR_INTERRUPTED, "interrupted while waiting for another process") == CB_OK;
        }
        if (turn < EAGER)
            sched_yield();
        else
            nanosleep(&(struct timespec){.tv_nsec = NAP}, NULL);
    }
}

/* ---- meetings ---- */

typedef struct note {
    int32_t place, status; /* cb_status */
    int64_t step;
    double values[CB_MOST_VALUES];
    char message[208];
} note;

static const char *const places[] = {"the start", "a step", "a validation", "the end"};

static bool judge(const note *notes)
{
    for (int r = 0; r < size; r++)
        if (notes[r].status != CB_OK && notes[r].status != CB_ERR_INTERRUPTED)
            return cb_fail((cb_status)notes[r].status, "process %d: %s", r, notes[r].message) == CB_OK;
    for (int r = 0; r < size; r++)
        if (notes[r].status != CB_OK)
            return cb_fail(CB_ERR_INTERRUPTED, "%s", notes[r].message) == CB_OK;
    for (int r = 1; r < size; r++)
        if (notes[r].place != notes[0].place || notes[r].step != notes[0].step)
            return cb_fail(CB_ERR_STATE,
                           "process %d is at %s (step %lld), process 0 at %s (step %lld): expected the same options, data and files", r,
                           places[notes[r].place], (long long)notes[r].step, places[notes[0].place], (long long)notes[0].step) == CB_OK;
    return true;
}

bool cb_parallel_meet(cb_place place, int64_t step, int count, double *values)
{
    static note mine;
    if (size == 1 || lost || over || cb_rehearsing())
        return cb_ok();
    mine = (note){.place = (int32_t)place, .status = (int32_t)cb_error_status(), .step = step};
    if (mine.status == CB_OK && place != CB_AT_END && cb_interrupted()) {
        mine.status = CB_ERR_INTERRUPTED;
        snprintf(mine.message, sizeof mine.message, "interrupted");
    } else {
        snprintf(mine.message, sizeof mine.message, "%s", cb_error_message());
    }
    for (int i = 0; i < count; i++)
        mine.values[i] = values[i];
    note *notes = cb_alloc((size_t)size * sizeof *notes);
    if (!notes)
        return false;
    MPI_Request request;
    int code = MPI_Iallgather(&mine, (int)sizeof mine, MPI_BYTE, notes, (int)sizeof mine, MPI_BYTE, MPI_COMM_WORLD, &request);
    bool ok = code == MPI_SUCCESS ? complete(&request) && judge(notes) : refuse("cannot meet", code);
    over = !ok;
    for (int i = 0; ok && i < count; i++) {
        values[i] = 0;
        for (int r = 0; r < size; r++)
            values[i] += notes[r].values[i];
    }
    if (!lost) /* else the library may still write there */
        cb_free(notes);
    return ok;
}

bool cb_parallel_same(const char *text)
{
    enum { MOST = 4096 };
    if (size == 1 || cb_rehearsing() || !cb_parallel_meet(CB_AT_START, 0, 0, NULL))
        return cb_ok();
    static char first[MOST];
    snprintf(first, sizeof first, "%s", text);
    MPI_Request request;
    int code = MPI_Ibcast(first, MOST, MPI_BYTE, 0, MPI_COMM_WORLD, &request);
    bool ok = code == MPI_SUCCESS ? complete(&request) : refuse("cannot compare settings", code);
    if (ok && strncmp(first, text, MOST - 1) != 0)
        cb_train_refuse_other("this process was started for another run than process 0", text, first);
    return cb_parallel_meet(CB_AT_START, 1, 0, NULL);
}

uint64_t cb_parallel_program(void)
{
    cb_file_map map;
    uint64_t hash = CB_HASH_START, word;
    if (!cb_file_map_open(&map, "/proc/self/exe"))
        return 0;
    for (size_t i = 0; i + sizeof word <= map.size; i += sizeof word) {
        memcpy(&word, map.data + i, sizeof word);
        hash = (hash ^ word) * 0x100000001b3u;
    }
    cb_file_map_close(&map);
    return hash;
}

/* ---- sums ---- */

static size_t slice_of(size_t n)
{
    return (n + (size_t)size - 1) / (size_t)size;
}

/* x in whole slices, and behind it the slices that the other processes send. */
size_t cb_parallel_room(size_t n)
{
    return 2 * slice_of(n) * (size_t)size;
}

/* Each process adds up one slice of everybody's x, and gives the sum to all. */
bool cb_parallel_sum(float *x, size_t n)
{
    if (size == 1 || cb_rehearsing())
        return true;
    size_t slice = slice_of(n), whole = slice * (size_t)size;
    memset(x + n, 0, (whole - n) * sizeof *x);
    float *parts = x + whole, *own = x + (size_t)rank * slice;
    MPI_Request request;
    int code = MPI_Ialltoall(x, (int)slice, MPI_FLOAT, parts, (int)slice, MPI_FLOAT, MPI_COMM_WORLD, &request);
    if (code != MPI_SUCCESS)
        return refuse("cannot exchange gradients", code);
    if (!complete(&request))
        return false;
    memcpy(own, parts, slice * sizeof *own);
    for (int r = 1; r < size; r++)
        for (size_t i = 0; i < slice; i++)
            own[i] += parts[(size_t)r * slice + i];
    code = MPI_Iallgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, x, (int)slice, MPI_FLOAT, MPI_COMM_WORLD, &request);
    return code == MPI_SUCCESS ? complete(&request) : refuse("cannot exchange gradients", code);
}

/* ---- the end ---- */

bool cb_parallel_end(void)
{
    if (size == 1)
        return cb_ok();
    if (lost) { /* nobody to say goodbye to */
        size = 1;
        return false;
    }
    bool ok = cb_parallel_meet(CB_AT_END, 0, 0, NULL);
    if (!lost)
        MPI_Finalize();
    size = 1;
    return ok;
}

#else

uint64_t cb_parallel_program(void)
{
    return 0;
}

bool cb_parallel_begin(void)
{
    int n = started("OMPI_COMM_WORLD_SIZE");
    return n == 1 || cb_fail(CB_ERR_UNSUPPORTED,
                             "mpirun started %d processes, and this build knows no MPI: expected one that was configured "
                             "where Open MPI's headers are (libopenmpi-dev)",
                             n) == CB_OK;
}

bool cb_parallel_meet(cb_place place, int64_t step, int count, double *values)
{
    (void)place;
    (void)step;
    (void)count;
    (void)values;
    return cb_ok();
}

bool cb_parallel_same(const char *text)
{
    (void)text;
    return true;
}

bool cb_parallel_sum(float *x, size_t n)
{
    (void)x;
    (void)n;
    return true;
}

size_t cb_parallel_room(size_t n)
{
    return n;
}

bool cb_parallel_end(void)
{
    return cb_ok();
}

#endif
