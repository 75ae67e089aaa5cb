"""Settings of the decision log."""

from __future__ import annotations

import tempfile
import uuid
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class DecisionLogSettings(BaseModel):
    """Where decisions and outcomes are kept, how safely and how long."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    directory: str | None = Field(
        default=None,
        description="folder of the node's own disk for the journal that its replicas share; null keeps decisions "
        "for feedback and sessions in a temporary folder of the replica, and exports nothing",
    )
    export: bool = Field(default=True, description="write the Parquet log, where there is a directory")
    export_directory: str | None = Field(
        default=None,
        description="folder of the Parquet log, may be shared by nodes; null means 'export' in the directory",
    )
    synchronous: Literal["normal", "full"] = Field(
        default="normal",
        description="'normal' survives the death of any process, 'full' also a power cut: one fsync a commit",
    )
    prompts: bool = Field(default=False, description="keep the routed texts")
    embeddings: bool = Field(default=False, description="keep the vectors that decisions were made on")
    export_interval_s: float = Field(default=30.0, gt=0.0, description="how often changed files are written")
    rows_per_file: int = Field(
        default=10_000, ge=1, description="decisions of one Parquet file; fixed when the journal is made"
    )
    retention_s: float = Field(
        default=7 * 86_400.0,
        gt=0.0,
        description="exported decisions leave the journal after that long, and feedback comes too late",
    )
    max_rows: int = Field(
        default=2_000_000, ge=1, description="exported decisions leave earlier beyond so many"
    )
    id_key_env: str = Field(
        default="TRADEWIND_DECISION_ID_KEY",
        description="environment variable with the key that signs decision ids, the same on every node; "
        "unset, each journal makes its own",
    )

    def shared(self) -> DecisionLogSettings:
        """Return settings under which several replicas of a node find each other's decisions.

        Without a directory that is a folder in the system's own for temporary files, which is not exported.
        """
        if self.directory is not None:
            return self
        folder = Path(tempfile.gettempdir()) / f"tradewind-journal-{uuid.uuid4().hex[:12]}"
        return self.model_copy(update={"directory": str(folder), "export": False})
