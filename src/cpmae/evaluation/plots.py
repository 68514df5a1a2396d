"""The plots of an evaluation, drawn with matplotlib into memory."""

from collections import defaultdict
from collections.abc import Iterator
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from cpmae.evaluation.results import Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plots(results: Results) -> Iterator[tuple[str, bytes]]:
    """Title and PNG of every plot of a run."""
    if not results.rows:
        return
    if results.command == "reidentify":
        yield "Rank-1 rate with 95 % interval; dotted: chance", _rank1(results.rows)
    elif results.command == "downstream":
        yield "Dice against the untouched scan, every structure of every scan", _dice(results.rows)
    else:
        yield from _curves(results.rows)


def _rank1(rows: list[dict[str, Any]]) -> bytes:
    attackers = list(dict.fromkeys(r["attacker"] for r in rows))
    methods = list(dict.fromkeys(r["method"] for r in rows))
    figure = _figure(10, 1.2 + 0.33 * len(methods) * ((len(attackers) + 2) // 3))
    for number, attacker in enumerate(attackers):
        axis = figure.add_subplot((len(attackers) + 2) // 3, 3, number + 1)
        for row in (r for r in rows if r["attacker"] == attacker):
            y = -methods.index(row["method"])
            axis.plot(row["rank1_ci"], [y, y], color="#4477aa", linewidth=3, alpha=0.5, solid_capstyle="butt")
            axis.plot(row["rank1"], y, "o", color="#4477aa")
        axis.axvline(rows[0]["chance"], color="#aa3333", linestyle=":")
        axis.set_xlim(-0.03, 1.03)
        axis.set_title(attacker, fontsize=10)
        axis.set_yticks([-i for i in range(len(methods))], methods if number % 3 == 0 else [""] * len(methods))
    return _png(figure)


def _dice(rows: list[dict[str, Any]]) -> bytes:
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        if row["dice"] is not None and np.isfinite(row["dice"]):
            values[row["segmenter"], row["method"]].append(row["dice"])
    segmenters = list(dict.fromkeys(s for s, _ in values))
    figure = _figure(10, 1 + 2.2 * len(segmenters))
    for number, segmenter in enumerate(segmenters):
        axis = figure.add_subplot(len(segmenters), 1, number + 1)
        methods = [m for s, m in values if s == segmenter]
        axis.boxplot([values[segmenter, m] for m in methods], tick_labels=methods, whis=(5, 95), showfliers=True)
        axis.set_ylabel(f"{segmenter}\nDice")
    return _png(figure)


def _curves(rows: list[dict[str, Any]]) -> Iterator[tuple[str, bytes]]:
    """One picture a factor: each measure over the factor's levels."""
    measures = [
        name for name in rows[0] if name not in ("factor", "level", "n") and any(_is_number(r.get(name)) for r in rows)
    ]
    for factor in dict.fromkeys(r["factor"] for r in rows):
        own = [r for r in rows if r["factor"] == factor]
        figure = _figure(12, 2.4 * ((len(measures) + 3) // 4))
        for number, measure in enumerate(measures):
            axis = figure.add_subplot((len(measures) + 3) // 4, 4, number + 1)
            axis.plot([str(r["level"]) for r in own], [_number(r.get(measure)) for r in own], "o-", color="#4477aa")
            axis.set_title(measure.replace("_", " "), fontsize=9)
            axis.tick_params(axis="x", labelrotation=30)
        yield factor, _png(figure)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))


def _number(value: Any) -> float:
    return float(value) if _is_number(value) else float("nan")


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, max(height, 2)), dpi=90, layout="constrained")


def _png(figure: "Figure") -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    stream = BytesIO()
    FigureCanvasAgg(figure).print_png(stream, metadata={"Software": None})
    return stream.getvalue()
