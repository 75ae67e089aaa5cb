"""A calculator and a code runner as arms: what they really do, and that a policy learns when to call them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import HashingVectorizer

from pipeline import ingest
from pipeline.compose import load_config
from pipeline.example import EXAMPLE_MODELS, ExamplePrompt, generate_example, write_prompts
from pipeline.example.calculator import NotArithmeticError, calculate, evaluate
from pipeline.example.code_runner import NotRunnableError, execute, run_program
from pipeline.example.outcomes import simulate_outcomes
from pipeline.example.tools import run_tools
from pipeline.train_llm_bandit import train_llm_bandit
from pipeline.training import TrainingInputs
from policies.base import greedy
from policies.costs import CostModel
from policies.datasets import OutcomeMatrix
from policies.errors import InputError
from policies.llm_bandit.policy import LlmBanditPolicy
from policies.pool import ModelPool, read_pool_file
from policies.preference import preferences_from_w_cost, reward

QUICK = (
    "policy=llm_bandit",
    "policy.identity.members=1",
    "policy.identity.identity_dim=6",
    "policy.identity.components=16",
    "policy.identity.folds=2",
    "policy.identity.batch_size=32",
    "policy.identity.lr=1e-2",
    "policy.simulated_online.hidden=32",
    "policy.simulated_online.loading_decay=0.1",
    "policy.simulated_online.epochs=80",
    "policy.set.head=arm",
    "policy.pretrain.steps=80",
    "policy.pretrain.batch_size=256",
    "policy.ppo.iterations=0",
)

integers = st.integers(min_value=-999, max_value=999)


@given(integers, integers, integers.filter(bool))
def test_expressions_are_exact(a, b, c):
    assert evaluate(f"({a} + {b}) * 2 - {a} / {c}") == (a + b) * 2 - Fraction(a, c)


@pytest.mark.parametrize(
    ("prompt", "value"),
    [
        ("Compute 12 + 3 * 4.", 24),
        ("What is (1,000 - 1) ÷ 3? Show your working.", 333),
        ("Work out 12.5 percent of 1,048.", 131),
        ("Find the remainder when 7^222 is divided by 11.", pow(7, 222, 11)),
        ("Add the fractions 1/2, 1/3 and 1/6 and give the result in lowest terms.", 1),
        ("What is the least common multiple of 4, 6 and 10?", 60),
        ("0.1 + 0.2 = ?", Fraction(3, 10)),
    ],
)
def test_arithmetic_is_found_in_a_prompt(prompt, value):
    assert calculate(prompt) == value


@pytest.mark.parametrize(
    "prompt",
    [
        "Translate 'good morning' into Dutch.",
        "What is 5 / 0?",
        "What is 9^9^9^9?",
        "Find the remainder when 0x10 is divided by 3.",
        "Find the remainder when 1e999999999 is divided by 3.",
        "What is the greatest common divisor of 1/2 and 3?",
        "What is the least common multiple of " + ", ".join(str(10**9 + n) for n in range(600)) + " and 7?",
        "Compute " + "1+" * 5000 + "1",
        "An arithmetic sequence begins 3, 7, 11, 15, ... What is the sum of its first 9 terms?",
    ],
)
def test_what_cannot_be_calculated_is_said_at_once(prompt):
    with pytest.raises(NotArithmeticError):
        calculate(prompt)


@pytest.mark.parametrize("text", ["__import__('os')", "(1).real", "[1][0] + 1", "f(3) + 1", "True + 1"])
def test_nothing_but_arithmetic_is_evaluated(text):
    with pytest.raises(NotArithmeticError):
        evaluate(text)


def test_a_program_is_run():
    assert run_program("What is printed?\n```python\nx = 6\nprint(x * 7)\n```") == "42"


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("print(1 / 0)", "status 1"),
        ("x = bytearray(2**31)", "status 1"),
        ("print('a' * 10**6)", "status"),
        ("import socket; socket.socket()", "status 1"),
        ("import os; os.system('true')", "status 1"),
        ("open('/etc/passwd').read()", "status 1"),
        ("import sys; open(sys.base_prefix + '/..' * 9 + '/etc/passwd').read()", "status 1"),
        ("import os; os.open(os.__file__, os.O_WRONLY)", "status 1"),
    ],
)
def test_a_program_that_reaches_beyond_its_means_is_ended(program, why):
    with pytest.raises(NotRunnableError, match=why):
        execute(program)


def test_a_program_without_end_is_ended(monkeypatch):
    monkeypatch.setattr("pipeline.example.code_runner.WALL_S", 0.5)
    with pytest.raises(NotRunnableError, match="still running"):
        execute("while True: pass")


def test_prompts_without_a_program_are_refused():
    with pytest.raises(NotRunnableError, match="no Python program"):
        run_program("```javascript\nconsole.log(1)\n```")


def test_the_calculator_agrees_with_answers_computed_apart():
    prompts = [p for p in write_prompts(1400, 3) if p.family == "arithmetic"]
    solved = [p for p in prompts if "sequence" not in p.prompt]
    assert all(p.answer is not None for p in prompts)
    assert [p.prompt for p in solved if calculate(p.prompt) != p.answer] == []


def test_a_tool_that_was_asked_in_vain_is_paid_all_the_same():
    prompts = [p for p in write_prompts(28, 0) if p.family in ("arithmetic", "translation")]
    rows = run_tools(prompts, {"calculator": 2e-6})
    vain = rows.filter(pl.col("prompt_id").is_in([p.prompt_id for p in prompts if p.family == "translation"]))
    assert set(vain["score"]) == {0.0}
    assert set(rows["cost_usd"]) == {2e-6}


def test_a_tool_never_called_is_expected_to_cost_its_price():
    data = table(("swift-8b", "calculator"), [p for p in write_prompts(28, 0) if p.family in FAMILIES])
    unseen = replace(data, costs_usd=np.where([True, False], data.costs_usd, np.nan))
    for known in (data, unseen):
        expected = CostModel.fit(known).expected_costs_usd(np.array([10.0, 5000.0]), 2)
        assert expected[:, 1] == pytest.approx([2e-6, 2e-6])


def test_tools_leave_the_models_as_they_are():
    prices = {"swift-8b": (0.1, 0.35)}
    more = generate_example(28, 0, prices, tools={"calculator": 1e-6})
    assert more.outcomes.filter(pl.col("model") != "calculator").equals(
        generate_example(28, 0, prices).outcomes
    )


def test_an_unknown_tool_is_named():
    with pytest.raises(
        InputError, match="'oracle' is not in the example; known tools: calculator, code_runner"
    ):
        run_tools([], {"oracle": 1.0})


@dataclass(frozen=True)
class Routed:
    policy: LlmBanditPolicy
    test: OutcomeMatrix
    tau_usd: float

    def chosen(self, w_cost: float, *, tools: bool = True) -> np.ndarray:
        w = preferences_from_w_cost(w_cost, len(self.test))
        eligible = np.array([tools or spec.kind == "model" for spec in self.test.pool.specs])
        mask = np.broadcast_to(eligible, self.test.scores.shape)
        tokens = self.test.prompt_tokens
        p = self.policy.action_probabilities(self.test.embeddings, w, mask, prompt_tokens=tokens)
        return greedy(p).astype(bool)

    def share(self, model: str, prompts: np.ndarray, w_cost: float) -> float:
        return float(self.chosen(w_cost)[prompts, self.policy.models.index(model)].mean())

    def mean_reward(self, w_cost: float, *, tools: bool = True) -> float:
        w = preferences_from_w_cost(w_cost, len(self.test))
        paid = reward(self.test.scores, self.test.costs_usd, w, self.tau_usd)
        return float(paid[self.chosen(w_cost, tools=tools)].mean())


FAMILIES = ("arithmetic", "code_reading", "translation", "extraction")
POOL_FILE = Path(__file__).parents[2] / "conf" / "pools" / "example.yaml"


def table(models: tuple[str, ...], prompts: list[ExamplePrompt]) -> OutcomeMatrix:
    """The outcomes of some arms; words hashed to vectors stand for the encoder."""
    specs = tuple(read_pool_file(POOL_FILE).specs[name] for name in models)
    prices = {
        s.name: (s.input_price_per_mtok_usd, s.output_price_per_mtok_usd) for s in specs if s.kind == "model"
    }
    rows = simulate_outcomes(prompts, 0, prices, EXAMPLE_MODELS)
    rows = pl.concat(
        [rows, run_tools(prompts, {s.name: s.price_per_call_usd for s in specs if s.kind == "tool"})]
    )
    words = HashingVectorizer(n_features=256, token_pattern=r"[a-z]+|[^\w\s]", alternate_sign=False)
    scores, costs, tokens = (
        np.stack([rows.filter(model=m)[name].cast(pl.Float64).to_numpy() for m in models], axis=1)
        for name in ("score", "cost_usd", "completion_tokens")
    )
    return OutcomeMatrix(
        np.array([p.prompt_id for p in prompts]),
        np.array([p.family for p in prompts]),
        ModelPool("some", specs),
        words.transform([p.prompt for p in prompts]).toarray().astype(np.float32),
        np.array([len(p.prompt) / 4 for p in prompts]),
        scores,
        costs,
        tokens,
    )


@pytest.fixture(scope="module")
def routed(tmp_path_factory):
    """LLM Bandit over four models and both tools."""
    models = ("atlas-large", "coder-32b", "reason-24b", "swift-8b", "calculator", "code_runner")
    data = table(models, [p for p in write_prompts(980, 0) if p.family in FAMILIES])
    part = np.arange(len(data)) % 5
    train, validation, test = data.rows(part < 3), data.rows(part == 3), data.rows(part == 4).complete()
    tau_usd = train.tau_usd()
    inputs = TrainingInputs(train, validation, tau_usd, tmp_path_factory.mktemp("scratch"), lambda line: None)
    policy = train_llm_bandit(load_config(QUICK), inputs).policy
    assert isinstance(policy, LlmBanditPolicy)
    return Routed(policy, test, tau_usd)


def test_arithmetic_goes_to_the_calculator_and_programs_to_the_runner(routed):
    for tool, task in (("calculator", "arithmetic"), ("code_runner", "code_reading")):
        asked = routed.test.tasks == task
        assert routed.share(tool, asked, 0.3) > 0.6
        assert routed.share(tool, ~asked, 0.3) < 0.05


def test_the_same_policy_earns_less_without_the_tools(routed):
    assert routed.mean_reward(0.3) > routed.mean_reward(0.3, tools=False) + 0.01


def test_ingest_runs_the_tools_that_the_pool_names(tmp_path):
    for name, expected in (("tools", {"calculator", "code_runner"}), ("default", set())):
        run_dir = tmp_path / name
        ingest.run(load_config([f"pool.name={name}", f"run.dir={run_dir}", "data.example.n_prompts=200"]))
        outcomes = pl.read_parquet(run_dir / "tables" / "outcomes.parquet")
        assert set(outcomes["model"]) - set(EXAMPLE_MODELS) == expected
        assert outcomes.filter(~pl.col("model").is_in(list(EXAMPLE_MODELS)))["score"].null_count() == 0
