"""The door before all routes: keys, roles, limits, sizes, headers, and silence about secrets."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from serve.access.keys import new_key
from serve.api.application import create_app
from serve.api.door import HEALTH_PATH, Door
from serve.metrics import Metrics
from serve.runtime import Runtime
from serve.settings import ServeSettings
from tests.serve.local_server import serving

MARKER = "zebra-7731-private"
MAX_BODY_BYTES = 1_000_000
KEYS = {
    "route": new_key("router"),
    "admin": new_key("boss", ("admin",)),
    "slow": new_key("slow"),
}


@pytest.fixture(scope="module")
def runtime(bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    entries = {name: key.model_dump() for name, (_, key) in KEYS.items()}
    entries["slow"] |= {"requests_per_s": 0.01, "burst": 2}
    return Runtime.open(
        ServeSettings.parse(
            {
                "bundle": str(bundle_dir),
                "log": {"directory": str(tmp_path_factory.mktemp("log"))},
                "access": {"keys": list(entries.values()), "max_body_bytes": MAX_BODY_BYTES},
            }
        )
    )


@pytest.fixture(scope="module")
def url(runtime: Runtime) -> Iterator[str]:
    with serving(runtime) as opened:
        yield opened


@pytest.fixture
def client(url):
    with httpx.Client(base_url=url, timeout=30.0) as opened:
        yield opened


def key(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {KEYS[name][0]}"}


def every_route(runtime: Runtime) -> list[tuple[str, str]]:
    routes = []
    for path, methods in create_app(runtime).openapi()["paths"].items():
        filled = path.replace("{decision_id}", "x").replace("{", "").replace("}", "")
        routes += [(method.upper(), filled) for method in methods]
    return [
        *routes,
        ("GET", "/"),
        ("GET", "/console/console.js"),
        ("GET", "/openapi.json"),
        ("GET", "/no"),
    ]


def test_no_route_but_health_answers_without_a_key(client, runtime):
    answers = {route: client.request(*route).status_code for route in every_route(runtime)}
    assert len(answers) > 8
    assert {route for route, status in answers.items() if status != 401} == {("GET", HEALTH_PATH)}
    assert answers["GET", HEALTH_PATH] == 200


@pytest.mark.parametrize(
    "token",
    ["tw", "x", KEYS["route"][0] + "x", KEYS["route"][1].sha256],
    ids=["prefix", "letter", "longer", "its hash"],  # keys differ from run to run
)
def test_a_wrong_key_is_refused(client, token):
    answer = client.get("/v1/models", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.json()["error"]["code"] in ("key_missing", "key_unknown")


def test_a_key_opens_the_door(client):
    assert client.get("/v1/models", headers=key("route")).status_code == 200


def test_a_browser_is_asked_for_the_key_as_a_password(client):
    asked = client.get("/")
    assert (asked.status_code, asked.headers["www-authenticate"][:5]) == (401, "Basic")
    assert client.get("/", auth=("anyone", KEYS["route"][0])).status_code == 200


def test_each_role_opens_its_own_routes(client):
    assert client.get("/admin/status", headers=key("route")).status_code == 403
    assert client.get("/admin/status", headers=key("admin")).status_code == 200
    assert client.get("/v1/models", headers=key("admin")).status_code == 403


def test_another_sites_page_cannot_act_with_a_browsers_key(client):
    forged = {
        "Authorization": "Basic " + base64.b64encode(f"x:{KEYS['admin'][0]}".encode()).decode(),
        "Sec-Fetch-Site": "cross-site",
    }
    answer = client.post("/admin/reload", headers=forged)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "cross_site")


def test_a_key_over_its_rate_is_told_when_to_come_again(client):
    answers = [client.get("/v1/models", headers=key("slow")) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert 90 <= int(answers[2].headers["retry-after"]) <= 101


def test_a_long_body_is_refused_by_its_length_alone(client):
    answer = client.post("/v1/route", content=b" " * (MAX_BODY_BYTES + 1), headers=key("route"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_long")


def test_a_long_body_of_unknown_length_is_refused_while_it_comes(client):
    def pieces():
        for _ in range(200):
            yield b" " * 10_000

    assert client.post("/v1/route", content=pieces(), headers=key("route")).status_code == 413


@pytest.mark.parametrize("path", ["/v1/models", "/", "/healthz", "/no"])
def test_every_answer_has_security_headers(client, path):
    headers = client.get(path, headers=key("route")).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


def test_the_decision_knows_whose_it_is(client, runtime):
    before = runtime.metrics.totals().counters.get("tradewind_decisions", {})
    answer = client.post("/v1/route", json={"prompt": "hello", "w_cost": 0.5}, headers=key("route"))
    assert answer.status_code == 200
    after = runtime.metrics.totals().counters["tradewind_decisions"]
    assert sum(after.values()) == sum(before.values()) + 1


def test_refusals_are_counted_by_their_code(client, runtime):
    def count(code: str) -> float:
        return runtime.metrics.totals().counters.get("tradewind_refusals", {}).get((code,), 0)

    before = count("key_missing"), count("invalid_request")
    client.get("/v1/models")
    client.post("/v1/route", json={}, headers=key("route"))
    assert (count("key_missing"), count("invalid_request")) == (before[0] + 1, before[1] + 1)


def test_neither_prompts_nor_keys_show_anywhere(client, runtime, caplog):
    secrets = [MARKER, *(token for token, _ in KEYS.values()), "half-a-key-9"]
    bodies = [
        {"prompt": MARKER, "w_cost": 0.5},
        {"prompt": MARKER, "w_cost": 7},
        {"prompt": {"deep": MARKER}, "w_cost": 0.5},
        {"messages": [{"role": MARKER, "content": MARKER}], "w_cost": 0.5},
        {"model": "tradewind", "messages": [{"role": "user", "content": MARKER}]},
        {"model": "tradewind", "messages": [{"role": "user", "content": MARKER}], "stream": True},
        {"model": "tradewind", "prompt": MARKER},
        {"decision_id": "x", "score": MARKER},
        {"inputs": [{"prompt": MARKER, "w_cost": 9}]},
    ]
    said = []
    with caplog.at_level(logging.DEBUG):
        for method, path in every_route(runtime):
            for name in ("route", "admin"):
                for body in bodies if method in ("POST", "PUT") else [None]:
                    said.append(client.request(method, path, json=body, headers=key(name)))
        said.append(client.post("/v1/route", content=f'{{"prompt": "{MARKER}'.encode(), headers=key("route")))
        said.append(client.get("/v1/models", headers={"Authorization": "Bearer tw-half-a-key-9"}))
    runtime.metrics.flush()
    shown = caplog.text + repr(runtime.metrics.totals())
    # What an endpoint answers to its own caller may hold the prompt only where it succeeded.
    shown += "".join(answer.text + str(answer.headers) for answer in said if answer.status_code >= 400)
    assert any(answer.status_code == 200 for answer in said)
    assert not any(answer.status_code == 500 for answer in said)
    assert [secret for secret in secrets if secret in shown] == []


def test_a_failure_tells_an_incident_and_not_its_words(caplog):
    async def broken(scope, receive, send):
        raise RuntimeError(f"cannot parse {MARKER}")

    metrics = Metrics()
    answer = asyncio.run(call(Door(broken, open_access(), metrics, 10, 1000)))
    incident = answer.json()["error"]["message"].split()[-1]
    assert answer.status_code == 500
    assert incident in caplog.text
    assert "RuntimeError" in caplog.text
    assert MARKER not in caplog.text + answer.text
    assert metrics.totals().counters["tradewind_refusals"] == {("internal_error",): 1}


def test_a_full_replica_refuses_at_once_and_recovers():
    async def crowd():
        release = asyncio.Event()

        async def slow(scope, receive, send):
            await release.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"{}"})

        door = Door(slow, open_access(), Metrics(), 3, 1000)
        waiting = [asyncio.create_task(call(door)) for _ in range(3)]
        await asyncio.sleep(0.05)
        refused = await asyncio.wait_for(call(door), 1.0)
        release.set()
        return refused, await asyncio.gather(*waiting), await call(door)

    refused, served, later = asyncio.run(crowd())
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert refused.json()["error"]["code"] == "overloaded"
    assert [answer.status_code for answer in [*served, later]] == [200] * 4


async def call(door: Door) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=door), base_url="http://here") as client:
        return await client.get("/v1/models")


def open_access():
    from serve.access.access import Access
    from serve.control import ControlState
    from serve.settings.access import AccessSettings

    return Access(AccessSettings(), None, ControlState(AccessSettings()), 1)
