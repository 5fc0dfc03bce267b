"""Options that several commands of verify.py take, said once."""

from __future__ import annotations

import argparse
from pathlib import Path

from verification.weights import DEFAULT_CFG

PROJECT = Path(__file__).resolve().parents[1]


def add_sources(parser: argparse.ArgumentParser) -> None:
    """--images, --workspace, --weights, --cfg-path: what is verified or recorded."""
    parser.add_argument(
        "--images", default="examples_v2/", help="a picture or a folder, also looked for in the workspace (%(default)s)"
    )
    parser.add_argument("--workspace", default="./MiniGPT-4", help="what apply.py made (%(default)s)")
    parser.add_argument(
        "--weights",
        metavar="tiny|FOLDER",
        help="tiny: synthetic weights, made on first use; or a folder with weights/, pretrain/ and othfiles/; "
        "default: the files that the workspace's YAML names",
    )
    parser.add_argument("--cfg-path", default=DEFAULT_CFG, help="the eval YAML inside the workspace (%(default)s)")


def add_output(parser: argparse.ArgumentParser) -> None:
    """--json, --report: where the lines go; and --project, for tests with other configs/ and another lock."""
    parser.add_argument("--json", action="store_true", help="print the same facts as JSON")
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FOLDER",
        help="also write report.html (pictures beside answers, charts, times), report.md and report.json there",
    )
    add_project(parser)


def add_project(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--project", default=PROJECT, help=argparse.SUPPRESS)
