"""``python -m pollwire_cli``, where the command is not installed."""

from pollwire_cli.app import app

if __name__ == "__main__":
    app(prog_name="pollwire")
