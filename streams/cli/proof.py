"""Commands that measure and prove: demo, bench, eval, faults."""

from __future__ import annotations

import typer

bench_app = typer.Typer(help="Figures of speed, each beside its baseline.", no_args_is_help=True)
eval_app = typer.Typer(help="Figures of quality, each beside its control.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(bench_app, name="bench")
    app.add_typer(eval_app, name="eval")
