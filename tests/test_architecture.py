"The house stands as ARCHITECTURE.md says: floors look down, notebooks and modules agree, light things stay light."

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections import Counter
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT

NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
MODULES = sorted(p for p in (ROOT / "recsys").rglob("*.py") if p.name not in ("__init__.py", "_modidx.py"))


def exported_to(notebook: Path) -> str | None:
    "The module a notebook exports, or None."
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type == "code" and (found := re.search(r"^#\|\s*default_exp\s+(\S+)", cell.source, re.M)):
            return found[1]
    return None


EXPORTS = {notebook: module for notebook in NOTEBOOKS if (module := exported_to(notebook))}
PIPELINE_FLOOR = 94  # above serving (15 makes the bundle), below the command line


def floor(notebook: Path) -> int:
    "The number in front of a library notebook; the pipeline lives on one floor, but for 04, which knows nothing of ours."
    if notebook.parent.name == "pipeline":
        return 60 if EXPORTS[notebook] == "scorers.als_fit" else PIPELINE_FLOOR
    return int(notebook.name.split("_")[0])


FLOORS = {module: floor(notebook) for notebook, module in EXPORTS.items()}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT / "recsys").with_suffix("").parts)


def imports(path: Path) -> set[str]:
    "Modules of ours that a module imports, anywhere in it."
    package = ["recsys", *path.relative_to(ROOT / "recsys").parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            names = [*base, *(node.module or "").split(".")] if node.level else (node.module or "").split(".")
            if names[0] == "recsys":
                found |= {".".join(names[1:]), *(".".join([*names[1:], alias.name]).strip(".") for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("recsys.") for alias in node.names if alias.name.startswith("recsys.")}
    return found & set(FLOORS)


def test_every_module_has_one_notebook_and_every_notebook_its_module():
    doubled = [module for module, n in Counter(EXPORTS.values()).items() if n > 1]
    assert not doubled, f"exported by two notebooks: {doubled}"
    assert {module_of(path) for path in MODULES} == set(EXPORTS.values())


def test_file_name_is_number_and_module():
    wrong = [n.name for n, module in EXPORTS.items() if n.parent.name != "pipeline" and n.stem.split("_", 1)[1] != module]
    assert not wrong


@pytest.mark.parametrize("path", MODULES, ids=module_of)
def test_a_room_knows_only_rooms_below(path):
    mine = FLOORS[module_of(path)]
    above = {name: FLOORS[name] for name in imports(path) if FLOORS[name] >= mine and name != module_of(path)}
    assert not above, f"floor {mine} looks up to {above}"


def test_import_linter_agrees():
    done = subprocess.run([str(Path(sys.executable).parent / "lint-imports")], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_ruff_is_clean():
    done = subprocess.run([str(Path(sys.executable).parent / "ruff"), "check"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]


SHOP_NAMES = {p.stem for p in (ROOT / "recsys" / "datasets").glob("*.py")} - {"__init__", "base", "sample", "table", "check"}


@pytest.mark.parametrize("path", [p for p in MODULES if p.parent.name != "datasets"], ids=module_of)
def test_a_shops_name_is_quoted_only_among_the_shops(path):
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
    quoted = [token.string for token in tokens if token.type == tokenize.STRING and token.string.strip("rbfu\"'") in SHOP_NAMES]
    assert not quoted


def test_importing_the_package_is_light():
    heavy = ["torch", "faiss", "pyspark", "open_clip", "gradio", "pandas"]
    code = f"import sys, recsys, recsys.cli, recsys.settings; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_a_service_starts_light():
    heavy = ["torch", "ibis", "duckdb", "pyspark", "open_clip", "gradio", "matplotlib", "lightgbm", "optuna"]
    code = f"import sys, recsys.api.main, recsys.serving.engine; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_export_is_in_sync_and_notebooks_are_clean(tmp_path):
    """Export and clean a copy: nothing may change."""
    for name in ("nbs", "recsys", "pyproject.toml", "README.md", "LICENSE"):
        subprocess.run(["cp", "-r", str(ROOT / name), str(tmp_path / name)], check=True)
    before = {p.relative_to(tmp_path): p.read_bytes() for p in _files(tmp_path)}
    for command in ("nbdev-export", "nbdev-clean"):
        subprocess.run([str(Path(sys.executable).parent / command)], cwd=tmp_path, check=True, capture_output=True)
    after = {p.relative_to(tmp_path): p.read_bytes() for p in _files(tmp_path)}
    changed = sorted(str(name) for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    assert not changed, f"run nbdev-export and nbdev-clean, then commit: {changed}"


def test_the_readme_is_made_from_the_index_notebook():
    from nbconvert import MarkdownExporter

    made, _ = MarkdownExporter().from_filename(str(ROOT / "nbs" / "index.ipynb"))
    assert (ROOT / "README.md").read_text().strip() == made.replace("(images/", "(nbs/images/").strip(), "run `make export`"
    for picture in re.findall(r"\((nbs/images/[^)]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / picture).exists(), picture


def _files(folder: Path) -> list[Path]:
    return [p for name in ("nbs", "recsys") for p in (folder / name).rglob("*") if p.suffix in (".py", ".ipynb") and ".ipynb_checkpoints" not in p.parts]


def test_wheel_holds_every_package():
    import tomllib

    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    assert listed == ["recsys*"], "`recsys` alone leaves sub-packages out of the wheel"
    assert all((folder / "__init__.py").exists() for folder in {p.parent for p in MODULES})


def test_no_machine_and_no_credential_in_the_repository():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    bad = []
    for name in filter(None, listed):
        path = ROOT / name
        if path.suffix in (".jpg", ".png", ".parquet") or not path.is_file() or path == Path(__file__):
            continue
        text = path.read_text(encoding="utf-8", errors="ignore")
        bad += [f"{name}: {found[0]}" for found in re.finditer(r"(/home/\w+/|/root/|/work/main|/tmp/tmp\w+|BEGIN [A-Z ]*PRIVATE KEY|AKIA[0-9A-Z]{16})", text)]
    assert not bad
