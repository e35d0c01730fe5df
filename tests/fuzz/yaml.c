/* yaml.c: YAML as recipes of merging are written in it. */
#include "formats/yaml.h"

#include <jansson.h>

#include "fuzz.h"

void fuzz_target(const uint8_t *data, size_t size)
{
    json_t *value = cb_yaml_parse("input", (const char *)data, size);
    fuzz_expect(value != NULL);
    json_decref(value);
}
