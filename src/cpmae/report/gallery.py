"""One page of the pictures of a data set, to look through hundreds of results."""

import html
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from cpmae.io.together import text_writer, write_together

PAGE = "index.html"
_STYLE = """
body { margin: 0; background: #0c0c0e; color: #c8c8c8; font: 14px/1.5 system-ui, sans-serif; }
p { margin: 1em; } figure { margin: 0 0 1.5em; } figcaption { padding: .2em 1em; } img { display: block; width: 100%; }
.doubt { color: #ffb000; }
"""


def write_page(folder: Path, scans: Sequence[tuple[PurePosixPath, Sequence[str]]], failed: Sequence[str]) -> None:
    """Write `index.html` into the folder of the pictures, which it shows one below the other; it loads nothing else.

    Args:
        scans: pictures below `folder` and the warnings of each; those with warnings are shown first.
        failed: names of scans without a result.

    Raises:
        OutputError: if it cannot be written.
    """
    head = f'<meta charset="utf-8"><title>cpmae: pictures</title><style>{_STYLE}</style>'
    parts = [f"<p>{len(scans)} scans, originals above results. This page and its pictures identify people.</p>"]
    parts += [f'<p class="doubt">No result: {html.escape(name)}</p>' for name in failed]
    for picture, warnings in sorted(scans, key=lambda scan: not scan[1]):
        doubts = "".join(f'<br><span class="doubt">{html.escape(text)}</span>' for text in warnings)
        name = html.escape(str(picture))
        parts.append(
            f"<figure><figcaption>{html.escape(str(picture.with_suffix('')))}{doubts}</figcaption>"
            f'<img loading="lazy" src="{name}" alt="{name}"></figure>'
        )
    text = f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(parts) + "\n</body></html>\n"
    write_together([(folder / PAGE, text_writer(text))])
