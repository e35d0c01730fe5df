/* live_socket.c: lines of several clients, each of which gets the answers to its own back.
 *
 * Nobody can harm others: turns are taken line by line, of each client no more is read than is in its buffer, answers wait in a bounded one for a
 * client to read them, and one that has said nothing for long gives up its place when others want it. */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/io.h"
#include "data/live.h"

enum { MOST_UNREAD = 1 << 20, IDLE = 60 /* seconds */, BACKLOG = 64, BESIDE = 64 /* files that are open beside the clients */ };

typedef struct client {
    int fd;
    uint64_t number;
    int64_t asked; /* lines that are not answered yet */
    bool ended;    /* it sends no more */
    bool lost;     /* nor reads any */
    double heard;  /* when it last sent something */
    cb_string answers;
    size_t sent; /* of them */
    live_reader reader;
} client;

typedef struct live_socket {
    live_source source;
    char *address;
    const char *path; /* of it; NULL: it has none */
    struct stat made; /* what lies there */
    int fd;
    client **clients;
    struct pollfd *ready; /* (most + 1) */
    size_t count, most, turn;
    uint64_t numbers;
    client *given;       /* whose line was given, and is to be forgotten */
    double listen_again; /* when there was no room for another client */
} live_socket;

/* ---- clients ---- */

static void client_free(client *c)
{
    if (!c)
        return;
    if (c->fd >= 0)
        close(c->fd);
    cb_string_free(&c->answers);
    cb_string_free(&c->reader.line);
    cb_free(c);
}

static void drop(live_socket *s, size_t at)
{
    if (s->given == s->clients[at])
        s->given = NULL;
    client_free(s->clients[at]);
    s->count--;
    memmove(&s->clients[at], &s->clients[at + 1], (s->count - at) * sizeof(client *));
    s->turn = s->turn > at ? s->turn - 1 : s->turn;
}

static bool has_bytes(const client *c)
{
    return c->reader.at < c->reader.filled;
}

/* What it sent before it ended without a newline is a line. */
static bool has_rest(const client *c)
{
    return c->ended && !has_bytes(c) && (c->reader.line.length || c->reader.too_long);
}

static bool has_unsent(const client *c)
{
    return c->sent < c->answers.length;
}

static bool is_over(const client *c)
{
    return c->lost || (c->ended && !has_bytes(c) && !has_rest(c) && !c->asked && !has_unsent(c));
}

static void send_answers(client *c)
{
    while (!c->lost && has_unsent(c)) {
        ssize_t n = send(c->fd, c->answers.data + c->sent, c->answers.length - c->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return;
        c->lost = n < 0;
        c->sent += n > 0 ? (size_t)n : 0;
    }
    cb_string_clear(&c->answers);
    c->sent = 0;
}

/* Of a client that always leaves something unread, what it has read does not stay. */
static void forget_sent(client *c)
{
    if (c->sent < MOST_UNREAD)
        return;
    c->answers.length -= c->sent;
    memmove(c->answers.data, c->answers.data + c->sent, c->answers.length);
    c->sent = 0;
}

static void receive(client *c)
{
    ssize_t n = recv(c->fd, c->reader.bytes, sizeof c->reader.bytes, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
        return;
    c->ended = n <= 0;
    c->lost = n < 0;
    c->reader.at = 0;
    c->reader.filled = n > 0 ? (size_t)n : 0;
    c->heard = cb_now();
}

/* ---- those who come ---- */

/* Makes room: the one that has been silent longest, of those who wait for nothing. */
static bool drop_idle(live_socket *s)
{
    double before = cb_now() - IDLE;
    size_t at = s->count;
    for (size_t i = 0; i < s->count; i++) {
        const client *c = s->clients[i];
        if (!c->asked && !has_bytes(c) && c->heard < before) {
            before = c->heard;
            at = i;
        }
    }
    if (at == s->count)
        return false;
    drop(s, at);
    return true;
}

static void refuse(int fd)
{
    static const char full[] = "{\"error\":\"there are as many clients as may be\"}\n";
    if (send(fd, full, sizeof full - 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        errno = 0; /* it is told, or not */
    close(fd);
}

static bool welcome(live_socket *s, int fd)
{
    client *c = cb_calloc(1, sizeof *c);
    if (!c) {
        close(fd);
        return false;
    }
    c->fd = fd;
    c->number = ++s->numbers;
    c->heard = cb_now();
    s->clients[s->count++] = c;
    return true;
}

/* All who are there. */
static bool accept_clients(live_socket *s)
{
    enum { PAUSE = 1 };
    int fd = -1;
    for (int i = 0; i < BACKLOG && (fd = accept(s->fd, NULL, NULL)) >= 0; i++) {
        fcntl(fd, F_SETFD, FD_CLOEXEC);
        if (s->count == s->most && !drop_idle(s))
            refuse(fd);
        else if (!welcome(s, fd))
            return false;
    }
    if (fd < 0 && errno != EAGAIN && errno != EWOULDBLOCK) /* too many files are open, or one has gone again */
        s->listen_again = cb_now() + PAUSE;
    return true;
}

/* ---- lines ---- */

/* Whether this client has a line; one that is too long is the last. */
static bool has_line(client *c)
{
    bool whole = has_bytes(c) && cb_live_take(&c->reader);
    if (!c->reader.too_long)
        return whole || has_rest(c);
    c->ended = true;
    c->reader.at = c->reader.filled = 0;
    return true;
}

static bool take_turn(live_socket *s, live_line *line)
{
    for (size_t i = 0; cb_ok() && i < s->count; i++) {
        size_t at = (s->turn + i) % s->count;
        client *c = s->clients[at];
        if (c->lost || !has_line(c))
            continue;
        *line = cb_live_line(&c->reader);
        line->owner = c->number;
        c->asked += line->length || line->too_long;
        s->given = c;
        s->turn = (at + 1) % s->count;
        return true;
    }
    return false;
}

static void forget_given(live_socket *s)
{
    if (s->given)
        cb_live_next(&s->given->reader);
    s->given = NULL;
}

static void drop_over(live_socket *s)
{
    for (size_t i = s->count; i-- > 0;)
        if (is_over(s->clients[i]))
            drop(s, i);
}

/* What the first `listed` clients wait for. */
static bool serve(live_socket *s, size_t listed)
{
    for (size_t i = 0; i < listed; i++) {
        short events = s->ready[i + 1].revents;
        if (events & POLLOUT)
            send_answers(s->clients[i]);
        if (events & (POLLIN | POLLHUP | POLLERR)) {
            if (!s->clients[i]->ended && !has_bytes(s->clients[i]))
                receive(s->clients[i]);
            else
                s->clients[i]->lost |= (events & (POLLERR | POLLHUP)) != 0;
        }
    }
    return !(s->ready[0].revents & POLLIN) || accept_clients(s);
}

/* For so many milliseconds at most. */
static bool wait_for_clients(live_socket *s, int most)
{
    drop_over(s);
    double now = cb_now();
    s->ready[0] = (struct pollfd){.fd = now < s->listen_again ? -1 : s->fd, .events = POLLIN};
    for (size_t i = 0; i < s->count; i++) {
        const client *c = s->clients[i];
        short in = c->ended || has_bytes(c) ? 0 : POLLIN, out = has_unsent(c) ? POLLOUT : 0;
        s->ready[i + 1] = (struct pollfd){.fd = in || out ? c->fd : -1, .events = in | out};
    }
    size_t listed = s->count;
    int n = poll(s->ready, listed + 1, most);
    if (cb_interrupted())
        return cb_fail(CB_ERR_INTERRUPTED, "interrupted while waiting for lines") == CB_OK;
    return n <= 0 || serve(s, listed);
}

static live_step next(live_source *source, double until, live_line *line)
{
    live_socket *s = (live_socket *)source;
    forget_given(s);
    for (int wait = 0;;
         wait = LIVE_LOOK_UP) { /* at first only those are heard who have said something: others than the one whose turn it was, too */
        double left = until > 0 ? (until - cb_now()) * 1e3 : wait;
        if (!wait_for_clients(s, left < wait ? (left > 0 ? (int)left + 1 : 0) : wait))
            return LIVE_FAILED;
        if (take_turn(s, line))
            return LIVE_FOUND;
        if (!cb_ok())
            return LIVE_FAILED;
        if (until > 0 && cb_now() >= until)
            return LIVE_WAITED;
    }
}

static bool answer(live_source *source, uint64_t owner, const char *line, size_t length)
{
    live_socket *s = (live_socket *)source;
    size_t at = 0;
    while (at < s->count && s->clients[at]->number != owner)
        at++;
    if (at == s->count) /* it did not wait */
        return true;
    client *c = s->clients[at];
    c->asked--;
    if (c->answers.length - c->sent + length > MOST_UNREAD)
        c->lost = true;
    forget_sent(c);
    if (!c->lost && !cb_string_append(&c->answers, line, length))
        return false;
    send_answers(c);
    return true;
}

/* ---- listening ---- */

static bool failed(const live_socket *s, const char *what)
{
    return cb_io_failed(s->address, what);
}

/* Whether the socket there is one that a process has left; of somebody else's, another kind's or a busy one's nobody knows better. */
static bool is_left(const struct sockaddr_un *where)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool left = fd >= 0 && connect(fd, (const struct sockaddr *)where, sizeof *where) != 0 && errno == ECONNREFUSED;
    if (fd >= 0)
        close(fd);
    return left;
}

/* What lies at the path: a socket that nobody serves is removed. */
static bool clear_path(const live_socket *s, const struct sockaddr_un *where)
{
    struct stat st;
    if (lstat(s->path, &st) != 0)
        return true;
    if (!S_ISSOCK(st.st_mode))
        return cb_fail(CB_ERR_STATE, "%s: is there already and no socket, expected another path", s->path) == CB_OK;
    if (!is_left(where))
        return cb_fail(CB_ERR_STATE, "%s: somebody listens there already", s->path) == CB_OK;
    return unlink(s->path) == 0 || failed(s, "cannot remove what was left there");
}

/* Nobody can connect before it is ours alone. */
static bool bind_path(live_socket *s, const struct sockaddr_un *where)
{
    s->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s->fd < 0 || bind(s->fd, (const struct sockaddr *)where, sizeof *where) != 0)
        return failed(s, "cannot make a socket");
    if (lstat(s->path, &s->made) != 0 || chmod(s->path, S_IRUSR | S_IWUSR) != 0 || listen(s->fd, BACKLOG) != 0)
        return failed(s, "cannot listen");
    return true;
}

/* Of several that begin at once only one is between looking and listening: the directory is locked meanwhile. */
static bool listen_at_path(live_socket *s)
{
    struct sockaddr_un where = {.sun_family = AF_UNIX};
    size_t length = strlen(s->path);
    if (!length || length >= sizeof where.sun_path)
        return cb_fail(CB_ERR_ARGUMENT, "%s: the path has %zu bytes, expected 1 to %zu", s->address, length, sizeof where.sun_path - 1) ==
               CB_OK;
    memcpy(where.sun_path, s->path, length);
    char *directory = cb_path_parent(s->path);
    int lock = directory ? cb_io_open(directory, O_RDONLY | O_DIRECTORY) : -1;
    bool ok = lock >= 0 && flock(lock, LOCK_EX) == 0;
    if (directory && !ok)
        cb_io_failed(directory, "cannot open");
    ok = ok && clear_path(s, &where) && bind_path(s, &where);
    if (lock >= 0)
        close(lock);
    cb_free(directory);
    return ok;
}

static bool bind_one(live_socket *s, const struct addrinfo *a)
{
    int on = 1;
    s->fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s->fd >= 0 && setsockopt(s->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 && bind(s->fd, a->ai_addr, a->ai_addrlen) == 0 &&
        listen(s->fd, BACKLOG) == 0)
        return true;
    int reason = errno;
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
    errno = reason;
    return false;
}

/* [HOST:]PORT; an IPv6 address stands in brackets. */
static bool split_port(const char *text, char **host, const char **port)
{
    const char *colon = strrchr(text, ':');
    size_t from = colon && text[0] == '[' ? 1 : 0, end = colon ? (size_t)(colon - text) : 0;
    end -= from && end && text[end - 1] == ']';
    *port = colon ? colon + 1 : text;
    *host = colon ? cb_strndup(text + from, end - from) : cb_strdup("localhost");
    return *host;
}

static bool listen_at_port(live_socket *s, const char *text)
{
    char *host, *end = NULL;
    const char *port;
    if (!split_port(text, &host, &port))
        return false;
    long number = strtol(port, &end, 10);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list = NULL;
    bool ok = *port && !*end && number > 0 && number < 1 << 16;
    int problem = ok ? getaddrinfo(host, port, &hints, &list) : 0;
    if (!ok)
        cb_fail(CB_ERR_ARGUMENT, "%s: expected tcp:PORT or tcp:HOST:PORT, with a port of 1 to 65535", s->address);
    else if (problem)
        ok = cb_fail(CB_ERR_IO, "%s: %s", s->address, gai_strerror(problem)) == CB_OK;
    bool bound = false;
    for (const struct addrinfo *a = list; ok && a && !bound; a = a->ai_next)
        bound = bind_one(s, a);
    if (ok && !bound)
        failed(s, "cannot listen");
    if (list)
        freeaddrinfo(list);
    cb_free(host);
    return ok && bound;
}

/* Those who wait get what they can take at once. */
static void socket_free(live_source *source)
{
    live_socket *s = (live_socket *)source;
    struct stat st;
    for (size_t i = 0; i < s->count; i++) {
        send_answers(s->clients[i]);
        client_free(s->clients[i]);
    }
    if (s->path && s->fd >= 0 && lstat(s->path, &st) == 0 && st.st_ino == s->made.st_ino && st.st_dev == s->made.st_dev)
        unlink(s->path);
    if (s->fd >= 0)
        close(s->fd);
    cb_free(s->address);
    cb_free(s->clients);
    cb_free(s->ready);
    cb_free(s);
}

static const live_source_kind of_socket = {.next = next, .free = socket_free, .wait = 0.05, .answer = answer};

/* Clients must not take the files that images and checkpoints need. */
static bool check_files(const live_socket *s, const char *address)
{
    struct rlimit files;
    return getrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur == RLIM_INFINITY || s->most + BESIDE <= files.rlim_cur ||
           cb_fail(CB_ERR_ARGUMENT, "%s: max_clients: found %zu, expected %d less than the %llu files that may be open", address, s->most,
                   BESIDE, (unsigned long long)files.rlim_cur) == CB_OK;
}

static bool open_socket(live_socket *s, const char *address)
{
    static const char unix_prefix[] = "unix:", tcp_prefix[] = "tcp:";
    if (!check_files(s, address))
        return false;
    s->address = cb_strdup(address);
    s->clients = cb_calloc(s->most, sizeof *s->clients);
    s->ready = cb_calloc(s->most + 1, sizeof *s->ready);
    if (!s->address || !s->clients || !s->ready)
        return false;
    if (strncmp(address, unix_prefix, strlen(unix_prefix)) != 0)
        return listen_at_port(s, s->address + strlen(tcp_prefix));
    s->path = s->address + strlen(unix_prefix);
    return listen_at_path(s);
}

live_source *cb_live_socket(const char *address, int64_t most_clients)
{
    live_socket *s = cb_calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->source.kind = &of_socket;
    s->fd = -1;
    s->most = (size_t)most_clients;
    if (open_socket(s, address))
        return &s->source;
    socket_free(&s->source);
    return NULL;
}
