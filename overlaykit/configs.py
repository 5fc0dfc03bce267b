"""configs/paths.yaml: which values of upstream's YAML files depend on the machine, and what they become.

Variables (`model_path`) are the user's words; a rule names one key of one upstream file and a template of variables.
`--set NAME=VALUE` sets either. How a value is exchanged without touching another character is yamltext's matter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from .errors import FixTheCommand, FixTheProjectFile
from .gitrepo import on_disk
from .nearest import did_you_mean
from .yamltext import Document, Loader, Value

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True)
class Rule:
    """One owned value."""

    name: str
    file: str  # path in upstream's tree
    key: str  # dotted, e.g. model.ckpt
    template: Value  # ${variable} is replaced in strings; its type is the type of the value


@dataclass(frozen=True)
class Rules:
    """All variables with their defaults, and all rules, in the order of the file."""

    variables: Mapping[str, str] = field(hash=False)
    rules: tuple[Rule, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """What `--set` accepts."""
        return (*self.variables, *(rule.name for rule in self.rules))

    @property
    def files(self) -> tuple[str, ...]:
        """The upstream files that hold owned values."""
        return tuple(dict.fromkeys(rule.file for rule in self.rules))

    def of(self, file: str) -> tuple[Rule, ...]:
        return tuple(rule for rule in self.rules if rule.file == file)

    def require_files(self, paths: Iterable[str]) -> None:
        """Raise FixTheProjectFile, naming the nearest path, when a file of the rules is not among `paths`."""
        paths = set(paths)
        for file in self.files:
            if file not in paths:
                names = ", ".join(rule.name for rule in self.of(file))
                what = f"configs/paths.yaml: {file} (for {names}) is not in the upstream tree"
                raise FixTheProjectFile(what, did_you_mean(file, (p for p in paths if p.endswith((".yaml", ".yml")))))

    def resolve(self, settings: Mapping[str, str]) -> dict[str, Value]:
        """The value of every rule, by name. Raises FixTheCommand for an unknown or ill-typed setting."""
        for name in settings:
            if name not in self.names:
                why = did_you_mean(name, self.names)
                raise FixTheCommand(f"unknown setting {name}", why, f"Known: {', '.join(self.names)}.")
        variables = {name: settings.get(name, default) for name, default in self.variables.items()}
        values: dict[str, Value] = {}
        for rule in self.rules:
            value = _typed(rule, settings[rule.name]) if rule.name in settings else rule.template
            values[rule.name] = _expand(rule.name, value, variables, ()) if isinstance(value, str) else value
        return values


def read_values(data: bytes, rules: Iterable[Rule]) -> dict[str, Value]:
    """What `data`, the bytes of the file of these rules, holds for each of them, by rule name.

    A missing key raises FixTheProjectFile and names the nearest one.
    """
    rules = tuple(rules)
    if not rules:
        return {}
    document = Document(rules[0].file, data)
    return {rule.name: document.value(rule.key) for rule in rules}


def rewrite(data: bytes, rules: Iterable[Rule], values: Mapping[str, Value]) -> bytes:
    """`data`, the bytes of the file of these rules, with each rule's value exchanged for `values[rule.name]`.

    Rules without a value keep theirs, values of other files' rules are ignored, so `resolve`'s result fits as it is.
    Only the characters of values that differ change. Raises FixTheProjectFile when that is impossible.
    """
    rules = tuple(rules)
    if not rules:
        return data
    wanted = {rule.key: values[rule.name] for rule in rules if rule.name in values}
    return Document(rules[0].file, data).replace(wanted)


def unfit(data: bytes, rule: Rule, value: Value) -> FixTheProjectFile | None:
    """Why `value` cannot take the place of what `data` holds for this rule; None where it can."""
    try:
        found = read_values(data, [rule])[rule.name]
        rewrite(data, [rule], {rule.name: value})
    except FixTheProjectFile as error:
        return error
    if found is None or value is None or _kind(found) == _kind(value):
        return None
    return FixTheProjectFile(f"upstream's value is {found!r}, {value!r} is {_kind(value)}")


def _kind(value: Value) -> str:
    return "text" if isinstance(value, str) else "a switch" if isinstance(value, bool) else "a number"


def load_rules(path: str | Path) -> Rules:
    """Read configs/paths.yaml. Raises FixTheProjectFile for anything that is not exactly of its form."""
    path = Path(path)
    try:
        document = Document(str(path), path.read_bytes())
    except OSError as error:
        raise FixTheProjectFile(f"{path}: cannot be read: {error.strerror}") from error
    sections = document.mapping(document.root)
    unknown = set(sections) - {"variables", "rules"}
    if unknown:
        raise FixTheProjectFile(f"{path}: unknown section {min(unknown)}", "There are: variables, rules.")
    variables = {}
    if "variables" in sections:
        for name, node in document.mapping(sections["variables"]).items():
            variables[name] = _string(document, f"variable {name}", node)
    found: list[Rule] = []
    if "rules" in sections:
        for file, entries in document.mapping(sections["rules"]).items():
            found += [_rule(document, file, name, node) for name, node in document.mapping(entries).items()]
    rules = Rules(variables, tuple(found))
    _check_unique(path, rules)
    try:
        rules.resolve({})
    except FixTheCommand as error:
        raise FixTheProjectFile(f"{path}: {error.what}", error.why) from error
    return rules


def _typed(rule: Rule, text: str) -> Value:
    """A setting from the command line, as the type of the rule's template."""
    if rule.template is None or isinstance(rule.template, str):
        return text
    try:
        value = yaml.load(text, Loader=Loader)
    except (yaml.YAMLError, ValueError):
        value = text
    if isinstance(rule.template, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(rule.template):
        kind = "True or False" if isinstance(rule.template, bool) else f"a number such as {rule.template}"
        raise FixTheCommand(f"{rule.name} takes {kind}, not {text!r}")
    return value


def _expand(name: str, text: str, variables: Mapping[str, str], within: tuple[str, ...]) -> str:
    """Replace ${variable}s, also inside variables; `within` is the chain of variables being replaced."""

    def replaced(match: re.Match[str]) -> str:
        variable = match[1]
        if variable not in variables:
            raise FixTheCommand(f"{name} uses ${{{variable}}}, which is unknown", did_you_mean(variable, variables))
        if variable in within:
            raise FixTheCommand(f"{name}: variables that use each other: {' -> '.join((*within, variable))}")
        return _expand(name, variables[variable], variables, (*within, variable))

    return _REFERENCE.sub(replaced, text)


def _string(document: Document, name: str, node: yaml.Node) -> str:
    value = document.scalar(name, node)
    if not isinstance(value, str):
        raise FixTheProjectFile(f"{document.where}:{node.start_mark.line + 1}: {name} must be a string; quote it")
    return value


def _rule(document: Document, file: str, name: str, node: yaml.Node) -> Rule:
    fields = document.mapping(node)
    if set(fields) != {"key", "value"}:
        at = f"{document.where}:{node.start_mark.line + 1}"
        raise FixTheProjectFile(f"{at}: rule {name} needs exactly `key` and `value`, it has: {', '.join(fields)}")
    key = _string(document, f"the key of {name}", fields["key"])
    return Rule(name, on_disk(file), key, document.scalar(f"the value of {name}", fields["value"]))


def _check_unique(path: Path, rules: Rules) -> None:
    owners: dict[tuple[str, str], str] = {}
    for name in rules.names:
        if not _NAME.fullmatch(name):
            raise FixTheProjectFile(f"{path}: {name!r} is not a name", "Use letters, digits and underscores.")
        if rules.names.count(name) > 1:
            raise FixTheProjectFile(f"{path}: the name {name} is used twice")
    for rule in rules.rules:
        other = owners.setdefault((rule.file, rule.key), rule.name)
        if other != rule.name:
            raise FixTheProjectFile(f"{path}: {other} and {rule.name} both own {rule.key} of {rule.file}")
