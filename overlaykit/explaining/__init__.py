"""Why a patch no longer fits, who did it, and what still fits but may not mean the same.

conflict     the conflicts of a rebase that stopped: patch, place, culprits, what to do (told: one of them, as text)
regions      the merge made again, so that no marker in a file misleads (linemap: lines of one text in another)
hints        what to do, in words
culprits     the upstream commits that touched lines or removed files
whereabouts  renames, and code that moved elsewhere
fate         what became of a patch: same, moved, context only, changed, landed
drift        the code around a patch was rewritten (meaning: four versions of a file; pyast: definitions compared)
"""
