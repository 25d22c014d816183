/* The two ends of tests/bench/loop.py: a bare loop of send(), and clients that read whatever comes (main). */
#include <arpa/inet.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

int sends(const int *sockets, int count, const char *data, int size) {
    int whole = 0;
    for (int i = 0; i < count; i++) whole += send(sockets[i], data, size, MSG_NOSIGNAL) == size;
    return whole;
}

int main(int argc, char **argv) {
    int poll = epoll_create1(0), clients = argc > 2 ? atoi(argv[2]) : 0;
    struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons(argc > 1 ? atoi(argv[1]) : 0)};
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (int i = 0; i < clients; i++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(fd, (struct sockaddr *)&server, sizeof server)) return 1;
        struct epoll_event wanted = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(poll, EPOLL_CTL_ADD, fd, &wanted);
    }
    static char waste[65536];
    struct epoll_event ready[512];
    for (;;)
        for (int i = epoll_wait(poll, ready, 512, -1); i > 0; i--)
            if (read(ready[i - 1].data.fd, waste, sizeof waste) <= 0) return 0;
}
