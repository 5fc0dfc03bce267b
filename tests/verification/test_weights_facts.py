"""configs/weights.yaml as it is."""

from __future__ import annotations

from pathlib import Path

import yaml
from weights_project import ROOT, shapes_of

from verification.weightfiles import space
from verification.weightfiles.facts import read_facts


def test_the_real_configuration_is_whole() -> None:
    facts = read_facts(ROOT / "configs" / "weights.yaml")
    assert sum(len(entry.tensors) for entry in facts.values()) > 700
    for key, entry in facts.items():
        assert entry.path or key == "encoder"
        for url in entry.file.urls:
            assert url.startswith("https://")
            assert entry.file.sha256, "a mirror counts only with a published sum"
        assert entry.folder or entry.file.bytes or key == "encoder"
    assert facts["vit_weights"].tensors["blocks.38.attn.qkv.weight"] == (4224, 1408)


def test_memory_of_the_real_model() -> None:
    """Vicuna 7B v0 has 6,738,423,808 parameters (32,001 words): 13.48 GB in 16 bits, as its two shards."""
    config = read_facts(ROOT / "configs" / "weights.yaml")["llama_model"].config
    assert space.parameters(config)[0] == 6_738_423_808
    assert "31.3 GB in float32, 15.7 GB in float16, 9.2 GB in int8" in space.describe_memory(config)
    assert "does not say" in space.describe_memory({})


def test_shapes_of_the_synthetic_set_fit_the_pattern(tiny: Path) -> None:
    """The names in weights.yaml are those of the real formats."""
    content = yaml.safe_load((ROOT / "configs" / "weights.yaml").read_text())
    for key in ("vit_weights", "q_former_model", "ckpt", "llama2_ckpt"):
        inside = shapes_of(tiny / content[key]["path"])
        assert {name.replace("{}", "0") for name in content[key]["tensors"]} <= set(inside)
