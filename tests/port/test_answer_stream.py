"""What of an answer is shown, and when: the stop words never, and text as soon as it is sure."""

from __future__ import annotations

import random
import types

import pytest
from port.models.answer_stream import AnswerPrinter, BeforeStop, stop_ids


def pieces(word, line, both):
    """A tokenizer that knows three texts by heart."""
    known = {"###": word, "\n": line, "\n###": both}

    def tokenize(text, add_special_tokens):
        assert not add_special_tokens
        return types.SimpleNamespace(input_ids=known[text])

    return tokenize


def test_stop_ids_of_the_real_tokenizer_are_upstreams_constants():
    """The ids are LLaMA's own, as its tokenizer.model gives them."""
    tokenizer = pieces(word=[835], line=[29871, 13], both=[29871, 13, 2277, 29937])
    assert stop_ids(tokenizer) == [[835], [2277, 29937]]


def test_equal_stop_ids_are_given_once():
    assert stop_ids(pieces(word=[7, 8], line=[4], both=[4, 7, 8])) == [[7, 8]]


TEXTS = [
    "A man sits at a desk.",
    "  A man.\n###",
    "A man. ### Human: what else?",
    "C# and ## are not stop words\n\n#",
    "####",
    "###",
    "",
    "one\n\ntwo #1 ##2  ###",
    " \n ",
]


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_shown_stands_before_the_stop_word_however_it_comes(text):
    expected = text.split("###")[0].strip()
    for seed in range(30):
        draw = random.Random(seed)
        sieve, shown, rest = BeforeStop(), "", text
        while rest:
            size = draw.randint(1, 4)
            piece, rest = rest[:size], rest[size:]
            shown += sieve.take(piece)
            assert expected.startswith(shown)
        assert shown + sieve.take("", last=True) == expected


def test_text_is_shown_as_soon_as_it_is_sure():
    sieve = BeforeStop()
    assert [sieve.take(piece) for piece in ("A man ", "sits #", "1 ", "##", "# Human")] == [
        "A man",
        " sits",
        " #1",
        "",
        "",
    ]


def test_the_printer_writes_words_and_hides_the_stop_word():
    import torch

    vocabulary = ["A", "man", "sits.", "###", "Human:"]

    class Words:
        def decode(self, ids, skip_special_tokens):
            assert skip_special_tokens
            return " ".join(vocabulary[token] for token in ids)

    written = []
    printer = AnswerPrinter(Words(), written.append)
    printer.put(torch.zeros(1, 0, dtype=torch.long))
    for token in range(5):
        printer.put(torch.tensor([token]))
    printer.end()
    assert "".join(written) == "A man sits."
    assert written.index("A") < written.index(" man")
