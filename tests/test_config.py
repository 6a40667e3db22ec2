"""Settings by their names in the environment and in `.env`; bad ones are one line that says which."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

from app.config import Settings, as_environment, environment_name, load_settings
from app.context import open_database
from app.errors import StartupError
from app.objects import open_objects

USUAL: Final = {
    "database_url": "DATABASE_URL",
    "public_base_url": "PUBLIC_BASE_URL",
    "apiframe_api_key": "APIFRAME_API_KEY",
    "apiframe_base_url": "APIFRAME_BASE_URL",
    "apiframe_previous_api_keys": "APIFRAME_PREVIOUS_API_KEYS",
}


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.upper().startswith("FRAMEHOOK_") or name.upper() in USUAL.values():
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def set_all(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("field", Settings.model_fields)
def test_a_setting_goes_by_its_usual_name_or_by_ours(field: str) -> None:
    assert environment_name(field) == USUAL.get(field, f"FRAMEHOOK_{field.upper()}")


def test_settings_are_read_by_the_names_that_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "database_url": "postgresql://db.example/framehook",
        "public_base_url": "https://hooks.example",
        "apiframe_api_key": "afk_current",
        "apiframe_base_url": "https://upstream.example",
        "apiframe_previous_api_keys": "afk_before",
        "direct_database_url": "postgresql://direct.example/framehook",
        "data_dir": "/var/lib/framehook",
        "host": "0.0.0.0",
        "port": "9000",
        "secret_key": "secret",
        "previous_secret_key": "secret before",
        "bootstrap_admin_key": "fh_" + "x" * 29,
        "inline_seconds": "2.5",
        "upstream_timeout_seconds": "20",
        "max_in_flight": "7",
        "requests_per_minute": "400",
        "webhook_field": "webhookUrl",
        "validation": "warn",
        "unsigned_webhooks": "reject",
        "reconcile_after_seconds": "90",
        "sweep_seconds": "3",
        "dispatch_window_hours": "23",
        "job_deadline_hours": "48",
        "events_days": "60",
        "receipts_days": "8",
        "attempts_days": "9",
        "jobs_days": "400",
        "audit_days": "1000",
        "allowed_targets": "10.1.0.0/16",
        "archive_url": "s3://results/framehook",
        "archive_modalities": "image,video",
        "archive_largest_mb": "500",
        "archive_serve": "redirect",
        "files_days": "365",
        "result_urls": "archive",
        "loops": "false",
        "pool_size": "20",
        "log_format": "json",
        "log_level": "debug",
    }
    assert set(values) == set(Settings.model_fields), "a setting is missing from this test"
    set_all(monkeypatch, **{environment_name(field): value for field, value in values.items()})

    read = load_settings().model_dump()

    assert (read["port"], read["inline_seconds"], read["max_in_flight"], read["loops"]) == (9000, 2.5, 7, False)
    assert read["data_dir"] == Path("/var/lib/framehook")
    for field in ("secret_key", "previous_secret_key", "bootstrap_admin_key", "apiframe_api_key"):
        assert read[field].get_secret_value() == values[field]
    assert [key.get_secret_value() for key in read["apiframe_previous_api_keys"]] == ["afk_before"]
    assert read["allowed_targets"] == ("10.1.0.0/16",)
    assert read["archive_modalities"] == ("image", "video")
    assert (read["archive_largest_mb"], read["files_days"]) == (500, 365)
    days = ("events_days", "receipts_days", "attempts_days", "jobs_days", "audit_days")
    assert [read[field] for field in days] == [60, 8, 9, 400, 1000]
    for field in ("archive_url", "archive_serve", "result_urls"):
        assert read[field] == values[field]
    for field in (
        "database_url",
        "public_base_url",
        "apiframe_base_url",
        "host",
        "webhook_field",
        "validation",
        "log_level",
    ):
        assert read[field] == values[field]


def test_deliveries_are_not_kept_longer_than_their_events(monkeypatch: pytest.MonkeyPatch) -> None:
    for events, attempts in (("29", None), ("89", "90")):
        monkeypatch.delenv("FRAMEHOOK_ATTEMPTS_DAYS", raising=False)
        set_all(
            monkeypatch, FRAMEHOOK_EVENTS_DAYS=events, **({"FRAMEHOOK_ATTEMPTS_DAYS": attempts} if attempts else {})
        )
        with pytest.raises(StartupError) as caught:
            load_settings()
        line = f"FRAMEHOOK_ATTEMPTS_DAYS: Value error, {attempts or 30} must not be more than the {events} of"
        assert line in str(caught.value)
        assert "\n" not in str(caught.value)
    assert load_settings(events_days=30, attempts_days=30).attempts_days == 30


def test_settings_are_written_for_a_process_that_is_to_have_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    given = load_settings(
        apiframe_api_key="afk_current",
        apiframe_previous_api_keys="afk_a,afk_b",
        data_dir=Path("data").resolve(),
        allowed_targets=("127.0.0.0/8", "::1"),
        loops=False,
        files_days=30,
        inline_seconds=2.5,
    )
    set_all(monkeypatch, **as_environment(given))
    assert load_settings() == given


def test_the_usual_names_have_no_second_name(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, FRAMEHOOK_DATABASE_URL="postgresql://other.example/x", PORT="1", SECRET_KEY="x", HOST="x")
    settings = load_settings()

    assert settings.database_url is None
    assert (settings.port, settings.host, settings.secret_key) == (8000, "127.0.0.1", None)


def test_an_empty_setting_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, **{environment_name(field): "" for field in Settings.model_fields})

    assert load_settings() == Settings(_env_file=None)  # type: ignore[call-arg]  # a keyword of pydantic-settings


def test_what_is_given_by_the_command_line_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, FRAMEHOOK_PORT="9000", DATABASE_URL="postgresql://environment.example/x")

    settings = load_settings(port=1234, database_url="postgresql://given.example/x")

    assert (settings.port, settings.database_url) == (1234, "postgresql://given.example/x")


def test_an_env_file_is_read_and_the_environment_goes_before_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text(
        "# a comment\nFRAMEHOOK_PORT=9000\nFRAMEHOOK_HOST='0.0.0.0'\nAPIFRAME_API_KEY=afk_file\nOTHER_PROGRAM=1\n"
        "APIFRAME_PREVIOUS_API_KEYS=afk_a, afk_b\n"
    )
    set_all(monkeypatch, FRAMEHOOK_PORT="9001")

    settings = load_settings()

    assert (settings.port, settings.host) == (9001, "0.0.0.0")
    assert settings.apiframe_api_key is not None
    assert settings.apiframe_api_key.get_secret_value() == "afk_file"
    assert [key.get_secret_value() for key in settings.apiframe_previous_api_keys] == ["afk_a", "afk_b"]


@pytest.mark.parametrize(
    ("written", "keys"),
    [
        ("afk_a", ["afk_a"]),
        ("afk_a,afk_b,afk_c", ["afk_a", "afk_b", "afk_c"]),
        (" afk_a , afk_b ", ["afk_a", "afk_b"]),
        (",afk_a,,", ["afk_a"]),
        (",", []),
        ('["afk_a"]', ['["afk_a"]']),
    ],
)
def test_previous_keys_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch, written: str, keys: list[str]) -> None:
    set_all(monkeypatch, APIFRAME_PREVIOUS_API_KEYS=written)

    assert [key.get_secret_value() for key in load_settings().apiframe_previous_api_keys] == keys


def test_allowed_targets_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, FRAMEHOOK_ALLOWED_TARGETS=" 10.0.0.0/8 ,::1,, *.hooks.internal,")

    assert load_settings().allowed_targets == ("10.0.0.0/8", "::1", "*.hooks.internal")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PUBLIC_BASE_URL", "hooks.example"),
        ("PUBLIC_BASE_URL", "ftp://hooks.example"),
        ("PUBLIC_BASE_URL", "https://"),
        ("PUBLIC_BASE_URL", "https://hooks.example:port"),
        ("PUBLIC_BASE_URL", "https://hooks.example:0"),
        ("APIFRAME_BASE_URL", "api.apiframe.ai"),
        ("APIFRAME_BASE_URL", "https:///v2"),
        ("APIFRAME_BASE_URL", "https://[::1"),
        ("FRAMEHOOK_PORT", "eighty"),
        ("FRAMEHOOK_PORT", "65536"),
        ("FRAMEHOOK_PORT", "-1"),
        ("FRAMEHOOK_BOOTSTRAP_ADMIN_KEY", "fh_short_secret"),
        ("FRAMEHOOK_BOOTSTRAP_ADMIN_KEY", "xx_" + "secret" * 10),
        ("FRAMEHOOK_INLINE_SECONDS", "-1"),
        ("FRAMEHOOK_INLINE_SECONDS", "61"),
        ("FRAMEHOOK_INLINE_SECONDS", "nan"),
        ("FRAMEHOOK_UPSTREAM_TIMEOUT_SECONDS", "0"),
        ("FRAMEHOOK_UPSTREAM_TIMEOUT_SECONDS", "301"),
        ("FRAMEHOOK_MAX_IN_FLIGHT", "0"),
        ("FRAMEHOOK_MAX_IN_FLIGHT", "2.5"),
        ("FRAMEHOOK_WEBHOOK_FIELD", "webhookURL"),
        ("FRAMEHOOK_VALIDATION", "maybe"),
        ("FRAMEHOOK_UNSIGNED_WEBHOOKS", "accept"),
        ("FRAMEHOOK_RECONCILE_AFTER_SECONDS", "0"),
        ("FRAMEHOOK_SWEEP_SECONDS", "0"),
        ("FRAMEHOOK_DISPATCH_WINDOW_HOURS", "24"),
        ("FRAMEHOOK_ALLOWED_TARGETS", "10.0.0.0/8, 10.1.0.0/33"),
        ("FRAMEHOOK_ALLOWED_TARGETS", "10.1.0.1/16"),
        ("FRAMEHOOK_ALLOWED_TARGETS", "*"),
        ("FRAMEHOOK_ALLOWED_TARGETS", "https://hooks.internal"),
        ("FRAMEHOOK_ALLOWED_TARGETS", "127.1"),
        ("FRAMEHOOK_ARCHIVE_URL", "on"),
        ("FRAMEHOOK_ARCHIVE_URL", "/srv/files"),
        ("FRAMEHOOK_ARCHIVE_URL", "srv/files"),
        ("FRAMEHOOK_ARCHIVE_URL", "file:"),
        ("FRAMEHOOK_ARCHIVE_URL", "file:///"),
        ("FRAMEHOOK_ARCHIVE_URL", "file://srv/files"),
        ("FRAMEHOOK_ARCHIVE_URL", "s3:"),
        ("FRAMEHOOK_ARCHIVE_URL", "s3:///results"),
        ("FRAMEHOOK_ARCHIVE_URL", "gcs://results"),
        ("FRAMEHOOK_ARCHIVE_URL", "https://results.s3.amazonaws.com"),
        ("FRAMEHOOK_ARCHIVE_MODALITIES", "pictures"),
        ("FRAMEHOOK_ARCHIVE_MODALITIES", "image;video"),
        ("FRAMEHOOK_ARCHIVE_LARGEST_MB", "0"),
        ("FRAMEHOOK_ARCHIVE_LARGEST_MB", "2 GB"),
        ("FRAMEHOOK_ARCHIVE_SERVE", "direct"),
        ("FRAMEHOOK_FILES_DAYS", "0"),
        ("FRAMEHOOK_FILES_DAYS", "for ever"),
        ("FRAMEHOOK_RESULT_URLS", "ours"),
        ("FRAMEHOOK_LOOPS", "maybe"),
        ("FRAMEHOOK_POOL_SIZE", "1"),
        ("FRAMEHOOK_LOG_FORMAT", "xml"),
        ("FRAMEHOOK_LOG_LEVEL", "loud"),
    ],
)
def test_a_bad_setting_is_one_line_that_names_it(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    set_all(monkeypatch, **{name: value})

    with pytest.raises(StartupError) as caught:
        load_settings()

    line = str(caught.value)
    assert name in line
    assert "\n" not in line
    assert "secret" not in line


def test_result_files_of_every_kind_are_kept_beside_the_database_unless_told_otherwise(tmp_path: Path) -> None:
    settings = load_settings()

    assert settings.archive_url is None
    assert settings.archive_modalities == ("image", "video", "music")
    assert (settings.archive_largest_mb, settings.archive_serve) == (2048, "proxy")
    assert (settings.files_days, settings.result_urls) == (None, "upstream")
    objects = open_objects(settings)
    assert objects is not None
    assert objects.url == (tmp_path / ".framehook" / "files").as_uri()


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("off", None),
        ("file:///srv/files/", "file:///srv/files"),
        ("file:///srv/result%20files", "file:///srv/result%20files"),
        ("s3://results", "s3://results"),
        ("s3://results/framehook/", "s3://results/framehook"),
        ("gs://results", "gs://results"),
        ("az://results", "az://results"),
    ],
)
def test_result_files_are_kept_where_the_setting_says(
    monkeypatch: pytest.MonkeyPatch, written: str, url: str | None
) -> None:
    set_all(monkeypatch, FRAMEHOOK_ARCHIVE_URL=written)

    objects = open_objects(load_settings())

    assert (objects.url if objects else None) == url


@pytest.mark.parametrize(
    ("written", "modalities"),
    [("image", ("image",)), (" image , music ", ("image", "music")), (",", ()), ("video,,", ("video",))],
)
def test_modalities_are_separated_by_commas(
    monkeypatch: pytest.MonkeyPatch, written: str, modalities: tuple[str, ...]
) -> None:
    set_all(monkeypatch, FRAMEHOOK_ARCHIVE_MODALITIES=written)

    assert load_settings().archive_modalities == modalities


def test_bad_settings_are_all_named_in_that_line(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, FRAMEHOOK_PORT="x", PUBLIC_BASE_URL="y", FRAMEHOOK_LOOPS="z")

    with pytest.raises(StartupError) as caught:
        load_settings()

    assert "\n" not in str(caught.value)
    for name in ("FRAMEHOOK_PORT", "PUBLIC_BASE_URL", "FRAMEHOOK_LOOPS"):
        assert name in str(caught.value)


@pytest.mark.parametrize("name", ["DATABASE_URL", "FRAMEHOOK_DIRECT_DATABASE_URL"])
@pytest.mark.parametrize("value", ["mysql://db.example/x", "db.example/x", "postgresql://db.example:port/x"])
async def test_a_database_address_that_is_none_is_one_line_that_names_its_setting(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    set_all(monkeypatch, DATABASE_URL="postgresql://db.example/x")
    set_all(monkeypatch, **{name: value})

    with pytest.raises(StartupError, match=rf"(^|\W){name}\b") as caught:
        async with open_database(load_settings()):
            pass

    assert "\n" not in str(caught.value)


async def test_a_password_that_breaks_its_address_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slash in a password must be escaped; whoever forgets that should not find the password in the logs."""
    set_all(monkeypatch, DATABASE_URL="postgresql://framehook:s3cret/word@db.example/framehook")

    with pytest.raises(StartupError, match="DATABASE_URL") as caught:
        async with open_database(load_settings()):
            pass

    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("public", "upstream", "poll_only"),
    [
        (None, "https://api.apiframe.ai", True),
        (None, "http://127.0.0.1:8001", True),
        ("https://hooks.example", "https://api.apiframe.ai", False),
        ("https://hooks.example", "http://127.0.0.1:8001", False),
        ("http://10.0.0.5:8000", "https://api.apiframe.ai", False),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8001", False),
        ("http://localhost:8000", "http://[::1]:8001", False),
        ("http://127.0.0.1:8000", "https://api.apiframe.ai", True),
        ("http://localhost:8000", "https://api.apiframe.ai", True),
        ("http://LOCALHOST:8000", "https://api.apiframe.ai", True),
        ("http://[::1]:8000", "https://api.apiframe.ai", True),
        ("http://0.0.0.0:8000", "https://api.apiframe.ai", True),
        # All of 127.0.0.0/8 is loopback (RFC 1122, 3.2.1.3); Debian gives a machine's own name 127.0.1.1.
        ("http://127.0.1.1:8000", "https://api.apiframe.ai", True),
        ("http://127.0.0.1:8000", "http://simulator.internal:8001", True),
    ],
)
def test_webhooks_are_asked_for_only_where_they_can_arrive(public: str | None, upstream: str, poll_only: bool) -> None:
    settings = load_settings(public_base_url=public, apiframe_base_url=upstream)

    assert settings.poll_only is poll_only


def test_a_slash_at_the_end_of_a_base_url_is_no_part_of_it() -> None:
    settings = load_settings(public_base_url="https://hooks.example/framehook/", apiframe_base_url="https://a.example/")

    assert settings.public_base_url == "https://hooks.example/framehook"
    assert settings.apiframe_base_url == "https://a.example"


def test_no_secret_is_part_of_how_settings_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(
        monkeypatch,
        DATABASE_URL="postgresql://framehook:s3cret-a@db.example/framehook",
        FRAMEHOOK_DIRECT_DATABASE_URL="postgresql://framehook:s3cret-b@db.example/framehook",
        APIFRAME_API_KEY="afk_s3cret-c",
        APIFRAME_PREVIOUS_API_KEYS="afk_s3cret-d,afk_s3cret-e",
        FRAMEHOOK_SECRET_KEY="s3cret-f",
        FRAMEHOOK_PREVIOUS_SECRET_KEY="s3cret-g",
        FRAMEHOOK_BOOTSTRAP_ADMIN_KEY="fh_s3cret-h" + "x" * 32,
    )
    settings = load_settings()

    for printed in (repr(settings), str(settings)):
        assert [f"s3cret-{letter}" for letter in "abcdefgh" if f"s3cret-{letter}" in printed] == []
