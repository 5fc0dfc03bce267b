"""A small set of weights in the real file formats, so that every loader of the port is the real one.

    python -m verification.synthetic FOLDER [--seed N]

The numbers are random and the answers mean nothing; files, keys, dtypes and folder layout are those of the real set:

    weights/    Vicuna v0: two .bin shards, index, config, generation_config, sentencepiece tokenizer; vocabulary + 1
    llama2/     the same in Llama-2's flavour
    pretrain/   prerained_minigpt4_7b.pth, pretrained_minigpt4_llama2_7b.pth (llama_proj, optimizer, config, epoch)
    othfiles/   eva_vit_g.pth (fp16, one block more than is used), blip2_pretrained_flant5xxl.pth, bert-base-uncased/
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from overlaykit.errors import FixTheCommand, OverlayError
from verification.synthetic_tensors import BERT, LLM, VIT, Tensors, blip2, eva_vit, llama
from verification.synthetic_text import train_tokenizer

VERSION = 2  # of the generator: raise it whenever the numbers or the files change
# Key in the language models' config.json, the one place where verify looks: with a random language model no answer can
# be judged, whatever the other files hold. The .pth files that have room for it carry it too, for who opens them.
MARKER = "synthetic_weights"


def write_tiny(folder: str | os.PathLike[str], seed: int = 0) -> Path:
    """Write the whole set into `folder` and return it; the same seed gives the same tensors on every machine.

    An existing synthetic set is replaced, an empty folder is filled; anything else is left alone (FixTheCommand).
    The folder appears under its name only when it is complete.
    """
    target = Path(folder).absolute()
    if target.exists() and read_marker(target) is None and (not target.is_dir() or any(target.iterdir())):
        raise FixTheCommand(
            f"{target} exists and holds no synthetic weights.",
            "Writing there could overwrite real weights.",
            "Name another folder, or an empty one.",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        os.chmod(draft, 0o755)  # mkdtemp makes it 0700
        write_files(draft, seed)
        if target.exists():
            shutil.rmtree(target)
        os.replace(draft, target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return target


def cached_tiny(seed: int = 0) -> Path:
    """The set of `seed` in the user's cache folder ($XDG_CACHE_HOME or ~/.cache), written on first use."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minigpt4-ascend-overlay"
    folder = cache / f"tiny-v{VERSION}-seed{seed}"
    return folder if read_marker(folder) == {"generator": VERSION, "seed": seed} else write_tiny(folder, seed)


def read_marker(folder: Path) -> dict[str, int] | None:
    """{"generator", "seed"} of a synthetic set, or None."""
    try:
        return json.loads((folder / "weights" / "config.json").read_text(encoding="utf-8")).get(MARKER)
    except (OSError, ValueError):
        return None


def write_files(folder: Path, seed: int) -> None:
    import torch

    make, marker = Tensors(seed), {"generator": VERSION, "seed": seed}
    tokenizer = train_tokenizer(seed)
    for name, llama2 in (("weights", False), ("llama2", True)):
        write_llama(folder / name, make, tokenizer, llama2, marker)

    others = folder / "othfiles"
    (others / "bert-base-uncased").mkdir(parents=True)
    torch.save(eva_vit(make), others / "eva_vit_g.pth")
    torch.save({"model": blip2(make), MARKER: marker}, others / "blip2_pretrained_flant5xxl.pth")
    write_json(others / "bert-base-uncased" / "config.json", bert_config())

    (folder / "pretrain").mkdir()
    stages = {"prerained_minigpt4_7b.pth": BERT["hidden"], "pretrained_minigpt4_llama2_7b.pth": 4 * VIT["width"]}
    for name, width in stages.items():
        torch.save(checkpoint(make, name, width, marker), folder / "pretrain" / name)


def checkpoint(make: Tensors, name: str, width: int, marker: dict[str, int]) -> dict[str, Any]:
    """A training checkpoint as upstream's runner saves it: llama_proj and the Adam moments of both its tensors."""
    model = {
        "llama_proj.weight": make.linear(name, LLM["hidden"], width, 0.06),  # as large as the word embeddings
        "llama_proj.bias": make.normal(name + ".bias", (LLM["hidden"],), 0.01),
    }
    moments = {
        index: {"step": 1.0, "exp_avg": tensor * 0.0, "exp_avg_sq": tensor * 0.0}
        for index, tensor in enumerate(model.values())
    }
    return {
        "model": model,
        "optimizer": {"state": moments, "param_groups": [{"lr": 1e-5, "params": [0, 1]}]},
        "config": {"model": {"arch": "minigpt4"}},
        "scaler": {},
        "epoch": 3,
        MARKER: marker,
    }


def write_llama(folder: Path, make: Tensors, tokenizer: bytes, llama2: bool, marker: dict[str, int]) -> None:
    """One Hugging Face folder, as https://huggingface.co/Vision-CAIR/vicuna-7b lays it out."""
    import torch

    folder.mkdir()
    vocabulary = count_pieces(tokenizer) + (0 if llama2 else 1)  # v0 has 32001 rows for 32000 pieces
    shards = llama(make, folder.name, vocabulary)
    weight_map, total = {}, 0
    for number, shard in enumerate(shards, 1):
        name = f"pytorch_model-{number:05d}-of-{len(shards):05d}.bin"
        torch.save(shard, folder / name)
        weight_map.update(dict.fromkeys(shard, name))
        total += sum(tensor.numel() * tensor.element_size() for tensor in shard.values())
    write_json(folder / "pytorch_model.bin.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})
    write_json(folder / "config.json", llama_config(vocabulary, llama2, marker))
    write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0})
    (folder / "tokenizer.model").write_bytes(tokenizer)
    specials = {"bos_token": special("<s>"), "eos_token": special("</s>"), "unk_token": special("<unk>")}
    write_json(folder / "special_tokens_map.json", specials)
    typed = {name: {"__type": "AddedToken", **token} for name, token in specials.items()}
    write_json(
        folder / "tokenizer_config.json",
        {
            "add_bos_token": True,
            "add_eos_token": False,
            **typed,
            **({"legacy": False} if llama2 else {}),  # as the real file says; upstream's training did not ask it
            "clean_up_tokenization_spaces": False,
            "model_max_length": 4096 if llama2 else 2048,
            "pad_token": None,
            "sp_model_kwargs": {},
            "tokenizer_class": "LlamaTokenizer",
        },
    )


def count_pieces(tokenizer: bytes) -> int:
    import sentencepiece

    return int(sentencepiece.SentencePieceProcessor(model_proto=tokenizer).get_piece_size())


def special(content: str) -> dict[str, Any]:
    return {"content": content, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}


def bert_config() -> dict[str, Any]:
    """The keys of bert-base-uncased/config.json; only sizes differ."""
    return {
        "architectures": ["BertForMaskedLM"],
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": BERT["hidden"],
        "initializer_range": 0.02,
        "intermediate_size": BERT["mlp"],
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512,
        "model_type": "bert",
        "num_attention_heads": BERT["heads"],
        "num_hidden_layers": BERT["layers"],
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "type_vocab_size": 2,
        "use_cache": True,
        "vocab_size": 1000,
    }


def llama_config(vocabulary: int, llama2: bool, marker: dict[str, int]) -> dict[str, Any]:
    """config.json; Vicuna v0 and Llama-2 differ in epsilon, context length and vocabulary."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": LLM["hidden"],
        "initializer_range": 0.02,
        "intermediate_size": LLM["mlp"],
        "max_position_embeddings": 4096 if llama2 else 2048,
        "model_type": "llama",
        "num_attention_heads": LLM["heads"],
        "num_hidden_layers": LLM["layers"],
        "pad_token_id": 0,
        "rms_norm_eps": 1e-5 if llama2 else 1e-6,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "transformers_version": "4.28.1",
        "use_cache": True,
        "vocab_size": vocabulary,
        MARKER: marker,
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m verification.synthetic",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", help="where to write; must be new, empty or an older synthetic set")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        folder = write_tiny(options.folder, options.seed)
    except OverlayError as error:
        print(error, file=sys.stderr)
        return error.code
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"Synthetic weights, seed {options.seed}, {size / 1e6:.0f} MB: {folder}")
    print("They are random: they show that files load and stages agree, never that an answer is right.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
