"""`s4d config list`: the configurations to start from."""

from __future__ import annotations

from s4d.cli.output import AsJson, print_json, print_lines, print_table, relative


def list_configs(as_json: AsJson = False) -> None:
    """List the configurations that come with the project; a wheel keeps them in its own folder."""
    from s4d.shipped_configs import SHIPPED, purpose, shipped_configs

    rows = [(path.relative_to(SHIPPED).as_posix(), purpose(path)) for path in shipped_configs()]
    if as_json:
        listed = [{"file": name, "purpose": text} for name, text in rows]
        print_json({"folder": str(SHIPPED), "configurations": listed})
        return
    print_lines([f"in {relative(SHIPPED)}:"])
    print_table(("file", "what it is"), rows)
