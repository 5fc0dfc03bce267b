"""`verify.py weights`: every known mix-up is named, with what to do, and nothing good is called wrong."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from weights_project import ROOT, Project, shapes_of

import verify
from verification.synthetic_text import train_tokenizer
from verification.weightfiles import space
from verification.weightfiles.facts import read_facts

LAYERS = "model.layers.0.self_attn.q_proj.weight"


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


def test_the_right_set_is_right(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    models = project.copy()
    report = run(project, models, capsys=capsys)
    assert report["verdict"] == "Every file is there and the right one."
    assert report["exit_code"] == 0
    told = {Path(f["path"]).name: f["told_by"] for f in report["files"]}
    assert told["eva_vit_g.pth"] == told["tokenizer.model"] == "published"
    assert told["pytorch_model-00001-of-00002.bin"] == "seen for the first time"
    again = run(project, models, capsys=capsys)
    told = {Path(f["path"]).name: f["told_by"] for f in again["files"]}
    assert told["pytorch_model-00001-of-00002.bin"] == "as first seen"
    assert str(models / "weights" / "weights-pins.json") in again["pins"]
    llama2 = run(project, models, "--only", "llama2_model", "llama2_ckpt", capsys=capsys)
    assert llama2["exit_code"] == 0


def test_the_table_says_what_to_do(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    models = project.copy()
    (models / "pretrain" / "prerained_minigpt4_7b.pth").unlink()
    assert verify.main(["weights", "--project", str(project.folder), "--model-path", str(models)]) == 5
    out = capsys.readouterr().out
    assert "pretrain/prerained_minigpt4_7b.pth        missing" in out
    assert "--download --only ckpt" in out
    assert "https://drive.google.com/file/d/1RY9jV0dyqLX-o38LrumkKRh6Jtaop58R/view" in out
    assert out.rstrip().endswith(f"--model-path {models} --download")
    assert "GB in float16" in out


def test_a_synthetic_set_is_exempt(project: Project, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = run(project, tiny, capsys=capsys)
    assert report["exit_code"] == 0
    assert "synthetic" in report["verdict"]
    assert {f["told_by"] for f in report["files"]} == {"synthetic"}
    assert not (tiny / "weights" / "weights-pins.json").exists()


def saved(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def old(content: Any) -> bytes:
    """As torch wrote it before 1.6."""
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


DRIVE = b"<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title>"
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'ab' * 32}\nsize 37907201\n".encode()


def zipped(content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("repository/readme.md", content)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("spoil", "kind", "what"),
    [
        (lambda content: b"", "empty", "the file is empty"),
        (lambda content: DRIVE, "drive-page", "asks to confirm a large download"),
        (lambda content: b"\n<html><body>502 Bad Gateway", "web-page", "a web page"),
        (lambda content: b'<?xml version="1.0"?><Error><Code>AccessDenied', "web-page", "a web page"),
        (lambda content: b'{"error":"Repository not found"}', "web-page", "an error message"),
        (lambda content: POINTER, "lfs-pointer", "stands for a file of 37,907,201 bytes"),
        (gzip.compress, "archive", "a gzip archive"),
        (zipped, "archive", "a zip archive and no PyTorch file"),
        (lambda content: content[:-1], "truncated", "the end is missing"),
        (lambda content: content[: len(content) // 2], "truncated", "the end is missing"),
        (lambda content: content[:1000] + b"x" + content[1001:], "changed", "the right size and the wrong content"),
        (lambda content: old(torch.zeros(300))[:-100], "truncated", "cut off: 1,4"),
        (lambda content: pickle.dumps({"model": 1}, 2), "damaged", "PyTorch cannot read it"),
    ],
)
def test_a_spoilt_file_is_named(
    project: Project, spoil: Callable[[bytes], bytes], kind: str, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    models = project.copy()
    path = models / "pretrain" / "prerained_minigpt4_7b.pth"
    path.write_bytes(spoil(path.read_bytes()))
    found = bad(run(project, models, "--only", "ckpt", capsys=capsys))[path.name]
    assert (found["kind"], found["outcome"]) == (kind, "FAILED")
    assert what in found["what"]
    assert "--download --only ckpt" in found["fix"]


def stage(*shape: int) -> bytes:
    return saved({"model": {"llama_proj.weight": torch.zeros(shape), "llama_proj.bias": torch.zeros(shape[0])}})


def test_the_checkpoint_of_another_model(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    models = project.copy()
    path = models / "pretrain" / "prerained_minigpt4_7b.pth"
    expected = {
        stage(5120, 768): "a checkpoint for a 13B language model (llama_proj.weight is [5120, 768])",
        stage(4096, 5632): "a checkpoint for Llama-2 (llama_proj.weight is [4096, 5632])",
        (project.tiny / "othfiles" / "eva_vit_g.pth").read_bytes(): "eva_vit_g.pth, under this name",
        (
            project.tiny / "pretrain" / "pretrained_minigpt4_llama2_7b.pth"
        ).read_bytes(): "llama2_7b.pth, under this name",
        stage(64, 64): "llama_proj.weight is [64, 64], not [256, 192]",
        saved({"model": {"linear.weight": torch.zeros(2)}}): "another file: missing: llama_proj.weight",
        stage(256, 192): "every tensor has the right shape, but it is not the published file",
    }
    for content, what in expected.items():
        path.write_bytes(content)
        found = bad(run(project, models, "--only", "ckpt", capsys=capsys))[path.name]
        assert what in found["what"]


def test_known_files_are_told_by_their_size_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the real configuration; the files are holes of the right size."""
    named = {
        "othfiles/eva_vit_g.pth": {
            3943979973: "another file of the same name, twice as large",
            433481467: "blip2_pretrained_flant5xxl.pth, under this name",
        },
        "pretrain/prerained_minigpt4_7b.pth": {
            47369169: "the checkpoint for Vicuna 13B",
            276957567: "the checkpoint for Llama-2",
        },
        "pretrain/pretrained_minigpt4_llama2_7b.pth": {37907201: "the checkpoint for Vicuna 7B"},
    }
    keys = {"eva": "vit_weights", "pre": "ckpt", "pretrained": "llama2_ckpt"}
    for name, sizes in named.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        key = keys["eva" if "eva" in name else "pretrained" if "pretrained" in name else "pre"]
        for size, what in sizes.items():
            with path.open("wb") as file:
                file.write(b"\x80\x02")
                file.truncate(size)
            assert verify.main(["weights", "--model-path", str(tmp_path), "--only", key]) == 1
            assert what in " ".join(capsys.readouterr().out.split())


def test_nothing_in_a_pickle_is_executed(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    models = project.copy()

    class Attack:
        def __reduce__(self) -> Any:
            return (Path.touch, (project.folder / "executed",))

    content = {"model": {"llama_proj.weight": Attack()}}
    for name in ("pretrain/prerained_minigpt4_7b.pth", "weights/pytorch_model-00001-of-00002.bin"):
        torch.save(content, models / name)
    found = bad(run(project, models, "--only", "llama_model", capsys=capsys))
    assert found["pytorch_model-00001-of-00002.bin"]["kind"] == "unsafe"
    project.facts["ckpt"]["bytes"] = 10  # larger than published: not taken for a part of it
    project.save()
    found = bad(run(project, models, "--only", "ckpt", capsys=capsys))
    assert found["prerained_minigpt4_7b.pth"]["kind"] == "unsafe"
    assert "that could run code" in found["prerained_minigpt4_7b.pth"]["what"]
    assert not (project.folder / "executed").exists()


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


def test_a_file_that_cannot_be_read(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from verification.weightfiles import files

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(files, "recognise", refuse)
    found = bad(run(project, project.copy(), "--only", "ckpt", capsys=capsys))["prerained_minigpt4_7b.pth"]
    assert (found["kind"], found["what"]) == ("unreadable", "not readable: Permission denied")


def test_a_known_shard_is_named(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    import hashlib

    models = project.copy()
    shard = models / "weights" / "pytorch_model-00001-of-00002.bin"
    digest = hashlib.sha256(shard.read_bytes()).hexdigest()
    project.facts["llama_model"]["known_shards"] = {digest: "shard 1 of somebody's (v0)"}
    project.save()
    for _ in range(2):
        report = run(project, models, "--only", "llama_model", capsys=capsys)
        assert "shard 1 of somebody's (v0)" in {f["told_by"] for f in report["files"]}


def test_usage(project: Project, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    common = ["weights", "--project", str(project.folder)]
    assert verify.main([*common, "--only", "vicuna"]) == 2
    assert "There are llama_model" in capsys.readouterr().err
    assert verify.main([*common, "--workspace", str(tmp_path / "none")]) == 2
    assert "--model-path" in capsys.readouterr().err
    assert verify.main([*common, "--model-path", str(tmp_path), "--only", "encoder"]) == 2
    assert "made, not fetched" in capsys.readouterr().err
    (project.folder / "configs" / "weights.yaml").write_text("ckpt: [")
    assert verify.main([*common, "--model-path", str(tmp_path)]) == 2


def test_a_workspace_names_the_files(project: Project, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from verification.weights import DEFAULT_CFG, MODEL_YAML

    models, workspace = project.copy(), tmp_path / "MiniGPT-4"
    named = {
        "llama_model": "weights",
        "encoder": "om/eva_vit_g.om",
        "vit_weights": "othfiles/eva_vit_g.pth",
        "q_former_model": "othfiles/blip2_pretrained_flant5xxl.pth",
        "bert": "othfiles/bert-base-uncased",
    }
    paths = {key: str(models / name) for key, name in named.items()}
    ckpt = str(models / "pretrain" / "prerained_minigpt4_7b.pth")
    for name, content in (
        (MODEL_YAML["pretrain_vicuna0"], paths),
        (DEFAULT_CFG, {"model_type": "pretrain_vicuna0", "ckpt": ckpt}),
    ):
        (workspace / name).parent.mkdir(parents=True, exist_ok=True)
        (workspace / name).write_text(yaml.safe_dump({"model": content}))
    (workspace / "run_predict.py").touch()
    arguments = ["weights", "--project", str(project.folder), "--workspace", str(workspace), "--json"]
    assert verify.main(arguments) == 0
    lines = {line["key"]: line for line in json.loads(capsys.readouterr().out)["files"]}
    assert lines["ckpt"]["path"] == ckpt
    assert lines["encoder"]["outcome"] == "note"
    assert "onnx_model_export.py" in lines["encoder"]["what"]


def test_the_real_configuration_is_whole() -> None:
    facts = read_facts(ROOT / "configs" / "weights.yaml")
    assert sum(len(entry.tensors) for entry in facts.values()) > 700
    for key, entry in facts.items():
        assert entry.path or key == "encoder"
        for url in entry.file.urls:
            assert url.startswith("https://")
            assert entry.file.sha256, "a mirror counts only with a published sum"
        assert entry.folder or entry.file.bytes or key == "encoder"
    assert facts["vit_weights"].tensors["blocks.38.attn.qkv.weight"] == (4224, 1408)


def test_memory_of_the_real_model() -> None:
    """Vicuna 7B v0 has 6,738,423,808 parameters (32,001 words): 13.48 GB in 16 bits, as its two shards."""
    config = read_facts(ROOT / "configs" / "weights.yaml")["llama_model"].config
    assert space.parameters(config)[0] == 6_738_423_808
    assert "31.3 GB in float32, 15.7 GB in float16, 9.2 GB in int8" in space.describe_memory(config)
    assert "does not say" in space.describe_memory({})


def test_shapes_of_the_synthetic_set_fit_the_pattern(tiny: Path) -> None:
    """The names in weights.yaml are those of the real formats."""
    content = yaml.safe_load((ROOT / "configs" / "weights.yaml").read_text())
    for key in ("vit_weights", "q_former_model", "ckpt", "llama2_ckpt"):
        inside = shapes_of(tiny / content[key]["path"])
        assert {name.replace("{}", "0") for name in content[key]["tensors"]} <= set(inside)
