"""A tap of the Singer SDK (Meltano), synced once; each account is a context with its own state."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, ClassVar

from measured import asked, measure
from singer_sdk import RESTStream, Tap
from singer_sdk import typing as th
from singer_sdk.authenticators import BearerTokenAuthenticator


class Conversations(RESTStream[str]):
    name = "conversations"
    path = "/v1/{account}/conversations"
    primary_keys = ("id",)
    replication_key = "updated_at"
    records_jsonpath = "$.data[*]"
    next_page_token_jsonpath = "$.next_cursor"
    schema: ClassVar[Any] = th.PropertiesList(
        th.Property("id", th.StringType),
        th.Property("status", th.StringType),
        th.Property("unread_count", th.IntegerType),
        th.Property("updated_at", th.DateTimeType),
    ).to_dict()

    @property
    def url_base(self) -> str:
        return str(self.config["url"])

    @property
    def authenticator(self) -> BearerTokenAuthenticator:
        return BearerTokenAuthenticator(token=self.config["key"])

    @property
    def partitions(self) -> list[dict[str, str]]:
        return [{"account": account} for account in self.config["accounts"]]

    def get_url_params(self, context: Any, next_page_token: str | None) -> dict[str, Any]:
        params: dict[str, Any] = {"limit": 100}
        since = self.get_starting_replication_key_value(context)
        if since:
            params["updated_since"] = since
        if next_page_token:
            params["cursor"] = next_page_token
        return params


class TapKirimdev(Tap):
    name = "tap-kirimdev"
    config_jsonschema: ClassVar[Any] = th.PropertiesList(
        th.Property("url", th.StringType, required=True),
        th.Property("key", th.StringType, required=True, secret=True),
        th.Property("accounts", th.ArrayType(th.StringType), required=True),
    ).to_dict()

    def discover_streams(self) -> list[Conversations]:
        return [Conversations(self)]


def main() -> None:
    wanted = asked()
    folder = Path(wanted["folder"])
    config = {name: wanted[name] for name in ("url", "key", "accounts")}
    state = folder / "state.json"

    def sync() -> None:
        with (folder / "out.jsonl").open("a") as out, contextlib.redirect_stdout(out):
            TapKirimdev(config=config, state=state if state.exists() else None).sync_all()

    measure(wanted, sync)


if __name__ == "__main__":
    main()
