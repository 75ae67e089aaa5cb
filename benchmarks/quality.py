"""Quality of a policy over seeds, on the held-out prompts and tasks of an embedded run.

    python -m benchmarks.quality runs/mine --seeds 5 --policy outcome_model --mode logged

Each seed draws its own log (logged mode) and its own weights; the split stays that of the run. Prints one JSON
line: for held-out prompts (``test``) and held-out tasks (``ood``) the mean, standard deviation and minimum over
seeds of what ``evaluate`` reports.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import statistics
import tempfile
from pathlib import Path

from pipeline import evaluate, simulate, train
from pipeline.cluster import ray_session
from pipeline.compose import OVERRIDES_FILE, load_config
from pipeline.console import configure_logging

FIGURES = (
    "mean_reward",
    "gain_over_best_single",
    "gap_closed",
    "aiq_over_mix_line",
    "perf_gain",
    "max_cost_rise",
)


def measure(run: Path, overrides: list[str], logged: bool) -> dict[str, dict[str, float]]:
    """Return the headline figures of one training in a copy of the run, by split."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "run"
        copy.mkdir()
        shutil.copy(run / OVERRIDES_FILE, copy)
        shutil.copytree(run / "tables", copy / "tables")
        (copy / "embeddings").symlink_to((run / "embeddings").absolute())
        config = load_config([f"run={copy}", *overrides])
        with contextlib.redirect_stdout(io.StringIO()):
            if logged:
                simulate.run(config)
            train.run(config)
            return evaluate.run(config)["headline"]


def summary(values: list[float]) -> dict[str, float]:
    """Return mean, standard deviation and minimum, rounded to what seeds leave certain."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": round(statistics.fmean(values), 5), "sd": round(spread, 5), "min": round(min(values), 5)}


def main() -> None:
    """Train once a seed and print the summary."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of a run that has been ingested and embedded")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--policy", default="outcome_model")
    parser.add_argument("--mode", choices=["simulated_online", "logged"], default="simulated_online")
    options = parser.parse_args()
    configure_logging(show_all=False)
    common = [f"policy={options.policy}", f"train.mode={options.mode}", "evaluate.bootstrap_samples=0"]
    common.append("evaluate.baselines=[]")
    results = []
    with ray_session(load_config([])):
        for seed in range(options.seeds):
            results.append(measure(options.run, [*common, f"run.seed={seed}"], options.mode == "logged"))
    line: dict[str, object] = {"policy": options.policy, "mode": options.mode, "seeds": options.seeds}
    for split in results[0]:
        line[split] = {name: summary([result[split][name] for result in results]) for name in FIGURES}
    print(json.dumps(line))


if __name__ == "__main__":
    main()
