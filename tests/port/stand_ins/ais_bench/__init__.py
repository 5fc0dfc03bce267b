"""A strict stand-in for Ascend's ais_bench: same calls, computed by onnxruntime, no NPU anywhere.

Put tests/port/stand_ins on sys.path to use it. An `.om` is an ONNX file under another name here, with its weights
inside; a dynamic first size needs the batch sizes in metadata_props, `dynamic_batch_size` = "1,2,4".
AIS_BENCH_STAND_IN picks the release, `old` (as of June 2023) or `new`, before the first import.

Where the real one raises, this raises the same kind of error. Where the real one crashes the process or computes with
wrong data without a word, this raises WouldCrash or WouldCorrupt, which are BaseExceptions, so that no `except
Exception` of the code under test hides them. What releases do was seen with the real 0.0.2 of June 2023 on an ACL that
computes nothing, and read in the public sources of later ones. aclruntime.py stands for the library underneath, acl.py
for ACL's state in the process.
"""
