/* mixer.c: what several adapters make of each layer becomes one, by weights that the layer works out (fusion.c, router.c): the layers that
 * they are on, what is trained there, and its file.
 *
 * mixer.safetensors names tensors by layer: "model.layers.0.mlp.query.weight". */
#include "adapters/mixer.h"

#include <stdlib.h>
#include <string.h>

#include "adapters/bottleneck.h"
#include "adapters/named.h"

struct cb_mixer {
    cb_mixer_form form;
    cb_mixer_options options;
    cb_mixer_layer *layers; /* in the order of the tree */
    size_t layer_count;
    cb_named_tensor *list;
    size_t count, capacity;
    const cb_named_file *from; /* while it is made: the file that it is read from, or NULL */
};

static const cb_mixer_form_kind *const forms[] = {[CB_MIXER_FUSION] = &cb_mixer_fusion, [CB_MIXER_ROUTER] = &cb_mixer_router};
enum { FORMS = sizeof forms / sizeof *forms };

const cb_option cb_mixer_option_table[] = {
    CB_OPT_INT(cb_mixer_options, mix_top_k, 0, 0, 65536, "gate, router: keep the k largest weights (0: all)"),
    CB_OPT_FLOAT(cb_mixer_options, mix_temperature, 1, 1e-6, 1e6, "router: what the softmax divides by"),
    CB_OPT_BOOL(cb_mixer_options, fusion_value, true, "fusion: train a matrix of values too"),
    CB_OPT_FLOAT(cb_mixer_options, fusion_regularization, 0.01, 0, 1e6, "fusion: how strongly that is held to the identity"),
    CB_OPT_BOOL(cb_mixer_options, fusion_residual, true, "fusion: what asks is the result with the residual stream"),
    CB_OPT_END};
enum { OPTIONS = sizeof cb_mixer_option_table / sizeof *cb_mixer_option_table - 1 };

/* ---- which layers ---- */

static int by_index(const void *a, const void *b)
{
    const cb_layer *x = ((const cb_mixer_layer *)a)->mix.layer, *y = ((const cb_mixer_layer *)b)->mix.layer;
    return (x->index > y->index) - (x->index < y->index);
}

static cb_mixer_layer *layer_of(cb_mixer *mixer, const cb_layer *layer)
{
    for (size_t i = 0; i < mixer->layer_count; i++)
        if (mixer->layers[i].mix.layer == layer)
            return &mixer->layers[i];
    cb_mixer_layer *made = &mixer->layers[mixer->layer_count++];
    bool linear = layer->kind == CB_LAYER_LINEAR;
    int64_t width = linear ? 0 : cb_stream_width(layer);
    *made = (cb_mixer_layer){.mix = {.kind = &forms[mixer->form]->mix, .layer = layer},
                             .options = &mixer->options,
                             .in = linear ? layer->in_features : width,
                             .out = linear ? layer->out_features : width};
    return made;
}

static bool find_layers(cb_mixer *mixer, cb_adapter *const *adapters, size_t count)
{
    const unsigned hosts = 1u << CB_LAYER_LINEAR | 1u << CB_LAYER_ATTENTION | 1u << CB_LAYER_MLP | 1u << CB_LAYER_BLOCK;
    cb_module *const *modules;
    size_t most = 0;
    for (size_t i = 0; i < count; i++)
        most += cb_adapter_modules(adapters[i], &modules);
    mixer->layers = cb_calloc(most, sizeof *mixer->layers);
    for (size_t i = 0; mixer->layers && i < count; i++) {
        size_t n = cb_adapter_modules(adapters[i], &modules);
        for (size_t k = 0; k < n; k++) {
            const cb_layer *layer = modules[k]->layer;
            if (!(hosts >> layer->kind & 1))
                return cb_fail(CB_ERR_UNSUPPORTED, "mixer: adapter %s is on layer %s, expected linear, attention, MLP layers or blocks",
                               cb_adapter_name(adapters[i]), layer->name) == CB_OK;
            layer_of(mixer, layer)->parts++;
        }
    }
    if (mixer->layers)
        qsort(mixer->layers, mixer->layer_count, sizeof *mixer->layers, by_index);
    return mixer->layers && (mixer->layer_count || cb_fail(CB_ERR_ARGUMENT, "mixer: the adapters are on no layers") == CB_OK);
}

/* ---- making ---- */

static bool add_tensor(cb_mixer *mixer, const cb_layer *layer, const cb_adapter_parameter *p)
{
    char *name = cb_format("%s.%s", layer->name, p->suffix);
    cb_tensor *t = name && cb_named_has(mixer->from, name, p->ndim, p->shape) ? cb_full_nd(CB_F32, 0, p->ndim, p->shape) : NULL;
    if (!t || !cb_grow(&mixer->list, &mixer->capacity, mixer->count + 1, sizeof *mixer->list)) {
        cb_free(name);
        return false;
    }
    *p->tensor = cb_keep(cb_parameter(t));
    mixer->list[mixer->count++] = (cb_named_tensor){name, t};
    return true;
}

static bool make_layers(cb_mixer *mixer, uint64_t seed)
{
    bool ok = true;
    for (size_t i = 0; ok && i < mixer->layer_count; i++) {
        cb_adapter_parameter list[CB_MIXER_TENSORS];
        int count = forms[mixer->form]->parameters(&mixer->layers[i], list);
        for (int k = 0; ok && k < count; k++)
            ok = add_tensor(mixer, mixer->layers[i].mix.layer, &list[k]);
        ok = ok && forms[mixer->form]->initialise(&mixer->layers[i], seed);
    }
    return ok;
}

static cb_mixer *make(cb_mixer_form form, cb_adapter *const *adapters, size_t count, const cb_mixer_options *options, uint64_t seed,
                      const cb_named_file *from)
{
    cb_mixer *mixer = cb_calloc(1, sizeof *mixer);
    if (!mixer)
        return NULL;
    mixer->form = form;
    mixer->from = from;
    cb_scope *scope = cb_scope_open();
    bool ok = scope && cb_options_init(cb_mixer_option_table, &mixer->options);
    if (ok && options)
        mixer->options = *options;
    ok = ok && find_layers(mixer, adapters, count) && make_layers(mixer, seed) && (!from || cb_named_read(from, mixer->list, mixer->count));
    mixer->from = NULL;
    if (scope)
        cb_scope_close(scope);
    if (ok)
        return mixer;
    cb_mixer_free(mixer);
    return NULL;
}

cb_mixer *cb_mixer_new(cb_mixer_form form, cb_adapter *const *adapters, size_t count, const cb_mixer_options *options, uint64_t seed)
{
    return make(form, adapters, count, options, seed, NULL);
}

void cb_mixer_free(cb_mixer *mixer)
{
    if (!mixer)
        return;
    for (size_t i = 0; i < mixer->count; i++) {
        cb_free((char *)(uintptr_t)mixer->list[i].name);
        cb_release(mixer->list[i].tensor);
    }
    cb_free(mixer->list);
    cb_free(mixer->layers);
    cb_free(mixer);
}

/* ---- use ---- */

size_t cb_mixer_parameters(const cb_mixer *mixer, const cb_named_tensor **list)
{
    *list = mixer->list;
    return mixer->count;
}

bool cb_mixer_blend(const cb_mixer *mixer, cb_blend *blend)
{
    for (size_t i = 0; i < mixer->layer_count; i++)
        if (!cb_blend_mix(blend, mixer->layers[i].mix.layer, &mixer->layers[i].mix, (size_t)mixer->layers[i].parts))
            return false;
    return true;
}

cb_tensor *cb_mixer_regulariser(const cb_mixer *mixer)
{
    cb_tensor *total = NULL;
    for (size_t i = 0; forms[mixer->form]->regulariser && i < mixer->layer_count; i++) {
        cb_tensor *term = forms[mixer->form]->regulariser(&mixer->layers[i]);
        total = term && total ? cb_add(total, term) : term ? term : total;
    }
    return total;
}

cb_mixer_form cb_mixer_form_of(const cb_mixer *mixer)
{
    return mixer->form;
}

const cb_mixer_options *cb_mixer_options_of(const cb_mixer *mixer)
{
    return &mixer->options;
}

size_t cb_mixer_layers(const cb_mixer *mixer, const cb_mixer_layer **list)
{
    *list = mixer->layers;
    return mixer->layer_count;
}

int cb_mixer_suffixes(const cb_mixer *mixer, const cb_mixer_layer *layer, const char **list)
{
    cb_mixer_layer copy = *layer;
    cb_adapter_parameter parameters[CB_MIXER_TENSORS];
    int count = forms[mixer->form]->parameters(&copy, parameters);
    for (int i = 0; i < count; i++)
        list[i] = parameters[i].suffix;
    return count;
}

/* ---- on disk ---- */

json_t *cb_mixer_json(const cb_mixer *mixer)
{
    char *text = cb_options_to_json(cb_mixer_option_table, &mixer->options);
    json_t *value = text ? cb_json_parse("mixer", text, strlen(text)) : NULL;
    cb_free(text);
    if (value && cb_json_put(value, "form", json_string(forms[mixer->form]->mix.name)))
        return value;
    json_decref(value);
    return NULL;
}

bool cb_mixer_write(const cb_mixer *mixer, const char *path)
{
    return cb_named_write(path, mixer->list, mixer->count);
}

/* FORMS and an error when it is none. */
static int form_of(const char *file, const json_t *json)
{
    const char *name = json_string_value(json_object_get(json, "form"));
    int form = 0;
    while (name && form < FORMS && strcmp(name, forms[form]->mix.name) != 0)
        form++;
    if (name && form < FORMS)
        return form;
    cb_fail(CB_ERR_FORMAT, "%s: form is %.40s, expected fusion or router", file, name ? name : "no string");
    return FORMS;
}

static bool check_fields(const char *file, const json_t *json)
{
    const char *names[OPTIONS + 2] = {"form"};
    for (int i = 0; i < OPTIONS; i++)
        names[1 + i] = cb_mixer_option_table[i].name;
    return cb_json_only(file, json, names);
}

cb_mixer *cb_mixer_read(const char *file, const json_t *json, const char *path, cb_adapter *const *adapters, size_t count)
{
    cb_mixer_options options;
    cb_named_file from = {0};
    char *where = cb_format("%s: mixer", file);
    int form = where && check_fields(where, json) ? form_of(where, json) : FORMS;
    bool ok = form < FORMS && cb_options_init(cb_mixer_option_table, &options) &&
              cb_options_from_json(cb_mixer_option_table, &options, where, json) && cb_named_open(&from, path);
    cb_mixer *mixer = ok ? make((cb_mixer_form)form, adapters, count, &options, 0, &from) : NULL;
    cb_named_close(&from);
    cb_free(where);
    return mixer;
}
