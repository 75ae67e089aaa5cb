"""The real application on Ray Serve, over HTTP."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from policies.costs import estimate_prompt_tokens
from serve.api.route import max_body_bytes

MAX_PROMPT_CHARS = 500_000
QUESTION = "Which planet is the largest?"


@pytest.fixture(scope="module")
def client(endpoint):
    with httpx.Client(base_url=endpoint, timeout=30.0) as opened:
        yield opened


def ask(client: httpx.Client, **body: Any) -> httpx.Response:
    return client.post("/v1/route", json={"w_cost": 0.3, **body})


def test_the_answer_is_the_policys_decision(client, bundle, encoder):
    answer = ask(client, prompt=QUESTION).json()
    probabilities = bundle.policy.action_probabilities(
        encoder.encode([QUESTION]), np.array([[0.7, 0.3]], dtype=np.float32)
    )[0]
    assert list(answer["probabilities"].values()) == pytest.approx(probabilities.tolist(), abs=1e-5)
    assert answer["model"] == bundle.pool.models[int(probabilities.argmax())]
    assert answer["propensity"] == 1.0
    assert answer["policy_version"] == bundle.policy_version
    assert answer["preference"] == pytest.approx({"w_quality": 0.7, "w_cost": 0.3})


def test_the_expected_cost_is_of_the_chosen_model_and_this_prompt(client, bundle):
    answer = ask(client, prompt=QUESTION).json()
    costs = bundle.cost_model.expected_costs_usd(estimate_prompt_tokens([QUESTION]), 1)[0]
    assert list(answer["expected_costs_usd"].values()) == pytest.approx(costs.tolist())
    assert answer["expected_cost_usd"] == answer["expected_costs_usd"][answer["model"]]


def test_cached_and_fresh_answers_agree(client):
    fresh = ask(client, prompt="A prompt that was never sent before.").json()
    cached = ask(client, prompt="A prompt that was never sent before.").json()
    assert fresh.pop("decision_id") != cached.pop("decision_id")
    # Latencies go with what is measured meanwhile, chats of other tests for instance.
    for answer in (fresh, cached):
        assert {"expected_latency_s", "expected_latencies_s"} <= answer.keys()
        del answer["expected_latency_s"], answer["expected_latencies_s"]
    assert fresh == cached


def test_concurrent_fresh_prompts_each_get_their_own_answer(client, bundle, encoder):
    prompts = [f"Question {i}: " + "word " * (i % 7) for i in range(40)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda prompt: ask(client, prompt=prompt).json(), prompts))
    expected = bundle.policy.action_probabilities(
        encoder.encode(prompts), np.tile(np.array([[0.7, 0.3]], dtype=np.float32), (40, 1))
    )
    found = np.array([list(answer["probabilities"].values()) for answer in answers])
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_dial_moves_the_decision(client):
    rows = [ask(client, prompt=QUESTION, w_cost=w).json()["probabilities"] for w in (0.0, 1.0)]
    assert rows[0] != rows[1]


def test_two_weights_are_normalised(client):
    both = ask(client, prompt=QUESTION, w_quality=3.0, w_cost=1.0).json()
    alone = ask(client, prompt=QUESTION, w_cost=0.25).json()
    assert both["preference"] == {"w_quality": 0.75, "w_cost": 0.25}
    assert both["probabilities"] == alone["probabilities"]


def test_a_single_user_message_decides_as_the_prompt(client):
    messages = [{"role": "user", "content": QUESTION}]
    assert (
        ask(client, messages=messages).json()["probabilities"]
        == ask(client, prompt=QUESTION).json()["probabilities"]
    )


def test_unread_message_fields_are_accepted(client):
    messages = [
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function"}]},
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "42"}]},
    ]
    assert ask(client, messages=messages).status_code == 200


def test_models_limits_the_choice(client):
    answer = ask(client, prompt=QUESTION, models=["tiny"]).json()
    assert (answer["model"], answer["probabilities"]) == ("tiny", {"tiny": 1.0})


def test_the_context_window_of_the_whole_conversation_counts(client):
    messages = [{"role": "user", "content": "x" * 8_000}, {"role": "user", "content": "short"}]
    answer = ask(client, messages=messages).json()
    assert answer["model"] == "large"
    assert set(answer["ineligible"]) == {"small", "tiny"}


def test_nothing_eligible_is_explained(client):
    response = ask(client, prompt="x" * 8_000, models=["small", "tiny"])
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (422, "no_eligible_model")
    assert "small" in error["message"]
    assert "1000" in error["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"w_cost": 0.3}, "prompt"),
        ({"prompt": "a", "messages": [{"role": "user", "content": "a"}], "w_cost": 0.3}, "prompt"),
        ({"prompt": "  ", "w_cost": 0.3}, "prompt"),
        ({"prompt": 3, "w_cost": 0.3}, "prompt"),
        ({"prompt": "a"}, "w_cost"),
        ({"prompt": "a", "w_cost": 1.5}, "w_cost"),
        ({"prompt": "a", "w_cost": -0.1}, "w_cost"),
        ({"prompt": "a", "w_cost": "0.3"}, "w_cost"),
        ({"prompt": "a", "w_cost": True}, "w_cost"),
        ({"prompt": "a", "w_cost": 0.0, "w_quality": 0.0}, "w_cost"),
        ({"prompt": "a", "w_cost": 0.3, "w_quality": -1}, "w_quality"),
        ({"prompt": "a", "w_cost": 0.3, "w_speed": 1}, "w_speed"),
        ({"prompt": "a", "w_cost": 0.3, "models": []}, "models"),
        ({"prompt": "a", "w_cost": 0.3, "models": ["tiny", "tiny"]}, "models"),
        ({"prompt": "a", "w_cost": 0.3, "models": ["gpt"]}, "models"),
        ({"messages": [], "w_cost": 0.3}, "messages"),
        ({"messages": [{"role": "user", "content": ""}], "w_cost": 0.3}, "messages"),
        ({"messages": [{"role": "owner", "content": "a"}], "w_cost": 0.3}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 7}], "w_cost": 0.3}, "messages.0.content"),
    ],
)
def test_a_bad_request_names_the_field(client, body, param):
    response = client.post("/v1/route", json=body)
    assert response.status_code == 422
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'{"prompt": "\xff", "w_cost": 0}', b'{"prompt": "\\ud800", "w_cost": 0}'],
)
def test_a_malformed_body_is_refused(client, body):
    response = client.post("/v1/route", content=body)
    assert response.status_code == 422
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_not_a_number_is_refused(client):
    response = client.post("/v1/route", content=b'{"prompt": "a", "w_cost": NaN}')
    assert (response.status_code, response.json()["error"]["param"]) == (422, "w_cost")


def test_errors_do_not_echo_the_prompt(client):
    response = client.post("/v1/route", json={"prompt": "my secret", "w_cost": 7})
    assert "secret" not in response.text


def test_unknown_models_are_named_with_those_allowed(client):
    message = ask(client, prompt="a", models=["tiny", "gpt"]).json()["error"]["message"]
    assert "'gpt'" in message
    assert "large, small, tiny" in message


def test_a_prompt_beyond_the_limit_is_refused(client):
    response = ask(client, prompt="x" * (MAX_PROMPT_CHARS + 1))
    assert (response.status_code, response.json()["error"]["param"]) == (413, "prompt")


def test_a_body_beyond_any_allowed_prompt_is_refused(client):
    body = b" " * (max_body_bytes(MAX_PROMPT_CHARS) + 1)
    assert client.post("/v1/route", content=body).status_code == 413


def test_models_lists_the_router_and_the_pool_with_prices(client, bundle):
    answer = client.get("/v1/models").json()
    priced = {e["id"]: e["input_price_per_mtok_usd"] for e in answer["data"] if e["owned_by"] == "three"}
    assert list(priced) == list(bundle.pool.models)
    assert priced["large"] == 3.0
    routers = [e["id"] for e in answer["data"] if e["owned_by"] == "tradewind"]
    assert routers[0] == "tradewind"
    assert "tradewind:cheap" in routers
    assert answer["policy_version"] == bundle.policy_version


def test_health_tells_the_policy(client, bundle):
    response = client.get("/healthz")
    assert response.status_code == 200
    assert response.json()["policy_version"] == bundle.policy_version


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_no_page_of_the_framework_with_scripts_of_other_hosts(client, path):
    assert client.get(path).status_code == 404


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nope", 404), ("GET", "/v1/route", 405)])
def test_other_errors_have_the_same_shape(client, method, path, status):
    response = client.request(method, path)
    assert response.status_code == status
    assert response.json()["error"]["code"] == "http_error"


def test_openapi_refers_only_to_schemas_it_has(client):
    schema = client.get("/openapi.json").json()
    assert "RouteRequest" in schema["components"]["schemas"]
    prefix = "#/components/schemas/"

    def references(node):
        if isinstance(node, dict):
            for key, value in node.items():
                if key == "$ref":
                    yield value
                else:
                    yield from references(value)
        elif isinstance(node, list):
            for value in node:
                yield from references(value)

    missing = {r for r in references(schema) if r.removeprefix(prefix) not in schema["components"]["schemas"]}
    assert not missing
