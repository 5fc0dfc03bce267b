"""What overlay/ and configs/paths.yaml need of upstream, and whether a newer upstream still has it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..configs import Rules
from ..explaining.whereabouts import renamed_to
from ..gitrepo import Repo
from .code import find_broken_uses
from .files import find_collisions, find_lost_keys
from .problems import Files, PortKind, PortProblem, Sides
from .taken import find_taken

__all__ = ["PortKind", "PortProblem", "check_ports"]


def check_ports(
    repo: Repo, old_tree: str, new_tree: str, overlay: Mapping[str, Path], rules: Rules, old_base: str, new_base: str
) -> tuple[PortProblem, ...]:
    """What stops working when the patched upstream changes from `old_tree` to `new_tree`, in a fixed order.

    Both trees hold the patches and not the overlay. The bases are the upstream commits under them: the history
    between these names the culprits. Writes nothing.
    """
    old, new = Files(repo, old_tree), Files(repo, new_tree)
    sides = Sides(repo, old, new, old_base, new_base, renamed_to(repo, old_tree, new_tree))
    return (
        *find_collisions(sides, overlay),
        *find_lost_keys(sides, rules),
        *find_broken_uses(sides, overlay),
        *find_taken(sides, overlay),
    )
