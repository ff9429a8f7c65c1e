"""Prints the README's two commands, one a line, exactly as they stand there.

A command is the only line of a fenced sh block that follows the marker comment.
"""

import re
import sys
from pathlib import Path

MARKER = "<!-- run by .ci/run -->"
EXPECTED = 2
_BLOCK = re.compile(rf"^{re.escape(MARKER)}\n+```sh\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(readme: str) -> tuple[str, ...]:
    """The marked commands of `readme`; raises ValueError unless there are two, each on one line."""
    bodies = [match["body"].strip("\n") for match in _BLOCK.finditer(readme)]
    if len(bodies) != EXPECTED or readme.count(MARKER) != EXPECTED:
        raise ValueError(f"README.md must mark {EXPECTED} sh blocks with {MARKER!r}, found {len(bodies)}")
    for body in bodies:
        if not body.strip() or "\n" in body:
            raise ValueError(f"a command of README.md must be one line, found {body!r}")
    return tuple(bodies)


if __name__ == "__main__":
    try:
        print("\n".join(commands(Path(sys.argv[1]).read_text(encoding="utf-8"))))
    except ValueError as error:
        sys.exit(f"readme_commands: {error}")
