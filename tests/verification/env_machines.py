"""Machines made of files: what `verify.py env` would find on them, without one of them being there."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

TABLES = Path(__file__).resolve().parents[1] / "port" / "npu_smi_tables"
ASCEND = "usr/local/Ascend"
PACKAGES = {
    "transformers": "4.57.6",
    "sentencepiece": "0.2.1",
    "protobuf": "6.33.0",
    "omegaconf": "2.3.0",
    "pillow": "12.0.0",
    "numpy": "1.26.4",
    "onnx": "1.19.1",
    "onnxruntime": "1.23.2",
    "tqdm": "4.67.1",
}
BENCH = {"ais_bench": "0.0.2", "aclruntime": "0.0.2"}


@dataclass
class Fake:
    """A machine below `root`; every method adds a part of it and returns the machine."""

    root: Path
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.env.update(PATH="/usr/bin:/bin", HOME=str(self.root / "root"))

    def file(self, place: str, text: str = "") -> Path:
        path = self.root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def program(self, name: str, script: str) -> Fake:
        self.file(f"usr/local/bin/{name}", f"#!/bin/sh\n{script}\n").chmod(0o755)
        return self

    def system(self, name: str, arch: str, glibc: str, free: int = 700, total: int = 800) -> Fake:
        """Memory in GB."""
        self.file("etc/os-release", f'PRETTY_NAME="{name}"\n')
        self.file(f"lib/ld-linux-{arch.replace('_', '-')}.so.1")
        self.file("lib64/libc.so.6", f"\0GNU C Library (Fake) stable release version {glibc}.\0")
        rows = (("MemTotal", total), ("MemFree", 1), ("MemAvailable", free))
        self.file("proc/meminfo", "".join(f"{name}: {-(-size * 10**9 // 1024)} kB\n" for name, size in rows))
        return self

    def container(self) -> Fake:
        self.file(".dockerenv")
        return self

    def npu_smi(self, table: str, version: tuple[str, str] = ("", ""), board: str = "910b3.board") -> Fake:
        """table: of tests/port/npu_smi_tables; version: the one in there, and the one to print, equally long."""
        text = (TABLES / f"{table}.txt").read_text(encoding="utf-8").replace(*version).replace("Warning", "OK     ")
        boards = TABLES / f"{board}.txt"
        said = boards.read_text(encoding="utf-8") if boards.exists() else "    Firmware Version      : 7.8.0.7.220\n"
        answers = [shlex.quote(str(self.file(f"tmp/{name}", it))) for name, it in (("info", text), ("board", said))]
        return self.program("npu-smi", f'case "$*" in *board*) cat {answers[1]};; *) cat {answers[0]};; esac')

    def driver(self, version: str, firmware: str = "", cards: int = 8) -> Fake:
        """The driver's files, its line for the dynamic linker, and the device files."""
        self.file(f"{ASCEND}/driver/version.info", f"Version={version}\n")
        self.file(f"{ASCEND}/driver/lib64/driver/libascend_hal.so")
        self.file("etc/ld.so.conf.d/ascend_driver_so.conf", f"/{ASCEND}/driver/lib64/driver\n")
        if firmware:
            self.file(f"{ASCEND}/firmware/version.info", f"Version={firmware}\n")
        for name in (*(f"davinci{number}" for number in range(cards)), "davinci_manager", "devmm_svm", "hisi_hdc"):
            self.file(f"dev/{name}")
        return self

    def cann(self, version: str, place: str = "cann", kernels: str = "ascend910b", sourced: bool = True) -> Fake:
        """place: cann, from 8.5 on, or ascend-toolkit/latest."""
        arch = "aarch64" if list((self.root / "lib").glob("*aarch64*")) else "x86_64"
        kit = self.root / ASCEND / place
        self.file(f"{ASCEND}/{place}/{arch}-linux/ascend_toolkit_install.info", f"version={version}\n")
        self.file(f"{ASCEND}/{place}/bin/atc").chmod(0o755)
        self.file(f"{ASCEND}/{place}/set_env.sh" if place == "cann" else f"{ASCEND}/ascend-toolkit/set_env.sh")
        for folder in (f"opp/built-in/op_impl/ai_core/tbe/kernel/{kernels}", "lib64", "python/site-packages"):
            (kit / folder).mkdir(parents=True)
        if sourced:
            self.env["ASCEND_TOOLKIT_HOME"] = str(kit)
            self.env["ASCEND_OPP_PATH"] = str(kit / "opp")
            self.env["LD_LIBRARY_PATH"] = str(kit / "lib64")
            self.env["PYTHONPATH"] = str(kit / "python" / "site-packages")
        return self

    def python(self, version: str, packages: dict[str, str], cuda: str = "", abi: str = "") -> Fake:
        """abi: what torch's CMake file says, which since 2.7 says nothing."""
        short = version.rpartition(".")[0]
        self.file(f"usr/local/include/python{short}/patchlevel.h", f'#define PY_VERSION              "{version}"\n')
        site = f"usr/local/lib/python{short}/site-packages"
        (self.root / site).mkdir(parents=True)
        for name, number in packages.items():
            text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n"
            self.file(f"{site}/{name}-{number}.dist-info/METADATA", text)
        if "torch" in packages:
            shown = f"'{cuda}'" if cuda else "None"
            self.file(f"{site}/torch/version.py", f"from typing import Optional\ncuda: Optional[str] = {shown}\n")
        if abi:
            flags = f'set(TORCH_CXX_FLAGS "-D_GLIBCXX_USE_CXX11_ABI={abi}")\n'
            self.file(f"{site}/torch/share/cmake/Torch/TorchConfig.cmake", flags)
        return self


def torch(version: str, npu: str = "") -> dict[str, str]:
    return {**PACKAGES, "torch": version, **({"torch_npu": npu, **BENCH} if npu else {})}


def seed(fake: Fake) -> None:
    """The original guide's stack."""
    fake.system("openEuler 22.03 LTS", "aarch64", "2.34").npu_smi("910b3", ("24.1.1", "23.0.0"))
    fake.driver("23.0.0", "7.1.0.3.220").cann("7.0.0", "ascend-toolkit/latest")
    old = {"transformers": "4.30.2", "numpy": "1.24.4", "onnx": "1.14.1", "onnxruntime": "1.16.3", "pillow": "10.0.1"}
    fake.python("3.9.18", {**torch("2.0.1", "2.0.1"), **old}, abi="0")
    fake.env.update(
        ATB_OPERATION_EXECUTE_ASYNC="0", ATB_CONTEXT_HOSTTILING_RING="1", ATB_CONTEXT_WORKSPACE_SIZE="629145600",
        ATB_TORCH_TENSOR_FORMAT_CAST="1", ATB_LAYER_INTERNAL_TENSOR_REUSE="1", TASK_QUEUE_ENABLE="0",
        ATB_HOME_PATH=str(fake.root / ASCEND / "atb/latest/atb/cxx_abi_0"),
        PYTORCH_NPU_ALLOC_CONF="max_split_size_mb:2048",
    )  # fmt: skip


def current(fake: Fake) -> None:
    """What vllm-ascend 0.23 runs on, and eight cards."""
    fake.system("Ubuntu 22.04.5 LTS", "aarch64", "2.35").npu_smi("910b3", ("24.1.1", "26.1.0"))
    fake.driver("26.1.0", "7.8.0.7.220").cann("9.1.0").python("3.11.13", torch("2.10.0", "2.10.0.post4"))
    fake.env.update(ASCEND_RT_VISIBLE_DEVICES="0,1", OMP_NUM_THREADS="8", HF_ENDPOINT="https://hf-mirror.com")


def mismatch(fake: Fake) -> None:
    """torch_npu of another torch, and of a CANN that is not here."""
    fake.system("Ubuntu 22.04.5 LTS", "aarch64", "2.35").npu_smi("910b3", ("24.1.1", "25.5.0"))
    fake.driver("25.5.0", "7.8.0.5.216").cann("8.5.0").python("3.11.13", torch("2.12.0", "2.11.0.post2"))


def exchangeable(fake: Fake) -> None:
    """Not the listed pair, and one that is supported."""
    fake.system("Ubuntu 22.04.5 LTS", "aarch64", "2.35").npu_smi("910b3").driver("24.1.1", "7.5.0.3.220")
    fake.cann("8.3.RC1", "ascend-toolkit/latest").python("3.10.18", torch("2.5.1", "2.5.1.post1"))


def no_davinci(fake: Fake) -> None:
    """A container of an NPU image that was started without the devices."""
    fake.system("Ubuntu 22.04.5 LTS", "aarch64", "2.35").container().cann("8.5.0")
    fake.python("3.11.13", torch("2.9.0", "2.9.0"))
    for name, text in (("vendor", "0x19e5"), ("class", "0x120000"), ("device", "0xd802")):
        fake.file(f"sys/bus/pci/devices/0000:c1:00.0/{name}", f"{text}\n")


def a3(fake: Fake) -> None:
    fake.system("openEuler 24.03 (LTS-SP1)", "aarch64", "2.38").npu_smi("a3", board="a3.board")
    fake.driver("25.2.1", cards=4).cann("8.5.0", kernels="ascend910_93").python("3.11.13", torch("2.9.0", "2.9.0"))


def refused(fake: Fake) -> None:
    """A 310P, for which this port has no operations."""
    fake.system("Ubuntu 22.04.5 LTS", "x86_64", "2.35").npu_smi("310p").driver("23.0.rc3", "7.0.0.5.242", cards=2)
    fake.cann("8.2.RC1", "ascend-toolkit/latest", kernels="ascend310p").python("3.10.18", torch("2.6.0", "2.6.0"))


def not_sourced(fake: Fake) -> None:
    fake.system("Ubuntu 22.04.5 LTS", "aarch64", "2.35").npu_smi("910b3", ("24.1.1", "25.2.0"))
    fake.driver("25.2.0", "7.7.0.6.236").cann("8.2.RC1", "ascend-toolkit/latest", sourced=False)
    fake.python("3.10.18", torch("2.6.0", "2.6.0"))


def onnxruntime_cann(fake: Fake) -> None:
    """It needs numpy 1, and shares its module with onnxruntime."""
    fake.system("Ubuntu 22.04.5 LTS", "aarch64", "2.35").npu_smi("910b3", ("24.1.1", "26.0.0"))
    packages = {**torch("2.10.0", "2.10.0"), "onnxruntime_cann": "1.24.4", "numpy": "2.4.6"}
    fake.driver("26.0.0", "7.8.0.6.220").cann("9.0.0").python("3.12.11", packages)


def broken_driver(fake: Fake) -> None:
    fake.system("Ubuntu 22.04.5 LTS", "aarch64", "2.35").driver("25.2.0", "7.7.0.6.236").cann("8.2.RC1")
    fake.program("npu-smi", "echo 'dcmi module initialize failed. ret is -8005'; exit 1")
    fake.python("3.10.18", torch("2.6.0", "2.6.0"))


def variables(fake: Fake) -> None:
    """Everything good but the shell, which also holds secrets."""
    current(fake)
    fake.file(f"{ASCEND}/ascend-toolkit/8.0.0/lib64/libascendcl.so")
    kit = fake.root / ASCEND
    fake.file("home/me/hacks/transformers/__init__.py")
    fake.env["LD_LIBRARY_PATH"] += f":{kit}/ascend-toolkit/8.0.0/lib64:{fake.root}/opt/gone/lib"
    fake.env["PYTHONPATH"] = f"{fake.root}/home/me/hacks:{fake.env['PYTHONPATH']}"
    fake.env.update(
        ASCEND_RT_VISIBLE_DEVICES="7,8", PYTORCH_NPU_ALLOC_CONF="max_split_size_mb=2048", OMP_NUM_THREADS="all",
        HF_ENDPOINT="hf-mirror.com", HF_TOKEN="hf_SECRET1", https_proxy="http://me:SECRET2@proxy.example:3128",
        HTTP_PROXY="me:SECRET3@proxy.example:3128", ASCEND_LAUNCH_BLOCKING="1",
    )  # fmt: skip


def cuda(fake: Fake) -> None:
    fake.system("Ubuntu 24.04.3 LTS", "x86_64", "2.39", free=110, total=128)
    fake.program("nvidia-smi", "echo 'NVIDIA H100 80GB HBM3, 570.172.08, 81559, 81008'")
    fake.python("3.12.11", torch("2.13.0"), cuda="12.8")


def bare(fake: Fake) -> None:
    """A laptop with Python and nothing else."""
    fake.system("Debian GNU/Linux 12 (bookworm)", "x86_64", "2.36", free=12, total=16)
    fake.python("3.11.2", {"pip": "25.0"})


def build_host(fake: Fake) -> None:
    """CANN without an NPU: it makes the OM for another machine."""
    fake.system("Ubuntu 22.04.5 LTS", "x86_64", "2.35", free=50, total=64).cann("9.0.0", sourced=False)
    fake.python("3.11.13", torch("2.13.0+cpu"))


# name -> what makes it, and the exit code
MACHINES: dict[str, tuple[Callable[[Fake], None], int]] = {
    "seed": (seed, 1),
    "current": (current, 0),
    "mismatch": (mismatch, 1),
    "exchangeable": (exchangeable, 0),
    "container_without_davinci": (no_davinci, 1),
    "a3": (a3, 0),
    "310p": (refused, 1),
    "set_env_not_sourced": (not_sourced, 1),
    "onnxruntime_cann": (onnxruntime_cann, 1),
    "broken_driver": (broken_driver, 1),
    "variables": (variables, 1),
    "cuda": (cuda, 5),
    "bare_cpu": (bare, 5),
    "build_host": (build_host, 5),
}
