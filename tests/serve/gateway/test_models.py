"""The official client lists what it may ask for, and everything listed can be asked for."""

from __future__ import annotations

import time

import openai
import pytest

from tests.serve.gateway.conftest import MODELS


def test_the_client_lists_the_router_its_presets_and_the_pool(app, client):
    listed = [model.id for model in client.models.list()]
    presets = app.runtime.settings.routing.presets
    assert listed == ["tradewind", *(f"tradewind:{name}" for name in presets), *MODELS]


def test_a_listed_model_has_what_the_client_expects(client):
    for model in client.models.list():
        assert model.object == "model"
        assert 0 <= time.time() - model.created < 3600
        assert model.owned_by == ("three" if model.id in MODELS else "tradewind")


def test_every_listed_model_is_described_alone_as_in_the_list(client):
    for model in client.models.list():
        assert client.models.retrieve(model.id) == model


def test_a_point_of_the_dial_is_a_model(client):
    assert client.models.retrieve("tradewind:0.3").id == "tradewind:0.3"


@pytest.mark.parametrize("name", ["gpt-17", "tradewind:2", "tradewind:dear", "org/model"])
def test_an_unknown_model_is_told_as_the_provider_does(client, name):
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve(name)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_every_listed_model_answers(client):
    for model in client.models.list():
        client.chat.completions.create(model=model.id, messages=[{"role": "user", "content": "Hello"}])
