/* rotary_rows.h: the two orders in which rows of q and k projections are stored.
 *
 * Llama's own files and those of llama.cpp rotate neighbouring rows of a head, (0, 1), (2, 3), ...; Hugging Face rotates row j with row
 * j + H/2 (H head size).  So rows 2j and 2j + 1 of a head there are rows j and j + H/2 here. */
#ifndef CB_FORMATS_ROTARY_ROWS_H
#define CB_FORMATS_ROTARY_ROWS_H

#include <stddef.h>
#include <stdint.h>

/* Copies heads * head_size rows of row_bytes bytes, from neighbouring to half-split order.  head_size is even. */
void cb_rotary_rows_split(void *to, const void *from, int64_t heads, int64_t head_size, size_t row_bytes);
/* And back. */
void cb_rotary_rows_join(void *to, const void *from, int64_t heads, int64_t head_size, size_t row_bytes);

#endif
