"""The tree of commands. Only typer is imported here; what a command needs, it imports when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from paceline.cli.archives import models_export, models_import, models_pull, models_push
from paceline.cli.config import config_show
from paceline.cli.edge import edge
from paceline.cli.keys import keys_client, keys_list, keys_new, keys_revoke
from paceline.cli.model_diff import models_diff
from paceline.cli.models import models_alias, models_delete, models_list, models_show, models_verify
from paceline.cli.predict import predict
from paceline.cli.profile import profile
from paceline.cli.serve import failed_start, serve
from paceline.cli.status import status

_HELP = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    name="paceline",
    help="Serve PyTorch models: adaptive batching inside each request's latency budget, over HTTP and ZeroMQ.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=_HELP,
    epilog="Settings: flags > environment (PACELINE_SERVER__PORT) > paceline.toml > code > defaults; see: config show.",
)
models = typer.Typer(help="Look into the model store, and move versions.", no_args_is_help=True, context_settings=_HELP)
keys = typer.Typer(help="Say who may use a server from another machine.", no_args_is_help=True, context_settings=_HELP)
config = typer.Typer(help="Look at the settings.", no_args_is_help=True, context_settings=_HELP)

app.command("serve", rich_help_panel="Serving")(edge(serve, failed_start))
app.command("status", rich_help_panel="Serving")(edge(status))
app.command("profile", rich_help_panel="Serving")(edge(profile))
app.command("predict", rich_help_panel="Using")(edge(predict))
app.add_typer(models, name="models", rich_help_panel="Using")
app.add_typer(config, name="config", rich_help_panel="Serving")
app.add_typer(keys, name="keys", rich_help_panel="Serving")
models.command("list")(edge(models_list))
models.command("show")(edge(models_show))
models.command("verify")(edge(models_verify))
models.command("delete")(edge(models_delete))
models.command("alias")(edge(models_alias))
models.command("diff")(edge(models_diff))
models.command("export")(edge(models_export))
models.command("import")(edge(models_import))
models.command("push")(edge(models_push))
models.command("pull")(edge(models_pull))
keys.command("new")(edge(keys_new))
keys.command("client")(edge(keys_client))
keys.command("list")(edge(keys_list))
keys.command("revoke")(edge(keys_revoke))
config.command("show")(edge(config_show))


def _show_version(wanted: bool) -> None:
    if wanted:
        from paceline import __version__

        typer.echo(f"paceline {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Only options that stand before a command."""
