"""What to do about a conflict, in one to three sentences, from the three texts and from where the lines went."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Mapping, Sequence

from ..enclosing import enclosing
from ..gitrepo import Repo
from ..hunk import Hunk
from ..lines import printable, split_lines
from .culprits import describe, touched_by
from .linemap import carry
from .regions import Region
from .whereabouts import moved_lines, telling

KIND_OF_FILE = (
    "Upstream made a symbolic link or a submodule of this file, or took one away. Find what replaces the file, and "
    "make the patch's change there."
)
NOT_TEXT = "The file is not text, so nothing can be merged line by line. A patch cannot change it: use overlay/."
FOLDER = "Upstream has a folder of this name now: its files hold what this file held. "
MARKERS = "Search the file for <<<<<<< and read each place: the two sides changed lines close to each other."
WHOLE_FILE = "Which commit did it cannot be told from the lines alone; all that touched the file are named."
NO_FILE = "Upstream has no such file any more, and the patch changes nothing in it: git rm it."


def left_out(patches: Sequence[str]) -> str:
    which = f"{' and '.join(patches)} {'were' if len(patches) > 1 else 'was'}"
    return f"No upstream commit did this: {which} left out. Fit that first, and look here again."


def deleted_by_patch(path: str, old: str, new: str) -> str:
    name = shlex.quote(path)
    return (
        f"Read what upstream changed: git diff {old[:12]} {new[:12]} -- {name}  "
        f"If deleting the file is still right: git rm -- {name}  If not: git add -- {name}"
    )


def added_by_both(path: str, same: bool, upstream: bool) -> str:
    name = shlex.quote(path)
    if same:
        return f"Both files are the same: the patch's has landed. Keep upstream's: git checkout --ours -- {name}"
    whose = "Upstream has" if upstream else "An earlier patch of the series creates"
    return (
        f"{whose} a file of this name now. If it does what the patch's file does, keep it: "
        f"git checkout --ours -- {name}  If not, give the patch's file another name, also in what imports it."
    )


def renamed(path: str, renames: Mapping[str, str]) -> str:
    if path in renames:
        name = shlex.quote(path)
        return f"Upstream renamed this file to {renames[path]}. Make the patch's change there, then: git rm -- {name}"
    before = [name for name, later in renames.items() if later == path]
    if before:
        return (
            f"Upstream renamed {before[0]} to this name, and the patch moves or removes the same file. Keep one name."
        )
    return "The file was renamed or replaced by a folder on one side. Keep one name, and git rm the others."


def line_ends(path: str, crlf: bool, more: bool) -> str:
    name = shlex.quote(path)
    ends, now = ("s/\\r*$/\\r/", "CR LF") if crlf else ("s/\\r*$//", "LF")
    said = f"Upstream converted the file to {now} line ends, so every line of it differs."
    if more:
        return f"{said} The conflicts below are what is left when line ends are set aside."
    return (
        f"{said} Apart from that the patch fits. Make its change in upstream's version, with upstream's line ends: "
        f"git checkout --ours -- {name} && git diff :1:{name} :3:{name} | git apply --ignore-whitespace && "
        f"sed -i '{ends}' {name}"
    )


def deleted_upstream(repo: Repo, new: str, paths: tuple[str, str], hunk: Hunk, renamed_to: str | None) -> str:
    """For one hunk of a patch, in a file that is gone; `paths` are its name in the index and its name in `old`."""
    name, kind = shlex.quote(paths[0]), _kind(paths[1])
    if renamed_to:
        return f"Upstream renamed the file to {renamed_to}. Make this hunk's change there, then: git rm -- {name}"
    places = dict.fromkeys(place for lines in _groups(hunk) for place in moved_lines(repo, new, lines, kind))
    if places:
        listed = ", ".join(map(str, places))
        return f"The lines of this hunk are now in {listed}. Make its change there, then: git rm -- {name}"
    return (
        "None of this hunk's lines is left anywhere upstream. Read the commit above for what replaces them; if nothing "
        f"does, this part of the patch has no object any more: git rm -- {name}"
    )


def _groups(hunk: Hunk) -> list[list[str]]:
    """For each change of a hunk the lines by which its place can be found: those it removes, or those above it."""
    groups: list[list[str]] = []
    above: list[str] = []
    last = " "
    for line in hunk.lines:
        if line[0] == " ":
            above = [*above, line[1:]][-3:]
        else:
            if last == " ":
                groups.append([])
            if line[0] == "-":
                groups[-1].append(line[1:])
            elif not groups[-1] and above:
                groups[-1] = [above[-1]]
        last = line[0]
    return groups


def earlier_patches(repo: Repo, new: str, path: str, first: int, last: int) -> str:
    """Where upstream did not touch the lines: which patches of the series did, or nothing."""
    try:  # the commit that stands for upstream in this rebase; a clone that lacks files has one of its own
        start = (repo.git_dir / "rebase-merge" / "onto").read_text(encoding="ascii").strip()
    except OSError:
        start = new
    earlier = touched_by(repo, start, "HEAD", path, first, last)
    if not earlier:
        return ""
    subjects = " and ".join(f"'{culprit.subject}'" for culprit in describe(repo, earlier[:3]))
    return f"No upstream commit touched these lines: an earlier patch of the series did, {subjects}."


def content(repo: Repo, new: str, path: str, base: bytes, upstream: bytes, region: Region) -> str:
    """For lines that both sides changed: the most specific thing that is true of them."""
    ours, was, wanted = region.upstream, region.base, region.patch
    if _words(ours) == _words(wanted):
        return "Upstream already has this change; only white space differs. Keep upstream's lines."
    added, removed = _changes(was, wanted)
    if _landed(ours, added, removed):
        return "Upstream already has every line that the patch adds here. Keep upstream's lines."
    text = split_lines(upstream)
    if not was or not any(line.strip() for line in was):
        return "Upstream and the patch both add lines here. Keep both, in the order in which they have to run."
    if _words(ours) == _words(was):
        return f"Upstream only changed white space here{_by_how_much(was, ours)}. {_redo(added, removed)}"
    if _inside(was, ours):
        extra = [line for line, text in zip(ours, _stripped(ours)) if text and text not in _stripped(was)]
        around = f", and put new lines around or between them ({_quoted(extra)})" if extra else ""
        indented = f"Upstream kept these lines, but indented them anew{_by_how_much(was, ours)}{around}."
        return f"{indented} {_redo(added, removed)}"
    there, before = _stripped(text), _stripped(split_lines(base))
    empty = not any(line.strip() for line in ours)
    left = [line for line in _stripped(removed or was) if line and line in there]
    if not left or (empty and all(there.count(line) >= before.count(line) for line in left)):
        places = moved_lines(repo, new, removed, _kind(path)) or moved_lines(repo, new, was, _kind(path))
        if places:
            listed = " or ".join(map(str, places))
            return f"Upstream moved these lines: they are now in {listed}. Make the patch's change there."
    if _neighbours(was, ours, wanted):
        theirs_added, theirs_removed = _changes(was, ours)
        verb = "changed" if theirs_added and theirs_removed else "removed" if theirs_removed else "added"
        what = f"{verb} {_quoted(theirs_removed or theirs_added)}"
        return f"Upstream {what} beside the patch's lines, not the lines themselves. Keep both changes."
    moved = _renamed_function(path, base, was, text, region)
    if empty:
        return f"{moved}Upstream removed these lines. Read the commit for why; {_if_needed(added)}"
    new_lines, old_lines = _changes(was, ours)
    did = [f"removed {_quoted(old_lines)}"] if old_lines else []
    did += [f"added {_quoted(new_lines)}"] if new_lines else []
    return f"{moved}Upstream {' and '.join(did)} where the patch changes lines too. {_redo(added, removed)}"


def _changes(old: Sequence[str], new: Sequence[str]) -> tuple[list[str], list[str]]:
    """Lines that were added, lines that were removed."""
    steps = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    added = [line for tag, _, _, low, high in steps if tag != "equal" for line in new[low:high]]
    return added, [line for tag, low, high, _, _ in steps if tag != "equal" for line in old[low:high]]


def _words(lines: Sequence[str]) -> list[str]:
    return "".join(lines).split()


def _stripped(lines: Sequence[str]) -> list[str]:
    return [line.strip() for line in lines]


def _landed(ours: Sequence[str], added: Sequence[str], removed: Sequence[str]) -> bool:
    there = set(_stripped(ours))
    new = {line for line in _stripped(added) if line}
    gone = {line for line in _stripped(removed) if line} - new
    return bool(new or gone) and new <= there and not gone & there


def _inside(was: Sequence[str], ours: Sequence[str]) -> bool:
    """Whether all lines of `was` come in order in `ours`, some with another indentation."""
    rest = iter(_stripped(ours))
    return all(line in rest for line in _stripped(was) if line) and not set(was) <= set(ours)


def _neighbours(was: Sequence[str], ours: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether the two sides changed different lines of `was`, and neither wrote where the other removed."""

    def spans(side: Sequence[str]) -> list[tuple[int, int]]:
        steps = difflib.SequenceMatcher(None, was, side, autojunk=False).get_opcodes()
        return [(low, high) for tag, low, high, _, _ in steps if tag != "equal"]

    pairs = [(one, other) for one in spans(ours) for other in spans(wanted)]
    return all(a[1] <= b[0] or b[1] <= a[0] for a, b in pairs) and all(a[0] != b[0] for a, b in pairs)


def _by_how_much(was: Sequence[str], ours: Sequence[str]) -> str:
    before = {line.strip(): _indent(line) for line in was if line.strip()}
    steps = {_indent(line) - before[line.strip()] for line in ours if line.strip() in before}
    return f" ({steps.pop():+d} columns)" if len(steps) == 1 and steps != {0} else ""


def _indent(line: str) -> int:
    return len(line.expandtabs()) - len(line.expandtabs().lstrip())


def _renamed_function(path: str, base: bytes, was: Sequence[str], text: Sequence[str], region: Region) -> str:
    """A sentence where upstream's lines stand in another function than the patch's did."""
    before = split_lines(base)
    at = carry(text, before, region.first, region.last)[0]
    then, now = enclosing(path, before, at), enclosing(path, text, max(1, region.first))
    return f"This was in {then}, and is in {now} now. " if then and now and then != now else ""


def _redo(added: Sequence[str], removed: Sequence[str]) -> str:
    if added and removed:
        return f"Make the patch's change again on upstream's lines: {_quoted(removed)} becomes {_quoted(added)}."
    if added:
        return f"Make the patch's change again on upstream's lines: it adds {_quoted(added)}."
    return f"Make the patch's change again on upstream's lines: it removes {_quoted(removed)}."


def _if_needed(added: Sequence[str]) -> str:
    if not added:
        return "the patch removes them too, so keep upstream's side."
    return f"if the patch is still needed, find the place where {_quoted(added)} belongs now."


def _quoted(lines: Sequence[str]) -> str:
    """The most telling of the lines, and how many there are besides."""
    real = [line.strip() for line in lines if line.strip()]
    if not real:
        return "an empty line"
    shown = printable((telling(real) or real)[0])
    more = f" (and {len(real) - 1} more)" if len(real) > 1 else ""
    return f"`{shown if len(shown) <= 80 else shown[:79] + '…'}`{more}"


def _kind(path: str) -> str:
    dot = path.rpartition("/")[2].rpartition(".")
    return f".{dot[2]}" if dot[1] else ""
