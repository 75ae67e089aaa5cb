"""Where the router loses against the best single model, at one setting of the dial, and on which prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.scoring import Yardstick, mean_intervals
from policies.datasets import OutcomeMatrix
from policies.metrics import rewards_at

EXCERPT_CHARS = 160
TIE = 1e-12


def losses(
    data: OutcomeMatrix,
    decided: npt.NDArray[np.float64],
    yardstick: Yardstick,
    *,
    w_cost: float,
    n_prompts: int,
    texts: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the ``losses`` of one split in ``metrics.json``.

    Args:
        data: n completely observed prompts.
        decided: shape (n_settings, n, K), the policy's one-hot decisions.
        yardstick: the dial and the best single model per setting.
        w_cost: the dial is read at the setting nearest to it.
        n_prompts: most prompts to name.
        texts: prompt id -> text; None leaves the texts out.
    """
    setting = int(np.abs(yardstick.w_cost - w_cost).argmin())
    w = float(yardstick.w_cost[setting])
    reward = rewards_at(data.scores, data.costs_usd, w, yardstick.tau_usd)
    chosen, single = decided[setting].argmax(axis=1), int(yardstick.best_single[setting])
    gain = reward[np.arange(len(data)), chosen] - reward[:, single]
    lower = data.scores[np.arange(len(data)), chosen] < data.scores[:, single]
    # The largest loss first; of equal ones the order is that of the ids, whatever the table's.
    order = np.lexsort((data.prompt_ids, np.round(gain, 9)))
    worst = [int(i) for i in order[:n_prompts] if gain[i] < -TIE]
    return {
        "w_cost": w,
        "best_single_model": data.pool.models[single],
        "mean_gain": float(gain.mean()),
        "n_better": int((gain > TIE).sum()),
        "n_equal": int((np.abs(gain) <= TIE).sum()),
        "n_worse": int((gain < -TIE).sum()),
        "n_lower_score": int((lower & (gain < -TIE)).sum()),
        "tasks": _by_task(data, gain, yardstick),
        "models": _by_model(data, gain, chosen),
        "prompts": [_prompt(data, i, int(chosen[i]), single, float(gain[i]), texts) for i in worst],
    }


def excerpt(text: str) -> str:
    """Return the start of a text on one line, at most ``EXCERPT_CHARS`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= EXCERPT_CHARS else line[: EXCERPT_CHARS - 2].rstrip() + " …"


def _by_task(
    data: OutcomeMatrix, gain: npt.NDArray[np.float64], yardstick: Yardstick
) -> dict[str, dict[str, Any]]:
    tasks = np.where(data.tasks == "", "(no task)", data.tasks)
    return {
        str(task): {
            "n_prompts": int((tasks == task).sum()),
            "share_worse": float((gain[tasks == task] < -TIE).mean()),
            "mean_gain": float(gain[tasks == task].mean()),
            "interval": mean_intervals(gain[tasks == task][:, None], yardstick)[0],
        }
        for task in np.unique(tasks)
    }


def _by_model(
    data: OutcomeMatrix, gain: npt.NDArray[np.float64], chosen: npt.NDArray[np.int64]
) -> dict[str, dict[str, Any]]:
    return {
        data.pool.models[j]: {
            "n_prompts": int((chosen == j).sum()),
            "mean_gain": float(gain[chosen == j].mean()),
        }
        for j in np.unique(chosen)
    }


def _prompt(
    data: OutcomeMatrix, i: int, chosen: int, single: int, gain: float, texts: Mapping[str, str] | None
) -> dict[str, Any]:
    prompt_id = str(data.prompt_ids[i])
    return {
        "prompt_id": prompt_id,
        "task": str(data.tasks[i]) or "(no task)",
        "excerpt": None if texts is None else excerpt(texts[prompt_id]),
        "regret": -gain,
        **_call("called", data, i, chosen),
        **_call("better", data, i, single),
    }


def _call(name: str, data: OutcomeMatrix, i: int, j: int) -> dict[str, Any]:
    return {
        name: data.pool.models[j],
        f"{name}_score": float(data.scores[i, j]),
        f"{name}_cost_usd": float(data.costs_usd[i, j]),
    }
