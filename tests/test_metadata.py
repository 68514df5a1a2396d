"""Names planted wherever a NIfTI header has room for them do not survive; what the image needs does."""

import nibabel as nib
import numpy as np
import phantom
import pytest
from numpy.typing import NDArray

from cpmae import metadata
from cpmae.compare import same_header
from cpmae.io.container import Container

NAME = b"Doe^Jane"
AFFINE = np.diag([1.5, 1.0, 1.0, 1.0])


def planted(kind: type, order: str) -> bytes:
    """A file with the name in every field that takes bytes, in every spare number, and in three extensions."""
    stored: NDArray = np.arange(20 * 21 * 22, dtype=np.int16).reshape(20, 21, 22)
    image = kind(stored, AFFINE, kind.header_class(endianness=order))
    header = image.header
    for code in (2, 4, 6):  # DICOM, AFNI, comment
        header.extensions.append(nib.nifti1.Nifti1Extension(code, NAME + b" 1970-01-01"))
    raw = bytearray(image.to_bytes())
    dtype, free = header.template_dtype.newbyteorder(order), 0
    for field, (kind_of, offset) in ((n, dtype.fields[n][:2]) for n in dtype.names):
        if kind_of.kind == "S" and field != "magic":
            raw[offset : offset + kind_of.itemsize] = (NAME * 10)[: kind_of.itemsize]
            free += 1
    assert free >= 4
    for field in {"extents", "session_error", "glmax", "glmin", "cal_max", "cal_min"} & set(dtype.names):
        kind_of, offset = dtype.fields[field][:2]
        raw[offset : offset + kind_of.itemsize] = NAME[: kind_of.itemsize]
    return bytes(raw)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_no_planted_name_survives_and_the_image_is_the_same(kind: type, order: str) -> None:
    raw = planted(kind, order)
    scan = phantom.parse(raw)
    assert raw.count(NAME) > 6 and b"".join(scan.to_bytes()).count(NAME) > 6
    clean = b"".join(metadata.clean_nifti(scan).to_bytes())
    assert NAME not in clean and NAME[:4] not in clean and NAME[:2] not in clean[:348]
    found = phantom.parse(clean)
    assert found.header["cal_max"] == found.header["cal_min"] == 0  # extremes of the original
    assert np.array_equal(found.stored, scan.stored) and np.array_equal(found.affine, scan.affine)
    for field in ("dim", "datatype", "pixdim", "xyzt_units", "qform_code", "sform_code", "scl_slope", "intent_code"):
        assert np.array_equal(found.header[field], scan.header[field], equal_nan=field == "scl_slope"), field
    assert np.array_equal(kind.from_bytes(clean).dataobj, scan.stored)  # and nibabel reads it
    assert b"Doe" in bytes(scan.header["descrip"])  # the original is not touched


SPARE = {"intent_p1": 19700214, "intent_p2": 447123, "intent_p3": 34}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("code", "stays"), [(0, False), (3, True)])  # 3 is a t test, with its degrees of freedom
def test_numbers_of_no_intent_go(code: int, stays: bool, order: str) -> None:
    stored: NDArray = np.zeros((20, 21, 22), np.int16)
    raw = phantom.nifti_bytes_of(stored, AFFINE, order=order, intent_code=code, **SPARE)
    found = metadata.clean_nifti(phantom.parse(raw)).header
    assert [found[field] for field in SPARE] == ([*SPARE.values()] if stays else [0, 0, 0])


@pytest.mark.parametrize(("offset", "stays"), [(0, True), (8.5, True), (-4, True), (37932.25, False), (np.nan, False)])
def test_a_time_of_the_day_is_no_start_of_a_run(offset: float, stays: bool) -> None:
    stored: NDArray = np.zeros((20, 21, 22), np.int16)
    raw = phantom.nifti_bytes_of(stored, AFFINE, toffset=offset)
    assert metadata.clean_nifti(phantom.parse(raw)).header["toffset"] == (offset if stays else 0)


FOOTERS = [
    ([2000, 0.1, 3, 4, 256], [2000, 0.1, 3, 4, 256]),
    ([0, 0, 0, -1, 0], [0, 0, 0, -1, 0]),
    ([np.nan, 0.1, np.inf, 1e9, 3e4], [0, 0.1, 0, 0, 0]),
    ([2000, 90, 3], [2000, 0, 3]),  # degrees are more than a turn; a short footer
]


@pytest.mark.parametrize(("numbers", "expected"), FOOTERS)
def test_the_footer_of_an_mgh_file_holds_times_and_an_angle(numbers: list[float], expected: list[float]) -> None:
    after = np.array(numbers, ">f4").tobytes()
    found = metadata.clean_container(Container("mgh", bytes(284), after=after)).after
    assert found == np.array(expected, ">f4").tobytes()


@pytest.mark.parametrize("text", [b"doe^jane 14.02.1970 ", b"MRN-0042 janejanejan", b"jane^do"])
def test_the_footer_of_an_mgh_file_holds_no_text(text: bytes) -> None:
    found = metadata.clean_container(Container("mgh", bytes(284), after=text + b"tags")).after
    assert len(found) == min(20, len(text) + 4) and not any(part in found for part in (b"jane", b"1970", b"0042"))


UNUSED: dict = {
    "dim": [3, 20, 21, 22, 77, 16705, 20033, 5],
    "pixdim": [-1, 1.5, 1, 1, 2.3, 1.97e7, 447, 34],
    "quatern_b": 19700214,
    "quatern_c": 0.447,
    "qoffset_x": 4711,
    "qoffset_z": np.nan,
}


@pytest.mark.parametrize(("order", "side"), [("<", -1), (">", -1), ("<", 447), ("<", np.nan)])
def test_numbers_of_axes_and_forms_that_are_not_used_go(order: str, side: float) -> None:
    stored: NDArray = np.arange(20 * 21 * 22, dtype=np.int16).reshape(20, 21, 22)
    unused = UNUSED | {"pixdim": [side, *UNUSED["pixdim"][1:]]}
    raw = phantom.nifti_bytes_of(stored, AFFINE, order=order, qform_code=0, sform_code=1, **unused)
    scan = phantom.parse(raw)
    clean = metadata.clean_nifti(scan)
    assert clean.header["dim"].tolist() == [3, 20, 21, 22, 1, 1, 1, 1]
    assert clean.header["pixdim"].tolist() == pytest.approx(
        [side if side == -1 else 1, 1.5, 1, 1, 2.3, 0, 0, 0]
    )  # 2.3: a repetition time
    assert all(clean.header[field] == 0 for field in UNUSED if field[0] == "q")
    again = phantom.parse(b"".join(clean.to_bytes()))
    assert np.array_equal(again.affine, AFFINE) and np.array_equal(again.stored, stored)
    assert all(same_header(scan, again).values()) and not all(same_header(again, scan).values())


def test_a_matrix_that_is_not_used_goes() -> None:
    stored: NDArray = np.zeros((20, 21, 22), np.int16)
    raw = phantom.nifti_bytes_of(stored, AFFINE, sform_code=0, srow_x=[447, 1, 2, 3], srow_z=[np.nan, 1, 2, 3])
    scan = phantom.parse(raw)
    clean = metadata.clean_nifti(scan)
    assert all(not clean.header[row].any() for row in ("srow_x", "srow_y", "srow_z"))
    again = phantom.parse(b"".join(clean.to_bytes()))
    assert np.array_equal(again.affine, scan.affine) and all(same_header(scan, again).values())


@pytest.mark.parametrize("codes", [(0, 1), (1, 0), (0, 0), (1, 1)])
def test_forms_that_say_the_same_stay_whatever_their_codes_are(codes: tuple[int, int]) -> None:
    """nibabel writes a quaternion with code 0 beside a matrix, and may be asked for it."""
    image = nib.Nifti1Image(np.zeros((20, 21, 22), np.int16), AFFINE)
    image.header.set_qform(AFFINE, 1)
    image.header.set_sform(AFFINE, 1)
    image.header["qform_code"], image.header["sform_code"] = codes
    scan = phantom.parse(image.to_bytes())
    clean = metadata.clean_nifti(scan)
    if codes != (0, 0):  # which says that the head lies elsewhere
        for field in ("quatern_b", "quatern_d", "qoffset_x", "qoffset_z", "srow_x", "srow_y", "srow_z", "pixdim"):
            assert np.array_equal(clean.header[field], scan.header[field]), field
    assert np.array_equal(clean.header.get_best_affine(), scan.affine)
