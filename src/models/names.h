/* names.h: what a model's file calls its tensors. */
#ifndef CB_MODELS_NAMES_H
#define CB_MODELS_NAMES_H

#include "cambium/models.h"

/* Whether it has names of another package (timm's, torchvision's), under which adapters are not merged into it. */
bool cb_model_is_renamed(const cb_model *model);

#endif
