"""Run a workspace's run_predict.py and write down what led to its answer.

    python answer_tokens.py WORKSPACE/run_predict.py FILE [ARGUMENT …]

FILE is written by torch.save: {"ids": token ids of the answer, "picture": (tokens, hidden) embeddings of the picture,
"draws": of each drawn token (probabilities (V,), the random numbers (V,) that they are divided by)}, on the CPU, in
float32. The exit code is run_predict's. On the simulated NPU: python -m simulator.start answer_tokens.py …; what runs
there shows arguments and control flow, never numerics or speed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def main() -> int:
    script, target, *arguments = sys.argv[1:]
    sys.path.insert(0, str(Path(script).resolve().parent))
    import run_predict

    seen: dict[str, Any] = {"ids": [], "picture": None, "draws": []}
    listen(run_predict, seen)
    code = run_predict.main(arguments)
    torch.save(seen, target)
    return code


def listen(run_predict: Any, seen: dict[str, Any]) -> None:
    """Once the model is there: upstream must not be imported before run_predict has picked the device."""
    build = run_predict.build_chat

    def build_chat(*arguments: Any) -> Any:
        from minigpt4.models.answer_stream import AnswerPrinter

        chat, conversation = build(*arguments)
        encode, show, draw = chat.model.encode_img, AnswerPrinter.put, torch.multinomial

        def encode_img(images: Tensor) -> Any:
            embeddings, mask = encode(images)
            seen["picture"] = embeddings[0].float().cpu()
            return embeddings, mask

        def put(printer: Any, tokens: Tensor) -> Any:
            seen["ids"].extend(tokens.flatten().tolist())
            return show(printer, tokens)

        def multinomial(probabilities: Tensor, **options: Any) -> Tensor:
            seen["draws"].append((probabilities[0].float().cpu(), noise(probabilities)))
            return draw(probabilities, **options)

        chat.model.encode_img, AnswerPrinter.put, torch.multinomial = encode_img, put, multinomial
        return chat, conversation

    run_predict.build_chat = build_chat


def noise(probabilities: Tensor) -> Tensor:
    """What torch.multinomial divides by before it takes the largest: exponential, drawn here and undone again."""
    state = torch.get_rng_state()  # the simulated device draws with the CPU's generator
    drawn = torch.empty_like(probabilities, device="cpu").exponential_(1)
    torch.set_rng_state(state)
    return drawn[0].float()


if __name__ == "__main__":
    sys.exit(main())
