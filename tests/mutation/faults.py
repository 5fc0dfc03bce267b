"""The list of planted faults: tests/mutation/planted/*.yaml, read and checked.

One entry of a file:

    wrong epsilon in a block:                        # the name, unique in all files
      kind: overlay                                  # patch, overlay, weights or configuration
      file: minigpt4/models/eva_vit_model.py         # in the patched workspace,
      stands: BLOCK_EPS = 1e-6                       # where this text stands exactly once,
      instead: BLOCK_EPS = 1e-5                      # and what is put in its place
      caught by: encoder                             # the first line of verify.py that must say FAILED

A kind says where the fault would be made: `patch` is an upstream file as the patches leave it, `overlay` a file of
overlay/, `configuration` a YAML file or what lies beside the weights, `weights` a file of numbers. Further keys:

    damage: stale_onnx      a function of damage.py changes a copy of the weights; instead of, or besides, an edit
    says: q_bias differs    must occur in the failing line's detail: the fault is named, not only noticed
    survives: a reason      instead of `caught by`: the gate does not see it, and why; the list of its blind spots
    settings: own           run with the paths of the workspace's YAML, as a user does, instead of --weights
    sampled: true           asked for sampled answers too, which take as long as everything else
    cfg_path: FILE          another eval YAML than Vicuna's; the golden is then recorded on the way
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import damage
import yaml

FOLDER = Path(__file__).resolve().parent / "planted"
KINDS = ("patch", "overlay", "weights", "configuration")
# The lines that may catch a fault, in the order of the report.
LINES = (
    "model",
    "loaded llama_model",
    "loaded ckpt",
    "loaded q_former_model",
    "loaded vit_weights",
    "loaded ln_vision",
    "golden's weights",
    "processor",
    "encoder",
    "Q-Former",
    "projection",
    "prompt",
    "LLM logits",
    "decode",
    "greedy ids",
    "repeat",
    "seeds",
)
KEYS = {
    "kind": str,
    "file": str,
    "stands": str,
    "instead": str,
    "damage": str,
    "caught by": str,
    "says": str,
    "survives": str,
    "settings": str,
    "sampled": bool,
    "cfg_path": str,
}


class BadList(Exception):
    """The list contradicts itself, or the tree: an edit whose text is gone, a line that does not exist."""


@dataclass(frozen=True)
class Fault:
    """One entry; the fields are the keys above, with "" for an absent text."""

    name: str
    kind: str
    file: str = ""
    stands: str = ""
    instead: str = ""
    damage: str = ""
    caught_by: str = ""
    says: str = ""
    survives: str = ""
    settings: str = ""
    sampled: bool = False
    cfg_path: str = ""

    @property
    def place(self) -> str:
        """Where it is planted, for a table."""
        return self.file or f"weights: {self.damage}"

    @property
    def words(self) -> str:
        """What --only looks into."""
        return " ".join((self.name, self.kind, self.place, self.caught_by or "survives"))

    @property
    def folder(self) -> str:
        """Its name as that of a folder, without what would have to be quoted in YAML."""
        return re.sub(r"\W+", "-", self.name)

    def apply_to(self, text: str) -> str:
        """`text` of its file with the fault in it. Raises BadList when the text to replace is not there once."""
        count = text.count(self.stands)
        if count != 1:
            raise BadList(
                f"{self.name}: {self.file} holds {self.stands!r} {count} times, expected once. Give the fault the "
                "text that stands there now, or another place."
            )
        return text.replace(self.stands, self.instead)


def load(folder: Path = FOLDER) -> list[Fault]:
    """All faults, in the order of the files. Raises BadList."""
    faults: list[Fault] = []
    for path in sorted(folder.glob("*.yaml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise BadList(f"{path.name} is no mapping of names to faults.")
        faults += [_fault(name, entry) for name, entry in content.items()]
    names = [fault.name for fault in faults]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadList(f"Two faults have the same name: {', '.join(twice)}.")
    return faults


def _fault(name: str, entry: dict[str, object]) -> Fault:
    for key, value in entry.items():
        if key not in KEYS or not isinstance(value, KEYS[key]):
            raise BadList(f"{name}: {key}: {value!r} is not understood. The keys are {', '.join(KEYS)}.")
    fault = Fault(name, **{key.replace(" ", "_"): value for key, value in entry.items()})  # type: ignore[arg-type]
    edit = (bool(fault.file), bool(fault.stands), "instead" in entry)
    rules = {
        f"kind must be one of {', '.join(KINDS)}": fault.kind in KINDS,
        "file, stands and instead go together": len(set(edit)) == 1,
        "it changes nothing: give an edit or a damage": any(edit) or bool(fault.damage),
        "an edit must change the text": not any(edit) or fault.stands != fault.instead,
        "it is either caught or survives": bool(fault.caught_by) != bool(fault.survives),
        f"no line of verify.py is called {fault.caught_by!r}": fault.caught_by in ("", *LINES),
        f"damage.py has no {fault.damage!r}": fault.damage in ("", *damage.KINDS),
        "settings can only be own": fault.settings in ("", "own"),
    }
    for rule, holds in rules.items():
        if not holds:
            raise BadList(f"{name}: {rule}.")
    return fault
