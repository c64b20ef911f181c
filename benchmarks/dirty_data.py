"Dirty raw files: every mutation of faults 1-20, several times at other rows. Each must be accounted for to the row, or refused in a sentence."

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from record import record

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "faults"))
from dirty import MUTATIONS, Mutation, Outcome, base_shops, try_out


def rounds(mutation: Mutation, base: Path, seeds: range) -> list[Outcome]:
    "What became of one mutation, with other rows hit each time."
    outcomes = []
    for seed in seeds:
        with tempfile.TemporaryDirectory(prefix="dirty-") as folder:
            outcomes.append(try_out(mutation, base, Path(folder), seed))
    return outcomes


def line(mutation: Mutation, outcomes: list[Outcome]) -> str:
    "A row of the table."
    exact = sum(not one.wrong for one in outcomes)
    became = "refused" if all(one.refused for one in outcomes) else "accepted"
    wrong = next((f"  {one.wrong[0][:200]}" for one in outcomes if one.wrong), "")
    return f"{mutation.title:70} {len(outcomes):3}  {'yes' if exact == len(outcomes) else f'NO: {exact}':7} {became}{wrong}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="times each mutation is tried, each time at other rows")
    asked = parser.parse_args()
    base = base_shops(Path(tempfile.mkdtemp(prefix="shops-")))
    began, total, exact, tracebacks = time.monotonic(), 0, 0, 0
    print(f"{'fault, shop, mutation':70}   n  exact   became", flush=True)
    for mutation in MUTATIONS:
        outcomes = rounds(mutation, base, range(asked.rounds))
        print(line(mutation, outcomes), flush=True)
        total, exact = total + len(outcomes), exact + sum(not one.wrong for one in outcomes)
        tracebacks += sum(one.traceback for one in outcomes)
    shutil.rmtree(base)
    record("dirty data", f"{exact:,} of {total:,} exact, {tracebacks} tracebacks", time.monotonic() - began, "python benchmarks/dirty_data.py")
    sys.exit(exact < total)


if __name__ == "__main__":
    main()
