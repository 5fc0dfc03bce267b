"""Read several pictures while the ones before are encoded: decoding and resizing in threads, which Pillow allows.

It pays where the encoder runs on another device. A large PNG takes longer to decode than a 910B takes to encode it.
On a CPU both want the same cores, and nothing is won.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Callable, TypeVar

Source = TypeVar("Source")
Read = TypeVar("Read")


def read_ahead(read: Callable[[Source], Read], sources: Iterable[Source], workers: int = 4) -> Iterator[Read]:
    """read(source) of each source, in their order, up to `workers` of them ahead of the caller.

        for pixels in read_ahead(lambda path: processor(Image.open(path).convert("RGB")), paths):
            embeddings = model.encode_img(pixels[None].to(device))

    What read raises is raised when its turn comes, and no further source is read. However the loop ends, also by
    Ctrl-C, the reads that have begun are waited for and no thread is left.
    """
    waiting: deque[Future[Read]] = deque()
    with ThreadPoolExecutor(workers, "read-ahead") as pool:
        try:
            for source in sources:
                waiting.append(pool.submit(read, source))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
