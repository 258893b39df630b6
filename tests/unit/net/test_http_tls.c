/* SPDX-License-Identifier: MIT */
/* TLS: whatever is wrong with a certificate or the protocol, there is one attempt, an error that says
 * so, and nothing in the clear. Certificates and servers are openssl's. */
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "http_tools.h"

static char dir[] = "/tmp/qc-http-tls-XXXXXX";
static pid_t running;

static const char *in_dir(const char *name)
{
    static char path[8][64];
    static int n;

    n = (n + 1) % 8;
    snprintf(path[n], sizeof(path[n]), "%s/%s", dir, name);
    return path[n];
}

/* Words with blanks between them; a word "@x" is the file x. Its process. */
static pid_t run(const char *words)
{
    char text[1000], *argv[64], *state;
    int n = 0;
    pid_t pid;

    snprintf(text, sizeof(text), "%s", words);
    for (char *w = strtok_r(text, " ", &state); w && n < 63; w = strtok_r(NULL, " ", &state))
        argv[n++] = *w == '@' ? strdup(in_dir(w + 1)) : strdup(w);
    argv[n] = NULL;
    pid = fork();
    if (pid == 0) {
        int null = open("/dev/null", O_RDWR);

        dup2(null, 0);
        dup2(null, 1);
        dup2(null, 2);
        if (chdir(dir) == 0)
            execvp(argv[0], argv);
        _exit(127);
    }
    while (n > 0)
        free(argv[--n]);
    return pid;
}

static bool runs(const char *words)
{
    int status = -1;

    waitpid(run(words), &status, 0);
    return status == 0;
}

#define NEW_KEY "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"

/* A certificate for a name, by the CA. */
static bool make_cert(const char *name, const char *host, int days)
{
    char words[600];
    FILE *f;

    f = fopen(in_dir("ext"), "w");
    fprintf(f, "subjectAltName=%s\n", host);
    fclose(f);
    snprintf(words, sizeof(words), "openssl req -new %s -keyout @%s.key -out @req -subj /CN=x", NEW_KEY,
             name);
    if (!runs(words))
        return false;
    snprintf(words, sizeof(words), "openssl x509 -req -in @req -CA @ca -CAkey @ca.key -CAcreateserial "
             "-extfile @ext -out @%s -days %d", name, days);
    return runs(words);
}

static int make_certs(void **unused)
{
    (void)unused;
    assert_non_null(mkdtemp(dir));
    if (runs("openssl req -x509 " NEW_KEY " -keyout @ca.key -out @ca -subj /CN=ca -days 2") &&
        make_cert("good", "DNS:localhost,IP:127.0.0.1", 2) &&
        make_cert("expired", "DNS:localhost,IP:127.0.0.1", -1) &&
        make_cert("other", "DNS:other.example,DNS:*.localhost", 2) &&
        runs("openssl req -x509 " NEW_KEY " -keyout @self.key -out @self -subj /CN=localhost -days 2 "
             "-addext subjectAltName=DNS:localhost,IP:127.0.0.1"))
        return 0;
    printf("openssl makes no certificates here\n");
    return 0;
}

static int remove_certs(void **unused)
{
    char words[100];

    (void)unused;
    snprintf(words, sizeof(words), "rm -r %s", dir);
    runs(words);
    return 0;
}

static uint16_t a_port(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
    close(fd);
    return ntohs(a.sin_port);
}

static bool listens(uint16_t port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                            .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    bool yes = connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0;

    close(fd);
    return yes;
}

/* A server with this certificate, on the port that is given back. */
static uint16_t serve(const char *cert, const char *more)
{
    uint16_t port = a_port();
    char words[300];

    if (access(in_dir("self"), R_OK) != 0)
        skip();
    snprintf(words, sizeof(words), "openssl s_server -quiet -accept %u -cert @%s -key @%s.key %s",
             port, cert, cert, more);
    running = run(words);
    for (int i = 0; i < 3000 && !listens(port); i++)
        usleep(10000);
    return port;
}

static int setup_tls(void **state)
{
    int ret = setup(state);

    conf->ca_file = qc_strdup(in_dir("ca"));
    return ret;
}

static int teardown_tls(void **state)
{
    if (running > 0) {
        kill(running, SIGTERM);
        waitpid(running, NULL, 0);
        running = 0;
    }
    return teardown(state);
}

static int get_of(struct get *g, const char *host, uint16_t port)
{
    char name[100];

    snprintf(name, sizeof(name), "https://%s:%u/x", host, port);
    get_init(g, place_at(name), 0, 10);
    return get_run(g);
}

/* It fails at once, for a reason that is told. */
static void is_refused(const char *host, uint16_t port, const char *word)
{
    struct get g;

    assert_int_equal(get_of(&g, host, port), QCHAIN_E_NET);
    if (g.r.attempts != 1 || !strstr(g.r.err.text, "TLS") || !strcasestr(g.r.err.text, word))
        fail_msg("%u attempts, no \"%s\": %s", g.r.attempts, word, g.r.err.text);
    get_finish(&g);
}

/* What s_server answers makes no sense, but it comes through TLS. */
static void is_trusted(const char *host, uint16_t port)
{
    struct get g;

    get_of(&g, host, port);
    if (strstr(g.r.err.text, "TLS") || g.r.status != 200)
        fail_msg("status %d: %s", g.r.status, g.r.err.text);
    get_finish(&g);
}

static void tls_of_a_known_ca(void **unused)
{
    uint16_t port = serve("good", "-www");

    (void)unused;
    is_trusted("localhost", port);
    is_trusted("127.0.0.1", port);
}

static void tls_expired(void **unused)
{
    (void)unused;
    is_refused("localhost", serve("expired", "-www"), "expired");
}

static void tls_wrong_name(void **unused)
{
    uint16_t port = serve("other", "-www");

    (void)unused;
    is_refused("localhost", port, "name");
    is_refused("127.0.0.1", port, "name");
}

static void tls_unknown_ca(void **unused)
{
    (void)unused;
    is_refused("localhost", serve("self", "-www"), "certificate");
}

/* An old protocol, and ciphers that hide nothing. */
static void tls_downgrade(void **unused)
{
    (void)unused;
    is_refused("localhost", serve("good", "-www -tls1_1 -cipher ALL@SECLEVEL=0"), "TLS");
    teardown_tls(NULL);
    setup_tls(NULL);
    is_refused("localhost", serve("good", "-www -tls1_2 -cipher NULL@SECLEVEL=0"), "TLS");
}

/* Speaks first, and not TLS; says what it heard. */
struct plain {
    int  fd, n_conns;
    char heard[8192];
};

static void *speak_plainly(void *arg)
{
    static const char text[] = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789";
    struct plain *p = arg;
    int fd;

    while ((fd = accept(p->fd, NULL, NULL)) >= 0) {
        ssize_t n = recv(fd, p->heard, sizeof(p->heard) - 1, 0);

        p->heard[n > 0 ? n : 0] = '\0';
        p->n_conns++;
        srv_send(fd, text, sizeof(text) - 1);
        close(fd);
    }
    return NULL;
}

/* Where https was asked for nothing is asked for in the clear, whoever answers there. */
static void tls_never_in_the_clear(void **unused)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct plain p = {.fd = socket(AF_INET, SOCK_STREAM, 0)};
    socklen_t len = sizeof(a);
    pthread_t id;

    (void)unused;
    assert_int_equal(bind(p.fd, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(listen(p.fd, 8), 0);
    assert_int_equal(getsockname(p.fd, (struct sockaddr *)&a, &len), 0);
    assert_int_equal(pthread_create(&id, NULL, speak_plainly, &p), 0);
    is_refused("localhost", ntohs(a.sin_port), "TLS");
    shutdown(p.fd, SHUT_RDWR);
    pthread_join(id, NULL);
    close(p.fd);
    assert_int_equal(p.n_conns, 1);
    assert_int_equal(p.heard[0], 0x16); /* a handshake */
    assert_null(strstr(p.heard, "GET"));
}

/* Connections to a server that is gone are closed without a signal; and the program's own answer to
 * that signal is left alone, by whichever engine ends first. */
static void *some_engines(void *arg)
{
    (void)arg;
    for (int i = 0; i < 50; i++) {
        struct qc_http *h = qc_http_create(conf, NULL, NULL);
        struct get g;

        get_init(&g, place_of(srv, "/object"), 0, 10);
        assert_int_equal(qc_http_perform(h, &g.r), 0);
        get_finish(&g);
        qc_http_destroy(h);
    }
    return NULL;
}

static void on_pipe(int number)
{
    (void)number;
}

static void sigpipe_is_the_programs(void **unused)
{
    struct sigaction mine = {.sa_handler = on_pipe}, old, now;
    pthread_t id[4];

    (void)unused;
    assert_int_equal(sigaction(SIGPIPE, &mine, &old), 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&id[i], NULL, some_engines, NULL), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(id[i], NULL);
    assert_int_equal(sigaction(SIGPIPE, &old, &now), 0);
    assert_ptr_equal(now.sa_handler, on_pipe);
}

static void sigpipe_at_the_end_of_tls(void **unused)
{
    struct sigaction dfl = {.sa_handler = SIG_DFL}, old;
    uint16_t port = serve("good", "-www");

    (void)unused;
    assert_int_equal(sigaction(SIGPIPE, &dfl, &old), 0);
    for (int i = 0; i < 3; i++) {
        is_trusted("localhost", port);
        kill(running, SIGKILL); /* what is still sent goes nowhere */
        waitpid(running, NULL, 0);
        running = 0;
        usleep(20000);
        qc_http_destroy(http);
        http = qc_http_create(conf, NULL, slots);
        port = serve("good", "-www");
    }
    sigaction(SIGPIPE, &old, NULL);
}

/* The server's clock is believed over TLS, once, and not otherwise. */
static void clock_skew_is_learned_by_tls(void **unused)
{
    char date[64], endpoint[64];
    time_t t = time(NULL) + 3600;
    struct tm tm;
    struct get g;
    FILE *f;

    (void)unused;
    snprintf(endpoint, sizeof(endpoint), "https://localhost:%u", serve("good", "-HTTP"));
    strftime(date, sizeof(date), "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&t, &tm));
    mkdir(in_dir("bucket"), 0700);
    f = fopen(in_dir("bucket/key"), "w");
    fprintf(f, "HTTP/1.0 403 No\r\nDate: %s\r\n\r\n<Error><Code>RequestTimeTooSkewed</Code></Error>", date);
    fclose(f);
    for (int i = 0; i < 2; i++) { /* then in the clear: as anybody could write */
        static char said[300];

        if (i == 1) {
            snprintf(endpoint, sizeof(endpoint), "http://127.0.0.1:%u", srv->port);
            snprintf(said, sizeof(said), "Date: %s\r\n", date);
            srv_add(srv, (struct srv_step){.times = 9, .status = 403, .header = said,
                                           .body = "<Error><Code>RequestTimeTooSkewed</Code></Error>"});
        }
        qc_free(conf->s3_endpoint);
        qc_free(conf->s3_access_key);
        qc_free(conf->s3_secret_key);
        conf->s3_endpoint = qc_strdup(endpoint);
        conf->s3_access_key = qc_strdup("AKID");
        conf->s3_secret_key = qc_strdup("SECRET");
        qc_http_destroy(http);
        qc_credentials_destroy(creds);
        qc_slots_destroy(slots);
        open_http();
        get_init(&g, place_at("s3://bucket/key"), 0, 10);
        assert_int_equal(get_run(&g), QCHAIN_E_AUTH);
        assert_int_equal(g.r.attempts, i == 0 ? 2 : 1);
        assert_non_null(strstr(g.r.err.text, "RequestTimeTooSkewed"));
        get_finish(&g);
    }
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup_tls, teardown_tls)
    const struct CMUnitTest tests[] = {
        T(tls_of_a_known_ca), T(tls_expired), T(tls_wrong_name), T(tls_unknown_ca), T(tls_downgrade),
        T(tls_never_in_the_clear), T(clock_skew_is_learned_by_tls),
        T(sigpipe_is_the_programs), T(sigpipe_at_the_end_of_tls),
    };

    return cmocka_run_group_tests_name("net/http tls", tests, make_certs, remove_certs);
}
