/* io.h: calls on files as the library makes them: the operating system's, each of which a test can make fail (fault.h).  They give what
 * the system call gives and set errno, except where it says otherwise. */
#ifndef CB_CORE_IO_H
#define CB_CORE_IO_H

#include <dirent.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "cambium/files.h"

int cb_io_open(const char *path, int flags); /* new files may be read and written by all that the umask allows */
int cb_io_stat(int fd, struct stat *st);
void *cb_io_map(int fd, size_t size);                               /* read-only, the file's own pages; NULL on failure */
ssize_t cb_io_read(int fd, void *bytes, size_t length, int64_t at); /* at < 0: where the file stands; goes on when interrupted */
bool cb_io_write(int fd, const void *bytes, size_t length);         /* all of it; goes on when interrupted */
int cb_io_sync(int fd);
int cb_io_close(int fd); /* closed whatever it gives */
int cb_io_rename(const char *from, const char *to);
int cb_io_truncate(int fd, uint64_t size);
int cb_io_make_directory(const char *path);
DIR *cb_io_list(const char *path);
struct dirent *cb_io_next(DIR *directory); /* NULL with errno 0: the end */

/* The kernel may take back the pages of a mapped file: it reads them again should they be wanted.  Other memory, and a map that may be written
 * to, is left alone. */
void cb_file_map_let_go(const void *data, size_t size);
/* map.c: a map that belongs to all who hold it, and that they may write to: what is written stays in this process's memory, the file does not
 * change.  Closed with the last of them. */
typedef struct cb_held_map cb_held_map;
/* Takes an open map over, with one holder; *held NULL: it stays the caller's, since so many files are mapped that the places left are for
 * other readers, or the system does not let us write.  False: an error. */
bool cb_file_map_held(cb_file_map *map, cb_held_map **held);
void cb_held_map_keep(cb_held_map *held);
void cb_held_map_release(cb_held_map *held);

/* Records CB_ERR_IO "PATH: WHAT: the reason in errno" and gives false. */
CB_COLD bool cb_io_failed(const char *path, const char *what);

#endif
