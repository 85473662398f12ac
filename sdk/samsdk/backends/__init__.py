"""Inference backends: one small protocol, one file for each engine."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Backend(Protocol):
    """One loaded graph."""

    @property
    def provider(self) -> str:
        """The execution provider that really runs the graph, e.g. `CPUExecutionProvider`."""

    def run(self, feeds: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        """Run the graph. Safe to call from several threads at once.

        Args:
            feeds: input name to array.

        Returns:
            Output name to array.

        Raises:
            BackendError: the engine failed.
        """
