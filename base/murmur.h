/* MurmurHash3 (x86, 32 bits, seed 0), which the Iceberg specification wants for its buckets. */
#ifndef BASE_MURMUR_H
#define BASE_MURMUR_H

#include <stddef.h>
#include <stdint.h>

uint32_t murmur3_32(const void *data, size_t len);

#endif
