"""What `apply.py --help` and `apply.py VERB --help` print below the options."""

from __future__ import annotations

GENERAL = """
verbs (each explains itself: apply.py VERB --help):
  apply    (the default) make the workspace, or bring it up to date; a second run changes nothing
  check    say what apply would do, and whether everything fits; touches nothing
  status   what the workspace holds, and your own edits in it; touches nothing
  revert   back to the branch that was checked out before; settings are kept for the next apply
for those who change the patches:
  lint     every rule that patches/, overlay/ and configs/ must keep
  export   your commits in the workspace become patches and overlay files
  rebase   move the patches to a newer upstream, and say what landed, what broke and what changed its meaning
  lock     after a change by hand: write the resulting tree to configs/upstream.yaml

first time:
  python apply.py --workspace ./MiniGPT-4 --set model_path=/data/model/MiniGPT-4

without network, any of these works as --upstream:
  https://mirror.example/MiniGPT-4.git    /mnt/usb/MiniGPT-4    MiniGPT-4.bundle

your own edits:
  values that configs/paths.yaml owns may be edited in the YAML files by hand: the next apply adopts them.
  Other edits stay. Where a patch needs an edited file, apply refuses; --force saves the file first and
  prints the command that brings it back.

exit codes:
  0 done or nothing to do      1 does not fit, or findings   2 wrong command or invalid project file
  3 would lose your work       4 the tree is not the locked one
  5 out of reach, not checked  70 unexpected                 130 interrupted
"""

_APPLY = """
Clones upstream at the commit that configs/upstream.yaml pins, applies patches/ in the order of patches/series,
adds overlay/, sets the paths, compares the result with the lock and exchanges the worktree once. A run that is
killed leaves either the state of before or that of after; the next run sees to it.

examples:
  python apply.py --workspace ./MiniGPT-4
  python apply.py --workspace ./MiniGPT-4 --set model_path=/mnt/weights --upstream MiniGPT-4.bundle
"""

_CHECK = """
Builds everything in a temporary folder and says what apply would change. With --against it asks another
question: would the patches fit there? They are rebased in a temporary folder, and each is reported as it would
be by `rebase`: same, moved, context, changed, landed, conflict or drifted. Nothing is touched.

  python apply.py check
  python apply.py check --against main --json     in CI, every night: exit 1 on the day when upstream breaks a patch
  python apply.py check --against 3f1b2c9         a commit, branch or tag of upstream
"""

_STATUS = """
What is applied, whether it is what this project says today, and what you changed since. Exit 0 in every state.
"""

_REVERT = """
Checks out the branch that was there before the first apply. Branch `overlay` stays, so the next apply finds your
settings. Edits of yours that are in the way are refused, or saved first with --force.
"""

_LOCK = """
Builds pin + patches/ + overlay/ and writes the id of the tree to configs/upstream.yaml. export and rebase do it
themselves; lock is for changes made by hand in overlay/.
"""

_LINT = """
Reads everything and lists all that is wrong, each with file and line: the mail around a patch, its trailers (the
hooked symbol and the named test must exist), hunks that do not add up, dangerous paths, white space, more upstream
text than a change needs, files that series does not list. Rules that need upstream's text use the workspace; without
one they are named as not checked. --fix writes patches/README.md, the table of the patches, and lets git write a
patch again that differs from git's own form but says the same.
"""

_EXPORT = """
Edit in the workspace, commit there, export:
  cd MiniGPT-4 && $EDITOR minigpt4/models/base_model.py
  git commit -a -m "Say why in the subject"                 a new patch
  git commit -a --fixup ':/Choose autocast and dtype'       a change of an existing patch
  git add run_predict.py && git commit -m "New option"      a change of overlay/
  cd .. && python apply.py export
One commit touches either files of upstream or files of the overlay, never both. Values that configs/paths.yaml owns
are this machine's and are not exported. Patches that did not change keep every byte; patches/, overlay/ and
the lock are replaced together or not at all. --check writes nothing and exits 1 when there is something to export.
"""

_REBASE = """
  python apply.py rebase                    onto the newest commit of upstream's branch (configs/upstream.yaml)
  python apply.py rebase --onto 3f1b2c9     or onto any commit, branch or tag of it

1. The patches are replayed by a real `git rebase --onto` in a worktree of its own inside the workspace's .git.
   Your worktree is not touched before the very end.
2. Where a patch does not fit, you are told which, why it exists, which function it is in, which upstream commits
   changed those lines, and what to type. Resolve it there, then:
     python apply.py rebase --continue
   To give the patch up:
     python apply.py rebase --skip
3. When all fit, each patch is reported: same, moved (only line numbers or the path), context (other lines around
   it), changed, landed (upstream has it now: it is dropped), drifted (it fits, but the function around it was
   rewritten: read what changed). Drift stops the rebase until you have read it:
     python apply.py rebase --continue --accept-drift
   The decision is recorded in the patch, for that very text of the function.
4. What overlay/ and configs/paths.yaml need of upstream is compared too: names, signatures, keys, files.
5. The patches are written, read back and built; the same tree must come out. Then patches/ and the lock are replaced
   together, and the workspace is brought up to date.
Killed at any point, run it again, or give up with:
     python apply.py rebase --abort
"""

OF = {
    "apply": _APPLY,
    "check": _CHECK,
    "status": _STATUS,
    "revert": _REVERT,
    "lock": _LOCK,
    "lint": _LINT,
    "export": _EXPORT,
    "rebase": _REBASE,
}
