"""Where a run keeps what its stages hand to each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.config import TradewindConfig
from policies.errors import InputError


@dataclass(frozen=True)
class RunLayout:
    """Files of one run folder."""

    root: Path

    @classmethod
    def of(cls, config: TradewindConfig) -> RunLayout:
        """Return the layout of the configured run."""
        return cls(config.run.path)

    @property
    def prompts(self) -> Path:
        """Checked prompts table (written by ingest)."""
        return self.root / "tables" / "prompts.parquet"

    @property
    def outcomes(self) -> Path:
        """Checked outcomes table of the pool's models (written by ingest, full tables only)."""
        return self.root / "tables" / "outcomes.parquet"

    @property
    def splits(self) -> Path:
        """``prompt_id, split`` with split one of train, validation, test, ood (written by ingest)."""
        return self.root / "tables" / "splits.parquet"

    @property
    def feedback(self) -> Path:
        """Feedback log (written by ingest from a given log, or by simulate)."""
        return self.root / "tables" / "feedback.parquet"

    @property
    def comparisons(self) -> Path:
        """Checked comparisons between models of the pool (written by ingest where ``data.comparisons`` names some)."""
        return self.root / "tables" / "comparisons.parquet"

    @property
    def embeddings(self) -> Path:
        """Folder of the run's embeddings table (written by embed)."""
        return self.root / "embeddings"

    @property
    def policy(self) -> Path:
        """Policy artifact (written by train)."""
        return self.root / "policy"

    @property
    def history(self) -> Path:
        """Training metrics, one JSON object an epoch (written by train)."""
        return self.root / "history.jsonl"

    @property
    def metrics(self) -> Path:
        """What evaluate measured."""
        return self.root / "metrics.json"

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.root / "report.html"

    @property
    def log_report(self) -> Path:
        """The HTML report of an evaluation on a log, where ``report`` holds that of a full table."""
        return self.root / "log_report.html"

    @property
    def picture(self) -> Path:
        """The cost-quality picture as PNG."""
        return self.root / "report.png"

    @property
    def decisions(self) -> Path:
        """Decisions of route, unless ``output`` names another file."""
        return self.root / "decisions.parquet"

    @property
    def registered(self) -> Path:
        """Model name, version and alias (written by register)."""
        return self.root / "registered.json"

    def need(self, path: Path, stage: str) -> Path:
        """Return ``path``.

        Raises:
            InputError: it does not exist yet; the message names the stage that writes it.
        """
        if not path.exists():
            raise InputError(f"{path}: missing; run `python -m pipeline {stage} run.dir={self.root}` first")
        return path
