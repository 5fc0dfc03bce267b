"""What benchmarks/decode.py sets side by side: this decoder, Hugging Face's, and the matrix products alone.

All sides of one dtype have the same weights, and each hands back a Timing of the same work: a prompt of given length,
read and continued greedily by a given number of tokens.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from typing import Any, Callable

import port_package  # noqa: F401  the overlay's model files become `port.models`
import torch
from port.models.llama_generate import Run
from port.models.llama_linear import linears
from port.models.llama_ops import ops_for
from port.perf.measure import TokenClock, prompt, read_clock, seconds_of, time_generation
from port.perf.rows import Timing
from torch import Tensor

Side = Callable[[int, int], Timing]  # (tokens of the prompt, new tokens) -> Timing


def ours(model: Any) -> Side:
    return lambda length, new: time_generation(model, prompt(model, 1, length), new)


def hugging_face(model: Any, cache: str | None = None) -> Side:
    """Hugging Face's generate, with its dynamic cache, or cache="static"."""
    model.generation_config.eos_token_id = None

    @torch.no_grad()
    def run(length: int, new: int) -> Timing:
        ids = prompt(model, 1, length)
        clock = TokenClock(model.device, every=False)
        options = {"cache_implementation": cache} if cache else {}
        result = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            stopping_criteria=[clock],
            **options,
        )
        timing = clock.stop()
        if result.shape != (1, length + new):
            raise RuntimeError(f"Hugging Face gave {tuple(result.shape)} for {length} and {new} new tokens.")
        return timing

    return run


def hugging_face_model(model: Any, like: Any = None) -> Any:
    """transformers' Llama of the shape of `model`, with its weights, or with those of `like`, another of this kind."""
    import transformers

    config = model.config
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    names += ("num_key_value_heads", "max_position_embeddings", "rms_norm_eps")
    shape = transformers.LlamaConfig(
        **{name: getattr(config, name) for name in names}, attn_implementation="sdpa", pad_token_id=0
    )
    with torch.device("meta"):
        other = transformers.LlamaForCausalLM(shape).to(model.dtype)
    other.load_state_dict((like or model).state_dict(), assign=True)  # nothing is copied that is not packed
    other.model.rotary_emb = type(other.model.rotary_emb)(config=shape, device=model.device)  # computed, not loaded
    return other.eval()


@torch.no_grad()
def steps(model: Any, batch: int, context: int, count: int) -> list[float]:
    """Seconds of each of `count` decode steps, forward alone, with `context` tokens in the cache before the first."""
    ids = prompt(model, batch, context)
    mask = torch.ones_like(ids, dtype=torch.bool)
    run = Run(model, model.model.embed_tokens(ids), mask, capacity=context + count + 1)
    tokens = run.prefill().argmax(-1)
    run.step(tokens)  # records, where steps are recorded
    taken = []
    for _ in range(count):
        start = read_clock(model.device)
        run.step(tokens)
        taken.append(read_clock(model.device) - start)
    run.check()
    return taken


@torch.no_grad()
def forward_only(model: Any, length: int, new: int) -> float:
    """Seconds of the passes of one generation and nothing else: no choice of tokens, no checks."""
    ids = prompt(model, 1, length)
    start = read_clock(model.device)
    run = Run(model, model.model.embed_tokens(ids), torch.ones_like(ids, dtype=torch.bool), capacity=length + new)
    tokens = run.prefill().argmax(-1)
    for _ in range(new - 1):
        run.step(tokens)
    return read_clock(model.device) - start


class _Listener:
    """A streamer and a stopping criterion, as a chat has them: takes tokens, compares them with a stop word."""

    def __init__(self, device: torch.device) -> None:
        self.stop = torch.tensor([2277, 29937], device=device)
        self.taken: list[Tensor] = []

    def put(self, tokens: Tensor) -> None:
        self.taken.append(tokens)

    def end(self) -> None:
        self.taken.append(torch.empty(0))

    def __call__(self, ids: Tensor, scores: Any) -> bool:
        return bool((ids[0, -2:] == self.stop).all()) if ids.shape[1] > 1 else False


@torch.no_grad()
def whole_loop(model: Any, length: int, new: int) -> float:
    """Seconds of generate as MiniGPT-4's chat calls it: sampling, penalties, stop checks, streaming."""
    ids = prompt(model, 1, length)
    listener = _Listener(model.device)
    start = read_clock(model.device)
    model.generate(
        inputs_embeds=model.model.embed_tokens(ids),
        max_new_tokens=new,
        min_length=1,
        do_sample=True,
        top_p=0.9,
        temperature=1.0,
        repetition_penalty=1.05,
        eos_token_id=None,
        stopping_criteria=[listener],
        streamer=listener,
    )
    return read_clock(model.device) - start


@torch.no_grad()
def linears_alone(model: Any) -> list[float]:
    """Seconds of every matrix product of one token, one after the other, and nothing between: the lower bound."""
    ops = ops_for(model.device)
    modules = [module for _, module in linears(model)]
    widths = [model.config.hidden_size] * len(modules)
    for at, (name, _) in enumerate(linears(model)):
        widths[at] = model.config.intermediate_size if name.endswith("down_proj") else widths[at]
    inputs = [torch.ones(1, 1, width, dtype=model.dtype, device=model.device) for width in widths]

    def every() -> None:
        for module, x in zip(modules, inputs):
            module(x, ops)

    return seconds_of(every, model.device)


@torch.no_grad()
def profile(model: Any, context: int, count: int = 8, most: int = 8) -> list[dict[str, Any]]:
    """Where the time of decode steps goes: the operations that take most of it, in percent."""
    from torch.profiler import ProfilerActivity

    ids = prompt(model, 1, context)
    mask = torch.ones_like(ids, dtype=torch.bool)
    run = Run(model, model.model.embed_tokens(ids), mask, capacity=context + count + 1)
    tokens = run.prefill().argmax(-1)
    on_device = model.device.type == "cuda"
    activities = [ProfilerActivity.CUDA] if on_device else [ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as found:
        for _ in range(count):
            run.step(tokens)
        read_clock(model.device)
    events = found.key_averages()
    name = "self_device_time_total" if on_device else "self_cpu_time_total"
    total = sum(getattr(event, name) for event in events) or 1
    ranked = sorted(events, key=lambda event: -getattr(event, name))[:most]
    return [{"operation": event.key, "percent": round(100 * getattr(event, name) / total, 1)} for event in ranked]


def compiled(model: Any, length: int, new: int, seconds: float) -> tuple[Side | None, str]:
    """Hugging Face's static cache under torch.compile, warmed up; or None and why not: no compiler, or too slow.

    Takes `model` for itself: its forward is replaced.
    """
    side = hugging_face(model, "static")
    model.forward = torch.compile(model.forward, mode="reduce-overhead", fullgraph=True)
    start = time.perf_counter()
    try:
        with limit(seconds):
            side(length, new)
            taken = time.perf_counter() - start
            side(length, new)  # lengths that have changed may compile once more
    except TooSlow:
        return None, f"not run: compiling and two answers took more than {seconds:g} s"
    except Exception as error:  # whatever the compiler's own trouble is, the others are still to be measured
        return None, f"not run: {type(error).__name__}: {str(error).splitlines()[0][:120]}"
    return side, f"compiled and first run in {taken:.0f} s"


class TooSlow(BaseException):
    """No Exception: the compiler catches those and goes on without what it was compiling."""


@contextlib.contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Raise TooSlow in the block once it has taken so long, and every second until it ends; not on Windows."""

    def stop(*_: object) -> None:
        raise TooSlow

    old = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
