"""`speedup demo`: two networks that need no files."""

from __future__ import annotations

import json

import typer

from speedup.cli.options import AsJson


def demo(as_json: AsJson = False) -> None:
    """Compact a LeNet and a ResNet-18 built on the spot, and print the plans and measurements."""
    from speedup.cli.summaries import demo_summary
    from speedup.demo import demo_outcomes, run_demo

    if as_json:
        typer.echo(json.dumps(demo_summary(demo_outcomes())))
    else:
        run_demo()
