"""What turns the image half into a file for the NPU; the model itself needs none of it.

vit_graph: the ONNX graph · weights_file: its weights, on the disk · parity: onnxruntime against PyTorch ·
graph_lint, operator_rules: what ATC would not take (the table: atc_operators.json) ·
cann, npu_smi: find CANN and the processor; atc_machine: what can be done here with both ·
atc_staging: the weights as every ATC reads them · atc: its command line and run · atc_failures: what went wrong, and
what to do · om_file: where an OM comes into being · om_gate, om_check: the OM against the ONNX, on the NPU.
"""
