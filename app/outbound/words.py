"""What went wrong with a call, as one line for people."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from typing import Final

import aiohttp

from app.outbound.exchange import BrokenAnswer, InvalidAnswer, NoAnswer

LONGEST_ERROR: Final = 300


def describe(error: aiohttp.ClientError | OSError) -> str:
    """One line that says what went wrong, safe to keep: parts of it may be the other side's words."""
    text = "".join(letter if letter.isprintable() else " " for letter in _words(error))
    return " ".join(text.split())[:LONGEST_ERROR]


def _words(error: aiohttp.ClientError | OSError) -> str:
    match error:
        case aiohttp.ClientConnectorError():
            return _system_words(error.os_error)
        case NoAnswer() | aiohttp.ServerDisconnectedError():
            return "the connection was closed without an answer"
        case BrokenAnswer() | aiohttp.ClientPayloadError():
            return "the answer broke off"
        case InvalidAnswer() | aiohttp.ClientResponseError():
            return f"the answer is not valid HTTP: {getattr(error, 'message', error)}"
        case OSError():
            return _system_words(error)
        case _:
            return str(error) or type(error).__name__


def _system_words(error: OSError) -> str:
    match error:
        case socket.gaierror():
            return f"DNS: {(error.strerror or str(error)).lower()}"
        case ssl.SSLCertVerificationError():
            return f"TLS: certificate verify failed: {error.verify_message}"
        case ssl.SSLError():
            return f"TLS: {(error.reason or str(error)).replace('_', ' ').lower()}"
        case ConnectionResetError():
            return "connection reset by peer"
        case OSError(errno=int(number)) if number in errno.errorcode:
            return os.strerror(number).lower()
        case _:
            return str(error) or type(error).__name__
