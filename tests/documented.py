"""The commands and programs that README and the documentation show, each with its page and line."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELL = ("bash", "sh", "console")
IN_A_SENTENCE = re.compile(r"`((?:python -m [\w.]+|make|serve deploy|ray|kubectl|helm|docker)(?: [^`]*)?)`")


@dataclass(frozen=True)
class Block:
    """A fenced block: its page relative to the repository, the line of its fence, its language and its text."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A command of a shell block, or one that stands in a sentence, with its page and line."""

    page: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def words(self) -> list[str]:
        """What the shell makes of it, remarks left out."""
        return shlex.split(self.text, comments=True)


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page."""
    found: list[Block] = []
    opened: tuple[int, str] | None = None
    text: list[str] = []
    for number, line in enumerate(page.read_text().splitlines(), start=1):
        fence = re.match(r"\s*```(.*)$", line)
        if fence and opened is None:
            opened, text = (number, fence.group(1).strip()), []
        elif fence and opened is not None:
            found.append(Block(str(page.relative_to(ROOT)), *opened, "\n".join(text) + "\n"))
            opened = None
        elif opened is not None:
            text.append(line)
    assert opened is None, f"{page}:{opened}: a block without an end"
    return found


def commands_of(block: Block) -> list[Command]:
    """Return the commands of a shell block; a line that ends in a backslash goes on in the next."""
    found: list[Command] = []
    whole, start = "", 0
    for number, line in enumerate(block.text.splitlines(), start=block.line + 1):
        start = start if whole else number
        whole += line.strip().removeprefix("$ ")
        if whole.endswith("\\"):
            whole = whole[:-1]
            continue
        if shlex.split(whole, comments=True):
            found.append(Command(block.page, start, whole))
        whole = ""
    return found


def mentioned(page: Path) -> list[Command]:
    """Return the commands that stand in sentences and cells of tables."""
    text = re.sub(
        r"^\s*```.*?^\s*```", lambda m: "\n" * m.group().count("\n"), page.read_text(), flags=re.S | re.M
    )
    return [
        Command(str(page.relative_to(ROOT)), text.count("\n", 0, found.start()) + 1, found.group(1))
        for found in IN_A_SENTENCE.finditer(text)
    ]


BLOCKS = [block for page in PAGES for block in blocks(page)]
SHOWN = [command for block in BLOCKS if block.language in SHELL for command in commands_of(block)]
MENTIONED = [command for page in PAGES for command in mentioned(page)]


README, QUICKSTART = "README.md", "docs/quickstart.md"
WALKED = (README, QUICKSTART, *(str(p.relative_to(ROOT)) for p in PAGES if p.parent.name == "tutorials"))
"""Pages of instructions, which a reader follows from top to bottom."""


def walked(page: str) -> list[Command]:
    """Return the page's commands of the pipeline that end by themselves and need no cluster.

    tests/test_documented_commands.py runs them, and `serve`; `submit` runs in tests/pipeline/test_cluster.py.
    """
    own = [c for c in SHOWN if c.page == page and c.words[:3] == ["python", "-m", "pipeline"]]
    return [command for command in own if command.words[3] not in ("submit", "serve")]
