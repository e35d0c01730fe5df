/* files.h: floor 0, beside core.h's files: maps whose file changes beneath them, and directories that appear whole or not at all. */
#ifndef CAMBIUM_FILES_H
#define CAMBIUM_FILES_H

#include "cambium/core.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Maps (cb_file_map) ---- */

/* Whether every file that is mapped at the moment still is what it was when it was opened; CB_ERR_IO names one that was written to or cut
 * off.  One that was renamed over or removed is no failure: its map goes on to show the old contents.  Training, evaluation, generation
 * and merging ask between their steps, and nothing is committed (cb_writer_commit, cb_stage_publish) when it says no. */
CB_API bool cb_file_maps_check(void);
/* The same for a program between steps that are short, such as tokens: of maps beyond 64 another 64 each time, in turn. */
CB_API bool cb_file_maps_glance(void);
/* Reading a page that a file no longer has raises SIGBUS, which ends the process.  A program that calls this goes on instead: a handler
 * for SIGBUS puts zeroes in place of what a map has lost, and from then on cb_file_maps_check() fails, and closing that map records a
 * failure.  Signals elsewhere go to the handler there was before.  The library never calls it by itself: signals belong to the program. */
CB_API void cb_file_maps_guard(void);

/* ---- Copies ---- */

/* A file, replacing `to` atomically; one that is not there is no error, and nothing is copied. */
CB_API bool cb_file_copy(const char *from, const char *to);

/* ---- Outputs that are several files, or are tried before they are kept ---- */

/* They are made under the name that is returned, beside `path` (whose parent must exist): in a new directory, or as one file that the caller
 * writes; publishing syncs a directory and gives the result its name.  `path` must not exist by then, or be an empty directory.  Both ends
 * free the name; a failed publication and discarding remove what was made (NULL is allowed). */
CB_API char *cb_directory_stage(const char *path);
CB_API char *cb_file_stage(const char *path);
CB_API bool cb_stage_publish(char *stage, const char *path);
CB_API void cb_stage_discard(char *stage);
CB_API bool cb_directory_vacant(const char *path);   /* there is nothing, or an empty directory; else CB_ERR_ARGUMENT */
CB_API bool cb_directory_writable(const char *path); /* tries it: permission bits do not tell */

#ifdef __cplusplus
}
#endif
#endif
