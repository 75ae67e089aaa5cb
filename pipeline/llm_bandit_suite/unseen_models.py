"""Check 1, models that joined after training: from how few answers does routing over them work?

Some models are held out of everything: trainings, the choice of prompts, the cost scale. Each is then onboarded from
its answers to chosen training prompts, its vector fitted with everything else frozen, and the policy routes over the
whole pool. It is compared with a policy trained on all models, and with one that never hears of the newcomers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import numpy.typing as npt
import ray

from pipeline.cluster import user_error
from pipeline.console import progress
from pipeline.llm_bandit_suite.bench import Benches, Figures
from pipeline.llm_bandit_suite.context import FULL, SuiteContext, llm_bandit
from pipeline.llm_bandit_suite.decisions import dial_choices, translated
from pipeline.llm_bandit_suite.findings import Claim, Finding, Table
from pipeline.llm_bandit_suite.trainings import Trained, Training
from policies.datasets import OutcomeMatrix
from policies.errors import InputError
from policies.llm_bandit.identity_vectors import Arms
from policies.llm_bandit.item_effects import ItemEffects
from policies.llm_bandit.observations import Observations
from policies.llm_bandit.onboarding import fit_new_arm
from policies.llm_bandit.policy import LlmBanditPolicy
from policies.llm_bandit.selection import AskablePrompts, select

NAME = "unseen_models"
RANDOM = "random"
ALL = "all"
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Draw:
    """One onboarding of one set of newcomers.

    Attributes:
        holdout: number of the set.
        selection: strategy, "all" where every prompt was asked.
        n_prompts: prompts asked.
        draw: number of the choice.
        split: on which it was measured.
        figures: of routing over the whole pool.
    """

    holdout: int
    selection: str
    n_prompts: int
    draw: int
    split: str
    figures: Figures


def holdouts(n_models: int, newcomers: int, count: int, seed: int) -> list[tuple[int, ...]]:
    """Return ``count`` sets of held-out columns, without a model in two of them as long as there are models.

    Raises:
        InputError: fewer than two models would be left.
    """
    if n_models - newcomers < 2:
        raise InputError(
            f"evaluate.llm_bandit.unseen_models.newcomers={newcomers}: the pool has {n_models} models; "
            f"allowed: 1 to {n_models - 2}"
        )
    rng = np.random.default_rng([seed, 1])
    order: list[int] = []
    while len(order) < newcomers * count:
        # A set across two permutations could hold a model twice.
        order += rng.permutation(n_models)[: n_models // newcomers * newcomers].tolist()
    return [tuple(sorted(order[i * newcomers : (i + 1) * newcomers])) for i in range(count)]


def trainings(context: SuiteContext) -> list[Training]:
    """Return the policies that this check needs."""
    return [
        context.full(),
        *(_without(context, number, out) for number, out in enumerate(_holdouts(context))),
    ]


def check(context: SuiteContext, trained: Mapping[str, Trained]) -> Finding:
    """Onboard each set of newcomers by every strategy and compare the routing."""
    settings = context.settings.unseen_models
    retrained = llm_bandit(trained[FULL])
    full = {
        split: bench.figures(dial_choices(retrained, bench.data, bench.w_cost))
        for split, bench in context.benches.items()
    }
    draws, ignored = _measured(context, trained)
    split = next(iter(context.benches))
    claims = [_goal_claim(context, draws, full, split)]
    claims += [
        _no_worse(draws, selection, settings.prompts, split)
        for selection in settings.selections
        if selection != RANDOM
    ]
    return Finding(
        NAME,
        "Models that training never saw",
        f"{settings.holdouts} sets of {settings.newcomers} of the {context.n_models} models held out of training, "
        "selection and cost scale, then onboarded from their answers to so many training prompts, "
        f"{settings.draws} draws each; routing over the whole pool.",
        claims,
        [
            _table(draws, ignored, full, settings.prompts, settings.selections, name)
            for name in context.benches
        ],
        {
            "held_out": [[context.train.pool.models[j] for j in out] for out in _holdouts(context)],
            "retrained": {name: asdict(figures) for name, figures in full.items()},
            "without_newcomers": [asdict(draw) for draw in ignored],
            "draws": [asdict(draw) for draw in draws],
        },
    )


def _holdouts(context: SuiteContext) -> list[tuple[int, ...]]:
    settings = context.settings.unseen_models
    return holdouts(context.n_models, settings.newcomers, settings.holdouts, context.seed)


def _without(context: SuiteContext, number: int, out: tuple[int, ...]) -> Training:
    known = tuple(j for j in range(context.n_models) if j not in out)
    return context.training(f"unseen-{number}", known, own_tau=True)


def _measured(context: SuiteContext, trained: Mapping[str, Trained]) -> tuple[list[Draw], list[Draw]]:
    """Return the draws of every set, strategy and size, and the routing without newcomers; a Ray task each size."""
    settings = context.settings.unseen_models
    train, benches = ray.put(context.train), ray.put(dict(context.benches))
    task = ray.remote(num_cpus=1)(onboard_draws)
    running = []
    ignored = []
    for number, out in enumerate(_holdouts(context)):
        base = trained[f"unseen-{number}"]
        known = tuple(j for j in range(context.n_models) if j not in out)
        ignored += [
            Draw(number, "none", 0, 0, split, figures)
            for split, figures in routed(
                llm_bandit(base), base.tau_usd, known, context.benches, context.tau_usd
            ).items()
        ]
        kept = ray.put(base)
        for n_prompts in (*settings.prompts, None):
            jobs = (
                [(s, d) for s in settings.selections for d in range(settings.draws)]
                if n_prompts
                else [(ALL, 0)]
            )
            running.append(
                task.remote(kept, number, out, n_prompts, jobs, train, benches, context.tau_usd, context.seed)
            )
    draws: list[Draw] = []
    with progress(len(running), "onboarding", "task") as bar:
        for one in running:
            try:
                draws += ray.get(one)
            except ray.exceptions.RayTaskError as error:
                raise user_error(error) from None
            bar.update()
    return draws, ignored


def onboard_draws(
    base: Trained,
    holdout: int,
    newcomers: Sequence[int],
    n_prompts: int | None,
    jobs: Sequence[tuple[str, int]],
    train: OutcomeMatrix,
    benches: Benches,
    tau_usd: float,
    seed: int,
) -> list[Draw]:
    """Return the routing after each onboarding of one set of newcomers from ``n_prompts`` answers (None: all).

    Args:
        base: trained without the newcomers.
        holdout: number of the set.
        newcomers: columns of the pool.
        n_prompts: asked.
        jobs: strategies and numbers of draws.
        train: training prompts over the whole pool.
        benches: where it is measured.
        tau_usd: cost scale of the measurement.
        seed: of the draws.
    """
    policy = llm_bandit(base)
    known = [j for j in range(len(train.pool.models)) if j not in newcomers]
    usable = np.flatnonzero(train.observed[:, list(newcomers)].all(axis=1))
    observed = Observations.of(train).rows(usable)
    answers = observed.columns(known)
    prompts = AskablePrompts.of(
        policy.network, policy.arms, observed.embeddings, observed.prompt_tokens, answers=answers
    )
    n = len(usable) if n_prompts is None else n_prompts
    result = []
    for selection, draw in jobs:
        rng = np.random.default_rng([seed, holdout, n, draw])
        rows = np.arange(len(usable)) if selection == ALL else select(selection, prompts, n, rng)
        arms = onboarded(policy, train, observed.rows(rows), prompts.effects.rows(rows), newcomers, known)
        larger = policy.with_arms(arms)
        columns = (*known, *newcomers)
        for split, figures in routed(larger, base.tau_usd, columns, benches, tau_usd).items():
            result.append(Draw(holdout, selection, n, draw, split, figures))
    return result


def onboarded(
    policy: LlmBanditPolicy,
    train: OutcomeMatrix,
    asked: Observations,
    effects: ItemEffects,
    newcomers: Sequence[int],
    known: Sequence[int],
) -> Arms:
    """Return the known models followed by the newcomers, each fitted to its answers to the asked prompts alone."""
    prices = train.pool.prices_per_token_usd[list(known), 1]
    arms = policy.arms
    for j in newcomers:
        new = fit_new_arm(
            policy.network, policy.arms, asked.columns([j]), train.pool.specs[j], prices, effects=effects
        )
        arms = arms.with_arms(new)
    return arms


def routed(
    policy: LlmBanditPolicy,
    policy_tau_usd: float,
    columns: Sequence[int],
    benches: Benches,
    tau_usd: float,
) -> dict[str, Figures]:
    """Return each split's figures of a policy over ``columns`` of the pool, its dial put in terms of ``tau_usd``."""
    result = {}
    for split, bench in benches.items():
        dial = translated(bench.w_cost, tau_usd, policy_tau_usd)
        choices = dial_choices(policy, bench.data, dial)
        result[split] = bench.figures(np.asarray(columns)[choices])
    return result


def difference(draws: Sequence[Draw], selection: str, n_prompts: int, split: str) -> tuple[float, float]:
    """Return the mean AIQ of a strategy less that of random prompts, and the 95 % margin of that difference."""
    means, variances = [], []
    for name in (selection, RANDOM):
        by_set = _by_holdout(draws, name, n_prompts, split)
        means.append(np.mean([values.mean() for values in by_set]))
        # Sets of newcomers are the same on both sides: only the draws within one are chance.
        variances.append(
            np.mean([values.var(ddof=1) / len(values) if len(values) > 1 else 0.0 for values in by_set])
            / len(by_set)
        )
    return float(means[0] - means[1]), float(1.96 * np.sqrt(sum(variances)))


def _by_holdout(
    draws: Sequence[Draw], selection: str, n_prompts: int, split: str
) -> list[npt.NDArray[np.float64]]:
    found = [d for d in draws if (d.selection, d.n_prompts, d.split) == (selection, n_prompts, split)]
    sets = sorted({d.holdout for d in found})
    return [np.array([d.figures.aiq for d in found if d.holdout == number]) for number in sets]


def _goal_claim(
    context: SuiteContext, draws: Sequence[Draw], full: Mapping[str, Figures], split: str
) -> Claim:
    settings = context.settings.unseen_models
    shares = {
        name: float(np.mean([v.mean() for v in _by_holdout(draws, name, settings.goal_prompts, split)]))
        / full[split].aiq
        for name in settings.selections
    }
    worst = min(
        d.figures.aiq / full[split].aiq
        for d in draws
        if d.n_prompts == settings.goal_prompts and d.split == split
    )
    first = settings.selections[0]
    return Claim(
        f"with {settings.goal_prompts} prompts at least {settings.goal_aiq:.0%} of the retrained policy's AIQ",
        ", ".join(f"{name} {share:.1%}" for name, share in shares.items()) + f"; worst draw {worst:.1%}",
        shares[first] >= settings.goal_aiq,
    )


def _no_worse(draws: Sequence[Draw], selection: str, sizes: Sequence[int], split: str) -> Claim:
    if not any(d.selection == RANDOM for d in draws):
        return Claim(f"{selection} no worse than random at every size", "random was not tried", None)
    found = {n: difference(draws, selection, n, split) for n in sizes}
    shown = ", ".join(f"{n}: {gap:+.4f} ± {margin:.4f}" for n, (gap, margin) in found.items())
    return Claim(
        f"{selection} no worse than random at every size (beyond the draws' 95 % margin)",
        f"AIQ less random's at {shown}",
        all(gap + margin >= 0.0 for gap, margin in found.values()),
    )


def _table(
    draws: Sequence[Draw],
    ignored: Sequence[Draw],
    full: Mapping[str, Figures],
    sizes: Sequence[int],
    selections: Sequence[str],
    split: str,
) -> Table:
    def line(label: tuple[str, str], found: Sequence[Figures]) -> tuple[str, ...]:
        mean = replace(
            full[split], **{k: float(np.mean([asdict(f)[k] for f in found])) for k in asdict(full[split])}
        )
        share = mean.aiq / full[split].aiq
        return (
            *label,
            f"{mean.aiq:.4f}",
            f"{share:.1%}",
            f"{mean.mean_reward:.4f}",
            f"{mean.gap_closed:+.3f}",
        )

    rows = [line(("without the newcomers", ""), [d.figures for d in ignored if d.split == split])]
    for n in sizes:
        for selection in selections:
            found = [d.figures for d in draws if (d.selection, d.n_prompts, d.split) == (selection, n, split)]
            rows.append(line((f"{n:,} prompts", selection), found))
    rows.append(
        line(("all prompts", ""), [d.figures for d in draws if d.selection == ALL and d.split == split])
    )
    rows.append(line(("retrained on all models", ""), [full[split]]))
    header = ("asked", "selection", "AIQ", "of retrained", "mean reward", "gap closed")
    return Table(f"Split {split}", header, rows)
