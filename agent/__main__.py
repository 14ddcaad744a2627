"""`python -m agent` is the command `homeostat`."""

from agent.cli import main

if __name__ == "__main__":
    main()
