"""The winner, retrained on training and validation prompts, in a run folder of its own."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from pipeline import register
from pipeline.comparisons import JOINED_COMPARISONS, RunComparisons, training_comparisons, write_joined
from pipeline.compose import OVERRIDES_FILE, record_config, recorded_overrides
from pipeline.config import TradewindConfig
from pipeline.console import progress
from pipeline.cost_scale import scale_costs_usd, training_tau_usd
from pipeline.join import encoder_identity
from pipeline.layout import RunLayout
from pipeline.register import Registered
from pipeline.search.results import TrialRecord
from pipeline.search.space import with_values
from pipeline.search.spec import SearchFolder, SearchSpec
from pipeline.search.trial import Candidate
from pipeline.splits import TRAIN, VALIDATION
from pipeline.train import load_training_data
from pipeline.training import HistoryFile, content_hash
from policies.base import Policy
from policies.bundle import RouterBundle
from policies.costs import CostModel
from policies.rllib.columns import training_columns, write_columns


def retrain(config: TradewindConfig, spec: SearchSpec, folder: SearchFolder, best: TrialRecord) -> Registered:
    """Train the best values for the best number of epochs on all that may be learned from; register the policy.

    No prompt is left to choose a checkpoint on, so the number of epochs is the one that was best in the trial.
    A PB2 trial's changes of values are repeated epoch by epoch. The folder refers to the run's tables and
    embeddings and is a run folder itself: ``python -m pipeline evaluate run=FOLDER`` measures it.
    """
    source = RunLayout.of(config)
    best_config = with_values(spec.configuration(), best.values)
    shutil.rmtree(folder.challenger, ignore_errors=True)
    folder.challenger.mkdir(parents=True)
    layout = RunLayout(folder.challenger)
    for part in (source.prompts.parent.name, source.embeddings.name):
        (layout.root / part).symlink_to(Path("..") / ".." / part, target_is_directory=True)
    with tempfile.TemporaryDirectory(prefix=".retraining-", dir=layout.root) as name:
        scratch = Path(name)
        both = {TRAIN: (TRAIN, VALIDATION)}
        data = load_training_data(source, best_config, both, scratch)[TRAIN]
        arrays = scratch / "arrays"
        write_columns(arrays / TRAIN, training_columns(data))
        compared = RunComparisons.of(source) if spec.comparisons_sha256 is not None else None
        joined = training_comparisons(compared, data)
        if joined is not None:
            write_joined(arrays / JOINED_COMPARISONS, joined)
        # Learners open both folders; nothing is judged here.
        (arrays / VALIDATION).symlink_to(arrays / TRAIN, target_is_directory=True)
        policy = _train(spec, best, arrays, scratch, HistoryFile(layout.history))
        tau_usd = training_tau_usd(
            best_config, scale_costs_usd(data.scores, data.costs_usd), spec.reference_tau_usd
        )
        bundle = RouterBundle(
            policy=policy,
            pool=data.pool,
            encoder=encoder_identity(source),
            cost_model=CostModel.fit(data),
            tau_usd=tau_usd,
            notes={
                "policy": best_config.policy.name,
                "mode": best_config.train.mode,
                "seed": best_config.run.seed,
                "epochs": best.best_epoch,
                "train_rows": len(data),
                "train_sha256": content_hash(data),
                "trained_on": [TRAIN, VALIDATION],
                "search": {"trial_id": best.trial_id, "validation_reward": best.reward, **best.values},
                **({} if compared is None or joined is None else compared.notes(joined)),
            },
        )
        bundle.save(layout.policy)
    return register.register(_as_run(config, layout, best), champion=False)


def _train(spec: SearchSpec, best: TrialRecord, arrays: Path, scratch: Path, history: HistoryFile) -> Policy:
    stages: list[dict[str, Any]] = [s for s in best.schedule if s["from_epoch"] < best.best_epoch]
    candidate = Candidate(spec, stages[0]["values"], arrays, judged=False)
    try:
        with progress(best.best_epoch, "retrain", unit="epoch") as bar:
            for number, stage in enumerate(stages):
                if number > 0:
                    checkpoint = scratch / f"stage-{number}"
                    checkpoint.mkdir()
                    candidate.save(checkpoint)
                    candidate.stop()
                    candidate = Candidate(spec, stage["values"], arrays, judged=False)
                    candidate.load(checkpoint)
                later = stages[number + 1 :]
                last = later[0]["from_epoch"] if later else best.best_epoch
                while candidate.epoch < last:
                    history.record(candidate.advance())
                    bar.update()
        return candidate.policy()
    finally:
        candidate.stop()


def _as_run(config: TradewindConfig, layout: RunLayout, best: TrialRecord) -> TradewindConfig:
    """Record the challenger's folder as a run with the best values; return its configuration."""
    values = {
        **best.values,
        "run.dir": str(layout.root),
        "run.name": f"{config.run.name}-{config.tune.alias}",
        "tracking.alias": config.tune.alias,
        "tune.resume": None,
    }
    challenger = with_values(config, values)
    earlier = config.run.path / OVERRIDES_FILE
    kept = recorded_overrides(config.run.path) if earlier.exists() else {}
    named = [f"run.name={challenger.run.name}", f"tracking.alias={config.tune.alias}"]
    overrides = [f"{key}={value}" for key, value in kept.items()]
    record_config(challenger, [*overrides, *named, *best.overrides()])
    return challenger
