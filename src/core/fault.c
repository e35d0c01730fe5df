/* fault.c: which call is to fail. */
#include "core/fault.h"

#include <errno.h>
#include <signal.h>

bool cb_fault_armed;
static cb_fault_plan armed;
static uint64_t calls;

void cb_fault_arm(cb_fault_plan plan)
{
    armed = plan;
    __atomic_store_n(&calls, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&cb_fault_armed, true, __ATOMIC_RELEASE);
}

uint64_t cb_fault_disarm(void)
{
    __atomic_store_n(&cb_fault_armed, false, __ATOMIC_RELEASE);
    return __atomic_load_n(&calls, __ATOMIC_RELAXED);
}

cb_fault_action cb_fault_next(cb_fault_kind kind)
{
    if (!(armed.kinds & 1u << kind))
        return CB_FAULT_NONE;
    uint64_t n = __atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED);
    if (!armed.n || n < armed.n || (n > armed.n && !armed.onward))
        return CB_FAULT_NONE;
    if (armed.action == CB_FAULT_KILL || (armed.action == CB_FAULT_KILL_SHORT && kind != CB_FAULT_WRITE))
        raise(SIGKILL);
    errno = armed.error;
    return armed.action;
}
