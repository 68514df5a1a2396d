"""What can go wrong, as exceptions whose message is one sentence a user can act on.

Each subclasses the built-in exception it refines, names the offending value and says what to do. The command line
prints the message and exits with 1; nothing in the library prints or exits.
"""


class CpmaeError(Exception):
    """Base of every error this package raises on purpose.

    What another program said stands in its notes (`add_note`) and not in its message: it may hold anything, and records
    of batches are shared with the results.
    """


def with_notes(error: BaseException) -> str:
    """Message and notes on one line, for the terminal."""
    notes = getattr(error, "__notes__", [])
    return f"{error} ({'; '.join(notes)})" if notes else str(error)


class ScanError(CpmaeError, ValueError):
    """The input cannot be read, or is not a head scan that can be de-identified."""


class BrainMaskError(CpmaeError, ValueError):
    """The brain mask, given or found, is not one a brain can have."""


class WeightsError(CpmaeError, ValueError):
    """A weight file is missing, damaged, or of another version."""


class OutputError(CpmaeError, OSError):
    """The result cannot be written where it was asked for."""


class DeviceError(CpmaeError, ValueError):
    """The device asked for is not there."""


class MissingExtraError(CpmaeError, ImportError):
    """An optional dependency is not installed; the message names the extra."""


class ClusterError(CpmaeError, OSError):
    """A cluster of workers cannot be reached or started, or was lost."""


class SettingsError(CpmaeError, ValueError):
    """A file of settings, or a combination of them, cannot be used."""


class MethodError(CpmaeError, RuntimeError):
    """A method or a segmenter that is being evaluated failed on a scan."""
