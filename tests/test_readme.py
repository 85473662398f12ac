"""The README's code blocks run: `python` and `bash` blocks whole; of `sh` blocks (network, make) calls are parsed."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from samsdk import cli
from samsdk.io.images import read_image, write_png

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def calls(text: str) -> list[list[str]]:
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    return [words[1:] for words in lines if words[:1] == ["samsdk"]]


@pytest.fixture
def workplace(tissue: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a scan in it, and an empty cache."""
    monkeypatch.setenv("SAMSDK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_png("scan.png", tissue)
    return tmp_path


def test_python_blocks_run_one_after_the_other(workplace: Path) -> None:
    names: dict[str, object] = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    assert np.array_equal(read_image(workplace / "mask.png") > 0, names["result"].mask)
    assert len(names["many"]) == 2
    assert np.array_equal(names["same"].mask, names["box"].mask)
    assert names["masks"].shape == (3, 512, 512)


def test_bash_blocks_run(workplace: Path) -> None:
    commands = [call for block in blocks("bash") for call in calls(block)]
    assert len(commands) == 6
    for command in commands:
        assert cli.main(command) == 0, command
    assert (workplace / "overlay.png").is_file()


def test_commands_in_sh_blocks_and_in_the_text_are_known() -> None:
    commands = [call for block in blocks("sh") for call in calls(block)]
    commands += [calls(code)[0] for code in re.findall(r"`(samsdk [a-z][^`]*)`", README) if "CHECKPOINT" not in code]
    assert len(commands) >= 4
    for command in commands:
        assert callable(cli.build_parser().parse_args(command).run), command


def test_make_targets_exist() -> None:
    makefile = (Path(__file__).parents[1] / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"\bmake ([a-z]+)", README))
    assert {"demo", "test", "lint"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
