/* cifar.h: what experiments on streams of CIFAR-10 share: its photographs in parts, and the zoo's network that knows them. */
#ifndef EXPERIMENTS_CIFAR_H
#define EXPERIMENTS_CIFAR_H

#include "cambium/adapt.h"
#include "experiments/vision.h"

enum { CIFAR_CLASSES = 10, CIFAR_LEFT_OUT = -1 };

/* The photographs of an archive: `part_of` says into which part the image goes that is number `number` of its class. */
bool cifar_read(const char *path, int (*part_of)(int number), picture_set *parts);

/* The directory of the zoo's ResNet; of quick runs shared/resnet, which cifar_resnet_tiny() makes.  Free with cb_free(). */
char *cifar_resnet(const cb_run *run);
bool cifar_resnet_tiny(const char *directory);

/* The label that an item of a stream was given: of several as likely the first. */
int64_t cifar_answer(const cb_adapt_outcome *outcome, const cb_stream_item *item);

#endif
