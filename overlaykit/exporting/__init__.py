"""Commits of the workspace become patches and overlay files.

export      the verb
sides       each commit told apart: upstream's files, the overlay's, this machine's values
fold        fixup!, squash! and amend! into the patches that they name
newproject  the project's new files, read back and built before they count (rebase uses it too)
onward      the workspace's branch follows
report      what there is to say
"""
