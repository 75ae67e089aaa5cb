"""What a calculator and a code runner are worth as arms: whom the policy calls, and what that earns.

    python -m pipeline run pool.name=tools policy=llm_bandit run.name=tools
    python -m pipeline train run=runs/models policy=llm_bandit train.tau_usd=...      # the same tables without tools
    python benchmarks/tool_arms.py runs/tools [--models runs/models/policy] [--picture docs/images/tools.png]

Decides the held-out prompts of a run greedily at each setting of the dial: with every arm, with the tools ruled out by
the request, and by a policy that never knew them. Prints one JSON line.
"""

import argparse
import json
import sys
from pathlib import Path

import altair as alt
import numpy as np
import numpy.typing as npt
import polars as pl
import vl_convert

# Before this script's folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.compose import load_config
from pipeline.join import load_outcomes
from pipeline.layout import RunLayout
from pipeline.reporting.style import BLUE, GREY, ORANGE, VERMILLION, dial_axis, styled
from policies.base import Policy, greedy
from policies.bundle import RouterBundle
from policies.datasets import OutcomeMatrix
from policies.preference import dial_grid, preferences_from_w_cost, reward

TASKS = {"arithmetic": "calculator", "code_reading": "code_runner"}
QUOTED = (0.3, 0.5)


def chosen(
    policy: Policy, data: OutcomeMatrix, w_cost: float, allowed: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """Return the column of the data's pool that is called for each prompt, shape (n,)."""
    columns = np.array([data.pool.models.index(model) for model in policy.models])
    w = preferences_from_w_cost(w_cost, len(data))
    mask = np.broadcast_to(allowed[columns], (len(data), len(columns)))
    p = policy.action_probabilities(data.embeddings, w, mask, prompt_tokens=data.prompt_tokens)
    return columns[greedy(p).argmax(axis=1)]


def main() -> None:
    """Print the figures as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--models", type=Path, help="policy folder of a run without the tools")
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    config = load_config(["policy=llm_bandit", "pool.name=tools", f"run.dir={given.run}"])
    layout = RunLayout.of(config)
    bundle = RouterBundle.load(layout.policy)
    data = load_outcomes(layout, config, ("test",)).complete()
    everyone = np.ones(len(data.pool.models), dtype=bool)
    models = np.array([spec.kind == "model" for spec in data.pool.specs])
    routers = {"all arms": (bundle.policy, everyone), "tools ruled out": (bundle.policy, models)}
    if given.models is not None:
        routers["trained without tools"] = (RouterBundle.load(given.models).policy, everyone)
    shares, rewards = [], []
    for w_cost in dial_grid().tolist():
        paid = reward(data.scores, data.costs_usd, preferences_from_w_cost(w_cost, len(data)), bundle.tau_usd)
        for name, (policy, allowed) in routers.items():
            actions = chosen(policy, data, w_cost, allowed)
            rewards.append(
                {"w": w_cost, "router": name, "reward": float(paid[np.arange(len(data)), actions].mean())}
            )
            if name != "all arms":
                continue
            called = np.array(data.pool.models)[actions]
            for task, tool in TASKS.items():
                share = float((called[data.tasks == task] == tool).mean())
                shares.append(
                    {"w": w_cost, "line": f"{task} to the {tool.replace('_', ' ')}", "share": share}
                )
            others = ~np.isin(data.tasks, list(TASKS))
            share = float(np.isin(called[others], list(TASKS.values())).mean())
            shares.append({"w": w_cost, "line": "other prompts to either", "share": share})
    print(
        json.dumps(
            {
                "prompts": len(data),
                "prompts_by_task": {task: int((data.tasks == task).sum()) for task in TASKS},
                "tau_usd": bundle.tau_usd,
                "shares": {
                    w: {s["line"]: round(s["share"], 3) for s in shares if abs(s["w"] - w) < 1e-9}
                    for w in QUOTED
                },
                "mean_reward": {
                    w: {r["router"]: round(r["reward"], 4) for r in rewards if abs(r["w"] - w) < 1e-9}
                    for w in QUOTED
                },
                "mean_reward_over_dial": {
                    name: round(float(np.mean([r["reward"] for r in rewards if r["router"] == name])), 4)
                    for name in routers
                },
            }
        )
    )
    if given.picture is not None:
        panels = alt.hconcat(
            _lines(shares, "share", "line", "Whom it calls", "share of prompts", ".0%"),
            _lines(
                _gains(rewards),
                "gain",
                "router",
                "What the tools earn",
                "mean reward, minus tools ruled out",
                "+.2f",
            ),
            spacing=40,
        ).resolve_scale(color="independent", strokeDash="independent")
        given.picture.write_bytes(vl_convert.vegalite_to_png(json.dumps(styled(panels).to_dict()), scale=1.5))


def _gains(rewards: list[dict]) -> list[dict]:
    base = {row["w"]: row["reward"] for row in rewards if row["router"] == "tools ruled out"}
    return [{**row, "gain": row["reward"] - base[row["w"]]} for row in rewards]


def _lines(rows: list[dict], key: str, by: str, title: str, unit: str, form: str) -> alt.LayerChart:
    names = list(dict.fromkeys(row[by] for row in rows))
    colours, dashes = [BLUE, ORANGE if key == "share" else GREY, VERMILLION], [[1, 0], [6, 3], [2, 2]]
    legend = alt.Legend(
        title=None,
        orient="bottom",
        direction="vertical",
        symbolStrokeWidth=2.2,
        symbolSize=260,
        labelLimit=320,
    )
    chart = alt.Chart(pl.DataFrame(rows)).encode(
        x=dial_axis(),
        y=alt.Y(f"{key}:Q", axis=alt.Axis(title=unit, format=form)),
        color=alt.Color(
            f"{by}:N", sort=names, scale=alt.Scale(domain=names, range=colours[: len(names)]), legend=legend
        ),
        strokeDash=alt.StrokeDash(
            f"{by}:N", sort=names, scale=alt.Scale(domain=names, range=dashes[: len(names)]), legend=legend
        ),
    )
    return alt.layer(chart.mark_line(strokeWidth=2.2)).properties(
        width=330, height=240, title=alt.TitleParams(title, fontSize=12, frame="group")
    )


if __name__ == "__main__":
    main()
