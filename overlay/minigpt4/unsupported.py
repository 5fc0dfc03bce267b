"""What the overlay switches off, and the one sentence that says so."""

_WHY = {
    "LoRA": "it needs peft, whose int8 training helpers exist for CUDA only",
    "minigpt_v2": "it needs LoRA weights and an image encoder of 448 pixels, and neither is part of this port",
    "training": "the image encoder and the decoder of this port only run forward",
}


class SwitchedOff(RuntimeError):
    """A part of upstream that this port does not carry was asked for."""

    exit_code = 2  # of run_predict.py


def refuse(part: str) -> None:
    """Raise SwitchedOff for `part`, one of the keys of the table above."""
    raise SwitchedOff(f"{part} is switched off by the Ascend overlay: {_WHY[part]}. For inference use run_predict.py.")
