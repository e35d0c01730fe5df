/* list.c: the experiments, by the numbers of their systems; those about none are the last. */
#include <stdlib.h>
#include <string.h>

#include "experiments/experiments.h"

static const cb_experiment *const experiments[] = {&experiment_pego,         &experiment_relaxed_recursive,
                                                   &experiment_dylora,       &experiment_adcsd,
                                                   &experiment_hydra,        &experiment_lt_sft,
                                                   &experiment_llm_adapters, &experiment_lora_lego,
                                                   &experiment_small_models, &experiment_sentinellms,
                                                   &experiment_paretoda,     &experiment_adami,
                                                   &experiment_gdcan,        &experiment_transfer_score,
                                                   &experiment_cotta,        &experiment_streams,
                                                   &experiment_lftl,         NULL};

const cb_experiment *const *cb_experiments(void)
{
    return experiments;
}

const cb_experiment *cb_experiment_find(const char *name)
{
    const char *names[sizeof experiments / sizeof *experiments];
    size_t count = 0;
    char *end;
    long number = strtol(name, &end, 10);
    for (const cb_experiment *const *e = experiments; *e; e++) {
        if (strcmp((*e)->name, name) == 0 || (*name && !*end && number > 0 && (*e)->system == number))
            return *e;
        names[count++] = (*e)->name;
    }
    cb_string close = {0};
    cb_closest_names(name, names, count, 3, &close);
    cb_fail(CB_ERR_ARGUMENT, "there is no experiment %s%s%s", name, close.length ? "; close: " : "", close.length ? close.data : "");
    cb_string_free(&close);
    return NULL;
}
