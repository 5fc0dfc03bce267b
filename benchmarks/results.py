"""Where benchmarks keep their results, and the table that both READMEs show of them.

    python benchmarks/results.py        # rewrites the tables

A result is a JSON file: rows of {what, unit, goal, values} and the machine they were measured on. A row without values
is a goal that could not be measured; one with a source is a published figure; with "shown": "mean" its figure is
the mean, else the median.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import sys
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

from verification.markdown import insert

FOLDER = PROJECT / "benchmarks" / "results"
HEADS = {
    "README.md": ("What", "Median", "Min to max", "Goal"),
    "README.zh.md": ("内容", "中位数", "最小至最大", "目标"),
}
ALL_SHOWN = 12  # rows: of a longer result the READMEs show those that have a goal or a source


def machine() -> dict[str, str]:
    """What a reader needs to know about this machine; no names, no paths."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    return {
        "date": datetime.date.today().isoformat(),
        "device": f"{os.cpu_count()} cores of {names[0] if names else platform.machine()}",
        "python": platform.python_version(),
    }


def write(name: str, rows: list[dict[str, Any]], where: dict[str, str], script: str | None = None, **more: Any) -> None:
    """Keep the result as benchmarks/results/NAME.json and show it. script: its name, where it is not NAME."""
    FOLDER.mkdir(exist_ok=True)
    result = {"script": f"benchmarks/{script or name}.py", "machine": where, "rows": rows, **more}
    (FOLDER / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for row in rows:
        if row["values"]:
            print(f"{row['what']}: {middle(row)} of {len(row['values'])}")


def middle(row: dict[str, Any]) -> str:
    """The one figure of a row: the median, or the mean where the row says that it is what the goal is about."""
    if row.get("shown") == "mean":
        return f"{_figure(statistics.mean(row['values']))} {row['unit']} (mean)"
    return f"{_figure(statistics.median(row['values']))} {row['unit']}"


def _figure(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def tables(head: tuple[str, ...]) -> str:
    """All results: for each a line that says where it was measured, and a Markdown table."""
    parts = []
    for file in sorted(FOLDER.glob("*.json")):
        result = json.loads(file.read_text(encoding="utf-8"))
        if "rows" not in result:  # the history of rebases has a table of its own
            continue
        where = ", ".join(f"{key} {value}" if key != "device" else value for key, value in result["machine"].items())
        rows = result["rows"]
        if len(rows) > ALL_SHOWN:
            rows = [row for row in rows if row["goal"] or "source" in row]
        lines = [f"[{result['script']}]({result['script']}), {where}; [all rows](benchmarks/results/{file.name}):", ""]
        lines += [f"| {' | '.join(head)} |", "|---|---|---|---|", *map(_line, rows)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _line(row: dict[str, Any]) -> str:
    values, goal = row["values"], row["goal"]
    if not values:  # a goal that nothing was measured for
        return f"| {row['what']} | — | — | {goal} |"
    if "source" in row:  # somebody else's figure
        return f"| {row['what']} | {values[0]:.4g} {row['unit']} | {row['source']} | {goal} |"
    low, high = _figure(min(values)), _figure(max(values))
    spread = f"{low} to {high}, {len(values)} runs" if len(values) > 1 else "1 run"
    return f"| {row['what']} | {middle(row)} | {spread} | {goal} |"


def history() -> str:
    """The table of benchmarks/rebase_history.py."""
    result = json.loads((FOLDER / "rebase_history.json").read_text(encoding="utf-8"))
    rows = [result["head"], ["---"] * len(result["head"]), *result["table"]]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    for readme, columns in HEADS.items():
        insert(PROJECT / readme, "benchmarks", tables(columns))
        insert(PROJECT / readme, "history", history())
