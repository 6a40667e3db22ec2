"""The simulator's own OpenAPI document: its JSON submissions, with the webhook fields spelled as the bodies take them."""

from __future__ import annotations

from typing import Any

from app.simulator.bodies import variants
from app.simulator.catalog import OPERATIONS, Schema
from app.simulator.config import SimulatorConfig

_ERROR: Schema = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
_ACCEPTED: Schema = {
    "type": "object",
    "properties": {"jobId": {"type": "string", "format": "uuid"}, "status": {"type": "string"}},
    "required": ["jobId", "status"],
}
_REFUSALS = {
    "400": "Request body failed validation.",
    "401": "The API key is missing or invalid.",
    "402": "Not enough credits.",
    "403": "The API key is inactive or lacks permission.",
    "409": "The idempotency key stands for another body, or the action does not fit the parent job.",
    "429": "Too many requests, or too many jobs at once.",
    "503": "Temporarily unavailable.",
}


def openapi(config: SimulatorConfig) -> dict[str, Any]:
    """Describe the job-creating calls."""
    bodies = {_name(operation): {"oneOf": list(variants(operation, config).values())} for operation in OPERATIONS}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Simulated Apiframe", "version": "2.0.0"},
        "paths": {f"/v2/{operation}": {"post": _operation(operation)} for operation in OPERATIONS},
        "components": {
            "schemas": {"JobAccepted": _ACCEPTED, "ErrorResponse": _ERROR, **bodies},
            "securitySchemes": {"ApiKeyAuth": {"type": "apiKey", "in": "header", "name": "X-API-Key"}},
        },
    }


def _operation(operation: str) -> dict[str, Any]:
    key = {"name": "Idempotency-Key", "in": "header", "schema": {"type": "string", "maxLength": 255}}
    refusals = {status: _answer(text, "ErrorResponse") for status, text in _REFUSALS.items()}
    return {
        "summary": f"Submit {operation}",
        "parameters": [key],
        "requestBody": {"required": True, "content": _content(_name(operation))},
        "responses": {"202": _answer("The job was accepted.", "JobAccepted"), **refusals},
        "security": [{"ApiKeyAuth": []}],
    }


def _answer(description: str, schema: str) -> dict[str, Any]:
    return {"description": description, "content": _content(schema)}


def _content(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _name(operation: str) -> str:
    """Name an operation's body: `videos/generate` takes a VideosGenerateRequest."""
    words = operation.replace("-", "/").split("/")
    return "".join(word.capitalize() for word in words) + "Request"
