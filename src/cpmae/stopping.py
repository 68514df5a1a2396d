"""Signals that end a process, as exceptions: `finally` blocks and context managers then remove temporary files."""

import signal

# told to end; the terminal was closed (systems without terminals have no such signal)
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


def exit_on_signals() -> None:
    """From now on SIGTERM and SIGHUP raise SystemExit; under nohup SIGHUP stays ignored."""
    for number in _SIGNALS:
        if number == signal.SIGTERM or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _exit)


def _exit(number: int, frame: object) -> None:
    for other in _SIGNALS:  # a closed terminal says so twice, through the shell too, and cleaning up takes a while
        signal.signal(other, signal.SIG_IGN)
    raise SystemExit(128 + number)
