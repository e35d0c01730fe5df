/* memory.c: where every byte of the library comes from.
 *
 * Blocks are rounded up to size classes, eight to an octave (at most 12.5 % waste), and freed blocks wait in their
 * class's list for the next request of that size.  A training step asks for the same sizes each time, so after the
 * first steps the system is asked for nothing. When the system refuses, what waits in the lists is given back and the
 * request made once more. In front of each block, 64 bytes before the address handed out, stands its class.
 *
 * In a rehearsal (rehearsal.c) new blocks of a page or more are mapped without being backed, and listed. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/fault.h"
#include "core/rehearsal.h"

enum { ALIGNMENT = 64, STEPS = 8, FIRST_SHIFT = 6, CLASSES = (48 - FIRST_SHIFT) * STEPS, PAGE = 4096 };

/* Under AddressSanitizer blocks have the size that was asked for and go back when they are freed, so that it sees every
 * use past an end or after free. */
#if defined(__SANITIZE_ADDRESS__)
enum { KEEP = 0 };
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
enum { KEEP = 0 };
#else
enum { KEEP = 1 };
#endif
#else
enum { KEEP = 1 };
#endif

typedef struct block {
    size_t size; /* usable bytes: the class's size where blocks are kept */
    int class_index;
    struct block *next;   /* in the free list */
    size_t used, before;  /* the most that was asked of it, also before this time: what lies beyond is never touched */
    size_t mapped;        /* bytes of a mapping of its own, or 0 */
    struct block *listed; /* the next one that has such a mapping */
} block;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static block *free_lists[CLASSES];
static cb_memory_stats stats;
static block *mapped_blocks;

/* The smallest class that holds `bytes`; -1 when it is too large for any. */
static int class_of(size_t bytes, size_t *size)
{
    size_t base = (size_t)1 << FIRST_SHIFT;
    if (bytes <= base) {
        *size = base;
        return 0;
    }
    int shift = 63 - __builtin_clzll((unsigned long long)(bytes - 1));
    size_t octave = (size_t)1 << shift, step = octave / STEPS;
    size_t k = (bytes - octave + step - 1) / step; /* 1..STEPS */
    int index = (shift - FIRST_SHIFT) * STEPS + (int)k;
    if (shift >= 46 || index >= CLASSES)
        return -1;
    *size = octave + k * step;
    return index;
}

static block *header(void *pointer)
{
    return (block *)((char *)pointer - ALIGNMENT);
}

/* ---- where blocks come from and go to; the caller holds the lock ---- */

static block *map_block(size_t size, int index, size_t whole)
{
    void *pages = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED)
        return NULL;
    block *b = pages;
    *b = (block){.size = size, .class_index = index, .mapped = whole, .listed = mapped_blocks};
    mapped_blocks = b;
    return b;
}

static void give_back(block *b)
{
    if (!b->mapped) {
        free(b);
        return;
    }
    block **p = &mapped_blocks;
    while (*p != b)
        p = &(*p)->listed;
    *p = b->listed;
    munmap(b, b->mapped);
}

/* Gives every waiting block back. */
static void trim(void)
{
    for (int i = 0; i < CLASSES; i++)
        while (free_lists[i]) {
            block *b = free_lists[i];
            free_lists[i] = b->next;
            stats.cached_bytes -= b->size;
            give_back(b);
        }
}

static void *refuse(size_t bytes)
{
    cb_fail(CB_ERR_MEMORY, "out of memory: %zu bytes were refused", bytes);
    return NULL;
}

static block *from_system(size_t size, int index)
{
    void *memory;
    stats.system_allocations++;
    if (size >= PAGE && cb_rehearsing())
        return map_block(size, index, ALIGNMENT + size);
    bool ok = posix_memalign(&memory, ALIGNMENT, ALIGNMENT + size) == 0;
    if (!ok && stats.cached_bytes) {
        trim();
        stats.system_allocations++;
        ok = posix_memalign(&memory, ALIGNMENT, ALIGNMENT + size) == 0;
    }
    if (!ok)
        return NULL;
    block *b = memory;
    *b = (block){.size = size, .class_index = index};
    return b;
}

void *cb_alloc(size_t bytes)
{
    size_t size;
    int index = class_of(bytes, &size);
    if (index < 0 || cb_fault(CB_FAULT_MEMORY) != CB_FAULT_NONE)
        return refuse(bytes);
    if (!KEEP)
        size = bytes;
    pthread_mutex_lock(&lock);
    block *b = free_lists[index];
    if (b) {
        free_lists[index] = b->next;
        stats.cached_bytes -= size;
    } else if (!(b = from_system(size, index))) {
        pthread_mutex_unlock(&lock);
        return refuse(bytes);
    }
    b->before = b->used;
    b->used = bytes > b->used ? bytes : b->used;
    stats.live_bytes += size;
    if (stats.live_bytes > stats.peak_bytes)
        stats.peak_bytes = stats.live_bytes;
    pthread_mutex_unlock(&lock);
    return (char *)b + ALIGNMENT;
}

void cb_free(void *pointer)
{
    if (!pointer)
        return;
    block *b = header(pointer);
    pthread_mutex_lock(&lock);
    stats.live_bytes -= b->size;
    if (KEEP) {
        b->next = free_lists[b->class_index];
        free_lists[b->class_index] = b;
        stats.cached_bytes += b->size;
    } else {
        give_back(b);
    }
    pthread_mutex_unlock(&lock);
}

/* In a rehearsal whole pages are made zero by giving them back. */
static void clear(char *pointer, size_t bytes)
{
    if (cb_rehearsing() && header(pointer)->mapped) {
        char *page = (char *)header(pointer) + PAGE, *end = page + (pointer + bytes - page) / PAGE * PAGE;
        if (end > page && madvise(page, (size_t)(end - page), MADV_DONTNEED) == 0) {
            memset(pointer, 0, (size_t)(page - pointer));
            memset(end, 0, (size_t)(pointer + bytes - end));
            return;
        }
    }
    memset(pointer, 0, bytes);
}

void *cb_calloc(size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes))
        return refuse(SIZE_MAX);
    void *pointer = cb_alloc(bytes);
    if (pointer)
        clear(pointer, bytes);
    return pointer;
}

/* In a rehearsal pages that nobody has written to have nothing to copy. */
static void copy(char *to, const char *from, size_t bytes)
{
    if (!cb_rehearsing() || !header((void *)(uintptr_t)from)->mapped) {
        memcpy(to, from, bytes);
        return;
    }
    for (size_t i = 0, n; i < bytes; i += n) {
        n = bytes - i < PAGE ? bytes - i : PAGE;
        if (cb_resident(from + i, n))
            memcpy(to + i, from + i, n);
    }
}

void *cb_realloc(void *pointer, size_t bytes)
{
    if (!pointer)
        return cb_alloc(bytes);
    size_t old = header(pointer)->size;
    if (bytes <= old)
        return pointer;
    void *grown = cb_alloc(bytes);
    if (grown) {
        copy(grown, pointer, old);
        cb_free(pointer);
    }
    return grown;
}

void cb_memory_trim(void)
{
    pthread_mutex_lock(&lock);
    trim();
    pthread_mutex_unlock(&lock);
}

cb_memory_stats cb_memory(void)
{
    pthread_mutex_lock(&lock);
    cb_memory_stats copy = stats;
    pthread_mutex_unlock(&lock);
    return copy;
}

void cb_memory_touched(void *pointer, size_t bytes)
{
    block *b = header(pointer);
    pthread_mutex_lock(&lock);
    b->used = bytes > b->before ? bytes : b->before;
    pthread_mutex_unlock(&lock);
}

void cb_memory_reached(void *pointer, size_t bytes)
{
    block *b = header(pointer);
    pthread_mutex_lock(&lock);
    b->used = bytes > b->used ? bytes : b->used;
    pthread_mutex_unlock(&lock);
}

uint64_t cb_memory_unbacked(void)
{
    uint64_t bytes = 0;
    pthread_mutex_lock(&lock);
    for (block *b = mapped_blocks; b; b = b->listed) {
        size_t used = ALIGNMENT + b->used, there = cb_resident(b, used);
        bytes += used > there ? used - there : 0;
    }
    pthread_mutex_unlock(&lock);
    return bytes;
}

void cb_memory_reset_peak(void)
{
    pthread_mutex_lock(&lock);
    stats.peak_bytes = stats.live_bytes;
    pthread_mutex_unlock(&lock);
}

void cb_memory_fail_after(uint64_t n)
{
    if (n)
        cb_fault_arm((cb_fault_plan){.kinds = 1u << CB_FAULT_MEMORY, .n = n, .action = CB_FAULT_FAIL});
    else
        cb_fault_disarm();
}
