"""`verify.py replay`: judge what a device computed, on a machine that has neither the device nor the weights.

BUNDLE is what `verify.py --against GOLDEN --bundle BUNDLE` wrote there; GOLDEN is the file that it was compared with.
The lines are those of the gate in that run: same weights, pixels, image half, language model, text. What is not in a
bundle is not judged: the tree, the loaded tensors and the answers.

A bundle is a report of measurements and no proof of them: whoever wants to can write one. It holds numbers, hashes,
versions and the chip's name, and no path, user, host or text of an error.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from overlaykit.errors import FixTheCommand
from verification.gate.checked import check_taking
from verification.gate.golden import GOLDEN, TAKING, Recording, load
from verification.gate.rules import Unusable
from verification.options import add_output
from verification.page import files
from verification.prompts import load_prompts
from verification.report import NOTHING_RAN, Report
from verification.roofline import report_timings
from verification.show import show


def main(argv: list[str]) -> int:
    options = parse(argv)
    if options.report:
        files.prepare(options.report)
    try:
        report = replay(options.bundle, options.against, Path(options.project))
    except ModuleNotFoundError as error:
        print(f"verify: {error}. A bundle is judged with NumPy: pip install numpy", file=sys.stderr)
        return NOTHING_RAN
    show(report, options.json, options.report, ["replay", *argv])
    return report.exit_code


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="verify.py replay",
        description=__doc__,
        epilog="Exit codes: 0 verified; 1 a check failed; 2 usage, or a file that is no bundle or of another golden; "
        "5 not everything could be judged.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="what verify.py --bundle wrote")
    parser.add_argument("--against", type=Path, required=True, metavar="GOLDEN", help="what it was compared with there")
    add_output(parser)
    return parser.parse_args(argv)


def replay(bundle: Path, against: Path, project: Path) -> Report:
    """Raises FixTheCommand for files that do not go together."""
    from verification.gate.bundle import PACKAGES
    from verification.gate.digests import check_digests
    from verification.gate.judge import judge
    from verification.gate.limits import read_limits

    golden, taking = load(against, GOLDEN), load(bundle, TAKING)
    if taking.about["golden"] != golden.digest:
        raise FixTheCommand(
            f"{bundle} was not compared with {against}.",
            f"It was compared with the golden of sha256 {taking.about['golden']}; this one has {golden.digest}.",
            "Name that golden (sha256sum tells which it is), or run verify.py --against this one --bundle again.",
        )
    try:
        check_taking(golden, taking)
    except Unusable as error:
        raise FixTheCommand(
            f"{bundle} is incomplete.", str(error), "Write it again with verify.py --bundle."
        ) from error
    about = taking.about
    checks = check_digests(golden.about["weights"], about["weights"])
    limits = read_limits(project / "configs" / "gate.yaml")
    checks += judge(golden, taking, limits, labels_of(golden, project), of=f"encoder ({about['encoder']})")
    synthetic = golden.about["synthetic"]
    return Report(
        subject=f"{bundle.name}, what a port computed elsewhere, against {against.name}",
        weights=f"SYNTHETIC (seed {synthetic.get('seed')})" if synthetic else golden.about["model_type"],
        synthetic=bool(synthetic),
        device=" ".join((about["device"]["kind"], about["device"]["chip"], about["dtype"])),
        versions={name: about["versions"][name] for name in PACKAGES if name in about["versions"]},
        checks=checks,
        hint="Judged from a bundle: the tree, the loaded tensors and the answers are in the report of that run alone.",
        timings=report_timings(about["timings"]),
        replayed=True,
    )


def labels_of(golden: Recording, project: Path) -> list[str]:
    """The names of the pictures that prompts.yaml knows, by content; of others a number."""
    prompts = load_prompts(project / "configs" / "prompts.yaml")
    names = {known.sha256: Path(known.file).stem[:18] for known in prompts.pictures.values()}
    return [names.get(row["sha256"], f"picture {p + 1}") for p, row in enumerate(golden.about["pictures"])]
