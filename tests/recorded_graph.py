"""A captured graph on a device that cannot capture: record the operations, run them again on the same tensors.

`RecordedGraph` stands in for torch.cuda.CUDAGraph and torch.npu.NPUGraph in tests. It keeps what makes a captured
graph go wrong on a device:

- a capture computes nothing: what it changed is put back at its end, and what it made holds NaN until the first replay;
- a replay reads and writes the captured tensors and no others, so an input that was replaced rather than written
  into is not seen;
- host arguments, such as the `actual_seq_lengths_kv` of an attention, are frozen, and only `update` replaces them;
- waiting for the device, moving data between host and device, and shapes that depend on values are refused.

It shows control flow, never numerics, memory or speed of a device: operations run one by one, as without a graph.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

# Host arguments that NPUGraph.update can replace, per operation: the handlers in torch_npu/npu/_npugraph_handlers/.
UPDATABLE = {
    "npu::npu_fused_infer_attention_score": ("actual_seq_lengths", "actual_seq_lengths_kv"),
    "npu::npu_fused_infer_attention_score_v2": ("actual_seq_qlen", "actual_seq_kvlen"),
    "npu::_npu_paged_attention": ("context_lens",),
}
# Composite operations which inference mode hands over whole; what they are made of carries the tags used below.
_WAITS = {"aten::item", "aten::is_nonzero", "aten::allclose", "aten::masked_select", "aten::lift_fresh"}


class CaptureError(RuntimeError):
    """What was captured or replayed could not work on a device."""


class _Call(NamedTuple):
    """One recorded operation; `made` are its results that are no view of an argument, None for every other one."""

    op: Any
    args: list
    kwargs: dict
    made: list


class RecordedGraph:
    """One capture and its replays. `updatable`: {operation: names of the host arguments that `update` may replace}."""

    def __init__(self, updatable: dict[str, tuple[str, ...]] = UPDATABLE) -> None:
        self._updatable = updatable
        self._calls: list[_Call] = []
        self._state = "empty"
        self._auto = False
        self._updated = False
        self._inference = False

    @contextlib.contextmanager
    def capture(self, auto_dispatch_capture: bool = False) -> Iterator[None]:
        """Record what runs inside. auto_dispatch_capture: as in torch.npu.graph, `update` needs it."""
        if self._state != "empty":
            raise CaptureError("this graph has been captured before: use a new one")
        self._state = "failed"
        self._inference = torch.is_inference_mode_enabled()
        recorder = _Recorder()
        try:
            with recorder:
                yield
        finally:
            recorder.undo()
        self._calls = recorder.calls
        self._state = "captured"
        self._auto = auto_dispatch_capture

    def replay(self) -> None:
        """Run the recorded operations again. Raises CaptureError where a device would wait for ever."""
        if self._state != "captured":
            raise CaptureError("replay of a graph that has not been captured")
        if self._auto and self._tasks() and not self._updated:
            # torch_npu records a wait for an event before each such operation, which only `update` sets.
            raise CaptureError("replay without update: the captured attention would wait for its lengths for ever")
        self._updated = False
        with torch.inference_mode(self._inference), torch.no_grad():
            for call in self._calls:
                _write(call.made, call.op(*call.args, **call.kwargs))

    def update(self, cpu_update_input: list[dict[str, Any]]) -> None:
        """Replace host arguments, for this replay and those after it: one dict per recorded operation of
        `updatable`, in their order, or one dict for all of them. Raises CaptureError for what NPUGraph refuses, and
        for a name that no operation has, which NPUGraph ignores."""
        if not self._auto:
            raise CaptureError("update needs a capture with auto_dispatch_capture=True")
        tasks = self._tasks()
        if len(cpu_update_input) == 1:
            cpu_update_input = cpu_update_input * len(tasks)
        if len(cpu_update_input) != len(tasks):
            raise CaptureError(f"{len(cpu_update_input)} updates for {len(tasks)} captured operations")
        for call, values in zip(tasks, cpu_update_input):
            for name, value in values.items():
                self._replace(call, name, value)
        self._updated = True

    def _tasks(self) -> list[_Call]:
        return [call for call in self._calls if call.op._schema.name in self._updatable]

    def _replace(self, call: _Call, name: str, value: Any) -> None:
        operation = call.op._schema.name
        if name not in self._updatable[operation]:
            raise CaptureError(f"{operation} has no argument {name!r} that can be updated")
        places = [argument.name for argument in call.op._schema.arguments if not argument.kwarg_only]
        value = tree_map(lambda leaf: leaf, value)  # a copy: later changes of the caller's list are not seen
        if name in places and places.index(name) < len(call.args):
            call.args[places.index(name)] = value
        else:
            call.kwargs[name] = value


class _Recorder(TorchDispatchMode):
    """Runs each operation for its shapes and keeps what is needed to run it again, and to undo it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[_Call] = []
        self._before: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        args, kwargs = tree_map(lambda leaf: leaf, (list(args), dict(kwargs or {})))  # lists are frozen by copying
        inputs = _tensors((args, kwargs))
        _refuse_waiting(func, args, inputs)
        for tensor in _written(func, args, kwargs):
            self._before.append((tensor, tensor.clone()))
        result = func(*args, **kwargs)
        _refuse_moves(func, inputs, _tensors(result))
        known = {_storage(tensor) for tensor in inputs}
        leaves = tree_flatten(result)[0]
        made = [leaf if isinstance(leaf, torch.Tensor) and _storage(leaf) not in known else None for leaf in leaves]
        self.calls.append(_Call(func, args, kwargs, made))
        return result

    def undo(self) -> None:
        """Put back what was written into, and spoil what was made."""
        with torch.no_grad():
            for tensor, before in reversed(self._before):
                tensor.copy_(before)
            for call in self.calls:
                for tensor in call.made:
                    if tensor is not None:
                        tensor.fill_(_spoilt(tensor.dtype))


def _spoilt(dtype: torch.dtype) -> Any:
    """A value that shows when it is used: NaN, or the largest integer, which no table has a row for."""
    if dtype == torch.bool:
        return True
    return float("nan") if dtype.is_floating_point or dtype.is_complex else torch.iinfo(dtype).max


def _write(made: list, result: Any) -> None:
    for tensor, new in zip(made, tree_flatten(result)[0]):
        if tensor is not None:
            tensor.copy_(new)


def _refuse_waiting(func: Any, args: list, inputs: list) -> None:
    name = func._schema.name
    waits = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags)
    if name == "aten::index":  # tagged for boolean masks, which are turned into positions; positions are fine
        waits = any(tensor.dtype in (torch.bool, torch.uint8) for tensor in _tensors(args[1]))
    if waits or name in _WAITS:
        raise CaptureError(
            f"{name} inside a capture: it waits for the device, copies from the host or has no fixed shape"
        )
    devices = {tensor.device.type for tensor in inputs if tensor.dim()}  # a scalar of the host becomes an argument
    if len(devices) > 1:
        raise CaptureError(f"{name} inside a capture moves data between {' and '.join(sorted(devices))}")


def _refuse_moves(func: Any, inputs: list, outputs: list) -> None:
    source, target = {tensor.device.type for tensor in inputs}, {tensor.device.type for tensor in outputs}
    if source and not target <= source:
        raise CaptureError(
            f"{func._schema.name} inside a capture moves data to {' and '.join(sorted(target - source))}"
        )


def _written(func: Any, args: list, kwargs: dict) -> list:
    """The tensors among the arguments which the operation writes into."""
    found = []
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = kwargs.get(argument.name, args[place] if place < len(args) else None)
            found += _tensors(value)
    return found


def _tensors(tree: Any) -> list:
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, torch.Tensor)]


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata
