"""What a data set says of itself names no place inside a hospital, and its records no time of its originals."""

import json
import os
from pathlib import Path
from typing import Any

import bids_data
import pytest

from cpmae.bids import dataset, plan
from cpmae.bids.plan import Placement, Settings
from cpmae.io import bids

SECRET = bytes(range(32))


def described(tmp_path: Path, fields: dict[str, Any], placement: Placement = "derivative") -> dict[str, Any]:
    """The description of the output of a data set with these fields in its own."""
    root, out = tmp_path / "in", tmp_path / "out"
    bids_data.text(root / "dataset_description.json", {"Name": "Tiny", "BIDSVersion": "1.10.0", **fields})
    (out / "staging").mkdir(parents=True)
    dataset.describe(bids.Dataset(root, (), {}, ()), out, Settings(placement), out / "staging")
    return json.loads((out / "dataset_description.json").read_text())


ADDRESSES = [
    ("https://github.com/who/what", True),
    ("http://example.org:8080/a/b.py", True),
    ("HTTPS://Example.org", True),
    ("file:///home/jane/conv", False),
    ("/home/jane/conv", False),
    ("https://jane:doe@example.org/a", False),
    ("https://example.org@jane", False),
    ("http://localhost:8000/jane", False),
    ("http://gitlab/jane", False),
    ("http://srv.local/jane", False),
    ("http://192.168.0.7/jane", False),
    ("http://[::1]/jane", False),
    ("https://example.org/@who/what", True),
    ("https://example.org/a by Jane Doe", False),
    (["https://example.org"], False),
]


@pytest.mark.parametrize(("address", "stays"), ADDRESSES)
def test_where_a_converter_comes_from_stays_if_everybody_can_go_there(
    tmp_path: Path, address: Any, stays: bool
) -> None:
    found = described(tmp_path, {"GeneratedBy": [{"Name": "conv", "Version": "1", "CodeURL": address}]}, "raw")
    expected = {"Name": "conv", "Version": "1"} | ({"CodeURL": address} if stays else {})
    assert found["GeneratedBy"][0] == expected


def test_references_lead_to_no_private_place(tmp_path: Path) -> None:
    public = ["Doe et al., 2020: a title", "https://doi.org/10.1/x", "see (https://example.org/a)."]
    private = ["file:///mnt/jane", "see file:/mnt/jane", r"\\srv\jane", "~/jane", r"c:\jane", "http://srv/jane", 7]
    assert described(tmp_path, {"ReferencesAndLinks": public + private})["ReferencesAndLinks"] == public


DOIS = [
    ("doi:10.18112/openneuro.ds000001.v1.0.0", "https://doi.org/10.18112/openneuro.ds000001.v1.0.0"),
    ("10.5281/zenodo.1", "https://doi.org/10.5281/zenodo.1"),
    ("DOI: 10.5281/zenodo.1", "https://doi.org/10.5281/zenodo.1"),
    ("https://doi.org/10.5281/zenodo.1", "https://doi.org/10.5281/zenodo.1"),
    ("http://dx.doi.org/10.5281/zenodo.1", "https://doi.org/10.5281/zenodo.1"),
]


@pytest.mark.parametrize(("doi", "link"), DOIS)
def test_a_doi_says_where_the_originals_are(tmp_path: Path, doi: str, link: str) -> None:
    found = described(tmp_path, {"DatasetDOI": doi})
    assert found["SourceDatasets"] == [{"DOI": doi, "URL": link}]
    assert found["DatasetLinks"] == {"raw": link}


@pytest.mark.parametrize("doi", ["file:///mnt/hospital/x", "//srv/x", "https://jane@srv/10.1/x", "doi:jane", 7, None])
def test_what_is_no_doi_is_told_nowhere(tmp_path: Path, doi: Any) -> None:
    source = [{"Name": "x", "URL": "file:///mnt/hospital/x"}]
    found = described(tmp_path, {"DatasetDOI": doi, "SourceDatasets": source, "DatasetLinks": {"a": "file:///mnt/x"}})
    assert found["SourceDatasets"] == [{"Name": "Tiny"}] and "DatasetLinks" not in found


NAMES = [f"sub-0{i}/anat/sub-0{i}_{suffix}.nii.gz" for i in (1, 2) for suffix in ("T1w", "T2w")]


def fingerprints(root: Path, key: bytes | None = None) -> dict[str, str]:
    """Of all scans, as another process would find them."""
    found = bids.find(root)
    return {job.name: job.fingerprint for job in plan.jobs(found, found.scans, root / "out", Settings(key=key))}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    bids_data.text(tmp_path / "dataset_description.json", {"Name": "Tiny", "BIDSVersion": "1.10.0"})
    for name in NAMES:
        bids_data.image(tmp_path / name, bids_data.Identifiers())
    return tmp_path


def test_a_record_cannot_be_made_without_the_original(study: Path) -> None:
    """Or whoever has the output finds by trying when a file was written; all else in a record is known or few."""
    before, lender = fingerprints(study), study / NAMES[0]
    assert before == fingerprints(study)
    was, raw = lender.stat(), bytearray(lender.read_bytes())
    raw[-20] ^= 1
    lender.write_bytes(raw)
    os.utime(lender, ns=(was.st_atime_ns, was.st_mtime_ns))
    after = fingerprints(study)
    assert [before[name] != after[name] for name in NAMES] == [True, True, False, False]


@pytest.mark.parametrize("key", [None, SECRET])
def test_a_record_tells_that_an_original_changed(study: Path, key: bytes | None) -> None:
    before = fingerprints(study, key)
    os.utime(study / NAMES[3], (1, 1))
    after = fingerprints(study, key)
    assert [name for name in NAMES if before[name] != after[name]] == [NAMES[3]]


def test_an_original_that_is_gone_is_for_the_worker_to_speak_of(study: Path) -> None:
    found = bids.find(study)
    before = fingerprints(study)
    (study / NAMES[0]).unlink()
    jobs = plan.jobs(found, found.scans, study / "out", Settings())
    assert [job.name for job in jobs if job.fingerprint != before[job.name]] == NAMES[:2]
