"""README, docs, help texts and Makefile say the same."""

import ast
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import dicom_phantom
import nibabel as nib
import numpy as np
import pytest
from typer.main import get_command

import cpmae
from cpmae.brain import COMMAND, EXTRACTORS
from cpmae.cli import EXAMPLE, app
from cpmae.leased import TEMPORARY

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


def shell_calls(block: str) -> Iterator[list[str]]:
    """Every `cpmae ...` of a shell script as words: loops, pipes, redirections and comments are no part of it."""
    for line in block.replace("\\\n", " ").splitlines():
        reader = shlex.shlex(line, posix=True, punctuation_chars=True)
        reader.whitespace_split = True
        words: list[str] = []
        for word in (*reader, ";"):
            if not set(word) <= set("();&|"):
                words.append(word)
                continue
            while words and words[0] in ("do", "then", "else", "if", "while", "!", "$"):
                del words[0]
            if "cpmae" in words[:1]:
                ends = [place for place, found in enumerate(words) if set(found) <= set("<>")]
                yield words[: min(ends, default=None)]
            words = []


def calls(page: Path) -> Iterator[list[str]]:
    """Every `cpmae ...` of a page, in code blocks and between backticks, as words."""
    text = page.read_text()
    for block in blocks(text, "sh"):
        yield from shell_calls(block)
    for code in re.findall(r"`(cpmae [^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)):
        yield shlex.split(code)


def parse(words: list[str]) -> dict[str, Any]:
    """What the command would be called with. Nothing runs.

    Raises:
        SystemExit: with 2, as the command ends where its words are wrong.
    """
    values: dict[str, Any] = {}
    top = get_command(app)
    for found in commands(top).values():
        if not hasattr(found, "commands"):
            found.callback = lambda found=found, **given: values.update(given, command=found)
    with pytest.raises(SystemExit) as ended:
        top.main(words[1:], words[0])
    if ended.value.code:
        raise ended.value
    for parameter in values.pop("command", top).params:
        value, said = values.get(parameter.name), getattr(parameter, "help", None) or ""
        if parameter.name == "brain_extractor" and value not in (None, *EXTRACTORS):
            assert value.startswith(COMMAND) and "{input}" in value and "{mask}" in value, value
        if value and "separated by commas" in said and not said.endswith("..."):
            assert set(value.split(",")) <= set(re.split(", |: | and ", said.rstrip("."))), f"{value}: {said}"
    return values


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_command_line_in_a_block_would_be_taken(page: Path) -> None:
    for block in blocks(page.read_text(), "sh"):
        found = list(shell_calls(block))
        assert len(found) == len(re.findall(r"(?<![\w./-])cpmae ", block)), f"some are not seen:\n{block}"
        for words in found:
            parse(words)


SCRIPT = """\
for scan in sub-*_T1w.nii.gz; do  # cpmae is called here
  [ -e "deid/$scan" ] || cpmae deidentify "$scan" \\
    "deid/$scan" --picture "check/${scan%.nii.gz}.png" --json > "check/$scan.json" || echo "$scan" >> failed.txt
done
cpmae verify scan.nii.gz result.nii.gz --json | grep ok && cpmae bids study out group; echo $(cpmae demo)
cpmae bids study out participant --n-procs 4 --placement raw --participant-label 01 02
cpmae evaluate sensitivity my-scans --out results --attackers SQN,dlib
cpmae deidentify scan.nii.gz result.nii.gz --region face --brain-extractor 'command:bet {input} {mask} -m'
"""


def test_command_lines_are_found_in_scripts() -> None:
    found = [parse(words) for words in shell_calls(SCRIPT)]
    assert len(found) == 7
    assert found[0]["as_json"] and str(found[0]["picture"]) == "check/${scan%.nii.gz}.png"
    assert found[4]["participant_label"] == ["01", "02"] and found[4]["n_procs"] == 4


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("study out participant", "out participant study"),
        ("out group", "group out"),
        ("--n-procs 4", "--n-procs many"),
        ("--n-procs 4", "--n-procs 0"),
        ("--placement raw", "--placement upside-down"),
        ("--region face", "--region nose"),
        ("--region face", "--margin-mm 31"),
        ("--region face", "--seed -1"),
        ('"deid/$scan" --pic', "--pic"),
        ("--picture", "--portrait"),
        ("scan.nii.gz result.nii.gz --json", "scan.nii.gz"),
        ("scan.nii.gz result.nii.gz --json", "scan.nii.gz result.nii.gz mask.nii.gz"),
        ("cpmae verify", "cpmae prove"),
        ("cpmae demo", "cpmae demo a b"),
        ("sensitivity my-scans", "my-scans sensitivity"),
        ("--out results", ""),
        ("SQN,dlib", "SQN,eyes"),
        ("command:bet", "bet"),
        ("{mask} -m", "-m"),
    ],
)
def test_command_lines_that_are_wrong_are_found(right: str, wrong: str) -> None:
    assert SCRIPT.count(right) == 1
    with pytest.raises((SystemExit, AssertionError)):
        for words in shell_calls(SCRIPT.replace(right, wrong)):
            parse(words)


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


def test_the_folders_that_a_kill_leaves_are_named() -> None:
    assert f"`{TEMPORARY}*`" in (ROOT / "docs/how-to.md").read_text()


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


def section(page: str, title: str) -> list[str]:
    """The shell blocks of a page below that heading."""
    text = (ROOT / page).read_text()
    found = re.search(rf"^#+ {title}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found, f"{page} has no section {title}"
    return blocks(found[1], "sh")


@pytest.fixture(scope="module")
def head() -> Any:
    """The packaged head at 3 mm, as int16."""
    with resources.as_file(resources.files("cpmae") / "weights" / EXAMPLE) as path:
        image: Any = nib.load(path)
    stored = np.ascontiguousarray(np.asarray(image.dataobj)[::3, ::3, ::3]).astype(np.int16)
    return nib.Nifti1Image(stored, image.affine @ np.diag([3, 3, 3, 1]))


CPMAE = f'exec {shlex.quote(sys.executable)} -m cpmae "$@"'


def follow(block: str, folder: Path, cpmae: str = CPMAE) -> str:
    """Run a block of a page in a folder, each command of which has to end well; returns what it said."""
    program = folder / "bin" / "cpmae"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\n{cpmae}\n")
    program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        ["sh", "-e", "-c", block],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        start_new_session=True,  # so that a block can kill all of itself
    )
    assert ran.returncode == 0, f"{block}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout


def test_a_run_for_each_patient_passes_over_those_that_are_done(tmp_path: Path) -> None:
    (block,) = section("docs/how-to.md", "Many DICOM patients")
    for name in ("a", "b", "refused", "part", "two words"):
        (tmp_path / "patients" / name).mkdir(parents=True)
    (tmp_path / "deid" / "b").mkdir(parents=True)
    stand_in = (
        'echo "$@" >> calls; echo "said of $2"; case $2 in *refused*) exit 1;; esac; mkdir "$3"\n'
        "case $2 in *part*) echo failed >&2; exit 1;; esac"
    )
    follow(block, tmp_path, stand_in)
    called = [f"deidentify patients/{n}/ deid/{n} --patient-id {n}" for n in ("a", "part", "refused", "two words")]
    assert sorted((tmp_path / "calls").read_text().splitlines()) == called
    assert sorted((tmp_path / "private/failed.txt").read_text().splitlines()) == ["part", "refused"]
    assert (tmp_path / "private/part.txt").read_text() == "said of patients/part/\nfailed\n"
    *_, last, _ = block.split("\n")
    follow(last, tmp_path, stand_in)
    assert sorted((tmp_path / "calls").read_text().splitlines()) == sorted([*called, called[2]])


@pytest.mark.thorough
def test_a_killed_run_over_patients_goes_on_where_it_was(tmp_path: Path, head: Any) -> None:
    """What is killed is all of it, as at the end of a job of a cluster."""
    (block,) = section("docs/how-to.md", "Many DICOM patients")
    stored = np.clip(head.get_fdata(), 0, 4095).astype(np.uint16)
    for name in ("p1", "p2", "p3"):
        dicom_phantom.classic(tmp_path / "patients" / name, stored, head.affine, PatientID=name)
    begun = "until ls -d deid/.cpmae-*; do sleep 0.1; done; kill -9 0"
    stops = f"case $2 in *p2*) ({CPMAE}) & {begun};; esac\n{CPMAE}"
    one_at_a_time = block.replace("-P 2", "-P 1")
    with pytest.raises(AssertionError):
        follow(one_at_a_time, tmp_path, stops)
    assert [p.name[:8] for p in sorted((tmp_path / "deid").iterdir())] == [".cpmae-u", "p1"]
    before = (tmp_path / "deid/p1").stat().st_mtime_ns
    follow(block, tmp_path)
    assert sorted(p.name for p in (tmp_path / "deid").iterdir()) == ["p1", "p2", "p3"]
    assert (tmp_path / "deid/p1").stat().st_mtime_ns == before


@pytest.mark.thorough
def test_a_scan_goes_the_way_of_the_readme(tmp_path: Path, head: Any) -> None:
    head.to_filename(tmp_path / "sub-01_T1w.nii.gz")
    (block,) = section("README.md", "Your own scan")
    assert follow(block, tmp_path).endswith("verified\n") and (tmp_path / "check.png").exists()


@pytest.mark.thorough
def test_dicom_goes_the_way_of_the_pages(tmp_path: Path, head: Any) -> None:
    stored = np.clip(head.get_fdata(), 0, 4095).astype(np.uint16)
    slices = dicom_phantom.classic(tmp_path / "DICOM_DIR", stored, head.affine)
    (block,) = section("docs/how-to.md", "DICOM")
    assert follow(block, tmp_path).startswith("done") and (tmp_path / "check.png").exists()
    assert len(list((tmp_path / "OUT_DIR").rglob("*.dcm"))) == len(slices)


@pytest.mark.thorough
def test_a_data_set_goes_the_way_of_the_pages(tmp_path: Path, head: Any) -> None:
    anat = tmp_path / "study" / "sub-01" / "anat"
    anat.mkdir(parents=True)
    (tmp_path / "study" / "dataset_description.json").write_text('{"Name": "Tiny", "BIDSVersion": "1.10.0"}')
    head.to_filename(anat / "sub-01_T1w.nii.gz")
    whole, shared = section("docs/how-to.md", "A BIDS data set")
    assert whole == blocks((ROOT / "docs/bids.md").read_text(), "sh")[0]
    first = follow(whole, tmp_path)
    assert "1 scans done, 0 failed" in first and "1 of 1 scans done" in first
    assert (tmp_path / "out/summary.tsv").exists()
    assert (tmp_path / "out/sub-01/anat/sub-01_desc-deid_T1w.nii.gz").exists()
    follow(shared, tmp_path)
    assert (tmp_path / "to-share/sub-01/anat/sub-01_T1w.nii.gz").exists()
