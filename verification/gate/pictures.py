"""Which pictures a golden is about, and how the report calls them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from overlaykit.errors import FixTheCommand
from verification.gate.golden import Recording


def in_order(golden: Recording, pictures: Sequence[Path]) -> tuple[Path, ...]:
    """The golden's pictures among `pictures`, in its order; by content, because goldens know no names."""
    by_content = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in pictures}
    wanted = [row["sha256"] for row in golden.about["pictures"]]
    missing = [digest for digest in wanted if digest not in by_content]
    if missing:
        raise FixTheCommand(
            f"{len(missing)} of the golden's {len(wanted)} pictures are not among those of --images.",
            f"The first that is missing has the sha256 {missing[0]}.",
            "Name the folder that the golden was recorded with.",
        )
    return tuple(by_content[digest] for digest in wanted)


def labels_of(pictures: Sequence[Path]) -> list[str]:
    """The start of each name; with a number before it where several start alike, for no line may hide another."""
    names = [path.stem[:18] for path in pictures]
    return [name if names.count(name) == 1 else f"{number} {name}" for number, name in enumerate(names, 1)]
