"""The gateway: choose a model, call it, and choose again while nothing has been answered yet."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

from policies.pool import ModelPool, ModelSpec
from serve.access.access import Access, Reservation
from serve.access.caller import Caller
from serve.api.errors import ApiError
from serve.decider import NoEligibleModelError
from serve.gateway.answers import Usage
from serve.gateway.backoff import backoff_s
from serve.gateway.client import Stream, UpstreamClient, Whole
from serve.gateway.faults import CONTEXT_CODE, Fault, UpstreamFailedError
from serve.gateway.request import Call
from serve.gateway.upstreams import Upstream, Upstreams
from serve.journal.journal import Journal
from serve.journal.records import Outcome
from serve.metrics import Metrics
from serve.question import Question
from serve.service import Routed, RoutingService
from serve.settings.gateway import GatewaySettings

log = logging.getLogger(__name__)

CLIENT_LEFT = "client_disconnected"
BUDGET_EXCEEDED = "budget_exceeded"


@dataclass(frozen=True)
class Delivery:
    """An answer that can be given to the caller; must be brought to :meth:`Gateway.finish`.

    Attributes:
        routed: the decision for the model that answers.
        upstream: what answers.
        answer: complete, or a stream with its first event.
        reservation: money set aside for it.
        started: when the upstream was called, monotonic seconds.
    """

    routed: Routed
    upstream: Upstream
    answer: Whole | Stream
    reservation: Reservation
    started: float


class Gateway:
    """Answers chat and completion requests with the models of the pool.

    Args:
        settings: of the gateway.
        upstreams: where the models are.
        service: decides.
        journal: where outcomes go.
        metrics: figures for Prometheus.
        access: budgets.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        upstreams: Upstreams,
        service: RoutingService,
        journal: Journal,
        metrics: Metrics,
        access: Access,
    ) -> None:
        self.settings = settings
        self.upstreams = upstreams
        self._service = service
        self._journal = journal
        self._metrics = metrics
        self._access = access
        self._client = UpstreamClient(settings)
        self._pending: set[asyncio.Task[Any]] = set()

    @classmethod
    def open(
        cls,
        settings: GatewaySettings,
        pool: ModelPool,
        service: RoutingService,
        journal: Journal,
        metrics: Metrics,
        access: Access,
    ) -> Self:
        """Return a gateway to the pool's upstreams, whose health the service takes into account from now on.

        Raises:
            InputError: the settings name a model that the pool does not have, or a key that is not there.
        """
        upstreams = Upstreams(settings)
        upstreams.check(pool)
        service.unhealthy = upstreams.resting
        return cls(settings, upstreams, service, journal, metrics, access)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep connections open; on leaving, outcomes that are under way are handed to the journal."""
        async with self._client.running():
            try:
                yield
            finally:
                if self._pending:
                    await asyncio.wait(self._pending)

    async def answer(self, call: Call, question: Question, caller: Caller) -> Delivery:
        """Return an answer, from another model when the chosen one fails before its first byte.

        Args:
            call: the request.
            question: what to ask the router; ``constraints.models`` of one model means that model and no other.
            caller: whose request it is.

        Raises:
            ApiError: there is no answer; says why.
        """
        deadline = asyncio.get_running_loop().time() + self.settings.total_timeout_s
        failure: ApiError | None = None
        for _ in range(self.settings.max_models):
            try:
                routed = await self._route(question, call, caller)
            except NoEligibleModelError as error:
                raise failure or self._ineligible(error) from None
            model = routed.decision.model
            started = time.monotonic()
            try:
                reservation = await self._reserve(routed, call, caller)
            except ApiError as error:
                if error.body.code != BUDGET_EXCEEDED:
                    raise
                # Others spent what was left since it was asked for; what is left now may do for a cheaper model.
                failure, question = error, _without(question, routed)
                continue
            upstream = self.upstreams.of(spec_of(routed))
            try:
                if isinstance(upstream, str):
                    raise UpstreamFailedError(Fault("open", counts=False))
                answer = await self._call(upstream, call, deadline)
            except UpstreamFailedError as error:
                self._failed(routed, reservation, error.fault.code, time.monotonic() - started)
                failure = error.fault.error(model)
                if not error.fault.elsewhere:
                    raise failure from None
                question = _without(question, routed)
            except BaseException:
                # The upstream may have worked for nothing, and will send its bill.
                expected_usd = routed.decision.expected_costs_usd[model]
                self._failed(routed, reservation, CLIENT_LEFT, time.monotonic() - started, expected_usd)
                raise
            else:
                self._metrics.stage("first_byte", time.monotonic() - started)
                return Delivery(routed, upstream, answer, reservation, started)
        assert failure is not None
        raise failure

    def finish(self, delivery: Delivery, error: str | None = None) -> None:
        """Tell the journal, the figures and the budgets what came of an answer.

        Args:
            delivery: what was answered.
            error: why it did not come to its end, a short code.
        """
        answer = delivery.answer
        usage = answer.usage if isinstance(answer, Whole) else answer.events.usage
        spec = spec_of(delivery.routed)
        cost_usd = _cost_usd(spec, usage)
        latency_s = time.monotonic() - delivery.started
        outcome = Outcome(
            cost_usd=cost_usd,
            prompt_tokens=usage.prompt_tokens if usage else None,
            completion_tokens=usage.completion_tokens if usage else None,
            latency_s=latency_s,
            error=error,
        )
        self._metrics.upstream(spec.name, error or "ok", latency_s)
        if error is None:
            self._service.latencies.observe(spec.name, latency_s)
        if cost_usd is not None:
            self._metrics.spent(spec.name, cost_usd)
        # Something was generated and will be on the bill, even where no count came with it.
        expected_usd = delivery.routed.decision.expected_costs_usd[spec.name]
        self._access.settle(delivery.reservation, expected_usd if cost_usd is None else cost_usd)
        self._record(delivery.routed.decision_id, outcome)

    def cut(self, delivery: Delivery) -> None:
        """Count a stream that broke against its upstream."""
        delivery.upstream.breaker.failed()
        self._show(delivery.upstream)

    async def _call(self, upstream: Upstream, call: Call, deadline: float) -> Whole | Stream:
        """Return an upstream's answer, asked several times if need be.

        Raises:
            UpstreamFailedError: the last failure.
        """
        loop = asyncio.get_running_loop()
        breaker = upstream.breaker
        attempt = 1
        while True:
            if not breaker.acquire():
                raise UpstreamFailedError(Fault("open", counts=False, wait_s=breaker.retry_after_s))
            healed = breaker.state != "closed"
            try:
                answer = await self._client.send(upstream, call, deadline)
            except UpstreamFailedError as error:
                fault = error.fault
                wait_s = max(backoff_s(attempt, self.settings.backoff_s), fault.wait_s or 0.0)
                too_long = (fault.wait_s or 0.0) > self.settings.max_wait_s
                if fault.counts:
                    breaker.failed(fault.wait_s if too_long else None)
                else:
                    breaker.succeeded()
                self._show(upstream)
                log.warning("model %s, attempt %d: %s", upstream.name, attempt, fault.code)
                late = loop.time() + wait_s >= deadline
                if not fault.again or too_long or late or attempt >= self.settings.attempts:
                    raise
            except BaseException:
                breaker.abandoned()
                raise
            else:
                breaker.succeeded()
                if healed:
                    self._show(upstream)
                return answer
            await asyncio.sleep(wait_s)
            attempt += 1

    async def _route(self, question: Question, call: Call, caller: Caller) -> Routed:
        """Return a choice among the models that the caller's budgets can pay for at their worst.

        Raises:
            ApiError: 429, they can pay for none.
            NoEligibleModelError: every model is ruled out.
        """
        left_usd = await self._access.remaining_usd(caller)
        if left_usd is None:
            return await self._service.route(question)
        try:
            return await self._service.route(_within(question, left_usd, self._longest(call)))
        except NoEligibleModelError as error:
            if error.least_usd is None:
                raise
            least_usd = error.least_usd
        # Says when to come again; or more is left by now than was known.
        self._access.settle(await self._access.reserve(caller, least_usd), 0.0)
        return await self._service.route(_within(question, least_usd, self._longest(call)))

    def _longest(self, call: Call) -> int:
        return call.completion_tokens or self.settings.reserve_tokens

    async def _reserve(self, routed: Routed, call: Call, caller: Caller) -> Reservation:
        worst_usd = spec_of(routed).cost_usd(call.prompt_tokens, self._longest(call))
        try:
            return await self._access.reserve(caller, worst_usd)
        except BaseException:
            self._record(routed.decision_id, Outcome(error="not_admitted"))
            raise

    def _failed(
        self, routed: Routed, reservation: Reservation, code: str, seconds: float, usd: float = 0.0
    ) -> None:
        self._access.settle(reservation, usd)
        self._metrics.upstream(routed.decision.model, code, seconds)
        self._record(routed.decision_id, Outcome(latency_s=seconds, error=code))

    def _show(self, upstream: Upstream) -> None:
        self._metrics.set_upstream_open(upstream.name, not upstream.breaker.allows)

    def _record(self, decision_id: str, outcome: Outcome) -> None:
        """Hand an outcome to the journal behind the answer's back: nobody waits for it."""
        self._background(self._journal.record_outcome(decision_id, outcome, "gateway"))

    def _background(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.ensure_future(work)
        self._pending.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._pending.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("an outcome was not recorded: %s", error)

    def _ineligible(self, error: NoEligibleModelError) -> ApiError:
        waits = [
            upstream.breaker.retry_after_s
            for upstream in self.upstreams.known()
            if upstream.name in error.reasons and not upstream.breaker.allows
        ]
        if waits:
            headers = {"Retry-After": str(max(math.ceil(min(waits)), 1))}
            return ApiError(503, "no_healthy_model", str(error), headers=headers)
        if all("context window" in why for why in error.reasons.values()):
            return ApiError(400, CONTEXT_CODE, str(error), "messages")
        return ApiError(400, "no_eligible_model", str(error), "model")


def spec_of(routed: Routed) -> ModelSpec:
    """Return the chosen model."""
    return routed.release.decider.specs[routed.decision.model]


def _without(question: Question, failed: Routed) -> Question:
    """Return the question that is asked in place of one whose model failed."""
    constraints = question.constraints
    constraints = replace(constraints, exclude=(*constraints.exclude, failed.decision.model))
    return replace(question, constraints=constraints, retry_of=failed.decision_id)


def _within(question: Question, budget_usd: float, longest_tokens: int) -> Question:
    constraints = replace(question.constraints, budget_usd=budget_usd, worst_completion_tokens=longest_tokens)
    return replace(question, constraints=constraints)


def _cost_usd(spec: ModelSpec, usage: Usage | None) -> float | None:
    if usage is None or usage.prompt_tokens is None or usage.completion_tokens is None:
        return None
    return spec.cost_usd(usage.prompt_tokens, usage.completion_tokens)
