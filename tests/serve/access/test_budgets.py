"""Budgets dealt out in slices: whatever replicas do or fail to do, no budget is overspent."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serve.access.ledger import NANO, Ledger
from serve.access.slices import OverBudgetError, UsdSlices
from serve.control import ControlState, ControlUnavailableError
from serve.settings.access import AccessSettings, KeySettings

DAY_USD, MONTH_USD = 1.0, 2.5
START = datetime(2026, 1, 30, 12, tzinfo=UTC)


def key(**limits: float) -> KeySettings:
    return KeySettings.model_validate({"id": "abcd", "name": "team", "sha256": "0" * 64, **limits})


def access(folder: Path, entry: KeySettings, **changes: float) -> AccessSettings:
    return AccessSettings.model_validate(
        {"keys": (entry,), "state_dir": str(folder), "slice_share": 0.1, **changes}
    )


class Unsteady:
    """The real common state, which loses questions and answers on demand."""

    def __init__(self, state: ControlState) -> None:
        self.state = state
        self.loses: str | None = None

    async def lease_usd(self, *arguments):
        return await self._ask(self.state.lease_usd, *arguments)

    async def report_usd(self, *arguments):
        return await self._ask(self.state.report_usd, *arguments)

    async def left_nano_usd(self, *arguments):
        return await self._ask(self.state.left_nano_usd, *arguments)

    async def _ask(self, method, *arguments):
        if self.loses == "question":
            raise ControlUnavailableError("lost")
        answer = await method(*arguments)
        if self.loses == "answer":
            raise ControlUnavailableError("lost")
        return answer


class Budgets(RuleBasedStateMachine):
    """Replicas come and go, reserve, settle, give back, while the common state restarts and days pass."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.seconds = 0.0
        self.settings = access(
            Path(self.folder.name), key(usd_per_day=DAY_USD, usd_per_month=MONTH_USD), hold_s=5.0
        )
        self.control = Unsteady(self.state())
        self.replicas = [self.replica() for _ in range(3)]
        self.open = []
        self.spent = {}
        self.lost = False

    def teardown(self):
        self.folder.cleanup()

    def state(self) -> ControlState:
        return ControlState(self.settings, now=lambda: START + timedelta(seconds=self.seconds))

    def replica(self) -> UsdSlices:
        return UsdSlices(self.control, 5.0, clock=lambda: self.seconds)

    @rule(index=st.integers(0, 2), usd=st.floats(0.001, 0.6))
    def reserve(self, index, usd):
        nano = round(usd * NANO)
        try:
            day = asyncio.run(self.replicas[index].reserve("abcd", nano))
        except (OverBudgetError, ControlUnavailableError):
            return
        self.open.append((index, day, nano))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), share=st.floats(0.0, 1.0))
    def settle(self, data, share):
        index, day, nano = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        spent = round(nano * share)
        self.replicas[index].settle("abcd", day, nano, spent)
        self.spent[day] = self.spent.get(day, 0) + spent

    @rule(index=st.integers(0, 2))
    def tidy(self, index):
        try:
            asyncio.run(self.replicas[index].tidy())
        except ControlUnavailableError:
            assert self.control.loses

    @rule(index=st.integers(0, 2))
    def kill(self, index):
        self.replicas[index] = self.replica()
        self.lost = True
        for owner, day, nano in [entry for entry in self.open if entry[0] == index]:
            self.open.remove((owner, day, nano))
            # The call was under way: nobody knows, so it counts as made.
            self.spent[day] = self.spent.get(day, 0) + nano

    @rule()
    def restart_control(self):
        self.control.state = self.state()

    @rule(loses=st.sampled_from([None, None, "question", "answer"]))
    def network(self, loses):
        self.control.loses = loses

    @rule(seconds=st.sampled_from([1.0, 6.0, 3_600.0, 86_400.0]))
    def wait(self, seconds):
        self.seconds += seconds

    @invariant()
    def no_budget_is_overspent(self):
        days = dict(self.spent)
        for _, day, nano in self.open:
            days[day] = days.get(day, 0) + nano
        assert all(nano <= DAY_USD * NANO for nano in days.values())
        for month in ("2026-01", "2026-02"):
            assert sum(nano for day, nano in days.items() if day.startswith(month)) <= MONTH_USD * NANO

    @precondition(lambda self: not self.open and not self.lost)
    @rule()
    def what_is_not_spent_comes_back(self):
        self.control.loses = None
        for replica in self.replicas:
            asyncio.run(replica.give_back_all())
        today = START + timedelta(seconds=self.seconds)
        spent_today = self.spent.get(today.date().isoformat(), 0)
        spent_this_month = sum(n for day, n in self.spent.items() if day.startswith(f"{today:%Y-%m}"))
        left = min(DAY_USD * NANO - spent_today, MONTH_USD * NANO - spent_this_month)
        assert asyncio.run(self.control.left_nano_usd("abcd")) <= left
        if not any(replica.in_doubt for replica in self.replicas):
            assert asyncio.run(self.control.left_nano_usd("abcd")) == left


TestBudgets = Budgets.TestCase
TestBudgets.settings = settings(max_examples=30, stateful_step_count=40)


def ledger(path: Path | None, entry: KeySettings, now: Callable[[], datetime] = lambda: START) -> Ledger:
    return Ledger(path, {"abcd": entry}, 0.02, now)


def test_a_slice_is_a_share_of_the_budget_or_what_is_needed():
    book = ledger(None, key(usd_total=1.0))
    assert book.lease("abcd", "a", 1, 1).nano_usd == 0.02 * NANO
    assert book.lease("abcd", "b", 1, NANO // 2).nano_usd == NANO // 2


def test_a_restart_forgets_nothing(tmp_path):
    ledger(tmp_path / "b.sqlite", key(usd_total=1.0)).lease("abcd", "a", 1, NANO * 9 // 10)
    again = ledger(tmp_path / "b.sqlite", key(usd_total=1.0))
    assert again.left_nano_usd("abcd") == NANO // 10
    assert again.lease("abcd", "b", 1, NANO // 5).nano_usd == 0


def test_the_tightest_budget_decides_and_tells_when_it_starts_anew():
    book = ledger(None, key(usd_per_day=0.1, usd_per_month=1.0, usd_total=5.0))
    refused = book.lease("abcd", "a", 1, NANO // 5)
    assert (refused.nano_usd, refused.retry_after_s) == (0, 12 * 3600)


def test_a_total_budget_never_starts_anew():
    assert ledger(None, key(usd_total=0.1)).lease("abcd", "a", 1, NANO).retry_after_s is None


def test_a_new_day_has_its_own_budget():
    time = [START]
    book = ledger(None, key(usd_per_day=1.0), lambda: time[0])
    book.lease("abcd", "a", 1, NANO)
    time[0] += timedelta(hours=13)
    assert book.left_nano_usd("abcd") == NANO


def test_a_late_report_is_ignored():
    book = ledger(None, key(usd_total=1.0))
    book.lease("abcd", "a", 1, NANO // 10)
    book.lease("abcd", "a", 3, NANO // 10)
    book.report("abcd", "2026-01-30", "a", 2, 0)
    assert book.left_nano_usd("abcd") == NANO * 8 // 10


def test_an_overdraft_is_counted(tmp_path):
    state = ControlState(access(tmp_path, key(usd_total=1.0)))
    slices = UsdSlices(state, hold_s=5.0)

    async def overdraw():
        day = await slices.reserve("abcd", NANO // 10)
        slices.settle("abcd", day, NANO // 10, NANO * 2)
        await slices.tidy()
        return await state.left_nano_usd("abcd")

    assert asyncio.run(overdraw()) == -NANO


def test_money_at_hand_is_spent_while_the_common_state_is_away(tmp_path):
    control = Unsteady(ControlState(access(tmp_path, key(usd_total=1.0))))
    slices = UsdSlices(control, hold_s=5.0)

    async def spend() -> int:
        await slices.reserve("abcd", NANO // 100)
        control.loses = "question"
        paid = 1
        while paid < 1000:
            try:
                await slices.reserve("abcd", NANO // 100)
            except ControlUnavailableError:
                break
            paid += 1
        return paid

    assert asyncio.run(spend()) == 10


def test_many_at_once_get_all_of_the_budget_and_no_more(tmp_path):
    state = ControlState(access(tmp_path, key(usd_total=1.0)))
    replicas = [UsdSlices(state, hold_s=5.0) for _ in range(2)]

    async def ask(index: int) -> bool:
        try:
            await replicas[index % 2].reserve("abcd", NANO // 100)
        except OverBudgetError:
            return False
        return True

    async def crowd() -> int:
        return sum(await asyncio.gather(*(ask(index) for index in range(300))))

    # A last cent may lie with the replica that nobody asks any more.
    assert asyncio.run(crowd()) == pytest.approx(100, abs=1)
