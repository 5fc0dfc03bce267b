"""The stand-in for ais_bench lets no mistake pass: what the tests of the .om path rest on.

Row by row what was seen with the real ais_bench 0.0.2. What differs between releases: test_ais_bench_releases.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from ais_bench_stand_in import STAND_INS, both_releases
from om_files import SIZE, TOKENS, WIDTH, features, write_om

GOOD = np.random.default_rng(5).standard_normal((1, 3, SIZE, SIZE), np.float32)
new_release = pytest.mark.parametrize("ais_bench", ["new"], indirect=True)
old_release = pytest.mark.parametrize("ais_bench", ["old"], indirect=True)


class Subclass(np.ndarray):
    pass


@pytest.fixture
def om(tmp_path: Path) -> Path:
    return write_om(tmp_path / "model.om")[0]


@pytest.fixture
def session(om: Path, ais_bench):
    return ais_bench.InferSession(0, str(om))


@both_releases
def test_a_good_call(om: Path, session) -> None:
    (output,) = session.infer([GOOD])
    assert np.abs(output - features(GOOD, write_om(om)[1])).max() < 1e-5
    assert (type(output), output.flags["C_CONTIGUOUS"]) == (np.ndarray, True)
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.shape, taken.datatype.name) == ("input", [1, 3, SIZE, SIZE], "float32")
    assert (given.name, given.shape) == ("output", [1, TOKENS, WIDTH])


@both_releases
@pytest.mark.parametrize("content", [None, b"", b"not a graph"])
def test_a_missing_or_bad_om(content: bytes | None, tmp_path: Path, ais_bench) -> None:
    if content is not None:
        (tmp_path / "bad.om").write_bytes(content)
    with pytest.raises(RuntimeError, match=r"\[1\]\[ACL: invalid parameter\]|is illegal"):
        ais_bench.InferSession(0, str(tmp_path / "bad.om"))


@both_releases
@pytest.mark.parametrize("number", [9, 200])
def test_a_device_that_is_not_there(number: int, om: Path, ais_bench) -> None:
    with pytest.raises(RuntimeError, match=r"\[107001\]"):
        ais_bench.InferSession(number, str(om))


@both_releases
def test_a_device_that_is_no_number(om: Path, ais_bench) -> None:
    with pytest.raises(TypeError):
        ais_bench.InferSession("0", str(om))


REFUSED = {
    "wrong byte size": [GOOD[:, :, :4]],
    "float64": [GOOD.astype(np.float64)],
    "float16": [GOOD.astype(np.float16)],
    "two pictures": [np.concatenate([GOOD, GOOD])],
    "too few inputs": [],
    "a subclass": [GOOD.view(Subclass)],
    "a list": [GOOD.tolist()],
}
CORRUPT = {
    "bits of another type": [GOOD.view(np.int32)],
    "another rank": [GOOD.reshape(3, SIZE, SIZE)],
    "another shape": [GOOD.reshape(1, 3, 4, 16)],
    "a bare array": GOOD,
}


@both_releases
@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str, session) -> None:
    with pytest.raises(RuntimeError, match=r"ACL: general failure|invalid"):
        session.infer(REFUSED[case])


@both_releases
@pytest.mark.parametrize("case", CORRUPT)
def test_what_is_read_as_something_else(case: str, ais_bench, session) -> None:
    with pytest.raises(ais_bench.WouldCorrupt):
        session.infer(CORRUPT[case])


@old_release
def test_memory_order_in_an_older_release(ais_bench, session) -> None:
    with pytest.raises(ais_bench.WouldCorrupt, match="memory order"):
        session.infer([np.asfortranarray(GOOD)])


@new_release
def test_memory_order_in_a_newer_release(session) -> None:
    assert np.array_equal(session.infer([np.asfortranarray(GOOD)])[0], session.infer([GOOD])[0])


@both_releases
def test_too_many_inputs(ais_bench, session) -> None:
    with pytest.raises(ais_bench.WouldCrash, match="2 arrays for 1 inputs are a segmentation fault"):
        session.infer([GOOD, GOOD])


@both_releases
def test_infer_after_finalize(ais_bench, session) -> None:
    import acl

    session.finalize()
    assert not acl.is_initialised()  # for torch_npu too
    with pytest.raises(ais_bench.WouldCrash, match="finalized"):
        session.infer([GOOD])


@new_release
def test_infer_after_free_resource_and_memory_released_twice(ais_bench, session) -> None:
    import aclruntime

    session.free_resource()
    assert aclruntime.loaded == []
    with pytest.raises(ais_bench.WouldCrash, match="is released"):
        session.infer([GOOD])
    with pytest.raises(ais_bench.WouldCrash, match="released again"):
        session.free_resource()


@both_releases
def test_memory_is_given_back_with_the_last_reference(om: Path, ais_bench) -> None:
    import aclruntime

    session = ais_bench.InferSession(0, str(om))
    assert aclruntime.loaded == [str(om)]
    del session
    assert aclruntime.loaded == []


@both_releases
def test_releasing_changes_the_threads_context(om: Path, ais_bench) -> None:
    import acl

    session = ais_bench.InferSession(0, str(om))
    another, _ = acl.rt.create_context(0)
    del session
    assert acl.rt.get_context() != (another, 0)


@both_releases
def test_a_call_without_the_sessions_context(session) -> None:
    """In another thread, and where another library's context has become the current one."""
    import acl

    errors: list[Exception] = []

    def call() -> None:
        try:
            session.infer([GOOD])
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert "[107002]" in str(errors[0])
    mine, _ = acl.rt.get_context()
    acl.rt.create_context(0)
    with pytest.raises(RuntimeError, match=r"\[107002\]"):
        session.infer([GOOD])
    assert acl.rt.set_context(mine) == 0
    session.infer([GOOD])


@both_releases
def test_a_context_that_is_destroyed(ais_bench, session) -> None:
    import acl

    mine, _ = acl.rt.get_context()
    assert acl.rt.destroy_context(mine) == 0
    assert acl.rt.get_context() == (0, acl.NO_CONTEXT)
    with pytest.raises(ais_bench.WouldCrash):
        acl.rt.set_context(mine)
    with pytest.raises(ais_bench.WouldCrash):
        acl.rt.destroy_context(mine)
    with pytest.raises(TypeError):
        acl.rt.set_context((mine, 0))  # get_context's pair, a common slip


@both_releases
@pytest.mark.parametrize("first", ["torch_npu", "aclruntime"])
def test_acl_is_initialised_twice(first: str, om: Path, ais_bench, capfd) -> None:
    import acl

    if first == "torch_npu":
        assert acl.init() == 0
    ais_bench.InferSession(0, str(om)).infer([GOOD])
    assert acl.init() == acl.REPEATED_INIT
    said = "[ERROR] acl init failed\n" if first == "torch_npu" else "[INFO] acl init success\n"
    assert capfd.readouterr().out == said + "[INFO] unload model success\n"


def test_a_session_that_outlives_acl(om: Path) -> None:
    code = (
        "import acl, sys\nfrom ais_bench.infer.interface import InferSession\n"
        "session = InferSession(0, sys.argv[1])\nacl.finalize()\ndel session\nprint('not reached')"
    )
    environment = {**os.environ, "PYTHONPATH": str(STAND_INS)}
    done = subprocess.run([sys.executable, "-c", code, str(om)], capture_output=True, text=True, env=environment)
    assert done.returncode == 139
    assert "outlives ACL" in done.stderr
    assert "not reached" not in done.stdout


@both_releases
def test_no_except_exception_hides_a_verdict(ais_bench) -> None:
    assert not issubclass(ais_bench.WouldCrash, Exception)
    assert not issubclass(ais_bench.WouldCorrupt, Exception)


@both_releases
def test_a_tensor_of_torch(session) -> None:
    """The real one takes CPU tensors; the port hands over arrays only, so here they are refused."""
    with pytest.raises(RuntimeError, match="invalid"):
        session.infer([torch.from_numpy(GOOD)])
