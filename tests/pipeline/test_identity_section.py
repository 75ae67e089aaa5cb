"""LLM Bandit's part of the report: learning curves as recorded, and a map that tells the truth about distances."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import vl_convert

from pipeline import evaluate, report
from pipeline.compose import load_config
from pipeline.plain_json import plain
from pipeline.reporting.identity_section import CURVES, MAP, _ellipse, identity_charts, identity_section
from pipeline.reporting.style import styled
from pipeline.train_llm_bandit import train_llm_bandit
from pipeline.training import HistoryFile, TrainingInputs
from pipeline.training_evidence import by_family, family_of, identity_map, learning_curves, training_evidence
from policies.llm_bandit.policy import LlmBanditPolicy
from policies.pool import ModelPool, ModelSpec
from tests.pipeline.evaluation_case import KindPolicy, bundle, config, outcomes, write_inputs

QUICK = (
    "policy=llm_bandit",
    "policy.identity.members=1",
    "policy.identity.identity_dim=4",
    "policy.identity.components=2",
    "policy.identity.folds=2",
    "policy.simulated_online.epochs=6",
    "policy.pretrain.steps=50",
    "policy.pretrain.batch_size=64",
    "policy.ppo.iterations=0",
)
LINES = [
    {"stage": "identity", "epoch": 1, "loss": 1.0, "score_loss": 0.7, "validation_score_loss": 0.8},
    {"stage": "identity", "epoch": 2, "loss": 0.9, "score_loss": 0.6, "validation_score_loss": 0.7},
    {"stage": "pretrain", "step": 50, "imitation_loss": 0.5, "value_loss": 0.1},
    {"stage": "ppo", "iteration": 0, "validation_reward": 0.30},
    {"stage": "ppo", "iteration": 1, "reward": 0.2, "policy_loss": 0.0, "validation_reward": 0.31},
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Policy, training rows and history of a short training."""
    folder = tmp_path_factory.mktemp("trained")
    train, validation = outcomes(300, 0), outcomes(80, 1)
    history = HistoryFile(folder / "history.jsonl")
    inputs = TrainingInputs(train, validation, train.tau_usd(), folder, history.record)
    policy = train_llm_bandit(load_config(QUICK), inputs).policy
    assert isinstance(policy, LlmBanditPolicy)
    return policy, train, folder / "history.jsonl"


@pytest.fixture
def evidence(trained):
    policy, train, history = trained
    return plain(training_evidence(history, policy, train))


def spread(metric=None, std=0.1, identity=None):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(5, 3)) if identity is None else identity
    pool = ModelPool("five", tuple(ModelSpec(f"m{k}", 1.0, 1.0) for k in range(len(vectors))))
    found = identity_map(
        vectors, np.full(vectors.shape, std), pool, metric=np.eye(3) if metric is None else metric
    )
    return vectors, found, np.array([[m["x"], m["y"]] for m in found["models"].values()])


def test_training_records_what_validation_prompts_say(trained):
    *_, history = trained
    lines = learning_curves(history)["identity"]
    assert [line["epoch"] for line in lines] == list(range(1, 7))
    # Validation prompts are half of one kind, half of the other: a fair coin's loss is what must be beaten.
    assert lines[-1]["validation_score_loss"] < np.log(2.0) < lines[0]["loss"]


def test_recording_changes_nothing_that_is_learned(trained, tmp_path):
    policy, train, _ = trained
    silent = TrainingInputs(train, outcomes(40, 7), train.tau_usd(), tmp_path, lambda line: None)
    again = train_llm_bandit(load_config(QUICK), silent).policy
    assert isinstance(again, LlmBanditPolicy)
    np.testing.assert_array_equal(again.arms.identity, policy.arms.identity)


def test_curves_are_kept_by_stage(tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in LINES))
    curves = learning_curves(path)
    assert [len(curves[stage]) for stage in ("identity", "pretrain", "ppo")] == [2, 1, 2]
    assert curves["ppo"][1]["validation_reward"] == 0.31


def test_distances_on_the_map_are_those_of_the_metric():
    # All variance of these lies in two dimensions of the metric, so the map shows all of it.
    metric = np.diag([4.0, 1.0, 0.0])
    vectors, found, places = spread(metric)
    for a in range(5):
        for b in range(5):
            difference = vectors[a] - vectors[b]
            expected = np.sqrt(difference @ metric @ difference)
            assert np.linalg.norm(places[a] - places[b]) == pytest.approx(expected)
    assert sum(found["shares"]) == pytest.approx(1.0)


def test_turning_all_vectors_and_the_metric_changes_at_most_signs():
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    metric = np.diag([4.0, 1.0, 0.1])
    vectors, _, places = spread(metric)
    _, _, turned = spread(rotation @ metric @ rotation.T, identity=vectors @ rotation.T)
    np.testing.assert_allclose(np.abs(turned), np.abs(places), atol=1e-9)


def test_the_uncertainty_is_that_of_the_posterior_in_the_plane():
    _, found, _ = spread(np.diag([4.0, 1.0, 0.0]), std=0.1)
    for body in found["models"].values():
        assert np.trace(body["covariance"]) == pytest.approx(0.01 * (4.0 + 1.0))


def test_an_ellipse_holds_its_share_of_the_posterior():
    covariance = np.array([[2.0, 0.7], [0.7, 0.5]])
    outline = _ellipse(np.array([1.0, -1.0]), covariance)
    squared = np.einsum(
        "ij,jk,ik->i", outline - [1.0, -1.0], np.linalg.inv(covariance), outline - [1.0, -1.0]
    )
    np.testing.assert_allclose(squared, -2.0 * np.log(0.05), rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("gpt-4o-mini", "gpt"),
        ("openai/GPT-4o", "gpt"),
        ("Qwen1.5-7B", "qwen"),
        ("Mixtral_8x7B", "mixtral"),
        ("7b", "7b"),
    ],
)
def test_a_family_is_the_first_word_of_the_name(name, family):
    assert family_of(ModelSpec(name, 1.0, 1.0)) == family


def test_the_pool_files_family_comes_first():
    assert family_of(ModelSpec("gpt-4o", 1.0, 1.0, family="omni")) == "omni"


def test_families_of_one_are_none():
    models = {name: {"family": name[0]} for name in ("a1", "b1", "b2", "c1", "c2", "c3")}
    assert by_family(models) == {"c": ["c1", "c2", "c3"], "b": ["b1", "b2"]}


def test_sections_are_those_of_the_charts(evidence):
    drawn = identity_charts(evidence)
    sections = "".join(identity_section(evidence, drawn))
    assert sorted(re.findall(r'id="([^"]+)"', sections)) == sorted(drawn) == [MAP, CURVES]
    assert (identity_charts(None), identity_section(None, {})) == ({}, [])


def test_the_same_evidence_gives_the_same_charts(evidence):
    again = json.loads(json.dumps(evidence, sort_keys=True))
    one, two = (
        {name: styled(c).to_dict() for name, c in identity_charts(e).items()} for e in (evidence, again)
    )
    assert json.dumps(one) == json.dumps(two)


def test_the_report_takes_the_sections_in(tmp_path, evidence):
    write_inputs(tmp_path, outcomes(4, 9))
    data = {"train": outcomes(100, 0), "test": outcomes(60, 2)}
    settings = config(tmp_path, "evaluate.bootstrap_samples=0")
    metrics = evaluate.measure(bundle(KindPolicy(), data["train"]), data, data, settings)
    assert not {MAP, CURVES} & set(report.draw(metrics))
    metrics = {**metrics, "training": evidence}
    page = report.html(metrics, report.draw(metrics))
    for name in (CURVES, MAP):
        assert page.count(f'id="{name}"') == 1


def test_charts_hold_what_was_recorded(evidence):
    drawn = {name: chart.to_dict() for name, chart in identity_charts(evidence).items()}
    shown = [row for rows in drawn[CURVES]["datasets"].values() for row in rows]
    losses = [row["value"] for row in shown if row["line"] == "scores, validation"]
    assert losses == [line["validation_score_loss"] for line in evidence["curves"]["identity"]]
    assert drawn[MAP]["layer"]
    for chart in identity_charts(evidence).values():
        assert vl_convert.vegalite_to_png(json.dumps(chart.to_dict())).startswith(b"\x89PNG")


def test_families_differ_in_shape_as_well_as_colour(evidence):
    models = {
        f"{f}-{k}": {**evidence["identity_map"]["models"]["dear"], "family": f}
        for f in "abcdefgh"
        for k in (1, 2)
    }
    drawn = identity_charts(
        {
            "curves": {"identity": [], "pretrain": [], "ppo": []},
            "identity_map": {"shares": [0.5, 0.2], "models": models},
        }
    )
    assert list(drawn) == [MAP]
    marks = next(layer for layer in drawn[MAP].to_dict()["layer"] if "shape" in layer["encoding"])
    for channel in ("shape", "color"):
        scale = marks["encoding"][channel]["scale"]
        assert len(scale["domain"]) == len(set(scale["range"])) == 7


def test_a_policy_without_vectors_has_no_evidence(tmp_path):
    assert training_evidence(tmp_path / "history.jsonl", KindPolicy(), outcomes(10, 0)) is None


def test_one_model_alone_has_a_map():
    found = identity_map(
        np.ones((1, 3)), np.ones((1, 3)), ModelPool("one", (ModelSpec("m", 1.0, 1.0),)), metric=np.eye(3)
    )
    assert (found["models"]["m"]["x"], found["shares"]) == (0.0, [0.0, 0.0])
