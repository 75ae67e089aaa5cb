"""Decisions, batches and feedback over HTTP, against a policy that predicts scores and costs."""

from __future__ import annotations

import json

import httpx
import numpy as np
import numpy.typing as npt
import pytest

from policies.bundle import RouterBundle, TrainingMeans
from policies.costs import CostModel
from policies.outcome_model.features import ContextFeatures
from policies.outcome_model.policy import OutcomeModelPolicy
from serve.runtime import Runtime
from serve.settings import ServeSettings
from tests.serve.conftest import POOL
from tests.serve.local_server import serving

PRESETS = {"cheap": 0.9, "best": 0.0}


def scored_policy(dimension: int) -> OutcomeModelPolicy:
    rng = np.random.default_rng(5)

    def normal(*shape: int) -> npt.NDArray[np.float32]:
        return rng.standard_normal(shape).astype(np.float32)

    return OutcomeModelPolicy(
        models=POOL.models,
        features=ContextFeatures(np.zeros(dimension, np.float32), normal(dimension, 4), 3.0, 1.0, 0.3),
        trunk=normal(2, 5, 8),
        trunk_bias=normal(2, 1, 8),
        head=normal(2, 8, 6),
        head_bias=normal(2, 1, 6),
        log_cost_mean=np.log([0.02, 0.001, 0.0002]),
        log_cost_std=0.3,
        sigma=np.array([0.5, 0.5, 0.5]),
        recalibration=np.ones(3),
        input_price_per_token_usd=POOL.prices_per_token_usd[:, 0],
        tau_usd=0.05,
    )


@pytest.fixture(scope="module")
def served(tmp_path_factory, encoder):
    folder = tmp_path_factory.mktemp("decisions")
    costs = CostModel(POOL.prices_per_token_usd, 50.0, POOL.prices_per_token_usd[:, 1] * 200)
    RouterBundle(
        scored_policy(encoder.identity.dimension),
        POOL,
        encoder.identity,
        costs,
        tau_usd=0.05,
        training_means=TrainingMeans((0.9, 0.6, 0.3), (4.0, 1.0, None)),
    ).save(folder / "policy")
    settings = ServeSettings.parse(
        {
            "bundle": str(folder / "policy"),
            "log": {"directory": str(folder / "log")},
            "routing": {"presets": PRESETS},
        }
    )
    runtime = Runtime.open(settings)
    with serving(runtime) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield runtime, client


@pytest.fixture
def client(served):
    return served[1]


def ask(client, **body):
    return client.post("/v1/route", json={"prompt": "Why is the sky blue?", "w_cost": 0.3, **body})


def test_the_answer_tells_scores_costs_and_latencies_of_every_model(client, encoder, served):
    answer = ask(client).json()
    judged = served[0].releases.champion.bundle.policy.judge(
        encoder.encode(["Why is the sky blue?"])[0], (0.7, 0.3), 5.0
    )
    assert list(answer["expected_scores"].values()) == pytest.approx(judged.scores.tolist(), abs=1e-4)
    assert list(answer["expected_costs_usd"].values()) == pytest.approx(judged.costs_usd.tolist(), rel=1e-3)
    assert answer["expected_latencies_s"] == {"large": 4.0, "small": 1.0, "tiny": None}
    for what in ("score", "cost", "latency"):
        one, every = {
            "score": ("expected_score", "expected_scores"),
            "cost": ("expected_cost_usd", "expected_costs_usd"),
            "latency": ("expected_latency_s", "expected_latencies_s"),
        }[what]
        assert answer[one] == answer[every][answer["model"]]


def test_an_embedding_decides_as_its_text(client, encoder):
    vector = encoder.encode(["Why is the sky blue?"])[0].tolist()
    by_text = ask(client).json()
    by_vector = client.post("/v1/route", json={"embedding": vector, "prompt_tokens": 5, "w_cost": 0.3}).json()
    assert by_vector["model"] == by_text["model"]
    assert by_vector["expected_scores"] == pytest.approx(by_text["expected_scores"], abs=1e-4)


@pytest.mark.parametrize(
    ("embedding", "words"), [([0.1] * 7, "384"), ([1e300] + [0.0] * 383, "too large"), ([], "at least 1")]
)
def test_a_bad_embedding_is_refused(client, embedding, words):
    response = client.post("/v1/route", json={"embedding": embedding, "w_cost": 0.3})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (422, "embedding")
    assert words in error["message"]


def test_an_embedding_of_nan_is_refused(client):
    body = b'{"embedding": [NaN], "w_cost": 0.3}'
    assert client.post("/v1/route", content=body).json()["error"]["param"] == "embedding.0"


def test_presets_set_the_dial(client):
    answer = client.post("/v1/route", json={"prompt": "a", "preference": "cheap"}).json()
    assert answer["preference"] == pytest.approx({"w_quality": 0.1, "w_cost": 0.9})


@pytest.mark.parametrize(
    ("body", "words"),
    [({"preference": "dear"}, "cheap, best"), ({"preference": "cheap", "w_cost": 0.1}, "not both")],
)
def test_a_bad_preset_is_refused(client, body, words):
    error = client.post("/v1/route", json={"prompt": "a", **body}).json()["error"]
    assert error["param"] == "preference"
    assert words in error["message"]


def test_constraints_rule_models_out_with_reasons(client):
    answer = ask(client, exclude=["tiny"], max_latency_s=2).json()
    assert answer["model"] == "small"
    assert set(answer["ineligible"]) == {"tiny", "large"}
    capped = ask(client, max_cost_usd=0.005).json()
    assert "max_cost_usd" in capped["ineligible"]["large"]
    # tiny alone has tags, and vision is not among them; the others' capabilities are not known.
    assert set(ask(client, needs=["vision"]).json()["ineligible"]) == {"tiny"}


def test_nothing_left_is_told(client):
    response = ask(client, max_cost_usd=0.0)
    assert (response.status_code, response.json()["error"]["code"]) == (422, "no_eligible_model")


def test_an_excluded_model_must_exist(client):
    assert ask(client, exclude=["gpt"]).json()["error"]["param"] == "exclude"


def test_a_batch_is_answered_item_by_item(client, served):
    inputs = [
        {"prompt": "one", "w_cost": 0.3},
        {"prompt": "", "w_cost": 0.3},
        {"prompt": "three", "w_cost": 0.3, "models": ["gpt"]},
        {"prompt": "four", "preference": "nope"},
        {"prompt": "five", "preference": "cheap", "models": ["tiny"]},
    ]
    response = client.post("/v1/route", json={"inputs": inputs})
    answers = response.json()["answers"]
    assert response.status_code == 200
    assert [a.get("error", {}).get("param") for a in answers] == [
        None,
        "prompt",
        "models",
        "preference",
        None,
    ]
    alone = ask(client, prompt="one").json()
    assert answers[0]["model"] == alone["model"]
    assert answers[0]["expected_scores"] == pytest.approx(alone["expected_scores"], abs=1e-4)
    assert served[0].journal.find(answers[4]["decision_id"])[0].model == "tiny"


@pytest.mark.parametrize("inputs", [[], "x", [1], [{"prompt": "a", "w_cost": 0.1}] * 257])
def test_a_bad_batch_is_refused(client, inputs):
    response = client.post("/v1/route", json={"inputs": inputs})
    assert (response.status_code, response.json()["error"]["param"].split(".")[0]) == (422, "inputs")


def test_the_word_inputs_in_a_prompt_is_no_batch(client):
    assert ask(client, prompt='{"inputs": []}').status_code == 200
    assert ask(client, metadata={"inputs": "x"}).status_code == 200


def test_the_decision_is_in_the_log_without_the_prompt(client, served):
    answer = ask(client, session_id="s-log", metadata={"team": "a"}, prompt="A secret.").json()
    record, _ = served[0].journal.find(answer["decision_id"])
    assert (record.model, record.propensity, record.session_id) == (answer["model"], 1.0, "s-log")
    assert record.metadata == {"team": "a"}
    assert record.prompt is None
    assert record.embedding is None
    assert set(record.eligible) == set(answer["probabilities"])
    assert record.best_cost_usd == pytest.approx(answer["expected_costs_usd"]["large"])
    told = client.get(f"/v1/decisions/{answer['decision_id']}").json()
    assert (told["model"], told["preference"]) == (answer["model"], answer["preference"])
    assert told["outcome"] == dict.fromkeys(
        ["score", "cost_usd", "prompt_tokens", "completion_tokens", "latency_s", "error"]
    )


def test_feedback_is_joined_once(client):
    decision_id = ask(client).json()["decision_id"]
    tell = {"decision_id": decision_id, "score": 0.5}
    assert client.post("/v1/feedback", json=tell).json()["status"] == "recorded"
    assert client.post("/v1/feedback", json=tell).json()["status"] == "duplicate"
    late = {"decision_id": decision_id, "cost_usd": 0.25, "completion_tokens": 7}
    assert client.post("/v1/feedback", json=late).json()["status"] == "recorded"
    conflict = client.post("/v1/feedback", json={**tell, "score": 0.6})
    assert (conflict.status_code, conflict.json()["error"]["code"]) == (409, "conflict")
    outcome = client.get(f"/v1/decisions/{decision_id}").json()["outcome"]
    assert (outcome["score"], outcome["cost_usd"], outcome["completion_tokens"]) == (0.5, 0.25, 7)


def test_feedback_on_nothing_is_not_found(client):
    response = client.post("/v1/feedback", json={"decision_id": "ab", "score": 1.0})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "unknown_decision")
    assert client.get("/v1/decisions/ab").status_code == 404


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"score": 1.1}, "score"),
        ({"score": -0.1}, "score"),
        ({"score": "1"}, "score"),
        ({"score": None}, "score"),
        ({"score": True}, "score"),
        ({}, "score"),
        ({"cost_usd": -1}, "cost_usd"),
        ({"completion_tokens": 1.5}, "completion_tokens"),
        ({"completion_tokens": 10**30}, "completion_tokens"),
        ({"stars": 5}, "stars"),
        ({"score": 1, "decision_id": 7}, "decision_id"),
    ],
)
def test_malformed_feedback_names_the_field(client, fields, param):
    response = client.post("/v1/feedback", json={"decision_id": "x", **fields})
    assert (response.status_code, response.json()["error"]["param"]) == (422, param)


def test_a_session_leaves_its_model_where_a_switch_gains_enough(client, served):
    runtime = served[0]
    first = ask(client, session_id="s1", models=["large"], w_cost=1.0, prompt_tokens=90).json()
    assert first["model"] == "large"
    # Tiny is better at w_cost 1 by more than the cache is worth.
    second = ask(client, session_id="s1", w_cost=1.0, prompt_tokens=90).json()
    assert not second["kept_for_session"]
    assert runtime.journal.last_turn("s1").model == second["model"]


def test_metadata_is_bounded(client):
    assert ask(client, metadata={"k" * 65: 1}).status_code == 422
    assert ask(client, metadata={"k": "v" * 1025}).status_code == 422
    assert ask(client, metadata={"k": {"nested": 1}}).status_code == 422
    assert ask(client, metadata={"n": 1.5, "b": True, "z": None}).status_code == 200


def test_the_schema_describes_every_body(client):
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    assert {"RouteRequest", "BatchRequest", "FeedbackRequest", "DecisionAnswer"} <= set(schemas)
    assert json.dumps(schemas["RouteRequest"])
