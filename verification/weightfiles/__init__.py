"""`verify.py weights`: are the weight files there, whole, and the right ones; and if not, what to do.

    facts       configs/weights.yaml as values; nothing else reads that file
    recognise   what a file is by its bytes: a web page, a pointer, an archive that is cut off, ...
    tensors     names and shapes inside a file, without executing anything in it
    files       THE module: one file against what is known of it
    folder      a Hugging Face folder: configuration, tokenizer, index, shards
    pins        the sums of files that nobody published a sum of, from the first time they were seen
    getting     which files to fetch from where, and what to do with a wrong one that is in the way
    space       disk and memory that they need
    report      the table and the JSON
    command     the command line

`present` asks the same of a set that is about to be loaded, file by file and without looking inside.
"""
