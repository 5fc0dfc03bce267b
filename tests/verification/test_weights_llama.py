"""Language models in a folder: other models under the name, shards that changed, tokenizers of others."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from weights_project import Project, bad, project, run

from verification.synthetic_text import train_tokenizer

__all__ = ["project"]  # a fixture
LAYERS = "model.layers.0.self_attn.q_proj.weight"


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"vocab_size": 32000}, "Vicuna v1.1 or v1.3, or plain LLaMA"),
        ({"vocab_size": 32000, "max_position_embeddings": 4096}, "Vicuna v1.5 or Llama-2"),
        ({"hidden_size": 5120, "num_hidden_layers": 40}, "a 13B language model"),
        ({"num_hidden_layers": 22}, "num_hidden_layers is 22, not 4"),
    ],
)
def test_another_language_model_is_named(
    project: Project, changes: dict[str, Any], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    models = project.copy()
    edit(models / "weights" / "config.json", **changes)
    report = run(project, models, capsys=capsys)
    found = bad(report)["config.json"]
    assert found["what"].startswith(what)
    assert "move" in found["fix"]
    assert not (models / "weights" / "weights-pins.json").exists()  # nothing wrong is pinned


def test_vicuna_v0_in_place_of_llama2(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    models = project.copy()
    edit(models / "llama2" / "config.json", vocab_size=32001)
    found = bad(run(project, models, "--only", "llama2_model", capsys=capsys))["config.json"]
    assert found["what"].startswith("Vicuna v0")


def respoil(shard: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    content = torch.load(shard, weights_only=True)
    change(content)
    torch.save(content, shard)


def shard_with(folder: Path, name: str) -> Path:
    index = json.loads((folder / "pytorch_model.bin.index.json").read_text())
    return folder / index["weight_map"][name]


@pytest.mark.parametrize(
    ("name", "change", "what"),
    [
        ("model.embed_tokens.weight", lambda t: t[:-1].clone(), "the words of another version"),
        ("lm_head.weight", lambda t: t[:-1].clone(), "whatever config.json says"),
        (LAYERS, lambda t: t[:, :-1].clone(), "shapes of another model: model.layers.0.self_attn.q_proj.weight"),
        ("model.norm.weight", lambda t: t * 1e-3, "a delta: the difference to LLaMA"),
        ("model.norm.weight", None, "the index says that model.norm.weight is in it"),
    ],
)
def test_shards_are_looked_into(
    project: Project, name: str, change: Any, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """config.json is right in all of these."""
    models = project.copy()
    shard = shard_with(models / "weights", name)
    respoil(shard, lambda t: t.update({name: change(t[name])}) if change else t.pop(name))
    found = bad(run(project, models, "--only", "llama_model", capsys=capsys))
    assert list(found) == [shard.name]
    assert what in found[shard.name]["what"]


def test_an_index_that_leads_out_of_the_folder(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    models = project.copy()
    index = models / "weights" / "pytorch_model.bin.index.json"
    content = json.loads(index.read_text())
    content["weight_map"][LAYERS] = "../../somewhere/model.bin"
    index.write_text(json.dumps(content))
    found = bad(run(project, models, "--only", "llama_model", capsys=capsys))
    assert found[index.name]["kind"] == "unsafe"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"weight_map": {}}', '{"weight_map": {"a": "a.bin"}}'])
def test_a_broken_index(project: Project, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    models = project.copy()
    (models / "weights" / "pytorch_model.bin.index.json").write_text(text)
    assert "pytorch_model.bin.index.json" in bad(run(project, models, "--only", "llama_model", capsys=capsys))


def test_shards_that_cannot_be_opened_are_not_called_right(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without torch: not checked, and not pinned; but a shard whose sum is pinned is known."""
    from verification.weightfiles import folder

    models = project.copy()
    with monkeypatch.context() as patch:
        patch.setattr(folder, "shapes", lambda path: None)
        report = run(project, models, "--only", "llama_model", capsys=capsys)
        assert report["verdict"] == "2 not checked of 8."
        assert {found["kind"] for found in bad(report).values()} == {"unopened"}
        assert not (models / "weights" / "weights-pins.json").exists()
    assert run(project, models, "--only", "llama_model", capsys=capsys)["exit_code"] == 0
    monkeypatch.setattr(folder, "shapes", lambda path: None)
    assert run(project, models, "--only", "llama_model", capsys=capsys)["exit_code"] == 0


def test_wrong_tokenizers(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    models = project.copy()
    path = models / "weights" / "tokenizer.model"
    for content, what in (
        (train_tokenizer(7), "a SentencePiece model of "),
        (b"IQ== 0\nIg== 1\n", "the tokenizer of Llama 3"),
        (b'{"version": "1.0"}', "a tokenizer.json under this name"),
        (b"nonsense", "no SentencePiece model"),
    ):
        path.write_bytes(content)
        found = bad(run(project, models, "--only", "llama_model", capsys=capsys))[path.name]
        assert found["what"].startswith(what)
        assert "not LLaMA's tokenizer" in found["what"]


def test_bert_without_its_configuration(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    models = project.copy()
    folder = models / "othfiles" / "bert-base-uncased"
    (folder / "deeper").mkdir()
    shutil.move(str(folder / "config.json"), folder / "deeper")
    report = run(project, models, capsys=capsys)
    assert report["exit_code"] == 5
    assert "but in" in bad(report)["config.json"]["what"]
    shutil.rmtree(folder / "deeper")
    assert bad(run(project, models, capsys=capsys))["config.json"]["what"] == "not there"
    shutil.rmtree(folder)
    folder.write_bytes(b"a file")
    assert bad(run(project, models, capsys=capsys))["bert-base-uncased"]["kind"] == "file"


def test_safetensors(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import save_file

    models = project.copy()
    folder = models / "weights"
    tensors: dict[str, torch.Tensor] = {}
    for shard in sorted(folder.glob("*.bin")):
        tensors |= torch.load(shard, weights_only=True)
        shard.unlink()
    (folder / "pytorch_model.bin.index.json").unlink()
    whole = folder / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, str(whole))
    assert run(project, models, "--only", "llama_model", capsys=capsys)["exit_code"] == 0
    content = whole.read_bytes()
    for spoilt in (content[:-1], content[:5], content[:500]):
        whole.write_bytes(spoilt)
        found = bad(run(project, models, "--only", "llama_model", capsys=capsys))
        assert found["model.safetensors"]["kind"] == "truncated"


def test_a_file_that_changes_after_it_was_seen_is_refused(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    models = project.copy()
    assert run(project, models, capsys=capsys)["exit_code"] == 0
    shard = models / "weights" / "pytorch_model-00001-of-00002.bin"
    respoil(shard, lambda tensors: next(iter(tensors.values())).add_(1e-3))
    found = bad(run(project, models, capsys=capsys))[shard.name]
    assert found["kind"] == "changed"
    assert "when it was first seen" in found["what"]
    assert "delete its entry" in found["fix"]
    pins = models / "weights" / "weights-pins.json"
    content = json.loads(pins.read_text())
    del content["files"][shard.name]
    pins.write_text(json.dumps(content))
    assert run(project, models, capsys=capsys)["exit_code"] == 0  # accepted, and pinned again
    assert shard.name in json.loads(pins.read_text())["files"]


def test_pins_of_a_folder_that_cannot_be_written(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from verification.weightfiles import pins

    models, write = project.copy(), pins._write

    def refuse(path: Path, content: Any) -> None:
        if path.name == pins.NAME:
            raise PermissionError(path)
        write(path, content)

    monkeypatch.setattr(pins, "_write", refuse)
    report = run(project, models, "--only", "llama_model", capsys=capsys)
    assert [Path(path).parent for path in report["pins"]] == [tmp_path / "cache" / "minigpt4-ascend"]
    again = run(project, models, "--only", "llama_model", capsys=capsys)
    assert "as first seen" in {f["told_by"] for f in again["files"]}


def test_a_known_shard_is_named(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    models = project.copy()
    shard = models / "weights" / "pytorch_model-00001-of-00002.bin"
    digest = hashlib.sha256(shard.read_bytes()).hexdigest()
    project.facts["llama_model"]["known_shards"] = {digest: "shard 1 of somebody's (v0)"}
    project.save()
    for _ in range(2):
        report = run(project, models, "--only", "llama_model", capsys=capsys)
        assert "shard 1 of somebody's (v0)" in {f["told_by"] for f in report["files"]}
