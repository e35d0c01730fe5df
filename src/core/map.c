/* map.c: files mapped into memory, and what becomes of them while they are.
 *
 * A map is only as good as the file beneath it.  Every map stands in a table with the file's identity, size and time of change, so that
 * cb_file_maps_check() can say which one is no longer what was mapped.  Reading a page that a shrunken file no longer has, or that its
 * disk cannot give, raises SIGBUS.  A program that called cb_file_maps_guard() goes on: the handler finds the map in the table, puts
 * zeroes in place of the lost pages and marks the map, and from then on every check fails, and so does every commit of a file. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/io.h"
#include "core/rehearsal.h"

enum { MAPS = 4096, HELD = 3584, GLANCE = 64 };

typedef struct mapped {
    const uint8_t *begin; /* NULL: a free place.  The handler reads begin and size without the lock */
    size_t size;
    const char *path; /* the map's own */
    dev_t device;
    ino_t number;
    off_t length;
    struct timespec changed;
    bool lost; /* pages of it could not be read */
    bool held; /* and may be written to */
} mapped;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static mapped table[MAPS];
static size_t used; /* places beyond were never taken */
static size_t held_count;

static bool enter(const cb_file_map *map, const struct stat *st)
{
    pthread_mutex_lock(&lock);
    size_t i = 0;
    while (i < used && table[i].begin)
        i++;
    bool room = i < MAPS;
    if (room) {
        table[i] = (mapped){.size = map->size,
                            .path = map->path,
                            .device = st->st_dev,
                            .number = st->st_ino,
                            .length = st->st_size,
                            .changed = st->st_mtim};
        __atomic_store_n(&table[i].begin, map->data, __ATOMIC_RELEASE);
        if (i == used)
            __atomic_store_n(&used, used + 1, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&lock);
    return room || cb_fail(CB_ERR_UNSUPPORTED, "%s: %d files are mapped already, which is the most", map->path, MAPS) == CB_OK;
}

static CB_COLD bool say_lost(const char *path)
{
    return cb_fail(CB_ERR_IO, "%s: a part of it can no longer be read: it was cut off while in use, or its disk failed", path) == CB_OK;
}

/* Gives the place back; false with an error when pages were lost. */
static bool leave(const cb_file_map *map)
{
    bool lost = false;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < used; i++)
        if (table[i].begin == map->data) {
            lost = table[i].lost;
            held_count -= table[i].held;
            __atomic_store_n(&table[i].begin, NULL, __ATOMIC_RELEASE);
        }
    pthread_mutex_unlock(&lock);
    return !lost || say_lost(map->path);
}

/* Whether memory is of a map that nobody writes to. */
static bool is_as_the_file(const uint8_t *data, size_t size)
{
    bool found = false;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < used && !found; i++)
        found = table[i].begin && !table[i].held && data >= table[i].begin && data + size <= table[i].begin + table[i].size;
    pthread_mutex_unlock(&lock);
    return found;
}

void cb_file_map_let_go(const void *data, size_t size)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = ((uintptr_t)data + page - 1) / page * page,
              end = ((uintptr_t)data + size) / page * page;
    if (cb_rehearsing())
        cb_rehearsal_let_go(data, size);
    else if (end > begin && is_as_the_file(data, size))
        madvise((void *)begin, end - begin, MADV_DONTNEED);
}

bool cb_file_map_open(cb_file_map *map, const char *path)
{
    *map = (cb_file_map){0};
    int fd = cb_io_open(path, O_RDONLY | O_NONBLOCK); /* a pipe that nobody writes to is not waited for */
    if (fd < 0)
        return cb_io_failed(path, "cannot open");
    struct stat st;
    bool ok = cb_io_stat(fd, &st) == 0 || cb_io_failed(path, "cannot stat");
    if (ok && !S_ISREG(st.st_mode))
        ok = cb_fail(CB_ERR_IO, "%s: not a regular file", path) == CB_OK;
    if (ok)
        ok = (map->path = cb_strdup(path));
    if (ok && st.st_size > 0) {
        void *data = cb_io_map(fd, (size_t)st.st_size);
        ok = data || cb_io_failed(path, "cannot map");
        map->data = data;
    }
    if (ok) {
        map->size = (size_t)st.st_size;
        ok = !map->data || enter(map, &st);
        if (ok && map->data && !cb_rehearsal_map(map->data, map->size))
            ok = leave(map) && false;
    }
    cb_io_close(fd); /* which was only read */
    if (ok)
        return true;
    if (map->data)
        munmap((void *)(uintptr_t)map->data, (size_t)st.st_size);
    cb_free(map->path);
    *map = (cb_file_map){0};
    return false;
}

void cb_file_map_close(cb_file_map *map)
{
    if (map->data) {
        leave(map);
        cb_rehearsal_unmap(map->data);
        munmap((void *)(uintptr_t)map->data, map->size);
    }
    cb_free(map->path);
    *map = (cb_file_map){0};
}

/* ---- maps with holders ---- */

struct cb_held_map {
    cb_file_map map;
    int holders;
};

/* Notes that a map will be written to, if there may be another such. */
static bool enter_held(const cb_file_map *map)
{
    bool room = false;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; held_count < HELD && i < used; i++)
        if (table[i].begin == map->data)
            room = table[i].held = true;
    held_count += room;
    pthread_mutex_unlock(&lock);
    return room;
}

bool cb_file_map_held(cb_file_map *map, cb_held_map **held)
{
    *held = NULL;
    if (!map->data || !enter_held(map) || mprotect((void *)(uintptr_t)map->data, map->size, PROT_READ | PROT_WRITE) != 0)
        return true;
    *held = cb_alloc(sizeof **held);
    if (!*held)
        return false;
    **held = (cb_held_map){*map, 1};
    *map = (cb_file_map){0};
    return true;
}

void cb_held_map_keep(cb_held_map *held)
{
    __atomic_fetch_add(&held->holders, 1, __ATOMIC_RELAXED);
}

void cb_held_map_release(cb_held_map *held)
{
    if (!held || __atomic_sub_fetch(&held->holders, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    cb_file_map_close(&held->map);
    cb_free(held);
}

/* ---- checks ---- */

static bool check(const mapped *m)
{
    struct stat st;
    if (__atomic_load_n(&m->lost, __ATOMIC_RELAXED))
        return say_lost(m->path);
    /* a file that was replaced or removed lives on beneath its map */
    if (stat(m->path, &st) != 0 || st.st_dev != m->device || st.st_ino != m->number)
        return true;
    if (st.st_size != m->length)
        return cb_fail(CB_ERR_IO, "%s: changed while in use: found %lld bytes, expected the %lld that it had", m->path,
                       (long long)st.st_size, (long long)m->length) == CB_OK;
    if (st.st_mtim.tv_sec != m->changed.tv_sec || st.st_mtim.tv_nsec != m->changed.tv_nsec)
        return cb_fail(CB_ERR_IO, "%s: changed while in use: it was written to after it had been opened", m->path) == CB_OK;
    return true;
}

bool cb_file_maps_check(void)
{
    bool ok = true;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; ok && i < used; i++)
        ok = !table[i].begin || check(&table[i]);
    pthread_mutex_unlock(&lock);
    return ok;
}

bool cb_file_maps_glance(void)
{
    static size_t next;
    bool ok = true;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; ok && i < used; i++)
        ok = !table[i].begin || !__atomic_load_n(&table[i].lost, __ATOMIC_RELAXED) || say_lost(table[i].path);
    for (size_t i = 0, n = used < GLANCE ? used : GLANCE; ok && i < n; i++) {
        const mapped *m = &table[next++ % used];
        ok = !m->begin || check(m);
    }
    pthread_mutex_unlock(&lock);
    return ok;
}

/* ---- lost pages ---- */

static struct sigaction former;

static mapped *map_at(const uint8_t *address)
{
    for (size_t i = 0, n = __atomic_load_n(&used, __ATOMIC_ACQUIRE); i < n; i++) {
        const uint8_t *begin = __atomic_load_n(&table[i].begin, __ATOMIC_ACQUIRE);
        if (begin && address >= begin && address < begin + table[i].size)
            return &table[i];
    }
    return NULL;
}

/* Runs on the thread that read.  mmap() is not among the functions that POSIX lets a handler call; on Linux it is a system call and
 * nothing more. */
static void on_bus_error(int number, siginfo_t *info, void *context)
{
    (void)context;
    int reason = errno;
    const uint8_t *address = info->si_addr;
    mapped *m = map_at(address);
    size_t page = (size_t)sysconf(_SC_PAGESIZE), offset = m ? (size_t)(address - m->begin) / page * page : 0;
    /* what follows is lost as well: one page at a time would take as many signals, and maps, as there are pages */
    int may = m && m->held ? PROT_READ | PROT_WRITE : PROT_READ;
    if (m &&
        mmap((void *)(uintptr_t)(m->begin + offset), m->size - offset, may, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED)
        __atomic_store_n(&m->lost, true, __ATOMIC_RELEASE);
    else
        sigaction(number, &former, NULL); /* nothing of ours: the read is tried again and gets what it would have got without us */
    errno = reason;
}

void cb_file_maps_guard(void)
{
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO}, old;
    if (sigaction(SIGBUS, &action, &old) == 0 && !(old.sa_flags & SA_SIGINFO && old.sa_sigaction == on_bus_error))
        former = old;
}
