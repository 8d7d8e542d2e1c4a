"""A proxy with one connection for one client: it begins it with a PROXY header, in pieces, holds a TLS handshake behind it
where it is asked to, and then asks for the generation at each line on standard input.

Arguments: HOST:PORT or a path, the header as Python's repr of bytes, and `tls` or `plain`.
"""

import ast
import socket
import ssl
import sys

where, header, kind = sys.argv[1], ast.literal_eval(sys.argv[2]), sys.argv[3]
if where.startswith("/"):
    stream = socket.socket(socket.AF_UNIX)
    stream.settimeout(30)
    stream.connect(where)
else:
    host, _, port = where.rpartition(":")
    stream = socket.create_connection((host.strip("[]"), int(port)), timeout=30)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
if kind == "tls":
    # The last bytes of the header come with the first ones of the handshake.
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    speaking = made.wrap_bio(incoming, outgoing, server_hostname="localhost")
    pending = header
else:
    stream.sendall(header[:7])
    stream.sendall(header[7:])


def exchanged(step):
    """What a step of TLS gives, once the bytes that it wants have come, and gone."""
    global pending
    while True:
        try:
            result = step()
            stream.sendall(pending + outgoing.read())
            pending = b""
            return result
        except ssl.SSLWantReadError:
            stream.sendall(pending + outgoing.read())
            pending = b""
            more = stream.recv(65536)
            assert more, "the server has closed"
            incoming.write(more)


if kind == "tls":
    exchanged(speaking.do_handshake)
    send, receive = lambda data: exchanged(lambda: speaking.write(data)), lambda: exchanged(lambda: speaking.read(65536))
else:
    send, receive = stream.sendall, lambda: stream.recv(65536)

for line in sys.stdin:
    send(b"GET /fast?" + line.strip().encode() + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
    received = b""
    while b"\r\n\r\n" not in received:
        more = receive()
        assert more, "the server has closed"
        received += more
    lines = received.decode().lower().split("\r\n")
    print(lines[0], next(line for line in lines if line.startswith("x-generation: ")), flush=True)
