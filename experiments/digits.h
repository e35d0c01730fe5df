/* digits.h: what experiments with handwritten digits of several origins share: MNIST, optdigits, semeion and USPS as files of one size, MNIST on photographs,
 * a small network. */
#ifndef EXPERIMENTS_DIGITS_H
#define EXPERIMENTS_DIGITS_H

#include "experiments/experiments.h"

/* Letters are ten of notMNIST, which are no file of digits_prepare().  MNIST-M (Ganin et al. 2016) is made of digits that DIGITS_MNIST has not and of places in the photographs of PACS: |place - digit|, in colours. */
typedef enum digit_origin {
    DIGITS_MNIST,
    DIGITS_OPTDIGITS,
    DIGITS_SEMEION,
    DIGITS_USPS,
    DIGITS_MNIST_M,
    DIGIT_ORIGINS,
    DIGITS_LETTERS = DIGIT_ORIGINS
} digit_origin;
extern const char *const digit_names[DIGIT_ORIGINS];
enum { DIGIT_SIDE = 16, DIGIT_CLASSES = 10 };

/* Squares, `side` a side, grey or in colours.  Zero-initialise but for that. */
typedef struct digit_set {
    size_t count, capacity, label_capacity;
    int64_t side;
    int channels; /* 0: none yet */
    uint8_t *pixels, *labels;
} digit_set;
void digits_free(digit_set *set);
/* All of an origin, ink bright, brought to set->side, in an order that is random and always the same; made-up ones where there are no data. */
bool digits_read(const cb_run *run, digit_origin origin, digit_set *set);

/* Of each origin before `end` at most `train` and `test` digits, other ones, as IDX files in run->shared; made-up ones where there are no data.  And the
 * config.json and preprocessor_config.json of the network for pictures of 1 or 3 channels.  For `prepare`. */
bool digits_prepare(const cb_run *run, digit_origin end, int channels, size_t train, size_t test);
char *digits_path(const cb_run *run, digit_origin origin, bool test); /* free with cb_free() */
/* Rows of one origin: with labels, or without; shuffled by the seed, or in their order. */
cb_dataset *digits_open(const cb_run *run, digit_origin origin, bool test, bool unlabelled, bool shuffle, uint64_t seed);
/* A residual network of 79,000 weights, random by the seed. */
cb_model *digits_network(const cb_run *run, uint64_t seed);

#endif
