"""`verify.py env` on a good machine with one fault each: the fault is found, and nothing else is called wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.verification.env_machines import ASCEND, MACHINES, Fake, torch
from verification import env
from verification.env_source import Source
from verification.report import Outcome

PROJECT = Path(__file__).resolve().parents[2]
NOTE, FAILED = Outcome.NOTE, Outcome.FAILED
KERNELS = f"{ASCEND}/cann/opp/built-in/op_impl/ai_core/tbe/kernel"
SITE = "usr/local/lib/python3.11/site-packages"


def packages(fake: Fake, **changed: str) -> None:
    """Other versions; "" takes a package away."""
    shutil.rmtree(fake.root / SITE)
    fake.python("3.11.13", {name: it for name, it in {**torch("2.10.0", "2.10.0.post4"), **changed}.items() if it})


def table(fake: Fake, old: str, new: str) -> None:
    """npu-smi says something else."""
    place = fake.root / "tmp" / "info"
    text = place.read_text()
    assert old in text
    place.write_text(text.replace(old, new))


def health(fake: Fake, word: str) -> None:
    table(fake, "| 0     910B3               | OK      ", f"| 0     910B3               | {word.ljust(8)}")


def silent_a3(fake: Fake) -> None:
    fake.npu_smi("a3-silent", ("25.2.1", "26.1.0"))


def mixed(fake: Fake) -> None:
    table(fake, "| 0     910B3  ", "| 0     910B4-1")


def older_release(fake: Fake) -> None:
    """CANN 8.3.RC1 with its pair, and then without its kernels: the folders of that release are known."""
    shutil.rmtree(fake.root / ASCEND)
    fake.npu_smi("910b3", ("24.1.1", "25.3.0")).driver("25.3.0", "7.7.0.9.220").cann("8.3.RC1", "ascend-toolkit/latest")
    packages(fake, torch="2.8.0", torch_npu="2.8.0")
    shutil.rmtree(fake.root / ASCEND / "ascend-toolkit/latest/opp/built-in")


def no_kernels(fake: Fake) -> None:
    shutil.rmtree(fake.root / KERNELS)


def runtime_only(fake: Fake) -> None:
    (fake.root / ASCEND / "cann/bin/atc").unlink()


def no_cann(fake: Fake) -> None:
    shutil.rmtree(fake.root / ASCEND / "cann")
    for name in ("ASCEND_TOOLKIT_HOME", "ASCEND_OPP_PATH", "LD_LIBRARY_PATH", "PYTHONPATH"):
        del fake.env[name]
    fake.env["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"


def unknown_cann(fake: Fake) -> None:
    info = next((fake.root / ASCEND / "cann").glob("*-linux/ascend_toolkit_install.info"))
    info.write_text("version=12.0.0\n")


def no_library(fake: Fake) -> None:
    (fake.root / ASCEND / "driver/lib64/driver/libascend_hal.so").unlink()


def library_not_found(fake: Fake) -> None:
    (fake.root / "etc/ld.so.conf.d/ascend_driver_so.conf").unlink()


def updated(fake: Fake) -> None:
    fake.file(f"{ASCEND}/driver/version.info", "Version=26.2.0\n")


def one_file_missing(fake: Fake) -> None:
    (fake.root / "dev/devmm_svm").unlink()


def python(fake: Fake, version: str) -> None:
    shutil.rmtree(fake.root / "usr/local/lib")
    shutil.rmtree(fake.root / "usr/local/include")
    fake.python(version, torch("2.10.0", "2.10.0.post4"))


def memory(fake: Fake) -> None:
    fake.system("Ubuntu 22.04.5 LTS", "aarch64", "2.35", free=12, total=16)


FAULTS: dict[str, tuple[Callable[[Fake], None], str, Outcome, str]] = {
    "a warning": (lambda fake: health(fake, "Warning"), "health", NOTE, "npu-smi info -t health -i 0"),
    "an alarm": (lambda fake: health(fake, "Alarm"), "health", FAILED, "Alarm at npu:0"),
    "an A3 without a name": (silent_a3, "processor", NOTE, "npu-smi info -t board -i 0 -c 0"),
    "two kinds": (mixed, "processor", NOTE, "1 x Ascend910B4-1, 7 x Ascend910B3"),
    "kernels of 8.3": (older_release, "kernels", FAILED, "Install Ascend-cann-kernels-910b 8.3.RC1"),
    "kernels of 9.1": (no_kernels, "kernels", NOTE, "Newer releases may keep them in a folder that is not known"),
    "no ATC": (runtime_only, "ATC", NOTE, "cannot make one"),
    "no CANN": (no_cann, "toolkit", FAILED, "Install Ascend-cann-toolkit"),
    "an unknown CANN": (unknown_cann, "toolkit", NOTE, "has no row for this release"),
    "no driver library": (no_library, "driver's libraries", FAILED, "libascend_hal.so is missing"),
    "driver library not on the path": (library_not_found, "driver's libraries", NOTE, "export LD_LIBRARY_PATH="),
    "a driver updated since": (updated, "driver", NOTE, "26.1.0 and 26.2.0"),
    "a device file": (one_file_missing, "device files", FAILED, "missing: /dev/devmm_svm"),
    "Python far too old": (lambda fake: python(fake, "3.8.20"), "Python", FAILED, "This port needs Python >=3.9"),
    "no torch": (lambda fake: packages(fake, torch=""), "torch", FAILED, "torch==2.10.0 torch_npu==2.10.0.post4"),
    "no torch_npu": (lambda fake: packages(fake, torch_npu=""), "torch_npu", FAILED, "torch_npu==2.10.0.post4"),
    "an unknown torch_npu": (
        lambda fake: packages(fake, torch_npu="2.10.0.post99"), "pair with CANN", NOTE, "does not know this release",
    ),
    "transformers 6": (lambda fake: packages(fake, transformers="6.0.1"), "transformers", FAILED, ">=4.30.2,<6"),
    "no sentencepiece": (lambda fake: packages(fake, sentencepiece=""), "packages", FAILED, "pip install '.[npu]'"),
    "no aclruntime": (lambda fake: packages(fake, aclruntime=""), "ais_bench", FAILED, "not installed: aclruntime"),
    "the other ais_bench": (
        lambda fake: packages(fake, ais_bench="", ais_bench_benchmark="3.0"), "ais_bench", FAILED, "is something else",
    ),
    "little memory": (memory, "host memory", NOTE, "12.0 of 16.0 GB free"),
    "no NPU visible": (
        lambda fake: fake.env.update(ASCEND_RT_VISIBLE_DEVICES=""), "ASCEND_RT_VISIBLE_DEVICES", FAILED, "fewer",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_is_found_and_no_other(fault: str, tmp_path: Path) -> None:
    change, name, outcome, text = FAULTS[fault]
    fake = Fake(tmp_path / "root")
    MACHINES["current"][0](fake)
    change(fake)
    report = env.examine(PROJECT, Source(fake.root, fake.env))
    found = [it for it in report.findings if it.name == name and it.outcome is outcome]
    assert found, env.to_table(report)
    assert text in f"{found[0].found} {found[0].why} {found[0].remedy}"
    assert [it.name for it in report.wrong] == ([name] if outcome is FAILED else [])


def test_the_kernels_of_an_a3_are_another_package(tmp_path: Path) -> None:
    fake = Fake(tmp_path / "root")
    MACHINES["a3"][0](fake)
    kernels = fake.root / KERNELS
    (kernels / "ascend910_93").rename(kernels / "ascend910b")
    info = next((fake.root / ASCEND / "cann").glob("*-linux/ascend_toolkit_install.info"))
    for version, package in (("8.5.0", "Ascend-cann-A3-ops"), ("8.3.RC1", "Atlas-A3-cann-kernels")):
        info.write_text(f"version={version}\n")
        report = env.examine(PROJECT, Source(fake.root, fake.env))
        (found,) = [it for it in report.findings if it.name == "kernels"]
        assert f"{package} {version}" in found.remedy


def test_numpy_2_is_too_new_for_the_seeds_torch(tmp_path: Path) -> None:
    fake = Fake(tmp_path / "root")
    MACHINES["seed"][0](fake)
    folder = fake.root / "usr/local/lib/python3.9/site-packages"
    shutil.rmtree(folder / "numpy-1.24.4.dist-info")
    fake.file(f"{folder.relative_to(fake.root)}/numpy-2.0.2.dist-info/METADATA", "Name: numpy\nVersion: 2.0.2\n")
    report = env.examine(PROJECT, Source(fake.root, fake.env))
    assert "pip install 'numpy<2'" in {it.remedy for it in report.wrong}
