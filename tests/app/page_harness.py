"""What the tests of the page share: the real application with random weights, and a headless Chromium on its page."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from app.main import create_app
from app.settings import Settings
from model.checkpoint import load_checkpoint, save_checkpoint
from tests.system.screenshot import open_chromium, prefer, resize
from tokenizer.subword import load_tokenizers

needs_chromium = pytest.mark.skipif(
    shutil.which("chromium") is None and "CI" not in os.environ, reason="needs chromium and chromedriver"
)
ARTIFACTS = Path(__file__).parents[1] / ".artifacts"
SENTENCE = "The captain drinks his coffee, then we leave."
OTHER = "Two children run to the harbour."
SERVICE_LIMIT = 300  # characters a text, less than the page's own limit


@pytest.fixture(scope="session")
def page_application(
    tiny_checkpoint: Path, tiny_checkpoint_fr: Path, tmp_path_factory: pytest.TempPathFactory
) -> FastAPI:
    """en-de, en-fr, and de-en with the weights of en-de."""
    forth = load_checkpoint(tiny_checkpoint)
    back = tmp_path_factory.mktemp("back") / "de-en"
    config = forth.config.model_copy(update={"name": "de-en", "source": "de", "target": "en"})
    files = {**load_tokenizers(tiny_checkpoint).files(), "README.md": b"# Random weights\n"}
    save_checkpoint(back, config, forth.model.state_dict(), files)
    checkpoints = (tiny_checkpoint, tiny_checkpoint_fr, back)
    # The page's answers are compared with others: no measurement may decide how they are computed.
    quiet = {"threads": 1, "lanes": 1, "precision": "float32", "stuck_seconds": 600}
    return create_app(Settings(checkpoints=checkpoints, max_text_characters=SERVICE_LIMIT, **quiet))


@pytest.fixture(scope="session")
def url(page_application: FastAPI) -> Iterator[str]:
    """The application on a free port of the loopback interface."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(page_application, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    deadline = time.monotonic() + 180
    while not server.started or httpx.get(f"{address}/health/ready").status_code != 200:
        assert thread.is_alive() and time.monotonic() < deadline, "the service did not become ready"
        time.sleep(0.05)
    yield address
    server.should_exit = True
    thread.join(30)
    listener.close()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chrome]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, open_chromium(profile) as browser:
        yield browser


@pytest.fixture
def page(chromium: Chrome, url: str) -> Chrome:
    """The page freshly opened at 1280 px in the light theme, with empty logs."""
    resize(chromium, 1280, 900)
    prefer(chromium, "light")
    chromium.execute_cdp_cmd("Storage.clearDataForOrigin", {"origin": url, "storageTypes": "local_storage"})
    for log in ("browser", "performance"):
        chromium.get_log(log)
    chromium.get(url)
    until(chromium, lambda: bool(Select(part(chromium, "source-language")).options))
    return chromium


def part(page: Chrome, name: str) -> WebElement:
    return page.find_element(By.ID, name)


def until(page: Chrome, holds: Callable[[], bool], seconds: float = 180) -> None:
    WebDriverWait(page, seconds, poll_frequency=0.05).until(lambda _: holds())


def wait_for(page: Chrome, state: str) -> None:
    root = page.find_element(By.TAG_NAME, "html")
    until(page, lambda: root.get_attribute("data-state") == state)


def shown(page: Chrome) -> str:
    return str(page.execute_script("return document.getElementById('target').textContent"))


def type_and_wait(page: Chrome, text: str) -> None:
    part(page, "source").send_keys(text)
    wait_for(page, "done")


def ask(url: str, text: str) -> dict[str, Any]:
    """What the service answers to the page's own request."""
    body = {"text": text, "source": "en", "target": "de", "n_best": 5, "scores": True, "alignment": True}
    answer: dict[str, Any] = httpx.post(f"{url}/v1/translate", json=body, timeout=180).raise_for_status().json()
    return answer["translations"][0]  # type: ignore[no-any-return]


def cells(page: Chrome) -> list[WebElement]:
    return page.find_elements(By.CSS_SELECTOR, "#heatmap td.cell")


def lit(page: Chrome, name: str) -> list[str]:
    return [span.get_attribute("textContent") or "" for span in part(page, name).find_elements(By.CSS_SELECTOR, ".lit")]
