/* yaml.h: YAML files as JSON values, as far as they are such. */
#ifndef CB_FORMATS_YAML_H
#define CB_FORMATS_YAML_H

#include <jansson.h>

#include "cambium/core.h"

/* Reads a file of at most `limit` bytes with one document: mappings, lists and scalars, which are null, booleans, numbers or texts as PyYAML takes
 * them (1e-5 without a dot is a text there; it is a number here).  Anchors, aliases, tags, keys that are no texts or stand twice are refused by
 * line.  Free with json_decref(). */
json_t *cb_yaml_load(const char *path, size_t limit);
/* The same of a text; `what` names it in messages. */
json_t *cb_yaml_parse(const char *what, const char *text, size_t length);

#endif
