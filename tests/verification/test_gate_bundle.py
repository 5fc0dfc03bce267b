"""A bundle: judged elsewhere as in the run that wrote it, and nothing in it names a machine, a user or a file."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from recordings import WEIGHTS, small_golden, small_taking

import verify
from overlaykit.errors import FixTheCommand
from verification.gate.bundle import device_facts, redacted
from verification.gate.checked import TAKING_FACTS
from verification.gate.golden import TAKING, Recording, load
from verification.gate.replay import replay
from verification.gate.run import run_gate
from verification.report import Outcome

ROOT = Path(__file__).parents[2]
SECRETS = ["/home/bob", "bob", "node17", "secret", "C:\\Users"]
TEXT = "/home/bob/secret on node17, C:\\Users"


@pytest.fixture
def recorded(golden: Recording) -> Recording:
    """As `verify.py record` writes it."""
    facts = {"weights": WEIGHTS, "code": {}, "versions": {"python": "3.11.7"}, "date": "2026-11-23"}
    return Recording({**golden.about, **facts}, golden.arrays)


def taken(port: Any, pictures: list[Path], golden: Recording) -> Any:
    return run_gate(port, port.files, pictures, ["Describe this image in detail."], ROOT / "configs/gate.yaml", golden)


def test_replay_says_what_the_run_said(port: Any, pictures: list[Path], recorded: Recording, tmp_path: Path) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError(TEXT)

    port.decode = broken
    gated = taken(port, pictures, recorded)
    redacted(gated.taking).save(tmp_path / "bundle.npz")
    recorded.save(tmp_path / "golden.npz")
    report = replay(tmp_path / "bundle.npz", tmp_path / "golden.npz", ROOT)
    for here, there in zip(gated.checks, report.checks):
        text = json.dumps(here.numbers)
        for p, path in enumerate(pictures):
            text = text.replace(f'"{path.stem[:18]}', f'"picture {p + 1}')
        assert json.loads(text) == json.loads(json.dumps(there.numbers))
        assert (here.name, here.outcome, here.measured, here.level) == (
            there.name,
            there.outcome,
            there.measured,
            there.level,
        )
    assert len(gated.checks) == len(report.checks) > 8
    assert report.exit_code == 1
    assert next(check for check in report.checks if check.name == "decode").detail == "RuntimeError"


def test_nothing_in_a_bundle_names_a_machine(port: Any, pictures: list[Path], recorded: Recording) -> None:
    class BobsError(Exception):
        pass

    def broken(*_: Any) -> Any:
        raise RuntimeError(TEXT)

    def named(*_: Any) -> Any:
        raise BobsError(TEXT)

    port.prompt, port.greedy = broken, named
    taking = taken(port, pictures, recorded).taking
    assert TEXT in json.dumps(taking.about, ensure_ascii=False).replace("\\\\", "\\")
    spoilt = dict(taking.about)
    spoilt["versions"] = {"python": "3.11.7", "torch": "2.1.0+bob.node17", "torch_npu": TEXT, "/home/bob/x": "1"}
    spoilt["device"] = {"kind": "npu", "chip": f"Ascend910B3 of {TEXT}", "host": "node17"}
    spoilt["encoder"] = "/home/bob/eva_vit_g.om"
    spoilt["weights"] = {**WEIGHTS, "/home/bob": "0" * 64, "ckpt": TEXT}
    spoilt["timings"] = {**taking.about["timings"], TEXT: [[1, 0.5]]}
    spoilt["broken"] = {**taking.about["broken"], TEXT: TEXT}
    spoilt["pixels"] = [{**row, "path": TEXT} for row in taking.about["pixels"]]
    spoilt["user"] = "bob"
    arrays = {**taking.arrays, "bob.0": taking.arrays["features.0"]}
    found = redacted(Recording(spoilt, arrays))
    content = found.to_bytes()
    assert not [word for word in SECRETS if word.encode() in content]
    assert not [path for path in pictures if path.stem.encode() in content]
    assert found.about["versions"]["torch"] == "2.1.0"
    assert found.about["device"] == {"kind": "npu", "chip": ""}
    assert found.about["broken"] == {"prompt": "RuntimeError", "greedy ids": "Exception", "repeat": "Exception"}
    assert found.about.keys() == TAKING_FACTS.keys()


def test_what_a_reader_wants_to_know_stays(tmp_path: Path) -> None:
    taking = small_taking(small_golden())
    found = redacted(taking)
    assert found.about == taking.about
    found.save(tmp_path / "bundle.npz")
    assert load(tmp_path / "bundle.npz", TAKING).digest == taking.digest


def test_the_device_is_known_by_its_chip() -> None:
    assert device_facts(torch.device("cpu"))["kind"] == "cpu"
    for chip in ("Ascend910B3", "NVIDIA H100 80GB HBM3", "aarch64", "Ascend 310P3"):
        taking = small_taking(small_golden(), device={"kind": "npu", "chip": chip})
        assert redacted(taking).about["device"]["chip"] == chip


def written(folder: Path, golden: Recording, taking: Recording) -> list[str]:
    golden.save(folder / "golden.npz")
    taking.save(folder / "bundle.npz")
    return ["replay", str(folder / "bundle.npz"), "--against", str(folder / "golden.npz")]


def test_replay_prints_a_table_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = written(tmp_path, small_golden(), small_taking(small_golden()))
    assert verify.main(command) == 0
    table = capsys.readouterr().out
    assert "npu Ascend910B3 float32" in table
    assert "golden's weights  ok" in table
    assert verify.main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [check["level"] for check in report["checks"]] == ["L0", "L1", *["L2"] * 3, *["L3"] * 3, *["L4"] * 2]
    assert {row["name"]: row["seconds"] for row in report["timings"]["stages"]} == {"prefill": [0.25], "decode": [0.5]}


def test_other_weights_are_one_failed_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    golden = small_golden()
    other = small_taking(golden, weights={**WEIGHTS, "ckpt": "f" * 64})
    assert verify.main(written(tmp_path, golden, other)) == 1
    assert "3 of 4 equal" in capsys.readouterr().out


def test_a_bundle_of_another_golden_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    golden = small_golden()
    command = written(tmp_path, golden, small_taking(small_golden(date="2020-01-01")))
    assert verify.main(command) == 2
    said = capsys.readouterr().err
    assert golden.digest in said
    assert "run verify.py --against this one --bundle again" in said


def test_an_incomplete_bundle_is_refused(tmp_path: Path) -> None:
    golden = small_golden()
    taking = small_taking(golden)
    arrays = {name: array for name, array in taking.arrays.items() if name != "logits.1.0"}
    command = written(tmp_path, golden, dataclasses.replace(taking, arrays=arrays))
    with pytest.raises(FixTheCommand, match=r"(?s)incomplete.*lacks logits\.1\.0"):
        replay(Path(command[1]), Path(command[3]), ROOT)


def test_known_pictures_have_their_names(tmp_path: Path) -> None:
    from verification.prompts import load_prompts

    known = load_prompts(ROOT / "configs" / "prompts.yaml").pictures["office.jpg"].sha256
    golden = small_golden(pictures=[{"sha256": sha, "pixels": "a" * 64} for sha in (known, "b" * 64)])
    command = written(tmp_path, golden, small_taking(golden))
    report = replay(Path(command[1]), Path(command[3]), ROOT)
    assert list(report.checks[1].numbers["values"]) == ["office", "picture 2"]
    assert {check.outcome for check in report.checks} == {Outcome.PASSED}


def test_replay_needs_no_torch(tmp_path: Path) -> None:
    command = written(tmp_path, small_golden(), small_taking(small_golden()))
    code = "import sys; sys.modules.update(torch=None, transformers=None); import verify; "
    code += "sys.exit(verify.main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
