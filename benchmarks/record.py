"What is measured apart, shown beside its peer, and written down: a table in benchmarks/README.md, one row for each figure."

import datetime
import multiprocessing
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

README = Path(__file__).with_name("README.md")


def machine() -> str:
    "What the figures were measured on."
    import psutil

    about = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"^model name\s*: (.*)$", about, re.M)
    memory = f"{psutil.virtual_memory().total / 2**30:.0f} GiB"
    return f"{os.cpu_count()} cores ({model[1] if model else platform.machine()}), {memory}, {platform.system()}, Python {platform.python_version()}"


def record(figure: str, measured: str, seconds: float, command: str) -> None:
    "Print a figure, and write it into its row of the table."
    print(f"{figure}: {measured} ({seconds:.0f} s)")
    row = f"| {figure} | {measured} | {seconds:.0f} s | `{command}` | {datetime.date.today()} | {machine()} |"
    text = README.read_text(encoding="utf-8")
    old = re.search(rf"^\| {re.escape(figure)} \|.*$", text, re.M)
    README.write_text(text.replace(old[0], row) if old else text.rstrip("\n") + f"\n{row}\n", encoding="utf-8")


class Timed(NamedTuple):
    "What a piece of work cost, and what it said."

    seconds: float
    peak: int  # bytes, of its own process
    said: object


def apart(work: Callable, *args) -> Timed:
    "Do a piece of work in a fresh process, so that its memory is its own."
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_told, args=(there, work, args))
    process.start()
    there.close()
    try:
        found = here.recv()
    except EOFError:
        raise SystemExit(f"{work.__name__} ended without an answer, see above") from None
    process.join()
    return found


def _told(into, work: Callable, args: Sequence) -> None:
    started = time.perf_counter()
    said = work(*args)
    seconds = time.perf_counter() - started
    into.send(Timed(seconds, peak_memory(), said))


def peak_memory() -> int:
    "Bytes this process held at most so far."
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would count what the parent held
        return int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def show_ratios(title: str, rows: Sequence[tuple[str, Timed]], peer: str) -> None:
    "Seconds and memory of each row, and how they stand to the peer's."
    from rich.console import Console
    from rich.table import Table

    table, against = Table(title=title, box=None), dict(rows)[peer]
    for name in ("", "seconds", "x peer", "peak GiB", "x peer"):
        table.add_column(name, justify="right" if name else "left")
    for name, one in rows:
        table.add_row(name, f"{one.seconds:.1f}", f"{one.seconds / against.seconds:.2f}", f"{one.peak / 2**30:.2f}", f"{one.peak / against.peak:.2f}")
    Console(width=140).print(table)


CACHE = Path(os.environ.get("RECSYS_BENCH_CACHE") or Path.home() / ".cache" / "recsys-benchmarks")  # what is made once for all measurements
PATIENCE = 900  # seconds for an environment


def environment(package: str, cache: Path = CACHE) -> Path | str:
    "The python of a library's own environment, made where there is none yet; or why there is none."
    home = cache / re.split("[<>=]", package)[0]
    python = home / "bin" / "python"
    if not (done := home / ".installed").exists():
        for command in ([sys.executable, "-m", "venv", home], [python, "-m", "pip", "install", "--quiet", package]):
            try:
                tried = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                return f"no environment for {package}: not ready in {PATIENCE} s"
            if tried.returncode:
                return f"no environment for {package}: {(tried.stderr.strip() or 'it failed').splitlines()[-1][:120]}"
        done.touch()
    return python
