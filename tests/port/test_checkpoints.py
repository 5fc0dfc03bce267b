"""load_checked: a right file fills the model, every wrong one is named in one sentence."""

from __future__ import annotations

import pytest
import torch
from port.models.checkpoints import IncompleteCheckpoint, load_checked
from torch import nn

HIDDEN, BERT = 8, 6


class Model(nn.Module):
    """The parts that the two files fill, and one that neither does."""

    def __init__(self, width: int = BERT) -> None:
        super().__init__()
        self.Qformer = nn.Linear(BERT, BERT)
        self.Qformer.register_buffer("position_ids", torch.zeros(3))
        self.llama_proj = nn.Linear(width, HIDDEN)
        self.llama_model = nn.Linear(2, 2)


def weights(width: int = BERT, hidden: int = HIDDEN) -> dict[str, torch.Tensor]:
    return {"llama_proj.weight": torch.rand(hidden, width), "llama_proj.bias": torch.rand(hidden)}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "file.pth"


def refused(file, model=None, prefixes=("llama_proj.",)) -> str:
    """The message; it names the file and nothing was loaded."""
    model = model or Model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(IncompleteCheckpoint) as refusal:
        load_checked(model, str(file), prefixes)
    assert str(file) in str(refusal.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_right_file_fills_its_part(file, zipped):
    saved = weights()
    content = {"model": {**saved, "unknown": torch.ones(1)}, "epoch": 4, "config": {"run": {"seed": 42}}}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    model = Model()
    other = model.Qformer.weight.clone()
    load_checked(model, file, ["llama_proj."])
    assert torch.equal(model.llama_proj.weight, saved["llama_proj.weight"])
    assert torch.equal(model.llama_proj.bias, saved["llama_proj.bias"])
    assert torch.equal(model.Qformer.weight, other)


def test_the_language_model_is_left_alone(file):
    """Its state_dict() copies weights that are packed for a processor: 13 GB to look up two names."""

    class Language(nn.Linear):
        def _save_to_state_dict(self, *_):
            raise AssertionError("copied")

    model = Model()
    model.llama_model = Language(2, 2)
    model.query_tokens = nn.Parameter(torch.zeros(1, 4))
    saved = {**weights(), "query_tokens": torch.ones(1, 4)}
    torch.save({"model": saved}, file)
    load_checked(model, file, ["llama_proj.", "query_tokens"])
    assert torch.equal(model.query_tokens, saved["query_tokens"])
    torch.save({"model": weights()}, file)
    with pytest.raises(IncompleteCheckpoint, match="query_tokens"):
        load_checked(model, file, ["llama_proj.", "query_tokens"])


def test_position_ids_may_be_missing(file):
    torch.save({"model": {"Qformer.weight": torch.ones(BERT, BERT), "Qformer.bias": torch.ones(BERT)}}, file)
    load_checked(Model(), file, ["Qformer."])


def test_missing_weights_are_named(file):
    torch.save({"model": {"llama_proj.weight": weights()["llama_proj.weight"]}}, file)
    assert "lacks 1 weights that the model needs (llama_proj.bias)" in refused(file)


def test_a_cut_off_file(file):
    torch.save({"model": weights(64)}, file)
    file.write_bytes(file.read_bytes()[:1500])
    assert refused(file) == (
        f"{file} cannot be read as weights. PytorchStreamReader failed reading zip archive: failed finding central "
        "directory. Is the download complete?"
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "run `git lfs pull`"),
        ("\n<!DOCTYPE html><html>Sign in</html>", "It is a web page"),
        ("", "The file is empty"),
        ("rubbish", "Is the download complete?"),
    ],
)
def test_what_downloads_leave_behind(file, content, expected):
    file.write_text(content)
    assert expected in refused(file)


def test_an_address_is_to_be_downloaded():
    assert "download the file and set its path" in refused("https://storage.googleapis.com/blip2.pth")


def test_absent_files_and_folders(tmp_path):
    assert "does not exist" in refused(tmp_path / "nowhere.pth")
    assert "is a folder" in refused(tmp_path)


def test_another_file_is_recognised(file):
    torch.save({"patch_embed.proj.weight": torch.zeros(1), "cls_token": torch.zeros(1)}, file)
    message = refused(file)
    assert 'has no part "model" (it holds patch_embed.proj.weight, cls_token, …)' in message
    assert "eva_vit_g.pth" in message
    torch.save([1, 2], file)
    assert 'has no part "model": it is another file.' in refused(file)


def test_the_checkpoint_of_the_other_stage(file):
    torch.save({"model": weights(5632)}, file)
    message = refused(file)
    assert "llama_proj.weight is (8, 5632), but the model needs (8, 6)." in message
    assert "It is the checkpoint of the Llama-2 model; this configuration is Vicuna's." in message
    torch.save({"model": weights()}, file)
    assert "It is the checkpoint of the Vicuna model" in refused(file, Model(5632))
    torch.save({"model": weights(hidden=9)}, file)
    assert "another size" in refused(file)


def test_another_bert(file):
    torch.save({"model": {"Qformer.weight": torch.ones(9, 9), "Qformer.bias": torch.ones(9)}}, file)
    assert "`bert` names: is that bert-base-uncased?" in refused(file, prefixes=("Qformer.",))


def test_a_file_that_would_run_code_is_refused(file, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "was_here"), "w"))

    torch.save({"model": weights(), "evil": Evil()}, file)
    refused(file)
    assert not (tmp_path / "was_here").exists()


def test_no_second_copy_is_made(file, monkeypatch):
    torch.save({"model": weights()}, file)
    asked = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **options: asked.append(options) or load(*args, **options))
    load_checked(Model(), file, ["llama_proj."])
    assert [options["mmap"] for options in asked] == [True]
