"""pytest plugin of `make test-deep`: run one of n parts of the collected tests, begin none after a time limit."""

from __future__ import annotations

import time

import pytest

_BEGAN = time.monotonic()


def _part(text: str) -> tuple[int, int]:
    """Parse ``i/n`` with 1 <= i <= n."""
    try:
        index, count = (int(number) for number in text.split("/"))
    except ValueError:
        raise pytest.UsageError(f"--deep-slice: expected i/n such as 3/7, got {text!r}") from None
    if not 1 <= index <= count:
        raise pytest.UsageError(f"--deep-slice: expected 1 <= i <= n, got {text!r}")
    return index, count


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("deep slice")
    group.addoption("--deep-slice", default="1/1", metavar="i/n", help="run the i-th of n equal parts")
    group.addoption("--deep-seconds", type=float, default=0, help="skip what has not begun by then; 0: no limit")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep every n-th test in the order of their ids; runs last, when the marker expression has been applied."""
    index, count = _part(config.getoption("--deep-slice"))
    chosen = {item.nodeid for item in sorted(items, key=lambda item: item.nodeid)[index - 1 :: count]}
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in chosen])
    items[:] = [item for item in items if item.nodeid in chosen]


def pytest_runtest_setup(item: pytest.Item) -> None:
    limit = item.config.getoption("--deep-seconds")
    if limit and time.monotonic() - _BEGAN > limit:
        pytest.skip(f"not started: the {limit:.0f} s of this slice were over")
