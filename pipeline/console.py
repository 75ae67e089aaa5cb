"""What the user sees: progress on long work, and logs without the engine room's noise."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Any

from tqdm import tqdm

VERBOSE_VARIABLE = "TRADEWIND_VERBOSE"
_NOISY = (
    "ray",
    "mlflow",
    "alembic",
    "sentence_transformers",
    "transformers",
    "httpx",
    "httpx2",
    "hydra",
    "openvino",
)


def verbose() -> bool:
    """Return whether ``-v`` was given (inherited by worker processes)."""
    return os.environ.get(VERBOSE_VARIABLE) == "1"


def configure_logging(*, show_all: bool) -> None:
    """Filter third-party logs below WARNING (RLlib's and Ray's below ERROR) unless ``show_all``."""
    os.environ[VERBOSE_VARIABLE] = "1" if show_all else "0"
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr, level=logging.INFO)
    if show_all:
        return
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR if name == "ray" else logging.WARNING)
    os.environ.setdefault("RAY_DEDUP_LOGS", "1")
    os.environ.setdefault("PYTHONWARNINGS", "ignore::DeprecationWarning,ignore::FutureWarning")


def progress(total: int | None, description: str, unit: str = "it") -> tqdm[Any]:
    """Return a progress bar on standard error; rare updates when it is not a terminal."""
    interactive = sys.stderr.isatty()
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        mininterval=0.2 if interactive else 10.0,
        maxinterval=10.0,
        dynamic_ncols=interactive,
        leave=True,
    )


def say(text: str) -> None:
    """Print one line of result on standard output."""
    print(text, flush=True)
