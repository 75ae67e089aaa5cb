"""Dollar budgets through the gateway: the dearest model that can still be paid for, and no cent more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from policies.encoder import Encoder
from serve.access.keys import new_key
from tests.serve.gateway.conftest import Running, running
from tests.serve.scored import POOL, save_scored_bundle
from tests.serve.upstream import UpstreamServer

BUDGET_USD = 0.001
MAX_TOKENS = 50
"""Of which the upstream uses five: a call of ``large`` may cost 0.00077 USD and costs 0.0001 USD."""
PROMPTS = [f"Question {k}: what is {k} times {k + 1}?" for k in range(50)]

Client = Callable[[float], openai.OpenAI]


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, encoder: Encoder) -> Path:
    directory = tmp_path_factory.mktemp("scored") / "policy"
    save_scored_bundle(directory, encoder.identity)
    return directory


@pytest.fixture(scope="module")
def teams(
    prepared: None, scored: Path, upstream_server: UpstreamServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Running, dict[float, str]]]:
    """One application, and the key of a team for each budget."""
    made = {usd: new_key("team") for usd in (BUDGET_USD, 2 * BUDGET_USD, 1e-6, 0.0002)}
    keys = [entry.model_copy(update={"usd_total": usd}) for usd, (_, entry) in made.items()]
    settings: dict[str, Any] = {
        "bundle": str(scored),
        "access": {
            "keys": [key.model_dump() for key in keys],
            "state_dir": str(tmp_path_factory.mktemp("state")),
        },
        "gateway": {"upstreams": {model: {"base_url": upstream_server.url} for model in POOL.models}},
    }
    with running(settings) as app:
        yield app, {usd: token for usd, (token, _) in made.items()}


@pytest.fixture
def client(teams: tuple[Running, dict[float, str]], upstream: UpstreamServer) -> Client:
    app, tokens = teams
    return lambda usd: openai.OpenAI(base_url=f"{app.url}/v1", api_key=tokens[usd], max_retries=0)


@pytest.fixture
def app(teams: tuple[Running, dict[float, str]]) -> Running:
    return teams[0]


@pytest.fixture(scope="module")
def prompt(teams: tuple[Running, dict[float, str]]) -> str:
    """A prompt for which the policy prefers the dearest model."""
    app, tokens = teams
    inputs = [{"prompt": text, "w_cost": 0.0} for text in PROMPTS]
    headers = {"Authorization": f"Bearer {tokens[BUDGET_USD]}"}
    answers = httpx.post(f"{app.url}/v1/route", json={"inputs": inputs}, headers=headers, timeout=60).json()
    return next(text for text, answer in zip(PROMPTS, answers["answers"]) if answer["model"] == "large")


def ask(client: openai.OpenAI, prompt: str, model: str = "tradewind:0", **options: Any) -> tuple[str, str]:
    """Return the model that answers, and the decision's id."""
    raw = client.chat.completions.with_raw_response.create(
        model=model, messages=[{"role": "user", "content": prompt}], max_tokens=MAX_TOKENS, **options
    )
    return raw.headers["x-tradewind-model"], raw.headers["x-tradewind-decision-id"]


def test_a_choice_that_cannot_be_paid_for_gives_way_to_one_that_can(app, client, prompt):
    model, decision_id = ask(client(0.0002), prompt)
    record, _ = app.found(decision_id)
    assert model != "large"
    assert "large" not in record.eligible
    assert model in record.eligible
    assert record.retry_of is None


def test_with_money_the_policys_choice_answers(client, prompt):
    assert ask(client(2 * BUDGET_USD), prompt)[0] == "large"


def test_nothing_can_be_paid_for(client, prompt, upstream):
    with pytest.raises(openai.RateLimitError) as caught:
        ask(client(1e-6), prompt)
    assert caught.value.code == "budget_exceeded"
    assert upstream.seen == []


def test_a_limit_of_the_answer_makes_a_model_affordable(client, prompt):
    with pytest.raises(openai.RateLimitError):
        ask(client(0.0002), prompt, model="large")
    raw = client(0.0002).chat.completions.with_raw_response.create(
        model="large", messages=[{"role": "user", "content": prompt}], max_tokens=5
    )
    assert raw.headers["x-tradewind-model"] == "large"


def test_a_budget_is_spent_by_what_calls_cost_and_never_overspent(app, client, prompt):
    team = client(BUDGET_USD)
    ids = []
    with suppress(openai.RateLimitError):
        while len(ids) < 100:
            ids.append(ask(team, prompt, model="large")[1])
    spent = [app.found(decision_id)[1].cost_usd for decision_id in ids]
    assert all(spent)
    worst_usd = POOL.specs[0].cost_usd(len(prompt) / 4, MAX_TOKENS)
    assert BUDGET_USD - worst_usd - spent[0] < sum(spent) <= BUDGET_USD
    # What is left still does for another model.
    assert ask(team, prompt)[0] != "large"
