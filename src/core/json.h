/* json.h: what the readers of JSON files share on top of jansson: a bounded load with a message that names the file and
 * line, and typed getters that name file, field, found and expected. */
#ifndef CB_CORE_JSON_H
#define CB_CORE_JSON_H

#include <jansson.h>

#include "cambium/core.h"

/* Reads and parses a JSON file of at most `limit` bytes (0: 1 GiB).  Free with json_decref(). */
json_t *cb_json_load(const char *path, size_t limit);
/* Parses text; `what` names it in messages. */
json_t *cb_json_parse(const char *what, const char *text, size_t length);
/* The same where keys may hold NUL characters, which jansson refuses: they read as the character in nul, which the
 * text does not have; "" when no key has one. */
json_t *cb_json_parse_nul_keys(const char *what, const char *text, size_t length, char nul[4]);
/* A value of any kind as text: two-space indentation, keys in their order (sorted when asked), UTF-8 kept, reals with
 * as few digits as give the same value back.  Free with cb_free(). */
char *cb_json_dump(const json_t *value, bool sort_keys);
/* Writes a value atomically as cb_json_dump() has it, with a newline at the end. */
bool cb_json_save(const char *path, const json_t *value, bool sort_keys);

/* Sets a member; takes the reference.  CB_ERR_MEMORY when there is no value, which is what jansson gives where it has no memory, or no
 * room for it. */
bool cb_json_put(json_t *object, const char *key, json_t *value);
bool cb_json_add(json_t *array, json_t *value); /* the same for an item */
/* A value whose parts were set this way: itself, or NULL with the error when one of them, or the value, could not be made. */
json_t *cb_json_made(json_t *value);
/* A copy of all of it; NULL and an error without memory, where json_deep_copy() leaves out what it has no room for. */
json_t *cb_json_copy(const json_t *value);

/* Getters: `file` is for messages.  Missing or null field: the default; a wrong type: CB_ERR_FORMAT and the default. */
int64_t cb_json_int(const char *file, const json_t *object, const char *key, int64_t def);
double cb_json_float(const char *file, const json_t *object, const char *key, double def);
bool cb_json_bool(const char *file, const json_t *object, const char *key, bool def);
const char *cb_json_string(const char *file, const json_t *object, const char *key, const char *def);
/* Whether it is an object that has no other fields than these; `names` ends with NULL. */
bool cb_json_only(const char *file, const json_t *object, const char *const *names);
/* Sets the options that a JSON object has fields for; null leaves an option as it is, other fields are passed over. */
bool cb_options_from_json(const cb_option *table, void *config, const char *file, const json_t *object);

#endif
