"""Read an event stream by the library that the first argument names, and print a line
of JSON for each thing that comes: requests prints the lines of the stream, httpx-sse
its events. The arguments are LIBRARY URL [LAST-EVENT-ID]."""

import json
import sys


def tell(**what):
    print(json.dumps(what), flush=True)


def with_requests(url, headers):
    import requests

    with requests.get(url, headers=headers, stream=True) as response:
        for line in response.iter_lines():
            tell(line=line.decode())


def with_httpx_sse(url, headers):
    import httpx
    import httpx_sse

    with httpx.Client(timeout=None) as client:
        with httpx_sse.connect_sse(client, "GET", url, headers=headers) as source:
            for e in source.iter_sse():
                tell(kind=e.event, data=e.data, id=e.id, retry=e.retry or 0)


read = {"requests": with_requests, "httpx-sse": with_httpx_sse}[sys.argv[1]]
read(sys.argv[2], {"Last-Event-ID": sys.argv[3]} if len(sys.argv) > 3 else {})
