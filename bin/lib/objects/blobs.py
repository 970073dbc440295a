"""A container on an Azure Blob server, and the hands of somebody who has the keys: make, names, remove, damage.

blobs.py URL make               a container
blobs.py URL names              names of all blobs below shop/, each with its size
blobs.py URL remove NAME        removes one
blobs.py URL damage NAME        changes one byte in the middle of one
The account and its key are in ACCESS and SECRET. Requests are signed here a second time, by the reference and not by the
program that is tested.
"""
import base64
import hashlib
import hmac
import os
import sys
import urllib.parse
import urllib.request
import xml.etree.ElementTree as tree
from email.utils import formatdate

url, what, *rest = sys.argv[1:]
account, key = os.environ["ACCESS"], base64.b64decode(os.environ["SECRET"])


def ask(method, name="", query=(), body=None, **more):
    path = f"/{account}/off-site" + (f"/shop/{urllib.parse.quote(name)}" if name else "")
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06", **more}
    length = str(len(body)) if body else ""
    kind = "application/octet-stream" if body is not None else ""
    own = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    resource = f"/{account}{path}" + "".join(f"\n{name}:{value}" for name, value in sorted(query))
    text = "\n".join([method, "", "", length, "", kind, "", "", "", "", "", ""]) + "\n" + own + resource
    signature = base64.b64encode(hmac.new(key, text.encode(), hashlib.sha256).digest()).decode()
    headers["Authorization"] = f"SharedKey {account}:{signature}"
    if kind:
        headers["Content-Type"] = kind
    whole = url + path + ("?" + urllib.parse.urlencode(query) if query else "")
    with urllib.request.urlopen(urllib.request.Request(whole, body, headers, method=method)) as answer:
        return answer.read()


if what == "make":
    ask("PUT", query=[("restype", "container")])
elif what == "names":
    marker = ""
    while True:
        query = [("comp", "list"), ("prefix", "shop/"), ("restype", "container")]
        page = tree.fromstring(ask("GET", query=query + ([("marker", marker)] if marker else [])))
        for one in page.iter("Blob"):
            print(one.findtext("Name").removeprefix("shop/"), one.findtext("Properties/Content-Length"))
        marker = page.findtext("NextMarker")
        if not marker:
            break
elif what == "remove":
    ask("DELETE", rest[0])
elif what == "damage":
    content = bytearray(ask("GET", rest[0]))
    content[len(content) // 2] ^= 1
    ask("PUT", rest[0], body=bytes(content), **{"x-ms-blob-type": "BlockBlob"})
