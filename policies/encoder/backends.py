"""What runs the network: PyTorch through sentence-transformers on CPU or GPU, or OpenVINO's compiled graph of it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from policies.encoder.source import EncoderSource
from policies.errors import InputError

CPU_BACKENDS = ("torch-fp32", "torch-bf16", "openvino-fp32", "openvino-bf16")
CUDA_BACKEND = "torch-cuda-fp16"
BACKENDS = (*CPU_BACKENDS, CUDA_BACKEND)

Forward = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], npt.NDArray[np.float32]]
"""(token ids, attention mask), both (b, longest) -> sentence vectors (b, d), float32."""

PROBES = (
    "What is the capital of France?",
    "Write a Python function that returns the n-th Fibonacci number, and explain its complexity.",
    "A train leaves at 14:05 and arrives at 17:50. How long is the journey in minutes?",
    "Übersetze: Der frühe Vogel fängt den Wurm.",
)
LEAST_COSINE = 0.9999
"""Lowest cosine to sentence-transformers in float32 that a backend may have on the probes."""


def choose_backend(wanted: str) -> str:
    """Return the backend to use: ``wanted``, or for ``auto`` the fastest that this machine's CPU has.

    bfloat16 is chosen only where the CPU computes in it; elsewhere it is emulated and slower than float32. A GPU is
    never chosen by itself, since the machine that decides need not be the one that encodes. All keep a cosine of
    0.9999 to float32 (int8 does not, and is not offered).

    Raises:
        InputError: an unknown backend, or one whose package is not installed.
    """
    if wanted == "auto":
        return f"{'openvino' if _has_openvino() else 'torch'}-{'bf16' if cpu_has_bf16() else 'fp32'}"
    if wanted not in BACKENDS:
        raise InputError(f"encoder.backend={wanted}: unknown; allowed: auto, {', '.join(BACKENDS)}")
    if wanted.startswith("openvino") and not _has_openvino():
        raise InputError(
            f"encoder.backend={wanted}: openvino is not installed (pip install 'tradewind[openvino]'); "
            "allowed here: torch-fp32, torch-bf16"
        )
    return wanted


def explain_backend(wanted: str, chosen: str) -> str:
    """Return in a few words why ``chosen`` is used, for the line that names it."""
    if wanted != "auto":
        return "as configured"
    if chosen != choose_backend("auto"):
        return "as the policy was trained"
    package = "OpenVINO is installed" if _has_openvino() else "OpenVINO is not installed"
    return f"{package}, this CPU {'computes' if cpu_has_bf16() else 'does not compute'} in bfloat16"


def _has_openvino() -> bool:
    return importlib.util.find_spec("openvino") is not None


def cpu_has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether the CPU multiplies bfloat16 in hardware (False where the kernel does not say)."""
    if not cpuinfo.exists():
        return False
    for line in cpuinfo.read_text().splitlines():
        if line.lower().startswith(("flags", "features")):
            return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(line.split())
    return False


def open_backend(backend: str, source: EncoderSource, *, threads: int, cache_dir: Path) -> Forward:
    """Return the forward pass of a concrete backend (see :func:`choose_backend`).

    Raises:
        InputError: the model cannot be loaded, or there is no GPU for a backend that needs one.
    """
    if backend == CUDA_BACKEND:
        return _cuda_forward(source)
    if backend.startswith("torch"):
        return _torch_forward(source, threads, bfloat16=backend.endswith("bf16"))
    return _openvino_forward(source, threads, cache_dir, bfloat16=backend.endswith("bf16"))


def default_cache_dir() -> Path:
    """Return the folder of converted graphs: ``$XDG_CACHE_HOME/tradewind``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tradewind"


def reference_vectors(source: EncoderSource, max_tokens: int) -> npt.NDArray[np.float32]:
    """Return what plain sentence-transformers makes of the probes in float32, rows normalised."""
    model = _sentence_transformer(source)
    model.max_seq_length = max_tokens
    vectors = model.encode(list(PROBES), convert_to_numpy=True, show_progress_bar=False)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _sentence_transformer(source: EncoderSource) -> Any:
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    try:
        return SentenceTransformer(str(source.folder), device="cpu", local_files_only=True).eval()
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"encoder.model={source.name}: {source.folder} cannot be loaded: {reason}") from None


def _torch_forward(source: EncoderSource, threads: int, *, bfloat16: bool) -> Forward:
    import torch

    torch.set_num_threads(threads)
    model = _sentence_transformer(source)
    if bfloat16:
        model = model.to(torch.bfloat16)

    def forward(ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            features = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
            return model(features)["sentence_embedding"].float().numpy()

    return forward


def _cuda_forward(source: EncoderSource) -> Forward:
    import torch

    if not torch.cuda.is_available():
        raise InputError(
            f"encoder.backend={CUDA_BACKEND}: PyTorch sees no CUDA device in this process; allowed here: "
            f"{', '.join(CPU_BACKENDS)}"
        )
    model = _sentence_transformer(source).half().to("cuda")

    def forward(ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            features = {
                "input_ids": torch.from_numpy(ids).cuda(),
                "attention_mask": torch.from_numpy(mask).cuda(),
            }
            return model(features)["sentence_embedding"].float().cpu().numpy()

    return forward


def _openvino_forward(source: EncoderSource, threads: int, cache_dir: Path, *, bfloat16: bool) -> Forward:
    import openvino

    core = openvino.Core()
    graph = _cached_graph(core, openvino, source, cache_dir)
    compiled = core.compile_model(
        graph,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            # Pinned encoder processes would all sit on the first core.
            "ENABLE_CPU_PINNING": False,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        },
    )
    request = compiled.create_infer_request()

    def forward(ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        return request.infer([ids, mask], share_inputs=True)[0]

    return forward


def _cached_graph(core: Any, openvino: Any, source: EncoderSource, cache_dir: Path) -> Any:
    """Return the converted network, kept on disk: conversion needs PyTorch and takes seconds, reading does not."""
    version = openvino.__version__.split("-")[0]
    folder = cache_dir / f"openvino-{version}-{source.fingerprint[:16]}"
    try:
        return core.read_model(folder / "encoder.xml")
    except RuntimeError:
        graph = _convert(openvino, source)
    staging = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        staging.mkdir(parents=True)
        openvino.save_model(graph, staging / "encoder.xml", compress_to_fp16=False)
        # Saving simplifies the graph: the first process, too, runs what the others will read. It reads its own copy:
        # another that starts beside it may be replacing the folder.
        graph = core.read_model(staging / "encoder.xml")
        shutil.rmtree(folder, ignore_errors=True)
        staging.rename(folder)
    except OSError:
        # A read-only home, or another process was first: the graph in memory serves as well.
        shutil.rmtree(staging, ignore_errors=True)
    return graph


def _convert(openvino: Any, source: EncoderSource) -> Any:
    import torch

    class Body(torch.nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.model({"input_ids": input_ids, "attention_mask": attention_mask})[
                "sentence_embedding"
            ]

    ids = torch.ones(2, 8, dtype=torch.int64)
    mask = torch.ones(2, 8, dtype=torch.int64)
    # A row with padding, lest the tracer see an all-ones mask and drop it.
    mask[0, 5:] = 0
    with torch.no_grad(), warnings.catch_warnings():
        # The tracer warns of branches on shapes; those taken here hold for every shape (checked on the probes).
        warnings.simplefilter("ignore")
        return openvino.convert_model(
            Body(_sentence_transformer(source)), example_input={"input_ids": ids, "attention_mask": mask}
        )
