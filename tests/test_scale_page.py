"""Fits and prices of the scale page, and that its tables are those of its measurements."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.scale_cost import (
    Assumptions,
    corpus_need,
    fitted,
    most_prompts,
    sample_need,
    serving_need,
)
from benchmarks.scale_page import render

ROOT = Path(__file__).resolve().parents[1]
FIT = {
    "start_cpu_s": 20.0,
    "exponent": 1.0,
    "exponent_se": 0.1,
    "cpu_s_at_largest": 720.0,
    "cpu_s_per_million": 3600.0,
    "wall_s_per_million": 1800.0,
    "bytes_per_prompt": 2000.0,
    "start_mb": 500.0,
    "largest": 200_000.0,
}


def planted(exponent, noise=0.0, start=20.0, per_prompt_kib=2.0):
    rng = np.random.default_rng(0)
    return [
        {
            "stage": "train",
            "prompts": n,
            "cpu_s": (start + 100.0 * (n / 200_000) ** exponent) * math.exp(noise * rng.normal()),
            "wall_s": start / 2 + n * 1e-3,
            "peak_mb": 600 + n * per_prompt_kib / 1024,
        }
        for n in (200, 2000, 20_000, 200_000)
        for _ in range(3)
    ]


@pytest.mark.parametrize("exponent", [0.7, 1.0, 2.0])
def test_start_up_and_exponent_are_recovered(exponent):
    fit = fitted(planted(exponent), "train")
    assert fit["exponent"] == pytest.approx(exponent, abs=1e-3)
    assert fit["start_cpu_s"] == pytest.approx(20.0, rel=1e-3)
    assert fit["bytes_per_prompt"] == pytest.approx(2048.0)
    assert fit["start_mb"] == pytest.approx(600.0)


def test_the_error_of_the_exponent_covers_noise():
    fit = fitted(planted(1.0, noise=0.05), "train")
    assert 0.0 < fit["exponent_se"] < 0.3
    assert abs(fit["exponent"] - 1.0) < 3.0 * fit["exponent_se"]


def test_two_sizes_are_not_enough():
    assert fitted([run for run in planted(1.0) if run["prompts"] < 20_000], "train") is None


def test_nodes_and_dollars_follow_the_formulas_of_the_page():
    given = Assumptions(node_cores=10, node_usd_per_h=1.0, hours=10.0, utilisation=0.5)
    need = corpus_need(FIT, 1_000_000_000, given)
    assert need.core_h == pytest.approx(1000.0)
    assert need.nodes == 20  # 1000 core hours / 10 h / 0.5 / 10 cores
    assert need.usd == pytest.approx(200.0)  # 2000 paid core hours of 0.1 USD
    one = sample_need(FIT, 2_000_000, given)
    assert one.core_h == pytest.approx((20.0 + 7200.0) / 3600.0)
    assert most_prompts({**FIT, "bytes_per_prompt": 0.0}, given) == math.inf


def test_known_prompts_cost_no_encoding():
    given = Assumptions(replica_requests_per_s=500.0, replica_cores=2.0, known_share=1.0)
    assert serving_need(FIT, given).core_h == pytest.approx(100_000 * 2.0 / 500.0)
    new = serving_need(FIT, Assumptions(replica_requests_per_s=500.0, replica_cores=2.0))
    assert new.core_h == pytest.approx(100_000 * (2.0 / 500.0 + 0.0036))


def test_the_replicas_rate_is_the_one_that_was_measured():
    measured = (ROOT / "docs" / "operations.md").read_text()
    assert f"ms, {Assumptions().replica_requests_per_s:.0f} |" in measured


def test_the_pages_tables_are_those_of_its_measurements():
    page = (ROOT / "docs" / "scale.md").read_text()
    done = json.loads((ROOT / "docs" / "scale.json").read_text())
    for stage, fit in done["fits"].items():
        again = fitted(done["runs"], stage)
        assert set(fit) == set(again), stage
        for name, value in again.items():
            assert fit[name] == (None if value is None else pytest.approx(value, rel=0.01, abs=0.01)), name
    assert render(page, done) == page, "run `python -m benchmarks.scale --out docs/scale.json --render`"


def test_a_page_without_places_is_refused():
    fits = dict.fromkeys(("embed", "train", "evaluate", "route"), FIT)
    run = {"stage": "train", "prompts": 1, "cpu_s": 1, "wall_s": 1, "peak_mb": 1, "other_cpus": 0.1}
    machine = {"cores": 2, "memory_gb": 24, "encoder_backend": "torch-fp32"}
    with pytest.raises(ValueError, match="no place <!-- machine -->"):
        render("empty", {"fits": fits, "runs": [run], "machine": machine})


@pytest.mark.parametrize(
    ("repeats", "others", "provisional"), [(3, 0.1, False), (2, 0.1, True), (3, 0.9, True)]
)
def test_few_runs_or_a_busy_machine_make_the_page_provisional(repeats, others, provisional):
    page = (ROOT / "docs" / "scale.md").read_text()
    done = json.loads((ROOT / "docs" / "scale.json").read_text())
    sizes = {(run["stage"], run["prompts"]): run for run in done["runs"]}
    largest = {stage: max(n for of, n in sizes if of == stage) for stage, _ in sizes}
    runs = [
        {**run, "other_cpus": others}
        for (stage, n), run in sizes.items()
        for _ in range(1 if n == largest[stage] else repeats)  # the largest size may be run once
    ]
    assert ("provisional" in render(page, {**done, "runs": runs})) is provisional
