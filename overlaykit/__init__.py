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
    sources     clone and fetch; network, mirror, folder, bundle (partial: what a partial clone left out)
    project     patches/, overlay/, configs/ read together
    patchfile   one patch, read strictly; the only importer of unidiff (mail: its header, patchrules: what is refused)
    series      patches/series
    fit         why a patch does not fit (enclosing: in which function; nearest: did you mean …)
    configs     rules and edits that touch only a value's own characters (yamltext: the characters)
    lint        every rule for the project's files, all at once (finding: one of them). lintrules: a patch alone,
                hooks: the names in its Hooks, lintfolder: the folders, linttree: with upstream's text at hand
    patchtable  patches/README.md, from the trailers
    export      commits of the workspace become patches and overlay files (exportreport: what it says). sides: the
                commits told apart, fold: fixups into their patches, newproject: the new files, read back and built,
                onward: the workspace's branch follows
    install     several files of the project replaced at one stroke, whenever the run is killed
    conflict    why a rebase stopped: patch, place, culprits, what to do (regions: the merge made again; hints: what
                to do, in words)
    culprits    the upstream commits that touched lines, removed files (whereabouts: renames and moved code; linemap:
                a line of one version in another)
    fate        what became of a patch: same, moved, context only, changed, landed
    drift       what still applies but may not mean the same (meaning: four versions of a file compared; pyast:
                Python as definitions that can be compared)
    ports       what overlay/ and the rules need of upstream, and lost (porttypes: what is reported). portfiles: names
                and YAML keys; portcode: imports, calls, overrides (pyuses: what a file uses, pymodules: where it is
                defined, pysign: what it takes)
    patchwrite  a commit as a patch file (sterile: a repository that no setting reaches)
    gitrepo     a repository, by plumbing in batches (gitrun: one command; the only importer of GitPython; gitwall:
                what git may see of a repository whose settings nobody vouches for)
    report      results as text and JSON
"""
