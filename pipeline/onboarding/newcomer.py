"""The router that takes a new model, and what is known of the model before it answers: its entry in a pool file."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.config import TradewindConfig
from pipeline.join import embeddings_of, load_prompts
from pipeline.layout import RunLayout
from pipeline.splits import TRAIN
from pipeline.tables import read_table, to_polars
from policies.bundle import RouterBundle
from policies.costs import estimate_prompt_tokens
from policies.errors import InputError
from policies.llm_bandit.observations import Observations
from policies.llm_bandit.policy import LlmBanditPolicy
from policies.pool import ModelSpec, read_pool_file
from policies.schemas import FEEDBACK, OUTCOMES


def folder_name(model: str) -> str:
    """Return a folder's name for a model, whose own may hold slashes and dots that lead elsewhere."""
    safe = re.sub(r"[^A-Za-z0-9_.-]|^\.", "_", model)
    return safe if safe == model else f"{safe}-{hashlib.sha256(model.encode()).hexdigest()[:6]}"


@dataclass(frozen=True)
class AskablePool:
    """Training prompts of a run: those that a new model may be asked.

    Attributes:
        table: n rows ``prompt_id, prompt, task, split``.
        embeddings: shape (n, d).
        prompt_tokens: shape (n,), estimated.
        known_scores: shape (n, K), what the router's models scored, NaN where that was not recorded.
    """

    table: pl.DataFrame
    embeddings: npt.NDArray[np.float32]
    prompt_tokens: npt.NDArray[np.float64]
    known_scores: npt.NDArray[np.float64]

    def known_answers(self) -> Observations:
        """Return what the router's models scored as observations."""
        ids = self.table["prompt_id"].to_numpy().astype(str)
        costs_usd = np.full_like(self.known_scores, np.nan)
        return Observations(ids, self.embeddings, self.prompt_tokens, self.known_scores, costs_usd)


@dataclass(frozen=True)
class Newcomer:
    """A new model and the router that it joins.

    Attributes:
        spec: the model's entry in the pool file.
        layout: the run that trained the router.
        bundle: the router.
        policy: its decision rule.
        folder: where the prompts to ask and the larger router are kept; a run folder once the model was fitted.
    """

    spec: ModelSpec
    layout: RunLayout
    bundle: RouterBundle
    policy: LlmBanditPolicy
    folder: Path

    @classmethod
    def of(cls, config: TradewindConfig) -> Newcomer:
        """Return the configured model and router.

        Raises:
            InputError: no model is named, the run has no policy or one that cannot take a model, or the model is in
                its pool already or not in the pool file.
        """
        name = config.onboard.model
        if not name:
            raise InputError(
                "onboard.model is not set; allowed: a model of the pool file, onboard.model=NAME"
            )
        layout = RunLayout.of(config)
        bundle = RouterBundle.load(layout.need(layout.policy, "train"))
        if not isinstance(bundle.policy, LlmBanditPolicy):
            raise InputError(
                f"{layout.policy}: a policy of kind '{bundle.policy.kind}', which is trained for a fixed pool; "
                f"allowed: '{LlmBanditPolicy.kind}' (python -m pipeline train policy=llm_bandit)"
            )
        if name in bundle.pool.models:
            raise InputError(
                f"onboard.model={name}: is in the pool of {layout.policy} already ({', '.join(bundle.pool.models)}); "
                "allowed: another name"
            )
        pool_file = read_pool_file(config.onboard.pool or config.pool.path)
        if name not in pool_file.specs:
            raise InputError(
                f"onboard.model={name}: has no entry in {pool_file.path}; give onboard.pool=PATH of a pool file with "
                f"one; this one has: {', '.join(pool_file.specs)}"
            )
        folder = layout.root / "onboard" / folder_name(name)
        return cls(pool_file.specs[name], layout, bundle, bundle.policy, folder)

    @property
    def prompts(self) -> Path:
        """The prompts to ask (written by select); beside it lies the same as JSON lines."""
        return self.folder / "prompts.parquet"

    @property
    def selection(self) -> Path:
        """How the prompts were chosen and what they should cost (written by select)."""
        return self.folder / "selection.json"

    def askable(self) -> AskablePool:
        """Return the prompts that the model may be asked: held-out ones stay unseen."""
        table = load_prompts(self.layout, (TRAIN,))
        tokens = estimate_prompt_tokens(table["prompt"].to_list())
        return AskablePool(
            table,
            embeddings_of(self.layout, table["prompt_id"]),
            tokens,
            self._known_scores(table["prompt_id"]),
        )

    def _known_scores(self, prompt_ids: pl.Series) -> npt.NDArray[np.float64]:
        """Return the recorded scores of prompts, shape (n, K); the mean where a log holds several.

        A router that learned from a log is helped by that log alone, as if there were no full table.
        """
        models = self.bundle.pool.models
        spec, path = OUTCOMES, self.layout.outcomes
        if self.bundle.notes.get("mode") == "logged" or not path.exists():
            spec, path = FEEDBACK, self.layout.need(self.layout.feedback, "simulate")
        recorded = to_polars(read_table(spec, str(path))).select("prompt_id", "model", "score")
        rows = pl.DataFrame({"prompt_id": prompt_ids}).with_row_index("row")
        columns = pl.DataFrame({"model": models}).with_row_index("column")
        placed = (
            recorded.drop_nulls("score")
            .join(rows, on="prompt_id")
            .join(columns, on="model")
            .group_by("row", "column")
            .agg(pl.col("score").mean())
        )
        scores = np.full((len(prompt_ids), len(models)), np.nan)
        scores[placed["row"].to_numpy(), placed["column"].to_numpy()] = placed["score"].to_numpy()
        return scores

    def provenance(self) -> dict[str, Any]:
        """Return what the artifact remembers of where it came from."""
        return {
            "model": self.spec.name,
            "base_policy_version": self.bundle.policy_version,
            "base_pool": self.bundle.pool.name,
        }
