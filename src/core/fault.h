/* fault.h: failures on request, for tests: of the calls that can fail the n-th does.
 *
 * Every allocation (memory.c) and every call on files (io.h) asks cb_fault() first.  Armed with a plan it counts the calls of the kinds
 * that the plan names and makes the n-th of them fail, fall short, or be the last thing that the process does; otherwise it costs one
 * load.  With n = 0 calls are only counted: that tells a test how many there are to go through. */
#ifndef CB_CORE_FAULT_H
#define CB_CORE_FAULT_H

#include "cambium/core.h"

typedef enum cb_fault_kind {
    CB_FAULT_MEMORY,
    CB_FAULT_OPEN,
    CB_FAULT_STAT,
    CB_FAULT_MAP,
    CB_FAULT_READ,
    CB_FAULT_WRITE,
    CB_FAULT_SYNC,
    CB_FAULT_CLOSE,
    CB_FAULT_RENAME,
    CB_FAULT_TRUNCATE,
    CB_FAULT_MAKE, /* a directory */
    CB_FAULT_LIST, /* opening a directory, or going on in it */
    CB_FAULT_KINDS
} cb_fault_kind;
#define CB_FAULT_ANY   ((1u << CB_FAULT_KINDS) - 1)
#define CB_FAULT_FILES (CB_FAULT_ANY & ~(1u << CB_FAULT_MEMORY))

typedef enum cb_fault_action {
    CB_FAULT_NONE,
    CB_FAULT_FAIL,      /* the call fails with plan.error */
    CB_FAULT_SHORT,     /* a read or write does half of what was asked, the rest goes through */
    CB_FAULT_KILL,      /* SIGKILL before the call */
    CB_FAULT_KILL_SHORT /* SIGKILL in the middle of a write, before any other call */
} cb_fault_action;

typedef struct cb_fault_plan {
    uint32_t kinds; /* bits 1 << kind */
    uint64_t n;     /* which call, 1 is the next; 0: none */
    bool onward;    /* every later one as well: a disk that stays full */
    cb_fault_action action;
    int error; /* errno */
} cb_fault_plan;

void cb_fault_arm(cb_fault_plan plan);
uint64_t cb_fault_disarm(void); /* gives how many calls of the plan's kinds there were */

extern bool cb_fault_armed;
cb_fault_action cb_fault_next(cb_fault_kind kind); /* errno is set when it is to fail */

static inline cb_fault_action cb_fault(cb_fault_kind kind)
{
    return __builtin_expect(__atomic_load_n(&cb_fault_armed, __ATOMIC_RELAXED), 0) ? cb_fault_next(kind) : CB_FAULT_NONE;
}

#endif
