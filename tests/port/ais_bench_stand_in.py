"""The fixture `ais_bench`: the stand-in for Ascend's ais_bench, in either release."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

STAND_INS = Path(__file__).parent / "stand_ins"
MODULES = ("ais_bench", "acl", "aclruntime")


@pytest.fixture
def ais_bench(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The stand-in's module, importable as ais_bench.infer.interface; the newer release unless a test asks for one."""
    monkeypatch.setenv("AIS_BENCH_STAND_IN", getattr(request, "param", "new"))
    monkeypatch.syspath_prepend(str(STAND_INS))
    import ais_bench.infer.interface as interface

    yield interface
    sys.modules["aclruntime"]._print = lambda line: None  # sessions that end with the test have nobody to tell
    for name in [name for name in sys.modules if name.partition(".")[0] in MODULES]:
        del sys.modules[name]


both_releases = pytest.mark.parametrize("ais_bench", ["old", "new"], indirect=True)
