"""`python -m pytest_tokenbudget`: the `tokenbudget` command."""

from pytest_tokenbudget.cli import main

raise SystemExit(main())
