"""What a TLS server has to take and to refuse after the handshake, on connections that move in between.

Argument: HOST:PORT. tlslite-ng holds each handshake; from then on every record is made here, rightly or wrongly. Each case
is a generator on a connection of its own, and goes on up to its next `yield`. `opened N` is printed when all handshakes are
over; at each line on standard input all cases go on by one step, so that what comes between two lines, such as a reload,
lies between two steps. Each line is answered with `stepped LEFT`, or at the end with a line for each failure and `done N`.
"""

import socket
import struct
import sys
import traceback

from tlslite.api import HandshakeSettings, TLSConnection

host, _, port = sys.argv[1].rpartition(":")
CCS, ALERT, HANDSHAKE, DATA = 20, 21, 22, 23
TLS12, TLS13 = (3, 3), (3, 4)
CIPHERS = ["aes128gcm", "aes256gcm", "chacha20-poly1305"]
# Alerts.
CLOSE_NOTIFY, UNEXPECTED, BAD_MAC, OVERFLOW, ILLEGAL, DECODE, VERSION = 0, 10, 20, 22, 47, 50, 70
USER_CANCELED, NO_RENEGOTIATION = 90, 100
WARNING, FATAL = 1, 2
UPDATE, UPDATE_BOTH = bytes([24, 0, 0, 1, 0]), bytes([24, 0, 0, 1, 1])
CLIENT_HELLO = bytes([1, 0, 0, 38, 3, 3]) + bytes(32) + bytes([0, 0, 2, 0x13, 1, 0])
REQUEST = b"GET /fast HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Client:
    """A connection after its handshake."""

    def __init__(self, version, cipher):
        plain = socket.create_connection((host, int(port)), timeout=20)
        self.tls, settings = TLSConnection(plain), HandshakeSettings()
        settings.minVersion = settings.maxVersion = version
        settings.cipherNames, settings.keyShares = [cipher], ["secp256r1"]
        settings.eccCurves = ["secp256r1"]
        self.tls.handshakeClientCert(settings=settings, serverName="localhost", alpn=[bytearray(b"http/1.1")])
        self.version, self.layer, self.answer = version, self.tls._recordLayer, b""
        session = self.tls.session
        self.suite, self.secrets = session.cipherSuite, (session.cl_app_secret, session.sr_app_secret)

    def protect(self, state, kind, data, padding=b""):
        """Header, nonce, what is authenticated beside, and what is sealed, of the next record."""
        sequence = state.getSeqNumBytes()
        nonce = self.layer._getNonce(state, sequence)
        if self.version == TLS13:
            inner = data + bytes([kind]) + padding
            header = struct.pack(">BHH", DATA, 0x303, len(inner) + 16)
            return header, nonce, header, inner
        explicit = bytes(sequence) if len(state.fixedNonce) == 4 else b""
        header = struct.pack(">BHH", kind, 0x303, len(explicit) + len(data) + 16) + explicit
        return header, nonce, bytes(sequence) + struct.pack(">BHH", kind, 0x303, len(data)), data

    def seal(self, kind, data, padding=b""):
        """A record."""
        state = self.layer._writeState
        header, nonce, beside, inner = self.protect(state, kind, data, padding)
        return header + bytes(state.encContext.seal(bytearray(nonce), bytearray(inner), bytearray(beside)))

    def send(self, kind, data, padding=b""):
        self.raw(self.seal(kind, data, padding))

    def raw(self, wire):
        self.tls.sock.sendall(wire)

    def update(self, message=UPDATE):
        """Replaces the client's key."""
        self.send(HANDSHAKE, message)
        self.updated()

    def updated(self):
        self.secrets = self.layer.calcTLS1_3KeyUpdate_reciever(self.suite, *self.secrets)

    def exactly(self, count):
        data = b""
        while len(data) < count:
            more = self.tls.sock.recv(count - len(data))
            if not more:
                raise EOFError(data)
            data += more
        return data

    def record(self):
        """The next record that the server sent: its kind and its content."""
        header = self.exactly(5)
        kind, _, length = struct.unpack(">BHH", header)
        body, state = self.exactly(length), self.layer._readState
        sequence = state.getSeqNumBytes()
        if self.version == TLS13:
            nonce, beside = self.layer._getNonce(state, sequence), header
        else:
            explicit, body = (body[:8], body[8:]) if len(state.fixedNonce) == 4 else (bytes(sequence), body)
            nonce = self.layer._getNonce(state, bytearray(explicit))
            beside = bytes(sequence) + struct.pack(">BHH", kind, 0x303, len(body) - 16)
        content = state.encContext.open(bytearray(nonce), bytearray(body), bytearray(beside))
        assert content is not None, "the server's record does not decrypt"
        content = bytes(content)
        if self.version == TLS13:
            content = content.rstrip(b"\0")
            kind, content = content[-1], content[:-1]
        if kind == HANDSHAKE and content[:1] == b"\x18":
            self.secrets = self.layer.calcTLS1_3KeyUpdate_sender(self.suite, *self.secrets)
        return kind, content

    def heard(self):
        """The next record that is no ticket."""
        while True:
            kind, content = self.record()
            if not (kind == HANDSHAKE and content[:1] == b"\x04"):
                return kind, content

    def answered(self):
        """The server answers a request with 200. Returns the kinds of the records before the answer."""
        kinds = []
        while b"\r\n\r\n" not in self.answer:
            kind, content = self.heard()
            if kind == DATA:
                self.answer += content
            else:
                kinds.append((kind, content))
        head, _, body = self.answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        while len(body) < length:
            kind, content = self.record()
            assert kind == DATA, (kind, content)
            body += content
        self.answer = body[length:]
        return kinds

    def ask(self):
        self.send(DATA, REQUEST)
        return self.answered()

    def told(self, description):
        """The server sends this alert, and closes."""
        kind, content = self.heard()
        while (kind, content) == (HANDSHAKE, UPDATE):
            kind, content = self.heard()
        assert kind == ALERT, (kind, content)
        expected = WARNING if description == CLOSE_NOTIFY else FATAL
        assert content == bytes([expected, description]), f"alert {list(content)}, not {[expected, description]}"
        self.closed()

    def closed(self):
        """The server closes without another word."""
        try:
            more = self.tls.sock.recv(1)
            assert not more, "more after the last word"
        except ConnectionResetError:
            pass


BOTH, CASES = (TLS12, TLS13), []


def case(*versions):
    def register(function):
        CASES.extend((function, version) for version in versions)
        return function

    return register


# What has to be taken.


@case(*BOTH)
def goes_on(client):
    client.ask()
    yield
    client.ask()


@case(*BOTH)
def records_of_one_byte(client):
    for at in range(len(REQUEST)):
        client.send(DATA, REQUEST[at:at + 1])
        if at in (5, 20):
            yield
    client.answered()


@case(*BOTH)
def empty_records_among_data(client):
    for piece in (b"", REQUEST[:9], b"", b"", REQUEST[9:], b""):
        client.send(DATA, piece)
    client.answered()
    yield
    for _ in range(30):
        client.send(DATA, b"")
    client.ask()


@case(*BOTH)
def a_record_in_pieces(client):
    record = client.seal(DATA, REQUEST)
    client.raw(record[:3])
    yield
    client.raw(record[3:12])
    yield
    client.raw(record[12:])
    client.answered()


@case(*BOTH)
def many_records_at_once(client):
    client.raw(b"".join(client.seal(DATA, REQUEST) for _ in range(20)))
    for _ in range(20):
        client.answered()


@case(*BOTH)
def a_record_of_full_size(client):
    body = b"x" * 16384
    client.send(DATA, b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body))
    yield
    client.send(DATA, body)
    client.answered()


@case(TLS13)
def padding(client):
    client.send(DATA, REQUEST, bytes(16384 - len(REQUEST)))
    client.answered()
    client.send(DATA, b"", bytes(100))
    yield
    client.ask()


@case(TLS13)
def key_updates_before_and_after_moves(client):
    client.update()
    assert client.ask() == []
    client.update()
    yield
    assert client.ask() == []
    client.update(UPDATE_BOTH)
    yield
    assert client.ask() == [(HANDSHAKE, UPDATE)], "the answer comes before the next data"


@case(TLS13)
def a_key_update_is_answered_once_where_several_ask_for_it(client):
    for _ in range(3):
        client.update(UPDATE_BOTH)
    yield
    kinds = client.ask()
    assert kinds and all(kind == (HANDSHAKE, UPDATE) for kind in kinds), kinds


@case(TLS13)
def a_key_update_in_pieces(client):
    client.send(HANDSHAKE, UPDATE[:1])
    yield
    client.send(HANDSHAKE, UPDATE[1:4])
    yield
    client.send(HANDSHAKE, UPDATE[4:])
    client.updated()
    client.ask()


@case(TLS13)
def key_updates_between_requests_without_end(client):
    for round in range(100):
        client.update(UPDATE_BOTH if round % 2 else UPDATE)
        client.ask()
        if round == 50:
            yield


@case(*BOTH)
def user_canceled_is_no_end(client):
    client.send(ALERT, bytes([WARNING, USER_CANCELED]))
    yield
    client.ask()


@case(TLS12)
def a_renegotiation_is_refused_and_the_connection_goes_on(client):
    client.send(HANDSHAKE, CLIENT_HELLO)
    yield
    assert client.ask() == [(ALERT, bytes([WARNING, NO_RENEGOTIATION]))]
    client.send(HANDSHAKE, CLIENT_HELLO)
    assert client.ask() == [(ALERT, bytes([WARNING, NO_RENEGOTIATION]))]


@case(TLS12)
def warnings_are_passed_over(client):
    client.send(ALERT, bytes([WARNING, 41]))
    yield
    client.ask()


@case(*BOTH)
def who_ends_its_direction_is_answered(client):
    client.send(DATA, REQUEST)
    client.send(ALERT, bytes([WARNING, CLOSE_NOTIFY]))
    client.answered()
    client.told(CLOSE_NOTIFY)
    yield


@case(*BOTH)
def close_notify_is_answered(client):
    client.ask()
    yield
    client.send(ALERT, bytes([WARNING, CLOSE_NOTIFY]))
    client.told(CLOSE_NOTIFY)


@case(*BOTH)
def what_comes_after_close_notify_is_ignored(client):
    client.send(ALERT, bytes([WARNING, CLOSE_NOTIFY]))
    client.raw(b"anything")
    client.told(CLOSE_NOTIFY)
    yield


@case(*BOTH)
def close_notify_within_a_head_is_answered_as_a_half_closed_stream_is(client):
    client.send(DATA, REQUEST[:12])
    yield
    client.send(ALERT, bytes([WARNING, CLOSE_NOTIFY]))
    kind, content = client.heard()
    assert kind == DATA and content.startswith(b"HTTP/1.1 400 "), (kind, content)
    client.told(CLOSE_NOTIFY)


@case(*BOTH)
def a_fatal_alert_ends_the_connection(client):
    client.ask()
    yield
    client.send(ALERT, bytes([FATAL, 40]))
    client.closed()


# What has to be refused.


def refused(name, expected, *versions):
    """A case in which the server refuses what a function makes of a client."""

    def register(make):
        def run(client):
            client.ask()
            yield
            client.raw(make(client))
            client.told(expected)

        def run_late(client):
            # Half of it before the move.
            wire = make(client)
            client.raw(wire[:3])
            yield
            client.raw(wire[3:])
            client.told(expected)

        for how in (run, run_late):
            case(*versions)(how)
            how.__name__ = f"{name} ({how.__name__})"
        return make

    return register


def flipped(at):
    def make(client):
        record = bytearray(client.seal(DATA, REQUEST))
        record[at] ^= 1
        return bytes(record)

    return make


refused("the last byte of a record is another", BAD_MAC, *BOTH)(flipped(-1))
refused("a byte within a record is another", BAD_MAC, *BOTH)(flipped(20))
refused("the first byte behind the header is another", BAD_MAC, *BOTH)(flipped(5))


@refused("a number is left out", BAD_MAC, TLS13)
def _(client):
    client.seal(DATA, REQUEST)
    return client.seal(DATA, REQUEST)


@refused("a number is left out", BAD_MAC, TLS12)
def _(client):
    client.seal(DATA, REQUEST)
    return client.seal(DATA, REQUEST)


@refused("a record is there twice", BAD_MAC, *BOTH)
def _(client):
    record = client.seal(DATA, REQUEST[:5])
    return record + record


refused("an unknown kind of record", UNEXPECTED, *BOTH)(lambda client: bytes([99, 3, 3, 0, 20]) + bytes(20))
refused("a heartbeat", UNEXPECTED, *BOTH)(lambda client: bytes([24, 3, 3, 0, 20]) + bytes(20))
refused("plain HTTP", UNEXPECTED, *BOTH)(lambda client: REQUEST)
refused("an SSLv2 hello", UNEXPECTED, *BOTH)(lambda client: bytes([0x80, 0x2E, 1, 0, 2]) + bytes(50))
refused("another version", VERSION, TLS12)(lambda client: bytes([DATA, 3, 1, 0, 40]) + bytes(40))
refused("a plain handshake message", UNEXPECTED, TLS13)(lambda client: bytes([22, 3, 3, 0, 42]) + CLIENT_HELLO)
refused("a plain KeyUpdate", UNEXPECTED, TLS13)(lambda client: bytes([22, 3, 3, 0, 5]) + UPDATE)
refused("a plain alert", UNEXPECTED, TLS13)(lambda client: bytes([21, 3, 3, 0, 2, 1, 0]))
refused("a plain change of ciphers", UNEXPECTED, TLS13)(lambda client: bytes([20, 3, 3, 0, 1, 1]))
refused("a plain alert", BAD_MAC, TLS12)(lambda client: bytes([21, 3, 3, 0, 2, 1, 0]))
refused("an empty record that is not sealed", BAD_MAC, *BOTH)(lambda client: bytes([DATA, 3, 3, 0, 0]))
refused("a record shorter than its tag", BAD_MAC, *BOTH)(lambda client: bytes([DATA, 3, 3, 0, 15]) + bytes(15))
refused("a record of 16 KiB and 257 bytes", OVERFLOW, TLS13)(lambda client: bytes([DATA, 3, 3, 0x41, 1, 0]))
refused("a record of 18 KiB and a byte", OVERFLOW, TLS12)(lambda client: bytes([DATA, 3, 3, 0x48, 1, 0]))
refused("a record of 64 KiB", OVERFLOW, *BOTH)(lambda client: bytes([DATA, 3, 3, 255, 255, 0]))
refused("16 KiB and a byte", OVERFLOW, *BOTH)(lambda client: client.seal(DATA, bytes(16385)))
refused("16 KiB and padding", OVERFLOW, TLS13)(lambda client: client.seal(DATA, b"x" * 16384, bytes(1)))
refused("nothing but padding", UNEXPECTED, TLS13)(lambda client: client.seal(0, b"", bytes(30)))
refused("a sealed change of ciphers", UNEXPECTED, *BOTH)(lambda client: client.seal(CCS, b"\1"))
refused("a sealed heartbeat", UNEXPECTED, TLS13)(lambda client: client.seal(24, b"\1\0\1x"))
refused("an unknown kind within a record", UNEXPECTED, TLS13)(lambda client: client.seal(99, b"x"))
refused("an empty handshake record", UNEXPECTED, *BOTH)(lambda client: client.seal(HANDSHAKE, b""))
refused("an empty alert", UNEXPECTED, *BOTH)(lambda client: client.seal(ALERT, b""))
refused("half an alert", DECODE, *BOTH)(lambda client: client.seal(ALERT, bytes([WARNING])))
refused("one and a half alerts", DECODE, *BOTH)(lambda client: client.seal(ALERT, bytes([WARNING, 0, WARNING])))
refused("an alert of another level", ILLEGAL, TLS12)(lambda client: client.seal(ALERT, bytes([3, 40])))
refused("a renegotiation", UNEXPECTED, TLS13)(lambda client: client.seal(HANDSHAKE, CLIENT_HELLO))
for number, name in [(2, "ServerHello"), (4, "ticket"), (5, "EndOfEarlyData"), (8, "EncryptedExtensions"),
                     (11, "Certificate"), (13, "CertificateRequest"), (15, "CertificateVerify"), (20, "Finished")]:
    refused(f"a {name}", UNEXPECTED, *BOTH)(
        lambda client, number=number: client.seal(HANDSHAKE, bytes([number, 0, 0, 4, 0, 0, 0, 0])))
refused("a KeyUpdate", UNEXPECTED, TLS12)(lambda client: client.seal(HANDSHAKE, UPDATE))
refused("a KeyUpdate of no known kind", ILLEGAL, TLS13)(lambda client: client.seal(HANDSHAKE, bytes([24, 0, 0, 1, 2])))
refused("an empty KeyUpdate", DECODE, TLS13)(lambda client: client.seal(HANDSHAKE, bytes([24, 0, 0, 0])))
refused("a long KeyUpdate", DECODE, TLS13)(lambda client: client.seal(HANDSHAKE, bytes([24, 0, 0, 2, 0, 0])))
refused("two KeyUpdates in a record", UNEXPECTED, TLS13)(lambda client: client.seal(HANDSHAKE, UPDATE + UPDATE))
refused("a record with the old key behind a KeyUpdate", BAD_MAC, TLS13)(
    lambda client: client.seal(HANDSHAKE, UPDATE) + client.seal(DATA, REQUEST))
refused("data within a KeyUpdate", UNEXPECTED, TLS13)(
    lambda client: client.seal(HANDSHAKE, UPDATE[:2]) + client.seal(DATA, REQUEST))
refused("an alert within a KeyUpdate, then data", UNEXPECTED, TLS13)(
    lambda client: client.seal(HANDSHAKE, UPDATE[:2]) + client.seal(ALERT, bytes([WARNING, USER_CANCELED]))
    + client.seal(DATA, REQUEST))
refused("a flood of empty records", UNEXPECTED, *BOTH)(
    lambda client: b"".join(client.seal(DATA, b"") for _ in range(40)))
refused("a flood of warnings", UNEXPECTED, *BOTH)(
    lambda client: b"".join(client.seal(ALERT, bytes([WARNING, USER_CANCELED])) for _ in range(40)))


@refused("a flood of KeyUpdates", UNEXPECTED, TLS13)
def _(client):
    wire = b""
    for _ in range(40):
        wire += client.seal(HANDSHAKE, UPDATE)
        client.updated()
    return wire


@case(TLS13)
def a_flood_of_key_updates_that_ask_for_ours_ends(client):
    wire = b""
    for _ in range(40):
        wire += client.seal(HANDSHAKE, UPDATE_BOTH)
        client.updated()
    client.raw(wire[:200])
    yield
    client.raw(wire[200:])
    client.told(UNEXPECTED)


@case(*BOTH)
def a_stream_that_is_cut_within_a_record_is_no_request(client):
    client.raw(client.seal(DATA, REQUEST)[:-1])
    yield
    client.tls.sock.shutdown(socket.SHUT_WR)
    try:
        kind, content = client.heard()
        assert kind == ALERT, (kind, content)
    except (EOFError, ConnectionResetError):
        pass


def steps(function, client):
    """A case, which may have one step only."""
    yield from function(client) or ()


def begin():
    """All cases, each on its connection, on which nothing has happened yet."""
    running = []
    for number, (function, version) in enumerate(CASES):
        cipher = CIPHERS[number % len(CIPHERS)]
        client = Client(version, cipher)
        running.append((f"{function.__name__}, {version}, {cipher}", steps(function, client), client))
    return running


def main():
    running, failures = begin(), []
    print("opened", len(running), flush=True)
    for _ in sys.stdin:
        still = []
        for name, generator, client in running:
            try:
                next(generator)
                still.append((name, generator, client))
            except StopIteration:
                client.tls.sock.close()
            except Exception as error:
                where = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)]
                failures.append(f"failed: {name}: {error!r} (lines {where})")
        running = still
        if not running:
            print(*failures, sep="\n", end="\n" if failures else "")
            print("done", len(CASES), flush=True)
            return
        print("stepped", len(running), flush=True)


main()
