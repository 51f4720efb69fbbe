// A flood of SYNs from one source or from many, at a steady rate.
//
//   flood INTERFACE DESTINATION_MAC FIRST_SOURCE SOURCES DESTINATION PORT RATE SECONDS
//
// With IPv6 each source has a prefix of 64 bits of its own, and the last 64 bits of the destination are random.
//
// Prints the number of packets sent, the seconds, and the processor seconds used. On a veth pair they
// include the work of the receiving kernel.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

enum { BATCH = 64 };

struct segment {
    struct tcphdr tcp;
    unsigned char options[20];
} __attribute__((packed));

struct frame {
    struct ether_header ether;
    union {
        struct {
            struct iphdr ip;
            struct segment segment;
        } __attribute__((packed)) v4;
        struct {
            struct ip6_hdr ip;
            struct segment segment;
        } __attribute__((packed)) v6;
    };
} __attribute__((packed));

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static uint16_t checksum(const void *bytes, size_t length, uint32_t sum) {
    const uint8_t *b = bytes;
    for (size_t i = 0; i < length; i += 2) sum += b[i] << 8 | b[i + 1];
    while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
    return htons(~sum);
}

static struct frame syn(const char *source, const char *destination, int port, const char *mac) {
    static const unsigned char options[20] = {2, 4, 5, 0xb4, 4, 2, 8, 10, [16] = 1, 3, 3, 10};
    int v6 = !!strchr(destination, ':');
    struct frame f = {.ether.ether_type = htons(v6 ? ETHERTYPE_IPV6 : ETHERTYPE_IP)};
    struct segment *segment = v6 ? &f.v6.segment : &f.v4.segment;
    unsigned char *to = f.ether.ether_dhost, *from = f.ether.ether_shost;
    if (sscanf(mac, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", to, to + 1, to + 2, to + 3, to + 4, to + 5) != 6)
        errx(2, "bad address %s", mac);
    memcpy(from, to, 6);
    from[5] ^= 1;
    if (v6) {
        f.v6.ip.ip6_flow = htonl(6 << 28);
        f.v6.ip.ip6_plen = htons(sizeof *segment);
        f.v6.ip.ip6_nxt = IPPROTO_TCP;
        f.v6.ip.ip6_hlim = 64;
        inet_pton(AF_INET6, source, &f.v6.ip.ip6_src);
        inet_pton(AF_INET6, destination, &f.v6.ip.ip6_dst);
    } else {
        f.v4.ip = (struct iphdr){.version = 4, .ihl = 5, .tot_len = htons(sizeof f.v4), .frag_off = htons(IP_DF),
                                 .ttl = 64, .protocol = IPPROTO_TCP, .daddr = inet_addr(destination)};
    }
    segment->tcp = (struct tcphdr){.dest = htons(port), .doff = 10, .syn = 1};
    memcpy(segment->options, options, sizeof options);
    return f;
}

static void vary_segment(struct segment *segment, const void *addresses, size_t length) {
    uint32_t sum = IPPROTO_TCP + sizeof *segment;
    segment->tcp.source = htons(1024 + random() % 60000);
    segment->tcp.seq = random() << 1;
    segment->tcp.ack_seq = random() << 1;
    segment->tcp.window = random();
    segment->tcp.check = 0;
    sum += (uint16_t)~ntohs(checksum(addresses, length, 0));
    segment->tcp.check = checksum(segment, sizeof *segment, sum);
}

static void vary(struct frame *f, uint32_t first, uint32_t number) {
    if (f->ether.ether_type == htons(ETHERTYPE_IP)) {
        f->v4.ip.saddr = htonl(first + number);
        f->v4.ip.id = random();
        f->v4.ip.check = 0;
        f->v4.ip.check = checksum(&f->v4.ip, sizeof f->v4.ip, 0);
        vary_segment(&f->v4.segment, &f->v4.ip.saddr, 8);
        return;
    }
    f->v6.ip.ip6_src.s6_addr16[2] = htons(number >> 16);
    f->v6.ip.ip6_src.s6_addr16[3] = htons(number);
    for (int i = 4; i < 8; i++) f->v6.ip.ip6_dst.s6_addr16[i] = random();
    vary_segment(&f->v6.segment, &f->v6.ip.ip6_src, 32);
}

int main(int argc, char **argv) {
    if (argc != 9)
        errx(2, "usage: flood INTERFACE MAC FIRST_SOURCE SOURCES DESTINATION PORT RATE SECONDS");
    uint32_t first = ntohl(inet_addr(argv[3])), sources = atoi(argv[4]);
    size_t length = sizeof(struct ether_header) + sizeof(struct segment) +
                    (strchr(argv[5], ':') ? sizeof(struct ip6_hdr) : sizeof(struct iphdr));
    double rate = atof(argv[7]), seconds = atof(argv[8]);
    struct frame frames[BATCH];
    struct mmsghdr messages[BATCH] = {0};
    struct iovec parts[BATCH];
    struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_ifindex = if_nametoindex(argv[1])};
    int on = 1, fd = socket(AF_PACKET, SOCK_RAW, 0);
    if (fd < 0 || bind(fd, (void *)&to, sizeof to)) err(1, "cannot open a packet socket");
    setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &on, sizeof on);
    for (int i = 0; i < BATCH; i++) {
        frames[i] = syn(argv[3], argv[5], atoi(argv[6]), argv[2]);
        parts[i] = (struct iovec){&frames[i], length};
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1};
    }
    // Packets from the network do not wait for the processes of the receiver either.
    if (sched_setscheduler(0, SCHED_FIFO, &(struct sched_param){1})) err(1, "cannot use real-time scheduling");
    double start = now();
    long sent = 0;
    for (double t = 0; t < seconds; t = now() - start) {
        int due = t * rate - sent;
        if (due < 1) {
            nanosleep(&(struct timespec){0, 200000}, NULL);
            continue;
        }
        if (due > BATCH) due = BATCH;
        for (int i = 0; i < due; i++) vary(&frames[i], first, (sent + i) % sources);
        int n = sendmmsg(fd, messages, due, 0);
        if (n < 0) err(1, "cannot send");
        sent += n;
    }
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    printf("%ld %.3f %.3f\n", sent, now() - start,
           used.ru_utime.tv_sec + used.ru_stime.tv_sec +
               (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6);
}
