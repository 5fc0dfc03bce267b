"""What overlay/ and the rules need of the real upstream, against upstream's own history."""

from __future__ import annotations

from pathlib import Path

import pytest

from overlaykit.gitrepo import Repo
from overlaykit.ports.ports import PortKind, check_ports
from overlaykit.project import read_project

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.upstream


def reported(upstream_repo: Path, old: str, new: str) -> set[tuple[PortKind, str, tuple[str, ...]]]:
    """Kind, first word and culprits of what is said of overlay code. Keys that our patches add are left out."""
    project = read_project(ROOT)
    problems = check_ports(Repo(upstream_repo), old, new, project.overlay, project.rules, old, new)
    return {
        (problem.kind, problem.what.split()[0], tuple(culprit.commit[:7] for culprit in problem.culprits))
        for problem in problems
        if problem.where.startswith("overlay/")
    }


@pytest.mark.slow
def test_upstream_before_its_chat_could_stream(upstream_repo: Path) -> None:
    pin = read_project(ROOT).upstream.commit
    chat = "minigpt4.conversation.conversation.Chat"
    init_llm = (PortKind.SIGNATURE, "minigpt4.models.minigpt4.MiniGPT4.init_llm", ("0eba23c",))
    assert reported(upstream_repo, "7a575af", pin) == {(PortKind.SIGNATURE, chat, ("0eba23c",)), init_llm}
    assert reported(upstream_repo, pin, "7a575af") == {
        init_llm,
        (PortKind.SIGNATURE, chat, ("0eba23c",)),
        (PortKind.IMPORT_GONE, "Chat.encode_img", ("0eba23c",)),
        (PortKind.IMPORT_GONE, "Chat.answer_prepare", ("0eba23c",)),
        (PortKind.IMPORT_GONE, "Chat.model_generate", ("ada58a6",)),
    }


SLOW = pytest.mark.slow


@pytest.mark.parametrize("base", ["99383a9", pytest.param("ada58a6", marks=SLOW), pytest.param("bf605d5", marks=SLOW)])
def test_nothing_is_said_of_later_bases(upstream_repo: Path, base: str) -> None:
    assert reported(upstream_repo, base, read_project(ROOT).upstream.commit) == set()
