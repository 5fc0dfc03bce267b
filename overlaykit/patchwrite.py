"""A commit as a patch file, the same bytes on every machine."""

from __future__ import annotations

import os
import re

from .gitrepo import Repo

# Each option that some setting could change is given, although a sterile repository has no settings.
_OPTIONS = (
    *("--stdout", "-1", "--no-numbered", "--subject-prefix=PATCH", "--zero-commit", "--no-signature"),
    *("--no-attach", "--no-thread", "--no-cover-letter", "--no-base", "--no-notes", "--no-from", "--no-signoff"),
    *("--no-to", "--no-cc", "--no-add-header", "--encode-email-headers", "--encoding=UTF-8"),
    *("--patch", "--stat=72", "--summary", "--full-index", "--no-renames", "--diff-algorithm=myers"),
    *("--unified=3", "--inter-hunk-context=0", "--indent-heuristic", "--src-prefix=a/", "--dst-prefix=b/"),
    *("--no-color", "--no-ext-diff", "--no-textconv", "--no-relative", f"-O{os.devnull}", "--submodule=short"),
)
_LONGEST = 64  # of git: a file name and the NUL behind it
_END = ".patch"


def write_patch(repo: Repo, commit: str) -> bytes:
    """The patch of `commit`, which has one parent. `repo` is sterile."""
    return repo.git("format-patch", *_OPTIONS, commit)


def file_name(number: int, subject: str) -> str:
    """NNNN-words.patch, as `git format-patch` names it; "patch" where the subject has no letter of a file name."""
    words = re.sub(r"\.{2,}", ".", subject)
    words = re.sub(r"[^A-Za-z0-9._]+", "-", words).lstrip("-").rstrip("-.")
    name = f"{number:04}-{words or 'patch'}"
    return name[: _LONGEST - 1 - len(_END)] + _END
