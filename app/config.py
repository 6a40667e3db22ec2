"""Every setting, its default and its meaning. Settings are read once and handed down, never imported as values."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.errors import StartupError
from app.targets import Targets

MODALITIES: Final = ("image", "video", "music")
STORAGES: Final = ("file", "s3", "gs", "az")
"""Schemes of addresses that files may be kept at: a folder, S3 and what speaks its protocol, Google's, Azure's."""

THIS_MACHINE = {"localhost", "0.0.0.0", "::"}  # noqa: S104 - compared with, never bound


def _named(name: str) -> AliasChoices:
    """The settings that go by their usual names instead of `FRAMEHOOK_*`; the field name serves keyword construction."""
    return AliasChoices(name, name.lower())


class Settings(BaseSettings):
    """Read from the environment, then from `.env`. Names are `FRAMEHOOK_<FIELD>`, but five go by their usual names."""

    model_config = SettingsConfigDict(
        env_prefix="FRAMEHOOK_", env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True
    )

    database_url: str | None = Field(
        None,
        validation_alias=_named("DATABASE_URL"),
        repr=False,
        description="PostgreSQL 15 or newer. Unset: the embedded PostgreSQL in FRAMEHOOK_DATA_DIR.",
    )
    public_base_url: str | None = Field(
        None,
        validation_alias=_named("PUBLIC_BASE_URL"),
        description="Where Apiframe reaches this service. Unset, or loopback with a remote upstream: poll-only.",
    )
    apiframe_api_key: SecretStr | None = Field(
        None,
        validation_alias=_named("APIFRAME_API_KEY"),
        description="The upstream key. Required unless the upstream is on loopback (the simulator).",
    )
    apiframe_base_url: str = Field(
        "https://api.apiframe.ai", validation_alias=_named("APIFRAME_BASE_URL"), description="The upstream's address."
    )
    apiframe_previous_api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        validation_alias=_named("APIFRAME_PREVIOUS_API_KEYS"),
        description="Comma-separated keys still good for jobs already sent, and for their webhooks' signatures.",
    )
    direct_database_url: str | None = Field(
        None, repr=False, description="For LISTEN and migrations where DATABASE_URL leads to a connection pooler."
    )
    data_dir: Path = Field(
        Path(".framehook"),
        description="Where the embedded PostgreSQL and kept files are, unless other settings say otherwise.",
    )
    host: str = Field("127.0.0.1", description="Address that `serve` binds.")
    port: int = Field(8000, ge=0, le=65535, description="Port that `serve` binds.")
    secret_key: SecretStr | None = Field(
        None, description="Signs webhook URLs. Unset: generated once into the database, so that replicas agree."
    )
    previous_secret_key: SecretStr | None = Field(None, description="Still accepted in webhook URLs after a change.")
    bootstrap_admin_key: SecretStr | None = Field(
        None,
        description="An admin key (`fh_…`, 32 characters or more) made valid at start, for a start without a shell.",
    )
    inline_seconds: float = Field(
        5.0, ge=0, le=60, description="How long a submission waits for the upstream before it answers 202 and goes on."
    )
    upstream_timeout_seconds: float = Field(30.0, ge=0.5, le=300, description="Total deadline of one upstream call.")
    max_in_flight: int | None = Field(
        None, ge=1, description="Jobs running upstream at once. Unset: what `GET /v2/me` says, else 10."
    )
    requests_per_minute: int | None = Field(
        None, ge=1, description="Most requests a minute to the upstream, by all processes together. Unset: no limit."
    )
    webhook_field: Literal["auto", "webhook_url", "webhookUrl"] = Field(
        "auto", description="The upstream's spelling of the webhook field; `auto` negotiates it."
    )
    validation: Literal["enforce", "warn", "off"] = Field(
        "enforce",
        description="Submissions that Apiframe's own document refuses: refused here, logged and sent, or not looked at.",
    )
    unsigned_webhooks: Literal["poll", "reject"] = Field(
        "poll", description="An unsigned webhook is a hint to poll, or is refused."
    )
    reconcile_after_seconds: float | None = Field(
        None,
        gt=0,
        description="First wait before asking after a job. Unset: as long as its model takes, by its own history.",
    )
    sweep_seconds: float = Field(5.0, gt=0, description="How often the loops look for due work without a nudge.")
    dispatch_window_hours: float = Field(
        12.0, gt=0, le=23, description="How long a job may wait to be sent; always inside the upstream's 24 hours."
    )
    job_deadline_hours: float = Field(
        24.0, gt=0, le=720, description="How long a job may run upstream before it is given up as FAILED."
    )
    events_days: int = Field(
        90, ge=4, le=3650, description="Days that events are kept, and the steps that jobs' traces tell."
    )
    receipts_days: int = Field(
        30, ge=4, le=3650, description="Days that webhooks from Apiframe are kept; those of a job until it is over."
    )
    attempts_days: int = Field(
        30,
        ge=4,
        le=3650,
        description="Days that attempts, deliveries and replays are kept, but those that are not over."
        " At most FRAMEHOOK_EVENTS_DAYS.",
    )
    jobs_days: int | None = Field(
        None, ge=4, le=36500, description="Days after their end that jobs are kept, with their files. Unset: for ever."
    )
    audit_days: int | None = Field(
        None, ge=4, le=36500, description="Days that the audit log is kept. Unset: for ever."
    )
    allowed_targets: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Comma-separated addresses, networks and hosts (`*.` for all below one) that may be called"
        " though private.",
    )
    archive_url: str | None = Field(
        None,
        description="Where result files are kept: `file:///…`, `s3://…`, `gs://…`, `az://…`, or `off`."
        " Unset: the folder `files` in FRAMEHOOK_DATA_DIR.",
    )
    archive_modalities: Annotated[tuple[str, ...], NoDecode] = Field(
        MODALITIES, description="Comma-separated: the results of which kinds of operations are kept."
    )
    archive_largest_mb: int = Field(2048, ge=1, le=100_000, description="Files larger than so many MB are not kept.")
    archive_serve: Literal["proxy", "redirect"] = Field(
        "proxy", description="Kept files are answered by this service, or by a redirect to the storage (not `file`)."
    )
    files_days: int | None = Field(None, ge=1, le=36500, description="Days that files are kept. Unset: for ever.")
    result_urls: Literal["upstream", "archive"] = Field(
        "upstream",
        description="The URLs in `result`: the upstream's until it purges them, or ours as soon as a file is kept.",
    )
    loops: bool = Field(True, description="Whether `serve` runs the background loops too; `worker` always does.")
    pool_size: int = Field(10, ge=2, le=100, description="Database connections per process.")
    log_format: Literal["auto", "text", "json"] = Field("auto", description="`auto`: text on a terminal, else JSON.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least level that is logged."
    )

    @field_validator("apiframe_previous_api_keys", "allowed_targets", "archive_modalities", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("apiframe_api_key", "apiframe_previous_api_keys")
    @classmethod
    def _fit_for_a_header(
        cls, value: SecretStr | tuple[SecretStr, ...] | None
    ) -> SecretStr | tuple[SecretStr, ...] | None:
        keys = (value,) if isinstance(value, SecretStr) else value or ()
        if not all(key.get_secret_value().isascii() and key.get_secret_value().isprintable() for key in keys):
            raise ValueError("must be plain ASCII, as a header's value is")
        return value

    @field_validator("apiframe_base_url", "public_base_url")
    @classmethod
    def _http_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError("must be an http or https URL")
        return value.rstrip("/")

    @field_validator("allowed_targets")
    @classmethod
    def _targets(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        Targets(value)
        return value

    @field_validator("archive_url")
    @classmethod
    def _storage(cls, value: str | None) -> str | None:
        if value is None or value.lower() == "off":
            return value and value.lower()
        parts = urlsplit(value)
        place = parts.path if parts.scheme == "file" else parts.netloc
        if parts.scheme not in STORAGES or not place.strip("/") or (parts.scheme == "file" and parts.netloc):
            raise ValueError(
                f"must be off, file:///folder, or {', '.join(f'{name}://bucket' for name in STORAGES[1:])}"
            )
        return value.rstrip("/")

    @field_validator("archive_modalities")
    @classmethod
    def _modalities(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = sorted(set(value) - set(MODALITIES))
        if unknown:
            raise ValueError(f"unknown {', '.join(unknown)}; there are {', '.join(MODALITIES)}")
        return value

    @field_validator("attempts_days")
    @classmethod
    def _while_there_are_events(cls, value: int, read: ValidationInfo) -> int:
        if value > read.data.get("events_days", value):
            raise ValueError(
                f"{value} must not be more than the {read.data['events_days']} of FRAMEHOOK_EVENTS_DAYS:"
                " a delivery can only be made while its event is kept"
            )
        return value

    @field_validator("bootstrap_admin_key")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and (len(value.get_secret_value()) < 32 or not value.get_secret_value().startswith("fh_")):
            raise ValueError("must begin with fh_ and have at least 32 characters")
        return value

    @property
    def base_url(self) -> str:
        """Where callers reach this service, as far as it knows."""
        host = "127.0.0.1" if self.host in THIS_MACHINE else self.host
        return self.public_base_url or f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def upstream_is_local(self) -> bool:
        """Whether the upstream is on this machine, which only a simulator is."""
        return _is_loopback(self.apiframe_base_url)

    @property
    def poll_only(self) -> bool:
        """Whether webhooks cannot reach us: no public address, or a loopback one with an upstream that is elsewhere."""
        if self.public_base_url is None:
            return True
        return _is_loopback(self.public_base_url) and not self.upstream_is_local

    @property
    def lease_seconds(self) -> float:
        """How long a dispatch claim holds: the call's deadline and ten seconds to record what came of it."""
        return self.upstream_timeout_seconds + 10


def load_settings(**overrides: object) -> Settings:
    """Read the settings, with keyword overrides by field name; raise StartupError with one line per bad setting."""
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        faults = "; ".join(f"{_spell(fault['loc'])}: {fault['msg']}" for fault in error.errors())
        raise StartupError(f"bad settings: {faults}") from None


def environment_name(field: str) -> str:
    """The environment variable of a settings field: `port` is `FRAMEHOOK_PORT`, `database_url` is `DATABASE_URL`."""
    alias = Settings.model_fields[field].validation_alias
    return str(alias.choices[0]) if isinstance(alias, AliasChoices) else f"FRAMEHOOK_{field.upper()}"


def as_environment(settings: Settings) -> dict[str, str]:
    """These settings as environment variables, for a process that is to have the same. What is unset is left out."""
    found = {environment_name(field): _written(getattr(settings, field)) for field in Settings.model_fields}
    return {name: value for name, value in found.items() if value}


def _written(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, tuple):
        return ",".join(_written(each) for each in value)
    return str(value.resolve()) if isinstance(value, Path) else str(value)


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host in THIS_MACHINE or ip_address(host).is_loopback
    except ValueError:
        return False


def _spell(location: tuple[int | str, ...]) -> str:
    name = str(location[0]) if location else "settings"
    field = name.lower()
    return environment_name(field) if field in Settings.model_fields else name
