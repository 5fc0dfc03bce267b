"""A picture as the page shows it: small, JPEG, and without what the camera wrote into it (place, date, owner)."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

LONGEST = 480  # pixels
QUALITY = 82


@dataclass(frozen=True)
class Picture:
    """data: a data URI, "" where there is nothing to show, and then `problem` says why. width, height: of the
    thumbnail. size: of the file, as text. sha256: of the file's bytes."""

    name: str
    data: str = ""
    width: int = 0
    height: int = 0
    size: str = ""
    sha256: str = ""
    problem: str = ""


def read_pictures(paths: Iterable[Path]) -> dict[str, Picture]:
    """By file name, in order."""
    return {path.name: read_picture(path) for path in paths}


def read_picture(path: Path) -> Picture:
    """Never raises for a file that is missing or no picture: a report is written about those too."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return Picture(path.name, problem=f"No picture: it cannot be read: {error.strerror or error}.")
    digest = hashlib.sha256(content).hexdigest()
    try:
        from PIL import Image
    except ModuleNotFoundError:
        return Picture(path.name, sha256=digest, problem="No picture: Pillow is not installed, so it cannot be shown.")
    try:
        with Image.open(io.BytesIO(content)) as picture:
            size = f"{picture.width} × {picture.height}"
            picture.draft("RGB", (2 * LONGEST, 2 * LONGEST))  # a large JPEG need not be decoded whole
            # The model does not turn a picture as its EXIF says, nor blend transparency: this is what it saw.
            small = picture.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return Picture(path.name, sha256=digest, problem=f"No picture: it cannot be shown: {error}.")
    small.thumbnail((LONGEST, LONGEST))
    small.info.clear()  # Pillow would carry an ICC profile or a comment on
    target = io.BytesIO()
    small.save(target, "JPEG", quality=QUALITY, optimize=True)
    data = f"data:image/jpeg;base64,{base64.b64encode(target.getvalue()).decode('ascii')}"
    return Picture(path.name, data, small.width, small.height, size, digest)
