"""Compare the off-policy estimators with those of Open Bandit Pipeline on one simulated log.

Open Bandit Pipeline (package ``obp``) pins old versions of its needs, so it is no dependency of this
project. Put it beside the project's own environment, without its needs, and run this script with that folder
on the path:

    python -m pip install --no-deps --target /tmp/obp obp==0.4.1 pyieoe seaborn
    PYTHONPATH=/tmp/obp python -m benchmarks.ope_obp

Prints one JSON line: per estimator both values and their difference; exits 1 when one exceeds 1e-9. Clipped
IPS has no counterpart in that version.
"""

from __future__ import annotations

import json
import sys
import warnings

import numpy as np

from benchmarks.ope_world import draw_log, logging_probabilities, make_world
from policies import ope

TOLERANCE = 1e-9
SWITCH = 5.0


def main() -> int:
    warnings.filterwarnings("ignore")
    try:
        import obp.ope as reference  # type: ignore[import-not-found]
    except ImportError as error:
        print(
            f"Open Bandit Pipeline cannot be imported ({error}); see the head of this file", file=sys.stderr
        )
        return 1
    rng = np.random.default_rng(0)
    world = make_world(rng, n_prompts=4000)
    log = draw_log(world, logging_probabilities(world, "epsilon_greedy"), 3000, rng)
    view = ope.LoggedOutcomes(log.actions, log.propensities, log.scores, log.costs_usd).at_preference(
        0.3, world.tau_usd
    )
    target = rng.dirichlet(np.ones(world.n_models), len(view))
    r_hat = ope.cross_fit_outcomes(
        world.embeddings[log.rows],
        log.actions,
        log.scores,
        log.costs_usd,
        log.rows,
        world.n_models,
        cost_cap_usd=world.tau_usd,
    ).rewards(0.3, world.tau_usd)
    ours = ope.all_estimates(view, target, r_hat, switch=SWITCH)
    theirs = {
        "IPS": reference.InverseProbabilityWeighting(),
        "SNIPS": reference.SelfNormalizedInverseProbabilityWeighting(),
        "DM": reference.DirectMethod(),
        "DR": reference.DoublyRobust(),
        "SNDR": reference.SelfNormalizedDoublyRobust(),
        "Switch-DR": reference.SwitchDoublyRobust(tau=SWITCH),
    }
    arguments = {
        "reward": view.rewards,
        "action": view.actions,
        "pscore": view.propensities,
        "action_dist": target[:, :, None],
        "estimated_rewards_by_reg_model": r_hat[:, :, None],
        "position": np.zeros(len(view), dtype=int),
    }
    rows = {}
    for name, estimator in theirs.items():
        value = float(estimator.estimate_policy_value(**arguments))
        rows[name] = {"ours": ours[name].value, "obp": value, "difference": abs(ours[name].value - value)}
    worst = max(row["difference"] for row in rows.values())
    print(
        json.dumps(
            {"benchmark": "ope_obp", "events": len(view), "estimators": rows, "largest_difference": worst}
        )
    )
    return 0 if worst <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
