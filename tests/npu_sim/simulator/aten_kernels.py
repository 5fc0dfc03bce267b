"""PyTorch's own operations on the simulated device: the CPU kernel, run on the memory of the device's tensors.

`install` replaces every kernel that torch_npu registers for its device, about a thousand; torch_npu keeps making
tensors, streams and events. A kernel that has no CPU counterpart raises instead of calling CANN's missing functions.
Results are a CPU's: this shows arguments and control flow, never numerics, memory or speed of a device.
"""

from __future__ import annotations

import ctypes
from typing import Any, Callable

import torch
from torch.utils._pytree import tree_flatten, tree_map

# torch_npu's own kernels for these only make tensors or change how memory is looked at.
KEPT = set(
    str.split(
        """
        empty.memory_format empty_strided empty_like empty_with_format as_strided view _reshape_alias alias detach
        unfold view_as_real view_as_complex view.dtype set_ set_.source_Storage set_.source_Tensor
        set_.source_Storage_storage_offset resize_ record_stream is_pinned _pin_memory is_set_to is_same_size set_data
        data _fw_primal _has_compatible_shallow_copy_type size.int sym_size.int
        """
    )
)
# A tensor of the host may stand beside those of the device here: copies, and positions to index with.
TAKES_HOST_TENSORS = ("copy_", "_to_copy", "_copy_from", "_copy_from_and_resize", "index", "index_put", "_index_put")
_RUNNABLE = ("CPU", "CompositeExplicitAutograd", "CompositeImplicitAutograd", "CompositeExplicitAutogradNonFunctional")
_libraries: list[torch.library.Library] = []


def on_host(value: Any) -> Any:
    """A CPU tensor over the memory of an npu tensor, cpu for the npu device; anything else as it is."""
    if isinstance(value, torch.device) and value.type == "npu":
        return torch.device("cpu")
    if isinstance(value, torch.Generator) and value.device.type == "npu":
        return None
    if not isinstance(value, torch.Tensor) or value.device.type != "npu":
        return value
    storage = value.untyped_storage()
    if not storage.nbytes() or not value.numel():
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)
    memory = (ctypes.c_char * storage.nbytes()).from_address(storage.data_ptr())
    flat = torch.frombuffer(memory, dtype=torch.uint8).untyped_storage()
    return torch.empty(0, dtype=value.dtype).set_(flat, value.storage_offset(), value.shape, value.stride())


def on_device(value: Any) -> Any:
    """A copy of a CPU tensor on the simulated device; anything else as it is."""
    if not isinstance(value, torch.Tensor) or value.device.type != "cpu":
        return value
    made = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="npu")
    if value.numel():
        on_host(made).copy_(value)
    return made


def refuse_host_tensors(name: str, arguments: Any) -> None:
    """A device takes no tensor of the host, but for a single number."""
    for value in tree_flatten(arguments)[0]:
        if isinstance(value, torch.Tensor) and value.device.type != "npu" and value.dim():
            raise RuntimeError(f"{name}: expected all tensors on npu:0, found one on {value.device}")


def install() -> int:
    """Replace the kernels and return how many were replaced."""
    library = torch.library.Library("aten", "IMPL")
    _libraries.append(library)  # a library that is collected takes its kernels with it
    count = 0
    for full in torch._C._dispatch_get_all_op_names():
        space, _, name = full.partition("::")
        if space != "aten" or name in KEPT or not _has(full, "PrivateUse1"):
            continue
        op = _overload(name)
        # In-place views, such as as_strided_, must reach the device's tensor itself. No op: it cannot be called.
        if op is not None and torch.Tag.inplace_view not in op.tags:
            library.impl(name, _kernel(full, name, op), "PrivateUse1")
            count += 1
    return count


def _overload(name: str) -> Any:
    base, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, base, None), overload or "default", None)


def _has(full: str, key: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(full, key)


def _kernel(full: str, name: str, op: Any) -> Callable:
    if name in _SPECIAL:
        return _SPECIAL[name]
    if any(_has(full, key) for key in _RUNNABLE):
        return _through_host(op)

    def missing(*_: Any, **__: Any) -> Any:
        raise NotImplementedError(f"{full} has no CPU kernel, so the simulated NPU cannot run it")

    return missing


def _through_host(op: Any) -> Callable:
    schema = op._schema
    written = [_is_written(argument) for argument in schema.arguments]
    mixed = schema.name.removeprefix("aten::").rstrip("_").startswith(TAKES_HOST_TENSORS)

    def kernel(*args: Any, **kwargs: Any) -> Any:
        if not mixed and schema.name != "aten::copy_":
            refuse_host_tensors(schema.name, (args, kwargs))
        out = op(*tree_map(on_host, args), **tree_map(on_host, kwargs))
        targets = []
        for place, argument in enumerate(schema.arguments):
            if written[place] and (argument.name in kwargs or place < len(args)):
                targets.append(kwargs[argument.name] if argument.name in kwargs else args[place])
        results = []
        for value, kind in zip([out] if len(schema.returns) == 1 else list(out or ()), schema.returns):
            results.append(targets.pop(0) if _is_written(kind) else tree_map(on_device, value))
        return results[0] if len(results) == 1 else tuple(results) or None

    return kernel


def _is_written(argument: Any) -> bool:
    return bool(argument.alias_info and argument.alias_info.is_write)


def _copy(self: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    if self.numel():
        on_host(self).copy_(on_host(source))
    return self


def _copy_from(self: torch.Tensor, target: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    return _copy(target, self)


def _to_copy(
    self: torch.Tensor,
    *,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: Any = None,
    non_blocking: bool = False,
    memory_format: Any = None,
) -> torch.Tensor:
    made = torch.ops.aten._to_copy(on_host(self), dtype=dtype, device="cpu", memory_format=memory_format)
    return on_device(made) if device is None or device.type == "npu" else made


def _gelu(self: torch.Tensor, *, approximate: str = "none", out: torch.Tensor) -> torch.Tensor:
    """An NPU takes the tanh form whatever is asked for. Source: op-plugin, torch_npu-npu_gelu.md."""
    refuse_host_tensors("aten::gelu", self)
    return _copy(out, torch.ops.aten.gelu(on_host(self), approximate="tanh"))


def _local_scalar_dense(self: torch.Tensor) -> Any:
    return on_host(self).item()


_SPECIAL: dict[str, Callable] = {
    "copy_": _copy,
    "_copy_from": _copy_from,
    "_copy_from_and_resize": _copy_from,
    "_to_copy": _to_copy,
    "gelu.out": _gelu,
    "_local_scalar_dense": _local_scalar_dense,
}
