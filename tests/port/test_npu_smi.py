"""find_npus and soc_version, on tables as npu-smi prints them (written for the tests, in the forms of real ones)."""

from __future__ import annotations

import time
from pathlib import Path

import port_package  # noqa: F401
import pytest
from port.export import npu_smi
from port.export.npu_smi import SOC_VERSIONS, CannError, Npu, call_npu_smi, find_npus, soc_version
from port.models.npu_soc import SUPPORTED

STAND_INS = Path(__file__).parent / "stand_ins"
TABLES = Path(__file__).parent / "npu_smi_tables"


@pytest.fixture
def shows(monkeypatch):
    """The stand-in npu-smi is on PATH, and shows this table or fails this way."""

    def set_up(what: str) -> None:
        monkeypatch.setenv("PATH", str(STAND_INS), prepend=":")
        monkeypatch.setenv("STAND_IN_NPU_SMI", what)

    return set_up


def npu(index: int, soc: str, name: str = "") -> Npu:
    return Npu(index, index, 0, name or soc.removeprefix("Ascend"), soc, "OK")


def test_names_are_those_of_the_table_of_processors():
    assert tuple(f"Ascend{name}" for name in SUPPORTED.values()) == SOC_VERSIONS


def test_eight_cards_of_an_a2(shows):
    shows("910b3")
    found = find_npus()
    assert [(it.index, it.card, it.chip) for it in found] == [(i, i, 0) for i in range(8)]
    assert {it.soc_version for it in found} == {"Ascend910B3"}
    assert [it.health for it in found] == ["OK"] * 5 + ["Warning"] + ["OK"] * 2
    assert soc_version(None, found) == "Ascend910B3"


@pytest.mark.parametrize(
    ("table", "soc", "count"), [("910b4", "Ascend910B4", 2), ("910b4-1", "Ascend910B4-1", 1)], ids=str
)
def test_other_a2(shows, table, soc, count):
    shows(table)
    assert [it.soc_version for it in find_npus()] == [soc] * count


def test_a3_has_two_chips_a_card_and_its_board_says_which(shows):
    shows("a3")
    found = find_npus()
    assert [(it.index, it.card, it.chip) for it in found] == [(0, 0, 0), (1, 0, 1), (2, 1, 0), (3, 1, 1)]
    assert soc_version(None, found) == "Ascend910_9391"


def test_the_board_is_asked_once_a_card():
    asked = []

    def run(arguments):
        asked.append(arguments)
        return 0, (TABLES / ("a3.board.txt" if "-t" in arguments else "a3.txt")).read_text()

    find_npus(run)
    assert asked == [["info"], *(["info", "-t", "board", "-i", card, "-c", "0"] for card in "01")]


def test_a3_whose_board_is_silent_needs_the_name(shows):
    shows("a3-silent")
    found = find_npus()
    assert [it.soc_version for it in found] == ["", ""]
    with pytest.raises(CannError, match=r"calls this processor Ascend910, .*--soc-version"):
        soc_version(None, found)
    assert soc_version("Ascend910_9392", found) == "Ascend910_9392"


def test_a_container_has_one_card_of_another_number(shows):
    shows("container")
    assert find_npus() == [Npu(0, 7, 0, "910B3", "Ascend910B3", "OK")]


@pytest.mark.parametrize(("table", "name"), [("310p", "Ascend310P3"), ("910prob", "Ascend910ProB")], ids=str)
def test_processors_that_this_port_is_not_for(shows, table, name):
    shows(table)
    found = find_npus()
    assert [it.soc_version for it in found] == [name] * 2
    with pytest.raises(CannError, match=f"calls this processor {name}, which is none that this port knows") as error:
        soc_version(None, found)
    assert error.value.exit_code == 5
    assert "Ascend910B3" in str(error.value)


def test_a_mixed_machine_needs_the_name(shows):
    shows("mixed")
    with pytest.raises(CannError, match=r"differ \(0: Ascend910B3, 1: Ascend910B4\)"):
        soc_version(None, find_npus())
    assert soc_version("910B4", find_npus()) == "Ascend910B4"


def test_an_empty_table(shows):
    shows("none")
    assert find_npus() == []


def test_no_npu_smi(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(npu_smi, "PROGRAMS", ("/nowhere/npu-smi",))
    assert find_npus() == []
    with pytest.raises(CannError, match=r"no NPU was found here.*Ascend910B4-1.*Ascend910_9363") as error:
        soc_version(None, [])
    assert error.value.exit_code == 5


def test_a_table_counts_whatever_the_exit_code():
    found = find_npus(lambda _: (1, (TABLES / "910b4.txt").read_text()))
    assert len(found) == 2


def test_half_a_table():
    lines = (TABLES / "910b4.txt").read_text().splitlines()
    assert [it.card for it in find_npus(lambda _: (0, "\n".join([lines[1], *lines[7:]])))] == [1]


def test_npu_smi_that_is_not_on_path(monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(npu_smi, "PROGRAMS", (str(STAND_INS / "npu-smi"),))
    monkeypatch.setenv("STAND_IN_NPU_SMI", "910b4-1")
    assert len(find_npus()) == 1


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("broken", r"exit code 1.*-8020.*Another container has the NPUs.*/dev/davinci_manager"),
        ("module", r"-8005.*Another container"),
        ("silent", r"exit code 255.*-8012.*driver does not answer.*dmesg"),
        ("libraries", r"libc_sec\.so.*libraries are not found.*/usr/local/Ascend/driver"),
        ("odd", r"exit code 0\): nothing\. .*by hand"),
    ],
)
def test_a_broken_driver_is_explained(shows, what, text):
    shows(what)
    with pytest.raises(CannError, match=text):
        find_npus()


@pytest.mark.parametrize("what", ["hang", "hang-child"])
def test_npu_smi_that_hangs(shows, what):
    shows(what)
    start = time.monotonic()
    with pytest.raises(CannError, match=r"did not answer in 0\.5 s: the driver hangs"):
        call_npu_smi(["info"], timeout=0.5)
    assert time.monotonic() - start < 5


def test_what_hangs_is_ended_with_its_children(monkeypatch, tmp_path):
    program = tmp_path / "npu-smi"
    program.write_text(f"#!/bin/sh\nsleep 60 &\necho $! > {tmp_path}/child\nsleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(CannError, match="did not answer"):
        call_npu_smi(["info"], timeout=0.5)
    status = Path(f"/proc/{(tmp_path / 'child').read_text().strip()}/stat")
    deadline = time.monotonic() + 5
    while status.exists() and status.read_text().split(")")[1].split()[0] != "Z" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert time.monotonic() < deadline


def test_npu_smi_of_another_machine(monkeypatch, tmp_path):
    program = tmp_path / "npu-smi"
    program.write_bytes(b"\x7fELF not for this processor")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannError, match="cannot be started"):
        find_npus()


@pytest.mark.parametrize("text", ["Ascend910B3", "910b3", "ascend910B3", " Ascend910B3 "])
def test_a_given_name_wins(text):
    assert soc_version(text, [npu(0, "Ascend910B4")]) == "Ascend910B3"


@pytest.mark.parametrize("text", ["Ascend310P3", "910", "Ascend910B", "H100"])
def test_a_given_name_that_is_not_known(text):
    with pytest.raises(CannError, match=rf"--soc-version {text}: not a processor of this port.*Ascend910B1") as error:
        soc_version(text, [])
    assert error.value.exit_code == 2
