/* fault_sweep.h: a job that runs again and again while its first, second, ... call fails (core/fault.h).
 *
 * A job works in a directory, goes on with what it finds there, and leaves nothing allocated.  What must hold each time: it ends well
 * with the bits of a job that nothing happened to, or it says what went wrong; nothing stays allocated or open; every file under its
 * final name is whole and no other is left; and the next try, without faults, ends with those bits.  Killed in the middle of a call it
 * may leave a temporary file, which the next try sweeps up.
 *
 * Plain runs take a sample of the calls, spread evenly; with CAMBIUM_FAULTS=all every one has its turn, with CAMBIUM_FAULTS=3/8 the third
 * of each eight. */
#ifndef FAULT_SWEEP_H
#define FAULT_SWEEP_H

#include <stdbool.h>
#include <stdint.h>

#include "core/fault.h"

typedef struct fault_job {
    bool (*run)(const char *tree);
    const char *tree;
    /* of one that nothing happened to */
    uint64_t fingerprint, live_bytes;
    int open_files;
    unsigned complaints; /* so far */
} fault_job;

/* Memory that jansson asks for counts as ours; before the first job. */
void fault_prepare(void);
/* Runs the job as it should be. */
fault_job fault_job_of(bool (*run)(const char *tree), const char *tree);

/* Each makes call n fail for every n in turn (about `sample` of them), and, each time, tries again without. */
void fault_allocations(fault_job *job, uint64_t sample); /* once, and from then on */
void fault_files(fault_job *job, uint64_t sample);       /* each kind of call; a disk that breaks, one that is full */
void fault_short_calls(fault_job *job, uint64_t sample); /* interrupted and short reads and writes, which must be gone through */
/* Kills `program job NAME TREE ACTION N` before and within calls on files; such a process calls fault_killed_job(). */
void fault_kills(fault_job *job, const char *program, const char *name, uint64_t sample);
int fault_killed_job(bool (*run)(const char *tree), char **words); /* TREE ACTION N; an exit status */

/* Fails the test unless every file of a tree is whole, and (unless the process was killed) no temporary one is there. */
void fault_check_files(const char *tree, bool killed);
/* A number for all that a tree holds, without clocks. */
uint64_t fault_fingerprint(const char *tree);
/* Goes on from `hash` with the tensors of a file, but for the clock of a checkpoint and the length of the log, which has times in it. */
uint64_t fault_hash_tensors(uint64_t hash, const char *path);

#endif
