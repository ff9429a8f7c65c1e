"""Lets `python -m speedup` do what the `speedup` script does."""

from speedup.cli import app

if __name__ == "__main__":
    app(prog_name="speedup")
