"""The documentation at /docs in a real headless Chromium, which may ask nobody but the service."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from service_process import serving

from tests.system.screenshot import open_chromium, photograph, resize

pytestmark = pytest.mark.skipif(
    shutil.which("chromium") is None and "CI" not in os.environ, reason="needs chromium and chromedriver"
)
ARTIFACTS = Path(__file__).parents[1] / ".artifacts"


def test_the_documentation_shows_every_operation_without_an_outside_host(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with (
        serving(tmp_path, "--checkpoint", tiny_checkpoint) as service,
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        open_chromium(profile) as browser,
    ):
        resize(browser, 1100, 900)
        browser.get(f"{service.url}/docs#/translation/translate")
        WebDriverWait(browser, 60).until(lambda _: browser.find_elements(By.CSS_SELECTOR, ".opblock.is-open .execute"))
        photograph(browser, ARTIFACTS / "docs.png")
        browser.find_element(By.CSS_SELECTOR, ".opblock.is-open .execute").click()
        status = (By.CSS_SELECTOR, ".live-responses-table .response-col_status")
        WebDriverWait(browser, 60).until(lambda _: browser.find_elements(*status))
        assert [element.text for element in browser.find_elements(*status)][1].startswith("200")
        assert len(browser.find_elements(By.CSS_SELECTOR, ".opblock")) == 6
        events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        asked = [
            event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"
        ]
        assert all(url.startswith((service.url, "data:", "chrome:", "about:")) for url in asked)
        assert [entry for entry in browser.get_log("browser") if entry["source"] in ("security", "network")] == []
