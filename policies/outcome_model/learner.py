"""Learning the outcome model on RLlib: masked regression on the entries that bandit feedback has revealed."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from torch import Tensor
from torch.nn import functional

from policies.outcome_model.calibration import RevealedOutcomes, calibrated
from policies.outcome_model.features import ContextFeatures
from policies.outcome_model.policy import OutcomeModelPolicy
from policies.outcome_model.topics import TopicScores, distances, topic_centroids, topic_means
from policies.rllib.offline import EpochLearner

PROMPT_SHARE_CAP = 0.95
"""The prompt is never taken to explain more than this share of an observed cost: tokens are estimated."""


class OutcomeModelLearner(EpochLearner):
    """Binary cross-entropy on scores plus a weighted squared error on log output costs, over revealed entries.

    Logged: every entry of the log is revealed from the start. Simulated online (BaRP's setting): nothing is;
    every ``epochs_per_round`` epochs each prompt is visited ``visits_per_round`` times, an action is chosen, and
    that entry alone is added. The first round is uniform; afterwards a visit draws a preference, follows the
    plug-in decision of one ensemble member (Thompson sampling), or explores uniformly.
    """

    def attach(self, columns: dict[str, Tensor]) -> None:
        """Take the training columns, fit the features, and reveal what the mode reveals at the start."""
        super().attach(columns)
        config = self.config
        host = dense_outcomes(
            {name: values.cpu().numpy() for name, values in columns.items()}, config.n_models
        )
        self._features = ContextFeatures.fit(
            host["embeddings"], host["prompt_tokens"], config.components, config.token_scale
        )
        self._host = host
        self._inputs = torch.from_numpy(
            self._features.transform(host["embeddings"], host["prompt_tokens"])
        ).to(self._device)
        self._centroids: npt.NDArray[np.float32] | None = None
        if config.topic_share > 0.0:
            # Topics need no outcomes: they are the same in every round.
            projected = self._features.project(host["embeddings"])
            self._centroids = topic_centroids(projected, config.topics, config.seed)
            self._labels = distances(projected, self._centroids).argmin(axis=1)
        scores, costs = host["scores"], host["costs_usd"]
        self._can_visit = np.isfinite(scores) | np.isfinite(costs)
        prompt_cost = host["prompt_tokens"][:, None] * np.asarray(config.input_price_per_token_usd)
        with np.errstate(divide="ignore", invalid="ignore"):
            self._log_output_cost = np.log(np.maximum(costs - prompt_cost, (1.0 - PROMPT_SHARE_CAP) * costs))
        # A free call has no logarithm: a millionth of tau stands for it.
        self._log_output_cost = np.maximum(self._log_output_cost, np.log(1e-6 * config.tau_usd))
        self._revealed = np.zeros(scores.shape, dtype=bool)
        self._mean_std: tuple[npt.NDArray[np.float64], float] | None = None
        self._members: Tensor | None = None
        self._schedule: Any = None

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """Register AdamW; its learning rate follows one cycle over the whole training."""
        network = self._module[module_id].unwrapped().network
        groups = network.parameter_groups(self.config.weight_decay, self.config.interaction_decay)
        optimizer = torch.optim.AdamW(groups, lr=self.config.lr)
        self.register_optimizer(
            module_id=module_id, optimizer=optimizer, params=self.get_parameters(self._module[module_id])
        )

    def begin_epoch(self, n_steps: int) -> None:
        """Reveal this round's visits and draw each member's own order of the rows."""
        if self._epoch == 0 and self.config.mode == "logged":
            self._reveal(self._can_visit)
        elif self.config.mode == "simulated_online" and self._epoch % self.config.epochs_per_round == 0:
            self._visit()
        members, n = self.config.members, len(self._inputs)
        self._members = torch.stack([torch.randperm(n, device=self._device) for _ in range(members)])
        if self._schedule is None:
            self._schedule = self._one_cycle(self.config.epochs * n_steps, done=self._epoch * n_steps)

    def minibatch(self, rows: Tensor) -> dict[str, Any]:
        """Return each member's inputs and revealed targets, shapes (members, batch, ...)."""
        assert self._members is not None
        own = self._members[:, rows]
        targets = {name: values[own] for name, values in self._targets.items()}
        return {Columns.OBS: self._inputs[own], **targets}

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Tensor:
        """Return the members' summed mean loss over their revealed entries."""
        k = self.config.n_models
        outputs = fwd_out["outputs"]
        score_loss = functional.binary_cross_entropy_with_logits(
            outputs[..., :k], batch["score"], reduction="none"
        )
        cost_loss = (outputs[..., k:] - batch["log_cost"]) ** 2
        total = (score_loss * batch["has_score"]).sum() / batch["has_score"].sum().clamp_min(1.0)
        total = total + self.config.length_weight * (
            (cost_loss * batch["has_cost"]).sum() / batch["has_cost"].sum().clamp_min(1.0)
        )
        return self.config.members * total

    def _one_cycle(self, total_steps: int, *, done: int) -> torch.optim.lr_scheduler.OneCycleLR:
        """Return the learning rate's schedule after ``done`` steps: a restored run goes on where it was."""
        optimizer = self.get_optimizer(DEFAULT_MODULE_ID)
        with warnings.catch_warnings():
            # Skipping ahead steps the schedule before the optimiser, which torch takes for a mistake.
            warnings.simplefilter("ignore", UserWarning)
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimizer, self.config.lr, total_steps=total_steps + 1, pct_start=0.1
            )
            for _ in range(done):
                schedule.step()
        return schedule

    def after_step(self) -> None:
        """Advance the learning rate."""
        self._schedule.step()

    def log_epoch(self, losses: Tensor) -> None:
        """Log the mean loss per member and the share of entries revealed so far."""
        self.log_losses(losses, scale=1.0 / self.config.members, revealed=float(self._revealed.mean()))

    def freeze(self) -> OutcomeModelPolicy:
        """Return the current network as a router."""
        assert self._mean_std is not None, "freeze() before the first epoch"
        network = self.module[DEFAULT_MODULE_ID].unwrapped().network
        array = {name: value.detach().cpu().numpy().copy() for name, value in network.named_parameters()}
        k = self.config.n_models
        mean, std = self._mean_std
        plain = OutcomeModelPolicy(
            models=tuple(str(i) for i in range(k)),
            features=self._features,
            trunk=array["trunk"],
            trunk_bias=array["trunk_bias"],
            head=network.head().detach().cpu().numpy().copy(),
            head_bias=array["bias"],
            log_cost_mean=mean,
            log_cost_std=std,
            sigma=np.ones(k),
            recalibration=np.ones(k),
            input_price_per_token_usd=np.asarray(self.config.input_price_per_token_usd, dtype=np.float64),
            tau_usd=self.config.tau_usd,
        )
        outcomes = RevealedOutcomes(
            self._host["embeddings"],
            self._host["prompt_tokens"],
            self._host["scores"],
            self._host["costs_usd"],
            self._log_output_cost,
            self._revealed,
        )
        policy, means = calibrated(plain, outcomes)
        if self._centroids is None:
            return policy
        seen = self._revealed & np.isfinite(self._host["scores"])
        scores = topic_means(self._labels, len(self._centroids), self._host["scores"], seen, means)
        return replace(policy, topics=TopicScores(self._centroids, scores, self.config.topic_share))

    def _visit(self) -> None:
        rng = np.random.default_rng([self.config.seed, self._epoch])
        n, k = self._can_visit.shape
        revealed = self._revealed.copy()
        expected = None
        if revealed.any():
            policy = self.freeze()
            expected = policy.expected_outcomes(self._host["embeddings"], self._host["prompt_tokens"])
        rows = np.arange(n)
        for _ in range(self.config.visits_per_round):
            noise = np.where(self._can_visit, rng.random((n, k)), -1.0)
            action = noise.argmax(axis=1)
            if expected is not None:
                w = rng.random((n, 1))
                member = expected.member_scores[rng.integers(0, len(expected.member_scores), n), rows]
                value = np.where(self._can_visit, (1.0 - w) * member - w * expected.cost_terms, -np.inf)
                exploit = rng.random(n) >= self.config.explore
                action = np.where(exploit, value.argmax(axis=1), action)
            revealed[rows, action] = True
        self._reveal(revealed & self._can_visit)

    def _reveal(self, mask: npt.NDArray[np.bool_]) -> None:
        """Make the entries of ``mask``, shape (n, K), the training set from now on."""
        self._revealed = mask
        has_score = mask & np.isfinite(self._host["scores"])
        has_cost = mask & np.isfinite(self._host["costs_usd"])
        if self._mean_std is None:
            self._mean_std = _mean_and_std(self._log_output_cost, has_cost)
            scores = np.where(has_score, self._host["scores"], 0.0).sum(axis=0)
            mean = (scores + 1.0) / (has_score.sum(axis=0) + 2.0)
            self.module[DEFAULT_MODULE_ID].unwrapped().network.start_from(
                torch.tensor(mean, dtype=torch.float32, device=self._device)
            )
        centre, std = self._mean_std
        standardised = (self._log_output_cost - centre) / std
        targets = {
            "score": np.where(has_score, self._host["scores"], 0.0),
            "log_cost": np.where(has_cost, standardised, 0.0),
            "has_score": has_score,
            "has_cost": has_cost,
        }
        self._targets = {
            name: torch.from_numpy(values.astype(np.float32)).to(self._device)
            for name, values in targets.items()
        }

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Add what has been revealed to the learner's checkpoint."""
        state = super().get_state(*args, **kwargs)
        if getattr(self, "_mean_std", None) is not None:
            state["revealed"] = {"mask": self._revealed, "mean_std": self._mean_std}
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore what had been revealed."""
        super().set_state(state)
        if "revealed" in state:
            self._mean_std = state["revealed"]["mean_std"]
            self._reveal(state["revealed"]["mask"])


def dense_outcomes(columns: dict[str, npt.NDArray], n_models: int) -> dict[str, npt.NDArray]:
    """Return embeddings, lengths and (n, K) outcomes, NaN where nothing was seen, of either column layout."""
    host = {name: columns[name] for name in ("embeddings", "prompt_tokens")}
    for name in ("scores", "costs_usd"):
        values = columns[name].astype(np.float64)
        if "actions" in columns:
            table = np.full((len(values), n_models), np.nan)
            table[np.arange(len(values)), columns["actions"]] = values
            values = table
        host[name] = values
    return host


def _mean_and_std(
    values: npt.NDArray[np.float64], mask: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], float]:
    """Return each column's mean over its masked entries (of all, where it has none) and the pooled deviation."""
    count = mask.sum(axis=0)
    total = np.where(mask, values, 0.0).sum(axis=0)
    overall = total.sum() / max(1, count.sum())
    mean = np.where(count > 0, total / np.maximum(count, 1), overall)
    residual = np.where(mask, values - mean, 0.0)
    return mean, float(np.sqrt((residual**2).sum() / max(1, count.sum()))) or 1.0
