"""Python's ssl: connections of both versions that are opened once and answer for it at each command on standard input.

Argument: HOST:PORT. `ask` has each connection answered once; `begin` has some of them ask for bodies that are read at the
next `ask`; `resume` opens one more connection of each version with an earlier session, and says whether that was resumed.
Each command is answered with a line.
"""

import socket
import ssl
import sys

host, _, port = sys.argv[1].rpartition(":")
LONG = 12_000_000


def context(version):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    made.minimum_version = made.maximum_version = version
    return made


class Client:
    def __init__(self, made, session=None):
        plain = socket.create_connection((host, int(port)), timeout=30)
        self.socket = made.wrap_socket(plain, server_hostname="localhost", session=session)
        self.context, self.received, self.begun = made, b"", False

    def until(self, end):
        while end not in self.received:
            more = self.socket.recv(65536)
            assert more, "the server has closed"
            self.received += more
        head, self.received = self.received.split(end, 1)
        return head

    def body(self, head):
        lines = head.decode().lower().split("\r\n")
        assert lines[0] == "http/1.1 200 ok", lines
        length = next(int(line.split(": ")[1]) for line in lines if line.startswith("content-length: "))
        pieces, count = [self.received], len(self.received)
        while count < length:
            pieces.append(self.socket.recv(65536))
            assert pieces[-1], "the server has closed"
            count += len(pieces[-1])
        whole = b"".join(pieces)
        self.received = whole[length:]
        return next(line.split(": ")[1] for line in lines if line.startswith("x-generation: "))

    def begin(self):
        self.socket.sendall(b"GET /bytes?n=%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % LONG)
        self.head, self.begun = self.until(b"\r\n\r\n"), True

    def ask(self):
        if self.begun:
            self.body(self.head)
            self.begun = False
        self.socket.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return self.body(self.until(b"\r\n\r\n"))


newest, older = context(ssl.TLSVersion.TLSv1_3), context(ssl.TLSVersion.TLSv1_2)
clients = [Client(newest) for _ in range(10)] + [Client(older) for _ in range(10)]
for line in sys.stdin:
    if line == "ask\n":
        print("generations", *sorted({client.ask() for client in clients}), flush=True)
    elif line == "begin\n":
        for client in clients[::5]:
            client.begin()
        print("begun", flush=True)
    elif line == "resume\n":
        again = Client(newest, clients[0].socket.session), Client(older, clients[10].socket.session)
        print("resumed", *(client.ask() and client.socket.session_reused for client in again), flush=True)
