"""`indexer serve`: the search page and the HTTP API."""

from __future__ import annotations

from pathlib import Path

import click

from indexer.errors import InputError
from indexer.options import device_option, emit, json_option, pictures_option, table_option


@click.command("serve", short_help="The search page and the HTTP API, on this machine.")
@click.argument("db")
@table_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Any but this machine needs a token and TLS.")
@click.option("--port", default=8321, show_default=True, type=click.IntRange(1, 65_535))
@click.option("--token-file", type=click.Path(path_type=Path), metavar="F", help="File (mode 600) with a token.")
@click.option("--certificate", type=click.Path(path_type=Path), metavar="PEM", help="TLS certificate.")
@click.option("--key", type=click.Path(path_type=Path), metavar="PEM", help="Key of the TLS certificate.")
@click.option("--behind-proxy", is_flag=True, help="A proxy on this machine does TLS.")
@click.option("--name", "names", multiple=True, metavar="HOST", help="Further host name it answers to. Repeatable.")
@click.option("--labels", metavar="COLUMN", help="Let the page write labels to COLUMN. Default: it only reads.")
@pictures_option
@click.option("--weights", metavar="FILE", help="The encoder's weights file, where it was indexed with one.")
@device_option
@json_option
def command(
    *,
    db: str,
    table: str | None,
    host: str,
    port: int,
    token_file: Path | None,
    certificate: Path | None,
    key: Path | None,
    behind_proxy: bool,
    names: tuple[str, ...],
    labels: str | None,
    pictures_from: tuple[str, ...],
    weights: str | None,
    device: str,
    as_json: bool,
) -> None:
    """Serve the tables of DB: a page to search and look, and an API described by /openapi.json.

    It only reads, unless --labels names a column for labels, and answers this machine alone unless --token-file and
    TLS are given. With --json its address is printed as JSON once it answers. Needs the extra `serve`.
    """
    if (certificate is None) != (key is None):
        raise click.UsageError("--certificate and --key go together.")
    try:
        from indexer.serve.server import serve
    except ImportError as error:
        raise InputError(f"`indexer serve` needs {error.name}: pip install 'embedding-indexer[serve]'.") from error
    from indexer.serve.settings import Settings, read_token

    settings = Settings(
        database=db,
        table=table,
        host=host,
        port=port,
        token=None if token_file is None else read_token(token_file),
        certificate=None if certificate is None or key is None else (certificate, key),
        behind_proxy=behind_proxy,
        names=names,
        pictures_from=pictures_from,
        labels=labels,
        weights=weights,
        device=device,
    )
    serve(settings, lambda address: _announce(address, as_json=as_json))


def _announce(address: str, *, as_json: bool) -> None:
    """Where it answers, once it does."""
    if as_json:
        emit({"url": address}, as_json=True)
    else:
        click.echo(f"{address}  (Ctrl-C stops it)", err=True)
