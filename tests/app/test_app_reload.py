"""Reading checkpoint folders anew: what changed is exchanged, what is broken leaves the old one serving."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from service_harness import running
from starlette.testclient import TestClient

from tests.conftest import write_checkpoint
from tokenizer.subword import TokenizerPair

TOKEN = "let-me-in"
TEXT = "The river is wide and the ferry is slow."


@pytest.fixture
def folder(tiny_checkpoint: Path, tiny_checkpoint_fr: Path, tmp_path: Path) -> Path:
    """A folder of two checkpoints, free to be changed."""
    shutil.copytree(tiny_checkpoint, tmp_path / "en-de")
    shutil.copytree(tiny_checkpoint_fr, tmp_path / "en-fr")
    return tmp_path


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient]:
    with running(checkpoints=(folder,), admin_token=TOKEN) as started:
        yield started


def reload(client: TestClient) -> httpx.Response:
    return client.post("/admin/reload", headers={"Authorization": f"Bearer {TOKEN}"})


def translated(client: TestClient, target: str = "de", source: str = "en") -> str:
    response = client.post("/v1/translate", json={"text": TEXT, "source": source, "target": target})
    assert response.status_code == 200, response.text
    return str(response.json()["translations"][0]["text"])


def pairs(client: TestClient) -> list[str]:
    return [f"{pair['source']}-{pair['target']}" for pair in client.get("/v1/languages").json()["pairs"]]


def test_nothing_happens_where_nothing_changed(client: TestClient) -> None:
    answer = reload(client)
    assert answer.json() == {"loaded": [], "removed": [], "unchanged": ["en-de", "en-fr"], "processes": 1}
    assert answer.status_code == 200


def test_a_changed_checkpoint_takes_the_place_of_the_old_one(
    client: TestClient, folder: Path, tiny_tokenizer: TokenizerPair
) -> None:
    before, other = translated(client), translated(client, "fr")
    write_checkpoint(folder / "en-de", tiny_tokenizer, "en", "de", seed=9)
    assert translated(client) == before
    assert reload(client).json() == {"loaded": ["en-de"], "removed": [], "unchanged": ["en-fr"], "processes": 1}
    assert translated(client) != before and translated(client, "fr") == other


def test_folders_may_come_and_go(client: TestClient, folder: Path, tiny_tokenizer: TokenizerPair) -> None:
    write_checkpoint(folder / "fr-en", tiny_tokenizer, "fr", "en", seed=9)
    shutil.rmtree(folder / "en-de")
    assert reload(client).json() == {"loaded": ["fr-en"], "removed": ["en-de"], "unchanged": ["en-fr"], "processes": 1}
    assert pairs(client) == ["en-fr", "fr-en"]
    assert translated(client, "en", "fr")
    gone = client.post("/v1/translate", json={"text": TEXT, "source": "en", "target": "de"})
    assert gone.status_code == 404 and gone.json()["pairs"] == ["en-fr", "fr-en"]


def test_a_link_may_be_turned_to_another_folder(
    tiny_checkpoint: Path, tiny_tokenizer: TokenizerPair, tmp_path: Path
) -> None:
    other = write_checkpoint(tmp_path / "other", tiny_tokenizer, "en", "de", seed=9)
    link = tmp_path / "current"
    link.symlink_to(tiny_checkpoint)
    with running(checkpoints=(link,), admin_token=TOKEN) as client:
        before = translated(client)
        (tmp_path / "new").symlink_to(other)
        (tmp_path / "new").rename(link)
        assert reload(client).json()["loaded"] == ["en-de"]
        assert translated(client) != before


def test_a_broken_checkpoint_leaves_the_old_one_serving_and_is_reported(
    client: TestClient, folder: Path, tiny_tokenizer: TokenizerPair
) -> None:
    before = translated(client)
    write_checkpoint(folder / "en-fr", tiny_tokenizer, "en", "fr", seed=9)
    (folder / "en-de" / "SHA256SUMS").write_text("nonsense")
    answer = reload(client)
    assert (answer.status_code, answer.json()["type"]) == (500, "urn:ferry:problem:reload-failed")
    assert "en-de/SHA256SUMS, line 1" in answer.json()["detail"] and "Loaded: en-fr;" in answer.json()["detail"]
    assert translated(client) == before
    assert 'ferry_reloads_total{result="failed"} 1.0' in client.get("/metrics").text


def test_two_models_for_one_pair_change_nothing(
    client: TestClient, folder: Path, tiny_tokenizer: TokenizerPair
) -> None:
    before = translated(client)
    write_checkpoint(folder / "again", tiny_tokenizer, "en", "de", seed=9)
    answer = reload(client)
    assert answer.status_code == 500 and "may stand only once" in answer.json()["detail"]
    assert translated(client) == before and pairs(client) == ["en-de", "en-fr"]


def test_a_served_folder_that_is_gone_with_all_the_others_is_served_on(client: TestClient, folder: Path) -> None:
    before = translated(client)
    shutil.rmtree(folder)
    assert reload(client).status_code == 500
    assert translated(client) == before


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Basic bGV0LW1lLWlu", "let-me-in", "Bearer ", "Bearer ü"])
def test_only_the_token_opens_it(client: TestClient, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header.encode()}
    answer = client.post("/admin/reload", headers=headers)  # type: ignore[arg-type]
    assert (answer.status_code, answer.json()["type"]) == (401, "urn:ferry:problem:unauthorized")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_without_a_token_there_is_no_such_path(tiny_checkpoint: Path) -> None:
    with running(checkpoints=(tiny_checkpoint,)) as client:
        assert reload(client).status_code == 404
        assert "/admin/reload" not in client.get("/openapi.json").json()["paths"]


def test_a_model_that_nobody_uses_leaves_memory_and_comes_back(tiny_checkpoint: Path) -> None:
    with running(checkpoints=(tiny_checkpoint,), idle_unload_minutes=1e-6) as client:
        before = translated(client)
        while client.get("/v1/models").json()["models"][0]["loaded"]:
            pass
        assert client.get("/health/ready").status_code == 200
        assert translated(client) == before
