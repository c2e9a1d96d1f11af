"""Ratchet on a real vLLM server: the contract of every engine, and the whole learning loop.

`make vllm` installs the server into an environment of its own and runs this.
"""

import os
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks.tiny_models import make_tiny_model
from bot.engine.vllm import VllmEngine
from bot.engine.vocabulary import load_vocabulary
from tests.e2e.test_learning import (  # the same tests, on another engine
    quick,
    test_people_rate_an_admin_trains_and_what_was_promoted_can_be_taken_back,
)
from tests.engine.test_contract import *  # noqa: F403

__all__ = ["test_people_rate_an_admin_trains_and_what_was_promoted_can_be_taken_back"]

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

START_SECONDS = 300


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model with heads as wide as vLLM's kernels require on a CPU."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model", hidden_size=128)


@pytest.fixture(scope="session")
def vllm_url(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a server of that model, and yield its URL."""
    python = os.environ.get("VLLM_PYTHON")
    if python is None:
        pytest.fail("VLLM_PYTHON names no interpreter that has vLLM: run make vllm")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    command = [
        *(python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(tiny_model)),
        *("--host", "127.0.0.1", "--port", str(port), "--dtype", "bfloat16", "--enforce-eager"),
        *("--max-model-len", "256", "--enable-lora", "--max-lora-rank", "8", "--max-loras", "2"),
        *("--max-cpu-loras", "4"),
    ]
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
    }
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        server = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        _wait(server, url, log)
        yield url
    finally:
        server.terminate()
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait(server: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    for _ in range(START_SECONDS):
        try:
            if httpx.get(f"{url}/health", timeout=1).is_success:
                return
        except httpx.HTTPError:
            pass
        if server.poll() is not None:
            break
        time.sleep(1)
    pytest.fail(f"vLLM did not start:\n{log.read_text()[-4000:]}")


@pytest.fixture
async def engine(vllm_url: str, tiny_model: Path, tmp_path: Path) -> AsyncIterator[VllmEngine]:
    vocabulary = load_vocabulary(str(tiny_model), models_folder=tmp_path)
    engine = await VllmEngine.connect(vocabulary, [vllm_url], queue_size=4)
    yield engine
    await engine.close()


@pytest.fixture
def settings(tiny_model: Path, vllm_url: str) -> dict[str, str]:
    return {**quick(tiny_model), "vllm_url": vllm_url}
