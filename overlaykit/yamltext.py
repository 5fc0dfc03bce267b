"""YAML as text: read a value by its dotted key, and replace it without touching any other character.

`yaml.safe_dump` would rewrite the whole file and drop every comment. So the parser only says where a scalar lies
(PyYAML's marks count characters of the text), and the text between the marks is exchanged. The result is parsed
again: it must give the same events as before but for the replaced scalars, which must read back as asked.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Union

import yaml

from .errors import FixTheProjectFile
from .nearest import did_you_mean

Value = Union[str, bool, int, float, None]


class Loader(yaml.SafeLoader):
    """SafeLoader without dates: OmegaConf, which reads upstream's files, takes them for strings."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - the name and shape are PyYAML's
        first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class Document:
    """One YAML file, as its bytes. Every error is a FixTheProjectFile that names `where` and the line."""

    def __init__(self, where: str, data: bytes) -> None:
        self.where = where
        try:
            self.text = data.decode("utf-8")
            self.root = yaml.compose(self.text, Loader=Loader)
        except UnicodeDecodeError as error:
            raise FixTheProjectFile(f"{where} is not UTF-8: {error.reason} at byte {error.start}") from error
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise FixTheProjectFile(f"{where}:{line}: invalid YAML: {error.problem or error.context}") from error
        except (yaml.YAMLError, RecursionError) as error:
            raise FixTheProjectFile(f"{where}: invalid YAML: {error}") from error

    def scalar_keys(self) -> list[str]:
        """The dotted keys of all scalars below plain mappings."""
        return [".".join(keys) for keys, _ in _scalars(self.root, (), set())]

    def value(self, key: str) -> Value:
        """The value at a dotted key, such as `model.ckpt`."""
        return self.scalar(key, self._path(key)[-1])

    def replace(self, values: Mapping[str, Value]) -> bytes:
        """The file with the values at these dotted keys exchanged. Values that are there already stay untouched."""
        edits = {}
        for key, value in values.items():
            path = self._path(key)
            if not same(self.scalar(key, path[-1]), value):
                edits[path[-1].start_mark.index] = self._edit(key, path, value)
        text = self.text
        for start, end, new in sorted(edits.values(), reverse=True):
            text = text[:start] + new + text[end:]
        data = text.encode("utf-8")
        self._check(data, values, set(edits))
        return data

    def copied(self, other: Document, keys: Iterable[str]) -> bytes:
        """The file with the values at these dotted keys written as `other` writes them, quotes included."""
        edits, values = {}, {}
        for key in keys:
            path = self._path(key)
            values[key] = other.value(key)
            self.scalar(key, path[-1])
            start, end = self._span(key, path)
            first, last = other._span(key, other._path(key))
            new = other.text[first:last]
            if start == end and new:
                new = " " + new
            elif not new and self.text[start - 1 : start] == " ":
                start -= 1
            edits[path[-1].start_mark.index] = (start, end, new)
        text = self.text
        for start, end, new in sorted(edits.values(), reverse=True):
            text = text[:start] + new + text[end:]
        data = text.encode("utf-8")
        self._check(data, values, set(edits))
        return data

    def scalar(self, name: str, node: yaml.Node) -> Value:
        """The value of one node; `name` is for messages."""
        if not isinstance(node, yaml.ScalarNode):
            raise self._error(node, f"{name} is not a single value", "Write one value there.")
        try:
            value = Loader("").construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            raise self._error(node, f"{name} cannot be read: {error}", "Write a plain value there.") from error
        if value is not None and not isinstance(value, (str, bool, int, float)):
            raise self._error(node, f"{name} is a {type(value).__name__}", "Write a plain value there.")
        return value

    def mapping(self, node: yaml.Node | None) -> dict[str, yaml.Node]:
        """The entries of one mapping node. Unlike yaml.load it does not let the last of two equal keys win."""
        if not isinstance(node, yaml.MappingNode):
            raise self._error(node, "expected a mapping (name: value)")
        entries: dict[str, yaml.Node] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value in entries:
                raise self._error(key, f"{key.value} appears twice" if key.value in entries else "expected a name")
            entries[key.value] = value
        return entries

    def _path(self, key: str) -> list[yaml.Node]:
        """The nodes from the root to the value of `key`."""
        if self.root is None:
            raise self._missing(key)
        path = [self.root]
        for part in key.split("."):
            parent = path[-1]
            if not isinstance(parent, yaml.MappingNode):
                raise self._missing(key)
            found = [value for name, value in parent.value if name.value == part]
            if len(found) > 1:
                raise self._error(found[-1], f"{key} appears twice", "Remove one of them.")
            if not found:
                raise self._missing(key)
            path.append(found[0])
        return path

    def _edit(self, key: str, path: list[yaml.Node], value: Value) -> tuple[int, int, str]:
        """Start, end and new characters of one replacement."""
        node = path[-1]
        assert isinstance(node, yaml.ScalarNode)  # `scalar` has refused anything else
        start, end = self._span(key, path)
        new = _scalar(value, node.style)
        return start, end, new if start < end else " " + new

    def _span(self, key: str, path: list[yaml.Node]) -> tuple[int, int]:
        """Start and end of a value's characters; empty behind `key:` without a value."""
        node = path[-1]
        assert isinstance(node, yaml.ScalarNode)  # `scalar` has refused anything else
        parents = _parents(path[0])
        if any(parents[id(step)] > 1 for step in path[1:]):
            problem = f"{key} is shared through an anchor (&) and an alias (*)"
            raise self._error(node, problem, "Setting it would change the other place too: write the value out there.")
        if node.style in ("|", ">"):
            raise self._error(node, f"{key} is a block of several lines", "Put the value on the line of its key.")
        for token in yaml.scan(self.text, Loader=Loader):
            # The node also spans an anchor or a tag in front, the token only the scalar itself.
            if isinstance(token, yaml.ScalarToken) and token.end_mark.index == node.end_mark.index:
                return token.start_mark.index, token.end_mark.index
        return node.end_mark.index, node.end_mark.index

    def _check(self, data: bytes, values: Mapping[str, Value], edited: set[int]) -> None:
        problem, new = "", None
        try:
            new = Document(self.where, data)
            before, after = list(_events(self.text, edited)), list(_events(new.text, set()))
            if len(before) != len(after) or any(old not in (None, e) for old, e in zip(before, after)):
                problem = "another value would change"
            elif not all(same(new.value(key), value) for key, value in values.items()):
                problem = "a value would not read back"
        except FixTheProjectFile as error:
            problem = error.what
        if problem:
            why = f"After setting {', '.join(values)}: {problem}."
            fix = "Put each key on a line of its own, with a plain value."
            raise FixTheProjectFile(f"{self.where} cannot be edited in place", why, fix)

    def _missing(self, key: str) -> FixTheProjectFile:
        return FixTheProjectFile(f"{self.where} has no key {key}", did_you_mean(key, self.scalar_keys()))

    def _error(self, node: yaml.Node | None, what: str, fix: str = "") -> FixTheProjectFile:
        line = node.start_mark.line + 1 if node else 1
        return FixTheProjectFile(f"{self.where}:{line}: {what}", "", fix)


def same(one: Value, other: Value) -> bool:
    """Equal, and of the same type: 1, 1.0 and True differ."""
    return type(one) is type(other) and repr(one) == repr(other)


def _scalars(
    node: yaml.Node | None, keys: tuple[str, ...], above: set[int]
) -> Iterator[tuple[tuple[str, ...], yaml.Node]]:
    if isinstance(node, yaml.MappingNode) and id(node) not in above:
        for name, value in node.value:
            if isinstance(name, yaml.ScalarNode):
                yield from _scalars(value, (*keys, name.value), above | {id(node)})
    elif isinstance(node, yaml.ScalarNode):
        yield keys, node


def _parents(root: yaml.Node) -> Counter[int]:
    """How many places hold each node; more than one means an alias."""
    count: Counter[int] = Counter()
    todo = [root]
    while todo:
        node = todo.pop()
        count[id(node)] += 1
        if count[id(node)] > 1 or isinstance(node, yaml.ScalarNode):
            continue
        for item in node.value:
            todo.extend(item if isinstance(item, tuple) else (item,))
    return count


def _events(text: str, skip: set[int]) -> Iterator[tuple[object, ...] | None]:
    """What the text means, without positions; None for the scalars that start at an index in `skip`."""
    for event in yaml.parse(text, Loader=Loader):
        if isinstance(event, yaml.ScalarEvent) and event.start_mark and event.start_mark.index in skip:
            yield None
        else:
            meaning = {name: value for name, value in vars(event).items() if not name.endswith("_mark")}
            yield type(event), meaning


def _scalar(value: Value, style: str | None) -> str:
    """`value` as YAML on one line, in the style (quotes or none) of the scalar that it replaces if that can hold it."""
    if isinstance(value, bool):
        return str(value)  # "False", as upstream writes it; safe_dump would write "false"
    if not isinstance(value, str):
        return str(yaml.safe_dump(value)).split("\n")[0]
    if style is None and _plain(value):
        return value
    if style == "'" and value.isprintable():
        return "'" + value.replace("'", "''") + "'"
    return '"' + re.sub(r'["\\]|[^ -~]', lambda match: _escaped(match[0]), value) + '"'


def _plain(value: str) -> bool:
    """Whether a string needs no quotes anywhere, to any reader: stricter than YAML."""
    if not re.fullmatch(r"[^\W\d][\w./@+-]*|/[\w./@+-]*", value) or not value.isprintable():
        return False
    return bool(Loader("").resolve(yaml.ScalarNode, value, (True, False)) == "tag:yaml.org,2002:str")


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
