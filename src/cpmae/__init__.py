"""De-identification of head MRI: the brain stays as it was, everything around it becomes a head that nobody has.

Names are loaded when they are first used, so that `import cpmae` costs nothing. The comparison of two scans in memory
is `cpmae.verify.verify`; here that name is the module's.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cpmae.errors import (
        BrainMaskError,
        ClusterError,
        CpmaeError,
        DeviceError,
        MissingExtraError,
        OutputError,
        ScanError,
        SettingsError,
        WeightsError,
    )
    from cpmae.io.forms import read
    from cpmae.io.nifti import NiftiScan, write
    from cpmae.pipeline import Deidentified, deidentify
    from cpmae.verify import Verification, verify_files
    from cpmae.verify_run import RunVerification
    from cpmae.volume import Volume

__version__ = "0.1.0"

__all__ = [
    "BrainMaskError",
    "ClusterError",
    "CpmaeError",
    "Deidentified",
    "DeviceError",
    "MissingExtraError",
    "NiftiScan",
    "OutputError",
    "RunVerification",
    "ScanError",
    "SettingsError",
    "Verification",
    "Volume",
    "WeightsError",
    "__version__",
    "deidentify",
    "read",
    "verify_files",
    "write",
]

_HOME = {
    **{name: "cpmae.errors" for name in __all__ if name.endswith("Error")},
    **dict.fromkeys(("deidentify", "Deidentified"), "cpmae.pipeline"),
    **dict.fromkeys(("verify_files", "Verification"), "cpmae.verify"),
    "read": "cpmae.io.forms",
    **dict.fromkeys(("NiftiScan", "write"), "cpmae.io.nifti"),
    "RunVerification": "cpmae.verify_run",
    "Volume": "cpmae.volume",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'cpmae' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
