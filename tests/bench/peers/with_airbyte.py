"""A low-code connector of the Airbyte CDK, read once, as its platform does it."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from airbyte_cdk.entrypoint import AirbyteEntrypoint
from airbyte_cdk.models import AirbyteStateMessageSerializer, ConfiguredAirbyteCatalogSerializer
from airbyte_cdk.sources.declarative.yaml_declarative_source import YamlDeclarativeSource
from measured import asked, measure

SCHEMA = {
    "type": "object",
    "additionalProperties": True,
    "properties": {"id": {"type": "string"}, "updated_at": {"type": "string"}},
}


def manifest(lookback: str) -> dict[str, object]:
    """Write the connector: a partition and a cursor for each account, ten at a time."""
    cursor = {
        "type": "DatetimeBasedCursor",
        "cursor_field": "updated_at",
        "datetime_format": "%Y-%m-%dT%H:%M:%S.%_msZ",
        "cursor_granularity": "PT0.001S",
        "start_datetime": "2000-01-01T00:00:00.000Z",
        "start_time_option": {
            "type": "RequestOption",
            "inject_into": "request_parameter",
            "field_name": "updated_since",
        },
    }
    del cursor["cursor_granularity"]  # Only a cursor with a step has one.
    if lookback:
        cursor["lookback_window"] = lookback
    requester = {
        "type": "HttpRequester",
        "url_base": "{{ config['url'] }}",
        "path": "/v1/{{ stream_partition.account }}/conversations",
        "authenticator": {"type": "BearerAuthenticator", "api_token": "{{ config['key'] }}"},
        "request_parameters": {"limit": "100"},
    }
    paginator = {
        "type": "DefaultPaginator",
        "page_token_option": {
            "type": "RequestOption",
            "inject_into": "request_parameter",
            "field_name": "cursor",
        },
        "pagination_strategy": {
            "type": "CursorPagination",
            "cursor_value": "{{ response.next_cursor }}",
            "stop_condition": "{{ not response.has_more }}",
        },
    }
    stream = {
        "type": "DeclarativeStream",
        "name": "conversations",
        "primary_key": ["id"],
        "schema_loader": {"type": "InlineSchemaLoader", "schema": SCHEMA},
        "incremental_sync": cursor,
        "retriever": {
            "type": "SimpleRetriever",
            "requester": requester,
            "paginator": paginator,
            "record_selector": {
                "type": "RecordSelector",
                "extractor": {"type": "DpathExtractor", "field_path": ["data"]},
            },
            "partition_router": {
                "type": "ListPartitionRouter",
                "cursor_field": "account",
                "values": "{{ config['accounts'] }}",
            },
        },
    }
    return {
        "version": "7.0.0",
        "type": "DeclarativeSource",
        "check": {"type": "CheckStream", "stream_names": ["conversations"]},
        "concurrency_level": {"type": "ConcurrencyLevel", "default_concurrency": 10},
        "streams": [stream],
        "spec": {
            "type": "Spec",
            "connection_specification": {"type": "object", "additionalProperties": True},
        },
    }


def main() -> None:
    wanted = asked()
    folder = Path(wanted["folder"])
    state = folder / "state.json"
    stream = {
        "name": "conversations",
        "json_schema": SCHEMA,
        "supported_sync_modes": ["full_refresh", "incremental"],
    }
    modes = {"sync_mode": "incremental", "destination_sync_mode": "append_dedup"}
    catalog = {"streams": [{"stream": stream, **modes, "cursor_field": ["updated_at"]}]}
    config = {name: wanted[name] for name in ("url", "key", "accounts")}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "catalog.json").write_text(json.dumps(catalog))
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest(wanted["variant"])))
    words = ["read", "--config", str(folder / "config.json")]
    words += ["--catalog", str(folder / "catalog.json")]
    if state.exists():
        words += ["--state", str(state)]
    kept = json.loads(state.read_text()) if state.exists() else []

    def sync() -> None:
        source = YamlDeclarativeSource(
            path_to_yaml=str(folder / "manifest.yaml"),
            config=config,
            catalog=ConfiguredAirbyteCatalogSerializer.load(catalog),
            state=[AirbyteStateMessageSerializer.load(one) for one in kept],
        )
        with (folder / "out.jsonl").open("a", buffering=1) as out:
            for line in AirbyteEntrypoint(source).run(AirbyteEntrypoint.parse_args(words)):
                out.write(f"{line}\n")

    measure(wanted, sync)


if __name__ == "__main__":
    main()
