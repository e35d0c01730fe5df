/* fuzz.h: what the fuzz targets share.  A target is one file: fuzz_target() gives a reader the bytes it was handed, uses
 * what comes out of them, and says through fuzz_expect() whether the reader failed.
 *
 * tools/fuzz.sh runs the targets under libFuzzer; ctest runs each over its seeds and regression inputs in every build. */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cambium/models.h"

/* One input.  What it allocates must be freed when it returns: memory that stays with every run of an input is a finding. */
void fuzz_target(const uint8_t *data, size_t size);

/* Ends the program unless a reader's result and the library's error agree: a failure comes with a message of one line, and
 * a success with none.  Clears the error and returns `ok`. */
bool fuzz_expect(bool ok);

/* Readers take paths: writes a file of this name (one or more directories deep) into a scratch directory, in place of what
 * is there, and returns its path, which stays valid and the same until the program ends.  Free nothing. */
const char *fuzz_file(const char *name, const void *data, size_t size);
/* The same for a link to a file of the source tree (relative to it). */
const char *fuzz_link(const char *name, const char *source);
/* The scratch directory, or one below it. */
const char *fuzz_path(const char *name);

/* Runs five tokens, or an image, through a model. */
bool fuzz_pass(cb_model *model);

/* Reads bytes so that a sanitizer sees whether they may be read. */
void fuzz_touch(const void *data, size_t size);

#endif
