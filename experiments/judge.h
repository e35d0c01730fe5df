/* judge.h: what experiments that classify share. */
#ifndef EXPERIMENTS_JUDGE_H
#define EXPERIMENTS_JUDGE_H

#include "cambium.h"

/* 1 for each row that the model labels rightly, else 0, into items (at most `most`); returns how many, 0 on failure. */
size_t judge_rows(cb_model *model, cb_dataset *data, size_t most, double *items);

/* The metrics of data with labels of any kind; items NULL: those alone, else of the first rows as above. */
bool judge_metrics(cb_model *model, cb_dataset *data, cb_metrics *metrics, size_t most, double *items, size_t *count);

#endif
