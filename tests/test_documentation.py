"""What the documentation shows must be accepted by the program: stages, keys, files, flags and links.

Nothing is run here. tests/test_documented_commands.py runs the commands of README, quickstart and tutorials,
tests/serve/test_serving_page.py the curls, and the programs that ask an endpoint.
"""

import argparse
import os
import re
import runpy
import subprocess
import sys
from unittest import mock

import pytest
import ray.scripts.scripts
import ray.serve.scripts
import yaml

from pipeline.__main__ import STAGES, _parser, stage_overrides
from pipeline.compose import load_config, record_config
from pipeline.config_reference import render
from serve import admin
from serve.access import keys
from tests.documented import BLOCKS, MENTIONED, PAGES, ROOT, SHOWN, WALKED, Command, walked

PLACEHOLDERS = {
    "ADDRESS": "http://127.0.0.1:8265",
    "URL": "http://localhost:8000",
    "STAGE": "run",
    "MODE": "logged",
    "NAME": "barp",
}
"""Words of the documentation that stand for any of their kind, with one of these."""

OUTSIDE = {
    ("docker", "build"): ("-f", "-t"),
    ("docker", "push"): (),
    ("helm", "repo", "add"): (),
    ("helm", "install"): ("--version", "--namespace", "--create-namespace", "--set"),
    ("kubectl", "apply"): ("-f", "--dry-run"),
    ("kubectl", "create"): ("-f",),
    ("kubectl", "get"): ("-o",),
    ("kubectl", "port-forward"): (),
    ("export", "RAY_AUTH_MODE=disabled"): (),
}
"""Commands that no test runs, because they need an image registry, a cluster or a shell of their own, and the flags
that pages may give them. What they are about is checked: files and resources here, the contents of manifests and images
in tests/pipeline/test_manifests.py."""

OWN = {"pipeline", "benchmarks", "serve"}


def group(command: Command) -> str | None:
    """Return by which of the tests below a command is checked; None: by none."""
    words = command.words
    if words[:2] == ["python", "-m"]:
        package = words[2].partition(".")[0]
        return package if package in OWN else None
    if words[0] in ("make", "curl", "ray"):
        return words[0]
    if words[:2] == ["serve", "deploy"]:
        return "ray"
    return "outside" if any(tuple(words[: len(start)]) == start for start in OUTSIDE) else None


def of(name: str) -> list[Command]:
    """Return the commands of a group that are not run; what stands in several places is checked once."""
    run = {command for page in WALKED for command in walked(page)}
    shown = [command for command in (*MENTIONED, *SHOWN) if group(command) == name and command not in run]
    return list({" ".join(command.words): command for command in shown}.values())


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_names_its_language(block):
    assert re.fullmatch(r"bash|python|yaml|json|text", block.language), f"{block}: ```{block.language}"


@pytest.mark.parametrize("command", [*SHOWN, *MENTIONED], ids=str)
def test_a_command_is_checked_by_a_test(command):
    assert group(command), f"{command}: no test knows {command.text}"


@pytest.mark.parametrize(
    "text", ["terraform apply", "kubectl delete -f x.yaml", "python -m http.server", "git push"]
)
def test_a_command_of_another_form_would_be_told(text):
    assert group(Command("docs/page.md", 1, text)) is None


def test_the_readme_shows_the_user_stories():
    shown = " ".join(command.text for command in SHOWN if command.page == "README.md")
    assert all(f"pipeline {stage} " in shown for stage in ("run", "route", "tune"))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run that a command continues, which exists for the reader."""
    folder = tmp_path_factory.mktemp("run")
    record_config(load_config([f"run.dir={folder}"]), [f"run.dir={folder}"])
    (folder / "tune").mkdir()
    return folder


def assert_composes(words, run_dir):
    """Check what follows `python -m pipeline`: stage, flags, keys and values."""
    # [key=value] in a sentence is what may be left out.
    words = [
        PLACEHOLDERS.get(word, re.sub(r"^\[(\w+=.*)\]$", r"\1", word))
        for word in words
        if word not in ("...", "key=value")
    ]
    if words[1:] == ["--help"]:
        assert words[0] in STAGES
        return
    options = _parser().parse_args(words)
    if options.stage == "attach":
        return
    stage = options.stage
    if stage == "submit":
        assert options.address.startswith("http://")
        stage = options.job_stage
    overrides = stage_overrides(stage, options.overrides)
    load_config([re.sub(r"^(run|resume)=.*", rf"\1={run_dir}", override) for override in overrides])


@pytest.mark.parametrize("command", of("pipeline"), ids=str)
def test_a_command_of_the_pipeline_is_accepted(command, run_dir):
    words = command.words[3:]
    if len(words) > 1:
        assert_composes(words, run_dir)
    else:  # A sentence names a stage alone.
        assert {*words} <= {*STAGES, "submit", "attach"}


@pytest.mark.parametrize("command", of("make"), ids=str)
def test_a_target_of_make_exists_and_calls_what_exists(command, run_dir):
    target, *variables = command.words[1:]
    done = subprocess.run(
        ["make", "-n", target, *variables], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for called in re.findall(r"python -m (pipeline .*)", done.stdout):
        assert_composes(Command(command.page, command.line, called).words[1:], run_dir)


class ParsedError(Exception):
    """Arguments were accepted; nothing else is to happen."""


@pytest.mark.parametrize("command", of("benchmarks"), ids=str)
def test_a_benchmark_exists_and_takes_its_flags(command, monkeypatch):
    words = [PLACEHOLDERS.get(word, word) for word in command.words[3:]]
    accept = argparse.ArgumentParser.parse_args

    def parse(parser, arguments=None, namespace=None):
        accept(parser, words)
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    # Benchmarks set variables for the processes that they start.
    with mock.patch.dict(os.environ), pytest.raises(ParsedError):
        runpy.run_module(command.words[2], run_name="__main__")


@pytest.mark.parametrize("command", of("serve"), ids=str)
def test_a_tool_of_the_endpoint_does_what_it_is_asked(command, monkeypatch, capsys):
    module, words = command.words[2], [PLACEHOLDERS.get(word, word) for word in command.words[3:]]
    sent = []
    monkeypatch.setattr(admin, "_send", lambda asked: sent.append(asked) or 0)
    assert {"serve.admin": admin.main, "serve.access.keys": keys.main}[module](words) == 0
    if module == "serve.admin":
        assert [(asked.url, asked.command) for asked in sent] == [("http://localhost:8000", words[1])]
    else:
        (entry,) = yaml.safe_load(capsys.readouterr().out)
        assert (entry["name"], len(entry["sha256"])) == (words[1], 64)


@pytest.mark.parametrize("command", of("ray"), ids=str)
def test_ray_has_the_command_and_takes_its_flags(command):
    words = [word.replace("HEAD", "127.0.0.1") for word in command.words]
    program = ray.serve.scripts.cli if words[0] == "serve" else ray.scripts.scripts.cli
    if len(words) == 1:
        return
    known = program.commands[words[1]]
    if len(words) > 2:
        known.make_context(words[1], words[2:])
    assert_files_exist(words)


def assert_files_exist(words):
    for word in words:
        if word.startswith(("conf/", "docs/", "benchmarks/")):
            assert (ROOT / word).exists(), word


def resources():
    """Return the Kubernetes resources of the manifests, and the services that KubeRay makes of them."""
    for path in (ROOT / "conf" / "cluster" / "kuberay").glob("*.yaml"):
        for document in yaml.safe_load_all(path.read_text()):
            kind, name = document["kind"].lower(), document["metadata"]["name"]
            yield kind, name
            if kind in ("raycluster", "rayservice"):
                yield from (("service", f"{name}-{end}-svc") for end in ("head", "serve"))


@pytest.mark.parametrize("command", of("outside"), ids=str)
def test_a_command_that_no_test_runs_is_of_a_listed_form(command):
    words = command.words
    flags = next(flags for start, flags in OUTSIDE.items() if tuple(words[: len(start)]) == start)
    assert {word.partition("=")[0] for word in words if word.startswith("-")} <= set(flags)
    assert_files_exist(words)
    if words[:2] == ["kubectl", "port-forward"]:
        assert tuple(words[2].split("/")) in set(resources())
    if words[:2] == ["kubectl", "get"]:
        assert tuple(words[2:4]) in set(resources())


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


def test_the_site_builds_without_a_warning(tmp_path):
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(tmp_path / "site"),
    ]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "site" / "quickstart" / "index.html").exists()


@pytest.mark.parametrize(
    "page", sorted((ROOT / "docs" / "reference").glob("*.md")), ids=lambda page: page.name
)
def test_the_api_reference_names_modules_that_exist(page):
    for module in re.findall(r"^::: ([\w.]+)$", page.read_text(), re.M):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__init__.py").exists(), module
