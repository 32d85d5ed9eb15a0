"""BabyVLM: vision-language models from an infant's view of home."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from babyvlm.models.loading import load as load

__version__ = "0.1.0"

_AUTO = "transformers.models.auto.modeling_auto"


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever is asked for
    """``load``, when it is asked for: torch costs seconds, and most commands never need it."""
    if name == "load":
        from babyvlm.models.loading import load

        return load
    raise AttributeError(f"module {__name__} has no attribute {name}")


class _WhenAutoModelsAreLoaded(MetaPathFinder, Loader):
    """Makes BabyLLaVA known to transformers' Auto classes as soon as a program loads them, and not before.

    transformers has no entry points: a class is known when its module was imported. To import it here would load torch
    for every ``python -m babyvlm --help``; not to would make ``import babyvlm`` too little.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Step into the import of the Auto classes."""
        if fullname != _AUTO:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            self._loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As transformers would."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """As transformers would, and then ours."""
        self._loader.exec_module(module)
        importlib.import_module("babyvlm.models.networks.babyllava_hf")


if _AUTO in sys.modules:
    importlib.import_module("babyvlm.models.networks.babyllava_hf")
else:
    sys.meta_path.insert(0, _WhenAutoModelsAreLoaded())
