"""An .om's device memory is given back once, torch_npu keeps its context, and any thread may call. On the stand-in.

In a process of its own, up to its end: test_om_process.py.
"""

from __future__ import annotations

import gc
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from ais_bench_stand_in import both_releases
from om_files import SIZE, features, never, write_om
from port.models import om_session
from port.models.image_encoder import IMAGE_ENCODER_OM

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


def test_every_word_of_ais_benchs_session_that_is_used_exists_in_both_releases() -> None:
    """A guard for what is not common to them: it must be asked for with hasattr."""
    source = Path(om_session.__file__).read_text()
    assert set(re.findall(r"\bsession\.(\w+)", source)) == {"get_inputs", "get_outputs", "free_resource"}
    assert 'hasattr(session, "free_resource")' in source
