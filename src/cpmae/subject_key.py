"""The seed of a person, from a secret and a label or patient ID: all scans of one person get the same draw.

HMAC-SHA256 (RFC 2104) is a random function for whoever has no secret: the seeds of other people, and of other data
sets, say nothing of one. The secret is written nowhere.
"""

import hashlib
import hmac
from pathlib import Path

from cpmae.errors import SettingsError

MIN_BYTES = 16


def read_key(path: Path) -> bytes:
    """The secret: all of the file's bytes.

    Raises:
        SettingsError: if it cannot be read, or is so short that it could be guessed.
    """
    try:
        key = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"the subject key {path} cannot be read ({error.strerror}), check the path") from error
    if len(key) < MIN_BYTES:
        raise SettingsError(
            f"the subject key {path} has {len(key)} bytes, give at least {MIN_BYTES} random ones: "
            "head -c 32 /dev/urandom > FILE"
        )
    return key


def seed_of(key: bytes, subject: str) -> int:
    """0 to 2^63 - 1; `subject` is a label of BIDS without `sub-`, or what tells patients of DICOM apart."""
    return int.from_bytes(_digest(key, f"seed of sub-{subject}")[:8]) >> 1


def fingerprint(key: bytes) -> str:
    """Tells two secrets apart, for a run that goes on; says nothing else of them."""
    return _digest(key, "fingerprint").hex()


def _digest(key: bytes, text: str) -> bytes:
    return hmac.digest(key, f"cpmae: {text}".encode(), hashlib.sha256)
