"""The reference read layer by layer: the same numbers as the whole one, in memory that does not grow with the depth."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from overlaykit.errors import FixTheCommand
from verification import weights
from verification.gate import record as recording
from verification.oracle_decoder import Decoder
from verification.shards import Shards

ROOT = Path(__file__).parents[2]
QUESTION = "Describe this image in detail."
KINDS = [("weights", "pretrain_vicuna0"), ("llama2", "pretrain_llama2")]


def as_safetensors(source: Path, folder: Path) -> Path:
    """The same folder in the other format: two shards, cut elsewhere."""
    from safetensors.torch import save_file

    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("pytorch_model*"))
    tensors = {name: tensor.contiguous() for name, tensor in weights.llama_tensors(source)}
    names = sorted(tensors)
    index = {}
    for number, part in enumerate((names[:10], names[10:]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file, {"format": "pt"})
        index.update(dict.fromkeys(part, file))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


@pytest.fixture(params=["bin", "safetensors"])
def make(request: pytest.FixtureRequest, tiny: Path, tmp_path: Path) -> Any:
    def folder(name: str) -> Path:
        return tiny / name if request.param == "bin" else as_safetensors(tiny / name, tmp_path / name)

    return folder


def inputs(decoder: Decoder, pictures: int = 3) -> torch.Tensor:
    width = decoder.model.config.hidden_size
    drawn = torch.randn(pictures, 1, 32, width, generator=torch.Generator().manual_seed(0)) * 0.1
    return torch.cat([decoder.prompt(QUESTION, picture) for picture in drawn])


@pytest.mark.parametrize(("name", "model_type"), KINDS)
def test_streamed_is_what_transformers_loads(make: Any, name: str, model_type: str) -> None:
    from transformers import LlamaForCausalLM

    folder = make(name)
    streamed, whole = Decoder(folder, model_type, streamed=True), Decoder(folder, model_type)
    prompts = inputs(streamed)
    library = LlamaForCausalLM.from_pretrained(str(folder), torch_dtype=torch.float32).eval()
    with torch.no_grad():
        right = library(inputs_embeds=prompts).logits
    for decoder in (streamed, whole):
        found = decoder.logits(prompts)
        assert float((found - right).norm() / right.norm()) < 1e-6
    assert torch.equal(whole.logits(prompts, keep=4), whole.logits(prompts)[:, -4:])
    assert streamed.greedy(prompts, 12) == whole.greedy(prompts, 12)
    assert all(parameter.device.type == "meta" for parameter in streamed.model.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_streamed_in_half_precision(tiny: Path, dtype: torch.dtype) -> None:
    found = [Decoder(tiny / "weights", "pretrain_vicuna0", dtype, streamed=s) for s in (True, False)]
    prompts = inputs(found[0])
    assert found[0].model.dtype == dtype
    assert torch.equal(*(decoder.logits(prompts) for decoder in found))


def test_a_batch_decodes_what_each_prompt_decodes_alone(tiny: Path) -> None:
    decoder = Decoder(tiny / "weights", "pretrain_vicuna0")
    prompts = inputs(decoder, 4)
    together = decoder.greedy(prompts, 16)
    alone = [decoder.greedy(prompts[p : p + 1], 16)[0] for p in range(len(prompts))]
    assert [text.ids for text in together] == [text.ids for text in alone]
    for batch, single in zip(together, alone):
        assert batch.margins == pytest.approx(single.margins, abs=1e-3)


def test_a_golden_recorded_by_streaming_is_the_same(tiny: Path, pictures: list[Path], golden: Any, monkeypatch) -> None:
    monkeypatch.setattr(recording, "lacking_memory", lambda _: True)
    streamed = recording.record(weights.from_folder(tiny), pictures, [QUESTION], 12, ["float16", "bfloat16"])
    assert streamed.about["streamed"]
    assert not golden.about["streamed"]
    for name, array in golden.arrays.items():
        if array.dtype == "int32":
            assert (streamed.arrays[name] == array).all(), name
        else:
            assert streamed.arrays[name] == pytest.approx(array, rel=1e-5, abs=1e-5), name


def test_a_missing_tensor_is_told_before_the_first_pass(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    shutil.copytree(tiny / "weights", folder)
    file = sorted(folder.glob("*.bin"))[1]
    state = torch.load(file, weights_only=True)
    del state["model.layers.3.mlp.up_proj.weight"]
    torch.save(state, file)
    for streamed in (True, False):  # transformers itself would make up a random one
        with pytest.raises(FixTheCommand, match=r"lacks the tensor model\.layers\.3\.mlp\.up_proj\.weight\."):
            Decoder(folder, "pretrain_vicuna0", streamed=streamed)
    file.unlink()
    with pytest.raises(FixTheCommand, match=r"(?s)and \d+ more.*a shard may be missing"):
        Decoder(folder, "pretrain_vicuna0", streamed=True)


def test_a_tensor_of_another_model_is_told(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    shutil.copytree(tiny / "weights", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 700}))
    with pytest.raises(FixTheCommand, match=r"(?s)of the shape \(688, 256\).*By config.json it is \(700, 256\)"):
        Decoder(folder, "pretrain_vicuna0", streamed=True)


@pytest.mark.parametrize("keep", [0, 1000, 0.5, 0.99])
def test_a_shard_that_is_cut_off_is_told(make: Any, tmp_path: Path, keep: float) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(make("weights"), folder)
    file = sorted([*folder.glob("*.bin"), *folder.glob("*.safetensors")])[0]
    content = file.read_bytes()
    file.write_bytes(content[: int(keep * len(content)) if keep < 1 else int(keep)])
    with pytest.raises(FixTheCommand, match=r"(?s)cannot be read piece by piece.*verify\.py weights"):
        Shards(folder)


# Peak anonymous memory of a process that runs three tokens through a streamed model of the given depth.
CHILD = """
import sys, threading, time, re
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
from pathlib import Path
from verification.oracle_decoder import Decoder
def now():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1])
decoder = Decoder(Path(sys.argv[2]), "pretrain_vicuna0", streamed=True)
start, seen, done = now(), [], threading.Event()
def look():
    while not done.wait(0.002):
        seen.append(now())
thread = threading.Thread(target=look); thread.start()
decoder.greedy(decoder.embed([1, 5, 6, 7]), 3)
done.set(); thread.join()
print((max(seen) - start) / 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the memory of a process is read from /proc")
@pytest.mark.slow
def test_memory_does_not_grow_with_the_depth(tiny: Path, tmp_path: Path) -> None:
    width, inner = 512, 2048
    layer = {f"self_attn.{part}_proj.weight": torch.randn(width, width) * 0.02 for part in "qkvo"}
    layer.update({f"mlp.{part}_proj.weight": torch.randn(inner, width) * 0.02 for part in ("gate", "up")})
    layer["mlp.down_proj.weight"] = torch.randn(width, inner) * 0.02
    layer.update({f"{norm}_layernorm.weight": torch.ones(width) for norm in ("input", "post_attention")})
    megabytes = 4 * sum(tensor.numel() for tensor in layer.values()) / 2**20
    found = {}
    for depth in (2, 24):
        folder = tmp_path / str(depth)
        folder.mkdir()
        shutil.copy(tiny / "weights" / "tokenizer.model", folder)
        config = json.loads((tiny / "weights" / "config.json").read_text())
        sizes = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": depth}
        (folder / "config.json").write_text(json.dumps({**config, **sizes}))
        ends = {
            name: torch.randn(config["vocab_size"], width) for name in ("model.embed_tokens.weight", "lm_head.weight")
        }
        state = {f"model.layers.{i}.{name}": tensor.clone() for i in range(depth) for name, tensor in layer.items()}
        torch.save({**state, **ends, "model.norm.weight": torch.ones(width)}, folder / "pytorch_model.bin")
        command = [sys.executable, "-c", CHILD, str(ROOT), str(folder)]
        found[depth] = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert found[24] < found[2] + 2 * megabytes, found  # 22 layers more are 22 times as much


# Says for each part of the reference that is built how many of the earlier ones are still in memory.
ONE_AT_A_TIME = """
import gc, sys, weakref
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from verification import oracle, weights
from verification.gate import record
gc.disable()
earlier = []
def counted(part):
    make = part.__init__
    def init(self, *args, **options):
        print(sum(reference() is not None for reference in earlier))
        make(self, *args, **options)
        earlier.append(weakref.ref(self.model))
    part.__init__ = init
for part in (oracle.Encoder, oracle.QFormer, record.Decoder):
    counted(part)
record.record(weights.from_folder(Path(sys.argv[2])), [Path(sys.argv[3])], ["What is this?"], 1, ["bfloat16"])
"""


@pytest.mark.slow
def test_only_one_model_is_in_memory_at_a_time(tiny: Path, pictures: list[Path]) -> None:
    """transformers keeps the first model of a process in a cycle: of a real one 27 GB beside the next."""
    command = [sys.executable, "-c", ONE_AT_A_TIME, str(ROOT), str(tiny), str(pictures[0])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["0"] * 6, done.stderr


def test_weights_that_leave_no_room_to_work_in_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from verification import memory

    (tmp_path / "pytorch_model.bin").write_bytes(b"0" * 1000)  # 2000 bytes in float32
    for free, lacking in ((2050, True), (2300, False), (None, False)):
        monkeypatch.setattr(memory, "available_memory", lambda free=free: free)
        assert memory.lacking_memory(tmp_path) is lacking


def test_many_pictures_are_encoded_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from verification.gate import take
    from verification.gate.golden import Recording
    from verification.port import Encoded

    sizes = []

    def encode(pixels: torch.Tensor) -> Encoded:
        sizes.append(len(pixels))
        return Encoded(*(torch.ones(len(pixels), 2, 4) for _ in range(3)))

    monkeypatch.setattr(take.oracle, "process", lambda _: torch.zeros(3, 2, 2))
    port = SimpleNamespace(device=torch.device("cpu"), encode=encode)
    taker = take.Taker(port, Recording({"qformer": True}, {}), [Path("x")] * 20)
    taker._encode()
    assert sizes == [1, 8, 8, 3, 1, 1]  # the last two: is the first picture still the same after another one?
    assert len(taker.encoded) == 20
