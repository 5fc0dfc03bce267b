"""The real configs/weights.yaml with the sizes of the synthetic set: without its marker that set is then a real one."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import verify

ROOT = Path(__file__).resolve().parents[2]
HUB = "https://huggingface.co/"


class Project:
    """A folder with configs/weights.yaml for one set of files."""

    def __init__(self, folder: Path, tiny: Path) -> None:
        self.folder = folder
        self.tiny, facts = published(tiny)
        self.facts = copy.deepcopy(facts)
        self.save()

    def save(self) -> None:
        (self.folder / "configs").mkdir(parents=True, exist_ok=True)
        (self.folder / "configs" / "weights.yaml").write_text(yaml.safe_dump(self.facts, sort_keys=False))

    def copy(self, name: str = "mine") -> Path:
        """A set of one's own, to be spoilt; the encoder's large file is linked and must be replaced, not written to."""

        def place(source: str, target: str) -> None:
            (os.link if source.endswith("eva_vit_g.pth") else shutil.copy2)(source, target)

        shutil.copytree(self.tiny, self.folder / name, copy_function=place)
        return self.folder / name

    def serve(self, server: Any, **how: Any) -> None:
        """Everything under every address that weights.yaml names on Hugging Face."""
        for facts in self.facts.values():
            for url in facts.get("urls", ()):
                server.serve(url[len(HUB) - 1 :], (self.tiny / facts["path"]).read_bytes(), **how)
            for repository in facts.get("repositories", ()):
                for file in (self.tiny / facts["path"]).iterdir():
                    server.serve(f"/{repository}/resolve/main/{file.name}", file.read_bytes(), **how)


@functools.cache
def published(tiny: Path) -> tuple[Path, dict[str, Any]]:
    """The synthetic set without its marker, and what weights.yaml would say of it."""
    folder = tiny.parent / "published"
    shutil.copytree(tiny, folder)
    for name in ("weights", "llama2"):
        config = json.loads((folder / name / "config.json").read_text())
        del config["synthetic_weights"]
        (folder / name / "config.json").write_text(json.dumps(config))
    facts = copy.deepcopy(yaml.safe_load((ROOT / "configs" / "weights.yaml").read_text()))
    for key in ("vit_weights", "q_former_model", "ckpt", "llama2_ckpt"):
        path = folder / facts[key]["path"]
        facts[key].update(bytes=path.stat().st_size, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
        facts[key]["urls"] = [url for url in facts[key]["urls"] if url.startswith(HUB)]  # no other host is asked
        inside = shapes_of(path)
        names = [name.replace("{}", "0") for name in facts[key]["tensors"]]
        facts[key]["tensors"] = {name: inside[name] for name in names}
    for key in ("llama_model", "llama2_model"):
        facts[key] = llama_facts(folder / facts[key]["path"], copy.deepcopy(facts[key]))
    facts["bert"]["config"].update(hidden_size=192, num_hidden_layers=4, num_attention_heads=6, intermediate_size=384)
    return folder, facts


def llama_facts(folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    inside = {name: shape for shard in folder.glob("*.bin") for name, shape in shapes_of(shard).items()}
    tensors = {name: inside[name.replace("{}", "0")] for name in facts["tensors"]}
    facts.update(about=8_000_000, layers=4, tensors=tensors, index="pytorch_model.bin.index.json")
    config = json.loads((folder / "config.json").read_text())
    sizes = ("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size")
    facts["config"].update({name: config[name] for name in sizes})
    tokenizer = (folder / "tokenizer.model").read_bytes()
    known = {"bytes": len(tokenizer), "sha256": hashlib.sha256(tokenizer).hexdigest()}
    facts["files"]["tokenizer.model"].update(known)
    return facts


def shapes_of(path: Path) -> dict[str, list[int]]:
    content = torch.load(path, weights_only=True)
    content = content.get("model", content)
    return {name: list(value.shape) for name, value in content.items() if isinstance(value, torch.Tensor)}


@pytest.fixture
def project(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Project(tmp_path / "project", tiny)


def run(project: Project, models: Path, *more: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    arguments = ["weights", "--project", str(project.folder), "--model-path", str(models), "--json", *more]
    code = verify.main(arguments)
    out = capsys.readouterr().out
    report = json.loads(out)
    assert report["exit_code"] == code
    return report


def bad(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Wrong and missing files by name."""
    return {Path(f["path"]).name: f for f in report["files"] if f["outcome"] in ("FAILED", "not run")}
