"""(pinned upstream commit, patches, overlay, settings) -> git tree, as a pure function; and one careful swap.

Knows git, patches and YAML, and nothing of MiniGPT-4. Read in this order:

    errors      what can go wrong, named after what to do about it
    verbs       apply, check, status, revert, lock: the story, one function each
    build       THE file: base + patches + overlay + settings -> commits
    plan        settings, the build, and whether anything of the user's is in the way
    survey      looks at every file that would change, before anything is written
    carry       carry a plan out: save, swap; recover first
    swap        the one exchange of the worktree
    journal     what a swap leaves on disk while it is at work; git's locks; writing a file at one stroke
    recover     finish or undo a swap after a kill or a failure
    backup      --force: save first
    handedits   edits of YAML files: owned values become settings, the rest stays
    workspace   find, lock and read a clone
    sources     clone and fetch; network, mirror, folder, bundle (transfer: one fetch; partial: what a partial clone
                left out)
    project     patches/, overlay/, configs/ read together
    patchfile   one patch, read strictly; the only importer of unidiff (mail: its header, hunk: one block,
                patchrules: what is refused)
    series      patches/series
    lines       text as git sees it, and the lines that a hunk changes
    fit         why a patch does not fit (enclosing: in which function; nearest: did you mean …;
                names: folders, and names that are one elsewhere)
    configs     rules and edits that touch only a value's own characters (yamltext: the characters)
    install     several files of the project replaced at one stroke, whenever the run is killed
    patchwrite  a commit as a patch file (sterile: a repository that no setting reaches)
    gitrepo     a repository, by plumbing in batches (gitrun: one command; the only importer of GitPython; gitwall:
                what git may see of a repository whose settings nobody vouches for)
    objects     git's objects made here, written in batches
    tempfolder  folders that are removed even after a kill
    report      results as text and JSON (colour: at a terminal; manual: --help)

For those who change the patches, a package each, with a map of its own:

    linting     every rule, all at once
    exporting   commits of the workspace become patches
    rebasing    the patches onto a newer upstream
    explaining  conflicts, culprits, drift
    ports       what overlay/ needs of upstream
"""
