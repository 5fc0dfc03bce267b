"""What the overlay's commands share: how they find what they need, come to a device, and end.

run_predict.py, run_performance.py and onnx_model_export.py stand beside this file, in overlay/ and in a workspace.
Nothing here imports torch before it is needed: --help must not wait for it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

WORKSPACE = Path(__file__).resolve().parent

# Where torch_npu is installed and CANN is not sourced, `import torch` itself would fail; device.py imports torch_npu.
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")


class Refused(Exception):
    """A message for the user, and the exit code that goes with it."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def ended(name: str, command: Callable[[], int]) -> int:
    """Run `command`; its exit code, or the one that its docstring promises for what stopped it."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that knows ASCII only
    try:
        return command()
    except Refused as refusal:
        print(f"{name}: {refusal}", file=sys.stderr)
        return refusal.code
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # what is still buffered would fail once more at the exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception:
        traceback.print_exc()
        return 70


def device_spec(device: str | None, number: int | None, option: str) -> str:
    """Join --device and `option`, which gives the NPU's number, into one spec for resolve_device."""
    if number is None:
        return device or "auto"
    if number < 0:
        raise Refused(f"{option} {number} is not the number of an NPU.", 2)
    if device not in (None, "auto", "npu", f"npu:{number}"):
        raise Refused(f"--device {device} and {option} {number} name two devices; give one of them.", 2)
    return f"npu:{number}"


def pick_device(spec: str, dtype: str | None = None, graph: str = "auto") -> Any:
    """The torch.device of `spec`, made the current one so that nothing is allocated on another card.

    dtype: --dtype; None leaves compute_dtype's own, which is float32 on every CPU. graph: --npu-graph.
    """
    from minigpt4.models.device import choose_dtype, hide_torch_npu, resolve_device, select_device

    try:
        device = resolve_device(spec)
    except ValueError as error:
        raise Refused(f"--device: {error}", 2) from error
    if device.type != "npu":
        hide_torch_npu()
    select_device(device)
    if dtype is not None:
        try:
            choose_dtype(device, dtype)
        except ValueError as error:
            raise Refused(f"--dtype: {error}", 2) from error
    if graph == "on":
        from minigpt4.models.llama_graph import trouble

        if reason := trouble(device):
            raise Refused(f"--npu-graph on: {reason}.", 2)
    return device


@contextlib.contextmanager
def load_errors() -> Iterator[None]:
    """Say in one message what stopped the model from being loaded; what nobody foresaw passes through."""
    try:
        yield
    except BrokenPipeError:
        raise
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "minigpt4":
            raise Refused(f"{error}: run the copy in a workspace that apply.py --workspace made.", 5) from error
        raise Refused(
            f"{error}: install what inference needs: pip install '.[cpu]' or '.[npu]' in this project's folder.", 5
        ) from error
    except (OSError, ValueError, MemoryError) as error:
        raise Refused(str(error), getattr(error, "exit_code", 5)) from error
    except RuntimeError as error:
        # DeviceUnavailable, WeightsError, IncompleteCheckpoint, SwitchedOff: classes that carry a sentence for the user
        if type(error).__module__.startswith("minigpt4."):
            raise Refused(str(error), getattr(error, "exit_code", 5)) from error
        raise


def find_picture(path: str) -> Path:
    """The file, taken from the current folder or else from the workspace, as run_predict.py does."""
    for candidate in (Path(path), WORKSPACE / path):
        if candidate.is_file():
            return candidate
        if candidate.is_dir():
            raise Refused(f"--image-path: {path} is a folder; name one picture in it.", 2)
    raise Refused(
        f"--image-path: the picture {path} does not exist, neither in {Path.cwd()} nor in {WORKSPACE}; any picture "
        "will do, such as examples_v2/office.jpg.",
        2,
    )


def read_model_config(cfg_path: Path) -> dict:
    """The `model` section as upstream's Config builds it: the model type's own YAML, the evaluation YAML over it.

    The type's file is named as in MiniGPT4.PRETRAINED_MODEL_CONFIG_DICT (minigpt4.py:19-22): pretrain_vicuna0 is
    minigpt4/configs/models/minigpt4_vicuna0.yaml. Reading it by name spares the import of the whole model.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    found = cfg_path if cfg_path.is_file() else WORKSPACE / cfg_path
    if not found.is_file():
        raise Refused(f"the configuration {cfg_path} does not exist, neither here nor in {WORKSPACE}.", 2)
    try:
        evaluation = OmegaConf.select(OmegaConf.load(found), "model") or OmegaConf.create()
        kind = str(evaluation.get("model_type", "")).replace("pretrain_", "", 1)
        base = WORKSPACE / "minigpt4" / "configs" / "models" / f"{evaluation.get('arch')}_{kind}.yaml"
        if not base.is_file():
            raise Refused(f"{found} names a model whose {base} does not exist; pass --vit-weights and --ln-vision.", 2)
        return OmegaConf.to_container(OmegaConf.merge(OmegaConf.load(base).model, evaluation), resolve=True)
    except (YAMLError, OmegaConfBaseException, OSError, ValueError, AttributeError) as error:
        raise Refused(f"the configuration {found} cannot be read: {error}", 2) from error


@contextlib.contextmanager
def step(number: str, text: str) -> Iterator[None]:
    """Say what is done now, and in the end how long it took. number: "2/5"."""
    print(f"[{number}] {text} ...", end="", flush=True)
    start = time.perf_counter()
    try:
        yield
    except BaseException:
        print(flush=True)
        raise
    print(f" {time.perf_counter() - start:.1f} s", flush=True)


@contextlib.contextmanager
def bar(total: int, title: str) -> Iterator[Callable[[int], Any]]:
    """A function that takes what has been done since its last call, in bytes; a bar where a person watches."""
    tqdm = None
    if sys.stderr.isatty():
        with contextlib.suppress(ImportError):
            from tqdm import tqdm
    if tqdm is None:
        yield lambda count: None
        return
    with tqdm(total=total, desc=title, unit="B", unit_scale=True, leave=False) as shown:
        yield shown.update
