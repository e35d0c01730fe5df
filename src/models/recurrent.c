/* recurrent.c: layers of LSTM or GRU with their weights, as torch.nn.LSTM and GRU have them in files. */
#include <math.h>

#include "models/internal.h"

/* weight (gates H, in) and bias (gates H), both uniform within 1 / sqrt(H), as torch's start. */
static cb_layer *matrix(cb_weight_source *source, cb_layer *group, const char *name, int64_t in, int64_t out)
{
    cb_layer *layer = cb_ok() ? cb_layer_new(group, name, CB_LAYER_LINEAR) : NULL;
    if (!layer)
        return NULL;
    layer->recurrent = true;
    layer->in_features = in;
    layer->out_features = out;
    const int64_t shape[] = {out, in};
    bool ok = cb_source_weight(source, layer, "weight", CB_INITIAL_UNIFORM, 2, shape) &&
              cb_source_weight(source, layer, "bias", CB_INITIAL_UNIFORM, 1, &out);
    return ok ? layer : NULL;
}

bool cb_source_recurrent(cb_weight_source *source, cb_model *model, cb_layer *parent, const char *name, int64_t inputs, cb_recurrent *r)
{
    enum { LONG = 40 };
    char last[LONG];
    cb_layer *group = parent ? cb_layer_new(parent, name, CB_LAYER_GROUP) : NULL;
    int directions = r->bidirectional ? 2 : 1;
    int64_t rows = (r->gru ? 3 : 4) * r->hidden;
    double before = model->config.initial_value;
    model->config.initial_value = 1 / sqrt((double)r->hidden);
    for (int i = 0; group && i < r->layers * directions; i++) {
        cb_recurrent_name(r, i, false, last, sizeof last);
        r->ih[i] = matrix(source, group, last, i < directions ? inputs : directions * r->hidden, rows);
        cb_recurrent_name(r, i, true, last, sizeof last);
        r->hh[i] = r->ih[i] ? matrix(source, group, last, r->hidden, rows) : NULL;
        group = r->hh[i] ? group : NULL;
    }
    model->config.initial_value = before;
    return group;
}
