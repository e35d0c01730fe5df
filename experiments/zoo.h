/* zoo.h: small networks that experiments need, pre-trained from the data sets by `cambium zoo build`: one entry each in zoo.c. */
#ifndef EXPERIMENTS_ZOO_H
#define EXPERIMENTS_ZOO_H

#include "cambium.h"

typedef struct zoo_network {
    const char *name, *title;
    const char *const *data; /* sets that it is made of, ends with NULL */
    /* JSON texts; the first may have one %s, the size of the vocabulary; the last is preprocessor_config.json of a network of images, which has
     * no tokenizer */
    const char *config, *tokenizer_config, *processor;
    /* Options of `cambium tokenizer train` and `cambium pretrain`, and what is added to these for a smoke run; each ends with NULL */
    const char *const *tokenizer, *const *training, *const *quick_tokenizer, *const *quick_training;
    /* Writes what is trained on and what is held out, one document a line; data NULL: made-up text */
    bool (*texts)(const char *data, bool quick, const char *train, const char *held_out);
    const char *train, *held_out; /* of images instead: archives or directories in the sets; without data made-up ones, of quick builds */
    const char *train_maps, *held_out_maps; /* of places of images: the directories of their maps; NULL: images have labels */
    const char *const *reading;             /* of them: options of `cambium pretrain` and `cambium eval` that say how maps are read */
} zoo_network;

const zoo_network *zoo_networks(void);         /* ends with name NULL */
const zoo_network *zoo_find(const char *name); /* NULL with an error and close names */
char *zoo_directory(
    const char *name); /* where it is once built: below CAMBIUM_ZOO, else cambium/zoo in the user's cache; free with cb_free() */
/* For experiments: the same of one that is built; else NULL with an error that says how to build it. */
char *zoo_need(const char *name);

#endif
