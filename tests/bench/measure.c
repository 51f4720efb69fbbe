// Measures both ends in one process, with one clock: sends a prepared packet from the client's
// namespace, waits for the nftables notification that the server's firewall changed, and connects.
//
//   measure latency CLIENT_NS SERVER_NS PORT < knocks
//       One after the other. Prints for each the microseconds to the notification and to the
//       connection, or "-" for one that did not come in time.
//   measure burst CLIENT_NS SERVER_NS PORT < knocks
//       All at once. Prints for each opening, in the kernel's order: source, microseconds since
//       its knock was sent, and whether a first and then a second connection succeeded (1 or 0).
//   measure run N COMMAND [ARGUMENT...]
//       Runs the command N times. Prints the microseconds of each run, from spawn to exit.
//
// A knock is a line "WAIT_US TIMEOUT_MS HEX": the wait after the previous knock, the time limit, and
// the whole IPv4 packet. The connection goes from the packet's source to its destination, port PORT.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

enum { KNOCKS = 20000, PACKET = 1500 };

struct knock {
    int64_t wait, timeout, sent;
    struct in_addr source, destination;
    size_t length;
    unsigned char *packet;
};

static int client_ns, server_ns, raw, notices, listener;
static uint16_t port;

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

static void sleep_until(int64_t when) {
    struct timespec t = {when / 1000000, when % 1000000 * 1000};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR) {}
}

static void enter(int ns) {
    if (setns(ns, CLONE_NEWNET)) err(1, "cannot enter a network namespace");
}

static int namespace(const char *name) {
    char path[256];
    snprintf(path, sizeof path, "/run/netns/%s", name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) err(1, "cannot open %s", path);
    return fd;
}

static void set_up(char **argv) {
    int on = 1, bytes = 32 << 20, group = NFNLGRP_NFTABLES;
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    client_ns = namespace(argv[0]);
    server_ns = namespace(argv[1]);
    port = atoi(argv[2]);
    enter(server_ns);
    notices = socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER);
    setsockopt(notices, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes);
    if (bind(notices, (void *)&kernel, sizeof kernel) ||
        setsockopt(notices, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group))
        err(1, "cannot listen to nftables");
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(port)};
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (void *)&any, sizeof any) || listen(listener, 4096))
        err(1, "cannot listen on port %d", port);
    enter(client_ns);
    raw = socket(AF_INET, SOCK_RAW, IPPROTO_RAW);
    if (raw < 0) err(1, "cannot open a raw socket");
}

static size_t read_knocks(struct knock *knocks) {
    char hex[2 * PACKET + 1];
    long wait, timeout;
    size_t n = 0;
    for (; n < KNOCKS && scanf("%ld %ld %3000s", &wait, &timeout, hex) == 3; n++) {
        struct knock *k = &knocks[n];
        *k = (struct knock){.wait = wait, .timeout = timeout * 1000, .length = strlen(hex) / 2};
        k->packet = malloc(k->length);
        for (size_t i = 0; i < k->length; i++) sscanf(hex + 2 * i, "%2hhx", &k->packet[i]);
        memcpy(&k->source, k->packet + 12, 4);
        memcpy(&k->destination, k->packet + 16, 4);
    }
    return n;
}

static void send_knock(struct knock *k) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr = k->destination};
    k->sent = now();
    if (sendto(raw, k->packet, k->length, 0, (void *)&to, sizeof to) < 0) err(1, "cannot send");
}

// Waits for the next opening that the kernel reports, until the deadline: an element added to a set
// (sets *source) or a rule added to a chain.
static bool next_opening(int64_t deadline, struct in_addr *source) {
    static char buffer[1 << 16];
    static struct nlmsghdr *message;
    static ssize_t left;
    for (;;) {
        while (left > 0 && NLMSG_OK(message, left)) {
            struct nlmsghdr *m = message;
            message = NLMSG_NEXT(message, left);
            int type = m->nlmsg_type - (NFNL_SUBSYS_NFTABLES << 8);
            if (type == NFT_MSG_NEWRULE) return true;
            if (type != NFT_MSG_NEWSETELEM) continue;
            // The element's key is nested four levels deep; other attributes are skipped.
            char *at = (char *)m + NLMSG_LENGTH(sizeof(struct nfgenmsg));
            static const int path[] = {NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_LIST_ELEM,
                                       NFTA_SET_ELEM_KEY, NFTA_DATA_VALUE};
            for (size_t depth = 0; at < (char *)m + m->nlmsg_len;) {
                struct nlattr *a = (void *)at;
                bool wanted = (a->nla_type & NLA_TYPE_MASK) == path[depth];
                if (wanted && ++depth == 4) {
                    memcpy(source, at + NLA_HDRLEN, sizeof *source);
                    return true;
                }
                at += wanted ? NLA_HDRLEN : NLA_ALIGN(a->nla_len);
            }
        }
        int64_t wait = deadline - now();
        struct pollfd p = {notices, POLLIN, 0};
        struct timespec t = {wait / 1000000, wait % 1000000 * 1000};
        if (wait < 0 || ppoll(&p, 1, &t, NULL) < 1) return false;
        left = recv(notices, buffer, sizeof buffer, 0);
        message = (void *)buffer;
        if (left < 0) err(1, "cannot read nftables' notifications");
    }
}

static void close_hard(int fd) {
    struct linger reset = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    close(fd);
}

// Connects for all knocks at the same time, and sets in[i] where the connection succeeded.
static void connect_all(struct knock *knocks, size_t n, int64_t deadline, bool *in) {
    struct pollfd *p = calloc(n, sizeof *p);
    size_t waiting = n;
    for (size_t i = 0; i < n; i++) {
        struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr = knocks[i].source};
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr = knocks[i].destination,
                                 .sin_port = htons(port)};
        p[i] = (struct pollfd){socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), POLLOUT, 0};
        if (p[i].fd < 0 || bind(p[i].fd, (void *)&from, sizeof from)) err(1, "cannot bind");
        if (connect(p[i].fd, (void *)&to, sizeof to) && errno != EINPROGRESS) err(1, "cannot connect");
        in[i] = false;
    }
    while (waiting && now() < deadline) {
        if (poll(p, n, (deadline - now()) / 1000 + 1) < 1) break;
        for (size_t i = 0; i < n; i++) {
            if (p[i].fd < 0 || !p[i].revents) continue;
            int error;
            socklen_t size = sizeof error;
            getsockopt(p[i].fd, SOL_SOCKET, SO_ERROR, &error, &size);
            in[i] = !error;
            close_hard(p[i].fd);
            p[i].fd = -1;
            waiting--;
        }
    }
    for (size_t i = 0; i < n; i++)
        if (p[i].fd >= 0) close_hard(p[i].fd);
    for (int fd; (fd = accept(listener, NULL, NULL)) >= 0;) close_hard(fd);
    free(p);
}

static void latency(struct knock *knocks, size_t n) {
    for (size_t i = 0; i < n; i++) {
        struct knock *k = &knocks[i];
        struct in_addr source;
        bool in;
        sleep_until((i ? knocks[i - 1].sent : now()) + k->wait);
        while (next_opening(now(), &source)) {}
        send_knock(k);
        int64_t deadline = k->sent + k->timeout;
        if (!next_opening(deadline, &source)) {
            puts("- -");
            continue;
        }
        int64_t opened = now();
        connect_all(k, 1, deadline, &in);
        int64_t connected = now();
        if (in) printf("%ld %ld\n", (long)(opened - k->sent), (long)(connected - k->sent));
        else printf("%ld -\n", (long)(opened - k->sent));
    }
}

static void burst(struct knock *knocks, size_t n) {
    struct in_addr *source = calloc(2 * n, sizeof *source);
    int64_t *when = calloc(2 * n, sizeof *when);
    bool *first = calloc(n, sizeof *first), *second = calloc(n, sizeof *second);
    size_t opened = 0;
    int64_t start = now(), at = start;
    for (size_t i = 0; i < n; i++) {
        at += knocks[i].wait;
        while (opened < 2 * n && next_opening(at, &source[opened])) when[opened++] = now();
        send_knock(&knocks[i]);
    }
    // Long enough for the last opening, and for one that was made twice.
    while (opened < 2 * n && next_opening(now() + 300000, &source[opened])) when[opened++] = now();
    connect_all(knocks, n, now() + knocks[0].timeout, first);
    connect_all(knocks, n, now() + 500000, second);
    for (size_t o = 0; o < opened; o++)
        for (size_t i = 0; i < n; i++)
            if (knocks[i].source.s_addr == source[o].s_addr)
                printf("%s %ld %d %d\n", inet_ntoa(source[o]), (long)(when[o] - knocks[i].sent),
                       first[i], second[i]);
}

static void run(int times, char **command) {
    posix_spawn_file_actions_t quiet;
    posix_spawn_file_actions_init(&quiet);
    posix_spawn_file_actions_addopen(&quiet, 1, "/dev/null", O_WRONLY, 0);
    while (times--) {
        pid_t child;
        int status;
        int64_t start = now();
        errno = posix_spawn(&child, command[0], &quiet, NULL, command, environ);
        if (errno) err(1, "cannot run %s", command[0]);
        waitpid(child, &status, 0);
        printf("%ld\n", (long)(now() - start));
        if (status) errx(1, "%s failed", command[0]);
    }
}

int main(int argc, char **argv) {
    if (argc > 3 && !strcmp(argv[1], "run")) {
        run(atoi(argv[2]), argv + 3);
        return 0;
    }
    if (argc != 5) errx(2, "usage: measure latency|burst CLIENT_NS SERVER_NS PORT, or run N COMMAND");
    struct rlimit files = {65536, 65536};
    struct knock *knocks = calloc(KNOCKS, sizeof *knocks);
    setrlimit(RLIMIT_NOFILE, &files);
    setlinebuf(stdout);
    set_up(argv + 2);
    size_t n = read_knocks(knocks);
    (strcmp(argv[1], "burst") ? latency : burst)(knocks, n);
}
