"""Python's http.client: fetches, uploads and asks for a range on one connection until the file `go-on` is gone.

Argument: http://HOST:PORT, or https. Prints each generation that answers. A connection that the server closes is an error:
it is opened once, by hand.
"""

import http.client
import ssl
import sys
from urllib.parse import urlsplit

url = urlsplit(sys.argv[1])
if url.scheme == "https":
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection(url.hostname, url.port, timeout=30, context=context)
else:
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=30)
connection.connect()
connection.auto_open = 0


def ask(method, path, body=None, headers={}):
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    return response, response.read()


upload, seen, requests = bytes(range(256)) * 1000, None, 0
_, whole = ask("GET", "/data.bin")
assert len(whole) == 1_000_000, len(whole)
while True:
    response, body = ask("GET", "/go-on")
    if response.status == 404:
        break
    assert (response.status, body) == (200, b"go on\n"), (response.status, body)
    generation = response.headers["x-generation"]
    if generation != seen:
        print("x-generation:", generation, flush=True)
        seen = generation
    response, body = ask("GET", "/data.bin")
    assert response.status == 200 and body == whole
    response, body = ask("GET", "/data.bin", headers={"range": "bytes=1000-1999"})
    assert response.status == 206 and body == whole[1000:2000]
    response, body = ask("POST", "/echo", upload)
    assert response.status == 200 and body == upload
    response, body = ask("POST", "/echo", iter([upload[:70_000], upload[70_000:]]))  # in chunks
    assert response.status == 200 and body == upload
    requests += 5
print("done:", requests, "requests")
