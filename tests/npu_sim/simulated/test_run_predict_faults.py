"""(C) Faults in a workspace change the picture's embeddings or the answer of run_predict.py, or end it. A file of its
own, so that another process runs it beside test_run_predict.py."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from answers import PICTURE, apart

pytestmark = [pytest.mark.upstream, pytest.mark.timeout(900)]

# One fault of each kind, through the whole program; test_mutations.py and test_image_half.py plant the others.
FAULTS = {
    "heads of the encoder": ("mixed.transpose(1, 2)", "mixed.roll(1, 1).transpose(1, 2)"),
    "scale": ("        scale=1.0 / math.sqrt(head_dim),\n", ""),
    "rope layout": ("npu_rotary_mul(k.contiguous(), cos, sin)", "npu_rotary_mul(k.roll(1, -1).contiguous(), cos, sin)"),
    "key position": ("slots[:1]", "slots[:1] + 1"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_the_workspace_is_seen(ask, workspace: Path, tmp_path: Path, name: str) -> None:
    old, new = FAULTS[name]
    tree = tmp_path.parent / f"{tmp_path.name}-tree"
    shutil.copytree(workspace, tree, symlinks=True, ignore=shutil.ignore_patterns(".git"))
    table = tree / "minigpt4" / "models" / ("eva_vit_model.py" if "encoder" in name else "llama_ops_npu.py")
    text = table.read_text()
    assert old in text
    table.write_text(text.replace(old, new))
    short = ("--greedy", "--max-new-tokens", "6")
    on_cpu, broken = ask("cpu", *short), ask("npu", *short, "--npu-graph", "off", tree=tree)
    assert on_cpu.code == 0, on_cpu.log
    assert len(on_cpu.ids) > 4
    if "encoder" in name:
        assert apart(broken.picture, on_cpu.picture) > 10 * PICTURE
    else:
        assert broken.code != 0 or broken.ids != on_cpu.ids
