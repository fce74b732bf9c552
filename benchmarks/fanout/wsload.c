/*
 * wsload: a load client for WebSocket push servers.  C11, Linux, one thread, one epoll, nothing but libc.
 *
 *   cc -O2 -Wall -Wextra -o wsload wsload.c
 *
 * What a run does
 *   1. opens N WebSocket connections (handshake of RFC 6455 by hand), at most --connecting at a time;
 *      connection i is on channel i % C;
 *   2. sends each its hello (line i of --hellos, as a text message), and waits for a message with --ack in it;
 *   3. holds them for --idle seconds, and takes the server's memory; if there is a --feed, says READY and waits for
 *      a line on its standard input, since what is published may have to be stored first, but not before;
 *   4. publishes the lines of --feed over HTTP (POST) or Redis (PUBLISH), one after another, either
 *        closed loop: at most --window messages that not everybody has yet, or
 *        open loop:   --rate messages a second; the delay counts from when each was DUE, so that a server that
 *                     stalls can't hide it;
 *   5. ends when every subscriber has every message of its channel, or at --timeout;
 *   6. prints one line of JSON.
 *
 * A line of --feed is `NUMBER CHANNEL TARGET PAYLOAD`: numbers rise by one from line to line, TARGET is a path
 * or a Redis channel, and PAYLOAD brings a message with `"n":NUMBER` in it to each subscriber of CHANNEL. What
 * comes to the wrong connection, twice, out of order, or never, is counted: all of it must be 0.
 *
 * CPU is that of the process --pid (user and system, all threads, in nanoseconds), from the first publish to the
 * last delivery; 127.0.0.1 is the only target.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* The sample key of RFC 6455, section 1.3: a fixed key has a fixed answer, so every handshake can be checked. */
#define WS_KEY "dGhlIHNhbXBsZSBub25jZQ=="
#define WS_ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
#define RBUF (256 * 1024)

enum state { CONNECTING, HANDSHAKE, AWAITING_ACK, READY, DEAD };

struct buf { char *p; size_t len, cap; };
struct conn { int fd, chan; enum state st; uint32_t events; long last; struct buf in, out; };
struct pub { int fd; uint32_t events; struct buf out; };
struct message { int chan; const char *target, *payload; size_t target_len, payload_len; uint64_t sent; };

static int o_port, o_conns = 1000, o_channels = 1, o_window = 1, o_connecting = 100, o_pubport, o_pubs = 1, o_pid;
static double o_rate, o_timeout = 60, o_ctimeout = 120, o_idle;
static const char *o_path = "/", *o_ack, *o_subproto, *o_hellos, *o_feed, *o_pub;
static long o_warm;

static int ep, go, n_ready, n_dead, n_pending, next_conn, n_hellos;
static struct conn *conns;
static struct pub *pubs;
static struct message *feed;
static char **hellos;
static long n_feed, base, published, counted_from;
static uint64_t delivered, expected, misrouted, disordered, puberr, t_last;
static uint64_t *fan;                           /* subscribers of each channel */
static char rbuf[RBUF];

/* Histogram of delays: 64 linear steps for each power of two, so within 1.6 %. */
#define SUB 64
static uint64_t hist[64 * SUB];

static void die(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	fputs("wsload: ", stderr);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	va_end(ap);
	exit(2);
}

static uint64_t clock_ns(clockid_t id)
{
	struct timespec ts;
	if (clock_gettime(id, &ts)) return 0;
	return (uint64_t)ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

static uint64_t now_ns(void) { return clock_ns(CLOCK_MONOTONIC); }

static double server_cpu(void)
{
	clockid_t id;
	if (!o_pid || clock_getcpuclockid(o_pid, &id)) return 0;
	return clock_ns(id) / 1e9;
}

static long server_rss_kib(void)
{
	char name[64], line[256];
	long v, found = 0;
	snprintf(name, sizeof name, "/proc/%d/status", o_pid);
	FILE *f = o_pid ? fopen(name, "r") : NULL;
	if (!f) return 0;
	while (fgets(line, sizeof line, f))
		if (sscanf(line, "VmRSS: %ld", &v) == 1) found = v;
	fclose(f);
	return found;
}

static int slot(uint64_t v)
{
	if (v < SUB) return (int)v;
	int e = 63 - __builtin_clzll(v);
	return (e - 5) * SUB + (int)((v >> (e - 6)) & (SUB - 1));
}

static double percentile_ms(double p)
{
	uint64_t n = 0, seen = 0;
	for (int i = 0; i < 64 * SUB; i++) n += hist[i];
	uint64_t want = (uint64_t)(p * (n ? n - 1 : 0)) + 1;
	for (int i = 0; i < 64 * SUB; i++)
		if ((seen += hist[i]) >= want) {
			int e = i / SUB + 5;
			return (i < SUB ? (double)i : (double)((1ull << e) + ((uint64_t)(i % SUB) << (e - 6)))) / 1e6;
		}
	return 0;
}

static void buf_add(struct buf *b, const void *p, size_t n)
{
	if (b->len + n > b->cap) {
		b->cap = b->cap ? b->cap : 512;
		while (b->cap < b->len + n) b->cap *= 2;
		if (!(b->p = realloc(b->p, b->cap))) die("out of memory");
	}
	memcpy(b->p + b->len, p, n);
	b->len += n;
}

static void buf_eat(struct buf *b, size_t n)
{
	if (n < b->len) memmove(b->p, b->p + n, b->len - n);
	b->len -= n;
}

/* ---- sockets ---- */

static int tcp_connect(int port)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
	if (fd < 0) die("socket: %s (raise ulimit -n)", strerror(errno));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	if (connect(fd, (struct sockaddr *)&a, sizeof a) < 0 && errno != EINPROGRESS)
		die("connect to port %d: %s", port, strerror(errno));
	return fd;
}

/* epoll's word is the index of a connection, or of a publisher with this bit set; or it is standard input. */
#define PUBBIT (1ull << 32)
#define STDIN (1ull << 33)

static void watch(int op, int fd, uint64_t id, uint32_t ev)
{
	struct epoll_event e = { .events = ev, .data.u64 = id };
	if (epoll_ctl(ep, op, fd, &e) < 0) die("epoll_ctl: %s", strerror(errno));
}

static int flush_out(int fd, struct buf *out, uint32_t *events, uint64_t id)
{
	while (out->len) {
		ssize_t n = send(fd, out->p, out->len, MSG_NOSIGNAL);
		if (n > 0) { buf_eat(out, n); continue; }
		if (n < 0 && errno == EINTR) continue;
		if (n < 0 && errno == EAGAIN) break;
		return -1;
	}
	uint32_t want = EPOLLIN | (out->len ? EPOLLOUT : 0);
	if (want != *events) { watch(EPOLL_CTL_MOD, fd, id, want); *events = want; }
	return 0;
}

/* A masked client frame (RFC 6455, section 5.3). */
static void add_frame(struct buf *out, int opcode, const void *data, size_t n)
{
	unsigned char h[8] = { 0x80 | opcode }, key[4] = { 0x37, 0xfa, 0x21, 0x3d };
	size_t hl = 2;
	if (n < 126) h[1] = 0x80 | n;
	else if (n < 65536) { h[1] = 0x80 | 126; h[2] = n >> 8; h[3] = n; hl = 4; }
	else die("a hello of more than 64 KiB");
	buf_add(out, h, hl);
	buf_add(out, key, 4);
	size_t at = out->len;
	buf_add(out, data, n);
	for (size_t i = 0; i < n; i++) out->p[at + i] ^= key[i & 3];
}

/* The path, with each %d replaced by the channel's number. */
static void add_upgrade(struct buf *out, int chan)
{
	char path[512], req[1024];
	size_t o = 0;
	for (const char *f = o_path; *f && o + 16 < sizeof path; f++)
		if (f[0] == '%' && f[1] == 'd') { o += snprintf(path + o, sizeof path - o, "%d", chan); f++; }
		else path[o++] = *f;
	path[o] = 0;
	int n = snprintf(req, sizeof req,
		"GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
		"Sec-WebSocket-Key: " WS_KEY "\r\nSec-WebSocket-Version: 13\r\n%s%s%s\r\n", path, o_port,
		o_subproto ? "Sec-WebSocket-Protocol: " : "", o_subproto ? o_subproto : "", o_subproto ? "\r\n" : "");
	buf_add(out, req, n);
}

/* ---- subscribers ---- */

static void conn_dead(struct conn *c, const char *why)
{
	if (c->st == DEAD) return;
	if (n_dead++ < 3) fprintf(stderr, "wsload: connection %ld lost (%s)\n", (long)(c - conns), why);
	if (c->st == READY) n_ready--; else n_pending--;
	c->st = DEAD;
	close(c->fd);
}

static void conn_ready(struct conn *c) { c->st = READY; n_ready++; n_pending--; }

static void on_text(struct conn *c, char *p, size_t n)
{
	if (c->st == AWAITING_ACK) {
		if (memmem(p, n, o_ack, strlen(o_ack))) conn_ready(c);
		else if (n_dead < 3) fprintf(stderr, "wsload: instead of the ack: %.*s\n", (int)(n < 300 ? n : 300), p);
		return;
	}
	char *q = memmem(p, n, "\"n\":", 4);
	if (!q) return;
	long number = strtol(q + 4, NULL, 10), at = number - base;
	if (at < 0 || at >= published) { misrouted++; return; }
	if (number <= c->last) disordered++;
	c->last = number;
	if (feed[at].chan != c->chan) misrouted++;
	delivered++;
	if (at < counted_from) return;
	t_last = now_ns();
	hist[slot(t_last > feed[at].sent ? t_last - feed[at].sent : 0)]++;
}

/* Parse what has arrived; the bytes that were used, or -1 when the connection must end. */
static ssize_t conn_parse(struct conn *c, char *p, size_t n)
{
	size_t o = 0;
	if (c->st == HANDSHAKE) {
		char *e = memmem(p, n, "\r\n\r\n", 4);
		if (!e) return n > 16384 ? -1 : 0;
		o = e + 4 - p;
		if (n < 12 || memcmp(p, "HTTP/1.1 101", 12) || !memmem(p, o, WS_ACCEPT, strlen(WS_ACCEPT))) {
			if (n_dead < 3) fprintf(stderr, "wsload: handshake refused: %.*s\n", (int)(o < 200 ? o : 200), p);
			return -1;
		}
		c->st = AWAITING_ACK;
		if (n_hellos) { char *h = hellos[(c - conns) % n_hellos]; add_frame(&c->out, 1, h, strlen(h)); }
		if (!o_ack) conn_ready(c);
	}
	while (n - o >= 2) {
		unsigned char *h = (unsigned char *)p + o;
		int op = h[0] & 15;
		uint64_t len = h[1] & 127;
		size_t hl = 2;
		if (h[0] & 0x70 || h[1] & 0x80) return -1;      /* no extension was agreed on; servers do not mask */
		if (len == 126) { if (n - o < 4) break; len = h[2] << 8 | h[3]; hl = 4; }
		else if (len == 127) {
			if (n - o < 10) break;
			len = 0;
			for (int i = 0; i < 8; i++) len = len << 8 | h[2 + i];
			hl = 10;
		}
		if (n - o < hl + len) break;
		if (op <= 2) on_text(c, (char *)h + hl, len);
		else if (op == 8) return -1;
		else if (op == 9) add_frame(&c->out, 10, h + hl, len);
		o += hl + len;
	}
	return o;
}

static void conn_event(struct conn *c, uint32_t ev)
{
	if (c->st == DEAD) return;
	if (c->st == CONNECTING) {
		int err = 0;
		socklen_t l = sizeof err;
		getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &err, &l);
		if (err) { conn_dead(c, strerror(err)); return; }
		c->st = HANDSHAKE;
		add_upgrade(&c->out, c->chan);
	}
	if (ev & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
		ssize_t n = recv(c->fd, rbuf, RBUF, 0);
		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
			conn_dead(c, n ? strerror(errno) : "closed by the server");
			return;
		}
		if (n > 0) {
			char *p = rbuf;
			size_t have = n;
			if (c->in.len) { buf_add(&c->in, rbuf, n); p = c->in.p; have = c->in.len; }
			ssize_t used = conn_parse(c, p, have);
			if (used < 0) { conn_dead(c, "closed by protocol"); return; }
			if (p != rbuf) buf_eat(&c->in, used);
			else if ((size_t)used < have) buf_add(&c->in, p + used, have - used);
		}
	}
	if ((c->out.len || c->events & EPOLLOUT) && flush_out(c->fd, &c->out, &c->events, c - conns) < 0)
		conn_dead(c, strerror(errno));
}

static void open_more(void)
{
	while (next_conn < o_conns && n_pending < o_connecting) {
		struct conn *c = &conns[next_conn];
		*c = (struct conn){ .fd = tcp_connect(o_port), .chan = next_conn % o_channels, .events = EPOLLOUT | EPOLLIN, .last = -1 };
		watch(EPOLL_CTL_ADD, c->fd, next_conn, c->events);
		next_conn++;
		n_pending++;
	}
}

/* ---- publishers ---- */

static void pub_event(struct pub *p, uint64_t id)
{
	for (;;) {
		ssize_t n = recv(p->fd, rbuf, RBUF, 0);
		if (n < 0 && (errno == EAGAIN || errno == EINTR || errno == ENOTCONN)) break;
		if (n <= 0) die("the publisher's connection was closed");
		if (*o_pub == 'h') {
			for (char *q = rbuf, *e = rbuf + n; (q = memmem(q, e - q, "HTTP/1.1 ", 9)); q += 9)
				if (q + 9 < e && q[9] != '2') puberr++;
		} else if (rbuf[0] == '-') puberr++;
		if ((size_t)n < RBUF) break;
	}
	if (flush_out(p->fd, &p->out, &p->events, id) < 0) die("publisher: %s", strerror(errno));
}

static void publish(uint64_t stamp)
{
	struct message *m = &feed[published];
	struct buf *out = &pubs[published % o_pubs].out;
	char head[1024];
	int n;
	if (*o_pub == 'h')
		n = snprintf(head, sizeof head, "POST %.*s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
		             "Content-Length: %zu\r\n\r\n", (int)m->target_len, m->target, m->payload_len);
	else
		n = snprintf(head, sizeof head, "*3\r\n$7\r\nPUBLISH\r\n$%zu\r\n%.*s\r\n$%zu\r\n", m->target_len,
		             (int)m->target_len, m->target, m->payload_len);
	buf_add(out, head, n);
	buf_add(out, m->payload, m->payload_len);
	if (*o_pub == 'r') buf_add(out, "\r\n", 2);
	m->sent = stamp;
	expected += fan[m->chan];
	published++;
}

static void flush_pubs(void)
{
	for (int i = 0; i < o_pubs; i++)
		if (pubs[i].out.len && flush_out(pubs[i].fd, &pubs[i].out, &pubs[i].events, PUBBIT | i) < 0)
			die("publisher: %s", strerror(errno));
}

/* ---- the loop ---- */

static void step(double max_s)
{
	static struct epoll_event ev[512];
	struct timespec ts = { (time_t)max_s, (long)((max_s - (time_t)max_s) * 1e9) };
	int n = epoll_pwait2(ep, ev, 512, &ts, NULL);
	if (n < 0 && errno != EINTR) die("epoll: %s", strerror(errno));
	for (int i = 0; i < n; i++)
		if (ev[i].data.u64 & STDIN) go = read(0, rbuf, RBUF) >= 0;
		else if (ev[i].data.u64 & PUBBIT) pub_event(&pubs[ev[i].data.u64 & 0xffff], ev[i].data.u64);
		else conn_event(&conns[ev[i].data.u64], ev[i].events);
}

/* Publish up to message `until`, and wait until everybody has all of them. */
static void run(long until, double rate)
{
	uint64_t begin = now_ns(), limit = begin + (uint64_t)(o_timeout * 1e9), cap = 0;
	long first = published;
	for (int i = 0; i < o_channels; i++) cap += fan[i];
	cap = cap * o_window / o_channels;              /* deliveries that may be outstanding */
	while (published < until || delivered < expected) {
		double wait = 0.02;
		uint64_t now = now_ns();
		if (now > limit || n_dead) break;
		while (published < until) {
			uint64_t due = rate > 0 ? begin + (uint64_t)((published - first) / rate * 1e9) : now;
			if (due > now) { wait = (due - now) / 1e9; if (wait > 0.02) wait = 0.02; break; }
			if (rate <= 0 && expected - delivered + fan[feed[published].chan] > cap) break;
			publish(due);
		}
		flush_pubs();
		step(wait);
	}
}

/* ---- files ---- */

static char *slurp(const char *name, long *lines)
{
	FILE *f = fopen(name, "r");
	if (!f) die("%s: %s", name, strerror(errno));
	fseek(f, 0, SEEK_END);
	long n = ftell(f);
	rewind(f);
	char *p = malloc(n + 1);
	if (!p || fread(p, 1, n, f) != (size_t)n) die("%s can't be read", name);
	p[n] = 0;
	fclose(f);
	*lines = 0;
	for (char *q = p; *q; q++) *lines += *q == '\n';
	return p;
}

static void read_hellos(void)
{
	long lines;
	char *text = slurp(o_hellos, &lines);
	hellos = calloc(lines, sizeof *hellos);
	for (char *line; (line = strsep(&text, "\n")) && *line;) hellos[n_hellos++] = line;
}

static void read_feed(void)
{
	long lines;
	char *text = slurp(o_feed, &lines);
	feed = calloc(lines, sizeof *feed);
	for (char *line; (line = strsep(&text, "\n")) && *line; n_feed++) {
		struct message *m = &feed[n_feed];
		long number = strtol(line, &line, 10);
		if (n_feed == 0) base = number;
		if (number != base + n_feed) die("the numbers of --feed do not rise by one");
		m->chan = (int)strtol(line, &line, 10);
		if (m->chan < 0 || m->chan >= o_channels) die("--feed has a channel beyond --channels");
		m->target = line + 1;
		m->target_len = strcspn(m->target, " ");
		m->payload = m->target + m->target_len + 1;
		m->payload_len = strlen(m->payload);
	}
}

static void options(int argc, char **argv)
{
	for (int i = 1; i + 1 < argc; i += 2) {
		const char *a = argv[i], *v = argv[i + 1];
#define OPT(name) (!strcmp(a, "--" name))
		if (OPT("port")) o_port = atoi(v);
		else if (OPT("path")) o_path = v;
		else if (OPT("subproto")) o_subproto = v;
		else if (OPT("conns")) o_conns = atoi(v);
		else if (OPT("channels")) o_channels = atoi(v);
		else if (OPT("connecting")) o_connecting = atoi(v);
		else if (OPT("hellos")) o_hellos = v;
		else if (OPT("ack")) o_ack = v;
		else if (OPT("feed")) o_feed = v;
		else if (OPT("pub")) o_pub = v;
		else if (OPT("pub-port")) o_pubport = atoi(v);
		else if (OPT("pubs")) o_pubs = atoi(v);
		else if (OPT("window")) o_window = atoi(v);
		else if (OPT("rate")) o_rate = atof(v);
		else if (OPT("warm")) o_warm = atol(v);
		else if (OPT("idle")) o_idle = atof(v);
		else if (OPT("timeout")) o_timeout = atof(v);
		else if (OPT("connect-timeout")) o_ctimeout = atof(v);
		else if (OPT("pid")) o_pid = atoi(v);
		else die("there is no option %s", a);
	}
	if (!o_port || o_conns < 1 || o_channels < 1 || o_pubs < 1 || o_window < 1) die("--port, and numbers of 1 or more");
	if (o_feed && (!o_pub || (strcmp(o_pub, "http") && strcmp(o_pub, "redis")))) die("--pub is http or redis");
	if (!o_pubport) o_pubport = o_port;
}

int main(int argc, char **argv)
{
	options(argc, argv);
	signal(SIGPIPE, SIG_IGN);
	struct rlimit rl;
	getrlimit(RLIMIT_NOFILE, &rl);
	rl.rlim_cur = rl.rlim_max;
	setrlimit(RLIMIT_NOFILE, &rl);
	ep = epoll_create1(EPOLL_CLOEXEC);
	conns = calloc(o_conns, sizeof *conns);
	pubs = calloc(o_pubs, sizeof *pubs);
	fan = calloc(o_channels, sizeof *fan);
	if (o_hellos) read_hellos();

	long rss0 = server_rss_kib();
	double cpu0 = server_cpu();
	uint64_t t0 = now_ns(), limit = t0 + (uint64_t)(o_ctimeout * 1e9);
	while (n_ready + n_dead < o_conns) {
		open_more();
		step(0.05);
		if (n_dead || now_ns() > limit)
			die("%d connections ready, %d lost, of %d, after %.1f s", n_ready, n_dead, o_conns, (now_ns() - t0) / 1e9);
	}
	double connect_s = (now_ns() - t0) / 1e9, connect_cpu = server_cpu() - cpu0;
	for (int i = 0; i < o_conns; i++) fan[conns[i].chan]++;
	if (o_feed)
		for (int i = 0; i < o_pubs; i++) {
			pubs[i] = (struct pub){ .fd = tcp_connect(o_pubport), .events = EPOLLIN };
			watch(EPOLL_CTL_ADD, pubs[i].fd, PUBBIT | i, EPOLLIN);
		}
	/* Their publisher's connections take a moment; so does what a server does after it said that it is ready. */
	double idle_cpu = server_cpu();
	for (uint64_t e = now_ns() + (uint64_t)((o_idle + 0.2) * 1e9); now_ns() < e && !n_dead;) step(0.02);
	idle_cpu = server_cpu() - idle_cpu;
	long rss1 = server_rss_kib();
	if (o_feed) {
		puts("READY");
		fflush(stdout);
		for (watch(EPOLL_CTL_ADD, 0, STDIN, EPOLLIN); !go && !n_dead;) step(0.05);
		watch(EPOLL_CTL_DEL, 0, STDIN, 0);
		read_feed();
	}

	run(o_warm < n_feed ? o_warm : n_feed, 0);
	counted_from = published;
	uint64_t before = delivered, own0 = clock_ns(CLOCK_PROCESS_CPUTIME_ID), begin = t_last = now_ns();
	cpu0 = server_cpu();
	run(n_feed, o_rate);
	double cpu = server_cpu() - cpu0, seconds = (t_last - begin) / 1e9;
	uint64_t got = delivered - before;
	printf("{\"conns\":%d,\"lost\":%d,\"connect_s\":%.2f,\"connect_cpu_s\":%.3f,\"idle_cpu_s\":%.3f,\"rss0_kib\":%ld,"
	       "\"rss_kib\":%ld,\"kib_per_conn\":%.2f,\"published\":%ld,\"delivered\":%llu,\"missing\":%lld,\"misrouted\":%llu,"
	       "\"disordered\":%llu,\"pub_errors\":%llu,\"seconds\":%.3f,\"cpu_s\":%.4f,\"per_cpu_s\":%.0f,\"client_cpu_s\":%.3f,"
	       "\"p50_ms\":%.3f,\"p99_ms\":%.3f}\n",
	       o_conns, n_dead, connect_s, connect_cpu, idle_cpu, rss0, rss1, (double)(rss1 - rss0) / o_conns,
	       published - counted_from, (unsigned long long)got, (long long)(expected - delivered),
	       (unsigned long long)misrouted, (unsigned long long)disordered, (unsigned long long)puberr, seconds, cpu,
	       cpu > 0 ? got / cpu : 0, (clock_ns(CLOCK_PROCESS_CPUTIME_ID) - own0) / 1e9, percentile_ms(.5), percentile_ms(.99));
	return n_dead || expected != delivered || misrouted || disordered || puberr;
}
