"""Every rule that patches/, overlay/ and configs/ must keep, and the table of the patches.

lint        the verb: all findings at once, sorted
finding     one of them, and the names of the rules
rules       a patch alone: message, trailers, hunks, blob ids from patch to patch
hooks       the places that a patch's Hooks name
tested      the test that a patch's Tested-By names
folder      patches/ and overlay/ as folders
tree        what needs upstream's text: built, written again, compared
patchtable  patches/README.md, from the trailers
"""
