"""Check 3, costs by each query's predicted length against a fixed price a call, and errors in that length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
import numpy.typing as npt

from pipeline.llm_bandit_suite.bench import Bench
from pipeline.llm_bandit_suite.context import SuiteContext, llm_bandit
from pipeline.llm_bandit_suite.decisions import dial_choices
from pipeline.llm_bandit_suite.findings import Claim, Finding, Table
from pipeline.llm_bandit_suite.trainings import FIXED_COSTS, QUERY_COSTS, Trained, Training, fixed_cost_terms
from policies.datasets import OutcomeMatrix
from policies.llm_bandit.identity_vectors import log_output_cost
from policies.llm_bandit.policy import LlmBanditPolicy
from policies.outcome_model.cost_term import expected_cost_term

NAME = "query_costs"
BY_QUERY, FIXED = "costs-query", "costs-fixed"
FloatArray = npt.NDArray[np.float64]


def trainings(context: SuiteContext) -> list[Training]:
    """Return two policies after supervised pretraining, alike but for the costs that they see."""
    return [
        context.training(BY_QUERY, supervised=QUERY_COSTS),
        context.training(FIXED, supervised=FIXED_COSTS),
    ]


def cost_terms_with(policy: LlmBanditPolicy, data: OutcomeMatrix, log_error: FloatArray) -> FloatArray:
    """Return the expected cost terms, shape (n, K), had every predicted answer been ``exp(log_error)`` as long.

    Args:
        policy: predicts the lengths.
        data: n prompts.
        log_error: broadcast to (n, K).
    """
    network, arms, tokens = policy.network, policy.arms, data.prompt_tokens
    loadings = network.loadings(network.inputs(data.embeddings, tokens))
    prompt_cost = tokens[:, None] * arms.input_price_per_token_usd
    output = log_output_cost(network, loadings, arms) + log_error
    expected = expected_cost_term(output, arms.sigma, prompt_cost, network.tau_usd)
    return np.minimum(expected * arms.recalibration, 1.0)


def check(context: SuiteContext, trained: Mapping[str, Trained]) -> Finding:
    """Compare the two policies, then disturb the lengths that the first is told."""
    settings = context.settings.query_costs
    by_query, fixed = llm_bandit(trained[BY_QUERY]), llm_bandit(trained[FIXED])
    means = fixed_cost_terms(context.train, context.tau_usd)
    rows, figures, tolerance = [], {}, {}
    for split, bench in context.benches.items():
        told = np.broadcast_to(means, (len(bench.data), len(means)))
        ours = bench.figures(dial_choices(by_query, bench.data, bench.w_cost))
        theirs = bench.figures(dial_choices(fixed, bench.data, bench.w_cost, cost_terms=told))
        disturbed = disturbances(context, by_query, bench)
        figures[split] = {"query": asdict(ours), "fixed": asdict(theirs), "disturbed": disturbed}
        for label, one in (("by predicted length", ours), ("fixed a model", theirs)):
            change = (one.mean_reward - ours.mean_reward) / abs(ours.mean_reward)
            rows.append((split, label, f"{one.aiq:.4f}", f"{one.mean_reward:.4f}", f"{change:+.2%}"))
        for label, reward in disturbed.items():
            rows.append(
                (
                    split,
                    label,
                    "",
                    f"{reward:.4f}",
                    f"{(reward - ours.mean_reward) / abs(ours.mean_reward):+.2%}",
                )
            )
        bar = ours.mean_reward - settings.tolerated_loss * abs(ours.mean_reward)
        tolerance[split] = tolerated(disturbed, bar)
    first = next(iter(figures))
    pair = figures[first]
    gain = pair["query"]["mean_reward"] - pair["fixed"]["mean_reward"]
    return Finding(
        NAME,
        "Costs by the query's length",
        "Two policies trained alike (supervised) but for the cost that they see of each call. Below, the lengths that "
        "the first predicts are multiplied by errors: lognormal ones of mean 1 drawn for each prompt and model, or one "
        "for each model, or the same factor on all.",
        [
            Claim(
                "mean reward with costs by predicted length no lower than with fixed prices",
                f"{gain:+.4f} ({gain / abs(pair['fixed']['mean_reward']):+.2%}), AIQ "
                f"{pair['query']['aiq'] - pair['fixed']['aiq']:+.4f}",
                gain >= 0.0,
            ),
            Claim(
                f"errors that cost at most {settings.tolerated_loss:.0%} of the mean reward",
                "; ".join(tolerance[first]) or "none of those tried",
                None,
            ),
        ],
        [Table("Mean reward over the dial", ("split", "costs", "AIQ", "mean reward", "change"), rows)],
        figures,
    )


def disturbances(context: SuiteContext, policy: LlmBanditPolicy, bench: Bench) -> dict[str, float]:
    """Return the mean reward under each error of the predicted lengths."""
    settings = context.settings.query_costs
    n, k = bench.data.scores.shape
    rng = np.random.default_rng([context.seed, 3])

    def reward(log_errors: list[FloatArray]) -> float:
        found = []
        for log_error in log_errors:
            told = cost_terms_with(policy, bench.data, log_error)
            found.append(
                bench.figures(dial_choices(policy, bench.data, bench.w_cost, cost_terms=told)).mean_reward
            )
        return float(np.mean(found))

    result = {}
    for kind, shape in (("each prompt and model", (n, k)), ("each model", (1, k))):
        for s in settings.noise:
            draws = [s * rng.normal(size=shape) - 0.5 * s**2 for _ in range(settings.draws)]
            result[f"error of {kind}, deviation {s:g}"] = reward(draws)
    for factor in settings.bias:
        result[f"all lengths x {factor:g}"] = reward([np.full((1, 1), np.log(factor))])
    return result


def tolerated(disturbed: Mapping[str, float], bar: float) -> list[str]:
    """Return the errors after which the mean reward is still at least ``bar``."""
    return [label for label, reward in disturbed.items() if reward >= bar]
