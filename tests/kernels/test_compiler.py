"""Where compiled kernels come from and go; no GPU."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from samsdk.errors import BackendError, MissingExtraError
from samsdk_kernels import compiler
from samsdk_kernels.compiler import (
    compile_ahead,
    compile_host,
    cubin_name,
    find_nvcc,
    kernels_folder,
    load_cubin,
    main,
    source_hash,
)


@pytest.fixture
def nvrtc(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A stand-in for cuda-core's compiler; the list holds the options of each call."""
    calls: list[Any] = []

    def program(source: str, language: str, options: Any) -> Any:
        calls.append(options)
        assert "postprocess.cuh" in source
        return SimpleNamespace(compile=lambda kind: SimpleNamespace(code=f"{kind} {options['arch']}".encode()))

    core = SimpleNamespace(ProgramOptions=lambda **options: options, Program=program)
    monkeypatch.setitem(sys.modules, "cuda", SimpleNamespace(core=core))
    monkeypatch.setitem(sys.modules, "cuda.core", core)
    return calls


def test_what_was_compiled_at_run_time_is_kept(nvrtc: list[Any]) -> None:
    assert load_cubin("postprocess", "sm89") == b"cubin sm_89"
    assert (kernels_folder() / cubin_name("postprocess", "sm89")).read_bytes() == b"cubin sm_89"
    assert load_cubin("postprocess", "sm89") == b"cubin sm_89"
    assert load_cubin("postprocess", "sm86") == b"cubin sm_86"
    assert [call["arch"] for call in nvrtc] == ["sm_89", "sm_86"]
    assert nvrtc[0]["fma"] is False
    assert Path(nvrtc[0]["include_path"]) == compiler.SOURCES


def test_another_source_is_compiled_anew(nvrtc: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_cubin("postprocess", "sm89")
    for path in compiler.SOURCES.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with (tmp_path / "numbers.cuh").open("a") as file:
        file.write("// another header\n")
    before = source_hash()
    monkeypatch.setattr(compiler, "SOURCES", tmp_path)
    source_hash.cache_clear()
    try:
        assert source_hash() != before
        load_cubin("postprocess", "sm89")
    finally:
        source_hash.cache_clear()
    assert len(nvrtc) == 2


def test_says_what_to_install_without_cuda_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.core", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'samsdk\[tensorrt\]'.*samsdk_kernels.compiler"):
        load_cubin("preprocess", "sm89")


@pytest.mark.parametrize("target", ["sm_89", "89", "sm", "sm89; rm", "compute_89"])
def test_refuses_a_target(target: str) -> None:
    with pytest.raises(ValueError, match="GPU generation such as sm89"):
        load_cubin("preprocess", target)


def test_refuses_a_program() -> None:
    with pytest.raises(ValueError, match="'attention', expected one of: preprocess, postprocess"):
        compile_ahead("attention", "sm89")


def test_without_nvcc_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_HOME", raising=False)
    with pytest.raises(BackendError, match="CUDA toolkit"):
        compile_ahead("preprocess", "sm89", tmp_path)
    with pytest.raises(BackendError, match="found no compiler 'c"):
        compile_host("preprocess", tmp_path)


@pytest.mark.skipif(find_nvcc() is None, reason="no CUDA compiler (nvcc)")
def test_the_command_fills_the_folder_that_is_searched(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sm89"]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.name.split("-")[0] for path in paths] == ["preprocess", "postprocess"]
    for path in paths:
        program = path.name.split("-")[0]
        assert load_cubin(program, "sm89") == path.read_bytes()  # cuda-core is not asked for


@pytest.mark.skipif(find_nvcc() is None, reason="no CUDA compiler (nvcc)")
def test_a_target_that_nvcc_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sm11", "-o", str(tmp_path)]) == 1
    assert "nvcc failed: " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_command_refuses_a_wrong_call(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["ada"])
    assert stopped.value.code == 2
    assert "'ada'" in capsys.readouterr().err
