"""Whatever the project's files hold, lint reports and goes on: no traceback, nothing written, nothing followed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lintmaker import FIRST, SECOND, lint, make_clean, shallow
from toys import Toy, copy_toy, snapshot


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return make_clean(tmp_path_factory.mktemp("lint") / "master")


PATHS = (f"patches/{FIRST}", f"patches/{SECOND}", "patches/series", "configs/paths.yaml", "configs/upstream.yaml")
SCRAPS = [
    b"",
    b"\n",
    b"\xff\xfe",
    b"\0",
    b"Hooks: ",
    b"Hooks: (((",
    b"@@ -1 +1 @@\n",
    b"diff --git a/x b/x\n",
    b"---\n",
    b"\r\n",
]
SCRAPS += [
    b"../../etc/passwd",
    b"- [",
    b"a: &a *a",
    b"\xf0\x9f\x92\xa9",
    b"\xe2\x80\xa8",
    b"\\ No newline at end of file\n",
]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_findings(clean: Toy, data: st.DataObject) -> None:
    path = clean.project / data.draw(st.sampled_from(PATHS))
    good = path.read_bytes()
    start = data.draw(st.integers(0, len(good)))
    end = min(len(good), start + data.draw(st.integers(0, 40)))
    path.write_bytes(good[:start] + data.draw(st.sampled_from(SCRAPS)) + good[end:])
    try:
        facts = (lint if data.draw(st.booleans()) else shallow)(clean)
        for found in facts["findings"]:
            # YAML takes U+2028 for a line end too.
            lines = (clean.project / found["path"]).read_text(encoding="utf-8", errors="replace").splitlines()
            assert 0 <= found["line"] <= len(lines) + 1, found
    finally:
        path.write_bytes(good)


@pytest.fixture
def spoiled(clean: Toy, tmp_path: Path) -> Toy:
    return copy_toy(clean.folder, tmp_path / "toy")


def test_links_and_pipes_are_named_and_not_read(spoiled: Toy, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret\r\n")
    (spoiled.project / "overlay" / "link").symlink_to(secret)
    (spoiled.project / "overlay" / "folder").symlink_to(tmp_path, target_is_directory=True)
    (spoiled.project / "patches" / "0003-x.patch").symlink_to(secret)
    (spoiled.project / "patches" / "folder").symlink_to(tmp_path, target_is_directory=True)
    os.mkfifo(spoiled.project / "overlay" / "pipe")
    os.mkfifo(spoiled.project / "patches" / "pipe.patch")
    before = snapshot(spoiled.project)
    facts = lint(spoiled, "--fix")
    found = {each["path"] for each in facts["findings"]}
    assert found == {
        *("overlay/link", "overlay/folder", "overlay/pipe"),
        *("patches/series", "patches/folder", "patches/pipe.patch"),
    }
    assert "secret" not in str([each["what"] for each in facts["findings"]])
    assert snapshot(spoiled.project) == before


def test_long_files_take_no_long_time(spoiled: Toy) -> None:
    """Each rule is at worst a little more than linear in what a patch holds, or gives up beyond a size."""
    name = "0003-Long.patch"
    lines = [b"line %d" % (number % 50) for number in range(5000)]
    head = (spoiled.project / "patches" / FIRST).read_bytes().split(b"diff --git")[0]
    index = b"diff --git a/f.py b/f.py\nindex %s..%s 100644\n--- a/f.py\n+++ b/f.py\n" % (b"1" * 40, b"2" * 40)
    hunk = b"@@ -1,5000 +1,5000 @@\n" + b"".join(b"-%s\n" % line for line in lines)
    patch = head.replace(b"Choose", b"Long") + index + hunk + b"".join(b"+%s\n" % line for line in reversed(lines))
    (spoiled.project / "patches" / name).write_bytes(patch)
    series = spoiled.project / "patches" / "series"
    series.write_text(series.read_text() + name + "\n")
    start = time.monotonic()
    assert shallow(spoiled)["findings"]
    assert time.monotonic() - start < 10


def test_a_workspace_that_is_none_is_refused_as_everywhere(spoiled: Toy, tmp_path: Path) -> None:
    (tmp_path / "zip").mkdir()
    (tmp_path / "zip" / "README.md").write_text("unpacked")
    done = spoiled.run("lint", "--workspace", str(tmp_path / "zip"))
    assert done.code == 2
    assert "no .git of its own" in done.err
