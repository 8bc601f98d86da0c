"""`stillsmall`: change what is tracked, look at the machine, transcribe, register, and read the outcome.

Heavy libraries are imported inside the commands, so that `stillsmall --help` is there at once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

USAGE_FAULT, WORK_FAULT = 2, 1  # exit codes: what was asked cannot be; what was asked for did not work
CONFIG_ERRORS = {"ConfigError", "UnknownName"}


class Group(click.Group):
    """Errors that the rooms of stillsmall raise on purpose are a message; anything else is a fault of ours."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except (ValueError, RuntimeError, OSError) as error:
            ours = type(error).__module__.partition(".")[0] == "stillsmall" or isinstance(error, FileNotFoundError)
            if isinstance(error, click.exceptions.Exit) or not ours or os.environ.get("STILLSMALL_TRACEBACK") == "1":
                raise
            click.echo(f"stillsmall: {error}", err=True)
            sys.exit(USAGE_FAULT if type(error).__name__ in CONFIG_ERRORS else WORK_FAULT)


PARAMS = click.option(
    "--params",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("params.yaml"),
    show_default=True,
    help="Where the tracked parameters are.",
)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Distil a large speech recogniser into a small one. `make repro` runs the whole pipeline (DVC).

    The commands here are what lies around it. An error is one message; with STILLSMALL_TRACEBACK=1 it shows its origin.
    """


@main.command()
@click.argument("what", nargs=-1, metavar="[RECIPE] [KEY=VALUE]...")
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@PARAMS
def use(what: tuple[str, ...], dry_run: bool, params: Path) -> None:
    """Lay a recipe, or single values, over params.yaml; its comments stay.

    \b
    stillsmall use                                  what recipes there are
    stillsmall use l2en data.root=my/speech         a recipe, and a value on top
    stillsmall use distill.steps=300 --dry-run      what would change
    git checkout params.yaml                        back to what was committed
    """
    from stillsmall import recipes

    if not what:
        for name, description in recipes.available().items():
            click.echo(f"{name}\n{click.wrap_text(description, 100, '    ', '    ')}")
        return
    names = [word for word in what if "=" not in word]
    overlays = [recipes.read(name) for name in names]
    overlays.append(recipes.assignments(word for word in what if "=" in word))
    changes = recipes.use(overlays, params, dry_run)
    for change in changes:
        click.echo(str(change))
    if not changes:
        click.echo(f"{params} says so already.")
    elif dry_run:
        click.echo(f"{params} is as it was (--dry-run).")
    else:
        click.echo(f"{params} is changed; `make repro` computes what that touches.")


@main.command()
@click.argument("name", required=False)
@PARAMS
def ablations(name: str | None, params: Path) -> None:
    """The ablations of recipes/ablations; with a NAME, what each of its arms changes, after checking all of them."""
    from stillsmall import ablations as room

    if name is None:
        for found in room.available().values():
            click.echo(f"{found.name}: arms {', '.join(found.arms)}; seeds {', '.join(map(str, found.seeds))}")
            click.echo(click.wrap_text(found.question, 100, "    ", "    "))
        return
    ablation = room.read(name)
    for arm, changes in room.check(ablation, params).items():
        click.echo(f"{arm}:")
        for line in [str(change) for change in changes] or ["as params.yaml has it"]:
            click.echo(f"  {line}")
    for what, (first, second) in ablation.contrasts.items():
        click.echo(f"{what}: {first} less {second}")


@main.command()
@click.option("--quick", is_flag=True, help="Only what params.yaml says and names; silent where all of it is there.")
@PARAMS
def doctor(quick: bool, params: Path) -> None:
    """What this machine has and lacks; exit code 1 if something lacks that the pipeline cannot do without."""
    from stillsmall import doctor as room

    if quick:
        found = room.lacking(Path.cwd(), params)
        for finding in found:
            click.echo(f"{finding.what}: {finding.detail}", err=True)
        sys.exit(USAGE_FAULT if found else 0)
    findings = room.examine(Path.cwd(), params)
    room.show(findings)
    if any(finding.state == "lacks" for finding in findings):
        sys.exit(WORK_FAULT)


@main.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--model",
    default="models/student",
    show_default=True,
    help="A model folder, a hub id, or the registry's: models:/NAME@ALIAS or models:/NAME/VERSION.",
)
@click.option("--language", default=None, help="A code such as en; without it the model decides.")
@click.option("--timestamps", is_flag=True, help="A line per segment, with its start and end in seconds.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a file: file, text, segments.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
def transcribe(
    files: tuple[Path, ...], model: str, language: str | None, timestamps: bool, as_json: bool, device: str
) -> None:
    """Transcribe audio FILES of any kind and any length."""
    import json

    from stillsmall.registry import local_model
    from stillsmall.transcription import transcribe_files

    folder = local_model(model, Path.cwd()) if model.startswith("models:/") else model
    for path, segments, text in transcribe_files(list(files), str(folder), language, timestamps, device):
        if as_json:
            click.echo(json.dumps({"file": str(path), "text": text, "segments": segments}, ensure_ascii=False))
            continue
        head = f"{path}: " if len(files) > 1 else ""
        if timestamps:
            for segment in segments:
                click.echo(f"{head}[{segment['start']:8.2f} {segment['end']:8.2f}] {segment['text'].strip()}")
        else:
            click.echo(f"{head}{text.strip()}")


@main.command()
@click.option("--hours", type=click.FloatRange(min=0), help="Hours of training audio; without it: those at hand.")
@click.option("--rate", "rates", multiple=True, metavar="STAGE=X", help="Times real time (distill: steps a second).")
@click.option("--measure", is_flag=True, help="Measure preparation, teacher and validator on a few clips.")
@click.option(
    "--clips", type=click.IntRange(min=1), default=32, show_default=True, help="How many clips to measure on."
)
@click.option("--price-per-hour", type=click.FloatRange(min=0), help="Of one machine, in your money.")
@PARAMS
def plan(
    hours: float | None, rates: tuple[str, ...], measure: bool, clips: int, price_per_hour: float | None, params: Path
) -> None:
    """Before anything runs: hours of audio, compute hours, disk and money, with the working.

    \b
    stillsmall plan                                           the audio at hand, rates of metrics/speed.json
    stillsmall plan --measure --price-per-hour 2.50           rates measured now
    stillsmall plan --hours 60000 --rate pseudo_label=180     no audio and no model needed
    """
    from stillsmall import config
    from stillsmall import plan as room

    given = {}
    for word in rates:
        name, _, value = word.partition("=")
        try:
            given[name] = float(value)
        except ValueError:
            raise click.UsageError(f"--rate: got '{word}'; expected STAGE=NUMBER, such as pseudo_label=180") from None
    root, some = params.resolve().parent, clips if measure else None
    for line in room.show(room.planned(config.load(params), root, hours, given, some, price_per_hour)):
        click.echo(line)


@main.command()
@click.option(
    "--clips", type=click.IntRange(min=1), default=32, show_default=True, help="How many, of data/prepared/train."
)
@click.option("--section", type=click.Choice(["pseudo_label", "validate"]), default="pseudo_label", show_default=True)
@click.option("--windows", is_flag=True, help="Compare window: full with window: silence (the section's backend).")
@PARAMS
def backends(clips: int, section: str, windows: bool, params: Path) -> None:
    """Whether the labelling backends say the same: identical texts, the error rate between them, what differs."""
    from stillsmall import backends as room
    from stillsmall import config

    some = room.some(params.resolve().parent / "data/prepared/train", clips)
    for line in room.show(room.compare(config.load(params), some, section, "window" if windows else "backend")):
        click.echo(line)


@main.command()
@PARAMS
def register(params: Path) -> None:
    """Put models/student into the model registry with its lineage; the same model twice is one version."""
    from stillsmall import config, registry

    version = registry.register(config.load(params), params.resolve().parent)
    verb = "registered" if version.created else "was registered already"
    click.echo(f"{version.name} version {version.version} {verb}; it is '{version.alias}' now ({version.uri})")
    if not version.committed:
        click.echo(
            "Its lineage is not committed, so it cannot be promoted: commit "
            f"{', '.join(version.uncommitted)} and run `stillsmall register` again."
        )


@main.command()
@PARAMS
def summary(params: Path) -> None:
    """Teacher against student after `make repro`: errors, speed, size, labels kept, and what to type next."""
    from stillsmall import config
    from stillsmall import summary as room

    room.show(config.load(params), params.resolve().parent)
