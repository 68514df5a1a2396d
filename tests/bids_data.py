"""A BIDS data set of all kinds of images, tiny ones, with names and dates planted wherever there is room for them."""

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import nibabel as nib
import numpy as np
import phantom
import torch
from numpy.typing import NDArray

from cpmae import lending
from cpmae.bids import work as bids_work
from cpmae.bids.plan import Task
from cpmae.canonical import Pose
from cpmae.drawn_head import Head
from cpmae.errors import ScanError
from cpmae.io import forms, nifti
from cpmae.io.mask import mask_scan
from cpmae.io.together import Writer, write_together
from cpmae.options import Options
from cpmae.volume import Volume

SHAPE = (20, 22, 24)
AFFINE = np.diag([9.0, 9.0, 9.0, 1.0])
AFFINE[:3, 3] = (-90, -100, -110)
SIDECAR = {"MagneticFieldStrength": 3, "EchoTime": 0.003, "RepetitionTime": 2.3, "FlipAngle": 8, "Manufacturer": "Acme"}

# every name is another identifier, so that each that survives is seen
FIELDS = """
PatientName PatientID PatientBirthDate OtherPatientIDs OtherPatientNames PatientAddress PatientTelephoneNumbers
PatientMotherBirthName MilitaryRank EthnicGroup Occupation AdditionalPatientHistory PatientComments AccessionNumber
StudyID StudyInstanceUID SeriesInstanceUID SOPInstanceUID FrameOfReferenceUID StudyDescription SeriesDescription
ProtocolName ProcedureStepDescription RequestedProcedureDescription StudyDate StudyTime SeriesDate SeriesTime
AcquisitionDate AcquisitionTime AcquisitionDateTime ContentDate InstitutionName InstitutionAddress
InstitutionalDepartmentName StationName DeviceSerialNumber ReferringPhysicianName PerformingPhysicianName
OperatorsName PhysiciansOfRecord RequestingPhysician ImageComments BodyPartDetails SubjectArtefactDescription
Instructions TaskDescription PulseSequenceDetails UnknownField
""".split()


class Identifiers:
    """Makes identifiers and remembers them."""

    def __init__(self) -> None:
        self.all: list[bytes] = []

    def __call__(self, where: str) -> str:
        text = f"D{len(self.all):03}{where[:8]}"
        self.all.append(text.encode())
        return text


def image(path: Path, new: Callable[[str], str], shape: Sequence[int] = SHAPE, affine: Any = AFFINE) -> None:
    """An image with text in its header, an extension and, if it is gzip, a name and a time in its file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.random.default_rng(len(str(path))).integers(1, 999, shape).astype(np.int16)
    found = nib.Nifti1Image(data, affine)
    found.header.set_sform(affine, 1)
    found.header.set_qform(affine, 1)
    found.header.set_xyzt_units("mm", "sec")
    if len(shape) > 3:
        found.header["pixdim"][4] = 2.3
    for field in ("descrip", "aux_file", "db_name", "intent_name"):
        found.header[field] = new(field).encode()
    found.header.extensions.append(nib.nifti1.Nifti1Extension(6, new("extension").encode()))
    raw = found.to_bytes()
    if path.name.endswith(".gz"):
        with open(path, "wb") as file, gzip.GzipFile(new("gzip") + ".nii", "wb", 1, file, mtime=1e9) as packed:
            packed.write(raw)
    else:
        path.write_bytes(raw)


def text(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def make(root: Path) -> list[bytes]:
    """Write the data set; returns what must not survive."""
    new = Identifiers()
    text(root / "dataset_description.json", {"Name": "Tiny", "BIDSVersion": "1.10.0", "Contact": new("contact")})
    text(root / "README", new("readme"))
    text(root / "CHANGES", new("changes"))
    text(root / "T1w.json", SIDECAR | {name: new(name) for name in FIELDS[::2]})
    text(root / "task-rest_bold.json", {"TaskName": "rest", "RepetitionTime": 2.3, "PatientName": new("task")})
    text(root / "participants.tsv", f"participant_id\tage\tsex\tname\nsub-01\t93\tF\t{new('tsv')}\nsub-09\t30\tM\tx\n")
    text(root / "participants.json", {"age": {"Units": "year"}, "name": {"Description": new("levels")}})
    text(root / "sourcedata" / f"{new('folder')}.dcm", new("source"))
    text(root / "code" / "convert.py", new("code"))
    text(root / f"{new('notes')}.txt", "notes")
    anat, func, dwi, perf, fmap = (root / "sub-01" / "ses-1" / d for d in ("anat", "func", "dwi", "perf", "fmap"))
    sub = "sub-01_ses-1"
    thick = AFFINE @ np.diag([1, 1, 1.1, 1])
    image(anat / f"{sub}_T1w.nii.gz", new)
    text(anat / f"{sub}_T1w.json", {"EchoTime": 0.004, "Deep": {"Patient": new("nested")}, "EchoNumber": new("number")})
    image(anat / f"{sub}_T2w.nii", new, affine=thick)
    text(anat / f"{sub}_T2w.json", SIDECAR | {name: new(name) for name in FIELDS[1::2]})
    image(anat / f"{sub}_acq-fast_run-2_FLAIR.nii.gz", new)
    text(anat / f"{sub}_acq-fast_run-2_FLAIR.json", {"ScanOptions": "PFP_FS"})
    mp2rage = {"RepetitionTimeExcitation": 0.006, "RepetitionTimePreparation": 5, "NumberShots": 176}
    for inv in (1, 2):
        image(anat / f"{sub}_inv-{inv}_MP2RAGE.nii.gz", new)
        text(anat / f"{sub}_inv-{inv}_MP2RAGE.json", SIDECAR | mp2rage | {"InversionTime": inv})
    image(anat / f"{sub}_T1w_{new('copy')}.nii.gz", new)
    text(root / "sub-01" / "ses-1" / f"{sub}_scans.tsv", f"filename\tacq_time\nx\t{new('acqtime')}\n")
    image(func / f"{sub}_task-rest_bold.nii.gz", new, (*SHAPE, 3))
    image(func / f"{sub}_task-rest_sbref.nii.gz", new)
    text(root / "task-rest_events.tsv", f"onset\tduration\tnote\n1.0\t2\t{new('note')}\n")
    image(dwi / f"{sub}_dwi.nii.gz", new, (*SHAPE, 2))
    text(dwi / f"{sub}_dwi.bval", "0 1000\n")
    text(dwi / f"{sub}_dwi.bvec", "0 1\n0 0\n0 0\n")
    text(dwi / f"{sub}_dwi.json", {"PhaseEncodingDirection": "j", "Comment": new("comment")})
    image(perf / f"{sub}_asl.nii.gz", new, (*SHAPE, 2))
    text(perf / f"{sub}_aslcontext.tsv", "volume_type\ncontrol\nlabel\n")
    asl = {"ArterialSpinLabelingType": "PASL", "PostLabelingDelay": 1.8, "BackgroundSuppression": False}
    asl |= {"M0Type": "Absent", "BolusCutOffFlag": False, "RepetitionTimePreparation": 4, "MRAcquisitionType": "3D"}
    text(perf / f"{sub}_asl.json", SIDECAR | asl | {"TotalAcquiredPairs": 1})
    for suffix in ("magnitude1", "magnitude2", "phasediff"):
        image(fmap / f"{sub}_{suffix}.nii.gz", new)
    about = {
        "EchoTime1": 0.004,
        "EchoTime2": 0.006,
        "IntendedFor": [f"bids::sub-01/ses-1/func/{sub}_task-rest_bold.nii.gz"],
    }
    text(fmap / f"{sub}_phasediff.json", about | {"PatientName": new("phase")})
    return new.all


def stand_in(
    input: Path,
    output: Path,
    options: Options,
    *,
    brain_mask: Path | None = None,
    head: Head | None = None,
    save_brain_mask: Path | None = None,
    save_replaced_mask: Path | None = None,
    beside: Sequence[tuple[Path, Writer]],
    staging: Path,
    **rest: Any,
) -> Any:
    """As `files.deidentify_file`, without finding a brain and without a head: the first voxels stay, the rest is 0."""
    loaded = nib.load(input)
    data = np.asanyarray(loaded.dataobj)  # type: ignore[attr-defined]
    mask = np.zeros(data.shape[:3], bool)
    mask[5:15, 5:15, 5:15] = True
    if brain_mask:
        mask = forms.read(brain_mask, checked=False).stored != 0
    kept = np.where(mask.reshape(mask.shape + (1,) * (data.ndim - 3)), data, 0)
    clean = nib.Nifti1Image(kept, loaded.affine)  # type: ignore[attr-defined]
    clean.header.set_xyzt_units("mm", "sec")
    if data.ndim > 3:
        clean.header["pixdim"][4] = 2.3
    scan = phantom.parse(phantom.nifti_bytes_of(kept.reshape(*data.shape[:3], -1)[..., 0], loaded.affine))  # type: ignore[attr-defined]
    account = {"brain_extractor": "stand-in", "seed": options.seed, "fat": options.fat}
    result = SimpleNamespace(account=account, head=head or drawn(input, options))
    raw = clean.to_bytes()
    packed = gzip.compress(raw, 1, mtime=0) if output.name.endswith(".gz") else raw
    found = [(path, mask_scan(scan, m)) for path, m in ((save_brain_mask, mask), (save_replaced_mask, ~mask)) if path]
    masks: list[tuple[Path, Writer]] = [(path, lambda place, m=m: nifti.write(place, m)) for path, m in found]  # type: ignore[misc]
    write_together([*masks, *beside, (output, lambda path: path.write_bytes(packed))], staging)
    return result


def drawn(input: Path, options: Options, *, weights: Path | None = None) -> Head:
    """As `files.draw_head`, without a brain: a field that tells which scan it is of."""
    try:
        value = np.asanyarray(nib.load(input).dataobj).ravel()[0]  # type: ignore[attr-defined]
    except (OSError, nib.filebasedimages.ImageFileError) as error:
        raise ScanError(f"{input.name} cannot be read") from error
    return Head(Pose(np.eye(4), 1.0, 0.0), torch.full((3, 2, 2, 2), float(value)))


def fits(volume: Volume, mask: NDArray) -> tuple[bool, str | None]:
    """As `lending.lent_mask_fits`, which finds no brain in these images."""
    return True, None


def told(task: Task, staging: Path) -> tuple[list[Path], dict[str, Any]]:
    """Work that does nothing but tell what it was given."""
    (task.target / "told").write_text(f"{task.weights}\n{task.options.brain_extractor}\n")
    return [], {"brain_extractor": task.options.brain_extractor}


def work(
    task: Task, staging: Path, deidentify: Callable[..., Any] = stand_in, fits: Callable[..., Any] = fits
) -> tuple[list[Path], dict[str, Any]]:
    """`bids.work.deidentify_scan` with stand-ins for what looks at a brain, put in here, in the worker."""
    with (
        patch.multiple(bids_work, deidentify_file=deidentify, draw_head=drawn),
        patch.object(lending, "lent_mask_fits", fits),
    ):
        return bids_work.deidentify_scan(task, staging)
