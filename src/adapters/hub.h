/* hub.h: what adapters and fusions of AdapterHub's package share: where layers' tensors are, and what a model is called there. */
#ifndef CB_ADAPTERS_HUB_H
#define CB_ADAPTERS_HUB_H

#include "adapters/internal.h"

#define CB_HUB_VERSION     "adapters.1.3.0"
#define CB_HUB_SETUP_FILE  "adapter_setup.json"
#define CB_HUB_FUSION_FILE "adapter_fusion_config.json"

typedef struct cb_hub_class {
    const char *model_type, *class_name, *with_heads;
} cb_hub_class;
/* NULL with an error: none of the models that both sides know. */
const cb_hub_class *cb_hub_class_of(const char *model_type);

/* The first part of layers' names: "model", "transformer"; "" where there is none.  Free with cb_free(). */
char *cb_hub_base(const cb_layer *root);
/* A tensor by name; files of a bare model leave its first part out. */
const cb_weight_entry *cb_hub_find(const cb_weights *file, const char *base, const char *name);
/* What stands before the tensors of a bottleneck or a fusion: "BLOCK.output_adapters."; NULL without an error: the package has no such place. */
char *cb_hub_place(const cb_layer *layer);
int64_t cb_hub_width(const cb_layer *root); /* the package's hidden_size */

/* ---- hub_fusion.c ---- */
/* Whether a directory holds a setup of fused adapters, or a fusion. */
bool cb_hub_is_fusion(const char *directory);
bool cb_hub_fusion_load(cb_composition *c, const char *directory, cb_layer *root, const char *model_type);
/* As save_adapter_setup() would write it. */
bool cb_hub_fusion_save(const cb_composition *c, const char *directory, cb_layer *root, const char *model_type);

#endif
