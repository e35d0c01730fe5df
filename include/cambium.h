/* cambium.h: the whole public interface, floor by floor.
 *
 *     cc program.c $(pkg-config --cflags --libs cambium) */
#ifndef CAMBIUM_H
#define CAMBIUM_H

#include "cambium/active.h"
#include "cambium/adapt.h"
#include "cambium/adapters.h"
#include "cambium/convert.h"
#include "cambium/core.h"
#include "cambium/ctc.h"
#include "cambium/data.h"
#include "cambium/diffusion.h"
#include "cambium/domains.h"
#include "cambium/dtype.h"
#include "cambium/embedding.h"
#include "cambium/eval.h"
#include "cambium/evidence.h"
#include "cambium/files.h"
#include "cambium/formats.h"
#include "cambium/gguf.h"
#include "cambium/images.h"
#include "cambium/jinja.h"
#include "cambium/losses.h"
#include "cambium/merge.h"
#include "cambium/methods.h"
#include "cambium/metrics.h"
#include "cambium/models.h"
#include "cambium/nn.h"
#include "cambium/optim.h"
#include "cambium/priors.h"
#include "cambium/retrieval.h"
#include "cambium/statistics.h"
#include "cambium/stream.h"
#include "cambium/tensor.h"
#include "cambium/tokenizer.h"
#include "cambium/training.h"

#endif
