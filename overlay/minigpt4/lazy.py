"""Package attributes that are imported when they are first asked for (PEP 562)."""

from importlib import import_module
from typing import Any, Callable


def lazy_attributes(package: str, **home: str) -> Callable[[str], Any]:
    """A module-level __getattr__ for `package`; `home` maps each name to the submodule that defines it.

    `from package import *` and `from package import Name` keep working, and importing the package costs nothing.
    """

    def __getattr__(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{home[name]}"), name)

    return __getattr__
