/* lycoris.h: what LoHa and LoKr share, which come from LyCORIS: options, scale, dropout of rows and of whole modules, and kernels as Tucker
 * products.  Yeh et al. 2024, arXiv:2309.14859. */
#ifndef CB_ADAPTERS_LYCORIS_H
#define CB_ADAPTERS_LYCORIS_H

#include "cambium/adapters.h"

/* The first member of the kind's config. */
typedef struct cb_lycoris_config {
    int64_t rank;
    double alpha, rank_dropout, module_dropout;
    bool use_effective_conv2d;
    cb_option_map rank_pattern, alpha_pattern;
} cb_lycoris_config;

#define CB_LYCORIS_OPTIONS                                                                                                                 \
    CB_OPT_INT(cb_lycoris_config, rank, 8, 1, 65536, "inner dimension of the factors"),                                                    \
        CB_OPT_FLOAT(cb_lycoris_config, alpha, 8, 0, 1e9, "the update is scaled by alpha / rank"),                                         \
        CB_OPT_FLOAT(cb_lycoris_config, rank_dropout, 0, 0, 1, "dropout of rows of the update while training"),                            \
        CB_OPT_FLOAT(cb_lycoris_config, module_dropout, 0, 0, 1, "share of the passes that leave a module out while training"),            \
        CB_OPT_BOOL(cb_lycoris_config, use_effective_conv2d, false, "Tucker factors for the kernels of convolutions"),                     \
        CB_OPT_MAP(cb_lycoris_config, rank_pattern, "another rank for the layers whose names end with (a match of) KEY"),                  \
        CB_OPT_MAP(cb_lycoris_config, alpha_pattern, "another alpha for the layers whose names end with (a match of) KEY")

extern const char *const cb_lycoris_peft_names[];
/* The fields of PEFT's config that no option stands for. */
#define CB_LYCORIS_FIXED "{\"exclude_modules\": null, \"modules_to_save\": null, \"layers_to_transform\": null, \"layers_pattern\": null}"

/* The first member of the kind's state: what the options come to for one layer. */
typedef struct cb_lycoris {
    int64_t rank;
    double scale, rank_dropout, module_dropout;
    bool tucker;             /* the kernel is a Tucker product */
    bool rescale;            /* rows that are left make up for those that are not */
    int64_t in, out, kh, kw; /* of a linear layer's weight kh = kw = 1; in: of one group of a convolution */
} cb_lycoris;

bool cb_lycoris_create(cb_lycoris *state, const cb_lycoris_config *config, const cb_layer *layer);
/* y with the module's result added, strength and dropout heeded; `product`: what the unscaled change gives for x. */
cb_tensor *cb_lycoris_forward(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx,
                              cb_tensor *(*product)(const cb_module *m, cb_tensor *x));
/* t (R, R, KH, KW), a (R, P), b (R, Q) -> (P, Q, KH, KW): sum over i and j of t_ijkl a_ip b_jq */
cb_tensor *cb_lycoris_tucker(cb_tensor *t, cb_tensor *a, cb_tensor *b);

#endif
