"""``python -m babyvlm``."""

from babyvlm.cli.main import main

if __name__ == "__main__":
    main()
