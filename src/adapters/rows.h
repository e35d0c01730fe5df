/* rows.h: what kinds share that do something else for each row of a batch.  Which task a row is of is in tasks.h. */
#ifndef CB_ADAPTERS_ROWS_H
#define CB_ADAPTERS_ROWS_H

#include "cambium/adapters.h"

/* Columns first .. first + count - 1 of the conditions of `rows` rows, the tensors at hand, (rows, count) f32 without history; NULL without an
 * error: the pass has none. */
cb_tensor *cb_row_conditions(const cb_context *ctx, int64_t rows, int64_t first, int64_t count);
/* What is one thing for each row, (rows) or (rows, N), as a factor of `like` (rows, ..., M): (rows, 1, ..., N or 1), in its dtype. */
cb_tensor *cb_row_factor(cb_tensor *of_rows, const cb_tensor *like);

#endif
