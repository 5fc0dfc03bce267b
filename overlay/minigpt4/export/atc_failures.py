"""What ATC's failures mean for this model, and what to do about each.

The codes and the form of their messages: GE's public error registry (error_registry.cc), the operator compiler's
te_fusion_error_code.h, and CANN's documentation ("Error Code Introduction", 5.0.4 to 9.0). Values stood in brackets up
to CANN 8, and do not any more; the same fault has had several codes. The table is in the order of how much a line says.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Failure:
    """pattern: found in one line of output. what, why, fix: for the user; {0}, {1} are the pattern's groups."""

    name: str
    pattern: str
    what: str
    why: str
    fix: str


_SOURCE = "Run `source <CANN>/set_env.sh` in this shell (CANN is usually /usr/local/Ascend/ascend-toolkit)"
_PROFILES = "the batch sizes must be 2 to 100 different numbers from 1 to 2048, and only the batch may be open"
V = r"\[?([^\s\[\]]*[^\s\[\].,])\]?"  # a value, with or without brackets

FAILURES = (
    Failure(
        "no driver", r"error while loading shared libraries: (libascend_hal\.so|libdrv\w*\.so)",
        "ATC needs {0}, which comes with the driver.",
        "This machine has no NPU driver, or its libraries are not found.",
        "Without an NPU: om_model_convert.py gives it CANN's own; by hand, export LD_LIBRARY_PATH=$LD_LIBRARY_PATH:"
        "<CANN>/<arch>-linux/devlib (newer releases: devlib/linux/<arch>). With one: source "
        "/usr/local/Ascend/driver/bin/setenv.bash, and in a container mount /usr/local/Ascend/driver/lib64.",
    ),
    Failure(
        "library", r"error while loading shared libraries: ([^:]+):", "ATC cannot load {0}.",
        "CANN's environment is not set, or two versions of CANN are mixed.", f"{_SOURCE}, with no other in it before.",
    ),
    Failure(
        "python", r"No module named '?([\w.]+)'?", "The operator compiler misses the Python package {0}.",
        "It is written in Python and runs under the `python3` that comes first on PATH.",
        "pip install attrs cython decorator sympy numpy cffi pyyaml pathlib2 psutil protobuf scipy requests absl-py, "
        "into that Python. If the missing one is te, tbe or te_fusion: run set_env.sh, it sets PYTHONPATH.",
    ),
    Failure(
        "python", rf"Failed to import (?:the )?Python module:? {V}", "CANN cannot import {0}.",
        "A Python package of its operator compiler is missing, or PYTHONPATH leads elsewhere.",
        "Look above for `No module named`; install that package into the `python3` on PATH, and run set_env.sh.",
    ),
    Failure(
        "python version", r"current Python version is \[?([\d.]+)", "CANN does not run with Python {0}.",
        "The `python3` on PATH is too old or too new for this release.", "Put a Python that CANN's release notes name "
        "first on PATH for this command.",
    ),
    Failure(
        "option", r"unknown command line flag '([\w-]+)'", "This ATC does not know --{0}.",
        "It came with a later release of CANN.", "Use CANN 7.0 or newer, or run the printed command without it.",
    ),
    Failure(
        "processor", rf"(?:E10001|EC0005|EE1000)?.*?Value {V} (?:for parameter \[?(?:--)?soc_version\]? is invalid|"
        r"is invalid for the SoC version)", "ATC does not know the processor {0}.",
        "The name is wrong, or this CANN has no files for it: each processor family has a kernels package of its own.",
        "Take the name from `npu-smi info`: Ascend and the Name column, such as Ascend910B3. If it is right, install "
        "the kernels package for it, of the toolkit's version (for the 910B: Ascend-cann-kernels-910b).",
    ),
    Failure(
        "path", r"The path can only contain|path.*(?:invalid|illegal) character", "ATC refuses a path.",
        "It takes letters, digits, - . _ and Chinese characters, and no spaces.", "Give --om-dir a plain path.",
    ),
    Failure(
        "precision mode", rf"Value {V} for parameter \[?(?:--)?(precision_mode(?:_v2)?)\]? is invalid",
        "This ATC does not know {0} for --{1}.", "The mode came with a later release, or is not for this processor.",
        "Try --precision-mode origin with a mixed export, else mixed_float16.",
    ),
    Failure(
        "input shape", r"E100(?:02|11|12|18|31|40|45|46|49)\b:?\s*(.*)", "ATC refuses --input_shape: {0}",
        "It does not fit the model's input, or the batch sizes.",
        f"Use the shape printed above as it stands; {_PROFILES}.",
    ),
    Failure(
        "profiles", r"E100(?:09|35|36|37|38|39)\b:?\s*(.*)", "ATC refuses --dynamic_batch_size: {0}",
        "The list does not have the form that it takes.", f"{_PROFILES}.",
    ),
    Failure(
        "input name", rf"E10016:?\s*Op ?name {V} specified in", "The model has no input named {0}.",
        "--input_shape names an input of another model.", "Export the model with onnx_model_export.py.",
    ),
    Failure(
        "exclusive", r"(?:E10047|E10056):?\s*(.*)", "Two options exclude each other: {0}",
        "Both say how exact to compute, or how the batch varies.", "Leave one of the two out.",
    ),
    Failure(
        "empty option", rf"E10054:?\s*The required parameter {V} ", "ATC was not given --{0}.",
        "A space beside a '=' cuts an option in two.", "Write --name=value without spaces, the value in quotes.",
    ),
    Failure(
        "open size", rf"Value \[?-1\]? for parameter {V} is invalid",
        "A size of the model is open, and ATC was given none.",
        "An open batch needs --dynamic_batch_size, or a number in --input_shape.", "Pass --batch-sizes, such as 1,2,4.",
    ),
    Failure(
        "value", rf"Value {V} for parameter {V} is invalid\.?\s*(.*)", "ATC refuses {1}={0}. {2}",
        "This release takes other values.", "See `atc --help` for the values that it takes.",
    ),
    Failure(
        "external data", r"external tensor proto.*must contain location|Failed to open file \[?[^\s\]]+\.weights?\b|"
        r"(?:read|open|load)\w* (?:of )?(?:external|weight) ?(?:data|file).*(?:fail|not exist|not found)",
        "ATC did not find the model's weights.",
        "A model above 2 GiB has them in files of their own; older releases look for those in the current folder, and "
        "multiply offsets into a shared file by 4096.",
        "Run om_model_convert.py, which lays them out so that every release finds them; by hand, run atc inside the "
        "folder of the ONNX model, with one weight file per tensor.",
    ),
    Failure(
        "model", r"E10041:?\s*(.*)|(?:Parse|Read) onnx model ?file.*fail", "ATC cannot load the model. {0}",
        "The file is damaged, or its weights do not lie where it says.", "Export it again with onnx_model_export.py.",
    ),
    Failure(
        "no parser", rf"No (?:ONNX )?parser is registered for .*?optype {V}",
        "This ATC cannot read the operator {0}.", "Its ONNX parser has no such operator for this opset.",
        "Export with another --opset (13 has the widest support), or use a newer CANN.",
    ),
    Failure(
        "no operator", rf"(?:E10501|E13010|IR for Op|No operator plugin is registered).*?optype:? {V}",
        "CANN has no prototype of the operator {0}.", "ASCEND_OPP_PATH leads nowhere, or the opp package is missing.",
        f"{_SOURCE}, and check that $ASCEND_OPP_PATH/built-in exists.",
    ),
    Failure(
        "no kernel", rf"No supported Ops kernel and engine are found for {V}, ?optype {V}",
        "CANN has no kernel of {1} for this processor.",
        "The kernels package is not installed, or is of another version.",
        "Install Ascend-cann-kernels for this processor, of the toolkit's version; then look at --soc-version.",
    ),
    Failure(
        "unsupported operator", rf"Optype {V} of Ops kernel {V} is unsupported\.?\s*(?:Reason: )?(.*)",
        "The operator {0} does not run on this processor as the model uses it. {2}",
        "Its dtype, format or shape is not in CANN's operator library.",
        "Export with another --opset or --precision fp32, or try another --precision-mode; then report it.",
    ),
    Failure(
        "compile", rf"Failed to compile Op {V}", "The operator compiler failed at {0}.",
        "Mostly memory, a Python package, or a fault of this release.",
        "Look further up for `No module named` or `Killed`; set TE_PARALLEL_COMPILER=1 and MAX_COMPILE_CORE_NUMBER=1; "
        "see ~/ascend/log/debug/plog.",
    ),
    Failure("disk", r"No space left on device|Disk quota exceeded", "The disk is full.",
        "ATC writes the OM and its kernels into --om-dir, and temporary files into /tmp and ~/atc_data.",
        "Make room, or give an --om-dir on another disk.",
    ),
    Failure(
        "memory", r"std::bad_alloc|[Cc]annot allocate memory|\bOut of memory\b|\boom-kill|MemoryError|^Killed$",
        "Memory ran out.", "ATC holds the weights more than once; four to five times their size is wanted.",
        "Close other programs, add swap, give the container more memory, or set TE_PARALLEL_COMPILER=1; the OM may be "
        "made on any machine with CANN: pass --soc-version there.",
    ),
    Failure(
        "permission", r"(?:'?(\S+?)'?: )?Permission denied|Operation not permitted|not owned by (?:the )?current user",
        "ATC may not use a file: {0}", "It belongs to another user, or CANN was installed for another user or group.",
        "Run as the user (or in the group) for whom CANN was installed (often HwHiAiUser); check ~/atc_data, ~/ascend.",
    ),
    Failure(
        "file", r"(?:E13001|E13000|E13003|E13004):?\s*(.*)", "A file cannot be used: {0}", "See the reason there.",
        "Look whether it is there, and whose it is.",
    ),
    Failure(
        "too large", r"E13023:?\s*(.*)", "The OM is larger than this ATC writes. {0}",
        "Weights in fp32 are twice as large.", "Use a mixed export, or --precision-mode mixed_float16.",
    ),
    Failure(
        "inner", r"(E[1-9A-Z]9999:?\s*.*)", "ATC reports an inner error: {0}", "It says no more.",
        "Run again with --log debug and ASCEND_SLOG_PRINT_TO_STDOUT=1; the first ERROR line of "
        "~/ascend/log/debug/plog tells more than the last.",
    ),
)  # fmt: skip
_GENERAL = {"inner", "file", "value", "model", "compile"}  # said only where nothing better is


def explain(lines: Sequence[str], code: int) -> list[str]:
    """Sentences for the user about a failed run: at most three, the telling ones first; never empty.

    lines: ATC's output. code: its exit code, negative for a signal.
    """
    found = {}
    for failure in FAILURES:
        for line in lines:
            match = re.search(failure.pattern, line)
            if match and failure.name not in found:
                found[failure.name] = _say(failure, [group or "" for group in match.groups()])
    if code in (-signal.SIGKILL, 128 + signal.SIGKILL) and "memory" not in found:
        memory = next(failure for failure in FAILURES if failure.name == "memory")
        text = _say(memory, []).replace("ran out.", "ran out: the system ended ATC (signal 9).", 1)
        found = {"memory": text, **found}
    telling = [text for name, text in found.items() if name not in _GENERAL]
    texts = telling or list(found.values())
    if not texts:
        texts = [_unknown(code)]
    return texts[:3]


def _say(failure: Failure, groups: list[str]) -> str:
    what = failure.what.format(*groups, *[""] * 3).strip().rstrip(":.")
    return f"{what}. {failure.why} {failure.fix}"


def _unknown(code: int) -> str:
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return (
        f"ATC ended with {how} and without a message that this table knows. Run it again with --log debug; the first "
        "ERROR line of ~/ascend/log/debug/plog tells most."
    )
