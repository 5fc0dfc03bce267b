"""Rules and the in-place edit: only the value's own characters change, and the value reads back exactly."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from yaml_edits import get_value, rule, set_value

from overlaykit.configs import Rule, Rules, load_rules, read_values, rewrite
from overlaykit.errors import FixTheCommand, FixTheProjectFile
from overlaykit.project import read_upstream
from overlaykit.yamltext import Value, same

CONFIGS = Path(__file__).parents[2] / "configs"
PATHS = CONFIGS / "paths.yaml"
PIN = read_upstream(CONFIGS / "upstream.yaml")
UPSTREAM_LIKE = b"""model:
  arch: minigpt4

  # vit encoder
  image_size: 224   # pixels
  llama_model: "please set this value to the path of vicuna model"
  ckpt: 'please set this value'
  encoder: ""
  low_resource: True
  prompt_template: '###Human: {} ###Assistant: '

run:
  task: image_text_pretrain
"""


# --- the rules -------------------------------------------------------------------------------------------------


def test_the_defaults_are_the_folders_of_the_seed() -> None:
    values = load_rules(PATHS).resolve({})
    assert values["llama_model"] == "/data/model/MiniGPT-4/weights/"
    assert values["ckpt"] == "/data/model/MiniGPT-4/pretrain/prerained_minigpt4_7b.pth"
    assert values["encoder"] == "/data/model/MiniGPT-4/om/eva_vit_g.om"
    assert values["low_resource"] is False


def test_a_variable_reaches_every_rule_below_it() -> None:
    rules = load_rules(PATHS)
    values = rules.resolve({"model_path": "/mnt/w", "bert": "${om_model_path}/bert", "low_resource": "true"})
    assert values["encoder"] == "/mnt/w/om/eva_vit_g.om"
    assert values["bert"] == "/mnt/w/om/bert"
    assert values["low_resource"] is True
    assert set(values) == {rule.name for rule in rules.rules}
    assert rules.resolve({"om_model_path": "/om"})["encoder"] == "/om/eva_vit_g.om"
    assert rules.resolve({"ckpt": "${oc.env:HOME}/a.pth"})["ckpt"] == "${oc.env:HOME}/a.pth"


@pytest.mark.parametrize(
    ("settings_", "words"),
    [
        ({"model_paht": "/x"}, "unknown setting model_paht\nDid you mean model_path"),
        ({"zzz": "/x"}, "unknown setting zzz\nThere is: bert, ckpt"),
        ({"low_resource": "maybe"}, "low_resource takes True or False, not 'maybe'"),
        ({"low_resource": "1"}, "takes True or False"),
        ({"low_resource": "[True"}, "takes True or False"),
        ({"ckpt": "${model_paht}/x"}, r"ckpt uses \$\{model_paht\}, which is unknown\nDid you mean model_path"),
        ({"model_path": "${om_model_path}"}, "use each other: model_path -> om_model_path -> model_path"),
    ],
)
def test_a_bad_setting_says_what_was_meant(settings_: dict[str, str], words: str) -> None:
    with pytest.raises(FixTheCommand, match=words):
        load_rules(PATHS).resolve(settings_)


def test_numbers_keep_their_type() -> None:
    rules = Rules({}, (rule("a", 3, "n"), rule("b", 0.5, "f")))
    assert rules.resolve({"n": "4", "f": "1"}) == {"n": 4, "f": 1.0}
    assert type(rules.resolve({"f": "1"})["f"]) is float
    with pytest.raises(FixTheCommand, match=r"n takes a number such as 3, not '4\.5'"):
        rules.resolve({"n": "4.5"})


def test_a_file_that_upstream_lacks_names_the_nearest() -> None:
    rules = Rules({}, (Rule("ckpt", "eval_configs/minigpt4_eval.yaml", "model.ckpt", ""),))
    rules.require_files(["eval_configs/minigpt4_eval.yaml"])
    with pytest.raises(FixTheProjectFile, match=r"\(for ckpt\) is not in(.|\n)*mean configs/minigpt4_eval.yaml\?"):
        rules.require_files(["configs/minigpt4_eval.yaml", "eval_configs/minigpt4_eval.py", "a.yaml"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rulez: {}", "unknown section rulez"),
        ("- 1", r"paths.yaml:1: expected a mapping"),
        ("variables: {a: 1}", r"paths.yaml:1: variable a must be a string"),
        ("variables: {a: x, a: y}", r"paths.yaml:1: a appears twice"),
        ("variables: {a-b: x}", "'a-b' is not a name"),
        ("variables: {a: x}\nrules:\n  f.yaml:\n    a: {key: k, value: v}", "the name a is used twice"),
        ("rules:\n  f.yaml:\n    a: {key: k}", r"paths.yaml:3: rule a needs exactly"),
        ("rules:\n  f.yaml:\n    a: {key: k, value: [v]}", r"paths.yaml:3: the value of a is not a single value"),
        ("rules:\n  f.yaml:\n    a: {key: k, value: v}\n    b: {key: k, value: w}", "a and b both own k of f.yaml"),
        ('rules:\n  f.yaml:\n    a: {key: k, value: "${b}"}', r"paths.yaml: a uses \$\{b\}, which is unknown"),
        ("rules: {", "paths.yaml:1: invalid YAML"),
        ("rules:\n  f.yaml:\n    a: {key: k, value: !!int x}", "cannot be read"),
    ],
)
def test_a_bad_rules_file_says_where(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "paths.yaml"
    path.write_text(text)
    with pytest.raises(FixTheProjectFile, match=words):
        load_rules(path)


# --- the edit, by example --------------------------------------------------------------------------------------


def test_one_line_changes_and_quotes_stay() -> None:
    rules = [
        rule("model.llama_model", name="llm"),
        rule("model.ckpt", name="ckpt"),
        rule("model.encoder", name="encoder"),
        rule("model.low_resource", False, "low"),
    ]
    values: dict[str, Value] = {"llm": "/w/", "ckpt": "/c.pth", "encoder": "/e.om", "low": False, "unrelated": 1}
    new = rewrite(UPSTREAM_LIKE, rules, values)
    pairs = zip(UPSTREAM_LIKE.decode().split("\n"), new.decode().split("\n"))
    assert [after for before, after in pairs if before != after] == [
        '  llama_model: "/w/"',
        "  ckpt: '/c.pth'",
        '  encoder: "/e.om"',
        "  low_resource: False",
    ]
    assert read_values(new, rules) == {"llm": "/w/", "ckpt": "/c.pth", "encoder": "/e.om", "low": False}
    assert rewrite(new, rules, values) == new


@pytest.mark.parametrize(
    ("before", "key", "value", "after"),
    [
        ("a:\n  b: old # why\n", "a.b", "/new", "a:\n  b: /new # why\n"),
        ("a: old", "a", "new", "a: new"),
        ("\ufeffa: old\r\nb: 1\r\n", "a", "new", "\ufeffa: new\r\nb: 1\r\n"),
        ("a: old\n", "a", "yes", 'a: "yes"\n'),  # would read as a boolean
        ("a: old\n", "a", "1e3", 'a: "1e3"\n'),  # a number to OmegaConf, a string to PyYAML
        ("a: old\n", "a", "2024-01-01", 'a: "2024-01-01"\n'),
        ("a: old\n", "a", "C: #1", 'a: "C: #1"\n'),
        ("a: old\n", "a", "", 'a: ""\n'),
        ("a: old\n", "a", 'say "hi"\\\n', 'a: "say \\"hi\\"\\\\\\x0a"\n'),
        ("a: 'old'\n", "a", "it's 图", "a: 'it''s 图'\n"),
        ("a: 'old'\n", "a", "tab\t", 'a: "tab\\x09"\n'),
        ("a: 'True'\n", "a", True, "a: True\n"),
        ("a: 'True'\n", "a", "True", "a: 'True'\n"),
        ("a: true\n", "a", True, "a: true\n"),  # already there: not a character changes
        ("a: 1\n", "a", 1e-05, "a: 1.0e-05\n"),
        ("a: 1\n", "a", None, "a: null\n"),
        ("a:\n", "a", "/x", "a: /x\n"),
        ("a: # why\nb: 1\n", "a", "/x", "a: /x # why\nb: 1\n"),
        ("a: ~\n", "a", "/x", "a: /x\n"),
        ("{a: {b: old, c: 1}, d: 2}\n", "a.b", "/x,y", '{a: {b: "/x,y", c: 1}, d: 2}\n'),
        ('{"a":"old"}', "a", "new", '{"a":"new"}'),
        ("? a\n: old\n", "a", "new", "? a\n: new\n"),
        ('a: "two\n  lines" # why\n', "a", "one", 'a: "one" # why\n'),
        ("a: two\n  lines\n", "a", "one", "a: one\n"),
        ("a: &unused old\n", "a", "new", "a: &unused new\n"),
        ("a: !!str old\n", "a", "new", "a: !!str new\n"),
        ("x: &m {k: 1}\na:\n  <<: *m\n  b: old\n", "a.b", "new", "x: &m {k: 1}\na:\n  <<: *m\n  b: new\n"),
        ("%YAML 1.1\n---\na: old\n...\n", "a", "new", "%YAML 1.1\n---\na: new\n...\n"),
        ("a: old\u2028b: 1\n", "b", 2, "a: old\u2028b: 2\n"),  # a line end to YAML 1.1
        ("'a b': old\n", "a b", "new", "'a b': new\n"),
    ],
)
def test_what_an_edit_makes(before: str, key: str, value: Value, after: str) -> None:
    new = set_value(before.encode(), key, value)
    assert new.decode() == after
    assert same(get_value(new, key), value)


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        ("a: &x old\nb: *x\n", "a", "eval.yaml:1: a is shared through an anchor"),
        ("a: &x old\nb: *x\n", "b", "b is shared through an anchor"),
        ("a: &x {k: old}\nb: *x\n", "a.k", "a.k is shared"),
        ("a: &x {k: old}\nb: *x\n", "b.k", "b.k is shared"),
        ("d: &x {k: old}\na:\n  <<: *x\n", "d.k", "d.k is shared"),
        ("a: |\n  old\n", "a", "eval.yaml:1: a is a block of several lines"),
        ("b: 1\na: >-\n  old\n", "a", "eval.yaml:2: a is a block"),
        ("a: {b: 1}\n", "a", "a is not a single value"),
        ("a: [1]\n", "a", "a is not a single value"),
        ("a: 1\na: 2\n", "a", "eval.yaml:2: a appears twice"),
        ("model:\n  ckptt: 1\n", "model.ckpt", "has no key model.ckpt\nDid you mean model.ckptt"),
        ("model: 1\n", "model.ckpt", "has no key model.ckpt"),
        ("d: &x {k: old}\na:\n  <<: *x\n", "a.k", "has no key a.k"),
        ("", "a", "has no key a\nThere is: nothing"),
        ("# only\n", "a", "has no key a"),
        ("a: !!int x\n", "a", "a cannot be read"),
        ("a: !other x\n", "a", "a cannot be read"),
        ("a: !!binary eA==\n", "a", "a is a bytes"),
        ("a: !!int 3\n", "a", "cannot be edited in place"),  # the tag would turn the new value
        ('a: "old"#tight\n', "a", None),
        ("a: 1\n--- \nb: 1\n", "a", "eval.yaml:2: invalid YAML"),
        ("a: {\n", "a", "eval.yaml:2: invalid YAML"),
        ("a: \x07\n", "a", "eval.yaml: invalid YAML"),
        ("{a}\n", "a", "cannot be edited in place"),
        ("&r {a: *r, b: old}\n", "a", "a is not a single value"),
    ],
)
def test_what_cannot_be_edited_is_an_error(text: str, key: str, words: str | None) -> None:
    """`None`: either way, as long as the comment survives."""
    if words is None:
        assert set_value(text.encode(), key, "/new").endswith(b"#tight\n")
        with pytest.raises(FixTheProjectFile, match="cannot be edited in place"):
            set_value(text.encode(), key, False)
    else:
        with pytest.raises(FixTheProjectFile, match=words):
            set_value(text.encode(), key, "/new")


def test_what_is_there_already_needs_no_edit() -> None:
    """So a value in a block or behind an alias does not hinder the other rules of its file."""
    for text in ("a: |\n  old\nb: 1\n", "a: &x |\n  old\nb: *x\n"):
        assert set_value(text.encode(), "a", "old\n") == text.encode()


def test_a_date_is_a_string_as_it_is_to_omegaconf() -> None:
    assert get_value(b"a: 2024-01-01\n", "a") == "2024-01-01"


def test_not_utf8_is_said() -> None:
    with pytest.raises(FixTheProjectFile, match=r"eval.yaml is not UTF-8: .* at byte 3"):
        get_value(b"a: \xe9\n", "a")


def test_a_deep_file_is_no_crash() -> None:
    with pytest.raises(FixTheProjectFile, match="invalid YAML"):
        get_value(b"[" * 1500, "a")


@pytest.mark.upstream
def test_the_rules_fit_upstream(upstream_repo: Path) -> None:
    """The keys that only a patch adds are the patch's test; the others must exist at the pin."""
    rules = load_rules(PATHS)
    values = rules.resolve({})
    own = [it for it in rules.rules if it.key in ("model.llama_model", "model.ckpt", "model.low_resource")]
    assert len(own) == 6
    for it in own:
        command = ["git", "-C", str(upstream_repo), "show", f"{PIN.commit}:{it.file}"]
        data = subprocess.run(command, check=True, capture_output=True).stdout
        new = rewrite(data, [it], values)
        changed = [(a, b) for a, b in zip(data.split(b"\n"), new.split(b"\n")) if a != b]
        assert len(changed) == 1
        assert read_values(new, [it]) == {it.name: values[it.name]}
