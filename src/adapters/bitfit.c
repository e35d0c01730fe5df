/* bitfit.c: BitFit: the biases of the model, trained whole.  Ben Zaken et al. 2022, arXiv:2106.10199.
 *
 * PEFT has no such type, but writes biases that are trained beside other adapters as "<layer>.bias": so does this one. */
#include "adapters/internal.h"
#include "adapters/strength.h"

typedef struct bitfit_state {
    cb_tensor *bias;
} bitfit_state;

static const cb_option bitfit_options[] = {CB_OPT_END};

static const char bitfit_peft_fixed[] = "{\"exclude_modules\": null, \"modules_to_save\": null}";

static const cb_default_target bitfit_targets[] = {{"*", CB_EVERY_HOST}, {0}};

static int bitfit_parameters(cb_module *m, cb_adapter_parameter *list)
{
    bitfit_state *own = m->state;
    list[0] = (cb_adapter_parameter){"bias", &own->bias, 1, {cb_layer_weight(m->layer, "bias")->count}, CB_ROLE_TRAINED};
    return 1;
}

static bool bitfit_initialise(cb_module *m, const void *config, uint64_t seed)
{
    (void)config, (void)seed;
    return cb_copy_into(((bitfit_state *)m->state)->bias, cb_layer_weight(m->layer, "bias"));
}

/* Where other modules have changed the bias already, it changes by as much as the layer's own would: several add up. */
static cb_tensor *bitfit_bias(const cb_module *m, cb_tensor *bias, const cb_context *ctx)
{
    (void)ctx;
    cb_tensor *own = ((const bitfit_state *)m->state)->bias, *base = cb_layer_weight(m->layer, "bias");
    if (bias == base || m->strength == 0)
        return cb_at_strength(bias, own, m->strength);
    return cb_add(cb_cast(bias, CB_F32), cb_change_at_strength(cb_cast(base, CB_F32), own, m->strength));
}

static cb_tensor *bitfit_delta_bias(const cb_module *m, cb_tensor *bias)
{
    (void)bias;
    return cb_change_at_strength(cb_cast(cb_layer_weight(m->layer, "bias"), CB_F32), ((const bitfit_state *)m->state)->bias, m->strength);
}

const cb_adapter_kind cb_kind_bitfit = {
    .name = "bitfit",
    .peft_type = "BITFIT",
    .summary = "the biases that the model has, trained whole",
    .paper = "Ben Zaken et al. 2022, arXiv:2106.10199",
    .options = bitfit_options,
    .state_size = sizeof(bitfit_state),
    .module = {.name = "bitfit", .bias = bitfit_bias, .delta_bias = bitfit_delta_bias},
    .hosts = 1u << CB_LAYER_LINEAR | 1u << CB_LAYER_CONV | 1u << CB_LAYER_NORM,
    .needs = "bias",
    .parameters = bitfit_parameters,
    .initialise = bitfit_initialise,
    .peft_fixed = bitfit_peft_fixed,
    .default_targets = bitfit_targets,
};
