"""Imports go one way, from the top of this list to its bottom; and importing the package is cheap."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "cpmae"
LEVELS = [
    {"__main__", "cli", "cli_train", "cli_bids", "cli_evaluate", "cli_options", "cli_status", "cli_verify"},
    {"training", "evaluation", "bids", "progress"},
    {"batch"},
    {"files", "study", "study_output", "verify_study"},
    {"pipeline", "pipeline_run"},
    {"lending", "account", "drawn_head"},
    {"brain_search"},
    {"verify", "verify_run", "report"},
    {"compare"},
    {
        *{"io", "brain", "canonical", "registration", "region", "sampling", "generate", "compose"},
        *{"faces", "draws", "thicken", "in_view"},
        *{
            "metadata",
            "metadata_dicom",
            "metadata_dicom_tags",
            "metadata_dicom_text",
            "metadata_json",
            "metadata_tsv",
            "shared_mask",
            "detail",
            "brightness",
        },
    },
    {"models"},
    {
        "volume",
        "errors",
        "extras",
        "options",
        "stopping",
        "subject_key",
        "depth",
        "tool",
        "overlay",
        "motion",
        "leased",
    },
    {"sequence"},
]
LEVEL = {name: number for number, names in enumerate(LEVELS) for name in names}
FILES = sorted(SOURCE.rglob("*.py"))


def module_of(path: Path) -> str:
    parts = ("cpmae", *path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def imports(path: Path) -> set[str]:
    """Absolute names of all that a file imports, in functions too."""
    module, found = module_of(path), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
            found |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base for alias in node.names}
    return found


def part(module: str) -> str:
    """`io` of `cpmae.io.nifti`; empty for the package itself."""
    return (module.split(".") + [""])[1]


GRAPH = {module: {m for m in imports(path) if m in MODULES and m != module} for module, path in MODULES.items()}


def test_every_module_has_a_level() -> None:
    unknown = {part(m) for m in MODULES if part(m)} - set(LEVEL) - {"weights"}
    assert not unknown, f"say in LEVELS where {unknown} belong"


def test_no_arrow_points_up() -> None:
    arrows = [(a, b) for a, targets in GRAPH.items() for b in targets if part(a) in LEVEL and part(b) in LEVEL]
    assert arrows
    up = [f"{a} -> {b}" for a, b in arrows if LEVEL[part(a)] > LEVEL[part(b)]]
    assert not up, up


def test_only_the_top_imports_the_package_itself() -> None:
    low = [m for m, targets in GRAPH.items() if "cpmae" in targets and LEVEL.get(part(m), 9) > LEVEL["account"]]
    assert not low, low


def test_no_cycle() -> None:
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module not in done:
            for target in GRAPH[module] - {"cpmae"}:  # the package's __init__ holds lazy names of all the others
                visit(target, (*trail, module))
            done.add(module)

    for module in GRAPH:
        visit(module, ())


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [("models", {"nibabel", "pydicom"}), ("io", {"torch"}), ("verify", {"torch"}), ("compare", {"torch"})],
)
def test_forbidden_packages(folder: str, forbidden: set[str]) -> None:
    found = {m: imports(p) for m, p in MODULES.items() if part(m) == folder}
    assert found
    wrong = {m: names for m, names in found.items() if {n.split(".")[0] for n in names} & forbidden}
    assert not wrong


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("cpmae", ["torch", "matplotlib", "nibabel", "deepbet"]),
        ("cpmae.io.nifti", ["torch", "matplotlib"]),
        ("cpmae.brain", ["torch", "deepbet", "pandas"]),
        ("cpmae.verify", ["torch", "matplotlib"]),
        ("cpmae.batch.local", ["torch", "numpy", "nibabel", "distributed"]),
        ("cpmae.bids.app", ["torch", "matplotlib", "distributed"]),
    ],
)
def test_import_is_lazy(module: str, absent: list[str]) -> None:
    code = f"import sys, {module}; print([m for m in {absent} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
