"""The patches onto another upstream.

rebase      the verb, up to the last patch; each step can be killed
finish      the end: what has to be read, the new project, the swap; or all undone
job         one call: what its steps work with
state       what it leaves on disk between its steps
onto        which commit is meant
replay      a real `git rebase --onto` in a worktree of its own
strange     what the user may have done in that worktree
moves       what became of each patch, and the patch files that follow from it
against     check --against: the same in a temporary folder
advice      exactly what to type next
report      what there is to say
"""
