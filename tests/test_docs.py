"""README, docs, help texts and Makefile say the same."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import cpmae
from cpmae.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
REFERENCE = ROOT / "docs" / "reference.md"


def commands(node: Any = None, name: str = "cpmae") -> dict[str, Any]:
    """Full name to command, groups too."""
    node = node or get_command(app)
    found = {name: node}
    for short, below in getattr(node, "commands", {}).items():
        found |= commands(below, f"{name} {short}")
    return found


COMMANDS = commands()


def options(command: Any) -> set[str]:
    return {o for p in command.params for o in (*p.opts, *p.secondary_opts) if o.startswith("-")} | {"--help"}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def calls(page: Path) -> Iterator[list[str]]:
    """Every `cpmae ...` of a page, in code blocks and between backticks, as words."""
    text = page.read_text()
    for block in blocks(text, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if "cpmae" in words[:1]:
                yield words
    for code in re.findall(r"`(cpmae [^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)):
        yield shlex.split(code)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_command_and_option_on_a_page_exists(page: Path) -> None:
    for words in calls(page):
        name, rest = "cpmae", words[1:]
        while rest and f"{name} {rest[0]}" in COMMANDS:
            name, rest = f"{name} {rest[0]}", rest[1:]
        command = COMMANDS[name]
        given = {w.split("=")[0] for w in rest if w.startswith("--")}
        assert given <= options(command), f"{' '.join(words)}: {given - options(command)}"
        if hasattr(command, "commands"):
            assert given or not rest, f"{' '.join(words)}: there is no such command"


def test_there_are_commands_to_check() -> None:
    found = [words for page in PAGES for words in calls(page)]
    assert len(found) > 10
    assert {"deidentify", "verify", "demo"} <= {words[1] for words in found}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_reference_has_every_command_and_option(name: str) -> None:
    text = REFERENCE.read_text()
    sections = dict(re.findall(r"^#+ `?(cpmae[^`\n]*?)`?\n(.*?)(?=^#|\Z)", text, re.DOTALL | re.MULTILINE))
    titles = {" ".join(w for w in title.split() if w.islower()): body for title, body in sections.items()}
    assert name in titles, f"docs/reference.md has no section on {name}"
    missing = [o for o in options(COMMANDS[name]) - {"--help"} if f"`{o}" not in titles[name]]
    assert not missing, f"docs/reference.md does not document {missing} of {name}"


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = {t for page in PAGES for t in re.findall(r"\bmake (\w+)$", page.read_text(), re.MULTILINE)}
    assert {"demo", "test"} <= named
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_examples_use_names_that_exist(page: Path) -> None:
    for block in blocks(page.read_text(), "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module == "cpmae":
                assert {a.name for a in node.names} <= set(cpmae.__all__)


def test_the_reference_has_every_public_name() -> None:
    text = REFERENCE.read_text()
    missing = [name for name in cpmae.__all__ if f"`{name}" not in text]
    assert not missing


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"], ids=lambda p: p.name)
def test_links_lead_somewhere_and_words_are_ours(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)):
        assert (page.parent / target).exists(), target
    assert not re.search(r"anonymi[sz]", text, re.IGNORECASE)
