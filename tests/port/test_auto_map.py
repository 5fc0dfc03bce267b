"""--install-auto-map and its undoing: one key in config.json, one file, and nothing lost."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import port_package
import pytest
from port.perf import auto_map
from port.perf.auto_map import AUTO_MAP, BACKUP, FILE, Refusal, install, remove

MODELS = port_package.OVERLAY / "minigpt4" / "models"
VICUNA = b"""{
  "_name_or_path": "vicuna-7b",
  "architectures": [
    "LlamaForCausalLM"
  ],
  "bos_token_id": 1,
  "eos_token_id": 2,
  "rms_norm_eps": 1e-06,
  "vocab_size": 32001
}
"""
LAYOUTS = {
    "Vicuna's": VICUNA,
    "no newline at the end": VICUNA.rstrip(),
    "Windows": VICUNA.replace(b"\n", b"\r\n"),
    "tabs": VICUNA.replace(b"  ", b"\t"),
    "one line": json.dumps(json.loads(VICUNA)).encode(),
    "compact": json.dumps(json.loads(VICUNA), separators=(",", ":")).encode(),
    "byte order mark": b"\xef\xbb\xbf" + VICUNA,
    "not ASCII": VICUNA.replace(b"vicuna-7b", "/data/模型".encode()),
    "empty": b"{}",
    "empty, spread": b"{\n}\n",
}


@pytest.fixture
def folder(tmp_path):
    """A weights folder, as far as installing is concerned."""
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_bytes(VICUNA)
    return tmp_path / "weights"


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_key_is_inserted_and_nothing_else_changes(folder, layout):
    config = folder / "config.json"
    config.write_bytes(LAYOUTS[layout])
    assert "copied" in install(folder, MODELS)
    written = config.read_bytes()
    before = json.loads(LAYOUTS[layout].decode("utf-8-sig"))
    assert json.loads(written.decode("utf-8-sig")) == {"auto_map": AUTO_MAP, **before}
    at = next(at for at, (a, b) in enumerate(zip(written, LAYOUTS[layout])) if a != b)
    added = len(written) - len(LAYOUTS[layout])
    assert written[:at] + written[at + added :] == LAYOUTS[layout]
    assert (folder / f"config.json{BACKUP}").read_bytes() == LAYOUTS[layout]
    remove(folder)
    assert files(folder) == {"config.json": LAYOUTS[layout]}


def test_the_new_key_is_laid_out_as_its_neighbours(folder):
    install(folder, MODELS)
    value = b'{\n    "AutoModelForCausalLM": "modeling_vicuna_ascend_performance.LlamaForCausalLM"\n  }'
    expected = VICUNA.replace(b'{\n  "_name', b'{\n  "auto_map": ' + value + b',\n  "_name')
    assert (folder / "config.json").read_bytes() == expected


def test_installing_twice_and_removing_twice_change_nothing(folder):
    install(folder, MODELS)
    once = files(folder)
    assert "nothing to do" in install(folder, MODELS)
    assert files(folder) == once
    assert "removed" in remove(folder)
    assert "nothing to do" in remove(folder)
    assert files(folder) == {"config.json": VICUNA}


def test_the_copy_knows_the_workspace_and_is_renewed(folder, tmp_path):
    other = tmp_path / "it's \\ elsewhere"
    shutil.copytree(MODELS, other, ignore=shutil.ignore_patterns("__pycache__"))
    install(folder, other)
    namespace: dict = {}
    line = next(line for line in (folder / FILE).read_text().splitlines() if line.startswith("INSTALLED_FROM"))
    exec(line, namespace)
    assert namespace["INSTALLED_FROM"] == str(other.resolve())
    assert "renewed" in install(folder, MODELS)
    assert str(MODELS.resolve()) in (folder / FILE).read_text()
    remove(folder)
    assert files(folder) == {"config.json": VICUNA}


def test_another_auto_map_is_refused_and_with_force_kept(folder):
    config = folder / "config.json"
    other = VICUNA.replace(b'  "bos_token_id"', b'  "auto_map": {"AutoModel": "x.Y"},\n  "bos_token_id"')
    config.write_bytes(other)
    with pytest.raises(Refusal, match=r'another auto_map: \{"AutoModel": "x.Y"\}. With --force'):
        install(folder, MODELS)
    assert files(folder) == {"config.json": other}
    install(folder, MODELS, force=True)
    assert json.loads(config.read_bytes())["auto_map"] == AUTO_MAP
    assert config.read_bytes().count(b"auto_map") == 1
    remove(folder)
    assert files(folder) == {"config.json": other}


def test_another_file_of_that_name_is_refused_and_with_force_kept(folder):
    """The original port's own file, from an installation that followed its guide by hand."""
    (folder / FILE).write_text("class LlamaForCausalLM: ...\n")
    before = files(folder)
    with pytest.raises(Refusal, match="is another file of that name"):
        install(folder, MODELS)
    assert files(folder) == before
    install(folder, MODELS, force=True)
    assert b"INSTALLED_FROM" in (folder / FILE).read_bytes()
    remove(folder)
    assert files(folder) == before


def test_what_was_edited_since_stays(folder):
    install(folder, MODELS)
    config = folder / "config.json"
    config.write_bytes(config.read_bytes().replace(b"32001", b"32000"))
    remove(folder)
    assert files(folder) == {"config.json": VICUNA.replace(b"32001", b"32000")}


def test_a_key_that_was_moved_to_the_end_is_taken_out(folder):
    install(folder, MODELS)
    content = {**json.loads(VICUNA), "auto_map": AUTO_MAP}
    (folder / "config.json").write_text(json.dumps(content))
    remove(folder)
    assert (folder / "config.json").read_text() == json.dumps(json.loads(VICUNA))


def test_an_auto_map_that_was_extended_since_is_not_left_without_its_file(folder):
    install(folder, MODELS)
    config = folder / "config.json"
    config.write_bytes(
        config.read_bytes().replace(b'"AutoModelForCausalLM"', b'"AutoConfig": "x.Y",\n"AutoModelForCausalLM"')
    )
    before = files(folder)
    with pytest.raises(Refusal, match="was edited since and still names"):
        remove(folder)
    assert files(folder) == before


def test_the_auto_map_that_force_replaced_is_kept_while_a_third_one_stands(folder):
    config = folder / "config.json"
    other = VICUNA.replace(b'  "bos_token_id"', b'  "auto_map": {"AutoModel": "x.Y"},\n  "bos_token_id"')
    config.write_bytes(other)
    install(folder, MODELS, force=True)
    third = other.replace(b"x.Y", b"z.Z")
    config.write_bytes(third)
    assert f"the one before is in config.json{BACKUP}" in remove(folder)
    assert files(folder) == {"config.json": third, f"config.json{BACKUP}": other}


def test_removing_leaves_a_backup_that_is_not_ours(folder):
    (folder / f"config.json{BACKUP}").write_text("precious")
    before = files(folder)
    with pytest.raises(Refusal):
        remove(folder)
    assert files(folder) == before


def test_renewing_the_copy_does_not_claim_more(folder):
    install(folder, MODELS)
    target = folder / FILE
    target.write_bytes(target.read_bytes() + b"# an older release\n")
    assert install(folder, MODELS).endswith(f"{FILE} renewed; auto_map was in config.json already.")
    assert not target.read_bytes().endswith(b"release\n")


def test_a_backup_of_something_else_is_never_overwritten(folder):
    (folder / f"config.json{BACKUP}").write_text("precious")
    before = files(folder)
    with pytest.raises(Refusal, match="left from an earlier install"):
        install(folder, MODELS)
    assert files(folder) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"{", "is not valid JSON"),
        (b"[]", "is not a JSON object"),
        (b"\xff", "not valid JSON"),
    ],
)
def test_a_config_that_cannot_be_edited_is_left_alone(folder, content, message):
    config = folder / "config.json"
    config.unlink()
    if content is not None:
        config.write_bytes(content)
    before = files(folder)
    with pytest.raises(Refusal, match=message):
        install(folder, MODELS)
    with pytest.raises(Refusal, match=message):
        remove(folder)
    assert files(folder) == before


def test_links_permissions_and_their_targets_survive(folder):
    """A snapshot of the hub's cache: config.json is a link to a blob, which must not change."""
    config, blob = folder / "config.json", folder.parent / "blob"
    config.rename(blob)
    blob.chmod(0o640)
    config.symlink_to("../blob")
    install(folder, MODELS)
    assert blob.read_bytes() == VICUNA
    assert config.stat().st_mode & 0o777 == 0o640
    remove(folder)
    assert config.is_symlink()
    assert files(folder) == {"config.json": VICUNA}


class Killed(BaseException):
    pass


@pytest.mark.parametrize("forced", [False, True])
def test_killed_at_any_point_nothing_is_lost_and_the_next_call_finishes(folder, monkeypatch, forced):
    """Every change of a file goes through os.replace or unlink: stop before each of them in turn."""
    if forced:
        (folder / FILE).write_text("another file\n")
    before = files(folder)
    replace, unlink = os.replace, Path.unlink
    left = 0

    def count_down():
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1

    monkeypatch.setattr(auto_map.os, "replace", lambda *paths: (count_down(), replace(*paths)))
    monkeypatch.setattr(Path, "unlink", lambda self, **options: (count_down(), unlink(self, **options)))
    for operation in (lambda: install(folder, MODELS, force=forced), lambda: remove(folder)):
        for stop in range(20):
            left = stop
            try:
                operation()
                break
            except Killed:
                kept = {name: content for name, content in files(folder).items() if not name.endswith(".partial")}
                assert json.loads(kept["config.json"])
                assert set(before.values()) <= set(kept.values())
        else:
            pytest.fail("never finished")
        left = 1000
    assert {name: content for name, content in files(folder).items() if not name.endswith(".partial")} == before
