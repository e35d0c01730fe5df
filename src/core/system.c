/* system.c: threads, interruption, time and memory of the process. */
#include <fcntl.h>
#include <omp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "core/rehearsal.h"

void cb_set_threads(int n)
{
    omp_set_num_threads(n > 0 ? n : omp_get_num_procs());
}

int cb_threads(void)
{
    return omp_get_max_threads();
}

static volatile sig_atomic_t interrupted;

void cb_interrupt(void)
{
    interrupted = 1;
}

bool cb_interrupted(void)
{
    return interrupted;
}

void cb_interrupt_clear(void)
{
    interrupted = 0;
}

static double seconds(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double cb_now(void)
{
    return seconds(CLOCK_MONOTONIC);
}

double cb_process_age(void)
{
    char text[1024];
    FILE *f = fopen("/proc/self/stat", "re");
    if (!f)
        return 0;
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = '\0';
    /* field 22, counted after the command's closing parenthesis: start time in clock ticks since boot */
    char *at = strrchr(text, ')');
    unsigned long long ticks = 0;
    if (!at || sscanf(at + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", &ticks) != 1)
        return 0;
    return seconds(CLOCK_BOOTTIME) - (double)ticks / (double)sysconf(_SC_CLK_TCK);
}

/* The kernel's other account of it, ru_maxrss, counts what the process was before it became this program. */
uint64_t cb_peak_rss(void)
{
    char line[256];
    unsigned long long kilobytes = 0;
    FILE *f = fopen("/proc/self/status", "re");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %llu kB", &kilobytes) == 1)
            break;
    if (f)
        fclose(f);
    struct rusage usage;
    if (!kilobytes && getrusage(RUSAGE_SELF, &usage) == 0)
        kilobytes = (unsigned long long)usage.ru_maxrss;
    return (uint64_t)kilobytes * 1024;
}

uint64_t cb_current_rss(void)
{
    FILE *f = fopen("/proc/self/statm", "re");
    unsigned long long pages = 0;
    if (f) {
        if (fscanf(f, "%*u %llu", &pages) != 1)
            pages = 0;
        fclose(f);
    }
    return (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

uint64_t cb_resident(const void *data, size_t size)
{
    enum { BATCH = 512 };
    /* a page that is present and neither is the kernel's page of zeroes, which counts for nobody */
    const uint64_t present = UINT64_C(1) << 63, own = UINT64_C(1) << 56, file = UINT64_C(1) << 61, page = (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t entries[BATCH], first = (uintptr_t)data / page, end = size ? ((uintptr_t)data + size - 1) / page + 1 : first, count = 0;
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    while (fd >= 0 && first < end) {
        size_t n = end - first < BATCH ? (size_t)(end - first) : BATCH;
        if (pread(fd, entries, n * sizeof *entries, (off_t)(first * sizeof *entries)) != (ssize_t)(n * sizeof *entries))
            break;
        for (size_t i = 0; i < n; i++)
            count += (entries[i] & present) && (entries[i] & (own | file));
        first += n;
    }
    if (fd >= 0)
        close(fd);
    return count * page;
}
