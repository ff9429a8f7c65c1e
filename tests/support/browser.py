"""A page in a headless Chromium, if this machine has one.

`SPEEDUP_CHROMIUM` names the program; else the usual names are looked for. On Debian the package
`chromium-headless-shell` has it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

from attrs import frozen

_NAMES = "chromium-headless-shell chromium chromium-browser google-chrome google-chrome-stable chrome".split()
_RESULT = re.compile(r'<pre id="test-result">(.*?)</pre>', re.DOTALL)
# What is asked for is laid out at once, so nothing has to be waited for. An error is a result as well.
_PROBE = """<script>{
  let result;
  try { result = (() => { %s })(); } catch (error) { result = { thrown: String(error) }; }
  const shown = document.createElement("pre");
  shown.id = "test-result";
  shown.textContent = JSON.stringify(result);
  document.body.append(shown);
}</script>"""


@frozen
class Visit:
    """What a script in the page returned, and the lines that the page wrote to the console."""

    result: Any
    console: tuple[str, ...]


def chromium() -> str | None:
    """The program, or None."""
    named = os.environ.get("SPEEDUP_CHROMIUM")
    found = (shutil.which(name) for name in ([named] if named else _NAMES))
    return next((path for path in found if path), None)


def visit(html: str, script: str, folder: Path, size: tuple[int, int] = (1280, 900)) -> Visit:
    """Show the page `html` in a window of `size` pixels and run `script`, the body of a function, in it."""
    program = chromium()
    assert program is not None
    page = folder / "page.html"
    # Behind the document, where a browser takes it to be the end of the body.
    page.write_text(html + _PROBE % script, encoding="utf-8")
    options = (
        "--headless --no-sandbox --disable-gpu --hide-scrollbars --no-first-run --disable-extensions "
        "--enable-logging=stderr --dump-dom"
    ).split()
    ran = subprocess.run(
        [
            program,
            *options,
            f"--window-size={size[0]},{size[1]}",
            f"--user-data-dir={folder / 'profile'}",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = _RESULT.search(ran.stdout)
    assert found is not None, f"the page did not get as far as the script: {ran.stderr[-2000:]}"
    console = tuple(line for line in ran.stderr.splitlines() if "CONSOLE" in line)
    return Visit(json.loads(unescape(found[1])), console)
