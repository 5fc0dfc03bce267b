"""The proof: is the patched MiniGPT-4 the model that it claims to be?

verify.py is the command line. Knows nothing of git and patches, only the lock through overlaykit. Read in this order:

    run         the whole proof in order: tree, pictures, weights, stages, answers
    gate        THE package: the port against the reference, stage by stage, so that a fault shows where it is; the
                reference's numbers come from the same machine or from a file of another one
    oracle      the reference: an independent MiniGPT-4 made of Hugging Face parts (oracle_decoder: its language model,
                whole or layer by layer; shards: tensors by name)
    port        what is under test: the patched workspace; overlay_alone: our parts without upstream
                (overlay_modules: imports the overlay's files, without torch where they need none)
    decoding    what is asked of its language model
    weights     which files, did every tensor arrive
    present     are the files there, and the published ones
    prompts     what is asked about which pictures (configs/prompts.yaml)
    answers     asking: greedy, sampled, about a picture of nothing
    word_rules  judging what was said by its words
    counted     how far a long loop is
    tree        the workspace against the lock
    memory      whether this host can hold the reference
    report      results as a table and as JSON (show: on standard output, and as a page where one is asked for)
    page        the report as one HTML page and as Markdown (a package; roofline: what the device could do)
    synthetic   small random weights in the real formats (synthetic_tensors: the numbers, synthetic_text: the tokenizer)
    weightfiles `verify.py weights`: missing and mistaken weight files told by name, and fetched (a package)
    download    one file over HTTP, whole and right or not at all (a package)
    ops         `verify.py ops`: a device's operations against plain PyTorch, without weights
    env         `verify.py env`: what can this machine run, what is wrong with it (env_source and env_system: reading,
                env_machine, env_python: facts, env_stack: the table of releases, env_npu, env_packages, env_trial,
                env_shell: judging; all without torch)
    demo        what `make demo` runs

Importing a module here imports no torch unless it computes: report, answers, weights and run start at once.
"""
