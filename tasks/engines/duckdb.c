#include "tasks/engines/duckdb.h"

#include <dlfcn.h>
#include <duckdb.h>
#include <fcntl.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/murmur.h"
#include "tasks/engines/duckdb_int.h"
#include "tasks/engines/installed.h"
#include "tasks/engines/reads.h"
#include "tasks/spent.h"

/* The library has these, its header of the release before does not. */
typedef struct duck_log_storage *duckdb_log_storage;
typedef void (*duck_log_fn)(void *arg, duckdb_timestamp *at, const char *level, const char *type, const char *message);
duckdb_log_storage duckdb_create_log_storage(void);
void duckdb_destroy_log_storage(duckdb_log_storage *storage);
void duckdb_log_storage_set_name(duckdb_log_storage storage, const char *name);
void duckdb_log_storage_set_write_log_entry(duckdb_log_storage storage, duck_log_fn fn);
duckdb_state duckdb_register_log_storage(duckdb_database db, duckdb_log_storage storage);

/* What is used of the C API; called through this table, since the library is mapped at run time. */
/* clang-format off */
#define DUCK_API(X)                                                                                                              \
	X(create_config)                                                                                                         \
	X(set_config)                                                                                                            \
	X(destroy_config)                                                                                                        \
	X(open_ext)                                                                                                              \
	X(close)                                                                                                                 \
	X(connect)                                                                                                               \
	X(disconnect)                                                                                                            \
	X(query)                                                                                                                 \
	X(destroy_result)                                                                                                        \
	X(result_error)                                                                                                          \
	X(column_count)                                                                                                          \
	X(column_name)                                                                                                           \
	X(column_type)                                                                                                           \
	X(row_count)                                                                                                             \
	X(value_varchar)                                                                                                         \
	X(value_is_null)                                                                                                         \
	X(value_int64)                                                                                                           \
	X(value_double)                                                                                                          \
	X(value_boolean)                                                                                                         \
	X(prepare)                                                                                                               \
	X(create_logical_type)                                                                                                   \
	X(destroy_logical_type)                                                                                                  \
	X(create_scalar_function)                                                                                                \
	X(destroy_scalar_function)                                                                                               \
	X(scalar_function_set_name)                                                                                              \
	X(scalar_function_add_parameter)                                                                                         \
	X(scalar_function_set_return_type)                                                                                       \
	X(scalar_function_set_function)                                                                                          \
	X(scalar_function_set_extra_info)                                                                                        \
	X(scalar_function_get_extra_info)                                                                                        \
	X(scalar_function_set_special_handling)                                                                                  \
	X(scalar_function_set_error)                                                                                             \
	X(register_scalar_function)                                                                                              \
	X(get_profiling_info)                                                                                                    \
	X(profiling_info_get_value)                                                                                              \
	X(profiling_info_get_child_count)                                                                                        \
	X(profiling_info_get_child)                                                                                              \
	X(create_log_storage)                                                                                                    \
	X(destroy_log_storage)                                                                                                   \
	X(log_storage_set_name)                                                                                                  \
	X(log_storage_set_write_log_entry)                                                                                       \
	X(register_log_storage)                                                                                                  \
	X(data_chunk_get_size)                                                                                                   \
	X(data_chunk_get_vector)                                                                                                 \
	X(vector_get_data)                                                                                                       \
	X(vector_get_validity)                                                                                                   \
	X(validity_row_is_valid)                                                                                                 \
	X(vector_assign_string_element)                                                                                          \
	X(string_t_data)                                                                                                         \
	X(string_t_length)                                                                                                       \
	X(prepare_error)                                                                                                         \
	X(destroy_prepare)                                                                                                       \
	X(result_get_chunk)                                                                                                      \
	X(destroy_data_chunk)                                                                                                    \
	X(data_chunk_get_column_count)                                                                                           \
	X(vector_get_column_type)                                                                                                \
	X(vector_ensure_validity_writable)                                                                                       \
	X(validity_set_row_invalid)                                                                                              \
	X(list_vector_get_child)                                                                                                 \
	X(struct_vector_get_child)                                                                                               \
	X(struct_type_child_count)                                                                                               \
	X(struct_type_child_name)                                                                                                \
	X(get_type_id)                                                                                                           \
	X(get_table_names)                                                                                                       \
	X(get_list_size)                                                                                                         \
	X(get_list_child)                                                                                                        \
	X(get_varchar)                                                                                                           \
	X(destroy_value)                                                                                                         \
	X(free)
/* clang-format on */

static struct {
#define X(name) __typeof__(&duckdb_##name) name;
	DUCK_API(X)
#undef X
} api;

static void *duck_lib;
static char *duck_libdir, *duck_missing; /* why there is no duck_lib */
static const char *const duck_extensions[] = { "avro", "httpfs", "iceberg" };

struct duck {
	duckdb_database db;
	duckdb_connection con;
	size_t loaded; /* how many of duck_extensions */
	bool hashes;   /* duck_add_hash was here */
};

struct duck_result {
	duckdb_result res;
};

/*
 * What the dynamic linker read while mapping (symbol tables, relocations) would count as ours for life: 18 MB for nothing. These
 * pages are clean and stay in the page cache; children never inherit such mappings' page tables, so they lose nothing.
 */
static int
pages_forget(struct dl_phdr_info *info, size_t size, void *arg)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE) - 1;

	(void)size;
	(void)arg;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
		uintptr_t from = info->dlpi_addr + ph->p_vaddr, to = from + ph->p_filesz;

		if (ph->p_type != PT_LOAD || (ph->p_flags & PF_W))
			continue;
		from = (from + page) & ~page; /* only whole pages: a neighbour may be written to */
		to &= ~page;
		if (from < to)
			madvise((void *)from, to - from, MADV_DONTNEED);
	}
	return 0;
}

int
duck_preload(const char *libdir, char **why)
{
	char *path;

	if (duck_lib)
		return 0;
	if (installed_check(libdir, why) < 0) {
		duck_missing = xstrdup(*why);
		return -1;
	}
	path = xasprintf("%s/libduckdb.so", libdir);
	duck_lib = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
	free(path);
	if (duck_lib == NULL) {
		free(*why);
		*why = xasprintf("%s; `make deps` installs it", dlerror());
		duck_missing = xstrdup(*why);
		return -1;
	}
#define X(name)                                                                                                                  \
	*(void **)&api.name = dlsym(duck_lib, "duckdb_" #name);                                                                  \
	if (api.name == NULL) {                                                                                                  \
		*why = xasprintf("libduckdb in %s has no duckdb_" #name, libdir);                                                \
		return -1;                                                                                                       \
	}
	DUCK_API(X)
#undef X
	duck_libdir = xstrdup(libdir);
	/* Mapped here once, an extension's LOAD in a child finds it there. One that is missing is reported when it is needed. */
	for (size_t i = 0; i < sizeof(duck_extensions) / sizeof(duck_extensions[0]); i++) {
		path = xasprintf("%s/%s.duckdb_extension", libdir, duck_extensions[i]);
		dlopen(path, RTLD_NOW | RTLD_LOCAL);
		free(path);
	}
	dl_iterate_phdr(pages_forget, NULL);
	return 0;
}

/* ---- life ---- */

static int duck_start(struct duck **out, struct err *e);
static int duck_load(struct duck *db, size_t i, struct err *e);

/* A database that was opened before anybody asked for it. */
static struct duck *duck_opened;

/*
 * What tasks do, with a file in memory: it pages the code in and has the engine make what it makes at first use. Nothing of it
 * is left but that.
 */
#define EXERCISE_FD   200 /* closed before the task begins */
#define EXERCISE_FILE "/proc/self/fd/200"
static const char *const duck_exercises[] = {
	"CREATE TEMP TABLE sluice_warm AS SELECT a, string_agg(DISTINCT b, ';') AS b FROM read_csv(['" EXERCISE_FILE
	"'], auto_detect = "
	"false, "
	"header = true, strict_mode = true, delim = ',', quote = '\"', escape = '\"', columns = {'a': 'VARCHAR', 'b': "
	"'VARCHAR'}) "
	"WHERE a <> '' GROUP BY ALL ORDER BY a",
	"COPY (SELECT * FROM sluice_warm) TO '" EXERCISE_FILE
	"' (FORMAT parquet, COMPRESSION zstd, USE_TMP_FILE false, FIELD_IDS {a: 1, b: "
	"2})",
	"SELECT path_in_schema, sum(num_values) FROM parquet_metadata('" EXERCISE_FILE "') GROUP BY ALL ORDER BY 1",
	"DESCRIBE (SELECT b, count(*), row(b) FROM read_parquet(['" EXERCISE_FILE
	"']) WHERE a IS NOT NULL GROUP BY b HAVING count(*) > 0)",
	"SELECT b, count(*), row(b) FROM read_parquet(['" EXERCISE_FILE
	"']) WHERE a IS NOT NULL GROUP BY b HAVING count(*) > 0 ORDER BY b",
	"COPY (SELECT a, {'b': b, 'm': MAP {1: 2::BIGINT}} AS s FROM sluice_warm) TO '" EXERCISE_FILE
	"' (FORMAT avro, USE_TMP_FILE false, "
	"ROOT_NAME 'r', FIELD_IDS {a: 1, s: {__duckdb_field_id: 2, b: 3, m: {__duckdb_field_id: 4, key: 5, value: 6}}})",
	"SELECT * FROM read_avro('" EXERCISE_FILE "')",
	"DROP TABLE sluice_warm",
};

static void
duck_exercise(struct duck *db)
{
	static const char rows[] = "a,b\n1,x\n2,y\n";
	struct err e = { 0 };
	int fd = memfd_create("sluice-warm", MFD_CLOEXEC);

	if (fd >= 0 && dup3(fd, EXERCISE_FD, O_CLOEXEC) == EXERCISE_FD && write(fd, rows, sizeof(rows) - 1) == sizeof(rows) - 1)
		for (size_t i = 0; i < sizeof(duck_exercises) / sizeof(duck_exercises[0]); i++)
			if (duck_exec(db, duck_exercises[i], &e) < 0)
				err_release(&e);
	close(fd);
	close(EXERCISE_FD);
}

bool
duck_warm(size_t step)
{
	const size_t extensions = sizeof(duck_extensions) / sizeof(duck_extensions[0]);
	struct err e = { 0 };
	int rc = -1;

	if (step == 0)
		rc = duck_start(&duck_opened, &e);
	else if (step <= extensions)
		rc = duck_load(duck_opened, step - 1, &e);
	else
		duck_exercise(duck_opened);
	err_release(&e);
	return rc == 0;
}

struct duck *
duck_warmed(void)
{
	return duck_opened;
}

/* Gives the database its options; those of other engines are not for it. */
static int
duck_settle(struct duck *db, const json_t *options, const char *scratch, struct err *e)
{
	static const char *const names[] = { "memory_limit", "threads" };
	struct buf b = BUF_INIT;
	json_t *value;
	char *text;
	int rc;

	buf_adds(&b, "SET GLOBAL temp_directory = ");
	buf_add_sql_string(&b, scratch);
	rc = duck_exec(db, b.s, e);
	for (size_t i = 0; rc == 0 && i < sizeof(names) / sizeof(names[0]); i++) {
		if ((value = json_object_get(options, names[i])) == NULL)
			continue;
		text = json_is_string(value) ? xstrdup(json_string_value(value)) : json_dumps(value, JSON_ENCODE_ANY);
		buf_clear(&b);
		buf_addf(&b, "SET GLOBAL %s = ", names[i]);
		buf_add_sql_string(&b, text);
		rc = duck_exec(db, b.s, e);
		if (rc < 0) {
			err_release(e);
			rc = err_set(e, ERR_INVALID, "engine_options.%s: DuckDB does not take \"%s\"", names[i], text);
		}
		free(text);
	}
	buf_release(&b);
	return rc;
}

int
duck_open(const json_t *options, const char *scratch, struct duck **out, struct err *e)
{
	struct duck *db = duck_opened;

	duck_opened = NULL;
	if (db == NULL && duck_start(&db, e) < 0)
		return -1;
	*out = db;
	return duck_settle(db, options, scratch, e);
}

static void
on_log(void *arg, duckdb_timestamp *at, const char *level, const char *type, const char *message)
{
	(void)arg;
	(void)at;
	(void)level;
	(void)type;
	reads_note(message);
}

/* Settings that every database has; what the engine reads is told to reads.c. */
static int
duck_prepare(struct duck *db, struct err *e)
{
	duckdb_log_storage log = api.create_log_storage();
	bool failed;

	api.log_storage_set_name(log, "sluice");
	api.log_storage_set_write_log_entry(log, on_log);
	failed = api.register_log_storage(db->db, log) == DuckDBError;
	api.destroy_log_storage(&log);
	if (failed)
		return err_set(e, ERR_INTERNAL, "DuckDB does not take a place for its log");
	return duck_exec(db,
			 "SET TimeZone = 'UTC'; SET logging_storage = 'sluice'; SET logging_mode = 'enable_selected'; "
			 "SET enabled_log_types = 'FileSystem'; SET logging_level = 'trace'; SET enable_logging = true",
			 e);
}

static int
duck_start(struct duck **out, struct err *e)
{
	struct duck *db;
	duckdb_config config = NULL;
	char *why = NULL;
	int rc = 0;

	if (duck_lib == NULL)
		return err_set(e, ERR_UNAVAILABLE, "the engine is not loaded: %s",
			       duck_missing ? duck_missing : "it is not installed");
	db = xcalloc(1, sizeof(*db));
	api.create_config(&config);
	/* Signatures are checked when the files are installed (SHA-256), not in every child. */
	api.set_config(config, "allow_unsigned_extensions", "true");
	api.set_config(config, "autoinstall_known_extensions", "false");
	if (api.open_ext(NULL, &db->db, config, &why) == DuckDBError)
		rc = err_set(e, ERR_INTERNAL, "DuckDB does not start: %s", why ? why : "unknown");
	if (why)
		api.free(why);
	api.destroy_config(&config);
	if (rc == 0 && api.connect(db->db, &db->con) == DuckDBError)
		rc = err_set(e, ERR_INTERNAL, "DuckDB does not connect");
	if (rc < 0) {
		duck_close(db);
		return rc;
	}
	*out = db;
	return duck_prepare(db, e);
}

void
duck_close(struct duck *db)
{
	if (db == NULL)
		return;
	if (db->con)
		api.disconnect(&db->con);
	if (db->db)
		api.close(&db->db);
	free(db);
}

static int
duck_load(struct duck *db, size_t i, struct err *e)
{
	int rc = duck_execf(db, e, "LOAD '%s/%s.duckdb_extension'", duck_libdir, duck_extensions[i]);

	db->loaded = rc == 0 ? i + 1 : db->loaded;
	return rc;
}

int
duck_load_iceberg(struct duck *db, struct err *e)
{
	enum spent part = spent_enter(SPENT_LOAD);
	int rc = 0;

	for (size_t i = db->loaded; rc == 0 && i < sizeof(duck_extensions) / sizeof(duck_extensions[0]); i++)
		rc = duck_load(db, i, e);
	spent_leave(part);
	return rc;
}

int
duck_load_delta(struct duck *db, struct err *e)
{
	enum spent part = spent_enter(SPENT_LOAD);
	int rc = duck_execf(db, e, "LOAD '%s/delta.duckdb_extension'", duck_libdir);

	spent_leave(part);
	return rc;
}

int
duck_load_scanner(struct duck *db, const char *format, struct err *e)
{
	enum spent part = spent_enter(SPENT_LOAD);
	int rc = duck_execf(db, e, "LOAD '%s/%s_scanner.duckdb_extension'", duck_libdir, format);

	spent_leave(part);
	return rc;
}

void *
duck_symbol(const char *name)
{
	void *found = dlsym(duck_lib, name);

	if (found == NULL)
		BUG("libduckdb has no %s", name);
	return found;
}

duckdb_connection
duck_connection(const struct duck *db)
{
	return db->con;
}

struct duck *
duck_beside(struct duck *db, struct err *e)
{
	struct duck *out = xcalloc(1, sizeof(*out));

	if (api.connect(db->db, &out->con) != DuckDBError)
		return out;
	free(out);
	err_set(e, ERR_INTERNAL, "DuckDB does not connect a second time");
	return NULL;
}

/* ---- functions of ours ---- */

#define PARAMS_MAX 4

struct text_function {
	duck_text_fn fn;
	size_t params;
};

/* The text of a cell, NULL for SQL NULL; the caller frees it. */
static char *
cell_text(duckdb_vector v, idx_t row)
{
	uint64_t *valid = api.vector_get_validity(v);
	duckdb_string_t *s = api.vector_get_data(v);

	if (valid && !api.validity_row_is_valid(valid, row))
		return NULL;
	return xstrndup(api.string_t_data(&s[row]), api.string_t_length(s[row]));
}

static void
on_text_function(duckdb_function_info info, duckdb_data_chunk in, duckdb_vector out)
{
	const struct text_function *f = api.scalar_function_get_extra_info(info);
	struct err e = { 0 };

	for (idx_t row = 0; row < api.data_chunk_get_size(in) && e.code == 0; row++) {
		char *args[PARAMS_MAX], *answer;

		for (size_t i = 0; i < f->params; i++)
			args[i] = cell_text(api.data_chunk_get_vector(in, i), row);
		answer = f->fn((const char *const *)args, &e);
		if (answer)
			api.vector_assign_string_element(out, row, answer);
		free(answer);
		for (size_t i = 0; i < f->params; i++)
			free(args[i]);
	}
	if (e.code)
		api.scalar_function_set_error(info, e.msg);
	err_release(&e);
}

int
duck_function(struct duck *db, const char *name, size_t params, duck_text_fn fn, struct err *e)
{
	duckdb_scalar_function f = api.create_scalar_function();
	duckdb_logical_type text = api.create_logical_type(DUCKDB_TYPE_VARCHAR);
	struct text_function *own = xcalloc(1, sizeof(*own));
	bool failed;

	if (params > PARAMS_MAX)
		BUG("a function of more than %d texts", PARAMS_MAX);
	own->fn = fn;
	own->params = params;
	api.scalar_function_set_name(f, name);
	for (size_t i = 0; i < params; i++)
		api.scalar_function_add_parameter(f, text);
	api.scalar_function_set_return_type(f, text);
	api.scalar_function_set_extra_info(f, own, free);
	api.scalar_function_set_special_handling(f); /* NULL is an argument like others */
	api.scalar_function_set_function(f, on_text_function);
	failed = api.register_scalar_function(db->con, f) == DuckDBError;
	api.destroy_scalar_function(&f);
	api.destroy_logical_type(&text);
	return failed ? err_set(e, ERR_INTERNAL, "DuckDB does not take the function %s", name) : 0;
}

/* ---- statements ---- */

/* DuckDB's messages: a first part that says what, then an excerpt with a caret. Keeps the first part. */
static int
duck_error(struct err *e, const char *msg, int *line, int *col)
{
	const char *at = strstr(msg, "\nLINE "), *caret, *end = at ? at : msg + strlen(msg);
	int n = 0;

	if (at && sscanf(at, "\nLINE %d: ", &n) == 1 && line) {
		const char *text = strstr(at, ": ") + 2, *nl = strchr(text, '\n');

		*line = n;
		caret = nl ? strchr(nl, '^') : NULL;
		/* An excerpt that begins with dots was cut at the left: its column says nothing. */
		if (caret && strncmp(text, "...", 3) != 0)
			*col = (int)((caret - nl - 1) - (text - at - 1)) + 1;
	}
	/* The CSV reader adds advice on options that a flow does not have, and all of its settings. */
	if (strstr(msg, "\n\nPossible Solution:"))
		end = strstr(msg, "\n\nPossible Solution:");
	while (end > msg && (end[-1] == '\n' || end[-1] == ' '))
		end--;
	return err_set(e, ERR_UNPROCESSABLE, "%.*s", (int)(end - msg), msg);
}

int
duck_exec(struct duck *db, const char *sql, struct err *e)
{
	struct duck_result *r = duck_query(db, sql, e);

	if (r == NULL)
		return e->code;
	duck_result_free(r);
	return 0;
}

int
duck_execf(struct duck *db, struct err *e, const char *fmt, ...)
{
	va_list ap;
	char *sql;
	int rc;

	va_start(ap, fmt);
	sql = xvasprintf(fmt, ap);
	va_end(ap);
	rc = duck_exec(db, sql, e);
	free(sql);
	return rc;
}

struct duck_result *
duck_query(struct duck *db, const char *sql, struct err *e)
{
	struct duck_result *r = xcalloc(1, sizeof(*r));
	enum spent part = spent_enter(SPENT_SQL);
	mono_us began = clock_mono();
	bool failed;

	failed = api.query(db->con, sql, &r->res) == DuckDBError;
	if (getenv("SLUICE_TRACE_SQL") && strstr(sql, " SECRET ") == NULL)
		fprintf(stderr, "sql, %.2f ms: %s\n", (double)(clock_mono() - began) / US_PER_MS, sql);
	spent_leave(part);
	if (failed) {
		const char *msg = api.result_error(&r->res);

		duck_error(e, msg ? msg : "DuckDB failed without a reason", NULL, NULL);
		duck_result_free(r);
		return NULL;
	}
	return r;
}

/* What the engine measured at an operator of its plan, as text; NULL when it has no such value. The caller frees it. */
static char *
measured(duckdb_profiling_info operator, const char * what)
{
	duckdb_value value = api.profiling_info_get_value(operator, what);
	char *theirs = value ? api.get_varchar(value) : NULL, *ours = theirs ? xstrdup(theirs) : NULL;

	api.free(theirs);
	if (value)
		api.destroy_value(&value);
	return ours;
}

static int64_t
most_scanned(duckdb_profiling_info operator)
{
	char *type = measured(operator, "OPERATOR_TYPE"), *rows = NULL;
	int64_t most = 0, n;

	if (type && strcmp(type, "TABLE_SCAN") == 0)
		rows = measured(operator, "OPERATOR_CARDINALITY");
	if (rows)
		most = strtoll(rows, NULL, 10);
	free(type);
	free(rows);
	for (idx_t i = 0; i < api.profiling_info_get_child_count(operator); i++)
		if ((n = most_scanned(api.profiling_info_get_child(operator, i))) > most)
			most = n;
	return most;
}

struct duck_result *
duck_query_counted(struct duck *db, const char *sql, int64_t *scanned, struct err *e)
{
	duckdb_profiling_info plan;
	struct duck_result *r;

	if (duck_exec(db, "SET enable_profiling = 'no_output'", e) < 0 || (r = duck_query(db, sql, e)) == NULL)
		return NULL;
	plan = api.get_profiling_info(db->con);
	*scanned = plan ? most_scanned(plan) : 0;
	return r;
}

void
duck_result_free(struct duck_result *r)
{
	if (r == NULL)
		return;
	api.destroy_result(&r->res);
	free(r);
}

size_t
duck_rows(const struct duck_result *r)
{
	return api.row_count((duckdb_result *)(uintptr_t)&r->res);
}

size_t
duck_cols(const struct duck_result *r)
{
	return api.column_count((duckdb_result *)(uintptr_t)&r->res);
}

const char *
duck_col_name(const struct duck_result *r, size_t col)
{
	return api.column_name((duckdb_result *)(uintptr_t)&r->res, col);
}

const char *
duck_col_type(const struct duck_result *r, size_t col)
{
	static const struct {
		duckdb_type type;
		const char *name;
	} names[] = {
		{ DUCKDB_TYPE_BOOLEAN, "BOOLEAN" },
		{ DUCKDB_TYPE_TINYINT, "TINYINT" },
		{ DUCKDB_TYPE_SMALLINT, "SMALLINT" },
		{ DUCKDB_TYPE_INTEGER, "INTEGER" },
		{ DUCKDB_TYPE_BIGINT, "BIGINT" },
		{ DUCKDB_TYPE_UTINYINT, "UTINYINT" },
		{ DUCKDB_TYPE_USMALLINT, "USMALLINT" },
		{ DUCKDB_TYPE_UINTEGER, "UINTEGER" },
		{ DUCKDB_TYPE_UBIGINT, "UBIGINT" },
		{ DUCKDB_TYPE_HUGEINT, "HUGEINT" },
		{ DUCKDB_TYPE_FLOAT, "FLOAT" },
		{ DUCKDB_TYPE_DOUBLE, "DOUBLE" },
		{ DUCKDB_TYPE_DECIMAL, "DECIMAL" },
		{ DUCKDB_TYPE_DATE, "DATE" },
		{ DUCKDB_TYPE_TIME, "TIME" },
		{ DUCKDB_TYPE_TIMESTAMP, "TIMESTAMP" },
		{ DUCKDB_TYPE_TIMESTAMP_TZ, "TIMESTAMP WITH TIME ZONE" },
		{ DUCKDB_TYPE_INTERVAL, "INTERVAL" },
		{ DUCKDB_TYPE_VARCHAR, "VARCHAR" },
		{ DUCKDB_TYPE_BLOB, "BLOB" },
		{ DUCKDB_TYPE_UUID, "UUID" },
		{ DUCKDB_TYPE_LIST, "LIST" },
		{ DUCKDB_TYPE_STRUCT, "STRUCT" },
		{ DUCKDB_TYPE_MAP, "MAP" },
	};
	duckdb_type type = api.column_type((duckdb_result *)(uintptr_t)&r->res, col);

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (names[i].type == type)
			return names[i].name;
	return "OTHER";
}

char *
duck_text(struct duck_result *r, size_t row, size_t col)
{
	char *theirs, *ours;

	if (api.value_is_null(&r->res, col, row))
		return NULL;
	theirs = api.value_varchar(&r->res, col, row);
	ours = xstrdup(theirs ? theirs : "");
	api.free(theirs);
	return ours;
}

int64_t
duck_int(struct duck_result *r, size_t row, size_t col)
{
	return api.value_int64(&r->res, col, row);
}

json_t *
duck_json(struct duck_result *r, size_t row, size_t col)
{
	json_t *value;
	char *text;

	if (api.value_is_null(&r->res, col, row))
		return json_null();
	switch (api.column_type(&r->res, col)) {
	case DUCKDB_TYPE_BOOLEAN:
		return json_boolean(api.value_boolean(&r->res, col, row));
	case DUCKDB_TYPE_TINYINT:
	case DUCKDB_TYPE_SMALLINT:
	case DUCKDB_TYPE_INTEGER:
	case DUCKDB_TYPE_BIGINT:
	case DUCKDB_TYPE_UTINYINT:
	case DUCKDB_TYPE_USMALLINT:
	case DUCKDB_TYPE_UINTEGER:
		return json_integer(api.value_int64(&r->res, col, row));
	case DUCKDB_TYPE_FLOAT:
	case DUCKDB_TYPE_DOUBLE:
		value = json_real(api.value_double(&r->res, col, row));
		if (value)
			return value;
		break; /* infinity and NaN are text in JSON */
	default:
		break;
	}
	text = duck_text(r, row, col);
	/* A whole number of a wide type stays a number while it fits. */
	if (text &&
	    (api.column_type(&r->res, col) == DUCKDB_TYPE_HUGEINT || api.column_type(&r->res, col) == DUCKDB_TYPE_UBIGINT) &&
	    strlen(text) < 19)
		value = json_integer(strtoll(text, NULL, 10));
	else
		value = json_string(text ? text : "");
	if (value == NULL)
		value = json_string("(not valid UTF-8)");
	free(text);
	return value;
}

/* ---- nested answers ---- */

static json_t *duck_cell(duckdb_vector v, duckdb_logical_type type, idx_t row);

static json_t *
duck_string_cell(duckdb_vector v, idx_t row)
{
	const duckdb_string_t *s = &((const duckdb_string_t *)api.vector_get_data(v))[row];
	size_t len = s->value.inlined.length;
	json_t *text = json_stringn(len <= 12 ? s->value.inlined.inlined : s->value.pointer.ptr, len);

	return text ? text : json_null(); /* not UTF-8 */
}

/* A list's elements, or a map's entries: as an object, for all our maps have text as keys. */
static json_t *
duck_list_cell(duckdb_vector v, idx_t row, bool map)
{
	const duckdb_list_entry *entry = &((const duckdb_list_entry *)api.vector_get_data(v))[row];
	duckdb_vector child = api.list_vector_get_child(v);
	duckdb_logical_type type = api.vector_get_column_type(child);
	json_t *out = map ? json_object() : json_array();

	for (idx_t i = entry->offset; i < entry->offset + entry->length; i++) {
		json_t *cell = duck_cell(child, type, i);

		if (map) {
			const char *key = json_string_value(json_object_get(cell, "key"));

			if (key)
				json_object_set(out, key, json_object_get(cell, "value"));
			json_decref(cell);
		} else {
			json_array_append_new(out, cell);
		}
	}
	api.destroy_logical_type(&type);
	return out;
}

static json_t *
duck_struct_cell(duckdb_vector v, duckdb_logical_type type, idx_t row)
{
	idx_t n = api.struct_type_child_count(type);
	json_t *out = json_object();

	for (idx_t i = 0; i < n; i++) {
		duckdb_vector child = api.struct_vector_get_child(v, i);
		duckdb_logical_type child_type = api.vector_get_column_type(child);
		char *name = api.struct_type_child_name(type, i);

		json_object_set_new(out, name, duck_cell(child, child_type, row));
		api.free(name);
		api.destroy_logical_type(&child_type);
	}
	return out;
}

static json_t *
duck_cell(duckdb_vector v, duckdb_logical_type type, idx_t row)
{
	uint64_t *validity = api.vector_get_validity(v);
	void *data = api.vector_get_data(v);

	if (validity && !api.validity_row_is_valid(validity, row))
		return json_null();
	switch (api.get_type_id(type)) {
	case DUCKDB_TYPE_BOOLEAN:
		return json_boolean(((bool *)data)[row]);
	case DUCKDB_TYPE_INTEGER:
		return json_integer(((int32_t *)data)[row]);
	case DUCKDB_TYPE_BIGINT:
		return json_integer(((int64_t *)data)[row]);
	case DUCKDB_TYPE_UBIGINT:
		return json_integer((json_int_t)((uint64_t *)data)[row]);
	case DUCKDB_TYPE_VARCHAR:
		return duck_string_cell(v, row);
	case DUCKDB_TYPE_LIST:
		return duck_list_cell(v, row, false);
	case DUCKDB_TYPE_MAP:
		return duck_list_cell(v, row, true);
	case DUCKDB_TYPE_STRUCT:
		return duck_struct_cell(v, type, row);
	default:
		return json_null();
	}
}

json_t *
duck_query_json(struct duck *db, const char *sql, struct err *e)
{
	struct duck_result *r = duck_query(db, sql, e);
	json_t *rows, *row;

	if (r == NULL)
		return NULL;
	rows = json_array();
	for (idx_t c = 0;; c++) {
		duckdb_data_chunk chunk = api.result_get_chunk(r->res, c);

		if (chunk == NULL)
			break;
		for (idx_t i = 0; i < api.data_chunk_get_size(chunk); i++) {
			json_array_append_new(rows, row = json_array());
			for (idx_t k = 0; k < api.data_chunk_get_column_count(chunk); k++) {
				duckdb_vector v = api.data_chunk_get_vector(chunk, k);
				duckdb_logical_type type = api.vector_get_column_type(v);

				json_array_append_new(row, duck_cell(v, type, i));
				api.destroy_logical_type(&type);
			}
		}
		api.destroy_data_chunk(&chunk);
	}
	duck_result_free(r);
	return rows;
}

/* ---- the hash of Iceberg's buckets ---- */

/* Gives each value that is there its hash; `size` is that of a value in its vector. */
static void
hash_each(duckdb_data_chunk in, duckdb_vector out, size_t size, int32_t (*hash)(const void *value))
{
	duckdb_vector v = api.data_chunk_get_vector(in, 0);
	const char *values = api.vector_get_data(v);
	uint64_t *validity = api.vector_get_validity(v);
	int32_t *hashes = api.vector_get_data(out);

	for (idx_t i = 0; i < api.data_chunk_get_size(in); i++) {
		if (validity && !api.validity_row_is_valid(validity, i)) {
			api.vector_ensure_validity_writable(out);
			api.validity_set_row_invalid(api.vector_get_validity(out), i);
			continue;
		}
		hashes[i] = hash(values + i * size);
	}
}

static int32_t
hash_blob(const void *value)
{
	const duckdb_string_t *s = value;
	size_t len = s->value.inlined.length;

	return (int32_t)murmur3_32(len <= 12 ? s->value.inlined.inlined : s->value.pointer.ptr, len);
}

static int32_t
hash_number(const void *value)
{
	return (int32_t)murmur3_32(value, sizeof(int64_t));
}

static int32_t
hash_decimal(const void *value)
{
	const duckdb_hugeint *h = value;
	__int128 n = (__int128)h->upper << 64 | h->lower;
	unsigned char bytes[16];
	size_t len = 16;

	while (len > 1 && n >> (8 * (len - 1) - 1) == (n < 0 ? -1 : 0))
		len--;
	for (size_t k = 0; k < len; k++)
		bytes[k] = (unsigned char)(n >> (8 * (len - 1 - k)));
	return (int32_t)murmur3_32(bytes, len);
}

/* As the table specification wants it, of the bytes that a value is there. */
static void
hash_blobs(duckdb_function_info info, duckdb_data_chunk in, duckdb_vector out)
{
	(void)info;
	hash_each(in, out, sizeof(duckdb_string_t), hash_blob);
}

/* Of a number's eight bytes, the lowest first. */
static void
hash_numbers(duckdb_function_info info, duckdb_data_chunk in, duckdb_vector out)
{
	(void)info;
	hash_each(in, out, sizeof(int64_t), hash_number);
}

/* Of a number's bytes, the highest first, as few as it takes. */
static void
hash_decimals(duckdb_function_info info, duckdb_data_chunk in, duckdb_vector out)
{
	(void)info;
	hash_each(in, out, sizeof(duckdb_hugeint), hash_decimal);
}

int
duck_add_hash(struct duck *db, struct err *e)
{
	static const struct {
		const char *name;
		duckdb_type type;
		duckdb_scalar_function_t function;
	} functions[] = {
		{ "sluice_hash_bytes", DUCKDB_TYPE_BLOB, hash_blobs },
		{ "sluice_hash_number", DUCKDB_TYPE_BIGINT, hash_numbers },
		{ "sluice_hash_decimal", DUCKDB_TYPE_HUGEINT, hash_decimals },
	};

	for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]) && !db->hashes; i++) {
		duckdb_scalar_function f = api.create_scalar_function();
		duckdb_logical_type in = api.create_logical_type(functions[i].type),
				    out = api.create_logical_type(DUCKDB_TYPE_INTEGER);
		duckdb_state state;

		api.scalar_function_set_name(f, functions[i].name);
		api.scalar_function_add_parameter(f, in);
		api.scalar_function_set_return_type(f, out);
		api.scalar_function_set_function(f, functions[i].function);
		state = api.register_scalar_function(db->con, f);
		api.destroy_logical_type(&in);
		api.destroy_logical_type(&out);
		api.destroy_scalar_function(&f);
		if (state == DuckDBError)
			return err_set(e, ERR_IO, "DuckDB does not take the function %s", functions[i].name);
	}
	db->hashes = true;
	return 0;
}

int64_t
duck_count(struct duck *db, const char *sql, struct err *e)
{
	struct duck_result *r = duck_query(db, sql, e);
	int64_t n = -1;

	if (r == NULL)
		return -1;
	if (duck_rows(r) == 1)
		n = duck_int(r, 0, 0);
	duck_result_free(r);
	return n;
}

/* What the engine says of a namespace of several levels that stands in SQL without quotes helps nobody. */
static void
hint_levels(struct err *e)
{
	if (strstr(e->msg, "NameListToString NOT IMPLEMENTED"))
		err_set(e, e->code,
			"a name of a table has more parts than SQL knows (catalog, namespace, table); a namespace of several "
			"levels is one name in quotes, as in \"a.b\".c");
	else if (strstr(e->msg, "Catalog \"") && strstr(e->msg, "\" does not exist"))
		err_set(e, e->code, "%s (a namespace of several levels is one name in quotes, as in \"a.b\".c)", e->msg);
}

int
duck_check(struct duck *db, const char *sql, int *line, int *col, struct err *e)
{
	duckdb_prepared_statement stmt = NULL;
	enum spent part = spent_enter(SPENT_SQL);
	int rc = 0;

	*line = *col = 0;
	if (api.prepare(db->con, sql, &stmt) == DuckDBError)
		rc = duck_error(e, api.prepare_error(stmt), line, col);
	if (rc < 0)
		hint_levels(e);
	api.destroy_prepare(&stmt);
	spent_leave(part);
	return rc;
}

json_t *
duck_describe(struct duck *db, const char *query, struct err *e)
{
	char *sql = xasprintf("DESCRIBE (%s\n)", query);
	struct duck_result *r = duck_query(db, sql, e);
	json_t *out = NULL;

	free(sql);
	if (r == NULL)
		return NULL;
	out = json_array();
	for (size_t i = 0; i < duck_rows(r); i++) {
		char *name = duck_text(r, i, 0), *type = duck_text(r, i, 1);

		json_array_append_new(out, json_pack("{s:s,s:s}", "name", name, "type", type));
		free(name);
		free(type);
	}
	duck_result_free(r);
	return out;
}

json_t *
duck_tables_of(struct duck *db, const char *sql)
{
	duckdb_value names = api.get_table_names(db->con, sql, true);
	json_t *out = json_array();

	for (idx_t i = 0; names && i < api.get_list_size(names); i++) {
		duckdb_value name = api.get_list_child(names, i);
		char *text = api.get_varchar(name);

		json_array_append_new(out, json_string(text));
		api.free(text);
		api.destroy_value(&name);
	}
	if (names)
		api.destroy_value(&names);
	return out;
}

duck_abort_fn
duck_on_abort(duck_abort_fn fn)
{
	duck_abort_fn (*set)(duck_abort_fn);

	/* C++'s std::set_terminate, from the library that libduckdb brought along. */
	*(void **)&set = duck_lib ? dlsym(duck_lib, "_ZSt13set_terminatePFvvE") : NULL;
	return set ? set(fn) : NULL;
}
