"""Results of an evaluation as files: results.json, tables as CSV, and a page."""

import csv
import json
import os
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from cpmae.errors import OutputError
from cpmae.evaluation.page import page
from cpmae.evaluation.results import Results


def write(results: Results, out: Path) -> None:
    """Write results.json, a CSV a table, and report.html; each whole or not at all.

    Raises:
        OutputError: the folder cannot be written to.
    """
    tables = {"rows": results.rows, "details": results.details} | results.tables
    files = {"results.json": json.dumps(results.to_json(), indent=1) + "\n", "report.html": page(results)}
    files |= {f"{name}.csv": _csv(rows) for name, rows in tables.items() if rows}
    files["failures.csv"] = _csv([vars(f) for f in results.failures], ["scan", "step", "reason"])
    for name, text in files.items():
        partial = out / f".{name}.partial"
        try:
            partial.write_text(text, encoding="utf-8")
            os.replace(partial, out / name)
        except OSError as error:
            raise OutputError(f"{out / name} cannot be written ({error.strerror}), choose another folder") from error


def _csv(rows: Sequence[dict[str, Any]], names: Sequence[str] = ()) -> str:
    stream = StringIO()
    names = names or list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(stream, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
