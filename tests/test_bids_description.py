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
    ("https://example.org/a?token=1f3c", False),
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


REFERENCES = [
    ("see /data/doe_jane/scans", False),
    ("(/data/doe_jane)", False),
    ("see ~jane/scans", False),
    ("see ../jane/scans", False),
    (r"on \\server\share", False),
    (r"on D:\jane", False),
    ("on //server/share", False),
    ("nas01:/home/jane", False),
    ("jane@nas01:scans", False),
    ("mailto:jane", False),
    ("ask jane.doe@example.org", False),
    ("ssh://nas01/x", False),
    ("sftp:nas01", False),
    (r"data\jane\scans", False),
    ("https://example.org/a?token=1f3c", False),
    ("https://example.org/a?id=7&X-Amz-Signature=1f3c", False),
    ("https://example.org/a#access_token=1f3c", False),
    ("https://example.org/a https://example.org/b?api_key=1f3c", False),
    ("https://example.org/a and /home/jane", False),
    ("https://example.org/a?id=7&page=2", True),
    ("https://example.org/a?author=doe&keywords=mri", True),
    ("https://medium.com/@who/what", True),
    ("doi:10.1016/j.neuroimage.2020.1", True),
    ("arXiv:2001.00001, pages 1-7; and/or Doe, J. & Roe, R. (2020), T1/T2 at 3 T: a title", True),
    ("PMID: 1234567, bids::sub-01, github.com/who/what", True),
    ('"<https://example.org/a>", in French', True),
    ("https://example.org/a https://example.org/a/b", True),
    ("Supplementary file: ~3 T, ~ten subjects", True),
]


@pytest.mark.parametrize(("text", "stays"), REFERENCES)
@pytest.mark.parametrize("alone", [True, False], ids=["text", "list"])
def test_references_are_prose_with_public_addresses(tmp_path: Path, text: str, stays: bool, alone: bool) -> None:
    found = described(tmp_path, {"ReferencesAndLinks": text if alone else ["Doe 2020", text]})["ReferencesAndLinks"]
    assert found == [*([] if alone else ["Doe 2020"]), *([text] if stays else [])]


@pytest.mark.parametrize("value", [{"file:///mnt/jane": 1}, 7, None])
def test_references_that_are_none_go(tmp_path: Path, value: Any) -> None:
    assert described(tmp_path, {"ReferencesAndLinks": value})["ReferencesAndLinks"] == []


def test_a_text_that_somebody_changed_is_written_again_and_no_other(tmp_path: Path) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    bids_data.text(root / "dataset_description.json", {"Name": "Half \ud800, two\rlines", "BIDSVersion": "1.10.0"})
    (out / "staging").mkdir(parents=True)

    def again() -> dict[str, tuple[int, bytes]]:
        dataset.describe(bids.Dataset(root, (), {}, ()), out, Settings(), out / "staging")
        return {path.name: (path.stat().st_ino, path.read_bytes()) for path in out.iterdir() if path.is_file()}

    first = again()
    assert b"Half ?, two\rlines" in first["README"][1] and again() == first
    (out / "README").write_bytes("Universität".encode("latin-1"))
    second = again()
    assert second["README"][1] == first["README"][1]
    assert {**second, "README": first["README"]} == first


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
