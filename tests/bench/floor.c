// The floor: the least that a knock daemon of this design can do. It takes a packet's source address
// from the kernel's log, stores a counter with one fdatasync, and adds one element to an nftables set.
// It has no cryptography, no parser and no separation of privileges; their cost is the difference to it.
//
//   floor kmsg|nflog:GROUP COUNTER_FILE TABLE SET PORT
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_log.h>
#include <linux/netlink.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

// The netlink message that is being built; close_nest() and end() fill in the lengths.
static struct { char bytes[1024]; size_t length; } out;

static void *put(const void *bytes, size_t length) {
    void *at = memset(out.bytes + out.length, 0, NLMSG_ALIGN(length));
    if (bytes) memcpy(at, bytes, length);
    out.length += NLMSG_ALIGN(length);
    return at;
}

static struct nlmsghdr *message(int type, int flags, int family, int resource) {
    struct nfgenmsg nf = {.nfgen_family = family, .version = NFNETLINK_V0, .res_id = htons(resource)};
    struct nlmsghdr *m = put(NULL, sizeof *m);
    m->nlmsg_type = type;
    m->nlmsg_flags = NLM_F_REQUEST | flags;
    put(&nf, sizeof nf);
    return m;
}

static void end(struct nlmsghdr *m) { m->nlmsg_len = out.bytes + out.length - (char *)m; }

static struct nlattr *attribute(int type, const void *value, size_t length) {
    struct nlattr head = {NLA_HDRLEN + length, type}, *a = put(&head, sizeof head);
    put(value, length);
    return a;
}

static struct nlattr *nest(int type) { return attribute(type | NLA_F_NESTED, NULL, 0); }

static void close_nest(struct nlattr *a) { a->nla_len = out.bytes + out.length - (char *)a; }

static int netlink(void) {
    struct sockaddr_nl any = {.nl_family = AF_NETLINK};
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
    if (fd < 0 || bind(fd, (void *)&any, sizeof any)) err(1, "cannot open netlink");
    return fd;
}

// Sends the message and returns the error in the kernel's acknowledgment.
static int transact(int fd) {
    char answer[4096];
    if (send(fd, out.bytes, out.length, 0) < 0) err(1, "cannot write to netlink");
    out.length = 0;
    ssize_t n = recv(fd, answer, sizeof answer, 0);
    struct nlmsghdr *m = (void *)answer;
    if (n < 0 || m->nlmsg_type != NLMSG_ERROR) errx(1, "no acknowledgment from netlink");
    return -((struct nlmsgerr *)NLMSG_DATA(m))->error;
}

static void open_port(int fd, const char *table, const char *set, in_addr_t source, int port) {
    struct { in_addr_t source; uint16_t port, padding; } key = {source, htons(port), 0};
    end(message(NFNL_MSG_BATCH_BEGIN, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES));
    struct nlmsghdr *m = message(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWSETELEM,
                                 NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK, NFPROTO_INET, 0);
    attribute(NFTA_SET_ELEM_LIST_TABLE, table, strlen(table) + 1);
    attribute(NFTA_SET_ELEM_LIST_SET, set, strlen(set) + 1);
    struct nlattr *list = nest(NFTA_SET_ELEM_LIST_ELEMENTS), *element = nest(NFTA_LIST_ELEM),
                  *name = nest(NFTA_SET_ELEM_KEY);
    attribute(NFTA_DATA_VALUE, &key, sizeof key);
    close_nest(name);
    close_nest(element);
    close_nest(list);
    end(m);
    end(message(NFNL_MSG_BATCH_END, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES));
    int error = transact(fd);
    if (error && error != EEXIST) errx(1, "cannot add to the set: %s", strerror(error));
}

static void store(int counter) {
    static unsigned value;
    char digits[16];
    snprintf(digits, sizeof digits, "%010u\n", ++value);
    if (pwrite(counter, digits, 11, 0) != 11 || fdatasync(counter)) err(1, "cannot store the counter");
}

static int open_kmsg(void) {
    int fd = open("/dev/kmsg", O_RDONLY | O_CLOEXEC);
    if (fd < 0 || lseek(fd, 0, SEEK_END) < 0) err(1, "cannot open /dev/kmsg");
    return fd;
}

static int open_nflog(int group) {
    int fd = netlink();
    struct nfulnl_msg_config_cmd bind_group = {NFULNL_CFG_CMD_BIND};
    struct nfulnl_msg_config_mode headers = {htonl(64), NFULNL_COPY_PACKET, 0};
    uint32_t one = htonl(1);
    struct nlmsghdr *m =
        message(NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_CONFIG, NLM_F_ACK, AF_INET, group);
    attribute(NFULA_CFG_CMD, &bind_group, sizeof bind_group);
    attribute(NFULA_CFG_MODE, &headers, sizeof headers);
    attribute(NFULA_CFG_QTHRESH, &one, sizeof one);
    end(m);
    if ((errno = transact(fd))) err(1, "cannot listen to nflog group %d", group);
    return fd;
}

// Returns the source address of the next packet in the log, or 0 for another record.
static in_addr_t next_kmsg(int fd) {
    char line[8192], *at;
    ssize_t n = read(fd, line, sizeof line - 1);
    if (n < 0 && errno != EPIPE) err(1, "cannot read /dev/kmsg");
    line[n < 0 ? 0 : n] = 0;
    if (!strstr(line, ";floor IN=") || !(at = strstr(line, " SRC="))) return 0;
    at[5 + strcspn(at + 5, " ")] = 0;
    return inet_addr(at + 5);
}

static in_addr_t next_nflog(int fd) {
    char bytes[8192];
    ssize_t n = recv(fd, bytes, sizeof bytes, 0);
    struct nlmsghdr *m = (void *)bytes;
    if (n < 0 && errno != ENOBUFS) err(1, "cannot read from nflog");
    if (n < 0 || m->nlmsg_type != (NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_PACKET)) return 0;
    for (char *at = bytes + NLMSG_LENGTH(sizeof(struct nfgenmsg)); at < bytes + m->nlmsg_len;) {
        struct nlattr *a = (void *)at;
        in_addr_t source;
        if (a->nla_type == NFULA_PAYLOAD && a->nla_len >= NLA_HDRLEN + 20)
            return *(in_addr_t *)memcpy(&source, at + NLA_HDRLEN + 12, sizeof source);
        at += NLA_ALIGN(a->nla_len);
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 6) errx(2, "usage: floor kmsg|nflog:GROUP COUNTER_FILE TABLE SET PORT");
    int by_nflog = !strncmp(argv[1], "nflog:", 6), fw = netlink();
    int log = by_nflog ? open_nflog(atoi(argv[1] + 6)) : open_kmsg();
    int counter = open(argv[2], O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (counter < 0) err(1, "cannot open %s", argv[2]);
    fputs("floor: ready\n", stderr);
    for (;;) {
        in_addr_t source = by_nflog ? next_nflog(log) : next_kmsg(log);
        if (!source) continue;
        store(counter);
        open_port(fw, argv[3], argv[4], source, atoi(argv[5]));
    }
}
