"""What can be wrong with weight files: each function damages a copy of the synthetic set, in the seed's layout.

Files of the copy are hard links into the undamaged set, so that a function must replace a file and never write into it;
`change_tensors`, `change_json` and `replace` do. The generator's seed of what comes from "another" set is OTHER_SEED.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

OTHER_SEED = 1
SHARD = "weights/pytorch_model-00002-of-00002.bin"
EVA = "othfiles/eva_vit_g.pth"
BLIP2 = "othfiles/blip2_pretrained_flant5xxl.pth"
STAGE = "pretrain/prerained_minigpt4_7b.pth"

State = dict[str, Any]  # tensors by name


def replace(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` make the file anew beside the old one, and put it in its place."""
    draft = path.with_name(path.name + ".new")
    write(draft)
    os.replace(draft, path)


def change_tensors(path: Path, change: Callable[[State], Any]) -> None:
    """change: alters the dict of tensors in place; `model` is looked into where the file has that level."""
    import torch

    content = torch.load(path, map_location="cpu", weights_only=True)
    change(content.get("model", content))
    replace(path, lambda draft: torch.save(content, draft))


def change_json(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    replace(path, lambda draft: draft.write_text(json.dumps({**content, **values}, indent=2), encoding="utf-8"))


def from_other_set(folder: Path, file: str) -> None:
    """The file of the synthetic set with another seed."""
    from verification.synthetic import cached_tiny

    replace(folder / file, lambda draft: shutil.copy2(cached_tiny(OTHER_SEED) / file, draft))


def transposed(folder: Path, workspace: Path) -> None:
    """One square matrix lies the other way round."""
    name = "model.layers.2.self_attn.o_proj.weight"
    change_tensors(folder / SHARD, lambda state: state.update({name: state[name].t().contiguous()}))


def zeroed(folder: Path, workspace: Path) -> None:
    """One matrix is all zeros, as after a hole in a download."""
    change_tensors(folder / SHARD, lambda state: state["model.layers.3.mlp.down_proj.weight"].zero_())


def rounded(folder: Path, workspace: Path) -> None:
    """A shard that went through bfloat16."""
    change_tensors(folder / SHARD, lambda state: state.update({k: v.bfloat16().to(v.dtype) for k, v in state.items()}))


def other_shard(folder: Path, workspace: Path) -> None:
    """One of the two shards belongs to another model of the same shape, as v1.1's do."""
    from_other_set(folder, SHARD)


def other_stage(folder: Path, workspace: Path) -> None:
    """llama_proj of another training."""
    from_other_set(folder, STAGE)


def other_tokenizer(folder: Path, workspace: Path) -> None:
    from_other_set(folder, "weights/tokenizer.model")


def repeated_block(folder: Path, workspace: Path) -> None:
    """The second block of the ViT holds the numbers of the first."""

    def change(state: State) -> None:
        for name in [name for name in state if name.startswith("blocks.0.")]:
            state[name.replace("blocks.0.", "blocks.1.")] = state[name].clone()

    change_tensors(folder / EVA, change)


def untrained_ln_vision(folder: Path, workspace: Path) -> None:
    """BLIP-2's file with an ln_vision of ones and zeros."""

    def change(state: State) -> None:
        state["ln_vision.weight"].fill_(1.0)
        state["ln_vision.bias"].zero_()

    change_tensors(folder / BLIP2, change)


def lost_tensor(folder: Path, workspace: Path) -> None:
    """A shard without one of the tensors that the index names."""
    change_tensors(folder / SHARD, lambda state: state.pop("model.layers.2.self_attn.v_proj.weight"))


def not_a_number(folder: Path, workspace: Path) -> None:
    change_tensors(folder / SHARD, lambda state: state["lm_head.weight"][3].fill_(float("nan")))


def truncated(folder: Path, workspace: Path) -> None:
    """The Q-Former's file ends early."""
    replace(folder / BLIP2, lambda draft: draft.write_bytes((folder / BLIP2).read_bytes()[:-100_000]))


def web_page(folder: Path, workspace: Path) -> None:
    """What a download without following the link leaves."""
    replace(folder / STAGE, lambda draft: draft.write_text("<!DOCTYPE html><html>Too many users</html>"))


def other_vocabulary(folder: Path, workspace: Path) -> None:
    """config.json of Vicuna v1.1, whose vocabulary is a row shorter."""
    config = folder / "weights" / "config.json"
    change_json(config, vocab_size=json.loads(config.read_text(encoding="utf-8"))["vocab_size"] - 1)


def other_epsilon(folder: Path, workspace: Path) -> None:
    """config.json with the epsilon of Llama-2."""
    change_json(folder / "weights" / "config.json", rms_norm_eps=1e-5)


def other_rotary_base(folder: Path, workspace: Path) -> None:
    change_json(folder / "weights" / "config.json", rope_theta=500000.0)


def generation_penalty(folder: Path, workspace: Path) -> None:
    """A generation_config.json that asks for what nobody asked for."""
    change_json(folder / "weights" / "generation_config.json", repetition_penalty=1.2)


def other_end_token(folder: Path, workspace: Path) -> None:
    """A generation_config.json of a tokenizer whose end token is another."""
    change_json(folder / "weights" / "generation_config.json", eos_token_id=3)


def stale_encoder(folder: Path, workspace: Path) -> None:
    """om/eva_vit_g.onnx, exported from another ViT than othfiles/eva_vit_g.pth, as after a change of the weights."""
    from verification.synthetic import cached_tiny

    _export(workspace, folder / "om", "eva_vit_g", cached_tiny(OTHER_SEED) / EVA, cached_tiny(OTHER_SEED) / BLIP2)


def exported_encoder(folder: Path, workspace: Path) -> None:
    """No damage: om/eva_vit_g.onnx of these weights."""
    _export(workspace, folder / "om", "eva_vit_g", folder / EVA, folder / BLIP2)


def llama2_encoder(folder: Path, workspace: Path) -> None:
    """om/eva_vit_g_llama2.onnx, from the right ViT, with the ln_vision of ones and zeros that Llama-2's stage has."""
    _export(workspace, folder / "om", "eva_vit_g_llama2", folder / EVA, None)


def _export(workspace: Path, target: Path, name: str, vit: Path, ln_vision: Path | None) -> None:
    """What the workspace's onnx_model_export.py makes of these files: TARGET/NAME.onnx."""
    command = [sys.executable, "onnx_model_export.py", "--onnx-model-dir", str(target), "--name", name]
    command += ["--vit-weights", str(vit), "--ln-vision", str(ln_vision or "none")]
    command += ["--image-path", "examples_v2/office.jpg"]
    done = subprocess.run(command, cwd=workspace, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"onnx_model_export.py exited with {done.returncode}: {done.stderr.strip()[-500:]}")


KINDS: dict[str, Callable[[Path, Path], None]] = {
    function.__name__: function
    for function in (
        transposed,
        zeroed,
        rounded,
        other_shard,
        other_stage,
        other_tokenizer,
        repeated_block,
        untrained_ln_vision,
        lost_tensor,
        not_a_number,
        truncated,
        web_page,
        other_vocabulary,
        other_epsilon,
        other_rotary_base,
        generation_penalty,
        other_end_token,
        stale_encoder,
        exported_encoder,
        llama2_encoder,
    )
}
