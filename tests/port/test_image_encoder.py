"""IMAGE_ENCODER_OM over its three runtimes.

What only an .om can do wrong is in test_om_runner.py, the memory of the last pictures in test_image_encoder_kept.py.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from om_files import OLDER_EXPORTER, export, save
from port.models import image_encoder
from port.models.eva_vit_model import EvaViT, load_eva_vit
from port.models.image_encoder import IMAGE_ENCODER_OM
from vit_files import write_files

TOLERANCE = 2e-5

# torch announces at every call that the exporter which ATC needs is the older one.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore:Constant folding", "ignore:Converting a tensor to a Python boolean"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """eva_vit_g.pth and blip2.pth of ViT-g's width with one used block, and the same as ONNX files."""
    folder = tmp_path_factory.mktemp("encoder")
    vit, blip2 = write_files(folder, width=1408, hidden=64, blocks=2, image_size=224)
    model = load_eva_vit(vit, blip2)
    export(model, folder / "one.onnx")
    export(model, folder / "two.onnx", batch=2)
    export(model, folder / "any.onnx", batch=None)
    for name in ("one", "two", "any"):
        save(onnx.load(folder / f"{name}.onnx"), folder / f"{name}.om")
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> EvaViT:
    return load_eva_vit(folder / "eva_vit_g.pth", folder / "blip2.pth")


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(3, 3, 224, 224, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("file", ["eva_vit_g.pth", "one.onnx", "two.onnx", "any.onnx", "one.om", "two.om"])
def test_every_runtime_gives_the_same_features(file: str, folder: Path, model, images, ais_bench) -> None:
    """Three pictures: batches of one are split, a batch of two is filled up, the others take all at once."""
    features = IMAGE_ENCODER_OM(folder / file, "cpu", ln_vision=folder / "blip2.pth")(images)
    assert features.shape == (3, 257, IMAGE_ENCODER_OM.num_features)
    assert (features.dtype, features.device) == (torch.float32, images.device)
    assert (features - model(images)).abs().max() <= TOLERANCE


def test_the_tolerance_would_show_a_lost_ln_vision(folder: Path, model, images) -> None:
    features = IMAGE_ENCODER_OM(folder / "eva_vit_g.pth", "cpu")(images)
    assert (features - model(images)).abs().max() > 100 * TOLERANCE


@pytest.mark.parametrize("file", ["eva_vit_g.pth", "any.onnx", "one.om"])
def test_any_float_type_and_memory_order(file: str, folder: Path, model, images, ais_bench) -> None:
    encoder = IMAGE_ENCODER_OM(folder / file, "cpu", ln_vision=folder / "blip2.pth")
    turned = images.transpose(2, 3)
    assert not turned.is_contiguous()
    assert (encoder(turned) - model(turned)).abs().max() <= TOLERANCE
    assert (encoder(images.double()) - model(images)).abs().max() <= TOLERANCE
    assert encoder(images[:1].bfloat16()).dtype == torch.float32
    assert not encoder(images[:1].requires_grad_()).requires_grad


@pytest.mark.parametrize(
    "wrong",
    [torch.zeros(1, 3, 448, 448), torch.zeros(3, 224, 224), torch.zeros(0, 3, 224, 224), torch.zeros(1, 1, 224, 224)],
    ids=lambda tensor: "x".join(map(str, tensor.shape)),
)
def test_pictures_that_do_not_fit(wrong: torch.Tensor, folder: Path, ais_bench) -> None:
    for file in ("eva_vit_g.pth", "any.onnx", "one.om"):
        with pytest.raises(ValueError, match=r"takes pictures of shape \(B, 3, 224, 224\) with B >= 1, got"):
            IMAGE_ENCODER_OM(folder / file, "cpu", ln_vision=folder / "blip2.pth")(wrong)


def test_a_pth_takes_on_the_size_that_is_asked_for(folder: Path) -> None:
    """As upstream, which interpolates the positions; test_image_half_upstream.py compares with it."""
    vit, blip2 = folder / "eva_vit_g.pth", folder / "blip2.pth"
    images = torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(5))
    features = IMAGE_ENCODER_OM(vit, "cpu", ln_vision=blip2, image_size=112)(images)
    assert features.shape == (2, 65, IMAGE_ENCODER_OM.num_features)
    assert (features - load_eva_vit(vit, blip2, image_size=112)(images)).abs().max() <= TOLERANCE
    with pytest.raises(ValueError, match="100 pixels is no multiple of the patch size 14"):
        IMAGE_ENCODER_OM(vit, "cpu", ln_vision=blip2, image_size=100)


@pytest.mark.parametrize("file", ["any.onnx", "one.om"])
def test_a_file_that_was_exported_for_another_size_is_refused_when_it_is_loaded(file: str, folder: Path, ais_bench):
    IMAGE_ENCODER_OM(folder / file, "cpu", ln_vision=folder / "blip2.pth", image_size=224).close()
    wrong = rf"{file} takes pictures of shape \(3, 224, 224\), and image_size is 448 .* --image-size 448"
    with pytest.raises(ValueError, match=wrong):
        IMAGE_ENCODER_OM(folder / file, "cpu", ln_vision=folder / "blip2.pth", image_size=448)


def test_pixel_values_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"normalised float pictures, got torch\.uint8"):
        IMAGE_ENCODER_OM(folder / "any.onnx", "cpu")(torch.zeros(1, 3, 224, 224, dtype=torch.uint8))


def test_a_folder_stands_for_the_one_file_in_it(folder: Path, tmp_path: Path, images, model) -> None:
    blip2 = folder / "blip2.pth"
    with pytest.raises(FileNotFoundError, match="holds 0 of eva_vit_g"):
        IMAGE_ENCODER_OM(tmp_path, "cpu", blip2)
    (tmp_path / "eva_vit_g.onnx").write_bytes((folder / "one.onnx").read_bytes())
    assert (IMAGE_ENCODER_OM(f"{tmp_path}/", "cpu", blip2)(images) - model(images)).abs().max() <= TOLERANCE
    (tmp_path / "eva_vit_g.om").touch()
    with pytest.raises(FileNotFoundError, match="holds 2 of"):
        IMAGE_ENCODER_OM(tmp_path, "cpu", blip2)


def test_a_folder_is_no_encoder_of_a_model_without_qformer(folder: Path, tmp_path: Path) -> None:
    """eva_vit_g is Vicuna's; Llama-2 takes eva_vit_g_llama2 and would answer nonsense with the other one."""
    (tmp_path / "eva_vit_g.onnx").write_bytes((folder / "one.onnx").read_bytes())
    with pytest.raises(ValueError, match=r"model without Q-Former\. Set `encoder` .* eva_vit_g_llama2\.om"):
        IMAGE_ENCODER_OM(tmp_path, "cpu", ln_vision=None)


@pytest.mark.parametrize("inside", ["blip2", "default"])
def test_an_onnx_with_the_other_ln_vision_is_refused(inside: str, folder: Path, tmp_path: Path) -> None:
    """The exporter writes which one is inside; its own tests show that it does."""
    proto = onnx.load(folder / "one.onnx")
    proto.metadata_props.add(key=image_encoder.LN_VISION_KEY, value=inside)
    onnx.save(proto, str(tmp_path / "marked.onnx"))
    right, wrong = (folder / "blip2.pth", None) if inside == "blip2" else (None, folder / "blip2.pth")
    IMAGE_ENCODER_OM(tmp_path / "marked.onnx", "cpu", ln_vision=right)
    with pytest.raises(ValueError, match=f"with ln_vision={inside}, and this model needs ln_vision=(?!{inside})"):
        IMAGE_ENCODER_OM(tmp_path / "marked.onnx", "cpu", ln_vision=wrong)


def test_missing_and_unknown_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.om does not exist\. Set `encoder`"):
        IMAGE_ENCODER_OM(tmp_path / "gone.om", "cpu")
    with pytest.raises(ValueError, match=r"neither \.om, \.onnx nor \.pth"):
        IMAGE_ENCODER_OM(tmp_path / "eva_vit_g.bin", "cpu")


def test_files_that_are_no_image_encoder(tmp_path: Path) -> None:
    class TwoInputs(torch.nn.Module):
        def forward(self, a, b):
            return a + b

    class Narrow(torch.nn.Module):
        def forward(self, a):
            return a.reshape(1, -1, 224)

    image = torch.zeros(1, 3, 224, 224)
    torch.onnx.export(TwoInputs(), (image, image), str(tmp_path / "two.onnx"), **OLDER_EXPORTER)
    with pytest.raises(ValueError, match="one float input"):
        IMAGE_ENCODER_OM(tmp_path / "two.onnx", "cpu")
    torch.onnx.export(Narrow(), (image,), str(tmp_path / "narrow.onnx"), **OLDER_EXPORTER)
    with pytest.raises(RuntimeError, match=r"answered with shape \(1, 672, 224\), expected \(1, tokens, 1408\)"):
        IMAGE_ENCODER_OM(tmp_path / "narrow.onnx", "cpu")(image)
    (tmp_path / "bad.onnx").write_bytes(b"not a graph")
    with pytest.raises(ValueError, match=r"onnxruntime cannot load .*bad\.onnx"):
        IMAGE_ENCODER_OM(tmp_path / "bad.onnx", "cpu")


def test_onnx_without_its_weight_files(folder: Path, tmp_path: Path) -> None:
    onnx.save(
        onnx.load(folder / "one.onnx"), str(tmp_path / "a.onnx"), save_as_external_data=True, location="a.weights"
    )
    IMAGE_ENCODER_OM(tmp_path / "a.onnx", "cpu")
    (tmp_path / "a.weights").unlink()
    with pytest.raises(ValueError, match="copy the whole folder, or export it again"):
        IMAGE_ENCODER_OM(tmp_path / "a.onnx", "cpu")


def test_it_is_no_module(folder: Path) -> None:
    """MiniGPT-4's own state must neither hold nor ask for the encoder's weights."""
    holder = torch.nn.Module()
    holder.image_encoder = IMAGE_ENCODER_OM(folder / "eva_vit_g.pth", "cpu")
    assert list(holder.state_dict()) == []


@pytest.mark.parametrize("file", ["eva_vit_g.pth", "any.onnx", "one.om"])
def test_closed(file: str, folder: Path, images, ais_bench) -> None:
    with IMAGE_ENCODER_OM(folder / file, "cpu", ln_vision=folder / "blip2.pth") as encoder:
        encoder(images)
    encoder.close()
    for call in (encoder, encoder.encode):
        with pytest.raises(RuntimeError, match="has been closed"):
            call(images)


@pytest.mark.parametrize("file", ["eva_vit_g.pth", "two.onnx"])
def test_closed_while_another_thread_computes(file: str, folder: Path, images, model, monkeypatch) -> None:
    """It gets its answer: the memory goes when it is done."""
    encoder = IMAGE_ENCODER_OM(folder / file, "cpu", ln_vision=folder / "blip2.pth")
    runner = encoder._runner
    real = runner.run
    monkeypatch.setattr(runner, "run", lambda x: (encoder.close(), real(x))[1])
    assert (encoder.encode(images) - model(images)).abs().max() <= TOLERANCE


# The .onnx path on CUDA


@pytest.mark.parametrize(("installed", "first"), [(True, "CUDAExecutionProvider"), (False, "CPUExecutionProvider")])
def test_onnx_takes_cuda_where_its_build_is_installed(installed, first, folder: Path, monkeypatch) -> None:
    """No GPU here: what is asserted is which providers onnxruntime is asked for."""
    asked: list = []
    real = onnxruntime.InferenceSession

    def session(path, providers):
        asked.extend(providers)
        return real(path, providers=["CPUExecutionProvider"])

    names = ["CUDAExecutionProvider"] * installed + ["CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    monkeypatch.setattr(image_encoder, "resolve_device", lambda spec: torch.device(spec))
    IMAGE_ENCODER_OM(folder / "any.onnx", "cuda:1")
    assert (asked[0] if isinstance(asked[0], str) else asked[0][0]) == first
    assert ("CUDAExecutionProvider", {"device_id": 1}) in asked or not installed


def test_only_what_pytorch_runs_on_cuda_is_compiled(folder: Path, monkeypatch, ais_bench) -> None:
    for file in ("eva_vit_g.pth", "one.onnx", "one.om"):
        with pytest.raises(ValueError, match=rf"{file} on cpu: only a \.pth on CUDA can be compiled"):
            IMAGE_ENCODER_OM(folder / file, "cpu", ln_vision=folder / "blip2.pth").compile()
    encoder = IMAGE_ENCODER_OM(folder / "eva_vit_g.pth", "cpu", ln_vision=folder / "blip2.pth")
    monkeypatch.setattr(encoder, "device", torch.device("cuda", 0))  # no GPU here: the setting alone
    assert not encoder.compiled
    encoder.compile()
    assert encoder.compiled
    encoder._runner.fast.compile_blocks = False  # as FastEvaViT does where it fails
    assert not encoder.compiled
