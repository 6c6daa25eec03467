/* The API described as OpenAPI 3.1, from the route table itself. */
#ifndef API_OPENAPI_H
#define API_OPENAPI_H

#include <jansson.h>

/* The caller owns the result. `url` may be NULL. */
json_t *openapi_json(const char *version, const char *url);

#endif
