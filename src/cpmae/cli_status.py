"""A line on the terminal that says what is being done."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def status(otherwise: Callable[[str], None] = lambda stage: None) -> Iterator[Callable[[str], None]]:
    """Shows the stage on stderr while the block runs, if a person looks at it; else the value is `otherwise`."""
    if not sys.stderr.isatty():
        yield otherwise
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status("starting") as line:
        # stages hold names of files and series: a str would be read as markup, in which "[/CE]" is an error
        yield lambda stage: line.update(Text(stage))
