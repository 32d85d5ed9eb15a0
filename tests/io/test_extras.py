"""Missing optional packages."""

import pytest

from babyvlm.errors import UserError
from babyvlm.io.extras import require_extra


def test_require_extra_reports_missing_package():
    message = r"^--method llm needs no_such_package\. Install it with: pip install 'babyvlm\[llm\]'$"
    with pytest.raises(UserError, match=message), require_extra("llm", "--method llm"):
        import no_such_package.module  # noqa: F401


def test_require_extra_keeps_error_of_own_modules():
    with pytest.raises(ModuleNotFoundError), require_extra("llm", "--method llm"):
        import babyvlm.no_such_module  # noqa: F401


def test_require_extra_quotes_error_without_package_name():
    message = r"^weights int8 cannot be used: it is broken\. Install"
    with pytest.raises(UserError, match=message), require_extra("int8", "weights int8"):
        raise ImportError("it is broken.\nmore")
