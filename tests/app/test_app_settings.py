"""Settings: variables, flags and the table that lists them agree, and what is wrong is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app import settings as module
from app.cli import application
from app.settings import BUNDLED, Settings, SettingsError, available_cores, flag, load_settings

README = Path(module.__file__).parent / "README.md"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment of the tests holds."""
    import os

    for name in [name for name in os.environ if name.startswith("FERRY_")]:
        monkeypatch.delenv(name)


def test_variables_are_read_and_flags_stand_above_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FERRY_PORT", "9000")
    monkeypatch.setenv("FERRY_CHECKPOINTS", "/one:/two")
    monkeypatch.setenv("FERRY_CORS_ORIGINS", "https://a.example, http://b.example:8080")
    monkeypatch.setenv("FERRY_THREADS", "")
    read = load_settings({"port": "9001", "host": None})
    assert (read.port, read.host, read.threads) == (9001, "127.0.0.1", None)
    assert read.checkpoints == (Path("/one"), Path("/two"))
    assert read.cors_origins == ("https://a.example", "http://b.example:8080")


def test_an_unknown_variable_is_an_error_with_the_nearest_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FERRY_QUEUE_TOKEN", "5")
    with pytest.raises(SettingsError, match=r"FERRY_QUEUE_TOKEN; the nearest known one is FERRY_QUEUE_TOKENS"):
        load_settings()


def test_variables_of_training_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FERRY_DATA", "/data")
    assert load_settings().port == 8000


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PORT", "70000", "FERRY_PORT is '70000': .*less than or equal to 65535"),
        ("THREADS", "many", "FERRY_THREADS is 'many': .*integer"),
        ("DRAIN_SECONDS", "inf", "FERRY_DRAIN_SECONDS is 'inf': .*finite"),
        ("LOG_LEVEL", "loud", "FERRY_LOG_LEVEL is 'loud': .*'debug', 'info', 'warning' or 'error'"),
        ("CORS_ORIGINS", "example.org", "'example.org' is not an origin; write it as https://example.org"),
    ],
)
def test_a_bad_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str) -> None:
    monkeypatch.setenv("FERRY_" + name, value)
    with pytest.raises(SettingsError, match=message):
        load_settings()


def test_a_bad_flag_is_named_as_a_flag() -> None:
    with pytest.raises(SettingsError, match="--queue-tokens is '3': "):
        load_settings({"queue_tokens": "3"})


def test_every_setting_is_a_flag_of_serve() -> None:
    shown = CliRunner().invoke(application, ["serve", "--help"], env={"COLUMNS": "300", "NO_COLOR": "1"}).output
    assert {flag(name) for name in Settings.model_fields} == set(re.findall(r"--[a-z-]+", shown)) - {"--help"}


def test_the_readme_lists_every_setting_with_its_default() -> None:
    rows = re.findall(r"^\| `(FERRY_\w+)` \| `(--[a-z-]+)[^`]*` \| ([^|]*) \|", README.read_text(), re.MULTILINE)
    expected = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default in ((), None) else str(field.default)
        expected.append((f"FERRY_{name.upper()}", flag(name), default))
    assert rows == expected


def test_without_a_checkpoint_the_bundled_ones_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("en-de", "de-en"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").touch()
    (tmp_path / "notes").mkdir()
    monkeypatch.setattr(module, "BUNDLED", tmp_path)
    assert Settings().checkpoint_folders() == (tmp_path / "de-en", tmp_path / "en-de")
    monkeypatch.setattr(module, "BUNDLED", tmp_path / "notes")
    with pytest.raises(SettingsError, match="name one with --checkpoint DIR or FERRY_CHECKPOINTS"):
        Settings().checkpoint_folders()
    assert BUNDLED.parts[-2:] == ("app", "checkpoints")


def test_a_folder_of_checkpoints_stands_for_those_in_it(tmp_path: Path) -> None:
    for name in ("en-de", "de-en", ".half-written"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").touch()
    settings = Settings(checkpoints=(tmp_path, tmp_path / "en-de", tmp_path / "none"))
    inside = (tmp_path / "de-en", tmp_path / "en-de")
    assert settings.checkpoint_folders() == (*inside, tmp_path / "en-de", tmp_path / "none")


def test_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "available_cores", lambda: 5)
    assert [Settings(workers=workers).thread_count() for workers in (1, 2, 8)] == [5, 2, 1]
    assert Settings(workers=8, threads=3).thread_count() == 3


def test_there_are_no_more_lanes_than_threads() -> None:
    assert Settings(threads=2, lanes=2).lanes == 2
    with pytest.raises(SettingsError, match="--lanes is 3: a worker has 2 threads"):
        load_settings({"threads": 2, "lanes": 3})


def test_a_token_is_not_shown() -> None:
    assert "secret" not in repr(load_settings({"admin_token": "secret"}))


@pytest.mark.parametrize(("content", "cores"), [("max 100000\n", 8), ("250000 100000", 2), ("10000 100000", 1)])
def test_the_quota_of_a_container_is_obeyed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, cores: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(module, "CPU_QUOTA", tmp_path / "cpu.max")
    assert available_cores() == 8
    (tmp_path / "cpu.max").write_text(content)
    assert available_cores() == cores
