"""A DICOM folder in, the same instances out: the whole way with everything that lies in such folders."""

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path
from typing import Any

import dicom_phantom as dp
import nibabel as nib
import numpy as np
import phantom
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom import uid
from scipy import ndimage
from test_cli import contents, run
from test_metadata_dicom import Plants

from cpmae import study as study_module
from cpmae.errors import BrainMaskError, OutputError, ScanError
from cpmae.io.dicom import find_series, t1w_score
from cpmae.io.nifti import from_volume
from cpmae.leased import UNFINISHED, leased_folder
from cpmae.options import Options
from cpmae.shared_mask import given_mask, mask_on
from cpmae.study_output import put_in_place
from cpmae.verify_study import verify_study
from cpmae.volume import Volume

DATA, BRAIN = phantom.head()
STORED = np.rint(DATA * 8).astype(np.uint16)
AFFINE = phantom.ras_affine()
SIGNED = np.rint(1500 - 6 * DATA).astype(np.int16)  # another contrast, in other bits
ELSEWHERE = AFFINE @ np.array([[1, 0, 0, 3], [0, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1.0]])
THICK = np.ascontiguousarray(SIGNED[3:, :, :].reshape(53, 72, 32, 2).mean(3)).astype(np.int16)


def mask_file(folder: Path, affine: NDArray[np.float64] = AFFINE) -> Path:
    """The brain as NIfTI, its first two axes turned as dcm2niix turns them."""
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    flip[:2, 3] = np.array(BRAIN.shape[:2]) - 1
    nib.save(nib.Nifti1Image(BRAIN[::-1, ::-1].astype(np.uint8), affine @ flip), folder / "mask.nii.gz")
    return folder / "mask.nii.gz"


def secondary_capture() -> pydicom.Dataset:
    data = dp.base(uid.SecondaryCaptureImageStorage, Modality="OT", SeriesDescription="screen of Doe")
    return dp.image(data, STORED[:, :, 30])


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A folder with two head series among much else, and what the command made of it."""
    work, plants = tmp_path_factory.mktemp("study"), Plants()
    folder = work / "in"

    def plant(data: pydicom.Dataset, k: int) -> None:
        data.PatientAddress, data.ImageComments, data.InstitutionName = plants(), plants(), plants()
        data.private_block(0x0011, "ACME", create=True).add_new(1, "LO", plants())
        if k == 20:
            data.PixelPaddingValue = 0
            data.SOPInstanceUID = "1.2.3.4"  # as naive tools have it, another image's

    dp.classic(folder / "Doe_Jane" / "a", STORED, AFFINE, plant, SeriesNumber=4)
    dp.enhanced(folder / "Doe_Jane" / "MR.1", THICK, ELSEWHERE, bits=13, SeriesNumber=2, SOPInstanceUID="1.2.3.4")
    dp.put(folder / "capture.dcm", secondary_capture())
    dp.put(folder / "sr.dcm", dp.base(uid.EnhancedSRStorage, Modality="SR"))
    dp.put(folder / "spectrum.dcm", dp.base(uid.MRSpectroscopyStorage))
    dp.classic(folder / "loc", STORED[:, :, 30:33], AFFINE, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    colour = dp.classic(folder / "map", STORED[:, :, 20:40], AFFINE, SamplesPerPixel=3, SeriesDescription="FA colour")
    burned = dp.classic(folder / "burned", STORED, AFFINE, BurnedInAnnotation="YES", SeriesNumber=9)
    (folder / "notes.txt").write_text("Doe^Jane")
    (folder / "loc" / "broken.dcm").write_bytes(colour[0].read_bytes()[:300])
    before = contents(folder)
    arguments = ["deidentify", folder, work / "out", "--brain-mask", mask_file(work), "--seed", "3", "--json"]
    ran = run(*arguments, "--save-brain-mask", work / "found.nii.gz", "--picture", work / "both.png")
    assert contents(folder) == before
    return {"work": work, "in": folder, "out": work / "out", "ran": ran, "plants": plants, "burned": burned}


def instances(folder: Path) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(p) for p in sorted(folder.rglob("*.dcm"))]


def volume(folder: Path) -> NDArray:
    """Stored integers of a classic series along its positions, (columns, rows, slices)."""
    slices = sorted(instances(folder), key=lambda d: float(d.ImagePositionPatient[2]))
    return np.stack([d.pixel_array.T for d in slices], axis=2)


def test_both_head_series_come_back_and_the_rest_is_listed(study: dict[str, Any]) -> None:
    ran, account = study["ran"], json.loads(study["ran"].stdout)
    assert ran.exit_code == 1, ran.output  # since one series failed
    assert [e["instances"] for e in account["series"]] == [1, 64]
    mask_from = [e["volumes"][0]["brain_mask_from"] for e in account["series"]]
    assert mask_from == ["series 4 (t1_mprage)", "given mask"]
    folders = {str(p.relative_to(study["out"])) for p in study["out"].rglob("*") if p.is_file()}
    assert folders == {
        *("study-01/series-001/0001.dcm",),
        *(f"study-01/series-002/{n:04d}.dcm" for n in range(1, 65)),
    }
    left = {item["name"]: item["reason"] for item in account["left_out"]}
    assert "Secondary Capture" in left["capture.dcm"] and "SR" in left["sr.dcm"]
    assert "Spectroscopy" in left["spectrum.dcm"] and "not a DICOM file" in left["notes.txt"]
    assert "localizer" in left["series 1 (t1_mprage)"] and "colour" in left["series 1 (FA colour)"]
    assert "cut off" in left["loc/broken.dcm"]
    assert [item["name"] for item in account["failed"]] == ["series 9 (t1_mprage)"]
    assert "BurnedInAnnotation YES" in ran.stderr and "--allow-burned-in" in ran.stderr
    assert account["seed"] == 3 and "Traceback" not in ran.output


def test_protected_integers_are_equal_and_the_rest_is_new(study: dict[str, Any]) -> None:
    found = volume(study["out"] / "study-01/series-002")
    assert found.dtype == np.uint16 and np.array_equal(found[BRAIN], STORED[BRAIN])
    nose = (slice(25, 36), slice(62, 70), slice(20, 32))
    assert np.mean(found[nose] == STORED[nose]) < 0.1 and found.max() <= 4095
    (enhanced,) = instances(study["out"] / "study-01/series-001")
    pixels, there = enhanced.pixel_array.transpose(2, 1, 0), mask_on(BRAIN, AFFINE, THICK.shape, ELSEWHERE)
    assert there.sum() > 0.45 * BRAIN.sum()
    assert pixels.dtype == np.int16 and np.array_equal(pixels[there], THICK[there])
    assert np.mean(pixels[~there] == THICK[~there]) < 0.1
    assert pixels.min() >= -4096 and pixels.max() <= 4095


def test_class_geometry_and_storage_are_the_same(study: dict[str, Any]) -> None:
    (old,), (new,) = instances_of(study["in"], "MR.1"), instances(study["out"] / "study-01/series-001")
    assert new.SOPClassUID == uid.EnhancedMRImageStorage and new.NumberOfFrames == old.NumberOfFrames
    for a, b in zip(old.PerFrameFunctionalGroupsSequence, new.PerFrameFunctionalGroupsSequence, strict=True):
        assert a.PlanePositionSequence == b.PlanePositionSequence
    files, slices = sorted((study["in"] / "Doe_Jane/a").iterdir()), instances(study["out"] / "study-01/series-002")
    for path, b in zip([*files, study["in"] / "Doe_Jane/MR.1"], [*slices, new], strict=True):
        a = pydicom.dcmread(path)
        for keyword in ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"):
            assert a[keyword] == b[keyword]
        for keyword in ("PhotometricInterpretation", "InstanceNumber", "SOPClassUID"):
            assert a[keyword] == b[keyword]
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
            assert a.get(keyword) == b.get(keyword)


def instances_of(folder: Path, name: str) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(p) for p in folder.rglob(name)]


def test_uids_are_new_and_consistent_in_the_study(study: dict[str, Any]) -> None:
    old, new = instances_of(study["in"], "im*") + instances_of(study["in"], "MR.1"), instances(study["out"])
    before = {str(e.value) for d in old for e in d if e.VR == "UI" and not e.value.startswith("1.2.840.10008.")}
    after = [str(e.value) for d in new for e in d if e.VR == "UI"]
    assert not before & set(after)
    for keyword, count in (("StudyInstanceUID", 1), ("FrameOfReferenceUID", 1), ("SeriesInstanceUID", 2)):
        assert len({d[keyword].value for d in new}) == count
    assert len({d.SOPInstanceUID for d in new}) == 65 and len({d.PatientID for d in new}) == 1


def test_no_identifier_in_any_file_or_name(study: dict[str, Any]) -> None:
    files = [p for p in study["out"].rglob("*") if p.is_file()]
    known = [*study["plants"].known, "Doe", "Jane", "MRN-0042", "19700214", "20250618", "SN-77", "t1_mprage"]
    assert len(known) > 250
    for path in files:
        raw = path.read_bytes()
        assert not [text for text in known if text.encode() in raw]
    assert "Doe" not in str([p.relative_to(study["out"]) for p in files])


def test_the_mask_and_the_picture_are_of_the_t1w(study: dict[str, Any]) -> None:
    found = nib.load(study["work"] / "found.nii.gz")
    assert found.get_data_dtype() == np.uint8 and np.allclose(found.affine, AFFINE, atol=1e-4)
    assert np.array_equal(np.asarray(found.dataobj) != 0, BRAIN)
    assert (study["work"] / "both.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in study["work"].iterdir()) == ["both.png", "found.nii.gz", "in", "mask.nii.gz", "out"]


def converted(folder: Path, work: Path) -> list[Any]:
    """What dcm2niix makes of a series, in `work`; gaps in it can give several images."""
    tool = shutil.which("dcm2niix", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if not tool:
        pytest.skip("dcm2niix is not installed")
    work.mkdir()
    subprocess.run([tool, "-b", "n", "-f", "x", "-o", work, folder], check=True, capture_output=True)
    return [nib.load(path) for path in sorted(work.glob("*.nii"))]


def test_dcm2niix_reads_the_same_geometry(study: dict[str, Any], tmp_path: Path) -> None:
    (one,) = converted(study["in"] / "Doe_Jane/a", tmp_path / "before")
    (other,) = converted(study["out"] / "study-01/series-002", tmp_path / "after")
    images = one, other
    assert one.shape == other.shape == phantom.SHAPE and np.array_equal(one.affine, other.affine)
    mask = nib.load(study["work"] / "found.nii.gz")
    brain = nib.as_closest_canonical(mask).get_fdata() > 0
    a, b = (np.asarray(nib.as_closest_canonical(i).dataobj) for i in images)
    assert np.array_equal(a[brain], b[brain]) and not np.array_equal(a, b)


def test_verify_of_two_folders(study: dict[str, Any], tmp_path: Path) -> None:
    arguments = ("--brain-mask", study["work"] / "mask.nii.gz")
    ran = run("verify", study["in"], study["out"], *arguments)
    assert ran.exit_code == 0 and ran.stdout.count("  verified\n") == 2, ran.output
    shutil.copytree(study["out"], tmp_path / "out")
    path = tmp_path / "out" / "study-01" / "series-002" / "0040.dcm"
    data = pydicom.dcmread(path)
    data.PixelData = bytes(len(data.PixelData))
    del data.RecognizableVisualFeatures
    data.save_as(path)
    ran = run("verify", study["in"], tmp_path / "out", *arguments, "--json")
    found = json.loads(ran.stdout)
    broken, whole = sorted(found["series"], key=lambda check: check["ok"])
    assert not found["ok"]
    assert ran.exit_code == 1 and whole["ok"] and broken["instances"] == 64
    assert f"{int(BRAIN[:, :, 39].sum())} of " in broken["failures"][1] and "lack the mark" in broken["failures"][0]
    ran = run("verify", study["out"], tmp_path / "out")
    assert ran.exit_code == 1 and "UIDs of the original" in ran.stdout


def test_echoes_a_missing_slice_slopes_by_slice_and_kept_metadata(tmp_path: Path) -> None:
    series, echoes = uid.generate_uid(), (STORED, (STORED * 0.6).astype(np.uint16))

    def change(data: pydicom.Dataset, k: int) -> None:
        data.RescaleSlope, data.RescaleIntercept, data.PatientComments = 1 + k / 100, 0, "kept"

    for n, stored in enumerate(echoes):
        paths = dp.classic(
            tmp_path / "in",
            stored,
            AFFINE,
            change,
            names=f"{n}-{{:04d}}.dcm",
            EchoTime=3.0 + n,
            SeriesInstanceUID=series,
        )
        paths[33].unlink()
    out = tmp_path / "out" / "study-02" / "series-001" / "0001.dcm"  # of an earlier result
    dp.put(out, secondary_capture())
    options = ("--metadata", "keep", "--overwrite", "--brain-mask", mask_file(tmp_path))
    ran = run("deidentify", tmp_path / "in", tmp_path / "out", *options)
    assert ran.exit_code == 0 and ran.stderr.count("is missing in series 1") == 1, ran.output
    found = instances(tmp_path / "out")
    assert len(found) == 126 and not out.exists()
    brain = BRAIN.copy()
    for data in found:
        echo, k = echoes[int(data.EchoTime) - 3], round((data.ImagePositionPatient[2] - AFFINE[2, 3]) / 3)
        new, old, inside = data.pixel_array.T, echo[:, :, k], brain[:, :, k]
        assert k != 33 and np.array_equal(new[inside], old[inside])
        assert inside.all() or np.mean(new[~inside] == old[~inside]) < 0.7
        assert (data.PatientName, data.PatientComments, data.PatientIdentityRemoved) == ("Doe^Jane", "kept", "NO")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "mask.nii.gz", "out"]


def test_a_volume_that_was_broken_off_is_named(tmp_path: Path) -> None:
    series = uid.generate_uid()
    for n, count in enumerate((64, 24)):
        part = STORED[:, :, :count]
        dp.classic(tmp_path / "in", part, AFFINE, names=f"{n}-{{}}", AcquisitionNumber=n, SeriesInstanceUID=series)
    ran = run("deidentify", tmp_path / "in", tmp_path / "out", "--brain-mask", mask_file(tmp_path))
    assert ran.exit_code == 1 and not (tmp_path / "out").exists()
    assert "volume 2 of 2, which has 24 slices of 64: take these out if" in ran.stderr, ran.stderr


@pytest.mark.thorough
def test_series_of_one_person_differ_by_noise_alone_and_other_people_have_other_heads(tmp_path: Path) -> None:
    for n, patient in enumerate(("A", "A", "B"), 1):
        dp.classic(tmp_path / "in" / str(n), STORED, AFFINE, PatientID=patient, PatientName=patient, SeriesNumber=n)
    nib.save(nib.Nifti1Image(BRAIN.astype(np.uint8), AFFINE), tmp_path / "mask.nii.gz")
    tool = f"command:sh -c 'cp {tmp_path}/mask.nii.gz {{mask}}' {{input}}"
    options = ("--brain-extractor", tool, "--margin-mm", "2")

    def results(name: str) -> dict[str, NDArray]:
        ran = run("deidentify", tmp_path / "in", tmp_path / name, *options, "--seed", "3")
        assert ran.exit_code == 0, ran.output
        folders = sorted((tmp_path / name).glob("*/*"))
        assert {d.DerivationDescription.split(": ")[1] for f in folders for d in instances(f)} == {
            "all but the brain and 2 mm around it replaced by a generated head"
        }
        return {f.name: volume(f) for f in folders}

    found = results("out")
    one, again, other = found.values()
    outside = one != STORED
    assert 0 < phantom.smooth_share(one, again, outside) < 0.1 < 0.3 < phantom.smooth_share(one, other, outside)
    second = results("twice")  # the same pixels, under other identities
    assert all(np.array_equal(found[name], second[name]) for name in found)
    ids = [{d.PatientID for d in instances(tmp_path / name)} for name in ("out", "twice")]
    assert len(ids[0]) == 2 and not ids[0] & ids[1]
    ran = run("deidentify", tmp_path / "in", tmp_path / "named", *options, "--patient-id", "STUDY-017")
    assert ran.exit_code == 1 and "2 patients" in ran.stderr
    shutil.rmtree(tmp_path / "in" / "3")
    ran = run("deidentify", tmp_path / "in", tmp_path / "named", *options, "--patient-id", "STUDY-017")
    assert ran.exit_code == 0, ran.output
    assert {d.PatientID for d in instances(tmp_path / "named")} == {"STUDY-017"}
    assert {str(d.PatientName) for d in instances(tmp_path / "named")} == {"Deidentified^STUDY-017"}


def test_patients_go_one_after_the_other_and_one_that_fails_leaves_the_others_alone(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(BRAIN.astype(np.uint8), AFFINE), tmp_path / "mask.nii.gz")
    for n, patient in enumerate("ABC"):
        world = {"StudyInstanceUID": uid.generate_uid(), "FrameOfReferenceUID": uid.generate_uid()}
        dp.classic(tmp_path / "in" / patient / "1", STORED + n, AFFINE, PatientID=patient, SeriesNumber=1, **world)
    late = {"SeriesNumber": 2, "SeriesDescription": "t2", "EchoTime": 90.0}
    dp.classic(tmp_path / "in" / "A" / "2", STORED, AFFINE, PatientID="A", **late)
    cut = tmp_path / "in" / "B" / "1" / "im0007"
    cut.write_bytes(cut.read_bytes()[:-500])
    told: list[str] = []
    heads: list[int] = []

    def progress(stage: str) -> None:
        told.append(stage)
        heads.append(sum(type(thing) is study_module._Head for thing in gc.get_objects()))

    tool = f"command:sh -c 'cp {tmp_path}/mask.nii.gz {{mask}}' {{input}}"
    options = Options(brain_extractor=tool)
    done = study_module.deidentify_study(tmp_path / "in", tmp_path / "out", options, progress=progress)
    names = [stage for stage in told if stage.startswith("series ")]
    ways = ["A/1/im0001", None, "B/1/im0001", "C/1/im0001"]
    expected = [f"series 1 (t1_mprage) of {way}" if way else "series 2 (t2)" for way in ways]
    assert sorted(names) == sorted(expected) and abs(names.index(expected[0]) - names.index(expected[1])) == 1
    assert max(heads) <= 2  # of one patient alone: her T1w's, and that of the other series, which lies in another frame
    assert [item.name for item in done.failed] == [expected[2]] and "im0007" in done.failed[0].reason
    assert {e["name"] for e in done.account["series"]} == set(expected) - {expected[2]}
    assert {e["patient_id"] for e in done.account["series"]} == {"A", "C"}
    told_by_verify = {c.name for c in verify_study(tmp_path / "in", tmp_path / "out", None, tool)}
    assert told_by_verify == set(expected) - {expected[2]}


@pytest.mark.thorough
def test_with_a_subject_key_a_patient_has_one_head_whoever_else_is_there(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(bytes(range(32)))
    (tmp_path / "other").write_bytes(bytes(32))
    for name, patients in (("alone", "B"), ("both", "AB")):
        for n, patient in enumerate(patients, 1):
            dp.classic(tmp_path / name / patient, STORED, AFFINE, PatientID=patient, SeriesNumber=n)
    nib.save(nib.Nifti1Image(BRAIN.astype(np.uint8), AFFINE), tmp_path / "mask.nii.gz")
    tool = f"command:sh -c 'cp {tmp_path}/mask.nii.gz {{mask}}' {{input}}"

    def of_b(name: str, key: str) -> NDArray:
        out = tmp_path / f"{name} {key}"
        ran = run(
            *("deidentify", tmp_path / name, out, "--brain-extractor", tool, "--subject-key", tmp_path / key, "--json")
        )
        account = json.loads(ran.stdout)
        (entry,) = [entry for entry in account["series"] if entry["patient_id"] == "B"]
        assert account["seed"] == "secret" and {d.PatientID for d in instances(out / entry["folder"])} == {
            entry["new_patient_id"]
        }
        return volume(out / entry["folder"])

    one, again, other = of_b("alone", "key"), of_b("both", "key"), of_b("alone", "other")
    outside = one != STORED
    assert phantom.smooth_share(one, again, outside) < 0.1 < 0.3 < phantom.smooth_share(one, other, outside)
    ran = run("deidentify", tmp_path / "alone", tmp_path / "x", "--subject-key", tmp_path / "key", "--seed", "1")
    assert ran.exit_code == 2 and "not both" in ran.stderr


@pytest.mark.thorough
def test_a_series_that_does_not_reach_the_brain_says_so(tmp_path: Path) -> None:
    below = AFFINE.copy()
    below[2, 3] -= 300
    world = uid.generate_uid()
    dp.classic(tmp_path / "in" / "a", STORED, AFFINE, SeriesNumber=1, FrameOfReferenceUID=world)
    noise = np.random.default_rng(1).integers(1, 99, STORED.shape).astype(np.uint16)
    dp.classic(tmp_path / "in" / "b", noise, below, SeriesNumber=2, FrameOfReferenceUID=world, EchoTime=90)
    ran = run("deidentify", tmp_path / "in", tmp_path / "out", "--brain-mask", mask_file(tmp_path))
    assert ran.exit_code == 1 and "failed: the brain lies outside of its field of view" in ran.stderr, ran.stderr


def test_a_bad_instance_fails_its_series_and_nothing_is_written(folder: Path) -> None:
    path = folder / "in" / "im0006"
    path.write_bytes(path.read_bytes()[:-500])
    before = contents(folder)
    ran = run("deidentify", folder / "in", folder / "out")
    assert ran.exit_code == 1 and "im0006" in ran.stderr and "copy it again" in ran.stderr
    assert contents(folder) == before


def test_a_bad_instance_leaves_the_other_series_alone(tmp_path: Path) -> None:
    """Cut off, or with a table of offsets whose length is wrong; the broken T1w would have gone first."""
    cut = dp.classic(tmp_path / "in" / "a", STORED, AFFINE, SeriesNumber=1)[6]
    cut.write_bytes(cut.read_bytes()[:-500])
    odd = dp.classic(tmp_path / "in" / "b", STORED, AFFINE, SeriesNumber=2)[7]
    data = pydicom.dcmread(odd)
    data.compress(uid.RLELossless)
    data.save_as(odd)
    raw = odd.read_bytes()
    table = raw.index(b"\xfe\xff\x00\xe0", raw.rindex(b"\xe0\x7f\x10\x00OB")) + 4
    odd.write_bytes(raw[:table] + b"\x44\x33\x22\x51" + raw[table + 4 :])
    more = {"SeriesDescription": "t2_tse", "EchoTime": 90.0, "SeriesNumber": 3}
    good = dp.classic(tmp_path / "in" / "c", STORED, AFFINE, **more)
    ran = run("deidentify", tmp_path / "in", tmp_path / "out", "--brain-mask", mask_file(tmp_path), "--json")
    assert ran.exit_code == 1
    failed = {item["name"]: item["reason"] for item in json.loads(ran.stdout)["failed"]}
    assert [len(failed), len(instances(tmp_path / "out"))] == [2, len(good)]
    for name, path in {"series 1 (t1_mprage)": cut, "series 2 (t1_mprage)": odd}.items():
        assert path.name in failed[name] and "copy it again" in failed[name]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    dp.classic(tmp_path / "in", STORED[:, :, :12], AFFINE)
    (tmp_path / "file").write_bytes(b"kept")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "other.dcm").write_bytes(b"kept")
    (tmp_path / "ours" / "study-01" / "series-001").mkdir(parents=True)
    (tmp_path / "ours" / "study-01" / "series-001" / "0001.dcm").write_bytes(b"kept")
    (tmp_path / "link").symlink_to(tmp_path / "ours" / "study-01")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.pdf").write_bytes(b"kept")
    return tmp_path


@pytest.mark.parametrize(
    ("output", "more", "words"),
    [
        ("in", (), "in is, holds or lies in the input"),
        ("in/out", (), "lies in the input"),
        (".", ("--overwrite",), "holds or lies in the input"),
        ("none/out", (), "none does not exist, make it"),
        ("file", ("--overwrite",), "file is a file and the input a folder"),
        ("full", (), "full is not empty"),
        ("foreign", ("--overwrite",), "holds thesis.pdf, which is not a result"),
        ("full", ("--overwrite",), "holds other.dcm, which is not a result"),  # somebody's originals
        ("out", ("--picture", "p.jpg"), "p.jpg does not end in .png"),
        ("out", ("--save-brain-mask", "m.txt"), "m.txt does not end in .nii"),
        ("out", ("--brain-mask", "none.nii"), "cpmae: none.nii does not exist"),
        ("out.nii.gz", (), "out.nii.gz would be a folder of DICOM files"),
        ("ours", ("--overwrite", "--picture", "ours/p.png"), "ours/p.png lies in the output ours, and a picture shows"),
        ("ours", ("--overwrite", "--picture", "link/p.png"), "link/p.png lies in the output ours"),
        ("out", ("--picture", "ours/study-01/series-001/p.png"), "ours, and would show the original face"),
        ("out", ("--picture", "link/p.png"), "ours, and would show the original face"),
        ("out", ("--picture", "in/p.png"), "in/p.png lies in the input in, which stays as it is"),
        ("out", ("--save-brain-mask", "in/m.nii"), "in/m.nii lies in the input in, which stays as it is"),
        ("ours", ("--overwrite", "--save-brain-mask", "ours/study-01/m.nii"), "m.nii lies in the output ours"),
    ],
)
def test_outputs_that_cannot_be(
    folder: Path, monkeypatch: pytest.MonkeyPatch, output: str, more: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(folder)
    before = contents(folder)
    ran = run("deidentify", "in", output, *more)
    assert ran.exit_code == 1 and words in ran.stderr and "Traceback" not in ran.output
    assert ran.stderr.count("\n") == 1 and ran.stdout == ""
    assert contents(folder) == before


def test_a_file_that_cannot_be_read_is_a_failure_since_nobody_knows_what_it_is(tmp_path: Path) -> None:
    paths = dp.classic(tmp_path / "in", STORED, AFFINE)
    paths[20].unlink()
    paths[20].symlink_to("elsewhere")
    ran = run("deidentify", tmp_path / "in", tmp_path / "out", "--brain-mask", mask_file(tmp_path), "--json")
    account = json.loads(ran.stdout)
    assert ran.exit_code == 1 and "im0021 failed: im0021 is a link to a file that is not there" in ran.stderr
    assert [item["name"] for item in account["failed"]] == ["im0021"] and account["left_out"] == []
    assert len(instances(tmp_path / "out")) == len(paths) - 1


def test_the_folder_that_one_stands_in_can_be_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = dp.classic(tmp_path / "in", STORED, AFFINE)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    ran = run("deidentify", "../in", ".", "--brain-mask", mask_file(tmp_path), "--seed", "3")
    assert ran.exit_code == 0, ran.output
    assert len(instances(tmp_path / "empty")) == len(paths)


def test_nobody_is_told_of_a_search_for_the_brain_where_a_mask_was_given(tmp_path: Path) -> None:
    dp.classic(tmp_path / "in", STORED, AFFINE, SeriesDescription="t2_tse", EchoTime=90.0)
    ran = run("deidentify", tmp_path / "in", tmp_path / "out", "--brain-mask", mask_file(tmp_path), "--seed", "3")
    assert ran.exit_code == 0 and ran.stderr == "", ran.output


def test_a_file_that_cannot_be_read_is_of_no_other_kind_whatever_its_name_says(tmp_path: Path) -> None:
    (tmp_path / "this is not a DICOM file").symlink_to("nowhere")
    found, (left,) = find_series(tmp_path)
    assert not found and left.unseen and "fetch it" in left.reason


def test_the_account_says_whose_brain_mask_it_is_and_what_found_it(tmp_path: Path) -> None:
    """The first series lacks a slice, and its brain is searched for before the rest is done."""
    nib.save(nib.Nifti1Image(BRAIN.astype(np.uint8), AFFINE), tmp_path / "mask.nii.gz")
    tool = f"command:sh -c 'cp {tmp_path}/mask.nii.gz {{mask}}' {{input}}"
    dp.classic(tmp_path / "in" / "1", STORED, AFFINE, SeriesNumber=1)[33].unlink()
    late = {"SeriesDescription": "t2", "EchoTime": 90.0}
    dp.classic(tmp_path / "in" / "2", STORED, AFFINE, SeriesNumber=2, **late)
    done = study_module.deidentify_study(tmp_path / "in", tmp_path / "out", Options(brain_extractor=tool))
    keys = ("brain_extractor", "brain_mask_from")
    found = [[v[key] for key in keys] for e in done.account["series"] for v in e["volumes"]]
    assert found == [["command:sh", "command:sh"], ["command:sh", "series 1 (t1_mprage)"]]


def test_somebody_who_moved_in_an_inverted_series_is_seen(tmp_path: Path) -> None:
    series, moved = uid.generate_uid(), np.roll(STORED, 3, axis=1)  # 8 mm, and the air 3 mm the other way
    echoes, brain = [4095 - echo for echo in (STORED, moved)], np.roll(BRAIN, 3, axis=1)
    nib.save(nib.Nifti1Image(brain.astype(np.uint8), AFFINE), tmp_path / "moved.nii.gz")
    tool = f"command:sh -c 'cp {tmp_path}/moved.nii.gz {{mask}}' {{input}}"
    for n, stored in enumerate(echoes):
        inverted = {"PhotometricInterpretation": "MONOCHROME1", "SeriesInstanceUID": series}
        dp.classic(tmp_path / "in", stored, AFFINE, names=f"{n}-{{:04d}}.dcm", EchoTime=3.0 + n, **inverted)
    mask, options = mask_file(tmp_path), Options(brain_extractor=tool)
    done = study_module.deidentify_study(tmp_path / "in", tmp_path / "out", options, brain_mask=mask)
    (entry,) = done.account["series"]
    assert [v["brain_mask_from"] for v in entry["volumes"]] == ["given mask", "command:sh"]
    assert [w for w in done.warnings if "the brain mask of another scan does not fit" in w], done.warnings
    kept = [data.pixel_array.T for data in instances(tmp_path / "out") if float(data.EchoTime) == 4]
    assert np.array_equal(np.stack(kept, axis=2)[brain], echoes[1][brain])
    (check,) = verify_study(tmp_path / "in", tmp_path / "out", mask, tool)
    assert check.ok, check.failures


def test_folders_without_a_head(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for words, name, raw in (
        ("holds no files", None, b""),
        ("holds no DICOM file among its 1", "notes.txt", b"hello"),
        (
            "no head series that can be de-identified (capture.dcm: not an MR image but Secondary Capture",
            "capture.dcm",
            None,
        ),
    ):
        if name:
            (tmp_path / "in" / name).write_bytes(raw or b"")
        if raw is None:
            dp.put(tmp_path / "in" / name, secondary_capture())  # type: ignore[operator]
        ran = run("deidentify", tmp_path / "in", tmp_path / "out")
        assert ran.exit_code == 1 and words in ran.stderr and not (tmp_path / "out").exists()


def test_options_for_folders_alone(folder: Path) -> None:
    for more in (("--retain", "dates"), ("--allow-burned-in",), ("--patient-id", "s1")):
        ran = run("deidentify", folder / "scan.nii", folder / "out.nii", *more)
        assert ran.exit_code == 2 and "DICOM" in ran.stderr
    for more in (("--retain", "dates"), ("--patient-id", "s1")):
        ran = run("deidentify", folder / "in", folder / "out", *more, "--metadata", "keep")
        assert ran.exit_code == 2 and "--retain" in ran.stderr


@pytest.mark.parametrize("pseudonym", ["", "Doe^Jane", "a\\b", "Ä1", "x" * 52, "-1"])
def test_a_pseudonym_that_dicom_would_not_understand_is_refused(folder: Path, pseudonym: str) -> None:
    ran = run("deidentify", folder / "in", folder / "out", f"--patient-id={pseudonym}")
    assert ran.exit_code == 2 and "underscores" in ran.stderr and not (folder / "out").exists()


def test_one_mask_for_two_worlds_is_refused(folder: Path) -> None:
    dp.classic(folder / "in" / "b", STORED[:, :, :12], AFFINE, FrameOfReferenceUID=uid.generate_uid())
    ran = run("deidentify", folder / "in", folder / "out", "--brain-mask", mask_file(folder))
    assert ran.exit_code == 1 and "several patients, studies or frames of reference" in ran.stderr


@pytest.mark.parametrize("suffix", [".mgz", ".hdr"])
def test_the_mask_may_have_any_form(tmp_path: Path, suffix: str) -> None:
    kind = nib.MGHImage if suffix == ".mgz" else nib.Nifti1Pair
    kind(BRAIN.astype(np.uint8), AFFINE).to_filename(tmp_path / f"mask{suffix}")
    scan = from_volume(Volume(STORED, AFFINE))
    assert np.array_equal(given_mask(tmp_path / f"mask{suffix}", scan), BRAIN)
    nib.Nifti1Image(np.stack([BRAIN] * 2, -1).astype(np.uint8), AFFINE).to_filename(tmp_path / "two.nii")
    with pytest.raises(BrainMaskError, match="holds 2 volumes"):
        given_mask(tmp_path / "two.nii", scan)


@pytest.mark.thorough
def test_a_series_that_fails_lends_nothing_and_shows_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who checks the result finds masks by the series that are in it."""
    write = study_module._write

    def failing(run: Any, series: Any, folder: Path, new: Any) -> None:
        if series.number == 1:
            raise ScanError("does not read back")
        write(run, series, folder, new)

    monkeypatch.setattr(study_module, "_write", failing)
    dp.classic(tmp_path / "in" / "a", STORED, AFFINE, SeriesNumber=1)
    dp.classic(tmp_path / "in" / "b", STORED + 9, AFFINE, SeriesNumber=2, SeriesDescription="t2 tse", EchoTime=90)
    done = study_module.deidentify_study(
        tmp_path / "in", tmp_path / "out", Options(), brain_mask=mask_file(tmp_path), picture=tmp_path / "both.png"
    )
    assert [item.reason for item in done.failed] == ["does not read back"] and (tmp_path / "both.png").exists()
    assert [e["volumes"][0]["brain_extractor"] for e in done.account["series"]] == ["given mask"]
    (check,) = verify_study(tmp_path / "in", tmp_path / "out", mask_file(tmp_path), "deepbet")
    assert check.ok, check.failures


def test_files_without_a_uid_are_no_copies_of_each_other(tmp_path: Path) -> None:
    for path in dp.classic(tmp_path, STORED, AFFINE)[5:9]:
        data = pydicom.dcmread(path)
        data.SOPInstanceUID = ""
        data.save_as(path)
    (series,), left = find_series(tmp_path)
    assert len(series.instances) == STORED.shape[2] and not left


def test_the_t1w_goes_first(tmp_path: Path) -> None:
    thin = STORED[:, :, :9]
    for n, (text, echo, kind, sort) in enumerate(
        [
            ("AX FLAIR T2", 90, "2D", "ORIGINAL"),
            ("t1_mprage MPR cor", 3, "3D", "DERIVED"),
            ("Sag CUBE", 80, "3D", "ORIGINAL"),
            ("T1 BRAVO", 3, "3D", "ORIGINAL"),
            ("ep2d_diff", 60, "2D", "ORIGINAL"),
        ]
    ):
        kinds = {"EchoTime": echo, "MRAcquisitionType": kind, "ImageType": [sort, "PRIMARY"], "ProtocolName": text}
        dp.classic(tmp_path / str(n), thin, AFFINE, SeriesDescription=text, **kinds)
    series, _ = find_series(tmp_path)
    scores = {s.name[10:-1]: t1w_score(s) for s in series}
    order = sorted(scores, key=lambda name: scores[name], reverse=True)
    assert order[:2] == ["T1 BRAVO", "t1_mprage MPR cor"] and max(scores[name] for name in order[2:]) < 2


def test_a_mask_on_another_grid_of_the_same_world(orientation: str) -> None:
    mask, affine = phantom.turned(BRAIN, orientation)
    assert np.array_equal(mask_on(BRAIN, AFFINE, mask.shape, affine), mask) or orientation == "oblique"
    finer = affine @ np.diag([0.5, 0.5, 1, 1.0])
    there = mask_on(mask, affine, (2 * mask.shape[0], 2 * mask.shape[1], mask.shape[2]), finer)
    assert abs(there.sum() / (4 * mask.sum()) - 1) < 0.04
    thick = affine @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 3, 1], [0, 0, 0, 1.0]])
    third = mask_on(mask, affine, (*mask.shape[:2], mask.shape[2] // 3), thick)
    assert abs(3 * third.sum() / mask.sum() - 1) < 0.05


def test_an_old_result_comes_back_if_the_new_one_cannot_take_its_place(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old.dcm").write_bytes(b"kept")
    with pytest.raises(OutputError, match="out cannot be written"):
        put_in_place(None, tmp_path / "no tree", tmp_path / "out", None, None, tmp_path / "aside")
    assert contents(tmp_path).keys() == {"out", "out/old.dcm"}


def test_sigterm_in_the_middle_leaves_nothing(folder: Path) -> None:
    temporary = folder / "system"
    temporary.mkdir()
    started = folder / "started"
    tool = f"command:sh -c 'touch {started}; sleep 600' {{input}} {{mask}}"
    before = contents(folder)
    command = [sys.executable, "-m", "cpmae", "deidentify", folder / "in", folder / "out", "--brain-extractor", tool]
    environment = os.environ | {"TMPDIR": str(temporary)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        for _ in range(1200):
            if started.exists():
                break
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        assert len([p for p in folder.iterdir() if p.name.startswith(".cpmae-")]) == 1
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 143
    started.unlink()
    assert contents(folder) == before


def test_the_next_run_removes_what_a_killed_one_left_and_nothing_of_the_living(folder: Path) -> None:
    started = folder / "started"
    dp.classic(folder / "head", STORED, AFFINE)
    given = {p.name for p in folder.iterdir()}
    waits = f"command:sh -c 'touch {started}; sleep 600' {{input}} {{mask}}"
    begin = [sys.executable, "-m", "cpmae", "deidentify", folder / "head", folder / "out"]
    with subprocess.Popen([*begin, "--brain-extractor", waits], stderr=subprocess.PIPE) as process:
        for _ in range(1200):
            if started.exists():
                break
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        process.kill()
    started.unlink()
    (left,) = folder.glob(".cpmae-*")
    assert (left / "result").is_dir()
    with leased_folder(folder, UNFINISHED) as alive:
        ran = run("deidentify", folder / "head", folder / "out", "--brain-mask", mask_file(folder))
        assert ran.exit_code == 0 and not left.exists() and alive.is_dir(), ran.output
    assert {p.name for p in folder.iterdir()} - given == {"out", "mask.nii.gz"}


@pytest.mark.slow
@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEG2000Lossless])
def test_a_compressed_synthetic_head_with_its_brain_searched_for(tmp_path: Path, syntax: uid.UID) -> None:
    with resources.as_file(resources.files("cpmae") / "weights" / "example_T1w.nii.gz") as path:
        image = nib.as_closest_canonical(nib.load(path))
    stored = np.clip(np.rint(image.get_fdata()), 0, 4095).astype(np.uint16)
    for path in dp.classic(tmp_path / "in", stored, image.affine):
        data = pydicom.dcmread(path)
        plugin = "pydicom" if syntax == uid.RLELossless else "pylibjpeg"
        data.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
        data.save_as(path)
    ran = run("deidentify", tmp_path / "in", tmp_path / "out")
    assert ran.exit_code == 0, ran.output
    ran = run("verify", tmp_path / "in", tmp_path / "out")
    assert ran.exit_code == 0, ran.output


@pytest.mark.slow
def test_both_real_series_come_back_complete(shared: Path, tmp_path: Path) -> None:
    source = shared / "scans" / "adi-brain" / "dicom"
    if not source.is_dir():
        pytest.skip(f"{source}, a study of two real series, is absent")
    ran = run("deidentify", source, tmp_path / "out", "--json", "--save-brain-mask", tmp_path / "mask.nii.gz")
    assert ran.exit_code == 0, ran.output
    account = json.loads(ran.stdout)
    assert [e["instances"] for e in account["series"]] == [175, 55]
    assert any("missing in series 6" in w and "34 and 36" in w for w in account["warnings"])
    found = nib.load(tmp_path / "mask.nii.gz")
    mask, affine = np.asarray(found.dataobj) != 0, found.affine
    for name, folder in (("t1w-memprage", "series-001"), ("t2w-fse", "series-002")):
        old = {d.InstanceNumber: d for d in instances(source / name)}
        new = {d.InstanceNumber: d for d in instances(tmp_path / "out" / "study-01" / folder)}
        assert old.keys() == new.keys()
        inside = 0
        for number, b in new.items():
            a = old[number]
            for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "BitsStored"):
                assert a[keyword] == b[keyword]
            brain = mask_on(mask, affine, (a.Columns, a.Rows, 1), plane(a))[:, :, 0].T
            assert np.array_equal(a.pixel_array[brain], b.pixel_array[brain])
            inside += int(brain.sum())
        assert inside > 100_000
        one, other = (
            converted(path, tmp_path / f"{folder} {path.name}")
            for path in (source / name, tmp_path / "out/study-01" / folder)
        )
        assert [image.shape for image in one] == [image.shape for image in other] and one
        for a, b in zip(one, other, strict=True):
            assert np.array_equal(a.affine, b.affine) and a.get_data_dtype() == b.get_data_dtype()
            there = mask_on(mask, affine, a.shape[:3], a.affine)
            there = ndimage.binary_erosion(there, iterations=2)  # where images do not agree on half a voxel
            old_, new_ = (np.asarray(image.dataobj) for image in (a, b))
            assert there.sum() > 50_000 and np.array_equal(old_[there], new_[there]) and not np.array_equal(old_, new_)
        raw = b"".join(p.read_bytes() for p in (tmp_path / "out").rglob("*.dcm"))
        words = (
            b"DOE^JANE",
            b"MRN-0042",
            b"19870704",
            b"20120414",
            b"GAGOSKI",
            b"Example General",
            b"MRC35235",
            b".35235.",
            b"MEMPRAGE",
        )
        assert not [word for word in words if word in raw]


def plane(data: pydicom.Dataset) -> NDArray[np.float64]:
    """Affine of one slice, RAS+; its thickness as the third column."""
    across, down = np.array(data.ImageOrientationPatient[:3], float), np.array(data.ImageOrientationPatient[3:], float)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = across * data.PixelSpacing[1], down * data.PixelSpacing[0]
    affine[:3, 2] = np.cross(across, down) * float(data.SliceThickness)
    affine[:3, 3] = data.ImagePositionPatient
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


@pytest.mark.thorough
def test_a_series_that_lies_elsewhere_than_headers_say_has_its_own_brain(tmp_path: Path) -> None:
    """All say one frame of reference, but the second lies 50 mm off in it, and before the third somebody moved."""
    moved = AFFINE.copy()
    moved[:3, 3] += (0, 20, -50)
    nodded, brain_nodded = np.roll(STORED, 4, axis=1), np.roll(BRAIN, 4, axis=1)  # 11 mm
    phases = np.random.default_rng(0).integers(0, 4096, STORED.shape).astype(STORED.dtype)
    late = {"EchoTime": 90}
    dp.classic(tmp_path / "in" / "1", STORED, AFFINE, SeriesNumber=1)
    dp.classic(tmp_path / "in" / "2", STORED, moved, SeriesNumber=2, SeriesDescription="t2", **late)
    dp.classic(tmp_path / "in" / "3", nodded, AFFINE, SeriesNumber=3, SeriesDescription="t2 nodded", **late)
    dp.classic(tmp_path / "in" / "4", phases, AFFINE, SeriesNumber=4, SeriesDescription="its phase", **late)
    ran = run("deidentify", tmp_path / "in", tmp_path / "out", "--json")
    assert ran.exit_code == 0, ran.output
    warnings = json.loads(ran.stdout)["warnings"]
    for series in ("series 2 (t2)", "series 3 (t2 nodded)"):
        assert [w for w in warnings if w.startswith(f"{series}: the brain mask of another scan does not fit")]
    for number, before, brain in (
        (1, STORED, BRAIN),
        (2, STORED, BRAIN),
        (3, nodded, brain_nodded),
        (4, phases, brain_nodded),
    ):
        kept = volume(tmp_path / "out" / f"study-01/series-00{number}") == before
        assert kept[brain].mean() > 0.9 and kept[~brain].mean() < 0.2, number
    checked = run("verify", tmp_path / "in", tmp_path / "out", "--json")
    assert json.loads(checked.stdout)["ok"], checked.stdout


@pytest.mark.thorough
def test_a_person_has_one_head_in_all_frames_of_reference(tmp_path: Path) -> None:
    for n in (1, 2):
        dp.classic(tmp_path / "in" / str(n), STORED, AFFINE, SeriesNumber=n, FrameOfReferenceUID=uid.generate_uid())
    ran = run("deidentify", tmp_path / "in", tmp_path / "out")
    assert ran.exit_code == 0, ran.output
    one, other = (volume(folder) for folder in sorted((tmp_path / "out").glob("*/*")))
    assert 0 < phantom.smooth_share(one, other, one != STORED) < 0.1  # of another draw it is 0.3 and more
