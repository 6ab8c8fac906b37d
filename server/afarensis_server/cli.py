"""The command line: ``afarensis-server serve``, ``config show``, ``doctor``, ``health`` and ``version``."""

import asyncio
import os
import sys
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from . import __version__, collector, configuration
from .allocator import use_one_arena
from .configuration import Configuration, ConfigurationError
from .logs import configure_logs, is_for_people

T = TypeVar("T")

#: The exit code of a command that was used wrongly: bad flags, bad settings.
_USAGE = 2
#: The exit code of a command that could not do its work.
_FAILED = 1

app = typer.Typer(
    name="afarensis-server",
    help="A self-hosted Assistants API with a real code interpreter.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # As markup, `[server.listen]` would be taken for a style and left out; and flags would be shown with a type.
    rich_markup_mode=None,
)
config_app = typer.Typer(help="Look at the settings.", no_args_is_help=True)
app.add_typer(config_app, name="config")

ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="A TOML file with settings. [env: AFARENSIS_CONFIG]")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.NAME=VALUE", help="Any setting; see `config reference`. May be repeated."),
]
ListenOption = Annotated[
    str | None, typer.Option("--listen", metavar="HOST:PORT", help="The address to serve on. [server.listen]")
]
HttpOption = Annotated[
    str | None,
    typer.Option(
        "--http", metavar="HOST:PORT", help="The address to serve the Assistants API over HTTP on. [http.listen]"
    ),
]
DataOption = Annotated[
    Path | None, typer.Option("--data-dir", metavar="DIR", help="Where everything is kept. [server.data_dir]")
]


def main() -> None:
    """Run the command line."""
    app()


@app.command()
def serve(
    config: ConfigOption = None,
    listen: ListenOption = None,
    http: HttpOption = None,
    data_dir: DataOption = None,
    insecure_bind: Annotated[
        bool,
        typer.Option(
            "--insecure-bind", metavar="", help="Allow an address that other machines reach, without encryption."
        ),
    ] = False,
    settings: SetOption = None,
) -> None:
    """Serve until SIGTERM or SIGINT; a second one ends at once. Prints the address once calls are answered."""
    flags = _flags(listen, http, data_dir)
    if insecure_bind:
        flags["server.insecure_bind"] = True
    use_one_arena()
    collector.rest()
    loaded = _load(config, settings, flags).settings
    configure_logs(loaded.server.log_level, loaded.server.log_format)
    # gRPC would log in its own form what we say in ours, such as that the port is taken.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Its older way of listening, as long as it has one: a thread fewer between the socket and a call, 4 % of its time.
    os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")
    from .app import Addresses
    from .app import serve as run
    from .refused import Misconfigured, Refused

    def announce(addresses: Addresses) -> None:
        http = f", and over HTTP on {addresses.http}" if addresses.http else ""
        text = f"afarensis-server {__version__} is serving on {addresses.grpc}{http}"
        print(text, flush=True)  # noqa: T201 - for whoever started it

    def tell(text: str) -> None:
        if is_for_people(loaded.server.log_format):
            typer.echo(text, err=True)

    try:
        _run(lambda: run(loaded, announce, tell))
    except Misconfigured as error:
        _fail(str(error), _USAGE)
    except Refused as error:
        _fail(str(error), _FAILED)


@app.command()
def doctor(
    config: ConfigOption = None,
    listen: ListenOption = None,
    http: HttpOption = None,
    data_dir: DataOption = None,
    settings: SetOption = None,
) -> None:
    """Show whether the server could start here, and the layers of isolation that sessions get on this machine.

    Fails when anything that is needed is missing, such as what another server holds that runs already.
    """
    flags = {**_flags(listen, http, data_dir), "sandbox.allow_missing_layers": True}
    loaded = _load(config, settings, flags).settings
    configure_logs("error", loaded.server.log_format)
    from .app import open_driver
    from .doctor import Check, checks
    from .refused import Refused
    from .sandbox.driver import Layer, SandboxUnavailable

    async def look() -> list[Layer]:
        with tempfile.TemporaryDirectory(prefix="afarensis-doctor-") as directory:
            async with open_driver(loaded, Path(directory)) as driver:
                return await driver.layers()

    found: list[Check] = _run(lambda: checks(loaded))
    needs = Table("what", "", "detail", title="What the server needs")
    for check in found:
        needs.add_row(check.name, "[green]good[/]" if check.passed else "[red]bad[/]", Text(check.detail))
    console = Console()
    console.print(needs)
    try:
        layers = _run(look)
    except (Refused, SandboxUnavailable) as error:
        _fail(f"No sandbox can be opened: {error}", _FAILED)
    table = Table(title=f"Isolation by the driver {loaded.sandbox.driver}")
    for heading in ("layer", "", "needed", "detail"):
        table.add_column(heading, overflow="fold")
    for layer in layers:
        state = "[green]active[/]" if layer.active else "[red]missing[/]"
        table.add_row(layer.name, state, "essential" if layer.essential else "helps", layer.detail)
    console.print(table)
    missing = [layer.name for layer in layers if layer.essential and not layer.active]
    if missing:
        _fail(f"Essential layers are missing: {', '.join(missing)}. The server refuses to start without them.", _FAILED)
    if bad := [check.name for check in found if not check.passed]:
        _fail(f"Isolation is complete, but not all is well: {', '.join(bad)}.", _FAILED)
    console.print("All is well: the server can start.")


@app.command()
def health(
    config: ConfigOption = None,
    settings: SetOption = None,
    address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="The server to ask; without it, the one of the settings.")
    ] = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="How long to wait for its answer.")] = 5.0,
) -> None:
    """Ask the running server whether it serves. Fails when it does not: the health check of containers."""
    from .rpc.probe import Unhealthy, probe

    asked = address or _load(config, settings, {}).settings.server.reachable
    try:
        _run(lambda: probe(asked, timeout))
    except Unhealthy as error:
        _fail(f"{error}.", _FAILED)
    typer.echo(f"The server at {asked} serves.")


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


@config_app.command("show")
def config_show(
    config: ConfigOption = None,
    settings: SetOption = None,
    toml: Annotated[
        bool, typer.Option("--toml", help="Print a TOML file to start from; secrets are left out.")
    ] = False,
) -> None:
    """Print every setting in effect, and where its value is from."""
    loaded = _load(config, settings, {})
    if toml:
        typer.echo(configuration.to_toml(loaded), nl=False)
        return
    table = Table("setting", "value", "from")
    for setting in loaded:
        source = f"{setting.source} {loaded.file}" if setting.source == "file" else setting.source
        source = setting.variable if setting.source == "environment" else source
        table.add_row(setting.path, setting.shown, source, style=None if setting.source != "default" else "dim")
    Console(width=None if sys.stdout.isatty() else 160).print(table)


@config_app.command("reference")
def config_reference() -> None:
    """Print the document that explains every setting, as Markdown."""
    typer.echo(configuration.reference(), nl=False)


def _flags(listen: str | None, http: str | None, data_dir: Path | None) -> dict[str, Any]:
    """The settings that flags of their own name."""
    given = {"server.listen": listen, "http.listen": http, "server.data_dir": data_dir and str(data_dir)}
    return {name: value for name, value in given.items() if value is not None}


def _load(config: Path | None, assignments: list[str] | None, flags: dict[str, Any]) -> Configuration:
    given: dict[str, Any] = {}
    for assignment in assignments or []:
        path, separator, value = assignment.partition("=")
        if not separator or "." not in path:
            _fail(f"--set takes SECTION.NAME=VALUE, like sandbox.pool_size=8, not '{assignment}'.", _USAGE)
        given[path.strip()] = value.strip()
    try:
        return configuration.load(given | flags, config)
    except ConfigurationError as error:
        _fail(str(error), _USAGE)


def _run(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    # Not a dependency: it does not exist on every platform.
    with suppress(ImportError):
        from uvloop import new_event_loop as loop_factory
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(work())


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"afarensis-server: {message}", err=True)
    raise typer.Exit(code)
