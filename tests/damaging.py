"Ways to damage a file and mend it again, for the tests and for the long version of them."

import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recsys.runs import Run
from recsys.store import MANIFEST

KINDS = (".parquet", ".safetensors", ".index", ".json", ".csv", ".html", MANIFEST)


def copy_of(run: Run, tmp_path: Path, kind: str) -> tuple[Path, str]:
    "A copy of an artifact that has files of this kind: its folder, and the name of the smallest of them."
    is_kind = lambda path: (path.name == MANIFEST) == (kind == MANIFEST) and path.name.endswith(kind) and path.stat().st_size > 64
    files = [(path.stat().st_size, path, folder) for folder in run.artifacts().values() for path in folder.rglob("*") if path.is_file() and is_kind(path)]
    _, path, folder = min(files)
    shutil.copytree(folder, copy := tmp_path / "runs" / ".store" / folder.parent.name / folder.name)
    return copy, path.relative_to(folder).as_posix()


@contextmanager
def replaced(path: Path, data: bytes) -> Iterator[None]:
    "Another content for a while."
    before = path.read_bytes()
    path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(before)


def truncations(path: Path, n: int) -> Iterator[tuple[str, object]]:
    "n lengths the file may be cut to, among them nothing and all but the last byte."
    data = path.read_bytes()
    for length in sorted({0, len(data) - 1, *(len(data) * part // n for part in range(1, n - 1))}):
        yield f"cut to {length} bytes", replaced(path, data[:length])


def flips(path: Path, n: int, seed: int = 30) -> Iterator[tuple[str, object]]:
    "n single bits flipped, each for itself."
    data, dice = path.read_bytes(), random.Random(seed)
    for _ in range(n):
        place, bit = dice.randrange(len(data)), dice.randrange(8)
        changed = bytearray(data)
        changed[place] ^= 1 << bit
        yield f"bit {bit} of byte {place}", replaced(path, bytes(changed))
