/* rehearsal.c: going through work without doing it, to learn what it will take.
 *
 * While a rehearsal is on, everything runs as it always does, with three exceptions: kernels compute nothing on floats, memory of a
 * page or more is only address space until somebody writes to it, and files are opened, counted and removed instead of written.  So
 * the code that will do the work decides itself what it allocates, in which order, and what it frees; nothing is modelled.  Integers
 * are computed as usual, since indices, positions and targets steer the work.
 *
 * Mapped files are noted, and kernels say which parts of memory they would have read: what of the maps that is will be resident as
 * well, until they are unmapped.  The kernel maps a mapped file's pages in windows around the one that was touched, so windows are
 * what is counted.
 *
 * Outputs that are read again before they are kept (temporary.c) are made indeed, under their temporary names, with holes where the
 * values of tensors would be, and removed instead of renamed. */
#include "core/rehearsal.h"

#include <pthread.h>
#include <string.h>

enum { WINDOW = 1 << 16 }; /* the kernel's fault_around_bytes */

typedef struct mapping {
    const char *data;
    size_t size;
    uint8_t *read; /* a byte per window; NULL: nothing was read */
} mapping;

typedef struct output {
    char *path;
    uint64_t bytes;
    bool staged;
} output;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of the list of mappings; a rehearsal itself is one thread's */
static bool on;
static mapping *mappings;
static size_t mapping_count, mapping_capacity;
static output *outputs;
static size_t output_count, output_capacity;
static uint64_t staged, most_staged; /* bytes of temporary files */
static cb_rehearsal_sums most;       /* of memory: what it came to when it was highest */
static double operations;
static size_t library;

bool cb_rehearsing(void)
{
    return on;
}

static void forget(void)
{
    for (size_t i = 0; i < mapping_count; i++) {
        cb_free(mappings[i].read);
        mappings[i].read = NULL;
    }
    for (size_t i = 0; i < output_count; i++)
        cb_free(outputs[i].path);
    cb_free(outputs);
    outputs = NULL;
    output_count = output_capacity = 0;
    staged = most_staged = 0;
    most = (cb_rehearsal_sums){0};
    operations = 0;
    library = 0;
}

void cb_rehearsal_begin(void)
{
    forget();
    on = true;
}

void cb_rehearsal_end(void)
{
    on = false;
    forget();
}

/* ---- mapped files ---- */

static size_t windows_of(const mapping *m)
{
    return (m->size + WINDOW - 1) / WINDOW;
}

bool cb_rehearsal_map(const void *data, size_t size)
{
    pthread_mutex_lock(&lock);
    bool ok = cb_grow(&mappings, &mapping_capacity, mapping_count + 1, sizeof *mappings);
    if (ok)
        mappings[mapping_count++] = (mapping){.data = data, .size = size};
    pthread_mutex_unlock(&lock);
    return ok;
}

void cb_rehearsal_unmap(const void *data)
{
    pthread_mutex_lock(&lock);
    for (size_t i = mapping_count; i-- > 0;)
        if (mappings[i].data == data) {
            if (on && mappings[i].read)
                most = cb_rehearsal();
            cb_free(mappings[i].read);
            mappings[i] = mappings[--mapping_count];
        }
    if (!mapping_count) {
        cb_free(mappings);
        mappings = NULL;
        mapping_capacity = 0;
    }
    pthread_mutex_unlock(&lock);
}

void cb_rehearsal_read(const void *data, size_t size)
{
    const char *p = data;
    for (size_t i = 0; size && i < mapping_count; i++) {
        mapping *m = &mappings[i];
        if (p < m->data || p >= m->data + m->size)
            continue;
        if (!m->read && !(m->read = cb_calloc(windows_of(m), 1)))
            return;
        size_t first = (size_t)(p - m->data), last = first + size - 1;
        last = last < m->size ? last : m->size - 1;
        for (size_t w = first / WINDOW; w <= last / WINDOW; w++)
            m->read[w] = 1;
        return;
    }
}

void cb_rehearsal_let_go(const void *data, size_t size)
{
    const char *p = data;
    for (size_t i = 0; on && size && i < mapping_count; i++) {
        mapping *m = &mappings[i];
        if (!m->read || p < m->data || p >= m->data + m->size)
            continue;
        most = cb_rehearsal();
        size_t first = (size_t)(p - m->data), last = first + size - 1;
        last = last < m->size ? last : m->size - 1;
        memset(m->read + first / WINDOW, 0, last / WINDOW - first / WINDOW + 1);
    }
}

/* Bytes of the windows that will be read and are not resident yet. */
static uint64_t unread(void)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < mapping_count; i++)
        for (size_t w = 0; mappings[i].read && w < windows_of(&mappings[i]); w++) {
            size_t begin = w * WINDOW, size = mappings[i].size - begin < WINDOW ? mappings[i].size - begin : WINDOW;
            uint64_t there = mappings[i].read[w] ? cb_resident(mappings[i].data + begin, size) : size;
            bytes += there < size ? size - there : 0;
        }
    return bytes;
}

/* ---- outputs ---- */

bool cb_rehearsal_output(const char *path, uint64_t bytes, bool is_staged)
{
    for (size_t i = 0; i < output_count; i++)
        if (strcmp(outputs[i].path, path) == 0) {
            outputs[i].bytes = bytes > outputs[i].bytes ? bytes : outputs[i].bytes;
            return true;
        }
    if (!cb_grow(&outputs, &output_capacity, output_count + 1, sizeof *outputs))
        return false;
    outputs[output_count] = (output){cb_strdup(path), bytes, is_staged};
    return outputs[output_count++].path;
}

void cb_rehearsal_staged(int64_t bytes)
{
    staged += (uint64_t)bytes;
    most_staged = staged > most_staged ? staged : most_staged;
}

/* A file that is replaced by one that is complete is there twice for a while. */
static uint64_t room(void)
{
    uint64_t sum = 0, largest = 0;
    for (size_t i = 0; i < output_count; i++)
        if (!outputs[i].staged) {
            sum += outputs[i].bytes;
            largest = outputs[i].bytes > largest ? outputs[i].bytes : largest;
        }
    return sum + largest + most_staged;
}

size_t cb_rehearsal_outputs(void)
{
    return output_count;
}

const char *cb_rehearsal_output_at(size_t index, uint64_t *bytes)
{
    *bytes = outputs[index].bytes;
    return outputs[index].path;
}

/* ---- what it comes to ---- */

void cb_rehearsal_library(size_t bytes)
{
    library = bytes > library ? bytes : library;
}

double cb_rehearsal_operations(double count)
{
    return operations += count;
}

cb_rehearsal_sums cb_rehearsal(void)
{
    cb_rehearsal_sums sums = {.resident = cb_current_rss(), .blocks = cb_memory_unbacked(), .files = unread(), .libraries = library};
    uint64_t until_now = cb_peak_rss();
    sums.peak = sums.resident + sums.blocks + sums.files + sums.libraries;
    if (sums.peak < most.peak)
        sums = most;
    sums.peak = sums.peak > until_now ? sums.peak : until_now;
    sums.disk = room();
    sums.operations = operations;
    return sums;
}
