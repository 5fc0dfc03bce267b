"""The two path helpers that inference needs, without the pandas, iopath and torchvision of minigpt4.common.utils."""

import os
from urllib.parse import urlparse

_PACKAGE_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def get_abs_path(rel_path: str) -> str:
    """Path of a file that lies inside the minigpt4 package, e.g. "configs/models/minigpt4_vicuna0.yaml"."""
    return os.path.join(_PACKAGE_ROOT, rel_path)


def is_url(url_or_filename: str) -> bool:
    """Whether the text is an http(s) address rather than a path."""
    return urlparse(url_or_filename).scheme in ("http", "https")
