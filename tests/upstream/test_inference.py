"""The patched model answers, alone and in batches, with neither of the packages that training needs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.upstream

PIXELS = json.loads((Path(__file__).parent / "pixels.json").read_text(encoding="utf-8"))


def test_run_predict_answers_without_the_training_packages(snippet, tiny):
    weights = {
        "llama_model": tiny / "weights",
        "ckpt": tiny / "pretrain" / "prerained_minigpt4_7b.pth",
        "encoder": tiny / "othfiles" / "eva_vit_g.pth",
        "q_former_model": tiny / "othfiles" / "blip2_pretrained_flant5xxl.pth",
        "bert": tiny / "othfiles" / "bert-base-uncased",
        "low_resource": "False",
    }
    options = [f"model.{key}={value}" for key, value in weights.items()]
    argv = ["run_predict.py", "--cfg-path", "eval_configs/minigpt4_eval.yaml", "--device", "cpu", "--greedy"]
    argv += ["--image-path", "examples_v2/office.jpg", "--options", *options]
    answer = snippet.check(f"import runpy; sys.argv = {argv!r}; runpy.run_path('run_predict.py', run_name='__main__')")
    assert answer.strip()


def test_preprocessing_gives_torchvisions_bits(snippet):
    """pixels.json holds what the real torchvision made of the pictures (record_pixels.py)."""
    out = snippet.check(
        "import json\n"
        "from pathlib import Path\n"
        "from PIL import Image\n"
        "from record_pixels import digest\n"
        "from minigpt4.processors import Blip2ImageEvalProcessor, Blip2ImageTrainProcessor\n"
        "for name in sorted(p.name for p in Path('examples_v2').iterdir() if p.suffix in ('.jpg', '.png')):\n"
        "    image = Image.open('examples_v2/' + name).convert('RGB')\n"
        "    assert digest(Blip2ImageTrainProcessor()(image)) == digest(Blip2ImageEvalProcessor()(image))\n"
        "    print(json.dumps([name, digest(Blip2ImageEvalProcessor()(image))]))"
    )
    assert dict(json.loads(line) for line in out.splitlines()) == PIXELS["sha256"]


def test_several_pictures_in_one_batch_answer_like_one_by_one(snippet, tiny):
    out = snippet.check(
        f"import build_model, torch\n"
        f"model = build_model.model({str(tiny)!r})\n"
        f"torch.manual_seed(0)\n"
        f"images = torch.randn(3, 3, 224, 224)\n"
        f"texts = ['<Img><ImageHere></Img> ' + 'what is it? ' * n for n in (1, 4, 2)]\n"
        f"together = model.generate(images, texts, max_new_tokens=8)\n"
        f"alone = [model.generate(images[i:i+1], texts[i:i+1], max_new_tokens=8)[0] for i in range(3)]\n"
        f"print(together == alone, len(set(together)))"
    )
    assert out.splitlines()[-1] == "True 3"


def test_loss_is_computed_for_evaluation(snippet, tiny):
    """multi_select and the evaluation scripts call forward with labels; reduction none gives one value a sample."""
    out = snippet.check(
        f"import build_model, torch\n"
        f"model = build_model.model({str(tiny)!r})\n"
        f"prompts = ['<Img><ImageHere></Img> a'] * 2\n"
        f"ranks = model.multi_select(torch.zeros(2, 3, 224, 224), prompts, [['yes'] * 2, ['no'] * 2])\n"
        f"print(sorted(ranks[0]), len(ranks))"
    )
    assert out.splitlines()[-1] == "[0, 1] 2"


def test_a_pth_encoder_takes_on_the_image_size_of_the_yaml(snippet, tiny):
    out = snippet.check(
        f"import build_model, torch\n"
        f"model = build_model.model({str(tiny)!r}, image_size=112)\n"
        f"print(tuple(model.visual_encoder(torch.zeros(1, 3, 112, 112)).shape))\n"
        f"print(tuple(model.encode_img(torch.zeros(1, 3, 112, 112))[0].shape)[:2])"
    )
    assert out.splitlines()[-2:] == ["(1, 65, 1408)", "(1, 32)"]


def test_llama2_answers_with_its_own_encoder(snippet, tiny):
    out = snippet.check(
        f"import build_model, torch\n"
        f"model = build_model.model({str(tiny)!r}, family='llama2')\n"
        f"embeds, mask = model.encode_img(torch.zeros(1, 3, 224, 224))\n"
        f"print(tuple(embeds.shape)[:2], model.has_qformer)\n"
        f"print(len(model.generate(torch.zeros(1, 3, 224, 224), ['[INST] <Img><ImageHere></Img> a [/INST]'])))"
    )
    assert out.splitlines()[-2:] == ["(1, 64) False", "1"]
