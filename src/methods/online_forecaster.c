/* online_forecaster.c: what learns while a forecaster is used, as a policy of cb_forecast_stream(): ADCSD, every weight, or both, by one step of Adam
 * on each window whose targets have come to be. */
#include <math.h>
#include <string.h>

#include "cambium/methods.h"
#include "cambium/optim.h"

static const char *const online_names[] = {"none", "finetune", "adcsd", "both", NULL};
#define OPT cb_online_options
const cb_option cb_online_option_table[] = {
    CB_OPT_ENUM(
        OPT, online, CB_ONLINE_NONE, online_names,
        "what learns from targets once they have come to be, window after window: nothing, every weight, ADCSD's correction of forecasts, "
        "or both"),
    CB_OPT_FLOAT(OPT, online_learning_rate, 1e-4, 0, 10, "of its Adam"), CB_OPT_INT(OPT, online_seed, 0, 0, 9e15, "of what is new in it"),
    CB_OPT_END};
#undef OPT

struct cb_online_forecaster {
    const cb_forecast_training *training;
    cb_online_options options;
    cb_adcsd *adcsd; /* NULL: none */
    bool owned;      /* adcsd is its own */
    cb_trainee model;
    cb_tensor **parameters;
    size_t count;
    cb_optimizer *optimizer;
};

/* ---- a step ---- */

/* The forecaster's forecast; without a gradient where it does not learn. */
static cb_tensor *base_forecast(const cb_online_forecaster *f, cb_tensor *window)
{
    const cb_context plain = {0};
    bool learns = f->options.online == CB_ONLINE_FINETUNE || f->options.online == CB_ONLINE_BOTH;
    bool before = cb_set_grad_enabled(cb_grad_enabled() && learns);
    cb_tensor *y = cb_model_logits(f->training->model, window, &plain);
    y = y && y->dtype != CB_F32 ? cb_cast(y, CB_F32) : y;
    cb_set_grad_enabled(before);
    return y;
}

static cb_tensor *forecast(void *user, cb_tensor *window)
{
    const cb_online_forecaster *f = user;
    cb_tensor *y = base_forecast(f, window);
    return f->adcsd ? cb_adcsd_forward(f->adcsd, y) : y;
}

static bool descend(cb_online_forecaster *f, cb_tensor *loss)
{
    double value = loss ? cb_item(loss) : NAN;
    if (loss && !isfinite(value) && !cb_rehearsing())
        return cb_fail(CB_ERR_NUMERIC, "online: the loss of a window is %g (a lower --online-learning-rate may help)", value) == CB_OK;
    bool ok = loss && cb_backward(loss) && cb_optimizer_step(f->optimizer, f->options.online_learning_rate, 1);
    cb_optimizer_zero_grad(f->optimizer);
    return ok;
}

static bool learn(void *user, cb_tensor *window, cb_tensor *targets)
{
    cb_online_forecaster *f = user;
    const cb_forecast_training *t = f->training;
    cb_scope *scope = cb_scope_open();
    bool ok = scope && descend(f, cb_forecast_loss(&t->options, cb_forecast_restore(t->processor, forecast(f, window)), targets, 0));
    if (scope)
        cb_scope_close(scope);
    return ok;
}

/* ---- making ---- */

static bool list_parameters(cb_online_forecaster *f)
{
    const cb_named_tensor *own = NULL;
    size_t added = f->adcsd ? cb_adcsd_parameters(f->adcsd, &own) : 0;
    f->parameters = cb_calloc(f->model.count + added + 1, sizeof(cb_tensor *));
    for (size_t i = 0; f->parameters && i < f->model.count; i++)
        f->parameters[f->count++] = f->model.parameters[i].tensor;
    for (size_t i = 0; f->parameters && i < added; i++)
        f->parameters[f->count++] = own[i].tensor;
    return f->parameters;
}

cb_online_forecaster *cb_online_forecaster_new(const cb_forecast_training *training, const cb_online_options *options, cb_adcsd *adcsd,
                                               int64_t nodes)
{
    cb_online what = (cb_online)options->online;
    const cb_series_format s = cb_model_series_format(training->model);
    cb_online_forecaster *f = cb_calloc(1, sizeof *f);
    if (!f)
        return NULL;
    *f = (cb_online_forecaster){.training = training, .options = *options, .adcsd = adcsd};
    bool corrects = what == CB_ONLINE_ADCSD || what == CB_ONLINE_BOTH, ok = true;
    if (corrects && !adcsd) {
        f->owned = true;
        f->adcsd = cb_adcsd_new(s.prediction, nodes, s.targets, &options->adcsd, (uint64_t)options->online_seed);
        ok = f->adcsd;
    }
    if (ok && (what == CB_ONLINE_FINETUNE || what == CB_ONLINE_BOTH))
        ok = cb_train_whole(&f->model, training->model, NULL, NULL, NULL, CB_F32);
    ok = ok && (what == CB_ONLINE_NONE || (list_parameters(f) && (f->optimizer = cb_adamw(f->count, f->parameters))));
    if (ok)
        return f;
    cb_online_forecaster_free(f);
    return NULL;
}

void cb_online_forecaster_free(cb_online_forecaster *f)
{
    if (!f)
        return;
    cb_optimizer_free(f->optimizer);
    cb_free(f->parameters);
    if (f->model.model)
        cb_train_whole_free(&f->model);
    if (f->owned)
        cb_adcsd_free(f->adcsd);
    cb_free(f);
}

cb_forecast_policy cb_online_forecaster_policy(cb_online_forecaster *forecaster)
{
    return (cb_forecast_policy){
        .forecast = forecast, .learn = forecaster->options.online == CB_ONLINE_NONE ? NULL : learn, .user = forecaster};
}

const cb_adcsd *cb_online_forecaster_adcsd(const cb_online_forecaster *forecaster)
{
    return forecaster->adcsd;
}

int64_t cb_online_forecaster_size(const cb_online_forecaster *forecaster)
{
    int64_t size = 0;
    for (size_t i = 0; i < forecaster->count; i++)
        size += forecaster->parameters[i]->count;
    return size;
}
