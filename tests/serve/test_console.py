"""What the console's page asks for."""

from __future__ import annotations

import asyncio
import re
import threading
from dataclasses import replace

import numpy as np
import pytest
from starlette.testclient import TestClient

from serve.api.application import create_app
from serve.console.live import LivePicture
from serve.console.page import page_files
from serve.console.picture import DIAL, Contexts, picture
from serve.console.samples import SAMPLES
from serve.recent import RecentContexts
from serve.runtime import Runtime
from serve.settings import ServeSettings
from tests.serve.scored import HOSTILE, save_scored_bundle


def open_client(bundle_dir):
    return TestClient(create_app(Runtime.open(ServeSettings(bundle=str(bundle_dir)))))


@pytest.fixture(scope="module")
def scored_dir(tmp_path_factory, encoder):
    directory = tmp_path_factory.mktemp("scored") / "policy"
    save_scored_bundle(directory, encoder.identity)
    return directory


@pytest.fixture(scope="module")
def client(scored_dir):
    with open_client(scored_dir) as client:
        yield client


@pytest.fixture(scope="module")
def unscored(bundle_dir):
    """A policy of probabilities alone."""
    with open_client(bundle_dir) as client:
        yield client


def test_every_file_that_the_page_names_is_served(client):
    page = client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    names = set(re.findall(r'(?:href|src)="(console/[^"]+)"', page.text))
    for name, file in page_files().items():
        if name.endswith(".js"):
            names |= {f"console/{part}" for part in re.findall(r'from "\./([^"]+)"', file.body.decode())}
    assert len(names) >= 7
    for name in names:
        assert client.get(f"/{name}").status_code == 200


def test_nothing_comes_from_elsewhere_or_runs_inline(client):
    for name, file in page_files().items():
        addresses = re.findall(r"https?://[^\s\"']+", file.body.decode())
        assert set(addresses) <= {"http://www.w3.org/2000/svg"}, name
        assert "innerHTML" not in file.body.decode()
    page = client.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=", page.text)


def test_an_unchanged_file_is_not_sent_again(client):
    first = client.get("/console/console.js")
    again = client.get("/console/console.js", headers={"If-None-Match": first.headers["etag"]})
    assert again.status_code == 304
    assert again.content == b""


@pytest.mark.parametrize("name", ["console.py", "..%2fpage.py", "%2e%2e/page.py", "nothing.css"])
def test_no_other_file_is_served(client, name):
    assert client.get(f"/console/{name}").status_code == 404


def test_the_dial_is_drawn_over_samples_until_there_is_traffic(scored_dir):
    with open_client(scored_dir) as client:
        before = client.get("/v1/dial").json()
    assert before["source"] == "samples"
    assert before["prompts"] == len(SAMPLES)
    with open_client(scored_dir) as client:
        for prompt in ("one", "two", "two"):
            client.post("/v1/route", json={"prompt": prompt, "w_cost": 0.5}).raise_for_status()
        after = client.get("/v1/dial").json()
    assert after["source"] == "traffic"
    assert after["prompts"] == 3


def test_the_dial_is_consistent(client):
    answer = client.get("/v1/dial").json()
    assert answer["w_cost"] == list(DIAL)
    shares = np.array([model["shares"] for model in answer["models"]])
    np.testing.assert_allclose(shares.sum(axis=0), 1.0)
    assert shares.min() >= 0.0
    scores = [model["expected_score"] for model in answer["models"]]
    costs = [model["expected_cost_usd"] for model in answer["models"]]
    policy = answer["policy"]
    # At w_cost 0 each prompt goes to its best model, so no single model can be better on average.
    assert policy["expected_score"][0] >= max(scores) - 1e-9
    assert (
        min(costs) - 1e-12
        <= min(policy["expected_cost_usd"])
        <= max(policy["expected_cost_usd"])
        <= max(costs)
    )
    best = answer["always_best"]
    assert scores[[m["id"] for m in answer["models"]].index(best["model"])] == best["expected_score"]
    assert {"id": HOSTILE}.items() <= {
        k: v for m in answer["models"] for k, v in m.items() if v == HOSTILE
    }.items()


def test_a_policy_without_scores_shows_costs_and_shares(unscored):
    answer = unscored.get("/v1/dial").json()
    assert answer["policy"]["expected_score"] is None
    assert answer["mix_line"] is None
    # Without means of training, always-best is the dearest.
    assert answer["always_best"]["model"] == "large"
    assert all(model["expected_score"] is None for model in answer["models"])
    np.testing.assert_allclose(np.sum([m["shares"] for m in answer["models"]], axis=0), 1.0)
    explained = unscored.post("/v1/explain", json={"prompt": "a"}).json()
    assert all(model["expected_score"] is None for model in explained["models"])


@pytest.mark.parametrize("prompt", ["What is 17% of 2,340?", "Write a haiku."])
def test_an_explanation_says_what_route_would_answer(client, prompt):
    explained = client.post("/v1/explain", json={"prompt": prompt}).json()
    for i, w_cost in enumerate(explained["w_cost"]):
        routed = client.post("/v1/route", json={"prompt": prompt, "w_cost": w_cost}).json()
        assert explained["chosen"][i] == routed["model"]
        for model in explained["models"]:
            assert model["probabilities"][i] == pytest.approx(routed["probabilities"][model["id"]])
            assert model["expected_cost_usd"] == pytest.approx(routed["expected_costs_usd"][model["id"]])


def test_an_explanation_tells_why_a_model_is_out(client):
    explained = client.post("/v1/explain", json={"prompt": "word " * 400, "models": ["large", "tiny"]}).json()
    models = {model["id"]: model for model in explained["models"]}
    assert set(explained["chosen"]) == {"large"}
    assert "context window" in models["tiny"]["reason"]
    assert models["medium"]["reason"] == "not among the models to choose from"
    assert models["large"]["reason"] is None
    assert not any(models["tiny"]["probabilities"])


def test_an_explanation_is_not_logged(scored_dir):
    with open_client(scored_dir) as client:
        client.post("/v1/explain", json={"prompt": "a"}).raise_for_status()
        assert client.get("/v1/traffic").json()["decisions"] == 0
        assert client.get("/v1/dial").json()["source"] == "samples"
        client.post("/v1/route", json={"prompt": "a", "w_cost": 0.5}).raise_for_status()
        traffic = client.get("/v1/traffic").json()
    assert traffic["decisions"] == 1
    assert sum(step["decisions"] for step in traffic["timeline"]) == 1


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "prompt"),
        ({"prompt": " \n"}, "prompt"),
        ({"prompt": "a", "w_cost": 0.3}, "w_cost"),
        ({"prompt": "a", "models": ["nobody"]}, "models"),
        ({"prompt": "a", "max_cost_usd": -1.0}, "max_cost_usd"),
    ],
)
def test_a_bad_question_is_refused_by_name(client, body, field):
    answer = client.post("/v1/explain", json=body)
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == field


@pytest.mark.parametrize("window", ["59", "1e9", "nan", "soon"])
def test_a_bad_window_is_refused_by_name(client, window):
    answer = client.get("/v1/traffic", params={"window_s": window})
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == "window_s"


@pytest.mark.parametrize("window_s", [60, 3600, 86_400, 604_800])
def test_the_timeline_covers_the_window_in_few_steps(client, window_s):
    steps = client.get("/v1/traffic", params={"window_s": window_s}).json()["timeline"]
    starts = [
        np.datetime64(step["start"].removesuffix("+00:00")).astype("datetime64[s]").astype(int)
        for step in steps
    ]
    widths = set(np.diff(starts).tolist()) or {60}
    assert len(widths) == 1
    assert len(steps) <= 60
    assert len(steps) * widths.pop() >= window_s


class TestLivePicture:
    @pytest.fixture(scope="class")
    def releases(self, scored_dir):
        return Runtime.open(ServeSettings(bundle=str(scored_dir))).releases

    def test_it_is_drawn_once_for_many_and_off_the_event_loop(self, releases, monkeypatch):
        threads = []

        def drawn(*arguments, **options):
            threads.append(threading.get_ident())
            return picture(*arguments, **options)

        monkeypatch.setattr("serve.console.live.picture", drawn)

        async def ask():
            live = LivePicture(releases, RecentContexts(), sample=False)
            return await asyncio.gather(*(live.get() for _ in range(5)))

        answers = asyncio.run(ask())
        # Once over the empty window of traffic, once over the samples.
        assert len(threads) == 2
        assert threading.get_ident() not in threads
        assert all(answer is answers[0] for answer in answers)

    def test_a_new_champion_is_drawn_at_once(self, releases):
        old = releases.champion

        async def ask():
            live = LivePicture(releases, RecentContexts(), sample=False)
            first = await live.get()
            releases.champion = replace(old, bundle=replace(old.bundle, policy_version="ridge-next"))
            return first, await live.get()

        try:
            first, second = asyncio.run(ask())
        finally:
            releases.champion = old
        assert first[0] is old
        assert second[0].bundle.policy_version == "ridge-next"


def test_prompts_that_fit_no_window_are_left_out(scored_dir):
    decider = Runtime.open(ServeSettings(bundle=str(scored_dir))).releases.champion.decider
    embeddings = np.eye(2, decider.bundle.encoder.dimension, dtype=np.float32)
    contexts = Contexts("traffic", embeddings, np.array([10.0, 1e6]))
    assert picture(decider, contexts, sample=False).prompts == 1
    nothing = Contexts("traffic", embeddings[:1], np.array([1e6]))
    assert picture(decider, nothing, sample=False) is None
