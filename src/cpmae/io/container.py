"""What lies around the voxels in files that are no single NIfTI file: pairs (.hdr/.img) and FreeSurfer's .mgh and .mgz.

Pairs: the NIfTI layout, and Analyze 7.5 as SPM reads it. MGH: https://surfer.nmr.mgh.harvard.edu/fswiki/FsTutorial/MghFormat
"""

import struct
from dataclasses import dataclass, replace
from typing import Literal

import nibabel as nib

from cpmae.io import header as headers

MGH_HEAD_BYTES = 284
MGH_HEADER_BYTES = 90  # of the head; the rest is spare
MGH_FOOTER_BYTES = 20  # repetition time, flip angle, echo time, inversion time, field of view; then tags with text
_MGH_COMMAND_TAG = 3  # a line of text each


@dataclass(frozen=True)
class Container:
    """A file's own bytes around its voxels.

    Attributes:
        kind: "nifti" for a pair with a NIfTI header, "analyze" for an older pair, "mgh" for .mgh and .mgz.
        head: the .hdr file, or all before the voxels of an MGH file.
        before: what lies before the voxels in the .img file, as a rule nothing.
        after: what follows the voxels of an MGH file.
    """

    kind: Literal["nifti", "analyze", "mgh"]
    head: bytes
    before: bytes = b""
    after: bytes = b""

    def marked(self, text: str) -> "Container":
        """The same with `text` as the description; an MGH file gets it as a line of its command history."""
        if self.kind == "mgh":
            line = text.encode("ascii", "replace") + b"\0"
            tag = struct.pack(">iq", _MGH_COMMAND_TAG, len(line)) + line
            return replace(self, after=self.after.ljust(MGH_FOOTER_BYTES, b"\0") + tag)
        return self.with_header(headers.marked(pair_header(self.head), text))

    def with_header(self, header: nib.analyze.AnalyzeHeader) -> "Container":
        """A pair's container with another header of the same kind; what follows it in the .hdr file stays."""
        return replace(self, head=header.binaryblock + self.head[len(header.binaryblock) :])


def pair_header(head: bytes) -> nib.analyze.AnalyzeHeader:
    """The header over the bytes of a .hdr file: NIfTI-1, NIfTI-2, or Analyze as SPM2 reads it.

    nibabel's checks are off: they mend fields in silence.

    Raises:
        ValueError: if it is none of these.
    """
    for order, code in (("little", "<"), ("big", ">")):
        if head[:4] == (540).to_bytes(4, order) and head[4:7] == b"ni2" and len(head) >= 540:  # type: ignore[arg-type]
            return nib.Nifti2Header(head[:540], endianness=code, check=False)
        if head[:4] == (348).to_bytes(4, order) and len(head) >= 348:  # type: ignore[arg-type]
            kind = nib.Nifti1Header if head[344:347] == b"ni1" else nib.Spm2AnalyzeImage.header_class
            return kind(head[:348], endianness=code, check=False)
    raise ValueError(f"starts with {head[:4].hex() or 'nothing'}")
