"""The proof: is the patched MiniGPT-4 the model that it claims to be?

verify.py is the command line. Knows nothing of git and patches, only the lock through overlaykit. Read in this order:

    run         the whole proof in order: tree, pictures, weights, stages, answers
    stages      THE file: the port against the reference, one stage at a time, so that a fault shows where it is
    compare     how far they may be apart, and one stage as a line of the report
    oracle      the reference: an independent MiniGPT-4 made of Hugging Face parts
    port        what is under test: the patched workspace, or the overlay alone
    decoding    what is asked of its language model
    weights     which files, did every tensor arrive
    present     are the files there, and the published ones
    answers     prompts, and the judge of what was said
    tree        the workspace against the lock
    memory      whether this host can hold the reference
    report      results as a table and as JSON
    synthetic   small random weights in the real formats (synthetic_tensors: the numbers, synthetic_text: the tokenizer)
    ops         `verify.py ops`: a device's operations against plain PyTorch, without weights
    demo        what `make demo` runs

Importing a module here imports no torch unless it computes: report, answers, weights and run start at once.
"""
