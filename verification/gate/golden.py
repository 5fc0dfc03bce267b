"""What one side computed for some pictures and questions, as one .npz file without pickles.

A *golden* is what the float32 reference computed (record.py); a *taking* is what a port on a device computed for that
golden (take.py), and is what `verify.py --bundle` writes. Neither holds a path, a name or a picture: pictures are known
by the sha256 of their files. The same content gives the same bytes on every machine, whatever its NumPy and zlib:
nothing is compressed, and load() refuses a file that is not byte for byte what save() writes. Its facts and arrays are
checked one by one (checked.py), so that a damaged or hostile file ends there and not in the judge.

Arrays; p counts the pictures, q the questions, n the tokens, K and B are sketch.TOP and sketch.BUCKETS:

    features.p   (257, 64)   float32  ViT-g and ln_vision, sketched (sketch.py)
    queries.p    (32, hidden) float32 Q-Former; absent without one
    embeddings.p (N, llama)  float32  what the language model is given for the picture
    prompt.p.q   (T, 64)     float32  the whole prompt, sketched
    ids.p.q      (n,)        int32    greedy text; margins.p.q (n,) float32: first logit less the second, golden only
    top.p.q      (n, K)      int32    the likeliest tokens at each position, golden only
    logits.p.q   (n, K + B)  float32  log-probabilities along the golden's ids, all positions at once (sketch.py)

A taking also has decode.p.q as logits.p.q, but token by token through generate; best.logits.p.q and best.decode.p.q
(n,) int32, the token that it prefers there; again.p.q, the ids of a second greedy run; and again.embeddings, those of
the first picture, encoded once more after the others.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import io
import json
import os
import re
import stat
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from overlaykit.errors import FixTheCommand
from verification.gate.checked import check_recording
from verification.gate.rules import Unusable

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = 2
GOLDEN, TAKING = "golden", "taking"
MADE_BY = {GOLDEN: "verify.py record", TAKING: "verify.py --bundle"}
ABOUT = "about"  # the entry that holds the JSON
MOST_BYTES = 1 << 28  # far more than any golden has
MOST_FACTS = 1 << 24
NPY = b"\x93NUMPY\x01\x00"  # version 1.0 of NumPy's format; NumPy itself pads its headers differently by version
HEADER = re.compile(r"\{'descr': '(<f4|<i4|\|u1)', 'fortran_order': False, 'shape': (\([\d, ]*\)), \} *\n")


@dataclass(frozen=True)
class Recording:
    """about: JSON facts (see record.py and take.py); arrays: by the names above."""

    about: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]

    @property
    def digest(self) -> str:
        """sha256 of the file; a taking names by it the golden that it was taken for."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def to_bytes(self) -> bytes:
        import numpy

        text = json.dumps(self.about, sort_keys=True, ensure_ascii=False).encode()
        entries = {ABOUT: numpy.frombuffer(text, dtype=numpy.uint8), **dict(sorted(self.arrays.items()))}
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
            for name, array in entries.items():
                entry = zipfile.ZipInfo(f"{name}.npy")  # dated 1980
                entry.create_system = 3  # Unix, also where it is not
                archive.writestr(entry, _to_npy(array))
        return packed.getvalue()

    def save(self, path: Path) -> None:
        """Atomically: under its name there is the old file or the whole new one. Raises FixTheCommand."""
        with _written(path):
            draft = tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False)  # noqa: SIM115
            try:
                with draft:
                    draft.write(self.to_bytes())
                    draft.flush()
                    os.fsync(draft.fileno())
                os.chmod(draft.name, 0o644)
                os.replace(draft.name, path)
            except BaseException:
                Path(draft.name).unlink(missing_ok=True)
                raise


def prepare(path: Path) -> None:
    """Make the folder and try to write there: what cannot be written is told before the long work, not after it."""
    if path.is_dir():
        raise FixTheCommand(f"{path} is a folder.", "A file is written.", "Name a file in it.")
    with _written(path), tempfile.TemporaryFile(dir=path.parent):
        pass


@contextlib.contextmanager
def _written(path: Path) -> Iterator[None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise FixTheCommand(f"{path} cannot be written.", str(error), "Name a file elsewhere, or make room.") from error


def load(path: Path, kind: str) -> Recording:
    """Read a golden or a taking; a file that is neither is refused and nothing in it is executed."""
    made_by = MADE_BY[kind]
    try:
        content = _content(path)
    except FileNotFoundError:
        raise FixTheCommand(f"{path} does not exist.", f"A {kind} is written by {made_by}.") from None
    except OSError as error:
        raise FixTheCommand(f"{path} cannot be read.", str(error), "Name a file that you may read.") from error
    try:
        recording = _parsed(content)
    except Exception as error:  # zipfile and json raise whatever a damaged file leads them to
        raise FixTheCommand(
            f"{path} cannot be read as a {kind}.",
            f"It is damaged or something else ({type(error).__name__}: {error}).",
            f"Copy it again from where it was made; a {kind} is written by {made_by}.",
        ) from error
    about = recording.about
    if about.get("kind") != kind:
        raise FixTheCommand(
            f"{path} is a {about.get('kind')!r:.40} and no {kind}.", f"A {kind} is written by {made_by}."
        )
    if about.get("format") != FORMAT:
        raise FixTheCommand(
            f"{path} has format {about.get('format')!r:.40}; this verify.py reads format {FORMAT}.",
            f"Write it again with {made_by} of this release, or use the release that it was made with.",
        )
    try:
        check_recording(about, recording.arrays)
    except Unusable as error:
        raise FixTheCommand(
            f"{path} is no usable {kind}.", str(error), f"Write it again with {made_by} of this release."
        ) from error
    return recording


def _content(path: Path) -> bytes:
    """No device and no pipe is read, which might never end."""
    with open(path, "rb", opener=_no_waiting) as file:
        state = os.fstat(file.fileno())
        if not stat.S_ISREG(state.st_mode):
            raise OSError("It is no regular file.")
        if state.st_size > MOST_BYTES:
            raise OSError(f"It has {state.st_size:,} bytes; at most {MOST_BYTES:,} are read.")
        return _all_of(file)


def _no_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _all_of(file: IO[bytes]) -> bytes:
    content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise OSError(f"It grew beyond {MOST_BYTES:,} bytes.")
    return content


def _parsed(content: bytes) -> Recording:
    """Raises anything. As nothing is compressed, no array is larger than the file."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it is compressed")
        if sum(entry.file_size for entry in entries) > len(content):
            raise ValueError("its entries overlap")
        arrays = {entry.filename[: -len(".npy")]: _from_npy(archive.read(entry)) for entry in entries}
    facts = arrays.pop(ABOUT).tobytes()
    if len(facts) > MOST_FACTS:
        raise ValueError(f"its facts have {len(facts):,} bytes")
    recording = Recording(json.loads(facts.decode("utf-8")), arrays)
    if not isinstance(recording.about, dict):
        raise ValueError("its facts are no mapping")
    if recording.to_bytes() != content:
        raise ValueError("it was not written by verify.py")
    return recording


def _to_npy(array: NDArray[Any]) -> bytes:
    import numpy

    header = f"{{'descr': {array.dtype.str!r}, 'fortran_order': False, 'shape': {array.shape}, }}"
    header += " " * (-(len(NPY) + 2 + len(header) + 1) % 64) + "\n"
    return NPY + len(header).to_bytes(2, "little") + header.encode() + numpy.ascontiguousarray(array).tobytes()


def _from_npy(content: bytes) -> NDArray[Any]:
    import numpy

    size = int.from_bytes(content[len(NPY) : len(NPY) + 2], "little")
    header = HEADER.fullmatch(content[len(NPY) + 2 : len(NPY) + 2 + size].decode("ascii"))
    if not content.startswith(NPY) or header is None:
        raise ValueError("it holds something else than arrays of float32, int32 and bytes")
    values = numpy.frombuffer(content, dtype=header[1], offset=len(NPY) + 2 + size)
    return values.reshape(ast.literal_eval(header[2])).copy()  # torch takes no array that cannot be written
