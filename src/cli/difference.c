/* difference.c: how commands that write models say how far the result's logits are from the source's. */
#include "cli/cli.h"

static json_t *known(bool measured, double value)
{
    return measured ? cli_real(value) : json_null();
}

void cli_difference_json(json_t *object, const cb_difference *d, bool measured)
{
    double relative = d->max_logit > 0 ? d->max_absolute / d->max_logit : 0;
    json_object_set_new(object, "verified", json_boolean(measured));
    json_object_set_new(object, "positions", json_integer((json_int_t)d->positions));
    json_object_set_new(object, "max_absolute_difference", known(measured, d->max_absolute));
    json_object_set_new(object, "max_relative_difference", known(measured, relative));
    json_object_set_new(object, "mean_kl", known(measured, d->mean_kl));
    json_object_set_new(object, "agreement", known(measured, d->agreement));
    json_object_set_new(object, "quantization_error", cli_real(d->weight_error));
}

void cli_difference_print(const cb_difference *d, bool measured)
{
    if (d->weight_error > 0)
        cli_field("quantisation error", "%.2g of a weight's root mean square, at most", d->weight_error);
    if (!measured) {
        cli_field("difference", "not measured");
        return;
    }
    cli_field("largest difference", "%.3g of a logit (%.2g of the largest logit), over %lld positions", d->max_absolute,
              d->max_logit > 0 ? d->max_absolute / d->max_logit : 0, (long long)d->positions);
    cli_field("mean KL divergence", "%.3g nats", d->mean_kl);
    cli_field("same likeliest token", "%.2f %%", 100 * d->agreement);
}
