"""Results of an evaluation as files: results.json, tables as CSV, and a page."""

import csv
import json
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from cpmae.evaluation.page import page
from cpmae.evaluation.results import Results
from cpmae.io.output import whole_file


def write(results: Results, out: Path) -> None:
    """Write results.json, a CSV a table, and report.html; each whole or not at all.

    Raises:
        OutputError: one of them cannot be written.
    """
    tables = {"rows": results.rows, "details": results.details} | results.tables
    files = {"results.json": json.dumps(results.to_json(), indent=1) + "\n", "report.html": page(results)}
    files |= {f"{name}.csv": _csv(rows) for name, rows in tables.items() if rows}
    files["failures.csv"] = _csv([vars(f) for f in results.failures], ["scan", "step", "reason"])
    for name, text in files.items():
        with whole_file(out / name) as file:
            file.write(text.encode())


def _csv(rows: Sequence[dict[str, Any]], names: Sequence[str] = ()) -> str:
    stream = StringIO()
    names = names or list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(stream, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
