"""`python -m export`: from a Run to a Bundle, and whether a Bundle can be trusted."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from edge.contract.errors import BirdstationError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=False,
    pretty_exceptions_enable=False,
    help="birdstation: turn a training run into a bundle that any station runs.",
    epilog="Exit status: 0 all is well · 2 usage · 78 a run or bundle cannot be used",
)


@app.command()
def onnx(
    run: Annotated[Path, typer.Option(help="Folder that `python -m trainer fit-all --out` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder of the bundle; an older bundle there is replaced.")],
    per_kind: Annotated[
        int | None, typer.Option(min=1, help="Keep only this many members of each kind, the best ones.")
    ] = None,
    report: Annotated[bool, typer.Option(help="Take the run's report along.")] = True,
) -> None:
    """Export a run: members as ONNX, taxonomy, prior, probe, sums."""
    from export.assemble import assemble  # torch takes seconds to import; verify and --help do without it
    from trainer.run import Run

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("members")

        def show(name: str, done: int, total: int) -> None:
            progress.update(task, description=name, completed=done, total=total)

        bundle = assemble(Run.open(run), out, per_kind=per_kind, report=report, progress=show)
    size = sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
    print(f"{out}: {len(bundle.manifest.members)} members, {len(bundle.taxonomy)} species, {size / 1e6:.1f} MB")


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object as the last line of stdout.")] = False,
) -> None:
    """Check a bundle: sums, probe, and ONNX Runtime against the scores that torch gave (max |Δp| ≤ 1e-4)."""
    from export.verify import verify as check

    found = check(bundle)
    table = Table(title=f"{bundle}: whole and right", title_justify="left")
    table.add_column("ONNX Runtime against torch")
    table.add_column("max |Δp|", justify="right")
    for name, difference in found.members.items():
        table.add_row(name, f"{difference:.1e}")
    table.add_row("blended", f"{found.blended:.1e}")
    table.add_row("prior", "none" if found.prior is None else f"{found.prior:.1e}")
    table.add_row("one by one against batch", f"{found.single_against_batch:.1e}")
    Console(stderr=as_json).print(table)
    if as_json:
        print(json.dumps(asdict(found)))


@app.command()
def demo_train(
    out: Annotated[Path, typer.Option(help="Folder of everything that is made.")] = Path("build/train-demo"),
    publish: Annotated[bool, typer.Option(help="Make this the bundle that ships inside edge.")] = False,
) -> None:
    """Everything from nothing: corpus, training, bundle, replay, figures. What is done is not done again."""
    from export.demo_train import run_demo_train

    run_demo_train(out, publish=publish, console=Console())


def main() -> None:
    """Run a command; a mistake of a person is one line, never a traceback."""
    try:
        app(prog_name="python -m export")
    except BirdstationError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
