/* core.h: floor 0, what everything else stands on: status and errors, memory, strings, files, options, random
 * numbers, threads, logging and progress.
 *
 * Errors travel.  A function that fails returns false or NULL and records what went wrong with cb_fail(); the first
 * failure of a thread is kept until cb_error_clear(), so a recipe checks once, at its end, with cb_ok().
 * No function of the library exits, aborts or prints. */
#ifndef CAMBIUM_CORE_H
#define CAMBIUM_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define CB_PRINTF(f, a) __attribute__((format(printf, f, a)))
#define CB_API          __attribute__((visibility("default")))
#define CB_COLD         __attribute__((cold))
#else
#define CB_PRINTF(f, a)
#define CB_API
#define CB_COLD
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define CB_VERSION_MAJOR 0
#define CB_VERSION_MINOR 1
#define CB_VERSION_PATCH 0
#define CB_VERSION       "0.1.0"

/* ---- Status and errors ---- */

typedef enum cb_status {
    CB_OK = 0,
    CB_ERR_ARGUMENT,    /* a caller's value is out of range or inconsistent */
    CB_ERR_SHAPE,       /* tensor shapes or dtypes do not fit together */
    CB_ERR_MEMORY,      /* an allocation failed */
    CB_ERR_IO,          /* the operating system refused a file operation */
    CB_ERR_FORMAT,      /* a file is not what it claims to be */
    CB_ERR_UNSUPPORTED, /* well-formed, and not something this build can do */
    CB_ERR_STATE,       /* called at the wrong moment (no tape, already freed, locked, ...) */
    CB_ERR_INTERRUPTED, /* cb_interrupt() was called */
    CB_ERR_NUMERIC      /* NaN or infinity where a finite number is needed */
} cb_status;

/* Records a failure of this thread unless one is already recorded, and returns `status`: `return cb_fail(...) == CB_OK;` gives
 * false.  The message is one line without a newline: what failed, what was found, what was expected. */
CB_API CB_COLD cb_status cb_fail(cb_status status, const char *format, ...) CB_PRINTF(2, 3);
CB_API bool cb_ok(void);                   /* true while this thread has no recorded failure */
CB_API cb_status cb_error_status(void);    /* CB_OK or the first recorded failure */
CB_API const char *cb_error_message(void); /* "" or the first failure's message; valid until cleared */
CB_API void cb_error_clear(void);
/* Puts "text: " before the recorded message (a file name, a layer name); no effect while cb_ok(). */
CB_API CB_COLD void cb_error_prefix(const char *format, ...) CB_PRINTF(1, 2);

/* ---- Memory ---- */

/* Every byte the library owns comes from here: 64-byte aligned blocks out of size-class free lists, so that a loop in steady
 * state asks the system for nothing.  Thread-safe.  cb_alloc(0) gives a valid block.  Failure: NULL and CB_ERR_MEMORY. */
CB_API void *cb_alloc(size_t bytes);               /* uninitialised */
CB_API void *cb_calloc(size_t count, size_t size); /* zeroed; checks count * size for overflow */
CB_API void *cb_realloc(void *block, size_t bytes);
CB_API void cb_free(void *block); /* NULL is allowed */
CB_API void cb_memory_trim(void); /* gives cached free blocks back to the system */

typedef struct cb_memory_stats {
    uint64_t live_bytes;         /* handed out and not freed */
    uint64_t peak_bytes;         /* highest live_bytes since start or cb_memory_reset_peak() */
    uint64_t cached_bytes;       /* free, kept for reuse */
    uint64_t system_allocations; /* how often the system was asked for memory: flat in steady state */
} cb_memory_stats;
CB_API cb_memory_stats cb_memory(void);
CB_API void cb_memory_reset_peak(void);
/* Test hook: the n-th allocation from now (1 = the next) fails, once; 0 turns it off. */
CB_API void cb_memory_fail_after(uint64_t n);

/* ---- Strings ---- */

/* A growing byte string; `data` is NUL-terminated whenever it is not NULL.  Zero-initialise; free with cb_string_free(). */
typedef struct cb_string {
    char *data;
    size_t length, capacity;
} cb_string;
CB_API bool cb_string_append(cb_string *s, const void *bytes, size_t length);
CB_API bool cb_string_puts(cb_string *s, const char *text);
CB_API bool cb_string_printf(cb_string *s, const char *format, ...) CB_PRINTF(2, 3);
CB_API void cb_string_clear(cb_string *s); /* length 0, memory kept */
CB_API void cb_string_free(cb_string *s);
CB_API char *cb_strdup(const char *text); /* free with cb_free() */
CB_API char *cb_strndup(const char *text, size_t length);
CB_API char *cb_format(const char *format, ...) CB_PRINTF(1, 2); /* free with cb_free() */
CB_API bool cb_ends_with(const char *text, const char *end);
/* FNV-1a, 64 bits, of a text, going on from `hash` (CB_HASH_START at first): for random streams that belong to a name and
 * for fingerprints, not against forgery. */
#define CB_HASH_START UINT64_C(0xcbf29ce484222325)
CB_API uint64_t cb_hash_text(uint64_t hash, const char *text);
/* The n names (8 at most) nearest to `name` by edit distance as "a, b, c" in out, for messages; returns how many it wrote. */
CB_API size_t cb_closest_names(const char *name, const char *const *names, size_t count, size_t n, cb_string *out);
/* True when `bytes` is well-formed UTF-8 (no surrogates, no overlong forms); *bad (optional) gets the first bad offset. */
CB_API bool cb_utf8_valid(const char *bytes, size_t length, size_t *bad);

/* A list of owned strings (from an option such as --target-modules a,b). Zero-initialise. */
typedef struct cb_string_list {
    char **items;
    size_t count, capacity;
} cb_string_list;
CB_API bool cb_string_list_add(cb_string_list *list, const char *text);
CB_API void cb_string_list_free(cb_string_list *list);

/* Grows *array (elements of `size` bytes) to hold at least `need` elements; amortised. */
CB_API bool cb_grow(void *array_pointer, size_t *capacity, size_t need, size_t size);

/* ---- Files ---- */

/* A whole file mapped read-only; several processes share its pages. */
typedef struct cb_file_map {
    const uint8_t *data;
    size_t size;
    char *path;
} cb_file_map;
CB_API bool cb_file_map_open(cb_file_map *map, const char *path);
CB_API void cb_file_map_close(cb_file_map *map);
/* Reads a whole file of at most `limit` bytes; NUL-terminated, free with cb_free().  "-" reads standard input. */
CB_API char *cb_file_read(const char *path, size_t limit, size_t *length);

/* Atomic output: bytes go to a temporary name beside `path`; commit syncs and renames, abort (or a crash) leaves `path` as it was. */
typedef struct cb_writer cb_writer;
CB_API cb_writer *cb_writer_open(const char *path);
CB_API bool cb_writer_write(cb_writer *w, const void *bytes, size_t length);
CB_API bool cb_writer_values(cb_writer *w, const void *bytes,
                             size_t length);          /* the same, of a tensor: a rehearsal leaves a hole for them */
CB_API uint64_t cb_writer_length(const cb_writer *w); /* bytes so far, also those of a rehearsal */
CB_API bool cb_writer_printf(cb_writer *w, const char *format, ...) CB_PRINTF(2, 3);
CB_API bool cb_writer_commit(cb_writer *w);                                    /* closes and frees w, also on failure */
CB_API void cb_writer_abort(cb_writer *w);                                     /* closes, deletes the temporary, frees w; NULL is allowed */
CB_API bool cb_file_write(const char *path, const void *bytes, size_t length); /* open + write + commit */

CB_API bool cb_directory_make(const char *path); /* with its parents */
CB_API bool cb_directory_sync(const char *path);
CB_API bool cb_is_file(const char *path);
CB_API bool cb_is_directory(const char *path);
CB_API char *cb_path_join(const char *directory, const char *name); /* free with cb_free() */
CB_API const char *cb_path_base(const char *path);                  /* what follows the last slash */
/* The directory that `path` lies in, "." when it names none; slashes at its end do not count.  Free with cb_free(). */
CB_API char *cb_path_parent(const char *path);
CB_API bool cb_file_remove(const char *path); /* one that is not there is no error */
/* Regular files below `directory`, sorted by path, recursively when asked (CB_ERR_UNSUPPORTED beyond 64 levels); names
 * relative to it.  Hidden files and directories are left out, and links to directories are not followed. */
CB_API bool cb_directory_list(const char *directory, bool recursive, cb_string_list *names);
CB_API void cb_directory_sweep(const char *directory); /* removes the temporary files of writers that were killed */

/* ---- Options: one table drives JSON, command line, --help, validation and the reference page ---- */

typedef enum cb_option_type {
    CB_OPTION_END = 0,
    CB_OPTION_BOOL,   /* bool */
    CB_OPTION_INT,    /* int64_t */
    CB_OPTION_FLOAT,  /* double */
    CB_OPTION_STRING, /* char *, owned, may be NULL */
    CB_OPTION_ENUM,   /* int: index into `choices` */
    CB_OPTION_LIST,   /* cb_string_list; "a,b,c" on a command line, string or array in JSON */
    CB_OPTION_MAP     /* cb_option_map: "key=number,key=number"; object in JSON */
} cb_option_type;

typedef struct cb_option_map {
    char **keys;
    double *values;
    size_t count, capacity;
} cb_option_map;
CB_API bool cb_option_map_set(cb_option_map *map, const char *key, double value);

typedef struct cb_option {
    const char *name; /* with underscores, as in JSON; the flag is --name with dashes */
    cb_option_type type;
    size_t offset;              /* of the field in the configuration struct */
    double number;              /* default of BOOL, INT, FLOAT, ENUM */
    const char *text;           /* default of STRING, LIST, MAP (NULL: none) */
    double min, max;            /* inclusive range of INT and FLOAT */
    const char *const *choices; /* ENUM: NULL-terminated names */
    const char *metavar;        /* how --help shows the value: FILE, N, ... */
    const char *help;           /* one sentence, lower case, no full stop */
} cb_option;

/* Rows of a table for the fields of a struct T.  Ranges are inclusive; an ENUM's default is an index. */
#define CB_OPTION_ROW(...)                                                                                                                 \
    {                                                                                                                                      \
        __VA_ARGS__                                                                                                                        \
    }
#define CB_OPT_BOOL(T, field, def, help) CB_OPTION_ROW(#field, CB_OPTION_BOOL, offsetof(T, field), def, NULL, 0, 1, NULL, NULL, help)
#define CB_OPT_INT(T, field, def, min, max, help)                                                                                          \
    CB_OPTION_ROW(#field, CB_OPTION_INT, offsetof(T, field), def, NULL, min, max, NULL, "N", help)
#define CB_OPT_FLOAT(T, field, def, min, max, help)                                                                                        \
    CB_OPTION_ROW(#field, CB_OPTION_FLOAT, offsetof(T, field), def, NULL, min, max, NULL, "X", help)
#define CB_OPT_STRING(T, field, def, metavar, help)                                                                                        \
    CB_OPTION_ROW(#field, CB_OPTION_STRING, offsetof(T, field), 0, def, 0, 0, NULL, metavar, help)
#define CB_OPT_ENUM(T, field, def, choices, help)                                                                                          \
    CB_OPTION_ROW(#field, CB_OPTION_ENUM, offsetof(T, field), def, NULL, 0, 0, choices, "NAME", help)
#define CB_OPT_LIST(T, field, def, metavar, help)                                                                                          \
    CB_OPTION_ROW(#field, CB_OPTION_LIST, offsetof(T, field), 0, def, 0, 0, NULL, metavar, help)
#define CB_OPT_MAP(T, field, help) CB_OPTION_ROW(#field, CB_OPTION_MAP, offsetof(T, field), 0, NULL, 0, 0, NULL, "KEY=X,...", help)
#define CB_OPT_END                 CB_OPTION_ROW(0)

/* Fills a configuration struct with the table's defaults (the struct's former contents are not read). */
CB_API bool cb_options_init(const cb_option *table, void *config);
CB_API void cb_options_free(const cb_option *table, void *config);
/* Sets one option from text ("8", "true", "a,b").  The name may have dashes or underscores.  Unknown: CB_ERR_ARGUMENT with close names. */
CB_API bool cb_options_set(const cb_option *table, void *config, const char *name, const char *value);
CB_API const cb_option *cb_options_find(const cb_option *table, const char *name);
/* Every option as a JSON object text, keys in table order; free with cb_free(). */
CB_API char *cb_options_to_json(const cb_option *table, const void *config);

/* ---- Random numbers: Philox4x32-10, counter-based (Salmon et al. 2011) ---- */

/* A draw depends only on (seed, stream, counter): not on threads, devices or the order of calls elsewhere. */
typedef struct cb_rng {
    uint64_t seed, stream, counter;
} cb_rng;
CB_API void cb_philox(uint64_t seed, uint64_t stream, uint64_t counter, uint32_t out[4]);
CB_API uint32_t cb_rng_u32(cb_rng *rng);
CB_API uint64_t cb_rng_below(cb_rng *rng, uint64_t bound); /* uniform in [0, bound), unbiased; bound > 0 */
CB_API double cb_rng_uniform(cb_rng *rng);                 /* [0, 1) with 53 bits */
CB_API double cb_rng_normal(cb_rng *rng);                  /* standard normal (Box-Muller) */

/* ---- Threads, interruption, time ---- */

CB_API void cb_set_threads(int n); /* 0: as many as the machine has; also honours OMP_NUM_THREADS when never called */
CB_API int cb_threads(void);
CB_API void cb_interrupt(void); /* async-signal-safe: long work stops at its next step with CB_ERR_INTERRUPTED */
CB_API bool cb_interrupted(void);
CB_API void cb_interrupt_clear(void);
CB_API double cb_now(void);         /* monotonic seconds */
CB_API double cb_process_age(void); /* seconds since this process was started, by the kernel's account */
CB_API uint64_t cb_peak_rss(void);  /* peak resident bytes of this process */
CB_API uint64_t cb_current_rss(void);

/* ---- Rehearsal ---- */

/* Between begin and end the library goes through its work without doing it: floats are not computed, large blocks of memory are only
 * address space, and files are opened and removed again instead of written; those that are read again before they are kept are there
 * meanwhile, with holes for the values of tensors.  What is allocated, in which order, and what is read
 * and written is what the real work will, so its needs are known beforehand.  Values of float tensors mean nothing meanwhile.  For
 * the whole process; not while another thread is in the library. */
CB_API void cb_rehearsal_begin(void);
CB_API void cb_rehearsal_end(void);
CB_API bool cb_rehearsing(void);
typedef struct cb_rehearsal_sums {
    uint64_t peak;      /* resident bytes that the real work will reach: the next four when they came to most, or this process's peak */
    uint64_t resident;  /* of this process */
    uint64_t blocks;    /* memory handed out that will be written to and is not resident */
    uint64_t files;     /* parts of mapped files that will be read and are not resident */
    uint64_t libraries; /* of oneDNN, about */
    uint64_t disk;      /* bytes that files will take, at most: on the way a file may be there twice, or beside temporary ones */
    double operations;  /* floating-point operations of matrix products */
} cb_rehearsal_sums;
CB_API cb_rehearsal_sums cb_rehearsal(void); /* so far */
/* The files that would have been written, each once with its largest size. */
CB_API size_t cb_rehearsal_outputs(void);
CB_API const char *cb_rehearsal_output_at(size_t index, uint64_t *bytes);

/* ---- Log and progress ---- */

typedef enum cb_log_level { CB_LOG_DEBUG, CB_LOG_INFO, CB_LOG_WARNING } cb_log_level;
/* Called on the thread that has something to say. */
typedef void cb_log_function(void *user, cb_log_level level, const char *message);
/* NULL (the start state): messages are dropped.  Not while another thread is in the library. */
CB_API void cb_log_set(cb_log_function *function, void *user);
CB_API void cb_log_message(cb_log_level level, const char *format, ...) CB_PRINTF(2, 3);

#ifdef __cplusplus
}
#endif
#endif
