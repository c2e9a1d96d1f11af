"""Output of benchmarks: a table for people, JSON for programs, and the machine they ran on."""

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

FOLDER = Path(__file__).parent / "measured"


def machine() -> dict[str, Any]:
    """Describe the machine that runs this."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def keep(name: str, rows: Sequence[Mapping[str, Any]], **more: Any) -> None:
    """Write `measured/NAME.json`."""
    FOLDER.mkdir(exist_ok=True)
    found = {"machine": machine(), **more, "rows": list(rows)}
    (FOLDER / f"{name}.json").write_text(json.dumps(found, indent=2), encoding="utf-8")


def show(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, and the machine under it."""
    table = Table(*columns, box=None)
    for row in rows:
        table.add_row(*row)
    console = Console(width=120)
    console.print(table)
    console.print(", ".join(f"{name}: {value}" for name, value in machine().items()))


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Format values as median (least–most)."""
    numbers = (statistics.median(values), min(values), max(values))
    middle, least, most = (f"{number:.{digits}f}" for number in numbers)
    return f"{middle} ({least}–{most})"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "")
