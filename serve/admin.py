"""Change what an endpoint serves: ``python -m serve.admin URL rollback``, the key in ``TRADEWIND_API_KEY``."""

from __future__ import annotations

import argparse
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence

KEY_VARIABLE = "TRADEWIND_API_KEY"
TIMEOUT_S = 120.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Send one command and print the answer; return 0, or 1 when it was refused, 2 when nobody answered."""
    parser = argparse.ArgumentParser(
        prog="python -m serve.admin",
        description="Change what an endpoint serves.",
        epilog=f"An API key with the role 'admin' is read from the environment variable {KEY_VARIABLE}.",
    )
    parser.add_argument("url", metavar="URL", help="the endpoint, such as http://127.0.0.1:8000")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, explained in {
        "status": "what every replica decides with",
        "reload": "load what the registry's aliases name now",
        "rollback": "make the previous champion the champion again",
        "promote": "make the canary the champion",
    }.items():
        commands.add_parser(name, help=explained)
    canary = commands.add_parser("canary", help="let a version decide a part of the sessions")
    canary.add_argument("version", help="model version of the registry, or 'none'")
    canary.add_argument("--percent", type=float, default=5.0)
    shadow = commands.add_parser("shadow", help="let a version decide along, without effect")
    shadow.add_argument("version", help="model version of the registry, or 'none'")
    return _send(parser.parse_args(arguments))


def _send(options: argparse.Namespace) -> int:
    body: dict[str, object] | None = None
    if options.command == "status":
        method = "GET"
    elif options.command in ("canary", "shadow"):
        method = "DELETE" if options.version == "none" else "PUT"
        if method == "PUT":
            body = {"version": options.version}
            if options.command == "canary":
                body["percent"] = options.percent
    else:
        method = "POST"
    request = urllib.request.Request(
        f"{options.url.rstrip('/')}/admin/{options.command}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
        method=method,
    )
    if key := os.environ.get(KEY_VARIABLE):
        request.add_header("Authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            print(json.dumps(json.load(answer), indent=2))
    except urllib.error.HTTPError as error:
        print(f"error: {_message(error.read())} ({error.code})", file=sys.stderr)
        return 1
    except (urllib.error.URLError, TimeoutError, ValueError) as error:
        print(f"error: {options.url}: {getattr(error, 'reason', error)}", file=sys.stderr)
        return 2
    return 0


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace")[:200]


if __name__ == "__main__":
    sys.exit(main())
