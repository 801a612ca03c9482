"""What runs on the board, with Python 3.6 or newer and the board's own `tensorrt`: parts that become one file.

`engine/build.py` of a bundle is these parts in a row (`builder_text`), so that a board needs one file and no package,
while each part stays readable and testable here. A part imports only the standard library and the parts before it.
"""

from __future__ import annotations

import re
from importlib import resources

PARTS = ("files", "driver", "machine", "messages", "builder", "layers", "libraries", "session", "pictures", "engine")
_OWN = re.compile(r"^from edgec\.backends\.tensorrt\.board\.\w+ import (?:\([^)]*\)|[^\n(]*)\n", re.MULTILINE)
_IMPORT = re.compile(r"^(?:import \w+(?:\.\w+)*|from (?!edgec)[\w.]+ import .*)\n", re.MULTILINE)
_DOCSTRING = re.compile(r'\A"""(.*?)"""\n', re.DOTALL)
_HEAD = '''#!/usr/bin/env python3
"""Build the TensorRT engine of this bundle on the machine that will run it, and keep it.

    python3 build.py                 build what is missing, print the engine's path
    python3 build.py --check         say whether this machine can build and run it, and stop
    python3 build.py --help          everything else

It needs Python 3.6 or newer and the TensorRT that JetPack brings; nothing else. Written by edgec.
"""

'''


def builder_text() -> str:
    """The text of `build.py`: all parts in order, each import once."""
    imports: set[str] = set()
    bodies = []
    for part in PARTS:
        text = resources.files(__name__).joinpath(f"{part}.py").read_text(encoding="utf-8")
        title = _DOCSTRING.search(text)
        text = _OWN.sub("", _DOCSTRING.sub("", text))
        imports.update(_IMPORT.findall(text))
        body = _IMPORT.sub("", text).strip("\n")
        first = title.group(1).strip().splitlines()[0] if title else part
        bodies.append(f"# -- {first}\n\n\n{body}\n")
    ordered = sorted(imports, key=lambda line: (line.startswith("from"), line))
    main = '\n\nif __name__ == "__main__":\n    sys.exit(main())\n'
    return _HEAD + "".join(ordered) + "\n\n" + "\n\n".join(bodies) + main


def runner_text() -> str:
    """The text of `run.py`, which imports `build.py` beside it."""
    text = resources.files(__name__).joinpath("runner.py").read_text(encoding="utf-8")
    text = re.sub(r"from edgec\.backends\.tensorrt\.board\.\w+ import", "from build import", text)
    return "#!/usr/bin/env python3\n" + text + '\n\nif __name__ == "__main__":\n    sys.exit(main())\n'
