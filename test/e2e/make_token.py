"""Prints a token for the key, topics and lifetime given as JSON on standard input.

It makes the token as README.md shows it.
"""

import json
import sys
import time

import jwt

want = json.load(sys.stdin)
print(
    jwt.encode(
        {
            "x-fastly-read": want["read"],
            "x-fastly-write": want["write"],
            "exp": int(time.time()) + want["seconds"],
        },
        want["value"],
        algorithm="HS256",
        headers={"kid": want["id"]},
    )
)
