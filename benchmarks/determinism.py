"The same inputs, parameters and seed give the same bytes: again, with other numbers of threads, and from shuffled raw files."

import random
import shutil
import time
from pathlib import Path

from clean_run import ROOT, different, finish_tiny, hashes, run_tiny, scratch
from record import record

SHUFFLED = ("hm_raw/transactions_train.csv", "hm_raw/articles.csv", "hm_raw/customers.csv", "rr_raw/events.csv", "rr_raw/item_properties_part1.csv",
            "rr_raw/item_properties_part2.csv", "rr_raw/category_tree.csv")  # fmt: skip


def shuffle(folder: Path, seed: int = 7) -> None:
    "Put the lines of the raw files into another order."
    for name in SHUFFLED:
        header, *lines = (folder / name).read_text(encoding="utf-8").splitlines(keepends=True)
        random.Random(seed).shuffle(lines)
        (folder / name).write_text(header + "".join(lines), encoding="utf-8")


def main() -> None:
    began, base = time.monotonic(), scratch()
    run_tiny(base / "draw", "--only", "events").communicate()  # draws the shop where it is absent
    shutil.copytree(ROOT / "data" / "tiny", raw := base / "raw")
    words = ("--set", f"hm_raw={raw / 'hm_raw'}", "--set", f"rr_raw={raw / 'rr_raw'}")
    clean = hashes(finish_tiny(base / "clean", *words))
    ways = {"again": {}, "1 thread": {"OMP_NUM_THREADS": "1"}, "4 threads": {"OMP_NUM_THREADS": "4"}}
    found = {name: different(clean, hashes(finish_tiny(base / name.replace(" ", "-"), *words, **env))) for name, env in ways.items()}
    shuffle(raw)
    found["shuffled input"] = different(clean, hashes(finish_tiny(base / "shuffled", *words)))
    for name, files in found.items():
        print(f"{name:16} {'same' if not files else 'different: ' + ', '.join(files)}")
    n = sum(len(files) for files in clean.values())
    text = f"{n} files of {len(clean)} artifacts; different: " + ", ".join(f"{name} {len(files)}" for name, files in found.items())
    record("determinism", text, time.monotonic() - began, "python benchmarks/determinism.py")
    shutil.rmtree(base)


if __name__ == "__main__":
    main()
