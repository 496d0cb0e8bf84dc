"""`s4d doctor`: is this machine ready, and what to do if it is not."""

from __future__ import annotations

from s4d.cli.output import AsJson, print_json, print_table


def doctor(as_json: AsJson = False) -> None:
    """Check packages, video decoding, shared memory and disk; exit 1 if a needed part is missing."""
    import typer

    from s4d.cli.machine_checks import run_checks

    checks = run_checks()
    if as_json:
        print_json({"ok": all(check.passes for check in checks), "checks": [check.as_dict() for check in checks]})
    else:
        print_table(("part", "state", "detail", "fix"), [(c.name, c.state, c.detail, c.fix) for c in checks])
    if not all(check.passes for check in checks):
        raise typer.Exit(1)
