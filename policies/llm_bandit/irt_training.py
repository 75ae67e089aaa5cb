"""Stage 1 of LLM Bandit (arXiv 2502.02743): variational training of scoring network and identity vectors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from policies.errors import InputError
from policies.llm_bandit.arms import measured_arms
from policies.llm_bandit.identity_vectors import Arms, ScoringNetwork
from policies.llm_bandit.irt_network import IdentityPosterior, IrtNetwork, IrtShape
from policies.llm_bandit.observations import Comparisons, Observations, binarised, log_output_costs
from policies.outcome_model.features import ContextFeatures

log = logging.getLogger(__name__)

LOG_STD_RATE = 10.0
"""Learning rate of the posterior's log deviations, in units of the weights'."""

VALIDATED_ROWS = 8192
"""Most validation rows that each epoch's cross-entropy is taken over: it is a curve to look at."""

Record = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class IrtSettings:
    """How identity vectors are learned.

    Attributes:
        components: principal components of the embedding.
        token_scale: standard deviation of the log prompt tokens among the inputs.
        identity_dim: length m of an identity vector.
        members: networks whose logits are averaged.
        hidden: width of a member's hidden layer.
        dropout: share of hidden units dropped.
        input_dropout: share of inputs dropped.
        lr: peak of the learning rate's one cycle.
        batch_size: prompts in one gradient step.
        epochs: passes over the prompts.
        max_steps: most gradient steps; rows too many for all epochs get fewer.
        weight_decay: decoupled decay of the backbone.
        loading_decay: decoupled decay of the loadings' dependence on the prompt.
        length_weight: weight of an answer's length beside a score.
        pair_weight: weight of a comparison beside a score.
        kl_weight: weight of the divergence to the prior, in nats beside one score's cross-entropy (1: the ELBO).
        binary_scores: learn from scores made 0 or 1 as published, instead of from the scores themselves.
    """

    components: int = 64
    token_scale: float = 0.3
    identity_dim: int = 24
    members: int = 4
    hidden: int = 128
    dropout: float = 0.3
    input_dropout: float = 0.1
    lr: float = 2e-3
    batch_size: int = 512
    epochs: int = 30
    max_steps: int = 4000
    weight_decay: float = 0.01
    loading_decay: float = 1.0
    length_weight: float = 0.3
    pair_weight: float = 1.0
    kl_weight: float = 1.0
    binary_scores: bool = False


class _Targets(NamedTuple):
    """Tensors of one training, shapes (n, K); masks are 1 where observed."""

    score: Tensor
    has_score: Tensor
    length: Tensor
    has_length: Tensor


class _Lengths(NamedTuple):
    """Log output costs and what they are standardised by."""

    log_cost: npt.NDArray[np.float64]
    mean: npt.NDArray[np.float64]
    std: float


def train_identity_vectors(
    observations: Observations,
    models: tuple[str, ...],
    input_price_per_token_usd: npt.NDArray[np.float64],
    tau_usd: float,
    settings: IrtSettings,
    *,
    comparisons: Comparisons | None = None,
    validation: Observations | None = None,
    seed: int = 0,
    record: Record | None = None,
) -> tuple[ScoringNetwork, Arms]:
    """Return the frozen scoring network, not yet calibrated, and every model's identity vector.

    The loss is the negative evidence lower bound per observation: cross-entropy of scores, of comparisons and a
    squared error of log output costs, each a sum over what was observed, plus the divergence to the prior, all
    divided by the number of observed scores and comparisons.

    Args:
        observations: n rows over K models, NaN where nothing was seen; may be empty beside comparisons.
        models: K names.
        input_price_per_token_usd: shape (K,).
        tau_usd: cost scale of the reward, USD.
        settings: of the networks and the optimiser.
        comparisons: pairwise outcomes over the same K models.
        validation: other rows over the same K models, whose cross-entropy is recorded and nothing else.
        seed: of weights, order, dropout and posterior draws.
        record: called with each epoch's losses.

    Raises:
        InputError: neither a score nor a comparison was observed.
        FloatingPointError: the loss stopped being finite.
    """
    pairs = Comparisons.none(observations.embeddings.shape[1]) if comparisons is None else comparisons
    scores = binarised(observations.scores) if settings.binary_scores else observations.scores
    n_seen = int(np.isfinite(scores).sum()) + len(pairs)
    if n_seen == 0:
        raise InputError("neither a score nor a comparison was observed: no identity vector can be learned")
    features = ContextFeatures.fit(
        np.concatenate([observations.embeddings, pairs.embeddings]),
        np.concatenate([observations.prompt_tokens, pairs.prompt_tokens]),
        settings.components,
        settings.token_scale,
    )
    inputs = features.transform(observations.embeddings, observations.prompt_tokens)
    pair_inputs = features.transform(pairs.embeddings, pairs.prompt_tokens)
    lengths = _standardised(log_output_costs(observations, input_price_per_token_usd, tau_usd))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        shape = IrtShape(
            features.basis.shape[1] + 1,
            settings.identity_dim,
            settings.members,
            settings.hidden,
            settings.dropout,
            settings.input_dropout,
        )
        network, posterior = IrtNetwork(shape), IdentityPosterior(len(models), settings.identity_dim)
        seen = np.isfinite(scores)
        with torch.no_grad():
            mean = (np.where(seen, scores, 0.0).sum() + 1.0) / (seen.sum() + 2.0)
            network.offset[..., 0] = float(np.log(mean / (1.0 - mean)))
        _optimise(
            network,
            posterior,
            torch.from_numpy(inputs),
            _targets(scores, lengths),
            _Pairs.of(pairs, pair_inputs),
            settings,
            _recorder(network, posterior, features, validation, record),
        )
    plain = _frozen(network, features, lengths.std, tau_usd)
    arms = measured_arms(
        plain,
        models,
        posterior.mean.detach().numpy().copy(),
        posterior.log_std.detach().exp().numpy().copy(),
        observations,
        lengths.log_cost,
        lengths.mean,
        input_price_per_token_usd,
    )
    return plain, arms


class _Pairs(NamedTuple):
    """Comparisons as tensors."""

    inputs: Tensor
    first: Tensor
    second: Tensor
    first_wins: Tensor

    @classmethod
    def of(cls, pairs: Comparisons, inputs: npt.NDArray[np.float32]) -> _Pairs:
        wins = torch.from_numpy(pairs.first_wins.astype(np.float32))
        return cls(
            torch.from_numpy(inputs), torch.from_numpy(pairs.first), torch.from_numpy(pairs.second), wins
        )


def _optimise(
    network: IrtNetwork,
    posterior: IdentityPosterior,
    inputs: Tensor,
    targets: _Targets,
    pairs: _Pairs,
    settings: IrtSettings,
    record: Record,
) -> None:
    groups = network.parameter_groups(settings.weight_decay, settings.loading_decay)
    groups.append({"params": [posterior.mean], "weight_decay": 0.0})
    groups.append({"params": [posterior.log_std], "weight_decay": 0.0})
    optimiser = torch.optim.AdamW(groups, lr=settings.lr)
    # Deviations span orders of magnitude: their logarithm has further to go than any weight.
    peaks = [settings.lr] * (len(groups) - 1) + [LOG_STD_RATE * settings.lr]
    n_rows, n_pairs = len(inputs), len(pairs.first)
    steps = max(1, -(-max(n_rows, n_pairs) // settings.batch_size))
    epochs = min(settings.epochs, max(1, settings.max_steps // steps))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, peaks, total_steps=epochs * steps + 1, pct_start=0.1
    )
    n_scores, n_lengths = float(targets.has_score.sum()), float(targets.has_length.sum())
    n_seen = n_scores + n_pairs
    members = settings.members
    parameters = [*network.parameters(), *posterior.parameters()]
    network.train()
    for epoch in range(epochs):
        totals = torch.zeros(4)
        for rows, pair_rows in zip(
            _orders(n_rows, members, steps), _orders(n_pairs, members, steps), strict=True
        ):
            identities = posterior.sample(members)
            score = length = comparison = torch.zeros(())
            if n_rows:
                outputs = network(inputs[rows], identities)
                score = _masked_mean(
                    functional.binary_cross_entropy_with_logits(
                        outputs.score, targets.score[rows], reduction="none"
                    ),
                    targets.has_score[rows],
                )
                length = _masked_mean((outputs.length - targets.length[rows]) ** 2, targets.has_length[rows])
            if n_pairs:
                comparison = _comparison_loss(network, identities, pairs, pair_rows)
            divergence = posterior.divergence()
            loss = (
                n_scores * score
                + settings.pair_weight * n_pairs * comparison
                + settings.length_weight * n_lengths * length
                + settings.kl_weight * divergence
            ) / n_seen
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 10.0)
            optimiser.step()
            schedule.step()
            totals += torch.stack([loss, score, comparison, divergence]).detach()
        values = (totals / steps).tolist()
        if not np.isfinite(values).all():
            raise FloatingPointError(f"identity vectors, epoch {epoch + 1}: the loss is not finite")
        names = ("loss", "score_loss", "comparison_loss", "divergence_nats")
        record({"epoch": epoch + 1, **dict(zip(names, values, strict=True))})
    network.eval()


def _recorder(
    network: IrtNetwork,
    posterior: IdentityPosterior,
    features: ContextFeatures,
    validation: Observations | None,
    record: Record | None,
) -> Record:
    """Return ``record`` with the cross-entropy of the validation scores beside each epoch's losses."""
    if record is None:
        return lambda line: None
    scored = np.flatnonzero([] if validation is None else np.isfinite(validation.scores).any(axis=1))
    if validation is None or not len(scored):
        return record
    validation = validation.rows(scored[:: -(-len(scored) // VALIDATED_ROWS)])
    inputs = torch.from_numpy(features.transform(validation.embeddings, validation.prompt_tokens))
    seen = torch.from_numpy(np.isfinite(validation.scores))
    scores = torch.from_numpy(np.nan_to_num(validation.scores).astype(np.float32))

    def with_validation(line: dict[str, float]) -> None:
        network.eval()
        with torch.no_grad():
            # As it will decide: members averaged, at the posterior's mean.
            logits = network(inputs, posterior.mean).score.mean(dim=0)
            loss = functional.binary_cross_entropy_with_logits(logits[seen], scores[seen])
        network.train()
        record({**line, "validation_score_loss": float(loss)})

    return with_validation


def _comparison_loss(network: IrtNetwork, identities: Tensor, pairs: _Pairs, rows: Tensor) -> Tensor:
    """Return the cross-entropy of ``sigmoid(g(x, I_first) - g(x, I_second))``; a tie is half a win for each."""
    values = network(pairs.inputs[rows], identities).comparator
    ahead = values.gather(2, pairs.first[rows][..., None]) - values.gather(2, pairs.second[rows][..., None])
    return functional.binary_cross_entropy_with_logits(ahead[..., 0], pairs.first_wins[rows])


def _orders(n: int, members: int, steps: int) -> Iterator[Tensor]:
    """Yield ``steps`` batches of row numbers, shape (members, batch), each member in its own order."""
    order = torch.stack([torch.randperm(n) for _ in range(members)])
    yield from torch.tensor_split(order, steps, dim=1)


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / mask.sum().clamp_min(1.0)


def _targets(scores: npt.NDArray[np.float64], lengths: _Lengths) -> _Targets:
    standardised = (lengths.log_cost - lengths.mean) / lengths.std
    both = []
    for values in (scores, standardised):
        seen = np.isfinite(values)
        both += [
            torch.from_numpy(np.where(seen, values, 0.0).astype(np.float32)),
            torch.from_numpy(seen).float(),
        ]
    return _Targets(*both)


def _standardised(log_cost: npt.NDArray[np.float64]) -> _Lengths:
    """Return each model's mean (that of all models where it has none) and the pooled deviation."""
    seen = np.isfinite(log_cost)
    count = seen.sum(axis=0)
    total = np.where(seen, log_cost, 0.0).sum(axis=0)
    overall = total.sum() / max(1, count.sum())
    mean = np.where(count > 0, total / np.maximum(count, 1), overall)
    residual = np.where(seen, log_cost - mean, 0.0)
    return _Lengths(log_cost, mean, float(np.sqrt((residual**2).sum() / max(1, count.sum()))) or 1.0)


def _frozen(
    network: IrtNetwork, features: ContextFeatures, length_std: float, tau_usd: float
) -> ScoringNetwork:
    array = {name: value.detach().numpy().copy() for name, value in network.named_parameters()}
    # Serving needs no comparator: its part of the loadings stays behind.
    m = 2 * network.shape.identity_dim
    return ScoringNetwork(
        features=features,
        trunk=array["trunk"],
        trunk_bias=array["trunk_bias"],
        difficulty=array["difficulty"],
        offset=array["offset"],
        loading=np.ascontiguousarray(array["loading"][..., :m]),
        loading_bias=np.ascontiguousarray(array["loading_bias"][..., :m]),
        platt=(1.0, 0.0),
        length_std=length_std,
        tau_usd=tau_usd,
    )
