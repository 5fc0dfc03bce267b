"""configs/gate.yaml: every limit has a reason and a value for each dtype that is judged; a broken file says where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from overlaykit.errors import FixTheProjectFile
from verification.gate.limits import COARSER, Limits, coarsest, encoder_dtype, read_limits

GATE = Path(__file__).parents[2] / "configs" / "gate.yaml"


def test_coarser_dtypes_have_wider_limits() -> None:
    """A limit of a float16 port that is wider than that of bfloat16 would be a mistake in the file."""
    narrow = ("top1",)  # at least so much; the others are at most so much
    for level, rows in read_limits(GATE).values.items():
        for name, row in rows.items():
            found = [row[dtype] for dtype in COARSER if dtype in row]
            if "int8" in row and name in ("mean_kl", "perplexity"):
                assert found == sorted(found), (level, name)
            floats = [row[dtype] for dtype in COARSER[:3] if dtype in row]
            assert floats == sorted(floats, reverse=name in narrow), (level, name)


def test_a_limit_for_all_dtypes_and_one_that_a_dtype_has_not() -> None:
    limits = Limits({"L2": {"ratio": {"limit": 1.5}, "error": {"float16": 0.01}}})
    assert limits.need("L2", "ratio", "bfloat16") == 1.5
    assert limits.get("L2", "error", "int8") is None
    with pytest.raises(FixTheProjectFile, match=r"(?s)incomplete.*L2\.error has no value for int8"):
        limits.need("L2", "error", "int8")


@pytest.mark.parametrize(
    "content",
    ["", "[]", "L1: 3", "L1: {pixels: 3}", "L1: {pixels: {limit: tight, why: x}}", "L1: [", "L1: {pixels: {why: }}"],
)
def test_a_broken_file_names_itself(content: str, tmp_path: Path) -> None:
    (tmp_path / "gate.yaml").write_text(content)
    with pytest.raises(FixTheProjectFile, match=r"gate\.yaml"):
        read_limits(tmp_path / "gate.yaml")


def test_a_limit_without_a_reason_is_refused(tmp_path: Path) -> None:
    content = yaml.safe_load(GATE.read_text(encoding="utf-8"))
    del content["L3"]["tie"]["why"]
    (tmp_path / "gate.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(FixTheProjectFile, match="tie has no `why`"):
        read_limits(tmp_path / "gate.yaml")


def test_the_coarser_of_two_dtypes_is_judged_by() -> None:
    assert coarsest("float32", "float16") == "float16"
    assert coarsest("bfloat16", "float16") == "bfloat16"


@pytest.mark.parametrize(
    ("record", "dtype"),
    [
        ({"precision_mode": "origin", "onnx": {"precision": "fp32"}}, "float32"),
        ({"precision_mode": "origin", "onnx": {"precision": "mixed"}}, "float16"),
        ({"precision_mode": "mixed_bfloat16", "onnx": {}}, "bfloat16"),
        ({"precision_mode": "fp16", "onnx": {"precision": "fp32"}}, "float16"),
        ("not JSON", "float16"),
        (None, "float16"),
        ({"precision_mode": "origin", "onnx": None}, "float16"),
    ],
)
def test_what_an_om_computes_in_is_in_its_record(record: Any, dtype: str, tmp_path: Path) -> None:
    if record is not None:
        text = record if isinstance(record, str) else json.dumps(record)
        (tmp_path / "eva_vit_g.om.json").write_text(text)
    assert encoder_dtype(tmp_path / "eva_vit_g.om") == dtype
    assert encoder_dtype(tmp_path / "eva_vit_g.pth") == "float32"
