"""Python's requests: fetches, uploads and asks for a range in one session until the file `go-on` is gone.

Argument: http://HOST:PORT, or https. Prints each generation that answers. The pool would silently open a new connection in place of one that
was closed: so they are counted.
"""

import sys

import requests
import urllib3

base = sys.argv[1]
session = requests.Session()
session.trust_env = False
# The certificates change while it is connected.
session.verify = False
urllib3.disable_warnings()
upload, seen, count = bytes(range(256)) * 1000, None, 0
whole = session.get(base + "/data.bin", timeout=30).content
assert len(whole) == 1_000_000, len(whole)
while True:
    response = session.get(base + "/go-on", timeout=30)
    if response.status_code == 404:
        break
    assert (response.status_code, response.text) == (200, "go on\n"), response
    generation = response.headers["x-generation"]
    if generation != seen:
        print("x-generation:", generation, flush=True)
        seen = generation
    response = session.get(base + "/data.bin", timeout=30)
    assert response.status_code == 200 and response.content == whole
    response = session.get(base + "/data.bin", headers={"range": "bytes=1000-1999"}, timeout=30)
    assert response.status_code == 206 and response.content == whole[1000:2000]
    response = session.post(base + "/echo", data=upload, timeout=30)
    assert response.status_code == 200 and response.content == upload
    response = session.post(base + "/echo", data=iter([upload[:70_000], upload[70_000:]]), timeout=30)  # in chunks
    assert response.status_code == 200 and response.content == upload
    count += 5
pools = session.get_adapter(base).poolmanager.pools
connections = sum(pools.get(key).num_connections for key in pools.keys())
assert connections == 1, connections
print("done:", count, "requests")
