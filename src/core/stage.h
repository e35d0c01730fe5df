/* stage.h: a file or a directory of files that appears whole or not at all. */
#ifndef CB_CORE_STAGE_H
#define CB_CORE_STAGE_H

#include "cambium/core.h"

/* What is to be called `output`, which must not exist or be an empty directory, is made under cb_stage_path(), and commit gives it its
 * name.  Opening makes the parent directory, and the new directory when it is to be one, and removes what killed processes left
 * unfinished beside it. */
typedef struct cb_stage cb_stage;
cb_stage *cb_stage_open(const char *output, bool directory);
const char *cb_stage_path(const cb_stage *stage);
bool cb_stage_commit(cb_stage *stage); /* frees the stage, also on failure */
void cb_stage_abort(cb_stage *stage);  /* removes what was made, frees the stage; NULL is allowed */

/* What opening does first: removes the unfinished results, NAME.partial-PROCESS, of dead processes beside `output`. */
void cb_stage_sweep(const char *output);

#endif
