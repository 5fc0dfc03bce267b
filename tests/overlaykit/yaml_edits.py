"""One value of a YAML file, written and read by the rules; see test_configs.py and test_configs_random.py."""

from __future__ import annotations

from overlaykit.configs import Rule, read_values, rewrite
from overlaykit.yamltext import Value


def rule(key: str, template: Value = "x", name: str = "it") -> Rule:
    return Rule(name, "eval.yaml", key, template)


def set_value(data: bytes, key: str, value: Value) -> bytes:
    return rewrite(data, [rule(key)], {"it": value})


def get_value(data: bytes, key: str) -> Value:
    return read_values(data, [rule(key)])["it"]
