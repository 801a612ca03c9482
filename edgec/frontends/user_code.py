"""Functions and classes of the user's own code, named as `package.module:function`."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from edgec.errors import UserError


def import_object(reference: str) -> Any:
    """What `package.module:name` (or `:Class.method`) names; the current folder is looked in first.

    Importing runs the user's code: only for names that the user typed, never for names from a file.
    Raises UserError for text of another form, a module that cannot be imported, and a name that is not there.
    """
    module_name, _, attribute = reference.partition(":")
    if not module_name or not attribute:
        raise UserError(f"{reference!r} names no function",
                        expected="package.module:function, as in models.resnet:resnet20")
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)  # it stays: the function may import more when it runs
    try:
        target: Any = importlib.import_module(module_name)
        for name in attribute.split("."):
            target = getattr(target, name)
    except ImportError as error:
        raise UserError(f"cannot import {module_name!r}: {error}", where=reference,
                        hint="run in the folder of your code, or set PYTHONPATH") from error
    except AttributeError as error:
        raise UserError(f"{reference} is not there: {error}", where=reference,
                        hint="check the function's name") from error
    except Exception as error:  # the user's own code runs here
        raise UserError(f"{module_name} fails when it is imported: {type(error).__name__}: {error}",
                        where=reference) from error
    return target
