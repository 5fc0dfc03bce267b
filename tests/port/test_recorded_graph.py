"""The stand-in for captured graphs fails where a device's graph fails, and is right where that is right."""

from __future__ import annotations

import pytest
import torch

from tests.recorded_graph import CaptureError, RecordedGraph


@torch.library.custom_op("recorded_graph_test::total", mutates_args=())
def total(x: torch.Tensor, lengths: list[int], scale: float = 1.0) -> torch.Tensor:
    """Sum of the first lengths[0] elements: an operation with a host argument, as the NPU's attention has."""
    return x[: lengths[0]].sum().reshape(1) * scale


UPDATABLE = {"recorded_graph_test::total": ("lengths",)}


@pytest.fixture(params=[torch.no_grad, torch.inference_mode], ids=["no_grad", "inference_mode"], autouse=True)
def grad_mode(request: pytest.FixtureRequest):
    with request.param():
        yield


def test_a_replay_computes_from_what_its_inputs_hold_now() -> None:
    x, weight = torch.zeros(2, 3), torch.randn(4, 3)
    graph = RecordedGraph()
    with graph.capture():
        y = torch.nn.functional.silu(torch.nn.functional.linear(x, weight)).softmax(-1)
    assert y.isnan().all()
    for _ in range(3):
        x.copy_(torch.randn(2, 3))
        graph.replay()
        torch.testing.assert_close(y, torch.nn.functional.silu(x @ weight.T).softmax(-1))


def test_an_input_that_was_replaced_is_not_seen() -> None:
    x = torch.zeros(2)
    graph = RecordedGraph()
    with graph.capture():
        y = x + 1
    x = torch.ones(2)
    graph.replay()
    assert y.tolist() == [1.0, 1.0]


def test_writing_in_place_happens_once_per_replay_and_not_in_the_capture() -> None:
    cache, position, count = torch.zeros(1, 4, 2), torch.zeros(1, dtype=torch.long), torch.zeros(())
    graph = RecordedGraph()
    with graph.capture():
        cache.index_copy_(1, position, torch.ones(1, 1, 2))
        cache[:, 3].add_(1)  # through a view
        cache.add_(0)
        count += 1
        position += 1
    assert (cache.sum(), count, position) == (0, 0, 0)
    graph.replay()
    graph.replay()
    assert cache[0, :, 0].tolist() == [1, 1, 0, 2]
    assert (count, position) == (2, 2)


def test_views_and_integers_are_spoilt_and_filled() -> None:
    x = torch.tensor([3.0, 1.0])
    graph = RecordedGraph()
    with graph.capture():
        best = (x * 2).view(1, 2).argmax(-1)
        flag = x > 2
    assert best.item() == torch.iinfo(torch.int64).max
    graph.replay()
    assert best.tolist() == [0]
    assert flag.tolist() == [True, False]


def test_host_arguments_are_frozen_and_a_forgotten_update_gives_the_old_answer() -> None:
    x, lengths = torch.arange(6.0), [2]
    graph = RecordedGraph(UPDATABLE)
    with graph.capture():
        y = total(x, lengths)
    lengths[0] = 4
    graph.replay()
    assert y.item() == 0 + 1


def test_update_replaces_them_for_all_operations_or_one_each() -> None:
    x = torch.arange(6.0)
    graph = RecordedGraph(UPDATABLE)
    with graph.capture(auto_dispatch_capture=True):
        y, z = total(x, [2]), total(x, lengths=[3], scale=10.0)
    for update, expected in (
        ([{"lengths": [4]}], (6, 60)),
        ([{"lengths": [1]}, {"lengths": [6]}], (0, 150)),
    ):
        graph.update(cpu_update_input=update)
        graph.replay()
        assert (y.item(), z.item()) == expected
    with pytest.raises(CaptureError, match="3 updates for 2"):
        graph.update(cpu_update_input=[{}, {}, {}])
    with pytest.raises(CaptureError, match="no argument 'length'"):
        graph.update(cpu_update_input=[{"length": [4]}])


def test_with_automatic_dispatch_each_replay_needs_its_update() -> None:
    graph = RecordedGraph(UPDATABLE)
    with graph.capture(auto_dispatch_capture=True):
        total(torch.arange(3.0), [1])
    graph_without = RecordedGraph(UPDATABLE)
    with graph_without.capture():
        total(torch.arange(3.0), [1])
    with pytest.raises(CaptureError, match="auto_dispatch_capture"):
        graph_without.update(cpu_update_input=[{"lengths": [2]}])
    with pytest.raises(CaptureError, match="for ever"):
        graph.replay()
    graph.update(cpu_update_input=[{"lengths": [2]}])
    graph.replay()
    with pytest.raises(CaptureError, match="for ever"):
        graph.replay()


@pytest.mark.parametrize(
    "step",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: torch.equal(x, x),
        lambda x: x + torch.tensor([1.0, 2.0]),
        lambda x: x.masked_select(x > 0),
        lambda x: x.to("meta"),
    ],
)
def test_what_a_device_cannot_capture_is_refused(step) -> None:
    graph = RecordedGraph()
    with pytest.raises(CaptureError, match="inside a capture"), graph.capture():
        step(torch.ones(2))
    with pytest.raises(CaptureError, match="not been captured"):
        graph.replay()


def test_a_failed_capture_leaves_its_inputs_as_they_were() -> None:
    x = torch.ones(2)
    graph = RecordedGraph()

    def step() -> None:
        with graph.capture():
            x.mul_(2).view(3)

    with pytest.raises(RuntimeError, match="shape"):
        step()
    assert x.tolist() == [1.0, 1.0]


def test_a_graph_is_captured_once_and_before_it_is_replayed() -> None:
    graph = RecordedGraph()
    with pytest.raises(CaptureError, match="not been captured"):
        graph.replay()
    with graph.capture():
        torch.ones(2)
    with pytest.raises(CaptureError, match="captured before"), graph.capture():
        pass


def test_indexing_with_positions_is_recorded() -> None:
    table, row = torch.arange(6.0).view(3, 2), torch.tensor([2])
    graph = RecordedGraph()
    with graph.capture():
        y = table[row] + torch.nn.functional.embedding(row, table)
    row.fill_(1)
    graph.replay()
    assert y.tolist() == [[4.0, 6.0]]
