/* Every table of routes there is. The first match wins. */
#include "api/api.h"
#include "api/page.h"
#include "api/route.h"

/* api/catalog/routes.c: the Iceberg REST catalog */
extern const struct route catalog_routes[];
extern const size_t catalog_routes_count;
/* api/catalog/browse.c: its tables for people */
extern const struct route browse_routes[];
extern const size_t browse_routes_count;
/* api/catalog/compare.c, undo.c: what runs wrote to them */
extern const struct route compare_routes[];
extern const size_t compare_routes_count;
extern const struct route undo_routes[];
extern const size_t undo_routes_count;

/* clang-format off */
const struct route_table route_tables[] = {
	{ runs_routes, &runs_routes_count },     { flows_routes, &flows_routes_count },   { logs_routes, &logs_routes_count },
	{ events_routes, &events_routes_count }, { sql_routes, &sql_routes_count },       { system_routes, &system_routes_count },
	{ catalog_routes, &catalog_routes_count }, { browse_routes, &browse_routes_count }, { undo_routes, &undo_routes_count },
	{ compare_routes, &compare_routes_count }, { shadow_routes, &shadow_routes_count },
	{ artifacts_routes, &artifacts_routes_count }, { page_routes, &page_routes_count },
};
/* clang-format on */
const size_t route_tables_count = sizeof(route_tables) / sizeof(route_tables[0]);
