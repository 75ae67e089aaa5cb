"""Time the decision itself: in process, one prompt, embedding given, with everything an answer tells.

    python benchmarks/decide.py [--rounds 5000] [--bundle runs/example/policy]

Without ``--bundle`` an outcome model with random weights decides over 11 and over 29 models: what it costs does not
depend on the weights. Each round decides one of 256 embeddings at one of 21 settings of the dial. ``batch_path`` is
the policy's function for tables, called with one row. Prints one JSON line; times in microseconds.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

# Before this script's folder, where `serve` would be another file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rotation import rotation
from benchmarks.serving_bundle import example_bundle
from policies.bundle import RouterBundle
from policies.preference import dial_grid
from serve.decider import Decider
from serve.settings.decision import ExplorationSettings

POOLS = (11, 29)


def measured_us(kinds: dict[str, Callable[[int], object]], rounds: int) -> dict[str, np.ndarray]:
    """Return the times of calling each kind with the number of the round."""
    found = {name: np.empty(rounds) for name in kinds}
    for name, turn in rotation(kinds, rounds):
        started = time.perf_counter()
        kinds[name](turn)
        if turn >= 0:
            found[name][turn] = (time.perf_counter() - started) * 1e6
    return found


def kinds_of(bundle: RouterBundle) -> dict[str, Callable[[int], object]]:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((256, bundle.encoder.dimension)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    dial = [(1.0 - float(w), float(w)) for w in dial_grid()]
    rows = np.array(dial, dtype=np.float32)
    greedy = Decider(bundle)
    exploring = Decider(bundle, exploration=ExplorationSettings(kind="softmax"))

    def batch_path(turn: int) -> object:
        return bundle.policy.action_probabilities(
            vectors[turn % 256][None], rows[turn % 21][None], prompt_tokens=np.array([60.0])
        )

    return {
        "decide": lambda turn: greedy.decide(vectors[turn % 256], dial[turn % 21], prompt_tokens=60.0),
        "explore": lambda turn: exploring.decide(vectors[turn % 256], dial[turn % 21], prompt_tokens=60.0),
        "batch_path": batch_path,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5000)
    parser.add_argument("--bundle", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folders = (
            [options.bundle] if options.bundle else [example_bundle(Path(scratch) / str(n), n) for n in POOLS]
        )
        bundles = [RouterBundle.load(folder) for folder in folders]
    line: dict[str, object] = {"benchmark": "decide", "rounds": options.rounds, "load": os.getloadavg()[0]}
    for bundle in bundles:
        n = len(bundle.pool.models)
        for name, times in measured_us(kinds_of(bundle), options.rounds).items():
            line[f"{name}_{n}_models_p50_us"] = round(float(np.median(times)), 1)
            line[f"{name}_{n}_models_p99_us"] = round(float(np.quantile(times, 0.99)), 1)
    print(json.dumps(line))
    return 0


if __name__ == "__main__":
    sys.exit(main())
