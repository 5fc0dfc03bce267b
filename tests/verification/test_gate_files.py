"""Goldens and takings as files: the same bytes everywhere, and no file that a user can name ends in a traceback."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recordings import changed, refused, small_golden, small_taking

from overlaykit.errors import FixTheCommand
from verification.gate.golden import GOLDEN, TAKING, Recording, load, prepare

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def golden() -> Recording:
    return small_golden()


def test_what_is_saved_is_what_is_loaded(golden: Recording, tmp_path: Path) -> None:
    golden.save(tmp_path / "new" / "golden.npz")
    found = load(tmp_path / "new" / "golden.npz", GOLDEN)
    assert found.about == golden.about
    assert found.arrays.keys() == golden.arrays.keys()
    assert all((found.arrays[name] == array).all() for name, array in golden.arrays.items())
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["golden.npz"]


def test_numpy_itself_reads_it_without_pickles(golden: Recording, tmp_path: Path) -> None:
    golden.save(tmp_path / "golden.npz")
    with numpy.load(tmp_path / "golden.npz", allow_pickle=False) as found:
        assert (found["features.1"] == golden.arrays["features.1"]).all()
        assert json.loads(found["about"].tobytes()) == golden.about


def test_the_digest_is_the_sum_of_the_file(golden: Recording, tmp_path: Path) -> None:
    import hashlib

    golden.save(tmp_path / "golden.npz")
    assert hashlib.sha256((tmp_path / "golden.npz").read_bytes()).hexdigest() == golden.digest
    assert load(tmp_path / "golden.npz", GOLDEN).digest == golden.digest


def test_another_process_with_another_umask_locale_and_clock_writes_the_same_bytes(tmp_path: Path) -> None:
    small_golden().save(tmp_path / "here.npz")
    code = "import os,sys; from pathlib import Path; from recordings import small_golden; os.umask(0o077); "
    code += "small_golden().save(Path(sys.argv[1]))"
    environment = {**os.environ, "TZ": "Pacific/Kiritimati", "LC_ALL": "C", "PYTHONHASHSEED": "7"}
    environment["PYTHONPATH"] = os.pathsep.join((str(ROOT), str(Path(__file__).parent)))
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "there.npz")], env=environment, check=True)
    assert (tmp_path / "here.npz").read_bytes() == (tmp_path / "there.npz").read_bytes()
    assert (tmp_path / "there.npz").stat().st_mode & 0o777 == 0o644


def test_a_file_cut_off_anywhere_is_refused(golden: Recording, tmp_path: Path) -> None:
    content = golden.to_bytes()
    path = tmp_path / "cut.npz"
    for length in {*range(0, len(content), 997), *range(200), *range(len(content) - 300, len(content))}:
        path.write_bytes(content[:length])
        with pytest.raises(FixTheCommand, match="cannot be read as a golden"):
            load(path, GOLDEN)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**9), st.integers(0, 255), st.sampled_from(["replace", "insert", "delete"]))
def test_a_changed_byte_is_refused_or_changes_the_digest(
    golden: Recording, tmp_path: Path, where: int, value: int, how: str
) -> None:
    content = bytearray(golden.to_bytes())
    where %= len(content)
    if how == "replace":
        content[where] = value
    elif how == "insert":
        content.insert(where, value)
    else:
        del content[where]
    (tmp_path / "changed.npz").write_bytes(content)
    try:
        found = load(tmp_path / "changed.npz", GOLDEN)
    except FixTheCommand:
        return
    assert bytes(content) == golden.to_bytes() or found.digest != golden.digest


def zipped(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return packed.getvalue()


def bomb() -> bytes:
    return zipped({"about.npy": b"\0" * (1 << 26)}, zipfile.ZIP_DEFLATED)


def pickled() -> bytes:
    packed = io.BytesIO()
    numpy.savez(packed, about=numpy.array([print, {"a": 1}], dtype=object))
    return packed.getvalue()


def huge_header() -> bytes:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), } \n"
    return zipped({"about.npy": b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header})


def deep() -> bytes:
    from verification.gate.golden import _to_npy

    return zipped({"about.npy": _to_npy(numpy.frombuffer(b"[" * 100_000, dtype=numpy.uint8))})


def something_else() -> bytes:
    packed = io.BytesIO()
    numpy.savez(packed, weights=numpy.zeros(3))
    return packed.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"PK", b"no archive", pickle.dumps({"a": 1}), bomb(), pickled(), huge_header(), deep(), something_else()],
    ids=["empty", "two bytes", "text", "pickle", "bomb", "pickled", "huge header", "deep JSON", "other npz"],
)
def test_another_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "other.npz").write_bytes(content)
    with pytest.raises(FixTheCommand, match="cannot be read as a taking") as found:
        load(tmp_path / "other.npz", TAKING)
    assert "verify.py --bundle" in str(found.value)


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "loop", tmp_path / "pipe", tmp_path / "missing", Path("/dev/zero")):
        with pytest.raises(FixTheCommand, match=r"cannot be read|does not exist"):
            load(path, GOLDEN)


def test_a_file_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large.npz").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(FixTheCommand, match=r"1,099,511,627,776 bytes"):
        load(tmp_path / "large.npz", GOLDEN)


def test_a_golden_is_no_taking(golden: Recording, tmp_path: Path) -> None:
    assert "is a 'golden' and no taking" in refused(golden, tmp_path, TAKING)
    assert "is a 'taking' and no golden" in refused(small_taking(golden), tmp_path, GOLDEN)


def test_a_file_of_another_release_says_so(golden: Recording, tmp_path: Path) -> None:
    assert "has format 99; this verify.py reads format 2" in refused(changed(golden, "", format=99), tmp_path)


def test_a_place_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "golden.npz", Path("/proc/golden.npz")):
        with pytest.raises(FixTheCommand, match=r"is a folder|cannot be written"):
            prepare(path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_interrupted_save_leaves_what_was_there(golden: Recording, tmp_path: Path, monkeypatch: Any) -> None:
    golden.save(tmp_path / "golden.npz")

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        changed(golden, "", date="2027-01-01").save(tmp_path / "golden.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["golden.npz"]
    assert load(tmp_path / "golden.npz", GOLDEN).digest == golden.digest
