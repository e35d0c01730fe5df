/* cambium.h: the whole public interface, floor by floor.
 *
 *     cc program.c $(pkg-config --cflags --libs cambium) */
#ifndef CAMBIUM_H
#define CAMBIUM_H

#include "cambium/core.h"
#include "cambium/dtype.h"
#include "cambium/tensor.h"
#if __has_include("cambium/formats.h")
#include "cambium/formats.h"
#endif
#include "cambium/tokenizer.h"
#if __has_include("cambium/losses.h")
#include "cambium/losses.h"
#endif
#include "cambium/nn.h"
#include "cambium/optim.h"
#if __has_include("cambium/eval.h")
#include "cambium/eval.h"
#endif
#include "cambium/adapters.h"
#include "cambium/data.h"
#include "cambium/merge.h"
#include "cambium/models.h"
#include "cambium/training.h"

#endif
