"""A toy project that lint has nothing to say about, to be spoiled by the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toys import Toy

FIRST, SECOND = "0001-Choose-autocast-by-device.patch", "0002-Drop-what-is-old.patch"
TRAILERS = {
    FIRST: b"""Hooks: minigpt4/base_model.py (BaseModel.device)
Upstream: not-forwarded (the port's own)
Drop-When: never
Tested-By: tests/test_toy.py::test_device""",
    SECOND: b"""Hooks: demo.py (imports, module), eval_configs/eval.yaml,
 minigpt4/hook.py, old.py
Upstream: https://example.org/pull/1
Drop-When: upstream drops old.py
Tested-By: tests/test_toy.py::TestOld::test_is_gone[both]""",
}
TESTS = b"""def test_device():
    assert True


class TestOld:
    async def test_is_gone(self):
        assert True

    def helper(self):
        assert True


class Old:
    def test_is_gone(self):
        assert True


@pytest.fixture
def test_data():
    return 1


@pytest.mark.skip("later")
def test_later():
    assert True


def test_nothing():
    '''Says nothing.'''
"""


def make_clean(folder: Path) -> Toy:
    """A toy whose patches have trailers, with an applied workspace, and all that lint generates."""
    toy = Toy(folder)
    (toy.project / "tests").mkdir()
    (toy.project / "tests" / "test_toy.py").write_bytes(TESTS)
    for name, trailers in TRAILERS.items():
        spoil(toy, f"patches/{name}", b"Tested-By: toys.py", trailers)
    toy.apply()
    toy.apply("lint", "--fix")
    return toy


def spoil(toy: Toy, path: str, old: bytes, new: bytes) -> None:
    """Replace the one place of a project file where `old` is."""
    data = (toy.project / path).read_bytes()
    assert data.count(old) == 1, (path, old)
    (toy.project / path).write_bytes(data.replace(old, new))


def lint(toy: Toy, *words: str) -> Any:
    """The facts of `apply.py lint`."""
    done = toy.run("lint", "--json", *words)
    assert not done.err, done.err
    assert done.code == done.json["code"]
    return done.json


def shallow(toy: Toy, *words: str) -> Any:
    """As `lint`, without a workspace: much faster."""
    return lint(toy, *words, "--workspace", str(toy.folder / "none"))


def brief(facts: Any) -> list[str]:
    """One line per finding: path:line rule."""
    return [f"{found['path']}:{found['line']} {found['rule']}" for found in facts["findings"]]
