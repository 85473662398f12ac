"""The CUDA kernels without a GPU: their host build behind the queue and the launcher that a GPU would have."""

import ctypes
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from samsdk_kernels.compiler import PROGRAMS, compile_host
from samsdk_kernels.launch import Argument, Grid, Kernels

Libraries = dict[str, ctypes.CDLL]


class HostMemory:
    """Memory of the host with an address, full of what was there before."""

    def __init__(self, size: int) -> None:
        self.array = np.full(max(size, 1), 0xAB, np.uint8)
        self.pointer, self.size = self.array.ctypes.data, size


@dataclass
class HostQueue:
    """A queue whose work is done at once."""

    handle: int = 7
    log: list[str] = field(default_factory=list)

    def activate(self) -> None:
        self.log.append("activate")

    def allocate(self, size: int) -> HostMemory:
        return HostMemory(size)

    def upload(self, array: NDArray[Any], memory: HostMemory) -> None:
        assert array.flags.c_contiguous
        memory.array[: array.nbytes] = array.reshape(-1).view(np.uint8)

    def download(self, memory: HostMemory, array: NDArray[Any]) -> None:
        array.reshape(-1).view(np.uint8)[:] = memory.array[: array.nbytes]

    def wait_for(self, stream: int) -> None:
        self.log.append(f"wait {stream}")

    def synchronize(self) -> None:
        self.log.append("synchronize")

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        raise NotImplementedError


@dataclass
class HostLauncher:
    """Calls the host build's function of a kernel's name with the kernel's own arguments."""

    libraries: Libraries
    launched: list[tuple[str, Grid, bool]] = field(default_factory=list)

    def launch(self, kernel: str, grid: Grid, arguments: Sequence[Argument], *, cooperative: bool) -> None:
        self.launched.append((kernel, grid, cooperative))
        program = next(program for program, kernels in PROGRAMS.items() if kernel in kernels)
        function = getattr(self.libraries[program], kernel)
        function.restype = None
        function(*arguments)


@pytest.fixture(scope="session")
def host_libraries(tmp_path_factory: pytest.TempPathFactory) -> Libraries:
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler (c++)")
    folder = tmp_path_factory.mktemp("host")
    return {program: ctypes.CDLL(str(compile_host(program, folder))) for program in PROGRAMS}


@pytest.fixture
def launcher(host_libraries: Libraries) -> HostLauncher:
    return HostLauncher(host_libraries)


@pytest.fixture
def queue() -> HostQueue:
    return HostQueue()


@pytest.fixture
def host_kernels(queue: HostQueue, launcher: HostLauncher) -> Kernels:
    """The kernels as `launch` drives them, on the host."""
    return Kernels.from_parts(queue, launcher)
