"""From tokens to the text of an answer, while it is being written."""

from __future__ import annotations

import contextlib
from typing import Any, Callable

from transformers import TextStreamer

STOP = "###"  # what Vicuna v0 writes where the next speaker's turn would begin (demo.py:72)


def stop_ids(tokenizer: Any, word: str = STOP) -> list[list[int]]:
    """The token ids of a stop word, at the start of a word and after a line break.

    LLaMA's tokenizer writes them [835] and [2277, 29937], constants in upstream's demo.py:72; asking the tokenizer
    keeps other vocabularies right.
    """
    at_word_start = tokenizer(word, add_special_tokens=False).input_ids
    line_break = tokenizer("\n", add_special_tokens=False).input_ids
    after_line = tokenizer("\n" + word, add_special_tokens=False).input_ids
    if after_line[: len(line_break)] == line_break:
        after_line = after_line[len(line_break) :]
    return [at_word_start] if at_word_start == after_line else [at_word_start, after_line]


class AnswerPrinter(TextStreamer):
    """A streamer for generate that hands the answer to `write` word by word, without special tokens and stop word."""

    def __init__(self, tokenizer: Any, write: Callable[[str], Any], stop: str = STOP) -> None:
        super().__init__(tokenizer, skip_special_tokens=True)
        self.write = write
        self.before_stop = BeforeStop(stop)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Called by TextStreamer with every piece of text that will not change any more."""
        self.write(self.before_stop.take(text, stream_end))


class BeforeStop:
    """Lets text through as far as it surely stands before the stop word, without white space at either end."""

    def __init__(self, stop: str = STOP) -> None:
        self.stop = stop
        self.held = ""  # may still be the beginning of the stop word, or the white space before it
        self.begun = False
        self.over = False

    def take(self, text: str, last: bool = False) -> str:
        """Add text; returns what may be shown now."""
        if self.over:
            return ""
        self.held += text
        before, found, _ = self.held.partition(self.stop)
        self.over = bool(found)
        if not found and not last:
            before = before[: len(before) - self._overlap(before)]
        shown = before.rstrip()
        self.held = self.held[len(shown) :]
        if not self.begun:
            shown = shown.lstrip()
            self.begun = bool(shown)
        return shown

    def _overlap(self, text: str) -> int:
        """How many characters at the end of `text` the stop word could begin with."""
        return max(n for n in range(len(self.stop)) if text.endswith(self.stop[:n]))


class _Failure:
    """What a stream ends with instead of its stop signal: whoever takes it from the queue gets the error.

    Hugging Face's iterating streamers compare what they take with their stop signal, in the thread that reads.
    """

    __hash__ = None

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __eq__(self, other: object) -> bool:
        if other is self:
            raise self.error
        return False


def end_with(streamer: Any, error: BaseException) -> None:
    """End the stream, if there is one, because of `error`: the thread that reads gets it after the text so far."""
    if streamer is None:
        return
    streamer.error = error
    streamer.stop_signal = _Failure(error)
    try:
        streamer.end()
    except Exception:  # the streamer is what failed: drop the text that it holds, its reader must not wait
        streamer.token_cache = []
        with contextlib.suppress(Exception):  # `error` is the one to be seen
            streamer.end()
