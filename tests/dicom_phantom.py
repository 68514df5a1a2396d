"""The phantom head as DICOM: classic series and enhanced multi-frame objects, made with plain pydicom."""

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    UID,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

STUDY, FRAME = generate_uid(), generate_uid()


def base(kind: UID, **values: Any) -> Dataset:
    """What every object of the study has."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = kind, generate_uid()
    data.SpecificCharacterSet = "ISO_IR 100"
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = STUDY, generate_uid(), FRAME
    data.PatientName, data.PatientID, data.PatientBirthDate, data.PatientSex = "Doe^Jane", "MRN-0042", "19700214", "F"
    data.PatientAge, data.PatientWeight = "055Y", "61"
    data.StudyDate, data.StudyTime, data.StudyID = "20250618", "101112", "7"
    data.SeriesDate, data.SeriesTime, data.AccessionNumber = "20250618", "101213", ""
    data.ContentDate, data.ContentTime = "20250618", "101314.5"
    data.ReferringPhysicianName, data.Modality, data.Manufacturer = "", "MR", "ACME"
    data.ManufacturerModelName, data.DeviceSerialNumber, data.SoftwareVersions = "Phantom", "SN-77", "1.0"
    data.SeriesNumber, data.InstanceNumber, data.Laterality = 1, 1, ""
    data.PositionReferenceIndicator = ""
    for keyword, value in values.items():
        setattr(data, keyword, value)
    return data


def image(data: Dataset, pixels: NDArray, bits: int = 12, **values: Any) -> Dataset:
    """Pixels, (rows, columns) or (frames, rows, columns)."""
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = pixels.shape[-2:]
    data.BitsAllocated, data.BitsStored, data.HighBit = pixels.dtype.itemsize * 8, bits, bits - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.WindowCenter, data.WindowWidth = 100, 200
    data.add_new(
        "PixelData",
        "OW" if pixels.dtype.itemsize > 1 else "OB",
        pixels.astype(pixels.dtype.newbyteorder("<")).tobytes(),
    )
    for keyword, value in values.items():
        setattr(data, keyword, value)
    return data


def planes(shape: Sequence[int], affine: NDArray[np.float64]) -> tuple[list[list[float]], list[float], list[float]]:
    """Positions of the slices, directions and spacing as DICOM says them, of a (X, Y, Z) grid with RAS+ affine."""
    lps = np.diag([-1, -1, 1, 1]) @ affine
    sizes = np.linalg.norm(lps[:3, :3], axis=0)
    positions = [[round(float(v), 6) for v in lps[:3, 3] + k * lps[:3, 2]] for k in range(shape[2])]
    cosines = [round(float(v), 8) for axis in (0, 1) for v in lps[:3, axis] / sizes[axis]]
    return positions, cosines, [float(sizes[1]), float(sizes[0])]


def classic(
    folder: Path,
    stored: NDArray,
    affine: NDArray[np.float64],
    change: Callable[[Dataset, int], Any] = lambda data, k: None,
    names: str = "im{:04d}",
    bits: int = 12,
    **values: Any,
) -> list[Path]:
    """A series with a file for each slice of `stored` (X, Y, Z), integers; `change` gets each before it is written."""
    folder.mkdir(parents=True, exist_ok=True)
    positions, cosines, spacing = planes(stored.shape, affine)
    series, paths = values.pop("SeriesInstanceUID", generate_uid()), []
    for k in range(stored.shape[2]):
        data = base(MRImageStorage, SeriesInstanceUID=series)
        data.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
        data.InstanceNumber, data.AcquisitionNumber = k + 1, 1
        data.ImagePositionPatient, data.ImageOrientationPatient, data.PixelSpacing = positions[k], cosines, spacing
        data.SliceThickness = float(np.linalg.norm(affine[:3, 2]))
        data.SeriesDescription, data.ProtocolName = "t1_mprage", "t1_mprage"
        data.ScanningSequence, data.SequenceVariant, data.ScanOptions = ["GR", "IR"], ["SP", "MP"], ""
        data.MRAcquisitionType, data.EchoTime, data.RepetitionTime, data.EchoTrainLength = "3D", 3, 2300, 1
        data.InversionTime, data.FlipAngle, data.MagneticFieldStrength, data.ImagedNucleus = 900, 9, 3, "1H"
        image(data, np.ascontiguousarray(stored[:, :, k].T), bits)
        for keyword, value in values.items():
            setattr(data, keyword, value)
        change(data, k)
        paths.append(put(folder / names.format(k + 1), data))
    return paths


def enhanced(path: Path, stored: NDArray, affine: NDArray[np.float64], bits: int = 12, **values: Any) -> Path:
    """One object with a frame for each slice of `stored`, with the modules that Enhanced MR Image Storage demands."""
    positions, cosines, spacing = planes(stored.shape, affine)
    data = base(EnhancedMRImageStorage)
    data.ImageType = ["ORIGINAL", "PRIMARY", "T2", "NONE"]
    data.SeriesDescription, data.MagneticFieldStrength = "T2 space", 3
    data.AcquisitionNumber, data.AcquisitionDateTime, data.AcquisitionDuration = 1, "20250618101112", 200.0
    data.ResonantNucleus, data.KSpaceFiltering, data.ApplicableSafetyStandardAgency = "1H", "NONE", "IEC"
    data.ContentQualification, data.BurnedInAnnotation, data.LossyImageCompression = "RESEARCH", "NO", "00"
    data.PresentationLUTShape, data.AcquisitionContextSequence = "IDENTITY", Items()
    for keyword, value in _frame_type().items():
        setattr(data, keyword, value)
    data.NumberOfFrames = stored.shape[2]
    organization = generate_uid()
    data.DimensionOrganizationSequence = Items([_item(DimensionOrganizationUID=organization)])
    pointers = {"DimensionIndexPointer": 0x00209057, "FunctionalGroupPointer": 0x00209111}
    data.DimensionIndexSequence = Items([_item(DimensionOrganizationUID=organization, **pointers)])
    shared = _item(
        PixelMeasuresSequence=Items([_item(PixelSpacing=spacing, SliceThickness=float(np.linalg.norm(affine[:3, 2])))]),
        PlaneOrientationSequence=Items([_item(ImageOrientationPatient=cosines)]),
        PixelValueTransformationSequence=Items([_item(RescaleIntercept=0, RescaleSlope=1, RescaleType="US")]),
        MRImageFrameTypeSequence=Items([_item(FrameType=["ORIGINAL", "PRIMARY", "T2", "NONE"], **_frame_type())]),
        MREchoSequence=Items([_item(EffectiveEchoTime=90.0)]),
        FrameVOILUTSequence=Items([_item(WindowCenter=100, WindowWidth=200)]),
    )
    data.SharedFunctionalGroupsSequence = Items([shared])
    frames = []
    for k, position in enumerate(positions):
        content = _item(
            FrameAcquisitionDateTime="20250618101112",
            FrameReferenceDateTime="20250618101112",
            FrameAcquisitionDuration=200.0,
            StackID="1",
            InStackPositionNumber=k + 1,
            DimensionIndexValues=[k + 1],
        )
        plane = _item(ImagePositionPatient=position)
        frames.append(_item(FrameContentSequence=Items([content]), PlanePositionSequence=Items([plane])))
    data.PerFrameFunctionalGroupsSequence = Items(frames)
    image(data, np.ascontiguousarray(stored.transpose(2, 1, 0)), bits)
    for keyword, value in values.items():
        setattr(data, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    return put(path, data)


def _frame_type() -> dict[str, str]:
    return {
        "PixelPresentation": "MONOCHROME",
        "VolumetricProperties": "VOLUME",
        "VolumeBasedCalculationTechnique": "NONE",
        "ComplexImageComponent": "MAGNITUDE",
        "AcquisitionContrast": "T2",
    }


def _item(**values: Any) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def put(path: Path, data: Dataset) -> Path:
    """Write a data set as a DICOM file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.save_as(path, enforce_file_format=True)
    return path


def mosaic(
    folder: Path,
    volumes: Sequence[NDArray],
    affine: NDArray[np.float64],
    change: Callable[[Dataset, int], Any] = lambda data, k: None,
    csa: bool = True,
    bits: int = 12,
    **values: Any,
) -> list[Path]:
    """A Siemens series with a file for each volume (X, Y, Z), its slices tiled; the axes are at right angles."""
    series, paths = values.pop("SeriesInstanceUID", generate_uid()), []
    (first, *_), cosines, spacing = planes(volumes[0].shape, affine)
    lps = np.diag([-1, -1, 1]) @ affine[:3, :3]
    thick = float(np.linalg.norm(lps[:, 2]))
    for k, stored in enumerate(volumes):
        columns, rows, count = stored.shape
        side = int(np.ceil(np.sqrt(count)))
        picture = np.full((side * rows, side * columns), 7, stored.dtype)  # where no slice is, something that has to go
        for n in range(count):
            row, column = n // side * rows, n % side * columns
            picture[row : row + rows, column : column + columns] = stored[:, :, n].T
        # as if the mosaic were one slice with the centre that the first tile has
        corner = first - lps[:, :2] @ (np.array([columns, rows]) * (side - 1) / 2)
        data = base(MRImageStorage, SeriesInstanceUID=series, Manufacturer="SIEMENS", SoftwareVersions="syngo MR E11")
        data.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
        data.InstanceNumber, data.AcquisitionNumber = k + 1, k + 1
        data.ImagePositionPatient, data.ImageOrientationPatient = [round(float(v), 8) for v in corner], cosines
        data.PixelSpacing, data.SliceThickness, data.SpacingBetweenSlices = spacing, 0.8 * thick, thick
        data.SeriesDescription, data.ProtocolName, data.SequenceName = "ep2d_diff", "ep2d_diff", "*ep_b1000#1"
        data.ScanningSequence, data.SequenceVariant, data.ScanOptions = ["EP"], ["SK", "SP"], ""
        data.MRAcquisitionType, data.EchoTime, data.RepetitionTime, data.EchoTrainLength = "2D", 80, 6600, 1
        data.FlipAngle, data.MagneticFieldStrength, data.ImagedNucleus, data.PatientPosition = 90, 3, "1H", "HFS"
        private = data.private_block(0x0019, "SIEMENS MR HEADER", create=True)
        private.add_new(0x09, "LO", "1.0 of Doe")
        private.add_new(0x0A, "US", count)
        private.add_new(0x0C, "IS", 1000)
        private.add_new(0x0E, "FD", [0.6, 0.0, 0.8])
        private.add_new(0x27, "FD", [360.0, 0.0, 480.0, 0.0, 0.0, 640.0])
        if csa:
            tags = {
                "NumberOfImagesInMosaic": ("US", [str(count)]),
                "SliceNormalVector": ("FD", [f"{v:.8f}" for v in lps[:, 2] / thick]),
                "ImaCoilString": ("LO", ["Doe^Jane"]),
                "B_value": ("IS", ["1000"]),
                "DiffusionGradientDirection": ("FD", ["0.6", "0.0", "0.8"]),
                "B_matrix": ("FD", ["360.0", "0.0", "480.0", "0.0", "0.0", "640.0"]),
            }
            private = data.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
            private.add_new(0x10, "OB", csa_header(tags))
            private.add_new(0x20, "OB", csa_header({"MrPhoenixProtocol": ("UN", ["tPatientName = Doe^Jane"])}))
        image(data, picture, bits)
        for keyword, value in values.items():
            setattr(data, keyword, value)
        change(data, k)
        paths.append(put(folder / f"im{k + 1:04d}", data))
    return paths


def csa_header(tags: dict[str, tuple[str, list[str]]]) -> bytes:
    """Name to VR and values as Siemens' CSA2 header, with the empty items that scanners put behind the values."""
    raw = b"SV10\4\3\2\1" + struct.pack("<2I", len(tags), 77)
    for name, (vr, values) in tags.items():
        items = [f"{value}\0".encode() for value in values] + [b""] * max(6 - len(values), 0)
        raw += struct.pack("<64si4s3i", name.encode(), len(values), vr.encode(), 6, len(items), 77)
        for item in items:
            raw += struct.pack("<4i", len(item), len(item), 77, len(item)) + item + bytes(-len(item) % 4)
    return raw
