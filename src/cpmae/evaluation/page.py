"""The page of an evaluation: one HTML file with its plots and pictures inside, nothing loaded from elsewhere."""

import base64
import html
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpmae import __version__
from cpmae.evaluation import plots
from cpmae.evaluation.results import Results

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1100px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; }
th, td { padding: .25em .7em; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left; }
img { max-width: 100%; } .heads img { height: 150px; } .heads th { padding-right: 1em; text-align: left; }
.scroll { overflow-x: auto; max-height: 30em; overflow-y: auto; }
"""
_TITLES = {
    "reidentify": "Can people be recognised?",
    "downstream": "Do analyses give the same numbers?",
    "sensitivity": "How wrong may mask and scan be?",
}


def page(results: Results) -> str:
    """The whole page."""
    parts = [f"<h1>{_TITLES[results.command]}</h1>", f"<p>{html.escape(results.population)}</p>"]
    for title, figure in plots.plots(results):
        parts += [f"<h2>{html.escape(title)}</h2>", _image(figure, title)]
    if results.rows and results.command != "downstream":
        parts += ["<h2>Table</h2>", table(results.rows)]
    for name, rows in results.tables.items():
        parts += [f"<h2>{html.escape(name.replace('_', ' ').capitalize())}</h2>", table(rows)]
    if results.details:
        parts += ["<h2>Further figures</h2>", table(results.details)]
    for name in ("memorisation", "flips"):
        if results.extra.get(name):
            rows = [{"": key} | value for key, value in results.extra[name].items()]
            parts += [f"<h2>{name.capitalize()}</h2>", table(rows)]
    for name, picture in results.maps.items():
        parts += [f"<h2>{html.escape(name)}</h2>", _image(png(picture), name)]
    if results.pictures:
        parts += ["<h2>Synthetic heads after each method</h2>", '<table class="heads">']
        for method, heads in results.pictures.items():
            cells = "".join(f"<td>{_image(png(head), method)}</td>" for head in heads)
            parts.append(f"<tr><th>{html.escape(method)}</th>{cells}</tr>")
        parts.append("</table>")
    if results.skipped:
        parts += ["<h2>Left out</h2>", table([{"what": w, "reason": r} for w, r in results.skipped])]
    parts.append(f"<h2>Failures: {len(results.failures)}</h2>")
    parts += [table([vars(f) for f in results.failures])] if results.failures else ["<p>None.</p>"]
    settings = ", ".join(f"{k} {v}" for k, v in results.settings.items() if k not in ("method_keys", "network"))
    parts.append(f"<p>cpmae {__version__}; {html.escape(settings)}. All figures are in results.json.</p>")
    head = f'<meta charset="utf-8"><title>cpmae evaluate {results.command}</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(parts) + "\n</body></html>\n"


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of one form as a table."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{html.escape(name.replace('_', ' '))}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(_cell(row.get(name)))}</td>" for name in names) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def png(picture: NDArray[np.uint8]) -> bytes:
    """A grey or RGB picture as the bytes of a PNG."""
    from matplotlib.image import imsave

    stream = BytesIO()
    colour = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)
    imsave(stream, colour, format="png", metadata={})
    return stream.getvalue()


def _image(data: bytes, alt: str) -> str:
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3f}" if np.isfinite(value) else "–"
    if isinstance(value, list | tuple):
        return " to ".join(_cell(v) for v in value)
    return str(value)
