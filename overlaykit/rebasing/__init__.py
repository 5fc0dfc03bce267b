"""The patches onto another upstream.

    rebase      the verb, from start to swap; each step can be killed
    state       what it leaves on disk between its steps
    onto        which commit is meant
    replay      a real `git rebase --onto` in a worktree of its own
    moves       what became of each patch, and the patch files that follow from it
    against     check --against: the same in a temporary folder
    advice      exactly what to type next
    report      what there is to say
"""
