"""Settings of the service: environment variables with the prefix FERRY_, each also a flag of ``ferry serve``."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIX = "FERRY_"
BUNDLED = Path(__file__).parent / "checkpoints"
# Read by ferry-train, not by the service; both may stand in one environment.
FOREIGN = frozenset({"FERRY_DATA"})
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


class SettingsError(ValueError):
    """A setting is unknown or has a bad value; the message names it and says what would be right."""


class Settings(BaseSettings):
    """Everything an operator may choose. Read it with :func:`load_settings`, which explains what is wrong."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True)

    checkpoints: Annotated[tuple[Path, ...], NoDecode] = Field(
        (),
        description="Checkpoint folders, one a language pair, or folders that hold some: separated by"
        f" '{os.pathsep}' in the variable; the flag is --checkpoint DIR and repeatable. None: app/checkpoints/.",
    )
    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for every interface.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    workers: int = Field(
        1, ge=1, le=256, description="Processes that serve the port together, each with its own copy of the models."
    )
    threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Threads for computing in a worker. None: its share of the cores at hand.",
    )
    lanes: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Batches translated side by side by the threads. None: measured at start.",
    )
    precision: Literal["auto", "float32", "bfloat16", "int8"] = Field(
        "auto", description="Arithmetic of the models. auto: the fastest here, measured when a model is loaded."
    )
    shortlist: bool = Field(
        False, description="Choose among the likely words only, where a checkpoint has a shortlist: faster, less exact."
    )
    pivot: bool = Field(True, description="Translate through a third language where no model has the pair itself.")
    idle_unload_minutes: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Drop a model from memory when unused so long; the next request waits until it is loaded again.",
    )
    batch_tokens: int = Field(
        4096, ge=64, description="Padded source pieces translated together; more is faster and needs more memory."
    )
    queue_tokens: int = Field(
        65536, ge=64, description="Source pieces that may wait or be under way; requests beyond it get 429."
    )
    longest_wait_seconds: float = Field(
        30.0, gt=0, allow_inf_nan=False, description="Requests that would wait longer, as far as can be told, get 429."
    )
    cache_tokens: int = Field(
        262_144, ge=0, description="Size of the memory for sentences that come again, 35 bytes a token; 0 has none."
    )
    max_text_characters: int = Field(20_000, ge=1, description="Longest text in characters; a longer one gets 413.")
    max_texts: int = Field(1_000, ge=1, description="Most texts in a request; a longer list gets 413.")
    max_body_bytes: int = Field(2_097_152, ge=1024, description="Largest request body in bytes; a larger one gets 413.")
    max_beam_size: int = Field(16, ge=1, le=256, description="Widest beam a request may ask for.")
    deadline_ms: int = Field(
        60_000, ge=1, description="A request that takes longer gets 504; also the most it may ask for. Milliseconds."
    )
    drain_seconds: float = Field(
        30.0, ge=0, allow_inf_nan=False, description="On SIGTERM, time for the requests under way to finish."
    )
    keep_alive_seconds: int = Field(
        75,
        ge=1,
        description="How long a connection stays open without a request. Longer than clients and proxies keep theirs, "
        "so that none is closed while a request is on its way.",
    )
    stuck_seconds: float = Field(
        60.0,
        gt=0,
        allow_inf_nan=False,
        description="The process ends with status 70 when computing has stood still for so long, to be started anew; "
        "after a sixth of it, it is not ready.",
    )
    admin_token: SecretStr | None = Field(
        None,
        min_length=1,
        description="Bearer token for POST /admin/reload; without one there is no such path. Set it by variable.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Origins whose pages may call the service, separated by commas; '*' for any."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe line to log.")

    @field_validator("checkpoints", mode="before")
    @classmethod
    def _split_paths(cls, value: object) -> object:
        return tuple(part for part in value.split(os.pathsep) if part) if isinstance(value, str) else value

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split_origins(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("cors_origins")
    @classmethod
    def _origins_have_a_scheme(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin != "*" and (not origin.startswith(("http://", "https://")) or origin.count("/") != 2):
                raise ValueError(f"'{origin}' is not an origin; write it as https://example.org, with no path")
        return origins

    @field_validator("lanes")
    @classmethod
    def _each_lane_has_a_thread(cls, lanes: int | None, info: ValidationInfo) -> int | None:
        threads = info.data.get("threads") or _share_of_cores(info.data.get("workers", 1))
        if lanes is not None and lanes > threads:
            raise ValueError(f"a worker has {threads} threads for computing; give each lane at least one")
        return lanes

    def checkpoint_folders(self) -> tuple[Path, ...]:
        """The folders to load, as they are at this moment. Raises SettingsError when there is none."""
        folders = tuple(folder for path in self.checkpoints or (BUNDLED,) for folder in _checkpoints_in(path))
        if not folders:
            raise SettingsError(
                f"there is no checkpoint to load: {BUNDLED} holds none; name one with --checkpoint DIR"
                f" or {PREFIX}CHECKPOINTS"
            )
        return folders

    def thread_count(self) -> int:
        """Threads to compute on in each worker: as set, or its share of the cores this process may use."""
        return self.threads or _share_of_cores(self.workers)


def _share_of_cores(workers: int) -> int:
    return max(1, available_cores() // workers)


def _checkpoints_in(path: Path) -> list[Path]:
    """The folder itself, or every checkpoint in it where it is a folder of checkpoints."""
    inside = sorted(file.parent for file in path.glob("*/config.json") if not file.parent.name.startswith("."))
    return inside if path == BUNDLED or (inside and not (path / "config.json").exists()) else [path]


def available_cores() -> int:
    """Cores this process may use: its affinity, and the quota of its control group (a container's CPU limit)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = CPU_QUOTA.read_text().split()
    except (OSError, ValueError):  # no control group of the second version: no quota to obey
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


def load_settings(flags: Mapping[str, Any] | None = None) -> Settings:
    """Read the environment, then ``flags`` (by field name; None means not given) over it.

    Raises SettingsError for an unknown FERRY_ variable, naming the nearest known one, and for bad values.
    """
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for variable in sorted(os.environ):
        if variable.upper().startswith(PREFIX) and variable.upper() not in known | FOREIGN:
            raise SettingsError(f"unknown environment variable {variable}; {_suggestion(variable.upper(), known)}")
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        raise SettingsError("; ".join(_explain(error, given))) from error


def flag(name: str) -> str:
    """The flag of ``ferry serve`` for a setting; a repeatable one is named in the singular."""
    return "--checkpoint" if name == "checkpoints" else "--" + name.replace("_", "-")


def _suggestion(variable: str, known: set[str]) -> str:
    nearest = difflib.get_close_matches(variable, known, n=1, cutoff=0.0)
    return f"the nearest known one is {nearest[0]} (all of them: ferry serve --help)"


def _explain(error: ValidationError, given: Mapping[str, Any]) -> list[str]:
    lines = []
    for problem in error.errors(include_url=False):
        name = str(problem["loc"][0])
        place = flag(name) if name in given else PREFIX + name.upper()
        lines.append(f"{place} is {problem['input']!r}: {problem['msg'].removeprefix('Value error, ')}")
    return lines
