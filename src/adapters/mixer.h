/* mixer.h: what is mixed on each layer, and by which form of mixer; its place in blend.json and its file. */
#ifndef CB_ADAPTERS_MIXER_H
#define CB_ADAPTERS_MIXER_H

#include "adapters/internal.h"

#define CB_MIXER_FILE "mixer.safetensors"

enum { CB_MIXER_TENSORS = 5 };

/* A layer's part of a mixer. */
typedef struct cb_mixer_layer {
    cb_mix mix; /* first */
    const cb_mixer_options *options;
    int64_t parts, in, out;               /* modules, and the widths of the layer's input and result */
    cb_tensor *tensors[CB_MIXER_TENSORS]; /* as the form lists them */
} cb_mixer_layer;

/* A form of mixer: one file and one line in the table of mixer.c. */
typedef struct cb_mixer_form_kind {
    cb_mix_kind mix;
    /* What a layer trains: suffixes and shapes, at most CB_MIXER_TENSORS; returns how many. */
    int (*parameters)(cb_mixer_layer *layer, cb_adapter_parameter *list);
    bool (*initialise)(cb_mixer_layer *layer, uint64_t seed);
    /* What a layer adds to the loss, a scalar; NULL without an error: nothing.  NULL: never anything. */
    cb_tensor *(*regulariser)(const cb_mixer_layer *layer);
} cb_mixer_form_kind;
extern const cb_mixer_form_kind cb_mixer_fusion, cb_mixer_router;

/* AdapterFusion's arithmetic on what it is given, of any floating-point type: y + V sum_i p_i c_i with p = softmax_i((Q q + b) (K c_i + d)),
 * changes c_i and q (..., C).  tensors: Q, b, K, d and V, which may be NULL. */
cb_tensor *cb_fusion_mix(cb_tensor *const *tensors, cb_tensor *q, cb_tensor *y, cb_tensor *const *changes, int64_t count);
/* y + sum_i p_i c_i, with p (..., N) */
cb_tensor *cb_mix_by_weights(cb_tensor *p, cb_tensor *y, cb_tensor *const *changes, int64_t count);

cb_mixer_form cb_mixer_form_of(const cb_mixer *mixer);
const cb_mixer_options *cb_mixer_options_of(const cb_mixer *mixer);
size_t cb_mixer_layers(const cb_mixer *mixer, const cb_mixer_layer **list); /* in the order of the tree */
/* The suffixes of what each layer trains, at most CB_MIXER_TENSORS, in the order of its tensors. */
int cb_mixer_suffixes(const cb_mixer *mixer, const cb_mixer_layer *layer, const char **list);

json_t *cb_mixer_json(const cb_mixer *mixer);
bool cb_mixer_write(const cb_mixer *mixer, const char *path);
/* Over adapters that are attached; `file` names the JSON in messages. */
cb_mixer *cb_mixer_read(const char *file, const json_t *json, const char *path, cb_adapter *const *adapters, size_t count);

#endif
