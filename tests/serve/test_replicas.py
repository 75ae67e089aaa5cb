"""Two replicas on Ray Serve: one rate limit, one release, one budget, and their figures."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import torch

from policies.bundle import RouterBundle
from serve.access.keys import new_key
from serve.access.ledger import NANO
from serve.access.slices import OverBudgetError, UsdSlices
from serve.control import ControlDeployment, ControlUnavailableError, RemoteControl
from serve.metrics import INSTRUMENTS
from serve.settings.access import AccessSettings

ASK = {"prompt": "Which planet is the largest?", "w_cost": 0.5}
USUAL, LIMITED, BOSS = new_key("usual"), new_key("limited"), new_key("boss", ("admin",))


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def until(found: Callable[[], bool], seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found():
            return True
        time.sleep(0.2)
    return False


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, bundle_dir: Path) -> Path:
    folder = tmp_path_factory.mktemp("shared") / "policy"
    shutil.copytree(bundle_dir, folder)
    return folder


@pytest.fixture(scope="module")
def client(endpoint: str, served: Path) -> Iterator[httpx.Client]:
    from ray import serve

    from serve.app import build

    limited = {**LIMITED[1].model_dump(), "requests_per_s": 0.001, "burst": 20}
    keys = [USUAL[1].model_dump(), limited, BOSS[1].model_dump()]
    arguments = {
        "bundle": str(served),
        "num_replicas": 2,
        "num_cpus_per_replica": 0.25,
        "access": {"keys": keys},
        "metrics": {"flush_s": 0.2},
    }
    serve.run(build(arguments), name="shared", route_prefix="/shared")
    with httpx.Client(base_url=f"{endpoint}/shared", timeout=60.0) as opened:
        yield opened
    serve.delete("shared")


def test_a_burst_is_one_burst_for_both_replicas(client):
    def ask(_: int) -> int:
        return client.post("/v1/route", json=ASK, headers=bearer(LIMITED[0])).status_code

    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(ask, range(60)))
    assert set(codes) == {200, 429}
    # Some of the burst may lie with a replica that got no more of the requests.
    assert 15 <= codes.count(200) <= 20


def replicas(client: httpx.Client) -> list[str]:
    told = client.get("/admin/status", headers=bearer(BOSS[0])).json()["replicas"]
    return [entry["releases"]["champion"] for entry in told.values()]


def test_a_reload_told_to_one_replica_reaches_both(client, served):
    assert until(lambda: len(replicas(client)) == 2)
    changed = RouterBundle.load(served)
    with torch.no_grad():
        for parameter in changed.policy.network.parameters():
            parameter.mul_(0.5)
    version = changed.save(served)
    answer = client.post("/admin/reload", headers=bearer(BOSS[0]))
    assert answer.json()["releases"]["champion"] == version
    assert until(lambda: replicas(client) == [version, version])


def test_figures_of_a_replica_reach_prometheus(client, endpoint):
    import ray

    client.post("/v1/route", json=ASK, headers=bearer(USUAL[0]))
    client.post("/v1/route", json={}, headers=bearer(USUAL[0]))
    node = ray.nodes()[0]
    source = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"

    def lines(name: str) -> list[str]:
        text = httpx.get(source, timeout=30.0).text
        # Other applications of the session have figures of the same names.
        found = (line for line in text.splitlines() if line.startswith(name + "{"))
        return [line for line in found if 'application="shared"' in line]

    expected = [
        "ray_tradewind_decisions_total",
        "ray_tradewind_expected_cost_usd_total",
        "ray_tradewind_best_cost_usd_total",
        "ray_tradewind_refusals_total",
        "ray_tradewind_stage_seconds_bucket",
        "ray_tradewind_in_flight",
        "ray_tradewind_release",
    ]
    known = {instrument.exported for instrument in INSTRUMENTS}
    assert {name.removesuffix("_bucket") for name in expected} <= known
    missing = [name for name in expected if not until(lambda name=name: bool(lines(name)))]
    assert missing == []
    decisions = lines("ray_tradewind_decisions_total")
    assert any('release="champion"' in line for line in decisions)
    stages = "".join(lines("ray_tradewind_stage_seconds_bucket"))
    assert all(f'stage="{stage}"' in stages for stage in ("embed", "decide", "request"))


@pytest.fixture
def shared_budget(endpoint, tmp_path):
    from ray import serve

    entry = new_key("team")[1].model_copy(update={"usd_total": 1.0})
    settings = AccessSettings(keys=(entry,), state_dir=str(tmp_path), slice_share=0.05)
    deployment = serve.deployment(name="control", ray_actor_options={"num_cpus": 0})(ControlDeployment)
    handle = serve.run(deployment.bind(settings.model_dump()), name="budget", route_prefix=None)
    yield entry.id, RemoteControl(handle, 60.0)
    serve.delete("budget")


def test_two_replicas_spend_one_budget_and_a_restart_forgets_nothing(shared_budget):
    import ray

    key_id, control = shared_budget

    async def spend(slices: UsdSlices, asks: int) -> int:
        paid = 0
        for _ in range(asks):
            try:
                day = await slices.reserve(key_id, NANO // 100)
            except OverBudgetError:
                break
            slices.settle(key_id, day, NANO // 100, NANO // 100)
            paid += 1
        return paid

    async def story() -> tuple[int, int]:
        first, second = UsdSlices(control, 1.0), UsdSlices(control, 1.0)
        half = sum(await asyncio.gather(spend(first, 25), spend(second, 25)))
        await first.give_back_all()
        await second.give_back_all()
        actor = next(
            a for a in ray.util.list_named_actors(all_namespaces=True) if "budget#control" in a["name"]
        )
        ray.kill(ray.get_actor(actor["name"], actor["namespace"]))
        third = UsdSlices(control, 1.0)
        for _ in range(60):
            try:
                await control.left_nano_usd(key_id)
                break
            except ControlUnavailableError:
                await asyncio.sleep(1.0)
        return half, await spend(third, 100)

    assert asyncio.run(story()) == (50, 50)
