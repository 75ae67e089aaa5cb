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
        release_error=runtime.releases.error,
        upstreams=_upstreams(runtime),
        refusals=_refusals(runtime),
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
    """Return what is in use, then what decided within the window for another reason: pinned, or replaced since."""
    current = runtime.releases.current
    percents = {"champion": 100.0 - current.canary_percent, "canary": current.canary_percent}
    if current.canary is None:
        percents = {"champion": 100.0}
    versions = current.versions()
    found = [
        ReleaseTraffic(
            release=name,
            policy_version=version,
            percent=percents.get(name),
            decisions=decisions.get(version, 0),
            agreement=_agreement(runtime, version) if name == "shadow" else None,
        )
        for name, version in versions.items()
    ]
    found += [
        ReleaseTraffic(
            release="other",
            policy_version=version,
            percent=None,
            decisions=decisions[version],
            agreement=None,
        )
        for version in sorted(decisions.keys() - versions.values())
    ]
    return found


def _agreement(runtime: Runtime, version: str) -> float | None:
    counts = runtime.metrics.totals().counters.get("tradewind_shadow_decisions", {})
    agreed, differed = counts.get((version, "yes"), 0.0), counts.get((version, "no"), 0.0)
    return agreed / (agreed + differed) if agreed + differed else None


def _upstreams(runtime: Runtime) -> list[Upstream]:
    calls = runtime.metrics.totals().counters.get("tradewind_upstream_calls", {})
    found = []
    for spec in runtime.releases.champion.bundle.pool.specs:
        upstream = runtime.gateway.upstreams.of(spec)
        if isinstance(upstream, str):
            continue
        results = {result: round(n) for (model, result), n in calls.items() if model == spec.name}
        found.append(
            Upstream(
                model=spec.name,
                state=upstream.breaker.state,
                retry_after_s=upstream.breaker.retry_after_s,
                calls=sum(results.values()),
                failures={code: n for code, n in results.items() if code != "ok"},
            )
        )
    return found


def _refusals(runtime: Runtime) -> dict[str, int]:
    counts = runtime.metrics.totals().counters.get("tradewind_refusals", {})
    return {code: round(n) for (code,), n in counts.items()}
