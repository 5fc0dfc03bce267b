"""A small sentencepiece tokenizer, trained on the spot with the settings of LLaMA's own.

Real behaviour needs a real `tokenizer.model`: byte fallback, the dummy prefix, `<unk>`, `<s>`, `</s>` at 0, 1, 2
and, for MiniGPT-4, "###" as one piece at the start of a word and as "##" + "#" elsewhere (upstream demo.py:72 stops
on both).
"""

from __future__ import annotations

import io
import random

VOCABULARY = 700  # 3 special tokens, 256 bytes, the rest learnt; many more and BPE would run out of corpus

SYSTEM = (
    "Give the following image: <Img>ImageContent</Img>. You will be able to see the image once I provide it to you. "
    "Please answer my questions."
)
QUESTIONS = (
    "Describe this image in detail.",
    "Take a look at this image and describe what you notice.",
    "Please provide a detailed description of the picture.",
    "Could you describe the contents of this image for me?",
)
SUBJECTS = ("a man", "a woman", "two children", "a group of players", "an old dog", "the small boat", "some people")
VERBS = ("is holding", "looks at", "stands behind", "walks towards", "is sitting next to", "points at", "shows")
OBJECTS = (
    "a golden trophy",
    "an open laptop",
    "a box of fried chicken",
    "a wooden desk",
    "the green field",
    "a bowl of sauce",
    "a bright window",
    "the crowded stadium",
    "a cup of coffee",
    "several books",
    "the mountain lake",
)
PLACES = (
    "in front of a crowd",
    "near the window",
    "at the office",
    "on the beach",
    "under a blue sky",
    "beside the road",
    "in a large kitchen",
    "with fireworks in the background",
    "for $10 on Monday",
)


def corpus(seed: int, lines: int = 1500) -> list[str]:
    """Captions, questions and dialogues, in an order that depends on `seed` alone.

    "###" stands after a space only and "##" more often than it, so that BPE learns "▁###" but no bare "###".
    """
    rng = random.Random(seed)
    text = []
    for number in range(lines):
        caption = f"{rng.choice(SUBJECTS)} {rng.choice(VERBS)} {rng.choice(OBJECTS)} {rng.choice(PLACES)}."
        text.append(f"The image shows {caption}")
        text.append(caption[0].upper() + caption[1:])
        text.append(f"## {rng.choice(OBJECTS)}")
        if number % 10 == 0:
            question = rng.choice(QUESTIONS)
            text.append(f"{SYSTEM} ### Human: <Img><ImageHere></Img> {question} ### Assistant: {caption}")
            text.append(f"[INST] {question} [/INST] {caption}")
    return text


def train_tokenizer(seed: int = 0) -> bytes:
    """The bytes of a `tokenizer.model` with VOCABULARY pieces."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus(seed)),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCABULARY,
        character_coverage=1.0,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()
