"""Write op_schemas.json: what the operations of torch_npu that this port calls look like in each release.

usage: python tests/npu_sim/snapshot_schemas.py [--check] [--index URL] [--out FILE] [RELEASE ...]

Reads, out of one wheel per release on the package index, the list of operations and the Python files of torch.npu:
a few MB per release, no NPU, no CANN, no torch. --check writes nothing and fails where the committed file differs.
It shows which arguments a release accepts, never what they do.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
import zipfile
from pathlib import Path

import yaml
from wheel_files import IndexProblem, configured_index, open_wheel, wheels

SNAPSHOT = Path(__file__).with_name("op_schemas.json")
OPERATIONS = "torch_npu/csrc/aten/npu_native_functions_by_codegen.yaml"
# The last release of each branch of torch_npu.
RELEASES = str.split(
    """
    2.1.0.post17 2.3.1.post6 2.4.0.post4 2.5.1.post1 2.6.0.post5 2.7.1.post11 2.8.0.post5 2.9.0.post9
    2.10.0.post7 2.11.0.post3 2.12.0.post3 2.13.0 2.14.0
    """
)
# What the port calls, and the operations that could replace one of them.
OPS = str.split(
    """
    npu_fused_infer_attention_score npu_fused_infer_attention_score_v2 npu_incre_flash_attention
    npu_prompt_flash_attention npu_fusion_attention npu_rms_norm npu_add_rms_norm npu_rotary_mul
    npu_apply_rotary_pos_emb npu_swiglu npu_scatter_nd_update npu_scatter_nd_update_ scatter_update
    scatter_update_ npu_scatter_pa_kv_cache npu_kv_rmsnorm_rope_cache npu_linear npu_bmmV2 npu_silu
    npu_weight_quant_batchmatmul npu_quant_matmul npu_dynamic_quant npu_convert_weight_to_int4pack
    npu_format_cast npu_format_cast_ npu_top_k_top_p npu_dtype_cast get_npu_format
    """
)
# Functions and classes of torch.npu that are written in Python.
API = str.split(
    """
    is_available device_count set_device current_device synchronize get_device_name get_soc_version graph NPUGraph
    Event Stream stream current_stream empty_cache memory_allocated max_memory_allocated reset_peak_memory_stats
    memory_reserved mem_get_info get_device_properties manual_seed set_compile_mode
    """
)


def pick_wheel(files: dict[str, str], release: str) -> str:
    """The URL of one wheel of a release: which Python and processor does not matter to these files."""
    names = sorted(name for name in files if name.startswith(f"torch_npu-{release}-"))
    if not names:
        raise IndexProblem(f"no wheel of torch_npu {release} on this index")
    return files[next((name for name in names if "cp310" in name or "cp311" in name), names[0])]


def read_ops(wheel: zipfile.ZipFile) -> dict[str, list[str]]:
    """{operation: its schemas, one per overload} of `OPS`."""
    found: dict[str, list[str]] = {}
    text = wheel.read(OPERATIONS).decode()
    for entries in yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)).values():
        for entry in entries if isinstance(entries, list) else ():
            schema = entry.get("func", "") if isinstance(entry, dict) else ""
            name = re.match(r"\w*", schema).group()
            if name in OPS and schema not in found.get(name, ()):  # some stand in two sections
                found.setdefault(name, []).append(schema)
    return found


def read_api(wheel: zipfile.ZipFile) -> dict[str, str]:
    """{name: parameters as written, without self} of `API`."""
    found: dict[str, str] = {}
    for name in wheel.namelist():
        if not re.fullmatch(r"torch_npu/npu/(\w+|_npugraph_handlers/\w+)\.py", name):
            continue
        for node in ast.parse(wheel.read(name).decode()).body:
            if isinstance(node, ast.ClassDef) and node.name in API:
                made = [part for part in node.body if getattr(part, "name", "") in ("__new__", "__init__")]
                # __new__ comes first where both are written: Stream and Event take their arguments there.
                found[node.name] = _parameters(made[0], drop=1) if made else ""
                if node.name == "NPUGraph":
                    for part in node.body:
                        if isinstance(part, ast.FunctionDef) and not part.name.startswith("_"):
                            found[f"NPUGraph.{part.name}"] = _parameters(part, drop=1)
            elif isinstance(node, ast.FunctionDef) and node.name in API:
                found[node.name] = _parameters(node, drop=0)
    return found


def _parameters(function: ast.FunctionDef, drop: int) -> str:
    arguments = function.args
    arguments.args = arguments.args[drop:]
    for argument in [*arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]:
        if argument is not None:
            argument.annotation = None
    return ast.unparse(arguments)


def group(per_release: dict[str, dict]) -> dict[str, list[dict]]:
    """{name: [{releases, text}]}: releases in which the text is the same stand together; absent ones in none."""
    groups: dict[str, list[dict]] = {}
    for name in sorted({name for found in per_release.values() for name in found}):
        for release, found in per_release.items():
            if name not in found:
                continue
            same = [entry for entry in groups.setdefault(name, []) if entry["text"] == found[name]]
            if same:
                same[0]["releases"].append(release)
            else:
                groups[name].append({"releases": [release], "text": found[name]})
    return groups


def read_releases(index: str, releases: list[str]) -> dict:
    files = wheels(index, "torch-npu")
    ops, api = {}, {}
    for number, release in enumerate(releases, 1):
        url = pick_wheel(files, release)
        print(f"{number}/{len(releases)} {url.rpartition('/')[2]}", file=sys.stderr, flush=True)
        with open_wheel(url) as wheel:
            ops[release], api[release] = read_ops(wheel), read_api(wheel)
    return {"releases": releases, "ops": group(ops), "api": group(api)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("releases", nargs="*", metavar="RELEASE", help="default: the last of each branch")
    parser.add_argument("--check", action="store_true", help="compare with the committed file instead of writing")
    parser.add_argument("--index", default=None, help="package index (default: the one that pip uses)")
    parser.add_argument("--out", type=Path, default=SNAPSHOT)
    options = parser.parse_args()
    if options.releases and options.out == SNAPSHOT:
        parser.error("the committed file holds every release: name another one with --out, or leave RELEASE out")
    try:
        found = read_releases(options.index or configured_index(), options.releases or RELEASES)
    except (IndexProblem, zipfile.BadZipFile, KeyError) as problem:
        print(f"snapshot_schemas.py: {problem}", file=sys.stderr)
        return 1
    text = json.dumps(found, indent=1) + "\n"
    if not options.check:
        options.out.write_text(text)
        return 0
    if options.out.read_text() == text:
        return 0
    print(f"{options.out} differs from the wheels: run this script without --check and read the diff", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
