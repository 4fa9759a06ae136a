"""Registers the commands of `tuneyard`, and nothing else."""

from __future__ import annotations

from typer import Typer

from tuneyard.cli.chat import chat
from tuneyard.cli.data import app as data_app
from tuneyard.cli.deliver import deliver
from tuneyard.cli.doctor import app as doctor_app
from tuneyard.cli.finetune import finetune
from tuneyard.cli.plan import plan
from tuneyard.cli.runs import app as runs_app
from tuneyard.cli.runs import delete, logs, stop, watch
from tuneyard.cli.serve import serve
from tuneyard.cli.store import gc, verify
from tuneyard.cli.values import app as values_app
from tuneyard.cli.version import version

app = Typer(
    name="tuneyard",
    help="Finetune a language model: deliver, finetune, serve, chat. Each verb has its own --help.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for command in (deliver, plan, finetune, serve, chat):
    app.command()(command)
app.add_typer(runs_app, name="runs", help="List the runs, newest first.")
for command in (logs, watch, stop, delete):
    app.command()(command)
app.add_typer(doctor_app, name="doctor")
app.add_typer(data_app, name="data", help="Check and show data before training.")
app.add_typer(values_app, name="values", help="Print the schema of values.")
for command in (verify, gc, version):
    app.command()(command)
