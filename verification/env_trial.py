"""Judges the trial: what happened when a child process imported torch and torch_npu and added on the first NPU."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator

from verification.env_findings import Case, Finding
from verification.env_npu import LIBRARIES
from verification.env_python import TIMEOUT, Trial
from verification.report import Outcome

OK, NOTE, FAILED = Outcome.PASSED, Outcome.NOTE, Outcome.FAILED
SOURCE = "source /usr/local/Ascend/ascend-toolkit/set_env.sh   # from CANN 8.5 on /usr/local/Ascend/cann/set_env.sh"
# What the last line says -> why, and what to do.
CAUSES = (
    (
        r"libascend_hal|libdrv",
        "The driver's libraries are not found.",
        f"export LD_LIBRARY_PATH={LIBRARIES}:$LD_LIBRARY_PATH",
    ),
    (r"lib(?:hccl|ascendcl|acl_op_compiler|ge_runner|graph|acl_tdt_channel)\.so", "CANN is not sourced.", SOURCE),
    (r"TORCH_DEVICE_BACKEND_AUTOLOAD", "torch loads torch_npu, which needs CANN.", SOURCE),
    (r"undefined symbol", "torch, torch_npu and CANN do not fit each other.", "Install a pair of the table above."),
    (r"lib(?:stdc\+\+|gomp)", "Another C or C++ library comes first.", "Look at LD_LIBRARY_PATH and LD_PRELOAD."),
    (r"numpy", "A package was built for another numpy.", "pip install 'numpy<2'"),
    (r"EL0003|507\d{3}|107\d{3}", "ACL cannot use the NPU.", "npu-smi info; the reason is in ~/ascend/log/debug/plog"),
)


def check_trial(case: Case) -> Iterator[Finding]:
    trial = case.python.trial
    if trial is None:
        if not case.source.live and "torch" in case.python.packages:
            yield Finding("Python", "trial", NOTE, "not tried: these are another machine's files")
        return
    if trial.code != 0 or trial.step != "done":
        yield _broken(case, trial)
    elif trial.wrong_sum:
        why = "1 + 1 on npu:0 was not 2 in every place."
        remedy = "Do not use this NPU: npu-smi info -t health -i 0; look for another card."
        yield Finding("Python", "trial", FAILED, "npu:0 computes wrongly", why, remedy)
    elif case.machine.npus and not trial.npus:
        why = "npu-smi shows NPUs, and torch_npu finds none: they are hidden, or ACL may not open them."
        remedy = "unset ASCEND_RT_VISIBLE_DEVICES; ls -l /dev/davinci*; id   # group HwHiAiUser"
        yield Finding("Python", "trial", FAILED, "torch_npu sees no NPU", why, remedy)
    elif case.machine.cards and case.python.torch_cuda and not trial.cuda:
        why = "nvidia-smi shows a card, and torch finds none: an old driver, or CUDA_VISIBLE_DEVICES hides it."
        yield Finding("Python", "trial", NOTE, "torch sees no CUDA card", why, "nvidia-smi; echo $CUDA_VISIBLE_DEVICES")
    else:
        found = f"adds on npu:0, one of {trial.npus}" if trial.npus else "torch can be imported"
        yield Finding("Python", "trial", OK, found + (f", sees {trial.cuda} CUDA cards" if trial.cuda else ""))


def _broken(case: Case, trial: Trial) -> Finding:
    if trial.code is None:
        why = f"Nothing came in {TIMEOUT:g} s: mostly the driver hangs, or another program holds the device."
        remedy = "dmesg | tail; npu-smi info; often only a restart of the machine helps"
        return Finding("Python", "trial", FAILED, f"hangs at: {trial.step}", why, remedy)
    if trial.code < 0:
        name = {sent.value: sent.name for sent in signal.Signals}.get(-trial.code, f"signal {-trial.code}")
        why = f"The process was ended by {name}: mostly libraries that do not fit each other, or no memory (SIGKILL)."
        return Finding("Python", "trial", FAILED, f"crashes at: {trial.step}", why, "Mend what is wrong above first.")
    said = trial.said if len(trial.said) <= 300 else trial.said[:300] + "…"
    if trial.step == "import torch_npu" and not case.wanted:
        why = f"{said} Nothing here needs it: runs on the CPU or CUDA leave torch_npu alone."
        return Finding("Python", "trial", NOTE, "torch can be imported, torch_npu cannot", why)
    matching = ((why, remedy) for pattern, why, remedy in CAUSES if re.search(pattern, trial.said))
    why, remedy = next(matching, ("", "Run `python -c 'import torch'` by hand for the whole message."))
    cann = case.machine.cann
    if remedy is SOURCE and cann is None:
        remedy = "export TORCH_DEVICE_BACKEND_AUTOLOAD=0   # without an NPU; with one, install CANN"
    elif remedy is SOURCE:
        remedy = case.source.shown(cann.to_source()) or SOURCE
    why = f"{said or 'No message.'} {why}".strip()
    return Finding("Python", "trial", FAILED, f"fails at: {trial.step}", why, remedy)
