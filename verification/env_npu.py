"""Judges an NPU machine from the card up to CANN: hardware, device files, driver, firmware, toolkit, kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from verification.env_findings import DOCKER, Case, Finding
from verification.env_machine import DRIVER, NODES
from verification.report import Outcome

OK, NOTE, FAILED = Outcome.PASSED, Outcome.NOTE, Outcome.FAILED
DOWNLOAD = "https://www.hiascend.com/hardware/firmware-drivers"
LIBRARIES = f"{DRIVER}/lib64/driver:{DRIVER}/lib64/common:{DRIVER}/lib64"
# Of CANN up to this release the folders were read in its files; later ones may keep the kernels elsewhere.
KNOWN_FOLDERS = (8, 3)


def check_npu(case: Case) -> Iterator[Finding]:
    yield from _processors(case)
    for finding in _software(case):
        if finding.outcome is FAILED and case.computes:
            finding = replace(finding, outcome=NOTE, why=f"{finding.why} The trial below works all the same.")
        yield finding


def _software(case: Case) -> Iterator[Finding]:
    if case.wanted:
        yield _nodes(case)
        yield from _driver(case)
        yield _firmware(case)
    if case.wanted or case.machine.cann:
        yield from _cann(case)


def _processors(case: Case) -> Iterator[Finding]:
    here = case.machine
    if not here.npus:
        yield _none(case)
        return
    count = Counter(npu.soc_version or npu.name for npu in here.npus)
    found = ", ".join(f"{number} x {name}" for name, number in count.items())
    refused = sorted({npu.soc_version for npu in here.npus if npu.soc_version and npu.soc_version not in case.socs})
    if refused:
        why = "This port's operations are for the Ascend 910B (A2) and 910_93 (A3); nobody has tried another one."
        yield Finding("NPU", "processor", FAILED, found, why, "Use --device cpu here, or a machine with one of those.")
    elif any(not npu.soc_version for npu in here.npus):
        why = "npu-smi does not say which processor this is: an A3 if the table says Ascend910, or an older one."
        remedy = f"npu-smi info -t board -i {here.npus[0].card} -c 0   # NPU Name: 9391 means Ascend910_9391"
        yield Finding("NPU", "processor", NOTE, found, why, remedy)
    elif len(count) > 1:
        why = "An OM runs on one kind of processor only."
        yield Finding("NPU", "processor", NOTE, found, why, "Name the kind with om_model_convert.py --soc-version.")
    else:
        yield Finding("NPU", "processor", OK, found)
    ill = [f"{npu.health} at npu:{npu.index}" for npu in here.npus if npu.health != "OK"]
    if ill:
        worst = FAILED if any(npu.health in ("Alarm", "Critical") for npu in here.npus) else NOTE
        card = next(npu.card for npu in here.npus if npu.health != "OK")
        why = "The driver reports a fault of the card."
        yield Finding("NPU", "health", worst, ", ".join(ill), why, f"npu-smi info -t health -i {card}; dmesg")


def _none(case: Case) -> Finding:
    """npu-smi shows no NPU, or is not there."""
    here = case.machine
    if here.trouble:
        return Finding("NPU", "processor", FAILED, "npu-smi fails", here.trouble)
    if not case.wanted:
        return Finding("NPU", "processor", NOTE, "none")
    if _cards(case) and not here.npu_smi:
        why = "npu-smi is not here, so processor, health and free memory are not known."
        remedy = (
            "docker run -v /usr/local/bin/npu-smi:/usr/local/bin/npu-smi:ro -v /usr/local/dcmi:/usr/local/dcmi:ro …"
        )
        return Finding(
            "NPU", "processor", NOTE, "not known", why, remedy if here.container else "Install the driver anew."
        )
    seen = f"none that npu-smi shows; on the bus: {', '.join(here.pci)}" if here.pci else "none that npu-smi shows"
    if here.container:
        why = "No NPU was given to this container" + ("." if here.npu_smi else ", nor npu-smi.")
        return Finding("NPU", "processor", FAILED, seen, why, DOCKER)
    why = "The driver is not installed, or was not loaded."
    remedy = f"Install firmware and driver ({DOWNLOAD}), restart, then: npu-smi info; lsmod | grep drv"
    return Finding("NPU", "processor", FAILED, seen, why, remedy)


def _cards(case: Case) -> list[str]:
    return [node for node in case.machine.nodes if node not in NODES]


def _nodes(case: Case) -> Finding:
    here, cards = case.machine, _cards(case)
    missing = ([] if cards else ["davinci0"]) + [node for node in NODES if node not in here.nodes]
    if missing:
        why = "ACL opens these files; without them no program finds an NPU."
        remedy = "Load the driver: restart, then lsmod | grep drv_devmng; ls -l /dev/davinci*"
        if here.container:
            remedy = DOCKER if cards else "Start the container anew, as above."
        found = "missing: " + ", ".join(f"/dev/{node}" for node in missing)
        return Finding("NPU", "device files", FAILED, found, why, remedy)
    found = f"{len(cards)} of /dev/davinci*, " + ", ".join(NODES)
    if here.closed:
        why = f"This user may not open {', '.join(here.closed)}: they belong to the group HwHiAiUser."
        remedy = "sudo usermod -aG HwHiAiUser $USER   # and log in anew"
        return Finding("NPU", "device files", FAILED, found, why, remedy)
    return Finding("NPU", "device files", OK, found)


def _driver(case: Case) -> Iterator[Finding]:
    here = case.machine
    version = here.npu_smi or here.driver
    if not version:
        why = "Neither npu-smi nor the driver's version.info says a version."
        remedy = f"Install firmware and driver for this card: {DOWNLOAD}"
        if here.container:
            remedy = "Mount /usr/local/Ascend/driver and npu-smi into the container."
        yield Finding("NPU", "driver", NOTE if here.driver_library else FAILED, "not found", why, remedy)
    elif here.driver and here.driver.lower() != version.lower():
        why = f"npu-smi is {version}, the files in {DRIVER} are {here.driver}: an update before the last restart, or a "
        why += "container with another machine's files."
        remedy = "Restart; in a container mount both anew."
        yield Finding("NPU", "driver", NOTE, f"{version} and {here.driver}", why, remedy)
    else:
        yield _driver_pair(case, version)
    if here.driver_folder and not here.driver_library:
        why = "ACL loads libascend_hal.so, and it is not below the driver's lib64."
        remedy = "Mount all of /usr/local/Ascend/driver." if here.container else "Install the driver again with --full."
        yield Finding("NPU", "driver's libraries", FAILED, "libascend_hal.so is missing", why, remedy)
    elif here.driver_library and not here.driver_found:
        why = "They are neither on LD_LIBRARY_PATH nor in /etc/ld.so.conf.d, so programs may not find libascend_hal.so."
        remedy = f"export LD_LIBRARY_PATH={LIBRARIES}:$LD_LIBRARY_PATH"
        yield Finding("NPU", "driver's libraries", NOTE, f"{DRIVER}/lib64", why, remedy)


def _driver_pair(case: Case, version: str) -> Finding:
    row = case.row
    series = ".".join(version.split(".")[:2])
    if row is None or series in row.drivers:
        return Finding("NPU", "driver", OK, f"Ascend HDK {version}")
    why = f"CANN {case.machine.cann.version} is listed with Ascend HDK {', '.join(row.drivers)}."
    remedy = f"If NPU programs fail at their start, install driver and firmware {row.drivers[0]}: {DOWNLOAD}"
    return Finding("NPU", "driver", NOTE, f"Ascend HDK {version}", why, remedy)


def _firmware(case: Case) -> Finding:
    if case.machine.firmware:
        return Finding("NPU", "firmware", OK, case.machine.firmware)
    why = "Containers rarely see the firmware's folder, and old drivers do not print its version."
    return Finding("NPU", "firmware", NOTE, "version not found", why, "npu-smi info -t board -i 0   # on the host")


def _cann(case: Case) -> Iterator[Finding]:
    cann, source = case.machine.cann, case.source
    if cann is None:
        why = "torch_npu, ais_bench and ATC are built on CANN."
        remedy = "Install Ascend-cann-toolkit and the kernels (from 8.5 on: ops) package, then source its set_env.sh."
        yield Finding("CANN", "toolkit", case.bad, "not found", why, remedy)
        return
    found = f"{cann.version or 'version unknown'} in {source.shown(cann.toolkit)}"
    if not cann.sourced and not source.foreign:
        why = f"This shell does not have its {', '.join(cann.missing)}: libhccl.so and libascendcl.so are not found."
        yield Finding("CANN", "toolkit", case.bad, found, why, source.shown(cann.to_source()))
    elif case.row is None:
        why = "configs/ascend_stack.yaml has no row for this release, so nothing can be said about what fits it."
        yield Finding("CANN", "toolkit", NOTE, found, why, "Install the newest release of that table, or go on.")
    else:
        yield Finding("CANN", "toolkit", OK, found)
    if cann.atc is None:
        why = "This is a runtime package: it runs an OM and cannot make one."
        yield Finding(
            "CANN", "ATC", NOTE, "none", why, "Make the OM on a machine with the toolkit (om_model_convert.py)."
        )
    yield from _kernels(case)


def _kernels(case: Case) -> Iterator[Finding]:
    cann = case.machine.cann
    socs = sorted({npu.soc_version for npu in case.machine.npus if npu.soc_version in case.socs})
    lacking = [soc for soc in socs if not cann.has_kernels(soc)]
    have = ", ".join(sorted(cann.kernels)) or "none found"
    if lacking:
        a2 = lacking[0].startswith("Ascend910B")
        package = "Ascend-cann-kernels-910b" if a2 else "Atlas-A3-cann-kernels"
        why = f"Without them hardly an operation runs on {lacking[0]}."
        remedy = f"Install {package} {cann.version}, of the toolkit's version."
        if cann.release > KNOWN_FOLDERS:
            why += " Newer releases may keep them in a folder that is not known here."
            package = f"Ascend-cann-{'910b' if a2 else 'A3'}-ops"
            remedy = f"If operations fail, install {package} {cann.version}, of the toolkit's version."
        worst = NOTE if cann.release > KNOWN_FOLDERS else FAILED
        yield Finding("CANN", "kernels", worst, have, why, remedy)
    elif cann.kernels:
        yield Finding("CANN", "kernels", OK, have)
