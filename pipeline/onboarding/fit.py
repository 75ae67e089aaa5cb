"""`onboard fit`: the new model's vector from its answers, and the router over the larger pool as challenger."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipeline.compose import OVERRIDES_FILE, load_config, record_config, recorded_overrides
from pipeline.config import TradewindConfig
from pipeline.console import say
from pipeline.layout import RunLayout
from pipeline.onboarding.answers import observations, read_answers, rows_of
from pipeline.onboarding.newcomer import AskablePool, Newcomer
from pipeline.register import Registered, register
from policies.bundle import RouterBundle, TrainingMeans
from policies.costs import CostModel
from policies.llm_bandit.identity_vectors import Arms, expected_output_cost_usd, logit_std
from policies.llm_bandit.item_effects import ItemEffects
from policies.llm_bandit.observations import Observations
from policies.llm_bandit.onboarding import fit_new_arm
from policies.pool import ModelPool

POOL_FILE = "pool.yaml"


@dataclass(frozen=True)
class Onboarded:
    """What one model's onboarding leaves in the artifact.

    Attributes:
        model: the new model.
        base_policy_version: the router that it joined.
        base_pool: name of that router's pool.
        selection: strategy that chose the prompts, None when any was chosen elsewhere.
        n_scores: scored answers.
        n_costs: answers with a cost.
        logit_std: mean over training prompts of the deviation of the predicted score's logit under the posterior.
        known_logit_std: the same for the model in the middle of the base pool.
        mean_score: mean predicted score over training prompts.
    """

    model: str
    base_policy_version: str
    base_pool: str
    selection: str | None
    n_scores: int
    n_costs: int
    logit_std: float
    known_logit_std: float
    mean_score: float


def fit(config: TradewindConfig) -> Registered:
    """Learn the new vector with everything else frozen; write and register the router over the larger pool.

    ``RUN/onboard/MODEL`` becomes a run folder that refers to the run's tables and embeddings, so that a further model
    can be onboarded from there; the alias is ``onboard.alias``.

    Raises:
        InputError: see :meth:`Newcomer.of` and :func:`read_answers`.
    """
    newcomer = Newcomer.of(config)
    answers = read_answers(config, newcomer)
    pool = newcomer.askable()
    asked = rows_of(answers, pool)
    seen = observations(answers, pool, asked)
    policy, known = newcomer.policy, newcomer.bundle
    arm = fit_new_arm(
        policy.network,
        policy.arms,
        seen,
        newcomer.spec,
        known.pool.prices_per_token_usd[:, 1],
        effects=ItemEffects.of(policy.network, policy.arms, pool.known_answers()).rows(asked),
    )
    record = _record(newcomer, arm, seen, pool)
    bundle = extended(newcomer, arm, answers, pool, record)
    layout = RunLayout(newcomer.folder)
    newcomer.folder.mkdir(parents=True, exist_ok=True)
    bundle.save(layout.policy)
    _write_pool(bundle.pool, newcomer.folder / POOL_FILE)
    say(
        f"onboard fit: {record.model} from {record.n_scores} scores and {record.n_costs} costs; deviation of its "
        f"logits {record.logit_std:.2f} (known models: {record.known_logit_std:.2f}) -> {layout.policy}"
    )
    tags = {name: str(value) for name, value in asdict(record).items() if value is not None}
    return register(_as_run(config, newcomer, bundle.pool), champion=False, tags=tags)


def extended(
    newcomer: Newcomer, arm: Arms, answers: pl.DataFrame, pool: AskablePool, record: Onboarded
) -> RouterBundle:
    """Return the router over the larger pool: nothing that it held of the known models changes.

    The prompts asked are not a fair sample, so the mean answer's cost is that which the fitted row predicts over all
    training prompts. The mean score in training stays unknown: it was not observed there.
    """
    base, spec = newcomer.bundle, newcomer.spec
    larger = ModelPool(f"{base.pool.name}+{spec.name}", (*base.pool.specs, spec))
    network = newcomer.policy.network
    loadings = network.loadings(network.inputs(pool.embeddings, pool.prompt_tokens))
    answer_usd = float(expected_output_cost_usd(network, loadings, arm).mean())
    costs = base.cost_model
    means = base.training_means
    if means is not None:
        latency: Any = answers["latency_s"].mean()
        means = TrainingMeans((*means.scores, None), (*means.latencies_s, latency))
    return replace(
        base,
        policy=newcomer.policy.with_arms(newcomer.policy.arms.with_arms(arm)),
        pool=larger,
        cost_model=CostModel(
            larger.prices_per_token_usd,
            costs.mean_prompt_tokens,
            np.append(costs.mean_output_cost_usd, answer_usd),
        ),
        policy_version="",
        notes={**base.notes, "onboarded": [*base.notes.get("onboarded", []), asdict(record)]},
        training_means=means,
    )


def _record(newcomer: Newcomer, arm: Arms, seen: Observations, pool: AskablePool) -> Onboarded:
    policy = newcomer.policy
    network = policy.network
    everyone = policy.arms.with_arms(arm)
    loadings = network.loadings(network.inputs(pool.embeddings, pool.prompt_tokens))
    doubt = logit_std(network, loadings, everyone).mean(axis=0)
    scores = policy.with_arms(arm).predictions(pool.embeddings, pool.prompt_tokens).scores
    return Onboarded(
        **newcomer.provenance(),
        selection=_selection(newcomer, seen),
        n_scores=int(np.isfinite(seen.scores).sum()),
        n_costs=int(np.isfinite(seen.costs_usd).sum()),
        logit_std=float(doubt[-1]),
        known_logit_std=float(np.median(doubt[:-1])),
        mean_score=float(scores.mean()),
    )


def _selection(newcomer: Newcomer, seen: Observations) -> str | None:
    """Return the strategy that chose the answered prompts, None where it did not choose all of them."""
    if not newcomer.selection.exists():
        return None
    chosen = set(pl.read_parquet(newcomer.prompts)["prompt_id"])
    if not chosen.issuperset(seen.prompt_ids.tolist()):
        return None
    return str(json.loads(newcomer.selection.read_text())["selection"])


def _write_pool(pool: ModelPool, path: Path) -> None:
    staging = path.with_name(path.name + ".tmp")
    pool.write(staging)
    staging.replace(path)


def _as_run(config: TradewindConfig, newcomer: Newcomer, pool: ModelPool) -> TradewindConfig:
    """Make the folder that of a run which continues the base run with the larger pool; return its configuration."""
    folder, source = newcomer.folder, newcomer.layout
    for part in (source.prompts.parent.name, source.embeddings.name):
        link = folder / part
        if not link.is_symlink():
            link.symlink_to(Path("..") / ".." / part, target_is_directory=True)
    kept = recorded_overrides(source.root) if (source.root / OVERRIDES_FILE).exists() else {}
    tracking = config.tracking
    values = {
        **kept,
        "run.root": config.run.root,
        "run.dir": str(folder),
        "run.name": f"{config.run.name}-{newcomer.spec.name}",
        "pool.path": str(folder / POOL_FILE),
        "pool.name": pool.name,
        "tracking.model": tracking.model,
        "tracking.experiment": tracking.experiment,
        "tracking.alias": config.onboard.alias,
        **({} if tracking.uri is None else {"tracking.uri": tracking.uri}),
    }
    overrides = [f"{key}={value}" for key, value in values.items()]
    larger = load_config(overrides)
    record_config(larger, overrides)
    return larger
