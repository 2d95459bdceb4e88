"""`python -m unlearnbench` is the console script."""

from unlearnbench.cli import main

if __name__ == "__main__":
    main()
