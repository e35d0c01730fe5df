/* hash.h: cb_hash_text() of bytes. */
#ifndef CB_CORE_HASH_H
#define CB_CORE_HASH_H

#include <stddef.h>
#include <stdint.h>

uint64_t cb_hash_data(uint64_t hash, const void *bytes, size_t size);

#endif
