"""New champions, canaries, shadows and rollbacks in a running endpoint, from a real MLflow registry."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from mlflow.tracking import MlflowClient

from policies.barp.policy import BarpPolicy
from policies.bundle import RouterBundle
from policies.errors import InputError
from serve.admin import main
from serve.question import UnknownVersionError
from serve.registry import CANARY_PERCENT_TAG, POLICY_VERSION_TAG, Registry, find_bundle
from serve.releases import Releases
from serve.runtime import Runtime
from serve.settings import ServeSettings
from tests.policies.leftovers_case import gone_process, left_by
from tests.serve.local_server import serving

MODEL = "router"
ASK = {"prompt": "Which planet is the largest?", "w_cost": 0.5}


def changed(bundle: RouterBundle, folder: Path, seed: int) -> str:
    """Save a policy that differs from ``bundle`` and return its version."""
    generator = torch.Generator().manual_seed(seed)
    copy = RouterBundle.load(folder.parent / "base")
    assert isinstance(copy.policy, BarpPolicy)
    with torch.no_grad():
        for parameter in copy.policy.network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return copy.save(folder)


@dataclass
class Shelf:
    """Three policies in a registry: versions 1, 2 and 3."""

    uri: str
    client: MlflowClient
    versions: list[str]
    folder: Path

    def settings(self, **changes: Any) -> ServeSettings:
        values = {
            "tracking_uri": self.uri,
            "model": MODEL,
            "cache_dir": str(self.folder / "cache"),
            "releases": {"poll_s": 0},
        }
        return ServeSettings.parse({**values, **changes})

    def alias(self, name: str, version: int) -> None:
        self.client.set_registered_model_alias(MODEL, name, str(version))

    def aliases(self) -> dict[str, str]:
        return {k: str(v) for k, v in self.client.get_registered_model(MODEL).aliases.items()}


@pytest.fixture(scope="module")
def policies(tmp_path_factory, bundle, bundle_dir):
    folder = tmp_path_factory.mktemp("shelf")
    shutil.copytree(bundle_dir, folder / "base")
    return folder, [changed(bundle, folder / f"policy{seed}", seed) for seed in (1, 2, 3)]


@pytest.fixture(scope="module")
def empty_registry(tmp_path_factory):
    """An MLflow database without models; making its tables takes seconds, copying them nothing."""
    path = tmp_path_factory.mktemp("registry") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}", f"sqlite:///{path}").search_registered_models()
    return path


@pytest.fixture
def shelf(policies, empty_registry, tmp_path):
    folder, versions = policies
    shutil.copy(empty_registry, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri, uri)
    client.create_registered_model(MODEL)
    for number, version in enumerate(versions, 1):
        source = tmp_path / f"version{number}"
        shutil.copytree(folder / f"policy{number}", source / "artifacts" / "policy")
        client.create_model_version(MODEL, source=str(source), tags={POLICY_VERSION_TAG: version})
    made = Shelf(uri, client, versions, tmp_path)
    made.alias("champion", 1)
    return made


@pytest.fixture
def releases(shelf, encoder, monkeypatch):
    monkeypatch.setattr("serve.releases.load_bundle_encoder", lambda *_, **__: encoder)
    return Releases.open(shelf.settings())


@pytest.fixture
def endpoint_url(shelf, encoder, monkeypatch):
    monkeypatch.setattr("serve.releases.load_bundle_encoder", lambda *_, **__: encoder)
    with serving(Runtime.open(shelf.settings())) as url:
        yield url


def names(releases: Releases, keys: range) -> Counter[str]:
    return Counter(releases.pick(f"session {key}").name for key in keys)


def test_nothing_new_changes_nothing(releases):
    before = releases.current
    assert asyncio.run(releases.reload()) is False
    assert releases.current is before


def test_a_download_leaves_the_policy_alone_in_its_cache(shelf):
    cache = shelf.folder / "cache"
    cache.mkdir()
    left_by(gone_process(), cache / shelf.versions[0], folder=True)
    assert find_bundle(shelf.settings()) == cache / shelf.versions[0]
    assert [path.name for path in cache.iterdir()] == [shelf.versions[0]]


def test_a_moved_alias_changes_the_champion_and_keeps_the_encoder(releases, shelf):
    embedder = releases.champion.embedder
    shelf.alias("champion", 2)
    assert asyncio.run(releases.reload()) is True
    assert releases.champion.bundle.policy_version == shelf.versions[1]
    assert releases.champion.embedder is embedder


def test_a_canary_decides_its_share_of_sessions_and_always_the_same(releases, shelf):
    shelf.alias("canary", 2)
    shelf.client.set_registered_model_tag(MODEL, CANARY_PERCENT_TAG, "20")
    asyncio.run(releases.reload())
    first = names(releases, range(4000))
    assert first["canary"] == pytest.approx(800, abs=100)
    assert names(releases, range(4000)) == first
    assert len({releases.pick("one session").bundle.policy_version for _ in range(10)}) == 1


@pytest.mark.parametrize(("percent", "name"), [("0", "champion"), ("100", "canary")])
def test_the_ends_of_the_canarys_share_are_exact(releases, shelf, percent, name):
    shelf.alias("canary", 2)
    shelf.client.set_registered_model_tag(MODEL, CANARY_PERCENT_TAG, percent)
    asyncio.run(releases.reload())
    assert names(releases, range(1000)) == {name: 1000}


def test_a_larger_share_keeps_the_sessions_that_the_canary_had(releases, shelf):
    shelf.alias("canary", 2)
    had: set[int] = set()
    for percent in ("10", "30", "60"):
        shelf.client.set_registered_model_tag(MODEL, CANARY_PERCENT_TAG, percent)
        asyncio.run(releases.reload())
        has = {key for key in range(1000) if releases.pick(str(key)).name == "canary"}
        assert had < has
        had = has


def test_a_bad_share_is_refused_and_the_old_state_stays(releases, shelf):
    shelf.client.set_registered_model_tag(MODEL, CANARY_PERCENT_TAG, "many")
    before = releases.current
    with pytest.raises(InputError, match="canary_percent='many'"):
        asyncio.run(releases.reload())
    assert releases.current is before
    assert "many" in releases.error


def test_a_damaged_artifact_leaves_the_old_one_in_charge(releases, shelf):
    (shelf.folder / "version2" / "artifacts" / "policy" / "bundle.json").write_text("{")
    shelf.alias("champion", 2)
    with pytest.raises(InputError):
        asyncio.run(releases.reload())
    assert releases.champion.bundle.policy_version == shelf.versions[0]
    assert releases.error
    shelf.alias("champion", 3)
    assert asyncio.run(releases.reload()) is True
    assert releases.error is None


def test_another_encoder_is_not_taken_into_a_running_endpoint(releases, shelf, policies):
    folder = shelf.folder / "other"
    other = RouterBundle.load(policies[0] / "policy2")
    version = replace(other, encoder=replace(other.encoder, weights_sha256="f" * 64)).save(
        folder / "artifacts" / "policy"
    )
    shelf.client.create_model_version(MODEL, source=str(folder), tags={POLICY_VERSION_TAG: version})
    shelf.alias("champion", 4)
    with pytest.raises(InputError, match="ffffffffffff"):
        asyncio.run(releases.reload())
    assert releases.champion.bundle.policy_version == shelf.versions[0]


def test_a_request_may_name_a_loaded_version_only(shelf, encoder, monkeypatch):
    monkeypatch.setattr("serve.releases.load_bundle_encoder", lambda *_, **__: encoder)
    opened = Releases.open(shelf.settings(releases={"poll_s": 0, "pinned": ["3"]}))
    assert opened.pick(None, shelf.versions[2]).bundle.policy_version == shelf.versions[2]
    assert opened.pick(None, shelf.versions[0]).name == "pinned"
    with pytest.raises(UnknownVersionError, match="loaded: "):
        opened.pick(None, shelf.versions[1])


def test_folders_serve_without_a_registry(policies, encoder, monkeypatch):
    monkeypatch.setattr("serve.releases.load_bundle_encoder", lambda *_, **__: encoder)
    folder, versions = policies
    besides = {"canary": str(folder / "policy2"), "canary_percent": 50, "shadow": str(folder / "policy3")}
    opened = Releases.open(ServeSettings.parse({"bundle": str(folder / "policy1"), "releases": besides}))
    assert opened.current.versions() == dict(zip(("champion", "canary", "shadow"), versions))


def test_a_rollback_and_one_more_are_where_we_were(shelf):
    registry = Registry(shelf.settings())
    registry.make_champion("2")
    assert registry.roll_back().model_version == "1"
    assert shelf.aliases() == {"champion": "1", "previous": "2"}
    registry.roll_back()
    assert shelf.aliases() == {"champion": "2", "previous": "1"}


def test_without_a_previous_champion_there_is_no_rollback(shelf):
    with pytest.raises(InputError, match="previous"):
        Registry(shelf.settings()).roll_back()


def test_reloads_under_load_drop_nothing(endpoint_url, shelf):
    stop, seen, problems = threading.Event(), Counter(), []

    def ask() -> None:
        with httpx.Client(base_url=endpoint_url, timeout=30.0) as client:
            while not stop.is_set():
                answer = client.post("/v1/route", json=ASK)
                if answer.status_code != 200:
                    problems.append(answer.text)
                else:
                    seen[answer.json()["policy_version"]] += 1

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for version in (2, 3, 1, 2):
        shelf.alias("champion", version)
        answer = httpx.post(f"{endpoint_url}/admin/reload", timeout=60.0).json()
        assert answer["releases"]["champion"] == shelf.versions[version - 1]
    stop.set()
    for thread in threads:
        thread.join()
    assert problems == []
    assert set(seen) == set(shelf.versions)


def test_the_command_line_drives_a_release_from_canary_to_rollback(endpoint_url, shelf, capsys):
    steps = (
        (["canary", "2", "--percent", "30"], {"champion": "1", "canary": "2"}),
        (["promote"], {"champion": "2", "previous": "1"}),
        (["shadow", "3"], {"champion": "2", "previous": "1", "shadow": "3"}),
        (["shadow", "none"], {"champion": "2", "previous": "1"}),
        (["rollback"], {"champion": "1", "previous": "2"}),
        (["status"], {"champion": "1", "previous": "2"}),
    )
    for arguments, aliases in steps:
        assert main([endpoint_url, *arguments]) == 0, arguments
        assert shelf.aliases() == aliases, arguments
    assert shelf.versions[0] in capsys.readouterr().out
    assert main([endpoint_url, "canary", "9"]) == 1
    assert "9" in capsys.readouterr().err


def test_a_version_that_cannot_be_served_does_not_become_champion(endpoint_url, shelf):
    shelf.alias("previous", 2)
    (shelf.folder / "version2" / "artifacts" / "policy" / "bundle.json").unlink()
    answer = httpx.post(f"{endpoint_url}/admin/rollback", timeout=60.0)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "release_refused")
    assert shelf.aliases()["champion"] == "1"


def test_a_shadow_is_counted_and_never_answers(shelf, encoder, monkeypatch):
    monkeypatch.setattr("serve.releases.load_bundle_encoder", lambda *_, **__: encoder)
    shelf.alias("shadow", 3)
    runtime = Runtime.open(shelf.settings())
    with serving(runtime) as url, httpx.Client(base_url=url, timeout=30.0) as client:
        answers = [client.post("/v1/route", json=ASK | {"prompt": f"Question {n}"}).json() for n in range(20)]
    counted = runtime.metrics.totals().counters["tradewind_shadow_decisions"]
    assert {answer["policy_version"] for answer in answers} == {shelf.versions[0]}
    assert {version for version, _ in counted} == {shelf.versions[2]}
    assert sum(counted.values()) == 20


def test_a_version_that_cannot_explore_may_be_a_shadow_and_no_more(endpoint_url, shelf, monkeypatch):
    def refuse(bundle, exploration):
        if bundle.policy_version == shelf.versions[2]:
            raise InputError("cannot explore")

    monkeypatch.setattr("serve.releases.check_exploration", refuse)
    assert main([endpoint_url, "canary", "3"]) == 1
    assert main([endpoint_url, "shadow", "3"]) == 0
    assert shelf.aliases()["shadow"] == "3"


def test_a_named_version_answers_over_http(endpoint_url, shelf):
    header = "x-tradewind-policy-version"
    good = httpx.post(f"{endpoint_url}/v1/route", json=ASK, headers={header: shelf.versions[0]}, timeout=30.0)
    assert (good.status_code, good.json()["release"]) == (200, "pinned")
    bad = httpx.post(f"{endpoint_url}/v1/route", json=ASK, headers={header: "none"}, timeout=30.0)
    assert (bad.status_code, bad.json()["error"]["code"]) == (422, "unknown_policy_version")


def test_a_polling_endpoint_finds_the_new_champion_by_itself(shelf, encoder, monkeypatch):
    monkeypatch.setattr("serve.releases.load_bundle_encoder", lambda *_, **__: encoder)
    runtime = Runtime.open(shelf.settings(releases={"poll_s": 0.1}))
    changed = threading.Event()
    runtime.releases.on_change.append(lambda current: changed.set())
    with serving(runtime) as url:
        shelf.alias("champion", 3)
        assert changed.wait(60)
        found = httpx.get(f"{url}/healthz", timeout=30.0).json()["policy_version"]
    assert found == shelf.versions[2]
