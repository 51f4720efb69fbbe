/* syn ADDRESS PORT: a connect() that nobody waits for; a real SYN leaves. */
#include <arpa/inet.h>
#include <stdlib.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6 };
	if (argc != 3)
		return 2;
	v4.sin_port = v6.sin6_port = htons(atoi(argv[2]));
	if (inet_pton(AF_INET, argv[1], &v4.sin_addr) == 1)
		connect(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), (struct sockaddr *)&v4, sizeof(v4));
	else if (inet_pton(AF_INET6, argv[1], &v6.sin6_addr) == 1)
		connect(socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0), (struct sockaddr *)&v6, sizeof(v6));
	else
		return 2;
	return 0;
}
