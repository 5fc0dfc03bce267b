"""Where the output goes may be closed, full or a pipe that nobody reads: the work and the exit code do not suffer."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from toys import ROOT, Run, Toy


def shell(toy: Toy, words: str, around: str) -> Run:
    """`around` holds {} where the command goes."""
    command = shlex.join([sys.executable, str(ROOT / "apply.py"), *toy.arguments(*words.split())])
    script = f"set -o pipefail; {around.format(command)}"
    # As on a user's machine: Python keeps output back until the end.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(["bash", "-c", script], cwd=toy.folder, env=env, capture_output=True, text=True)
    return Run(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("around", ["{} <&-", "{} >&-", "{} 2>&-", "{} <&- >&- 2>&-", "{} | true", "{} 2>&1 | true"])
@pytest.mark.parametrize(
    "words",
    [
        "apply --set model_path=/other",
        pytest.param("status --json", marks=pytest.mark.slow),
        pytest.param("lint", marks=pytest.mark.slow),
        "nonsense",
        "--help",
    ],
)
def test_closed_streams(applied: Toy, words: str, around: str) -> None:
    expected = {"lint": 1, "nonsense": 2}.get(words, 0)  # the toy's patches have no trailers
    done = shell(applied, words, around)
    assert (done.code, "Traceback" in done.err, "Exception" in done.err) == (expected, False, False), done.err
    if words.startswith("apply"):
        assert b"/other/ckpt.pth" in applied.read("eval_configs/eval.yaml")


@pytest.mark.parametrize("words", ["status", "status --json", "nonsense --json"])
def test_a_full_disk_behind_the_output(applied: Toy, words: str) -> None:
    done = shell(applied, words, "{} >/dev/full")
    assert (done.code, done.err.count("\n")) == (70, 1), done.err
    assert "No space left on device" in done.err


def test_progress_that_nobody_reads_stops_nothing(toy: Toy) -> None:
    """`apply.py 2>&1 | head -1`: the reader is gone long before the end."""
    toy.apply()
    toy.write("demo.py", b"mine\n")
    toy.make_patches([("One", {"demo.py": b"print('one')\n"})])
    rules = (toy.project / "configs" / "paths.yaml").read_text()
    (toy.project / "configs" / "paths.yaml").write_text(rules.replace("    encoder:", "    # encoder:"))
    toy.apply("lock")
    done = shell(toy, "apply --force", "{} 2>&1 >/dev/null | true")
    assert (done.code, done.err) == (0, "")
    assert toy.read("demo.py") == b"print('one')\n"


@pytest.mark.parametrize(
    "words",
    [
        "nonsense",
        "apply --set",
        "apply --set x",
        "apply --set nosuch=1",
        "--no-such",
        "check --onto x",
        "rebase --abort x",
    ],
)
def test_every_error_is_one_json_object(toy: Toy, words: str) -> None:
    done = toy.spawn(*words.split(), "--json")
    assert (done.code, json.loads(done.out)["code"]) == (2, 2), done.out + done.err
    assert not Path(toy.workspace).exists()
