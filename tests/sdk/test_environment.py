import subprocess
import sys

import numpy as np
import pytest

from samsdk.environment import peak_memory_mb, widest_instructions

CHILD = "from samsdk.environment import peak_memory_mb; print(peak_memory_mb())"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu sse2 avx avx2 fma", "AVX2"),
        ("avx2 avx512f avx512_bf16 avx512vl", "AVX-512 BF16"),
        ("avx2 avx512f avx512vl", "AVX-512"),
        ("avx512f avx512_bf16 amx_bf16 amx_tile", "AMX"),
        ("fp asimd evtstrm", "NEON"),
        ("fpu avx2_not", None),
        ("", None),
    ],
)
def test_the_widest_instructions_are_named(flags: str, expected: str | None) -> None:
    assert widest_instructions(flags) == expected


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere a child starts with its parent's peak")
def test_the_peak_is_of_the_program_and_not_of_what_started_it() -> None:
    before = peak_memory_mb()
    assert before is not None
    block = np.ones(500 * 10**6, np.uint8)
    held = peak_memory_mb()
    assert held is not None
    assert held > before - 1
    assert held > block.nbytes / 1e6
    child = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)
    assert 10 < float(child.stdout) < 400
