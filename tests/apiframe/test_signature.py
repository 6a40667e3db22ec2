"""Proof that a webhook is the upstream's: both readings of the vendor's docs, and tokens that only we can make."""

from __future__ import annotations

import base64
import hashlib
import hmac
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.apiframe.signature import check, fingerprint, make_token, token_is_ours, webhook_url

KEY = "afk_key"
BODY = b'{"event":"completed"}'
JOB = UUID("0190a0c0-0000-7000-8000-000000000001")

# Made by openssl: `printf '%s' '{"event":"completed"}' | openssl dgst -sha256`, with $key=$(printf afk_key | sha256sum)
# as `-mac HMAC -macopt hexkey:$key`, the 32 bytes, and as `-hmac $key`, their 64 letters.
BY_DIGEST = "5b1626371137fd07fa340585426ad7bfec9fa3dad5d2b12662de6557f449ce0c"
BY_HEX_TEXT = "f25ee9f633358d4aa39eab5ac47578de8e03640c4af63682fc3b7e62b09f2722"


@pytest.mark.parametrize("signed", [BY_DIGEST, BY_HEX_TEXT], ids=["digest", "hex text"])
@pytest.mark.parametrize(
    "written", ["{}", "sha256={}", " sha256={} "], ids=["bare", "with its prefix", "between spaces"]
)
def test_both_readings_of_the_secret_and_both_ways_to_write_it_are_valid(signed: str, written: str) -> None:
    assert check(BODY, written.format(signed), [KEY]) == "valid"
    assert check(BODY, written.format(signed.upper()), [KEY]) == "valid"


@pytest.mark.parametrize("keys", [[KEY, "afk_old"], ["afk_new", KEY], ["afk_new", "afk_newer", KEY]])
def test_any_of_the_keys_may_have_signed(keys: list[str]) -> None:
    assert check(BODY, BY_DIGEST, keys) == "valid"


@pytest.mark.parametrize(
    "header",
    [
        "sha256=",
        "sha256",
        "0" * 64,
        BY_DIGEST[:-1],
        BY_DIGEST + "0",
        BY_DIGEST[::-1],
        f"sha1={BY_DIGEST}",
        f"sha256=sha256={BY_DIGEST}",
        f"{BY_DIGEST}, {BY_HEX_TEXT}",
        "é" * 64,
        "sha256=" + base64.b64encode(bytes.fromhex("00" * 32)).decode(),
    ],
)
def test_anything_else_in_the_header_is_wrong(header: str) -> None:
    assert check(BODY, header, [KEY]) == "wrong"


def test_the_plain_key_and_an_empty_one_are_no_secrets() -> None:
    for secret in (KEY.encode(), b"", hashlib.sha256(b"").digest()):
        assert check(BODY, hmac.new(secret, BODY, "sha256").hexdigest(), [KEY]) == "wrong"


def test_a_signature_of_another_key_is_wrong_and_so_is_any_without_keys() -> None:
    assert check(BODY, BY_DIGEST, ["afk_other"]) == "wrong"
    assert check(BODY, BY_DIGEST, []) == "wrong"


@pytest.mark.parametrize("header", [None, ""])
def test_no_signature_is_absent_rather_than_wrong(header: str | None) -> None:
    assert check(BODY, header, [KEY]) == "absent"


@given(st.binary(max_size=50), st.integers(0), st.integers(0, 7))
def test_one_changed_bit_of_the_body_is_wrong(body: bytes, place: int, bit: int) -> None:
    signed = hmac.new(hashlib.sha256(KEY.encode()).digest(), body, "sha256").hexdigest()
    changed = bytearray(body + b"\0")
    changed[place % len(changed)] ^= 1 << bit

    assert check(body, signed, [KEY]) == "valid"
    assert check(bytes(changed), signed, [KEY]) == "wrong"


def test_a_token_is_our_hmac_of_the_job_id_in_url_safe_letters() -> None:
    token = make_token(b"secret", JOB)

    digest = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    assert digest == hmac.new(b"secret", str(JOB).encode(), hashlib.sha256).digest()
    assert len(digest) * 8 >= 128
    assert token.replace("-", "").replace("_", "").isalnum()


def test_a_token_is_ours_by_the_current_or_a_previous_secret_for_its_own_job_only() -> None:
    token = make_token(b"old", JOB)

    assert token_is_ours(token, [b"old"], JOB)
    assert token_is_ours(token, [b"new", b"old"], JOB)
    assert not token_is_ours(token, [b"new"], JOB)
    assert not token_is_ours(token, [b"new", b"old"], uuid4())


@pytest.mark.parametrize("token", ["", "x", "é", "\udcff".encode("utf-8", "replace").decode(), "A" * 10_000])
def test_a_token_that_nobody_made_is_not_ours(token: str) -> None:
    assert not token_is_ours(token, [b"new", b"old"], JOB)


@given(st.integers(0, 42), st.sampled_from("ABab01-_"))
def test_a_token_with_one_letter_changed_is_not_ours(place: int, letter: str) -> None:
    token = make_token(b"secret", JOB)
    changed = token[:place] + letter + token[place + 1 :]

    assert token_is_ours(changed, [b"secret"], JOB) == (changed == token)


def test_the_webhook_url_carries_the_job_and_its_token() -> None:
    token = make_token(b"secret", JOB)

    url = webhook_url("https://hooks.example/base", b"secret", JOB)

    assert url == f"https://hooks.example/base/webhooks/apiframe/{JOB}/{token}"


def test_a_keys_fingerprint_is_not_its_webhook_secret() -> None:
    secret = hashlib.sha256(KEY.encode()).hexdigest()

    assert fingerprint(KEY) != fingerprint("afk_other")
    assert fingerprint(KEY) not in secret
