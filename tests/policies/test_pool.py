"""Pool files: read in both forms, refused with model, key and value."""

import pytest
import yaml

from policies.errors import InputError
from policies.pool import read_pool_file


@pytest.fixture
def pool_file(tmp_path):
    def write(content):
        path = tmp_path / "pool.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return path

    return write


PRICES = {"a": {"input": 1.0, "output": 2.0}, "b": {"input": 0.1, "output": 0.2}}


def test_short_form_with_named_pools(pool_file):
    parsed = read_pool_file(pool_file({"prices": PRICES, "pools": {"mid": ["b", "a"]}}))
    assert parsed.pool("mid").models == ("b", "a")
    assert parsed.pool("all").models == ("a", "b")


def test_cost_of_a_call(pool_file):
    spec = read_pool_file(pool_file({"prices": PRICES})).specs["a"]
    assert spec.cost_usd(1000, 500) == pytest.approx(0.002)


def test_long_form_round_trip(pool_file, tmp_path):
    body = {
        "input_price_per_mtok_usd": 3.0,
        "output_price_per_mtok_usd": 15.0,
        "context_window_tokens": 8192,
        "endpoint": "http://localhost/v1",
        "tags": ["text", "tools"],
    }
    pool = read_pool_file(pool_file({"models": {"x": body}})).pool("all")
    pool.write(tmp_path / "again.yaml")
    assert read_pool_file(tmp_path / "again.yaml").pool("all") == pool


TOOL = {"kind": "tool", "price_per_call_usd": 0.002, "tags": ["arithmetic"]}


def test_a_tool_costs_the_same_however_long_the_prompt(pool_file, tmp_path):
    pool = read_pool_file(pool_file({"models": {"calculator": TOOL}, "prices": PRICES})).pool("all")
    assert [pool.specs[0].cost_usd(tokens, tokens) for tokens in (0, 10_000)] == [0.002, 0.002]
    assert pool.prices_per_call_usd.tolist() == [0.002, 0.0, 0.0]
    pool.write(tmp_path / "again.yaml")
    assert read_pool_file(tmp_path / "again.yaml").pool("all") == pool


def test_an_api_may_ask_for_a_call_and_for_tokens(pool_file):
    body = {"input_price_per_mtok_usd": 1.0, "output_price_per_mtok_usd": 2.0, "price_per_call_usd": 0.005}
    spec = read_pool_file(pool_file({"models": {"search": {**body, "family": "web"}}})).specs["search"]
    assert spec.cost_usd(1000, 500) == pytest.approx(0.007)
    assert (spec.kind, spec.family) == ("model", "web")


def test_pools_of_models_are_written_as_before_there_were_tools(pool_file):
    written = read_pool_file(pool_file({"prices": PRICES})).pool("all").to_dict()
    assert not {"kind", "price_per_call_usd", "family"} & set(written["models"]["a"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"models": {"a": {"kind": "tool"}}}, "model 'a': key 'price_per_call_usd' is missing"),
        ({"models": {"a": {**TOOL, "kind": "person"}}}, "key 'kind': 'person'; allowed: model, tool"),
        ({"models": {"a": {**TOOL, "price_per_call_usd": -1}}}, "key 'price_per_call_usd': -1"),
        ({"models": {"a": {**TOOL, "family": ["x"]}}}, "key 'family': ['x']; allowed: a name"),
        ({"prices": {"a": {"input": -1, "output": 1}}}, "model 'a', key 'prices.input': -1"),
        ({"prices": {"a": {"input": "free", "output": 1}}}, "'free' is not a price"),
        ({"models": {"a": {"input_price_per_mtok_usd": 1}}}, "key 'output_price_per_mtok_usd' is missing"),
        ({"models": {"a": {"input_price": 1}}}, "unknown key 'input_price'"),
        ({"prices": PRICES, "pools": {"p": ["a", "z"]}}, "pool 'p': model 'z' has no price"),
        ({"prices": PRICES, "pools": {"p": ["a", "a"]}}, "names a model twice"),
        ({"prices": PRICES, "extra": 1}, "unknown section 'extra'"),
        ({}, "no model"),
        ("a: [", "not YAML"),
    ],
)
def test_refused(pool_file, content, message):
    with pytest.raises(InputError) as caught:
        read_pool_file(pool_file(content))
    assert message in str(caught.value)


def test_unknown_pool_lists_the_known_ones(pool_file):
    with pytest.raises(InputError, match="no pool 'big'; allowed: all, mid"):
        read_pool_file(pool_file({"prices": PRICES, "pools": {"mid": ["a"]}})).pool("big")


def test_missing_file():
    with pytest.raises(InputError, match="no such pool file"):
        read_pool_file("/no/pool.yaml")
