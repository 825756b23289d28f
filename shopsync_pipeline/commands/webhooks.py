"""`shopsync webhooks` and `shopsync data-requests`."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from shopsync_pipeline import views
from shopsync_pipeline.commands.follow import asked, fail_where_one_did, shown, tell_what_was_done
from shopsync_pipeline.commands.shared import (
    Json,
    Organizations,
    camel,
    err,
    examples,
    group,
    out,
    print_json,
    tables,
)
from shopsync_pipeline.db import credentials, data_requests, dead_letters, integrations
from shopsync_pipeline.errors import ConfigurationError
from shopsync_pipeline.models import SyncRequest
from shopsync_pipeline.settings import Settings
from shopsync_pipeline.shopify.subscriptions import TOPICS, lacking

webhooks_app = group("Real-time sync by Shopify's webhooks.")
requests_app = group("What people ask a store for by law: the data that is held of them.")


@webhooks_app.command(epilog=examples("shopsync webhooks enable", "shopsync webhooks enable acme"))
def enable(organizations: Organizations = None, as_json: Json = False) -> None:
    """Turn real-time sync on: subscribe to the webhooks of the organizations' stores."""
    ended = asked("realtime", organizations, as_json=as_json)
    stores = _subscribed(ended)
    if as_json:
        print_json({"requests": [shown(request) for request in ended], "stores": stores})
    else:
        tell_what_was_done(ended)
        for store in stores:
            out.print(_line(store), markup=False, soft_wrap=True)
    _warn_of_unsigned()
    fail_where_one_did(ended)


@webhooks_app.command(
    epilog=examples("shopsync webhooks disable acme", "shopsync webhooks disable --json")
)
def disable(organizations: Organizations = None, as_json: Json = False) -> None:
    """Turn real-time sync off: have Shopify send no more webhooks; the hourly sync goes on."""
    ended = asked("realtime", organizations, "off", as_json=as_json)
    if as_json:
        print_json({"requests": [shown(request) for request in ended]})
    else:
        tell_what_was_done(ended)
    fail_where_one_did(ended)


def _subscribed(ended: Sequence[SyncRequest]) -> list[dict[str, Any]]:
    """Of the organizations that have real-time sync now: each store's topics, by its scopes."""
    wanted = [each.organization_id for each in ended if each.organization_id]
    with tables() as conn:
        scopes = integrations.realtime_scopes(conn, wanted)
    told = []
    for organization, shop, granted in scopes:
        needed = lacking(granted)
        topics = [topic for topic in TOPICS if topic not in needed]
        told.append(
            {
                "organizationId": organization,
                "shop": shop,
                "topics": topics,
                "lackingScopes": needed,
            }
        )
    return told


def _line(store: dict[str, Any]) -> str:
    told = f"{store['organizationId']}, {store['shop']}: {', '.join(store['topics'])}."
    lacks = [f"{topic} needs {scope}" for topic, scope in store["lackingScopes"].items()]
    return f"{told} Not subscribed: {', '.join(lacks)}." if lacks else told


def _warn_of_unsigned() -> None:
    if Settings.from_env().webhook_secrets:
        return
    with tables() as conn:
        unsigned = credentials.without_secret(conn)
    for organization, shop in unsigned:
        err.print(
            f"{organization}, {shop}: its webhooks cannot be verified yet and are refused. Set "
            "SHOPIFY_WEBHOOK_SECRET, its app's client secret, and start shopsync up again.",
            style="yellow",
            markup=False,
            soft_wrap=True,
        )


@webhooks_app.command(epilog=examples("shopsync webhooks dead", "shopsync webhooks dead --json"))
def dead(as_json: Json = False) -> None:
    """List what could not be processed, each with its reason."""
    with tables() as conn:
        letters = dead_letters.dead(conn)
    if as_json:
        print_json({"deadLetters": [camel(letter) for letter in letters]})
    else:
        out.print(views.dead_letters_table(letters) if letters else "There are no dead letters.")


@webhooks_app.command(
    epilog=examples(
        "shopsync webhooks replay --all",
        "shopsync webhooks replay 01a1f3d2-7c1e-7b1a-9d2e-3f4a5b6c7d8e",
    )
)
def replay(
    events: Annotated[list[str] | None, typer.Argument(help="Ids, as `dead` lists them.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All dead letters.")] = False,
    as_json: Json = False,
) -> None:
    """Put dead letters back into the inbox, to be processed anew."""
    if bool(events) == every:
        raise ConfigurationError("Give the ids of dead letters, or --all.")
    with tables() as conn, conn.transaction():
        count = dead_letters.replay(conn, events)
    if not count:
        raise ConfigurationError("There is no such dead letter. See: shopsync webhooks dead.")
    if as_json:
        print_json({"replayed": count})
    else:
        out.print(f"{count} put back. What still fails is listed again by: shopsync webhooks dead")


@requests_app.command(
    "list", epilog=examples("shopsync data-requests list", "shopsync data-requests list --json")
)
def list_(as_json: Json = False) -> None:
    """Who asked, through which store, and whether it was exported."""
    with tables() as conn:
        filed = data_requests.everything(conn)
    if as_json:
        print_json({"dataRequests": [camel(request) for request in filed]})
    else:
        out.print(views.data_requests_table(filed) if filed else "Nobody asked for their data.")


@requests_app.command(
    epilog=examples("shopsync data-requests export 01a1f3d2-7c1e-7b1a-9d2e-3f4a5b6c7d8e")
)
def export(
    request: Annotated[str, typer.Argument(help="Its id, as `list` shows it.")],
    as_json: Annotated[bool, typer.Option("--json", help="It is JSON anyway.")] = False,
) -> None:
    """Print as JSON what is held of the person, to be handed to the merchant."""
    with tables() as conn:
        held = data_requests.export(conn, request)
    if held is None:
        raise ConfigurationError(
            f"There is no data request {request}. See: shopsync data-requests list."
        )
    print_json(held)
