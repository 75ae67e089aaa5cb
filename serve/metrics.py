"""Figures of one replica for Prometheus, handed to Ray's exporter, which adds application and replica."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

from ray.serve import metrics

from serve.journal.records import DecisionRecord
from serve.tracing import Tracing

Labels = tuple[str, ...]

SECONDS = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0]
"""Buckets from a decision in process to a long answer of an upstream."""

MAX_PENDING = 100_000
"""Observations kept between two flushes; beyond them the oldest go, rather than memory."""

PORTION = 32
"""Observations handed over at a time, about half a millisecond."""


@dataclass(frozen=True)
class Instrument:
    """One metric.

    Attributes:
        name: as Prometheus shows it, after Ray's prefix ``ray_`` and with ``_total`` added to counters.
        kind: of Prometheus.
        help: what it counts, with its unit.
        labels: names of its labels.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: Labels = ()

    @property
    def exported(self) -> str:
        """Name under which Prometheus finds it; a histogram has ``_bucket``, ``_sum`` and ``_count``."""
        return f"ray_{self.name}_total" if self.kind == "counter" else f"ray_{self.name}"


INSTRUMENTS = (
    Instrument(
        "tradewind_decisions", "counter", "Decisions", ("model", "policy_version", "release", "retry")
    ),
    Instrument("tradewind_expected_cost_usd", "counter", "Expected USD of the chosen models", ("model",)),
    Instrument(
        "tradewind_best_cost_usd", "counter", "Expected USD had the always-best model been called", ()
    ),
    Instrument(
        "tradewind_propensity_floor_hits", "counter", "Decisions below the propensity floor", ("model",)
    ),
    Instrument("tradewind_outcomes", "counter", "Outcomes reported, by what became of them", ("status",)),
    Instrument("tradewind_spent_usd", "counter", "USD that upstream calls cost", ("model",)),
    Instrument("tradewind_upstream_calls", "counter", "Calls to upstreams", ("model", "result")),
    Instrument("tradewind_refusals", "counter", "Requests refused or failed, by error code", ("code",)),
    Instrument("tradewind_shadow_decisions", "counter", "Shadow decisions", ("policy_version", "agrees")),
    Instrument(
        "tradewind_shadow_cost_usd", "counter", "Expected USD of the shadow's choices", ("policy_version",)
    ),
    Instrument("tradewind_reloads", "counter", "Attempts to load a release", ("result",)),
    Instrument("tradewind_embeddings", "counter", "Prompts embedded, by whether remembered", ("cache",)),
    Instrument("tradewind_stage_seconds", "histogram", "Seconds by stage of a request", ("stage",)),
    Instrument("tradewind_upstream_seconds", "histogram", "Seconds of upstream calls", ("model",)),
    Instrument("tradewind_in_flight", "gauge", "Requests that are being answered"),
    Instrument("tradewind_release", "gauge", "1 for each release in use", ("release", "policy_version")),
    Instrument("tradewind_upstream_open", "gauge", "1 while the circuit breaker keeps calls off", ("model",)),
    Instrument("tradewind_journal_backlog", "gauge", "Records that are not exported yet"),
)

_KINDS = {"counter": metrics.Counter, "gauge": metrics.Gauge}


@dataclass(frozen=True)
class Totals:
    """Counters since the replica started and the gauges' last values, by metric name and label values."""

    counters: dict[str, dict[Labels, float]] = field(default_factory=dict)
    gauges: dict[str, dict[Labels, float]] = field(default_factory=dict)


class Metrics:
    """Collects figures; costs a request dictionary updates only.

    Handing one figure to Ray takes about 10 to 20 us, more than a whole decision may, so counters are summed here
    and handed over every ``flush_s`` together with the histograms' observations. Not thread-safe: used from one
    event loop. Works outside a Serve replica too, where figures stay in :meth:`totals`.

    Args:
        propensity_floor: decisions of a smaller propensity are counted.

    Attributes:
        probes: called before each flush, to tell what is counted elsewhere.
        tracing: makes spans of what is timed, None when traces are off.
    """

    def __init__(self, propensity_floor: float = 0.01) -> None:
        self._floor = propensity_floor
        self.probes: list[Callable[[], None]] = []
        self.tracing: Tracing | None = None
        self._totals: dict[str, defaultdict[Labels, float]] = {
            i.name: defaultdict(float) for i in INSTRUMENTS if i.kind == "counter"
        }
        self._flushed: dict[str, defaultdict[Labels, float]] = {n: defaultdict(float) for n in self._totals}
        self._gauges: dict[str, dict[Labels, float]] = {i.name: {} for i in INSTRUMENTS if i.kind == "gauge"}
        self._observed: deque[tuple[str, Labels, float]] = deque(maxlen=MAX_PENDING)
        self._labels = {i.name: i.labels for i in INSTRUMENTS}
        # Made here and not at import: in a replica they take its application, deployment and id as labels.
        self._exported = {i.name: _exported(i) for i in INSTRUMENTS}

    def stage(self, name: str, seconds: float) -> None:
        """Time one stage of a request: ``embed``, ``decide``, ``journal``, ``first_byte``, ``request`` ..."""
        self._observed.append(("tradewind_stage_seconds", (name,), seconds))
        # The request's own span is the door's.
        if self.tracing is not None and name != "request":
            self.tracing.stage(name, seconds)

    def decided(self, record: DecisionRecord) -> None:
        """Count a decision, its expected cost and what it saves."""
        retry = "yes" if record.retry_of else "no"
        labels = (record.model, record.policy_version, record.release, retry)
        self._totals["tradewind_decisions"][labels] += 1
        self._totals["tradewind_expected_cost_usd"][(record.model,)] += record.expected_cost_usd
        self._totals["tradewind_best_cost_usd"][()] += record.best_cost_usd
        if record.propensity < self._floor:
            self._totals["tradewind_propensity_floor_hits"][(record.model,)] += 1

    def outcome(self, status: str) -> None:
        """Count a reported outcome by its :data:`serve.journal.records.OutcomeStatus`."""
        self._totals["tradewind_outcomes"][(status,)] += 1

    def upstream(self, model: str, result: str, seconds: float) -> None:
        """Count and time a call to an upstream; ``result`` is ``ok`` or a short error code."""
        self._totals["tradewind_upstream_calls"][(model, result)] += 1
        self._observed.append(("tradewind_upstream_seconds", (model,), seconds))
        if self.tracing is not None:
            self.tracing.stage("upstream", seconds, {"model": model, "result": result})

    def spent(self, model: str, usd: float) -> None:
        """Add what an upstream call cost."""
        self._totals["tradewind_spent_usd"][(model,)] += usd

    def refused(self, code: str) -> None:
        """Count a request that was refused or failed, by the error's code."""
        self._totals["tradewind_refusals"][(code,)] += 1

    def shadowed(self, policy_version: str, agrees: bool, cost_usd: float) -> None:
        """Count a shadow decision, whether it chose the same model, and its expected cost."""
        self._totals["tradewind_shadow_decisions"][(policy_version, "yes" if agrees else "no")] += 1
        self._totals["tradewind_shadow_cost_usd"][(policy_version,)] += cost_usd

    def shadow_failed(self, policy_version: str) -> None:
        """Count a shadow decision that could not be made."""
        self._totals["tradewind_shadow_decisions"][(policy_version, "failed")] += 1

    def reloaded(self, result: str) -> None:
        """Count an attempt to load a release: ``ok`` or ``failed``."""
        self._totals["tradewind_reloads"][(result,)] += 1

    def set_embeddings(self, hits: int, misses: int) -> None:
        """Tell the embedding cache's counts so far."""
        self._totals["tradewind_embeddings"][("hit",)] = hits
        self._totals["tradewind_embeddings"][("miss",)] = misses

    def set_in_flight(self, requests: int) -> None:
        """Tell how many requests are being answered."""
        self._gauges["tradewind_in_flight"][()] = requests

    def set_releases(self, versions: dict[str, str]) -> None:
        """Tell which policy version each release (``champion``, ``canary``, ``shadow``) has."""
        gauges = self._gauges["tradewind_release"]
        for labels in gauges:
            gauges[labels] = 0.0
        gauges.update(dict.fromkeys(versions.items(), 1.0))

    def set_upstream_open(self, model: str, is_open: bool) -> None:
        """Tell whether an upstream's circuit breaker keeps calls off."""
        self._gauges["tradewind_upstream_open"][(model,)] = float(is_open)

    def set_journal_backlog(self, records: int) -> None:
        """Tell how many records of the journal are not exported yet."""
        self._gauges["tradewind_journal_backlog"][()] = records

    def totals(self) -> Totals:
        """Return the counters since the start and the gauges' last values, of this replica."""
        return Totals(
            {name: dict(values) for name, values in self._totals.items() if values},
            {name: dict(values) for name, values in self._gauges.items() if values},
        )

    def flush(self) -> None:
        """Hand what was collected since the last flush to Ray's exporter."""
        for probe in self.probes:
            probe()
        for name, totals in self._totals.items():
            flushed = self._flushed[name]
            for labels, total in totals.items():
                if total > flushed[labels]:
                    self._exported[name].inc(total - flushed[labels], self._tags(name, labels))
                    flushed[labels] = total
        for name, values in self._gauges.items():
            for labels, value in values.items():
                self._exported[name].set(value, self._tags(name, labels))
        self._hand_over(len(self._observed))

    @asynccontextmanager
    async def flushing(self, every_s: float) -> AsyncIterator[None]:
        """Flush in the background, and once more on leaving."""
        task = asyncio.create_task(self._keep_flushing(every_s))
        try:
            yield
        finally:
            task.cancel()
            self.flush()

    async def _keep_flushing(self, every_s: float) -> None:
        # Observations go in small portions: no request should wait for all of them.
        while True:
            await asyncio.sleep(every_s)
            while self._observed:
                self._hand_over(PORTION)
                await asyncio.sleep(0)
            self.flush()

    def _hand_over(self, at_most: int) -> None:
        for _ in range(min(at_most, len(self._observed))):
            name, labels, seconds = self._observed.popleft()
            self._exported[name].observe(seconds, self._tags(name, labels))

    def _tags(self, name: str, labels: Labels) -> dict[str, str]:
        return dict(zip(self._labels[name], labels, strict=True))


def _exported(instrument: Instrument) -> metrics.Counter | metrics.Gauge | metrics.Histogram:
    if instrument.kind == "histogram":
        return metrics.Histogram(
            instrument.name, instrument.help, boundaries=SECONDS, tag_keys=instrument.labels
        )
    return _KINDS[instrument.kind](instrument.name, instrument.help, tag_keys=instrument.labels)
