"""The gate: a port on a device against the float32 reference, by numbers that fit into one small file.

run         golden, taking and judgement in one call
golden      the file: what one side computed (.npz without pickles)
record      the golden: the reference's numbers, and what half precision costs the reference itself
take        the taking: the port's numbers for the golden's pictures and text
judge       golden against taking: the picture half; language: prompt, logits and text
line        one stage as one line of the report
limits      configs/gate.yaml: how far apart they may be, and why
sketch      large tensors as small ones that keep distances and divergences
digests     which weights; pictures: which pictures; progress: how far
bundle      a taking without anything that names its machine, judged elsewhere
checked     is a file that anybody may have made a recording? by rules of the form of its facts
command     `verify.py record`; replay: `verify.py replay`
"""
