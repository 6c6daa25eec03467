/*
 * Storage on local files, and the same verbs on S3 stores: SLUICE_TEST_S3=ENDPOINT, with keys in the environment and a bucket
 * "storage-test", runs them there (tests/integration/test_s3.py does, on every store it can start).
 */
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/fs.h"
#include "storage/storage_int.h"

static struct storage *s;
static char *root; /* a folder, here or there */

#define MANY 1203

/* Names that have broken signatures, lists or removals somewhere. (A backslash and a double slash are no names on SeaweedFS.) */
static const char *const odd[] = {
	"a b.txt",     "plus+plus", "equals=1/part=2.parquet", "percent%41", "na\xC3\xAFve-\xE6\x97\xA5\xE6\x9C\xAC.csv",
	"amp&lt;<>.x", "quote'\"q", "star(1)!~@$,;:",          "tilde~",     "hash#question?",
};

static char *
at(const char *name)
{
	return xasprintf("%s/%s", root, name);
}

static void
write_at(const char *name, const char *text)
{
	struct err e = ERR_INIT;
	char *location = at(name);

	if (storage_write(s, location, text, strlen(text), STORAGE_REPLACE, &e) < 0)
		fail_msg("%s", e.msg);
	free(location);
}

static void
check_text(const char *name, const char *want)
{
	struct buf b = BUF_INIT;
	struct err e = ERR_INIT;
	char *location = at(name);
	int64_t size;

	if (storage_read(s, location, &b, &e) < 0 || storage_size(s, location, &size, &e) < 0)
		fail_msg("%s", e.msg);
	assert_string_equal(b.s, want);
	assert_int_equal(size, strlen(want));
	buf_release(&b);
	free(location);
}

static int
count_found(const char *location, int64_t size, wall_us modified, void *arg)
{
	(void)size;
	(void)modified;
	assert_true(strncmp(location, root, strlen(root)) == 0);
	++*(int *)arg;
	return 0;
}

static int
count_in(const char *name)
{
	struct err e = ERR_INIT;
	char *location = at(name);
	int n = 0;

	if (storage_list(s, location, count_found, &n, &e) < 0)
		fail_msg("%s", e.msg);
	free(location);
	return n;
}

static int
count_glob(const char *pattern)
{
	struct err e = ERR_INIT;
	char *location = at(pattern);
	int n = 0;

	if (storage_glob(s, location, count_found, &n, &e) < 0)
		fail_msg("%s", e.msg);
	free(location);
	return n;
}

static void
whole_files(void **state)
{
	struct buf small = BUF_INIT_MAX(3), b = BUF_INIT;
	struct err e = ERR_INIT;
	char *location = at("whole/one");
	int64_t size;

	(void)state;
	assert_int_equal(storage_size(s, location, &size, &e), ERR_NOT_FOUND);
	assert_non_null(strstr(e.msg, location));
	err_release(&e);
	assert_int_equal(storage_read(s, location, &b, &e), ERR_NOT_FOUND);
	err_release(&e);
	write_at("whole/one", "first");
	check_text("whole/one", "first");
	write_at("whole/one", "");
	check_text("whole/one", "");
	write_at("whole/one", "second");
	check_text("whole/one", "second");
	assert_int_equal(storage_write(s, location, "third", 5, STORAGE_NEW, &e), ERR_CONFLICT);
	err_release(&e);
	check_text("whole/one", "second");
	assert_int_equal(storage_read(s, location, &small, &e), ERR_TOO_LARGE);
	err_release(&e);
	assert_int_equal(storage_remove(s, location, &e), 0);
	assert_int_equal(storage_remove(s, location, &e), 0);
	assert_int_equal(storage_write(s, location, "third", 5, STORAGE_NEW, &e), 0);
	check_text("whole/one", "third");
	assert_int_equal(count_in("whole"), 1); /* nothing was left under another name */
	buf_release(&small);
	buf_release(&b);
	free(location);
}

static void
odd_names(void **state)
{
	char *locations[sizeof(odd) / sizeof(odd[0])];
	struct err e = ERR_INIT;
	size_t n = sizeof(odd) / sizeof(odd[0]), made = 0;

	(void)state;
	for (size_t i = 0; i < n; i++) {
		char *name = xasprintf("odd/%s", odd[i]);

		write_at(name, odd[i]);
		check_text(name, odd[i]);
		locations[made++] = at(name);
		free(name);
	}
	assert_int_equal(count_in("odd"), (int)made);
	for (size_t i = 0; i < made; i++) {
		int64_t size;

		assert_int_equal(storage_size(s, locations[i], &size, &e), 0);
	}
	if (storage_remove_many(s, (const char *const *)locations, made, &e) < 0)
		fail_msg("%s", e.msg);
	assert_int_equal(count_in("odd"), 0);
	for (size_t i = 0; i < made; i++)
		free(locations[i]);
}

static void *
write_share(void *arg)
{
	for (int i = (int)(intptr_t)arg; i < MANY; i += 4) {
		char *name = xasprintf("many/d%d/f%d.txt", i % 3, i);

		write_at(name, "x");
		free(name);
	}
	return NULL;
}

static void
lists_and_patterns(void **state)
{
	pthread_t threads[4];
	struct err e = ERR_INIT;
	size_t removed;
	char *folder;

	(void)state;
	for (intptr_t i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, write_share, (void *)i), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	write_at("manyother", "x");
	assert_int_equal(count_in("many"), MANY);
	assert_int_equal(count_in("many/d1"), MANY / 3);
	assert_int_equal(count_in("many/nothing"), 0);
	assert_int_equal(count_glob("many/d0/f?.txt"), 4); /* 0 3 6 9 */
	assert_int_equal(count_glob("many/*/f12.txt"), 1);
	assert_int_equal(count_glob("many/*.txt"), 0);
	assert_int_equal(count_glob("many/**/*.txt"), MANY);
	assert_int_equal(count_glob("many/**"), MANY);
	assert_int_equal(count_glob("many/**/f[12].txt"), 2);
	assert_int_equal(count_glob("manyother"), 1);
	folder = at("many");
	assert_int_equal(storage_remove_folder(s, folder, &removed, &e), 0);
	free(folder);
	assert_int_equal(removed, MANY);
	assert_int_equal(count_in("many"), 0);
	check_text("manyother", "x");
}

static void
large_files(void **state)
{
	char path[] = "/tmp/sluice-large-XXXXXX", *location = at("large/file");
	size_t size = (50u << 20) + 12345;
	char *data = xmalloc(size);
	struct buf back = BUF_INIT;
	struct err e = ERR_INIT;
	int fd = mkstemp(path);

	(void)state;
	for (size_t i = 0; i < size; i++)
		data[i] = (char)(i * 2654435761u >> 13);
	assert_int_equal(write(fd, data, size), (ssize_t)size);
	close(fd);
	if (storage_upload(s, location, path, &e) < 0 || storage_read(s, location, &back, &e) < 0)
		fail_msg("%s", e.msg);
	assert_int_equal(back.len, size);
	assert_memory_equal(back.s, data, size);
	unlink(path);
	buf_clear(&back);
	if (storage_download(s, location, path, &e) < 0)
		fail_msg("%s", e.msg);
	assert_int_equal(buf_add_file(&back, path), 0);
	assert_int_equal(back.len, size);
	assert_memory_equal(back.s, data, size);
	unlink(path);
	buf_release(&back);
	free(data);
	free(location);
}

static int
begin_local(void **state)
{
	static char folder[] = "/tmp/sluice-storage-XXXXXX";
	struct err e = ERR_INIT;

	(void)state;
	s = storage_new(NULL, &e);
	root = xasprintf("file://%s", mkdtemp(folder));
	return s ? 0 : -1;
}

static int
end_local(void **state)
{
	(void)state;
	fs_remove_tree(root + 7);
	storage_free(s);
	free(root);
	return 0;
}

static int
begin_s3(void **state)
{
	json_t *settings = json_pack("{s:s,s:b}", "endpoint", getenv("SLUICE_TEST_S3"), "path_style", 1);
	struct err e = ERR_INIT;

	(void)state;
	s = storage_new(settings, &e);
	json_decref(settings);
	root = xstrdup("s3a://storage-test/some folder");
	return s && storage_remove_folder(s, root, NULL, &e) == 0 ? 0 : -1;
}

static int
end_s3(void **state)
{
	(void)state;
	storage_free(s);
	free(root);
	return 0;
}

static void
check_settings(const char *text, const char *want)
{
	json_t *j = json_loads(text, 0, NULL);
	struct err e = ERR_INIT;
	struct storage *made = storage_new(j, &e);

	if (made) {
		json_t *out = storage_settings(made);
		char *shown = json_dumps(out, JSON_SORT_KEYS | JSON_COMPACT);

		assert_string_equal(shown, want);
		free(shown);
		json_decref(out);
	} else {
		assert_string_equal(e.msg, want);
	}
	err_release(&e);
	storage_free(made);
	json_decref(j);
}

static void
settings(void **state)
{
	(void)state;
	unsetenv("AWS_CA_BUNDLE"); /* of whoever runs this */
	unsetenv("SSL_CERT_FILE");
	check_settings(
		"{\"endpoint\": \"http://127.0.0.1:9000/\", \"region\": \"eu-west-1\", \"timeout\": 5000000}",
		"{\"endpoint\":\"http://127.0.0.1:9000\",\"path_style\":true,\"region\":\"eu-west-1\",\"timeout\":5000000}");
	check_settings("{\"endpoint\": \"store.example.com\", \"region\": \"r\", \"access_key\": \"a\", \"secret_key\": \"b\"}",
		       "{\"access_key\":\"a\",\"endpoint\":\"https://"
		       "store.example.com\",\"path_style\":false,\"region\":\"r\",\"secret_key\":\"b\",\"timeout\":60000000}");
	check_settings("{\"access_key\": \"a\"}",
		       "the object store's access key is given without the secret key: give both, or none");
	check_settings("{\"endpoint\": \"ftp://x\"}",
		       "the object store's endpoint \"ftp://x\" must be http://HOST, https://HOST, or "
		       "HOST alone, with a port where it has one");
}

static void
entities(void **state)
{
	const char *text = "<A><Key>a&amp;b&#x41;&lt;&unknown;</Key><Key2>no</Key2></A>";
	char *got = xml_text(text, text + strlen(text), "Key");

	(void)state;
	assert_string_equal(got, "a&bA<&unknown;");
	free(got);
	assert_null(xml_text(text, text + strlen(text), "Ke"));
	assert_null(xml_text(text, text + 10, "Key"));
}

int
main(void)
{
	const struct CMUnitTest local[] = {
		cmocka_unit_test(whole_files), cmocka_unit_test(odd_names), cmocka_unit_test(lists_and_patterns),
		cmocka_unit_test(large_files), cmocka_unit_test(settings),  cmocka_unit_test(entities),
	};
	const struct CMUnitTest s3[] = {
		cmocka_unit_test(whole_files),
		cmocka_unit_test(odd_names),
		cmocka_unit_test(lists_and_patterns),
		cmocka_unit_test(large_files),
	};

	if (getenv("SLUICE_TEST_S3"))
		return cmocka_run_group_tests(s3, begin_s3, end_s3);
	return cmocka_run_group_tests(local, begin_local, end_local);
}
