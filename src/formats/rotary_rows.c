/* rotary_rows.c: rows of q and k from one rotary order to the other. */
#include "formats/rotary_rows.h"

#include <string.h>

#include "core/rehearsal.h"

static void move(char *to, const char *from, int64_t heads, int64_t head_size, size_t row_bytes, bool split)
{
    size_t half = (size_t)head_size / 2, head_bytes = (size_t)head_size * row_bytes;
    if (cb_rehearsing()) {
        cb_rehearsal_read(from, (size_t)heads * head_bytes);
        return;
    }
    for (int64_t head = 0; head < heads; head++, from += head_bytes, to += head_bytes)
        for (size_t j = 0; j < half; j++)
            for (size_t k = 0; k < 2; k++) {
                size_t near = (2 * j + k) * row_bytes, far = (j + k * half) * row_bytes;
                memcpy(to + (split ? far : near), from + (split ? near : far), row_bytes);
            }
}

void cb_rotary_rows_split(void *to, const void *from, int64_t heads, int64_t head_size, size_t row_bytes)
{
    move(to, from, heads, head_size, row_bytes, true);
}

void cb_rotary_rows_join(void *to, const void *from, int64_t heads, int64_t head_size, size_t row_bytes)
{
    move(to, from, heads, head_size, row_bytes, false);
}
