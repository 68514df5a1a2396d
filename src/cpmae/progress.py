"""A live table of a batch, for whoever looks at a terminal."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cpmae.batch.records import Job, Outcome

SHOWN = 16  # scans under way; more of them would push the figures off the screen


@contextmanager
def progress_table(total: int) -> Iterator[Callable[[str, Job, Outcome | None], None]]:
    """While the block runs, show what is done, under way and left; the value is an `engine.Tell`.

    Where stderr is no terminal, nothing is shown. Tracebacks of exceptions that nobody expected, and what other
    programs said, go to stderr always.
    """
    counts: Counter[str] = Counter()
    running: dict[str, float] = {}
    start = time.monotonic()

    def note(event: str, job: Job, outcome: Outcome | None) -> None:
        if event == "started":
            running[job.name] = time.monotonic()
        else:
            running.pop(job.name, None)
        if event == "skipped":
            counts["done before"] += 1
        elif event == "ended" and outcome:
            counts["done" if outcome.state == "done" else "failed"] += 1
            if outcome.traceback:
                print(f"{job.name}\n{outcome.traceback}", file=sys.stderr)

    if not sys.stderr.isatty():
        yield note
        return

    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    def view() -> Group:
        now = time.monotonic()
        ended = sum(counts.values())
        made = ended - counts["done before"]
        left = (now - start) / made * (total - ended) if made else None
        figures = ", ".join(f"{number} {what}" for what, number in counts.items()) or "starting"
        line = f"{ended} of {total}: {figures}" + (f"; about {_time(left)} left" if left else "")
        table = Table(box=None, pad_edge=False, show_header=False)
        for name, since in list(running.items())[:SHOWN]:
            table.add_row(_time(now - since), Text(name))
        bar = Table.grid()
        bar.add_row(ProgressBar(total=total, completed=ended, width=60))
        return Group(bar, Text(line), table)

    console = Console(stderr=True)
    with Live(get_renderable=view, console=console, refresh_per_second=2, redirect_stdout=False):
        yield note


def _time(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"
