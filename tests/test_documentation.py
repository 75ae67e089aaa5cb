"""What the documentation shows must be accepted by the program: stages, keys, files and links."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from pipeline.__main__ import STAGES, stage_overrides
from pipeline.compose import load_config, record_config
from pipeline.config_reference import render

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands(page):
    """Return the `python -m pipeline` commands of the page's shell blocks, continuation lines joined."""
    blocks = re.findall(r"```(?:bash|sh|console)\n(.*?)```", page.read_text(), re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [
        line.strip().removeprefix("$ ") for line in lines if re.match(r"\s*(\$ )?python -m pipeline \w", line)
    ]


SHOWN = sorted({(page.name, command) for page in PAGES for command in commands(page)})


def test_the_readme_shows_the_user_stories():
    shown = " ".join(command for page, command in SHOWN if page == "README.md")
    assert all(f"pipeline {stage} " in shown for stage in ("run", "route", "tune"))


@pytest.mark.parametrize(("page", "command"), SHOWN)
def test_command_is_accepted(page, command, tmp_path):
    words = shlex.split(command, comments=True)[3:]
    if words[0] == "submit":
        assert words[1].startswith("http://")
        words = words[2:]
    stage, words = words[0], [word for word in words[1:] if not word.startswith("-")]
    assert stage in STAGES
    # A run that a command continues exists for the reader; here it is made.
    placed = []
    for override in stage_overrides(stage, words):
        key, _, value = override.partition("=")
        if key in ("run", "resume", "evaluate.incumbent") and "/" in value:
            folder = tmp_path / value.split("/")[-1]
            if key != "evaluate.incumbent":
                started = [f"run.dir={folder}"]
                record_config(load_config(started), started)
                (folder / "tune").mkdir(exist_ok=True)
            override = f"{key}={folder}"
        placed.append(override)
    load_config(placed)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_exist(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_configuration_reference_is_up_to_date():
    assert (ROOT / "docs" / "configuration.md").read_text() == render(), "run `make reference`"


def entries(node):
    """Yield the files of a navigation tree."""
    if isinstance(node, str):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from entries(child)


def test_every_page_is_in_the_sites_navigation():
    shown = sorted(entries(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert shown == sorted(str(page.relative_to(ROOT / "docs")) for page in PAGES[1:])


@pytest.mark.parametrize(
    "page", sorted((ROOT / "docs" / "reference").glob("*.md")), ids=lambda page: page.name
)
def test_the_api_reference_names_modules_that_exist(page):
    for module in re.findall(r"^::: ([\w.]+)$", page.read_text(), re.M):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__init__.py").exists(), module
