"""API keys: made once, known by hash, found in whatever way a client sends them."""

from __future__ import annotations

import base64
import hashlib

import pytest

from policies.errors import InputError
from serve.access.keys import KeyRing, main, new_key, read_keys, token_of
from serve.settings import ServeSettings
from serve.settings.access import AccessSettings


def test_a_new_key_opens_the_door_and_tells_its_roles():
    token, key = new_key("team", ("route", "admin"))
    caller = KeyRing([key]).find(token)
    assert (caller.key_id, caller.name, caller.roles) == (key.id, "team", {"route", "admin"})


def test_the_configuration_does_not_hold_the_key():
    token, key = new_key("team")
    assert token not in key.model_dump_json()
    assert key.sha256 == hashlib.sha256(token.encode()).hexdigest()


def test_no_two_keys_are_alike():
    assert len({new_key("team")[0] for _ in range(100)}) == 100


@pytest.mark.parametrize("token", ["", "tw", "tw--", "tw-0000-x", "\udcff-a-b", "x" * 10_000])
def test_a_foreign_key_is_nobodys(token):
    assert KeyRing([new_key("team")[1]]).find(token) is None


def test_a_known_id_with_another_secret_is_nobodys():
    token, key = new_key("team")
    assert KeyRing([key]).find(token[:-1] + ("a" if token[-1] != "a" else "b")) is None


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer secret"},
        {"authorization": "bearer  secret "},
        {"authorization": "Basic " + base64.b64encode(b"anyone:secret").decode()},
        {"x-api-key": "secret"},
    ],
)
def test_where_a_key_may_stand(headers):
    assert token_of(headers) == "secret"


@pytest.mark.parametrize(
    "value", ["", "Basic !!", "Basic " + base64.b64encode(b"\xff:\xff").decode(), "Digest x"]
)
def test_a_header_without_a_key_has_none(value):
    assert not token_of({"authorization": value})


def test_the_command_prints_a_key_once_and_its_entry(capsys, tmp_path):
    assert main(["new", "team one", "--role", "admin"]) == 0
    printed = capsys.readouterr()
    token = printed.err.split()[-1]
    path = tmp_path / "keys.yaml"
    path.write_text(printed.out)
    caller = read_keys(AccessSettings(keys_file=str(path))).find(token)
    assert (caller.name, caller.roles) == ("team one", {"admin"})
    assert token not in printed.out


def test_without_keys_the_door_stands_open():
    assert read_keys(AccessSettings()) is None


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("", "has no keys"),
        ("- {", "not YAML"),
        ("- id: abcd\n  sha256: tw-abcd-secret\n", "0.name: Field required"),
    ],
)
def test_a_bad_keys_file_is_named_and_not_quoted(tmp_path, body, said):
    path = tmp_path / "keys.yaml"
    path.write_text(body)
    with pytest.raises(InputError) as caught:
        read_keys(AccessSettings(keys_file=str(path)))
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_missing_keys_file_is_named(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_keys(AccessSettings(keys_file=str(tmp_path / "none.yaml")))


def test_an_id_twice_is_refused():
    key = new_key("team")[1]
    with pytest.raises(InputError, match=key.id):
        KeyRing([key, key])


def test_a_budget_needs_somewhere_to_be_remembered():
    entry = new_key("team")[1].model_copy(update={"usd_per_day": 1.0})
    with pytest.raises(InputError, match="state_dir"):
        read_keys(AccessSettings(keys=(entry,)))


def test_a_key_in_place_of_its_hash_is_not_quoted():
    token, key = new_key("team")
    entry = {**key.model_dump(), "sha256": token}
    with pytest.raises(InputError) as caught:
        ServeSettings.parse({"bundle": "x", "access": {"keys": [entry]}})
    assert token not in str(caught.value)
    assert "access.keys.0.sha256" in str(caught.value)


def test_burst_without_a_rate_is_refused():
    entry = {**new_key("team")[1].model_dump(), "burst": 3}
    with pytest.raises(InputError, match="requests_per_s"):
        ServeSettings.parse({"bundle": "x", "access": {"keys": [entry]}})
