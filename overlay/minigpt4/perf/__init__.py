"""What run_performance.py and the benchmarks measure with; the decoder itself needs none of it.

rows: the arithmetic of a row, and whether it is possible · measure: clocks and yardsticks · memory: what there is and
what is needed · run: a model and its rows one by one · sheet: the files of results · auto_map: the edit of a weights
folder. rows, sheet and auto_map need no torch.
"""
