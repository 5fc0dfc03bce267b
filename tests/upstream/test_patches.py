"""Each patch has the test that its Tested-By trailer names; `make ablation` shows that it fails without the patch."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.upstream


def test_lora_is_refused_with_one_sentence(snippet, tiny):
    error = snippet.fail(
        f"from minigpt4.models.base_model import BaseModel\n"
        f"BaseModel.init_llm(BaseModel(), {str(tiny / 'weights')!r}, low_res_device='cpu', lora_r=8)"
    )
    assert "LoRA is switched off by the Ascend overlay: it needs peft" in error.splitlines()[-1]


def test_data_utils_needs_no_decord(snippet):
    # The training packages stand in as empty modules: only the import of decord is in question.
    snippet.check(
        "from unittest.mock import MagicMock\n"
        "for name in 'webdataset pandas torchvision iopath timm'.split(): sys.modules[name] = MagicMock()\n"
        "sys.modules['webdataset'].DataPipeline = object\n"
        "import minigpt4.datasets.data_utils as data_utils\n"
        "assert data_utils.apply_to_sample(lambda x: x, {}) == {}",
        blocked=["decord"],
    )


def test_importing_the_package_imports_no_model(snippet):
    loaded = snippet.check(
        "import minigpt4, minigpt4.models\n"
        "heavy = ('minigpt4.models.', 'minigpt4.datasets', 'minigpt4.tasks')\n"
        "print(*[name for name in sys.modules if name.startswith(heavy)])\n"
        "print('transformers' in sys.modules)\n"
        "from minigpt4.models import *\n"
        "print(MiniGPT4.__name__, MiniGPTv2.__name__)",
        fresh=True,
    )
    assert loaded.splitlines() == ["", "False", "MiniGPT4 MiniGPTv2"]


def test_base_model_imports_without_training_packages(snippet):
    snippet.check(
        "from minigpt4.models.base_model import BaseModel, get_abs_path\n"
        "assert os.path.isfile(get_abs_path('configs/models/minigpt4_vicuna0.yaml'))"
    )


def test_processors_import_without_torchvision_and_cv2(snippet):
    out = snippet.check(
        "from minigpt4.processors import Blip2ImageEvalProcessor\n"
        "from PIL import Image\n"
        "print(tuple(Blip2ImageEvalProcessor(224)(Image.new('RGB', (50, 30))).shape))"
    )
    assert out.strip() == "(3, 224, 224)"


def test_config_needs_no_dataset_builder(snippet, tiny):
    out = snippet.check(
        f"import build_model\n"
        f"config = build_model.configuration({str(tiny)!r})\n"
        f"print(config.datasets_cfg.cc_sbu_align.vis_processor.train.name, config.model_cfg.low_resource)"
    )
    assert out.strip() == "blip2_image_eval False"


def test_language_model_is_the_overlays(snippet):
    out = snippet.check("import minigpt4.models.base_model as b; print(b.LlamaForCausalLM.__module__)")
    assert out.strip() == "minigpt4.models.modeling_vicuna_ascend"


def test_model_answers_on_cpu(snippet, tiny):
    out = snippet.check(
        f"import build_model, torch\n"
        f"model = build_model.model({str(tiny)!r})\n"
        f"print(model.llama_model.dtype)\n"
        f"answers = model.generate(torch.zeros(1, 3, 224, 224), ['<Img><ImageHere></Img> What?'], max_new_tokens=4)\n"
        f"print(len(answers), type(answers[0]).__name__)\n"
        f"print(type(model.maybe_autocast()).__name__)\n"
        # Autocast must follow the device of the model, whatever it is: any accelerator but CUDA shows that.
        f"model.llama_model.to(torch.bfloat16)\n"
        f"type(model).device = property(lambda self: torch.device('xpu'))\n"
        f"print(model.maybe_autocast().device, model.maybe_autocast().fast_dtype)"
    )
    assert out.splitlines()[-4:] == ["torch.float32", "1 str", "nullcontext", "xpu torch.bfloat16"]


def test_pictures_go_through_the_image_encoder(snippet, tiny):
    out = snippet.check(
        f"import build_model, torch\n"
        f"model = build_model.model({str(tiny)!r})\n"
        f"seen = []\n"
        f"encoder = model.visual_encoder\n"
        f"model.visual_encoder = lambda image: seen.append(image.shape) or encoder(image)\n"
        f"embeds, mask = model.encode_img(torch.zeros(2, 3, 224, 224))\n"
        f"print(seen, tuple(embeds.shape)[:2], mask.sum().item(), encoder.num_features)\n"
        f"print([key for key in model.state_dict() if key.startswith(('visual_encoder', 'ln_vision'))])"
    )
    assert out.splitlines()[-2:] == ["[torch.Size([2, 3, 224, 224])] (2, 32) 64 1408", "[]"]


def test_qformer_and_projection_run_in_the_language_models_dtype(snippet, tiny):
    """The numbers of upstream's way, autocast over float32 matrices, without converting one at every call."""
    out = snippet.check(
        f"import build_model, torch\n"
        f"from minigpt4.models.device import choose_dtype\n"
        f"from torch.utils._python_dispatch import TorchDispatchMode\n"
        f"choose_dtype(torch.device('cpu'), 'bfloat16')\n"
        f"model = build_model.model({str(tiny)!r})\n"
        f"parts = dict(Qformer=model.Qformer, proj=model.llama_proj)\n"
        f"kinds = {{(type(layer).__name__, p.dtype) for part in parts.values() for layer in part.modules()\n"
        f"         for p in layer.parameters(recurse=False)}}\n"
        f"print(sorted(map(str, kinds)), model.query_tokens.dtype)\n"
        f"weights = {{p.data_ptr() for part in parts.values() for p in part.parameters() if p.ndim == 2}}\n"
        f"class Watch(TorchDispatchMode):\n"
        f"    converted = 0\n"
        f"    def __torch_dispatch__(self, function, types, args=(), kwargs=None):\n"
        f"        if function is torch.ops.aten._to_copy.default:\n"
        f"            self.converted += args[0].data_ptr() in weights\n"
        f"        return function(*args, **(kwargs or {{}}))\n"
        f"def encode():\n"
        f"    with torch.no_grad(), Watch() as watch:\n"
        f"        return model.encode_img(images)[0], watch.converted\n"
        f"images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))\n"
        f"ours, converted = encode()\n"
        f"print(ours.dtype, converted)\n"
        f"[part.float() for part in parts.values()]\n"
        f"weights = {{p.data_ptr() for part in parts.values() for p in part.parameters() if p.ndim == 2}}\n"
        f"upstreams, converted = encode()\n"
        f"print(torch.equal(ours, upstreams), converted > 0)\n"
        f"model.llama_model.float()\n"
        f"exact, _ = encode()\n"
        f"print(exact.dtype, bool((ours - exact).norm() < 2e-2 * exact.norm()))"
    )
    kinds, first, second, third = out.splitlines()[-4:]
    assert kinds == ("[\"('LayerNorm', torch.float32)\", \"('Linear', torch.bfloat16)\"] torch.float32")
    assert (first, second, third) == ("torch.bfloat16 0", "True True", "torch.float32 True")


def test_yaml_names_the_qformer_and_bert_files(snippet, tiny):
    # "bert" points at a folder that is not called bert-base-uncased: upstream finds that name only.
    elsewhere = tiny.parent / "my-bert"
    if not elsewhere.exists():
        elsewhere.symlink_to(tiny / "othfiles" / "bert-base-uncased")
    out = snippet.check(
        f"import build_model, yaml\n"
        f"keys = yaml.safe_load(open('minigpt4/configs/models/minigpt4_vicuna0.yaml'))['model']\n"
        f"assert {{'q_former_model', 'bert'}} <= set(keys)\n"
        f"model = build_model.model({str(tiny)!r}, bert={str(elsewhere)!r})\n"
        f"print(model.Qformer.config.hidden_size == model.llama_proj.in_features)"
    )
    assert out.splitlines()[-1] == "True"


def test_qformer_imports_only_through_hf_compat(snippet):
    out = snippet.check(
        "import minigpt4.models.Qformer as q, minigpt4.models.hf_compat as compat\n"
        "print(q.PreTrainedModel is compat.PreTrainedModel)"
    )
    assert out.strip() == "True"


@pytest.mark.parametrize(
    ("key", "lost", "named"),
    [("q_former_model", "query_tokens", "query_tokens"), ("ckpt", "llama_proj.bias", "llama_proj.bias")],
)
def test_incomplete_checkpoints_are_refused(snippet, tiny, tmp_path, key, lost, named):
    import torch

    original = {
        "q_former_model": tiny / "othfiles" / "blip2_pretrained_flant5xxl.pth",
        "ckpt": tiny / "pretrain" / "prerained_minigpt4_7b.pth",
    }[key]
    content = torch.load(original, weights_only=True)
    del content["model"][lost]
    torch.save(content, tmp_path / "lacking.pth")
    error = snippet.fail(
        f"import build_model\nbuild_model.model({str(tiny)!r}, {key}={str(tmp_path / 'lacking.pth')!r})"
    )
    last = error.splitlines()[-1]
    assert "IncompleteCheckpoint" in last
    assert named in last
    assert "lacking.pth" in last


def test_minigpt_v2_is_refused_with_one_sentence(snippet):
    error = snippet.fail("from minigpt4.models import MiniGPTv2\nMiniGPTv2(llama_model='/nowhere')")
    assert "minigpt_v2 is switched off by the Ascend overlay" in error.splitlines()[-1]


@pytest.mark.parametrize("code", ["import runpy; runpy.run_path('train.py')", "import minigpt4.runners"])
def test_training_is_refused_with_one_sentence(snippet, code):
    error = snippet.fail(code)
    assert "training is switched off by the Ascend overlay" in error.splitlines()[-1]


def test_llama2_prompt_is_split_as_in_training(snippet, tiny):
    """The oracle asks sentencepiece itself, a part at a time, as transformers 4.30 did."""
    from verification.oracle import tokenize

    text = "Answer. <s>[INST] <Img>"
    folder = tiny / "llama2"
    out = snippet.check(
        f"from minigpt4.models.base_model import BaseModel\n"
        f"model, tokenizer = BaseModel.init_llm(BaseModel(), {str(folder)!r}, low_res_device='cpu')\n"
        f"print(tokenizer({text!r}, add_special_tokens=False).input_ids)"
    )
    assert out.splitlines()[-1] == str(tokenize(folder / "tokenizer.model", text))


def test_every_patch_names_a_test_that_exists():
    project = Path(__file__).parents[2]
    here = Path(__file__).read_text(encoding="utf-8")
    for patch in sorted((project / "patches").glob("*.patch")):
        trailer = next(x for x in patch.read_text(encoding="utf-8").splitlines() if x.startswith("Tested-By: "))
        path, test = trailer[len("Tested-By: ") :].split("::")
        assert path == "tests/upstream/test_patches.py"
        assert f"def {test}(" in here, patch.name
