/* SPDX-License-Identifier: MIT */
/* Which addresses are nobody's but this host's or its network's. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include "net/url.h"
#include "util/bytes.h"

static bool is_private_v4(uint32_t a)
{
    static const struct {
        uint32_t net;
        unsigned bits;
    } table[] = {
        {0x00000000, 8},  /* this host, unspecified */
        {0x0a000000, 8},  /* private */
        {0x64400000, 10}, /* shared by a provider's customers */
        {0x7f000000, 8},  /* loopback */
        {0xa9fe0000, 16}, /* link-local: metadata services */
        {0xac100000, 12}, /* private */
        {0xc0000000, 24}, /* protocol assignments */
        {0xc0a80000, 16}, /* private */
        {0xc6120000, 15}, /* benchmarks of networks */
        {0xe0000000, 3}   /* multicast, reserved, broadcast */
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if ((a ^ table[i].net) >> (32 - table[i].bits) == 0)
            return true;
    return false;
}

static bool begins(const uint8_t *a, const uint8_t *prefix, size_t n)
{
    return memcmp(a, prefix, n) == 0;
}

static bool is_private_v6(const uint8_t *a)
{
    static const uint8_t zero[12], mapped[12] = {[10] = 0xff, [11] = 0xff},
                         translated[12] = {[8] = 0xff, [9] = 0xff},
                         nat64[12] = {0x00, 0x64, 0xff, 0x9b},
                         own_nat64[6] = {0x00, 0x64, 0xff, 0x9b, 0x00, 0x01},
                         teredo[4] = {0x20, 0x01};

    if (a[0] == 0xff || (a[0] & 0xfe) == 0xfc || (a[0] == 0xfe && a[1] & 0x80))
        return true; /* multicast; unique local; link-local and site-local */
    if (begins(a, own_nat64, 6))
        return true;
    /* "::", "::1" and what was once IPv4 in IPv6 stand in the IPv4 network 0 */
    if (begins(a, zero, 12) || begins(a, mapped, 12) || begins(a, translated, 12) ||
        begins(a, nat64, 12))
        return is_private_v4(qc_be32(a + 12));
    if (a[0] == 0x20 && a[1] == 0x02)
        return is_private_v4(qc_be32(a + 2));
    if (begins(a, teredo, 4)) /* its server, and the client with all bits turned */
        return is_private_v4(qc_be32(a + 4)) || is_private_v4(~qc_be32(a + 12));
    return false;
}

bool qc_address_is_private(const struct sockaddr *a)
{
    if (a->sa_family == AF_INET) {
        struct sockaddr_in in;

        memcpy(&in, a, sizeof(in));
        return is_private_v4(ntohl(in.sin_addr.s_addr));
    }
    if (a->sa_family == AF_INET6) {
        struct sockaddr_in6 in6;

        memcpy(&in6, a, sizeof(in6));
        return is_private_v6(in6.sin6_addr.s6_addr);
    }
    return true; /* no network we know */
}

bool qc_address_text_is_private(const char *text)
{
    size_t n = strcspn(text, "%"); /* an IPv6 zone */
    char copy[INET6_ADDRSTRLEN] = "";
    struct in6_addr a6;
    struct in_addr a4;

    if (n >= sizeof(copy))
        return false;
    memcpy(copy, text, n);
    /* also "127.1", "0x7f000001", "2130706433": resolvers take them */
    if (inet_aton(copy, &a4) && !strpbrk(copy, " \t\n"))
        return is_private_v4(ntohl(a4.s_addr));
    return inet_pton(AF_INET6, copy, &a6) == 1 && is_private_v6(a6.s6_addr);
}
