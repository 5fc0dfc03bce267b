"""A simulated NPU under the real torch_npu: see ../README.md. It shows arguments and control flow, never numerics,
memory or speed of a device."""
