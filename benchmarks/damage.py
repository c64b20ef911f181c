"Damage to artifacts: every kind of file cut, bits flipped, swapped with another run's. All of it has to be refused before use."

import argparse
import shutil
import sys
import time
from pathlib import Path

from clean_run import ROOT, finish_tiny, scratch
from record import record

sys.path.insert(0, str(ROOT / "tests"))
from damaging import KINDS, copy_of, flips, replaced, truncations

from recsys.errors import ArtifactError
from recsys.runs import Run
from recsys.store import MANIFEST, verify


def refused(folder: Path, name: str) -> bool:
    "Whether it is refused, with the file's name and the remedy."
    try:
        verify(folder)
    except ArtifactError as problem:
        return Path(name).name in str(problem) and "--from" in str(problem)
    return False


def swaps(ours: Run, theirs: Run, base: Path) -> tuple[int, int]:
    "Every file of every artifact exchanged for the other run's, and whole artifacts; (refused, tried)."
    outcomes = []
    for name, folder in ours.artifacts().items():
        other = theirs.artifacts()[name]
        shutil.copytree(folder, copy := base / "runs" / ".store" / folder.parent.name / folder.name, dirs_exist_ok=True)
        for path in [path for path in copy.rglob("*") if path.is_file()]:
            twin = other / path.relative_to(copy)
            if twin.exists() and twin.read_bytes() != path.read_bytes():
                with replaced(path, twin.read_bytes()):
                    outcomes.append(refused(copy, path.name))
        if other.name != folder.name:
            shutil.rmtree(copy)
            shutil.copytree(other, copy)
            outcomes.append(refused(copy, MANIFEST))
    return sum(outcomes), len(outcomes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--truncations", type=int, default=64)
    parser.add_argument("--flips", type=int, default=1000)
    asked = parser.parse_args()
    runs_dir, base = scratch(), scratch()
    run, other = finish_tiny(runs_dir), finish_tiny(runs_dir, "--set", "seed=8")
    began, total, good = time.monotonic(), 0, 0
    for kind in KINDS:
        copy, name = copy_of(run, base / kind, kind)
        outcomes = []
        for _, damage in [*truncations(copy / name, asked.truncations), *flips(copy / name, asked.flips)]:
            with damage:
                outcomes.append(refused(copy, name))
        verify(copy)
        print(f"{kind:14} {copy.parent.name}/{name}: {sum(outcomes):,} of {len(outcomes):,} refused", flush=True)
        total, good = total + len(outcomes), good + sum(outcomes)
    swapped, tried = swaps(run, other, base / "swaps")
    text = f"{len(KINDS)} kinds of file, each cut {asked.truncations} times and with {asked.flips:,} bits flipped: {good:,} of {total:,} refused"
    text += f"; swapped files and artifacts: {swapped} of {tried} refused"
    record("damaged artifacts", text, time.monotonic() - began, "python benchmarks/damage.py")
    for folder in (runs_dir, base):
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
