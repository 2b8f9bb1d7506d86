"""Commands on model files: models list, pull, verify, add."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from ruvllm.errors import ModelUnavailable
from ruvllm.streams.cli.context import Context, of

models_app = typer.Typer(help="Model files: which there are, and bringing them here.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(models_app, name="models")


def _store(here: Context):  # type: ignore[no-untyped-def]
    from ruvllm.streams.model_files import ModelStore, packaged_catalogue

    return ModelStore(here.settings.models_folder, packaged_catalogue())


@models_app.command("list")
def list_(context: typer.Context) -> None:
    """Every model of the catalogue: size, licence, and whether its file is here."""
    from ruvllm.streams.model_files import packaged_catalogue

    here = of(context)
    catalogue = packaged_catalogue()
    store = _store(here)
    mine = catalogue.profile(here.settings.profile).models
    table = Table("", "model", "architecture", "parameters", "quantisation", "MB", "licence", "here", box=None)
    for name, card in catalogue.models.items():
        size = f"{card.bytes / 1e6:.0f}" if card.bytes else "?"
        table.add_row(
            "*" if name in mine else "",
            name,
            card.architecture,
            f"{card.parameters / 1e6:.0f} M",
            card.quantisation,
            size,
            card.licence,
            store.status(name),
        )
    here.console.print(table)
    here.console.print(f"* in profile {here.settings.profile}; files lie in {here.settings.models_folder}")


@models_app.command("pull")
def pull(
    context: typer.Context,
    models: Annotated[list[str] | None, typer.Argument(help="names; none: those of the profile")] = None,
) -> None:
    """Bring model files here and check their hashes. Nothing to do for those that are here."""
    from ruvllm.streams.model_files import packaged_catalogue

    here = of(context)
    store = _store(here)
    wanted = models or packaged_catalogue().profile(here.settings.profile).models
    for name in wanted:
        if store.status(name) == "verified":
            here.console.print(f"{name}: here")
            continue
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, console=here.console) as progress:
            task = progress.add_task(name, total=None)
            store.pull(name, lambda done, total, task=task: progress.update(task, completed=done, total=total))
        here.console.print(f"{name}: pulled and verified")


@models_app.command("verify")
def verify(
    context: typer.Context,
    models: Annotated[list[str] | None, typer.Argument(help="names; none: those of the profile")] = None,
) -> None:
    """Compare the files' hashes with the catalogue's. Exit status 2 at the first that differs or is missing."""
    from ruvllm.streams.model_files import packaged_catalogue

    here = of(context)
    store = _store(here)
    for name in models or packaged_catalogue().profile(here.settings.profile).models:
        if store.status(name) == "missing":
            raise ModelUnavailable(f"model {name} is not in {here.settings.models_folder}")
        store.verify(name)
        here.console.print(f"{name}: verified")


@models_app.command("add")
def add(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="its name in the catalogue, as lfm2-350m")],
    file: Annotated[Path, typer.Argument(help="the GGUF file")],
) -> None:
    """Take a model file that you have (LFM2): its header is checked and its hash recorded."""
    here = of(context)
    path = _store(here).add(model, file)
    here.console.print(f"{model}: {path}")
