"""What the report says in words: the verdict, its figures and the checks, from ``metrics.json`` alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.routers import BEST_SINGLE, ORACLE, POLICY

Metrics = Mapping[str, Any]
PER_1000 = 1000


@dataclass(frozen=True)
class Summary:
    """The top of the page: a short verdict, paragraphs, and (figure, caption) tiles."""

    verdict: str
    paragraphs: tuple[str, ...]
    tiles: tuple[tuple[str, str], ...]


def summary(metrics: Metrics) -> Summary:
    """Answer "is routing worth it for me?" from the measured splits."""
    test, ood = metrics["splits"].get("test"), metrics["splits"].get("ood")
    paragraphs = [_reward_sentence(test, "held-out prompts"), _setting_sentence(test)]
    if ood is not None:
        paragraphs.append(_reward_sentence(ood, "prompts of tasks it has never seen"))
    else:
        paragraphs.append(
            "No task was held out: these figures hold for prompts like those of training. "
            "data.ood_tasks=[...] measures the rest."
        )
    paragraphs.append(_headroom_sentence(test))
    return Summary(verdict(test, ood), tuple(p for p in paragraphs if p), _tiles(test, ood))


def verdict(test: Metrics, ood: Metrics | None) -> str:
    """Return yes, no or not shown, by the interval of the gain over the best single model per preference."""
    answers = {
        "yes": "Yes, on prompts like these",
        "no": "No, a single model does better",
        "not shown": "Not shown, the gain is within the noise",
        "unknown": "Unknown, there are too few prompts or no resamples",
    }
    answer = answers[answer_of(test)]
    return f"{answer}." if ood is None else f"{answer}; on new tasks: {answer_of(ood)}."


def answer_of(split: Metrics) -> str:
    """Return ``yes``, ``no``, ``not shown``, or ``unknown`` where there is no interval."""
    interval = split["routers"][POLICY]["intervals"].get("gain_over_best_single")
    if interval is None:
        return "unknown"
    return "yes" if interval[0] > 0.0 else "no" if interval[1] < 0.0 else "not shown"


def _reward_sentence(split: Metrics, where: str) -> str:
    policy, fixed = split["routers"][POLICY], split["routers"][BEST_SINGLE]
    interval = policy["intervals"].get("gain_over_best_single")
    bounds = f" (95 % interval {interval[0]:+.4f} to {interval[1]:+.4f})" if interval else ""
    gain = policy["gain_over_best_single"]
    gap = policy["gap_closed"]
    share = f"; {gap:.1%} of the way from there to the oracle" if gap is not None and gap > 0 else ""
    return (
        f"On {split['n_prompts']:,} {where} the policy earns a mean reward of {policy['mean_reward']:.4f} over "
        f"the whole dial, the best single model for each preference {fixed['mean_reward']:.4f}: "
        f"{'a gain' if gain >= 0 else 'a loss'} of {abs(gain):.4f}{bounds}{share}."
    )


def _setting_sentence(split: Metrics) -> str:
    policy, fixed = split["routers"][POLICY], split["routers"][BEST_SINGLE]
    chosen = policy["chosen"]
    name = split["best_single_model_per_setting"][0]
    quality, cost = fixed["quality"][0], fixed["cost_usd"][0]
    if chosen is None:
        return ""
    start = f"The best single model by quality is {name}: {quality:.1%} for {_usd(cost)} per 1,000 queries. "
    parts = []
    if chosen["cost_save"] is None:
        parts.append("No dial setting reached its quality on the validation prompts.")
    else:
        at, saved = chosen["cost_save"], policy["cost_save"]
        saving = f"{saved:.0%} less" if saved >= 0 else f"{-saved:.0%} more"
        parts.append(
            f"At w_cost = {at['w_cost']:g} the policy reaches {at['quality']:.1%} for {_usd(at['cost_usd'])}, "
            f"{saving}."
        )
    at, gain = chosen["perf_gain"], policy["perf_gain"]
    change = f"{gain:.1%} better" if gain >= 0 else f"{-gain:.1%} worse"
    parts.append(
        f"Set for quality (w_cost = {at['w_cost']:g}) it reaches {at['quality']:.1%} for {_usd(at['cost_usd'])}, "
        f"{change} in relative terms. Both settings were chosen on validation prompts, not on these."
    )
    return start + " ".join(parts)


def _headroom_sentence(split: Metrics) -> str:
    oracle = split["routers"][ORACLE]
    return (
        f"An oracle that knew every answer in advance would earn {oracle['mean_reward']:.4f}; no router can reach "
        "it, since whether a model gets one prompt right is partly chance."
    )


def _usd(cost_usd: float) -> str:
    return f"{cost_usd * PER_1000:.3g} USD"


def _tiles(test: Metrics, ood: Metrics | None) -> tuple[tuple[str, str], ...]:
    policy = test["routers"][POLICY]

    def shown(value: float | None, form: str) -> str:
        return "n/a" if value is None else f"{value:{form}}"

    tiles = [
        (shown(policy["gap_closed"], "+.1%"), "of the gap between best single model and oracle closed"),
        (
            shown(policy["aiq_over_mix_line"], ".3f"),
            "quality over the cost range (AIQ), relative to the mix line",
        ),
        (shown(policy["cost_save"], "+.0%"), "cost saved at the best single model's validation quality"),
        (shown(policy["perf_gain"], "+.1%"), "quality gained over the best single model"),
    ]
    if ood is not None:
        tiles.append((shown(ood["routers"][POLICY]["gap_closed"], "+.1%"), "gap closed on held-out tasks"))
    return tuple(tiles)


def chart_notes(name: str, part: Metrics) -> str:
    """Return the explanation under a section's title."""
    if name == "ood":
        return "Prompts of tasks of which training saw none: what to expect when your traffic changes."
    return {
        "test": "Up and to the left is better. The dashed line is what a coin flip between two models buys; a "
        "router earns its keep above it.",
        "gain": "The policy's mean reward minus that of the best single model for the same preference, at every "
        "setting of the dial, with 95 % bootstrap intervals over prompts.",
        "dial": "What turning the dial does on held-out prompts. The dashed steps are the best single model for "
        "each preference. Bands are 95 % bootstrap intervals over prompts.",
        "tasks": "Mean reward over the whole dial; tasks right of the dashed line gain from routing. In brackets: "
        "prompts. Lines are 95 % bootstrap intervals; with many tasks, one in twenty misses by chance.",
        "routers": "Mean reward is averaged over w_cost = 0, 0.05 .. 1. Gap closed: 0 is the best single model per "
        "preference, 100 % the oracle. AIQ: area under the cost-quality hull over the cost range of the single "
        "models. PerfGain and CostSave: against the best single model by quality, at the setting chosen on "
        "validation. Max cost rise: largest step in the wrong direction along the dial, relative to the dearest "
        "model.",
        "data": _method(part),
    }[name]


def _method(metrics: Metrics) -> str:
    if "tau_usd" not in metrics:
        return ""
    held = metrics["data"]["ood_tasks"]
    tasks = f" Held-out tasks: {', '.join(held)}." if held else ""
    return (
        f"Reward = (1 - w_cost) score - w_cost min(cost / tau, 1) with tau = {metrics['tau_usd']:.4g} USD per "
        "query, by default the 95th percentile of training costs. Splits go by the hash of the prompt's text; "
        "copies, and paraphrases by data.split.paraphrase_cosine, stay together. Prompts that some model "
        "has not answered are left out of every comparison."
        f"{tasks} The best single model per preference, tau and the settings of PerfGain and CostSave are "
        "fixed on training and validation prompts. The run's folder holds outcomes, prompts and decisions "
        "(tables/) to check all figures."
    )


def data_rows(metrics: Metrics) -> list[tuple[str, str, str, str]]:
    """Return split, prompts, scored prompts and dropped prompts of each split."""
    names = {
        "train": "training",
        "validation": "validation",
        "test": "test (held-out prompts)",
        "ood": "held-out tasks",
    }
    splits = metrics["data"]["splits"]
    return [
        (
            title,
            f"{splits[name]['n_prompts']:,}",
            f"{splits[name]['n_complete']:,}",
            f"{splits[name]['n_dropped_incomplete']:,}",
        )
        for name, title in names.items()
        if name in splits
    ]
