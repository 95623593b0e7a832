"""The `clickwell` command, and `python -m clickwell`."""

import sys


def main() -> None:
    """Run the command line, or say what is missing: a base install has none of the libraries that it needs."""
    try:
        from clickwell.cli import main as run  # noqa: PLC0415  # it must be possible to say that this fails
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("clickwell"):
            raise
        sys.exit(f"error: {error.name} is not installed\n  fix: pip install 'clickwell[all]'")
    run()


if __name__ == "__main__":
    main()
