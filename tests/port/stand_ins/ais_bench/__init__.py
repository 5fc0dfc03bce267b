"""A strict stand-in for Ascend's ais_bench: same calls, computed by onnxruntime, no NPU anywhere.

Put tests/port/stand_ins on sys.path to use it. An `.om` is an ONNX file under another name here.
"""
