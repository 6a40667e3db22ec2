"""The shapes of what makes no job: models, uploads, assets, LoRAs, and who one is. They are Apiframe's own."""

from __future__ import annotations

from typing import Any, Final

from app.reference.shapes import (
    COUNT,
    TEXT,
    TEXT_OR_NULL,
    TIME,
    TIME_OR_NULL,
    Route,
    answer,
    failure,
    query,
    record,
    ref,
)

TAG: Final = "passed through"

_ID: Final = {"type": "string", "format": "uuid"}
_URI: Final = {"type": "string", "format": "uri"}
_KIND: Final = {"enum": ["image", "video", "audio"]}
_FLAG: Final = {"type": "boolean"}
_FILE: Final = {"type": "string", "format": "binary"}

SCHEMAS: Final[dict[str, Any]] = {
    "ModelCatalog": record(models={"type": "array", "items": {"type": "object"}}),
    "Upload": record(
        id=_ID,
        url=_URI,
        kind=_KIND,
        contentType=TEXT,
        byteSize=COUNT,
        expiresAt=TIME | {"description": "In an hour or two."},
    ),
    "AssetCreated": record(assetId=TEXT),
    "LoraCreated": record(id=_ID, status={"enum": ["PENDING"]}, imageCount=COUNT),
    "Lora": record(
        id=_ID,
        userId=_ID | {"description": "The company's, at Apiframe; so is `teamId`."},
        teamId=_ID,
        name=TEXT,
        subjectKind={"enum": ["person", "style", "object"]},
        gender=TEXT_OR_NULL,
        ethnicity=TEXT_OR_NULL,
        age=TEXT_OR_NULL,
        status={"enum": ["PENDING", "UPLOADING", "TRAINING", "READY", "FAILED", "ARCHIVED"]},
        imageCount=COUNT,
        steps=COUNT,
        loraRank=COUNT,
        isReady=_FLAG,
        error=TEXT_OR_NULL,
        createdAt=TIME,
        startedAt=TIME_OR_NULL,
        completedAt=TIME_OR_NULL,
        hasWeights=_FLAG,
        triggerWord=TEXT_OR_NULL,
    ),
    "LoraList": record(items={"type": "array", "items": ref("Lora")}, nextCursor=TEXT_OR_NULL),
    "Me": record(
        user=record(id=_ID, email={"type": "string", "format": "email"}, role={"enum": ["ADMIN", "MEMBER"]}),
        team=record(
            id=_ID,
            name=TEXT,
            credits=COUNT | {"description": "Left of the team's monthly budget, or of the account where it has none."},
            plan=TEXT,
            customerId=TEXT_OR_NULL,
            maxConcurrentJobs=COUNT,
        ),
        apiKey=record(id=_ID, name=TEXT, prefix=TEXT),
    ),
}

_FAILED: Final = {
    "403": failure("The key lacks the scope, or Apiframe forbids this request"),
    "429": failure("Apiframe's: see Retry-After"),
    "502": failure("Apiframe did not answer, or not sensibly; what was sent may have been accepted"),
}
_TOO_LARGE: Final = {
    "408": failure("The rest of the body did not come"),
    "413": failure("The body is too large"),
}
_NOT_FOUND: Final = {"404": failure("Your team has none of this id")}
_LORA: Final = "/v2/loras/{lora_id}"

ANSWERS: Final[dict[Route, Any]] = {
    ("GET", "/v2/models"): {"200": answer("The models", ref("ModelCatalog"))} | _FAILED,
    ("POST", "/v2/uploads"): {"201": answer("The file", ref("Upload"))} | _FAILED | _TOO_LARGE,
    ("POST", "/v2/assets/create"): {
        "201": answer("The asset", ref("AssetCreated"), {"assetId": "asset-20260801-7k2p"}),
    }
    | _FAILED
    | _TOO_LARGE,
    ("GET", "/v2/assets/{asset_id}"): {"200": answer("The asset, in its provider's words", {"type": "object"})}
    | _FAILED
    | _NOT_FOUND,
    ("POST", "/v2/loras"): {
        "202": answer("The LoRA, which is to be trained", ref("LoraCreated")),
        "402": failure("Apiframe's account has no credits left"),
    }
    | _FAILED
    | _TOO_LARGE,
    ("GET", "/v2/loras"): {"200": answer("A page of LoRAs", ref("LoraList"))} | _FAILED,
    ("GET", _LORA): {"200": answer("The LoRA", ref("Lora"))} | _FAILED | _NOT_FOUND,
    ("DELETE", _LORA): {"204": {"description": "It is archived"}} | _FAILED | _NOT_FOUND,
    ("GET", "/v2/me"): {"200": answer("The key, its team, and a user that stands for it", ref("Me"))},
}


def _form(required: list[str], **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "required": required, "properties": properties}
    return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}


BODIES: Final[dict[Route, Any]] = {
    ("POST", "/v2/uploads"): _form(["file"], file=_FILE),
    ("POST", "/v2/assets/create"): {
        "required": True,
        "content": {
            "application/json": {
                "schema": record(url=_URI, type=_KIND),
                "example": {"url": "https://example.com/first-frame.png", "type": "image"},
            }
        },
    },
    ("POST", "/v2/loras"): _form(
        ["name", "images"],
        name={"type": "string", "minLength": 1, "maxLength": 60},
        images={"type": "array", "items": _FILE, "minItems": 15, "maxItems": 30},
        subjectKind={"enum": ["person", "style", "object"], "default": "person"},
        gender={"enum": ["female", "male", "non-binary"], "description": "Required of persons."},
        ethnicity={"type": "string", "description": "Required of persons."},
        age=TEXT,
        steps={"type": "integer", "minimum": 500, "maximum": 3000},
        loraRank={"type": "integer", "minimum": 8, "maximum": 64},
        webhookUrl=_URI | {"description": "Called by Apiframe itself."},
        webhookEvents={"type": "string", "description": "Such as `completed,failed`."},
    ),
}

PARAMETERS: Final[dict[Route, Any]] = {
    ("GET", "/v2/models"): [query("modality", {"enum": ["image", "video", "music"]})],
    ("GET", "/v2/loras"): [
        query("limit", {"type": "integer", "minimum": 1, "maximum": 100, "default": 24}),
        query("cursor", TEXT, "The `nextCursor` of the page before"),
        query("includeArchived", {"enum": ["true", "false"], "default": "false"}),
    ],
}
