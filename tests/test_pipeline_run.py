"""The promises for 4-D files: in every volume, from file to file."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import phantom
import pytest
import torch

from cpmae import metadata
from cpmae.errors import OutputError, ScanError
from cpmae.files import deidentify_file
from cpmae.io import forms
from cpmae.io.together import write_together
from cpmae.models import checkpoint
from cpmae.models.head import HeadModel
from cpmae.options import Options
from cpmae.pipeline_run import deidentify_run
from cpmae.report.picture import before_after
from cpmae.verify_run import verify_run

BRIGHTNESS = (1.0, 0.4, 2.5)  # of the volumes


@pytest.fixture(scope="module")
def model() -> HeadModel:
    return checkpoint.load()


def volumes(outside: np.ndarray | None = None) -> np.ndarray:
    """(X, Y, Z, T) float32; `outside` in place of all that is not brain."""
    data, brain = phantom.head()
    data = data if outside is None else np.where(brain, data, outside.astype(np.float32))
    rng = np.random.default_rng(0)
    noise = np.where(brain, rng.normal(0, 2, data.shape), 0)
    return np.stack([data * b + noise for b in BRIGHTNESS], axis=-1).astype(np.float32)


def put(path: Path, data: np.ndarray) -> Path:
    path.write_bytes(phantom.nifti_bytes_of(data, phantom.ras_affine()))
    return path


def result(path: Path, model: HeadModel) -> np.ndarray:
    done = deidentify_run(
        forms.open_scan(path), Options(seed=3, device="cpu"), brain_mask=phantom.head()[1], weights=model
    )
    return np.stack(list(done.volumes()), axis=-1)


def test_every_volume_keeps_its_brain_and_gets_its_own_intensities(tmp_path: Path, model: HeadModel) -> None:
    data, brain = volumes(), phantom.head()[1]
    found = result(put(tmp_path / "run.nii", data), model)
    assert found[brain].tobytes() == data[brain].tobytes()
    tissue = ~brain & (found[..., 0] > 40)  # in air there is noise alone
    assert tissue.sum() > 5_000
    outside = found[tissue].mean(axis=0)
    np.testing.assert_allclose(outside / outside[0], np.array(BRIGHTNESS), rtol=0.1)
    heads = [np.corrcoef(found[~brain][:, 0], found[~brain][:, t])[0, 1] for t in (1, 2)]
    assert min(heads) > 0.9  # one head for the whole run


def test_nothing_else_gets_through(tmp_path: Path, model: HeadModel) -> None:
    first = result(put(tmp_path / "run.nii", volumes()), model)
    rng = np.random.default_rng(1)
    for name, outside in {
        "noise": rng.normal(300, 200, phantom.SHAPE),
        "nan": np.full(phantom.SHAPE, np.nan),
        "someone else": np.roll(phantom.head(seed=7)[0][::-1], 4, axis=1),
    }.items():
        again = result(put(tmp_path / "other.nii", volumes(outside)), model)
        assert again.tobytes() == first.tobytes(), name


def test_any_number_of_threads_gives_the_same(tmp_path: Path, model: HeadModel) -> None:
    path = put(tmp_path / "run.nii", np.concatenate([volumes()] * 3, axis=-1))  # more than are made at once
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        more = result(path, model)
        torch.set_num_threads(1)
        one = result(path, model)
    finally:
        torch.set_num_threads(threads)
    assert one.tobytes() == more.tobytes()
    assert not np.array_equal(one[..., 0], one[..., 3])  # of the same numbers, under noise of its own


@pytest.mark.thorough
def test_the_number_of_the_noise_changes_noise_alone(tmp_path: Path, model: HeadModel) -> None:
    run, brain = forms.open_scan(put(tmp_path / "run.nii", volumes())), phantom.head()[1]
    one, other = (
        next(
            deidentify_run(
                run, Options(seed=3, device="cpu", noise_number=n), brain_mask=brain, weights=model
            ).volumes()
        )
        for n in (0, 7)
    )
    assert 0 < phantom.smooth_share(one, other, ~brain) < 0.1


def test_file_to_file(tmp_path: Path, model: HeadModel) -> None:
    source = put(tmp_path / "run.nii", volumes().astype(np.int16))
    brain = tmp_path / "brain.nii"
    nib.save(nib.Nifti1Image(phantom.head()[1].astype(np.uint8), phantom.ras_affine()), brain)
    for name in ("one.nii.gz", "two.nii.gz"):
        deidentify_file(
            source, tmp_path / name, Options(seed=4), brain_mask=brain, weights=model, picture=tmp_path / f"{name}.png"
        )
    assert (tmp_path / "one.nii.gz").read_bytes() == (tmp_path / "two.nii.gz").read_bytes()
    assert (tmp_path / "one.nii.gz.png").stat().st_size > 10_000
    checked = verify_run(forms.open_scan(source), forms.open_scan(tmp_path / "one.nii.gz"), phantom.head()[1])
    assert checked.ok, checked.failures
    assert b"cpmae" in nib.load(tmp_path / "one.nii.gz").header["descrip"].item()


def test_masks_hold_no_more_of_a_header_than_results_do(tmp_path: Path, model: HeadModel) -> None:
    image = nib.Nifti1Image(volumes().astype(np.int16)[..., :1], phantom.ras_affine())
    image.header["qform_code"], image.header["qoffset_x"] = 0, 4711
    nib.save(image, tmp_path / "run.nii")
    assert nib.load(tmp_path / "run.nii").header["qoffset_x"] == 4711
    brain = tmp_path / "brain.nii"
    nib.save(nib.Nifti1Image(phantom.head()[1].astype(np.uint8), phantom.ras_affine()), brain)
    masks = {"save_brain_mask": tmp_path / "mask.nii", "save_replaced_mask": tmp_path / "replaced.nii"}
    deidentify_file(tmp_path / "run.nii", tmp_path / "out.nii", Options(), brain_mask=brain, weights=model, **masks)
    for path in (tmp_path / "out.nii", *masks.values()):
        assert nib.load(path).header["qoffset_x"] == 0


@pytest.mark.thorough
def test_a_picture_costs_no_second_pass_and_shows_the_means(tmp_path: Path, model: HeadModel) -> None:
    source, mask = put(tmp_path / "run.nii", volumes().astype(np.int16)), tmp_path / "brain.nii"
    said: list[str] = []
    nib.save(nib.Nifti1Image(phantom.head()[1].astype(np.uint8), phantom.ras_affine()), mask)
    files = {"brain_mask": mask, "picture": tmp_path / "out.png"}
    done = deidentify_file(source, tmp_path / "out.nii", Options(seed=4), weights=model, progress=said.append, **files)
    assert [said.count(f"volume {n} of 3") for n in (1, 2, 3)] == [1, 1, 1]
    means = [forms.open_scan(path).mean() for path in (source, tmp_path / "out.nii")]
    before_after(*means, done.brain_mask, tmp_path / "expected.png")
    assert (tmp_path / "out.png").read_bytes() == (tmp_path / "expected.png").read_bytes()


def test_a_picture_that_cannot_be_drawn_leaves_no_result(tmp_path: Path) -> None:
    """The picture comes after the result's volumes, and yet the result takes its name after the picture."""

    def fail(path: Path) -> None:
        raise OSError(28, "No space left on device")

    order: list[str] = []
    with pytest.raises(OutputError, match="both.png cannot be written"):
        write_together([(tmp_path / "out.nii", lambda p: p.write_bytes(b"1"))], late=[(tmp_path / "both.png", fail)])
    assert not list(tmp_path.iterdir())
    write_together(
        [(tmp_path / "out.nii", lambda p: [order.append("result"), p.write_bytes(b"1")])],
        late=[(tmp_path / "both.png", lambda p: [order.append("picture"), p.write_bytes(b"2")])],
    )
    assert order == ["result", "picture"] and len(list(tmp_path.iterdir())) == 2


def test_a_header_that_is_not_the_inputs_is_not_written(
    tmp_path: Path, model: HeadModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, brain = put(tmp_path / "run.nii", volumes().astype(np.int16)), tmp_path / "brain.nii"
    nib.save(nib.Nifti1Image(phantom.head()[1].astype(np.uint8), phantom.ras_affine()), brain)
    before, cleaned = set(tmp_path.iterdir()), metadata.clean_nifti

    def careless(run: Any) -> Any:
        done = cleaned(run)
        done.header["sform_code"] += 1
        return done

    monkeypatch.setattr(metadata, "clean_nifti", careless)
    with pytest.raises(ScanError, match="header failed its own check.*codes"):
        deidentify_file(source, tmp_path / "out.nii", Options(seed=4), brain_mask=brain, weights=model)
    assert set(tmp_path.iterdir()) == before


def test_a_bad_volume_leaves_no_file(tmp_path: Path, model: HeadModel) -> None:
    data = volumes()
    data[..., 1] = np.where(np.indices(phantom.SHAPE)[0] % 2, np.nan, data[..., 1])
    source = put(tmp_path / "run.nii", data)
    brain = tmp_path / "brain.nii"
    nib.save(nib.Nifti1Image(phantom.head()[1].astype(np.uint8), phantom.ras_affine()), brain)
    before = set(tmp_path.iterdir())
    with pytest.raises(ScanError, match="NaN"):
        deidentify_file(source, tmp_path / "out.nii", Options(seed=4), brain_mask=brain, weights=model)
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("slope", [1.0, -1.0])
def test_a_volume_in_which_somebody_moved_is_told_of(tmp_path: Path, slope: float) -> None:
    data, brain = phantom.head()
    volumes = [data * b for b in (1.0, 0.5, 0.8, 1.0)]
    volumes[2] = np.roll(volumes[2], 3, axis=1)  # 8 mm, and the air 3 mm the other way
    stored = slope * np.stack(volumes, axis=-1).astype(np.float32)
    (tmp_path / "run.nii").write_bytes(phantom.nifti_bytes_of(stored, phantom.ras_affine(), slope))
    run = forms.open_scan(tmp_path / "run.nii")
    options = Options(seed=3, device="cpu")
    (told,) = [w for w in deidentify_run(run, options, brain_mask=brain).warnings if "somebody moved" in w]
    assert "volume 3 of 4" in told
    still = forms.open_scan(put(tmp_path / "still.nii", np.stack(volumes[:2], axis=-1).astype(np.float32)))
    assert not [w for w in deidentify_run(still, options, brain_mask=brain).warnings if "moved" in w]
