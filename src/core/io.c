/* io.c: calls on files, and their failures on request. */
#include "core/io.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/fault.h"

static bool fails(cb_fault_kind kind)
{
    return cb_fault(kind) == CB_FAULT_FAIL;
}

bool cb_io_failed(const char *path, const char *what)
{
    int reason = errno;
    cb_fail(CB_ERR_IO, "%s: %s: %s", path, what, strerror(reason));
    return false;
}

int cb_io_open(const char *path, int flags)
{
    return fails(CB_FAULT_OPEN) ? -1 : open(path, flags | O_CLOEXEC, 0666);
}

int cb_io_stat(int fd, struct stat *st)
{
    return fails(CB_FAULT_STAT) ? -1 : fstat(fd, st);
}

void *cb_io_map(int fd, size_t size)
{
    void *data = fails(CB_FAULT_MAP) ? MAP_FAILED : mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    return data == MAP_FAILED ? NULL : data;
}

ssize_t cb_io_read(int fd, void *bytes, size_t length, int64_t at)
{
    for (;;) {
        cb_fault_action fault = cb_fault(CB_FAULT_READ);
        size_t n = fault == CB_FAULT_SHORT && length > 1 ? length / 2 : length;
        ssize_t got = fault == CB_FAULT_FAIL ? -1 : at < 0 ? read(fd, bytes, n) : pread(fd, bytes, n, at);
        if (got >= 0 || errno != EINTR)
            return got;
    }
}

bool cb_io_write(int fd, const void *bytes, size_t length)
{
    for (const char *at = bytes; length;) {
        cb_fault_action fault = cb_fault(CB_FAULT_WRITE);
        bool part = fault == CB_FAULT_SHORT || fault == CB_FAULT_KILL_SHORT;
        ssize_t n = fault == CB_FAULT_FAIL ? -1 : write(fd, at, part && length > 1 ? length / 2 : length);
        if (fault == CB_FAULT_KILL_SHORT)
            raise(SIGKILL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            errno = n ? errno : EIO;
            return false;
        }
        at += n;
        length -= (size_t)n;
    }
    return true;
}

int cb_io_sync(int fd)
{
    return fails(CB_FAULT_SYNC) ? -1 : fsync(fd);
}

int cb_io_close(int fd)
{
    bool fault = fails(CB_FAULT_CLOSE);
    int reason = errno, result = close(fd);
    if (!fault)
        return result;
    errno = reason;
    return -1;
}

int cb_io_rename(const char *from, const char *to)
{
    return fails(CB_FAULT_RENAME) ? -1 : rename(from, to);
}

int cb_io_truncate(int fd, uint64_t size)
{
    return fails(CB_FAULT_TRUNCATE) ? -1 : ftruncate(fd, (off_t)size);
}

int cb_io_make_directory(const char *path)
{
    return fails(CB_FAULT_MAKE) ? -1 : mkdir(path, 0777);
}

DIR *cb_io_list(const char *path)
{
    return fails(CB_FAULT_LIST) ? NULL : opendir(path);
}

struct dirent *cb_io_next(DIR *directory)
{
    if (fails(CB_FAULT_LIST))
        return NULL;
    errno = 0;
    return readdir(directory);
}
