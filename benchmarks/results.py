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

from verification.markdown import insert  # noqa: E402

FOLDER = PROJECT / "benchmarks" / "results"
HEADS = {
    "README.md": ("What", "Median", "Min to max", "Goal", "Measured on"),
    "README.zh.md": ("内容", "中位数", "最小至最大", "目标", "测量环境"),
}


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
        return f"{statistics.mean(row['values']):.3g} {row['unit']} (mean)"
    return f"{statistics.median(row['values']):.3g} {row['unit']}"


def table(head: tuple[str, ...]) -> str:
    """All results as one Markdown table."""
    lines = [f"| {' | '.join(head)} |", "|---|---|---|---|---|"]
    for file in sorted(FOLDER.glob("*.json")):
        result = json.loads(file.read_text(encoding="utf-8"))
        if "rows" not in result:  # the history of rebases has a table of its own
            continue
        where = ", ".join(f"{key} {value}" if key != "device" else value for key, value in result["machine"].items())
        for row in result["rows"]:
            values, unit = row["values"], row["unit"]
            if not values:  # a goal that nothing was measured for
                lines.append(f"| {row['what']} (`{result['script']}`) | — | — | {row['goal']} | {where} |")
                continue
            if "source" in row:  # somebody else's figure
                lines.append(f"| {row['what']} | {values[0]:.4g} {unit} | — | {row['goal']} | {row['source']} |")
                continue
            what = f"{row['what']} (`{result['script']}`)"
            spread = f"{min(values):.3g} to {max(values):.3g}, {len(values)} runs" if len(values) > 1 else "1 run"
            lines.append(f"| {what} | {middle(row)} | {spread} | {row['goal']} | {where} |")
    return "\n".join(lines)


def history() -> str:
    """The table of benchmarks/rebase_history.py."""
    result = json.loads((FOLDER / "rebase_history.json").read_text(encoding="utf-8"))
    rows = [result["head"], ["---"] * len(result["head"]), *result["table"]]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    for readme, columns in HEADS.items():
        insert(PROJECT / readme, "benchmarks", table(columns))
        insert(PROJECT / readme, "history", history())
