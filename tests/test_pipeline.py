"""The promises, on the whole way of a scan."""

import copy
import os
from dataclasses import replace
from importlib import resources
from pathlib import Path

import nibabel as nib
import numpy as np
import phantom
import pytest
import torch
from scipy import ndimage

from cpmae import brain_search, canonical, drawn_head, lending, pipeline, verify
from cpmae.brain import extract_brain
from cpmae.errors import BrainMaskError, ScanError, WeightsError
from cpmae.io import forms, header, nifti
from cpmae.io.nifti import NiftiScan
from cpmae.models import checkpoint
from cpmae.models.head import HeadModel
from cpmae.options import Options
from cpmae.shared_mask import mask_on
from cpmae.volume import Volume


@pytest.fixture(scope="module")
def model() -> HeadModel:
    return checkpoint.load()


FLOAT = ("float32", 1.0, 0.0)


def scan_of(orientation: str = "RAS", storage: tuple[str, float, float] = phantom.STORAGES[1]) -> NiftiScan:
    return phantom.parse(phantom.nifti_bytes(orientation, storage))


def brain_of(orientation: str = "RAS") -> np.ndarray:
    return phantom.turned(phantom.head()[1], orientation)[0]


def run(scan: NiftiScan, brain: np.ndarray, model: HeadModel, **options) -> pipeline.Deidentified:  # noqa: ANN003
    options = {"seed": 3, "device": "cpu"} | options
    return pipeline.deidentify(scan, brain_mask=brain, weights=model, **options)


@pytest.fixture(scope="module")
def plain(model: HeadModel) -> pipeline.Deidentified:
    return run(scan_of(), brain_of(), model)


@pytest.fixture(scope="module")
def plain_float(model: HeadModel) -> pipeline.Deidentified:
    return run(scan_of(storage=FLOAT), brain_of(), model)


@pytest.fixture(scope="module")
def plain_face(model: HeadModel) -> pipeline.Deidentified:
    return run(scan_of(storage=FLOAT), brain_of(), model, region="face")


@pytest.mark.parametrize(
    ("orientation", "storage"),
    list(zip(phantom.ORIENTATIONS, phantom.STORAGES, strict=True)),
    ids=[f"{o}-{s[0]}" for o, s in zip(phantom.ORIENTATIONS, phantom.STORAGES, strict=True)],
)
def test_the_brain_is_exact_and_the_rest_is_new(
    orientation: str, storage: tuple[str, float, float], model: HeadModel
) -> None:
    scan, brain = scan_of(orientation, storage), brain_of(orientation)
    found = run(scan, brain, model)
    assert found.image.stored[brain].tobytes() == scan.stored[brain].tobytes()
    assert found.image.stored.dtype == scan.stored.dtype
    checked = verify.verify(scan, found.image, brain)
    assert checked.ok, checked.failures
    assert checked.outside_equal < 0.5
    assert b"cpmae" in found.image.header["descrip"].item()


def test_nothing_outside_the_brain_gets_through(model: HeadModel, plain_float: pipeline.Deidentified) -> None:
    scan, brain = scan_of(storage=FLOAT), brain_of()
    assert np.array_equal(plain_float.protected, brain)
    for name, outside in outsides(brain.shape).items():
        changed = scan.with_stored(np.where(brain, scan.stored, outside).astype(np.float32))
        again = run(changed, brain, model)
        assert again.image.stored.tobytes() == plain_float.image.stored.tobytes(), name


def test_nothing_of_the_face_gets_through_where_the_rest_is_kept(
    model: HeadModel, plain_face: pipeline.Deidentified
) -> None:
    scan, brain, first = scan_of(storage=FLOAT), brain_of(), plain_face
    free = ~first.protected
    assert free.sum() > 10_000
    fillings = outsides(brain.shape)
    for name in ("someone else", "no numbers"):
        changed = scan.with_stored(np.where(free, fillings[name], scan.stored).astype(np.float32))
        again = run(changed, brain, model, region="face")
        assert again.image.stored.tobytes() == first.image.stored.tobytes(), name
        assert np.array_equal(again.protected, first.protected)


def outsides(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """What may be put outside the brain."""
    rng = np.random.default_rng(0)
    return {
        "noise": rng.normal(500, 300, shape),
        "someone else": np.roll(phantom.head(seed=7)[0][::-1, :, :], 5, axis=1).astype(float),
        "no numbers": rng.choice([0, np.nan, np.inf, -np.inf], shape),
    }


def test_weights_that_were_trained_on_scans_warn(model: HeadModel, plain: pipeline.Deidentified) -> None:
    private = copy.copy(model)
    private.trained_on = "scans"
    found = run(scan_of(), brain_of(), private)
    assert "trained on scans" in found.warnings[-1] and found.account["warnings"] == found.warnings
    assert not plain.warnings


def test_the_brain_matters(model: HeadModel, plain: pipeline.Deidentified) -> None:
    scan, brain = scan_of(), brain_of()
    darker = scan.with_stored(np.where(brain, scan.stored // 2, scan.stored).astype(np.int16))
    again = run(darker, brain, model)
    outside = ~brain
    assert again.image.stored[outside].mean() < 0.7 * plain.image.stored[outside].mean()


def test_seed(model: HeadModel, plain: pipeline.Deidentified, plain_float: pipeline.Deidentified) -> None:
    scan, brain = scan_of(), brain_of()
    one, other = plain, run(scan, brain, model, seed=6)
    threads = torch.get_num_threads()
    try:
        for number in (1, threads + 1):  # as in a batch, or on a machine with more cores
            torch.set_num_threads(number)
            same = run(scan_of(storage=FLOAT), brain, model, seed=3)
            assert same.image.stored.tobytes() == plain_float.image.stored.tobytes(), number
    finally:
        torch.set_num_threads(threads)
    assert one.image.stored.tobytes() != other.image.stored.tobytes()
    secret, another = (run(scan, brain, model, seed=None) for _ in range(2))
    assert secret.image.stored.tobytes() != another.image.stored.tobytes()
    assert one.account["seed"] == 3 and secret.account["seed"] == "secret"


def test_scans_of_one_person_get_the_same_head(model: HeadModel, plain: pipeline.Deidentified) -> None:
    scan, brain = scan_of(), brain_of()
    first = plain
    other = scan.with_stored((np.sqrt(scan.stored.clip(0) / 200) * 180).astype(np.int16))  # another contrast
    again = run(other, brain, model, seed=9, head=first.head)
    air = [r.image.stored[~brain] < 25 for r in (first, again)]
    assert (air[0] != air[1]).mean() < 0.08
    alone = run(other, brain, model, seed=9)
    assert (air[0] != (alone.image.stored[~brain] < 25)).mean() > (air[0] != air[1]).mean()
    far = Volume(scan.stored, np.array([[1, 0, 0, 40.0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ scan.affine)
    with pytest.raises(BrainMaskError, match="40 mm"):
        pipeline.deidentify(far, brain_mask=brain, weights=model, head=first.head)


@pytest.mark.thorough
def test_the_number_of_the_noise_changes_noise_alone(model: HeadModel, plain_float: pipeline.Deidentified) -> None:
    scan, brain = scan_of(storage=FLOAT), brain_of()
    first = plain_float
    again = run(scan, brain, model, noise_number=1)
    assert again.head.field.equal(first.head.field)
    assert run(scan, brain, model, noise_number=1).image.stored.tobytes() == again.image.stored.tobytes()
    assert 0 < phantom.smooth_share(again.image.stored, first.image.stored, ~brain) < 0.1
    textured = run(scan, brain, model, seed=2, head=first.head)
    assert phantom.smooth_share(textured.image.stored, first.image.stored, ~brain) > 0.15


def test_suppressed_fat_is_dark_and_all_else_the_same(model: HeadModel, plain_float: pipeline.Deidentified) -> None:
    suppressed = run(scan_of(storage=FLOAT), brain_of(), model, fat="suppressed")
    outside = ~plain_float.protected
    before, after = (r.image.stored[outside] for r in (plain_float, suppressed))
    assert (plain_float.account["fat"], suppressed.account["fat"]) == ("bright", "suppressed")
    assert torch.equal(plain_float.head.field, suppressed.head.field)
    darker, air = before - after, np.median(before)
    assert darker.min() > -air, "nothing gets brighter"
    assert 0.2 < (darker > 2 * air)[before > 6 * air].mean() < 0.8, "skin and fat, not muscle"
    again = run(scan_of(storage=FLOAT), brain_of(), model, fat="bright")
    assert np.array_equal(again.image.stored, plain_float.image.stored)


def test_a_head_is_given_to_another_session(
    model: HeadModel, plain_float: pipeline.Deidentified, tmp_path: Path
) -> None:
    """As much as the two brains allow: here they are the same, in another place, so the head is the same too."""
    scan, brain = scan_of(storage=FLOAT), brain_of()
    first = plain_float
    drawn_head.save_head(tmp_path / "head.npz", first.head)
    head = drawn_head.load_head(tmp_path / "head.npz")
    affine = phantom.turned(brain, "oblique")[1]
    affine[:3, 3] += 40
    moved = Volume(scan.stored, affine)
    again = run(nifti.from_image(nib.Nifti1Image(moved.data, moved.affine)), brain, model, head=head.elsewhere())
    assert again.head.pose is not None and again.head.field.equal(first.head.field)
    assert np.corrcoef(first.image.stored[~brain], again.image.stored[~brain])[0, 1] > 0.98
    with pytest.raises(ValueError, match="save the one it comes from"):
        drawn_head.save_head(tmp_path / "other.npz", head.elsewhere())
    # and nothing but brains gets through: neither around this one, nor around that of the scan that lent the head
    noise = np.random.default_rng(0).normal(500, 300, brain.shape)
    changed = scan.with_stored(np.where(brain, scan.stored, noise).astype(np.float32))
    lent = run(changed, brain, model).head
    assert lent.field.equal(first.head.field)
    other = nib.Nifti1Image(np.where(brain, moved.data, -noise).astype(np.float32), moved.affine)
    once_more = run(nifti.from_image(other), brain, model, head=lent.elsewhere())
    assert once_more.image.stored.tobytes() == again.image.stored.tobytes()


def test_margin_and_region_protect_more(
    model: HeadModel, plain: pipeline.Deidentified, plain_face: pipeline.Deidentified
) -> None:
    scan, brain = scan_of(), brain_of()
    wide, face = run(scan, brain, model, margin_mm=6.0).protected, plain_face.protected
    assert np.array_equal(plain.protected, brain)
    assert (wide & ~brain).any() and (wide | brain == wide).all()
    assert (face | brain == face).all() and face.mean() > 0.5
    nose = phantom.head()[0][28:36, 66:70, 24:28]
    assert nose.mean() > 50  # the phantom's nose is where this test thinks
    assert not face[28:36, 66:70, 24:28].any()
    assert face[20:36, 4:10, 40:50].all()  # the back of the head stays


@pytest.mark.thorough
def test_a_result_that_is_the_original_is_told_of(model: HeadModel) -> None:
    """A slab of the vertex, which holds no face."""
    data, brain = phantom.head()
    box = (slice(8, 49), slice(0, 57), slice(26, None))
    affine = phantom.ras_affine()
    affine[:3, 3] += [part.start * mm for part, mm in zip(box, phantom.VOXEL_MM, strict=True)]
    slab = nifti.from_volume(Volume(data[box], affine))
    found = run(slab, brain[box], model, region="face", margin_mm=30.0)
    assert found.image.stored.tobytes() == slab.stored.tobytes()
    assert "nothing was replaced, the result is the original" in found.account["warnings"][-1]
    whole = brain_search.find(scan_of().scaled(), brain_of(), Options(region="face", margin_mm=30.0), "cpu", None)
    assert not any("nothing was replaced" in w for w in whole.warnings)


def test_images_and_volumes_are_scans_too(model: HeadModel, plain: pipeline.Deidentified) -> None:
    scan, brain = scan_of(), brain_of()
    for other in (scan.to_image(), Volume(scan.stored, scan.affine), nib.Nifti1Image(scan.stored, scan.affine)):
        found = pipeline.deidentify(other, brain_mask=brain, weights=model, seed=3, device="cpu")
        np.testing.assert_array_equal(found.image.stored, plain.image.stored)
    with pytest.raises(TypeError, match="list"):
        pipeline.deidentify([1, 2], seed=3)  # type: ignore[arg-type]


def test_a_few_bad_voxels_in_the_brain_are_kept_and_many_refused(model: HeadModel) -> None:
    scan, brain = scan_of(storage=FLOAT), brain_of()
    stored = scan.stored.copy()
    where = np.argwhere(brain)
    stored[tuple(where[::500].T)] = np.nan
    found = run(scan.with_stored(stored), brain, model)
    assert any("NaN" in w for w in found.warnings)
    assert np.isnan(found.image.stored[brain]).sum() == len(where[::500])
    assert np.isfinite(found.image.stored[~brain]).all()
    stored[tuple(where[::20].T)] = np.nan
    with pytest.raises(ScanError, match="NaN"):
        run(scan.with_stored(stored), brain, model)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"brain_mask": np.ones((5, 5, 5))}, BrainMaskError, r"\(5, 5, 5\)"),
        ({"brain_mask": np.where(phantom.head()[1], 1, np.nan)}, BrainMaskError, "brain mask holds NaN"),
        ({"brain_mask": np.full(phantom.SHAPE, np.nan)}, BrainMaskError, "brain mask holds NaN"),
        ({"brain_mask": np.zeros(phantom.SHAPE)}, BrainMaskError, "is empty"),
        (
            {"brain_mask": phantom.head()[1] * np.linspace(0.4, 0.9, phantom.SHAPE[2])},
            BrainMaskError,
            "holds fractions",
        ),
        ({"seed": -1}, ValueError, "seed is -1"),
        ({"noise_number": -1}, ValueError, "noise is -1"),
        ({"margin_mm": -2.0}, ValueError, "-2 mm"),
        ({"region": "hair"}, ValueError, "hair"),
    ],
)
def test_arguments_out_of_range(options: dict, error: type[Exception], says: str, model: HeadModel) -> None:
    with pytest.raises(error, match=says):
        pipeline.deidentify(scan_of(), **{"brain_mask": brain_of(), "weights": model, "seed": 3} | options)


def test_a_leaking_mask_is_refused_or_warned_of(model: HeadModel) -> None:
    scan, leak = scan_of(), brain_of().copy()
    leak[10:46, 50:70, 12:30] = True  # both orbits and the root of the nose
    assert canonical.align(leak, scan.affine).stray_ml > canonical.MAX_STRAY_ML
    with pytest.raises(BrainMaskError, match="no brain reaches"):
        run(scan, leak, model)
    assert any("no brain reaches" in w for w in run(scan, leak, model, allow_unusual_mask=True).warnings)
    with pytest.raises(BrainMaskError, match="where the face is cannot be told"):
        run(scan, leak, model, allow_unusual_mask=True, region="face")


def test_a_piece_on_the_face_is_refused_in_a_mask_and_left_out_of_what_is_found(
    model: HeadModel, tmp_path: Path
) -> None:
    scan, brain = scan_of(), brain_of()
    ball = ndimage.distance_transform_edt(~_voxel(brain.shape, 28, 66, 10)) < 3  # in front of and below the brain
    assert not (ball & brain).any()
    island = brain | ball
    with pytest.raises(BrainMaskError, match="apart from the brain, where no brain reaches"):
        run(scan, island, model)
    allowed = run(scan, island, model, allow_unusual_mask=True)
    assert any("apart from the brain" in w for w in allowed.warnings)
    speck = run(scan, brain | _voxel(brain.shape, 28, 66, 10), model)  # 0.03 ml
    assert any("0.03 ml" in w and "are kept; look whether" in w for w in speck.warnings)
    nib.save(nib.Nifti1Image(island.astype(np.uint8), scan.affine), tmp_path / "island.nii.gz")
    found = pipeline.deidentify(
        scan,
        brain_extractor=f"command:sh -c 'cp {tmp_path}/island.nii.gz $1' . {{mask}} {{input}}",
        weights=model,
        seed=3,
    )
    assert np.array_equal(found.brain_mask, brain)


def _voxel(shape: tuple[int, ...], *index: int) -> np.ndarray:
    volume = np.zeros(shape, bool)
    volume[index] = True
    return volume


def test_a_few_thick_slices_are_a_scan(model: HeadModel) -> None:
    """13 of 9 mm, as DICOM and NIfTI alike."""
    data, brain = phantom.head()
    affine = phantom.ras_affine() @ np.diag([1.0, 1, 3, 1])
    thick, mask = data[:, :, 19::3][:, :, :13], brain[:, :, 19::3][:, :, :13]
    found = run(nifti.from_volume(Volume(thick, affine)), mask, model)
    assert found.image.stored[mask].tobytes() == thick[mask].tobytes()
    assert np.mean(found.image.stored[~mask] == thick[~mask]) < 0.5


def test_a_scan_that_was_not_read_as_one_is_checked_too(model: HeadModel) -> None:
    metres = scan_of().header.copy()
    metres["xyzt_units"] = 1
    with pytest.raises(ScanError, match="metres"):
        run(replace(scan_of(), header=metres), brain_of(), model)


@pytest.mark.thorough
def test_label_maps_and_earlier_results_are_told_of(model: HeadModel, plain: pipeline.Deidentified) -> None:
    scan, brain = scan_of(), brain_of()
    labels = scan.with_stored(
        np.where(brain, 2 + (scan.stored > np.median(scan.stored[brain]) + 20), scan.stored > 30).astype(
            scan.stored.dtype
        )
    )
    found = run(labels, brain, model)
    assert any("seems to be a label map" in w for w in found.warnings)
    assert not plain.warnings
    assert any("de-identified already" in w for w in run(plain.image, brain, model).warnings)


def test_a_header_without_orientation_is_told_of(model: HeadModel, plain: pipeline.Deidentified) -> None:
    scan, brain = scan_of(), brain_of()
    lost = scan.header.copy()
    lost["sform_code"] = lost["qform_code"] = 0
    told = "does not say how the head lies; its axes are taken as LAS"
    assert nib.orientations.aff2axcodes(header.best_affine(lost, "")) == tuple("LAS")
    assert any(told in w for w in run(replace(scan, header=lost), brain, model).warnings)
    assert not any(told in w for w in plain.warnings)


def test_arguments_are_looked_at_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brain_search, "search_brain", lambda *_: pytest.fail("the brain was searched for first"))
    for options in ({"region": "Face"}, {"margin_mm": 31.0}, {"margin_mm": float("nan")}, {"seed": -1}, {"fat": "no"}):
        with pytest.raises(ValueError, match="choose"):
            pipeline.deidentify(scan_of(), **options)  # type: ignore[arg-type]
    with pytest.raises(BrainMaskError, match="is given as a path"):
        pipeline.deidentify(scan_of(), brain_mask="mask.nii.gz")


def test_an_image_whose_file_was_cut_is_refused_in_a_sentence(tmp_path: Path) -> None:
    nib.Nifti1Image(scan_of().stored, scan_of().affine).to_filename(tmp_path / "a.nii")
    (tmp_path / "a.nii").write_bytes((tmp_path / "a.nii").read_bytes()[:9999])
    with pytest.raises(ScanError, match="the voxels of the image cannot be read"):
        pipeline.deidentify(nib.load(tmp_path / "a.nii"))


def test_a_mask_may_be_an_image_and_then_its_place_counts(model: HeadModel, plain: pipeline.Deidentified) -> None:
    scan, mask = scan_of(), brain_of().astype(np.uint8)
    image = nib.Nifti1Image(mask, scan.affine)
    for given in (image, nifti.from_image(image), Volume(mask, scan.affine)):
        assert np.array_equal(run(scan, given, model).image.stored, plain.image.stored)
    away = scan.affine.copy()
    away[0, 3] += 4
    for given in (nib.Nifti1Image(mask, away), Volume(mask, away)):
        with pytest.raises(BrainMaskError, match="the brain mask lies 4 mm off the scan's grid"):
            run(scan, given, model)


@pytest.mark.parametrize(
    ("codes", "change", "told", "qfac"),
    [
        ((1, 1), (1, 1, 1, 0), None, None),
        ((1, 1), (1, 1, 1, 8), "place the scan 8 mm apart", None),
        ((2, 1), (1, 1, 1, 8), None, None),
        ((2, 1), (-1, 1, 1, 0), "mirror images", None),
        ((1, 0), (-1, 1, 1, 0), None, None),
        ((1, 1), (1, 1, 1, 8), "place the scan 8 mm apart", 0),
        ((1, 1), (1, 1, 1, 8), None, -2),
    ],
)
def test_a_header_with_two_orientations_is_told_of(
    codes: tuple, change: tuple, told: str | None, qfac: int | None
) -> None:
    given = scan_of().header.copy()
    *scale, shift = change
    other = given.get_best_affine() @ np.diag([*scale, 1])
    other[0, 3] += shift
    given.set_qform(other)
    given["sform_code"], given["qform_code"] = codes
    given["pixdim"][0] = given["pixdim"][0] if qfac is None else qfac  # 0 is 1, and others are none
    found = header.doubts(given)
    assert (told is None and not found) or (len(found) == 1 and told in found[0] and "the sform counts" in found[0])


@pytest.mark.parametrize(
    ("volume", "says"),
    [
        (Volume(np.zeros((20, 20, 20), np.int64), np.eye(4)), "int64 is not a scan, convert"),
        (Volume(np.zeros((20, 20, 20), np.float16), np.eye(4)), "float16 is not a scan"),
        (Volume(np.zeros((20, 20, 20), np.int16), np.diag([0.0, 1, 1, 1])), "affine"),
        (Volume(np.zeros((20, 20, 20), np.int16), np.full((4, 4), np.nan)), "affine"),
        (nib.Nifti1Image(np.zeros((20, 20, 20), np.int16), None), "no affine"),
    ],
)
def test_arrays_that_are_no_scans(volume: object, says: str, model: HeadModel) -> None:
    with pytest.raises(ScanError, match=says):
        pipeline.deidentify(volume, weights=model)  # type: ignore[arg-type]


def test_a_model_is_loaded_once_and_again_when_its_file_changes(model: HeadModel, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    checkpoint.save(model, path, {})
    first = checkpoint.load_model(path, "cpu")
    assert checkpoint.load_model(str(path), "cpu") is first and checkpoint.load_model(first, "cpu") is first
    os.utime(path, (1, 1))
    second = checkpoint.load_model(path, "cpu")
    assert second is not first
    path.write_bytes(path.read_bytes() + b"0")
    os.utime(path, (1, 1))  # within one tick of the clock
    with pytest.raises(WeightsError, match="damaged"):
        checkpoint.load_model(path, "cpu")
    own = checkpoint.load_model(None, "cpu")
    assert own is not first and checkpoint.load_model(None, "cpu") is own
    with pytest.raises(WeightsError, match="absent"):
        checkpoint.load_model(tmp_path / "absent.safetensors", "cpu")


def test_a_flat_brain_is_refused(model: HeadModel) -> None:
    scan, brain = scan_of(), brain_of()
    with pytest.raises(ScanError, match="one and the same"):
        run(scan.with_stored(np.where(brain, 100, scan.stored).astype(np.int16)), brain, model)


@pytest.mark.thorough
def test_the_brain_of_a_head_that_lies_turned_is_the_one_that_is_found_upright(example: Volume) -> None:
    upside_down = Volume(example.data, np.diag([-1.0, 1.0, -1.0, 1.0]) @ example.affine)
    mask, pose = brain_search.search_brain(upside_down, "deepbet")
    assert not canonical.faults(pose)
    expected = extract_brain(example)
    assert np.array_equal(mask, expected) and not np.array_equal(extract_brain(upside_down), expected)


def test_a_given_mask_of_a_turned_head_is_enough_where_it_is_whole() -> None:
    data, brain = phantom.head()
    options = Options(region="face")
    upright = brain_search.find(Volume(data, phantom.ras_affine()), brain, options, "cpu", None)
    turned = Volume(data, np.diag([-1.0, 1.0, -1.0, 1.0]) @ phantom.ras_affine())  # upside down
    found = brain_search.find(turned, brain, options, "cpu", None)
    assert np.mean(found.protected != upright.protected) < 0.01
    assert any("not upright" in text for text in found.warnings) and not upright.warnings
    brain[:, :, 46:] = False
    on_its_side = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1.0]])
    with pytest.raises(BrainMaskError, match="has the shape of no brain"):
        brain_search.find(Volume(data, on_its_side @ phantom.ras_affine()), brain, options, "cpu", None)


LENT = {
    "its own": ("seen", (0, 0, 0), True, None),
    "a contrast in which white is dark": ("dark", (0, 0, 0), True, None),
    "somebody nodded a little": ("seen", (0, 1, -2), True, None),
    "somebody nodded": ("seen", (0, 5, -5), False, "does not fit"),
    "12 mm back": ("seen", (0, -12, 0), False, "does not fit"),
    "forward and down, onto the mouth": ("seen", (0, 20, -50), False, "does not fit"),
    "to the side": ("dark", (25, 0, 0), False, "does not fit"),
    "air is bright: nobody sees a brain": ("negative", (0, 20, -50), True, "see whether it fits"),
}


@pytest.fixture(scope="module")
def example() -> Volume:
    """The packaged head at 2 mm."""
    with resources.as_file(resources.files("cpmae") / "weights" / "example_T1w.nii.gz") as path:
        head = forms.read(path)
    return Volume(np.asarray(head.stored)[::2, ::2, ::2].astype(np.float32), head.affine @ np.diag([2, 2, 2, 1]))


@pytest.mark.parametrize("case", LENT)
def test_a_mask_that_another_scan_lends_has_to_fit_the_image(case: str, example: Volume) -> None:
    contrast, move, fits, says = LENT[case]
    stored, affine = example.data, example.affine
    brain = extract_brain(Volume(stored, affine))
    moved = affine.copy()
    moved[:3, 3] += move
    seen = {"seen": stored, "dark": np.where(stored > 60, 1000 - stored, stored), "negative": 1000 - stored}
    mask = mask_on(brain, moved, brain.shape, affine)
    found, doubt = lending.lent_mask_fits(Volume(seen[contrast], affine), mask)
    assert found == fits and (doubt is None if says is None else says in str(doubt))


@pytest.mark.parametrize("edge", [192, 224])
def test_a_brain_is_found_in_a_field_of_view_that_is_mostly_air(edge: int, example: Volume) -> None:
    """As of a head of 2 mm voxels that was padded with zeros; extractors see the whole field of view."""
    before = [(edge - n) // 2 for n in example.shape]
    pads = [(b, edge - n - b) for b, n in zip(before, example.shape, strict=True)]
    shift = np.eye(4)
    shift[:3, 3] = [-b for b in before]
    padded = Volume(np.pad(example.data, pads), example.affine @ shift)
    mask, pose = brain_search.search_brain(padded, "deepbet")
    assert not canonical.faults(pose)
    inner = mask[tuple(slice(b, b + n) for b, n in zip(before, example.shape, strict=True))]
    own, _ = brain_search.search_brain(example, "deepbet")
    assert inner.sum() == mask.sum() and 2 * (inner & own).sum() > 0.97 * (inner.sum() + own.sum())
