/*
 * Asks a daemon the same thing over and over, as many clients would: CONNECTIONS keep-alive connections, each with one
 * request in flight. Without a rate, the next request goes out as soon as the answer is there. With a rate, requests are due
 * at fixed times whatever the daemon does, and each one's latency counts from when it was due, so that a stall is not hidden
 * by the requests that were not sent meanwhile.
 *
 *	load [-m METHOD] [-c CONNECTIONS] [-r REQUESTS_A_SECOND] [-w WARM_UP_S] [-s SECONDS] [-t TOKEN_FILE] [-x TEXT] HOST PORT
 *PATH
 *
 * An answer is good when its status is 2xx and, with -x, the first "state" in its body is TEXT. Requests that were due in the
 * warm-up are not counted; at the end what is in flight is waited for. Prints one line of JSON.
 */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define ANSWER_MAX (256 * 1024)

struct client {
	int fd;
	bool busy;
	double due; /* of the request in flight */
	size_t len;
	char answer[ANSWER_MAX];
};

static char request[4096];
static size_t request_len;
static const char *wanted;
static double began, counts_from, ends; /* of the whole, of what is counted, of sending */
static double *latencies;
static size_t good, bad, late_good, latencies_max;
static double last_end;

static double
now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void
fail(const char *what)
{
	fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int
dial(const char *host, const char *port)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *ai;
	int fd, one = 1, rc = getaddrinfo(host, port, &hints, &ai);

	if (rc != 0) {
		fprintf(stderr, "load: %s %s: %s\n", host, port, gai_strerror(rc));
		exit(1);
	}
	fd = socket(ai->ai_family, ai->ai_socktype, 0);
	if (fd < 0 || connect(fd, ai->ai_addr, ai->ai_addrlen) < 0)
		fail("cannot connect");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	freeaddrinfo(ai);
	return fd;
}

static void
send_request(struct client *c, double due)
{
	c->busy = true;
	c->due = due;
	c->len = 0;
	/* A few hundred bytes into an empty socket buffer: never short. */
	if (write(c->fd, request, request_len) != (ssize_t)request_len)
		fail("cannot send");
}

static bool
is_good(const char *head, const char *body)
{
	const char *state;

	if (strncmp(head, "HTTP/1.1 2", 10) != 0)
		return false;
	if (wanted == NULL)
		return true;
	state = strstr(body, "\"state\"");
	if (state == NULL)
		return false;
	state += 7 + strspn(state + 7, ": \"");
	return strncmp(state, wanted, strlen(wanted)) == 0;
}

/* The whole answer is there. */
static void
judge(struct client *c, const char *body)
{
	double at = now();
	bool ok = is_good(c->answer, body);

	c->busy = false;
	if (!ok && bad == 0)
		fprintf(stderr, "load: the first bad answer: %.600s\n", c->answer);
	if (c->due < counts_from)
		return;
	if (!ok) {
		bad++;
		return;
	}
	if (good == latencies_max) {
		latencies_max = latencies_max ? 2 * latencies_max : 4096;
		latencies = realloc(latencies, latencies_max * sizeof(*latencies));
		if (latencies == NULL)
			fail("latencies");
	}
	latencies[good++] = at - c->due;
	/* What ends after the last moment of sending is not part of the rate. */
	if (at > ends)
		late_good++;
	last_end = at;
}

static void
receive(struct client *c)
{
	ssize_t n = read(c->fd, c->answer + c->len, sizeof(c->answer) - 1 - c->len);
	char *end, *field;
	size_t length = 0;

	if (n <= 0) {
		if (n == 0)
			errno = ECONNRESET;
		fail("the daemon went away");
	}
	c->len += (size_t)n;
	c->answer[c->len] = '\0';
	end = strstr(c->answer, "\r\n\r\n");
	if (end == NULL)
		return;
	field = strcasestr(c->answer, "\r\ncontent-length:");
	if (field && field < end)
		length = strtoul(field + 17, NULL, 10);
	end += 4;
	if ((size_t)(end - c->answer) + length > c->len) {
		if ((size_t)(end - c->answer) + length >= sizeof(c->answer)) {
			errno = EMSGSIZE;
			fail("the answer");
		}
		return;
	}
	judge(c, end);
}

static int
by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double
percentile(double share)
{
	size_t i = (size_t)(share * (double)good);

	return good ? latencies[i < good ? i : good - 1] : 0;
}

static void
print_result(void)
{
	double seconds = ends - counts_from, cpu, all = now() - began;
	struct rusage ru;

	getrusage(RUSAGE_SELF, &ru);
	cpu = (double)(ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) + (double)(ru.ru_utime.tv_usec + ru.ru_stime.tv_usec) / 1e6;
	qsort(latencies, good, sizeof(*latencies), by_size);
	printf("{\"good\": %zu, \"bad\": %zu, \"in_time\": %zu, \"seconds\": %.3f, \"drained_s\": %.3f, \"rate\": %.1f, "
	       "\"p50_s\": %.6f, "
	       "\"p99_s\": %.6f, \"max_s\": %.6f, \"cpu_share\": %.4f}\n",
	       good, bad, good - late_good, seconds, last_end > ends ? last_end - ends : 0, (double)(good - late_good) / seconds,
	       percentile(0.5), percentile(0.99), percentile(1), cpu / all);
}

static void
prepare(const char *method, const char *host, const char *path, const char *token_file)
{
	char token[512] = "", auth[600] = "";
	const char *body = strcmp(method, "POST") == 0 ? "{}" : "";
	FILE *f;

	if (token_file) {
		f = fopen(token_file, "r");
		if (f == NULL || fgets(token, sizeof(token), f) == NULL)
			fail(token_file);
		fclose(f);
		token[strcspn(token, "\r\n")] = '\0';
		snprintf(auth, sizeof(auth), "Authorization: Bearer %s\r\n", token);
	}
	snprintf(request, sizeof(request), "%s %s HTTP/1.1\r\nHost: %s\r\n%s%sContent-Length: %zu\r\n\r\n%s", method, path, host,
		 auth, *body ? "Content-Type: application/json\r\n" : "", strlen(body), body);
	request_len = strlen(request);
}

int
main(int argc, char **argv)
{
	const char *method = "GET", *token_file = NULL;
	size_t n = 1, busy, sent = 0;
	double rate = 0, warm = 0, seconds = 10, due;
	struct epoll_event events[64];
	struct client *clients;
	int opt, ep, ready;

	while ((opt = getopt(argc, argv, "m:c:r:w:s:t:x:")) != -1) {
		switch (opt) {
		case 'm':
			method = optarg;
			break;
		case 'c':
			n = strtoul(optarg, NULL, 10);
			break;
		case 'r':
			rate = strtod(optarg, NULL);
			break;
		case 'w':
			warm = strtod(optarg, NULL);
			break;
		case 's':
			seconds = strtod(optarg, NULL);
			break;
		case 't':
			token_file = optarg;
			break;
		case 'x':
			wanted = optarg;
			break;
		default:
			return 2;
		}
	}
	if (argc - optind != 3 || n < 1) {
		fprintf(stderr, "usage: load [options] HOST PORT PATH\n");
		return 2;
	}
	prepare(method, argv[optind], argv[optind + 2], token_file);
	clients = calloc(n, sizeof(*clients));
	ep = epoll_create1(0);
	if (clients == NULL || ep < 0)
		fail("start");
	for (size_t i = 0; i < n; i++) {
		struct epoll_event ev = { .events = EPOLLIN, .data.ptr = &clients[i] };

		clients[i].fd = dial(argv[optind], argv[optind + 1]);
		if (epoll_ctl(ep, EPOLL_CTL_ADD, clients[i].fd, &ev) < 0)
			fail("epoll");
	}
	began = now();
	counts_from = began + warm;
	ends = counts_from + seconds;
	for (;;) {
		double at = now(), wait = ends - at;

		busy = 0;
		for (size_t i = 0; i < n; i++) {
			if (!clients[i].busy && at < ends) {
				due = rate > 0 ? began + (double)sent / rate : at;
				if (due <= at) {
					send_request(&clients[i], due);
					sent++;
				} else if (due - at < wait) {
					wait = due - at;
				}
			}
			busy += clients[i].busy;
		}
		if (busy == 0 && at >= ends)
			break;
		if (at >= ends)
			wait = 60;
		else if (rate == 0 && busy == n)
			wait = wait > 0 ? wait : 0;
		ready = epoll_pwait2(
			ep, events, 64,
			&(struct timespec){ .tv_sec = (time_t)wait, .tv_nsec = (long)((wait - (double)(time_t)wait) * 1e9) },
			NULL);
		if (ready == 0 && at >= ends) {
			errno = ETIMEDOUT;
			fail("the last answers");
		}
		for (int i = 0; i < ready; i++)
			receive(events[i].data.ptr);
	}
	print_result();
	return 0;
}
