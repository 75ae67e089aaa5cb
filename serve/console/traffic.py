"""Live traffic as the console shows it, from the journal, the releases and the upstreams' breakers."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime

from serve.console.answers import ReleaseTraffic, Step, TrafficAnswer, Upstream
from serve.journal.traffic import BUCKET_S
from serve.runtime import Runtime

LONGEST_WINDOW_S = 7 * 86_400.0
MOST_STEPS = 60


def traffic_answer(runtime: Runtime, window_s: float) -> TrafficAnswer:
    """Return the traffic of the last ``window_s`` seconds. Reads the journal: call it off the event loop."""
    found = runtime.journal.traffic(window_s)
    return TrafficAnswer(
        window_s=window_s,
        shared=runtime.settings.log.directory is not None,
        decisions=found.decisions,
        cost_usd=found.cost_usd,
        known_costs=found.known_costs,
        always_best_cost_usd=found.always_best_cost_usd,
        savings_usd=found.savings_usd,
        feedback=found.feedback,
        mean_score=found.mean_score,
        errors=found.errors,
        by_model=found.by_model,
        timeline=_timeline(runtime, window_s),
        releases=_releases(runtime, found.by_version),
        upstreams=_upstreams(runtime),
    )


def _timeline(runtime: Runtime, window_s: float) -> list[Step]:
    """Return the window in at most ``MOST_STEPS`` steps of whole minutes, the empty ones included."""
    minutes = math.ceil(window_s / BUCKET_S)
    width = math.ceil(minutes / MOST_STEPS)
    last = int(time.time()) // (BUCKET_S * width)
    first = last - math.ceil(minutes / width) + 1
    rows = runtime.journal.reader.execute(
        "SELECT bucket / ?, SUM(decisions), SUM(errors) FROM traffic WHERE bucket >= ? GROUP BY 1",
        (width, first * width),
    ).fetchall()
    counts = {step: (round(decisions), round(errors)) for step, decisions, errors in rows}
    steps = []
    for step in range(first, last + 1):
        decisions, errors = counts.get(step, (0, 0))
        start = datetime.fromtimestamp(step * width * BUCKET_S, UTC)
        steps.append(Step(start=start.isoformat(), decisions=decisions, errors=errors))
    return steps


def _releases(runtime: Runtime, decisions: dict[str, int]) -> list[ReleaseTraffic]:
    version = runtime.releases.champion.bundle.policy_version
    found = [
        ReleaseTraffic(
            release="champion", policy_version=version, percent=100.0, decisions=decisions.get(version, 0)
        )
    ]
    earlier = [name for name in decisions if name != version]
    found += [
        ReleaseTraffic(release="earlier", policy_version=name, percent=None, decisions=decisions[name])
        for name in sorted(earlier)
    ]
    return found


def _upstreams(runtime: Runtime) -> list[Upstream]:
    return []
