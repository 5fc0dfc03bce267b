"""How many tokens of a Llama folder have a text, and what is wrong with its tokenizer files if it cannot be said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .llama_config import read_json


class TokenizerError(RuntimeError):
    """The tokenizer of a Llama folder is missing or damaged, or sentencepiece is not installed."""


def count_tokens(folder: str | Path) -> int:
    """The tokens that the tokenizer in `folder` can turn into text: the ids from 0 up to this number.

    The weights of Vicuna v0 have a row more (32001 for 32000): decoding its id is an IndexError in transformers.
    """
    path = Path(folder) / "tokenizer.model"
    if not path.is_file():
        raise TokenizerError(f"{path} does not exist: it comes with the weights of the language model.")
    try:
        import sentencepiece
    except ModuleNotFoundError as error:
        raise TokenizerError(f"{path} is read by sentencepiece, which is missing: pip install sentencepiece") from error
    try:
        pieces = sentencepiece.SentencePieceProcessor(model_file=str(path)).get_piece_size()
    except (RuntimeError, OSError) as error:
        raise TokenizerError(
            f"{path} is not a sentencepiece model: it is damaged, a Git LFS pointer or a web page. Download it again."
        ) from error
    added = [int(number) for number in _read(folder, "added_tokens.json").values()]
    added += [int(number) for number in _read(folder, "tokenizer_config.json").get("added_tokens_decoder", ())]
    _read(folder, "special_tokens_map.json")  # read by transformers, whose message does not name the file
    return max(pieces, *(number + 1 for number in added), 1)


def _read(folder: str | Path, name: str) -> dict[str, Any]:
    """A JSON object; {} where the file is absent, which is fine for all three."""
    path = Path(folder) / name
    return read_json(path) if path.is_file() else {}
