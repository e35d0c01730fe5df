/* rehearsal.h: what memory, files and kernels tell a rehearsal (see core.h and rehearsal.c). */
#ifndef CB_CORE_REHEARSAL_H
#define CB_CORE_REHEARSAL_H

#include "cambium/core.h"

/* A file was mapped (false: no memory to note it) or is about to be unmapped. */
bool cb_rehearsal_map(const void *data, size_t size);
void cb_rehearsal_unmap(const void *data);
/* A file would have been written; staged: beside its name, and renamed when everything else was there too. */
bool cb_rehearsal_output(const char *path, uint64_t bytes, bool staged);
/* Files under temporary names became so many bytes more, or less. */
void cb_rehearsal_staged(int64_t bytes);
/* A kernel would have read this memory. */
void cb_rehearsal_read(const void *data, size_t size);
/* The memory of a mapped file would have been given back after reading. */
void cb_rehearsal_let_go(const void *data, size_t size);
/* A library would have allocated so much on its own, and kept it for later calls. */
void cb_rehearsal_library(size_t bytes);
/* A kernel would have made so many multiplications and additions; returns how many there were. */
double cb_rehearsal_operations(double count);

/* memory.c: bytes that blocks handed out in rehearsals hold and that are not resident. */
uint64_t cb_memory_unbacked(void);
/* Of this block of cb_alloc() no more than the first so many bytes would be written to. */
void cb_memory_touched(void *pointer, size_t bytes);
/* And then at least so many. */
void cb_memory_reached(void *pointer, size_t bytes);
/* system.c: resident bytes among these, a whole page each; 0 where the system does not tell. */
uint64_t cb_resident(const void *data, size_t size);

#endif
