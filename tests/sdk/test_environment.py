import pytest

from samsdk.environment import widest_instructions


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
