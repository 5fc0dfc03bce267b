"""The checks of newer releases before a model is loaded. See ais_bench/__init__.py: this is a stand-in."""

from __future__ import annotations

import os
import re
import stat

LARGEST = 10 * 1024**3


def check_model_path_legality(path: str) -> None:
    """Every refusal is a RuntimeError that does not say why; the reason goes to the log."""
    if not _legal(path):
        raise RuntimeError(f"ais_bench stand-in: om path:{path} is illegal. Please check.")


def _legal(path: str) -> bool:
    if not re.fullmatch(r"[_A-Za-z0-9/.-]+", path) or not path.endswith(".om"):
        return False
    if not os.path.isfile(path) or os.path.islink(path):
        return False
    status = os.stat(path)
    mine = status.st_uid == os.geteuid() or status.st_gid in os.getgroups()
    others_write = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return mine and not others_write and bool(status.st_mode & stat.S_IRUSR) and status.st_size <= LARGEST


def check_device_range_valid(device: int) -> None:
    if not isinstance(device, int):
        raise TypeError(f"ais_bench stand-in: device:{device} is not a integer!")
    if not 0 <= device <= 255:
        raise ValueError(f"ais_bench stand-in: device:{device} is illegal.")
