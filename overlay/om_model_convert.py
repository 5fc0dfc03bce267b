"""Convert an exported image encoder to an OM for an NPU, and compare the OM on that NPU with what it was made of.

    python om_model_convert.py --onnx-model /data/model/MiniGPT-4/onnx/eva_vit_g.onnx --om-dir /data/model/MiniGPT-4/om
    python om_model_convert.py --check /data/model/MiniGPT-4/om/eva_vit_g.om --onnx-model …/onnx/eva_vit_g.onnx

Finds CANN and the processor, lays the model out so that every release of ATC reads its weights right, runs ATC, and
runs the OM on the NPU beside the ONNX model in onnxruntime. Only then the OM appears as NAME.om, with NAME.om.json
beside it; NAME.om.log has ATC's output. One that computes something else is kept as NAME.failed.om, and an earlier
NAME.om stays. An OM that was made where there is no NPU takes its name unchecked, and the record says so: --check it.

--precision-mode is ATC's --precision_mode_v2. A mixed export gets origin, which keeps the model's own types. An fp32
export gets mixed_float16, where ATC picks what to compute in 16 bits, as with mixed_bfloat16: with origin it would keep
a float32 Conv, which CANN's documentation calls not supported. fp16 is ATC's own default: it forces layer norms and
softmax to float16 too, and loses precision; the comparison shows how much.

Where no NPU is found, ATC gets the toolkit's devlib folder on LD_LIBRARY_PATH instead of a driver's libraries.

Exit codes: 0 converted and proven; 1 ATC failed, would not take the model, or the OM computes something else; 2 the
command line asks for what cannot be done; 5 CANN, an NPU, software or space is missing: what was not done is said; 70
unexpected, with a traceback; 130 interrupted; 141 who read the output has gone (`| head`).
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overlay_command import WORKSPACE, Refused, bar, ended, find_picture, load_errors

if TYPE_CHECKING:
    from minigpt4.export.atc_machine import Machine

EXAMPLE = "examples_v2/office.jpg"  # in a workspace
_SIGNALS = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE)
CRASHES = {-number for number in _SIGNALS} | {128 + number for number in _SIGNALS}  # exit codes
MODES = ("origin", "mixed_float16", "mixed_bfloat16", "cube_fp16in_fp32out", "fp16")


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    return ended("om_model_convert", lambda: _command(args))


def _command(args: argparse.Namespace) -> int:
    image = find_picture(args.image_path) if args.image_path else None
    model = Path(args.onnx_model).expanduser() if args.onnx_model else None
    if args.device < 0:
        raise Refused(f"--device {args.device} is not the number of an NPU.", 2)
    if args.check:
        return check(Path(args.check).expanduser(), model, args.device, image, args.batch_sizes)
    if not model or not args.om_dir:
        raise Refused("--onnx-model and --om-dir say what to convert, and whereto; --check compares an OM.", 2)
    return convert(
        model, Path(args.om_dir), args.soc_version, args.precision_mode, args.device, image, args.batch_sizes,
        args.log, args.print_only,
    )  # fmt: skip


def convert(
    onnx_model: Path, om_dir: Path, soc_version: str | None = None, precision_mode: str | None = None, device: int = 0,
    image_path: Path | None = None, batch_sizes: tuple[int, ...] = (), log: str = "error", print_only: bool = False,
) -> int:  # fmt: skip
    """`onnx_model` -> om_dir/NAME.om, as the command does. soc_version None: npu-smi is asked. precision_mode None:
    see atc.default_mode. batch_sizes: for an open batch, instead of the record's. Returns 0; raises Refused else.
    """
    with load_errors():
        from minigpt4.export import atc, atc_machine, atc_staging, om_file
        from minigpt4.models.encoder_record import read_record

        model = atc_staging.read_model(onnx_model)
        made = read_record(onnx_model)
        if made.get("sha256") not in (None, om_file.sha256(onnx_model)):
            raise Refused(f"{onnx_model} is not the file that {onnx_model.name}.json describes: export it again.", 2)
        batches = atc.check_batches(model, batch_sizes or (() if model.shape[0] else made.get("batches", ())))
        precision = made.get("precision") or model.precision
        mode = precision_mode or atc.default_mode(precision)
        om = om_file.check_place(om_dir, onnx_model.stem)
        lint(onnx_model)
        machine = atc_machine.Machine.find(soc_version)
        machine.check_device(device)
        soc = machine.soc_version or "Ascend910B3"  # only in a printed command
        if print_only or not machine.atc:
            return print_command(atc.plan(model, om, soc, mode, batches, log=log), machine, onnx_model, om, print_only)
        env = machine.environment()
        options = atc.ask_options(machine.atc, env)
        machine.check_starts(options)
        v2 = "precision_mode_v2" in options if options else True  # where ATC cannot be asked, its run will say
        plan = atc.plan(model, om, soc, mode, batches, atc=machine.atc, v2=v2, log=log)
        for remark in [*atc.remarks(mode, precision), *machine.remarks()]:
            print(f"note: {remark}.")
        with atc.signals_raised(), om_file.converting(om) as folder:
            built = run_atc(model, plan, folder, om, env)
            record = om_file.describe(built, model, made, batches, mode)
            record.update(soc_version=soc, cann=machine.cann.version)
            return judge(built, om, record, machine, onnx_model, device, image_path)


def run_atc(model: Any, plan: Any, folder: Path, om: Path, env: dict[str, str]) -> Path:
    """Lay the model out in `folder` and convert it there. -> the OM, in there still. Raises Refused with reasons."""
    from minigpt4.export import atc, atc_failures, atc_staging, om_file

    om_file.check_space(model, folder)
    with bar(model.weights_bytes, "weights for ATC") as progress:
        atc_staging.stage(model, folder, om.stem, progress)
    log, start = om.with_name(om.name + ".log"), time.monotonic()
    print(f"{' '.join(plan.argv)}\nin {folder}; the log: {log}", flush=True)
    finished = atc.run(plan.argv, folder, env, log, lambda line: print(f"  {line}", flush=True))
    built = om_file.produced(folder / "out", om.stem) if finished.good else None
    if built is None:
        reasons = atc_failures.explain(finished.lines, finished.code)
        if finished.good:
            reasons = ["ATC says that it succeeded, and wrote no OM. " + reasons[0]]
        raise Refused("ATC made no OM.\n  " + "\n  ".join(reasons) + f"\n  All of its output: {log}", 1)
    print(f"ATC took {time.monotonic() - start:.0f} s and wrote {built.stat().st_size / 1e6:.1f} MB")
    return built


def judge(
    built: Path, om: Path, record: dict[str, Any], machine: Machine, onnx_model: Path, device: int, image: Path | None
) -> int:
    """Compare the OM on the NPU, in a process of its own: one that crashes there takes nothing with it. Publish it."""
    from minigpt4.export import om_file
    from minigpt4.models.encoder_record import read_record, write_record

    write_record(built, record)
    reason = machine.cannot_compare(record["soc_version"])
    if not reason:
        command = [sys.executable, os.path.abspath(__file__), "--check", str(built), "--onnx-model", str(onnx_model)]
        command += ["--device", str(device), *(["--image-path", str(image)] if image else [])]
        sys.stdout.flush()
        code = subprocess.run(command, check=False).returncode
        failed = om_file.failed_name(built)
        if code in CRASHES:  # it could not say so itself
            gate = {"status": "failed", "reason": f"the process that ran it ended with code {code}"}
            om_file.take_name(built, {**record, "gate": gate})
            print(f"{gate['reason']}: this OM crashes who uses it.")
        if failed.exists():
            om_file.publish(failed, om_file.failed_name(om))
            raise Refused(f"{om_file.advice(record)} The OM is {om_file.failed_name(om)}; no {om.name} was made.", 1)
        gate = read_record(built).get("gate", {})
        reason = "" if gate.get("status") == "passed" else gate.get("reason", f"the comparison ended with code {code}.")
    om_file.publish(built, om)
    print(f"wrote {om} and {om.name}.json")
    if reason:
        raise Refused(
            f"the OM was not compared with the ONNX model: {reason}\n  Before it is used, on the machine with the NPU: "
            f"python om_model_convert.py --check {om} --onnx-model {shlex.quote(str(onnx_model))}", 5
        )  # fmt: skip
    print(f"next: set `encoder` to {om}, with apply.py --set or in the model's YAML")
    return 0


def check(om: Path, onnx_model: Path | None, device: int, image: Path | None, batch_sizes: tuple[int, ...] = ()) -> int:
    """See om_check.check; Refused for everything but an OM that agrees."""
    with load_errors():
        from minigpt4.export import om_check

        if image is None and (WORKSPACE / EXAMPLE).is_file():
            image = WORKSPACE / EXAMPLE
        gate = om_check.check(om, onnx_model, device, image, batch_sizes)
        print(f"{om.name} agrees with the ONNX model: rel-L2 {gate.rel_l2:.2e} (bound {gate.bound:.0e})")
        return 0


def print_command(plan: Any, machine: Machine, onnx_model: Path, om: Path, asked: bool) -> int:
    """What to run, where nothing is run: with --print-only (0), and without CANN (Refused)."""
    soc, quoted = plan.soc_version, shlex.quote(str(onnx_model))
    sizes = ",".join(map(str, plan.batches))
    print(
        f"python om_model_convert.py --onnx-model {quoted} --om-dir {om.parent} --soc-version {soc} "
        f"--precision-mode {plan.precision_mode} --batch-sizes {sizes}\n\n"
        "runs, in a folder in which every tensor has a file of its own,\n\n"
        f"{plan.shell}\n\nBy hand, that reads a model with one shared weight file wrong where CANN's parser counts "
        "offsets in pages (releases up to 2024), and may not find it at all from another folder."
    )
    if not machine.soc_version:
        print(f"{soc} stands for the processor that will run the OM: Ascend and its name in `npu-smi info`.")
    if asked:
        print("Nothing was run.")
        return 0
    have = f"{machine.cann.toolkit} has no ATC: it is a runtime alone" if machine.cann else "CANN was not found here"
    raise Refused(
        f"{have}, so nothing was run. Install CANN's toolkit and kernels package and source its set_env.sh, or run "
        "the first command on a machine that has them (copy the ONNX model's folder there; no NPU is needed).", 5
    )  # fmt: skip


def lint(onnx_model: Path) -> None:
    """What ATC would not take is said now, not after minutes of ATC."""
    from minigpt4.export.graph_lint import lint_file

    findings = lint_file(onnx_model, one_file=False)  # ATC gets one file per tensor in any case
    if findings:
        raise Refused("ATC would not take this graph:\n  " + "\n  ".join(map(str, findings)), 1)


def _batches(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers, such as 1,2,4") from None


def _parser() -> argparse.ArgumentParser:
    summary, about = __doc__.split("\n\n", 1)
    parser = argparse.ArgumentParser(
        description=summary, epilog=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--onnx-model", metavar="FILE", help="NAME.onnx, from onnx_model_export.py")
    add("--om-dir", metavar="DIR", help="folder for NAME.om; made when missing")
    add("--soc-version", metavar="NAME", help="the processor, as Ascend910B3; else npu-smi is asked")
    add("--precision-mode", choices=MODES, help="(default: origin for a mixed model, mixed_float16 for an fp32 one)")
    add("--batch-sizes", type=_batches, default=(), metavar="N,N...", help="for a model with an open batch, instead of "
        "those in its record")  # fmt: skip
    add("--device", type=int, default=0, metavar="N", help="NPU on which the OM is compared (default: 0)")
    add("--image-path", metavar="FILE", help=f"picture on which it is compared, beside noise (default: {EXAMPLE})")
    add("--check", metavar="OM", help="only compare this OM with --onnx-model")
    add("--log", choices=["error", "info", "debug"], default="error", help="how much ATC says (default: error)")
    add("--print-only", action="store_true", help="print the commands and run nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
