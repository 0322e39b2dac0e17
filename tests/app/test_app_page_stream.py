"""A long text on the page: its sentences come one by one, whatever becomes of the stream."""

from __future__ import annotations

import json
from typing import Any

import pytest
from page_harness import ARTIFACTS, OTHER, SENTENCE, ask, needs_chromium, part, shown, until, wait_for
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from tests.system.screenshot import photograph, prefer, resize

pytestmark = needs_chromium
pytest_plugins = ["page_harness"]
LONG = (
    f"😀 {SENTENCE} {OTHER} The river is wide and the ferry is slow. We cross the water every morning.\n\n"
    "She reads a book on the deck. Can you see the other side?"
)
# Notes in which form the page asks; then comes, of a stream, its first line and after that what `then` does.
INTERCEPT = """
window.asked = [];
window.released = new Promise((resolve) => { window.release = resolve; });
const plain = window.fetch;
window.fetch = async (url, options = {}) => {
  const accept = options.headers?.Accept ?? "";
  const answer = await plain(url, options);
  if (!accept) return answer;
  window.asked.push(accept.split(",")[0]);
  if (!accept.startsWith("application/x-ndjson")) return answer;
  const [first, ...rest] = (await answer.text()).split(/(?<=\\n)/);
  window.first = JSON.parse(first);
  const body = new ReadableStream({
    async start(controller) {
      const write = (line) => controller.enqueue(new TextEncoder().encode(line));
      write(first.slice(0, 30));
      write(first.slice(30));
      THEN
    },
  });
  return new Response(body, { headers: answer.headers });
};
"""
HOLD = "await window.released; rest.forEach(write); controller.close();"
BREAK_OFF = "await window.released; controller.error(new TypeError('network'));"
STOP = "controller.close();"
FAIL = (
    """write('{"event":"problem","problem":{"title":"The service failed","status":500,"detail":"It failed."}}\\n');"""
)


def intercept(page: Chrome, then: str) -> None:
    page.execute_script(INTERCEPT.replace("THEN", then))


def paste(page: Chrome, text: str) -> None:
    part(page, "source").click()
    page.execute_cdp_cmd("Input.insertText", {"text": text})


def arrived(page: Chrome) -> list[str]:
    return [span.get_attribute("textContent") or "" for span in page.find_elements(By.CLASS_NAME, "arrived")]


def first_event(page: Chrome) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(page.execute_script("return JSON.stringify(window.first)"))
    return event


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
def test_a_sentence_stands_in_its_place_while_others_are_awaited(
    page: Chrome, url: str, width: int, scheme: str
) -> None:
    resize(page, width, 900)
    prefer(page, scheme)
    intercept(page, HOLD)
    paste(page, LONG)
    until(page, lambda: len(arrived(page)) == 1)
    event = first_event(page)
    assert arrived(page) == [event["translation"]]
    assert shown(page) == LONG[: event["start"]] + event["translation"] + LONG[event["end"] :]
    assert part(page, "status").text == f"Translating… 1 of {event['segments']}"
    assert page.find_element(By.TAG_NAME, "html").get_attribute("data-state") == "translating"
    assert not part(page, "copy").is_enabled()
    photograph(page, ARTIFACTS / f"page-stream-{width}-{scheme}.png")
    page.execute_script("window.release()")
    wait_for(page, "done")
    assert shown(page) == ask(url, LONG)["text"]
    assert page.find_elements(By.CLASS_NAME, "veil") == [] and part(page, "copy").is_enabled()
    assert page.execute_script("return asked") == ["application/x-ndjson"]


def test_what_stood_below_is_out_of_reach_until_the_answer_is_there(page: Chrome) -> None:
    paste(page, SENTENCE)
    wait_for(page, "done")
    intercept(page, HOLD)
    paste(page, f" {LONG}")
    until(page, lambda: len(arrived(page)) == 1)
    assert page.execute_script("return document.getElementById('results').inert")
    page.execute_script("window.release()")
    wait_for(page, "done")
    assert not page.execute_script("return document.getElementById('results').inert")


def test_a_short_text_comes_in_one_piece(page: Chrome) -> None:
    intercept(page, STOP)
    paste(page, SENTENCE)
    wait_for(page, "done")
    assert page.execute_script("return asked") == ["application/json"]


@pytest.mark.parametrize("ending", [BREAK_OFF, STOP], ids=["error", "early end"])
def test_a_stream_that_breaks_off_is_asked_for_again_whole(page: Chrome, url: str, ending: str) -> None:
    intercept(page, ending)
    paste(page, LONG)
    page.execute_script("window.release()")
    wait_for(page, "done")
    assert shown(page) == ask(url, LONG)["text"]
    assert page.execute_script("return asked") == ["application/x-ndjson", "application/json"]
    paste(page, " She reads.")
    until(page, lambda: page.execute_script("return asked.length") == 3)
    wait_for(page, "done")
    assert page.execute_script("return asked[2]") == "application/json"


def test_a_stream_that_ends_with_a_problem_shows_it(page: Chrome) -> None:
    intercept(page, FAIL)
    paste(page, LONG)
    wait_for(page, "error")
    assert part(page, "notice-text").text == "It failed."
    assert shown(page) == ""


def test_segments_of_an_older_text_are_dropped(page: Chrome, url: str) -> None:
    intercept(page, HOLD)
    paste(page, LONG)
    until(page, lambda: len(arrived(page)) == 1)
    part(page, "clear").click()
    paste(page, SENTENCE)
    wait_for(page, "done")
    page.execute_script("window.release()")
    assert shown(page) == ask(url, SENTENCE)["text"]


def test_what_is_unfinished_when_the_time_is_over_is_counted(page: Chrome) -> None:
    late = """
      const answer = JSON.parse(rest.at(-1));
      Object.assign(answer.answer.translations[0], { status: "partial", unfinished: [{ segment: 1 }, { segment: 3 }] });
      write(JSON.stringify(answer) + "\\n");
    """
    intercept(page, late)
    paste(page, LONG)
    wait_for(page, "done")
    assert part(page, "status").text.startswith("Time is over, 2 sentences unfinished · ")
