"""`verify.py weights --download`: what is missing comes, what is wrong is replaced, and no two models are mixed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hostile_server import sha256
from weights_doctor import CKPT, INDEX, MIRRORS, SECOND, SHARD, VICUNA, Doctor, doctor

from verification.weightfiles import getting, space

__all__ = ["doctor"]  # a fixture


def same(one: Path, other: Path) -> bool:
    names = {path.relative_to(one) for path in one.rglob("*") if path.is_file()}
    return all((other / name).read_bytes() == (one / name).read_bytes() for name in names)


def test_everything_comes_once(doctor: Doctor) -> None:
    ran = doctor.run()
    assert (ran.code, ran.bad) == (0, {})
    for name in ("weights", "othfiles"):
        assert same(doctor.project.tiny / name, doctor.models / name)
    assert not list(doctor.models.rglob("*.part*"))
    assert "GB to fetch" in ran.report["disk"]
    assert "eva_vit_g.pth is here: 54,4" in ran.err
    again = doctor.run()
    assert again.code == 0
    assert {len(doctor.asked(path)) for path in (MIRRORS[0], VICUNA + SHARD.format(1))} == {1}
    told = {Path(f["path"]).name: f["told_by"] for f in again.report["files"]}
    assert told[SHARD.format(1)] == "as first seen"


def test_a_file_only_for_browsers_is_left_to_the_user(doctor: Doctor) -> None:
    ran = doctor.run("--only", "llama2_ckpt")
    assert ran.code == 5
    fix = ran.report["files"][0]["fix"]
    assert "By hand: open https://drive.google.com/file/d/11nAPjEok8eAGGEG1N2vXo3kBLCg0WgUk/view" in fix
    assert str(doctor.models / "pretrain" / "pretrained_minigpt4_llama2_7b.pth") in fix


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>", b"version https://git-lfs.github.com/spec/v1\noid sha2"])
def test_worthless_files_are_replaced(doctor: Doctor, content: bytes) -> None:
    doctor.project.copy()
    if content.startswith(b"version"):
        content += b"56:" + b"ab" * 32 + b"\nsize 5\n"
    doctor.spoil(CKPT, content)
    assert doctor.run("--only", "ckpt").code == 0
    assert [path.name for path in (doctor.models / "pretrain").glob("prerained*")] == ["prerained_minigpt4_7b.pth"]


def test_a_file_that_somebody_may_want_is_kept(doctor: Doctor) -> None:
    doctor.project.copy()
    for number in ("", "2"):
        doctor.spoil(CKPT, b"my own training" + number.encode())
        assert doctor.run("--only", "ckpt").code == 0
        kept = doctor.models / f"{CKPT}.replaced{number}"
        assert kept.read_bytes() == b"my own training" + number.encode()


def test_a_browsers_half_download_is_continued(doctor: Doctor) -> None:
    doctor.project.copy()
    content = (doctor.models / CKPT).read_bytes()
    doctor.spoil(CKPT, content[:400_000])
    assert doctor.run("--only", "ckpt").code == 0
    assert (doctor.models / CKPT).read_bytes() == content
    assert doctor.asked(MIRRORS[0])[0]["range"] == "bytes=400000-"


def test_a_mirror_with_another_file_is_passed_over(doctor: Doctor) -> None:
    content = (doctor.project.tiny / CKPT).read_bytes()
    doctor.server.serve(MIRRORS[0], content[:-1] + b"?")
    assert doctor.run("--only", "ckpt").code == 0
    assert len(doctor.asked(MIRRORS[1])) == 1


def test_nothing_can_be_reached(doctor: Doctor) -> None:
    doctor.server.http.paths.clear()  # type: ignore[attr-defined]
    ran = doctor.run("--only", "ckpt", "bert")
    assert ran.code == 5
    assert set(ran.bad.values()) == {"missing"}
    assert len(ran.report["troubles"]) == 2
    for trouble, sources in zip(ran.report["troubles"], ("ckpt", "bert")):
        facts = doctor.project.facts[sources]
        tried = len(facts.get("repositories", ()) or facts["urls"])
        assert trouble.count("it answers 404") == tried > 1  # every source's reason
    assert not list(doctor.models.rglob("*.p*"))


def test_the_second_repository_of_a_folder(doctor: Doctor) -> None:
    for path in [path for path in doctor.server.http.paths if path.startswith(VICUNA)]:  # type: ignore[attr-defined]
        del doctor.server.http.paths[path]  # type: ignore[attr-defined]
    assert doctor.run("--only", "llama_model").code == 0
    assert same(doctor.project.tiny / "weights", doctor.models / "weights")
    assert len(doctor.asked(SECOND + SHARD.format(2))) == 1


def test_a_folder_stays_with_the_repository_that_it_began_with(doctor: Doctor) -> None:
    """The first repository fails in the middle: the rest is not taken from the second, which may hold another model."""
    shard = doctor.server.http.paths.pop(VICUNA + SHARD.format(2))  # type: ignore[attr-defined]
    for _ in range(2):
        ran = doctor.run("--only", "llama_model")
        assert ran.code == 5
        assert ran.bad == {SHARD.format(2): "missing"}
        assert not doctor.asked(SECOND + SHARD.format(2))
    assert len(doctor.asked(VICUNA + SHARD.format(1))) == 1
    doctor.server.http.paths[VICUNA + SHARD.format(2)] = shard  # type: ignore[attr-defined]
    assert doctor.run("--only", "llama_model").code == 0


def test_shards_of_unknown_origin_are_not_completed(doctor: Doctor) -> None:
    doctor.project.copy()
    (doctor.models / "weights" / SHARD.format(2)).unlink()
    ran = doctor.run("--only", "llama_model")
    assert ran.code == 5
    assert "nobody knows which download" in ran.report["troubles"][0]
    assert not doctor.asked(VICUNA + SHARD.format(2))
    (doctor.models / "weights" / SHARD.format(1)).unlink()
    assert doctor.run("--only", "llama_model").code == 0


def test_nothing_is_put_into_the_folder_of_another_model(doctor: Doctor) -> None:
    doctor.project.copy()
    config = doctor.models / "weights" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "vocab_size": 32000}))
    (doctor.models / "weights" / SHARD.format(2)).unlink()
    ran = doctor.run("--only", "llama_model")
    assert ran.code == 1
    assert "Vicuna v1.1" in ran.report["troubles"][0]
    assert not doctor.asked(VICUNA + SHARD.format(2))


def test_a_cut_off_shard_that_was_fetched_here_is_fetched_again(doctor: Doctor) -> None:
    assert doctor.run("--only", "llama_model").code == 0
    path = doctor.models / "weights" / SHARD.format(1)
    path.write_bytes(path.read_bytes()[:-5])
    assert doctor.run("--only", "llama_model").code == 0
    assert same(doctor.project.tiny / "weights", doctor.models / "weights")


def test_a_shard_that_is_fetched_again_must_be_the_one_that_was_here(doctor: Doctor) -> None:
    """The repository has another version by now: its shard does not belong to the others."""
    assert doctor.run("--only", "llama_model").code == 0
    path = doctor.models / "weights" / SHARD.format(2)
    content = path.read_bytes()
    path.unlink()
    first = (doctor.models / "weights" / SHARD.format(1)).read_bytes()
    doctor.server.serve(VICUNA + SHARD.format(2), first)
    ran = doctor.run("--only", "llama_model")
    assert ran.bad == {SHARD.format(2): "missing"}
    assert f"and the file has {sha256(content)}" in ran.report["troubles"][0]


def test_what_came_damaged_is_not_asked_for_again(doctor: Doctor) -> None:
    index = doctor.server.http.paths[VICUNA + INDEX]  # type: ignore[attr-defined]
    doctor.server.serve(VICUNA + INDEX, b'{"weight_map": {}}')
    assert doctor.run("--only", "llama_model").bad == {INDEX: "damaged"}
    doctor.server.http.paths[VICUNA + INDEX] = index  # type: ignore[attr-defined]
    assert doctor.run("--only", "llama_model").code == 0
    assert same(doctor.project.tiny / "weights", doctor.models / "weights")


def test_a_small_file_that_is_missing_is_added(doctor: Doctor) -> None:
    doctor.project.copy()
    (doctor.models / "weights" / "config.json").unlink()
    (doctor.models / "weights" / "generation_config.json").unlink()
    assert doctor.run("--only", "llama_model").code == 0
    assert same(doctor.project.tiny / "weights", doctor.models / "weights")


def test_optional_files_may_be_absent(doctor: Doctor) -> None:
    del doctor.server.http.paths[VICUNA + "generation_config.json"]  # type: ignore[attr-defined]
    ran = doctor.run("--only", "llama_model")
    assert ran.code == 0
    assert "generation_config.json is not needed" in ran.err


def test_an_index_cannot_name_files_elsewhere(doctor: Doctor) -> None:
    index = json.loads((doctor.project.tiny / "weights" / INDEX).read_text())
    index["weight_map"]["evil"] = "../evil.bin"
    doctor.server.serve(VICUNA + INDEX, json.dumps(index).encode())
    doctor.server.serve(VICUNA + "../evil.bin", b"evil")
    ran = doctor.run("--only", "llama_model")
    assert ran.code == 1
    assert ran.bad == {INDEX: "unsafe"}
    assert not (doctor.models / "evil.bin").exists()


def test_a_sum_that_the_hub_announces_counts(doctor: Doctor) -> None:
    """Nobody published the sum of Vicuna's shards, but Hugging Face sends it with the file."""
    for number in (1, 2):
        content = (doctor.project.tiny / "weights" / SHARD.format(number)).read_bytes()
        doctor.server.serve(VICUNA + SHARD.format(number), content, headers={"X-Linked-ETag": f'"{sha256(content)}"'})
    ran = doctor.run("--only", "llama_model")
    told = {Path(f["path"]).name: f["told_by"] for f in ran.report["files"]}
    assert told[SHARD.format(2)] == "announced by its server"
    shutil.rmtree(doctor.models / "weights")
    spoilt = content[:5000] + b"?" + content[5001:]
    doctor.server.serve(VICUNA + SHARD.format(2), spoilt, headers={"X-Linked-ETag": f'"{sha256(content)}"'})
    ran = doctor.run("--only", "llama_model")
    assert ran.bad == {SHARD.format(2): "missing"}
    assert "has the sha256" in ran.report["troubles"][0]


def test_a_shard_without_any_sum_must_at_least_be_whole(doctor: Doctor) -> None:
    content = (doctor.project.tiny / "weights" / SHARD.format(2)).read_bytes()
    doctor.server.serve(VICUNA + SHARD.format(2), content[:-100])
    ran = doctor.run("--only", "llama_model")
    assert ran.bad == {SHARD.format(2): "missing"}
    assert f"is not {SHARD.format(2)}: the end is missing" in ran.report["troubles"][0]


def test_a_disk_that_is_too_small_is_seen_before(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        free: int = 300_000_000

    monkeypatch.setattr(space.shutil, "disk_usage", lambda path: Usage())
    ran = doctor.run()
    assert ran.code == 5
    assert "The disk is too small: 0.07 GB to fetch, 0.30 GB free" in ran.err
    assert not doctor.asked(MIRRORS[0])


def test_a_folder_that_cannot_be_written(doctor: Doctor) -> None:
    doctor.models.parent.mkdir(exist_ok=True)
    doctor.models.write_bytes(b"a file, so that no folder can be made below it")
    ran = doctor.run("--only", "ckpt")
    assert ran.code == 5
    assert "could not be written" in ran.report["troubles"][0]


def test_ctrl_c(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(getting, "fetch", interrupted)
    ran = doctor.run("--only", "ckpt")
    assert ran.code == 130
    assert "the same command goes on from there" in ran.err
