from __future__ import annotations

import pytest

from s4d.cli import progress


def test_lines_in_a_log(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """No bar where nobody watches, no line for work that is over soon."""
    with progress.show_progress("cropped") as show:
        show(1, 3)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with progress.show_progress("cropped") as show:
        show(1, 3)
        show(3, 3)
    assert capsys.readouterr() == ("", "cropped 1 of 3\ncropped 3 of 3\n")
