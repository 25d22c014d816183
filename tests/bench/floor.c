/* The floor: what delivering costs when nothing but send() is paid for.
 *
 *   floor PORT REDIS_PORT CHANNEL
 *
 * One thread. It upgrades whoever connects, takes the first frame of a client for its subscription, and writes each
 * message of one Redis channel to all clients, one send() each. It checks nothing, bounds nothing and forgets nobody.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define MOST 65536

enum stage { NEW, OPEN, SUBSCRIBED };
static enum stage stages[MOST];
static int readers[MOST], reading;

static int tcp(int port, int listening) {
  struct sockaddr_in name = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int yes = 1, sock = socket(AF_INET, SOCK_STREAM, 0);
  setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  int failed = listening ? bind(sock, (struct sockaddr *)&name, sizeof name) || listen(sock, 4096)
                         : connect(sock, (struct sockaddr *)&name, sizeof name);
  if (failed) { perror("floor"); exit(1); }
  return sock;
}

static void deliver(const char *text, size_t length) {
  static char frame[1 << 20];
  size_t head = length < 126 ? 2 : 4;
  if (length > sizeof frame - 4 || length > 65535) return;
  frame[0] = (char)0x81;
  frame[1] = (char)(length < 126 ? length : 126);
  if (head == 4) { frame[2] = (char)(length >> 8); frame[3] = (char)length; }
  memcpy(frame + head, text, length);
  for (int i = 0; i < reading; i++)
    if (send(readers[i], frame, head + length, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) continue;
}

/* One line of RESP, without its end; NULL when it is not all there. *at moves behind it. */
static char *line(char **at, char *end) {
  char *start = *at, *stop = memmem(start, end - start, "\r\n", 2);
  if (!stop) return NULL;
  *at = stop + 2;
  return start;
}

/* An array of three: two bulk strings and a bulk string or an integer. Returns what is left of the input. */
static size_t digest(char *data, size_t have) {
  char *at = data, *end = data + have, *done = data;
  for (;;) {
    char *head = line(&at, end), *text = NULL;
    size_t length = 0;
    if (!head) break;
    int whole = 1, message = 0;
    for (int part = 0; part < 3 && whole; part++) {
      char *kind = line(&at, end);
      if (!kind) { whole = 0; break; }
      if (*kind == ':') continue;
      length = strtoul(kind + 1, NULL, 10);
      if ((size_t)(end - at) < length + 2) { whole = 0; break; }
      if (part == 0) message = length == 7;
      text = at;
      at += length + 2;
    }
    if (!whole) break;
    if (message) deliver(text, length);
    done = at;
  }
  memmove(data, done, end - done);
  return end - done;
}

static void serve(int sock) {
  static const char welcome[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
  static const char confirmed[] = "\x81\x15{\"type\":\"subscribed\"}";
  char input[8192];
  if (recv(sock, input, sizeof input, 0) <= 0) {
    for (int i = 0; i < reading; i++)
      if (readers[i] == sock) readers[i] = readers[--reading];
    close(sock);
  } else if (stages[sock] == NEW) {
    stages[sock] = OPEN;
    send(sock, welcome, sizeof welcome - 1, MSG_NOSIGNAL);
  } else if (stages[sock] == OPEN) {
    stages[sock] = SUBSCRIBED;
    readers[reading++] = sock;
    send(sock, confirmed, sizeof confirmed - 1, MSG_NOSIGNAL);
  }
}

int main(int argc, char **argv) {
  static char feed[1 << 20];
  size_t have = 0;
  if (argc != 4) return 2;
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  int door = tcp(atoi(argv[1]), 1), redis = tcp(atoi(argv[2]), 0), poller = epoll_create1(0), yes = 1;
  dprintf(redis, "*2\r\n$9\r\nSUBSCRIBE\r\n$%zu\r\n%s\r\n", strlen(argv[3]), argv[3]);
  struct epoll_event event = {.events = EPOLLIN, .data.fd = door}, ready[512];
  epoll_ctl(poller, EPOLL_CTL_ADD, door, &event);
  event.data.fd = redis;
  epoll_ctl(poller, EPOLL_CTL_ADD, redis, &event);
  for (;;) {
    int count = epoll_wait(poller, ready, 512, -1);
    for (int i = 0; i < count; i++) {
      int sock = ready[i].data.fd;
      if (sock == redis) {
        ssize_t got = recv(redis, feed + have, sizeof feed - have, 0);
        if (got <= 0) return 0;
        have = digest(feed, have + got);
      } else if (sock == door) {
        int client = accept(door, NULL, NULL);
        if (client < 0 || client >= MOST) continue;
        setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        stages[client] = NEW;
        event.data.fd = client;
        epoll_ctl(poller, EPOLL_CTL_ADD, client, &event);
      } else {
        serve(sock);
      }
    }
  }
}
