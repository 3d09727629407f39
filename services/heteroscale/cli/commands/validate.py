"""`heteroscale validate SPEC.yaml…`: do the specs make sense, and if not, what to write instead."""

from __future__ import annotations

import click

from heteroscale.cli import completing, output
from heteroscale.cli.options import json_option
from heteroscale.cli.spec_files import load
from heteroscale.contracts.errors import Rejected
from heteroscale.decision.specs.advice import advise
from heteroscale.decision.specs.problems import SpecInvalid, path_text

EXAMPLE = """\b
Examples:
  heteroscale validate chat.yaml code.yaml
  kustomize build . | heteroscale validate -

\b
A small spec:
  service: chat-70b
  roles:
    prefill: {min: 1, max: 8, gpus: 8, gpu_types: [H20]}
    decode:  {min: 2, max: 16, gpus: 8, gpu_types: [H20]}
  ratio: {prefill: 1, decode: 2}
  signals: [{metric: decode_tps, role: decode, target: 4200}]
  mode: active"""


@click.command(epilog=EXAMPLE)
@click.argument("paths", metavar="SPEC.yaml...", nargs=-1, required=True, shell_complete=completing.files)
@json_option
@click.pass_context
def validate(ctx: click.Context, paths: tuple[str, ...], *, as_json: bool) -> None:
    """Check spec files; say what to write instead.

    A file may hold several specs, parted by `---`; `-` is standard input. Every problem is reported at once, with the line,
    the field, the value and the cure. Exit 2 if there is any.
    """
    loaded = load(paths)
    for error in loaded.refused:
        for line in _lines(error):
            click.echo(line, err=True)
        if as_json:
            for document in _documents(error):
                output.emit(document)
    for good in loaded.specs:
        if as_json:
            advice = [{"field": path_text(hint.path), "hint": hint.text} for hint in advise(good.spec)]
            output.emit({"place": good.located.place, "service": good.spec.service, "valid": True, "advice": advice})
        elif not loaded.refused:
            click.echo(f"{good.located.place}: {good.spec.service} makes sense")
        for hint in advise(good.spec):
            output.note(f"{good.located.place_of(hint.path)}: note: {hint}")
    if loaded.refused:
        ctx.exit(2)


def _lines(error: Rejected) -> list[str]:
    return error.lines() if isinstance(error, SpecInvalid) else [str(error)]


def _documents(error: Rejected) -> list[dict[str, object]]:
    if not isinstance(error, SpecInvalid):
        return [{"place": error.place, "field": None, "problem": error.message, "valid": False}]
    return [
        {
            "place": error.place_of(problem.path) if error.place_of else error.place,
            "field": path_text(problem.path),
            "problem": problem.text,
            "valid": False,
        }
        for problem in error.problems
    ]
