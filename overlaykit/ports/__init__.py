"""What overlay/ and configs/paths.yaml need of upstream, and whether another upstream still has it.

Upstream's files are read and parsed, never imported or run.

    ports      the question
    problems   its answers, and the two sides that are compared
    files      overlay paths are free; the rules' files and keys exist
    code       names that overlay code imports, calls and overrides (pyuses: what it uses; pymodules: what modules
               define; pysign: whether a call fits a signature)
    taken      names that patches take away, and that upstream uses elsewhere
"""
