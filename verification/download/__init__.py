"""Fetch one file over HTTP so that nothing but the whole, right file ever has its name.

    fetch       THE file: sources in order, requests until the file is whole, the sum, the rename
    request     one request: redirects, ranges, tokens, and what an answer's headers say
    part        the unfinished file NAME.part: its lock, its state, and the sum of what it holds
    sums        SHA-256 in a thread of its own, beside the reading or the network
    progress    a bar on a terminal, lines elsewhere

Knows nothing of MiniGPT-4; the standard library only (tqdm draws the bar where it is installed).
"""
