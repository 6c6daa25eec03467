/* SHA-256 (FIPS 180-4), for naming things by content and for storing tokens; our own, so that the base links no crypto library.
 */
#ifndef BASE_SHA256_H
#define BASE_SHA256_H

#include <stddef.h>

#define SHA256_HEX 65

/* The digest as lower-case hex with a terminating zero byte. */
void sha256_hex(const void *data, size_t len, char out[SHA256_HEX]);

#endif
