"""A strict stand-in for pyACL: the state of ACL in this process, without an NPU. See ais_bench/__init__.py.

What returns a value and an error code does so in pyACL's order, `context, ret`. Handles are numbers. Where the real ACL
reads freed memory, WouldCrash is raised.
"""

from __future__ import annotations

import itertools
import threading
from types import SimpleNamespace

DEVICES = 8  # as on a machine with eight cards
REPEATED_INIT, REPEATED_FINALIZE = 100002, 100037
BAD_DEVICE, NO_CONTEXT = 107001, 107002

_alive: dict[int, int] = {}  # context -> device
_default: dict[int, int] = {}  # device -> the context that set_device makes current
_numbers = itertools.count(0xAC1000)
_thread = threading.local()
_initialised = False


class WouldCrash(BaseException):
    """The real thing ends the process with a segmentation fault here."""


def init(config: str | None = None) -> int:
    global _initialised
    if _initialised:
        return REPEATED_INIT
    _initialised = True
    return 0


def finalize() -> int:
    global _initialised
    if not _initialised:
        return REPEATED_FINALIZE
    _initialised = False
    _alive.clear()
    _default.clear()
    return 0


def is_initialised() -> bool:
    """Not in pyACL: for the other stand-ins and the tests."""
    return _initialised


def _set_device(device: int) -> int:
    if not 0 <= device < DEVICES:
        return BAD_DEVICE
    if device not in _default:
        _default[device] = _new(device)
    _thread.current = _default[device]
    return 0


def _create_context(device: int) -> tuple[int, int]:
    if not 0 <= device < DEVICES:
        return 0, BAD_DEVICE
    _thread.current = _new(device)
    return _thread.current, 0


def _new(device: int) -> int:
    context = next(_numbers)
    _alive[context] = device
    return context


def _get_context() -> tuple[int, int]:
    current = getattr(_thread, "current", None)
    return (current, 0) if current in _alive else (0, NO_CONTEXT)


def _set_context(context: int) -> int:
    if type(context) is not int:
        raise TypeError(f"acl stand-in: a context is a number, got {context!r}")
    if context not in _alive:
        raise WouldCrash(f"acl stand-in: context {context} has been destroyed")
    _thread.current = context
    return 0


def _destroy_context(context: int) -> int:
    if _alive.pop(context, None) is None:
        raise WouldCrash(f"acl stand-in: context {context} is destroyed a second time")
    return 0


rt = SimpleNamespace(
    set_device=_set_device,
    get_device_count=lambda: (DEVICES, 0),
    create_context=_create_context,
    destroy_context=_destroy_context,
    get_context=_get_context,
    set_context=_set_context,
)
