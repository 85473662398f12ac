import importlib
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from samsdk import serve_command

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def started(exported_bundle: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], str]]]:
    """Start `samsdk serve` as a program: the process, and the lines that it prints first."""
    processes: list[subprocess.Popen[str]] = []

    def start(*words: str, lines: int) -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-m", "samsdk", "serve", "--model", str(exported_bundle), "--device", "cpu"]
        process = subprocess.Popen(
            [*command, "--port", "0", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        processes.append(process)
        assert process.stderr is not None
        return process, "".join(process.stderr.readline() for _ in range(lines))

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_the_program_serves_on_this_machine_and_stops_when_told(started: Any) -> None:
    process, said = started("--json", lines=2)
    found = re.search(r"(http://127\.0\.0\.1:\d+/) \(", said)
    assert found, said
    url = found[1]
    for _ in range(200):
        try:
            if httpx2.get(f"{url}ready").status_code == 200:
                break
        except httpx2.TransportError:
            pass
    assert "samsdk" in httpx2.get(url).text
    assert httpx2.get(f"{url}models").json()["models"][0]["name"] == "tiny"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert json.loads(out) == {"url": url, "stopped": True}
    assert "research use only" in said
    assert "token" not in said + err


def test_beyond_this_machine_a_token_is_made_printed_once_and_asked_for(started: Any) -> None:
    process, said = started("--host", "0.0.0.0", lines=3)
    found = re.search(r"http://localhost:(\d+)/#token=(\S{43}) ", said)
    assert found, said
    url = f"http://127.0.0.1:{found[1]}"
    assert httpx2.get(f"{url}/models").status_code == 401
    assert httpx2.get(f"{url}/models", headers={"authorization": f"Bearer {found[2]}"}).status_code == 200
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert found[2] not in out + err
    assert "unencrypted" in said


def test_without_the_extra_it_names_the_install_command(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("uvicorn", "fastapi", "prometheus_client"):
        with monkeypatch.context() as patch:
            for loaded in [one for one in sys.modules if one.startswith("samsdk.serve.")]:
                patch.delitem(sys.modules, loaded)
            patch.setitem(sys.modules, name, None)
            code, out, err = run("serve", "--json")
        assert code == 1
        assert "pip install 'samsdk[serve]'" in json.loads(out)["error"]["message"], err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--certificate", "a.pem"], "HTTPS needs both"),
        (["--max-sessions", "0"], "greater than 0"),
        (["--idle-minutes", "nan"], "greater than 0"),
        (["--host", "no.such.host.invalid"], "cannot listen"),
        (["--port", "99999"], "cannot listen"),
        (["--certificate", "missing.pem", "--key", "missing.pem"], "cannot be used"),
    ],
)
def test_wrong_calls(run: Run, exported_bundle: Path, words: list[str], text: str) -> None:
    code, _, err = run("serve", "--model", exported_bundle, "--device", "cpu", *words)
    assert (code, text in err) == (2, True), err


def test_a_bundle_without_prompts_is_refused(run: Run, semantic_bundle: Path) -> None:
    code, _, err = run("serve", "--model", semantic_bundle, "--device", "cpu")
    assert code == 1
    assert "takes prompts" in err or "take prompts" in err


def test_limits_come_in_the_units_that_people_use() -> None:
    import argparse

    parser = argparse.ArgumentParser()
    serve_command.add_serve(parser.add_subparsers())
    words = "serve --max-upload-mb 2.5 --max-megapixels 0.5 --idle-minutes 1.5 --max-memory-mb 100 --max-rate 7"
    limits = serve_command._limits(parser.parse_args(words.split()))
    assert (limits.upload_bytes, limits.pixels, limits.memory_bytes) == (2_500_000, 500_000, 100_000_000)
    assert (limits.idle_seconds, limits.requests_per_second, limits.sessions) == (90.0, 7.0, 64)


def test_importing_samsdk_imports_no_server() -> None:
    code = "import sys, samsdk, samsdk.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"fastapi", "starlette", "uvicorn", "pydantic", "prometheus_client"} & set(loaded)
    assert importlib.util.find_spec("samsdk.serve.app") is not None
