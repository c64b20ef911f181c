"Where figures are written down: a table in benchmarks/README.md, one row for each figure, with the machine and the day."

import datetime
import os
import platform
import re
from pathlib import Path

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
