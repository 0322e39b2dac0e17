"""The page at / in a real headless Chromium, served by the real application with random weights."""

from __future__ import annotations

import json

import httpx
import pytest
from fastapi import FastAPI
from page_harness import (
    ARTIFACTS,
    OTHER,
    SENTENCE,
    SERVICE_LIMIT,
    ask,
    cells,
    lit,
    needs_chromium,
    part,
    shown,
    type_and_wait,
    until,
    wait_for,
)
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select

from tests.system.screenshot import photograph, prefer, resize

pytestmark = needs_chromium
pytest_plugins = ["page_harness"]
# Answers to texts with the word "captain" wait for release(), whether or not the page has given them up.
HOLD_CAPTAIN = """
window.delivered = false;
const plain = window.fetch;
const released = new Promise((resolve) => { window.release = resolve; });
window.fetch = async (url, options = {}) => {
  if (!(options.body ?? "").includes("captain")) return plain(url, options);
  const answer = await (await plain(url, {...options, signal: undefined})).json();
  await released;
  const json = async () => { setTimeout(() => { window.delivered = true; }); return answer; };
  return {ok: true, json};
};
"""


def test_typing_translates(page: Chrome, url: str) -> None:
    type_and_wait(page, SENTENCE)
    assert shown(page) == ask(url, SENTENCE)["text"]
    assert "ms" in part(page, "status").text and "%" in part(page, "score").text
    assert part(page, "count").text == f"{len(SENTENCE)} / 5,000"


def test_a_stale_answer_is_discarded(page: Chrome, url: str) -> None:
    late, current = ask(url, SENTENCE)["text"], ask(url, OTHER)["text"]
    assert late != current, "the two texts must be told apart by their translations"
    page.execute_script(HOLD_CAPTAIN)
    part(page, "source").send_keys(SENTENCE)
    wait_for(page, "translating")
    part(page, "source").clear()
    type_and_wait(page, OTHER)
    page.execute_script("window.release()")
    until(page, lambda: bool(page.execute_script("return window.delivered")))
    assert shown(page) == current


def test_choosing_an_alternative_changes_the_target(page: Chrome, url: str) -> None:
    type_and_wait(page, SENTENCE)
    answer = ask(url, SENTENCE)
    radios = page.find_elements(By.NAME, "choice")
    assert len(radios) == 1 + len(answer["alternatives"]) == 5
    changed = next(index for index, other in enumerate(answer["alternatives"]) if other["text"] != answer["text"])
    radios[1 + changed].click()
    assert shown(page) == answer["alternatives"][changed]["text"]
    (segment,) = answer["alternatives"][changed]["alignment"]
    assert len(cells(page)) == len(segment["target"]) * len(segment["source"])
    radios[0].click()
    assert shown(page) == answer["text"]


def test_the_heat_map_has_a_cell_for_each_pair_of_pieces(page: Chrome, url: str) -> None:
    type_and_wait(page, SENTENCE)
    (segment,) = ask(url, SENTENCE)["alignment"]
    assert len(cells(page)) == len(segment["target"]) * len(segment["source"]) > 0
    assert len(page.find_elements(By.CSS_SELECTOR, "#heatmap tbody th")) == len(segment["target"])
    assert len(page.find_elements(By.CSS_SELECTOR, "#heatmap thead th")) == len(segment["source"])
    assert len(page.find_elements(By.CSS_SELECTOR, "#attention-list li")) == len(segment["target"])


def test_pointing_at_a_cell_lights_its_words_in_both_panes(page: Chrome, url: str) -> None:
    type_and_wait(page, SENTENCE)
    (segment,) = ask(url, SENTENCE)["alignment"]
    column = 3
    ActionChains(page).move_to_element(cells(page)[column]).perform()
    piece = segment["source"][column]
    assert lit(page, "mirror") == [SENTENCE[piece["start"] : piece["end"]].strip()]
    assert len(lit(page, "target")) == 1


def test_each_segment_has_its_own_heat_map(page: Chrome, url: str) -> None:
    text = f"😀 {SENTENCE} {OTHER}"
    part(page, "source").click()
    page.execute_cdp_cmd("Input.insertText", {"text": text})
    wait_for(page, "done")
    segments = ask(url, text)["alignment"]
    assert len(Select(part(page, "segment")).options) == len(segments) > 1
    part(page, "next-segment").click()
    assert len(cells(page)) == len(segments[1]["target"]) * len(segments[1]["source"])
    # Spans count code points; the emoji is two units of JavaScript's strings.
    labels = page.find_elements(By.CSS_SELECTOR, "#heatmap thead th")
    pieces = [text[piece["start"] : piece["end"]].strip() or "␣" for piece in segments[1]["source"]]
    assert [label.get_attribute("textContent") for label in labels] == pieces


def test_a_problem_is_shown_in_the_service_s_words(page: Chrome, url: str) -> None:
    text = "far " * SERVICE_LIMIT
    refused = httpx.post(f"{url}/v1/translate", json={"text": text.strip(), "source": "en", "target": "de"})
    assert refused.status_code == 413
    part(page, "source").click()
    page.execute_cdp_cmd("Input.insertText", {"text": text.strip()})
    wait_for(page, "error")
    assert part(page, "notice-text").text == refused.json()["detail"]
    assert shown(page) == ""
    part(page, "clear").click()
    assert not part(page, "notice").is_displayed()


def test_a_text_over_the_page_s_limit_is_not_sent(page: Chrome) -> None:
    part(page, "source").click()
    page.execute_cdp_cmd("Input.insertText", {"text": "a" * 5001})
    wait_for(page, "error")
    assert part(page, "notice-text").text == "The text has 5,001 characters; this page takes at most 5,000."


def test_a_service_that_is_not_ready_is_asked_again(page: Chrome, page_application: FastAPI) -> None:
    page_application.state.service.draining = True
    try:
        part(page, "source").send_keys(SENTENCE)
        wait_for(page, "waiting")
        assert "shutting down" in part(page, "notice-text").text
    finally:
        page_application.state.service.draining = False
    wait_for(page, "done")
    assert not part(page, "notice").is_displayed()


def test_the_page_works_by_keyboard_alone(page: Chrome, url: str) -> None:
    answer = ask(url, SENTENCE)

    def press(*keys: str) -> None:
        ActionChains(page).send_keys(*keys).perform()

    def tab_to(selector: str) -> WebElement:
        for _ in range(20):
            press(Keys.TAB)
            focused = page.switch_to.active_element
            if page.execute_script("return arguments[0].matches(arguments[1])", focused, selector):
                return focused
        raise AssertionError(f"Tab never reached {selector}")

    press(SENTENCE)  # the text area has the focus from the start
    wait_for(page, "done")
    tab_to("#score")
    until(page, lambda: part(page, "score-tip").is_displayed())
    press(Keys.ESCAPE)
    until(page, lambda: not part(page, "score-tip").is_displayed())
    tab_to("#copy")
    tab_to("input[name=choice]")
    press(Keys.ARROW_DOWN)
    assert shown(page) == answer["alternatives"][0]["text"]
    press(Keys.ARROW_UP)
    tab_to("#heatmap td")
    press(Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    cell = page.switch_to.active_element
    assert (cell.get_attribute("data-row"), cell.get_attribute("data-column")) == ("1", "1")
    assert "%" in (cell.get_attribute("aria-label") or "")
    assert lit(page, "mirror") and lit(page, "target")
    press(Keys.TAB)
    assert page.switch_to.active_element.tag_name == "summary", "the heat map is one stop in the tab order"


def test_the_focus_is_seen(page: Chrome) -> None:
    type_and_wait(page, SENTENCE)
    unseen = page.execute_script("""
        const stops = "a, button:not(:disabled), select, textarea, summary, td[tabindex='0']";
        const outline = (node) => { node.focus({focusVisible: true}); return getComputedStyle(node).outlineStyle; };
        return [...document.querySelectorAll(stops)]
          .filter((node) => node.checkVisibility() && outline(node) === "none").map((node) => node.id || node.tagName);
    """)
    assert unseen == []


def test_languages_can_be_chosen_and_swapped(page: Chrome, url: str) -> None:
    target = Select(part(page, "target-language"))
    assert [option.text for option in target.options] == ["German", "French"]
    target.select_by_visible_text("French")
    assert not part(page, "swap").is_enabled(), "no model goes from French to English"
    target.select_by_visible_text("German")
    type_and_wait(page, OTHER)
    translation = shown(page)
    part(page, "swap").click()
    chosen = [part(page, f"{side}-language").get_attribute("value") for side in ("source", "target")]
    assert chosen == ["de", "en"]
    assert part(page, "source").get_attribute("value") == translation
    wait_for(page, "done")


def test_the_languages_are_remembered(page: Chrome) -> None:
    assert languages(page) == ("en", "de")
    part(page, "swap").click()
    reopen(page)
    assert languages(page) == ("de", "en")
    Select(part(page, "source-language")).select_by_value("en")
    Select(part(page, "target-language")).select_by_value("fr")
    reopen(page)
    assert languages(page) == ("en", "fr")


def test_a_reader_s_own_language_is_the_first_source(page: Chrome) -> None:
    agent = page.execute_script("return navigator.userAgent")
    page.execute_cdp_cmd("Emulation.setUserAgentOverride", {"userAgent": agent, "acceptLanguage": "nl-BE,de-AT,en"})
    try:
        reopen(page)
        assert languages(page) == ("de", "en")
    finally:
        page.execute_cdp_cmd("Emulation.setUserAgentOverride", {"userAgent": agent, "acceptLanguage": "en-GB,en"})


def languages(page: Chrome) -> tuple[str | None, str | None]:
    return part(page, "source-language").get_attribute("value"), part(page, "target-language").get_attribute("value")


def reopen(page: Chrome) -> None:
    page.refresh()
    until(page, lambda: bool(Select(part(page, "source-language")).options))


def test_the_translation_can_be_copied(page: Chrome, url: str) -> None:
    page.execute_cdp_cmd("Browser.grantPermissions", {"permissions": ["clipboardReadWrite"], "origin": url})
    type_and_wait(page, SENTENCE)
    part(page, "copy").click()
    until(page, lambda: part(page, "copy").text == "Copied")
    assert page.execute_async_script("navigator.clipboard.readText().then(arguments[0])") == shown(page)


def test_clear_leaves_an_empty_page(page: Chrome) -> None:
    type_and_wait(page, SENTENCE)
    part(page, "clear").click()
    wait_for(page, "idle")
    assert part(page, "source").get_attribute("value") == shown(page) == ""
    assert not part(page, "results").is_displayed()


def test_the_theme_is_remembered(page: Chrome) -> None:
    paper = "return getComputedStyle(document.body).backgroundColor"
    light = page.execute_script(paper)
    part(page, "theme").click()
    dark = page.execute_script(paper)
    assert dark != light
    page.refresh()
    assert page.execute_script(paper) == dark
    part(page, "theme").click()
    prefer(page, "dark")
    assert page.execute_script(paper) == dark, "back on the system's theme, the page follows the system"


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_page(page: Chrome, width: int, scheme: str) -> None:
    resize(page, width, 800)
    prefer(page, scheme)
    type_and_wait(page, f"{SENTENCE} {'unbreakable' * 8} {OTHER}")
    photograph(page, ARTIFACTS / f"page-{width}-{scheme}.png")
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    assert page.execute_script("return document.documentElement.clientWidth") == width


def test_no_other_host_is_asked_and_the_console_stays_empty(page: Chrome, url: str) -> None:
    type_and_wait(page, SENTENCE)
    part(page, "theme").click()
    ActionChains(page).move_to_element(cells(page)[0]).perform()
    events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert any(address.endswith("/v1/translate") for address in asked)
    assert [address for address in asked if not address.startswith(f"{url}/")] == []
    assert page.get_log("browser") == []
