/* priors.h: floors 4 and 5: which share of an image each label has: of label maps, and as what is known beforehand of images without.
 *
 *     cb_priors priors = {0};
 *     cb_priors_make(target, cb_model_label_names(model), &options, &maps, &priors);
 *     domain_options.priors = priors.shares;                         then cb_domains_open(), cb_priors_free() */
#ifndef CAMBIUM_PRIORS_H
#define CAMBIUM_PRIORS_H

#include "cambium/data.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Zero-initialise; free with cb_label_shares_free(). */
typedef struct cb_label_shares {
    size_t maps;
    int64_t labels;
    char **names;   /* of the maps' files; of a table those of their images */
    double *shares; /* (maps, labels): of a map's places that count, so that each row sums to 1; maps without such are left out */
} cb_label_shares;
/* Reads label maps, not images.  options->data: directories of maps, directories with images and annotations (or the like) in them, tables as for
 * datasets, or maps; with map_suffix only files that end so.  What numbers in maps stand for is said by options as for datasets, and labels are
 * options->labels, or as many as maps show. */
CB_API bool cb_label_shares_read(const cb_image_data_options *options, cb_label_shares *shares);
CB_API void cb_label_shares_free(cb_label_shares *shares);

typedef struct cb_prior_options {
    cb_string_list prior;          /* a share for each label, in their order */
    cb_string_list prior_maps;     /* label maps whose mean shares it is */
    char *tags;                    /* a table of images and the labels that each has */
    cb_string_list true_size_maps; /* the target's own maps */
    int64_t prior_background;      /* the label that takes the rest where tags leave one out; -1: none does */
} cb_prior_options;
extern CB_API const cb_option cb_prior_option_table[];

/* Zero-initialise; free with cb_priors_free(). */
typedef struct cb_priors {
    int64_t rows, labels;
    float *shares; /* (rows, labels), each row sums to 1; NULL: options say nothing */
} cb_priors;
/* Of each row of the unshuffled target: a vector that is the same for all (prior, or the mean over the maps of prior_maps); with tags that share of
 * each label which the image has (of maps: the mean over those that have it), 0 of others, and the background takes the rest; or what the image's own map
 * says, found by the name of its file (true_size_maps).  Lines and maps are an image's by its file's name without directories and ending; where several
 * are, lines by their paths.  `maps` says what numbers in maps stand for.  Errors: numbers that are no shares, another number of labels, images that tags or
 * maps do not name, or that several name, a map for two images, unknown labels, images with none and no background, options that exclude each other. */
CB_API bool cb_priors_make(const cb_dataset *target, const cb_string_list *labels, const cb_prior_options *options,
                           const cb_image_data_options *maps, cb_priors *priors);
CB_API void cb_priors_free(cb_priors *priors);

#ifdef __cplusplus
}
#endif
#endif
