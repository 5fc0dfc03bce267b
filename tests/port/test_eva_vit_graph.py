"""EvaViT recorded and compiled (eva_vit_graph.py) gives its own numbers, and goes on without where that fails.

Nothing is timed. Recordings are made on the CPU, through tests/recorded_graph.py.
"""

from __future__ import annotations

import collections
import logging
import subprocess
import sys
import threading

import pytest
import torch
from port.models import eva_vit_graph
from port.models.eva_vit_graph import FastEvaViT
from port.models.eva_vit_model import EvaViT, load_eva_vit
from vit_files import write_files

from tests.port.cpu_recording import LikeCuda

SIZE, DEPTH = 56, 2
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> EvaViT:
    return load_eva_vit(*write_files(tmp_path_factory.mktemp("vit"), 176, 96, DEPTH + 1, SIZE), image_size=SIZE)


@pytest.fixture(autouse=True)
def grad_off():
    with torch.no_grad():
        yield


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> type[LikeCuda]:
    monkeypatch.setitem(eva_vit_graph.RECORDINGS, "cpu", LikeCuda)
    LikeCuda.made = 0
    return LikeCuda


def pictures(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_second_call_records_and_later_ones_replay(mode, recording, plain):
    fast = FastEvaViT(plain, CPU)
    with mode():
        for seed, made in ((0, 0), (1, 1), (2, 1), (3, 1)):
            images = pictures(2, seed)
            torch.testing.assert_close(fast(images), plain(images), rtol=1e-6, atol=1e-6)
            assert recording.made == made
    with torch.no_grad():  # made in one mode, replayed in another
        torch.testing.assert_close(fast(images), plain(images), rtol=1e-6, atol=1e-6)


def test_features_stay_when_the_next_picture_comes(recording, plain):
    fast = FastEvaViT(plain, CPU)
    fast(pictures(1, 0))
    first = fast(pictures(1, 1))
    kept = first.clone()
    fast(pictures(1, 2))
    assert torch.equal(first, kept)


def test_each_number_of_pictures_has_its_recording_and_few_are_kept(recording, plain):
    fast = FastEvaViT(plain, CPU)
    for count in (1, 2, 3, 4, 5):
        for seed in range(3):
            images = pictures(count, seed)
            torch.testing.assert_close(fast(images), plain(images), rtol=1e-6, atol=1e-6)
    assert recording.made == 5
    assert [shape[0] for shape in fast._recorded] == [2, 3, 4, 5]
    images = pictures(1, 9)
    torch.testing.assert_close(fast(images), plain(images), rtol=1e-6, atol=1e-6)
    assert recording.made == 6


def test_pictures_of_another_dtype_use_the_same_recording(recording, plain):
    fast = FastEvaViT(plain, CPU)
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        images = pictures(1, 3).to(dtype)
        torch.testing.assert_close(fast(images), plain(images), rtol=1e-5, atol=1e-5)
    assert recording.made == 1


def test_threads_take_turns(recording, plain):
    fast = FastEvaViT(plain, CPU)
    fast(pictures(1, 0))
    found: dict[int, torch.Tensor] = {}
    workers = [
        threading.Thread(target=lambda seed=seed: found.update({seed: fast(pictures(1, seed))})) for seed in range(8)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert recording.made == 1
    for seed, features in found.items():
        torch.testing.assert_close(features, plain(pictures(1, seed)), rtol=1e-6, atol=1e-6)


def test_what_cannot_be_recorded_runs_as_it_is_and_says_so_once(monkeypatch, plain, caplog):
    tries = []

    def refuse(compute, device, batch):
        tries.append(batch)
        raise RuntimeError("capture is not permitted")

    monkeypatch.setitem(eva_vit_graph.RECORDINGS, "cpu", refuse)
    fast = FastEvaViT(plain, CPU)
    with caplog.at_level(logging.WARNING):
        for seed in range(4):
            torch.testing.assert_close(fast(pictures(1, seed)), plain(pictures(1, seed)), rtol=1e-6, atol=1e-6)
    assert tries == [1]
    assert [record.getMessage() for record in caplog.records] == [
        "The image encoder cannot be recorded (RuntimeError: capture is not permitted); going on without."
    ]


def test_a_wrong_size_is_refused_also_where_recordings_are_made(recording, plain):
    fast = FastEvaViT(plain, CPU)
    fast(pictures(1, 0))
    fast(pictures(1, 1))
    with pytest.raises(ValueError, match=r"takes \(B, 3, 56, 56\) pictures, got \(1, 3, 28, 28\)"):
        fast(torch.zeros(1, 3, 28, 28))


# Compiled: with Dynamo's eager backend, which traces as for a device and fuses nothing


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> collections.Counter:
    counts: collections.Counter = collections.Counter()
    compile_function = torch.compile

    def backend(graph, _):
        counts["graphs"] += 1
        return graph.forward

    def traced(function, **options):
        assert options == {"fullgraph": True, "dynamic": False}
        return compile_function(function, backend=backend, **options)

    monkeypatch.setattr(torch, "compile", traced)
    torch._dynamo.reset()
    return counts


@pytest.mark.slow
def test_all_blocks_share_one_compilation(compiled, recording, plain, request):
    if torch._C._get_privateuse1_backend_name() == "npu":  # another test has named it, and Dynamo would look for NPUs
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0", request.node.nodeid]
        done = subprocess.run(command, cwd=request.config.rootpath, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
        return

    class Again:
        """Instead of a recorder of operations, under which Dynamo traces nothing."""

        def __init__(self, compute, device, batch):
            self.replay = lambda _: compute()

    eva_vit_graph.RECORDINGS["cpu"] = Again
    fast = FastEvaViT(plain, CPU, compile_blocks=True)
    for seed in range(3):
        images = pictures(1, seed)
        torch.testing.assert_close(fast(images), plain(images), rtol=1e-6, atol=1e-6)
    assert compiled["graphs"] == 1
    assert fast.compile_blocks


def test_what_cannot_be_compiled_is_recorded_as_it_is(monkeypatch, recording, plain, caplog):
    def broken(function, **_):
        def run(*_):
            raise RuntimeError("no compiler was found")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    fast = FastEvaViT(plain, CPU, compile_blocks=True)
    with caplog.at_level(logging.WARNING):
        for seed in range(3):
            images = pictures(1, seed)
            torch.testing.assert_close(fast(images), plain(images), rtol=1e-6, atol=1e-6)
    assert len(fast._recorded) == 1
    assert [record.getMessage() for record in caplog.records] == [
        "The image encoder cannot be compiled (RuntimeError: no compiler was found); going on without."
    ]
