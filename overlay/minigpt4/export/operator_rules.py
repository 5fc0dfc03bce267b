"""One node of an ONNX graph against the table of what ATC takes, atc_operators.json. graph_lint looks at the rest.

The table keeps two things apart: what the documentation lists, and what the public sources of ATC take beyond that.
Outside both is a fault; between them is a remark.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from onnx import AttributeProto, NodeProto, TensorProto, helper

TABLE = Path(__file__).with_name("atc_operators.json")
FAULT, REMARK = "fault", "remark"


@dataclass(frozen=True)
class Finding:
    """What ATC would not take (FAULT), or what its documentation leaves open (REMARK)."""

    node: str  # its name, or that of its first output; "" where it is about the whole graph
    op: str
    what: str
    why: str
    fix: str
    level: str = FAULT
    count: int = 1  # how many nodes say the same

    def __str__(self) -> str:
        where = f"{self.op} {self.node}".strip()
        more = f" (and {self.count - 1} more)" if self.count > 1 else ""
        return f"{where + more + ': ' if where else ''}{self.what}. {self.why} {self.fix}".strip()


@cache
def table() -> dict[str, Any]:
    """atc_operators.json; its keys are explained in its `about`."""
    return json.loads(TABLE.read_text(encoding="utf-8"))


def node_name(node: NodeProto) -> str:
    return node.name or next(iter(node.output), "")


def dtype_name(code: int) -> str:
    """TensorProto's number -> the name that the table uses: "float", "float16", "int64"."""
    return TensorProto.DataType.Name(code).lower()


def check_node(node: NodeProto, opset: int, dtypes: list[int], ranks: list[int]) -> Iterator[Finding]:
    """dtypes, ranks: of the node's inputs, as TensorProto's numbers and as counts of dimensions; -1: not known."""
    row = table()["operators"].get(node.op_type)
    if node.domain not in ("", "ai.onnx") or row is None or not (row["documented"] or "parser" in row):
        yield _unknown(node, row)
        return
    if node.op_type in table()["forbidden"]["operators"]:
        fix = "Export with a fixed image size, and fold constants (the export of this port has none of these)."
        yield _finding(node, "computes with shapes", _sentence(table()["forbidden"]["why"]), fix)
        return
    yield from _opset(node, row, opset)
    yield from _attributes(node, row, opset)
    yield from _inputs(node, row, dtypes, ranks)
    for text in row.get("remarks", []):
        yield _finding(node, "a limit that is not checked here", _sentence(text), "", REMARK)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _finding(node: NodeProto, what: str, why: str, fix: str, level: str = FAULT) -> Finding:
    return Finding(node_name(node), node.op_type, what, why, fix, level)


def _unknown(node: NodeProto, row: dict[str, Any] | None) -> Finding:
    domain = f" of the domain {node.domain}" if node.domain not in ("", "ai.onnx") else ""
    why = _sentence((row or {}).get("why", "neither its documentation nor its parsers are in the table"))
    fix = "Write it with operators of atc_operators.json, or add it there with its source."
    return _finding(node, f"ATC is not known to take this operator{domain}", why, fix)


def _opset(node: NodeProto, row: dict[str, Any], opset: int) -> Iterator[Finding]:
    documented, parser = row.get("opsets"), row.get("parser")
    if parser and not parser[0] <= opset <= parser[1]:
        what = f"not registered for opset {opset}"
        why = f"ATC's parser has it for opset {parser[0]} to {parser[1]}: it ends with `No parser is registered`."
        yield _finding(node, what, why, f"Export with an opset from {parser[0]} to {parser[1]}.")
    elif not documented or not documented[0] <= opset <= documented[1]:
        span = f"opset {documented[0]} to {documented[1]}" if documented else "no opset"
        why = f"The documentation lists {span}; the public sources take it."
        yield _finding(node, f"not documented for opset {opset}", why, "", REMARK)


def _attributes(node: NodeProto, row: dict[str, Any], opset: int) -> Iterator[Finding]:
    known = row.get("attributes", {})
    given = {attribute.name: attribute for attribute in node.attribute}
    for name, attribute in given.items():
        if name not in known:
            fix = "Leave it out, or write the node without it."
            yield _finding(node, f"attribute {name}", "ATC's parser does not read it, so it would be lost.", fix)
        elif known[name]:
            yield from _limits(node, attribute, known[name])
    # From opset 18 on the axes of ReduceMean are an input.
    required = [name for name in row.get("required", []) if not (name == "axes" and len(node.input) > 1)]
    if node.op_type == "Unsqueeze" and opset < 13:
        required = ["axes"]
    for name in required:
        if name not in given:
            yield _finding(node, f"no attribute {name}", "ATC's parser has no default for it.", "Write it out.")
    one_of = row.get("one_of", [])
    if one_of and not set(one_of) & set(given):
        yield _finding(node, f"none of the attributes {', '.join(one_of)}", "ATC's parser needs one.", "Write it out.")


def _limits(node: NodeProto, attribute: AttributeProto, limit: dict[str, Any]) -> Iterator[Finding]:
    """The values of one attribute against `values`, `min` and `max`, or `dtypes` in the table."""
    value = helper.get_attribute_value(attribute)
    if "dtypes" in limit:
        name, taken = dtype_name(value), dtype_name(value) in limit["operator_dtypes"]
        if name not in limit["dtypes"]:
            what, why = f"attribute {attribute.name} is {name}", f"Documented: {', '.join(limit['dtypes'])}."
            fix, level = ("", REMARK) if taken else ("Use one of these.", FAULT)
            yield _finding(node, what, why, fix, level)
        return
    for item in list(value) if isinstance(value, (list, tuple)) else [value]:
        item = item.decode() if isinstance(item, bytes) else item
        if item not in limit.get("values", [item]) or not limit.get("min", item) <= item <= limit.get("max", item):
            span = limit.get("values") or f"{limit['min']} to {limit.get('max', 'any')}"
            yield _finding(node, f"attribute {attribute.name} is {item}", f"Documented: {span}.", "Stay within it.")


def _inputs(node: NodeProto, row: dict[str, Any], dtypes: list[int], ranks: list[int]) -> Iterator[Finding]:
    documented, wider = row.get("dtypes", []), row.get("operator_dtypes", [])
    for position, code in enumerate(dtypes):
        if code <= 0 or not documented:
            continue
        names, name = documented[min(position, len(documented) - 1)], dtype_name(code)
        if name in names:
            continue
        what = f"input {position} is {name}"
        if name in wider:
            why = f"The documentation lists {', '.join(names)}; {row['operator']} behind it takes {name} too."
            yield _finding(node, what, why, "", REMARK)
        else:
            why = f"Documented: {', '.join(names)}; {row['operator']} behind it adds {', '.join(wider) or 'nothing'}."
            yield _finding(node, what, why, "Cast it.")
    if "ranks" in row and ranks and ranks[0] >= 0 and not row["ranks"][0] <= ranks[0] <= row["ranks"][1]:
        why = f"Documented: {row['ranks'][0]} to {row['ranks'][1]} dimensions."
        yield _finding(node, f"the input has {ranks[0]} dimensions", why, "Reshape it.")
    if len(node.input) > row.get("documented_inputs", len(node.input)):
        why = f"The documentation supports {row['documented_inputs']}; the parser takes more."
        yield _finding(node, f"{len(node.input)} inputs", why, "", REMARK)
