"""`/openapi.json`: the routes, with every status each can answer; written by hand."""

from typing import Any

from shopsync_pipeline.settings import ORGANIZATION, SHOP
from shopsync_pipeline.shopify.webhooks import TOPIC

VERSION = "1"

Json = dict[str, Any]


def _ref(kind: str, name: str) -> Json:
    return {"$ref": f"#/components/{kind}/{name}"}


def _content(schema: str) -> Json:
    return {"application/json": {"schema": _ref("schemas", schema)}}


def _answer(description: str, schema: str) -> Json:
    return {"description": description, "content": _content(schema)}


def _error(description: str, **headers: str) -> Json:
    answer = _answer(description, "Error")
    if headers:
        answer["headers"] = {
            name.replace("_", "-"): {"description": text, "schema": {"type": "string"}}
            for name, text in headers.items()
        }
    return answer


def _object(required: list[str], **properties: Json) -> Json:
    return {"type": "object", "required": required, "properties": properties}


def _may_be_null(kind: str, **more: str) -> Json:
    return {"type": [kind, "null"], **more}


def _text(pattern: str, description: str) -> Json:
    return {"type": "string", "pattern": f"^(?:{pattern})$", "description": description}


def _header(name: str, schema: Json, *, required: bool = False) -> Json:
    return {"name": name, "in": "header", "required": required, "schema": schema}


def _operation(summary: str, answers: Json, errors: list[str], **more: Any) -> Json:
    """Every route may also refuse what is no HTTP, or too slow to arrive."""
    refused = {status[:3]: _ref("responses", status) for status in ["400", "408", *errors]}
    return {"summary": summary, "responses": answers | refused, **more}


SECRET: Json = {"type": "string", "pattern": "^[!-~]{1,1024}$", "writeOnly": True}
TIME: Json = {"type": "string", "format": "date-time"}
STATUSES = ["queued", "running", "succeeded", "failed"]
MODE: Json = {"type": "string", "enum": ["incremental", "full"]}

SCHEMAS: Json = {
    "Error": _object(["error"], error={"type": "string", "description": "what to do"}),
    "State": _object(["status"], status={"type": "string"}),
    "SyncOrder": {
        **_object(
            ["organizationId"],
            organizationId=_text(ORGANIZATION.pattern, "the app's id of the organization"),
            shop=_text(SHOP.pattern, "needed with credentials; without, the organization's"),
            name={"type": "string", "minLength": 1, "maxLength": 200},
            mode=MODE | {"default": "incremental"},
            accessToken=SECRET,
            clientId=SECRET,
            clientSecret=SECRET,
            refreshToken=SECRET,
            webhookSecret=SECRET,
        ),
        "additionalProperties": False,
        "description": (
            "Credentials are accessToken alone, or clientId and clientSecret, with refreshToken "
            "where the app has one; webhookSecret may come besides. They replace those that are "
            "stored when the run's probe has succeeded, and may be left out once stored. A name "
            "counts only with credentials."
        ),
    },
    "SyncFiled": _object(
        ["requestId", "status", "statusUrl"],
        requestId={"type": "string", "format": "uuid"},
        status={"type": "string", "const": "queued"},
        statusUrl={"type": "string", "description": "the path to ask for what became of it"},
    ),
    "CronFiled": _object(
        ["requestId", "organizations", "skipped"],
        requestId={"type": "string", "format": "uuid"},
        organizations={"type": "integer", "description": "with a store that is due"},
        skipped={"type": "integer", "description": "with active stores, none of them due"},
    ),
    "SyncRequest": _object(
        ["requestId", "status", "kind", "organizationId", "mode", "counts", "error", "runId"],
        requestId={"type": "string", "format": "uuid"},
        status={"type": "string", "enum": STATUSES},
        kind={"type": "string", "enum": ["sync", "cron", "realtime", "reconcile"]},
        organizationId=_may_be_null("string", description="null: all that were due"),
        mode=MODE,
        counts={"type": "object", "additionalProperties": {"type": "integer"}},
        error=_may_be_null("string"),
        runId=_may_be_null("string", description="of the run in Dagster"),
        requestedAt=TIME,
        finishedAt=_may_be_null("string", format="date-time"),
    ),
}

RESPONSES: Json = {
    "400": _error("No HTTP request as this route takes it."),
    "400-webhook": _error("The header of the shop or of the topic is missing or malformed."),
    "401": _error("No bearer token, or not the right one.", WWW_Authenticate="Bearer"),
    "401-webhook": _error("No connected store's secret signed this body."),
    "404-request": _error("No request has this id."),
    "404-store": _error("The organization has no such connected store, and no credentials came."),
    "408": _error("Head or body did not arrive within 5 seconds; the connection is closed."),
    "413": _error("The body is larger than 1 MiB; the connection is closed."),
    "422": _error("A field is unknown, missing or malformed, and is named."),
    "503": _error(
        "The database does not do what is asked, or the variable of the bearer is not set.",
        Retry_After="seconds, where it is the database",
    ),
}

DELIVERY: list[Json] = [
    _header("X-Shopify-Shop-Domain", _text(SHOP.pattern, "the store"), required=True),
    _header("X-Shopify-Topic", _text(TOPIC.pattern, "what happened"), required=True),
    _header("X-Shopify-Webhook-Id", {"type": "string", "description": "repeated: stays one row"}),
    _header("X-Shopify-Event-Id", {"type": "string"}),
    _header("X-Shopify-API-Version", {"type": "string"}),
    _header("X-Shopify-Triggered-At", TIME),
]

REQUEST_ID: Json = {
    "name": "requestId",
    "in": "path",
    "required": True,
    "schema": {"type": "string"},
}

PATHS: Json = {
    "/api/webhooks/shopify": {
        "post": _operation(
            "Take in a webhook of Shopify: verified, stored, worked off later",
            {"200": _answer("Stored, now or by an earlier delivery.", "State")},
            ["400-webhook", "401-webhook", "413", "503"],
            security=[{"shopifySignature": []}],
            parameters=DELIVERY,
            requestBody={"content": {"application/json": {"schema": {}}}},
        )
    },
    "/api/integrations/shopify/sync": {
        "post": _operation(
            "Ask for a sync of one organization, and connect a store where credentials come",
            {"202": _answer("Queued; repeated while it is, the same request.", "SyncFiled")},
            ["401", "404-store", "413", "422", "503"],
            security=[{"apiToken": []}],
            requestBody={"required": True, "content": _content("SyncOrder")},
        )
    },
    "/api/integrations/shopify/sync/{requestId}": {
        "get": _operation(
            "What became of a request",
            {"200": _answer("As it stands.", "SyncRequest")},
            ["401", "404-request", "503"],
            security=[{"apiToken": []}],
            parameters=[REQUEST_ID],
        )
    },
    "/api/cron/shopify-sync": {
        "get": _operation(
            "Ask for a sync of all organizations that are due",
            {"202": _answer("Queued.", "CronFiled")},
            ["401", "503"],
            security=[{"cronSecret": []}],
        )
    },
    "/healthz": {
        "get": _operation("The process is alive", {"200": _answer("It is.", "State")}, [])
    },
    "/readyz": {
        "get": _operation(
            "The database can be reached and is migrated",
            {"200": _answer("It is.", "State")},
            ["503"],
        )
    },
    "/metrics": {
        "get": _operation(
            "Figures for Prometheus: of this process, and of the deployment while Postgres answers",
            {
                "200": {
                    "description": "Prometheus's text format; organizations and shops only with "
                    "the bearer.",
                    "content": {"text/plain": {"schema": {"type": "string"}}},
                }
            },
            ["401", "503"],
            security=[{}, {"apiToken": []}],
        )
    },
    "/openapi.json": {
        "get": _operation(
            "This description",
            {"200": {"description": "OpenAPI 3.1", "content": {"application/json": {}}}},
            [],
        )
    },
}

DESCRIPTION: Json = {
    "openapi": "3.1.0",
    "info": {"title": "Shopsync receiver", "version": VERSION},
    "paths": PATHS,
    "components": {
        "schemas": SCHEMAS,
        "responses": RESPONSES,
        "securitySchemes": {
            "apiToken": {"type": "http", "scheme": "bearer", "description": "SHOPSYNC_API_TOKEN"},
            "cronSecret": {"type": "http", "scheme": "bearer", "description": "CRON_SECRET"},
            "shopifySignature": {
                "type": "apiKey",
                "in": "header",
                "name": "X-Shopify-Hmac-Sha256",
                "description": "base64 of HMAC-SHA256 of the raw body",
            },
        },
    },
}
