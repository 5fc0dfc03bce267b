"""An .om's device memory is given back once, torch_npu keeps its context, and any thread may call. On the stand-in."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from ais_bench_stand_in import STAND_INS, both_releases
from om_files import SIZE, TOKENS, WIDTH, features, never, write_om
from port.models import om_session
from port.models.image_encoder import IMAGE_ENCODER_OM
from port.models.own_thread import OwnThread
from port_package import OVERLAY

GOOD = np.zeros((1, 3, SIZE, SIZE), np.float32)


@pytest.fixture
def om(tmp_path: Path) -> Path:
    return write_om(tmp_path / "eva_vit_g.om")[0]


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(7, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5))


# The end


@both_releases
def test_infer_after_close(om: Path, images, ais_bench, monkeypatch) -> None:
    encoder = IMAGE_ENCODER_OM(om, "cpu")
    session = encoder._runner.session
    encoder(images)
    encoder.close()
    monkeypatch.setattr(ais_bench.InferSession, "infer", never)
    with pytest.raises(RuntimeError, match=r"eva_vit_g\.om has been closed"):
        encoder(images)
    with pytest.raises(RuntimeError, match=r"eva_vit_g\.om has been closed: load"):
        session.infer([GOOD])


@both_releases
@pytest.mark.parametrize("way", ["close", "close twice", "with", "with, after an error", "dropped", "exit handler"])
def test_device_memory_is_released_once(way: str, om: Path, images, ais_bench) -> None:
    """The stand-in raises where it is released a second time."""
    import aclruntime

    encoder = IMAGE_ENCODER_OM(om, "cpu")
    encoder(images)
    assert aclruntime.loaded == [str(om)]
    if way.startswith("close"):
        encoder.close()
        if way == "close twice":
            encoder.close()
    elif way == "with":
        with encoder as same:
            assert same is encoder
    elif way == "with, after an error":
        with pytest.raises(ZeroDivisionError), encoder:
            raise ZeroDivisionError
    elif way == "exit handler":
        encoder._runner.session._release()
    del encoder
    gc.collect()
    assert aclruntime.loaded == []


@both_releases
def test_two_encoders_do_not_end_each_other(om: Path, images, ais_bench) -> None:
    first, second = IMAGE_ENCODER_OM(om, "cpu"), IMAGE_ENCODER_OM(om, "cpu")
    expected = first.encode(images)
    first.close()
    assert torch.equal(second.encode(images), expected)


def test_finalize_is_never_called(om: Path, images, ais_bench, monkeypatch) -> None:
    monkeypatch.setattr(ais_bench.InferSession, "finalize", staticmethod(never))
    with IMAGE_ENCODER_OM(om, "cpu") as encoder:
        encoder(images)


# Beside torch_npu, and in several threads


@both_releases
@pytest.mark.parametrize("first", ["torch_npu", "aclruntime"])
def test_torch_npus_context_stays_current(first: str, om: Path, images, ais_bench) -> None:
    """Whoever initialises ACL first; what torch_npu does is imitated by the same calls of ACL."""
    import acl

    encoder = IMAGE_ENCODER_OM(om, "cpu") if first == "aclruntime" else None
    assert acl.init() == (0 if encoder is None else acl.REPEATED_INIT)
    assert acl.rt.set_device(0) == 0
    torch_npus = acl.rt.get_context()
    encoder = encoder or IMAGE_ENCODER_OM(om, "cpu")
    assert acl.rt.get_context() == torch_npus
    encoder.encode(images)
    assert acl.rt.get_context() == torch_npus
    encoder.close()
    assert acl.rt.get_context() == torch_npus
    assert acl.is_initialised()


@both_releases
def test_a_call_leaves_no_context_behind_where_there_was_none(om: Path, images, ais_bench) -> None:
    import acl

    IMAGE_ENCODER_OM(om, "cpu").encode(images)
    assert acl.rt.get_context() == (0, acl.NO_CONTEXT)


@both_releases
def test_any_thread_may_call_and_several_at_once(om: Path, images, ais_bench) -> None:
    """The stand-in raises in a thread without the session's context, and when two threads are in one session."""
    import acl

    weights = write_om(om)[1]
    encoder, answers = IMAGE_ENCODER_OM(om, "cpu"), {}

    def ask(number: int) -> None:
        acl.rt.set_device(1)
        mine = acl.rt.get_context()
        for _ in range(5):
            answers[number] = encoder(images[number : number + 2])
        assert acl.rt.get_context() == mine
        answers[number] = answers[number].numpy()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(5):
        assert np.abs(answers[number] - features(images[number : number + 2], weights)).max() < 1e-5


def test_released_by_the_garbage_collector_while_another_one_loads(om: Path, images, ais_bench, monkeypatch) -> None:
    """It picks its moment and its thread; neither may wait for the other."""
    import aclruntime

    cycle = [IMAGE_ENCODER_OM(om, "cpu")]
    cycle.append(cycle)
    real = ais_bench.InferSession.__init__

    def load(self, *arguments) -> None:
        nonlocal cycle
        del cycle
        gc.collect()
        real(self, *arguments)

    monkeypatch.setattr(ais_bench.InferSession, "__init__", load)
    second = IMAGE_ENCODER_OM(om, "cpu")
    assert aclruntime.loaded == [str(om)]
    assert len(second(images)) == 7


def test_it_is_released_in_the_thread_that_drops_it(om: Path, ais_bench) -> None:
    import aclruntime

    holder = [IMAGE_ENCODER_OM(om, "cpu")]
    thread = threading.Thread(target=holder.clear)
    thread.start()
    thread.join()
    gc.collect()
    assert aclruntime.loaded == []


class Argument:
    pass


def test_the_thread_keeps_nothing_that_it_was_given() -> None:
    """Pictures, and through them device memory, would live until the next call."""
    thread, argument = OwnThread("test"), Argument()
    gone = weakref.ref(argument)
    assert thread.call(lambda given: type(given), argument) is Argument
    del argument
    waited = time.monotonic()
    while gone() is not None and time.monotonic() < waited + 10:
        time.sleep(0.001)  # the thread answers first, and tidies up then
    assert gone() is None
    thread.end()


def test_a_finalizer_that_runs_in_the_thread_itself_does_not_wait_for_it() -> None:
    """The garbage collector picks the thread."""
    thread = OwnThread("test")
    assert thread.call(lambda: thread.call(threading.current_thread).name) == "test"
    thread.end()


def test_what_the_thread_raises_is_the_callers() -> None:
    thread = OwnThread("test")
    for error in (ZeroDivisionError, KeyboardInterrupt, SystemExit):
        with pytest.raises(error):
            thread.call(lambda error=error: (_ for _ in ()).throw(error))
    assert thread.call(lambda: 1) == 1
    thread.end()
    thread._thread.join()
    with pytest.raises(RuntimeError, match="another process, or has ended"):
        thread.call(lambda: 1)


# In a process of its own

CHILD = """
import atexit, os, sys
sys.path[:0] = [{port!r}, {stand_ins!r}]
import acl
acl.init()  # as torch_npu, which ends ACL in its exit handler
acl.rt.set_device(0)
atexit.register(acl.finalize)
import port_package, torch
from port.models.image_encoder import IMAGE_ENCODER_OM
encoder = IMAGE_ENCODER_OM(sys.argv[1], "cpu")
features = encoder(torch.zeros(2, 3, 8, 8))
"""


def child(code: str, om: Path, release: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "AIS_BENCH_STAND_IN": release, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    start = CHILD.format(port=str(OVERLAY.parent / "tests" / "port"), stand_ins=str(STAND_INS))
    command = [sys.executable, "-c", start + code, str(om)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


@pytest.mark.parametrize("release", ["old", "new"])
@pytest.mark.parametrize("end", ["", "del encoder", "encoder.close()", "sys.exit(0)", "holder = [encoder, print]"])
def test_the_process_ends_cleanly(end: str, release: str, om: Path) -> None:
    """The model leaves the device before torch_npu ends ACL; the stand-in crashes the process otherwise."""
    done = child(f"print(tuple(features.shape))\n{end}", om, release)
    assert (done.returncode, done.stdout) == (0, f"(2, {TOKENS}, {WIDTH})\n"), done.stderr
    for noise in ("[ERROR] acl init failed", "[INFO] unload model success"):  # not among the command's answers
        assert noise in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("release", ["old", "new"])
def test_an_error_ends_the_process_as_always(release: str, om: Path) -> None:
    done = child("raise KeyError('mine')", om, release)
    assert done.returncode == 1
    assert "KeyError: 'mine'" in done.stderr
    assert "stand-in" not in done.stderr


def test_a_forked_child_is_told_and_leaves_the_device_alone(om: Path) -> None:
    code = """
if os.fork() == 0:
    try:
        encoder.encode(torch.zeros(2, 3, 8, 8))
    except RuntimeError as error:
        print("child:", error, flush=True)
    encoder.close()
    os._exit(0)
os.wait()
print("parent:", tuple(encoder.encode(torch.ones(1, 3, 8, 8)).shape))
"""
    done = child(code, om, "new")
    assert done.returncode == 0, done.stderr
    assert re.search(r"child: .*was loaded in another process", done.stdout)
    assert f"parent: (1, {TOKENS}, {WIDTH})" in done.stdout


def test_without_standard_output(om: Path, ais_bench) -> None:
    """A service may have closed it."""
    done = child("", om, "new")
    assert done.returncode == 0
    code = "os.close(1); IMAGE_ENCODER_OM(sys.argv[1], 'cpu').encode(torch.zeros(1, 3, 8, 8)); os.write(2, b'fine')"
    assert child(code, om, "new").stderr.endswith("fine")


def test_every_word_of_ais_benchs_session_that_is_used_exists_in_both_releases() -> None:
    """A guard for what is not common to them: it must be asked for with hasattr."""
    source = Path(om_session.__file__).read_text()
    assert set(re.findall(r"\bsession\.(\w+)", source)) == {"get_inputs", "get_outputs", "free_resource"}
    assert 'hasattr(session, "free_resource")' in source
