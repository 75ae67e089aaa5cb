"""Check 4, any candidates: one policy over random sets of models against a policy trained for each set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np

from pipeline.llm_bandit_suite.bench import Bench, columns_of
from pipeline.llm_bandit_suite.context import FULL, SuiteContext, llm_bandit
from pipeline.llm_bandit_suite.decisions import dial_choices
from pipeline.llm_bandit_suite.findings import Claim, Finding, Table
from pipeline.llm_bandit_suite.trainings import Trained, Training

NAME = "candidate_sets"


def draw_sets(n_models: int, smallest: int, count: int, seed: int) -> list[tuple[int, ...]]:
    """Return random sets of columns, of sizes uniform from ``smallest`` to the whole pool; more sets keep the first."""
    sets = []
    for number in range(count):
        rng = np.random.default_rng([seed, 4, number])
        size = int(rng.integers(min(smallest, n_models), n_models + 1))
        sets.append(tuple(sorted(rng.choice(n_models, size, replace=False).tolist())))
    return sets


def _sets(context: SuiteContext) -> list[tuple[int, ...]]:
    settings = context.settings.candidate_sets
    return draw_sets(context.n_models, settings.smallest, settings.sets, context.seed)


def trainings(context: SuiteContext) -> list[Training]:
    """Return the policy over all models and one for each set, all with the same cost scale."""
    return [
        context.full(),
        *(context.training(f"set-{number:02d}", columns) for number, columns in enumerate(_sets(context))),
    ]


def check(context: SuiteContext, trained: Mapping[str, Trained]) -> Finding:
    """Compare mean rewards set by set."""
    settings = context.settings.candidate_sets
    one = llm_bandit(trained[FULL])
    rows, figures, shares = [], {}, {}
    for split, bench in context.benches.items():
        found: list[dict[str, dict[str, float]]] = []
        names = []
        for number, columns in enumerate(_sets(context)):
            part = Bench.of(
                split,
                columns_of(bench.data, columns),
                columns_of(context.train.complete(), columns),
                context.tau_usd,
            )
            choices = {
                "one": dial_choices(one.with_arms(one.arms.take(list(columns))), part.data, part.w_cost),
                "own": dial_choices(llm_bandit(trained[f"set-{number:02d}"]), part.data, part.w_cost),
            }
            measured = {name: asdict(part.figures(chosen)) for name, chosen in choices.items()}
            names.append([context.train.pool.models[j] for j in columns])
            found.append(measured)
            share = measured["one"]["mean_reward"] / measured["own"]["mean_reward"]
            rows.append(
                (
                    split,
                    str(len(columns)),
                    *(f"{measured[n]['mean_reward']:.4f}" for n in ("one", "own")),
                    f"{share:.1%}",
                )
            )
        figures[split] = [{"models": models, **item} for models, item in zip(names, found, strict=True)]
        totals = [sum(item[name]["mean_reward"] for item in found) for name in ("one", "own")]
        worst = min(item["one"]["mean_reward"] / item["own"]["mean_reward"] for item in found)
        shares[split] = (totals[0] / totals[1], worst)
    first = next(iter(shares))
    share, worst = shares[first]
    others = "".join(f" ({name}: {value[0]:.1%})" for name, value in shares.items() if name != first)
    return Finding(
        NAME,
        "Any set of candidates",
        f"{settings.sets} random sets of {settings.smallest} to {context.n_models} models: the one policy over all "
        "models, restricted to the set, against a policy that was trained on the set's models alone.",
        [
            Claim(
                f"at least {settings.goal_reward:.0%} of the mean reward of policies trained for the sets",
                f"{share:.1%}{others}; worst set {worst:.1%}",
                share >= settings.goal_reward,
            )
        ],
        [Table("Mean reward over the dial", ("split", "models", "one policy", "own policy", "share"), rows)],
        figures,
    )
