"""Photograph the page of a service: ``python tests/system/screenshot.py URL OUT.png [--dark] [--width 360]``."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--hide-scrollbars",
    "--accept-lang=en-GB,en",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
TEXT = "I would like to go to the station with you tomorrow morning."


def open_chromium(profile: str) -> webdriver.Chrome:
    """A headless Chromium with its own new ``profile`` folder, keeping its console and network logs."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))


def resize(browser: webdriver.Chrome, width: int, height: int, scale: float = 1.0) -> None:
    """Set the page's own size: a headless window cannot be made narrower than 500 px."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def prefer(browser: webdriver.Chrome, scheme: str) -> None:
    """Set ``prefers-color-scheme`` to ``light`` or ``dark``."""
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def photograph(browser: webdriver.Chrome, out: Path) -> None:
    """Write the whole page, not only the part in view, to ``out`` as PNG."""
    height = int(browser.execute_script("return document.documentElement.scrollHeight"))
    size = browser.execute_script("return [innerWidth, devicePixelRatio]")
    resize(browser, int(size[0]), height, float(size[1]))
    out.parent.mkdir(parents=True, exist_ok=True)
    browser.save_screenshot(str(out))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("out", type=Path)
    parser.add_argument("--text", default=TEXT)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--scale", type=float, default=1.0, help="device pixels a CSS pixel; 2 for a sharp picture")
    parser.add_argument("--dark", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as profile, open_chromium(profile) as browser:
        resize(browser, arguments.width, 800, arguments.scale)
        prefer(browser, "dark" if arguments.dark else "light")
        browser.get(arguments.url)
        browser.find_element(By.ID, "source").send_keys(arguments.text)
        WebDriverWait(browser, 60).until(
            lambda driver: driver.find_element(By.TAG_NAME, "html").get_attribute("data-state") == "done"
        )
        photograph(browser, arguments.out)


if __name__ == "__main__":
    main()
