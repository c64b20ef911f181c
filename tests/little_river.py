"A river of three small steps that add up, for the tests of who runs it."

import nbformat

from recsys import runner
from recsys.runner import Step, run_river
from recsys.settings import Settings

STEPS = (Step("one", "01_one", module="recsys.errors"), Step("two", "02_two", ("one",), module="recsys.errors"),
         Step("three", "03_three", ("one", "two"), module="recsys.errors"))  # fmt: skip
PARAMETERS = 'inputs = {}\nout_dir = ""\nseed = 1'
ADD = "import pathlib; n = sum(int(pathlib.Path(f, 'n.txt').read_text()) for f in inputs.values()) + seed"
KEEP = "pathlib.Path(out_dir, 'n.txt').write_text(str(n)); summary = {'n': n}"


def notebook(*cells: str) -> nbformat.NotebookNode:
    "A pipeline notebook; the first cell holds the parameters."
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    made.cells[0].metadata["tags"] = ["parameters"]
    return made


def write_step(folder, name: str, *more: str, before: str = "") -> None:
    "The notebook of a step that adds, with code before it and cells after it."
    nbformat.write(notebook(PARAMETERS, *([before] if before else []), ADD, KEEP, *more), folder / f"{name}.ipynb")


def lay(folder) -> None:
    "Write the three notebooks and let the runner run them instead of its own."
    folder.mkdir(exist_ok=True)
    for step in STEPS:
        if not (folder / f"{step.notebook}.ipynb").exists():
            write_step(folder, step.notebook)
    runner.notebooks_dir, runner.RIVER, runner.STEPS = lambda: folder, STEPS, {step.name: step for step in STEPS}


def go(tmp_path, seed=1, timeout=0.0, **options):
    "Run it."
    return run_river("mine", Settings(datasets=["shop"], runs_dir=tmp_path / "runs", seed=seed, step_timeout_minutes=timeout), **options)


def statuses(run) -> list[str]:
    "What became of each step."
    return [step["status"] for step in run.record["steps"]]
