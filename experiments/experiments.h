/* experiments.h: the experiments that `cambium repro` runs: one file each, one line in list.c. */
#ifndef EXPERIMENTS_H
#define EXPERIMENTS_H

#include "cambium.h"

const cb_experiment *const *cb_experiments(void);          /* ends with NULL */
const cb_experiment *cb_experiment_find(const char *name); /* by name, or by its system's number; NULL with an error and close names */

/* One line each. */
extern const cb_experiment experiment_relaxed_recursive, experiment_dylora, experiment_llm_adapters, experiment_lora_lego,
    experiment_lt_sft, experiment_sentinellms, experiment_pego, experiment_small_models, experiment_hydra, experiment_adcsd,
    experiment_transfer_score, experiment_cotta, experiment_paretoda, experiment_adami, experiment_gdcan, experiment_streams,
    experiment_lftl;

#endif
