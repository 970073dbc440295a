"""moto's server, which checks the signature of every request after the first four.

server.py PORT

moto compares with the query as it decoded it: a `/` in a prefix makes it refuse what boto3 itself signed. Here the
query is encoded again before botocore signs it for the comparison.
"""
import os
import sys
from urllib.parse import parse_qsl, quote, urlencode

from moto.iam import access_control

as_it_is = access_control.IAMRequestBase._create_aws_request


def encoded(self):
    request = as_it_is(self)
    path, _, query = request.url.partition("?")
    if query:
        pairs = parse_qsl(query.replace("+", "%2B"), keep_blank_values=True)
        request.url = path + "?" + urlencode(pairs, quote_via=quote, safe="-_.~")
    return request


access_control.IAMRequestBase._create_aws_request = encoded

os.environ.setdefault("INITIAL_NO_AUTH_ACTION_COUNT", "4")
from moto.server import main  # noqa: E402

main(["-H", "127.0.0.1", "-p", sys.argv[1]])
