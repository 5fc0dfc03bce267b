"""The table of Ascend releases, and that every machine which follows it is called good."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from overlaykit.errors import FixTheProjectFile
from tests.verification.env_machines import Fake, torch
from verification import env
from verification.env_python import release
from verification.env_source import Source
from verification.env_stack import read_stack

PROJECT = Path(__file__).resolve().parents[2]
STACK = read_stack(PROJECT)
PAIRS = [(row.cann, it) for row in STACK.releases for it in row.torch_npu if STACK.torch_npu.holds(it)]


def machine(root: Path, cann: str, wheel: str, python: str, a3: bool = False) -> Fake:
    """CANN's release with the driver that is listed first, in the folders of that release."""
    row = STACK.of_cann(cann)
    assert row
    driver = f"{row.drivers[0]}.0"
    board, kernels = ("a3", "ascend910_93") if a3 else ("910b3", "ascend910b")
    fake = Fake(root).system("Ubuntu 22.04.5 LTS", "aarch64", "2.35")
    fake.npu_smi(board, ("25.2.1" if a3 else "24.1.1", driver), board=f"{board}.board").driver(driver, "7.8.0.7.220")
    fake.cann(cann, "cann" if cann >= "8.5" else "ascend-toolkit/latest", kernels=kernels)
    return fake.python(python, torch(release(wheel), wheel) if wheel else torch(""))


@pytest.mark.parametrize(("cann", "wheel"), PAIRS)
def test_every_listed_pair_is_good(cann: str, wheel: str, tmp_path: Path) -> None:
    """With the first and the last Python of the wheel, on an A2 and an A3."""
    row = STACK.of_cann(cann)
    assert row
    for number, python in enumerate(row.torch_npu[wheel]):
        version = "3.9.18" if python == "3.8" else f"{python}.7"  # 3.8 is refused by the port itself
        fake = machine(tmp_path / python, cann.replace("X", "2"), wheel, version, a3=bool(number))
        report = env.examine(PROJECT, Source(fake.root, fake.env))
        assert report.exit_code == 0, env.to_table(report)


@pytest.mark.parametrize(
    ("cann", "wheel", "outcome", "text"),
    [
        ("9.1.1", "2.12.0", "note", "It is made for CANN 9.1.0. Listed for CANN 9.1.X"),
        ("8.0.RC1", "2.4.0.post2", "note", "It is made for CANN 8.0.0. Listed"),
        ("8.3.RC1", "2.4.0.post2", "note", "made for CANN 8.0.0 and supported with this one too"),
        ("8.5.1", "2.9.0.post1+git4c901a4", "note", "does not know this release"),
        ("8.3.RC1", "2.4.0", "FAILED", "It is made for CANN 8.0.RC3"),  # extension 6.0.rc3: not among those said to run
        ("9.1.0", "2.9.0", "FAILED", "It is made for CANN 8.5.0"),
    ],
)
def test_pairs_that_are_not_listed(cann: str, wheel: str, outcome: str, text: str, tmp_path: Path) -> None:
    """The README's pair for a series is never wrong for another release of it; other things are only said if known."""
    fake = machine(tmp_path, cann, wheel, "3.10.18")
    report = env.examine(PROJECT, Source(fake.root, fake.env))
    (pair,) = [found for found in report.findings if found.name == "pair with CANN"]
    assert (pair.outcome.value, [it.name for it in report.wrong]) == (outcome, [pair.name] * (outcome == "FAILED"))
    assert text in pair.why


@pytest.mark.parametrize(
    ("cann", "python", "wheel"),
    [("9.1.0", "3.9.18", "2.7.1.post8"), ("9.0.0", "3.9.18", "2.8.0.post4"), ("8.5.0", "3.9.18", "2.8.0.post2"),
     ("9.1.0", "3.13.5", "2.12.0")],
)  # fmt: skip
def test_what_is_to_be_installed_exists_for_this_python(cann: str, python: str, wheel: str, tmp_path: Path) -> None:
    fake = machine(tmp_path, cann, "", python)
    report = env.examine(PROJECT, Source(fake.root, fake.env))
    assert [found.name for found in report.wrong] == ["torch", "ais_bench"]
    assert f"pip install torch=={release(wheel)} torch_npu=={wheel}" in report.wrong[0].remedy


def test_a_python_without_wheels_is_wrong_where_none_is_installed(tmp_path: Path) -> None:
    fake = machine(tmp_path / "1", "9.1.0", "", "3.14.0")
    report = env.examine(PROJECT, Source(fake.root, fake.env))
    assert report.wrong[0].why == "The torch_npu wheels of CANN 9.1.0 are for Python 3.9 to 3.13."
    assert report.wrong[0].remedy.startswith("python3.13 -m venv")


@pytest.mark.parametrize(
    ("version", "row"),
    [
        ("9.1.0", "9.1.0"),
        ("9.1.1", "9.1.X"),
        ("9.0.1", "9.0.0"),
        ("8.1.RC1.beta1", "8.1.RC1"),
        ("8.3.rc1", "8.3.RC1"),
        ("9.0.0-beta.2", "9.0.0"),
        ("7.0.T10", "7.0.0"),
        ("8.0.RC2.2", "8.0.RC2"),
        ("8.0.RC1.beta1", "8.0.RC1"),
        ("8.5.1", "8.5.0"),
        ("12.3.0", None),
        ("", None),
    ],
)
def test_the_row_of_a_cann(version: str, row: str | None) -> None:
    found = STACK.of_cann(version)
    assert (found.cann if found else None) == row


def recommended() -> dict[str, str]:
    """What README tells to install: CANN, as the file names it -> torch_npu."""
    found = {}
    for path in (PROJECT / "constraints").glob("cann-*.txt"):
        text = path.read_text(encoding="utf-8")
        wheel, torch = (re.search(rf"^{name}==(\S+)", text, re.MULTILINE) for name in ("torch_npu", "torch"))
        assert wheel
        assert torch
        assert release(wheel[1]) == torch[1]
        found[path.stem.split("-")[1]] = wheel[1]
    return found


def test_the_constraints_files_name_listed_pairs() -> None:
    rows = {row.cann.lower(): row for row in STACK.releases}
    assert len(recommended()) >= 8
    for cann, wheel in recommended().items():
        assert wheel in rows[cann].torch_npu


def test_the_ranges_are_those_of_pyproject() -> None:
    text = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
    extra = text.partition("\nnpu = [")[2].partition("]")[0]
    asked = dict(re.findall(r'"([\w-]+)(>=[^"]+)"', extra))
    assert asked == {name: str(limits) for name, limits in STACK.packages.items()}
    assert f'requires-python = "{STACK.python}"' in text


def test_every_release_has_a_torch_npu_that_this_port_takes() -> None:
    for row in STACK.releases:
        assert STACK.torch_npu.holds(STACK.listed(row, "", "3.10.1")), row.cann


@pytest.mark.parametrize("content", ["releases: 3", "[]", "releases: [{cann: 9}]", "a: [", ""])
def test_a_table_of_another_form_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "ascend_stack.yaml").write_text(content)
    with pytest.raises(FixTheProjectFile, match="cannot be used"):
        read_stack(tmp_path)


def test_every_row_has_its_source() -> None:
    content = yaml.safe_load((PROJECT / "configs" / "ascend_stack.yaml").read_text(encoding="utf-8"))
    assert all(row["source"] for row in (*content["releases"], *content["exchangeable"]))
