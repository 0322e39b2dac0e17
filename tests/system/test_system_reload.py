"""Checkpoints exchanged while many clients ask: every answer is whole, and from one model or the other."""

from __future__ import annotations

import asyncio
import shutil
import signal
from pathlib import Path

import httpx
from service_process import ServiceProcess, serving
from test_system_service import TEXTS, ask_at_once, asking, translated, wait_until

from tests.conftest import write_checkpoint
from tokenizer.subword import TokenizerPair

ROUNDS = 4  # of all texts at once, in the first of which the checkpoint is exchanged


def one_by_one(service: ServiceProcess) -> dict[str, str]:
    with httpx.Client(base_url=service.url, timeout=60) as client:
        return {text: translated(client.post("/v1/translate", json=asking(text))) for text in TEXTS}


def test_nothing_is_lost_or_mixed_up_when_a_checkpoint_is_exchanged_under_load(
    tiny_checkpoint: Path, tiny_tokenizer: TokenizerPair, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "en-de"))

    async def exchanged_meanwhile(service: ServiceProcess) -> list[httpx.Response]:
        under_way = asyncio.create_task(ask_at_once(service.url, TEXTS * ROUNDS))
        while service.metric("ferry_queue_tokens") == 0 and not under_way.done():
            await asyncio.sleep(0.01)
        service.process.send_signal(signal.SIGHUP)
        return await under_way

    options = (
        "--checkpoint",
        folder,
        "--precision",
        "float32",
        "--cache-tokens",
        "0",
        "--longest-wait-seconds",
        "3600",
    )
    with serving(tmp_path, *options) as service:
        old = one_by_one(service)
        write_checkpoint(folder, tiny_tokenizer, "en", "de", seed=9)
        responses = asyncio.run(exchanged_meanwhile(service))
        wait_until(lambda: service.metric('ferry_reloads_total{result="done"}') == 1)
        new = one_by_one(service)
    assert all(old[text] != new[text] for text in TEXTS)
    for text, response in zip(TEXTS * ROUNDS, responses, strict=True):
        assert translated(response) in (old[text], new[text])
