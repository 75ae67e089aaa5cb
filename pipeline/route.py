"""Batch routing: the decisions of a policy artifact for every prompt of a table, over the dial."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy
from ray.exceptions import RayError

from pipeline.cluster import ray_session, user_error
from pipeline.config import TradewindConfig
from pipeline.console import progress, say
from pipeline.embed import embed_table
from pipeline.embedding_table import same_vectors, to_arrow_vectors, to_matrix
from pipeline.layout import RunLayout
from pipeline.tables import read_table, write_parts
from policies.base import Policy
from policies.bundle import EncoderIdentity, RouterBundle
from policies.costs import estimate_prompt_tokens
from policies.encoder import encoder_identity
from policies.errors import InputError
from policies.preference import dial_grid, preferences_from_w_cost
from policies.schemas import DECISIONS, PROMPTS

FloatArray = npt.NDArray[np.float64]

LEAST_BLOCK_ROWS = 1024
"""Prompts for which it is worth starting another process."""

ROW_GROUP_ROWS = 65_536
"""Decisions that are put together and written at a time: to touch new memory for all costs more than to write them."""


def run(config: TradewindConfig) -> None:
    """Write the decisions table: every prompt at every dial setting, in prompt order, then by ``w_cost``.

    The prompts are those of ``data.prompts``, or the run's own when that is null. With
    ``route.decision=greedy`` the most probable model is called for sure (``probability`` 1); with ``sample``
    it is drawn, repeatably for a ``run.seed`` and a prompt id whatever the blocks, and ``probability`` is the
    policy's.

    Raises:
        InputError: no policy yet, a bad prompts table, an output that cannot be written, or an encoder other
            than the one that the policy was trained on.
    """
    layout = RunLayout.of(config)
    bundle = RouterBundle.load(layout.need(layout.policy, "train"))
    output = config.output or str(layout.decisions)
    _check_output(output)
    identity = matching_encoder(bundle.encoder, config)
    prompts = read_table(
        PROMPTS,
        config.data.prompts or str(layout.need(layout.prompts, "ingest")),
        columns=config.data.columns.prompts if config.data.prompts else None,
    )
    w_costs = np.array(config.route.w_costs, dtype=np.float64) if config.route.w_costs else dial_grid()
    w_costs = np.unique(w_costs)
    with ray_session(config):
        vectors = embed_table(prompts, config, identity).vectors
        actions, probabilities = _decide_all(prompts, vectors, w_costs, layout.policy, config)
    decided = decisions_tables(
        prompts["prompt_id"], w_costs, actions, probabilities, bundle.policy.models, bundle.policy_version
    )
    write_parts(decided, DECISIONS.schema, output)
    say(f"route: {prompts.num_rows} prompts x {len(w_costs)} settings by {bundle.policy_version} -> {output}")


def matching_encoder(trained_on: EncoderIdentity, config: TradewindConfig) -> EncoderIdentity:
    """Return the configured encoder, checked to be the policy's; ``encoder.backend=auto`` means the policy's.

    Raises:
        InputError: other weights, another backend or another cut.
    """
    encoder = config.encoder
    backend = trained_on.backend if encoder.backend == "auto" else encoder.backend
    found = encoder_identity(encoder.model, backend, encoder.max_tokens)
    if not same_vectors(found, trained_on):
        raise InputError(
            f"encoder: the configuration gives {_brief(found)}, but the policy was trained on "
            f"{_brief(trained_on)}; allowed: the policy's own encoder"
        )
    return found


def decide(
    policy: Policy,
    vectors: npt.NDArray[np.floating],
    prompt_tokens: FloatArray,
    w_costs: FloatArray,
    uniforms: FloatArray | None,
) -> tuple[npt.NDArray[np.int16], FloatArray]:
    """Return the called model's column and its probability, both of shape (n, n_settings).

    Args:
        policy: the decision rule.
        vectors: shape (n, d).
        prompt_tokens: shape (n,), estimated lengths.
        w_costs: shape (n_settings,), the dial.
        uniforms: shape (n, n_settings) in [0, 1), what a sampled model is drawn with; None decides greedily.
    """
    n = len(vectors)
    actions = np.empty((n, len(w_costs)), dtype=np.int16)
    probabilities = np.ones((n, len(w_costs)), dtype=np.float64)
    dial = preferences_from_w_cost(w_costs)
    for j, given in enumerate(policy.over_dial(vectors, dial, prompt_tokens=prompt_tokens)):
        if uniforms is None:
            actions[:, j] = given.argmax(axis=1)
            continue
        edges = given.cumsum(axis=1)
        # Scaled to the last edge, so that rounding cannot push a draw past the last possible model.
        drawn = (uniforms[:, j, None] * edges[:, -1:] < edges).argmax(axis=1)
        actions[:, j] = drawn
        probabilities[:, j] = given[np.arange(n), drawn]
    return actions, probabilities


def repeatable_uniforms(prompt_ids: list[str], w_costs: FloatArray, seed: int) -> FloatArray:
    """Return numbers in [0, 1), shape (n, n_settings), each a function of seed, prompt id and setting alone."""
    salt = seed.to_bytes(8, "little")
    keys = b"".join(hashlib.blake2b(i.encode(), digest_size=8, key=salt).digest() for i in prompt_ids)
    key = np.frombuffer(keys, dtype="<u8")
    setting = _splitmix64(np.asarray(w_costs, dtype=np.float64).view(np.uint64))
    mixed = _splitmix64(key[:, None] ^ setting[None, :])
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def decisions_tables(
    prompt_ids: pa.ChunkedArray,
    w_costs: FloatArray,
    actions: npt.NDArray[np.int16],
    probabilities: FloatArray,
    models: tuple[str, ...],
    policy_version: str,
) -> Iterator[pa.Table]:
    """Yield the decisions, prompt by prompt, each over all settings, in tables of a row group each."""
    n, n_settings = actions.shape
    names = pa.array(models, pa.string())
    prompts = max(ROW_GROUP_ROWS // n_settings, 1)
    for start in range(0, n, prompts):
        part = slice(start, start + prompts)
        ids = prompt_ids.slice(start, prompts)
        columns = [
            ids.take(pa.array(np.repeat(np.arange(len(ids)), n_settings))),
            pa.array(np.tile(w_costs, len(ids))),
            names.take(pa.array(actions[part].reshape(-1))),
            pa.array(probabilities[part].reshape(-1)),
            pa.repeat(pa.scalar(policy_version, pa.string()), len(ids) * n_settings),
        ]
        yield pa.table(columns, schema=DECISIONS.schema)


class BlockRouter:
    """An actor that decides blocks of prompts over the dial."""

    def __init__(self, policy_dir: Path, w_costs: FloatArray, seed: int | None) -> None:
        self._policy = RouterBundle.load(policy_dir).policy
        self._w_costs = w_costs
        self._seed = seed

    def __call__(self, block: pa.Table) -> pa.Table:
        """Return ``row, action`` of a block of ``row, prompt_tokens, embedding``.

        To draw, it reads ``prompt_id`` too and returns the ``probability`` of what was drawn.
        """
        uniforms = None
        if self._seed is not None:
            uniforms = repeatable_uniforms(block["prompt_id"].to_pylist(), self._w_costs, self._seed)
        vectors = to_matrix(block["embedding"]).astype(np.float32, copy=False)
        tokens = block["prompt_tokens"].to_numpy()
        actions, probabilities = decide(self._policy, vectors, tokens, self._w_costs, uniforms)
        decided = {"row": block["row"], "action": to_arrow_vectors(actions)}
        if self._seed is not None:
            decided["probability"] = to_arrow_vectors(probabilities)
        return pa.table(decided)


def _decide_all(
    prompts: pa.Table,
    vectors: npt.NDArray[np.floating],
    w_costs: FloatArray,
    policy_dir: Path,
    config: TradewindConfig,
) -> tuple[npt.NDArray[np.int16], FloatArray]:
    n = prompts.num_rows
    seed = config.run.seed if config.route.decision == "sample" else None
    columns = {
        "row": np.arange(n),
        "prompt_tokens": estimate_prompt_tokens(prompts["prompt"].to_pylist()),
        "embedding": to_arrow_vectors(vectors),
    }
    if seed is not None:
        columns["prompt_id"] = prompts["prompt_id"]
    table = pa.table(columns)
    cpus = max(int(ray.cluster_resources().get("CPU", 1)), 1)
    # A block's way there and back takes longer than its decisions where it is small; a small table serves all actors,
    # but for a few prompts a process takes longer to start than to decide.
    size = min(config.route.block_rows, max(-(-n // cpus), LEAST_BLOCK_ROWS))
    blocks = [table.slice(start, size) for start in range(0, n, size)]
    decided = ray.data.from_arrow(blocks).map_batches(
        BlockRouter,
        fn_constructor_args=(policy_dir, w_costs, seed),
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=min(cpus, len(blocks))),
        num_cpus=1,
    )
    actions = np.empty((n, len(w_costs)), dtype=np.int16)
    probabilities = np.ones((n, len(w_costs)), dtype=np.float64)
    with progress(n, "route", unit="prompt") as bar:
        try:
            for part in decided.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                rows = part["row"].to_numpy()
                actions[rows] = to_matrix(part["action"])
                if seed is not None:
                    probabilities[rows] = to_matrix(part["probability"])
                bar.update(len(rows))
        except RayError as error:
            raise user_error(error) from error
    return actions, probabilities


def _splitmix64(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return well-mixed bits of each number (Steele, Lea and Flood 2014, finaliser of SplitMix64)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _check_output(output: str) -> None:
    if not output.endswith(".parquet") and "." in output.rpartition("/")[2]:
        raise InputError(f"output={output}: decisions are written as Parquet; allowed: a name in .parquet")
    if "://" in output:
        return
    try:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"output={output}: the folder cannot be made: {error.strerror}") from None
    if Path(output).is_dir():
        raise InputError(f"output={output}: is a folder; allowed: a file name")


def _brief(who: EncoderIdentity) -> str:
    return f"weights {who.weights_sha256[:12]}, {who.backend}, {who.max_tokens} tokens"
