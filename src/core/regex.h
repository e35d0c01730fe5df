/* regex.h: PCRE2 with the library's memory, so that what regular expressions take is counted, and can be refused, as all else is. */
#ifndef CB_CORE_REGEX_H
#define CB_CORE_REGEX_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "cambium/core.h"

/* What pcre2_..._create() functions take; free it with pcre2_general_context_free(), before or after what was made with it.  NULL with
 * CB_ERR_MEMORY when there is none. */
pcre2_general_context *cb_regex_memory(void);

#endif
