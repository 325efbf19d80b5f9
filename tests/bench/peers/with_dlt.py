"""dlt's ``rest_api`` source: accounts, their conversations, and the one cursor it has for them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dlt
from dlt.sources.rest_api import rest_api_source
from measured import asked, measure


def source(wanted: dict[str, Any]) -> Any:
    @dlt.resource(name="accounts", selected=False)
    def accounts() -> Iterator[list[dict[str, str]]]:
        yield [{"id": account} for account in wanted["accounts"]]

    incremental = {"cursor_path": "updated_at", "initial_value": "2000-01-01T00:00:00.000Z"}
    if wanted["variant"]:
        incremental["lag"] = float(wanted["variant"])
    endpoint = {
        "path": "v1/{resources.accounts.id}/conversations",
        "data_selector": "data",
        "params": {"limit": 100, "updated_since": "{incremental.start_value}"},
        "incremental": incremental,
    }
    paginator = {"type": "cursor", "cursor_path": "next_cursor", "cursor_param": "cursor"}
    return rest_api_source(
        {
            "client": {
                "base_url": wanted["url"],
                "auth": {"type": "bearer", "token": wanted["key"]},
                "paginator": paginator,
            },
            "resource_defaults": {"primary_key": "id", "write_disposition": "merge"},
            "resources": [
                accounts(),
                {"name": "conversations", "parallelized": True, "endpoint": endpoint},
            ],
        }
    )


def main() -> None:
    wanted = asked()
    folder = Path(wanted["folder"])

    @dlt.destination(batch_size=1000, name="lines", naming_convention="direct")
    def lines(items: Any, table: Any) -> None:
        with (folder / "out.jsonl").open("a") as out:
            for item in items:
                out.write(json.dumps({"id": item["id"]}) + "\n")

    def sync() -> None:
        pipeline = dlt.pipeline("peers", destination=lines, pipelines_dir=str(folder / "dlt"))
        pipeline.run(source(wanted))

    measure(wanted, sync)


if __name__ == "__main__":
    main()
