"""Fixtures that need the real upstream; without it the tests that use them are skipped, with the reason."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # plain `pytest` does not put the working directory there

from overlaykit.project import read_upstream

# Files of few and long tests. The command lines of the suite keep this order (--no-loadscope-reorder), for a long
# file that comes last leaves the other cores idle.
FIRST = [
    *("test_patches.py", "test_kill.py", "test_stages.py", "test_rebase_kill.py", "test_rebase_history.py"),
    *("test_workspace.py", "test_kill_swap.py", "test_mutation.py", "test_gate_shipped.py", "test_run_predict_om.py"),
    *("test_run_performance_image_upstream.py", "test_auto_map_loading.py", "test_run_predict_upstream.py"),
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in FIRST)


PIN = read_upstream(ROOT / "configs" / "upstream.yaml")


@pytest.fixture(scope="session")
def upstream_repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare clone of upstream that holds the pin. MINIGPT4_UPSTREAM may name a URL, folder or bundle to clone."""
    source = os.environ.get("MINIGPT4_UPSTREAM") or PIN.url
    folder = tmp_path_factory.mktemp("upstream") / "MiniGPT-4.git"
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    for command, seconds in (
        (["git", "ls-remote", "--heads", source], 20),
        (["git", "clone", "--quiet", "--bare", source, str(folder)], 300),
        (["git", "-C", str(folder), "cat-file", "-e", f"{PIN.commit}^{{commit}}"], 20),
    ):
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired:
            pytest.skip(f"upstream not reached: {' '.join(command)} took more than {seconds} s")
        if done.returncode:
            pytest.skip(f"upstream not reached: {' '.join(command)}: {done.stderr.strip()}")
    return folder


@pytest.fixture(scope="session")
def workspace(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real upstream with patches/ and overlay/ as they are now, whatever the lock says (test_lock checks that).

    OVERLAY_WORKSPACE names an existing workspace to use instead.
    """
    if "OVERLAY_WORKSPACE" in os.environ:
        return Path(os.environ["OVERLAY_WORKSPACE"]).resolve()
    upstream = request.getfixturevalue("upstream_repo")
    folder = tmp_path_factory.mktemp("workspace")
    for part in ("patches", "overlay", "configs"):
        shutil.copytree(ROOT / part, folder / "project" / part)
    target = folder / "MiniGPT-4"
    common = [sys.executable, str(ROOT / "apply.py"), "--project", str(folder / "project")]
    for verb in ("lock", "apply"):
        subprocess.run([*common, verb, "--workspace", str(target), "--upstream", str(upstream)], check=True)
    return target
