/* composition.c: several adapters and how they are mixed, as one directory: blend.json and, under its name, a PEFT directory for each part.
 *
 *     {"format": "cambium-blend", "version": 1,
 *      "parts": [{"name": "formal", "weight": 0.5}, {"name": "short", "weight": 1.0}]}
 *
 * A "gate" there means that gate.safetensors weighs the parts for each sample (gate.c), a "mixer" that mixer.safetensors mixes them on each
 * layer (mixer.c). */
#include <math.h>
#include <string.h>

#include "adapters/gate.h"
#include "adapters/hub.h"
#include "adapters/mixer.h"
#include "adapters/xlora.h"
#include "cambium/files.h"

#define FILE_NAME "blend.json"

static bool is_own(const char *directory)
{
    char *path = cb_path_join(directory, FILE_NAME);
    bool found = path && cb_is_file(path);
    cb_free(path);
    return found;
}

bool cb_is_composition(const char *directory)
{
    return is_own(directory) || cb_hub_is_fusion(directory) || cb_xlora_is(directory);
}

static bool remove_all(const char *directory, const char *const *names)
{
    bool ok = true;
    for (; ok && *names; names++) {
        char *path = cb_path_join(directory, *names);
        ok = path && cb_file_remove(path);
        cb_free(path);
    }
    return ok;
}

bool cb_composition_remove(const char *directory)
{
    static const char *const names[] = {FILE_NAME, CB_HUB_SETUP_FILE, CB_HUB_FUSION_FILE, CB_XLORA_FILE, NULL};
    return remove_all(directory, names);
}

/* Those of a plain adapter that was there, weights last: without its config nobody takes them for one. */
static bool remove_adapter(const char *directory)
{
    static const char *const names[] = {"adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", NULL};
    return remove_all(directory, names);
}

void cb_composition_free(cb_composition *c)
{
    if (!c)
        return;
    for (size_t i = c->count; i-- > 0;)
        cb_adapter_free(c->adapters[i]);
    cb_free(c->adapters);
    cb_free(c->weights);
    cb_gate_free(c->gate);
    cb_mixer_free(c->mixer);
    cb_xlora_free(c->xlora);
    *c = (cb_composition){0};
}

bool cb_composition_blend(const cb_composition *c, cb_blend *blend)
{
    for (size_t i = 0; i < c->count; i++)
        if (!cb_blend_add(blend, c->adapters[i], .weight = c->weights[i], .weighted = c->gate != NULL, .column = (int)i))
            return false;
    return (!c->mixer || cb_mixer_blend(c->mixer, blend)) && (!c->xlora || cb_xlora_blend(c->xlora, blend));
}

/* ---- writing ---- */

/* A name that is a directory of its own, and no other part's. */
static bool check_name(const cb_composition *c, size_t i)
{
    const char *name = cb_adapter_name(c->adapters[i]);
    bool ok = *name && *name != '.' && !strchr(name, '/') && cb_utf8_valid(name, strlen(name), NULL);
    for (size_t k = 0; ok && k < i; k++)
        ok = strcmp(name, cb_adapter_name(c->adapters[k])) != 0;
    return ok ||
           cb_fail(CB_ERR_ARGUMENT, "composition: found the adapter's name \"%.100s\", expected another file name for each", name) == CB_OK;
}

bool cb_composition_check(const cb_composition *c)
{
    for (size_t i = 0; i < c->count; i++)
        if (!check_name(c, i))
            return false;
    for (size_t i = 0; c->xlora && i < c->count; i++)
        if (c->weights[i] != 1)
            return cb_fail(CB_ERR_UNSUPPORTED, "composition: adapter %s has the weight %g, expected 1 with X-LoRA, which weighs itself",
                           cb_adapter_name(c->adapters[i]), c->weights[i]) == CB_OK;
    return (c->gate != NULL) + (c->mixer != NULL) + (c->xlora != NULL) < 2 ||
           cb_fail(CB_ERR_ARGUMENT, "composition: found several of a gate, a mixer and an X-LoRA, expected one of them") == CB_OK;
}

static json_t *to_json(const cb_composition *c)
{
    json_t *parts = json_array(), *value = json_object();
    bool ok =
        parts && value && cb_json_put(value, "format", json_string("cambium-blend")) && cb_json_put(value, "version", json_integer(1));
    for (size_t i = 0; ok && i < c->count; i++) {
        json_t *part = json_object();
        ok = part && cb_json_put(part, "name", json_string(cb_adapter_name(c->adapters[i]))) &&
             cb_json_put(part, "weight", json_real(c->weights[i]));
        if (ok)
            ok = json_array_append(parts, part) == 0 || cb_fail(CB_ERR_MEMORY, "composition: no memory for its parts") == CB_OK;
        json_decref(part);
    }
    ok = ok && cb_json_put(value, "parts", json_incref(parts)) && (!c->gate || cb_json_put(value, "gate", cb_gate_json(c->gate))) &&
         (!c->mixer || cb_json_put(value, "mixer", cb_mixer_json(c->mixer))) &&
         (!c->xlora || cb_json_put(value, "xlora", cb_xlora_json(c->xlora)));
    json_decref(parts);
    if (ok)
        return value;
    json_decref(value);
    return NULL;
}

char *cb_composition_json(const cb_composition *c)
{
    json_t *value = to_json(c);
    char *text = value ? cb_json_dump(value, false) : NULL;
    json_decref(value);
    for (size_t i = 0; text && i < c->count; i++) {
        char *options = cb_adapter_json(c->adapters[i]), *both = options ? cb_format("%s\n%s", text, options) : NULL;
        cb_free(options);
        cb_free(text);
        text = both;
    }
    return text;
}

static bool write_parts(const cb_composition *c, const char *directory, const char *base_model)
{
    bool ok = true;
    for (size_t i = 0; ok && i < c->count; i++) {
        char *path = cb_path_join(directory, cb_adapter_name(c->adapters[i]));
        ok = path && cb_adapter_save(c->adapters[i], path, base_model);
        cb_free(path);
    }
    char *gate = c->gate ? cb_path_join(directory, CB_GATE_FILE) : NULL;
    ok = ok && (!c->gate || (gate && cb_gate_write(c->gate, gate)));
    cb_free(gate);
    char *mixer = c->mixer ? cb_path_join(directory, CB_MIXER_FILE) : NULL;
    ok = ok && (!c->mixer || (mixer && cb_mixer_write(c->mixer, mixer)));
    cb_free(mixer);
    return ok;
}

/* The parts first: a directory with blend.json has them all, and of one composition, so that of an earlier one goes before them. */
bool cb_composition_save(const cb_composition *c, const char *directory, const char *base_model)
{
    if (!cb_composition_check(c))
        return false;
    json_t *value = to_json(c);
    char *path = cb_path_join(directory, FILE_NAME);
    bool ok = value && path && cb_directory_make(directory) && cb_composition_remove(directory) && remove_adapter(directory) &&
              write_parts(c, directory, base_model) &&
              (c->xlora ? cb_xlora_save(c, directory, base_model) : cb_json_save(path, value, true));
    cb_free(path);
    json_decref(value);
    return ok;
}

bool cb_composition_save_hub(const cb_composition *c, const char *directory, cb_layer *root, const char *model_type)
{
    return cb_composition_check(c) && cb_hub_fusion_save(c, directory, root, model_type);
}

/* ---- reading ---- */

static const char *const fields[] = {"format", "version", "parts", "gate", "mixer", NULL}, *const part_fields[] = {"name", "weight", NULL};

static bool read_part(cb_composition *c, const char *file, const char *directory, const json_t *part, cb_layer *root,
                      const char *model_type)
{
    const char *name = json_string_value(json_object_get(part, "name"));
    const json_t *weight = json_object_get(part, "weight");
    double value = weight ? json_number_value(weight) : 1;
    if (!cb_json_only(file, part, part_fields))
        return false;
    if (!name || !*name || *name == '.' || strchr(name, '/') || (weight && !json_is_number(weight)) || !isfinite(value) || value == 0)
        return cb_fail(CB_ERR_FORMAT,
                       "%s: parts[%zu]: expected a name, of a directory beside it, and a weight that is a number other than 0", file,
                       c->count) == CB_OK;
    for (size_t i = 0; i < c->count; i++)
        if (strcmp(name, cb_adapter_name(c->adapters[i])) == 0)
            return cb_fail(CB_ERR_FORMAT, "%s: parts[%zu]: found the name %.100s twice", file, c->count, name) == CB_OK;
    char *path = cb_path_join(directory, name);
    cb_adapter *adapter = path ? cb_adapter_load(path, root, model_type) : NULL;
    cb_free(path);
    if (!adapter)
        return false;
    cb_adapter_set_strength(adapter, 0);
    c->adapters[c->count] = adapter;
    c->weights[c->count++] = value;
    return true;
}

static bool read_gate(cb_composition *c, const char *file, const char *directory, const json_t *gate)
{
    char *path = cb_path_join(directory, CB_GATE_FILE);
    c->gate = path ? cb_gate_read(file, gate, path, c->count) : NULL;
    cb_free(path);
    return c->gate;
}

static bool read_mixer(cb_composition *c, const char *file, const char *directory, const json_t *mixer)
{
    char *path = cb_path_join(directory, CB_MIXER_FILE);
    c->mixer = path ? cb_mixer_read(file, mixer, path, c->adapters, c->count) : NULL;
    cb_free(path);
    return c->mixer;
}

static bool read_parts(cb_composition *c, const char *file, const char *directory, const json_t *value, cb_layer *root,
                       const char *model_type)
{
    const json_t *parts = json_object_get(value, "parts"), *format = json_object_get(value, "format");
    if (!json_is_string(format) || strcmp(json_string_value(format), "cambium-blend") != 0 ||
        json_integer_value(json_object_get(value, "version")) != 1 || !json_is_array(parts) || !json_array_size(parts))
        return cb_fail(CB_ERR_FORMAT, "%s: expected format cambium-blend, version 1 and parts", file) == CB_OK;
    if (!cb_json_only(file, value, fields))
        return false;
    size_t count = json_array_size(parts);
    c->adapters = cb_calloc(count, sizeof(cb_adapter *));
    c->weights = cb_calloc(count, sizeof *c->weights);
    bool ok = c->adapters && c->weights;
    for (size_t i = 0; ok && i < count; i++)
        ok = read_part(c, file, directory, json_array_get(parts, i), root, model_type);
    const json_t *gate = json_object_get(value, "gate"), *mixer = json_object_get(value, "mixer");
    if (ok && gate && mixer)
        return cb_fail(CB_ERR_FORMAT, "%s: found a gate and a mixer, expected one of them", file) == CB_OK;
    return ok && (!gate || read_gate(c, file, directory, gate)) && (!mixer || read_mixer(c, file, directory, mixer));
}

bool cb_composition_load(cb_composition *c, const char *directory, cb_layer *root, const char *model_type)
{
    *c = (cb_composition){0};
    if (!is_own(directory) && cb_hub_is_fusion(directory))
        return cb_hub_fusion_load(c, directory, root, model_type);
    if (!is_own(directory) && cb_xlora_is(directory))
        return cb_xlora_load(c, directory, root, model_type);
    char *file = cb_path_join(directory, FILE_NAME);
    json_t *value = file ? cb_json_load(file, (size_t)1 << 24) : NULL;
    bool ok = value && read_parts(c, file, directory, value, root, model_type);
    json_decref(value);
    cb_free(file);
    if (!ok)
        cb_composition_free(c);
    return ok;
}
