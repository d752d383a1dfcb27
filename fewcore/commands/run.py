"""The command that runs a pipeline: `fewcore run`."""

from __future__ import annotations

import json
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fewcore.commands.jobs_options import jobs_options, read_workers
from fewcore.commands.pipeline_options import counted, device_option, load_pipeline, pipeline_options
from fewcore.plugins import load_registry

if TYPE_CHECKING:
    from fewcore.pipeline import Pipeline
    from fewcore.ranks import Ranks
    from fewcore.session import Session
    from fewcore.workers.jobs import Jobs

SAME_WISH_SECONDS = 0.5


@click.command()
@pipeline_options
@device_option
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the report. Default: runs/NAME.")
@jobs_options
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; the last digits of results depend on it.")
@click.option(
    "--track",
    "tracked",
    multiple=True,
    metavar="TRACKER:OPTION=VALUE,...",
    help="Forward what is logged to tensorboard, mlflow or another tracker; may be given several times.",
)
@click.option(
    "--checkpoint-every",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How often long stages are saved.",
)
def run(
    pipeline: str,
    overrides: tuple[str, ...],
    seed: int | None,
    grid: tuple[str, ...],
    device: str,
    out: Path | None,
    n_jobs: int,
    executor: str | None,
    threads: int | None,
    tracked: tuple[str, ...],
    checkpoint_every: float,
) -> None:
    """Run PIPELINE: a file, or the name of one that is shipped (quickstart).

    Finished stages are reused; a run that was killed goes on where it was. Ctrl-C saves and ends with code 75; a second
    Ctrl-C ends at once. The report is written to the folder --out. With --jobs, workers make the results of the cells of
    matrix, repeat and --grid: each once, with the same numbers.
    """
    loaded = load_pipeline(pipeline, overrides, seed, grid)
    from fewcore.memory import keep_freed_memory
    from fewcore.ranks import joined, local_device
    from fewcore.run import device_named
    from fewcore.runner import Runner
    from fewcore.session import Session
    from fewcore.store import Store
    from fewcore.tracking.choice import read_trackers

    trackers = read_trackers(tracked, load_registry())
    workers = read_workers(n_jobs, executor, threads, device, checkpoint_every, load_registry())
    where = device_named(workers.own_device if workers else local_device(device))
    keep_freed_memory()
    if n_threads := workers.n_threads if workers else threads:
        import torch

        torch.set_num_threads(n_threads)
    folder = out or Path("runs") / loaded.name
    with _stopping() as stop, joined(where, stop) as ranks, _progress(folder, ranks) as progress:
        session = Session(Store(), where, progress=progress, stop=stop, checkpoint_every=checkpoint_every, ranks=ranks)
        if not ranks.leads:
            Runner(loaded, session).make()
            return
        with _tracking(trackers, loaded, folder, progress) as end:
            jobs = workers.jobs(loaded, session, progress, stop) if workers else None
            code = _run_and_report(loaded, session, folder, progress, jobs)
            end.status = "failed" if code else "finished"
    sys.exit(code)


def _run_and_report(pipeline: Pipeline, session: Session, folder: Path, progress: Any, jobs: Jobs | None) -> int:
    """Run, write the report, print the table; returns the exit code."""
    from rich.console import Console

    from fewcore.comparing.scores import write_scores
    from fewcore.disk import write_text
    from fewcore.drawn_rows import write_rows
    from fewcore.models.records import write_models
    from fewcore.reports.report import metrics_json, summary_table, write_report
    from fewcore.reports.reporting import build_report
    from fewcore.runner import Runner
    from fewcore.tracking.log import closing_lines

    began = time.monotonic()
    result = Runner(pipeline, session, progress.say, jobs).run()
    command = shlex.join(["fewcore", *sys.argv[1:]])
    report = build_report(pipeline, session, result, command=command, seconds=time.monotonic() - began)
    if not any(made.rows for made in report.reports.values()) and _has_numbers(folder):
        where = f"{folder}: the report and models of an earlier run are kept, for this one has no number to put in their place"
        click.echo(f"{counted(len(result.failures), 'stage')} failed; {where}", err=True)
        return result.exit_code
    write_report(report, folder)
    write_text(folder / "pipeline.yaml", report.pipeline)
    write_models(session, result.models, folder)
    write_rows(session, result.nodes, folder)
    write_scores(pipeline, result, metrics_json(report)["rows"], folder)
    for key in session.store.damaged:
        progress.say(f"a stored result was damaged and computed again: {key}")
    for title, text in session.tracebacks.items():
        progress.record({"stage": title, "traceback": text})
    for line in closing_lines(folder / "log.jsonl", pipeline, session, result):
        progress.record(line)
    if report.reports:
        Console(width=None if sys.stdout.isatty() else 120).print(summary_table(report))
    if result.failures:
        click.echo(f"{counted(len(result.failures), 'stage')} failed; the report says what is missing", err=True)
    click.echo(f"report: {(folder / 'report.html').resolve()}")
    return result.exit_code


def _has_numbers(folder: Path) -> bool:
    """Return whether a run that judged models has written its report into a folder."""
    try:
        return bool(json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["rows"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


@contextmanager
def _tracking(trackers: dict[str, Any], pipeline: Pipeline, folder: Path, progress: Any) -> Iterator[Any]:
    """Begin the record of a run in its log, and forward what is logged to trackers."""
    from fewcore.tracking.choice import facts_of, hidden_labels
    from fewcore.tracking.forward import Tracked, forwarding
    from fewcore.tracking.log import heading, record_start

    log = folder / "log.jsonl"
    line = heading(pipeline)
    progress.record(line)
    run = Tracked(pipeline.name, folder, log, record_start(log, line), facts_of(pipeline), hidden_labels(pipeline))
    with forwarding(trackers, run, progress) as end:
        yield end


@contextmanager
def _stopping() -> Iterator[Callable[[], bool]]:
    """Give a function that says whether Ctrl-C was pressed or the process was asked to end; a second one ends at once."""
    asked: list[float] = []

    def handle(_number: int, _frame: object) -> None:
        if asked:
            # The terminal and torchrun both pass one Ctrl-C on.
            if time.monotonic() - asked[0] < SAME_WISH_SECONDS:
                return
            raise KeyboardInterrupt
        asked.append(time.monotonic())
        click.echo("stopping after this step and saving; press Ctrl-C again to end at once", err=True)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _progress(folder: Path, ranks: Ranks) -> Iterator[Any]:
    """Give what shows progress; the ranks beside the first have none."""
    if not ranks.leads:
        yield None
        return
    from fewcore.errors import ResourceError
    from fewcore.progress import Progress

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(
            f"{folder}: cannot be made: {error.strerror}; expected a folder that can be written (type --out DIR)"
        ) from error
    with Progress(log=folder / "log.jsonl") as progress:
        yield progress
