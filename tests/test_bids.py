"""A BIDS data set the command's own way, with a stand-in for the head: names, sidecars, tables, what stays out."""

import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from importlib import resources
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import bids_data
import nibabel as nib
import numpy as np
import phantom
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from cpmae import cli
from cpmae import subject_key as key
from cpmae.batch.records import Job, Outcome, Records
from cpmae.bids import app, plan
from cpmae.bids import dataset as description
from cpmae.bids.plan import Settings
from cpmae.errors import OutputError, ScanError, SettingsError
from cpmae.files import deidentify_file
from cpmae.io import bids, forms
from cpmae.options import Options
from cpmae.report import gallery
from cpmae.verify import verify_files
from cpmae.verify_run import verify_run
from cpmae.volume import Volume

S = "sub-01/ses-1"
SECRET = b"a secret of thirty-two bytes or so"
COUNT = 12  # scans in the data set


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[bytes]]:
    root = tmp_path_factory.mktemp("bids")
    return root, bids_data.make(root)


def participant(root: Path, out: Path, **settings: object) -> Counter[str]:
    dataset = bids.find(root)
    chosen = Settings(**settings)  # type: ignore[arg-type]
    return app.participant(dataset, dataset.scans, out, chosen, tell=lambda *e: None, work=bids_data.work)


@pytest.fixture(scope="session")
def derivative(source: tuple[Path, list[bytes]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "derivative"
    assert participant(source[0], out) == {"done": COUNT}
    return out


@pytest.fixture(scope="session")
def raw(source: tuple[Path, list[bytes]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "raw"
    assert participant(source[0], out, placement="raw", key=SECRET) == {"done": COUNT}
    return out


def shown(folder: Path) -> set[str]:
    files = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    return {str(p) for p in files if not p.parts[0].startswith(".")}


def load(path: Path) -> dict:
    return json.loads(path.read_text())


def everything(folder: Path) -> bytes:
    """All bytes below a folder, gzip files unpacked too, and all names."""
    parts = []
    for path in folder.rglob("*"):
        parts.append(str(path.relative_to(folder)).encode())
        if path.is_file():
            parts.append(path.read_bytes())
            if path.name.endswith(".gz"):
                parts.append(gzip.decompress(parts[-1]))
    return b"\n".join(parts)


def test_derivatives_have_the_names_of_bids(derivative: Path) -> None:
    assert shown(derivative) == {
        *("README", "dataset_description.json", "left_out.tsv"),
        *(f"{S}/anat/sub-01_ses-1_desc-{d}" for d in ("deid_T1w.json", "deid_T1w.nii.gz", "deid_T2w.json")),
        *(f"{S}/anat/sub-01_ses-1_desc-{d}" for d in ("deid_T2w.nii", "brain_mask.json", "brain_mask.nii.gz")),
        *(f"{S}/anat/sub-01_ses-1_desc-brainT2w_mask.{e}" for e in ("json", "nii")),
        *(f"{S}/anat/sub-01_ses-1_acq-fast_run-2_desc-deid_FLAIR.{e}" for e in ("json", "nii.gz")),
        *(f"{S}/anat/sub-01_ses-1_acq-fast_run-2_desc-brainFLAIR_mask.{e}" for e in ("json", "nii.gz")),
        *(f"{S}/anat/sub-01_ses-1_inv-{i}_desc-deid_MP2RAGE.{e}" for i in (1, 2) for e in ("json", "nii.gz")),
        *(f"{S}/anat/sub-01_ses-1_desc-brainMP2RAGEinv{i}_mask.{e}" for i in (1, 2) for e in ("json", "nii.gz")),
        *(f"{S}/func/sub-01_ses-1_task-rest_desc-deid_{s}.{e}" for s in ("bold", "sbref") for e in ("json", "nii.gz")),
        *(f"{S}/func/sub-01_ses-1_task-rest_desc-brain_mask.{e}" for e in ("json", "nii.gz")),
        *(f"{S}/func/sub-01_ses-1_task-rest_desc-brainsbref_mask.{e}" for e in ("json", "nii.gz")),
        *(f"{S}/dwi/sub-01_ses-1_desc-deid_dwi.{e}" for e in ("json", "nii.gz")),
        *(f"{S}/dwi/sub-01_ses-1_dwi.{e}" for e in ("bval", "bvec")),
        *(f"{S}/dwi/sub-01_ses-1_desc-brain_mask.{e}" for e in ("json", "nii.gz")),
        *(f"{S}/perf/sub-01_ses-1_{n}" for n in ("desc-deid_asl.json", "desc-deid_asl.nii.gz", "aslcontext.tsv")),
        *(f"{S}/fmap/sub-01_ses-1_desc-deid_magnitude{i}.{e}" for i in (1, 2) for e in ("json", "nii.gz")),
        *(f"{S}/fmap/sub-01_ses-1_desc-deid_phasediff.{e}" for e in ("json", "nii.gz")),
    }  # fmt: skip
    about = load(derivative / "dataset_description.json")
    assert about["DatasetType"] == "derivative" and about["Name"] == "Tiny"
    assert about["GeneratedBy"][-1]["Name"] == "cpmae" and about["SourceDatasets"] == [{"Name": "Tiny"}]


def test_raw_has_the_original_names_and_nothing_that_is_not_understood(raw: Path, source: tuple) -> None:
    original = {str(scan.path) for scan in bids.find(source[0]).scans}
    found = shown(raw)
    assert original <= found and len(original) == COUNT
    others = {name for name in found - original if not name.endswith(".json")}
    assert others == {
        *("README", "left_out.tsv", "participants.tsv"),
        *(f"{S}/anat/sub-01_ses-1_mod-{s}_defacemask.{e}" for s, e in (("T1w", "nii.gz"), ("T2w", "nii"))),
        f"{S}/anat/sub-01_ses-1_acq-fast_run-2_mod-FLAIR_defacemask.nii.gz",
        *(f"{S}/dwi/sub-01_ses-1_dwi.{e}" for e in ("bval", "bvec")),
        *(f"{S}/func/sub-01_ses-1_task-rest_events.tsv", f"{S}/perf/sub-01_ses-1_aslcontext.tsv"),
    }
    assert load(raw / "dataset_description.json")["DatasetType"] == "raw"
    assert (raw / "participants.tsv").read_text() == "participant_id\tage\tsex\nsub-01\t89\tF\n"
    assert (raw / f"{S}/func/sub-01_ses-1_task-rest_events.tsv").read_text() == "onset\tduration\n1.0\t2\n"
    listed = (raw / "left_out.tsv").read_text()
    for line in ("sourcedata/\t1", "code/\t1", "README\t1", "*\t1", f"{S}/anat/*\t1", f"{S}/sub-01_ses-1_scans.tsv\t1"):
        assert f"\n{line}\t" in listed, line


@pytest.mark.parametrize("placement", ["derivative", "raw"])
def test_the_official_validator_passes(placement: str, request: pytest.FixtureRequest) -> None:
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    validator = shutil.which("bids-validator-deno", path=places)
    if validator is None:
        pytest.skip("bids-validator-deno is not installed")
    folder = request.getfixturevalue(placement)
    ran = subprocess.run([validator, "--format", "json", str(folder)], capture_output=True, text=True, timeout=120)
    issues = json.loads(ran.stdout)["issues"]["issues"]
    errors = [f"{i['code']} {i.get('subCode', '')} {i.get('location', '')}" for i in issues if i["severity"] == "error"]
    assert errors == [] and ran.returncode == 0


@pytest.mark.parametrize("placement", ["derivative", "raw"])
def test_no_planted_identifier_survives(placement: str, source: tuple, request: pytest.FixtureRequest) -> None:
    root, identifiers = source
    before, after = everything(root), everything(request.getfixturevalue(placement))
    assert len(identifiers) >= 50 and all(text in before for text in identifiers)
    assert [text for text in identifiers if text in after] == []
    assert str(root).encode() not in after


def test_sidecars_are_merged_cleaned_and_marked(derivative: Path, raw: Path) -> None:
    for path in (raw / f"{S}/anat/sub-01_ses-1_T1w.json", derivative / f"{S}/anat/sub-01_ses-1_desc-deid_T1w.json"):
        fields = load(path)
        assert fields["MagneticFieldStrength"] == 3  # of the upper file
        assert fields["EchoTime"] == 0.004  # the lower one's overrides it
        assert "EchoNumber" not in fields  # a name where a number should be
        assert fields["DeidentificationMethod"][-1].startswith("cpmae ")
        assert {"CodeValue": "113102", "CodingSchemeDesignator": "DCM"}.items() <= (
            fields["DeidentificationMethodCodeSequence"][-1].items()
        )
    assert load(raw / f"{S}/fmap/sub-01_ses-1_phasediff.json")["IntendedFor"] == [
        f"bids::{S}/func/sub-01_ses-1_task-rest_bold.nii.gz"
    ]


def test_a_task_that_names_the_patient_gets_its_label(source: tuple, tmp_path: Path) -> None:
    root = tmp_path / "in"
    shutil.copytree(source[0], root)
    bids_data.text(root / "task-rest_bold.json", {"TaskName": "Rest of Jane", "PatientName": "Doe^Jane"})
    scans = [scan for scan in bids.find(root).scans if scan.name.suffix == "bold"]
    app.participant(bids.find(root), scans, tmp_path / "out", Settings(), tell=lambda *e: None, work=bids_data.work)
    assert load(tmp_path / "out" / f"{S}/func/sub-01_ses-1_task-rest_desc-deid_bold.json")["TaskName"] == "rest"


def test_the_readme_says_what_was_replaced(source: tuple, derivative: Path, tmp_path: Path) -> None:
    assert "everything outside the brain" in (derivative / "README").read_text()
    participant(source[0], tmp_path / "out", options=Options(region="face"))
    text = (tmp_path / "out" / "README").read_text()
    assert "face and ears" in text and "outside the brain" not in text


def test_who_lends_a_mask_to_whom(derivative: Path, source: tuple) -> None:
    records = {p.name: load(p)["account"]["brain_mask_from"] for p in (derivative / ".cpmae/scans").rglob("*.json")}
    t1w = f"{S}/anat/sub-01_ses-1_T1w.nii.gz"
    assert records["sub-01_ses-1_T1w.nii.gz.json"] == "stand-in"  # found its own
    assert records["sub-01_ses-1_T2w.nii.json"] == t1w  # another grid in the same frame
    assert records["sub-01_ses-1_inv-1_MP2RAGE.nii.gz.json"] == f"{S}/anat/sub-01_ses-1_inv-2_MP2RAGE.nii.gz"
    assert records["sub-01_ses-1_inv-2_MP2RAGE.nii.gz.json"] == t1w
    assert records["sub-01_ses-1_phasediff.nii.gz.json"] == f"{S}/fmap/sub-01_ses-1_magnitude1.nii.gz"
    assert records["sub-01_ses-1_task-rest_bold.nii.gz.json"] == t1w


def test_fat_is_dark_where_sidecar_or_suffix_tell_so(derivative: Path) -> None:
    fat = {PurePosixPath(record["name"]).name: record["account"]["fat"] for record in Records(derivative).all()}
    suppressed = {name for name, kind in fat.items() if kind == "suppressed"}
    parts = ("acq-fast_run-2_FLAIR", "task-rest_bold", "task-rest_sbref", "dwi", "asl")
    assert suppressed == {f"sub-01_ses-1_{part}.nii.gz" for part in parts}
    assert fat["sub-01_ses-1_T1w.nii.gz"] == "auto"


def test_all_scans_of_a_person_get_the_seed_that_only_the_secret_tells(source: tuple, tmp_path: Path) -> None:
    def seeds(secret: bytes | None) -> dict[str, int | None]:
        dataset = bids.find(source[0])
        scans = [
            *dataset.scans,
            bids.Scan(PurePosixPath("sub-2/anat/sub-2_T1w.nii"), bids.parse("sub-2_T1w.nii"), "anat"),
        ]  # type: ignore[arg-type]
        two = bids.Dataset(dataset.root, tuple(scans), {**dataset.files}, ())
        found = plan.jobs(two, scans, tmp_path, Settings(key=secret))
        return {f"{job.name.split('/')[0]} {i}": job.task.options.seed for i, job in enumerate(found)}

    one, other = seeds(b"1" * 32), seeds(b"2" * 32)
    assert len({v for k, v in one.items() if k.startswith("sub-01")}) == 1
    assert len(set(one.values())) == 2 and not set(one.values()) & set(other.values())
    assert seeds(b"1" * 32) == one
    without, again = seeds(None), seeds(None)  # a secret of each run
    assert len(set(without.values())) == 2 and not set(without.values()) & set(again.values())
    assert all(seed is not None and 0 <= seed < 2**63 for found in (one, without) for seed in found.values())


def test_scans_of_a_person_have_other_noise_whichever_are_done(source: tuple, tmp_path: Path) -> None:
    dataset = bids.find(source[0])

    def numbers(scans: tuple) -> dict[str, int]:
        found = plan.jobs(dataset, scans, tmp_path, Settings(key=SECRET))
        return {job.name: job.task.options.noise_number for job in found}

    every = numbers(dataset.scans)
    assert len(set(every.values())) == COUNT
    assert numbers(dataset.scans[3:5]).items() <= every.items()


def scans_of(*names: str) -> bids.Dataset:
    """A data set of these scans, `ses-1/anat/T1w`, of one person; no file is there."""
    found = []
    for text in names:
        *folders, datatype, rest = text.split("/")
        path = PurePosixPath("sub-1", *folders, datatype, "_".join(["sub-1", *folders, f"{rest}.nii.gz"]))
        found.append(bids.Scan(path, bids.parse(path.name), datatype))  # type: ignore[arg-type]
    return bids.Dataset(Path("/absent"), tuple(found), {scan.path: scan.name for scan in found}, ())


WHOSE_HEAD = {
    "T1w": (["ses-1/anat/FLAIR", "ses-1/anat/T1w", "ses-1/func/task-a_bold"], "ses-1/anat/sub-1_ses-1_T1w"),
    "the first session that has one": (
        ["ses-1/anat/T2w", "ses-2/anat/T1w", "ses-3/anat/T1w"],
        "ses-2/anat/sub-1_ses-2_T1w",
    ),
    "the first run": (["anat/run-1_T1w", "anat/run-2_T1w"], "anat/sub-1_run-1_T1w"),
    "another contrast": (["anat/FLAIR", "anat/T2w", "anat/T2starw"], "anat/sub-1_T2w"),
    "never a phase": (["anat/part-phase_T1w", "dwi/dwi"], "dwi/sub-1_dwi"),
    "the first echo": (["anat/echo-2_T1w", "anat/echo-1_T1w", "anat/T2w"], "anat/sub-1_echo-1_T1w"),
}


@pytest.mark.parametrize("secret", [None, SECRET])
@pytest.mark.parametrize("case", WHOSE_HEAD)
def test_whose_head_all_scans_of_a_person_get(case: str, secret: bytes | None, tmp_path: Path) -> None:
    names, whose = WHOSE_HEAD[case]
    dataset, chosen = scans_of(*names), PurePosixPath(f"sub-1/{whose}.nii.gz")
    found = plan.jobs(dataset, dataset.scans, tmp_path, Settings(key=secret))
    assert {job.task.head for job in found if job.task.scan != chosen} == {chosen}
    assert next(job.task.head for job in found if job.task.scan == chosen) is None
    assert found[0].task.scan == chosen and all(str(chosen) in job.after for job in found[1:])
    some = [scan for scan in dataset.scans if scan.path != chosen]  # that it is not to be done now changes nothing
    assert {job.task.head for job in plan.jobs(dataset, some, tmp_path, Settings(key=secret))} == {chosen}


FOLLOWED = {  # scan: whose mask it would take first
    "the second inversion, then the maps": {
        "anat/inv-2_MP2RAGE": None,
        "anat/inv-1_MP2RAGE": "anat/inv-2_MP2RAGE",
        "anat/inv-2_part-phase_MP2RAGE": "anat/inv-2_MP2RAGE",
        "anat/UNIT1": "anat/inv-2_MP2RAGE",
        "anat/T1map": "anat/inv-2_MP2RAGE",
    },
    "the uniform image, where it is alone with a map": {"anat/UNIT1": None, "anat/T1map": "anat/UNIT1"},
    "flips, pulses and echoes": {
        "anat/flip-1_VFA": None,
        "anat/flip-2_VFA": "anat/flip-1_VFA",
        "anat/acq-m_flip-1_mt-off_echo-1_MPM": None,
        "anat/acq-m_flip-1_mt-on_echo-1_MPM": "anat/acq-m_flip-1_mt-off_echo-1_MPM",
        "anat/T1map": "anat/flip-1_VFA",
        "anat/acq-m_MTsat": "anat/acq-m_flip-1_mt-off_echo-1_MPM",
    },
    "no other acquisition": {"anat/run-1_UNIT1": None, "anat/run-2_UNIT1": None, "anat/run-2_T2map": None},
}


@pytest.mark.parametrize("case", FOLLOWED)
def test_whose_mask_images_of_one_acquisition_take(case: str) -> None:
    dataset = scans_of(*FOLLOWED[case])
    found = {scan.path: plan.references(scan, dataset.scans) for scan in dataset.scans}
    names = {(path.parent.name + "/" + path.name.removeprefix("sub-1_")).split(".")[0]: r for path, r in found.items()}
    paths = {name: scan.path for name, scan in zip(FOLLOWED[case], dataset.scans, strict=True)}
    first = {name: next((r.path for r in references), None) for name, references in names.items()}
    assert first == {name: paths[lender] if lender else None for name, lender in FOLLOWED[case].items()}


TABLES = {  # a table, a scan: the table's new name
    ("task-a_events.tsv", "ses-1/func/task-a_run-1_bold"): "ses-1/func/sub-1_ses-1_task-a_run-1_events.tsv",
    ("task-a_events.tsv", "func/task-a_run-2_echo-1_bold"): "func/sub-1_task-a_run-2_events.tsv",
    ("sub-1/func/sub-1_task-a_events.tsv", "func/task-a_run-2_bold"): "func/sub-1_task-a_events.tsv",
    ("sub-1/sub-1_aslcontext.tsv", "perf/run-1_asl"): "perf/sub-1_run-1_aslcontext.tsv",
    ("aslcontext.tsv", "perf/asl"): "perf/sub-1_aslcontext.tsv",
    ("dwi.bval", "dwi/dir-AP_dwi"): "dwi/sub-1_dir-AP_dwi.bval",
}


@pytest.mark.parametrize("case", TABLES, ids=" ".join)
def test_a_table_that_is_inherited_gets_the_name_of_the_scan(case: tuple[str, str], tmp_path: Path) -> None:
    table, dataset = PurePosixPath(case[0]), scans_of(case[1])
    files = {**dataset.files, table: bids.parse(table.name)}
    found = plan.jobs(bids.Dataset(dataset.root, dataset.scans, files, ()), dataset.scans, tmp_path, Settings("raw"))  # type: ignore[arg-type]
    assert [(str(a), str(b)) for a, _, b in found[0].task.tables] == [(case[0], f"sub-1/{TABLES[case]}")]


def test_workers_get_paths_that_mean_the_same_everywhere(
    source: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with resources.as_file(resources.files("cpmae") / "weights" / "head.json") as about:
        shutil.copy(about, tmp_path / "own.json")
    (tmp_path / "tool.sh").touch()
    monkeypatch.chdir(tmp_path)
    dataset = bids.find(source[0])
    settings = Settings(
        weights=Path("own.safetensors"), options=Options(brain_extractor="command:./tool.sh {input} {mask}")
    )
    app.participant(dataset, dataset.scans[:1], Path("out"), settings, tell=lambda *e: None, work=bids_data.told)
    weights, extractor = (tmp_path / "out" / "told").read_text().splitlines()
    assert weights == str(tmp_path / "own.safetensors")
    assert extractor == f"command:{tmp_path}/tool.sh '{{input}}' '{{mask}}'"
    assert str(tmp_path) not in str([record["account"] for record in Records(tmp_path / "out").all()])


def test_a_gradient_that_is_no_number_is_not_quoted(source: tuple, tmp_path: Path) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(source[0], root)
    (root / S / "dwi" / "sub-01_ses-1_dwi.bval").write_text("\n0 Doe^Jane\n")
    assert participant(root, out) == {"done": COUNT - 1, "failed": 1}
    assert "not a number (row 1, column 2)" in (out / "failures.tsv").read_text()
    assert b"Doe" not in everything(out / ".cpmae") + (out / "failures.tsv").read_bytes()


def test_windows_is_refused_in_a_sentence(source: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    code, output = cpmae("bids", source[0], tmp_path / "o", "participant")
    assert code == 1 and "does not run on Windows, use Linux" in output and not (tmp_path / "o").exists()


ECHOES = [
    ["anat/echo-1_T1w", "anat/echo-2_T1w"],
    ["anat/acq-a_echo-1_T1w", "anat/acq-b_echo-1_T1w", "anat/acq-b_echo-2_T1w"],
    ["anat/T1w", "anat/echo-1_T1w", "anat/echo-2_T1w", "func/bold"],
    ["anat/echo-1_part-mag_T1w", "anat/echo-1_part-phase_T1w", "anat/echo-2_part-mag_T1w", "anat/T2w"],
]


@pytest.mark.parametrize("secret", [None, SECRET])
@pytest.mark.parametrize("names", ECHOES, ids=", ".join)
def test_no_two_scans_wait_for_each_other(names: list[str], secret: bytes | None, tmp_path: Path) -> None:
    dataset = scans_of(*names)
    left = {job.name: set(job.after) for job in plan.jobs(dataset, dataset.scans, tmp_path, Settings(key=secret))}
    while left:
        ready = [name for name, after in left.items() if not after & left.keys()]
        assert ready, left
        for name in ready:
            del left[name]


def test_all_echoes_of_a_t1w_are_done(tmp_path: Path) -> None:
    root, new = tmp_path / "in", bids_data.Identifiers()
    bids_data.text(root / "dataset_description.json", {"Name": "Tiny", "BIDSVersion": "1.10.0"})
    names = [f"sub-01/anat/sub-01_echo-{echo}_T1w.nii.gz" for echo in (1, 2, 3)]
    for name in names:
        bids_data.image(root / name, new)
    assert participant(root, tmp_path / "out", key=SECRET) == {"done": 3}
    accounts = {record["name"]: record["account"] for record in Records(tmp_path / "out").all()}
    assert [accounts[name]["brain_mask_from"] for name in names] == ["stand-in", names[0], names[0]]
    assert {account["head_from"] for account in accounts.values()} == {names[0]}


def test_the_secret_and_its_seeds_are_written_nowhere(raw: Path) -> None:
    seed, found = key.seed_of(SECRET, "01"), everything(raw)
    assert SECRET not in found and SECRET.hex().encode() not in found
    assert str(seed).encode() not in found and seed.to_bytes(8) not in found


def test_the_same_settings_do_nothing_again_and_others_do_all(source: tuple, raw: Path) -> None:
    assert participant(source[0], raw, placement="raw", key=SECRET) == {"skipped": COUNT}
    dataset, records = bids.find(source[0].resolve()), Records(raw)

    def done(**others: object) -> int:
        settings = Settings(**{"placement": "raw", "key": SECRET, **others})  # type: ignore[arg-type]
        return len(records.done(plan.jobs(dataset, dataset.scans, raw, settings)))

    assert done() == COUNT
    others = [{"key": b"another secret"}, {"key": None}, {"keep_columns": ("note",)}, {"options": Options(margin_mm=3)}]
    assert [done(**other) for other in others] == [0] * len(others)
    scan = source[0] / S / "anat" / "sub-01_ses-1_T1w.nii.gz"
    os.utime(scan.with_name("sub-01_ses-1_T2w.nii"), (1, 1))
    assert done() == COUNT - 1
    os.utime(scan, (1, 1))  # all others have its head
    assert done() == 0


def test_a_scan_is_done_again_when_one_that_lends_it_a_mask_changed(source: tuple, tmp_path: Path) -> None:
    root = tmp_path / "in"
    shutil.copytree(source[0], root)
    assert participant(root, tmp_path / "out", key=SECRET) == {"done": COUNT}
    os.utime(root / S / "fmap" / "sub-01_ses-1_magnitude1.nii.gz", (2, 2))  # which magnitude2 and phasediff follow
    assert participant(root, tmp_path / "out", key=SECRET) == {"done": 3, "skipped": COUNT - 3}
    os.utime(root / S / "anat" / "sub-01_ses-1_T1w.nii.gz", (2, 2))
    assert participant(root, tmp_path / "out", key=SECRET) == {"done": COUNT}


@pytest.mark.thorough
def test_without_a_key_a_person_is_done_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    """Each run has a secret of its own, so what is missing cannot get the head that the rest has."""
    root, out, new = tmp_path / "in", tmp_path / "out", bids_data.Identifiers()
    bids_data.text(root / "dataset_description.json", {"Name": "Tiny", "BIDSVersion": "1.10.0"})
    for name in ("sub-1/ses-1/anat/sub-1_ses-1", "sub-1/ses-2/anat/sub-1_ses-2", "sub-2/anat/sub-2"):
        bids_data.image(root / f"{name}_T1w.nii", new)
    assert participant(root, out) == {"done": 3}
    assert participant(root, out) == {"skipped": 3}
    (out / "sub-1/ses-2/anat/sub-1_ses-2_desc-deid_T1w.nii").unlink()
    assert participant(root, out) == {"done": 2, "skipped": 1}
    assert participant(root, out) == {"skipped": 3}
    assert app.of_several_heads(out) == 0
    dataset = bids.find(root)
    later = [scan for scan in dataset.scans if scan.name.entities.get("ses") == "2"]
    os.utime(root / later[0].path, (2, 2))
    app.participant(dataset, later, out, Settings(), tell=lambda *e: None, work=bids_data.work)
    assert app.of_several_heads(out) == 1
    assert participant(root, out) == {"done": 2, "skipped": 1}, "a run for one session left the other in another head"
    assert app.of_several_heads(out) == 0


def annexed(root: Path, store: Path, names: list[str]) -> list[Path]:
    """Scans of people who have two each, as links into a store; returns the files that they lead to."""
    bids_data.text(root / "dataset_description.json", {"Name": "Tiny", "BIDSVersion": "1.10.0"})
    for number, name in enumerate(names):
        path, kept = root / name, store / f"MD5E-s9--{number}.nii"
        bids_data.image(path, bids_data.Identifiers())
        kept.parent.mkdir(parents=True, exist_ok=True)
        path.rename(kept)
        path.symlink_to(kept)
    return sorted(store.iterdir())


@pytest.mark.parametrize("store", ["elsewhere", "in/.git/annex/objects"])
@pytest.mark.parametrize("secret", [None, SECRET])
def test_what_was_made_of_files_that_were_dropped_stays(tmp_path: Path, secret: bytes | None, store: str) -> None:
    """`datalad drop` leaves links to files that are not there; T2w and FLAIR depend on the T1w."""
    root, out = tmp_path / "in", tmp_path / "out"
    t1w, t2w, flair = annexed(root, tmp_path / store, [f"sub-1/anat/sub-1_{n}.nii" for n in ("T1w", "T2w", "FLAIR")])
    others = annexed(root, tmp_path / "others", ["sub-2/anat/sub-2_T1w.nii"])
    assert participant(root, out, key=secret) == {"done": 4}
    before = {name: (out / name).read_bytes() for name in shown(out)}
    fetched = {path: path.read_bytes() for path in (t1w, flair)}
    for path in fetched:
        path.unlink()
    assert participant(root, out, key=secret) == {"skipped": 4, "kept": 3}
    changed = participant(root, out, key=secret, options=Options(margin_mm=3))
    assert changed == {"skipped": 3, "kept": 3, "done": 1}, "a run with other options cannot do them again either"
    assert {name: (out / name).read_bytes() for name in shown(out)}.items() >= {
        name: raw for name, raw in before.items() if name.startswith("sub-1/")
    }.items()
    code, output = cpmae("bids", root, out, "participant", "--participant-label", 1)
    assert code == 0 and "3 were done before, 0 failed\n3 of these stay" in output and "datalad get" in output
    assert cpmae("bids", root, out, "group")[0] == 0
    for path, raw in fetched.items():
        path.write_bytes(raw)
    same = "annex" in store  # whose names say what is in the files
    expected = {"skipped": 3, "done": 1} if same else {"done": 4}
    assert participant(root, out, key=secret) == expected
    (out / "sub-1/anat/sub-1_desc-deid_FLAIR.nii").unlink()
    flair.unlink()
    assert participant(root, out, key=secret)["failed"] == 1, "there is nothing to keep"
    assert "datalad get" in (out / "failures.tsv").read_text() and t2w.exists() and others[0].exists()


def test_people_whose_list_was_not_fetched_are_refused_and_stay_in_earlier_results(
    source: tuple, raw: Path, tmp_path: Path
) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    for name in ("participants.tsv", "participants.json"):
        shutil.rmtree(root, ignore_errors=True)
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(source[0], root)
        shutil.copytree(raw, out)
        (root / name).unlink()
        (root / name).symlink_to(tmp_path / "not fetched")
        with pytest.raises(ScanError, match=f"{name} is a link to a file that is not there, fetch it"):
            participant(root, out, placement="raw", key=SECRET)
        assert "sub-01\t89\tF" in (out / "participants.tsv").read_text()


def test_what_else_was_not_fetched_is_told_of_as_that(source: tuple, tmp_path: Path) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(source[0], root)
    names = {f"{S}/anat/sub-01_ses-1_T2w.json": "T2w.nii", f"{S}/dwi/sub-01_ses-1_dwi.bval": "dwi.nii.gz"}
    for name in [*names, "dataset_description.json"]:
        (root / name).unlink()
        (root / name).symlink_to(tmp_path / "not fetched")
    code, output = cpmae("bids", root, out, "participant")
    assert code == 1 and "fetch it (datalad get)" in output and not out.exists()
    (root / "dataset_description.json").unlink()
    shutil.copy(source[0] / "dataset_description.json", root)
    assert participant(root, out) == {"done": COUNT - 2, "failed": 2}
    reasons = dict(line.split("\t") for line in (out / "failures.tsv").read_text().splitlines()[1:])
    for name, scan in names.items():
        reason = next(reason for failed, reason in reasons.items() if failed.endswith(scan))
        assert reason == f"{name} is a link to a file that is not there, fetch it (datalad get)"


def test_a_scan_that_is_there_packed_too_is_done_once(tmp_path: Path) -> None:
    root, out, new = tmp_path / "in", tmp_path / "out", bids_data.Identifiers()
    bids_data.text(root / "dataset_description.json", {"Name": "Tiny", "BIDSVersion": "1.10.0"})
    for name in ("T1w.nii", "T1w.nii.gz", "T2w.nii"):
        bids_data.image(root / f"sub-1/anat/sub-1_{name}", new)
    assert participant(root, out) == {"done": 2}
    assert participant(root, out) == {"skipped": 2}
    assert "sub-1/anat/sub-1_T1w.nii\t1\tis there as .nii.gz too\n" in (out / "left_out.tsv").read_text()
    assert (out / "sub-1/anat/sub-1_desc-deid_T1w.nii.gz").is_file()


@pytest.mark.parametrize("placement", ["derivative", "raw"])
def test_what_the_root_says_of_a_session_is_inherited_and_what_is_not_understood_is_told(
    tmp_path: Path, placement: str
) -> None:
    root, out, new = tmp_path / "in", tmp_path / "out", bids_data.Identifiers()
    bids_data.text(root / "dataset_description.json", {"Name": "Tiny", "BIDSVersion": "1.10.0"})
    for session in "12":
        bids_data.image(root / f"sub-1/ses-{session}/func/sub-1_ses-{session}_task-rest_bold.nii", new)
    bids_data.text(root / "task-rest_bold.json", {"RepetitionTime": 2})
    bids_data.text(root / "ses-2_task-rest_bold.json", {"RepetitionTime": 3})
    bids_data.text(root / "sub-1_task-rest_bold.json", {"RepetitionTime": 4})  # not its place
    bids_data.text(root / "sub-1/ses-1/func/Doe_bold.json", {"RepetitionTime": 5})
    bids_data.text(root / "sub-1/ses-1/func/Doe_notes.json", {})
    assert participant(root, out, placement=placement) == {"done": 2}
    desc = "" if placement == "raw" else "desc-deid_"
    times = [load(out / f"sub-1/ses-{n}/func/sub-1_ses-{n}_task-rest_{desc}bold.json")["RepetitionTime"] for n in "12"]
    assert times == [2, 3]
    lines = (out / "left_out.tsv").read_text().splitlines()
    assert "*\t1\tnot understood" in lines
    assert f"sub-1/ses-1/func/*\t{1 if desc else 2}\tnot understood" in lines


def test_a_key_that_could_be_guessed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"secret")
    with pytest.raises(SettingsError, match="6 bytes.*at least 16"):
        key.read_key(tmp_path / "key")
    with pytest.raises(SettingsError, match="cannot be read"):
        key.read_key(tmp_path / "absent")


def test_failing_scans_are_listed_and_the_rest_is_done(source: tuple, tmp_path: Path) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(source[0], root)
    anat = root / S / "anat"
    (anat / "sub-01_ses-1_T1w.nii.gz").write_bytes(b"no gzip")
    (anat / "sub-01_ses-1_T2w.json").write_text("{")
    for name in ("magnitude1", "magnitude2"):
        (root / S / "fmap" / f"sub-01_ses-1_{name}.nii.gz").unlink()
    bids_data.text(root / "sub-02" / "anat" / "sub-02_T1w.nii", "no scan")
    counts = participant(root, out, placement="raw")
    assert counts == {"done": COUNT - 5, "failed": 4}
    assert not (out / "sub-02").exists() and "sub-02" not in (out / "participants.tsv").read_text()
    header, *lines = (out / "failures.tsv").read_text().splitlines()
    assert header == "scan\treason" and len(lines) == 4
    reasons = dict(line.split("\t") for line in lines)
    assert "is not compressed" in reasons[f"{S}/anat/sub-01_ses-1_T1w.nii.gz"]
    assert "is not JSON" in reasons[f"{S}/anat/sub-01_ses-1_T2w.nii"]
    assert "in which no brain can be found" in reasons[f"{S}/fmap/sub-01_ses-1_phasediff.nii.gz"]
    assert str(tmp_path) not in (out / "failures.tsv").read_text()
    shutil.copytree(source[0], root, dirs_exist_ok=True)  # mended
    shutil.rmtree(root / "sub-02")
    assert participant(root, out, placement="raw")["failed"] == 0
    assert not (out / "failures.tsv").exists()


def test_a_scan_whose_reference_shows_no_brain_has_its_own_head_and_says_so(source: tuple, tmp_path: Path) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(source[0], root)
    (root / S / "anat" / "sub-01_ses-1_T1w.nii.gz").write_bytes(b"no gzip")
    counts = participant(root, out, key=SECRET)
    assert counts["failed"] >= 1 and counts["done"] >= 8
    t2w = Records(out).read(f"{S}/anat/sub-01_ses-1_T2w.nii")
    assert t2w and t2w["account"]["head_from"] == f"{S}/anat/sub-01_ses-1_T2w.nii"
    assert "has one of its own" in t2w["account"]["warnings"][-1]
    assert str(tmp_path).encode() not in everything(out)


def test_who_moved_lends_no_place_and_whoever_lies_elsewhere_is_compared(tmp_path: Path) -> None:
    """All have one grid. Before the field map somebody moved; its second magnitude lies where the first does."""
    root, out, staging = tmp_path / "in", tmp_path / "out", tmp_path / "staging"
    bids_data.make(root)
    wanted = ("T1w", "FLAIR", "magnitude1", "magnitude2", "phasediff")
    dataset = bids.find(root)
    scans = [scan for scan in dataset.scans if scan.name.suffix in wanted]
    tasks = {
        job.task.scan.name.split("_")[-1].split(".")[0]: job.task
        for job in plan.jobs(dataset, scans, out, Settings("raw"))
    }
    lent: dict[str, Any] = {}
    compared: list[str] = []
    staging.mkdir()

    for name in wanted:

        def fits(volume: Volume, mask: NDArray, name: str = name) -> tuple[bool, str | None]:
            compared.append(name)
            return name == "FLAIR", "somebody moved"

        def deidentify(input: Path, output: Path, options: Options, name: str = name, **asked: Any) -> SimpleNamespace:
            lent[name] = asked["head"]
            mask = np.zeros(bids_data.SHAPE, np.uint8)
            mask[(slice(8, 18) if name == "magnitude1" else slice(5, 15)), 5:15, 5:15] = 1
            stored = forms.read(asked["brain_mask"], checked=False).stored if asked["brain_mask"] else mask
            nib.Nifti1Image(stored, bids_data.AFFINE).to_filename(asked["save_brain_mask"])
            return SimpleNamespace(account={"brain_extractor": "a stand-in"}, head=bids_data.drawn(input, options))

        bids_data.work(tasks[name], staging, deidentify, fits)
    assert compared == ["FLAIR", "magnitude1"]
    poses = {name: head and head.pose for name, head in lent.items()}
    assert lent["T1w"] is None and poses["FLAIR"] is not None
    assert all(lent[name] is not None and poses[name] is None for name in ("magnitude1", "magnitude2", "phasediff"))


def test_heads_are_kept_in_no_output(raw: Path, derivative: Path) -> None:
    for folder in (raw, derivative):
        assert not [path for path in folder.rglob("*") if path.suffix == ".npz" or path.name.startswith(".cpmae-run")]
        heads = {record["account"]["head_from"] for record in Records(folder).all()}
        assert heads == {f"{S}/anat/sub-01_ses-1_T1w.nii.gz"}, "with a secret or without"


def test_a_list_of_people_with_line_ends_of_windows_is_taken(source: tuple, tmp_path: Path) -> None:
    root = tmp_path / "in"
    shutil.copytree(source[0], root)
    (root / "participants.tsv").write_bytes(b"age\tparticipant_id\r\n30\tsub-01\r\n")
    participant(root, tmp_path / "out", placement="raw", options=Options(clean_metadata=False))
    assert (tmp_path / "out" / "participants.tsv").read_text() == "age\tparticipant_id\n30\tsub-01\n"


@pytest.mark.parametrize("table", [b"name\nDoe\n", b"participant_id\tname\nsub-01\tJos\xe9\n", b"participant_id\n01\n"])
def test_a_list_of_people_that_cannot_be_used_is_refused_before_the_work(
    source: tuple, tmp_path: Path, table: bytes
) -> None:
    root = tmp_path / "in"
    shutil.copytree(source[0], root)
    (root / "participants.tsv").write_bytes(table)
    with pytest.raises(ScanError, match="participants.tsv"):
        participant(root, tmp_path / "out", placement="raw", pictures=tmp_path / "look")
    assert sorted(tmp_path.iterdir()) == [root], "and no empty folder is left"


def test_the_output_never_touches_the_input_or_what_somebody_else_put_there(
    source: tuple, derivative: Path, tmp_path: Path
) -> None:
    root = source[0]
    before = everything(root)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("all of it")
    for place in (root, root / "sub-01", root / "out", root.parent, foreign):
        with pytest.raises(OutputError, match="choose another folder"):
            participant(root, place)
    with pytest.raises(OutputError, match="choose another folder"):
        participant(root, root / "derivatives" / "cpmae", placement="raw")
    with pytest.raises(OutputError, match="holds no raw data set"):
        participant(root, derivative, placement="raw")
    assert everything(root) == before and shown(foreign) == {"thesis.txt"}


@pytest.mark.parametrize("place", ["out", "out/pictures", "in", "in/sub-01", "in/derivatives/look", "file"])
def test_pictures_of_original_faces_lie_in_no_data_set(source: tuple, tmp_path: Path, place: str) -> None:
    (tmp_path / "in").symlink_to(source[0])
    (tmp_path / "file").touch()
    before = everything(source[0])
    with pytest.raises(OutputError, match="choose another folder"):
        participant(tmp_path / "in", tmp_path / "out", pictures=tmp_path / place)
    assert everything(source[0]) == before and not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["result", "result/sub-01/look", "page"])
def test_pictures_lie_in_no_earlier_result_and_replace_no_other_page(
    source: tuple, derivative: Path, tmp_path: Path, place: str
) -> None:
    (tmp_path / "result").symlink_to(derivative)
    bids_data.text(tmp_path / "page" / gallery.PAGE, "<title>My page</title>")
    before = everything(derivative)
    with pytest.raises(
        OutputError, match="in the result .* and would show" if "result" in place else "somebody else's"
    ):
        participant(source[0], tmp_path / "out", pictures=tmp_path / place)
    assert everything(derivative) == before and shown(tmp_path / "page") == {gallery.PAGE}
    with pytest.raises(OutputError, match="and would show the original face"):
        picture = tmp_path / "result" / "look.png"
        deidentify_file(source[0] / f"{S}/anat/sub-01_ses-1_T1w.nii.gz", tmp_path / "x.nii", Options(), picture=picture)


def test_who_has_no_result_has_no_picture(tmp_path: Path) -> None:
    """A phase that nothing lends a mask, of which an earlier run with another scan beside it made a picture."""
    root, out, look = tmp_path / "in", tmp_path / "out", tmp_path / "look"
    bids_data.text(root / "dataset_description.json", {"Name": "Tiny", "BIDSVersion": "1.10.0"})
    for name in ("sub-1/fmap/sub-1_phasediff", "sub-2/fmap/sub-2_phasediff", "sub-3/anat/sub-3_T1w"):
        bids_data.image(root / f"{name}.nii.gz", lambda where: where)
    bids_data.text(look / "sub-2/fmap/sub-2_phasediff.png", "of an earlier run")
    bids_data.text(look / "sub-2/notes.txt", "somebody's")
    assert participant(root, out, pictures=look) == {"done": 1, "failed": 2}
    assert shown(look) == {gallery.PAGE, "sub-2/notes.txt"} and not (look / "sub-1").exists()
    assert not (look / "sub-2/fmap").exists() and "sub-1_phasediff" in (look / gallery.PAGE).read_text()


def test_the_page_of_pictures_tells_warnings_and_failures_first(tmp_path: Path) -> None:
    plain, doubtful = PurePosixPath("sub-1/anat/sub-1_T1w.png"), PurePosixPath("sub-2/anat/sub-2_T1w.png")
    gallery.write_page(tmp_path, [(plain, []), (doubtful, ["dark < grey"])], ["sub-3_T1w.nii.gz (no brain)"])
    page = (tmp_path / gallery.PAGE).read_text()
    assert page.index("sub-3_T1w.nii.gz (no brain)") < page.index(f'src="{doubtful}"') < page.index(f'src="{plain}"')
    assert "dark &lt; grey" in page


def test_derivatives_inside_the_data_set_say_where_they_come_from(source: tuple, tmp_path: Path) -> None:
    root = tmp_path / "in"
    shutil.copytree(source[0], root)
    out = root / "derivatives" / "cpmae"
    participant(root, out)
    assert load(out / "dataset_description.json")["DatasetLinks"] == {"raw": "../.."}
    sidecar = load(out / S / "anat" / "sub-01_ses-1_desc-deid_T1w.json")
    assert sidecar["Sources"] == [f"bids:raw:{S}/anat/sub-01_ses-1_T1w.nii.gz"]


def cpmae(*arguments: object) -> tuple[int, str]:
    ran = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    return ran.exit_code, ran.output


def test_labels_that_may_be_dates_are_told_of() -> None:
    names = ("sub-20301399_ses-20230405_T1w.nii", "sub-7_ses-w20191231_run-01_T1w.nii", "sub-123456_T1w.nii")
    scans = [bids.Scan(PurePosixPath(n), bids.parse(n), "anat") for n in names]  # type: ignore[arg-type]
    assert description.dated_labels(scans) == ["ses-20230405", "ses-w20191231"]


def test_group_writes_the_summary(source: tuple, derivative: Path, raw: Path, tmp_path: Path) -> None:
    code, output = cpmae("bids", source[0], derivative, "group")
    assert code == 0 and "12 of 12 scans done" in output
    header, *lines = (derivative / "summary.tsv").read_text().splitlines()
    assert header.split("\t")[:4] == ["scan", "state", "reason", "brain_mask_from"] and len(lines) == COUNT
    assert {line.split("\t")[1] for line in lines} == {"done"}
    code, output = cpmae("bids", source[0], raw, "group")  # a raw data set too, without being told
    assert code == 0 and "12 of 12 scans done" in output
    code, output = cpmae("bids", source[0], tmp_path / "empty", "group")
    assert code == 1 and "run the participant level first" in output and not (tmp_path / "empty").exists()


def test_group_tells_what_was_asked_for_from_what_was_not(source: tuple, tmp_path: Path) -> None:
    """One that failed, one that a killed run did not come to, and the rest of the data set."""
    out, named = tmp_path / "out", {str(scan.path): scan for scan in bids.find(source[0]).scans}
    t1w, *others = sorted(named, key=lambda name: "T1w" not in name)
    (tmp_path / "t1w.json").write_text('{"t1w": {"suffix": "T1w"}}')
    dataset = bids.find(source[0])

    def run_of(*names: str) -> None:
        scans = [named[name] for name in names]
        app.participant(dataset, scans, out, Settings(), tell=lambda *e: None, work=bids_data.work)

    run_of(t1w)
    code, output = cpmae("bids", source[0], out, "group")
    told = "1 of 1 scans done that were asked for; the data set has 11 more, not asked for in any run"
    assert code == 0 and told in output
    code, output = cpmae("bids", source[0], out, "group", "--bids-filter-file", tmp_path / "t1w.json")
    assert code == 0 and "1 of 1 scans done\n" in output, "counts are of the scans that were chosen, lines are of all"
    states = [line.split("\t")[:3] for line in (out / "summary.tsv").read_text().splitlines()[1:]]
    assert len(states) == COUNT and [t1w, "done", "n/a"] in states and [others[0], "not asked for", "n/a"] in states
    run_of(t1w)  # again, and the killed one
    Records(out, tmp_path).ask([t1w, others[0]])
    code, output = cpmae("bids", source[0], out, "group")
    assert code == 1 and "1 of 2 scans done that were asked for, 1 missing; the data set has 10 more" in output
    job = Job(others[0], None, "")
    Records(out, tmp_path).write(job, Outcome("failed", "no brain"))
    code, output = cpmae("bids", source[0], out, "group")
    assert code == 1 and "1 of 2 scans done that were asked for, 1 failed; the data set has 10 more" in output
    assert len(list((out / ".cpmae/asked").iterdir())) == 2


def test_a_stricter_run_leaves_nothing_of_the_one_before(tmp_path: Path) -> None:
    """Tables and descriptions that a run does not write are gone, whether rules or the input changed."""
    root, out, new = tmp_path / "in", tmp_path / "out", bids_data.Identifiers()
    bids_data.make(root)
    assert participant(root, out, placement="raw", options=Options(clean_metadata=False)) == {"done": COUNT}
    (root / "participants.json").write_text(json.dumps({"doctor": {"Description": new("doctor")}}))
    participant(root, out, placement="raw", options=Options(clean_metadata=False))
    assert new.all[0] in everything(out)
    participant(root, out, placement="raw")
    fresh = tmp_path / "fresh"
    participant(root, fresh, placement="raw")
    assert shown(out) == shown(fresh) and new.all[0] not in everything(out)
    for path in [*root.rglob("*events*"), *root.glob("participants*")]:
        path.unlink()
    participant(root, out, placement="raw")
    assert not [name for name in shown(out) if "events" in name or "participants" in name]


def test_a_list_of_people_that_somebody_put_beside_derivatives_stays(source: tuple, tmp_path: Path) -> None:
    assert participant(source[0], tmp_path / "out") == {"done": COUNT}
    (tmp_path / "out" / "participants.tsv").write_text("participant_id\nsub-01\n")
    assert participant(source[0], tmp_path / "out") == {"skipped": COUNT}
    assert (tmp_path / "out" / "participants.tsv").is_file()


def test_scans_that_left_the_input_are_told_of_and_removed_when_asked(tmp_path: Path) -> None:
    root, out, look, new = tmp_path / "in", tmp_path / "out", tmp_path / "look", bids_data.Identifiers()
    bids_data.text(root / "dataset_description.json", {"Name": "Tiny", "BIDSVersion": "1.10.0"})
    for name in ("sub-1/anat/sub-1", "sub-2/ses-05042023/anat/sub-2_ses-05042023", "sub-2/ses-9/anat/sub-2_ses-9"):
        bids_data.image(root / f"{name}_T1w.nii", new)
    assert participant(root, out, placement="raw") == {"done": 3}
    shutil.rmtree(root / "sub-2/ses-05042023")
    dataset = bids.find(root)
    gone = "sub-2/ses-05042023/anat/sub-2_ses-05042023_T1w.nii"
    assert description.not_in_input(dataset, out) == [gone]
    code, output = cpmae("bids", root, out, "group")
    assert code == 1 and "2 of 2 scans done, 1 not in the input" in output
    assert [gone, "not in the input"] in [line.split("\t")[:2] for line in (out / "summary.tsv").open()]
    picture = look / "sub-2/ses-05042023/anat/sub-2_ses-05042023_T1w.png"
    bids_data.text(picture, "of an earlier run")
    participant(root, out, placement="raw", pictures=look)
    assert (out / gone).is_file() and picture.is_file(), "a copy of a part of the input would lose the rest"
    settings = Settings("raw", pictures=look)
    app.participant(dataset, dataset.scans, out, settings, tell=lambda *e: None, work=bids_data.work, prune=True)
    assert not [path for path in look.rglob("*") if "05042023" in path.name]
    assert cpmae("bids", root, out, "group")[0] == 0
    assert b"05042023" not in everything(out) and (out / "sub-2/ses-9/anat/sub-2_ses-9_T1w.nii").is_file()


REFUSED = {
    "no data set": (["{tmp}", "{tmp}/o", "participant"], 1, "dataset_description.json"),
    "no such label": (["{in}", "{tmp}/o", "participant", "--participant-label", "01", "x9"], 1, "sub-x9"),
    "as BIDS Apps spell it": (["{in}", "{tmp}/o", "participant", "--participant_label", "01", "x_9"], 1, "sub-x_9"),
    "with its value": (["{in}", "{tmp}/o", "participant", "--session_label=7_8"], 1, "ses-7_8"),
    "labels apart": (["--session-label", "7", "{in}", "{tmp}/o", "participant"], 1, "ses-7"),
    "empty choice": (["{in}", "{tmp}/o", "participant", "--bids-filter-file", "{tmp}/none.json"], 1, "no scan"),
    "bad filter": (["{in}", "{tmp}/o", "participant", "--bids-filter-file", "{tmp}/bad.json"], 1, "of the form"),
    "two places": (["{in}", "{tmp}/o", "participant", "--slurm", "--scheduler", "x"], 2, "not both"),
    "another level": (["{in}", "{tmp}/o", "session"], 2, "session"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_refused_in_a_sentence(source: tuple, tmp_path: Path, case: str) -> None:
    arguments, code, word = REFUSED[case]
    (tmp_path / "none.json").write_text('{"a": {"suffix": "PDw"}}')
    (tmp_path / "bad.json").write_text("[]")
    words = [a.replace("{tmp}", str(tmp_path)).replace("{in}", str(source[0])) for a in arguments]
    found, output = cpmae("bids", *words)
    assert found == code and word in output and "Traceback" not in output
    assert not (tmp_path / "o").exists()


def two_sessions(root: Path, person: str = "1") -> None:
    """A second session, of another contrast and turned in the scanner; both of the packaged head."""
    bids_data.text(root / "dataset_description.json", {"Name": "Tiny", "BIDSVersion": "1.10.0"})
    with resources.as_file(resources.files("cpmae") / "weights" / cli.EXAMPLE) as example:
        head: Any = nib.load(example)
    stored, affine = np.asarray(head.dataobj)[::2, ::2, ::2], head.affine @ np.diag([2, 2, 2, 1])
    turn = np.eye(4)
    turn[:2, :2], turn[:3, 3] = [[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]], (30, 5, -20)
    brighter = np.rint(np.sqrt(stored / 250.0) * 500).astype(np.int16)
    scans = {"ses-1": (stored, affine), "ses-2": (brighter, turn @ affine)}
    for session, (data, grid) in scans.items():
        (root / f"sub-{person}" / session / "anat").mkdir(parents=True)
        image = nib.Nifti1Image(np.ascontiguousarray(data), grid)
        image.header.set_sform(grid, 1)
        image.to_filename(root / f"sub-{person}" / session / "anat" / f"sub-{person}_{session}_T1w.nii")


@pytest.mark.thorough
def test_the_real_way_gives_a_person_one_head_whatever_was_done_when(tmp_path: Path) -> None:
    """The second session gets the head of the first one's T1w."""
    root = tmp_path / "in"
    two_sessions(root)
    (tmp_path / "key").write_bytes(SECRET)

    def done(out: str, *arguments: object) -> list[bytes]:
        options = ["--subject-key", tmp_path / "key", "--placement", "raw", "--device", "cpu", *arguments]
        code, output = cpmae("bids", root, tmp_path / out, "participant", *options)
        assert code == 0, output
        return [path.read_bytes() for path in sorted((tmp_path / out / "sub-1").rglob("*_T1w.nii"))]

    first, second = done("all")
    assert done("one", "--session-label", "2") == [second]  # the head is drawn again from a scan that is not done
    lost = "sub-1/ses-2/anat/sub-1_ses-2_T1w.nii"
    (tmp_path / "all" / lost).unlink()
    assert done("all") == [first, second]  # and again after a run that was stopped in between
    record = Records(tmp_path / "all").read(lost)
    assert record and record["account"]["head_from"] == "sub-1/ses-1/anat/sub-1_ses-1_T1w.nii"
    outside = np.asarray(nib.load(tmp_path / "all/sub-1/ses-2/anat/sub-1_ses-2_mod-T1w_defacemask.nii").dataobj) != 0  # type: ignore[attr-defined]
    pair = [phantom.parse(raw).stored[outside].astype(float) for raw in (first, second)]
    assert np.corrcoef(*pair)[0, 1] > 0.95


@pytest.mark.thorough
def test_the_real_way_without_a_key_gives_a_person_one_head_in_one_run(tmp_path: Path) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    two_sessions(root)
    arguments = ["bids", root, out, "participant", "--placement", "raw", "--device", "cpu"]
    names = [f"sub-1/ses-{n}/anat/sub-1_ses-{n}_T1w.nii" for n in (1, 2)]
    outside = [f"sub-1/ses-{n}/anat/sub-1_ses-{n}_mod-T1w_defacemask.nii" for n in (1, 2)]

    def alike() -> float:
        where = np.logical_and(*((forms.read(out / name, checked=False).stored != 0) for name in outside))
        return float(np.corrcoef(*(forms.read(out / name).stored[where].astype(float) for name in names))[0, 1])

    for session in "12":
        code, output = cpmae(*arguments, "--session-label", session)
        assert code == 0 and "1 scans done" in output, output
    assert "people whose scans have different heads: 1" in output
    apart = alike()
    code, output = cpmae(*arguments)
    assert code == 0 and "2 scans done" in output and "different heads" not in output, output
    assert apart < 0.95 < alike()


@pytest.mark.slow
def test_kill_9_of_a_run_with_shared_heads_changes_no_byte(tmp_path: Path) -> None:
    root, system = tmp_path / "in", tmp_path / "system"
    two_sessions(root, "1")
    two_sessions(root, "2")
    system.mkdir()
    (tmp_path / "key").write_bytes(SECRET)

    def begin(out: str) -> subprocess.Popen:
        words = [sys.executable, "-m", "cpmae", "bids", root, tmp_path / out, "participant", "--placement", "raw"]
        words += ["--subject-key", tmp_path / "key", "--device", "cpu"]
        quiet = subprocess.DEVNULL
        environment = os.environ | {"TMPDIR": str(system)}
        return subprocess.Popen(words, stdout=quiet, stderr=quiet, env=environment, start_new_session=True)

    def results(out: str) -> dict[str, bytes]:
        return {name: (tmp_path / out / name).read_bytes() for name in shown(tmp_path / out)}

    started = time.monotonic()
    assert begin("whole").wait() == 0
    takes, whole, rng = time.monotonic() - started, results("whole"), random.Random(1)
    killed = 0
    for _ in range(25):
        run = begin("killed")
        try:
            code = run.wait(rng.uniform(0.2, 1.0) * takes)
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
            killed += 1
        else:  # begin anew, so that there is something to kill
            assert code == 0 and results("killed") == whole
            shutil.rmtree(tmp_path / "killed")
        found = results("killed") if (tmp_path / "killed").exists() else {}
        assert {name: raw for name, raw in found.items() if name.endswith(".nii") and raw != whole[name]} == {}
    assert killed >= 10 and begin("killed").wait() == 0
    assert results("killed") == whole
    assert list(system.iterdir()) == []
    assert [p.name for p in (tmp_path / "killed").iterdir() if p.name.startswith(".cpmae-run-")] == []


def test_the_real_way_keeps_brains_exact_and_takes_a_mask_over(tmp_path: Path) -> None:
    """The command on a T1w and, in the same frame, thicker slices of another contrast; both on the packaged head."""
    root, out = tmp_path / "in", tmp_path / "out"
    anat = root / "sub-1" / "anat"
    bids_data.text(root / "dataset_description.json", {"Name": "Tiny", "BIDSVersion": "1.10.0"})
    with resources.as_file(resources.files("cpmae") / "weights" / cli.EXAMPLE) as example:
        head: Any = nib.load(example)
    stored = np.asarray(head.dataobj)[::2, ::2, ::2]
    affine = head.affine @ np.diag([2, 2, 2, 1])
    for name, data, grid in (
        ("T1w", stored, affine),
        ("FLAIR", 1000 - stored[:, :, ::2], affine @ np.diag([1, 1, 2, 1])),
    ):
        found = nib.Nifti1Image(np.ascontiguousarray(data), grid)
        found.header.set_sform(grid, 1)
        found.header["descrip"] = b"Doe^Jane"
        anat.mkdir(parents=True, exist_ok=True)
        found.to_filename(anat / f"sub-1_{name}.nii.gz")
    bids_data.text(anat / "sub-1_T1w.json", {"EchoTime": 0.003, "PatientName": "Doe^Jane"})
    (tmp_path / "key").write_bytes(SECRET)
    arguments = ["--subject-key", tmp_path / "key", "--placement", "raw", "--device", "cpu"]
    arguments += ["--pictures", tmp_path / "look"]
    code, output = cpmae("bids", root, out, "participant", *arguments)
    assert code == 0 and "2 scans done, 0 failed" in output and "different heads" not in output
    assert shown(tmp_path / "look") == {"index.html", "sub-1/anat/sub-1_T1w.png", "sub-1/anat/sub-1_FLAIR.png"}
    assert (tmp_path / "look/sub-1/anat/sub-1_T1w.png").read_bytes().startswith(b"\x89PNG")
    assert list(out.rglob("*.png")) == []
    for name in ("T1w", "FLAIR"):
        replaced = np.asarray(nib.load(out / f"sub-1/anat/sub-1_mod-{name}_defacemask.nii.gz").dataobj) != 0  # type: ignore[attr-defined]
        check = verify_files(anat / f"sub-1_{name}.nii.gz", out / f"sub-1/anat/sub-1_{name}.nii.gz", ~replaced)
        assert check.ok and check.protected_differing == 0, check.failures
    record = Records(out).read("sub-1/anat/sub-1_FLAIR.nii.gz")
    assert record and record["account"]["brain_mask_from"] == "sub-1/anat/sub-1_T1w.nii.gz"
    found_bytes = everything(out)  # three letters of the name would turn up in compressed bytes by chance
    assert b"Doe^Jane" not in found_bytes and str(key.seed_of(SECRET, "1")).encode() not in found_bytes
    code, output = cpmae("bids", root, out, "participant", *arguments)
    assert code == 0 and "0 scans done, 2 were done before, 0 failed" in output


@pytest.mark.thorough
def test_the_real_way_takes_an_anatomical_image_of_several_volumes(tmp_path: Path) -> None:
    """Echoes in one file: the defacemask has three axes, and says which voxels of each volume were replaced."""
    root, out, name = tmp_path / "in", tmp_path / "out", "sub-1/anat/sub-1_T2starw.nii.gz"
    bids_data.text(root / "dataset_description.json", {"Name": "Tiny", "BIDSVersion": "1.10.0"})
    with resources.as_file(resources.files("cpmae") / "weights" / cli.EXAMPLE) as example:
        head: Any = nib.load(example)
    stored, affine = np.asarray(head.dataobj)[::2, ::2, ::2], head.affine @ np.diag([2, 2, 2, 1])
    image = nib.Nifti1Image(np.stack([stored, stored * 0.6], axis=-1).astype(np.int16), affine)
    image.header["descrip"] = b"Doe^Jane"
    (root / "sub-1/anat").mkdir(parents=True)
    image.to_filename(root / name)
    code, output = cpmae("bids", root, out, "participant", "--placement", "raw", "--device", "cpu")
    assert code == 0, output
    found = forms.read(out / "sub-1/anat/sub-1_mod-T2starw_defacemask.nii.gz", checked=False)
    assert found.stored.shape == stored.shape and set(np.unique(found.stored)) == {0, 1}
    np.testing.assert_allclose(found.affine, affine, atol=1e-4)
    checked = verify_run(forms.open_scan(root / name), forms.open_scan(out / name), found.stored == 0)
    assert checked.ok, checked.failures
    assert b"Doe^Jane" not in everything(out)


@pytest.mark.thorough
def test_the_real_way_takes_no_mask_over_that_does_not_fit(tmp_path: Path) -> None:
    """The origin of the T1w was moved, and its code still says that it is the scanner's frame."""
    root, out = tmp_path / "in", tmp_path / "out"
    bids_data.text(root / "dataset_description.json", {"Name": "Tiny", "BIDSVersion": "1.10.0"})
    with resources.as_file(resources.files("cpmae") / "weights" / cli.EXAMPLE) as example:
        head: Any = nib.load(example)
    stored, affine = np.asarray(head.dataobj)[::2, ::2, ::2], head.affine @ np.diag([2, 2, 2, 1])
    moved = affine.copy()
    moved[:3, 3] += (0, 20, -50)
    (root / "sub-1/anat").mkdir(parents=True)
    for name, data, grid in (("T1w", stored, moved), ("FLAIR", stored[:, :, 1:], affine)):
        image = nib.Nifti1Image(np.ascontiguousarray(data), grid)
        image.header.set_sform(grid, 1)
        image.to_filename(root / f"sub-1/anat/sub-1_{name}.nii")
    code, output = cpmae("bids", root, out, "participant", "--placement", "raw", "--device", "cpu")
    assert code == 0, output
    account = Records(out).read("sub-1/anat/sub-1_FLAIR.nii")["account"]  # type: ignore[index]
    assert account["brain_mask_from"] == "deepbet"
    assert any("sub-1_T1w.nii: the brain mask of another scan does not fit" in w for w in account["warnings"])
    masks = (out / f"sub-1/anat/sub-1_mod-{name}_defacemask.nii" for name in ("T1w", "FLAIR"))
    one, other = (forms.read(mask, checked=False) for mask in masks)
    kept = one.stored[:, :, 1:] == 0, other.stored == 0
    assert 2 * (kept[0] & kept[1]).sum() > 0.95 * (kept[0].sum() + kept[1].sum())
