"""`python -m app` is `framehook`."""

from app.cli.main import main

if __name__ == "__main__":
    main()
