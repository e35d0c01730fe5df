/* base64.h: RFC 4648 section 4, with padding. */
#ifndef CB_CORE_BASE64_H
#define CB_CORE_BASE64_H

#include "cambium/core.h"

bool cb_base64_encode(const void *bytes, size_t length, cb_string *out);
/* Free the result with cb_free(); NULL and CB_ERR_FORMAT when `text` is not base64 (the message begins with `what`). */
uint8_t *cb_base64_decode(const char *what, const char *text, size_t length, size_t *out_length);

#endif
