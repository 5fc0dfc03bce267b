"""find_cann, on trees of files as CANN's packages leave them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import port_package
import pytest
from port.export.cann import Cann, find_cann

ARCH = "aarch64"


def write(path: Path, text: str = "", mode: int = 0o644) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def toolkit(place: Path, version: str = "8.1.RC1", atc: str | None = "bin/atc", info: bool = True) -> Path:
    """What a toolkit package installs, as far as find_cann reads it."""
    (place / "opp").mkdir(parents=True)
    if info:
        write(
            place / f"{ARCH}-linux/ascend_toolkit_install.info",
            f"package_name=Ascend-cann-toolkit\nversion={version}\n",
        )
    if atc:
        write(place / atc, "#!/bin/sh\n", 0o755)
    return place


def old_layout(root: Path, version: str = "8.1.RC1") -> Path:
    """/usr/local/Ascend/ascend-toolkit: latest/ has links into the release's folder, and version.cfg of its own."""
    home = root / "usr/local/Ascend/ascend-toolkit"
    release = toolkit(home / version, version, "compiler/bin/atc")
    write(release / "compiler/version.info", f"Version=7.7.0.1.238\nversion_dir={version}\n")
    write(home / "set_env.sh")
    latest = home / "latest"
    latest.mkdir()
    for name in ("compiler", "opp", f"{ARCH}-linux"):
        (latest / name).symlink_to(f"../{version}/{name}")
    write(latest / "version.cfg", f"# version: 1.0\ntoolkit_running_version=[7.7.0.1.238:{version}]\n")
    (latest / "bin").mkdir()
    (latest / "bin/atc").symlink_to("../compiler/bin/atc")
    return latest


def new_layout(root: Path, version: str = "8.5.0") -> Path:
    """/usr/local/Ascend/cann -> cann-8.5.0, with set_env.sh inside."""
    home = root / "usr/local/Ascend"
    write(toolkit(home / f"cann-{version}", version) / "set_env.sh")
    (home / "cann").symlink_to(f"cann-{version}")
    return home / "cann"


def sourced(place: Path) -> dict[str, str]:
    """What set_env.sh exports."""
    return {
        "ASCEND_TOOLKIT_HOME": str(place),
        "ASCEND_HOME_PATH": str(place),
        "ASCEND_OPP_PATH": str(place / "opp"),
        "LD_LIBRARY_PATH": f"/usr/lib:{place}/lib64:{place}/lib64/plugin/opskernel",
        "PYTHONPATH": f"{place}/python/site-packages",
        "PATH": f"{place}/bin:/usr/bin",
    }


def found(env: dict[str, str], root: Path) -> Cann:
    cann = find_cann(env, root, ARCH)
    assert cann is not None
    return cann


def test_nothing_is_installed(tmp_path):
    assert find_cann({}, tmp_path, ARCH) is None
    assert find_cann({"ASCEND_HOME_PATH": str(tmp_path / "gone"), "PATH": "/usr/bin"}, tmp_path, ARCH) is None


@pytest.mark.parametrize(
    ("layout", "version", "release"),
    [(old_layout, "8.1.RC1", (8, 1)), (new_layout, "8.5.0", (8, 5))],
    ids=["old", "new"],
)
def test_layouts_unsourced_and_sourced(tmp_path, layout, version, release):
    place = layout(tmp_path)
    cann = found({}, tmp_path)
    assert (cann.toolkit, cann.version, cann.release) == (place, version, release)
    assert cann.atc == place / "bin/atc"
    assert cann.missing == ("LD_LIBRARY_PATH", "ASCEND_OPP_PATH", "PYTHONPATH")
    script = place.parent / "set_env.sh" if layout is old_layout else place / "set_env.sh"
    assert cann.to_source() == f"source {script}"

    cann = found(sourced(place), tmp_path / "elsewhere")
    assert (cann.toolkit, cann.version, cann.sourced, cann.to_source()) == (place, version, True, "")


def test_the_environment_names_the_releases_folder(tmp_path):
    latest = old_layout(tmp_path)
    env = sourced(latest.parent / "8.1.RC1")
    cann = found(env, tmp_path)
    assert cann.toolkit == latest.parent / "8.1.RC1"
    assert cann.atc == latest.parent / "8.1.RC1/compiler/bin/atc"
    assert cann.set_env == latest.parent / "set_env.sh"


def test_half_an_environment(tmp_path):
    place = new_layout(tmp_path)
    env = sourced(place)
    del env["PYTHONPATH"]
    assert found(env, tmp_path).missing == ("PYTHONPATH",)


def test_another_toolkits_environment_does_not_count(tmp_path):
    old, new = old_layout(tmp_path), new_layout(tmp_path)
    env = {**sourced(old), "ASCEND_TOOLKIT_HOME": str(new), "ASCEND_HOME_PATH": str(new)}
    cann = found(env, tmp_path)
    assert cann.toolkit == new
    assert cann.missing == ("LD_LIBRARY_PATH", "ASCEND_OPP_PATH", "PYTHONPATH")


def test_the_environment_goes_before_the_usual_places(tmp_path):
    new_layout(tmp_path)
    mine = toolkit(tmp_path / "mine", "8.0.0")
    assert found({"ASCEND_OPP_PATH": str(mine / "opp")}, tmp_path).toolkit == mine
    assert found({"PATH": f"{mine}/bin"}, tmp_path).toolkit == mine


def test_a_users_own_installation(tmp_path):
    mine = toolkit(tmp_path / "home/Ascend/ascend-toolkit/latest")
    assert found({"HOME": str(tmp_path / "home")}, tmp_path).toolkit == mine


def test_a_runtime_only_package_gives_way_to_a_toolkit(tmp_path):
    runtime = toolkit(tmp_path / "nnrt/latest", "8.1.RC1", atc=None)
    env = {"ASCEND_HOME_PATH": str(runtime)}
    assert found(env, tmp_path).atc is None
    place = new_layout(tmp_path)
    assert found(env, tmp_path).toolkit == place


def test_an_atc_that_may_not_be_run_is_none(tmp_path):
    place = new_layout(tmp_path)
    (place / "bin/atc").chmod(0o644)
    assert found({}, tmp_path).atc is None


@pytest.mark.parametrize(
    ("file", "text", "version"),
    [
        ("version.cfg", "# version: 1.0\nruntime_running_version=[1:9.9]\ntoolkit_running_version=[8.5.2]\n", "8.5.2"),
        ("version.cfg", "toolkit_running_version=[7.5.0.1.129:8.0.RC3]\n", "8.0.RC3"),
        ("compiler/version.info", "Version=7.7.0.1.238\nversion_dir=8.1.RC1\n", "8.1.RC1"),
        ("toolkit/version.info", "version_dir=7.0.0\n", "7.0.0"),
    ],
)
def test_where_the_version_stands(tmp_path, file, text, version):
    place = toolkit(tmp_path / "usr/local/Ascend/ascend-toolkit/latest", info=False)
    write(place / file, text)
    assert found({}, tmp_path).version == version


def test_the_version_in_the_folders_name(tmp_path):
    toolkit(tmp_path / "usr/local/Ascend/cann-9.0.0", info=False)
    (tmp_path / "usr/local/Ascend/cann").symlink_to("cann-9.0.0")
    assert found({}, tmp_path).version == "9.0.0"


def test_what_the_toolkit_has_for_which_processor(tmp_path):
    place = new_layout(tmp_path)
    assert not found({}, tmp_path).has_kernels("Ascend910B3")
    for name in ("Ascend910B3", "Ascend910_9391"):
        write(place / f"{ARCH}-linux/data/platform_config/{name}.ini")
    kernels = place / "opp/built-in/op_impl/ai_core/tbe/kernel"
    for name in ("config", "ascend910b"):
        (kernels / name).mkdir(parents=True)
    write(place / f"{ARCH}-linux/devlib/libascend_hal.so")
    cann = found({}, tmp_path)
    assert cann.socs == {"Ascend910B3", "Ascend910_9391"}
    assert cann.kernels == {"ascend910b"}
    assert cann.has_kernels("Ascend910B3")
    assert not cann.has_kernels("Ascend910_9391")
    assert cann.devlib == place / f"{ARCH}-linux/devlib"


def test_it_needs_the_standard_library_only():
    code = "import sys, port_package, port.export.cann; print('torch' in sys.modules, 'numpy' in sys.modules)"
    run = [sys.executable, "-c", code]
    folder = Path(port_package.__file__).parent
    result = subprocess.run(run, cwd=folder, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]
