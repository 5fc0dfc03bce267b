"""The files that performance rows are written to, and the line that a person reads. Without torch."""

from __future__ import annotations

import csv
import json
import os
import stat
from pathlib import Path
from typing import Any

from .rows import Row, Timing


class Sheet:
    """The files of results: each row is on the disk once it is added, and none is made before there is a row."""

    def __init__(self, path: Path, json_path: str | None) -> None:
        self.path, self.json_path = path, json_path
        self.file: Any = None
        self.rows: list[dict[str, Any]] = []

    def __enter__(self) -> Sheet:
        return self

    def __exit__(self, *_: Any) -> None:
        if self.file is not None:
            self.file.close()

    def add(self, row: Row, detail: Timing | None) -> None:
        cells = row.cells()
        if self.file is None:
            self.file = self.path.open("w", newline="", encoding="utf-8")
            csv.writer(self.file).writerow(cells)
        csv.writer(self.file).writerow(cells.values())
        self.file.flush()
        if stat.S_ISREG(os.fstat(self.file.fileno()).st_mode):  # a pipe or a terminal is not on a disk
            os.fsync(self.file.fileno())
        repeats = [{"first": timing.first, "response": timing.response} for timing in row.timings]
        self.rows.append({**cells, "seconds": repeats})
        if detail is not None:
            self.rows[-1]["token_seconds"] = list(detail.tokens)
        if self.json_path:
            write_whole(Path(self.json_path), json.dumps(self.rows, indent=2, ensure_ascii=False) + "\n")


def write_whole(path: Path, text: str) -> None:
    """All of `text`, or what was there before; a device or a pipe stays one, and a link a link."""
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
        return
    path = path.resolve()
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def line(row: Row) -> str:
    """One row for a person."""
    cells = row.cells()
    return (
        f"batch {row.batch}, {row.input} in, {row.output} out: response {row.response * 1e3:.1f} ms, first token "
        f"{row.first * 1e3:.2f} ms ({cells['prefill(% of matmul)']:.0f} % of matmul peak), next "
        f"{row.following * 1e3:.3f} ms ({cells['decode(% of copy)']:.0f} % of copy bandwidth), "
        f"{row.batch * row.output / row.response:.2f} token/s"
        + "".join(f"\n  IMPOSSIBLE: {reason}" for reason in row.impossible())
    )
