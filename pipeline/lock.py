"""Exact versions of everything a node needs: ``python -m pipeline.lock > requirements.lock``.

Submitted jobs and the container images install from that file, so that they compute what was tested here. Ray is
in it for the images; a job never installs Ray, because it runs inside the one that its cluster has.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

PROJECT = "tradewind"
LOCK_FILE = Path(__file__).resolve().parent.parent / "requirements.lock"


def installed_closure(extras: frozenset[str] = frozenset({"openvino", "onnx", "cloud"})) -> dict[str, str]:
    """Return name -> installed version of all that the project's declared dependencies need, sorted by name.

    Build tags such as ``+cpu`` are taken away: which build of a version a node wants is the node's matter.

    Raises:
        PackageNotFoundError: a needed package is not installed.
    """
    versions: dict[str, str] = {}
    waiting = [Requirement(f"{PROJECT}[{','.join(sorted(extras))}]")]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        wanted = waiting.pop()
        key = (canonicalize_name(wanted.name), frozenset(wanted.extras))
        if key in seen:
            continue
        seen.add(key)
        if key[0] != PROJECT:
            versions[key[0]] = Version(distribution(wanted.name).version).public
        waiting.extend(_needed_by(wanted))
    return dict(sorted(versions.items()))


def _needed_by(wanted: Requirement) -> Iterator[Requirement]:
    """Yield what a requirement pulls in on this platform, with its extras."""
    for line in distribution(wanted.name).requires or []:
        requirement = Requirement(line)
        extras = ["", *sorted(wanted.extras)]
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": e}) for e in extras):
            yield requirement


def read_lock(path: Path = LOCK_FILE) -> list[str]:
    """Return the lock file's ``name==version`` lines, comments left out."""
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line]


def main() -> None:
    """Print the lock file for what is installed."""
    sys.stdout.write(
        "# Written by `make lock` from a tested installation; every direct and indirect dependency.\n"
    )
    for name, version in installed_closure().items():
        sys.stdout.write(f"{name}=={version}\n")


if __name__ == "__main__":
    main()
