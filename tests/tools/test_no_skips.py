"""A skipped test fails its session."""

from __future__ import annotations

import pytest

from tools.no_skips import NoSkips

pytest_plugins = ["pytester"]


def session(pytester: pytest.Pytester, tests: str) -> pytest.RunResult:
    """Run a file of tests."""
    pytester.makepyfile(tests)
    return pytester.runpytest_inprocess("-p", "no:hypothesispytest", plugins=[NoSkips()])


@pytest.mark.parametrize(
    "tests",
    [
        "import pytest\ndef test_it(): pytest.skip('no')\ndef test_other(): pass",
        "import pytest\n@pytest.mark.skipif('True', reason='no')\ndef test_it(): pass",
        "import pytest\n@pytest.mark.parametrize('none', [])\ndef test_it(none): pass",
        "import pytest\npytest.importorskip('no_such_module')\ndef test_it(): pass",
        "import unittest\nclass Tests(unittest.TestCase):\n    def test_it(self): raise unittest.SkipTest('no')",
    ],
)
def test_a_skip_fails_the_session(pytester: pytest.Pytester, tests: str) -> None:
    """However a test comes to be skipped, the exit status tells, and a line says which."""
    result = session(pytester, tests)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["FAILED test_a_skip_fails_the_session.py* - skipped: each test has to run"])


def test_an_expected_failure_does_not(pytester: pytest.Pytester) -> None:
    """A session of tests that pass, or fail as they should, passes."""
    tests = "import pytest\n@pytest.mark.xfail(strict=True)\ndef test_it(): assert 0\ndef test_other(): pass"
    assert session(pytester, tests).ret == pytest.ExitCode.OK
