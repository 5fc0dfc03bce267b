"""`verify.py weights`: every known mix-up is named, with what to do, and nothing good is called wrong."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from weights_project import Project, bad, project, run

import verify

__all__ = ["project"]  # a fixture


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


def test_a_file_that_cannot_be_read(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from verification.weightfiles import files

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(files, "recognise", refuse)
    found = bad(run(project, project.copy(), "--only", "ckpt", capsys=capsys))["prerained_minigpt4_7b.pth"]
    assert (found["kind"], found["what"]) == ("unreadable", "not readable: Permission denied")


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
