"""API keys: made here, known to the endpoint by their hashes alone.

``python -m serve.access.keys new NAME [--admin]`` prints a key, once, and the lines for the configuration.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hashlib
import hmac
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from policies.errors import InputError
from serve.access.caller import ROLES, Caller
from serve.settings.access import AccessSettings, KeySettings

PREFIX = "tw"
SECRET_BYTES = 32
"""256 random bits: nobody guesses them, so a plain hash keeps them, unlike passwords, which need a slow one."""

_NO_HASH = "0" * 64


class KeyRing:
    """The keys that open the door.

    Args:
        keys: as configured.

    Raises:
        InputError: two keys share an id.
    """

    def __init__(self, keys: Sequence[KeySettings]) -> None:
        self.keys = {key.id: key for key in keys}
        if len(self.keys) < len(keys):
            ids = [key.id for key in keys]
            raise InputError(f"access.keys: id '{next(i for i in ids if ids.count(i) > 1)}' is there twice")
        self._callers = {key.id: Caller(key.id, key.name, frozenset(key.roles)) for key in keys}

    def find(self, token: str) -> Caller | None:
        """Return whose key this is, None when it is nobody's; takes as long either way."""
        key_id = token.split("-", 2)[1] if token.count("-") >= 2 else ""
        key = self.keys.get(key_id)
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
        matches = hmac.compare_digest(digest, key.sha256 if key else _NO_HASH)
        return self._callers[key_id] if key and matches else None


def read_keys(settings: AccessSettings) -> KeyRing | None:
    """Return the configured keys, None when there are none and the door stands open.

    Raises:
        InputError: the keys file cannot be read, is empty or has a bad entry (named without its values), or two
            keys share an id.
    """
    keys = list(settings.keys)
    if settings.keys_file is not None:
        keys += _read_file(Path(settings.keys_file))
    if any(key.has_budget for key in keys) and settings.state_dir is None:
        raise InputError("access.state_dir=None: budgets need a folder that remembers what was spent")
    return KeyRing(keys) if keys else None


def token_of(headers: Mapping[str, str]) -> str | None:
    """Return the key that a request carries: as bearer, as ``x-api-key``, or as the password of Basic."""
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    if kind.lower() == "basic":
        try:
            return base64.b64decode(value.strip(), validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return None
    return headers.get("x-api-key")


def new_key(name: str, roles: Sequence[str] = ("route",)) -> tuple[str, KeySettings]:
    """Return a fresh key and what the configuration keeps of it."""
    key_id = secrets.token_hex(4)
    token = f"{PREFIX}-{key_id}-{secrets.token_urlsafe(SECRET_BYTES)}"
    digest = hashlib.sha256(token.encode()).hexdigest()
    return token, KeySettings.model_validate(
        {"id": key_id, "name": name, "sha256": digest, "roles": tuple(roles)}
    )


def _read_file(path: Path) -> list[KeySettings]:
    try:
        body = yaml.safe_load(path.read_text())
    except OSError as error:
        raise InputError(f"access.keys_file={path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        # The parser's message quotes the file, which may hold a key by mistake.
        raise InputError(f"access.keys_file={path}: not YAML") from None
    if not body:
        raise InputError(f"access.keys_file={path}: has no keys; leave keys_file out to serve without keys")
    try:
        return TypeAdapter(list[KeySettings]).validate_python(body)
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise InputError(f"access.keys_file={path}: {where}: {problem['msg']}") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m serve.access.keys", description="Make API keys.")
    commands = parser.add_subparsers(dest="command", required=True)
    new = commands.add_parser("new", help="print a new key, once, and the lines for the configuration")
    new.add_argument("name", help="whose key it is; shown in figures and logs")
    new.add_argument("--role", action="append", choices=ROLES, help="may be repeated; default: route")
    options = parser.parse_args(arguments)
    token, key = new_key(options.name, options.role or ("route",))
    entry = {"id": key.id, "name": key.name, "sha256": key.sha256, "roles": list(key.roles)}
    print(f"# The key, shown only now: {token}", file=sys.stderr)
    print(yaml.safe_dump([entry], sort_keys=False, allow_unicode=True), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
